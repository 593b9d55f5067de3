//! A request's head: httparse does the tokens, the rules against smuggling and the limits are ours (RFC 9112 2, 3, 5, 6).
//!
//! A front end and a back end that disagree where a request ends let one user speak with another's voice, so whatever two readers could
//! take differently is refused: obs-fold, bare line feeds, a space before the colon, several lengths, a length beside chunked.

use super::super::url;
use super::reader::{Limits, RequestError};
use std::fmt;

/// A request method (RFC 9110 9); names are case-sensitive.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Method {
    /// GET.
    Get,
    /// HEAD.
    Head,
    /// POST.
    Post,
    /// PUT.
    Put,
    /// PATCH.
    Patch,
    /// DELETE.
    Delete,
    /// OPTIONS.
    Options,
    /// Any other token.
    Other(String),
}

impl Method {
    fn from_token(token: &str) -> Self {
        match token {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "PATCH" => Self::Patch,
            "DELETE" => Self::Delete,
            "OPTIONS" => Self::Options,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
            Self::Other(token) => token,
        })
    }
}

/// The protocol's minor version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

impl Version {
    /// True for HTTP/1.0, which knows no chunks.
    #[must_use]
    pub fn is_http10(self) -> bool {
        self == Self::Http10
    }
}

/// Where the body ends (RFC 9112 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// There is none.
    None,
    /// After so many bytes.
    Length(u64),
    /// After the last chunk.
    Chunked,
}

/// Header fields in their order; names in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, Vec<u8>)>);

impl Headers {
    /// The first field of that (lower-case) name, if its value is UTF-8.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).and_then(|(_, value)| std::str::from_utf8(value).ok())
    }

    /// All fields of that name whose values are UTF-8.
    pub fn get_all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let values: Vec<&'a [u8]> =
            self.0.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_slice()).collect();
        values.into_iter().filter_map(|value| std::str::from_utf8(value).ok())
    }

    /// How many fields of that name there are, readable or not.
    #[must_use]
    pub fn count(&self, name: &str) -> usize {
        self.0.iter().filter(|(n, _)| n == name).count()
    }

    /// Makes one for a test or a client.
    #[must_use]
    pub fn from_pairs(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(n, v)| (n.to_ascii_lowercase(), v.as_bytes().to_vec())).collect())
    }
}

/// A request's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The method.
    pub method: Method,
    /// The target as it was sent.
    pub target: String,
    /// Its path, decoded once.
    pub path: String,
    /// Its query, raw.
    pub query: Option<String>,
    /// The version.
    pub version: Version,
    /// The fields.
    pub headers: Headers,
    /// Where the body ends.
    pub body: BodyLength,
    /// The client will send more requests on this connection.
    pub keep_alive: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub expect_continue: bool,
}

/// Finds the end of the head and reads it; `None` while it is not whole. Returns the head and its length.
pub(super) fn parse(input: &[u8], limits: &Limits) -> Result<Option<(Head, usize)>, RequestError> {
    check_first_line(input, limits)?;
    let end = find_end(input);
    // One byte more than the bound is enough to know, whether the end is in sight or not.
    if end.unwrap_or(input.len()) > limits.head_bytes {
        return Err(RequestError::HeadTooLarge);
    }
    let Some(len) = end else { return Ok(None) };
    let bytes = input.get(..len).unwrap_or_default();
    check_lines(bytes)?;
    let mut slots = vec![httparse::EMPTY_HEADER; limits.headers];
    let mut request = httparse::Request::new(&mut slots);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(RequestError::BadSyntax),
        Err(httparse::Error::TooManyHeaders) => return Err(RequestError::TooManyHeaders),
        Err(httparse::Error::Version) => return Err(RequestError::BadVersion),
        Err(_) => return Err(RequestError::BadSyntax),
    }
    let version = match request.version {
        Some(0) => Version::Http10,
        Some(1) => Version::Http11,
        _ => return Err(RequestError::BadVersion),
    };
    let headers =
        Headers(request.headers.iter().map(|h| (h.name.to_ascii_lowercase(), h.value.trim_ascii().to_vec())).collect());
    let target = request.path.unwrap_or_default().to_owned();
    if target.len() > limits.target_bytes {
        return Err(RequestError::TargetTooLong);
    }
    let method = Method::from_token(request.method.unwrap_or_default());
    check_host(&headers, version)?;
    let (path, query) = split_target(&target, &method)?;
    let body = body_length(&headers, version)?;
    let expect_continue = expects_continue(&headers, version)?;
    let keep_alive = keeps_alive(&headers, version);
    Ok(Some((Head { method, target, path, query, version, headers, body, keep_alive, expect_continue }, len)))
}

/// The length of the head: up to and with the first empty line.
fn find_end(input: &[u8]) -> Option<usize> {
    memchr::memmem::find(input, b"\r\n\r\n").map(|at| at + 4)
}

