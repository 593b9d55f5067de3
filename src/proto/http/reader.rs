//! Requests out of bytes: a pull parser that keeps nothing of its own but where it stands.
//!
//! The connection holds the bytes; [`RequestReader::next`] takes from their front what is whole. A head is taken in one piece, a body as
//! it comes, by reference. After [`Event::End`] the next call begins the next request.

use super::chunked::{Chunked, Piece};
use super::head::{self, BodyLength, Head};
use crate::proto::problem::Problem;
use crate::proto::url::UrlError;
use std::fmt;

/// Bounds of a head.
#[derive(Debug, Clone)]
pub struct Limits {
    /// All of it, in bytes.
    pub head_bytes: usize,
    /// Its fields.
    pub headers: usize,
    /// The target, in bytes.
    pub target_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { head_bytes: 16 * 1024, headers: 100, target_bytes: 8 * 1024 }
    }
}

/// Why a request is refused. The connection closes after the answer: where the next request would begin cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestError {
    /// Not a request line and header fields.
    BadSyntax,
    /// A line that ends without CR.
    BareLineFeed,
    /// A field continued on the next line (RFC 9112 5.2).
    Folded,
    /// No field name, or white space in or behind it (RFC 9112 5.1).
    BadFieldName,
    /// No Host, several, or one that is no host (RFC 9112 3.2).
    BadHost,
    /// A target that is neither a path nor an http address.
    BadTarget,
    /// A path that cannot be decoded.
    BadPath(UrlError),
    /// Content-Length that is no number, or several (RFC 9112 6.3).
    BadLength,
    /// Content-Length beside Transfer-Encoding (RFC 9112 6.3).
    LengthAndChunked,
    /// Transfer-Encoding in HTTP/1.0 (RFC 9112 6.1).
    ChunkedInHttp10,
    /// A transfer coding other than chunked.
    UnknownCoding,
    /// A chunk that is none.
    BadChunk,
    /// An Expect other than 100-continue (RFC 9110 10.1.1).
    UnknownExpectation,
    /// The target is too long.
    TargetTooLong,
    /// The head is too large.
    HeadTooLarge,
    /// There are too many fields.
    TooManyHeaders,
    /// Not HTTP/1.0 or 1.1.
    BadVersion,
}

impl RequestError {
    /// The status code to answer.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::UnknownCoding => 501,
            Self::BadVersion => 505,
            Self::UnknownExpectation => 417,
            Self::TargetTooLong => 414,
            Self::HeadTooLarge | Self::TooManyHeaders => 431,
            _ => 400,
        }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadSyntax => "This is not an HTTP request.",
            Self::BareLineFeed => "A line of the request does not end in CR LF.",
            Self::Folded => "A header field is continued on the next line; send it on one line.",
            Self::BadFieldName => "A header field has no proper name.",
            Self::BadHost => "The request needs exactly one Host header field with a host in it.",
            Self::BadTarget => "The request's target is not a path of this server.",
            Self::BadPath(why) => return why.fmt(f),
            Self::BadLength => "Content-Length must be there once, as digits.",
            Self::LengthAndChunked => "Content-Length and Transfer-Encoding cannot both be there.",
            Self::ChunkedInHttp10 => "HTTP/1.0 has no Transfer-Encoding.",
            Self::UnknownCoding => "Only the transfer coding chunked is known here.",
            Self::BadChunk => "The chunked body is malformed.",
            Self::UnknownExpectation => "Only Expect: 100-continue is known here.",
            Self::TargetTooLong => "The address is too long.",
            Self::HeadTooLarge => "The header fields are too large.",
            Self::TooManyHeaders => "There are too many header fields.",
            Self::BadVersion => "Only HTTP/1.1 and HTTP/1.0 are spoken here.",
        })
    }
}

impl std::error::Error for RequestError {}

impl From<RequestError> for Problem {
    fn from(error: RequestError) -> Self {
        Self::new(error.status(), "bad_request", error.to_string())
    }
}

/// What comes out.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A request begins.
    Head(Head),
    /// Bytes of its body.
    Body(&'a [u8]),
    /// It is whole.
    End,
}

#[derive(Debug)]
enum State {
    /// True once an empty line was skipped (RFC 9112 2.2: one is).
    Head(bool),
    Length(u64),
    Chunked(Chunked),
    End,
}

/// See the file's page.
#[derive(Debug)]
pub struct RequestReader {
    limits: Limits,
    state: State,
}

impl RequestReader {
    /// A reader before its first request.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, state: State::Head(false) }
    }

    /// True when no byte of a next request was consumed.
    #[must_use]
    pub fn is_between_requests(&self) -> bool {
        matches!(self.state, State::Head(false))
    }

    /// In a body of known length: the bytes of it that are still to come. They may be taken past this reader, see
    /// [`RequestReader::skip`].
    #[must_use]
    pub fn length_left(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            _ => None,
        }
    }

    /// `count` bytes of a body of known length were taken elsewhere; more than there are is as all of them.
    pub fn skip(&mut self, count: u64) {
        if let State::Length(left) = &mut self.state {
            *left = left.saturating_sub(count);
            if *left == 0 {
                self.state = State::End;
            }
        }
    }

    /// Takes what it can from the front of `input`; `None` needs more bytes.
    ///
    /// # Errors
    /// See [`RequestError`]; the connection is of no use then.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, RequestError> {
        match &mut self.state {
            State::Head(skipped) => {
                if let [b'\r', b'\n', rest @ ..] = input
                    && !*skipped
                {
                    *input = rest;
                    *skipped = true;
                }
                match input {
                    [] => return Ok(None),
                    [b'\r'] if !*skipped => return Ok(None),
                    [b'\r' | b'\n', ..] => return Err(RequestError::BadSyntax),
                    _ => {}
                }
                // The preface of HTTP/2 with prior knowledge (RFC 9113 3.4).
                if input.starts_with(b"PRI * HTTP/2") {
                    return Err(RequestError::BadVersion);
                }
                let Some((head, len)) = head::parse(input, &self.limits)? else { return Ok(None) };
                *input = input.get(len..).unwrap_or_default();
                self.state = match head.body {
                    BodyLength::None => State::End,
                    BodyLength::Length(length) => State::Length(length),
                    BodyLength::Chunked => State::Chunked(Chunked::default()),
                };
                Ok(Some(Event::Head(head)))
            }
            State::Length(left) => {
                let take = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                if take == 0 {
                    return Ok(None);
                }
                let Some((body, rest)) = input.split_at_checked(take) else { return Ok(None) };
                *input = rest;
                *left -= take as u64;
                if *left == 0 {
                    self.state = State::End;
                }
                Ok(Some(Event::Body(body)))
            }
            State::Chunked(chunked) => match chunked.next(input)? {
                Some(Piece::Data(data)) => Ok(Some(Event::Body(data))),
                Some(Piece::End) => {
                    self.state = State::Head(false);
                    Ok(Some(Event::End))
                }
                None => Ok(None),
            },
            State::End => {
                self.state = State::Head(false);
                Ok(Some(Event::End))
            }
        }
    }
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
