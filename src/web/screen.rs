//! `GET /vms/{vmid}/screen.png`: what a VM shows now, for whoever may open its screen.
//!
//! The picture is made when it is asked for and shared by all who ask within a moment (`vm::screen`).

use super::viewers::watchable;
use super::{Req, shares};
use crate::db::vms::VmState;
use crate::house::Cx;
use crate::net::response::{Body, Response};
use crate::proto::http::conditional::{self, Decision};
use crate::proto::problem::Problem;
use crate::vm::{Vm, Vmid, screen};
use std::ops::RangeInclusive;
use std::rc::Rc;

/// How wide a picture of somebody else's screen is at most.
const GLANCE: u32 = 320;
/// Widths that may be asked for.
const WIDTHS: RangeInclusive<u32> = 16..=1280;

/// `GET /vms/{vmid}/screen.png[?w=320]`.
pub async fn show(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let vm = seen(&cx, &req).await?;
    let mut width = width(req.query()?.get("w"))?;
    // Whoever watches is announced; a glance, at a class or by a link, is not, and is no more than that.
    let is_own = req.caller.get().is_some_and(|caller| caller.user.id == vm.user);
    if !is_own {
        width = Some(width.unwrap_or(GLANCE).min(GLANCE));
    }
    let shot = screen::shot(&cx, &vm, width).await?;
    let (status, body) = match conditional::decide(&req.head.headers, Some(&shot.etag), None) {
        Decision::NotModified => (304, Body::Empty),
        _ => (200, Body::Bytes(shot.png.clone())),
    };
    let mut answer = Response::empty(status)
        .with("etag", shot.etag.clone())
        .with("cache-control", format!("private, max-age={}", screen::FRESH.as_secs()));
    if status == 200 {
        answer = answer.with("content-type", "image/png");
    }
    answer.body = body;
    Ok(answer)
}

fn width(asked: Option<&str>) -> Result<Option<u32>, Problem> {
    let Some(text) = asked else { return Ok(None) };
    let width = text.parse().ok().filter(|width| WIDTHS.contains(width));
    width.map(Some).ok_or_else(|| {
        let bounds = format!("must be a whole number from {} to {}", WIDTHS.start(), WIDTHS.end());
        Problem::unprocessable("w", bounds)
    })
}

/// The VM, for who may look at it; a link counts before the session, as at its consoles.
async fn seen(cx: &Cx, req: &Req) -> Result<Rc<Vm>, Problem> {
    let live = || Vmid::parse(req.param(0)).and_then(|vmid| cx.vms.get(vmid));
    if let Some(token) = req.link()? {
        return Ok(shares::admit(cx, req, &token, live).await?.1);
    }
    let row = watchable(cx, req.caller()?, req.param(0)).await?;
    match live().filter(|vm| vm.ended.get().is_none()) {
        Some(vm) => Ok(vm),
        None if row.state == VmState::Starting => {
            Err(Problem::unavailable("screen_away", "This VM is starting; its screen comes in a moment.", 2))
        }
        None => {
            let detail = format!("This VM is {}; only one that runs has a screen.", row.state);
            Err(Problem::conflict("vm_not_running", detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_width_is_a_number_within_its_bounds() {
        assert_eq!(width(None), Ok(None));
        assert_eq!(width(Some("16")), Ok(Some(16)));
        assert_eq!(width(Some("1280")), Ok(Some(1280)));
        for bad in ["", "15", "1281", "-1", "3.5", "wide", "4294967297"] {
            assert_eq!(width(Some(bad)).map_err(|e| (e.status, e.field)), Err((422, Some("w".into()))), "{bad}");
        }
    }
}
