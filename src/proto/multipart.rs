//! `multipart/form-data` as it streams by (RFC 7578, RFC 2046 5.1): parts with their names, file bytes in whatever pieces they come.
//!
//! ```text
//! preamble CRLF --boundary CRLF fields CRLF CRLF bytes CRLF --boundary CRLF … CRLF --boundary-- epilogue
//! ```
//! Nothing of a part's bytes is kept: a delimiter that is cut by two reads is a count of its bytes, since what was seen of it is known.
//! No carriage return but its first byte is in a delimiter, so a false start never hides a true one.
//! Fields of a part are bounded, and so are the parts.

use memchr::memchr;
use std::fmt;

/// Bytes of one part's fields.
const FIELDS_MAX: usize = 8 * 1024;
/// Parts of a form.
const PARTS_MAX: usize = 64;
/// White space allowed between a boundary and its line's end.
const PADDING_MAX: usize = 64;
/// RFC 2046 5.1.1.
const BOUNDARY_MAX: usize = 70;

/// Why it is no form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormError {
    /// Not `multipart/form-data` with a boundary.
    NoBoundary,
    /// Something else than a line's end behind a boundary.
    BadDelimiter,
    /// A part's fields are too long.
    FieldsTooLong,
    /// A part has no `Content-Disposition: form-data` with a name.
    NoName,
    /// A part is encoded; forms have none of it (RFC 7578 4.7).
    Encoded,
    /// There are too many parts.
    TooManyParts,
    /// The body ended before its last boundary.
    Truncated,
}

impl fmt::Display for FormError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoBoundary => "Send a form: Content-Type must be multipart/form-data with a boundary.",
            Self::BadDelimiter => "The form's boundary is followed by something that does not belong there.",
            Self::FieldsTooLong => "The header fields of a part of the form are too long.",
            Self::NoName => "A part of the form has no Content-Disposition: form-data with a name.",
            Self::Encoded => "A part of the form has a Content-Transfer-Encoding; send its bytes as they are.",
            Self::TooManyParts => "The form has too many parts.",
            Self::Truncated => "The form ended before its last boundary. Send it again.",
        })
    }
}

impl std::error::Error for FormError {}

/// What a part is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The field's name.
    pub name: String,
    /// The file's name as the client tells it, with folders it may have; `None` for a field that is no file.
    pub filename: Option<String>,
}

/// What comes out.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A part begins.
    Part(Part),
    /// Bytes of it.
    Data(&'a [u8]),
    /// It is whole.
    PartEnd,
    /// The form is whole; what follows is not looked at.
    End,
}

#[derive(Debug)]
enum State {
    Preamble,
    /// Behind a boundary: what came of its line.
    Behind(Vec<u8>),
    Fields(Vec<u8>),
    Data,
    Epilogue,
}

/// See the file's page.
#[derive(Debug)]
pub struct Form {
    /// CR LF, two dashes, the boundary.
    delimiter: Vec<u8>,
    /// How many of its bytes were seen.
    matched: usize,
    /// How many of those are no bytes of this part.
    lent: usize,
    state: State,
    parts: usize,
}

