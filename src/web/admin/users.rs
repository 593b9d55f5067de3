//! `/admin/users`: accounts, their roles, quotas and passwords.
//!
//! A change holds at once: who loses rights, is disabled or gets another password is signed out everywhere, open screens included.

use super::tell;
use crate::db::accounts::{self, Account, Change, Changed};
use crate::house::{Cx, Order, Which};
use crate::net::relay::End;
use crate::net::response::Response;
use crate::proto::json::Fields;
use crate::proto::problem::Problem;
use crate::vm::viewers::Kind;
use crate::web::auth::line;
use crate::web::paging;
use crate::web::{Req, session};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};
use std::rc::Rc;

/// The largest quota, in GiB.
const QUOTA_MAX: u32 = 1_048_576;

fn to_json(cx: &Cx, account: &Account) -> Value {
    let user = &account.user;
    json!({
        "id": user.id,
        "email": user.email,
        "login": user.login,
        "role": user.role,
        "created_at": crate::web::time(user.created_at),
        "last_seen": account.last_seen.map(crate::web::time),
        "disabled": user.disabled,
        "quota_gb": account.quota_gb,
        "vmid": cx.vms.of_user(&user.id).map(|vm| vm.vmid.to_string()),
    })
}

fn missing() -> Problem {
    Problem::not_found("user_not_found", "There is no such account.")
}

/// The role that a body names, if any.
pub(super) fn role(fields: &Fields) -> Result<Option<String>, Problem> {
    match fields.opt_str("role")? {
        None => Ok(None),
        Some(role @ ("user" | "teacher" | "admin")) => Ok(Some(role.to_owned())),
        Some(_) => Err(Problem::unprocessable("role", "must be \"user\", \"teacher\" or \"admin\"")),
    }
}

/// `GET /admin/users?q&limit&before`: newest first.
pub async fn list(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let query = req.query()?;
    let (limit, words) = (paging::limit(&query)?, paging::words(&query)?);
    let before = query.get("before").map(str::to_owned);
    if before.as_ref().is_some_and(|id| id.contains('\0')) {
        return Err(Problem::unprocessable("before", "must be what next of the page before says"));
    }
    let found = cx.db(accounts::search(&cx.db, words, limit, before)).await?;
    let full = i64::try_from(found.len()) == Ok(limit);
    let next = found.last().filter(|_| full).map(|account| account.user.id.clone());
    let shown: Vec<Value> = found.iter().map(|account| to_json(&cx, account)).collect();
    Ok(Response::json(200, &json!({ "users": shown, "next": next })))
}

/// `POST /admin/users/{id}`: `{role?, disabled?, quota_gb?}`.
pub async fn change(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let (caller, id) = (req.caller()?, req.param(0).to_owned());
    let fields = Fields::parse(&req.body)?;
    fields.deny_unknown(&["role", "disabled", "quota_gb"])?;
    let change = Change {
        role: role(&fields)?,
        disabled: fields.opt_bool("disabled")?,
        quota_gb: fields.opt_u32_in("quota_gb", 0..=QUOTA_MAX)?,
    };
    let harms = change.disabled == Some(true) || change.role.as_ref().is_some_and(|role| role != "admin");
    if id == caller.user.id && harms {
        let detail = "You cannot take your own rights away. Ask another administrator to do it.";
        return Err(Problem::conflict("own_account", detail));
    }
    let by = (caller.user.id.clone(), req.ip.to_string());
    let (account, ended) = match cx.db(accounts::change(&cx.db, by, id.clone(), change.clone())).await? {
        Changed::Yes(account, ended) => (account, ended),
        Changed::Missing => return Err(missing()),
        Changed::NoRight => return Err(no_right()),
    };
    cx.sessions.forget(&id);
    session::end(&cx, ended.into_iter().collect());
    if change.disabled == Some(true) {
        end_links(&cx, &id);
    }
    if let Some(role) = &change.role {
        hide_from_teachers(&cx, &id, role);
    }
    tell(&req, &line(&req, "change account", account.user.login.clone(), change.words()));
    Ok(Response::json(200, &json!({ "user": to_json(&cx, &account) })))
}

fn no_right() -> Problem {
    Problem::forbidden("admin_only", "Only administrators may do this.")
}

/// A student's screen is a teacher's to look at; that of somebody who is none any more is not.
fn hide_from_teachers(cx: &Cx, user: &str, role: &str) {
    let Some(vm) = cx.vms.of_user(user) else { return };
    vm.row.borrow_mut().user_role = role.to_owned();
    if role != "user" {
        for viewer in vm.viewers.all().into_iter().filter(|viewer| viewer.kind == Kind::Teacher) {
            cx.order(Order::End(Which::Viewer(vm.vmid, viewer.id), End::new(1008, "its owner is no student any more")));
        }
    }
}

/// Closes what was opened with links to a user's VM; the links themselves are gone from the table.
fn end_links(cx: &Cx, user: &str) {
    if let Some(vm) = cx.vms.of_user(user) {
        let used: Vec<_> = vm.shares.borrow_mut().drain().collect();
        used.into_iter().for_each(|(_, revoked)| revoked.set(()));
    }
}

/// `POST /admin/users/{id}/password`: another password, told once.
pub async fn reset(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let (caller, id) = (req.caller()?, req.param(0).to_owned());
    Fields::parse_or_empty(&req.body)?.deny_unknown(&[])?;
    if id == caller.user.id {
        let detail = "This is for others' passwords. Change your own on the home page, under your name.";
        return Err(Problem::conflict("own_account", detail));
    }
    let account = cx.db(accounts::by_id(&cx.db, id.clone())).await?.ok_or_else(missing)?;
    let password = BASE64URL_NOPAD.encode(&crate::random::bytes::<12>());
    let phc = cx.hash.create(password.clone()).await?;
    let line = line(&req, "reset password", account.user.login.clone(), String::new());
    let reset = accounts::reset_password(&cx.db, caller.user.id.clone(), id, phc, line.clone());
    let ended = cx.db(reset).await?.ok_or_else(no_right)?;
    session::end(&cx, ended.into_iter().collect());
    tell(&req, &line);
    Ok(Response::json(200, &json!({ "login": account.user.login, "password": password })))
}
