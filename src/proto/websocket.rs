//! WebSocket (RFC 6455), the server's side, for a relay that copies nothing.
//!
//! [`Decoder`] unmasks a browser's frames where they lie and hands their payload on as it comes: messages are never put together,
//! because a relay does not care where they end. What it keeps between calls is a cut header or control frame, in fixed arrays.
//! tungstenite derives the handshake's key and is the other side in the tests.

use data_encoding::BASE64;
use std::fmt;

/// The opcode of a binary frame.
pub const OP_BINARY: u8 = 2;
const OP_CLOSE: u8 = 8;
const OP_PING: u8 = 9;
const OP_PONG: u8 = 10;
/// Longest header of a client's frame: 2 + 8 + 4.
const HEADER_MAX: usize = 14;
/// Longest payload of a control frame (5.5).
const CONTROL_MAX: usize = 125;
const CONTROL_MAX_U64: u64 = 125;
/// Longest payload of a frame: many times what noVNC and xterm.js send. It is not kept, only counted.
const FRAME_MAX: u64 = 16 * 1024 * 1024;

/// What a client did against the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WsError {
    /// A frame without a mask (5.1).
    Unmasked,
    /// A reserved bit without an extension (5.2).
    ReservedBits,
    /// An opcode nobody knows.
    UnknownOpcode,
    /// A control frame that is too long or in pieces (5.5).
    BadControl,
    /// A continuation of nothing, or a new message inside another (5.4).
    BadContinuation,
    /// The top bit of a 64-bit length (5.2).
    BadLength,
    /// More in one frame than anybody has to say.
    TooBig,
    /// Text where only binary has a meaning.
    Text,
    /// A close frame whose body is malformed (5.5.1).
    BadClose,
}

impl WsError {
    /// The code to close with (7.4.1).
    #[must_use]
    pub fn close_code(self) -> u16 {
        match self {
            Self::Text => 1003,
            Self::TooBig => 1009,
            _ => 1002,
        }
    }
}

impl fmt::Display for WsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unmasked => "frame without a mask",
            Self::ReservedBits => "reserved bits set",
            Self::UnknownOpcode => "unknown opcode",
            Self::BadControl => "control frame too long or fragmented",
            Self::BadContinuation => "continuation out of order",
            Self::BadLength => "impossible length",
            Self::TooBig => "frame too big",
            Self::Text => "only binary frames are taken here",
            Self::BadClose => "malformed close frame",
        })
    }
}

impl std::error::Error for WsError {}

/// What to do with text frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextPolicy {
    /// Close with 1003.
    Refuse,
    /// Take them as bytes; as nothing is put together, their UTF-8 is not checked.
    Accept,
}

/// The payload of a control frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlPayload {
    bytes: [u8; CONTROL_MAX],
    len: usize,
}

impl ControlPayload {
    const EMPTY: Self = Self { bytes: [0; CONTROL_MAX], len: 0 };

    fn extend(&mut self, more: &[u8]) {
        for &byte in more {
            if let Some(slot) = self.bytes.get_mut(self.len) {
                *slot = byte;
                self.len += 1;
            }
        }
    }
}

impl AsRef<[u8]> for ControlPayload {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// What comes out of a decoder.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Payload of data frames, unmasked; any part of it.
    Data(&'a [u8]),
    /// A ping, to be answered with the same payload.
    Ping(ControlPayload),
    /// A pong.
    Pong(ControlPayload),
    /// The client closes.
    Close {
        /// Its code, if it gave one.
        code: Option<u16>,
    },
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// So many bytes of a header are kept.
    Header,
    Payload {
        left: u64,
        mask: [u8; 4],
        phase: usize,
        opcode: u8,
    },
}

/// See the file's page.
#[derive(Debug)]
pub struct Decoder {
    text: TextPolicy,
    state: State,
    header: [u8; HEADER_MAX],
    header_len: usize,
    control: ControlPayload,
    /// Inside a message whose last frame has not come.
    in_message: bool,
}

impl Decoder {
    /// A decoder before its first frame.
    #[must_use]
    pub fn new(text: TextPolicy) -> Self {
        Self {
            text,
            state: State::Header,
            header: [0; HEADER_MAX],
            header_len: 0,
            control: ControlPayload::EMPTY,
            in_message: false,
        }
    }

