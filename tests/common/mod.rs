//! The real thing for integration tests: the server's binary with its own PostgreSQL and QEMU in a temporary folder, and small clients.
//! What is started here is ended here, and nothing may be left behind.
#![allow(dead_code, unreachable_pub, unused_imports, missing_docs, clippy::missing_panics_doc)]

pub mod api;
pub mod bot_api;
pub mod frozen;
pub mod guests;
pub mod host;
pub mod stand_in;
pub mod store;

pub use guests::{image, living};
pub use host::{SmallDisk, processes_of};

use guests::still;
use host::children_of;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tungstenite::{Message, WebSocket};

pub const BINARY: &str = env!("CARGO_BIN_EXE_vmshare");
pub const PATIENT: Duration = Duration::from_secs(60);

/// Looks until it gives something; says after a minute what was waited for.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENT;
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {} s until {what}", PATIENT.as_secs());
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

pub fn folder() -> tempfile::TempDir {
    let folder = tempfile::Builder::new().prefix("vmsi").tempdir_in("/tmp").expect("folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).expect("chmod");
    folder
}

pub struct Server {
    child: Child,
    pub folder: Option<tempfile::TempDir>,
    pub address: SocketAddr,
    pub log: Arc<Mutex<String>>,
}

/// Settings of most tests: plain HTTP, the tiny image for everybody, small guests, no cool-down.
pub fn settings(base: &Path, extra_top: &str, extra_limits: &str, profile: &str) -> String {
    let profile = if profile.is_empty() { format!("base_image = {:?}", still()) } else { profile.to_owned() };
    // Tests keep the host busier than a server of people may be.
    let alerts = if extra_limits.contains("[alerts]") { "" } else { "[alerts]\npause_launches = false\n" };
    format!(
        "host = \"127.0.0.1\"\nport = 0\nvm_base_dir = {base:?}\n{extra_top}\n\
         {alerts}[limits]\nport_cooldown_seconds = 0\nlaunches_per_minute_user = 1000\n{extra_limits}\n\
         [profiles.custom]\ndefault_memory_mb = 128\ndefault_cpus = 1\nvideo = \"std\"\n{profile}\n"
    )
}

impl Server {
    pub fn start() -> Self {
        Self::with("tls = \"off\"\nstop_vms_on_exit = true", "", "")
    }

    /// As [`Server::start`], with guests that live.
    pub fn start_living() -> Self {
        Self::with("tls = \"off\"\nstop_vms_on_exit = true", "", &living())
    }

    pub fn with(top: &str, limits: &str, profile: &str) -> Self {
        let folder = folder();
        let text = settings(&folder.path().join("b"), top, limits, profile);
        fs::write(folder.path().join("vmshare.toml"), text).expect("settings");
        Self::run(folder)
    }

    /// Starts on a folder that has settings.
    pub fn run(folder: tempfile::TempDir) -> Self {
        Self::run_unready(folder).ready()
    }

    pub fn ready(self) -> Self {
        let deadline = Instant::now() + PATIENT;
        loop {
            let answer = self.call("GET", "/readyz", "", &Value::Null);
            if answer.status == 200 {
                return self;
            }
            assert!(Instant::now() < deadline, "the server is not ready: {}\n{}", answer.json, self.said());
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    pub fn run_unready(folder: tempfile::TempDir) -> Self {
        Self::run_by(&mut Command::new(BINARY), folder)
    }

    /// Starts it by a command that becomes the server.
    pub fn run_by(command: &mut Command, folder: tempfile::TempDir) -> Self {
        let mut child = command
            .args(["serve", "--config"])
            .arg(folder.path().join("vmshare.toml"))
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let mut said = String::new();
        let address = loop {
            let line = lines.next().unwrap_or_else(|| panic!("the server ended: {said}")).expect("log");
            said.push_str(&line);
            said.push('\n');
            if let Some((_, rest)) = line.split_once("listening on http") {
                let address = rest.trim_start_matches('s').trim_start_matches("://");
                break address.split_whitespace().next().expect("address").parse().expect("address");
            }
        };
        let log = Arc::new(Mutex::new(said));
        let kept = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                kept.lock().expect("log").push_str(&format!("{line}\n"));
            }
        });
        Self { child, folder: Some(folder), address, log }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn base(&self) -> PathBuf {
        self.folder.as_ref().expect("it runs").path().join("b")
    }

    pub fn config_file(&self) -> PathBuf {
        self.folder.as_ref().expect("it runs").path().join("vmshare.toml")
    }

    pub fn said(&self) -> String {
        self.log.lock().expect("log").clone()
    }

    pub fn wait_for_log(&self, text: &str) {
        until(&format!("the log says {text:?}"), || self.said().contains(text).then_some(()));
    }

    /// One request on a connection of its own; a token goes as a bearer.
    pub fn call(&self, method: &str, path: &str, token: &str, body: &Value) -> Answer {
        let bearer = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.raw(&format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\n{bearer}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.address,
            body.len()
        ))
    }

    /// Bytes as they are, the answer read to the end of the connection.
    pub fn raw(&self, request: &str) -> Answer {
        let mut socket = self.connect();
        socket.write_all(request.as_bytes()).expect("send");
        let mut answer = Vec::new();
        // A reset after the answer is the server's right.
        let _ = socket.read_to_end(&mut answer);
        Answer::parse(&answer)
    }

    pub fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.address).expect("connect");
        socket.set_read_timeout(Some(PATIENT)).expect("timeout");
        socket.set_nodelay(true).expect("nodelay");
        socket
    }

    pub fn sign_up(&self, name: &str) -> String {
        let body = json!({"email": format!("{name}@example.org"), "password": "correct horse"});
        let answer = self.call("POST", "/auth/signup", "", &body);
        assert_eq!(answer.status, 201, "{answer:?}");
        let token = answer.json["token"].as_str().expect("token").to_owned();
        fs::write(self.token_file(name), &token).expect("token");
        token
    }

    pub fn launch(&self, token: &str) -> Value {
        let answer = self.call("POST", "/run-iso", token, &Value::Null);
        assert_eq!(answer.status, 200, "{answer:?}\n{}", self.said());
        answer.json["vm"].clone()
    }

    pub fn stop(&self, token: &str, vm: &Value) -> Value {
        let path = format!("/vms/{}/stop", vm["vmid"].as_str().expect("vmid"));
        let answer = self.call("POST", &path, token, &json!({"force": true}));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json
    }

    /// A websocket, or the answer that refuses it.
    pub fn websocket(&self, path: &str, headers: &[(&str, &str)]) -> Result<WebSocket<TcpStream>, u16> {
        let mut request = tungstenite::http::Request::builder()
            .uri(format!("ws://{}{path}", self.address))
            .header("host", self.address.to_string())
            .header("upgrade", "websocket")
            .header("connection", "Upgrade")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", tungstenite::handshake::client::generate_key());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        match tungstenite::client(request.body(()).expect("request"), self.connect()) {
            Ok((socket, _)) => Ok(socket),
            Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(response))) => {
                Err(response.status().as_u16())
            }
            Err(other) => panic!("{other}"),
        }
    }

    /// The screen of a VM, its RFB greeting read.
    pub fn screen(&self, token: &str, vm: &Value) -> WebSocket<TcpStream> {
        let path = format!("/ws/{}", vm["http_port"]);
        let bearer = format!("Bearer {token}");
        let mut socket = self.websocket(&path, &[("authorization", &bearer)]).expect("the screen");
        let greeting = socket.read().expect("greeting");
        assert!(greeting.into_data().starts_with(b"RFB 003."), "no RFB greeting");
        socket
    }

    /// The serial console of a VM, through the server, as its owner who signed up here: what was said before, then what comes.
    pub fn serial(&self, vm: &Value) -> Serial {
        let token = fs::read_to_string(self.token_file(vm["user"].as_str().expect("user"))).expect("its owner's token");
        self.terminal(&token, vm).expect("the serial console")
    }

    /// A terminal on a VM's serial console, or the answer that refuses it.
    pub fn terminal(&self, token: &str, vm: &Value) -> Result<Serial, u16> {
        let bearer = format!("Bearer {token}");
        let path = format!("/ws/{}/serial", vm["http_port"]);
        let socket = self.websocket(&path, &[("authorization", &bearer)])?;
        socket.get_ref().set_read_timeout(Some(Duration::from_millis(200))).expect("timeout");
        Ok(Serial { socket, text: String::new(), marks: 0 })
    }

    fn token_file(&self, login: &str) -> PathBuf {
        self.folder.as_ref().expect("it runs").path().join(format!("token-{login}"))
    }

    /// The database, past the server.
    pub fn database(&self) -> postgres::Client {
        let mut config = postgres::Config::new();
        config.host_path(self.base().join("postgres/run")).user("vmshare").dbname("vmshare");
        config.connect(postgres::NoTls).expect("database")
    }

    pub fn count(&self, sql: &str) -> i64 {
        self.database().query_one(sql, &[]).expect("count").get(0)
    }

    /// Nothing of any launch is left: no row that is live, no port taken, no folder, no process.
    pub fn assert_nothing_left(&self) {
        // What is told of an end does not wait for the database; a stop answers when it is written down, and the folder goes right after.
        let live = "select count(*) from vms where state in ('starting', 'running', 'stopping')";
        until("no row is live", || (self.count(live) == 0).then_some(()));
        assert_eq!(self.count("select count(*) from ports where vmid is not null"), 0, "taken ports");
        until("no run folder is left", || {
            (fs::read_dir(self.base().join("runs")).expect("runs").count() == 0).then_some(())
        });
        assert_eq!(processes_of(&self.base().join("runs")), Vec::<u32>::new(), "processes");
    }

    pub fn kill(&mut self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(status.expect("kill").success());
    }

    /// Waits for the process and gives its exit code; the folder stays.
    pub fn wait(mut self) -> (Option<i32>, tempfile::TempDir, String) {
        let code = self.child.wait().expect("reaped").code();
        let said = self.said();
        (code, self.folder.take().expect("once"), said)
    }

    /// Ends it as an operator does; it must end well and leave no process.
    pub fn end(mut self) {
        self.kill("-TERM");
        let (code, folder, said) = self.wait();
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(processes_of(folder.path()), Vec::<u32>::new(), "{said}");
    }

    pub fn command(&self, args: &[&str], input: &str) -> std::process::Output {
        let mut child = Command::new(BINARY)
            .args(args)
            .arg("--config")
            .arg(self.config_file())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("command");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("input");
        child.wait_with_output().expect("output")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that stands on a disk which is gone by now is found by nothing else.
        let mut left = children_of(self.child.id());
        if self.folder.is_some() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- the server's log\n{}", self.said());
        }
        if let Some(folder) = &self.folder {
            left.extend(processes_of(folder.path()));
            for pid in left {
                let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
            }
        }
    }
}

