//! What people keep, as the API takes and tells it: uploads by form and by tus, images, disks, snapshots.

use super::{Answer, Serial, Server, until};
use ring::digest;
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

pub const PLAIN: &str = "tls = \"off\"\nstop_vms_on_exit = true";
/// Each user starts his own upload.
pub const OWN: &str = "base_image = \"{VM_BASE_DIR}/uploads\"";

pub fn server(limits: &str) -> Server {
    Server::with(PLAIN, limits, OWN)
}

pub fn uid(server: &Server, token: &str) -> String {
    server.call("GET", "/auth/me", token, &Value::Null).json["user"]["id"].as_str().expect("id").to_owned()
}

pub fn folder_of(server: &Server, token: &str) -> PathBuf {
    server.base().join("users").join(uid(server, token))
}

pub fn sha256(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(digest::digest(&digest::SHA256, bytes).as_ref())
}

pub fn form(filename: &str, bytes: &[u8], fields: &str) -> Vec<u8> {
    let head =
        format!("{fields}--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{filename}\"\r\n\r\n");
    [head.as_bytes(), bytes, b"\r\n--XX--\r\n"].concat()
}

pub fn field(name: &str, value: &str) -> String {
    format!("--XX\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
}

pub fn post_form(server: &Server, token: &str, body: &[u8]) -> Answer {
    let head = format!(
        "POST /upload HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\
         Content-Type: multipart/form-data; boundary=XX\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    exchange(server.connect(), head.as_bytes(), body)
}

/// Sends all, whether or not the answer comes early, and reads the answer.
pub fn exchange(mut socket: TcpStream, head: &[u8], body: &[u8]) -> Answer {
    socket.write_all(head).expect("head");
    // An early answer may be followed by a close; the answer counts.
    let _ = socket.write_all(body);
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    Answer::parse(&answer)
}

pub fn tus(server: &Server, token: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    exchange(server.connect(), tus_head(token, method, path, headers, body.len()).as_bytes(), body)
}

pub fn tus_head(token: &str, method: &str, path: &str, headers: &[(&str, &str)], length: usize) -> String {
    let extra: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\nTus-Resumable: 1.0.0\r\n{extra}\
         Content-Length: {length}\r\nConnection: close\r\n\r\n"
    )
}

pub fn create(server: &Server, token: &str, size: usize, name: &str) -> String {
    let metadata = format!("filename {}", data_encoding::BASE64.encode(name.as_bytes()));
    let size = size.to_string();
    let made =
        tus(server, token, "POST", "/uploads/", &[("Upload-Length", &size), ("Upload-Metadata", &metadata)], b"");
    assert_eq!(made.status, 201, "{made:?}");
    made.header("location").expect("location").to_owned()
}

pub fn patch(server: &Server, token: &str, path: &str, from: usize, bytes: &[u8], extra: &[(&str, &str)]) -> Answer {
    let from = from.to_string();
    let mut headers = vec![("Upload-Offset", from.as_str()), ("Content-Type", "application/offset+octet-stream")];
    headers.extend(extra);
    tus(server, token, "PATCH", path, &headers, bytes)
}

pub fn offset(server: &Server, token: &str, path: &str) -> usize {
    let status = tus(server, token, "HEAD", path, &[], b"");
    assert_eq!(status.status, 200, "{status:?}");
    status.header("upload-offset").and_then(|n| n.parse().ok()).expect("offset")
}

pub fn isos(server: &Server, token: &str) -> Vec<Value> {
    let answer = server.call("GET", "/isos", token, &Value::Null);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json["isos"].as_array().expect("isos").clone()
}

/// Everything that uploads could leave behind.
pub fn leftovers(server: &Server) -> Vec<PathBuf> {
    leftovers_in(&server.base())
}

pub fn leftovers_in(base: &Path) -> Vec<PathBuf> {
    let users = fs::read_dir(base.join("users")).expect("users");
    let mut found: Vec<PathBuf> = users
        .flatten()
        .flat_map(|user| fs::read_dir(user.path().join("uploads")).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

pub fn assert_no_leftovers(server: &Server) {
    until("nothing of the upload is left", || {
        (leftovers(server).is_empty() && server.count("select count(*) from uploads where state = 'open'") == 0)
            .then_some(())
    });
}

pub fn run(server: &Server, token: &str, body: &Value) -> Value {
    let answer = server.call("POST", "/run-iso", token, body);
    assert_eq!(answer.status, 200, "{answer:?}\n{}", server.said());
    answer.json["vm"].clone()
}

pub fn terminal(server: &Server, token: &str, vm: &Value) -> Serial {
    server.terminal(token, vm).expect("a terminal")
}

/// Types a command until the guest's shell has answered it.
pub fn sh(serial: &mut Serial, command: &str, wanted: &str) {
    serial.text.clear();
    serial.send(&format!("{command}\n"));
    serial.wait_for(wanted);
}

pub fn snapshots(server: &Server, token: &str, vm: &Value, method: &str, rest: &str, body: &Value) -> Answer {
    server.call(method, &format!("/vms/{}/snapshots{rest}", vm["vmid"].as_str().expect("vmid")), token, body)
}

pub fn disks(server: &Server, token: &str) -> Value {
    server.call("GET", "/disks", token, &Value::Null).json
}
