#![no_main]
//! Frames: the same payload and control frames for any cutting; all input is consumed until an error.
use libfuzzer_sys::fuzz_target;
use vmshare::proto::websocket::{Decoder, Frame, TextPolicy};

fn play(pieces: &[&[u8]]) -> (Vec<u8>, Vec<String>, Option<u16>) {
    let mut decoder = Decoder::new(TextPolicy::Accept);
    let (mut data, mut told) = (Vec::new(), Vec::new());
    for piece in pieces {
        let mut piece = piece.to_vec();
        let mut pos = 0;
        loop {
            match decoder.decode(&mut piece, &mut pos) {
                Ok(None) => break,
                Ok(Some(Frame::Data(bytes))) => data.extend_from_slice(bytes),
                Ok(Some(other)) => told.push(format!("{other:?} at {}", data.len())),
                Err(error) => return (data, told, Some(error.close_code())),
            }
        }
        assert_eq!(pos, piece.len());
    }
    (data, told, None)
}

fuzz_target!(|data: &[u8]| vmshare_fuzz::split_invariant(data, play));
