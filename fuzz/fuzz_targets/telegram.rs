#![no_main]
//! What answers in the place of the Bot API: no panic, a body is never larger than what came, and a message keeps its bounds.
use libfuzzer_sys::fuzz_target;
use vmshare::proto::telegram::{Message, Piece, TEXT_UNITS, reply, verdict};

fuzz_target!(|data: &[u8]| {
    let early = reply(data, false);
    if let Ok(Some((status, body))) = &early {
        assert!(body.len() <= data.len());
        // What is whole stays what it is when the connection ends.
        assert_eq!(reply(data, true), early);
        let _ = verdict(*status, body);
    }
    let _ = verdict(400, data);
    let mut message = Message::default();
    for line in String::from_utf8_lossy(data).split('\u{fffd}') {
        message.line([Piece::Plain(line.to_owned()), Piece::Code(line.to_owned())]);
    }
    let html = message.html();
    assert!(html.encode_utf16().count() <= TEXT_UNITS);
    assert!(!html.replace("<code>", "").replace("</code>", "").contains(['<', '>']));
});
