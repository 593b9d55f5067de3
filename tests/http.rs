//! HTTP/1.1 and TLS as browsers, curl and others meet them, and the faults around them.

mod common;

use common::{Answer, Server, until};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;

/// Reads one answer with a Content-Length and leaves the connection open.
fn one(socket: &mut impl Read) -> Answer {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") && socket.read(&mut byte).expect("head") == 1 {
        bytes.push(byte[0]);
    }
    let length = Answer::parse(&bytes).header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    socket.read_exact(&mut body).expect("body");
    bytes.extend_from_slice(&body);
    Answer::parse(&bytes)
}

fn asset(server: &Server) -> String {
    let home = server.call("GET", "/", "", &Value::Null);
    let text = String::from_utf8(home.body).expect("page");
    let at = text.find("/assets/style-").expect("a style sheet");
    text[at..].split('"').next().expect("its path").to_owned()
}

#[test]
fn connections_are_kept_pipelined_and_bodies_come_in_every_form() {
    let server = Server::start();
    let mut socket = server.connect();
    for _ in 0..3 {
        socket.write_all(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n").expect("send");
        assert_eq!(one(&mut socket).status, 200);
    }
    socket
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\nGET /nothing HTTP/1.1\r\nHost: h\r\n\r\nGET /version HTTP/1.1\r\nHost: h\r\n\r\n")
        .expect("send");
    let statuses: Vec<u16> = (0..3).map(|_| one(&mut socket).status).collect();
    assert_eq!(statuses, [200, 404, 200], "in their order");
    socket
        .write_all(b"HEAD /version HTTP/1.1\r\nHost: h\r\n\r\nGET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
        .expect("send");
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte).expect("head");
        head.push(byte[0]);
    }
    assert!(Answer::parse(&head).header("content-length").is_some());
    assert_eq!(one(&mut socket).status, 200, "HEAD has no body");

    let body = r#"{"email":"a@example.org","password":"correct horse"}"#;
    let (first, second) = body.split_at(10);
    write!(
        socket,
        "POST /auth/signup HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{:x};x=y\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\nT: t\r\n\r\n",
        first.len(),
        second.len()
    )
    .expect("send");
    assert_eq!(one(&mut socket).status, 201, "chunked");
    write!(
        socket,
        "POST /auth/login HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .expect("send");
    let mut interim = [0; 25];
    socket.read_exact(&mut interim).expect("interim");
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    socket.write_all(body.as_bytes()).expect("send");
    let signed_in = one(&mut socket);
    assert_eq!(signed_in.status, 200);
    let token = signed_in.json["token"].as_str().expect("token");
    write!(socket, "GET /events HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n\r\n").expect("send");
    let stream = one(&mut socket);
    assert_eq!(stream.header("transfer-encoding"), Some("chunked"));
    let mut chunk = [0; 4];
    socket.read_exact(&mut chunk).expect("chunk");
    assert_eq!(&chunk, b"29\r\n", "id: twelve digits and -0, event: vm, data: null");
    server.end();
}

#[test]
fn what_is_malformed_too_large_or_too_slow_is_answered_and_closed() {
    let server = Server::with("tls = \"off\"", "header_seconds = 1\nbody_seconds = 1", "");
    let long = "a".repeat(20_000);
    for (request, status) in [
        (
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
            400,
        ),
        ("GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n c\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET /%2e%2e/secret HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n".to_owned(), 501),
        ("GET / HTTP/3.0\r\nHost: h\r\n\r\n".to_owned(), 505),
        (format!("GET /{long} HTTP/1.1\r\nHost: h\r\n\r\n"), 414),
        (format!("GET / HTTP/1.1\r\nHost: h\r\nA: {long}\r\n\r\n"), 431),
        ("POST /run-iso HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999\r\n\r\n".to_owned(), 413),
        ("GET / HTTP/1.1\r\nHost: h\r\n".to_owned(), 408),
        ("POST /auth/login HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n{".to_owned(), 408),
    ] {
        let answer = server.raw(&request);
        assert_eq!(answer.status, status, "{:?}", &request[..request.len().min(60)]);
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(!answer.json["detail"].as_str().expect("detail").is_empty());
    }
    // A large body is answered so that its sender can read the answer, not by a reset.
    let mut socket = server.connect();
    socket.write_all(b"POST /auth/login HTTP/1.1\r\nHost: h\r\nContent-Length: 500000\r\n\r\n").expect("send");
    socket.write_all(&vec![b'x'; 500_000]).expect("the body is taken and dropped");
    assert_eq!(one(&mut socket).status, 413);
    let missing = server.call("DELETE", "/vms", "", &Value::Null);
    assert_eq!((missing.status, missing.header("allow")), (405, Some("GET, HEAD")));
    server.end();
}

#[test]
fn an_idle_connection_is_closed_without_a_word_and_every_request_has_its_line() {
    let server = Server::with("tls = \"off\"", "idle_seconds = 1\nheader_seconds = 1", "");
    let mut silent = server.connect();
    let mut idle = server.connect();
    idle.write_all(b"GET /version?secret=x HTTP/1.1\r\nHost: h\r\n\r\n").expect("send");
    let answer = one(&mut idle);
    for socket in [&mut silent, &mut idle] {
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).expect("closed");
        assert!(rest.is_empty(), "{:?}", String::from_utf8_lossy(&rest));
    }
    let id = answer.header("x-request-id").expect("an id").to_owned();
    let said = server.said();
    let line = said.lines().find(|line| line.contains(&id)).unwrap_or_else(|| panic!("no line for {id}: {said}"));
    assert!(line.contains("127.0.0.1 GET /version 200") && !line.contains("secret"), "{line}");
    server.end();
}

