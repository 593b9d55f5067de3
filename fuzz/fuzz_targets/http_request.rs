#![no_main]
//! Requests: never panics, the same events for any cutting, nothing kept that is not the caller's.
use libfuzzer_sys::fuzz_target;
use vmshare::proto::http::reader::{Event, Limits, RequestReader};

fn play(pieces: &[&[u8]]) -> (Vec<String>, Option<String>) {
    let mut reader = RequestReader::new(Limits::default());
    let (mut held, mut told, mut body) = (Vec::new(), Vec::new(), Vec::new());
    for piece in pieces {
        held.extend_from_slice(piece);
        let mut rest = held.as_slice();
        loop {
            match reader.next(&mut rest) {
                Ok(None) => break,
                Ok(Some(Event::Head(head))) => told.push(format!("{head:?}")),
                Ok(Some(Event::Body(bytes))) => body.extend_from_slice(bytes),
                Ok(Some(Event::End)) => told.push(format!("{:?}", std::mem::take(&mut body))),
                // What a body was before its error may have been told in part.
                Err(error) => return (told, Some(error.to_string())),
            }
        }
        held = rest.to_vec();
        // What is not taken is at most an unfinished head or line.
        assert!(held.len() <= 16 * 1024 + piece.len(), "{} bytes are held", held.len());
    }
    (told, None)
}

fuzz_target!(|data: &[u8]| vmshare_fuzz::split_invariant(data, play));
