//! `/auth/…`: sign-up, log-in, log-out, who am I, password.
//!
//! Whether an account exists cannot be told from a log-in's answer or its time: the hash is computed either way. Passwords are hashed
//! on their own thread; its short queue and the buckets of [`super::throttle`] stand between a flood and everybody else.

use super::Req;
use super::session::{self, Caller};
use super::throttle::{Kind, Rate, household};
use crate::config::Signup;
use crate::db::events::{Event, Line};
use crate::db::users::{self, NewUser, User};
use crate::db::{Error, invites, sessions};
use crate::house::Cx;
use crate::net::response::Response;
use crate::proto::json::Fields;
use crate::proto::problem::Problem;
use crate::vm::diary;
use crate::work::hash::Verdict;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::rc::Rc;

/// Shortest password, in characters.
const PASSWORD_MIN: usize = 8;
/// Longest password, in bytes: enough for any sentence, too short to keep the hash thread busy.
const PASSWORD_MAX: usize = 1024;
/// Longest address (RFC 5321 4.5.3.1.3, without the brackets).
const EMAIL_MAX: usize = 254;
/// Longest login name.
const LOGIN_MAX: usize = 32;
/// Attempts to find a free login name where none was asked for.
const LOGIN_TRIES: usize = 8;

/// `POST /auth/signup`.
pub async fn signup(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let limits = &cx.config.limits;
    cx.throttle.take(
        Kind::Signup,
        &household(req.ip).to_string(),
        Rate::per_minute(limits.signups_per_minute),
        cx.now(),
    )?;
    let fields = Fields::parse(&req.body)?;
    fields.deny_unknown(&["email", "password", "login", "invite"])?;
    let email = check_email(fields.str("email")?)?;
    let password = check_password("password", fields.str("password")?)?;
    let login = fields.opt_str("login")?.map(check_login).transpose()?;
    let invite = fields.opt_str("invite")?.map(invites::code_hash);
    let role = match (cx.config.signup, invite) {
        (Signup::Open, _) => "user".to_owned(),
        (Signup::Invite, Some(code)) => cx.db(invites::peek(&cx.db, code)).await?.ok_or_else(|| {
            Problem::forbidden("bad_invite", "This invitation is not valid (any more). Ask for a new one.")
        })?,
        (Signup::Invite, None) => {
            return Err(Problem::forbidden(
                "invite_needed",
                "Sign-up needs an invitation code. Ask your teacher for one.",
            ));
        }
        (Signup::Closed, _) => {
            return Err(Problem::forbidden(
                "signup_closed",
                "Sign-up is closed here. Ask the operator for an account.",
            ));
        }
    };
    let invite = invite.filter(|_| cx.config.signup == Signup::Invite);
    let phc = cx.hash.create(password).await?;
    let user =
        create(&cx, NewUser { email, login: String::new(), role, phc }, login, invite, req.ip.to_string()).await?;
    // Its line in the audit trail was written with the account.
    signed_in(&cx, &req, 201, &user, "").await
}

/// Stores the account; where no login name was asked for, the address gives one, with digits behind it when it is taken.
async fn create(
    cx: &Cx,
    new: NewUser,
    login: Option<String>,
    invite: Option<[u8; 32]>,
    ip: String,
) -> Result<User, Problem> {
    let (base, asked) = match login {
        Some(login) => (login, true),
        None => (login_from(&new.email), false),
    };
    let mut login = base.clone();
    for _ in 0..LOGIN_TRIES {
        let attempt = NewUser { login: login.clone(), ..new.clone() };
        match cx.within(db_limit(cx), users::create(&cx.db, attempt, invite, ip.clone())).await {
            Some(Ok(Some(user))) => return Ok(user),
            Some(Ok(None)) => {
                return Err(Problem::forbidden("bad_invite", "This invitation was just used up. Ask for a new one."));
            }
            Some(Err(Error::Unique { constraint })) if constraint.contains("email") => {
                return Err(Problem::conflict(
                    "email_taken",
                    "There is an account with this address already. Log in instead.",
                ));
            }
            Some(Err(Error::Unique { .. })) if asked => {
                return Err(Problem::conflict("login_taken", "This login name is taken. Choose another one."));
            }
            Some(Err(Error::Unique { .. })) => {
                let digits = u16::from_be_bytes(crate::random::bytes::<2>());
                login = format!("{base}{digits}");
            }
            Some(Err(other)) => return Err(other.into()),
            None => return Err(Error::Lost.into()),
        }
    }
    Err(Problem::conflict("login_taken", "No free login name was found. Choose one yourself."))
}

fn db_limit(cx: &Cx) -> std::time::Duration {
    std::time::Duration::from_secs(cx.config.limits.db_seconds)
}

