#![no_main]
//! What answers in the place of the Bot API: no panic, and a message keeps its bounds.
use libfuzzer_sys::fuzz_target;
use vmshare::proto::telegram::{Message, Piece, TEXT_UNITS, verdict};

fuzz_target!(|data: &[u8]| {
    let _ = verdict(200, data);
    let _ = verdict(429, data);
    let _ = verdict(400, data);
    let mut message = Message::default();
    for line in String::from_utf8_lossy(data).split('\u{fffd}') {
        message.line([Piece::Plain(line.to_owned()), Piece::Code(line.to_owned())]);
    }
    let html = message.html();
    assert!(html.encode_utf16().count() <= TEXT_UNITS);
    assert!(!html.replace("<code>", "").replace("</code>", "").contains(['<', '>']));
});
