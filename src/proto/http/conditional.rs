//! Conditional requests (RFC 9110 13), for files that have a strong entity tag and perhaps a time.

use super::{Headers, date};
use jiff::Timestamp;

/// What to do with a GET or HEAD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// 304: the client has it.
    NotModified,
    /// 412: it is not what the client expects.
    PreconditionFailed,
    /// Answer; a Range may be followed or not (If-Range).
    Proceed {
        /// False when If-Range names another version.
        range_allowed: bool,
    },
}

/// Evaluates the preconditions in the order of RFC 9110 13.2.2.
#[must_use]
pub fn decide(headers: &Headers, etag: Option<&str>, modified: Option<Timestamp>) -> Decision {
    let newer = |name: &str| {
        let since = headers.get(name).and_then(date::parse)?;
        Some(modified.is_some_and(|at| at.as_second() > since.as_second()))
    };
    if headers.count("if-match") > 0 {
        if !lists(headers, "if-match", etag, true) {
            return Decision::PreconditionFailed;
        }
    } else if modified.is_some() && newer("if-unmodified-since") == Some(true) {
        return Decision::PreconditionFailed;
    }
    if headers.count("if-none-match") > 0 {
        if lists(headers, "if-none-match", etag, false) {
            return Decision::NotModified;
        }
    } else if modified.is_some() && newer("if-modified-since") == Some(false) {
        return Decision::NotModified;
    }
    let range_allowed = match headers.get("if-range") {
        None => true,
        Some(value) if value.starts_with('"') => etag == Some(value),
        Some(value) => match (date::parse(value), modified) {
            (Some(since), Some(at)) => since.as_second() == at.as_second(),
            _ => false,
        },
    };
    Decision::Proceed { range_allowed }
}

/// True when the field lists our tag, or `*`. A weak tag never matches in a strong comparison (RFC 9110 8.8.3.2).
fn lists(headers: &Headers, name: &str, etag: Option<&str>, strong: bool) -> bool {
    let Some(ours) = etag else { return false };
    headers
        .get_all(name)
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag == ours || (!strong && tag.strip_prefix("W/") == Some(ours)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preconditions_are_evaluated_in_their_order() {
        let at = date::parse("Sun, 06 Nov 1994 08:49:37 GMT");
        let all = Decision::Proceed { range_allowed: true };
        let whole = Decision::Proceed { range_allowed: false };
        let table: &[(&[(&str, &str)], Decision)] = &[
            (&[], all),
            (&[("If-None-Match", "\"b\", W/\"a\"")], Decision::NotModified),
            (&[("If-None-Match", "*")], Decision::NotModified),
            (&[("If-None-Match", "\"b\"")], all),
            (&[("If-None-Match", "\"b\""), ("If-Modified-Since", "Sun, 06 Nov 1994 08:49:37 GMT")], all),
            (&[("If-Modified-Since", "Sun, 06 Nov 1994 08:49:37 GMT")], Decision::NotModified),
            (&[("If-Modified-Since", "Sun, 06 Nov 1994 08:49:36 GMT")], all),
            (&[("If-Modified-Since", "nonsense")], all),
            (&[("If-Match", "\"b\"")], Decision::PreconditionFailed),
            (&[("If-Match", "W/\"a\"")], Decision::PreconditionFailed),
            (&[("If-Match", "\"a\"")], all),
            (&[("If-Unmodified-Since", "Sun, 06 Nov 1994 08:49:36 GMT")], Decision::PreconditionFailed),
            (&[("If-Range", "\"a\"")], all),
            (&[("If-Range", "\"b\"")], whole),
            (&[("If-Range", "W/\"a\"")], whole),
            (&[("If-Range", "Sun, 06 Nov 1994 08:49:37 GMT")], all),
        ];
        for (headers, expected) in table {
            assert_eq!(decide(&Headers::from_pairs(headers), Some("\"a\""), at), *expected, "{headers:?}");
        }
    }
}
