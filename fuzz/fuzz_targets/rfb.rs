#![no_main]
//! RFB: the same number of inputs for any cutting.
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

fuzz_target!(|data: &[u8]| {
    vmshare_fuzz::split_invariant(data, play);
    // Past the handshake, where the messages are.
    let (points, input) = vmshare_fuzz::cuts(data);
    let hello = [b"RFB 003.008\n\x01\x01", input].concat();
    let at = points.first().copied().unwrap_or(0) + 14;
    assert_eq!(play(&[&hello]), play(&[&hello[..at], &hello[at..]]));
});
