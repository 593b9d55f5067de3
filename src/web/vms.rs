//! `/run-iso`, `/vms…`, `/profiles`: the caller's machines.
//!
//! Somebody else's VM answers 404, as if it did not exist; administrators see all.

use super::Req;
use super::auth::audit_with;
use super::session::Caller;
use super::throttle::{Kind, Rate, household};
use super::viewers::watchable;
use crate::config::{Config, Network, Persistence, Profile};
use crate::db::vms::{self, VmRow, VmState};
use crate::house::Cx;
use crate::net::response::Response;
use crate::proto::json::Fields;
use crate::proto::problem::Problem;
use crate::store::{disks, names};
use crate::vm::launch::{Asker, How, KeptDisk, Wish};
use crate::vm::{self, Vm, Vmid, image};
use serde_json::{Value, json};
use std::rc::Rc;
use std::sync::Arc;

/// Rows a page of `GET /vms` has unless asked for fewer or more.
const PAGE: u64 = 20;
/// Most rows a page may have.
const PAGE_MAX: u64 = 100;
/// The kept disk that nobody named.
const USUAL_DISK: &str = "default";
/// Marks a place among the live VMs, which come before newer ones that have ended.
const LIVE: &str = "live-";

/// `POST /run-iso`: the caller's VM, started if need be. Answers when its screen can be shown.
pub async fn run_iso(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let caller = req.caller()?;
    let limits = &cx.config.limits;
    let wish = parse_wish(&cx.config, &caller.user.id, &req.body)?;
    if let Some(running) = running_row(&cx, &caller.user.id) {
        return Ok(started(&cx, &running, How::AlreadyRunning));
    }
    cx.throttle.take(Kind::UserLaunch, &caller.user.id, Rate::per_minute(limits.launches_per_minute_user), cx.now())?;
    let ip = household(req.ip).to_string();
    cx.throttle.take(Kind::AddressLaunch, &ip, Rate::per_minute(limits.launches_per_minute_ip), cx.now())?;
    if cx.stopping.get() || !cx.swept.get() {
        return Err(Problem::unavailable("starting", "The server is starting or stopping. Try again in a moment.", 2));
    }
    cx.hypervisor.qemu()?;
    let (login, req_id, ip) = (caller.user.login.clone(), req.id.clone(), req.ip.to_string());
    let seat = cx.launches.join(&cx, wish, Asker { login, ip, req: req_id, at: cx.now() }).await;
    // When the browser leaves, the seat is left; the launch goes on for whoever else waits, or for a reload.
    let (row, how) = req.gone.or(seat.outcome()).await??;
    Ok(started(&cx, &row, how))
}

fn running_row(cx: &Cx, user: &str) -> Option<VmRow> {
    let vm = cx.vms.of_user(user)?;
    let row = vm.row.borrow().clone();
    (row.state == VmState::Running && vm.wish.borrow().is_none() && vm.is_up()).then_some(row)
}

fn started(cx: &Cx, row: &VmRow, how: How) -> Response {
    let message = match how {
        How::Started => "VM started".to_owned(),
        How::AlreadyRunning => format!("VM already running for user {}", row.user_login),
    };
    let live = Vmid::parse(&row.vmid).and_then(|vmid| cx.vms.get(vmid));
    let base = cx.config.novnc_base_url.trim_end_matches('/');
    Response::json(
        200,
        &json!({
            "message": message,
            "vm": vm::to_json(row, live.as_deref(), cx.now()),
            "redirect": format!("{base}/?path=ws/{}", row.http_port),
        }),
    )
    .about_vm(&row.vmid)
}

/// What the body asks for, within the profile's limits.
fn parse_wish(config: &Config, user: &str, body: &[u8]) -> Result<Wish, Problem> {
    let fields = Fields::parse_or_empty(body)?;
    fields.deny_unknown(&[
        "iso",
        "iso_path",
        "profile",
        "memory_mb",
        "cpus",
        "data_disk_gb",
        "install_disk_path",
        "disk",
        "persistence",
    ])?;
    let name = fields.opt_str("profile")?.unwrap_or("custom");
    let Some(profile) = config.profiles.get(name) else {
        let known: Vec<&str> = config.profiles.keys().map(String::as_str).collect();
        let problem = format!("there is no profile {name:?}; choose one of: {}", known.join(", "));
        return Err(Problem::unprocessable("profile", problem));
    };
    let kept = kept_disk(config, profile, user, &fields)?;
    let iso = match (fields.opt_str("iso")?, fields.opt_str("iso_path")?) {
        (Some(_), Some(_)) => return Err(Problem::unprocessable("iso_path", "give iso or iso_path, not both")),
        (iso, path) => iso.or(path).map(str::to_owned),
    };
    Ok(Wish {
        user: user.to_owned(),
        profile: name.to_owned(),
        iso,
        memory_mb: fields.opt_u32_in("memory_mb", 64..=profile.max_memory_mb)?.unwrap_or(profile.default_memory_mb),
        cpus: fields.opt_u32_in("cpus", 1..=profile.max_cpus)?.unwrap_or(profile.default_cpus),
        data_disk_gb: fields.opt_u32_in("data_disk_gb", 1..=config.limits.max_data_disk_gb)?,
        kept,
    })
}

