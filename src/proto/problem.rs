//! Errors as clients see them: `application/problem+json` (RFC 9457).
//!
//! `detail` is one sentence a person can act on; `code` is a stable word for programs; `field` names what is wrong in a form.

use serde_json::json;
use std::fmt;

/// An error on its way to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The status code.
    pub status: u16,
    /// A stable machine word.
    pub code: &'static str,
    /// What happened and what to do.
    pub detail: String,
    /// The field of the request that is wrong.
    pub field: Option<String>,
    /// Where there are several: each by itself.
    pub reasons: Vec<String>,
    /// Header fields the status asks for (`Retry-After`, `Allow`).
    pub headers: Vec<(&'static str, String)>,
}

impl Problem {
    /// Any status.
    #[must_use]
    pub fn new(status: u16, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), field: None, reasons: Vec::new(), headers: Vec::new() }
    }

    /// 400: malformed.
    #[must_use]
    pub fn bad_request(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(400, code, detail)
    }

    /// 401: not signed in.
    #[must_use]
    pub fn unauthorized(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(401, code, detail).with("www-authenticate", "Bearer")
    }

    /// 403: not yours, or from another site.
    #[must_use]
    pub fn forbidden(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(403, code, detail)
    }

    /// 404.
    #[must_use]
    pub fn not_found(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(404, code, detail)
    }

    /// 405, with the methods that are allowed.
    #[must_use]
    pub fn method_not_allowed(allow: &str) -> Self {
        Self::new(405, "method_not_allowed", format!("This address takes {allow}.")).with("allow", allow)
    }

    /// 408: the request did not arrive in time.
    #[must_use]
    pub fn timeout(detail: impl Into<String>) -> Self {
        Self::new(408, "timeout", detail)
    }

    /// 409.
    #[must_use]
    pub fn conflict(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(409, code, detail)
    }

    /// 422: well-formed but invalid; `problem` follows the field's name in the sentence.
    #[must_use]
    pub fn unprocessable(field: &str, problem: impl fmt::Display) -> Self {
        Self::new(422, "invalid_field", format!("{field}: {problem}")).in_field(field)
    }

    /// 429.
    #[must_use]
    pub fn too_many(retry_after_seconds: u64) -> Self {
        Self::new(429, "too_many_requests", format!("Too many attempts. Wait {retry_after_seconds} seconds."))
            .with("retry-after", retry_after_seconds.to_string())
    }

    /// 500: a fault of ours.
    #[must_use]
    pub fn internal(detail: impl Into<String>) -> Self {
        Self::new(500, "internal", detail)
    }

    /// 503.
    #[must_use]
    pub fn unavailable(code: &'static str, detail: impl Into<String>, retry_after_seconds: u64) -> Self {
        Self::new(503, code, detail).with("retry-after", retry_after_seconds.to_string())
    }

    /// Adds a header field.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Names the field that is wrong.
    #[must_use]
    pub fn in_field(mut self, field: &str) -> Self {
        self.field = Some(field.to_owned());
        self
    }

    /// The body.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let mut body = json!({
            "type": "about:blank",
            "title": super::http::response::reason(self.status),
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        });
        if let (Some(field), Some(object)) = (&self.field, body.as_object_mut()) {
            object.insert("field".into(), json!(field));
        }
        if let (false, Some(object)) = (self.reasons.is_empty(), body.as_object_mut()) {
            object.insert("reasons".into(), json!(self.reasons));
        }
        body.to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_has_the_members_that_the_contract_names() {
        let body: serde_json::Value =
            serde_json::from_slice(&Problem::unprocessable("cpus", "must be a number").to_json()).unwrap();
        assert_eq!(
            body,
            json!({"type": "about:blank", "title": "Unprocessable Content", "status": 422,
                   "detail": "cpus: must be a number", "code": "invalid_field", "field": "cpus"})
        );
    }
}
