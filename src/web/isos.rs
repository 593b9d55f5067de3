//! `/isos`: the images one may start, and how much room is left for more.

use super::Req;
use super::session::subject;
use crate::config::Profile;
use crate::db::{uploads, vms};
use crate::house::Cx;
use crate::net::response::Response;
use crate::proto::problem::Problem;
use crate::store::images::{self, Listed};
use crate::store::names::{self, Format};
use crate::vm::image;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// `GET /isos`: `{isos, quota, name}`; of the profile `?profile=`, whose image is the one marked `default`. `name` is what a file
/// `?filename=` of `?format=` would be called here: whoever is to send it can see what it would replace.
pub async fn list(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let uid = subject(&req)?;
    let query = req.query()?;
    let name = query.get("profile").unwrap_or("custom").to_owned();
    let format = query.get("format").filter(|text| !text.is_empty()).map_or(Ok(Format::Iso), Format::parse)?;
    let named = query.get("filename").map(|given| names::image_name(given, format));
    let running = cx.vms.of_user(&uid).map(|vm| vm.row.borrow().iso.clone());
    // Before what is used: an upload that ends meanwhile counts twice rather than not at all.
    let unfinished = cx.db(uploads::reserved(&cx.db, uid.clone())).await?;
    let (config, layout, user) = (Arc::clone(&cx.config), cx.layout.clone(), uid.clone());
    let (found, used) = cx
        .disk(move || {
            let profiles: Vec<&Profile> = config.profiles.values().collect();
            (images::list(&layout, config.profiles.get(&name), &user), images::used(&layout, &profiles, &user))
        })
        .await?;
    let isos: Vec<Value> = found.iter().map(|image| one(image, running.as_deref())).collect();
    let limit = crate::vm::disks::quota_bytes(&cx, &uid).await?;
    let left = limit.saturating_sub(used).saturating_sub(unfinished);
    let quota = json!({ "used": used, "unfinished": unfinished, "limit": limit, "left": left });
    Ok(Response::json(200, &json!({ "isos": isos, "quota": quota, "name": named })))
}

fn one(image: &Listed, running: Option<&str>) -> Value {
    json!({
        "name": image.name,
        "format": image.format.to_string(),
        "size": image.size,
        "sha256": image.sha256,
        "modified_at": jiff::Timestamp::from_second(image.modified).ok().map(|at| at.to_string()),
        "shared": image.shared,
        "default": image.is_default,
        "in_use": running == Some(image.name.as_str()),
    })
}

/// `DELETE /isos/{name}`: one of the caller's own, or, for admins, a shared one. Not while a VM or a disk needs it.
pub async fn remove(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let caller = req.caller()?;
    let (uid, name) = (subject(&req)?, names::known_image(req.param(0))?.to_owned());
    let _claim = cx.claims.of(&uid).await;
    let (config, layout, user, shown) = (Arc::clone(&cx.config), cx.layout.clone(), uid.clone(), name.clone());
    let (own, defaults) = cx
        .disk(move || {
            let profiles: Vec<&Profile> = config.profiles.values().collect();
            let defaults: Vec<_> =
                profiles.iter().filter_map(|profile| images::default_place(profile, &user)).collect();
            (images::own_folder(&layout, &defaults, &user, &shown), defaults)
        })
        .await?;
    let shown = name.clone();
    // Of somebody else's only his own: a shared one is removed without naming anybody.
    if own.is_none() && (!caller.is_admin() || uid != caller.user.id) {
        return Err(not_found(&shown));
    }
    let _library = if own.is_some() { None } else { Some(cx.claims.of(images::SHARED).await) };
    let folder = own.unwrap_or_else(|| cx.layout.images(None));
    in_use(&cx, folder.join(&name)).await?;
    let removed = cx.disk(move || images::delete(&folder, &name, &defaults)).await?;
    match removed {
        Ok(true) => {
            super::auth::audit_with(&cx, &req, &caller.user, "delete image", &shown, &super::disks::of(caller, &uid))
                .await;
            Ok(Response::empty(204))
        }
        Ok(false) => Err(not_found(&shown)),
        Err(e) => Err(Problem::internal(format!("{shown} could not be removed: {e}."))),
    }
}

fn not_found(name: &str) -> Problem {
    Problem::not_found("iso_not_found", format!("You have no image {name}."))
}

/// 409 when `new`, or any other file, must not come in the place of the image that is there: disks, kept or of live VMs, may be overlays of
/// that. A CD that was opened stays what it is.
///
/// # Errors
/// 409, 503.
pub(super) async fn replaceable(cx: &Cx, new: Option<&Path>, file: &Path) -> Result<(), Problem> {
    let (new, there) = (new.map(Path::to_owned), file.to_owned());
    if Format::of(&file.to_string_lossy()) == Format::Iso {
        return Ok(());
    }
    let is_same = move |new: PathBuf, there: &Path| images::is_same(&new, there);
    let is_other = cx.disk(move || there.exists() && !new.is_some_and(|new| is_same(new, &there))).await?;
    if is_other { in_use(cx, file.to_owned()).await } else { Ok(()) }
}

/// 409 when a live VM was started from this file, or a disk is an overlay of it.
async fn in_use(cx: &Cx, file: PathBuf) -> Result<(), Problem> {
    // As rows: one that is starting is not on the table yet.
    let rows = cx.db(vms::live_all(&cx.db)).await?;
    let (config, layout) = (Arc::clone(&cx.config), cx.layout.clone());
    let by = cx.disk(move || image::needed_by(&config, &layout, &rows, &file));
    match by.await? {
        None => Ok(()),
        Some(by) => Err(Problem::conflict("image_in_use", format!("This image is needed by {by}."))),
    }
}
