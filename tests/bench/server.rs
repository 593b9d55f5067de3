//! A server with folders of its own for the benchmarks, and what they ask of it.
#![allow(dead_code, missing_docs, unreachable_pub)]

use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tungstenite::{Message, WebSocket};

pub const BINARY: &str = env!("CARGO_BIN_EXE_vmshare");
pub const PATIENT: Duration = Duration::from_secs(60);

pub struct Server {
    pub child: Child,
    pub folder: tempfile::TempDir,
    pub address: SocketAddr,
    /// When it was started; from then count the next two.
    pub began: Instant,
    pub listening: Duration,
    pub ready: Duration,
}

impl Server {
    pub fn start(iso: &Path) -> Self {
        let limits = "port_cooldown_seconds = 0\nlaunches_per_minute_user = 1000\nlogins_per_minute_ip = 10000";
        let profile = "default_memory_mb = 128\ndefault_cpus = 1\nvideo = \"std\"";
        Self::with(iso, limits, profile)
    }

    pub fn with(iso: &Path, limits: &str, profile: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("vmsb").tempdir_in("/tmp").expect("folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).expect("chmod");
        let config = folder.path().join("vmshare.toml");
        let text = format!(
            "host = \"127.0.0.1\"\nport = 0\ntls = \"off\"\nvm_base_dir = {:?}\nstop_vms_on_exit = true\n\
             [alerts]\npause_launches = false\n[limits]\n{limits}\n\
             [profiles.custom]\nbase_image = {iso:?}\n{profile}\n",
            folder.path().join("b")
        );
        fs::write(&config, text).expect("config");
        Self::run(folder, &config)
    }

    pub fn run(folder: tempfile::TempDir, config: &Path) -> Self {
        let began = Instant::now();
        let mut child = Command::new(BINARY)
            .args(["serve", "--config"])
            .arg(config)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut log = BufReader::new(child.stderr.take().expect("piped"));
        let (mut line, mut said) = (String::new(), String::new());
        let address = loop {
            line.clear();
            assert!(log.read_line(&mut line).expect("log") > 0, "the server ended: {said}");
            said.push_str(&line);
            if let Some((_, rest)) = line.split_once("listening on http://") {
                break rest.split_whitespace().next().expect("address").parse().expect("address");
            }
        };
        let listening = began.elapsed();
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        while call(address, "GET", "/readyz", None, &json!(null)).0 != 200 {
            assert!(began.elapsed() < PATIENT, "the server is not ready");
            std::thread::park_timeout(Duration::from_millis(2));
        }
        Self { child, folder, address, began, listening, ready: began.elapsed() }
    }

    /// The next server in the same folders, after this one has ended as it wants.
    pub fn again(mut self) -> Self {
        self.end("-TERM");
        self.next()
    }

    /// The next server in the same folders, after this one was killed.
    pub fn killed(mut self) -> Self {
        self.end("-KILL");
        self.next()
    }

    fn next(mut self) -> Self {
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().expect("folder"));
        let config = folder.path().join("vmshare.toml");
        Self::run(folder, &config)
    }

    fn end(&mut self, signal: &str) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
            let _ = self.child.wait();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end("-TERM");
    }
}

pub fn call(address: SocketAddr, method: &str, path: &str, token: Option<&str>, body: &Value) -> (u16, Value) {
    let mut socket = TcpStream::connect(address).expect("connect");
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let bearer = token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
    let length = body.len();
    write!(
        socket,
        "{method} {path} HTTP/1.1\r\nHost: bench\r\n{bearer}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .expect("send");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("answer");
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("status");
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

pub fn sign_up(address: SocketAddr, name: &str) -> String {
    let body = json!({"email": format!("{name}@example.org"), "password": "correct horse"});
    let (status, answer) = call(address, "POST", "/auth/signup", None, &body);
    assert_eq!(status, 201, "{answer}");
    answer["token"].as_str().expect("token").to_owned()
}

pub fn screen(address: SocketAddr, token: &str, port: u64) -> WebSocket<TcpStream> {
    let request = tungstenite::http::Request::builder()
        .uri(format!("ws://{address}/ws/{port}"))
        .header("host", address.to_string())
        .header("authorization", format!("Bearer {token}"))
        .header("upgrade", "websocket")
        .header("connection", "Upgrade")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", tungstenite::handshake::client::generate_key())
        .body(())
        .expect("request");
    let socket = TcpStream::connect(address).expect("connect");
    socket.set_nodelay(true).expect("nodelay");
    let (mut socket, _) = tungstenite::client(request, socket).expect("upgrade");
    let Message::Binary(banner) = socket.read().expect("banner") else { panic!("no banner") };
    assert!(banner.starts_with(b"RFB "), "{banner:?}");
    socket
}

pub fn at(times: &[Duration], share: f64) -> Duration {
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]
    times[((times.len() - 1) as f64 * share) as usize]
}

pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

pub fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    at(&times, 0.5)
}

pub fn image() -> PathBuf {
    let path = std::env::var_os("VMSHARE_TEST_ISO").map_or_else(|| "target/test-images/tiny.iso".into(), PathBuf::from);
    path.canonicalize().unwrap_or_else(|e| panic!("{}: {e}; tests/run makes it", path.display()))
}

/// CPU time of a process in hundredths of a second.
pub fn cpu_ticks(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let rest = text.rsplit(')').next().unwrap_or_default();
    let field = |n: usize| rest.split_whitespace().nth(n).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    field(11) + field(12)
}

/// A number from one of the files of `/proc/PID`.
pub fn status_field(pid: u32, file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).expect("proc");
    let line = text.lines().find(|line| line.starts_with(name)).expect("field");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("number")
}

/// Waits until a process uses less than a fifth of a core.
pub fn settle(pid: u32) {
    let ticks = || cpu_ticks(pid);
    let deadline = Instant::now() + PATIENT;
    let mut before = ticks();
    while Instant::now() < deadline {
        std::thread::park_timeout(Duration::from_secs(1));
        let now = ticks();
        if now - before < 20 {
            return;
        }
        before = now;
    }
}
