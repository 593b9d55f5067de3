#![no_main]
//! The header fields of tus: never a panic, and what is taken is what it says.
use libfuzzer_sys::fuzz_target;
use vmshare::proto::tus;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(number) = tus::number("Upload-Offset", Some(text)) {
        assert_eq!(number.to_string(), format!("{}", text.trim_start_matches('0').parse::<u64>().unwrap_or(0)));
    }
    if let Ok(found) = tus::metadata(Some(text)) {
        let line: Vec<String> =
            found.iter().map(|(k, v)| format!("{k} {}", data_encoding::BASE64.encode(v.as_bytes()))).collect();
        let line = line.join(",");
        // Written out, an empty value takes a byte more: the line may be longer than what is taken.
        if line.len() <= 4096 {
            assert_eq!(tus::metadata(Some(&line)).ok(), Some(found), "{text:?}");
        }
    }
    if let Ok(Some(checksum)) = tus::checksum(Some(text)) {
        assert!(matches!(checksum.digest.len(), 20 | 32));
    }
});