/// An account that is an administrator.
pub fn admin(server: &Server) -> String {
    server.sign_up("root");
    let promoted = server.command(&["user", "promote", "root"], "");
    assert!(promoted.status.success(), "{promoted:?}");
    let body = json!({"email": "root", "password": "correct horse"});
    server.call("POST", "/auth/login", "", &body).json["token"].as_str().expect("token").to_owned()
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub json: Value,
}

impl Answer {
    pub fn parse(bytes: &[u8]) -> Self {
        let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
            return Self { status: 0, headers: Vec::new(), body: bytes.to_vec(), json: Value::Null };
        };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        let headers = head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(": "))
            .map(|(n, v)| (n.to_lowercase(), v.to_owned()))
            .collect();
        let body = bytes[end + 4..].to_vec();
        let json = serde_json::from_slice(&body).unwrap_or(Value::Null);
        Self { status, headers, body, json }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The machine word of a problem.
    pub fn code(&self) -> &str {
        self.json["code"].as_str().unwrap_or("")
    }
}

pub struct Serial {
    pub socket: WebSocket<TcpStream>,
    pub text: String,
    /// Empty frames so far: one, between what was kept and what is live.
    pub marks: usize,
}

impl Serial {
    pub fn send(&mut self, text: &str) {
        self.socket.send(Message::Binary(text.as_bytes().to_vec().into())).expect("serial");
    }

