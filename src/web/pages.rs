//! Embedded pages and assets: conditional requests, ranges, pre-compressed bodies, and the headers every answer carries.

use super::Req;
use super::assets::{self, Asset};
use crate::net::response::{Body, Response};
use crate::proto::http::Method;
use crate::proto::http::conditional::{self, Decision};
use crate::proto::http::range::{self, Range};
use crate::proto::problem::Problem;

/// Nothing from elsewhere, nothing inline, no framing by others.
const CSP: &str = "default-src 'self'; img-src 'self' data: blob:; connect-src 'self'; style-src 'self'; \
    script-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'";

/// Headers of every answer.
#[must_use]
pub fn security_headers(secure: bool) -> Vec<(&'static str, String)> {
    let mut headers = vec![
        ("x-content-type-options", "nosniff".to_owned()),
        ("referrer-policy", "no-referrer".to_owned()),
        ("x-frame-options", "SAMEORIGIN".to_owned()),
        ("content-security-policy", CSP.to_owned()),
    ];
    if secure {
        headers.push(("strict-transport-security", "max-age=31536000".to_owned()));
    }
    headers
}

/// The page or asset of a request, or 404: a page for browsers that ask for one, a problem for everybody else.
///
/// # Errors
/// 404, 405, 412, 416.
pub fn serve(req: &Req) -> Result<Response, Problem> {
    let wants_page = req.head.headers.get("accept").is_some_and(|accept| accept.contains("text/html"));
    let Some(asset) = assets::find(&req.head.path) else {
        if let Some(page) = assets::find("/404.html").filter(|_| wants_page && req.head.method == Method::Get) {
            let mut response = whole(page, req);
            response.status = 404;
            return Ok(response);
        }
        return Err(Problem::not_found("not_found", "There is nothing at this address."));
    };
    if !matches!(req.head.method, Method::Get | Method::Head) {
        return Err(Problem::method_not_allowed("GET, HEAD"));
    }
    answer(asset, req)
}

/// The answer to a GET or HEAD of this asset.
///
/// # Errors
/// 412, 416.
pub fn answer(asset: &Asset, req: &Req) -> Result<Response, Problem> {
    let tag = etag(asset, req);
    match conditional::decide(&req.head.headers, Some(&tag), None) {
        Decision::NotModified => {
            return Ok(Response::empty(304)
                .with("etag", tag)
                .with("cache-control", cache(asset))
                .with("vary", "Accept-Encoding"));
        }
        Decision::PreconditionFailed => {
            return Err(Problem::new(412, "changed", "The file is not the one you have. Load it again."));
        }
        Decision::Proceed { range_allowed } => {
            let asked = req.head.headers.get("range").filter(|_| range_allowed && req.head.method == Method::Get);
            if let Some(asked) = asked {
                return partial(asset, req, asked);
            }
        }
    }
    Ok(whole(asset, req))
}

fn pick(asset: &Asset, req: &Req) -> (&'static [u8], Option<&'static str>) {
    // A range counts bytes of one representation; the plain one is what download tools mean.
    let accepts = if req.head.headers.get("range").is_some() {
        ""
    } else {
        req.head.headers.get("accept-encoding").unwrap_or("")
    };
    asset.pick(accepts)
}

/// Each encoding is a representation of its own and needs a tag of its own (RFC 9110 8.8.3.3).
fn etag(asset: &Asset, req: &Req) -> String {
    match pick(asset, req).1 {
        Some(encoding) => format!("\"{}-{encoding}\"", asset.etag),
        None => format!("\"{}\"", asset.etag),
    }
}

fn cache(asset: &Asset) -> &'static str {
    if asset.immutable { "public, max-age=31536000, immutable" } else { "no-cache" }
}

fn about(asset: &Asset, req: &Req, status: u16) -> Response {
    let mut response = Response::empty(status)
        .with("content-type", asset.content_type)
        .with("etag", etag(asset, req))
        .with("cache-control", cache(asset))
        .with("vary", "Accept-Encoding")
        .with("accept-ranges", "bytes");
    if let Some(encoding) = pick(asset, req).1 {
        response = response.with("content-encoding", encoding);
    }
    response
}

fn whole(asset: &Asset, req: &Req) -> Response {
    let mut response = about(asset, req, 200);
    response.body = Body::Static(pick(asset, req).0);
    response
}

fn partial(asset: &Asset, req: &Req, asked: &str) -> Result<Response, Problem> {
    let bytes = pick(asset, req).0;
    let length = bytes.len() as u64;
    match range::parse(asked, length) {
        Range::Ignore => Ok(whole(asset, req)),
        Range::Unsatisfiable => {
            let problem = Problem::new(416, "bad_range", format!("The file has only {length} bytes."));
            Err(problem.with("content-range", format!("bytes */{length}")))
        }
        Range::Bytes { first, last } => {
            let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
            let part = bytes.get(at(first)..=at(last)).unwrap_or_default();
            let mut response = about(asset, req, 206).with("content-range", format!("bytes {first}-{last}/{length}"));
            response.body = Body::Static(part);
            Ok(response)
        }
    }
}
