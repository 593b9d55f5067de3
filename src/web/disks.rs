//! `/disks`: the disks one keeps. Nothing is done to a disk while a VM has it.

use super::Req;
use super::session::{Caller, subject};
use crate::house::Cx;
use crate::net::response::Response;
use crate::proto::json::Fields;
use crate::proto::problem::Problem;
use crate::store::disks::Listed;
use crate::store::names::Format;
use crate::store::{self, disks, names};
use crate::vm::disk_args::{self, NewDisk};
use crate::vm::{attach, disks as work, image};
use serde_json::{Value, json};
use std::rc::Rc;
use std::sync::Arc;

/// `GET /disks`: `{disks, quota}`.
pub async fn list(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let uid = subject(&req)?;
    let attached = attached(&cx, &uid).await?;
    let limit = crate::vm::disks::quota_gb(&cx, &uid).await?;
    let layout = cx.layout.clone();
    let found = cx.disk(move || disks::list(&layout, &uid)).await?;
    let used: u64 = found.iter().map(Listed::counts_gb).sum();
    let all: Vec<Value> = found.iter().map(|disk| to_json(disk, attached.as_ref())).collect();
    let quota = json!({ "used_gb": used, "limit_gb": limit });
    Ok(Response::json(200, &json!({ "disks": all, "quota": quota })))
}

fn to_json(disk: &Listed, attached: Option<&(String, String)>) -> Value {
    let vm = attached.filter(|(name, _)| *name == disk.name).map(|(_, vmid)| vmid);
    json!({
        "name": disk.name,
        "size_gb": disk.size.div_ceil(1 << 30),
        "used": disk.used,
        "image": disk.image,
        "snapshots": disk.snapshots,
        "modified_at": jiff::Timestamp::from_second(disk.modified).ok().map(|at| at.to_string()),
        "vmid": vm,
    })
}

/// The disk that the user's live VM has, and that VM.
async fn attached(cx: &Cx, uid: &str) -> Result<Option<(String, String)>, Problem> {
    let row = cx.db(crate::db::vms::live_of_user(&cx.db, uid.to_owned())).await?;
    Ok(row.and_then(|row| Some((row.disk?, row.vmid))))
}

/// 409 while a VM has the disk. The caller has the claim; a launch takes its row before it looks at the disk.
///
/// # Errors
/// 409.
pub(super) async fn free(cx: &Cx, uid: &str, name: &str) -> Result<(), Problem> {
    match attached(cx, uid).await? {
        Some((disk, _)) if disk == name => {
            Err(Problem::conflict("disk_in_use", format!("The disk {name} is in your running VM. Stop that first.")))
        }
        _ => Ok(()),
    }
}

/// [`free`], and sound: `qemu-img` opens what a disk's header names, and it has the server's rights.
///
/// # Errors
/// 409, 500.
pub(super) async fn workable(cx: &Cx, uid: &str, name: &str) -> Result<(), Problem> {
    free(cx, uid, name).await?;
    let (config, uid, path) = (Arc::clone(&cx.config), uid.to_owned(), disks::path(&cx.layout, uid, name));
    cx.disk(move || attach::check(&config, &uid, &path)).await?
}