    /// The next thing in `buffer` from `pos` on, which moves on. `None`: all was consumed.
    ///
    /// # Errors
    /// See [`WsError`]; nothing more can be read then.
    pub fn decode<'a>(&mut self, buffer: &'a mut [u8], pos: &mut usize) -> Result<Option<Frame<'a>>, WsError> {
        loop {
            match self.state {
                State::Header => {
                    if !self.take_header(buffer, pos)? {
                        return Ok(None);
                    }
                    // An empty frame has no payload to wait for.
                    if let State::Payload { left: 0, opcode, .. } = self.state {
                        self.state = State::Header;
                        if opcode >= OP_CLOSE {
                            return self.control_frame(opcode).map(Some);
                        }
                    }
                }
                State::Payload { left, mask, phase, opcode } => {
                    let there = buffer.len().saturating_sub(*pos);
                    let take = usize::try_from(left).unwrap_or(usize::MAX).min(there);
                    if take == 0 {
                        return Ok(None);
                    }
                    let from = *pos;
                    *pos += take;
                    let left = left - take as u64;
                    self.state = if left == 0 {
                        State::Header
                    } else {
                        State::Payload { left, mask, phase: (phase + take) % 4, opcode }
                    };
                    if opcode < OP_CLOSE {
                        let payload = buffer.get_mut(from..from + take).unwrap_or_default();
                        unmask(payload, mask, phase);
                        return Ok(Some(Frame::Data(payload)));
                    }
                    let payload = buffer.get_mut(from..from + take).unwrap_or_default();
                    unmask(payload, mask, phase);
                    self.control.extend(payload);
                    if left == 0 {
                        return self.control_frame(opcode).map(Some);
                    }
                }
            }
        }
    }

    /// Takes header bytes; true when the header is whole.
    fn take_header(&mut self, buffer: &[u8], pos: &mut usize) -> Result<bool, WsError> {
        loop {
            let needed = self.header_needed();
            if self.header_len == needed {
                break;
            }
            let Some(&byte) = buffer.get(*pos) else { return Ok(false) };
            *pos += 1;
            if let Some(slot) = self.header.get_mut(self.header_len) {
                *slot = byte;
            }
            self.header_len += 1;
            if self.header_len == 2 {
                self.check_start()?;
            }
        }
        self.header_len = 0;
        self.begin_payload()?;
        Ok(true)
    }

    /// Bytes that a header has which begins like this one.
    fn header_needed(&self) -> usize {
        match (self.header_len, self.header.get(1).map(|b| b & 0x7f)) {
            (0 | 1, _) => 2,
            (_, Some(126)) => 8,
            (_, Some(127)) => 14,
            _ => 6,
        }
    }

    fn check_start(&mut self) -> Result<(), WsError> {
        let [first, second, ..] = self.header;
        let (fin, opcode, len) = (first & 0x80 != 0, first & 0x0f, second & 0x7f);
        if first & 0x70 != 0 {
            return Err(WsError::ReservedBits);
        }
        if second & 0x80 == 0 {
            return Err(WsError::Unmasked);
        }
        match opcode {
            0 if !self.in_message => Err(WsError::BadContinuation),
            1 | 2 if self.in_message => Err(WsError::BadContinuation),
            1 if self.text == TextPolicy::Refuse => Err(WsError::Text),
            0..=2 => {
                self.in_message = !fin;
                Ok(())
            }
            OP_CLOSE..=OP_PONG if fin && usize::from(len) <= CONTROL_MAX => Ok(()),
            OP_CLOSE..=OP_PONG => Err(WsError::BadControl),
            _ => Err(WsError::UnknownOpcode),
        }
    }

    fn begin_payload(&mut self) -> Result<(), WsError> {
        let [first, second, a, b, c, d, e, f, g, h, i, j, k, l] = self.header;
        let (left, mask) = match second & 0x7f {
            126 => (u64::from(u16::from_be_bytes([a, b])), [c, d, e, f]),
            127 => (u64::from_be_bytes([a, b, c, d, e, f, g, h]), [i, j, k, l]),
            short => (u64::from(short), [a, b, c, d]),
        };
        if left >> 63 != 0 {
            return Err(WsError::BadLength);
        }
        if left > FRAME_MAX {
            return Err(WsError::TooBig);
        }
        let opcode = first & 0x0f;
        if opcode >= OP_CLOSE {
            debug_assert!(left <= CONTROL_MAX_U64);
            self.control = ControlPayload::EMPTY;
        }
        self.state = State::Payload { left, mask, phase: 0, opcode };
        Ok(())
    }

    fn control_frame<'a>(&self, opcode: u8) -> Result<Frame<'a>, WsError> {
        match opcode {
            OP_PING => Ok(Frame::Ping(self.control)),
            OP_PONG => Ok(Frame::Pong(self.control)),
            _ => match self.control.as_ref() {
                [] => Ok(Frame::Close { code: None }),
                [high, low, reason @ ..] => {
                    let code = u16::from_be_bytes([*high, *low]);
                    // 7.4: codes that may travel.
                    let may = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
                    if may && std::str::from_utf8(reason).is_ok() {
                        Ok(Frame::Close { code: Some(code) })
                    } else {
                        Err(WsError::BadClose)
                    }
                }
                [_] => Err(WsError::BadClose),
            },
        }
    }
}

