//! Cross-site requests: refused before anything is looked at (OWASP CSRF prevention: fetch metadata, then Origin).
//!
//! A browser sends the cookie by itself, so a request that changes something and comes with one must prove that it was made by one of
//! our own pages. A bearer token is never sent by itself and needs no proof.

use super::Req;
use crate::proto::problem::Problem;

/// Checks a request that changes something.
///
/// # Errors
/// 403 for a request another site made, or a cookie without any proof.
pub fn check(req: &Req, by_cookie: bool) -> Result<(), Problem> {
    if !by_cookie && req.head.headers.get("authorization").is_some() {
        return Ok(());
    }
    let site = req.head.headers.get("sec-fetch-site");
    let origin = req.head.headers.get("origin");
    let foreign = site.is_some_and(|site| !matches!(site, "same-origin" | "none"))
        || origin.is_some_and(|origin| !is_ours(req, origin));
    let proven = origin.is_some() || site == Some("same-origin");
    if foreign || (by_cookie && !proven) {
        return Err(Problem::forbidden(
            "cross_site",
            "This request was not made by a page of this server. Programs send Authorization: Bearer instead of the cookie.",
        ));
    }
    Ok(())
}

/// Checks a websocket upgrade: browsers always send Origin, and SameSite does not hold for every one of them.
///
/// # Errors
/// 403 for another site's page.
pub fn check_upgrade(req: &Req) -> Result<(), Problem> {
    match req.head.headers.get("origin") {
        Some(origin) if !is_ours(req, origin) => {
            Err(Problem::forbidden("cross_site", "This connection was not asked for by a page of this server."))
        }
        _ => Ok(()),
    }
}

/// With TLS off the pages may come by a proxy that speaks it, named in the settings or not.
fn is_ours(req: &Req, origin: &str) -> bool {
    let host = req.head.headers.get("host").unwrap_or("");
    origin.split_once("://").is_some_and(|(scheme, name)| {
        (scheme == "https" || scheme == "http" && !req.secure) && !host.is_empty() && name.eq_ignore_ascii_case(host)
    })
}
