//! `/vms/{vmid}/viewers/…` and `/ws/{http_port}/events`: who looks at a VM, giving and taking control, and what a viewer is told meanwhile.
//!
//! Only the owner and administrators give, take and close. A viewer without an account has no other stream of events; his says what he
//! may, when the VM ends by itself, and when it is gone.

use super::Req;
use super::auth::audit_with;
use super::console::Viewing;
use super::session::{Caller, TokenHash};
use super::vms::{row_of, visible};
use crate::db::shares;
use crate::db::vms::VmRow;
use crate::house::{Cx, Order, Which};
use crate::net::feed::Feed;
use crate::net::relay::End;
use crate::net::response::{Body, Response};
use crate::proto::http::Method;
use crate::proto::json::Fields;
use crate::proto::problem::Problem;
use crate::vm::viewers::{Kind, Viewer};
use crate::vm::{Vm, Vmid, lifetime};
use serde_json::{Value, json};
use std::rc::Rc;
use std::time::Instant;

/// Streams of events that those who came by one link hold open together: a class may.
const LINK_STREAMS: usize = 1000;

/// Why this caller may look at a VM, if he may.
#[must_use]
pub(super) fn kind_of(caller: &Caller, row: &VmRow) -> Option<Kind> {
    if row.user_id == caller.user.id { Some(Kind::Owner) } else { kind_of_roles(&caller.user.role, &row.user_role) }
}

/// Why somebody of this role may look at a VM of somebody of that role.
#[must_use]
pub(super) fn kind_of_roles(role: &str, owner: &str) -> Option<Kind> {
    match role {
        "admin" => Some(Kind::Admin),
        // Not another teacher's, and not an administrator's.
        "teacher" if owner == "user" => Some(Kind::Teacher),
        _ => None,
    }
}

/// The row of a VM that the caller may look at, which is more than may be changed.
///
/// # Errors
/// 404.
pub(super) async fn watchable(cx: &Cx, caller: &Caller, vmid: &str) -> Result<VmRow, Problem> {
    row_of(cx, vmid, |row| kind_of(caller, row).is_some()).await
}

/// As the API writes it.
#[must_use]
pub(super) fn to_json(viewer: &Viewer, now: Instant) -> Value {
    json!({
        "id": viewer.id,
        "kind": viewer.kind.word(),
        "name": viewer.name,
        "control": viewer.control.get(),
        "screens": viewer.open.get(),
        "since": super::time(viewer.since),
        "bytes_to_browser": viewer.meter.down.get(),
        "bytes_to_vm": viewer.meter.up.get(),
        "idle_s": viewer.meter.input.get().map(|at| now.saturating_duration_since(at).as_secs()),
    })
}

async fn find(cx: &Cx, req: &Req) -> Result<(Rc<Vm>, Rc<Viewer>), Problem> {
    let row = visible(cx, req.caller()?, req.param(0)).await?;
    let vm = Vmid::parse(&row.vmid).and_then(|vmid| cx.vms.get(vmid));
    let viewer = vm.as_ref().and_then(|vm| vm.viewers.get(req.param(1).parse().ok()?));
    let missing = || Problem::not_found("viewer_not_found", "Nobody of this number looks at the VM; he may have left.");
    vm.zip(viewer).ok_or_else(missing)
}

/// `POST /vms/{vmid}/viewers/{id}`: `{control}` gives or takes it, at once and without a new connection.
pub async fn control(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let (vm, viewer) = find(&cx, &req).await?;
    let fields = Fields::parse(&req.body)?;
    fields.deny_unknown(&["control"])?;
    let control = fields.opt_bool("control")?.ok_or_else(|| Problem::unprocessable("control", "is needed"))?;
    if viewer.kind == Kind::Owner && !control {
        return Err(Problem::conflict("owner_controls", "The owner of a VM always controls it."));
    }
    if vm.viewers.allow(&viewer, control) {
        let what = if control { "give control" } else { "take control" };
        let to = format!("{} {}", viewer.kind.word(), viewer.name);
        // Before anything is waited for: it is so already.
        cx.bus.tell_viewer(vm.vmid, (&viewer.token, &viewer.key), &told(&vm, &viewer, cx.now()));
        cx.bus.publish(&vm, cx.now());
        audit_with(&cx, &req, &req.caller()?.user, what, &vm.vmid.to_string(), &to).await;
    }
    let is_barred = vm.viewers.is_barred(&viewer.token);
    if viewer.kind == Kind::Link && cx.db(shares::set_barred(&cx.db, viewer.token, is_barred)).await.is_err() {
        log::warn!(vmid:% = vm.vmid, user = vm.login().as_str(); "{}: that control was {} is forgotten when the server ends", viewer.name, if control { "given" } else { "taken" });
    }
    Ok(Response::json(200, &json!({ "viewer": to_json(&viewer, cx.now()) })))
}

