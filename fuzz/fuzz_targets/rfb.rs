#![no_main]
//! RFB: the same number of inputs, and the same looks, for any cutting; no input among the looks; and whatever goes on while control is given
//! and taken is RFB.
use libfuzzer_sys::fuzz_target;
use vmshare::proto::rfb::ClientTracker;

/// What goes on of the pieces, each of somebody who may control or not, up to a mistake; the inputs among it; whether there was a mistake.
fn pass(pieces: &[(&[u8], bool)]) -> (Vec<u8>, u32, bool) {
    let mut tracker = ClientTracker::default();
    let (mut out, mut inputs) = (Vec::new(), 0);
    for (piece, may_control) in pieces {
        match tracker.pass(piece, *may_control, &mut out) {
            Ok(passed) => {
                inputs += passed.inputs;
                if passed.whole {
                    out.extend_from_slice(piece);
                }
            }
            Err(_) => return (out, inputs, false),
        }
    }
    (out, inputs, true)
}

fn play(pieces: &[&[u8]]) -> Option<u32> {
    let pieces: Vec<_> = pieces.iter().map(|piece| (*piece, true)).collect();
    let (_, inputs, good) = pass(&pieces);
    good.then_some(inputs)
}

fuzz_target!(|data: &[u8]| {
    vmshare_fuzz::split_invariant(data, play);
    // Past the handshake, where the messages are.
    let (points, input) = vmshare_fuzz::cuts(data);
    let hello = [b"RFB 003.008\n\x01\x01", input].concat();
    let at = points.first().copied().unwrap_or(0) + 14;
    let (head, tail) = hello.split_at(at);
    assert_eq!(play(&[&hello]), play(&[head, tail]));
    let (whole, cut) = (pass(&[(&hello, false)]), pass(&[(head, false), (tail, false)]));
    assert_eq!(whole, cut);
    assert_eq!(play(&[&whole.0]), Some(0), "input passed who only looks");
    for first in [true, false] {
        let (out, inputs, good) = pass(&[(head, first), (tail, !first)]);
        if good {
            assert_eq!(play(&[&out]), Some(inputs), "what went on while control changed is no RFB");
        }
    }
});
