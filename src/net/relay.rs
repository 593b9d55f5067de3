//! The relay between a browser's websocket and a console of QEMU: a VNC socket, or the shared line of the serial console.
//!
//! Down (QEMU to browser): bytes are read into the process's one buffer, which leaves room for a frame header in front; the header
//! is put right before them and both leave in one write. Up: frames are unmasked in place and their payload is written on.
//! Nothing is copied unless a socket refuses it, and while a side's output waits its source is not read: a browser that stops reading
//! stops QEMU's writer, not our memory. One pump moves at most [`QUANTUM`] bytes each way, then it is the next connection's turn.
//!
//! tungstenite does the handshake (see `proto::websocket`); its framing would copy each payload twice and hold 128 KiB a connection.
//! A screen's bytes are followed by `proto::rfb`, which tells when there was input, and ends the relay when they are no RFB. On a serial
//! console every byte is input but for what a terminal answers by itself (`proto::terminal`). A terminal gets an empty frame between what was kept and what is live.

use super::back::Back;
use super::stream::{Received, Stream};
use super::{READ_BYTES, Scratch};
use crate::proto::rfb::ClientTracker;
use crate::proto::terminal::is_report;
use crate::proto::websocket::{self, Decoder, Frame};
use mio::Token;
use mio::net::UnixStream;
use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Bytes kept free in front of what is read from QEMU: the longest header of an unmasked frame.
pub const HEADER_ROOM: usize = 10;
/// Bytes moved each way in one turn.
const QUANTUM: usize = 256 * 1024;
/// Output that may wait before answers to pings are left out (RFC 6455 5.5.3 allows that).
const PONG_ROOM: usize = 16 * 1024;
/// Room kept for what somebody who only looks sends; an idle relay holds no more.
const LOOKS_KEPT: usize = 1024;
/// A binary frame with nothing in it.
const EMPTY_FRAME: [u8; 2] = [0x80 | websocket::OP_BINARY, 0];
/// How long a screen whose socket ended waits for the word that its VM stopped, which comes by another way.
const LOST_WAIT: Duration = Duration::from_secs(1);
/// How long a close frame may wait for the peer's answer.
const CLOSE_WAIT: Duration = Duration::from_secs(3);

/// What passed through, shared with whoever shows it.
#[derive(Default)]
pub struct Meter {
    /// Payload bytes to the browser.
    pub down: Cell<u64>,
    /// Payload bytes from the browser.
    pub up: Cell<u64>,
    /// When a key or pointer message last came.
    pub input: Cell<Option<Instant>>,
    /// How long QEMU waited for browsers that read slowly.
    pub down_stalled: Cell<Duration>,
    /// How long browsers waited for a QEMU that did not take what they sent.
    pub up_stalled: Cell<Duration>,
    /// The meter of all relays of the VM.
    total: Option<Rc<Self>>,
}

impl Meter {
    /// One relay's meter; what it counts is added to `total` too.
    #[must_use]
    pub fn below(total: &Rc<Self>) -> Self {
        Self { total: Some(Rc::clone(total)), ..Self::default() }
    }

    fn add_down(&self, count: usize) {
        self.down.set(self.down.get() + count as u64);
        if let Some(total) = &self.total {
            total.add_down(count);
        }
    }

    fn add_up(&self, count: usize, input: Option<Instant>) {
        self.up.set(self.up.get() + count as u64);
        if input.is_some() {
            self.input.set(input);
        }
        if let Some(total) = &self.total {
            total.add_up(count, input);
        }
    }

    fn add_stall(&self, down: Duration, up: Duration) {
        self.down_stalled.set(self.down_stalled.get() + down);
        self.up_stalled.set(self.up_stalled.get() + up);
        if let Some(total) = &self.total {
            total.add_stall(down, up);
        }
    }
}

/// Whose relay it is, and who is told of its end.
pub struct Ticket {
    /// Relays of one VM have one group: its number.
    pub group: u64,
    /// The hash of the session token it was opened with.
    pub session: [u8; 32],
    /// Whose it is, by his number at that VM.
    pub viewer: u64,
    /// Whether what the browser sends may change anything; it may be given and taken at any moment.
    pub control: Rc<Cell<bool>>,
    /// What it counts.
    pub meter: Rc<Meter>,
    /// Called once, when the relay is dropped, with the reason if there is one.
    pub on_end: Option<OnEnd>,
}

