//! `/isos`: the images one may start, and how much room is left for more.

use super::Req;
use super::session::subject;
use crate::config::Profile;
use crate::house::Cx;
use crate::net::response::Response;
use crate::proto::problem::Problem;
use crate::store::images::{self, Listed};
use crate::store::{disks, names};
use crate::vm::image;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

/// `GET /isos`: `{isos, quota}`; of the profile `?profile=`, whose image is the one marked `default`.
pub async fn list(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let uid = subject(&req)?;
    let name = req.query()?.get("profile").unwrap_or("custom").to_owned();
    let running = cx.vms.of_user(&uid).map(|vm| vm.row.borrow().iso.clone());
    let (config, layout) = (Arc::clone(&cx.config), cx.layout.clone());
    let (found, used) = cx
        .disk(move || {
            let profiles: Vec<&Profile> = config.profiles.values().collect();
            (images::list(&layout, config.profiles.get(&name), &uid), images::used(&layout, &profiles, &uid))
        })
        .await?;
    let isos: Vec<Value> = found.iter().map(|image| one(image, running.as_deref())).collect();
    let limit = crate::vm::disks::quota_bytes(&cx, &req.caller()?.user.id).await?;
    let quota = json!({ "used": used, "limit": limit, "left": limit.saturating_sub(used) });
    Ok(Response::json(200, &json!({ "isos": isos, "quota": quota })))
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
    let own = cx.layout.images(Some(&uid));
    let (file, shown) = (own.join(&name), name.clone());
    let is_own = cx.disk(move || file.is_file()).await?;
    // Of somebody else's only his own: a shared one is removed without naming anybody.
    if !is_own && (!caller.is_admin() || uid != caller.user.id) {
        return Err(not_found(&shown));
    }
    let folder = if is_own { own } else { cx.layout.images(None) };
    in_use(&cx, folder.join(&name)).await?;
    let defaults: Vec<PathBuf> =
        cx.config.profiles.values().filter_map(|profile| images::default_place(profile, &uid)).collect();
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

/// 409 when a live VM was started from this file, or a kept disk is an overlay of it.
async fn in_use(cx: &Cx, file: PathBuf) -> Result<(), Problem> {
    let live: Vec<(String, String, String)> = cx
        .vms
        .all()
        .iter()
        .map(|vm| vm.row.borrow())
        .map(|row| (row.user_id.clone(), row.profile.clone(), row.iso.clone()))
        .collect();
    let (config, layout) = (Arc::clone(&cx.config), cx.layout.clone());
    let by = cx.disk(move || {
        let started = live.iter().any(|(uid, profile, iso)| {
            config
                .profiles
                .get(profile)
                .is_some_and(|profile| image::is_started_from(&config, profile, uid, iso, &file))
        });
        if started {
            return Some("a running VM: stop it first".to_owned());
        }
        disks::overlay_of(&layout, &file).map(|disk| format!("the disk {disk}: remove that first"))
    });
    match by.await? {
        None => Ok(()),
        Some(by) => Err(Problem::conflict("image_in_use", format!("This image is needed by {by}."))),
    }
}
