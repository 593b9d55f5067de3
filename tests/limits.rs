//! Bounds that strangers lean on: guesses made at once, pages of elsewhere, bytes meant to confuse, too many streams.

mod common;

use common::{Answer, Server, closed};
use serde_json::{Value, json};
use std::io::{Read, Write};

#[test]
fn guesses_made_at_once_are_as_few_as_guesses_made_in_turn() {
    let server = Server::with("tls = \"off\"", "login_failures_per_account = 3", "");
    server.sign_up("victim");
    let guess = || {
        let body = json!({"email": "victim", "password": "wrong horse!"});
        server.call("POST", "/auth/login", "", &body).status
    };
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let guesses: Vec<_> = (0..20).map(|_| scope.spawn(guess)).collect();
        guesses.into_iter().map(|guess| guess.join().expect("guess")).collect()
    });
    let tried = statuses.iter().filter(|status| **status == 401).count();
    assert_eq!(tried, 3, "passwords were compared {tried} times: {statuses:?}");
    assert!(statuses.iter().all(|status| [401, 429].contains(status)), "{statuses:?}");
    let right = json!({"email": "victim@example.org", "password": "correct horse"});
    for _ in 0..5 {
        let answer = server.call("POST", "/auth/login", "", &right);
        assert_eq!(answer.status, 200, "a right password takes nothing away: {answer:?}");
    }
    server.end();
}

#[test]
fn a_closed_server_takes_nobody() {
    let server = Server::with("tls = \"off\"\nsignup = \"closed\"", "", "");
    let body = json!({"email": "a@example.org", "password": "correct horse", "invite": "x"});
    assert_eq!(server.call("POST", "/auth/signup", "", &body).code(), "signup_closed");
    assert_eq!(server.call("GET", "/version", "", &Value::Null).json["signup"], json!("closed"));
    assert_eq!(server.count("select count(*) from users"), 0);
    server.end();
}

#[test]
fn a_bearer_is_never_sent_by_itself_and_needs_no_origin() {
    let server = Server::start();
    let token = server.sign_up("program");
    let post = |extra: &str| {
        server
            .raw(&format!(
                "POST /auth/password HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\n{extra}Content-Length: 2\r\nConnection: close\r\n\r\n{{}}",
                server.address
            ))
            .status
    };
    for extra in ["", "Origin: https://elsewhere.example\r\n", "Origin: null\r\n", "Sec-Fetch-Site: same-site\r\n"] {
        assert_eq!(post(extra), 422, "{extra:?}: it is let through to the fields");
    }
    server.end();
}

#[test]
fn nothing_is_answered_after_bytes_that_two_readers_could_read_differently() {
    let server = Server::start();
    let after = "GET /version HTTP/1.1\r\nHost: h\r\n\r\n";
    for head in [
        "Content-Length: 3\r\nContent-Length: 4\r\n",
        "Content-Length: 3, 4\r\n",
        "Content-Length: +3\r\n",
        "Content-Length: 0x3\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Content-Length : 3\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: identity, chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "X: a\r\n folded\r\n",
        "X: a\nY: b\r\n",
        "X: a\0b\r\n",
        "Host: other\r\n",
    ] {
        let answer = whole(&server, &format!("POST /auth/login HTTP/1.1\r\nHost: h\r\n{head}\r\n0\r\n\r\n{after}"));
        let first = Answer::parse(&answer);
        assert!([400, 413, 501].contains(&first.status), "{head:?}: {}", String::from_utf8_lossy(&answer));
        assert_eq!(answers_in(&answer), 1, "{head:?}: {}", String::from_utf8_lossy(&answer));
    }
    for chunks in
        ["-1\r\n", "ffffffffffffffffff\r\n", "3 \n", "3\r\nabcd\r\n0\r\n\r\n", "\r\n", "0x3\r\nabc\r\n0\r\n\r\n"]
    {
        let request =
            format!("POST /auth/login HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}{after}");
        let answer = whole(&server, &request);
        assert!(
            [400, 413].contains(&Answer::parse(&answer).status),
            "{chunks:?}: {}",
            String::from_utf8_lossy(&answer)
        );
        assert_eq!(answers_in(&answer), 1, "{chunks:?}: {}", String::from_utf8_lossy(&answer));
    }
    server.end();
}

fn whole(server: &Server, request: &str) -> Vec<u8> {
    let mut socket = server.connect();
    socket.write_all(request.as_bytes()).expect("send");
    let mut answer = Vec::new();
    // A reset after the answer is the server's right.
    let _ = socket.read_to_end(&mut answer);
    answer
}

fn answers_in(bytes: &[u8]) -> usize {
    bytes.windows(9).filter(|window| window == b"HTTP/1.1 ").count()
}

#[test]
fn a_frame_that_promises_too_much_or_breaks_the_protocol_ends_only_its_own_screen() {
    let server = Server::start();
    let token = server.sign_up("frames");
    let vm = server.launch(&token);
    let mut good = server.screen(&token, &vm);
    for (bytes, codes) in [
        // A length that cannot be: its top bit is set (RFC 6455 5.2).
        (vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4], [1002, 1009]),
        // A reserved bit; a reserved opcode; a ping above 125 bytes; a continuation of nothing.
        (vec![0xc2, 0x81, 1, 2, 3, 4, 0], [1002, 1002]),
        (vec![0x83, 0x81, 1, 2, 3, 4, 0], [1002, 1002]),
        (vec![0x89, 0xfe, 0, 126, 1, 2, 3, 4], [1002, 1002]),
        (vec![0x80, 0x81, 1, 2, 3, 4, 0], [1002, 1002]),
    ] {
        let mut screen = server.screen(&token, &vm);
        screen.get_mut().write_all(&bytes).expect("send");
        let (code, reason) = closed(&mut screen);
        assert!(codes.contains(&code), "{bytes:02x?}: {code} {reason}");
    }
    good.send(tungstenite::Message::Ping(b"x".to_vec().into())).expect("ping");
    while good.read().expect("pong") != tungstenite::Message::Pong(b"x".to_vec().into()) {}
    server.stop(&token, &vm);
    server.end();
}

#[test]
fn a_users_streams_are_counted_and_the_last_one_too_many_is_told_so() {
    let server = Server::with("tls = \"off\"", "event_streams_per_user = 2", "");
    let token = server.sign_up("tabs");
    let open = || {
        let mut socket = server.connect();
        write!(socket, "GET /events HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n\r\n").expect("send");
        let mut head = [0; 12];
        socket.read_exact(&mut head).expect("an answer");
        (String::from_utf8_lossy(&head[9..]).into_owned(), socket)
    };
    let (first, second) = (open(), open());
    assert_eq!((first.0.as_str(), second.0.as_str()), ("200", "200"));
    assert_eq!(open().0, "429");
    drop(first.1);
    common::until("the place of a tab that was closed is free", || (open().0 == "200").then_some(()));
    server.end();
}
