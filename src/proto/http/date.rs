//! HTTP dates: IMF-fixdate (RFC 9110 5.6.7).

use jiff::Timestamp;
use jiff::fmt::strtime;
use jiff::tz::TimeZone;

const FORMAT: &str = "%a, %d %b %Y %H:%M:%S GMT";

/// Writes a time.
#[must_use]
pub fn format(at: Timestamp) -> String {
    strtime::format(FORMAT, &at.to_zoned(TimeZone::UTC)).unwrap_or_default()
}

/// Reads an IMF-fixdate; the two obsolete forms are no longer sent by anybody and are ignored, as any date that cannot be read is.
#[must_use]
pub fn parse(text: &str) -> Option<Timestamp> {
    let time = strtime::parse(FORMAT, text.trim()).ok()?.to_datetime().ok()?;
    time.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc_goes_both_ways() {
        let at = Timestamp::from_second(784_111_777).unwrap();
        assert_eq!(format(at), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(parse("Sun, 06 Nov 1994 08:49:37 GMT"), Some(at));
        assert_eq!(parse("yesterday"), None);
    }
}
