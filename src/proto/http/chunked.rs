//! The chunked transfer coding (RFC 9112 7.1), strict: CR LF only, bounded sizes, extensions and trailers; both are dropped.

use super::reader::RequestError;

/// Longest size line with its extensions, without the line end.
const LINE: usize = 256;
/// Most trailer lines.
const TRAILERS: usize = 32;
/// Digits of a chunk size: 2^60 bytes are enough.
const DIGITS: usize = 15;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size,
    Data(u64),
    DataEnd,
    Trailer(usize),
    Done,
}

/// What comes out.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Bytes of the body.
    Data(&'a [u8]),
    /// The body is whole.
    End,
}

/// Takes the coding off; the caller keeps what is not consumed.
#[derive(Debug)]
pub struct Chunked(State);

impl Default for Chunked {
    fn default() -> Self {
        Self(State::Size)
    }
}

impl Chunked {
    /// Takes what it can from the front of `input`; `None` needs more bytes.
    ///
    /// # Errors
    /// 400 for anything that is not exactly the coding.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Piece<'a>>, RequestError> {
        loop {
            match self.0 {
                State::Size => {
                    let Some(line) = take_line(input)? else { return Ok(None) };
                    let size = parse_size(line)?;
                    self.0 = if size == 0 { State::Trailer(0) } else { State::Data(size) };
                }
                State::Data(left) => {
                    let take = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                    if take == 0 {
                        return Ok(None);
                    }
                    let Some((data, rest)) = input.split_at_checked(take) else { return Ok(None) };
                    *input = rest;
                    let left = left - take as u64;
                    self.0 = if left == 0 { State::DataEnd } else { State::Data(left) };
                    return Ok(Some(Piece::Data(data)));
                }
                State::DataEnd => match input {
                    [b'\r', b'\n', rest @ ..] => {
                        *input = rest;
                        self.0 = State::Size;
                    }
                    [] | [b'\r'] => return Ok(None),
                    _ => return Err(RequestError::BadChunk),
                },
                State::Trailer(seen) => {
                    let Some(line) = take_line(input)? else { return Ok(None) };
                    if line.is_empty() {
                        self.0 = State::Done;
                        return Ok(Some(Piece::End));
                    }
                    if seen == TRAILERS {
                        return Err(RequestError::TooManyHeaders);
                    }
                    self.0 = State::Trailer(seen + 1);
                }
                State::Done => return Ok(None),
            }
        }
    }
}

fn take_line<'a>(input: &mut &'a [u8]) -> Result<Option<&'a [u8]>, RequestError> {
    // The length first: what a line is refused for must not depend on how much of it has come.
    let at = memchr::memchr(b'\n', input);
    if at.unwrap_or(input.len()) > LINE + 1 {
        return Err(RequestError::BadChunk);
    }
    let Some(at) = at else { return Ok(None) };
    let (line, rest) = input.split_at_checked(at + 1).ok_or(RequestError::BadChunk)?;
    let line = line.strip_suffix(b"\r\n").ok_or(RequestError::BareLineFeed)?;
    if line.iter().any(|b| matches!(b, b'\r' | 0)) {
        return Err(RequestError::BadChunk);
    }
    *input = rest;
    Ok(Some(line))
}

fn parse_size(line: &[u8]) -> Result<u64, RequestError> {
    let digits = line.split(|&b| b == b';').next().unwrap_or_default();
    // RFC 9112 7.1.1 allows white space before the semicolon; a sender does not make it, a smuggler does.
    if digits.is_empty() || digits.len() > DIGITS || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(RequestError::BadChunk);
    }
    let text = std::str::from_utf8(digits).map_err(|_| RequestError::BadChunk)?;
    u64::from_str_radix(text, 16).map_err(|_| RequestError::BadChunk)
}
