//! `/admin/invites`: codes that let a class sign up. A code is told once, when it is made; only its hash is stored.

use super::tell;
use crate::db::invites::{self, Invite, NewInvite};
use crate::house::Cx;
use crate::net::response::Response;
use crate::proto::json::Fields;
use crate::proto::problem::Problem;
use crate::web::Req;
use crate::web::auth::line;
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};
use std::rc::Rc;

/// Invitations there may be at a time.
const MOST: u32 = 500;
/// Most people one is for.
const USES_MAX: u32 = 10_000;
/// Longest time of one, in days.
const DAYS_MAX: u32 = 365;
/// Days of one that asks for none.
const DAYS: u32 = 7;
/// Longest note, in bytes.
const NOTE_MAX: usize = 200;

fn to_json(invite: &Invite) -> Value {
    json!({
        "id": invite.id,
        "role": invite.role,
        "uses": invite.uses,
        "uses_left": invite.uses_left,
        "created_at": crate::web::time(invite.created_at),
        "expires_at": crate::web::time(invite.expires_at),
        "note": invite.note,
        "created_by": invite.created_by,
    })
}

/// `GET /admin/invites`: those that have not ended, newest first.
pub async fn list(cx: Cx, _: Rc<Req>) -> Result<Response, Problem> {
    let all = cx.db(invites::list(&cx.db)).await?;
    let shown: Vec<Value> = all.iter().map(to_json).collect();
    Ok(Response::json(200, &json!({ "invites": shown })))
}

/// `POST /admin/invites`: `{uses?, days?, role?, note?}`.
pub async fn create(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let fields = Fields::parse_or_empty(&req.body)?;
    fields.deny_unknown(&["uses", "days", "role", "note"])?;
    let uses = fields.opt_u32_in("uses", 1..=USES_MAX)?.unwrap_or(1);
    let days = fields.opt_u32_in("days", 1..=DAYS_MAX)?.unwrap_or(DAYS);
    let role = super::users::role(&fields)?.unwrap_or_else(|| "user".into());
    let words = fields.opt_str("note")?.unwrap_or("").trim().to_owned();
    if words.len() > NOTE_MAX || words.contains('\0') {
        return Err(Problem::unprocessable("note", format!("must have at most {NOTE_MAX} bytes")));
    }
    let code = BASE64URL_NOPAD.encode(&crate::random::bytes::<9>());
    let by = Some(req.caller()?.user.id.clone());
    let new = NewInvite { code: invites::code_hash(&code), role, uses, days, note: words, by };
    let detail = format!("{uses} uses, {days} days, role {} {}", new.role, new.note);
    let mut line = line(&req, "create invitation", String::new(), detail);
    let invite = cx.db(invites::create(&cx.db, new, MOST, line.clone())).await?.ok_or_else(|| {
        Problem::conflict("too_many_invites", format!("There are {MOST} invitations already. Take some back first."))
    })?;
    line.target.clone_from(&invite.id);
    tell(&req, &line);
    let mut shown = to_json(&invite);
    shown["code"] = json!(code);
    Ok(Response::json(201, &json!({ "invite": shown })))
}

/// `DELETE /admin/invites/{id}`: nobody signs up with it any more.
pub async fn remove(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let id = req.param(0).to_owned();
    let missing = || Problem::not_found("invite_not_found", "There is no such invitation; it may have ended.");
    let mut line = line(&req, "take invitation back", id.clone(), String::new());
    line.detail = cx.db(invites::delete(&cx.db, id, line.clone())).await?.ok_or_else(missing)?;
    tell(&req, &line);
    Ok(Response::empty(204))
}
