#![no_main]
//! The chunked coding: the same body for any cutting.
use libfuzzer_sys::fuzz_target;
use vmshare::proto::http::chunked::{Chunked, Piece};

fn play(pieces: &[&[u8]]) -> (Vec<u8>, bool, Option<String>) {
    let mut chunked = Chunked::default();
    let (mut held, mut body) = (Vec::new(), Vec::new());
    for piece in pieces {
        held.extend_from_slice(piece);
        let mut rest = held.as_slice();
        loop {
            match chunked.next(&mut rest) {
                Ok(None) => break,
                Ok(Some(Piece::Data(data))) => body.extend_from_slice(data),
                Ok(Some(Piece::End)) => return (body, true, None),
                Err(error) => return (body, false, Some(error.to_string())),
            }
        }
        held = rest.to_vec();
    }
    (body, false, None)
}

fuzz_target!(|data: &[u8]| vmshare_fuzz::split_invariant(data, play));
