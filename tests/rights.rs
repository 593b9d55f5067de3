//! Who may do what: every route by everybody, on a real server with a real VM, disk, snapshot, link, upload and image of one owner.
//!
//! The table is complete by construction: a route without a row, or a row without a route, fails. Each answer is held against
//! `/openapi.json` on the way.

mod common;

use common::api::Api;
use common::{Answer, Server, image};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use vmshare::proto::http::Method;
use vmshare::web::{Access, ROUTES};

/// In the order in which they come: who may do nothing first, the owner last, for he may take away what is asked for.
const CALLERS: [&str; 6] = ["anonymous", "sharer", "stranger", "teacher", "admin", "owner"];

type Statuses = [u16; 6];

const fn everybody(status: u16) -> Statuses {
    [status; 6]
}

const fn signed_in(status: u16) -> Statuses {
    [401, 401, status, status, status, status]
}

/// About a VM: its owner, and administrators, who see all VMs.
const fn vm(status: u16) -> Statuses {
    [401, 401, 404, 404, status, status]
}

/// Looking at a student's VM: teachers too.
const fn watched(status: u16) -> Statuses {
    [401, 401, 404, status, status, status]
}

/// About a disk, an upload or an image, which go by names of the owner's own.
const fn own(status: u16) -> Statuses {
    [401, 401, 404, 404, 404, status]
}

const fn admin(status: u16) -> Statuses {
    [401, 401, 403, 403, status, 403]
}

/// By their owner, administrators, teachers, and who has a link.
const fn console(status: u16) -> Statuses {
    [401, status, 404, status, status, status]
}

