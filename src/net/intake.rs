//! A large body's way from the socket to its story's buffers: what came with the head, then what is read.

use super::Scratch;
use super::body::Inlet;
use super::stream::{Received, Stream};
use crate::proto::http::reader::{Event, RequestReader};

/// What moving bytes came to.
pub(super) enum Poured {
    /// The body is whole.
    Whole,
    /// There is no room for more.
    Full,
    /// All input is used.
    Dry,
}

/// Moves the body's bytes among `input` to the story.
pub(super) fn pour(reader: &mut RequestReader, input: &mut Vec<u8>, inlet: &Inlet) -> Result<Poured, ()> {
    let mut used = 0;
    let poured = loop {
        let room = inlet.room();
        // No piece is longer than the bytes it comes from, so it fits.
        let window = input.len().min(used + room);
        let mut rest = &input[used..window];
        let before = rest.len();
        let event = reader.next(&mut rest).map_err(drop)?;
        used += before - rest.len();
        match event {
            Some(Event::Body(bytes)) => drop(inlet.take(bytes)),
            Some(Event::End) => break Poured::Whole,
            // What remains may be a chunk's size that is cut by the window.
            None if room == 0 || window < input.len() => break Poured::Full,
            None => break Poured::Dry,
            Some(Event::Head(_)) => return Err(()),
        }
    };
    input.drain(..used);
    if input.is_empty() {
        *input = Vec::new();
    }
    Ok(poured)
}

/// One read: of a plain body of known length straight to the story, of others by way of `input`. `None`: the connection is over.
pub(super) fn read(
    stream: &mut Stream,
    reader: &mut RequestReader,
    inlet: &Inlet,
    input: &mut Vec<u8>,
    scratch: &mut Scratch,
) -> Option<usize> {
    if let Some(left) = reader.length_left().filter(|_| !stream.is_tls()) {
        let mut outcome = Ok(None);
        let count = inlet.fill_with(|room| {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(room.len());
            outcome = stream.receive_into(&mut room[..most]);
            outcome.as_ref().ok().copied().flatten().unwrap_or(0)
        });
        reader.skip(count as u64);
        return match outcome {
            Ok(Some(0)) | Err(_) => None,
            Ok(_) => Some(count),
        };
    }
    match stream.receive_up_to(scratch, inlet.room()) {
        Received::Bytes(bytes) => {
            let left = reader.length_left().and_then(|left| usize::try_from(left).ok());
            let taken = left.map_or(0, |left| inlet.take(&bytes[..bytes.len().min(left)]));
            reader.skip(taken as u64);
            // At most the rest of a TLS record, or a piece in chunks.
            input.extend_from_slice(&bytes[taken..]);
            Some(bytes.len())
        }
        Received::Blocked => Some(0),
        Received::End | Received::NotTls | Received::Broken(_) => None,
    }
}
