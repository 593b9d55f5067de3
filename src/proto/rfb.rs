//! RFB, what a VNC client sends (RFC 6143 7, the extensions of QEMU and noVNC): followed, not understood.
//!
//! The relay needs to know of a browser's bytes: is there input (keys, pointer), is it RFB at all, and, for somebody who may only look,
//! which messages ask for pictures and change nothing. Messages are framed by their lengths; payloads of who may control pass by uncopied. Whether
//! somebody may is decided for each message at its beginning, so it may change at any moment and what goes on is RFB all the same. Kept between
//! calls: one cut message head, at most [`HEAD_MAX`] bytes.
//!
//! It must frame as QEMU's `protocol_client_msg` does (ui/vnc.c), to the byte: where the two differ, what is held back here as the inside of
//! one message would be another one there. So what QEMU would read otherwise, or end the connection for, is refused.

use std::fmt;

/// Longest head of a message, up to where its length is known.
const HEAD_MAX: usize = 12;
/// Longest clipboard text a client may send.
const CUT_TEXT_MAX: u32 = 1024 * 1024;
/// Most encodings a client may list.
const ENCODINGS_MAX: u16 = 1024;

/// Why the bytes are no RFB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RfbError {
    /// The first line is no protocol version, or one whose handshake is another.
    BadVersion,
    /// A security type QEMU does not offer us.
    BadSecurity(u8),
    /// A message type nobody knows.
    UnknownMessage(u8),
    /// A message longer than its bound.
    TooLong,
}

impl fmt::Display for RfbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadVersion => f.write_str("not the RFB protocol 3.8 or 3.7"),
            Self::BadSecurity(kind) => write!(f, "RFB security type {kind} is not offered"),
            Self::UnknownMessage(kind) => write!(f, "unknown RFB message {kind}"),
            Self::TooLong => f.write_str("RFB message too long"),
        }
    }
}

impl std::error::Error for RfbError {}

/// What goes on of some bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Passed {
    /// Key and pointer messages that go on.
    pub inputs: u32,
    /// All of the bytes go on, as they are; nothing was copied.
    pub whole: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// `RFB 003.008\n` (7.1.1).
    Version,
    /// One byte: the chosen security type (7.1.2).
    Security,
    /// One byte: share the screen (7.3.1).
    Init,
    /// Between messages, or inside the head of one.
    Head,
    /// So many bytes of a message pass by; true where it goes on.
    Skip(u64, bool),
}

/// Follows one client; see the file's page.
#[derive(Debug)]
pub struct ClientTracker {
    state: State,
    head: [u8; HEAD_MAX],
    len: usize,
    /// Of the cut head, what has gone on already.
    sent: usize,
    /// Everything so far went on, so the next bytes may as they are.
    whole: bool,
}

impl Default for ClientTracker {
    fn default() -> Self {
        Self { state: State::Version, head: [0; HEAD_MAX], len: 0, sent: 0, whole: true }
    }
}

/// What a message's first bytes say.
enum Framed {
    /// The head needs to be so long before its length is known.
    Needs(usize),
    /// The whole message has so many bytes.
    Whole(u64, Kind),
}

/// What a message does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A key or the pointer.
    Input,
    /// Changes the guest or its screen for everybody otherwise.
    Change,
    /// Says what one's own pictures are to be like, or asks for them.
    Look,
}

impl ClientTracker {
    /// Follows the next bytes of somebody who may control, or only look. What goes on is `bytes` itself when [`Passed::whole`], else what was
    /// appended to `out`. A message that has gone on in part goes on to its end, and one that was held back stays so.
    ///
    /// # Errors
    /// See [`RfbError`].
    pub fn pass(&mut self, bytes: &[u8], may_control: bool, out: &mut Vec<u8>) -> Result<Passed, RfbError> {
        if may_control && self.whole {
            let inputs = self.follow(bytes, true, None)?;
            return Ok(Passed { inputs, whole: true });
        }
        if self.whole {
            self.whole = false;
            self.sent = self.len;
        }
        let inputs = self.follow(bytes, may_control, Some(out))?;
        self.whole = may_control && self.state == State::Head && self.len == 0;
        Ok(Passed { inputs, whole: false })
    }