/// Route, body ("{who}" is the caller), statuses. In an order in which what a row needs is there: a changed password and a log-out come last.
const ROWS: &[(&str, &str, Statuses)] = &[
    ("GET /healthz", "", everybody(200)),
    ("GET /readyz", "", everybody(200)),
    ("GET /version", "", everybody(200)),
    // From this host; the last test here has those who ask from elsewhere.
    ("GET /metrics", "", everybody(200)),
    ("GET /openapi.json", "", everybody(200)),
    ("OPTIONS /uploads/", "", everybody(204)),
    ("OPTIONS /uploads/{id}", "", everybody(204)),
    ("POST /auth/signup", r#"{"email": "new-{who}@example.org", "password": "correct horse"}"#, everybody(201)),
    ("POST /auth/login", r#"{"email": "owner", "password": "correct horse"}"#, everybody(200)),
    ("GET /auth/me", "", signed_in(200)),
    ("GET /profiles", "", signed_in(200)),
    ("GET /events", "", signed_in(200)),
    ("GET /vms", "", signed_in(200)),
    ("GET /isos", "", signed_in(200)),
    ("GET /disks", "", signed_in(200)),
    ("GET /connections", "", admin(200)),
    ("GET /admin/host", "", admin(200)),
    ("GET /admin/load", "", admin(200)),
    ("GET /admin/alerts", "", admin(200)),
    ("GET /vms/{vmid}", "", watched(200)),
    ("GET /connections/{vmid}", "", watched(200)),
    ("GET /vms/{vmid}/events", "", watched(200)),
    ("GET /ws/{http_port}", "", console(101)),
    ("GET /ws/{http_port}/serial", "", console(101)),
    ("GET /ws/{http_port}/events", "", console(200)),
    ("POST /vms/{vmid}/viewers/{id}", r#"{"control": true}"#, vm(200)),
    ("DELETE /vms/{vmid}/viewers/{id}", "", vm(204)),
    ("GET /vms/{vmid}/screen.png", "", console(200)),
    ("GET /admin/users", "", admin(200)),
    ("POST /admin/users/{id}", r#"{"quota_gb": 5}"#, admin(200)),
    ("POST /admin/users/{id}/password", "", admin(200)),
    ("GET /admin/invites", "", admin(200)),
    ("POST /admin/invites", r#"{"uses": 2}"#, admin(201)),
    ("DELETE /admin/invites/{id}", "", admin(204)),
    ("GET /admin/audit", "", admin(200)),
    ("POST /admin/vms/stop", r#"{"vmids": ["000000000000"]}"#, admin(200)),
    ("POST /admin/vms/restart", r#"{"vmids": ["000000000000"]}"#, admin(200)),
    ("POST /vms/{vmid}/keep", "", vm(200)),
    ("POST /vms/{vmid}/resume", "", vm(200)),
    ("GET /vms/{vmid}/snapshots", "", vm(200)),
    ("POST /vms/{vmid}/snapshots", r#"{"name": "by-{who}"}"#, vm(201)),
    ("POST /vms/{vmid}/snapshots/{name}/restore", "", vm(200)),
    ("DELETE /vms/{vmid}/snapshots/{name}", "", vm(204)),
    ("GET /vms/{vmid}/shares", "", vm(200)),
    ("POST /vms/{vmid}/shares", "", vm(201)),
    ("DELETE /vms/{vmid}/shares/{id}", "", vm(204)),
    ("POST /vms/{vmid}/restart", "", vm(200)),
    ("POST /vms/{vmid}/stop", r#"{"force": true}"#, vm(200)),
    ("POST /run-iso", "", signed_in(200)),
    ("POST /disks", r#"{"name": "of-{who}", "size_gb": 1}"#, signed_in(201)),
    ("POST /disks/{name}/grow", r#"{"size_gb": 2}"#, own(200)),
    ("DELETE /disks/{name}", "", own(204)),
    ("POST /upload", "", signed_in(201)),
    ("DELETE /isos/{name}", "", own(204)),
    ("POST /uploads/", "", signed_in(201)),
    ("HEAD /uploads/{id}", "", vm(200)),
    ("PATCH /uploads/{id}", "", own(204)),
    ("DELETE /uploads/{id}", "", vm(204)),
    ("POST /auth/password", r#"{"current": "correct horse", "new": "correct horse"}"#, signed_in(204)),
    ("POST /auth/logout", "", signed_in(204)),
];

/// What each route that changes something leaves in the audit trail. The first are seen here, when the owner or an administrator did it; the
/// others, which need more than a request, in the test that is named.
const AUDITED: &[(&str, &str)] = &[
    ("POST /auth/signup", "signup"),
    ("POST /auth/login", "login"),
    ("POST /auth/logout", "logout"),
    ("POST /auth/password", "password"),
    ("POST /admin/users/{id}", "change account"),
    ("POST /admin/users/{id}/password", "reset password"),
    ("POST /admin/invites", "create invitation"),
    ("DELETE /admin/invites/{id}", "take invitation back"),
    ("POST /run-iso", "start vm"),
    ("POST /vms/{vmid}/stop", "stop vm"),
    ("POST /vms/{vmid}/restart", "restart vm"),
    ("POST /vms/{vmid}/keep", "keep vm"),
    ("POST /vms/{vmid}/resume", "resume vm"),
    ("POST /vms/{vmid}/snapshots", "create snapshot"),
    ("POST /vms/{vmid}/snapshots/{name}/restore", "restore snapshot"),
    ("DELETE /vms/{vmid}/snapshots/{name}", "delete snapshot"),
    ("POST /vms/{vmid}/shares", "share"),
    ("DELETE /vms/{vmid}/shares/{id}", "revoke"),
    ("POST /vms/{vmid}/viewers/{id}", "give control"),
    ("DELETE /vms/{vmid}/viewers/{id}", "close viewer"),
    ("POST /disks", "create disk"),
    ("POST /disks/{name}/grow", "grow disk"),
    ("DELETE /disks/{name}", "delete disk"),
    ("POST /upload", "upload"),
    ("DELETE /isos/{name}", "delete image"),
    ("POST /uploads/", "begin upload"),
    ("DELETE /uploads/{id}", "throw upload away"),
];
const AUDITED_ELSEWHERE: &[(&str, &str)] = &[
    ("PATCH /uploads/{id}", "its last piece, as upload: uploads.rs"),
    ("POST /admin/vms/stop", "each VM that was stopped: audit.rs"),
    ("POST /admin/vms/restart", "each VM that was restarted: audit.rs"),
];

#[test]
fn every_route_that_changes_something_says_what_it_leaves_in_the_audit_trail() {
    let rows: BTreeSet<String> =
        AUDITED.iter().chain(AUDITED_ELSEWHERE).map(|(route, _)| (*route).to_owned()).collect();
    let changing = ROUTES.iter().filter(|route| !matches!(route.method, Method::Get | Method::Head | Method::Options));
    let routes: BTreeSet<String> = changing.map(|route| format!("{} {}", route.method, route.path)).collect();
    let without: Vec<&String> = routes.symmetric_difference(&rows).collect();
    assert_eq!(without, [""; 0], "say in AUDITED what the route leaves in the audit trail");
    assert_eq!(rows.len(), AUDITED.len() + AUDITED_ELSEWHERE.len(), "a row is there twice");
}

#[test]
fn every_route_has_a_row_and_every_row_a_route() {
    let rows: BTreeSet<String> = ROWS.iter().map(|(route, ..)| (*route).to_owned()).collect();
    let routes: BTreeSet<String> = ROUTES.iter().map(|route| format!("{} {}", route.method, route.path)).collect();
    let without: Vec<&String> = routes.symmetric_difference(&rows).collect();
    assert_eq!(without, [""; 0], "say in ROWS what each caller may do, or remove the row");
    assert_eq!(rows.len(), ROWS.len(), "a row is there twice");
    for route in ROUTES {
        let name = format!("{} {}", route.method, route.path);
        let (.., statuses) = ROWS.iter().find(|(row, ..)| *row == name).expect("a row");
        assert_eq!(statuses[0] != 401, route.access == Access::Public, "{name} by nobody");
        assert_eq!(statuses[2] == 403, route.access == Access::Admin, "{name} by a user");
    }
}

/// The owner's things, and everybody's keys.
struct World {
    server: Server,
    tokens: Vec<String>,
    vm: Value,
    link: String,
    upload: String,
    /// Somebody who looks by the link.
    guest: Option<tungstenite::WebSocket<std::net::TcpStream>>,
}

impl World {
    fn new() -> Self {
        let top = "tls = \"off\"\nstop_vms_on_exit = true";
        let server = Server::with(top, "signups_per_minute = 1000\nlogins_per_minute_ip = 1000", "");
        let (stranger, teacher) = (server.sign_up("stranger"), server.sign_up("teacher"));
        let promoted = server.command(&["user", "promote", "teacher", "teacher"], "");
        assert!(promoted.status.success(), "{promoted:?}");
        let again = json!({"email": "teacher", "password": "correct horse"});
        let teacher = server.call("POST", "/auth/login", &teacher, &again).json["token"].clone();
        let teacher = teacher.as_str().expect("token").to_owned();
        let me = server.call("GET", "/auth/me", &teacher, &Value::Null);
        assert_eq!(me.json["user"]["role"], json!("teacher"));
        let (admin, owner) = (common::admin(&server), server.sign_up("owner"));
        let tokens = vec![String::new(), String::new(), stranger, teacher, admin, owner];
        let mut world =
            Self { server, tokens, vm: Value::Null, link: String::new(), upload: String::new(), guest: None };
        world.start();
        world
    }

    /// The owner's request, which must succeed.
    fn owner(&self, method: &str, path: &str, body: &Value) -> Answer {
        let answer = self.server.call(method, path, &self.tokens[5], body);
        assert!(answer.status < 300, "{method} {path}: {answer:?}");
        answer
    }

    fn start(&mut self) {
        self.vm = self.owner("POST", "/run-iso", &json!({"disk": "work", "data_disk_gb": 1})).json["vm"].clone();
        self.link = self.share().1;
    }

    fn vmid(&self) -> &str {
        self.vm["vmid"].as_str().expect("vmid")
    }

    /// A link's id and token.
    fn share(&self) -> (String, String) {
        let made = self.owner("POST", &format!("/vms/{}/shares", self.vmid()), &Value::Null).json["share"].clone();
        let text = |name: &str| made[name].as_str().expect("a text").to_owned();
        (text("id"), text("token"))
    }

    /// Has the owner's thing there, and names it.
    fn prepare(&mut self, path: &str) -> String {
        if self.owner("GET", "/auth/me", &Value::Null).json["vm"].is_null() {
            self.start();
        }
        let real = path.replace("{vmid}", self.vmid()).replace("{http_port}", &self.vm["http_port"].to_string());
        let there = |answer: &Answer| assert!(answer.status < 300 || answer.status == 409, "{answer:?}");
        if real.contains("/snapshots/") {
            let path = format!("/vms/{}/snapshots", self.vmid());
            there(&self.server.call("POST", &path, &self.tokens[5], &json!({"name": "now"})));
            real.replace("{name}", "now")
        } else if real.contains("/viewers/") {
            let path = format!("/ws/{}?share={}", self.vm["http_port"], self.link);
            self.guest = Some(self.server.websocket(&path, &[]).expect("the link lets him in"));
            let seen = self.owner("GET", &format!("/connections/{}", self.vmid()), &Value::Null);
            let who = seen.json["who"].as_array().expect("who").iter().find(|who| who["kind"] == "link").cloned();
            real.replace("{id}", &who.expect("the guest")["id"].to_string())
        } else if real.starts_with("/admin/users/") {
            // One who signed up for the row above.
            let found = self.server.call("GET", "/admin/users?q=new-anonymous", &self.tokens[4], &Value::Null).json;
            real.replace("{id}", found["users"][0]["id"].as_str().expect("an id"))
        } else if real.starts_with("/admin/invites/") {
            let made = self.server.call("POST", "/admin/invites", &self.tokens[4], &Value::Null).json;
            real.replace("{id}", made["invite"]["id"].as_str().expect("an id"))
        } else if real.contains("/shares/") {
            real.replace("{id}", &self.share().0)
        } else if real.starts_with("/disks/") {
            there(&self.server.call("POST", "/disks", &self.tokens[5], &json!({"name": "spare", "size_gb": 1})));
            real.replace("{name}", "spare")
        } else if real.starts_with("/isos/") {
            let listed = self.owner("GET", "/isos", &Value::Null).json.to_string();
            assert!(listed.contains("\"owner.iso\""), "{listed}");
            real.replace("{name}", "owner.iso")
        } else if real.starts_with("/uploads/{") {
            if self.upload.is_empty() || self.send("HEAD", &self.upload, 5, TUS, b"").status != 200 {
                let answer = self.send("POST", "/uploads/", 5, TUS_NEW, b"");
                answer.header("location").expect("its place").clone_into(&mut self.upload);
            }
            self.upload.clone()
        } else {
            real
        }
    }

    /// A request by one of [`CALLERS`], on a connection of its own; who has a link brings it along wherever he goes.
    fn send(&self, method: &str, path: &str, caller: usize, headers: &str, body: &[u8]) -> Answer {
        let token = &self.tokens[caller];
        let bearer = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
        let link = if CALLERS[caller] == "sharer" { format!("?share={}", self.link) } else { String::new() };
        let length = body.len();
        let head = format!(
            "{method} {path}{link} HTTP/1.1\r\nHost: h\r\n{bearer}{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        let mut socket = self.server.connect();
        socket.write_all(head.as_bytes()).expect("head");
        // A refusal may come before all of it is sent.
        let _ = socket.write_all(body);
        let mut bytes = Vec::new();
        let mut piece = [0; 4096];
        // A stream of events and a websocket have no end: their head is enough.
        while !(is_endless(&bytes) && bytes.windows(4).any(|end| end == b"\r\n\r\n")) {
            match socket.read(&mut piece) {
                Ok(count) if count > 0 => bytes.extend_from_slice(&piece[..count]),
                _ => break,
            }
        }
        Answer::parse(&bytes)
    }

    /// What one caller gets on one row.
    fn ask(&mut self, method: &str, path: &str, caller: usize, body: &str) -> Answer {
        let real = self.prepare(path);
        let body = body.replace("{who}", CALLERS[caller]);
        match (method, path) {
            ("GET", "/ws/{http_port}" | "/ws/{http_port}/serial") => self.send(method, &real, caller, UPGRADE, b""),
            ("POST", "/upload") => self.send(method, &real, caller, FORM, &form(CALLERS[caller])),
            ("POST", "/uploads/") => self.send(method, &real, caller, TUS_NEW, b""),
            (_, "/uploads/{id}") => self.send(method, &real, caller, TUS, b""),
            _ => self.send(method, &real, caller, "", body.as_bytes()),
        }
    }
}

const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const FORM: &str = "Content-Type: multipart/form-data; boundary=XX\r\n";
const TUS_NEW: &str = "Tus-Resumable: 1.0.0\r\nUpload-Length: 20000000\r\nUpload-Metadata: filename dGlueS5pc28=\r\n";
const TUS: &str = "Tus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\nContent-Type: application/offset+octet-stream\r\n";

fn is_endless(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let head = text.split("\r\n\r\n").next().unwrap_or_default().to_lowercase();
    head.starts_with("http/1.1 101") || head.contains("content-type: text/event-stream")
}

/// A form with a good image, named after who brings it.
fn form(who: &str) -> Vec<u8> {
    let head = format!("--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{who}.iso\"\r\n\r\n");
    [head.as_bytes(), &fs::read(image()).expect("image"), b"\r\n--XX--\r\n"].concat()
}

#[test]
fn every_route_answers_everybody_as_its_row_says() {
    let mut world = World::new();
    let mut api = Api::new();
    let mut wrong = Vec::new();
    for (route, body, expected) in ROWS {
        let (method, path) = route.split_once(' ').expect("a method and a path");
        let audited = AUDITED.iter().find(|(audited, _)| audited == route).map(|(_, action)| *action);
        let lines = |world: &World| {
            audited.map_or(0, |action| {
                world.server.count(&format!("select count(*) from audit where action = '{action}'"))
            })
        };
        let before = lines(&world);
        let got: Vec<u16> = (0..CALLERS.len())
            .map(|caller| {
                let answer = world.ask(method, path, caller, body);
                // Their bodies are read elsewhere, and here not to the end.
                if !is_endless_route(path) {
                    api.hold(method, path, &answer);
                }
                answer.status
            })
            .collect();
        if let Some(action) = audited.filter(|_| lines(&world) == before) {
            wrong.push(format!("{route} left no line {action:?} in the audit trail"));
        }
        if got != expected {
            wrong.push(format!("{route}: {CALLERS:?} got {got:?}, not {expected:?}"));
        }
        // Tests share a host: what others started is ended at once.
        if *route == "POST /run-iso" {
            (2..5).for_each(|caller| end_of(&world, caller));
        }
    }
    assert_eq!(wrong, [""; 0]);
    world.server.end();
}

fn is_endless_route(path: &str) -> bool {
    path.ends_with("/events") || path.starts_with("/ws/")
}

/// Stops the VM of one caller.
fn end_of(world: &World, caller: usize) {
    let me = world.server.call("GET", "/auth/me", &world.tokens[caller], &Value::Null);
    world.server.stop(&world.tokens[caller], &me.json["vm"]);
}

#[test]
fn what_is_somebody_elses_cannot_be_named_in_a_body_and_is_in_no_list() {
    let mut world = World::new();
    let form = world.send("POST", "/upload", 5, FORM, &form("owner"));
    assert_eq!(form.status, 201, "{form:?}");
    let real = world.prepare("/disks/{name}");
    assert_eq!(real, "/disks/spare");
    let uid = world.owner("GET", "/auth/me", &Value::Null).json["user"]["id"].as_str().expect("id").to_owned();
    let path = world.server.base().join(format!("users/{uid}/disks/spare.qcow2"));
    assert!(path.exists(), "{path:?}");
    for caller in [2, 3, 4] {
        let token = &world.tokens[caller];
        for (path, body) in [
            ("/run-iso", json!({"disk": "spare"})),
            ("/run-iso", json!({"install_disk_path": path})),
            ("/run-iso", json!({"iso": "owner.iso"})),
            ("/disks", json!({"name": "mine", "image": "owner.iso"})),
        ] {
            let answer = world.server.call("POST", path, token, &body);
            assert_eq!(answer.status, 404, "{} with {body}: {answer:?}", CALLERS[caller]);
        }
        for (path, list) in [("/vms", "vms"), ("/disks", "disks")] {
            let answer = world.server.call("GET", path, token, &Value::Null);
            assert_eq!(answer.json[list], json!([]), "{path} of {}", CALLERS[caller]);
        }
        assert!(!world.server.call("GET", "/isos", token, &Value::Null).json.to_string().contains("owner.iso"));
        assert_eq!(world.server.call("GET", "/auth/me", token, &Value::Null).json["vm"], Value::Null);
    }
    // An administrator who says whose sees and removes them; for others there is no such user.
    for (method, path) in
        [("GET", "/disks"), ("GET", "/isos"), ("DELETE", "/disks/spare"), ("DELETE", "/isos/owner.iso")]
    {
        let path = format!("{path}?user={uid}");
        for caller in [2, 3] {
            let answer = world.server.call(method, &path, &world.tokens[caller], &Value::Null);
            assert_eq!(answer.status, 404, "{method} {path} by {}: {answer:?}", CALLERS[caller]);
        }
        let answer = world.server.call(method, &path, &world.tokens[4], &Value::Null);
        assert!(answer.status < 300, "{method} {path}: {answer:?}");
        let named = answer.json.to_string();
        assert!(method == "DELETE" || named.contains("spare") || named.contains("owner.iso"), "{named}");
        let odd = path.replace(&uid, "..%2Fx");
        assert_eq!(world.server.call(method, &odd, &world.tokens[4], &Value::Null).status, 404, "{odd}");
    }
    let audit = format!("select count(*) from audit where detail = 'of user {uid}' and action like 'delete %'");
    assert_eq!(world.server.count(&audit), 2);
    // Everyone's are for administrators; who else asks gets his own.
    let all = |caller: usize| world.server.call("GET", "/vms?all=1", &world.tokens[caller], &Value::Null).json;
    assert_eq!(all(4)["vms"][0]["vmid"], world.vm["vmid"]);
    assert_eq!(all(3)["vms"][0]["vmid"], world.vm["vmid"], "students' are for teachers");
    assert_eq!(all(2)["vms"], json!([]));
    // A link opens the consoles of its own VM and of no other.
    let other = world.server.launch(&world.tokens[2]);
    let address = format!("/ws/{}?share={}", other["http_port"], world.link);
    assert_eq!(world.server.websocket(&address, &[]).err(), Some(404));
    for id in ["000000000000", "0", "../etc", "%2e%2e", "ABCDEF012345", "0123456789abcdef"] {
        let status = world.server.call("GET", &format!("/vms/{id}"), &world.tokens[5], &Value::Null).status;
        assert!([400, 404].contains(&status), "{id}: {status}");
    }
    for token in ["0123456789abcdef", "x"] {
        assert_eq!(world.server.call("GET", "/vms", token, &Value::Null).status, 401, "a token that is none");
    }
    world.server.end();
}

#[test]
fn metrics_are_for_this_host_itself_and_from_elsewhere_for_administrators() {
    let server = Server::with("tls = \"off\"\ntrusted_proxies = [\"127.0.0.1\"]", "", "");
    let (user, admin) = (server.sign_up("user"), common::admin(&server));
    let mut api = Api::new();
    for (address, token, status) in
        [("127.0.0.1", "", 200), ("192.0.2.7", "", 401), ("192.0.2.7", &*user, 403), ("192.0.2.7", &*admin, 200)]
    {
        let bearer = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
        let answer = server.raw(&format!(
            "GET /metrics HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: {address}\r\n{bearer}Connection: close\r\n\r\n"
        ));
        assert_eq!(answer.status, status, "{address}: {answer:?}");
        api.hold("GET", "/metrics", &answer);
    }
    server.end();
    // A proxy of this host that nobody named.
    let server = Server::start();
    let by_proxy =
        server.raw("GET /metrics HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 192.0.2.7\r\nConnection: close\r\n\r\n");
    assert_eq!(by_proxy.status, 401, "{by_proxy:?}");
    server.end();
}
