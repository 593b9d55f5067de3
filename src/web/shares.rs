//! `/vms/{vmid}/shares`: links that let somebody without an account look at a VM's consoles, or use them.
//!
//! A token is 256 random bits, told once; only its keyed hash is stored. The link carries it behind `#`, which browsers send to nobody, and
//! the page puts it into the websocket's query, which no log line has. A link that is revoked, or whose time is up, closes what was opened
//! with it at once (1008). Without `control` the relay lets nothing through but what a screen is asked for with.

use super::Req;
use super::auth::line;
use super::throttle::{Kind, Rate, household};
use super::vms::visible;
use crate::db::events::Line;
use crate::db::shares::{self, Share};
use crate::db::vms;
use crate::house::{Cx, Order, Which};
use crate::net::relay::End;
use crate::net::response::Response;
use crate::proto::json::Fields;
use crate::proto::problem::Problem;
use crate::reactor::task::{Either, Latch, first};
use crate::vm::{Vm, Vmid};
use data_encoding::BASE64URL_NOPAD;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;

/// Time of a link that asks for none.
const MINUTES: u32 = 120;
/// Longest time of a link: a week.
const MINUTES_MAX: u32 = 7 * 24 * 60;

/// `POST /vms/{vmid}/shares`.
pub async fn create(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let caller = req.caller()?;
    let row = visible(&cx, caller, req.param(0)).await?;
    let fields = Fields::parse_or_empty(&req.body)?;
    fields.deny_unknown(&["control", "minutes"])?;
    let control = fields.opt_bool("control")?.unwrap_or(false);
    let minutes = fields.opt_u32_in("minutes", 1..=MINUTES_MAX)?.unwrap_or(MINUTES);
    if Vmid::parse(&row.vmid).and_then(|vmid| cx.vms.get(vmid)).is_none() {
        let detail = format!("This VM is {}; a link is made for one that runs.", row.state);
        return Err(Problem::conflict("vm_not_running", detail));
    }
    let token = BASE64URL_NOPAD.encode(&crate::random::bytes::<32>());
    let now = Timestamp::now();
    let share = Share {
        id: Vmid::random().to_string(),
        vmid: row.vmid.clone(),
        token_hash: cx.sessions.hash(&token),
        control,
        barred: false,
        created_at: now,
        expires_at: Timestamp::from_second(now.as_second() + i64::from(minutes) * 60).unwrap_or(Timestamp::MAX),
    };
    let most = cx.config.limits.shares_per_vm;
    let line = line(&req, "share", row.vmid.clone(), format!("{} control={control} minutes={minutes}", share.id));
    if !cx.db(shares::create(&cx.db, share.clone(), most, line.clone())).await? {
        let detail = format!("This VM has {most} links already. Revoke one first.");
        return Err(Problem::conflict("too_many_shares", detail));
    }
    tell(&req, &line);
    let view = if control { "" } else { "&view=1" };
    let base = cx.config.novnc_base_url.trim_end_matches('/');
    let mut shown = share_json(&share);
    shown["token"] = json!(token);
    shown["url"] = json!(format!("{base}/?path=ws/{}{view}#share={token}", row.http_port));
    Ok(Response::json(201, &json!({ "share": shown })))
}

/// `GET /vms/{vmid}/shares`: those that have not ended; their tokens are not known.
pub async fn list(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let row = visible(&cx, req.caller()?, req.param(0)).await?;
    let vm = Vmid::parse(&row.vmid).and_then(|vmid| cx.vms.get(vmid));
    let shares = cx.db(shares::of_vm(&cx.db, row.vmid)).await?;
    let shown: Vec<Value> = shares
        .iter()
        .map(|share| {
            let mut shown = share_json(share);
            shown["viewers"] = json!(vm.as_ref().map_or(0, |vm| vm.viewers.open_with(&share.token_hash)));
            shown
        })
        .collect();
    Ok(Response::json(200, &json!({ "shares": shown })))
}

