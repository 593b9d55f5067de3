#![no_main]
//! Ranges stay inside the file; dates that are read are written the same; conditions never panic.
use libfuzzer_sys::fuzz_target;
use vmshare::proto::http::range::{Range, parse};
use vmshare::proto::http::{Headers, conditional, date};

fuzz_target!(|input: (u64, &str)| {
    let (length, text) = input;
    if let Range::Bytes { first, last } = parse(text, length) {
        assert!(first <= last && last < length);
    }
    if let Some(at) = date::parse(text) {
        assert_eq!(date::parse(&date::format(at)), Some(at));
    }
    for name in ["if-none-match", "if-match", "if-range", "if-modified-since", "if-unmodified-since"] {
        let _ = conditional::decide(&Headers::from_pairs(&[(name, text)]), Some("\"a\""), None);
    }
});