    /// Input messages that go on.
    fn follow(&mut self, mut bytes: &[u8], all: bool, mut out: Option<&mut Vec<u8>>) -> Result<u32, RfbError> {
        let mut inputs = 0;
        while !bytes.is_empty() {
            match self.state {
                State::Skip(left, goes) => {
                    let take = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    let (passing, rest) = bytes.split_at_checked(take).unwrap_or((bytes, &[]));
                    if let Some(out) = out.as_mut().filter(|_| goes) {
                        out.extend_from_slice(passing);
                    }
                    bytes = rest;
                    let left = left - take as u64;
                    self.state = if left == 0 { State::Head } else { State::Skip(left, goes) };
                }
                State::Version => self.collect(&mut bytes, &mut out, 12, |head| {
                    // 3.3 chooses no security type: its next byte would be taken for one here, and the one after it for a message there.
                    let good = matches!(head, b"RFB 003.008\n" | b"RFB 003.007\n");
                    if good { Ok(State::Security) } else { Err(RfbError::BadVersion) }
                })?,
                State::Security => self.collect(&mut bytes, &mut out, 1, |head| match head {
                    [1] => Ok(State::Init),
                    [other, ..] => Err(RfbError::BadSecurity(*other)),
                    [] => Ok(State::Security),
                })?,
                State::Init => self.collect(&mut bytes, &mut out, 1, |_| Ok(State::Head))?,
                State::Head => inputs += self.take_message(&mut bytes, all, &mut out)?,
            }
        }
        Ok(inputs)
    }

    /// Collects a part of the handshake of a fixed length.
    fn collect(
        &mut self,
        bytes: &mut &[u8],
        out: &mut Option<&mut Vec<u8>>,
        length: usize,
        next: impl Fn(&[u8]) -> Result<State, RfbError>,
    ) -> Result<(), RfbError> {
        self.fill(bytes, length);
        if self.len == length {
            self.state = next(self.head.get(..length).unwrap_or_default())?;
            self.hand_on(out, true);
        }
        Ok(())
    }

    fn take_message(&mut self, bytes: &mut &[u8], all: bool, out: &mut Option<&mut Vec<u8>>) -> Result<u32, RfbError> {
        let mut needs = 1;
        loop {
            self.fill(bytes, needs);
            if self.len < needs {
                return Ok(0);
            }
            match frame(self.head.get(..self.len).unwrap_or_default())? {
                Framed::Needs(more) => needs = more,
                Framed::Whole(length, kind) => {
                    // Once begun it is finished: half a message would be no RFB.
                    let goes = all || kind == Kind::Look || self.sent > 0;
                    let left = length.saturating_sub(self.len as u64);
                    self.hand_on(out, goes);
                    self.state = if left == 0 { State::Head } else { State::Skip(left, goes) };
                    return Ok(u32::from(goes && kind == Kind::Input));
                }
            }
        }
    }

    /// The head is whole: what of it has not gone on does now, or never.
    fn hand_on(&mut self, out: &mut Option<&mut Vec<u8>>, goes: bool) {
        if let Some(out) = out.as_mut().filter(|_| goes) {
            out.extend_from_slice(self.head.get(self.sent..self.len).unwrap_or_default());
        }
        (self.len, self.sent) = (0, 0);
    }

    fn fill(&mut self, bytes: &mut &[u8], length: usize) {
        while self.len < length {
            let [first, rest @ ..] = bytes else { return };
            if let Some(slot) = self.head.get_mut(self.len) {
                *slot = *first;
            }
            self.len += 1;
            *bytes = rest;
        }
    }
}

