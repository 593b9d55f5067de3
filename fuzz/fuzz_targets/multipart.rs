#![no_main]
//! Forms: the same parts and bytes for any cutting, and never more held than the fields of one part.
use libfuzzer_sys::fuzz_target;
use vmshare::proto::multipart::{Event, Form, FormError};

fn play(pieces: &[&[u8]]) -> (Vec<String>, Vec<u8>, Result<(), FormError>) {
    let mut form = Form::new("multipart/form-data; boundary=AaB").expect("a good boundary");
    let (mut told, mut bytes) = (Vec::new(), Vec::new());
    for piece in pieces {
        let outcome = form.receive(piece, |event| {
            match event {
                Event::Data(data) => {
                    assert!(!data.is_empty(), "an empty piece was told");
                    bytes.extend_from_slice(data);
                }
                // Where a part begins among the bytes counts too.
                other => told.push(format!("{other:?} at {}", bytes.len())),
            }
            Ok::<(), FormError>(())
        });
        if outcome.is_err() {
            return (told, bytes, outcome);
        }
    }
    let end = form.finish();
    (told, bytes, end)
}

fuzz_target!(|data: &[u8]| {
    // The first line may be a Content-Type: whatever it says, it is taken or refused.
    if let Some(line) = data.split(|byte| *byte == b'\n').next() {
        let _ = Form::new(&String::from_utf8_lossy(line));
    }
    vmshare_fuzz::split_invariant(data, play);
});
