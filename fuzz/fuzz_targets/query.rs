#![no_main]
//! Paths and queries: what is read is written and read the same; no path has a trick in it.
use libfuzzer_sys::fuzz_target;
use vmshare::proto::url::{Query, decode_path};

fuzz_target!(|text: &str| {
    if let Ok(query) = Query::parse(text) {
        assert_eq!(Query::parse(&query.encode()).as_ref(), Ok(&query));
    }
    if let Ok(path) = decode_path(text) {
        assert!(path.starts_with('/') && !path.contains('\0'));
        assert!(path.split('/').all(|segment| segment != "." && segment != ".."));
    }
});
