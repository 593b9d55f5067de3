//! `Range: bytes=…` (RFC 9110 14): one range is served; several are answered whole, which the RFC allows.

/// What a range asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// These bytes, both ends included.
    Bytes {
        /// The first.
        first: u64,
        /// The last.
        last: u64,
    },
    /// Nothing of the file: 416.
    Unsatisfiable,
    /// Another unit, several ranges, or nonsense: the whole file.
    Ignore,
}

/// Reads a range against a file's length.
#[must_use]
pub fn parse(value: &str, length: u64) -> Range {
    let Some(set) = value.trim().strip_prefix("bytes=") else { return Range::Ignore };
    let Some((first, last)) = set.trim().split_once('-') else { return Range::Ignore };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    match (first, last) {
        ("", suffix) => match number(suffix) {
            None => Range::Ignore,
            Some(0) => Range::Unsatisfiable,
            Some(_) if length == 0 => Range::Unsatisfiable,
            Some(count) => Range::Bytes { first: length.saturating_sub(count), last: length - 1 },
        },
        (first, last) => {
            let (Some(first), last) = (number(first), if last.is_empty() { Some(u64::MAX) } else { number(last) })
            else {
                return Range::Ignore;
            };
            match last {
                Some(last) if last < first => Range::Ignore,
                Some(_) if first >= length => Range::Unsatisfiable,
                Some(last) => Range::Bytes { first, last: last.min(length - 1) },
                None => Range::Ignore,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfc_and_the_edges() {
        let bytes = |first, last| Range::Bytes { first, last };
        for (value, expected) in [
            ("bytes=0-499", bytes(0, 499)),
            ("bytes=500-999", bytes(500, 999)),
            ("bytes=-500", bytes(9500, 9999)),
            ("bytes=9500-", bytes(9500, 9999)),
            ("bytes=0-99999", bytes(0, 9999)),
            ("bytes=-99999", bytes(0, 9999)),
            ("bytes=0-0", bytes(0, 0)),
            ("bytes=10000-", Range::Unsatisfiable),
            ("bytes=-0", Range::Unsatisfiable),
            ("bytes=99999999999999999999-", Range::Unsatisfiable),
            ("bytes=5-4", Range::Ignore),
            ("bytes=0-0,-1", Range::Ignore),
            ("bytes=", Range::Ignore),
            ("bytes=a-b", Range::Ignore),
            ("bytes=+1-2", Range::Ignore),
            ("lines=1-2", Range::Ignore),
        ] {
            assert_eq!(parse(value, 10_000), expected, "{value}");
        }
        assert_eq!(parse("bytes=0-", 0), Range::Unsatisfiable);
        assert_eq!(parse("bytes=-1", 0), Range::Unsatisfiable);
    }
}