/// `POST /auth/login`.
pub async fn login(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let limits = &cx.config.limits;
    let ip = household(req.ip).to_string();
    cx.throttle.take(Kind::Login, &ip, Rate::per_minute(limits.logins_per_minute_ip), cx.now())?;
    let fields = Fields::parse(&req.body)?;
    fields.deny_unknown(&["email", "password"])?;
    let name = fields.str("email")?.trim().to_lowercase();
    let password = fields.str("password")?.to_owned();
    if name.is_empty() || name.len() > EMAIL_MAX || password.len() > PASSWORD_MAX {
        return Err(bad_credentials());
    }
    let account_rate = Rate::per_quarter_hour(limits.login_failures_per_account);
    let address_rate = Rate::per_quarter_hour(limits.login_failures_per_ip);
    cx.throttle.check(Kind::AddressFailure, &ip, address_rate, cx.now())?;
    // Counted before it is compared, and given back if it was no guess: many at once are no more than one after the other. An address
    // may be a whole class that signs in, so there only failures count.
    cx.throttle.take(Kind::AccountFailure, &name, account_rate, cx.now())?;
    let compared = compare(&cx, &name, password.clone()).await;
    if !matches!(compared, Ok((_, Verdict::Wrong))) {
        cx.throttle.give_back(Kind::AccountFailure, &name);
    }
    let (user, verdict) = compared?;
    let user = user.filter(|user| verdict != Verdict::Wrong && !user.disabled);
    let Some(user) = user else {
        let _ = cx.throttle.take(Kind::AddressFailure, &ip, address_rate, cx.now());
        log::info!(ip = ip.as_str(), req = req.id.as_str(); "log-in refused");
        return Err(bad_credentials());
    };
    if verdict == Verdict::RightButOld {
        let phc = cx.hash.create(password).await?;
        cx.db(users::set_password(&cx.db, user.id.clone(), phc)).await?;
    }
    signed_in(&cx, &req, 200, &user, "login").await
}

/// The account of that name, and whether this is its password; the same work where there is no account.
async fn compare(cx: &Cx, name: &str, password: String) -> Result<(Option<User>, Verdict), Problem> {
    let (user, stored) = cx.db(users::by_email_or_login(&cx.db, name.to_owned())).await?.unzip();
    let verdict = cx.hash.verify(password, stored).await?;
    Ok((user, verdict))
}

/// `POST /auth/logout`.
pub async fn logout(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let caller = req.caller()?;
    let line = line(&req, "logout", caller.user.login.clone(), String::new());
    cx.db(sessions::delete(&cx.db, caller.token, line)).await?;
    session::end(&cx, HashSet::from([caller.token]));
    let (name, value) = session::set_cookie("", req.secure, 0);
    Ok(Response::empty(204).with(name, value))
}

/// `GET /auth/me`.
pub async fn me(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let caller = req.caller()?;
    let vm = super::vms::current(&cx, &caller.user.id).await?;
    let most = |pick: fn(&crate::config::Profile) -> u32| cx.config.profiles.values().map(pick).max();
    Ok(Response::json(
        200,
        &json!({
            "user": user_json(&caller.user),
            "limits": {
                "max_memory_mb": most(|p| p.max_memory_mb),
                "max_cpus": most(|p| p.max_cpus),
                "max_data_disk_gb": cx.config.limits.max_data_disk_gb,
                "session_minutes": cx.config.session_minutes,
            },
            "vm": vm,
        }),
    ))
}

/// `POST /auth/password`.
pub async fn password(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let Caller { user, token, .. } = req.caller()?;
    let fields = Fields::parse(&req.body)?;
    fields.deny_unknown(&["current", "new"])?;
    let current = fields.str("current")?.to_owned();
    let new = check_password("new", fields.str("new")?)?;
    let rate = Rate::per_quarter_hour(cx.config.limits.login_failures_per_account);
    cx.throttle.take(Kind::AccountFailure, &user.email, rate, cx.now())?;
    let verdict = match current.len() > PASSWORD_MAX {
        true => Ok(Verdict::Wrong),
        false => compare(&cx, &user.email, current).await.map(|(_, verdict)| verdict),
    };
    if !matches!(verdict, Ok(Verdict::Wrong)) {
        cx.throttle.give_back(Kind::AccountFailure, &user.email);
    }
    if verdict? == Verdict::Wrong {
        return Err(Problem::new(401, "bad_credentials", "The current password is not right.").in_field("current"));
    }
    let phc = cx.hash.create(new).await?;
    let line = line(&req, "password", user.login.clone(), String::new());
    let others = cx.db(sessions::change_password(&cx.db, (user.id.clone(), phc), *token, line)).await?;
    session::end(&cx, others.into_iter().collect());
    Ok(Response::empty(204))
}

