#![no_main]
//! qcow2 headers: never a panic, and an image that is taken names no other file.
use libfuzzer_sys::fuzz_target;
use vmshare::proto::qcow2;

fuzz_target!(|data: &[u8]| {
    let parsed = qcow2::parse(data);
    if let Ok(info) = qcow2::check(data, data.len() as u64) {
        assert!(info.backing.is_none() && info.size <= 64 << 40 && info.least <= data.len() as u64);
        assert_eq!(parsed, Ok(info));
    }
    // Bytes behind what is looked at change nothing.
    if let (Ok(info), true) = (&parsed, data.len() >= 1024 * 2) {
        let longer = [data, &[0xff; 64]].concat();
        assert_eq!(qcow2::parse(&longer).as_ref(), Ok(info));
    }
});
