//! Paths and queries: percent-decoding (RFC 3986 2.1) and `application/x-www-form-urlencoded` (WHATWG URL 5); and addresses of servers that are
//! called.

use percent_encoding::percent_decode_str;
use std::fmt;

/// Fields a query may have.
const FIELDS: usize = 100;

/// Why a path or query is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UrlError {
    /// A `%` without two hex digits, or bytes that are no UTF-8.
    BadEncoding,
    /// A NUL or another control character.
    Control,
    /// `.` or `..` as a segment: clients resolve them before they send, so here they are a trick.
    DotSegment,
    /// It does not begin with a slash.
    NotAbsolute,
    /// More fields than anybody needs.
    TooManyFields,
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadEncoding => "The address is not percent-encoded UTF-8.",
            Self::Control => "The address has a control character in it.",
            Self::DotSegment => "The address has a . or .. segment in it.",
            Self::NotAbsolute => "The address does not begin with a slash.",
            Self::TooManyFields => "The query has too many fields.",
        })
    }
}

impl std::error::Error for UrlError {}

fn decode(text: &str) -> Result<String, UrlError> {
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let hex = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_hexdigit());
        if byte == b'%' && !(hex(rest.next()) && hex(rest.next())) {
            return Err(UrlError::BadEncoding);
        }
    }
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| UrlError::BadEncoding)?;
    if decoded.chars().any(char::is_control) { Err(UrlError::Control) } else { Ok(decoded.into_owned()) }
}

/// Decodes a path once.
///
/// # Errors
/// See [`UrlError`].
pub fn decode_path(raw: &str) -> Result<String, UrlError> {
    if !raw.starts_with('/') {
        return Err(UrlError::NotAbsolute);
    }
    let path = decode(raw)?;
    if path.split('/').any(|segment| segment == "." || segment == "..") {
        return Err(UrlError::DotSegment);
    }
    Ok(path)
}

/// The host of `http://HOST[:PORT][/PATH]` or the same with `https`, if it can be called: minreq takes no address of version 6, and any number
/// for a port.
#[must_use]
pub fn host(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
    let is_port = |text: &str| text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|n| n > 0);
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
    let is_path = |b: u8| b.is_ascii_graphic() && !b"?#\"\\".contains(&b);
    let good = !host.is_empty() && host.bytes().all(is_name) && port.is_none_or(is_port) && path.bytes().all(is_path);
    good.then_some(host)
}

/// A query's fields in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Takes a raw query apart.
    ///
    /// # Errors
    /// See [`UrlError`].
    pub fn parse(raw: &str) -> Result<Self, UrlError> {
        let mut fields = Vec::new();
        for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
            if fields.len() == FIELDS {
                return Err(UrlError::TooManyFields);
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            fields.push((decode(&name.replace('+', " "))?, decode(&value.replace('+', " "))?));
        }
        Ok(Self(fields))
    }

    /// The first field of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// All fields.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Writes it so that [`Query::parse`] reads the same.
    #[must_use]
    pub fn encode(&self) -> String {
        let escape =
            |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
        let pairs: Vec<String> = self.0.iter().map(|(n, v)| format!("{}={}", escape(n), escape(v))).collect();
        pairs.join("&")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded_once_and_tricks_are_refused() {
        assert_eq!(decode_path("/a%20b/%C3%A9").unwrap(), "/a b/é");
        assert_eq!(decode_path("/%2541").unwrap(), "/%41");
        for (raw, error) in [
            ("a", UrlError::NotAbsolute),
            ("/a/../b", UrlError::DotSegment),
            ("/a/%2e%2E/b", UrlError::DotSegment),
            ("/./", UrlError::DotSegment),
            ("/%2f..%2f", UrlError::DotSegment),
            ("/%00", UrlError::Control),
            ("/%0d%0a", UrlError::Control),
            ("/%", UrlError::BadEncoding),
            ("/%4", UrlError::BadEncoding),
            ("/%zz", UrlError::BadEncoding),
            ("/%ff", UrlError::BadEncoding),
        ] {
            assert_eq!(decode_path(raw), Err(error), "{raw}");
        }
    }

    #[test]
    fn a_server_that_can_be_called_has_a_name_and_a_port() {
        for (url, name) in [
            ("https://api.telegram.org", "api.telegram.org"),
            ("http://127.0.0.1:8081/bots/", "127.0.0.1"),
            ("http://a_b-c:65535", "a_b-c"),
        ] {
            assert_eq!(host(url), Some(name), "{url}");
        }
        for bad in [
            "ftp://x",
            "http://",
            "http:///x",
            "http://x:port",
            "http://x:",
            "http://x:0",
            "http://a b",
            "https://u@h",
            "http://x:99999",
            "http://x:+80",
            "http://[::1]:81",
            "https://h/a?b",
            "https://h/#a",
            "https://h?a",
            "https://ä",
        ] {
            assert_eq!(host(bad), None, "{bad}");
        }
    }

    #[test]
    fn queries_have_fields_in_order() {
        let query = Query::parse("path=ws%2F6111&a=1+2&flag&a=3&&").unwrap();
        assert_eq!(query.iter().collect::<Vec<_>>(), [("path", "ws/6111"), ("a", "1 2"), ("flag", ""), ("a", "3")]);
        assert_eq!((query.get("a"), query.get("b")), (Some("1 2"), None));
        assert_eq!(Query::parse(&"a&".repeat(101)), Err(UrlError::TooManyFields));
    }

    proptest::proptest! {
        #[test]
        fn an_encoded_query_reads_the_same(fields in proptest::collection::vec(("[^\\p{Cc}]{0,8}", "[^\\p{Cc}]{0,8}"), 0..6)) {
            // A pair of two empty strings is "=", which is a field; it stays one.
            let query = Query(fields);
            proptest::prop_assert_eq!(Query::parse(&query.encode()).unwrap(), query);
        }
    }
}
