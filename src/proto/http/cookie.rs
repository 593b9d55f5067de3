//! Cookies (RFC 6265): finding one in a request, writing one in a response.

use std::fmt;

/// The value of a cookie in a `Cookie` header. Two of one name are nobody's: a page of another path or host may have put one
/// beside ours, and which comes first cannot be told.
#[must_use]
pub fn find<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    let mut found = None;
    for pair in header.split(';') {
        let Some((n, value)) = pair.trim().split_once('=') else { continue };
        if n == name {
            if found.is_some() {
                return None;
            }
            found = Some(value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value));
        }
    }
    found
}

/// A session cookie for the whole host, which scripts cannot read.
#[derive(Debug, Clone, Copy)]
pub struct SetCookie<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its value: cookie octets only.
    pub value: &'a str,
    /// Seconds it lives; 0 takes it away.
    pub max_age: u64,
    /// Only over TLS.
    pub secure: bool,
}

impl fmt::Display for SetCookie<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}; Path=/; Max-Age={}; HttpOnly; SameSite=Lax", self.name, self.value, self.max_age)?;
        if self.secure { f.write_str("; Secure") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_found_by_its_exact_name_and_an_ambiguous_one_is_not() {
        for (header, expected) in [
            ("a=1; s=tok; b=2", Some("tok")),
            ("s=\"tok\"", Some("tok")),
            ("s=a=b", Some("a=b")),
            ("xs=tok", None),
            ("S=tok", None),
            ("s=1; s=2", None),
            ("s", None),
            ("", None),
        ] {
            assert_eq!(find(header, "s"), expected, "{header}");
        }
    }

    #[test]
    fn a_cookie_is_written_with_all_its_guards() {
        let cookie = SetCookie { name: "__Host-s", value: "t", max_age: 60, secure: true };
        assert_eq!(cookie.to_string(), "__Host-s=t; Path=/; Max-Age=60; HttpOnly; SameSite=Lax; Secure");
    }
}