    pub fn wait_for(&mut self, wanted: &str) {
        self.wait_for_while(wanted, || ());
    }

    /// As [`Serial::wait_for`]; `act` is done again and again meanwhile, for a guest that is not listening yet.
    pub fn wait_for_while(&mut self, wanted: &str, mut act: impl FnMut()) {
        let deadline = Instant::now() + PATIENT;
        while !self.text.contains(wanted) {
            assert!(Instant::now() < deadline, "the guest never said {wanted:?}; it said {:?}", self.text);
            act();
            self.read();
        }
    }

    /// Reads until the server closes; its code and reason.
    pub fn closed(&mut self) -> (u16, String) {
        self.socket.get_ref().set_read_timeout(Some(PATIENT)).expect("timeout");
        closed(&mut self.socket)
    }

    /// What comes within a moment.
    pub fn read(&mut self) {
        match self.socket.read() {
            Ok(Message::Binary(bytes)) if bytes.is_empty() => self.marks += 1,
            Ok(Message::Binary(bytes)) => self.text.push_str(&String::from_utf8_lossy(&bytes)),
            _ => {}
        }
    }
}

/// The VM as the stream of events tells it.
pub struct Events(Box<dyn Iterator<Item = Value>>);

impl Events {
    pub fn of(server: &Server, token: &str) -> Self {
        Self::from(server, &format!("GET /events HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n\r\n"))
    }