/// Whether a disk is kept, and which. Without a name it is [`USUAL_DISK`].
fn kept_disk(config: &Config, profile: &Profile, user: &str, fields: &Fields) -> Result<Option<KeptDisk>, Problem> {
    let layout = crate::store::Layout::new(&config.base_dir);
    let by_path = |path: &str| {
        disks::name_of(&layout, user, path).ok_or_else(|| {
            Problem::not_found(
                "disk_not_found",
                "install_disk_path is none of your disks; see GET /disks for their names.",
            )
        })
    };
    let named = match (fields.opt_str("disk")?, fields.opt_str("install_disk_path")?) {
        (Some(_), Some(_)) => {
            return Err(Problem::unprocessable("install_disk_path", "give disk or install_disk_path, not both"));
        }
        (Some(name), None) => Some(names::check("disk", name)?.to_owned()),
        (None, Some(path)) => Some(names::check("install_disk_path", &by_path(path)?)?.to_owned()),
        (None, None) => None,
    };
    let persistent = match fields.opt_str("persistence")? {
        Some("persistent") => true,
        Some("ephemeral") if named.is_some() => {
            return Err(Problem::unprocessable(
                "persistence",
                "a disk by name is kept; leave it out or use \"persistent\"",
            ));
        }
        Some("ephemeral") => false,
        // Who asks for a disk without a word more wants to find on it what he put there.
        None => {
            let asks = fields.opt_u32_in("data_disk_gb", 1..=config.limits.max_data_disk_gb)?.is_some();
            named.is_some() || asks || profile.persistence == Persistence::Persistent
        }
        Some(_) => return Err(Problem::unprocessable("persistence", "must be \"ephemeral\" or \"persistent\"")),
    };
    let by_name = named.is_some();
    Ok(persistent.then(|| KeptDisk { name: named.unwrap_or_else(|| USUAL_DISK.into()), by_name }))
}

/// The user's live VM as an object, if there is one: from memory, or a row that is only being started. One that has ended is
/// none, although its end may not be written yet.
///
/// # Errors
/// 503 when the database is away and memory does not know.
pub async fn current(cx: &Cx, user: &str) -> Result<Option<Value>, Problem> {
    if let Some(vm) = cx.vms.of_user(user) {
        return Ok(vm.row.borrow().state.is_live().then(|| live_json(cx, &vm)));
    }
    let row = cx.db(vms::live_of_user(&cx.db, user.to_owned())).await?;
    Ok(row.map(|row| vm::to_json(&row, None, cx.now())))
}

fn live_json(cx: &Cx, vm: &Vm) -> Value {
    vm::to_json(&vm.row.borrow(), Some(vm), cx.now())
}

/// A place in the list: the time of a VM, with [`LIVE`] before it while the page is still among the live ones.
/// Or the id of one.
async fn parse_before(cx: &Cx, caller: &Caller, text: &str) -> Result<(bool, jiff::Timestamp), Problem> {
    if Vmid::parse(text).is_some() {
        let row = visible(cx, caller, text).await?;
        return Ok((row.state.is_live(), row.created_at));
    }
    let (live, time) = text.strip_prefix(LIVE).map_or((false, text), |time| (true, time));
    let wrong = "must be a time like 2026-11-23T10:11:03Z, a vmid, or what `next` says";
    time.parse().map(|at| (live, at)).map_err(|_| Problem::unprocessable("before", wrong))
}

/// `GET /vms`: `{vms, next}`, live ones first; `next` is the `before` of the next page.
pub async fn list(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let caller = req.caller()?;
    let query = req.query()?;
    let limit = match query.get("limit") {
        None => PAGE,
        Some(text) => text
            .parse()
            .ok()
            .filter(|limit| (1..=PAGE_MAX).contains(limit))
            .ok_or_else(|| Problem::unprocessable("limit", format!("must be a number from 1 to {PAGE_MAX}")))?,
    };
    let before = match query.get("before") {
        Some(text) => Some(parse_before(&cx, caller, text).await?),
        None => None,
    };
    let all = query.get("all") == Some("1") && (caller.is_admin() || caller.is_teacher());
    let asked = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = if all {
        // A teacher's are those of students, and his own.
        let teacher = caller.is_teacher().then(|| caller.user.id.clone());
        cx.db(vms::list_all(&cx.db, asked, before, teacher)).await?
    } else {
        cx.db(vms::list_of_user(&cx.db, caller.user.id.clone(), asked, before)).await?
    };
    let full = rows.len() as u64 >= limit;
    let next = rows.last().filter(|_| full).map(|row| {
        let live = if row.state.is_live() { LIVE } else { "" };
        format!("{live}{}", row.created_at)
    });
    let shown: Vec<Value> = rows.iter().map(|row| row_json(&cx, row)).collect();
    Ok(Response::json(200, &json!({ "vms": shown, "next": next })))
}

