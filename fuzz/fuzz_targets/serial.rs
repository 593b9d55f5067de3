#![no_main]
//! The serial console: whatever the guest writes in whatever pieces, and whoever reads how slowly, each reader gets every byte once and in
//! order, or is told that it missed some; no more is kept than the bound. And what is no input of a person is none when it comes twice.
use libfuzzer_sys::fuzz_target;
use vmshare::proto::scrollback::{Place, Ring};
use vmshare::proto::terminal::is_report;

/// What the fuzzer's bytes mean: an operation, a number, and for a write so many bytes.
fuzz_target!(|data: &[u8]| {
    assert!(!is_report(data) || is_report(&data.repeat(2)));
    let Some((&most, mut rest)) = data.split_first() else { return };
    let most = usize::from(most) + 1;
    let (mut ring, mut all) = (Ring::new(most), Vec::<u8>::new());
    let mut readers: Vec<Place> = Vec::new();
    while let [operation, number, tail @ ..] = rest {
        rest = tail;
        match operation % 4 {
            0 | 1 => {
                let (written, left) = rest.split_at(usize::from(*number).min(rest.len()));
                ring.push(written);
                all.extend_from_slice(written);
                rest = left;
            }
            2 if readers.len() < 8 => readers.push(Place::begin(&ring)),
            _ => {
                let count = readers.len().max(1);
                let Some(reader) = readers.get_mut(usize::from(*operation) / 4 % count) else { continue };
                let _ = reader.takes_mark();
                let before = reader.at();
                let mut room = vec![0; usize::from(*number)];
                let got = reader.read(&ring, &mut room);
                assert!(reader.at() >= before && reader.at() <= ring.end());
                // Moved ahead: what came was a notice, and the rest of one does not move it.
                if reader.at() == before + got as u64 && before >= ring.start() {
                    let from = usize::try_from(before).expect("a place");
                    assert_eq!(room[..got], all[from..from + got]);
                }
            }
        }
        assert!(ring.len() <= most && ring.end() == all.len() as u64);
    }
});