impl Form {
    /// A reader for the form that a `Content-Type` announces.
    ///
    /// # Errors
    /// [`FormError::NoBoundary`].
    pub fn new(content_type: &str) -> Result<Self, FormError> {
        let (kind, params) = content_type.split_once(';').ok_or(FormError::NoBoundary)?;
        if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
            return Err(FormError::NoBoundary);
        }
        let boundary = Params(params).find(|(name, _)| name.eq_ignore_ascii_case("boundary"));
        let boundary = boundary.map(|(_, value)| value).unwrap_or_default();
        let plain = boundary.bytes().all(|b| b.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&b));
        if boundary.is_empty() || boundary.len() > BOUNDARY_MAX || !plain || boundary.ends_with(' ') {
            return Err(FormError::NoBoundary);
        }
        let delimiter = [b"\r\n--", boundary.as_bytes()].concat();
        // The first boundary may be the first bytes: as if a line had ended before it.
        Ok(Self { delimiter, matched: 2, lent: 2, state: State::Preamble, parts: 0 })
    }

    /// Takes the next bytes of the body and tells what is in them.
    ///
    /// # Errors
    /// [`FormError`], or what `tell` says; the form is of no use then.
    pub fn receive<E: From<FormError>>(
        &mut self,
        bytes: &[u8],
        mut tell: impl FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = match &mut self.state {
                State::Epilogue => return Ok(()),
                State::Preamble | State::Data => self.look_for_delimiter(rest, &mut tell)?,
                State::Behind(line) => {
                    let (&byte, rest) = rest.split_first().unwrap_or((&0, &[]));
                    line.push(byte);
                    if line == b"--" {
                        self.state = State::Epilogue;
                        tell(Event::End)?;
                    } else if let Some(padding) = line.strip_suffix(b"\r\n") {
                        if !padding.iter().all(|b| matches!(b, b' ' | b'\t')) {
                            return Err(FormError::BadDelimiter.into());
                        }
                        self.state = State::Fields(Vec::new());
                    } else if line.len() > PADDING_MAX {
                        return Err(FormError::BadDelimiter.into());
                    }
                    rest
                }
                State::Fields(fields) => {
                    let (&byte, rest) = rest.split_first().unwrap_or((&0, &[]));
                    fields.push(byte);
                    if fields.ends_with(b"\r\n\r\n") || fields == b"\r\n" {
                        let part = part(fields)?;
                        self.parts += 1;
                        if self.parts > PARTS_MAX {
                            return Err(FormError::TooManyParts.into());
                        }
                        // An empty part's delimiter shares the line's end of its fields with them (RFC 2046 5.1.1).
                        (self.matched, self.lent) = (2, 2);
                        self.state = State::Data;
                        tell(Event::Part(part))?;
                    } else if fields.len() > FIELDS_MAX {
                        return Err(FormError::FieldsTooLong.into());
                    }
                    rest
                }
            };
        }
        Ok(())
    }

    /// The body is over.
    ///
    /// # Errors
    /// [`FormError::Truncated`].
    pub fn finish(&self) -> Result<(), FormError> {
        if matches!(self.state, State::Epilogue) { Ok(()) } else { Err(FormError::Truncated) }
    }

    /// Tells the part's bytes up to a delimiter, or all of them; returns what is behind it.
    fn look_for_delimiter<'a, E>(
        &mut self,
        bytes: &'a [u8],
        tell: &mut impl FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<&'a [u8], E> {
        let in_part = matches!(self.state, State::Data);
        let mut rest = bytes;
        loop {
            if self.matched == 0 {
                let at = memchr(b'\r', rest).unwrap_or(rest.len());
                let (data, behind) = rest.split_at_checked(at).unwrap_or((rest, &[]));
                if in_part && !data.is_empty() {
                    tell(Event::Data(data))?;
                }
                rest = behind;
                if rest.is_empty() {
                    return Ok(rest);
                }
            }
            let wanted = self.delimiter.get(self.matched..).unwrap_or_default();
            let same = wanted.iter().zip(rest).take_while(|(a, b)| a == b).count();
            let seen = self.matched + same;
            rest = rest.get(same..).unwrap_or_default();
            if seen == self.delimiter.len() {
                (self.matched, self.lent) = (0, 0);
                self.state = State::Behind(Vec::new());
                if in_part {
                    tell(Event::PartEnd)?;
                }
                return Ok(rest);
            }
            if rest.is_empty() {
                self.matched = seen;
                return Ok(rest);
            }
            // A false start: what was seen is the part's, but for the line's end that is its fields'.
            let held = self.delimiter.get(self.lent..seen).unwrap_or_default();
            (self.matched, self.lent) = (0, 0);
            if in_part && !held.is_empty() {
                tell(Event::Data(held))?;
            }
        }
    }
}

/// Reads a part's fields.
fn part(fields: &[u8]) -> Result<Part, FormError> {
    let text = String::from_utf8_lossy(fields);
    let mut found = None;
    for line in text.split("\r\n") {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-transfer-encoding") {
            let plain = ["binary", "8bit", "7bit"].iter().any(|known| value.trim().eq_ignore_ascii_case(known));
            if !plain {
                return Err(FormError::Encoded);
            }
        }
        if name.eq_ignore_ascii_case("content-disposition")
            && let Some((kind, params)) = value.split_once(';')
            && kind.trim().eq_ignore_ascii_case("form-data")
        {
            found = Some(params);
        }
    }
    let (mut name, mut filename, mut extended) = (None, None, None);
    for (key, value) in Params(found.ok_or(FormError::NoName)?) {
        match key.to_ascii_lowercase().as_str() {
            "name" => name = Some(value),
            "filename" => filename = Some(value),
            "filename*" => extended = from_extended(&value),
            _ => {}
        }
    }
    Ok(Part { name: name.ok_or(FormError::NoName)?, filename: extended.or(filename) })
}

/// `UTF-8'en'na%C3%AFve.iso` (RFC 5987 3.2).
fn from_extended(value: &str) -> Option<String> {
    let (charset, rest) = value.split_once('\'')?;
    let (_, encoded) = rest.split_once('\'')?;
    let bytes: Vec<u8> = percent_encoding::percent_decode_str(encoded).collect();
    match charset.to_ascii_lowercase().as_str() {
        "utf-8" => String::from_utf8(bytes).ok(),
        "iso-8859-1" => Some(bytes.into_iter().map(char::from).collect()),
        _ => None,
    }
}

/// `; name=token; name="quoted \"string\""` (RFC 9110 5.6.6).
struct Params<'a>(&'a str);

impl Iterator for Params<'_> {
    type Item = (String, String);

    fn next(&mut self) -> Option<Self::Item> {
        let text = self.0.trim_start_matches([' ', '\t', ';']);
        let (name, rest) = text.split_once('=')?;
        let rest = rest.trim_start();
        let (value, rest) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_string(quoted),
            None => {
                let end = rest.find(';').unwrap_or(rest.len());
                let (value, rest) = rest.split_at_checked(end)?;
                (value.trim().to_owned(), rest)
            }
        };
        self.0 = rest;
        Some((name.trim().to_owned(), value))
    }
}

/// Up to the closing quote. Only a quote and a backslash can be escaped: old browsers write `C:\folder\file` as it is.
fn quoted_string(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, text.get(at + 1..).unwrap_or_default()),
            '\\' if chars.peek().is_some_and(|(_, next)| matches!(next, '"' | '\\')) => {
                value.extend(chars.next().map(|(_, next)| next));
            }
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
#[path = "multipart_tests.rs"]
mod tests;