#[test]
fn assets_are_compressed_tagged_ranged_and_every_answer_is_guarded() {
    let server = Server::start();
    let path = asset(&server);
    let get = |extra: &str| server.raw(&format!("GET {path} HTTP/1.1\r\nHost: h\r\n{extra}Connection: close\r\n\r\n"));
    let plain = get("");
    assert_eq!((plain.status, plain.header("cache-control")), (200, Some("public, max-age=31536000, immutable")));
    let br = get("Accept-Encoding: gzip, br\r\n");
    assert_eq!((br.header("content-encoding"), br.header("vary")), (Some("br"), Some("Accept-Encoding")));
    assert!(br.body.len() < plain.body.len());
    let tag = plain.header("etag").expect("tag").to_owned();
    let coded = br.header("etag").expect("tag");
    for tag in [tag.as_str(), coded] {
        let inner = tag.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).expect("an entity tag is quoted");
        assert!(!inner.is_empty() && !inner.contains('"'), "{tag}");
    }
    assert_ne!(tag, coded);
    assert_eq!(get(&format!("If-None-Match: {tag}\r\n")).status, 304);
    let part = get("Range: bytes=10-19\r\n");
    assert_eq!((part.status, &part.body[..]), (206, &plain.body[10..20]));
    assert_eq!(part.header("content-range"), Some(format!("bytes 10-19/{}", plain.body.len()).as_str()));
    assert_eq!(get("Range: bytes=99999999-\r\n").status, 416);
    assert_eq!(get("Range: bytes=10-19\r\nIf-Range: \"other\"\r\n").status, 200);
    // What is made when it is first asked for goes out as the files do.
    let described =
        |extra: &str| server.raw(&format!("GET /openapi.json HTTP/1.1\r\nHost: h\r\n{extra}Connection: close\r\n\r\n"));
    let (wide, narrow) = (described(""), described("Accept-Encoding: gzip, br\r\n"));
    assert_eq!((narrow.header("content-encoding"), wide.header("content-encoding")), (Some("gzip"), None));
    assert!(narrow.body.len() * 5 < wide.body.len(), "{} of {}", narrow.body.len(), wide.body.len());
    let tag = narrow.header("etag").expect("tag").to_owned();
    assert_eq!(described(&format!("Accept-Encoding: gzip\r\nIf-None-Match: {tag}\r\n")).status, 304);
    for name in ["content-security-policy", "x-content-type-options", "referrer-policy", "x-request-id"] {
        for answer in [
            &plain,
            &server.call("GET", "/healthz", "", &Value::Null),
            &server.call("GET", "/nothing", "", &Value::Null),
        ] {
            assert!(
                answer.header(name).is_some() || (name == "x-request-id" && answer.status == 0),
                "{name}: {answer:?}"
            );
        }
    }
    let page = server.raw("GET /nothing HTTP/1.1\r\nHost: h\r\nAccept: text/html\r\nConnection: close\r\n\r\n");
    assert_eq!((page.status, page.header("content-type")), (404, Some("text/html; charset=utf-8")));
    server.end();
}

/// Takes any certificate and keeps it.
#[derive(Debug, Default)]
struct Any(std::sync::Mutex<Vec<u8>>);

impl rustls::client::danger::ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        cert: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        *self.0.lock().expect("lock") = cert.to_vec();
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