fn row_json(cx: &Cx, row: &VmRow) -> Value {
    match Vmid::parse(&row.vmid).and_then(|vmid| cx.vms.get(vmid)) {
        Some(vm) => live_json(cx, &vm),
        None => vm::to_json(row, None, cx.now()),
    }
}

/// `GET /vms/{vmid}`.
pub async fn show(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let row = watchable(&cx, req.caller()?, req.param(0)).await?;
    Ok(Response::json(200, &row_json(&cx, &row)))
}

/// The row of a VM that the caller may see.
pub(super) async fn visible(cx: &Cx, caller: &Caller, vmid: &str) -> Result<VmRow, Problem> {
    row_of(cx, vmid, |row| row.user_id == caller.user.id || caller.is_admin()).await
}

/// The row of a VM, if `may` says so.
pub(super) async fn row_of(cx: &Cx, vmid: &str, may: impl FnOnce(&VmRow) -> bool) -> Result<VmRow, Problem> {
    let missing = || Problem::not_found("vm_not_found", "There is no such VM.");
    let vmid = Vmid::parse(vmid).ok_or_else(missing)?;
    let row = match cx.vms.get(vmid) {
        Some(vm) => Some(vm.row.borrow().clone()),
        None => cx.db(vms::by_id(&cx.db, vmid.to_string())).await?,
    };
    row.filter(may).ok_or_else(missing)
}

/// `POST /vms/{vmid}/stop`.
pub async fn stop(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let caller = req.caller()?;
    let row = visible(&cx, caller, req.param(0)).await?;
    let fields = Fields::parse_or_empty(&req.body)?;
    fields.deny_unknown(&["force"])?;
    let force = fields.opt_bool("force")?.unwrap_or(false);
    let was_live = row.state.is_live();
    let row = end(&cx, caller, row, force).await?;
    if was_live {
        let how = if force { "at once" } else { "by its power button" };
        audit_with(&cx, &req, &caller.user, "stop vm", &row.vmid, how).await;
    }
    Ok(Response::json(200, &row_json(&cx, &row)))
}

/// Ends the VM of a row, for whoever may; the final row. One that has ended is as it is.
pub(super) async fn end(cx: &Cx, caller: &Caller, row: VmRow, force: bool) -> Result<VmRow, Problem> {
    let live = Vmid::parse(&row.vmid).and_then(|vmid| cx.vms.get(vmid));
    let Some(vm) = live else {
        return match row.state {
            VmState::Stopped | VmState::Failed => Ok(row),
            _ => Err(Problem::conflict(
                "vm_not_running",
                "This VM is being started, or started again; wait until it runs, then stop it.",
            )),
        };
    };
    let why = if row.user_id == caller.user.id { "stopped by user" } else { "stopped by an administrator" };
    // Not bound to the asker: a stop that began goes to its end.
    vm::stop::stop(cx, &vm, why, force).await
}

/// `GET /profiles`: what the caller may start.
pub async fn profiles(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let user = req.caller()?.user.id.clone();
    let config = Arc::clone(&cx.config);
    let shown: Vec<Value> = cx
        .disk(move || config.profiles.values().map(|profile| profile_json(&config, profile, &user)).collect())
        .await?;
    Ok(Response::json(200, &json!({ "profiles": shown })))
}

fn profile_json(config: &Config, profile: &Profile, user: &str) -> Value {
    let image = image::usual(profile, user);
    // A disk that is there is started without an image.
    let layout = crate::store::Layout::new(&config.base_dir);
    let has_disk = || profile.persistence == Persistence::Persistent && disks::path(&layout, user, USUAL_DISK).exists();
    let why = (image.is_none() && !has_disk())
        .then_some("There is no image for you to start yet: upload one, or ask whoever runs this server.");
    json!({
        "name": profile.name,
        "title": profile.title,
        "iso": image.map(|(name, size)| json!({ "name": name, "size": size })),
        "available": why.is_none(),
        "why": why,
        "default_memory_mb": profile.default_memory_mb,
        "default_cpus": profile.default_cpus,
        "max_memory_mb": profile.max_memory_mb,
        "max_cpus": profile.max_cpus,
        "idle_limit_s": profile.idle_limit.map(|limit| limit.as_secs()),
        "time_limit_s": profile.time_limit.map(|limit| limit.as_secs()),
        "persistence": match profile.persistence {
            Persistence::Ephemeral => "ephemeral",
            Persistence::Persistent => "persistent",
        },
        "network": match profile.network {
            Network::None => "none",
            Network::Restricted => "restricted",
            Network::Internet => "internet",
        },
    })
}
