#![no_main]
//! Cookies: what is found is in the header, and a name that is there twice is not found.
use libfuzzer_sys::fuzz_target;
use vmshare::proto::http::cookie;

fuzz_target!(|header: &str| {
    if let Some(value) = cookie::find(header, "vmshare_session") {
        assert!(header.contains(value));
        let twice = format!("{header}; vmshare_session=other");
        assert_eq!(cookie::find(&twice, "vmshare_session"), None);
    }
});
