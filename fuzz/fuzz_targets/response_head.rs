#![no_main]
//! Response heads: whatever the values are, one response with at most the given fields comes out.
use libfuzzer_sys::fuzz_target;
use vmshare::proto::http::response::{Framing, write_head};

fuzz_target!(|input: (u16, &str, &str)| {
    let (status, a, b) = input;
    let mut out = Vec::new();
    let headers = [("x-a", a.to_owned()), ("location", b.to_owned())];
    write_head(&mut out, 200 + status % 400, &headers, Framing::Length(3), true, "now");
    let mut slots = [httparse::EMPTY_HEADER; 8];
    let mut response = httparse::Response::new(&mut slots);
    assert_eq!(response.parse(&out), Ok(httparse::Status::Complete(out.len())));
    assert!(response.headers.len() <= 4);
});
