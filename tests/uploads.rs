//! Images on their way in, by form and by tus, against the real server: whole or not at all, and never less than was told.

mod common;

use common::{Answer, Server, SmallDisk, image, until};
use ring::digest;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

const PLAIN: &str = "tls = \"off\"\nstop_vms_on_exit = true";
/// Each user starts his own upload.
const OWN: &str = "base_image = \"{VM_BASE_DIR}/uploads\"";

fn server(limits: &str) -> Server {
    Server::with(PLAIN, limits, OWN)
}

fn sha256(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn uid(server: &Server, token: &str) -> String {
    server.call("GET", "/auth/me", token, &Value::Null).json["user"]["id"].as_str().expect("id").to_owned()
}

fn form(filename: &str, bytes: &[u8], fields: &str) -> Vec<u8> {
    let head =
        format!("{fields}--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{filename}\"\r\n\r\n");
    [head.as_bytes(), bytes, b"\r\n--XX--\r\n"].concat()
}

fn field(name: &str, value: &str) -> String {
    format!("--XX\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
}

fn post_form(server: &Server, token: &str, body: &[u8]) -> Answer {
    let head = format!(
        "POST /upload HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\
         Content-Type: multipart/form-data; boundary=XX\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    exchange(server.connect(), head.as_bytes(), body)
}

/// Sends all, whether or not the answer comes early, and reads the answer.
fn exchange(mut socket: TcpStream, head: &[u8], body: &[u8]) -> Answer {
    socket.write_all(head).expect("head");
    // An early answer may be followed by a close; the answer counts.
    let _ = socket.write_all(body);
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    Answer::parse(&answer)
}

fn tus(server: &Server, token: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    exchange(server.connect(), tus_head(token, method, path, headers, body.len()).as_bytes(), body)
}

fn tus_head(token: &str, method: &str, path: &str, headers: &[(&str, &str)], length: usize) -> String {
    let extra: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\nTus-Resumable: 1.0.0\r\n{extra}\
         Content-Length: {length}\r\nConnection: close\r\n\r\n"
    )
}

fn create(server: &Server, token: &str, size: usize, name: &str) -> String {
    let metadata = format!("filename {}", data_encoding::BASE64.encode(name.as_bytes()));
    let size = size.to_string();
    let made =
        tus(server, token, "POST", "/uploads/", &[("Upload-Length", &size), ("Upload-Metadata", &metadata)], b"");
    assert_eq!(made.status, 201, "{made:?}");
    made.header("location").expect("location").to_owned()
}

fn patch(server: &Server, token: &str, path: &str, from: usize, bytes: &[u8], extra: &[(&str, &str)]) -> Answer {
    let from = from.to_string();
    let mut headers = vec![("Upload-Offset", from.as_str()), ("Content-Type", "application/offset+octet-stream")];
    headers.extend(extra);
    tus(server, token, "PATCH", path, &headers, bytes)
}

fn offset(server: &Server, token: &str, path: &str) -> usize {
    let status = tus(server, token, "HEAD", path, &[], b"");
    assert_eq!(status.status, 200, "{status:?}");
    status.header("upload-offset").and_then(|n| n.parse().ok()).expect("offset")
}

fn isos(server: &Server, token: &str) -> Vec<Value> {
    let answer = server.call("GET", "/isos", token, &Value::Null);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json["isos"].as_array().expect("isos").clone()
}

/// Everything that uploads could leave behind.
fn leftovers(server: &Server) -> Vec<PathBuf> {
    leftovers_in(&server.base())
}

fn leftovers_in(base: &Path) -> Vec<PathBuf> {
    let users = fs::read_dir(base.join("users")).expect("users");
    let mut found: Vec<PathBuf> = users
        .flatten()
        .flat_map(|user| fs::read_dir(user.path().join("uploads")).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

fn assert_no_leftovers(server: &Server) {
    until("nothing of the upload is left", || {
        (leftovers(server).is_empty() && server.count("select count(*) from uploads where state = 'open'") == 0)
            .then_some(())
    });
}

#[test]
fn an_image_by_form_is_hashed_listed_and_boots() {
    let server = server("");
    let token = server.sign_up("form");
    let iso = fs::read(image()).expect("image");
    // Fields before and behind the file, a name with folders in it.
    let fields = field("format", "iso") + &field("unknown", "x");
    let answer = post_form(&server, &token, &form("C:\\\\isos\\\\My tiny.iso", &iso, &fields));
    let expected = json!({"iso": {"name": "My-tiny.iso", "size": iso.len(), "sha256": sha256(&iso)}});
    assert_eq!((answer.status, &answer.json), (201, &expected));
    let place = server.base().join("uploads").join(format!("{}.iso", uid(&server, &token)));
    assert!(fs::read(&place).expect("placed") == iso, "the file is another one");
    let listed = isos(&server, &token);
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(
        (&listed[0]["name"], &listed[0]["default"], &listed[0]["sha256"]),
        (&json!("My-tiny.iso"), &json!(true), &json!(sha256(&iso)))
    );
    assert_no_leftovers(&server);
    let vm = server.launch(&token);
    let used = server.call("DELETE", "/isos/My-tiny.iso", &token, &Value::Null);
    assert_eq!((used.status, &used.json["code"]), (409, &json!("image_in_use")));
    server.stop(&token, &vm);
    let other = server.sign_up("other");
    assert_eq!(server.call("DELETE", "/isos/My-tiny.iso", &other, &Value::Null).status, 404);
    assert_eq!(server.call("DELETE", "/isos/My-tiny.iso", &token, &Value::Null).status, 204);
    assert!(!place.exists() && isos(&server, &token).is_empty(), "the image is still there");
    server.end();
}

#[test]
fn an_image_that_the_old_version_left_is_listed_counted_and_can_be_removed() {
    let server = server("");
    let (token, other) = (server.sign_up("settler"), server.sign_up("other"));
    let name = format!("{}.iso", uid(&server, &token));
    let place = server.base().join("uploads").join(&name);
    fs::create_dir_all(place.parent().expect("folder")).expect("folder");
    fs::copy(image(), &place).expect("image");
    assert_eq!(isos(&server, &token)[0]["name"], json!(name));
    let remove = |token: &str, name: &str| {
        let answer = server.call("DELETE", &format!("/isos/{name}"), token, &Value::Null);
        (answer.status, answer.code().to_owned())
    };
    assert_eq!(remove(&other, &name).0, 404);
    let vm = server.launch(&token);
    assert_eq!(remove(&token, &name), (409, "image_in_use".to_owned()));
    server.stop(&token, &vm);
    assert_eq!(remove(&token, &name).0, 204);
    assert!(!place.exists());
    assert_eq!(server.call("GET", "/isos", &token, &Value::Null).json["quota"]["used"], json!(0));
    // The second name of one in the library goes with that, and not by itself.
    assert_eq!(post_form(&server, &token, &form("a.iso", &fs::read(image()).expect("image"), "")).status, 201);
    assert_eq!(remove(&token, &name).0, 404);
    assert_eq!((remove(&token, "a.iso").0, place.exists()), (204, false));
    server.end();
}

#[test]
fn a_form_that_brings_no_good_image_says_why_and_leaves_nothing() {
    let server = server("upload_quota_mb = 32");
    let token = server.sign_up("wrong");
    let zeros = vec![0; 12 << 20];
    let cases: [(&str, Vec<u8>, u16, &str); 8] = [
        ("small", form("a.iso", &zeros[..10_485_759], ""), 422, "10 MB"),
        ("empty", form("a.iso", b"", ""), 422, "empty"),
        ("no image", form("a.iso", &zeros, ""), 422, "CD001"),
        ("no file", [field("format", "iso").as_bytes(), b"--XX--"].concat(), 422, "no file"),
        ("cut", form("a.iso", &zeros, "")[..5_000_000].to_vec(), 400, "last boundary"),
        ("format", form("a.iso", &zeros, &field("format", "vmdk")), 422, "iso, qcow2 or raw"),
        ("shared", form("a.iso", &zeros, &field("shared", "true")), 403, "administrators"),
        ("quota", form("a.iso", &vec![0; 33 << 20], ""), 413, "quota"),
    ];
    for (what, body, status, word) in cases {
        let answer = post_form(&server, &token, &body);
        let detail = answer.json["detail"].as_str().unwrap_or_default();
        assert!(answer.status == status && detail.contains(word), "{what}: {answer:?}");
        assert_no_leftovers(&server);
    }
    let two = [form("a.iso", b"x", ""), form("b.iso", b"y", "")].concat();
    let two = String::from_utf8_lossy(&two).replacen("--XX--\r\n--XX", "--XX", 1);
    assert_eq!(post_form(&server, &token, two.as_bytes()).json["code"], "two_files");
    assert_eq!(server.raw("POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n").status, 401);
    assert!(isos(&server, &token).is_empty());
    server.end();
}

#[test]
fn a_client_that_leaves_in_the_middle_of_a_form_leaves_nothing() {
    let server = server("");
    let token = server.sign_up("leaver");
    let body = form("a.iso", &vec![0; 8 << 20], "");
    let mut socket = server.connect();
    let head = format!(
        "POST /upload HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: multipart/form-data; boundary=XX\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).expect("head");
    socket.write_all(&body[..4 << 20]).expect("half");
    until("half of it is stored", || {
        leftovers(&server).first().and_then(|p| p.metadata().ok()).filter(|m| m.len() > 1 << 20)
    });
    drop(socket);
    assert_no_leftovers(&server);
    server.end();
}

#[test]
fn an_early_refusal_arrives_although_the_client_goes_on_sending() {
    let server = server("upload_quota_mb = 1");
    let token = server.sign_up("sender");
    let mut socket = server.connect();
    let length = 256 << 20;
    let head = format!(
        "POST /upload HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: multipart/form-data; boundary=XX\r\nContent-Length: {length}\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).expect("head");
    // As browsers do: nothing is read before all is sent.
    let piece = vec![0; 1 << 20];
    for sent in 0..length >> 20 {
        socket.write_all(&piece).unwrap_or_else(|e| panic!("reset after {sent} MB: {e}"));
    }
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).expect("the answer, and no reset");
    let answer = Answer::parse(&answer);
    assert_eq!((answer.status, &answer.json["code"]), (413, &json!("quota_exceeded")));
    server.end();
}

#[test]
fn who_expects_100_is_refused_without_sending_a_byte_or_asked_to_go_on() {
    let server = server("");
    let token = server.sign_up("curl");
    let iso = fs::read(image()).expect("image");
    let body = form("a.iso", &iso, "");
    let head = |token: &str| {
        format!(
            "POST /upload HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\nExpect: 100-continue\r\nConnection: close\r\n\
             Content-Type: multipart/form-data; boundary=XX\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
    };
    assert_eq!(exchange(server.connect(), head("nobody").as_bytes(), b"").status, 401);
    let mut socket = server.connect();
    socket.write_all(head(&token).as_bytes()).expect("head");
    let mut go_on = [0; 25];
    socket.read_exact(&mut go_on).expect("100");
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(exchange(socket, b"", &body).status, 201);
    server.end();
}

#[test]
fn tus_says_what_it_speaks_and_refuses_what_it_does_not() {
    let server = server("");
    let token = server.sign_up("tus");
    let options = server.raw("OPTIONS /uploads/ HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert_eq!(options.status, 204);
    assert_eq!(options.header("tus-version"), Some("1.0.0"));
    assert_eq!(options.header("tus-extension"), Some("creation,creation-with-upload,termination,checksum,expiration"));
    assert!(options.header("tus-checksum-algorithm").is_some_and(|names| names.split(',').any(|name| name == "sha1")));
    assert_eq!((options.header("tus-resumable"), options.header("tus-max-size")), (Some("1.0.0"), None));
    let deferred = tus(&server, &token, "POST", "/uploads/", &[("Upload-Defer-Length", "1")], b"");
    assert_eq!((deferred.status, deferred.code()), (400, "length_needed"), "{deferred:?}");
    // Each refusal says the version, whoever makes it.
    let ask = |method: &str, path: &str, extra: &str| {
        let answer = server.raw(&format!("{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{extra}\r\n"));
        assert_eq!(answer.header("tus-resumable"), Some("1.0.0"), "{method} {path}: {answer:?}");
        answer.status
    };
    let bearer = format!("Authorization: Bearer {token}\r\n");
    let foreign = "Origin: https://elsewhere.example\r\n";
    assert_eq!(ask("POST", "/uploads/", ""), 401);
    assert_eq!(ask("POST", "/uploads/", foreign), 403);
    assert_eq!(
        ask("PATCH", "/uploads/0123456789abcdef0123456789abcdef", &format!("{bearer}{}", "Tus-Resumable: 1.0.0\r\n")),
        415
    );
    assert_eq!(ask("HEAD", "/uploads/no/such", &bearer), 404);
    assert_eq!(ask("PUT", "/uploads/", &bearer), 405);
    assert_eq!(ask("POST", "/uploads/", &bearer), 412);
    let without = server.call("POST", "/uploads/", &token, &Value::Null);
    assert_eq!((without.status, without.header("tus-version")), (412, Some("1.0.0")));
    let post = |headers: &[(&str, &str)]| tus(&server, &token, "POST", "/uploads/", headers, b"").status;
    assert_eq!(post(&[]), 400);
    assert_eq!(post(&[("Upload-Length", "-1")]), 400);
    assert_eq!(post(&[("Upload-Length", "20000000"), ("Upload-Metadata", "a ???")]), 400);
    assert_eq!(post(&[("Upload-Length", "999999999999999")]), 413, "the quota is looked at first");
    let path = create(&server, &token, 20_000_000, "a.iso");
    let wrong_type =
        tus(&server, &token, "PATCH", &path, &[("Upload-Offset", "0"), ("Content-Type", "text/plain")], b"x");
    assert_eq!(wrong_type.status, 415);
    assert_eq!(patch(&server, &token, &path, 5, b"x", &[]).status, 409);
    assert_eq!(patch(&server, &token, &path, 0, b"x", &[("Upload-Checksum", "md5 AAAA")]).status, 400);
    let other = server.sign_up("stranger");
    for method in ["HEAD", "DELETE"] {
        assert_eq!(tus(&server, &other, method, &path, &[], b"").status, 404, "{method}");
    }
    assert_eq!(patch(&server, &other, &path, 0, b"x", &[]).status, 404);
    assert_eq!(tus(&server, &token, "DELETE", &path, &[], b"").status, 204);
    assert_eq!(tus(&server, &token, "HEAD", &path, &[], b"").status, 404);
    assert_no_leftovers(&server);
    server.end();
}

#[test]
fn an_upload_in_pieces_with_checksums_becomes_the_image() {
    let server = server("");
    let token = server.sign_up("pieces");
    let iso = fs::read(image()).expect("image");
    let metadata = format!("filename {}", data_encoding::BASE64.encode(b"tiny.iso"));
    let size = iso.len().to_string();
    let (first, rest) = iso.split_at(1_000_001);
    // Creation with upload.
    let made = tus(
        &server,
        &token,
        "POST",
        "/uploads/",
        &[
            ("Upload-Length", &size),
            ("Upload-Metadata", &metadata),
            ("Content-Type", "application/offset+octet-stream"),
        ],
        first,
    );
    assert_eq!((made.status, made.header("upload-offset")), (201, Some("1000001")), "{made:?}");
    assert!(made.header("upload-expires").is_some_and(|date| date.ends_with("GMT")));
    let path = made.header("location").expect("location").to_owned();
    let status = tus(&server, &token, "HEAD", &path, &[], b"");
    assert_eq!(
        (status.header("upload-length"), status.header("upload-metadata"), status.header("cache-control")),
        (Some(size.as_str()), Some(metadata.as_str()), Some("no-store"))
    );
    let (second, third) = rest.split_at(2_000_000);
    let sha1 = |bytes: &[u8]| {
        let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, bytes);
        format!("sha1 {}", data_encoding::BASE64.encode(digest.as_ref()))
    };
    let wrong = patch(&server, &token, &path, first.len(), second, &[("Upload-Checksum", &sha1(b"something else"))]);
    assert_eq!((wrong.status, &wrong.json["code"]), (460, &json!("checksum_mismatch")));
    assert_eq!(offset(&server, &token, &path), first.len());
    let right = patch(&server, &token, &path, first.len(), second, &[("Upload-Checksum", &sha1(second))]);
    assert_eq!((right.status, right.header("upload-offset")), (204, Some("3000001")), "{right:?}");
    let too_much = patch(&server, &token, &path, 3_000_001, &[third, b"more"].concat(), &[]);
    assert_eq!(too_much.status, 413);
    let last = patch(&server, &token, &path, 3_000_001, third, &[]);
    assert_eq!((last.status, last.header("upload-offset")), (204, Some(size.as_str())), "{last:?}");
    // Whoever missed that answer learns it.
    assert_eq!(offset(&server, &token, &path), iso.len());
    let listed = isos(&server, &token);
    assert_eq!((&listed[0]["name"], &listed[0]["sha256"]), (&json!("tiny.iso"), &json!(sha256(&iso))), "{listed:?}");
    assert_no_leftovers(&server);
    server.end();
}

#[test]
fn a_client_that_can_only_post_says_what_it_means() {
    let server = server("");
    let token = server.sign_up("poster");
    let iso = fs::read(image()).expect("image");
    let path = create(&server, &token, iso.len(), "tiny.iso");
    let headers = [
        ("X-HTTP-Method-Override", "PATCH"),
        ("Upload-Offset", "0"),
        ("Content-Type", "application/offset+octet-stream"),
    ];
    let done = tus(&server, &token, "POST", &path, &headers, &iso);
    assert_eq!((done.status, done.header("upload-offset")), (204, Some(iso.len().to_string().as_str())), "{done:?}");
    assert_eq!(isos(&server, &token)[0]["sha256"], json!(sha256(&iso)));
    let other = create(&server, &token, iso.len(), "other.iso");
    let gone = tus(&server, &token, "POST", &other, &[("X-HTTP-Method-Override", "DELETE")], b"");
    assert_eq!(gone.status, 204, "{gone:?}");
    assert_no_leftovers(&server);
    // Nothing else is meant by it, and nowhere else.
    assert_eq!(
        tus(&server, &token, "POST", "/isos/tiny.iso", &[("X-HTTP-Method-Override", "DELETE")], b"").status,
        405
    );
    assert_eq!(tus(&server, &token, "POST", &other, &[("X-HTTP-Method-Override", "GET")], b"").status, 405);
    server.end();
}

#[test]
fn first_bytes_that_come_with_the_creation_are_told_as_they_are() {
    let server = server("disk_reserve_mb = 0");
    let token = server.sign_up("eager");
    let iso = fs::read(image()).expect("image");
    let size = iso.len().to_string();
    let begin = |bytes: &[u8], checksum: &[(&str, &str)]| {
        let mut headers = vec![("Upload-Length", size.as_str()), ("Content-Type", "application/offset+octet-stream")];
        headers.extend(checksum);
        tus(&server, &token, "POST", "/uploads/", &headers, bytes)
    };
    let wrong = begin(&iso[..1000], &[("Upload-Checksum", "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=")]);
    assert_eq!((wrong.status, wrong.code()), (460, "checksum_mismatch"), "{wrong:?}");
    assert_no_leftovers(&server);
    // The disk is full in the middle: what is there counts.
    let disk = SmallDisk::over(&server.base().join("users"), 8);
    let made = begin(&iso, &[]);
    assert_eq!(made.status, 201, "{made:?}");
    let path = made.header("location").expect("location");
    let told: usize = made.header("upload-offset").and_then(|n| n.parse().ok()).expect("offset");
    assert!(told > 1 << 20 && told == offset(&server, &token, path), "{told}");
    disk.grow(64);
    assert_eq!(patch(&server, &token, path, told, &iso[told..], &[]).status, 204);
    drop(disk);
    server.end();
}

#[test]
fn an_upload_goes_on_after_the_server_was_killed_where_it_was_told_or_further() {
    let mut server = server("");
    let token = server.sign_up("killed");
    let iso = fs::read(image()).expect("image");
    let path = create(&server, &token, iso.len(), "tiny.iso");
    assert_eq!(patch(&server, &token, &path, 0, &iso[..3_000_000], &[]).status, 204);
    let told = 3_000_000;
    // The next piece is under way, and a piece with a checksum of another upload too.
    let headers = [("Upload-Offset", "3000000"), ("Content-Type", "application/offset+octet-stream")];
    let mut socket = server.connect();
    let head = tus_head(&token, "PATCH", &path, &headers, iso.len() - told);
    socket.write_all(head.as_bytes()).expect("head");
    socket.write_all(&iso[told..9_000_000]).expect("a part");
    let checked = create(&server, &token, iso.len(), "checked.iso");
    let headers = [
        ("Upload-Offset", "0"),
        ("Content-Type", "application/offset+octet-stream"),
        ("Upload-Checksum", "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0="),
    ];
    let mut other = server.connect();
    other.write_all(tus_head(&token, "PATCH", &checked, &headers, iso.len()).as_bytes()).expect("head");
    other.write_all(&iso[..5_000_000]).expect("a part");
    until("both are stored in part", || {
        let sizes: Vec<u64> =
            leftovers(&server).iter().filter_map(|path| path.metadata().ok()).map(|m| m.len()).collect();
        (sizes.len() == 2 && sizes.iter().all(|size| *size > 4_000_000)).then_some(())
    });
    server.kill("-KILL");
    let (_, folder, _) = server.wait();
    let server = Server::run(folder);
    let there = offset(&server, &token, &path);
    assert!(there >= told, "{there} bytes of {told} that were told");
    assert_eq!(offset(&server, &token, &checked), 0, "bytes that no checksum was compared with count");
    assert_eq!(patch(&server, &token, &path, there, &iso[there..], &[]).status, 204);
    assert_eq!(isos(&server, &token)[0]["sha256"], json!(sha256(&iso)));
    server.end();
}

#[test]
fn an_upload_that_was_whole_when_the_server_was_killed_comes_to_its_place_when_it_is_asked_for() {
    let mut server = server("");
    let token = server.sign_up("nearly");
    let iso = fs::read(image()).expect("image");
    let [asked, continued] = ["asked.iso", "continued.iso"].map(|name| create(&server, &token, iso.len(), name));
    for path in [&asked, &continued] {
        assert_eq!(patch(&server, &token, path, 0, &iso[..1_000_000], &[]).status, 204);
    }
    server.kill("-KILL");
    let (_, folder, _) = server.wait();
    // As if it had died between the last byte and what follows it.
    for staged in leftovers_in(&folder.path().join("b")) {
        fs::write(staged, &iso).expect("the last bytes");
    }
    let server = Server::run(folder);
    // Clients take an offset that is the whole length for success, so it must be one.
    assert_eq!(offset(&server, &token, &asked), iso.len());
    assert_eq!(patch(&server, &token, &continued, iso.len(), b"", &[]).status, 204);
    let listed = isos(&server, &token);
    for name in ["asked.iso", "continued.iso"] {
        let there = listed.iter().find(|iso| iso["name"] == name).unwrap_or_else(|| panic!("no {name}: {listed:?}"));
        assert_eq!(there["sha256"], json!(sha256(&iso)));
    }
    assert_eq!(leftovers(&server), Vec::<PathBuf>::new());
    server.end();
}

#[test]
fn a_second_connection_takes_an_upload_over_from_a_dead_one() {
    let server = server("");
    let token = server.sign_up("roamer");
    let iso = fs::read(image()).expect("image");
    let path = create(&server, &token, iso.len(), "tiny.iso");
    let headers = [("Upload-Offset", "0"), ("Content-Type", "application/offset+octet-stream")];
    let mut dead = server.connect();
    dead.write_all(tus_head(&token, "PATCH", &path, &headers, iso.len()).as_bytes()).expect("head");
    dead.write_all(&iso[..1_000_000]).expect("a part");
    until("a part is stored", || leftovers(&server).first().and_then(|p| p.metadata().ok()).filter(|m| m.len() > 0));
    // The old connection is open and says nothing, as after a lost network.
    let there = offset(&server, &token, &path);
    assert!(there > 0);
    let done = patch(&server, &token, &path, there, &iso[there..], &[]);
    assert_eq!(done.status, 204, "{done:?}");
    assert_eq!(isos(&server, &token)[0]["sha256"], json!(sha256(&iso)));
    let _ = dead.shutdown(Shutdown::Both);
    server.end();
}

#[test]
fn a_tus_upload_that_is_no_image_is_refused_at_its_end_and_removed() {
    let server = server("");
    let token = server.sign_up("bogus");
    let path = create(&server, &token, 11_000_000, "a.iso");
    let answer = patch(&server, &token, &path, 0, &vec![7; 11_000_000], &[]);
    assert_eq!((answer.status, &answer.json["code"]), (422, &json!("bad_image")), "{answer:?}");
    assert_eq!(tus(&server, &token, "HEAD", &path, &[], b"").status, 404);
    let headers = [("Upload-Length", "1000"), ("Content-Type", "application/offset+octet-stream")];
    let at_once = tus(&server, &token, "POST", "/uploads/", &headers, &[7; 1000]);
    assert_eq!((at_once.status, &at_once.json["code"]), (422, &json!("bad_image")), "{at_once:?}");
    assert_no_leftovers(&server);
    assert_eq!(isos(&server, &token).len(), 0);
    server.end();
}

#[test]
fn the_quota_counts_what_is_on_its_way_and_two_to_one_name_are_both_whole() {
    let server = server("upload_quota_mb = 40\nuploads_per_user = 3");
    let token = server.sign_up("quota");
    let iso = fs::read(image()).expect("image");
    assert!(iso.len() * 3 < 40 << 20 && iso.len() * 4 > 40 << 20, "the image's size changed");
    let (a, b) = (create(&server, &token, iso.len(), "a.iso"), create(&server, &token, iso.len(), "a.iso"));
    let big = (20 << 20).to_string();
    let refused = tus(&server, &token, "POST", "/uploads/", &[("Upload-Length", &big)], b"");
    assert_eq!((refused.status, &refused.json["code"]), (413, &json!("quota_exceeded")), "{refused:?}");
    create(&server, &token, 1000, "c.iso");
    let fourth = tus(&server, &token, "POST", "/uploads/", &[("Upload-Length", "10")], b"");
    assert_eq!((fourth.status, &fourth.json["code"]), (429, &json!("too_many_uploads")));
    let mut other = iso.clone();
    *other.last_mut().expect("bytes") ^= 1;
    assert_eq!(patch(&server, &token, &a, 0, &iso, &[]).status, 204);
    assert_eq!(isos(&server, &token)[0]["sha256"], json!(sha256(&iso)));
    assert_eq!(patch(&server, &token, &b, 0, &other, &[]).status, 204);
    let listed = isos(&server, &token);
    assert_eq!((listed.len(), &listed[0]["sha256"]), (1, &json!(sha256(&other))), "the later one replaces the earlier");
    server.end();
}

#[test]
fn a_full_disk_refuses_before_a_byte_came() {
    let server = server("disk_reserve_mb = 1073741824");
    let token = server.sign_up("full");
    let answer = post_form(&server, &token, &form("a.iso", &vec![0; 1 << 20], ""));
    assert_eq!((answer.status, &answer.json["code"]), (507, &json!("disk_full")));
    let made = tus(&server, &token, "POST", "/uploads/", &[("Upload-Length", "20000000")], b"");
    assert_eq!(made.status, 507);
    assert_no_leftovers(&server);
    server.end();
}

#[test]
fn an_upload_that_stalls_is_cut_off_and_what_came_counts() {
    let server = server("upload_stall_seconds = 1");
    let token = server.sign_up("staller");
    let iso = fs::read(image()).expect("image");
    let path = create(&server, &token, iso.len(), "tiny.iso");
    let headers = [("Upload-Offset", "0"), ("Content-Type", "application/offset+octet-stream")];
    let mut socket = server.connect();
    socket.write_all(tus_head(&token, "PATCH", &path, &headers, iso.len()).as_bytes()).expect("head");
    socket.write_all(&iso[..1_000_000]).expect("a part");
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    assert_eq!(Answer::parse(&answer).status, 408);
    assert_eq!(offset(&server, &token, &path), 1_000_000);
    server.end();
}

#[test]
fn leftovers_are_told_by_a_dry_run_and_removed_by_the_next() {
    let server = server("leftover_hours = 0");
    let token = server.sign_up("untidy");
    let path = create(&server, &token, 20_000_000, "a.iso");
    assert_eq!(patch(&server, &token, &path, 0, &[7; 1000], &[]).status, 204);
    let expired = leftovers(&server).remove(0);
    let kept = create(&server, &token, 20_000_000, "b.iso");
    let id = path.rsplit('/').next().expect("id");
    let sql = format!("update uploads set expires_at = now() - interval '1 minute' where id = '{id}'");
    server.database().batch_execute(&sql).expect("time passes");
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    let stray = expired.with_file_name("0".repeat(32));
    let run = server.base().join("runs/0123456789ab");
    fs::write(&stray, b"bytes").expect("file");
    fs::create_dir(&run).expect("folder");
    for path in [&stray, &run] {
        fs::File::open(path).and_then(|file| file.set_modified(old)).expect("old");
    }
    let clean = |args: &[&str]| {
        let output = server.command(args, "");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    assert_eq!(tus(&server, &token, "HEAD", &path, &[], b"").status, 410, "its time is over");
    let told = clean(&["clean", "--dry-run"]);
    for path in [&expired, &stray, &run] {
        assert!(told.contains(&format!("would remove {}", path.display())) && path.exists(), "{told}");
    }
    let told = clean(&["clean"]);
    assert!(told.ends_with("3 leftovers, 1 KB\n"), "{told}");
    assert!(![&expired, &stray, &run].into_iter().any(|path| path.exists()), "{told}");
    assert_eq!(tus(&server, &token, "HEAD", &path, &[], b"").status, 404);
    assert_eq!(offset(&server, &token, &kept), 0);
    assert_eq!(clean(&["clean"]), "0 leftovers, 0 KB\n");
    server.end();
}

#[test]
fn an_upload_that_takes_longer_than_it_is_kept_is_kept_and_its_time_begins_anew_with_each_piece() {
    let server = server("upload_expire_hours = 1\nleftover_hours = 0");
    let token = server.sign_up("slow");
    let path = create(&server, &token, 20_000_000, "tiny.iso");
    let id = path.rsplit('/').next().expect("id").to_owned();
    let mut database = server.database();
    let mut backdate = || {
        let sql = format!("update uploads set expires_at = now() - interval '1 minute' where id = '{id}'");
        database.batch_execute(&sql).expect("time passes");
    };
    let is_kept = || server.count("select count(*) from uploads where expires_at > now() + interval '30 minutes'") == 1;
    let clean = || {
        let output = server.command(&["clean"], "");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let headers = [("Upload-Offset", "0"), ("Content-Type", "application/offset+octet-stream")];
    let mut socket = server.connect();
    socket.write_all(tus_head(&token, "PATCH", &path, &headers, 20_000_000).as_bytes()).expect("head");
    socket.write_all(&[7; 100_000]).expect("some");
    until("some of it is stored", || {
        leftovers(&server).first().and_then(|p| p.metadata().ok()).filter(|m| m.len() > 0)
    });
    // An hour passes; bytes go on coming.
    backdate();
    until("its row hears of it", || {
        socket.write_all(&[7; 1000]).expect("some more");
        is_kept().then_some(())
    });
    assert_eq!(clean(), "0 leftovers, 0 KB\n");
    // The piece is broken off: what came is kept as long as ever.
    backdate();
    drop(socket);
    until("its time begins anew", || is_kept().then_some(()));
    let there = offset(&server, &token, &path);
    assert!(there > 100_000, "{there}");
    let sql = format!("update uploads set expires_at = now() + interval '1 minute' where id = '{id}'");
    server.database().batch_execute(&sql).expect("time passes");
    let more = patch(&server, &token, &path, there, &[7; 1000], &[]);
    let told = more.header("upload-expires").and_then(|date| jiff::fmt::rfc2822::parse(date).ok()).expect("a date");
    let left = told.timestamp().as_second() - jiff::Timestamp::now().as_second();
    assert!(more.status == 204 && left > 1800, "{left} seconds: {more:?}");
    assert_eq!(clean(), "0 leftovers, 0 KB\n");
    server.end();
}

#[test]
fn a_server_that_starts_removes_what_is_left_over_and_says_so() {
    let mut server = server("");
    let token = server.sign_up("absent");
    let path = create(&server, &token, 20_000_000, "a.iso");
    assert_eq!(patch(&server, &token, &path, 0, &[7; 1000], &[]).status, 204);
    let expired = leftovers(&server).remove(0);
    let (stray, young) = (expired.with_file_name("0".repeat(32)), expired.with_file_name("1".repeat(32)));
    for path in [&stray, &young] {
        fs::write(path, b"bytes").expect("file");
    }
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(48 * 3600);
    fs::File::open(&stray).and_then(|file| file.set_modified(old)).expect("old");
    server
        .database()
        .batch_execute("update uploads set expires_at = now() - interval '1 minute'")
        .expect("time passes");
    server.kill("-TERM");
    let (_, folder, _) = server.wait();
    let server = Server::run(folder);
    for path in [&expired, &stray] {
        server.wait_for_log(&format!("janitor: removed {}", path.display()));
        assert!(!path.exists(), "{}", path.display());
    }
    until("its row is gone", || (server.count("select count(*) from uploads") == 0).then_some(()));
    assert!(young.exists(), "it may be on its way to its row");
    server.end();
}

#[test]
fn a_disk_that_fills_up_in_the_middle_keeps_what_is_whole_and_takes_the_rest_later() {
    let server = server("disk_reserve_mb = 0");
    let token = server.sign_up("filler");
    let iso = fs::read(image()).expect("image");
    let disk = SmallDisk::over(&server.base().join("users"), 8);
    let answer = post_form(&server, &token, &form("a.iso", &iso, ""));
    assert_eq!((answer.status, &answer.json["code"]), (507, &json!("disk_full")), "{answer:?}");
    assert_no_leftovers(&server);
    let path = create(&server, &token, iso.len(), "tiny.iso");
    let full = patch(&server, &token, &path, 0, &iso, &[]);
    assert_eq!((full.status, &full.json["code"]), (507, &json!("disk_full")), "{full:?}");
    let there = offset(&server, &token, &path);
    assert!(there > 1 << 20 && there < 8 << 20, "{there} bytes are there");
    disk.grow(64);
    let done = patch(&server, &token, &path, there, &iso[there..], &[]);
    assert_eq!(done.status, 204, "{done:?}");
    assert_eq!(isos(&server, &token)[0]["sha256"], json!(sha256(&iso)));
    drop(disk);
    server.end();
}

#[test]
fn a_form_of_unknown_length_is_cut_off_where_the_quota_ends() {
    let server = server("upload_quota_mb = 4");
    let token = server.sign_up("endless");
    let mut socket = server.connect();
    let head = format!(
        "POST /upload HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\
         Content-Type: multipart/form-data; boundary=XX\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).expect("head");
    let mut chunk = |bytes: &[u8]| {
        let framed = [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
        socket.write_all(&framed).expect("what is over is read and dropped");
    };
    let beginning = form("a.iso", b"", "");
    chunk(&beginning[..beginning.len() - "\r\n--XX--\r\n".len()]);
    for _ in 0..16 {
        chunk(&vec![7; 1 << 20]);
    }
    chunk(b"");
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).expect("the answer, and no reset");
    let answer = Answer::parse(&answer);
    assert_eq!((answer.status, &answer.json["code"]), (413, &json!("quota_exceeded")), "{answer:?}");
    assert_no_leftovers(&server);
    server.end();
}

/// A qcow2 image of so many GiB whose bytes are of this run alone.
fn qcow2(folder: &Path, gb: u32, extra: &[&str]) -> Vec<u8> {
    let path = folder.join(format!("{gb}.qcow2"));
    let mut make = Command::new("qemu-img");
    make.args(["create", "-q", "-f", "qcow2"]).args(extra).arg(&path).arg(format!("{gb}G"));
    assert!(make.status().expect("qemu-img").success());
    fs::read(path).expect("image")
}

#[test]
fn an_image_that_disks_are_overlays_of_is_not_replaced_and_its_disks_are_no_smaller() {
    let server = server("disk_quota_gb = 4");
    let token = server.sign_up("layerer");
    let folder = tempfile::tempdir().expect("folder");
    let bring = |bytes: &[u8]| post_form(&server, &token, &form("base.qcow2", bytes, &field("format", "qcow2")));
    let (first, second) = (qcow2(folder.path(), 3, &[]), qcow2(folder.path(), 1, &[]));
    assert_eq!(bring(&first).status, 201);
    let disk = |name: &str, size: Value| {
        let body = json!({"name": name, "image": "base.qcow2", "size_gb": size});
        server.call("POST", "/disks", &token, &body)
    };
    let small = disk("small", json!(2));
    assert_eq!((small.status, &small.json["field"]), (422, &json!("size_gb")), "{small:?}");
    let made = disk("work", Value::Null);
    assert_eq!((made.status, &made.json["disk"]["size_gb"]), (201, &json!(3)), "{made:?}");
    let more = disk("more", Value::Null);
    assert_eq!((more.status, more.code()), (413, "quota_exceeded"), "three and three are more than four: {more:?}");
    let refused = bring(&second);
    assert_eq!((refused.status, refused.code()), (409, "image_in_use"), "{refused:?}");
    assert_eq!(isos(&server, &token)[0]["sha256"], json!(sha256(&first)));
    assert_no_leftovers(&server);
    assert_eq!(bring(&first).status, 409, "its bytes are not looked at");
    server.end();
}

#[test]
fn an_image_that_must_stay_is_told_before_a_byte_comes_and_what_came_already_waits() {
    let server = server("");
    let token = server.sign_up("waiter");
    let folder = tempfile::tempdir().expect("folder");
    let (first, second) = (qcow2(folder.path(), 1, &[]), qcow2(folder.path(), 2, &[]));
    let in_place = || isos(&server, &token)[0]["sha256"].clone();
    assert_eq!(post_form(&server, &token, &form("base.qcow2", &first, &field("format", "qcow2"))).status, 201);
    let disk = |method: &str, path: &str, body: &Value| server.call(method, path, &token, body).status;
    let overlay = json!({"name": "work", "image": "base.qcow2"});
    let encoded = |text: &str| data_encoding::BASE64.encode(text.as_bytes());
    let metadata = format!("filename {},format {}", encoded("base.qcow2"), encoded("qcow2"));
    let size = second.len().to_string();
    let begin = || {
        let headers = [("Upload-Length", size.as_str()), ("Upload-Metadata", metadata.as_str())];
        tus(&server, &token, "POST", "/uploads/", &headers, b"")
    };
    let [empty, whole] = [(); 2].map(|()| begin().header("location").expect("location").to_owned());
    assert_eq!(disk("POST", "/disks", &overlay), 201);
    let refused = begin();
    assert_eq!((refused.status, refused.code()), (409, "image_in_use"), "its name is known: {refused:?}");
    let refused = patch(&server, &token, &empty, 0, &second, &[]);
    assert_eq!((refused.status, refused.code()), (409, "image_in_use"), "{refused:?}");
    assert_eq!(refused.header("tus-resumable"), Some("1.0.0"), "{refused:?}");
    assert_eq!(offset(&server, &token, &empty), 0, "nothing was taken of it");
    // As if the disk had been made while the last bytes came.
    let staged =
        leftovers(&server).into_iter().find(|path| whole.ends_with(&*path.file_name().expect("id").to_string_lossy()));
    fs::write(staged.expect("staged"), &second).expect("the bytes");
    // A client takes the whole length for success and a refusal for a reason to begin anew: it is neither.
    assert_eq!(offset(&server, &token, &whole), second.len() - 1);
    let last = || patch(&server, &token, &whole, second.len() - 1, &second[second.len() - 1..], &[]);
    let refused = last();
    assert_eq!((refused.status, refused.code()), (409, "image_in_use"), "{refused:?}");
    assert_eq!(in_place(), json!(sha256(&first)));
    assert_eq!(disk("DELETE", "/disks/work", &Value::Null), 204);
    assert_eq!(last().status, 204);
    assert_eq!(in_place(), json!(sha256(&second)));
    assert_eq!(tus(&server, &token, "DELETE", &empty, &[], b"").status, 204);
    assert_no_leftovers(&server);
    server.end();
}

#[test]
fn a_disk_image_that_names_another_file_is_refused_when_it_comes() {
    let server = server("");
    let token = server.sign_up("reader");
    let folder = tempfile::tempdir().expect("folder");
    for extra in [["-F", "raw", "-b", "/etc/passwd", "-u"].as_slice(), &["-o", "data_file=/dev/null,data_file_raw=on"]]
    {
        let image = if extra.contains(&"-b") {
            qcow2(folder.path(), 1, extra)
        } else {
            // qemu-img would open the data file: the bit in the header is what counts.
            let mut image = qcow2(folder.path(), 2, &[]);
            image[79] |= 4;
            image
        };
        let answer = post_form(&server, &token, &form("x.qcow2", &image, &field("format", "qcow2")));
        assert_eq!((answer.status, answer.code()), (422, "bad_image"), "{extra:?}: {answer:?}");
    }
    assert!(isos(&server, &token).is_empty());
    assert_no_leftovers(&server);
    server.end();
}

#[test]
fn a_disk_image_that_is_not_whole_is_refused_and_one_with_leaks_is_not() {
    let server = server("");
    let token = server.sign_up("halver");
    let folder = tempfile::tempdir().expect("folder");
    let mut whole = qcow2(folder.path(), 1, &[]);
    let path = folder.path().join("1.qcow2");
    let written = Command::new("qemu-io").args(["-c", "write -P 7 0 8M"]).arg(&path).output().expect("qemu-io");
    assert!(written.status.success(), "{written:?}");
    let filled = fs::read(&path).expect("image");
    let mut damaged = filled.clone();
    // The first block of reference counts, behind its table.
    damaged[2 << 16..][..4096].fill(0);
    let bring = |bytes: &[u8]| post_form(&server, &token, &form("a.qcow2", bytes, &field("format", "qcow2")));
    for (what, bytes) in [
        ("half of it", &filled[..filled.len() / 2]),
        ("damaged", &damaged),
        ("not even its tables", &filled[..100_000]),
    ] {
        let answer = bring(bytes);
        let why = answer.json["detail"].as_str().unwrap_or_default();
        assert_eq!((answer.status, answer.code()), (422, "bad_image"), "{what}: {answer:?}");
        assert!(why.contains("cut off") && !why.contains("/users/"), "{what}: {why}");
        assert_no_leftovers(&server);
    }
    assert_eq!(bring(&filled).status, 201);
    // A cluster that is counted and that nothing refers to.
    whole.resize(8 << 16, 0);
    whole[(2 << 16) + 2 * 7 + 1] = 1;
    let leaks = bring(&whole);
    assert_eq!(leaks.status, 201, "{leaks:?}");
    server.end();
}

#[test]
fn an_image_that_an_administrator_brings_for_all_is_seen_and_started_by_others() {
    let server = server("");
    let (admin, user) = (common::admin(&server), server.sign_up("pupil"));
    let iso = fs::read(image()).expect("image");
    let body = form("lesson.iso", &iso, &field("shared", "true"));
    assert_eq!(post_form(&server, &user, &body).code(), "admin_only");
    assert_eq!(post_form(&server, &admin, &body).status, 201);
    let seen = isos(&server, &user);
    assert_eq!((&seen[0]["name"], &seen[0]["shared"]), (&json!("lesson.iso"), &json!(true)), "{seen:?}");
    let answer = server.call("POST", "/run-iso", &user, &json!({"iso_path": "lesson.iso"}));
    assert_eq!(answer.status, 200, "{answer:?}\n{}", server.said());
    server.serial(&answer.json["vm"]).wait_for("tiny: up");
    assert_eq!(server.call("DELETE", "/isos/lesson.iso", &user, &Value::Null).status, 404);
    assert_eq!(server.call("DELETE", "/isos/lesson.iso", &admin, &Value::Null).code(), "image_in_use");
    server.stop(&user, &answer.json["vm"]);
    assert_eq!(server.call("DELETE", "/isos/lesson.iso", &admin, &Value::Null).status, 204);
    server.end();
}

#[test]
fn an_image_for_all_is_not_held_to_the_quota_of_the_administrator_who_brings_it() {
    let server = server("upload_quota_mb = 1");
    let admin = common::admin(&server);
    let iso = fs::read(image()).expect("image");
    let encoded = |text: &str| data_encoding::BASE64.encode(text.as_bytes());
    let size = iso.len().to_string();
    let begin = |shared: &str| {
        let metadata = format!("filename {},shared {}", encoded("lesson.iso"), encoded(shared));
        let headers = [("Upload-Length", size.as_str()), ("Upload-Metadata", metadata.as_str())];
        tus(&server, &admin, "POST", "/uploads/", &headers, b"")
    };
    assert_eq!(begin("false").code(), "quota_exceeded");
    let made = begin("true");
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(patch(&server, &admin, made.header("location").expect("location"), 0, &iso, &[]).status, 204);
    assert_eq!(isos(&server, &admin)[0]["shared"], json!(true));
    server.end();
}

#[test]
fn a_form_that_cannot_even_be_begun_is_not_counted_for_ever() {
    let server = server("");
    let token = server.sign_up("barred");
    // A file where the folder should be.
    let folder = server.base().join("users").join(uid(&server, &token));
    fs::create_dir_all(&folder).expect("folder");
    fs::write(folder.join("uploads"), "").expect("file");
    let refused = post_form(&server, &token, &form("a.iso", b"x", ""));
    assert_eq!((refused.status, refused.code()), (507, "not_stored"), "{refused:?}");
    let metrics = server.raw("GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    let page = String::from_utf8_lossy(&metrics.body);
    assert!(page.contains("\nvmshare_uploads_active 0\n"), "{page}");
    server.end();
}

#[test]
fn a_form_whose_server_was_killed_leaves_nothing_and_its_removal_is_told() {
    let mut server = server("");
    let token = server.sign_up("unlucky");
    let mut socket = server.connect();
    let head = format!(
        "POST /upload HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: multipart/form-data; boundary=XX\r\nContent-Length: 50000000\r\n\r\n"
    );
    let begin = form("half.iso", &vec![7; 4 << 20], "");
    socket.write_all(head.as_bytes()).expect("head");
    socket.write_all(&begin[..4 << 20]).expect("some of it");
    until("some of it is stored", || {
        leftovers(&server).iter().any(|file| fs::metadata(file).is_ok_and(|f| f.len() > 1 << 20)).then_some(())
    });
    server.kill("-KILL");
    let (_, folder, _) = server.wait();
    let server = Server::run(folder);
    server.wait_for_log("form of a former server");
    assert_no_leftovers(&server);
    server.end();
}

/// What the server asked of the system while `act` was done, in order. Takes the right to trace, as root has it.
fn traced(server: &Server, act: impl FnOnce()) -> Vec<String> {
    let file = server.base().join("trace");
    let calls = "trace=fsync,fdatasync,link,linkat,rename,renameat,renameat2,write,writev,sendto,sendmsg";
    let pid = server.pid().to_string();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-s", "64", "-e", calls, "-p", &pid, "-o"]).arg(&file);
    let mut strace = strace.stderr(std::process::Stdio::piped()).spawn().expect("strace: tests/run installs it");
    let mut said = BufReader::new(strace.stderr.take().expect("piped")).lines();
    let first = said.next().expect("a word").expect("a line");
    assert!(first.contains("attached"), "{first}");
    act();
    assert!(Command::new("kill").args(["-INT", &strace.id().to_string()]).status().expect("kill").success());
    strace.wait().expect("strace");
    fs::read_to_string(file).expect("trace").lines().map(str::to_owned).collect()
}

#[test]
fn what_a_client_is_told_is_on_the_disk_before() {
    let server = server("");
    let token = server.sign_up("careful");
    let iso = fs::read(image()).expect("image");
    let mut begun = String::new();
    let calls = traced(&server, || begun = create(&server, &token, iso.len(), "tiny.iso"));
    let path = begun;
    let told = calls.iter().position(|call| call.contains("HTTP/1.1 201")).expect("the answer");
    // The file's folder, and those that were made on the way to it.
    for folder in ["/uploads>", &format!("/users/{}>", uid(&server, &token)), "/users>"] {
        let synced = calls[..told].iter().any(|call| call.contains("fsync(") && call.contains(folder));
        assert!(synced, "{folder} is not on the disk\n{}", calls.join("\n"));
    }
    let made = traced(&server, || {
        let made = server.call("POST", "/disks", &token, &json!({"name": "work", "size_gb": 1}));
        assert_eq!(made.status, 201, "{made:?}");
    });
    let told = made.iter().position(|call| call.contains("HTTP/1.1 201")).expect("the answer");
    for what in ["/disks/work.qcow2>", "/disks>"] {
        let synced = made[..told].iter().any(|call| call.contains("fsync(") && call.contains(what));
        assert!(synced, "{what} is not on the disk\n{}", made.join("\n"));
    }
    let half = iso.len() / 2;
    let staged = path.rsplit('/').next().expect("id").to_owned();
    let calls = traced(&server, || assert_eq!(patch(&server, &token, &path, 0, &iso[..half], &[]).status, 204));
    let at = |calls: &[String], what: &[&str]| {
        let found = calls.iter().position(|call| what.iter().all(|part| call.contains(part)));
        found.unwrap_or_else(|| panic!("no {what:?} in\n{}", calls.join("\n")))
    };
    assert!(
        at(&calls, &["fsync(", &staged]) < at(&calls, &["HTTP/1.1 204"]),
        "an offset was told before it was on the disk"
    );
    let calls = traced(&server, || assert_eq!(patch(&server, &token, &path, half, &iso[half..], &[]).status, 204));
    let told = at(&calls, &["HTTP/1.1 204"]);
    let (file, named) = (at(&calls, &["fsync(", &staged]), at(&calls, &["rename", "/images/tiny.iso\""]));
    let folder =
        calls.iter().rposition(|call| call.contains("fsync(") && call.contains("/images>")).expect("the folder");
    assert!(file < named && named < folder && folder < told, "{file} {named} {folder} {told}\n{}", calls.join("\n"));
    server.end();
}

#[test]
fn an_image_for_all_whose_library_is_another_disk_is_refused_and_not_lost_in_between() {
    let server = server("");
    let admin = common::admin(&server);
    let library = server.base().join("images");
    fs::create_dir_all(&library).expect("library");
    let disk = SmallDisk::over(&library, 64);
    let iso = fs::read(image()).expect("image");
    let answer = post_form(&server, &admin, &form("lesson.iso", &iso, &field("shared", "true")));
    assert_eq!((answer.status, answer.code()), (507, "not_stored"), "{answer:?}");
    assert!(isos(&server, &admin).is_empty());
    let left: Vec<_> = fs::read_dir(&library).expect("library").flatten().map(|entry| entry.file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_no_leftovers(&server);
    drop(disk);
    server.end();
}