async fn signed_in(cx: &Cx, req: &Req, status: u16, user: &User, action: &'static str) -> Result<Response, Problem> {
    let (token, expires) = session::begin(cx, user, req.ip, action).await?;
    let (name, value) = session::set_cookie(&token, req.secure, cx.config.session_minutes);
    let expires = jiff::Timestamp::from_second(expires.as_second()).unwrap_or(expires);
    let body = json!({ "user": user_json(user), "token": token, "expires_at": expires.to_string() });
    Ok(Response::json(status, &body).with(name, value))
}

/// A line in the audit trail for a change in the database, which is written with it.
#[must_use]
pub fn line(req: &Req, action: &'static str, target: String, detail: String) -> Line {
    let user_id = req.caller.get().map(|caller| caller.user.id.clone());
    Line { user_id, ip: req.ip.to_string(), action, target, detail }
}

/// A line in the audit trail: who did what, from where. `target` is what it was done to; empty is the account itself.
pub async fn audit(cx: &Cx, req: &Req, user: &User, action: &str, target: &str) {
    audit_with(cx, req, user, action, target, "").await;
}

/// As [`audit`], with what else there is to know.
pub async fn audit_with(cx: &Cx, req: &Req, user: &User, action: &str, target: &str, detail: &str) {
    let target = if target.is_empty() { &user.login } else { target };
    let (user_id, ip) = (Some(user.id.clone()), req.ip.to_string());
    let (action, target, detail) = (action.to_owned(), target.to_owned(), detail.to_owned());
    diary::write(cx, Event::Audit { user_id, ip, action, target, detail }).await;
}

fn user_json(user: &User) -> Value {
    json!({ "id": user.id, "email": user.email, "login": user.login, "role": user.role })
}

fn bad_credentials() -> Problem {
    Problem::unauthorized("bad_credentials", "Address or password is not right.")
}

/// An address as far as it can be told without sending to it.
///
/// # Errors
/// 422.
pub fn check_email(text: &str) -> Result<String, Problem> {
    let email = text.trim().to_lowercase();
    let whole = email.split_once('@').is_some_and(|(local, domain)| {
        !local.is_empty()
            && !domain.is_empty()
            && !domain.contains('@')
            && !domain.starts_with(['.', '-'])
            && !domain.ends_with(['.', '-'])
            && !domain.contains("..")
    });
    let clean = email.chars().all(|c| !c.is_whitespace() && !c.is_control() && !"<>\"(),;:\\[]".contains(c));
    if whole && clean && email.len() <= EMAIL_MAX {
        Ok(email)
    } else {
        Err(Problem::unprocessable("email", "must be an email address, like alice@example.org"))
    }
}

/// A password that may be set.
///
/// # Errors
/// 422.
pub fn check_password(field: &'static str, text: &str) -> Result<String, Problem> {
    if text.chars().count() < PASSWORD_MIN {
        return Err(Problem::unprocessable(field, format!("must have at least {PASSWORD_MIN} characters")));
    }
    if text.len() > PASSWORD_MAX {
        return Err(Problem::unprocessable(field, format!("must have at most {PASSWORD_MAX} bytes")));
    }
    Ok(text.to_owned())
}

/// A login name that may be set.
///
/// # Errors
/// 422.
pub fn check_login(text: &str) -> Result<String, Problem> {
    let login = text.trim().to_lowercase();
    let plain = login.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if plain && !login.is_empty() && login.len() <= LOGIN_MAX && !login.starts_with(['.', '-']) {
        Ok(login)
    } else {
        let detail = format!("must have 1 to {LOGIN_MAX} letters, digits, dots, dashes or underscores");
        Err(Problem::unprocessable("login", detail))
    }
}

/// The login name an address gives.
#[must_use]
pub fn login_from(email: &str) -> String {
    let local = email.split('@').next().unwrap_or_default();
    let plain: String =
        local.chars().filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c)).take(LOGIN_MAX - 6).collect();
    let plain = plain.trim_matches(['.', '-', '_']);
    if plain.is_empty() { "user".to_owned() } else { plain.to_lowercase() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_or_refused_as_people_expect() {
        for good in ["alice@example.org", "A.B+c@School.example", "x@localhost", "é@exämple.org"] {
            assert!(check_email(good).is_ok(), "{good}");
        }
        for bad in
            ["", "alice", "@example.org", "alice@", "a b@c.d", "a@b@c", "a@.org", "a@b..c", "<a@b.c>", "a@b.c\n.d e"]
        {
            assert!(check_email(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_login_name_is_made_from_any_address() {
        for (email, login) in [("alice@example.org", "alice"), ("A.B+c@x", "a.bc"), ("éé@x", "user"), ("..@x", "user")]
        {
            assert_eq!(login_from(email), login);
            assert!(check_login(&login_from(email)).is_ok(), "{email}");
        }
    }
}