/// What can be told before the head is whole, so that who speaks another protocol does not wait for the deadline; and told the same
/// when it is, so that an error does not depend on how the bytes were cut.
fn check_first_line(input: &[u8], limits: &Limits) -> Result<(), RequestError> {
    let end = memchr::memchr(b'\n', input);
    // The method and the version are short.
    if end.unwrap_or(input.len()) > limits.target_bytes + 32 {
        return Err(RequestError::TargetTooLong);
    }
    match end.and_then(|end| input.get(..end)) {
        Some(line) if !line.ends_with(b"\r") => Err(RequestError::BareLineFeed),
        _ => Ok(()),
    }
}

/// Line ends are CR LF, nothing else; no line continues the one before; no field name is empty or has a space behind it.
fn check_lines(head: &[u8]) -> Result<(), RequestError> {
    let body = head.strip_suffix(b"\r\n\r\n").unwrap_or(head);
    let last = memchr::memchr_iter(b'\n', body).count();
    for (index, line) in body.split(|&byte| byte == b'\n').enumerate() {
        let line = if index == last { line } else { line.strip_suffix(b"\r").ok_or(RequestError::BareLineFeed)? };
        if line.contains(&b'\r') || line.contains(&0) {
            return Err(RequestError::BadSyntax);
        }
        if index > 0 {
            if line.first().is_none_or(|byte| matches!(byte, b' ' | b'\t')) {
                return Err(RequestError::Folded);
            }
            let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
            if name.is_empty() || name.len() == line.len() || name.iter().any(u8::is_ascii_whitespace) {
                return Err(RequestError::BadFieldName);
            }
        }
    }
    Ok(())
}

fn check_host(headers: &Headers, version: Version) -> Result<(), RequestError> {
    let count = headers.count("host");
    if count > 1 || (count == 0 && !version.is_http10()) {
        return Err(RequestError::BadHost);
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    match headers.get("host") {
        Some(host) if !host.bytes().all(plain) => Err(RequestError::BadHost),
        None if count == 1 => Err(RequestError::BadHost),
        _ => Ok(()),
    }
}

/// The path and query of a target (RFC 9112 3.2): origin form, or absolute form as to a proxy.
fn split_target(target: &str, method: &Method) -> Result<(String, Option<String>), RequestError> {
    if target == "*" {
        return if *method == Method::Options { Ok(("*".into(), None)) } else { Err(RequestError::BadTarget) };
    }
    let origin = match target.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") => {
            rest.find(['/', '?']).map_or("/", |at| rest.get(at..).unwrap_or("/"))
        }
        _ => target,
    };
    if target.contains('#') {
        return Err(RequestError::BadTarget);
    }
    let (path, query) = match origin.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (origin, None),
    };
    let path = if path.is_empty() { "/" } else { path };
    let path = url::decode_path(path).map_err(RequestError::BadPath)?;
    Ok((path, query))
}

fn body_length(headers: &Headers, version: Version) -> Result<BodyLength, RequestError> {
    let (lengths, codings) = (headers.count("content-length"), headers.count("transfer-encoding"));
    if lengths > 0 && codings > 0 {
        return Err(RequestError::LengthAndChunked);
    }
    if codings > 0 {
        if version.is_http10() {
            return Err(RequestError::ChunkedInHttp10);
        }
        let chunked = headers.get("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
        return if codings == 1 && chunked { Ok(BodyLength::Chunked) } else { Err(RequestError::UnknownCoding) };
    }
    match lengths {
        0 => Ok(BodyLength::None),
        1 => {
            let text = headers.get("content-length").unwrap_or_default();
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            match text.parse() {
                Ok(0) if digits => Ok(BodyLength::None),
                Ok(length) if digits => Ok(BodyLength::Length(length)),
                _ => Err(RequestError::BadLength),
            }
        }
        _ => Err(RequestError::BadLength),
    }
}

fn expects_continue(headers: &Headers, version: Version) -> Result<bool, RequestError> {
    match headers.get("expect") {
        None if headers.count("expect") == 0 => Ok(false),
        // RFC 9110 10.1.1: an HTTP/1.0 client's expectation is ignored.
        _ if version.is_http10() => Ok(false),
        Some(value) if value.eq_ignore_ascii_case("100-continue") => Ok(true),
        _ => Err(RequestError::UnknownExpectation),
    }
}

/// True when `token` is in one of the comma-separated lists of the field `name`.
pub(super) fn has_token(headers: &Headers, name: &str, token: &str) -> bool {
    headers.get_all(name).flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(token))
}

fn keeps_alive(headers: &Headers, version: Version) -> bool {
    match version {
        Version::Http11 => !has_token(headers, "connection", "close"),
        Version::Http10 => has_token(headers, "connection", "keep-alive"),
    }
}