/// Removes the mask (5.3), eight bytes at a time, beginning at `phase` of the key.
fn unmask(payload: &mut [u8], mask: [u8; 4], phase: usize) {
    let mut key = mask;
    key.rotate_left(phase % 4);
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (chunks, rest) = payload.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

/// The header of an unmasked frame with all of a message, and how many of the bytes it has.
#[must_use]
pub fn frame_header(len: usize, opcode: u8) -> ([u8; 10], usize) {
    let first = 0x80 | opcode;
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ 0..=125), _) => ([first, len, 0, 0, 0, 0, 0, 0, 0, 0], 2),
        (_, Ok(len)) => {
            let [a, b] = len.to_be_bytes();
            ([first, 126, a, b, 0, 0, 0, 0, 0, 0], 4)
        }
        _ => {
            let [a, b, c, d, e, f, g, h] = (len as u64).to_be_bytes();
            ([first, 127, a, b, c, d, e, f, g, h], 10)
        }
    }
}

/// A close frame; a reason that is too long is cut.
#[must_use]
pub fn close_frame(code: u16, reason: &str) -> Vec<u8> {
    let mut end = reason.len().min(CONTROL_MAX - 2);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let mut body = code.to_be_bytes().to_vec();
    body.extend_from_slice(reason.get(..end).unwrap_or_default().as_bytes());
    control(OP_CLOSE, &body)
}

/// A pong with a ping's payload.
#[must_use]
pub fn pong_frame(payload: &[u8]) -> Vec<u8> {
    control(OP_PONG, payload.get(..payload.len().min(CONTROL_MAX)).unwrap_or_default())
}

fn control(opcode: u8, body: &[u8]) -> Vec<u8> {
    let (header, len) = frame_header(body.len(), opcode);
    let mut frame = header.get(..len).unwrap_or_default().to_vec();
    frame.extend_from_slice(body);
    frame
}

/// The header fields of an upgrade request.
#[derive(Debug, Clone, Copy, Default)]
pub struct Upgrade<'a> {
    /// `Upgrade`.
    pub upgrade: Option<&'a str>,
    /// `Connection`.
    pub connection: Option<&'a str>,
    /// `Sec-WebSocket-Version`.
    pub version: Option<&'a str>,
    /// `Sec-WebSocket-Key`.
    pub key: Option<&'a str>,
    /// `Sec-WebSocket-Protocol`.
    pub protocols: Option<&'a str>,
}

/// What to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accept {
    /// `Sec-WebSocket-Accept`.
    pub key: String,
    /// `Sec-WebSocket-Protocol`, when `binary` was offered.
    pub protocol: Option<&'static str>,
}

/// Why a request is no upgrade (4.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeError {
    /// It does not ask for one.
    NotWebsocket,
    /// Another version than 13.
    Version,
    /// The key is not 16 bytes in base64.
    Key,
}

impl HandshakeError {
    /// The status code to answer.
    #[must_use]
    pub fn status(self) -> u16 {
        if self == Self::Key { 400 } else { 426 }
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotWebsocket => "This address speaks websocket: send Connection: Upgrade and Upgrade: websocket.",
            Self::Version => "Only version 13 of the websocket protocol is spoken here.",
            Self::Key => "Sec-WebSocket-Key must be 16 bytes in base64.",
        })
    }
}

/// Checks an upgrade request.
///
/// # Errors
/// See [`HandshakeError`].
pub fn accept(asked: &Upgrade<'_>) -> Result<Accept, HandshakeError> {
    let lists = |field: Option<&str>, token: &str| {
        field.is_some_and(|value| value.split(',').any(|item| item.trim().eq_ignore_ascii_case(token)))
    };
    if !lists(asked.upgrade, "websocket") || !lists(asked.connection, "upgrade") {
        return Err(HandshakeError::NotWebsocket);
    }
    if asked.version.map(str::trim) != Some("13") {
        return Err(HandshakeError::Version);
    }
    let key = asked.key.unwrap_or_default().trim();
    if BASE64.decode(key.as_bytes()).map(|bytes| bytes.len()) != Ok(16) {
        return Err(HandshakeError::Key);
    }
    Ok(Accept {
        key: tungstenite::handshake::derive_accept_key(key.as_bytes()),
        protocol: lists(asked.protocols, "binary").then_some("binary"),
    })
}

#[cfg(test)]
#[path = "websocket_tests.rs"]
mod tests;
