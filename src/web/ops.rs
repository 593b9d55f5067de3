//! `/healthz`, `/readyz`, `/version`: for operators and their tools.

use super::Req;
use super::session;
use crate::config::{Signup, Tls};
use crate::db::State;
use crate::house::Cx;
use crate::net::response::Response;
use crate::proto::problem::Problem;
use serde_json::json;
use std::rc::Rc;

/// `GET /healthz`: the loop turns.
pub async fn healthz(_: Cx, _: Rc<Req>) -> Result<Response, Problem> {
    Ok(Response::json(200, &json!({ "status": "ok" })))
}

/// `GET /readyz`: 200, or 503 with every reason.
pub async fn readyz(cx: Cx, _: Rc<Req>) -> Result<Response, Problem> {
    let mut reasons = Vec::new();
    match cx.db.state() {
        State::Ready => {
            if !cx.swept.get() {
                reasons.push("VMs of the former run are being looked after".to_owned());
            } else if let Err(problem) = cx.db(crate::db::ports::counts(&cx.db, super::metrics::ranges(&cx))).await {
                reasons.push(format!("database: {}", problem.detail));
            }
        }
        State::Starting(what) => reasons.push(format!("database: {what}")),
        State::Away { reason } | State::Refused { reason } => reasons.push(format!("database: {reason}")),
    }
    if let Err(problem) = cx.hypervisor.found() {
        reasons.push(format!("qemu: {}", problem.detail));
    }
    if cx.stopping.get() {
        reasons.push("the server is stopping".into());
    }
    if reasons.is_empty() {
        return Ok(Response::json(200, &json!({ "status": "ready" })));
    }
    let mut problem = Problem::unavailable("not_ready", reasons.join("; "), 2);
    problem.reasons = reasons;
    Err(problem)
}

/// `GET /version`: what this is, and whether the caller is signed in; 200 for strangers too, so that the start page can ask.
pub async fn version(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let signup = match cx.config.signup {
        Signup::Open => "open",
        Signup::Invite => "invite",
        Signup::Closed => "closed",
    };
    let tls = req.secure || !matches!(cx.config.tls, Tls::Off);
    let signed_in = match session::authenticate(&cx, &req).await {
        Ok(caller) => caller.is_some(),
        // Whether the token is good cannot be told now: whoever wants to know asks /auth/me.
        Err(problem) => problem.status == 503,
    };
    Ok(Response::json(
        200,
        &json!({
            "name": "vmshare",
            "version": env!("CARGO_PKG_VERSION"),
            "signup": signup,
            "tls": tls,
            "signed_in": signed_in,
        }),
    ))
}
