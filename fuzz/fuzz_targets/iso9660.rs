#![no_main]
//! Images: what is taken says a size that the file can have. The descriptors are where the fuzzer's bytes go.
use libfuzzer_sys::fuzz_target;
use vmshare::proto::iso9660::{HEAD_BYTES, check};

fuzz_target!(|input: (u64, &[u8])| {
    let (size, descriptors) = input;
    let mut head = vec![0; 32 * 1024];
    head.extend_from_slice(descriptors);
    head.resize(HEAD_BYTES, 0);
    for head in [&head[..], descriptors] {
        match check(head, size) {
            Ok(info) => assert!(info.size <= size + 150 * 2048 && !info.volume.contains('\n')),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
});
