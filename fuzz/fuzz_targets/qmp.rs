#![no_main]
//! QMP: the same events for any cutting.
use libfuzzer_sys::fuzz_target;
use vmshare::proto::qmp::{Event, Machine, classify};

fn play(pieces: &[&[u8]]) -> (Vec<String>, bool) {
    let mut machine = Machine::default();
    let mut told = Vec::new();
    for piece in pieces {
        let failed = machine.receive(piece).is_err();
        while let Some(event) = machine.poll_event() {
            if let Event::Event { name, data } = &event {
                told.push(format!("{:?}", classify(name, data.as_ref())));
            }
            told.push(format!("{event:?}"));
        }
        if failed {
            return (told, true);
        }
    }
    (told, false)
}

fuzz_target!(|data: &[u8]| {
    // The queue holds 1024 events until they are fetched, and `play` fetches between pieces: more lines than that are refused or not by
    // how they are cut, and that is meant.
    if data.iter().filter(|byte| **byte == b'\n').count() <= 1024 {
        vmshare_fuzz::split_invariant(data, play);
    }
});
