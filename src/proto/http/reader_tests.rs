//! Tables of requests that are taken and refused, and the property that cutting the bytes changes nothing.

use super::*;
use crate::proto::http::{Method, Version};

/// All events of `input` when it comes in pieces cut at `cuts`; adjacent body bytes joined.
fn events(input: &[u8], cuts: &[usize]) -> Result<Vec<String>, RequestError> {
    let mut reader = RequestReader::new(Limits::default());
    let (mut held, mut out, mut body): (Vec<u8>, Vec<String>, Vec<u8>) = (Vec::new(), Vec::new(), Vec::new());
    let mut bounds: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).chain([input.len()]).collect();
    bounds.sort_unstable();
    let mut from = 0;
    for to in bounds {
        held.extend_from_slice(&input[from..to]);
        from = to;
        let mut rest = held.as_slice();
        while let Some(event) = reader.next(&mut rest)? {
            match event {
                Event::Body(bytes) => body.extend_from_slice(bytes),
                Event::Head(head) => out.push(format!("{head:?}")),
                Event::End => out.push(format!("end after {:?}", String::from_utf8_lossy(&std::mem::take(&mut body)))),
            }
        }
        held = rest.to_vec();
    }
    Ok(out)
}

fn one(input: &str) -> Result<Head, RequestError> {
    let mut rest = input.as_bytes();
    match RequestReader::new(Limits::default()).next(&mut rest)? {
        Some(Event::Head(head)) => Ok(head),
        other => panic!("{input:?} gave {other:?}"),
    }
}

#[test]
fn a_plain_request_is_read() {
    let head = one("GET /a%20b?x=1&y HTTP/1.1\r\nHost: h:8443\r\nX-A:  v \r\n\r\n").unwrap();
    assert_eq!((head.method, head.path.as_str(), head.query.as_deref()), (Method::Get, "/a b", Some("x=1&y")));
    assert_eq!((head.version, head.headers.get("x-a"), head.keep_alive), (Version::Http11, Some("v"), true));
    assert_eq!((head.body, head.expect_continue), (BodyLength::None, false));
}

#[test]
fn connections_are_kept_or_closed_as_the_versions_say() {
    for (request, keep) in [
        ("GET / HTTP/1.1\r\nHost: h\r\n\r\n", true),
        ("GET / HTTP/1.1\r\nHost: h\r\nConnection: foo, Close\r\n\r\n", false),
        ("GET / HTTP/1.0\r\n\r\n", false),
        ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", true),
    ] {
        assert_eq!(one(request).unwrap().keep_alive, keep, "{request}");
    }
}

#[test]
fn the_absolute_form_gives_its_path() {
    for (target, path) in [("http://h/a?b", "/a"), ("HTTPS://h", "/"), ("http://h?x", "/")] {
        assert_eq!(one(&format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n")).unwrap().path, path, "{target}");
    }
    assert_eq!(one("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n").unwrap().path, "*");
}

/// Requests that two readers could take differently, each with the rule it breaks.
#[test]
fn what_two_readers_could_take_differently_is_refused() {
    use RequestError as E;
    let long = format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(9000));
    let many = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "a: b\r\n".repeat(100));
    let large = format!("GET / HTTP/1.1\r\nHost: h\r\na: {}\r\n\r\n", "b".repeat(17_000));
    let table: &[(&str, E)] = &[
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", E::LengthAndChunked),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", E::LengthAndChunked),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", E::BadLength),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", E::BadLength),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1, 1\r\n\r\n", E::BadLength),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\n", E::BadLength),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", E::BadLength),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0x1\r\n\r\n", E::BadLength),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1 1\r\n\r\n", E::BadLength),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n\r\n", E::BadLength),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999\r\n\r\n", E::BadLength),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", E::UnknownCoding),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", E::UnknownCoding),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n", E::UnknownCoding),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity\r\n\r\n", E::UnknownCoding),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n", E::UnknownCoding),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \u{b}chunked\r\n\r\n", E::BadSyntax),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", E::ChunkedInHttp10),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length : 1\r\n\r\n", E::BadFieldName),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent Length: 1\r\n\r\n", E::BadFieldName),
        ("GET / HTTP/1.1\r\nHost: h\r\n: x\r\n\r\n", E::BadFieldName),
        ("GET / HTTP/1.1\r\nHost: h\r\nnocolon\r\n\r\n", E::BadFieldName),
        ("GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n c\r\n\r\n", E::Folded),
        ("GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n\tc\r\n\r\n", E::Folded),
        ("GET / HTTP/1.1\r\n Host: h\r\n\r\n", E::Folded),
        ("GET / HTTP/1.1\nHost: h\r\n\r\n", E::BareLineFeed),
        ("GET / HTTP/1.1\r\nHost: h\nA: b\r\n\r\n", E::BareLineFeed),
        ("GET / HTTP/1.1\nHost: h\n\n", E::BareLineFeed),
        ("GET / HTTP/1.1\r\nHost: h\r\nA: b\rc\r\n\r\n", E::BadSyntax),
        ("GET / HTTP/1.1\r\nHost: h\r\nA: b\0c\r\n\r\n", E::BadSyntax),
        ("GET / HTTP/1.1\r\n\r\n", E::BadHost),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", E::BadHost),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", E::BadHost),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", E::BadHost),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", E::BadHost),
        ("GET / HTTP/1.1\r\nHost: user@a\r\n\r\n", E::BadHost),
        ("GET a HTTP/1.1\r\nHost: h\r\n\r\n", E::BadPath(UrlError::NotAbsolute)),
        ("GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n", E::BadPath(UrlError::NotAbsolute)),
        ("CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n", E::BadPath(UrlError::NotAbsolute)),
        ("GET * HTTP/1.1\r\nHost: h\r\n\r\n", E::BadTarget),
        ("GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n", E::BadTarget),
        ("GET /../etc/passwd HTTP/1.1\r\nHost: h\r\n\r\n", E::BadPath(UrlError::DotSegment)),
        ("GET /%2e%2e/x HTTP/1.1\r\nHost: h\r\n\r\n", E::BadPath(UrlError::DotSegment)),
        ("GET /%00 HTTP/1.1\r\nHost: h\r\n\r\n", E::BadPath(UrlError::Control)),
        ("GET /  HTTP/1.1\r\nHost: h\r\n\r\n", E::BadVersion),
        ("GET\t/ HTTP/1.1\r\nHost: h\r\n\r\n", E::BadSyntax),
        ("G\u{1}T / HTTP/1.1\r\nHost: h\r\n\r\n", E::BadSyntax),
        ("GET / HTTP/1.2\r\nHost: h\r\n\r\n", E::BadVersion),
        ("GET / HTTP/2.0\r\nHost: h\r\n\r\n", E::BadVersion),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", E::BadVersion),
        ("GET / HTTP/1.1\r\nHost: h\r\nExpect: 200-ok\r\n\r\n", E::UnknownExpectation),
        ("\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", E::BadSyntax),
        ("\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", E::BadSyntax),
        (&long, E::TargetTooLong),
        (&many, E::TooManyHeaders),
        (&large, E::HeadTooLarge),
    ];
    for (request, error) in table {
        let mut rest = request.as_bytes();
        let got = RequestReader::new(Limits::default()).next(&mut rest);
        assert_eq!(got, Err(*error), "{:?}", &request[..request.len().min(90)]);
    }
}