/// See [`Ticket::on_end`].
pub type OnEnd = Box<dyn FnOnce(Option<&End>)>;

/// What is known of the bytes a browser sends.
pub enum Tracker {
    /// They are RFB; of who only looks no more goes on than what asks for pictures, with room for that.
    Screen(ClientTracker, Vec<u8>),
    /// They are typed, but for what the terminal answers by itself; of who only looks nothing goes on.
    Typed,
}

impl Tracker {
    /// What of `payload` goes on to QEMU, and whether there is input in it.
    fn pass<'a>(&'a mut self, payload: &'a [u8], may_control: bool) -> Result<(&'a [u8], bool), End> {
        match self {
            Self::Screen(rfb, room) => {
                room.clear();
                room.shrink_to(LOOKS_KEPT);
                let passed = rfb.pass(payload, may_control, room);
                let passed = passed.map_err(|e| End { code: 1002, reason: e.to_string() })?;
                Ok((if passed.whole { payload } else { room.as_slice() }, passed.inputs > 0))
            }
            Self::Typed if may_control => Ok((payload, !payload.is_empty() && !is_report(payload))),
            Self::Typed => Ok((&[], false)),
        }
    }
}

/// Why a relay ended, as the browser is told (RFC 6455 7.4.1 and the contract's own use).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// The close code; 1005 when the browser gave none, 1006 when it left without a word.
    pub code: u16,
    /// For people.
    pub reason: String,
}

impl End {
    /// A close with `code` and `reason`.
    #[must_use]
    pub fn new(code: u16, reason: &str) -> Self {
        Self { code, reason: reason.to_owned() }
    }
}

/// What a pump left.
#[derive(Debug, PartialEq, Eq)]
pub enum Pumped {
    /// Both sides wait for events.
    Idle,
    /// The quantum was used up: call again in the next turn.
    More,
    /// The connection can be closed.
    Done,
}

/// See the file's page.
pub struct Relay {
    back: Back,
    back_readable: bool,
    back_writable: bool,
    /// Payload that QEMU's socket refused.
    up: Vec<u8>,
    decoder: Decoder,
    tracker: Tracker,
    ticket: Ticket,
    /// QEMU's socket ended; until when the reason for it is awaited.
    lost: Option<Instant>,
    /// Set once: why it ends, and until when the peer's close is awaited.
    ending: Option<(End, Instant)>,
    peer_closed: bool,
    /// Since when the way down, and the way up, wait for their reader.
    stalled: [Option<Instant>; 2],
}

impl Relay {
    /// Joins QEMU's side to a websocket whose handshake is done.
    #[must_use]
    pub fn new(back: Back, decoder: Decoder, tracker: Tracker, ticket: Ticket) -> Self {
        Self {
            back,
            back_readable: true,
            back_writable: true,
            up: Vec::new(),
            decoder,
            tracker,
            ticket,
            lost: None,
            ending: None,
            peer_closed: false,
            stalled: [None; 2],
        }
    }

    /// QEMU's socket, for registering it, where it is this relay's own.
    pub fn back(&mut self) -> Option<(&mut UnixStream, &mut Option<Token>)> {
        match &mut self.back {
            Back::Own(socket, token) => Some((socket, token)),
            Back::Shared(_) => None,
        }
    }

    /// The connection whose relay it is; from now on it is woken for news of a shared line.
    pub fn attach(&mut self, conn: u64) {
        if let Back::Shared(reader) = &mut self.back {
            reader.attach(conn);
        }
    }

    /// Remembers an event on QEMU's side.
    pub fn set_back_ready(&mut self, readable: bool, writable: bool) {
        self.back_readable |= readable && self.lost.is_none();
        self.back_writable |= writable && self.lost.is_none();
    }