/// `DELETE /vms/{vmid}/viewers/{id}`: closes all his screens of this VM.
pub async fn close(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let (vm, viewer) = find(&cx, &req).await?;
    cx.order(Order::End(Which::Viewer(vm.vmid, viewer.id), End::new(1008, "closed by the owner")));
    let whom = format!("{} {}", viewer.kind.word(), viewer.name);
    audit_with(&cx, &req, &req.caller()?.user, "close viewer", &vm.vmid.to_string(), &whom).await;
    Ok(Response::empty(204))
}

/// What a viewer is told: what he may, and when the VM ends by itself.
pub(super) fn told(vm: &Vm, viewer: &Viewer, now: Instant) -> Value {
    event(vm, viewer.kind, Some(viewer.id), viewer.control.get(), now)
}

fn event(vm: &Vm, kind: Kind, id: Option<u64>, control: bool, now: Instant) -> Value {
    let expiry = vm.told_expiry(now);
    json!({
        "kind": kind.word(),
        "id": id,
        "control": control,
        "expires_at": expiry.map(|expiry| super::time(lifetime::wall_clock(expiry.at, now))),
        "expires_because": expiry.map(|expiry| expiry.why.word()),
        "expires_soon": expiry.is_some_and(|expiry| expiry.soon),
    })
}

/// Tells one who came by a link from others: `guest` is a secret that his browser made up and sends with each of its consoles.
///
/// # Errors
/// 422 for one that is none; without any, all who send none are one.
pub(super) fn key_of(cx: &Cx, link: &str, guest: Option<&str>) -> Result<TokenHash, Problem> {
    let Some(guest) = guest else { return Ok(cx.sessions.hash(link)) };
    let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if !(16..=64).contains(&guest.len()) || !guest.chars().all(is_fine) {
        return Err(Problem::unprocessable(
            "guest",
            "must be 16 to 64 letters, digits, - or _, made up by the browser",
        ));
    }
    Ok(cx.sessions.hash(&format!("{link} {guest}")))
}

/// `GET /ws/{http_port}/events`: what this viewer may and when the VM ends, as it changes (server-sent events `viewer`); `null` and the end when the VM is gone.
pub async fn stream(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let Viewing { vm, kind, token, key, control, .. } = super::console::viewer(&cx, &req).await?;
    if req.head.method == Method::Head {
        return Ok(super::events::headers());
    }
    let control = control && vm.viewers.lets_control(&token, &key);
    let none_yet = || event(&vm, kind, None, control, cx.now());
    let present = vm.viewers.of(&key).map_or_else(none_yet, |viewer| told(&vm, &viewer, cx.now()));
    let feed = Feed::new(cx.notify());
    subscribe(&cx, &vm, kind, (token, key), &feed)?;
    super::recheck::begin(&cx);
    cx.bus.tell_viewer(vm.vmid, (&token, &key), &present);
    let mut response = super::events::headers();
    response.body = Body::Events(feed);
    Ok(response)
}

fn subscribe(cx: &Cx, vm: &Vm, kind: Kind, (token, key): (TokenHash, TokenHash), feed: &Feed) -> Result<(), Problem> {
    let most = if kind == Kind::Link { LINK_STREAMS } else { cx.config.limits.event_streams_per_user };
    cx.bus.subscribe(&super::events::viewer_key(vm.vmid, &token), (token, key), feed.clone(), most)
}