/// Frames a message by its first bytes, as QEMU does (7.5; QEMU's ui/vnc.c). Fences, continuous updates and pointers with more buttons are not
/// among them: QEMU offers none, so no client sends them.
fn frame(head: &[u8]) -> Result<Framed, RfbError> {
    let look = |length: u64| Ok(Framed::Whole(length, Kind::Look));
    let change = |length: u64| Ok(Framed::Whole(length, Kind::Change));
    let input = |length: u64| Ok(Framed::Whole(length, Kind::Input));
    match head {
        [] => Ok(Framed::Needs(1)),
        // SetPixelFormat
        [0, ..] => look(20),
        // SetEncodings
        [2, _, a, b, ..] => match u16::from_be_bytes([*a, *b]) {
            count if count > ENCODINGS_MAX => Err(RfbError::TooLong),
            count => look(4 + 4 * u64::from(count)),
        },
        [2, ..] => Ok(Framed::Needs(4)),
        // FramebufferUpdateRequest
        [3, ..] => look(10),
        // KeyEvent
        [4, ..] => input(8),
        // PointerEvent
        [5, ..] => input(6),
        // ClientCutText; a negative length is that of the extended clipboard
        [6, _, _, _, a, b, c, d, ..] => match i32::from_be_bytes([*a, *b, *c, *d]).unsigned_abs() {
            length if length > CUT_TEXT_MAX => Err(RfbError::TooLong),
            length => change(8 + u64::from(length)),
        },
        [6, ..] => Ok(Framed::Needs(8)),
        // xvp
        [250, ..] => change(4),
        // SetDesktopSize
        [251, _, _, _, _, _, screens, ..] => change(8 + 16 * u64::from(*screens)),
        [251, ..] => Ok(Framed::Needs(7)),
        // QEMU: extended key event, or audio
        [255, 0, ..] => input(12),
        [255, 1, 0, operation @ 0..=2, ..] => change(if *operation == 2 { 10 } else { 4 }),
        [255, 1, _, _, ..] => Err(RfbError::UnknownMessage(255)),
        [255, 1, ..] => Ok(Framed::Needs(4)),
        [255] => Ok(Framed::Needs(2)),
        [other, ..] => Err(RfbError::UnknownMessage(*other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &[u8] = b"RFB 003.008\n\x01\x01";

    fn talk() -> Vec<u8> {
        let mut bytes = HELLO.to_vec();
        bytes.extend([0; 20]); // pixel format
        bytes.extend([2, 0, 0, 2, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0x21]); // two encodings
        bytes.extend([3, 1, 0, 0, 0, 0, 4, 0, 3, 0]); // update request
        bytes.extend([4, 1, 0, 0, 0, 0, 0, 0x61]); // key
        bytes.extend([5, 1, 0, 9, 0, 9]); // pointer
        bytes.extend([5, 0x81, 0, 9, 0, 9]); // pointer, eighth button
        bytes.extend([6, 0, 0, 0, 0, 0, 0, 3, b'a', b'b', 4]); // clipboard with a 4 in it
        bytes.extend([6, 0, 0, 0, 0xff, 0xff, 0xff, 0xfc, 1, 2, 3, 4]); // extended clipboard
        bytes.extend([251, 0, 4, 0, 3, 0, 1, 0]);
        bytes.extend([0; 16]); // one screen
        bytes.extend([255, 0, 0, 1, 0, 0, 0, 0x61, 0, 0, 0, 0x1e]); // QEMU's key
        bytes.extend([3, 0, 0, 0, 0, 0, 4, 0, 3, 0]);
        bytes
    }

    /// What goes on of these bytes, cut there, when each piece's sender may control or not; and the inputs among it.
    fn play(bytes: &[u8], cuts: &[(usize, bool)], first: bool) -> Result<(Vec<u8>, u32), RfbError> {
        let mut tracker = ClientTracker::default();
        let mut bounds: Vec<(usize, bool)> = cuts.iter().map(|(cut, may)| (cut % (bytes.len() + 1), *may)).collect();
        bounds.sort_unstable();
        bounds.push((bytes.len(), first));
        let (mut from, mut may, mut out, mut inputs) = (0, first, Vec::new(), 0);
        for (to, next) in bounds {
            let passed = tracker.pass(&bytes[from..to], may, &mut out)?;
            if passed.whole {
                out.extend_from_slice(&bytes[from..to]);
            }
            (from, may, inputs) = (to, next, inputs + passed.inputs);
        }
        Ok((out, inputs))
    }

    fn inputs(bytes: &[u8], cuts: &[usize]) -> Result<u32, RfbError> {
        let cuts: Vec<_> = cuts.iter().map(|cut| (*cut, true)).collect();
        play(bytes, &cuts, true).map(|(_, inputs)| inputs)
    }

    #[test]
    fn input_is_told_from_everything_else() {
        assert_eq!(inputs(&talk(), &[]), Ok(4));
    }

    #[test]
    fn what_is_no_rfb_is_refused() {
        let after = |bytes: &[u8]| inputs(&[HELLO, bytes].concat(), &[]);
        assert_eq!(inputs(b"GET / HTTP/1.1\r\n", &[]), Err(RfbError::BadVersion));
        assert_eq!(inputs(b"RFB 003.008\n\x02", &[]), Err(RfbError::BadSecurity(2)));
        for kind in [1, 7, 99, 127, 150, 248, 249] {
            assert_eq!(after(&[kind]), Err(RfbError::UnknownMessage(kind)));
        }
        for beyond in [&[255, 2][..], &[255, 1, 0, 3], &[255, 1, 1, 2]] {
            assert_eq!(after(beyond), Err(RfbError::UnknownMessage(255)));
        }
        assert_eq!(after(&[6, 0, 0, 0, 0x7f, 0, 0, 0]), Err(RfbError::TooLong));
        assert_eq!(after(&[6, 0, 0, 0, 0x80, 0, 0, 0]), Err(RfbError::TooLong));
        assert_eq!(after(&[2, 0, 0xff, 0xff]), Err(RfbError::TooLong));
    }

    #[test]
    fn only_versions_whose_handshake_is_followed_are_taken() {
        // QEMU takes 3.3, 3.4 and 3.5 for 3.3 and reads no security type: `01 04` would be its client's greeting and the beginning of a key.
        for minor in 0..10 {
            let hello = format!("RFB 003.00{minor}\n");
            let wanted = if minor == 7 || minor == 8 { Ok(0) } else { Err(RfbError::BadVersion) };
            assert_eq!(inputs(&[hello.as_bytes(), &[1, 1]].concat(), &[]), wanted, "{hello}");
        }
    }

    #[test]
    fn a_message_ends_where_qemu_lets_it_end() {
        // Had the eighth button one more byte, a key would pass as the inside of something else.
        let key = [4, 1, 0, 0, 0, 0, 0, 0x61];
        let bytes = [HELLO, &[5, 0x80, 0, 9, 0, 9], &key].concat();
        assert_eq!(inputs(&bytes, &[]), Ok(2));
        assert_eq!(looks(&bytes, &[]).unwrap(), HELLO);
    }

    /// What who only looks may send of these bytes.
    fn looks(bytes: &[u8], cuts: &[usize]) -> Result<Vec<u8>, RfbError> {
        let cuts: Vec<_> = cuts.iter().map(|cut| (*cut, false)).collect();
        play(bytes, &cuts, false).map(|(out, _)| out)
    }

    #[test]
    fn control_that_is_taken_in_the_middle_of_a_message_ends_with_it() {
        let (key, pointer) = ([4, 1, 0, 0, 0, 0, 0, 0x61], [5, 1, 0, 9, 0, 9]);
        let bytes = [HELLO, &key, &key, &pointer].concat();
        let at = HELLO.len();
        for cut in 1..8 {
            // Taken within the first key: that one is finished, what follows is held back.
            let (out, _) = play(&bytes, &[(at + cut, false)], true).unwrap();
            assert_eq!(out, bytes[..at + 8], "cut after {cut} bytes");
            // Given within the first key, which was held back: it stays so.
            let (out, inputs) = play(&bytes, &[(at + cut, true)], false).unwrap();
            assert_eq!((out, inputs), ([HELLO, &key, &pointer].concat(), 2), "cut after {cut} bytes");
        }
    }

    #[test]
    fn who_only_looks_may_ask_for_pictures_and_nothing_else() {
        let mut wanted = HELLO.to_vec();
        wanted.extend([0; 20]);
        wanted.extend([2, 0, 0, 2, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0x21]);
        wanted.extend([3, 1, 0, 0, 0, 0, 4, 0, 3, 0]);
        wanted.extend([3, 0, 0, 0, 0, 0, 4, 0, 3, 0]);
        assert_eq!(looks(&talk(), &[]).unwrap(), wanted);
        assert_eq!(inputs(&wanted, &[]), Ok(0));
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_sent_and_however_it_is_cut_no_input_passes_who_only_looks(
            tail in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
            cuts in proptest::collection::vec(0..400usize, 0..12),
        ) {
            let bytes = [&talk(), tail.as_slice()].concat();
            let mut out = Vec::new();
            // What came before a mistake may have been written on.
            let _ = ClientTracker::default().pass(&bytes, false, &mut out);
            proptest::prop_assert_eq!(inputs(&out, &[]), Ok(0));
            if let (Ok(whole), Ok(cut)) = (looks(&bytes, &[]), looks(&bytes, &cuts)) {
                proptest::prop_assert_eq!(whole, cut);
            }
        }

        #[test]
        fn however_control_is_given_and_taken_what_goes_on_is_rfb_and_every_look_is_in_it(
            cuts in proptest::collection::vec((0..400usize, proptest::bool::ANY), 0..12),
            first in proptest::bool::ANY,
        ) {
            let (out, seen) = play(&talk(), &cuts, first).unwrap();
            // It parses to its end with the same number of inputs, and nothing is left half.
            proptest::prop_assert_eq!(inputs(&out, &[]), Ok(seen));
            let next = [out.as_slice(), &[4, 1, 0, 0, 0, 0, 0, 0x61]].concat();
            proptest::prop_assert_eq!(inputs(&next, &[]), Ok(seen + 1));
            proptest::prop_assert_eq!(looks(&out, &[]), looks(&talk(), &[]));
        }

        #[test]
        fn cutting_the_bytes_changes_nothing(cuts in proptest::collection::vec(0..1000usize, 0..12)) {
            proptest::prop_assert_eq!(inputs(&talk(), &cuts), Ok(4));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = inputs(&[HELLO, &bytes].concat(), &[20, 60]);
        }
    }
}
