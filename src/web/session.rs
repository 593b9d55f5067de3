//! Who is calling: a session token in a cookie or as a bearer, looked up by its keyed hash.
//!
//! The database holds the truth; memory holds what was asked for lately, so that the hot path does not wait for SQL. An entry is
//! believed for [`BELIEVED`]: a role or password changed by the command line is seen within that time (by [`super::recheck`] where only a screen
//! is open), a log-out here at once.
//! A token is 256 random bits; only HMAC-SHA256 of it under the server's secret is stored, so a stolen table opens nothing.

use super::Req;
use super::throttle::{Kind, Rate, household};
use crate::db::sessions::{self, NewSession};
use crate::db::users::User;
use crate::house::{Cx, Order, Which};
use crate::net::relay::End;
use crate::proto::http::cookie::{self, SetCookie};
use crate::proto::problem::Problem;
use data_encoding::BASE64URL_NOPAD;
use jiff::Timestamp;
use ring::hmac;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How long a looked-up session is believed without asking again.
pub(super) const BELIEVED: Duration = Duration::from_secs(30);
/// Sessions kept in memory; beyond it they are looked up again.
const KEPT: usize = 20_000;

/// A token's keyed hash: what the database knows of it.
pub type TokenHash = [u8; 32];

/// Somebody who is signed in.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The account.
    pub user: User,
    /// The session.
    pub token: TokenHash,
    /// The token came in a cookie, which a browser sends by itself.
    pub by_cookie: bool,
}

impl Caller {
    /// True for administrators.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        self.user.role == "admin"
    }

    /// True for teachers.
    #[must_use]
    pub fn is_teacher(&self) -> bool {
        self.user.role == "teacher"
    }
}

struct Known {
    user: User,
    expires: Timestamp,
    checked: Instant,
}

/// The room of sessions.
pub struct Sessions {
    key: hmac::Key,
    known: RefCell<HashMap<TokenHash, Known>>,
    /// A story looks at those that have something open.
    pub(super) rechecks: Cell<bool>,
}

impl Sessions {
    /// `secret` keys the hashes: another secret, and nobody is signed in any more.
    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret), known: RefCell::default(), rechecks: Cell::new(false) }
    }

    /// What may be stored of a token.
    #[must_use]
    pub fn hash(&self, token: &str) -> TokenHash {
        let tag = hmac::sign(&self.key, token.as_bytes());
        let mut hash = [0; 32];
        hash.copy_from_slice(tag.as_ref());
        hash
    }

    fn find(&self, token: &TokenHash, now: Instant) -> Option<User> {
        let known = self.known.borrow();
        let found = known.get(token)?;
        (found.checked + BELIEVED > now && found.expires > Timestamp::now()).then(|| found.user.clone())
    }

    fn keep(&self, token: TokenHash, user: User, expires: Timestamp, now: Instant) {
        let mut known = self.known.borrow_mut();
        if known.len() >= KEPT {
            known.clear();
        }
        known.insert(token, Known { user, expires, checked: now });
    }

    /// Looks a user's sessions up again when they are used next: something of the account has changed.
    pub(super) fn forget(&self, user: &str) {
        self.known.borrow_mut().retain(|_, known| known.user.id != user);
    }

    /// Forgets sessions that ended.
    fn drop(&self, tokens: &HashSet<TokenHash>) {
        self.known.borrow_mut().retain(|token, _| !tokens.contains(token));
    }
}

/// Whose disks or images a request is about: the caller's own, unless an administrator names somebody else by `?user=`.
///
/// # Errors
/// 404 when somebody else does.
pub fn subject(req: &Req) -> Result<String, Problem> {
    let caller = req.caller()?;
    match req.query()?.get("user") {
        Some(user) if user != caller.user.id => {
            // It becomes part of a path.
            let plain = (1..=64).contains(&user.len())
                && user.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
            let missing = || Problem::not_found("user_not_found", "There is no such user.");
            (caller.is_admin() && plain).then(|| user.to_owned()).ok_or_else(missing)
        }
        _ => Ok(caller.user.id.clone()),
    }
}