#[test]
fn a_head_that_never_ends_is_refused_at_its_bound() {
    for (start, filler, error) in
        [("GET / HTTP/1.1\r\n", "a: b\r\n", RequestError::HeadTooLarge), ("", "A", RequestError::TargetTooLong)]
    {
        let mut held = start.as_bytes().to_vec();
        let mut reader = RequestReader::new(Limits::default());
        let refused = loop {
            held.extend_from_slice(filler.as_bytes());
            if let Err(e) = reader.next(&mut held.as_slice()) {
                break e;
            }
            assert!(held.len() < 20_000, "nothing refused it");
        };
        assert_eq!(refused, error);
    }
}

#[test]
fn chunks_are_strict() {
    let request = |body: &str| format!("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
    let good = events(request("5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nTrailer: x\r\n\r\n").as_bytes(), &[]).unwrap();
    assert_eq!(good.last().unwrap(), "end after \"hello!\"");
    for bad in [
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-1\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "ffffffffffffffff\r\n",
        "0\r\nA: b\n\r\n",
    ] {
        assert!(events(request(bad).as_bytes(), &[]).is_err(), "{bad:?}");
    }
    assert!(events(request(&format!("5;{}", "x".repeat(300))).as_bytes(), &[]).is_err(), "an endless extension");
    assert!(events(request(&format!("0\r\n{}", "a: b\r\n".repeat(40))).as_bytes(), &[]).is_err(), "endless trailers");
}

/// Found by fuzzing: a line that is too long and ends in a bare line feed was refused for the one or for the other.
#[test]
fn r01_an_error_does_not_depend_on_how_the_bytes_were_cut() {
    let long = format!("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5;{}\n", "x".repeat(600));
    let method = format!("{} / HTTP/1.1\n\r\n\r\n", "G".repeat(9000));
    let head = format!("GET / HTTP/1.1\nA: {}\r\n\r\n", "b".repeat(20_000));
    for input in [long, method, head] {
        let whole = events(input.as_bytes(), &[]);
        assert!(whole.is_err(), "{whole:?}");
        for cut in (0..input.len()).step_by(97) {
            assert_eq!(events(input.as_bytes(), &[cut]), whole, "cut at {cut}");
        }
    }
}

#[test]
fn pipelined_requests_come_out_one_after_the_other() {
    let input = "POST /1 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n";
    let got = events(input.as_bytes(), &[]).unwrap();
    assert_eq!(got.len(), 4, "{got:?}");
    assert_eq!((got[1].as_str(), got[3].as_str()), ("end after \"abc\"", "end after \"\""));
}

proptest::proptest! {
    #[test]
    fn cutting_the_bytes_changes_nothing(cuts in proptest::collection::vec(0..1000usize, 0..12), which in 0..5usize) {
        let inputs = [
            "POST /a?b HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\nhello worldGET / HTTP/1.1\r\nHost: h\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n10;e=1\r\n0123456789abcdef\r\n0\r\nT: v\r\n\r\n",
            "\r\nGET / HTTP/1.0\r\n\r\n\r\nGET /x HTTP/1.0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcX",
            "GET / HTTP/1.1\r\nHost: h\r\nA: b\nC: d\r\n\r\n",
        ];
        let input = inputs[which].as_bytes();
        // What was told before an error may differ in amount, the error may not.
        proptest::prop_assert_eq!(events(input, &cuts), events(input, &[]));
    }

    #[test]
    fn no_bytes_make_it_panic(input in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
        let _ = events(&input, &[7, 50]);
    }
}
