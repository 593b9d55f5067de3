//! Response heads (RFC 9112 4, 6; RFC 9110 15).

/// The interim response that lets a waiting client send its body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// The end of a chunked body.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// How the body's end is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// By its length.
    Length(u64),
    /// By the last chunk.
    Chunked,
    /// By closing the connection, for HTTP/1.0.
    UntilClose,
    /// There is none, and nothing may say so (101).
    None,
}

/// The reason phrase (RFC 9110 15, RFC 6585).
#[must_use]
pub fn reason(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        206 => "Partial Content",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        460 => "Checksum Mismatch",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "Unknown",
    }
}

/// Writes a head. A field whose name is no token or whose value has a control character in it is left out: it could only be an attempt
/// to write a second response.
pub fn write_head(
    out: &mut Vec<u8>,
    status: u16,
    headers: &[(&'static str, String)],
    framing: Framing,
    keep_alive: bool,
    date: &str,
) {
    out.extend_from_slice(format!("HTTP/1.1 {status} {}\r\n", reason(status)).as_bytes());
    write_field(out, "date", date);
    for (name, value) in headers {
        write_field(out, name, value);
    }
    match framing {
        // RFC 9110 8.6: no Content-Length with 1xx and 204; 304 would have to repeat that of the 200.
        Framing::Length(_) if status < 200 || status == 204 || status == 304 => {}
        Framing::Length(length) => write_field(out, "content-length", &length.to_string()),
        Framing::Chunked => write_field(out, "transfer-encoding", "chunked"),
        Framing::UntilClose | Framing::None => {}
    }
    if !keep_alive {
        write_field(out, "connection", "close");
    }
    out.extend_from_slice(b"\r\n");
}

fn write_field(out: &mut Vec<u8>, name: &str, value: &str) {
    let token = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    let clean = !value.bytes().any(|b| b.is_ascii_control() && b != b'\t');
    if token && clean {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// Writes one chunk.
pub fn write_chunk(out: &mut Vec<u8>, data: &[u8]) {
    if !data.is_empty() {
        out.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
        out.extend_from_slice(data);
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_parses_to_what_was_written() {
        let mut out = Vec::new();
        let headers = [("content-type", "text/plain".to_owned()), ("x-evil", "a\r\nset-cookie: b".to_owned())];
        write_head(&mut out, 404, &headers, Framing::Length(5), false, "Mon, 23 Nov 2026 10:11:03 GMT");
        let mut slots = [httparse::EMPTY_HEADER; 8];
        let mut response = httparse::Response::new(&mut slots);
        assert_eq!(response.parse(&out), Ok(httparse::Status::Complete(out.len())));
        assert_eq!((response.code, response.reason), (Some(404), Some("Not Found")));
        let names: Vec<&str> = response.headers.iter().map(|h| h.name).collect();
        assert_eq!(names, ["date", "content-type", "content-length", "connection"]);
    }

    #[test]
    fn statuses_without_a_body_say_no_length() {
        for status in [101, 204, 304] {
            let mut out = Vec::new();
            write_head(&mut out, status, &[], Framing::Length(0), true, "x");
            assert!(!String::from_utf8(out).unwrap().contains("content-length"), "{status}");
        }
    }

    #[test]
    fn chunks_carry_their_length_in_hex_and_none_ends_early() {
        let mut out = Vec::new();
        write_chunk(&mut out, b"0123456789abcdef");
        write_chunk(&mut out, b"");
        assert_eq!(out, b"10\r\n0123456789abcdef\r\n");
    }
}