/// 401 for who is not signed in.
#[must_use]
pub fn sign_in_first() -> Problem {
    Problem::unauthorized("not_signed_in", "Sign in first.")
}

/// Who calls, if anybody.
///
/// # Errors
/// 401 for a dead or malformed token, 503 when the database has to be asked and is away.
pub async fn authenticate(cx: &Cx, req: &Req) -> Result<Option<Caller>, Problem> {
    let bearer = req.head.headers.get("authorization");
    let (token, by_cookie) = match bearer {
        Some(value) => match value.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => (token.trim(), false),
            _ => return Err(Problem::unauthorized("bad_authorization", "Send Authorization: Bearer TOKEN.")),
        },
        None => match req.head.headers.get("cookie").and_then(|value| cookie::find(value, cookie_name(req.secure))) {
            Some(token) => (token, true),
            None => return Ok(None),
        },
    };
    let token = cx.sessions.hash(token);
    if let Some(user) = cx.sessions.find(&token, cx.now()) {
        return Ok(Some(Caller { user, token, by_cookie }));
    }
    // Who guesses keeps the database busy for everybody.
    let rate = Rate::per_minute(cx.config.limits.bad_tokens_per_minute_ip);
    let ip = household(req.ip).to_string();
    // Who was let in before is asked for whatever others at his address try.
    if !cx.sessions.known.borrow().contains_key(&token) {
        cx.throttle.check(Kind::AddressToken, &ip, rate, cx.now())?;
    }
    match cx.db(sessions::find(&cx.db, token)).await? {
        Some((user, expires)) => {
            cx.sessions.keep(token, user.clone(), expires, cx.now());
            Ok(Some(Caller { user, token, by_cookie }))
        }
        None => {
            let _ = cx.throttle.take(Kind::AddressToken, &ip, rate, cx.now());
            end(cx, HashSet::from([token]));
            Err(Problem::unauthorized("session_ended", "Your session has ended. Sign in again."))
        }
    }
}

/// A new session: the token to hand out, once, and when it ends.
///
/// # Errors
/// 503 when the database is away.
pub async fn begin(cx: &Cx, user: &User, ip: IpAddr, action: &'static str) -> Result<(String, Timestamp), Problem> {
    let token = BASE64URL_NOPAD.encode(&crate::random::bytes::<32>());
    let hash = cx.sessions.hash(&token);
    let length = i64::from(cx.config.session_minutes) * 60;
    let expires = Timestamp::from_second(Timestamp::now().as_second() + length).unwrap_or(Timestamp::MAX);
    let new = NewSession { token: hash, user: user.clone(), expires, ip: ip.to_string(), action };
    cx.db(sessions::create(&cx.db, new)).await?;
    cx.sessions.keep(hash, user.clone(), expires, cx.now());
    Ok((token, expires))
}

/// What follows from sessions that are dead in the database: here too, and their open screens close.
pub fn end(cx: &Cx, tokens: HashSet<TokenHash>) {
    cx.sessions.drop(&tokens);
    cx.bus.end_sessions(&tokens);
    cx.order(Order::End(Which::Sessions(tokens), End::new(1008, "signed out")));
}

/// The cookie's name; the prefix makes browsers insist on Secure, Path=/ and no Domain.
#[must_use]
pub fn cookie_name(secure: bool) -> &'static str {
    if secure { "__Host-vmshare_session" } else { "vmshare_session" }
}

/// The header that hands the token to a browser; an empty token takes it away.
#[must_use]
pub fn set_cookie(token: &str, secure: bool, minutes: u32) -> (&'static str, String) {
    let max_age = if token.is_empty() { 0 } else { u64::from(minutes) * 60 };
    ("set-cookie", SetCookie { name: cookie_name(secure), value: token, max_age, secure }.to_string())
}
