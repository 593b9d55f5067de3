//! The last bytes of a stream that never ends, and the places of those who read it: what a terminal's scrollback is made of.
//!
//! A place is counted from the first byte there ever was. A reader that falls behind what is kept is moved ahead and told how much it
//! missed; one that begins does so at the oldest whole line, and there is a mark where what was before it ends.

use std::collections::VecDeque;

/// How far behind the oldest byte the first whole line is looked for.
const LINE_BYTES: usize = 4096;

/// The last bytes of a stream, by their place in it.
#[derive(Debug, Clone)]
pub struct Ring {
    bytes: VecDeque<u8>,
    most: usize,
    end: u64,
}

impl Ring {
    /// Keeps at most so many bytes.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { bytes: VecDeque::new(), most, end: 0 }
    }

    /// Bytes that are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True when nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The place of the oldest byte that is kept.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.end - self.bytes.len() as u64
    }

    /// The place behind the newest.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// A copy of what is kept.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let (front, back) = self.bytes.as_slices();
        [front, back].concat()
    }

    /// Takes what comes next; as much as before goes.
    pub fn push(&mut self, new: &[u8]) {
        self.end += new.len() as u64;
        let new = new.get(new.len().saturating_sub(self.most)..).unwrap_or_default();
        let over = (self.bytes.len() + new.len()).saturating_sub(self.most);
        self.bytes.drain(..over);
        self.bytes.extend(new);
    }

    /// Copies what is between two places, as far as it is kept and fits.
    fn read(&self, from: u64, until: u64, room: &mut [u8]) -> usize {
        let place = |at: u64| usize::try_from(at.saturating_sub(self.start())).unwrap_or(usize::MAX);
        let (from, until) = (place(from), place(until.min(self.end)));
        let count = until.saturating_sub(from).min(room.len());
        // Two copies, not a byte at a time: this is what a guest's output costs.
        let (front, back) = self.bytes.as_slices();
        let first = front.get(from..).unwrap_or_default();
        let first = first.get(..count).unwrap_or(first);
        let second = back.get(from.saturating_sub(front.len())..).unwrap_or_default();
        let second = second.get(..count - first.len()).unwrap_or_default();
        let parts = room.get_mut(..first.len()).zip(Some(first)).into_iter();
        parts.for_each(|(room, part)| room.copy_from_slice(part));
        let rest = room.get_mut(first.len()..first.len() + second.len()).zip(Some(second)).into_iter();
        rest.for_each(|(room, part)| room.copy_from_slice(part));
        first.len() + second.len()
    }

    /// The oldest place where a line begins, or the oldest of all where lines are very long.
    fn first_line(&self) -> u64 {
        if self.start() == 0 {
            return 0;
        }
        let newline = self.bytes.iter().take(LINE_BYTES).position(|byte| *byte == b'\n');
        self.start() + newline.map_or(0, |at| at as u64 + 1)
    }
}

/// A reader's place in a [`Ring`].
#[derive(Debug)]
pub struct Place {
    at: u64,
    /// Where what was there before it came ends, until that was told.
    told: Option<u64>,
    /// What is left to say about bytes it missed.
    notice: Vec<u8>,
}

impl Place {
    /// At the oldest whole line.
    #[must_use]
    pub fn begin(ring: &Ring) -> Self {
        Self { at: ring.first_line(), told: Some(ring.end()), notice: Vec::new() }
    }

    /// How far it is.
    #[must_use]
    pub fn at(&self) -> u64 {
        self.at
    }

    /// True while what was there before it came has not been told to its end.
    #[must_use]
    pub fn is_behind_its_mark(&self) -> bool {
        self.told.is_some()
    }

    /// True once, when all that was kept before it came is read: what follows is live.
    pub fn takes_mark(&mut self) -> bool {
        self.notice.is_empty() && self.told.take_if(|end| *end <= self.at).is_some()
    }

    /// The next bytes, or what there is to say of those it missed; 0 when there are none now. Not beyond the mark, so that it stands
    /// between what was and what is.
    pub fn read(&mut self, ring: &Ring, room: &mut [u8]) -> usize {
        if self.at < ring.start() {
            self.notice = skipped(ring.start() - self.at);
            self.at = ring.start();
        }
        if !self.notice.is_empty() {
            let count = self.notice.len().min(room.len());
            let said = self.notice.drain(..count);
            room.iter_mut().zip(said).for_each(|(room, byte)| *room = byte);
            return count;
        }
        let until = self.told.map_or_else(|| ring.end(), |end| end.max(self.at));
        let count = ring.read(self.at, until, room);
        self.at += count as u64;
        count
    }
}

/// CAN first: it ends an escape sequence that was cut.
fn skipped(count: u64) -> Vec<u8> {
    format!("\u{18}\r\n\u{1b}[0m[{} KB were skipped: this terminal was too slow]\r\n", count.div_ceil(1024))
        .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn whoever_reads_whenever_gets_each_byte_once_in_order_or_is_told(
            most in 1..40usize,
            steps in proptest::collection::vec((proptest::collection::vec(proptest::num::u8::ANY, 0..30), 0..20usize), 0..30),
        ) {
            let (mut ring, mut all) = (Ring::new(most), Vec::new());
            let mut place = Place::begin(&ring);
            for (bytes, room) in steps {
                ring.push(&bytes);
                all.extend_from_slice(&bytes);
                proptest::prop_assert!(ring.len() <= most && ring.end() == all.len() as u64);
                let _ = place.takes_mark();
                let (before, says) = (place.at(), place.at() < ring.start() || !place.notice.is_empty());
                let mut buffer = vec![0; room];
                let count = place.read(&ring, &mut buffer);
                if !says {
                    let from = usize::try_from(before).unwrap();
                    proptest::prop_assert_eq!(&buffer[..count], &all[from..from + count]);
                    proptest::prop_assert_eq!(place.at(), before + count as u64);
                }
            }
        }
    }
}