    /// What somebody without an account is told; the link's token is in the path.
    pub fn by_link(server: &Server, path: &str) -> Self {
        Self::from(server, &format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"))
    }

    fn from(server: &Server, request: &str) -> Self {
        let mut socket = server.connect();
        socket.write_all(request.as_bytes()).expect("send");
        let lines = BufReader::new(socket).lines().map(|line| line.expect("the stream goes on"));
        Self(Box::new(lines.filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok())))
    }

    pub fn wait_for(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.0.by_ref().find(|vm| wanted(vm)).unwrap_or_else(|| panic!("the stream ended before {what}"))
    }
}

/// Reads until the server closes; its code and reason.
pub fn closed(socket: &mut WebSocket<TcpStream>) -> (u16, String) {
    let deadline = Instant::now() + PATIENT;
    while Instant::now() < deadline {
        match socket.read() {
            Ok(Message::Close(Some(frame))) => return (frame.code.into(), frame.reason.to_string()),
            Ok(Message::Close(None)) => return (1005, String::new()),
            Ok(_) => {}
            Err(e) => return (1006, e.to_string()),
        }
    }
    panic!("the server does not close");
}

/// Past the RFB handshake (RFC 6143 7.1 to 7.3), so that messages may be sent.
pub fn shake_hands(socket: &mut WebSocket<TcpStream>) {
    let mut got = Vec::new();
    let mut take = |socket: &mut WebSocket<TcpStream>, count: usize| {
        while got.len() < count {
            got.extend_from_slice(&socket.read().expect("rfb").into_data());
        }
        got.drain(..count).collect::<Vec<u8>>()
    };
    let send = |socket: &mut WebSocket<TcpStream>, bytes: &[u8]| {
        socket.send(Message::Binary(bytes.to_vec().into())).expect("send")
    };
    send(socket, b"RFB 003.008\n");
    let types = take(socket, 1)[0];
    take(socket, usize::from(types));
    send(socket, &[1]);
    assert_eq!(take(socket, 4), [0; 4], "security is refused");
    send(socket, &[1]);
    let init = take(socket, 24);
    let name = u32::from_be_bytes([init[20], init[21], init[22], init[23]]);
    take(socket, name as usize);
}

/// A file of random bytes.
pub fn noise(path: &Path, size: usize) {
    let mut state = 0x9e37_79b9_u32;
    let bytes: Vec<u8> = (0..size)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_le_bytes()[0]
        })
        .collect();
    fs::write(path, bytes).expect("noise");
}
