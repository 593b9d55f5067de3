//! `/admin/…`: what only administrators do. JSON for the dashboard, which shows it and does nothing else.
//!
//! Every change leaves a line in the audit trail: who, from where, what. What is somebody's right is decided in the database, in the
//! transaction that changes it, so two administrators at once cannot take the last one's rights away.

pub mod audit;
pub mod host;
pub mod invites;
pub mod users;
pub mod vms;

use super::Req;
use crate::db::events::{Event, Line};
use crate::house::Cx;
use crate::vm::diary;

/// A line in the log for a change whose line in the audit trail was written with it.
fn tell(req: &Req, line: &Line) {
    let login = req.caller.get().map_or("", |caller| caller.user.login.as_str());
    log::info!(user = login, target = line.target.as_str(), req = req.id.as_str(); "{}: {}", line.action, line.detail);
}

/// A line in the audit trail and in the log.
async fn note(cx: &Cx, req: &Req, action: &'static str, target: &str, detail: String) {
    let user = req.caller.get().map(|caller| &caller.user);
    let login = user.map_or("", |user| user.login.as_str());
    log::info!(user = login, target = target, req = req.id.as_str(); "{action}: {detail}");
    let (user_id, ip) = (user.map(|user| user.id.clone()), req.ip.to_string());
    let (action, target) = (action.to_owned(), target.to_owned());
    diary::write(cx, Event::Audit { user_id, ip, action, target, detail }).await;
}
