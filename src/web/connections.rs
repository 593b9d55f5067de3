//! `/connections…`: who looks at which VM, now and lately; `/vms/{vmid}/events`: what happened to one.

use super::viewers::{self, watchable};
use super::{Req, paging};
use crate::db::events;
use crate::house::Cx;
use crate::net::response::Response;
use crate::proto::problem::Problem;
use crate::vm::Vmid;
use serde_json::{Value, json};
use std::rc::Rc;

/// `GET /connections/{vmid}`.
pub async fn of_vm(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let row = watchable(&cx, req.caller()?, req.param(0)).await?;
    let summary = cx.db(events::summary(&cx.db, row.vmid.clone())).await?;
    let live = Vmid::parse(&row.vmid).and_then(|vmid| cx.vms.get(vmid));
    let viewers = live.as_ref().map_or(0, |vm| vm.viewers.open());
    let who: Vec<Value> = live.iter().flat_map(|vm| vm.viewers.all()).map(|v| viewers::to_json(&v, cx.now())).collect();
    // Closed screens are in the database, also those of a former server; open ones only in memory.
    let (down, up) = live.map_or((0, 0), |vm| {
        let closed = vm.viewers.closed();
        (vm.meter.down.get().saturating_sub(closed.0), vm.meter.up.get().saturating_sub(closed.1))
    });
    let (down, up) = (summary.bytes_to_browser + down, summary.bytes_to_vm + up);
    Ok(Response::json(
        200,
        &json!({
            "vmid": row.vmid,
            "connected": viewers > 0,
            "viewers": viewers,
            "who": who,
            "last_change": summary.last_change.map(super::time),
            "bytes_to_browser": down,
            "bytes_to_vm": up,
        }),
    ))
}

/// `GET /vms/{vmid}/events?limit&before`: its launch, what QEMU told of its guest, its end; newest first, kept for `event_days`.
pub async fn history(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let row = watchable(&cx, req.caller()?, req.param(0)).await?;
    let query = req.query()?;
    let limit = paging::limit(&query)?;
    let rows = cx.db(events::of_vm(&cx.db, row.vmid, limit, paging::before(&query)?)).await?;
    let next = rows.last().map(|row| row.id).filter(|_| i64::try_from(rows.len()) == Ok(limit));
    let shown: Vec<Value> = rows
        .iter()
        .map(|row| json!({ "id": row.id, "at": super::time(row.at), "kind": row.kind, "detail": row.detail }))
        .collect();
    Ok(Response::json(200, &json!({ "events": shown, "next": next })))
}

/// `GET /connections?q&limit&before`: newest first.
pub async fn recent(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let query = req.query()?;
    let limit = paging::limit(&query)?;
    let rows = cx.db(events::recent(&cx.db, paging::words(&query)?, limit, paging::before(&query)?)).await?;
    let next = rows.last().map(|row| row.id).filter(|_| i64::try_from(rows.len()) == Ok(limit));
    let events: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "id": row.id,
                "at": super::time(row.at),
                "vmid": row.vmid,
                "user": row.user_login,
                "via": row.via,
                "kind": row.kind,
                "console": row.console,
                "ip": row.ip,
                "bytes_to_browser": row.bytes_to_browser,
                "bytes_to_vm": row.bytes_to_vm,
                "reason": row.reason,
                "seconds": row.seconds,
            })
        })
        .collect();
    Ok(Response::json(200, &json!({ "events": events, "next": next })))
}