/// `DELETE /vms/{vmid}/shares/{id}`.
pub async fn revoke(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let caller = req.caller()?;
    let row = visible(&cx, caller, req.param(0)).await?;
    let id = req.param(1).to_owned();
    let missing = || Problem::not_found("share_not_found", "There is no such link; it may have ended.");
    let line = line(&req, "revoke", row.vmid.clone(), id.clone());
    let token = cx.db(shares::delete(&cx.db, id, row.vmid.clone(), line.clone())).await?.ok_or_else(missing)?;
    // Off the table at once: who is just being let in looks there last.
    let used = Vmid::parse(&row.vmid).and_then(|vmid| cx.vms.get(vmid)?.shares.borrow_mut().remove(&token));
    if let Some(revoked) = used {
        revoked.set(());
    }
    tell(&req, &line);
    Ok(Response::empty(204))
}

/// A line in the log; that in the audit trail was written with the change.
fn tell(req: &Req, line: &Line) {
    let login = req.caller.get().map_or("", |caller| caller.user.login.as_str());
    log::info!(vmid = line.target.as_str(), user = login, req = req.id.as_str(); "{}: {}", line.action, line.detail);
}

fn share_json(share: &Share) -> Value {
    json!({
        "id": share.id,
        "control": share.control,
        "created_at": super::time(share.created_at),
        "expires_at": super::time(share.expires_at),
        "viewers": 0,
    })
}

/// What is told to who comes while a VM is on no table, though its row is live: at a start of the server, or in the middle of a power cycle.
#[must_use]
pub(super) fn between() -> Problem {
    Problem::unavailable("screen_away", "This VM is just being taken back or started again. Try again in a moment.", 1)
}

/// What is told to who comes with a link that is none any more.
#[must_use]
pub(super) fn gone() -> Problem {
    Problem::not_found("share_not_found", "This link has ended. Ask for another one.")
}

/// The link whose token is in the query, if it is one to that `vm`; from now on its end closes what it opened.
///
/// # Errors
/// 404 for a link that has ended or never was, 503 when the database is away.
pub(super) async fn admit(
    cx: &Cx,
    req: &Req,
    token: &str,
    vm: impl FnOnce() -> Option<Rc<Vm>>,
) -> Result<(Share, Rc<Vm>), Problem> {
    let (ip, rate) = (household(req.ip).to_string(), Rate::per_minute(cx.config.limits.bad_tokens_per_minute_ip));
    cx.throttle.check(Kind::AddressToken, &ip, rate, cx.now())?;
    let Some(share) = cx.db(shares::find(&cx.db, cx.sessions.hash(token))).await? else {
        let _ = cx.throttle.take(Kind::AddressToken, &ip, rate, cx.now());
        return Err(gone());
    };
    let Some(vm) = vm().filter(|vm| vm.vmid.to_string() == share.vmid) else {
        // A server that has just begun may not have taken it back yet, and a page that hears 404 gives up.
        let elsewhere = Vmid::parse(&share.vmid).is_some_and(|vmid| cx.vms.get(vmid).is_some());
        let row = cx.db(vms::by_id(&cx.db, share.vmid)).await?;
        return Err(if !elsewhere && row.is_some_and(|row| row.state.is_live()) { between() } else { gone() });
    };
    if !vm.shares.borrow().contains_key(&share.token_hash) {
        expire(cx, &vm, &share);
    }
    Ok((share, vm))
}

/// One timer a link that is in use, however many use it.
fn expire(cx: &Cx, vm: &Rc<Vm>, share: &Share) {
    let left = Duration::try_from(share.expires_at.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO);
    let (story, vm, token, revoked) = (Rc::clone(cx), Rc::clone(vm), share.token_hash, Latch::default());
    vm.shares.borrow_mut().insert(token, Latch::clone(&revoked));
    cx.spawner.spawn("link", async move {
        let why = match first(revoked.wait(), first(vm.ended.wait(), story.clock.sleep(left))).await {
            Either::First(()) => "the link was revoked",
            Either::Second(Either::First(_)) => "VM stopped",
            Either::Second(Either::Second(())) => "the link has expired",
        };
        vm.shares.borrow_mut().remove(&token);
        let end = End::new(1008, why);
        let ended = HashSet::from([token]);
        story.bus.end_sessions(&ended);
        story.order(Order::End(Which::Sessions(ended), end));
    });
}