    /// Whose it is.
    #[must_use]
    pub fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// When the reason for a lost screen, or the peer's answer to a close, is no longer waited for.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.ending.as_ref().map(|(_, until)| *until).or(self.lost)
    }

    /// That time has come. False: the connection is to be given up.
    pub fn on_timeout(&mut self, stream: &mut Stream, now: Instant) -> bool {
        let waits_for_reason = self.ending.is_none() && self.lost.is_some();
        if waits_for_reason {
            self.close(stream, End::new(1011, "the connection to the VM ended"), now);
        }
        waits_for_reason
    }

    /// Ends the relay: queues a close frame, once.
    pub fn close(&mut self, stream: &mut Stream, end: End, now: Instant) {
        if self.ending.is_none() {
            if !self.peer_closed && end.code != 1006 {
                let code = if end.code == 1005 { 1000 } else { end.code };
                // A broken connection is noticed by the next pump.
                let _ = stream.send(&websocket::close_frame(code, &end.reason));
            }
            self.ending = Some((end, now + CLOSE_WAIT));
        }
    }

    /// Moves what can be moved.
    pub fn pump(&mut self, stream: &mut Stream, scratch: &mut Scratch, now: Instant) -> Pumped {
        if stream.flush(now).is_err() {
            self.close(stream, End::new(1006, "connection lost"), now);
            return Pumped::Done;
        }
        if self.ending.is_some() {
            return self.pump_ending(stream, scratch);
        }
        let shared = self.back.is_shared();
        self.set_back_ready(shared, shared);
        let more_up = self.pump_up(stream, scratch, now);
        let more_down = self.ending.is_none() && self.pump_down(stream, scratch, now);
        self.note_stalls(stream.is_blocked(), now);
        match &self.ending {
            Some(_) => self.pump_ending(stream, scratch),
            None if more_up || more_down => Pumped::More,
            None => Pumped::Idle,
        }
    }

    /// Adds up how long either way has waited for its reader.
    fn note_stalls(&mut self, down_blocked: bool, now: Instant) {
        let is_stalled = [down_blocked && self.back_readable, !self.up.is_empty()];
        let mut waited = [Duration::ZERO; 2];
        for ((since, is_stalled), waited) in self.stalled.iter_mut().zip(is_stalled).zip(&mut waited) {
            *waited = since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
            *since = is_stalled.then_some(now);
        }
        let [down, up] = waited;
        if down + up > Duration::ZERO {
            self.ticket.meter.add_stall(down, up);
        }
    }

    /// Waits, reading and dropping, until the peer has closed too.
    fn pump_ending(&mut self, stream: &mut Stream, scratch: &mut Scratch) -> Pumped {
        if self.peer_closed && !stream.is_blocked() {
            return Pumped::Done;
        }
        loop {
            match stream.receive(scratch) {
                Received::Bytes(bytes) => {
                    let mut pos = 0;
                    while let Ok(Some(frame)) = self.decoder.decode(bytes, &mut pos) {
                        self.peer_closed |= matches!(frame, Frame::Close { .. });
                    }
                    if self.peer_closed && !stream.is_blocked() {
                        return Pumped::Done;
                    }
                }
                Received::Blocked => return Pumped::Idle,
                Received::End | Received::NotTls | Received::Broken(_) => return Pumped::Done,
            }
        }
    }

    /// Browser to QEMU. True when the quantum ended it.
    fn pump_up(&mut self, stream: &mut Stream, scratch: &mut Scratch, now: Instant) -> bool {
        let mut budget = QUANTUM;
        loop {
            if !self.up.is_empty() && !self.write_waiting(now) {
                return false;
            }
            if budget == 0 {
                return stream.is_readable();
            }
            match stream.receive(scratch) {
                Received::Bytes(bytes) => {
                    budget = budget.saturating_sub(bytes.len());
                    if let Err(end) = self.take_frames(bytes, stream, now) {
                        self.close(stream, end, now);
                        return false;
                    }
                }
                Received::Blocked => return false,
                Received::End => {
                    self.close(stream, End::new(1006, "the browser left"), now);
                    self.peer_closed = true;
                    return false;
                }
                Received::NotTls => return false,
                Received::Broken(why) => {
                    self.close(stream, End { code: 1006, reason: why }, now);
                    self.peer_closed = true;
                    return false;
                }
            }
        }
    }

    fn take_frames(&mut self, bytes: &mut [u8], stream: &mut Stream, now: Instant) -> Result<(), End> {
        let mut pos = 0;
        loop {
            let frame = self.decoder.decode(bytes, &mut pos);
            match frame.map_err(|e| End { code: e.close_code(), reason: e.to_string() })? {
                None => return Ok(()),
                Some(Frame::Data(payload)) => {
                    let (payload, input) = self.tracker.pass(payload, self.ticket.control.get())?;
                    self.ticket.meter.add_up(payload.len(), input.then_some(now));
                    match write_some(&mut self.back, &mut self.back_writable, &self.up, payload) {
                        _ if self.lost.is_some() => {}
                        Ok(rest) => self.up.extend_from_slice(rest),
                        Err(_) => self.lose(now),
                    }
                }
                Some(Frame::Ping(payload)) => {
                    if stream.waiting() < PONG_ROOM {
                        let pong = websocket::pong_frame(payload.as_ref());
                        stream.send(&pong).map_err(|_| End::new(1006, "connection lost"))?;
                    }
                }
                Some(Frame::Pong(_)) => {}
                Some(Frame::Close { code, .. }) => {
                    self.close(stream, End::new(code.unwrap_or(1005), "closed by the browser"), now);
                    self.peer_closed = true;
                    return Ok(());
                }
            }
        }
    }

    /// Writes what QEMU's socket refused before; false while some of it is left.
    fn write_waiting(&mut self, now: Instant) -> bool {
        while self.back_writable && !self.up.is_empty() {
            match self.back.write(&self.up) {
                Ok(count) => drop(self.up.drain(..count)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.back_writable = false,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.lose(now);
                    return false;
                }
            }
        }
        if self.up.is_empty() {
            // An idle relay holds no buffer.
            self.up = Vec::new();
        }
        self.up.is_empty()
    }

    /// QEMU's socket is of no use any more. Mostly its VM stopped, and that word is on its way.
    fn lose(&mut self, now: Instant) {
        self.lost.get_or_insert(now + LOST_WAIT);
        self.back_readable = false;
        self.back_writable = false;
        self.up = Vec::new();
    }

    /// QEMU to browser. True when the quantum ended it.
    fn pump_down(&mut self, stream: &mut Stream, scratch: &mut Scratch, now: Instant) -> bool {
        let mut budget = QUANTUM;
        while self.back_readable && budget > 0 && !stream.is_blocked() {
            if self.back.takes_mark() && stream.send(&EMPTY_FRAME).is_err() {
                self.close(stream, End::new(1006, "connection lost"), now);
                return false;
            }
            let Some(room) = scratch.down.get_mut(HEADER_ROOM..HEADER_ROOM + READ_BYTES) else { return false };
            match self.back.read(room) {
                Ok(0) => {
                    self.lose(now);
                    return false;
                }
                Ok(count) => {
                    budget = budget.saturating_sub(count);
                    self.ticket.meter.add_down(count);
                    let (header, len) = websocket::frame_header(count, websocket::OP_BINARY);
                    let start = HEADER_ROOM - len;
                    scratch.down[start..HEADER_ROOM].copy_from_slice(&header[..len]);
                    if stream.send(&scratch.down[start..HEADER_ROOM + count]).is_err() {
                        self.close(stream, End::new(1006, "connection lost"), now);
                        return false;
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.back_readable = false,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.lose(now);
                    return false;
                }
            }
        }
        self.back_readable && !stream.is_blocked()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(on_end) = self.ticket.on_end.take() {
            on_end(self.ending.as_ref().map(|(end, _)| end));
        }
    }
}

/// Writes `payload` unless earlier bytes wait; returns what is left of it.
fn write_some<'a>(
    back: &mut Back,
    writable: &mut bool,
    waiting: &[u8],
    payload: &'a [u8],
) -> std::io::Result<&'a [u8]> {
    let mut rest = payload;
    while waiting.is_empty() && *writable && !rest.is_empty() {
        match back.write(rest) {
            Ok(count) => rest = rest.get(count..).unwrap_or_default(),
            Err(e) if e.kind() == ErrorKind::WouldBlock => *writable = false,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(rest)
}