/// `POST /disks`: `{name, size_gb?, image?}` makes one, empty or from an image.
pub async fn create(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let caller = req.caller()?;
    let uid = caller.user.id.clone();
    let fields = Fields::parse(&req.body)?;
    fields.deny_unknown(&["name", "size_gb", "image", "profile"])?;
    let name = names::check("name", fields.str("name")?)?.to_owned();
    let gb = fields.opt_u32_in("size_gb", 1..=cx.config.limits.max_data_disk_gb)?;
    let profile = fields.opt_str("profile")?.unwrap_or("custom").to_owned();
    let asked = fields.opt_str("image")?.map(str::to_owned);
    if gb.is_none() && asked.is_none() {
        return Err(Problem::unprocessable("size_gb", "is needed for an empty disk"));
    }
    let _claim = cx.claims.of(&uid).await;
    let path = disks::path(&cx.layout, &uid, &name);
    let (config, owner, there) = (Arc::clone(&cx.config), uid.clone(), path.clone());
    let base = cx
        .disk(move || {
            if there.exists() {
                return Err(Problem::conflict("disk_exists", "You have a disk of this name already."));
            }
            let Some(asked) = asked else { return Ok(None) };
            let none = || Problem::unprocessable("profile", "there is no such profile; see /profiles");
            let found = image::find(&config, config.profiles.get(&profile).ok_or_else(none)?, &owner, Some(&asked))?;
            match found.format {
                Format::Iso => {
                    Err(Problem::unprocessable("image", "is a CD; a disk is made from a qcow2 or raw image"))
                }
                format => {
                    let format = if format == Format::Raw { "raw" } else { "qcow2" };
                    let least = image::size_gb(&found.path, format);
                    Ok(Some((found.path, format, least)))
                }
            }
        })
        .await??;
    let (base, least) = base.map_or((None, 1), |(path, format, least)| (Some((path, format)), least));
    if gb.is_some_and(|gb| gb < least) {
        return Err(Problem::unprocessable("size_gb", format!("must be at least the image's {least} GiB")));
    }
    work::check_quota(&cx, &uid, gb.unwrap_or(least), None).await?;
    work::make_kept(&cx, &path, &NewDisk { gb, base }).await?;
    let made = one(&cx, &uid, &name).await?;
    super::auth::audit(&cx, &req, &caller.user, "create disk", &name).await;
    Ok(Response::json(201, &json!({ "disk": to_json(&made, None) })))
}

/// For the audit trail: whose it is, where it is not the caller's own.
pub(super) fn of(caller: &Caller, uid: &str) -> String {
    if caller.user.id == uid { String::new() } else { format!("of user {uid}") }
}

/// One disk, or 404.
async fn one(cx: &Cx, uid: &str, name: &str) -> Result<Listed, Problem> {
    let (layout, uid, wanted) = (cx.layout.clone(), uid.to_owned(), name.to_owned());
    let found = cx.disk(move || disks::list(&layout, &uid).into_iter().find(|disk| disk.name == wanted)).await?;
    found.ok_or_else(|| not_found(name))
}

fn not_found(name: &str) -> Problem {
    Problem::not_found("disk_not_found", format!("You have no disk {name}."))
}

/// `DELETE /disks/{name}`.
pub async fn remove(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let caller = req.caller()?;
    let (uid, name) = (subject(&req)?, req.param(0).to_owned());
    names::check("name", &name).map_err(|_| not_found(&name))?;
    let _claim = cx.claims.of(&uid).await;
    one(&cx, &uid, &name).await?;
    free(&cx, &uid, &name).await?;
    let (path, folder) = (disks::path(&cx.layout, &uid, &name), cx.layout.disks(&uid));
    let removed = cx.disk(move || store::remove(&path).and_then(|()| store::sync_folder(&folder))).await?;
    removed.map_err(|e| Problem::internal(format!("The disk could not be removed: {e}.")))?;
    super::auth::audit_with(&cx, &req, &caller.user, "delete disk", &name, &of(caller, &uid)).await;
    Ok(Response::empty(204))
}

/// `POST /disks/{name}/grow`: `{size_gb}`. A disk never shrinks: what is behind its new end would be lost.
pub async fn grow(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let caller = req.caller()?;
    let (uid, name) = (subject(&req)?, req.param(0).to_owned());
    names::check("name", &name).map_err(|_| not_found(&name))?;
    let fields = Fields::parse(&req.body)?;
    fields.deny_unknown(&["size_gb"])?;
    let gb = fields.opt_u32_in("size_gb", 1..=cx.config.limits.max_data_disk_gb)?;
    let gb = gb.ok_or_else(|| Problem::unprocessable("size_gb", "is needed"))?;
    let _claim = cx.claims.of(&uid).await;
    let before = one(&cx, &uid, &name).await?;
    workable(&cx, &uid, &name).await?;
    if u64::from(gb) << 30 <= before.size {
        let why = format!("must be more than its {} GiB; a disk cannot shrink", before.size.div_ceil(1 << 30));
        return Err(Problem::unprocessable("size_gb", why));
    }
    work::check_quota(&cx, &uid, gb, Some(&name)).await?;
    let path = disks::path(&cx.layout, &uid, &name);
    work::qemu_img(&cx, |program| disk_args::qemu_img_grow(program, &path, gb)).await?;
    super::auth::audit_with(&cx, &req, &caller.user, "grow disk", &name, &of(caller, &uid)).await;
    let made = one(&cx, &uid, &name).await?;
    Ok(Response::json(200, &json!({ "disk": to_json(&made, None) })))
}
