#![no_main]
//! RFB: the same number of inputs, and the same looks, for any cutting; no input among the looks.
use libfuzzer_sys::fuzz_target;
use vmshare::proto::rfb::ClientTracker;

fn play(pieces: &[&[u8]]) -> Option<u32> {
    let mut tracker = ClientTracker::default();
    let mut inputs = 0;
    for piece in pieces {
        inputs += tracker.receive(piece).ok()?.inputs;
    }
    Some(inputs)
}

/// What who only looks may send; up to a mistake, and whether there was one.
fn looks(pieces: &[&[u8]]) -> (Vec<u8>, bool) {
    let mut tracker = ClientTracker::default();
    let mut out = Vec::new();
    let good = pieces.iter().all(|piece| tracker.pick_looks(piece, &mut out).is_ok());
    (out, good)
}

fuzz_target!(|data: &[u8]| {
    vmshare_fuzz::split_invariant(data, play);
    // Past the handshake, where the messages are.
    let (points, input) = vmshare_fuzz::cuts(data);
    let hello = [b"RFB 003.008\n\x01\x01", input].concat();
    let at = points.first().copied().unwrap_or(0) + 14;
    assert_eq!(play(&[&hello]), play(&[&hello[..at], &hello[at..]]));
    let (whole, cut) = (looks(&[&hello]), looks(&[&hello[..at], &hello[at..]]));
    assert_eq!(whole, cut);
    assert_eq!(play(&[&whole.0]), Some(0), "input passed who only looks");
});
