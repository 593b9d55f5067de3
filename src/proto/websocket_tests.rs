//! Frames of tungstenite's client read here, frames written here read by it, and every cut of the bytes.

use super::*;
use std::io::{Cursor, Read, Write};
use tungstenite::protocol::{Role, WebSocket};
use tungstenite::{Bytes, Message};

/// What a decoder tells of `input` when it comes cut at `cuts`; adjacent data joined.
fn events(input: &[u8], cuts: &[usize], text: TextPolicy) -> (Vec<String>, Vec<u8>, Option<WsError>) {
    let mut decoder = Decoder::new(text);
    let (mut out, mut data) = (Vec::new(), Vec::new());
    let mut bounds: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).chain([input.len()]).collect();
    bounds.sort_unstable();
    let mut from = 0;
    for to in bounds {
        let mut piece = input[from..to].to_vec();
        from = to;
        let mut pos = 0;
        loop {
            match decoder.decode(&mut piece, &mut pos) {
                Ok(None) => break,
                Ok(Some(Frame::Data(bytes))) => data.extend_from_slice(bytes),
                Ok(Some(other)) => out.push(format!("{other:?} at {}", data.len())),
                Err(e) => return (out, data, Some(e)),
            }
        }
    }
    (out, data, None)
}

/// A stream whose reads give `0` and whose writes are kept in `1`.
struct Pipe(Cursor<Vec<u8>>, Vec<u8>);

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.1.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn client_bytes(messages: &[Message]) -> Vec<u8> {
    let mut client = WebSocket::from_raw_socket(Pipe(Cursor::default(), Vec::new()), Role::Client, None);
    for message in messages {
        client.send(message.clone()).unwrap();
    }
    client.get_ref().1.clone()
}

#[test]
fn what_an_independent_client_sends_is_read() {
    for len in [0, 1, 125, 126, 127, 65_535, 65_536, 100_000] {
        let payload: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let bytes = client_bytes(&[Message::Binary(payload.clone().into()), Message::Ping(Bytes::from_static(b"hi"))]);
        let (out, data, error) = events(&bytes, &[], TextPolicy::Refuse);
        assert_eq!((data, error), (payload, None), "{len}");
        assert!(out.len() == 1 && out[0].starts_with("Ping"), "{out:?}");
    }
}

#[test]
fn what_is_written_here_an_independent_client_reads() {
    for len in [0, 125, 126, 65_535, 65_536, 300_000] {
        let payload = vec![7; len];
        let (header, used) = frame_header(len, OP_BINARY);
        let mut bytes = header[..used].to_vec();
        bytes.extend_from_slice(&payload);
        bytes.extend_from_slice(&close_frame(1011, "the screen's connection ended"));
        let mut client = WebSocket::from_raw_socket(Pipe(Cursor::new(bytes), Vec::new()), Role::Client, None);
        assert_eq!(client.read().unwrap(), Message::Binary(payload.into()), "{len}");
        match client.read().unwrap() {
            Message::Close(Some(frame)) => assert_eq!(u16::from(frame.code), 1011),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_reason_that_is_too_long_is_cut_at_a_character() {
    let frame = close_frame(1000, &"é".repeat(100));
    assert!(frame.len() <= 2 + CONTROL_MAX && std::str::from_utf8(&frame[4..]).is_ok());
}

#[test]
fn frames_against_the_protocol_are_refused_with_the_right_code() {
    let frame = |bytes: &[u8]| {
        let mut all = bytes.to_vec();
        all.extend_from_slice(&[0; 20]);
        all
    };
    for (bytes, error, code) in [
        (&[0x82, 0x01, 0][..], WsError::Unmasked, 1002),
        (&[0xc2, 0x81], WsError::ReservedBits, 1002),
        (&[0x83, 0x81], WsError::UnknownOpcode, 1002),
        (&[0x8b, 0x81], WsError::UnknownOpcode, 1002),
        (&[0x80, 0x81], WsError::BadContinuation, 1002),
        (&[0x89, 0xfe], WsError::BadControl, 1002),
        (&[0x09, 0x81], WsError::BadControl, 1002),
        (&[0x81, 0x81], WsError::Text, 1003),
        (&[0x82, 0xff, 0x80], WsError::BadLength, 1002),
        (&[0x82, 0xff, 0, 0, 0, 0, 0x01, 0, 0, 1, 0, 0, 0, 0], WsError::TooBig, 1009),
        (&[0x88, 0x81], WsError::BadClose, 1002),
        (&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xed], WsError::BadClose, 1002),
        (&[0x02, 0x80, 0, 0, 0, 0, 0x82, 0x80], WsError::BadContinuation, 1002),
    ] {
        let (_, _, got) = events(&frame(bytes), &[], TextPolicy::Refuse);
        assert_eq!(got, Some(error), "{bytes:x?}");
        assert_eq!(error.close_code(), code);
    }
}

#[test]
fn an_upgrade_is_checked_field_by_field() {
    let good = Upgrade {
        upgrade: Some("WebSocket"),
        connection: Some("keep-alive, Upgrade"),
        version: Some("13"),
        key: Some("dGhlIHNhbXBsZSBub25jZQ=="),
        protocols: Some("chat, binary"),
    };
    let accepted = accept(&good).unwrap();
    assert_eq!((accepted.key.as_str(), accepted.protocol), ("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", Some("binary")));
    for (bad, status) in [
        (Upgrade { upgrade: None, ..good }, 426),
        (Upgrade { connection: Some("close"), ..good }, 426),
        (Upgrade { version: Some("8"), ..good }, 426),
        (Upgrade { key: Some("c2hvcnQ="), ..good }, 400),
        (Upgrade { key: None, ..good }, 400),
    ] {
        assert_eq!(accept(&bad).unwrap_err().status(), status, "{bad:?}");
    }
}

proptest::proptest! {
    #[test]
    fn cutting_the_bytes_changes_nothing(
        payloads in proptest::collection::vec(proptest::collection::vec(proptest::num::u8::ANY, 0..300), 1..5),
        cuts in proptest::collection::vec(0..2000usize, 0..10),
    ) {
        let mut messages: Vec<Message> = payloads.into_iter().map(|p| Message::Binary(p.into())).collect();
        messages.insert(messages.len() / 2, Message::Ping(Bytes::from_static(b"ping")));
        let bytes = client_bytes(&messages);
        proptest::prop_assert_eq!(events(&bytes, &cuts, TextPolicy::Refuse), events(&bytes, &[], TextPolicy::Refuse));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = events(&bytes, &[3, 50], TextPolicy::Accept);
    }
}
