//! The header fields of tus 1.0.0, the protocol for resumable uploads (tus.io/protocols/resumable-upload).
//!
//! Extensions: creation, creation-with-upload, termination, checksum, expiration.

use super::problem::Problem;
use data_encoding::BASE64;
use std::collections::BTreeMap;

/// The only version.
pub const VERSION: &str = "1.0.0";
/// What is spoken beyond the core.
pub const EXTENSIONS: &str = "creation,creation-with-upload,termination,checksum,expiration";
/// Digests a client may send.
pub const CHECKSUMS: &str = "sha1,sha256";

/// Bytes of all metadata.
const METADATA_MAX: usize = 4096;

/// A digest algorithm of the checksum extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// SHA-1, which the protocol demands.
    Sha1,
    /// SHA-256.
    Sha256,
}

/// A digest the client sent with a piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checksum {
    /// How it was made.
    pub algorithm: Algorithm,
    /// It.
    pub digest: Vec<u8>,
}

/// A number of bytes: digits only, as in `Upload-Length` and `Upload-Offset`.
///
/// # Errors
/// 400, naming the field.
pub fn number(field: &'static str, value: Option<&str>) -> Result<u64, Problem> {
    let digits = value.filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()));
    let number = digits.and_then(|text| text.parse().ok()).filter(|n| i64::try_from(*n).is_ok());
    number.ok_or_else(|| {
        Problem::bad_request("bad_header", format!("{field} must be a number of bytes.")).in_field(field)
    })
}

/// `Upload-Metadata: filename bmFtZS5pc28=,private`: keys with values in base64, or without.
///
/// # Errors
/// 400.
pub fn metadata(value: Option<&str>) -> Result<BTreeMap<String, String>, Problem> {
    let bad =
        |why: &str| Problem::bad_request("bad_header", format!("Upload-Metadata {why}.")).in_field("Upload-Metadata");
    let text = value.unwrap_or_default();
    if text.len() > METADATA_MAX {
        return Err(bad("is too long"));
    }
    let mut found = BTreeMap::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (key, encoded) = pair.split_once(' ').unwrap_or((pair, ""));
        let bytes = BASE64.decode(encoded.trim().as_bytes()).map_err(|_| bad("has a value that is not base64"))?;
        let value = String::from_utf8(bytes).map_err(|_| bad("has a value that is not UTF-8"))?;
        if found.insert(key.to_owned(), value).is_some() {
            return Err(bad("has a key twice"));
        }
    }
    Ok(found)
}

/// `Upload-Checksum: sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=`.
///
/// # Errors
/// 400 for another algorithm or what is no digest of it.
pub fn checksum(value: Option<&str>) -> Result<Option<Checksum>, Problem> {
    let Some(text) = value else { return Ok(None) };
    let bad = || {
        let detail = format!("Upload-Checksum must be one of {CHECKSUMS}, a space, and the digest in base64.");
        Problem::bad_request("bad_header", detail).in_field("Upload-Checksum")
    };
    let (name, encoded) = text.split_once(' ').ok_or_else(bad)?;
    let (algorithm, length) = match name {
        "sha1" => (Algorithm::Sha1, 20),
        "sha256" => (Algorithm::Sha256, 32),
        _ => return Err(bad()),
    };
    let digest = BASE64.decode(encoded.trim().as_bytes()).ok().filter(|digest| digest.len() == length);
    Ok(Some(Checksum { algorithm, digest: digest.ok_or_else(bad)? }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_digits_and_fit() {
        assert_eq!(number("Upload-Length", Some("0")).unwrap(), 0);
        assert_eq!(number("Upload-Length", Some("9223372036854775807")).unwrap(), i64::MAX as u64);
        for bad in [None, Some(""), Some("-1"), Some("+1"), Some("1.5"), Some("0x10"), Some("9223372036854775808")] {
            let problem = number("Upload-Length", bad).unwrap_err();
            assert_eq!((problem.status, problem.field.as_deref()), (400, Some("Upload-Length")), "{bad:?}");
        }
    }

    #[test]
    fn metadata_is_keys_with_values_in_base64() {
        let found = metadata(Some("filename ZGViaWFuLmlzbw==, private,format aXNv")).unwrap();
        let expected = [("filename", "debian.iso"), ("private", ""), ("format", "iso")];
        assert_eq!(found, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        assert!(metadata(None).unwrap().is_empty());
        for bad in ["filename ???", "a YQ==,a YQ==", "filename /w=="] {
            assert_eq!(metadata(Some(bad)).unwrap_err().status, 400, "{bad}");
        }
    }

    #[test]
    fn a_checksum_is_a_known_name_and_a_digest_of_its_length() {
        let sha1 = checksum(Some("sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=")).unwrap().unwrap();
        assert_eq!((sha1.algorithm, sha1.digest.len()), (Algorithm::Sha1, 20));
        assert_eq!(checksum(None).unwrap(), None);
        for bad in ["", "sha1", "md5 AAAA", "sha1 AAAA", "sha256 Kq5sNclPz7QV2+lfQIuc6R7oRu0=", "sha1 ?"] {
            assert_eq!(checksum(Some(bad)).unwrap_err().status, 400, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn metadata_comes_back_as_it_was_written(pairs in proptest::collection::btree_map("[a-z]{1,9}", ".{0,20}", 0..9)) {
            let line: Vec<String> = pairs.iter().map(|(k, v)| format!("{k} {}", BASE64.encode(v.as_bytes()))).collect();
            prop_assert_eq!(metadata(Some(&line.join(","))).unwrap(), pairs);
        }
    }
}