fn tls_client(seen: &Arc<Any>) -> Arc<rustls::ClientConfig> {
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(seen) as Arc<dyn rustls::client::danger::ServerCertVerifier>)
        .with_no_client_auth();
    Arc::new(config)
}

fn tls_open(
    server: &Server,
    config: &Arc<rustls::ClientConfig>,
) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
    let name = ServerName::try_from("localhost").expect("name");
    let connection = rustls::ClientConnection::new(Arc::clone(config), name).expect("client");
    rustls::StreamOwned::new(connection, server.connect())
}

fn tls_get(server: &Server, config: &Arc<rustls::ClientConfig>) -> (Answer, Option<rustls::HandshakeKind>) {
    let mut stream = tls_open(server, config);
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("send");
    (one(&mut stream), stream.conn.handshake_kind())
}

#[test]
fn tls_is_made_by_itself_resumed_reloaded_and_explained_to_who_speaks_plain_http() {
    let plain_port = std::net::TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("address").port();
    let folder = common::folder();
    let top = format!("http_port = {plain_port}");
    fs::write(folder.path().join("vmshare.toml"), common::settings(&folder.path().join("b"), &top, "", ""))
        .expect("settings");
    let mut server = Server::run_unready(folder);
    let seen = Arc::new(Any::default());
    let config = tls_client(&seen);
    let (answer, kind) = tls_get(&server, &config);
    assert_eq!((answer.status, kind), (200, Some(rustls::HandshakeKind::Full)));
    assert!(answer.header("strict-transport-security").is_some());
    assert_eq!(tls_get(&server, &config).1, Some(rustls::HandshakeKind::Resumed));

    let mut old = tls_open(&server, &config);
    old.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("send");
    assert_eq!(one(&mut old).status, 200);
    let before = seen.0.lock().expect("lock").clone();
    let tls = server.base().join("tls");
    fs::remove_dir_all(&tls).expect("the old certificate");
    vmshare::net::tls::self_signed(&tls, vec!["new.example".into()]).expect("a new one");
    server.kill("-HUP");
    server.wait_for_log("certificate reloaded");
    let fresh = tls_client(&seen);
    tls_get(&server, &fresh);
    assert_ne!(*seen.0.lock().expect("lock"), before, "the new certificate is served");
    old.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("send");
    assert_eq!(one(&mut old).status, 200, "an old connection lives on");
    fs::write(tls.join("cert.pem"), "nonsense").expect("write");
    server.kill("-HUP");
    server.wait_for_log("the old one stays");
    assert_eq!(tls_get(&server, &fresh).0.status, 200);

    let told = server.raw("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!((told.status, told.code()), (400, "tls_required"));
    let mut plain = TcpStream::connect(("127.0.0.1", plain_port)).expect("plain port");
    plain.write_all(b"GET /a?b=c HTTP/1.1\r\nHost: desk.example:8080\r\n\r\n").expect("send");
    let moved = one(&mut plain);
    let target = format!("https://desk.example:{}/a?b=c", server.address.port());
    assert_eq!((moved.status, moved.header("location")), (308, Some(target.as_str())));
    server.kill("-TERM");
    assert_eq!(server.wait().0, Some(0));
}

#[test]
fn a_cookie_under_tls_is_one_that_only_this_host_can_set() {
    let server = Server::run_unready({
        let folder = common::folder();
        fs::write(folder.path().join("vmshare.toml"), common::settings(&folder.path().join("b"), "", "", ""))
            .expect("settings");
        folder
    });
    server.wait_for_log("database ready");
    let mut stream = tls_open(&server, &tls_client(&Arc::default()));
    let body = r#"{"email":"t@example.org","password":"correct horse"}"#;
    let length = body.len();
    write!(stream, "POST /auth/signup HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{body}").expect("send");
    let cookie = one(&mut stream).header("set-cookie").expect("cookie").to_owned();
    for part in ["__Host-vmshare_session=", "; Secure", "HttpOnly", "SameSite=Lax", "Path=/"] {
        assert!(cookie.contains(part), "{part} in {cookie}");
    }
    assert!(!cookie.contains("Domain"), "{cookie}");
    let pair = cookie.split(';').next().expect("pair");
    write!(stream, "GET /auth/me HTTP/1.1\r\nHost: h\r\nCookie: {pair}\r\n\r\n").expect("send");
    assert_eq!(one(&mut stream).json["user"]["login"], "t");
    // The name that plain HTTP uses means nothing here.
    let bare = pair.replace("__Host-", "");
    write!(stream, "GET /auth/me HTTP/1.1\r\nHost: h\r\nCookie: {bare}\r\n\r\n").expect("send");
    assert_eq!(one(&mut stream).status, 401);
    drop(stream);
    server.end();
}

#[test]
fn forwarded_addresses_count_only_from_a_trusted_proxy() {
    let address_of = |top: &str| {
        let server = Server::with(top, "", "");
        let body = r#"{"email":"a@example.org","password":"correct horse"}"#;
        let answer = server.raw(&format!(
            "POST /auth/signup HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 203.0.113.9, 198.51.100.7\r\nX-Forwarded-Proto: https\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        ));
        let secure = answer.header("set-cookie").expect("cookie").contains("Secure");
        let ip: String = server.database().query_one("select ip from sessions", &[]).expect("row").get(0);
        server.end();
        (ip, secure)
    };
    assert_eq!(address_of("tls = \"off\""), ("127.0.0.1".to_owned(), false));
    let trusted = address_of("tls = \"off\"\ntrusted_proxies = [\"127.0.0.0/8\"]");
    assert_eq!(trusted, ("198.51.100.7".to_owned(), true), "the last address that is no proxy");
}

fn status(pid: u32, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = text.lines().find(|line| line.starts_with(name)).expect("field").to_owned();
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("number")
}

/// CPU time of all threads in hundredths of a second.
fn ticks(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let rest = text.rsplit(')').next().expect("fields").to_owned();
    rest.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().expect("ticks")).sum()
}

#[test]
fn out_of_descriptors_the_server_waits_without_spinning_and_serves_again() {
    let mut server = Server::start();
    let limit = Command::new("prlimit").args(["--pid", &server.pid().to_string(), "--nofile=64:64"]).status();
    assert!(limit.expect("prlimit").success());
    let crowd: Vec<TcpStream> = (0..150).map(|_| server.connect()).collect();
    server.wait_for_log("none can be accepted now");
    let before = ticks(server.pid());
    let began = std::time::Instant::now();
    until("two seconds have passed", || (began.elapsed().as_secs() >= 2).then_some(()));
    let used = ticks(server.pid()) - before;
    assert!(used < 20, "{used} ticks of CPU in two seconds");
    drop(crowd);
    until("it serves again", || (server.call("GET", "/healthz", "", &Value::Null).status == 200).then_some(()));
    server.kill("-TERM");
    assert_eq!(server.wait().0, Some(0));
}

#[test]
fn an_idle_server_sleeps() {
    let server = Server::start();
    let token = server.sign_up("sleeper");
    assert_eq!(server.call("GET", "/auth/me", &token, &Value::Null).status, 200);
    // Both: a loop that spins never sleeps, and so never wakes up.
    let wakes = || (status(server.pid(), "voluntary_ctxt_switches"), ticks(server.pid()));
    until("three seconds without a wake-up and without work", || {
        let before = wakes();
        let began = std::time::Instant::now();
        until("they have passed", || (began.elapsed().as_secs() >= 3).then_some(()));
        (wakes() == before).then_some(())
    });
    server.end();
}

#[test]
fn a_database_that_freezes_is_told_in_time_and_desktops_do_not_notice() {
    let server = Server::start();
    let token = server.sign_up("cold");
    let vm = server.launch(&token);
    let mut screen = server.screen(&token, &vm);
    let postgres = common::processes_of(&server.base().join("postgres"));
    let backends =
        server.database().query_one("select pid from pg_stat_activity where application_name = 'vmshare'", &[]);
    let backend: i32 = backends.expect("backend").get(0);
    let signal = |signal: &str| {
        assert!(Command::new("kill").args([signal, &backend.to_string()]).status().expect("kill").success());
    };
    assert!(!postgres.is_empty());
    signal("-STOP");
    let began = std::time::Instant::now();
    let told = server.call("GET", "/vms", &token, &Value::Null);
    assert_eq!((told.status, told.code()), (503, "database_away"), "{told:?}");
    assert!(told.header("retry-after").is_some() && began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
    assert_eq!(server.call("GET", "/", "", &Value::Null).status, 200, "pages are served");
    screen.send(tungstenite::Message::Ping(b"x".to_vec().into())).expect("ping");
    while screen.read().expect("pong") != tungstenite::Message::Pong(b"x".to_vec().into()) {}
    signal("-CONT");
    until("the database answers again", || {
        (server.call("GET", "/vms", &token, &Value::Null).status == 200).then_some(())
    });
    server.end();
}

#[test]
fn a_second_server_on_the_same_folder_is_refused_and_told_who_holds_it() {
    let server = Server::start();
    let second = server.command(&["serve"], "");
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && said.contains(&server.pid().to_string()), "{said}");
    server.end();
}
