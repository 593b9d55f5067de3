//! The pages and what they load, embedded in the binary.
//!
//! `build.rs` writes the table from `static/dist/`, each file as it is and compressed beforehand, so
//! serving one is a look-up and a write. Pure: no file, no clock, nothing is compressed here. Where the
//! pages were not built, each page's path holds a plain one that says so.
//!
//! Which form goes out is content negotiation after RFC 9110, section 12.5.3. Whoever answers with an
//! asset gives each form an entity tag of its own and sends `Vary: Accept-Encoding`.

include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// The path under which the page for unknown addresses is kept; it is there in every build.
pub const NOT_FOUND: &str = "/404.html";

/// One embedded file.
#[derive(Debug)]
pub struct Asset {
    /// The request path it answers to.
    pub path: &'static str,
    /// The value of Content-Type.
    pub content_type: &'static str,
    /// What tells it from other files of this name, without quotes; each form's ETag is made of it.
    pub etag: &'static str,
    /// Whether its name carries its content's hash, so that a cache may keep it for ever.
    pub immutable: bool,
    /// The file as it is.
    pub identity: &'static [u8],
    /// The file compressed by gzip.
    pub gzip: Option<&'static [u8]>,
    /// The file compressed by brotli.
    pub brotli: Option<&'static [u8]>,
}

/// The asset at this request path (without the query).
#[must_use]
pub fn find(path: &str) -> Option<&'static Asset> {
    let index = ASSETS.binary_search_by(|asset| asset.path.cmp(path)).ok()?;
    ASSETS.get(index)
}

impl Asset {
    /// The form to send to a client with this Accept-Encoding (empty where it sent none), and the
    /// value of Content-Encoding. Of equally liked forms the smallest; the plain file where the
    /// client refuses everything, because a page that can be read beats a 406.
    #[must_use]
    pub fn pick(&self, accept_encoding: &str) -> (&'static [u8], Option<&'static str>) {
        let forms = [(self.brotli, "br"), (self.gzip, "gzip")];
        let mut best = (self.identity, None, weight(accept_encoding, "identity"));
        for (bytes, coding) in forms.into_iter().rev() {
            let Some(bytes) = bytes else { continue };
            let liked = weight(accept_encoding, coding);
            if liked > 0 && liked >= best.2 {
                best = (bytes, Some(coding), liked);
            }
        }
        (best.0, best.1)
    }
}

/// How much the client likes a content coding, 0 (never) to 1000.
fn weight(accept_encoding: &str, coding: &str) -> u16 {
    let mut star = None;
    for item in accept_encoding.split(',') {
        let mut parts = item.split(';');
        let name = parts.next().unwrap_or_default().trim();
        let q = parts.find_map(quality).unwrap_or(1000);
        if name.eq_ignore_ascii_case(coding) {
            return q;
        }
        if name == "*" {
            star = Some(q);
        }
    }
    // Not named: only the plain file may go out. Between forms nobody named it ranks last.
    let unnamed = u16::from(coding == "identity");
    star.unwrap_or(unnamed)
}

/// Reads `q=0.5` as thousandths. A weight that is none counts as a refusal.
fn quality(parameter: &str) -> Option<u16> {
    let (name, value) = parameter.split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("q") {
        return None;
    }
    let value = value.trim();
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    let digits = format!("{fraction:0<3}");
    let well_formed =
        fraction.len() <= 3 && matches!(whole, "0" | "1") && digits.bytes().all(|byte| byte.is_ascii_digit());
    let thousandths = format!("{whole}{digits}").parse::<u16>().unwrap_or(0);
    Some(if well_formed { thousandths.min(1000) } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE_FORMS: Asset = Asset {
        path: "/a.js",
        content_type: "text/javascript; charset=utf-8",
        etag: "1",
        immutable: true,
        identity: b"plain",
        gzip: Some(b"gz"),
        brotli: Some(b"br"),
    };

    fn coding(accept_encoding: &str) -> Option<&'static str> {
        THREE_FORMS.pick(accept_encoding).1
    }

    #[test]
    fn a_browser_gets_brotli() {
        assert_eq!(THREE_FORMS.pick("gzip, deflate, br, zstd"), (b"br".as_slice(), Some("br")));
    }

    #[test]
    fn a_client_that_asks_for_nothing_gets_the_plain_file() {
        assert_eq!(THREE_FORMS.pick(""), (b"plain".as_slice(), None));
        assert_eq!(coding("identity"), None);
        assert_eq!(coding("deflate"), None);
    }

    #[test]
    fn the_better_liked_coding_wins() {
        assert_eq!(coding("br;q=0.5, gzip;q=0.8"), Some("gzip"));
        assert_eq!(coding("br;q=0.5, gzip;q=0.5"), Some("br"));
        assert_eq!(coding("identity;q=1, gzip;q=0.2"), None);
        assert_eq!(coding("GZIP ; Q=1.000"), Some("gzip"));
    }

    #[test]
    fn q_0_refuses_a_coding() {
        assert_eq!(coding("br;q=0, gzip"), Some("gzip"));
        assert_eq!(coding("br;q=0.000, gzip;q=0"), None);
        assert_eq!(coding("*;q=0"), None);
    }

    #[test]
    fn a_star_means_every_coding_that_is_not_named() {
        assert_eq!(coding("*"), Some("br"));
        assert_eq!(coding("br;q=0, *"), Some("gzip"));
        assert_eq!(coding("gzip, *;q=0"), Some("gzip"));
    }

    #[test]
    fn a_weight_that_is_none_refuses() {
        for bad in ["br;q=", "br;q=2", "br;q=0.1234", "br;q=-1", "br;q=0.x", "br;q=1e0"] {
            assert_eq!(coding(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_form_that_is_missing_is_not_picked() {
        let plain = Asset { gzip: None, brotli: None, ..THREE_FORMS };
        assert_eq!(plain.pick("br, gzip"), (b"plain".as_slice(), None));
    }

    #[test]
    fn every_asset_is_found_by_its_path() {
        for asset in ASSETS {
            assert!(std::ptr::eq(find(asset.path).unwrap(), asset), "{}", asset.path);
        }
        assert!(find("/assets/none.js").is_none());
        assert!(find("").is_none());
    }

    #[test]
    fn the_pages_are_in_every_build_and_are_checked_each_time() {
        for path in ["/", "/admin/", "/docs", "/novnc/", NOT_FOUND] {
            let page = find(path).unwrap();
            assert!(page.content_type.starts_with("text/html"));
            assert!(!page.immutable && !page.identity.is_empty());
        }
    }

    #[test]
    fn only_names_with_a_hash_are_kept_for_ever() {
        for asset in ASSETS {
            assert_eq!(asset.immutable, asset.path.starts_with("/assets/"), "{}", asset.path);
            assert!(!asset.etag.is_empty() && !asset.etag.contains('"'), "{}", asset.etag);
        }
    }

    #[test]
    fn no_page_has_an_inline_script_or_style() {
        for asset in ASSETS.iter().filter(|asset| asset.content_type.starts_with("text/html")) {
            let html = std::str::from_utf8(asset.identity).unwrap();
            for bad in [" style=", "<style", "<script>", " onclick=", "javascript:"] {
                assert!(!html.contains(bad), "{} has {bad}", asset.path);
            }
        }
    }
}
