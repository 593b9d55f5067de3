//! A server that behaves as Telegram's Bot API does, well or badly, over plain HTTP or TLS. It is told what to answer next, and what it was
//! asked is there to look at.

use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub const TOKEN: &str = "123456:AAFooBarBazQux-secret_token";
pub const CHAT: &str = "-1001234567890";

/// What it does with one request.
#[derive(Debug, Clone, Copy)]
pub enum Act {
    Take,
    /// The tags do not please it.
    BadTags,
    Status(u16, &'static str),
    RetryAfter(u64),
    Hang,
    /// A good answer, byte by byte, for longer than anybody waits.
    Drip,
    /// A body without end.
    Endless,
    /// A header that fills all the room there is for one.
    LongHeader,
    /// To itself.
    Redirect,
    Garbage,
    Close,
}

/// A request: when, its path and its body.
#[derive(Debug, Clone)]
pub struct Asked {
    pub at: Instant,
    pub path: String,
    pub body: Value,
}

#[derive(Clone, Default)]
struct State {
    plan: Arc<Mutex<VecDeque<Act>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

pub struct BotApi {
    pub address: SocketAddr,
    pub tls: bool,
    state: State,
}

impl BotApi {
    pub fn start() -> Self {
        Self::with(None)
    }

    /// With a certificate for `localhost`.
    pub fn with(tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let (state, is_tls) = (State::default(), tls.is_some());
        let shared = state.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let (state, tls) = (shared.clone(), tls.clone());
                std::thread::spawn(move || match tls {
                    None => talk(&state, socket),
                    Some(tls) => {
                        let connection = rustls::ServerConnection::new(tls).expect("tls");
                        talk(&state, rustls::StreamOwned::new(connection, socket));
                    }
                });
            }
        });
        Self { address, tls: is_tls, state }
    }

    /// What it does with the next requests; after these it takes all.
    pub fn plan(&self, acts: &[Act]) {
        self.state.plan.lock().expect("plan").extend(acts);
    }

    pub fn base(&self) -> String {
        match self.tls {
            true => format!("https://localhost:{}", self.address.port()),
            false => format!("http://{}", self.address),
        }
    }

    /// Settings that point here.
    pub fn settings(&self) -> String {
        let base = self.base();
        format!("tg_bot_token = {TOKEN:?}\ntg_chat_id = {CHAT:?}\ntg_api_base = {base:?}")
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().expect("asked").clone()
    }

    /// The texts of all messages it was sent, taken or not.
    pub fn texts(&self) -> Vec<String> {
        self.asked().iter().map(|one| one.body["text"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

fn talk(state: &State, mut socket: impl Read + Write) {
    let mut reader = BufReader::new(&mut socket);
    let (mut line, mut length) = (String::new(), 0);
    if reader.read_line(&mut line).is_err() {
        return;
    }
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    loop {
        line.clear();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
            break;
        }
        if let Some(text) = line.to_lowercase().strip_prefix("content-length:") {
            length = text.trim().parse().expect("a length");
        }
    }
    let mut body = vec![0; length];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    let is_html = body["parse_mode"] == "HTML";
    state.asked.lock().expect("asked").push(Asked { at: Instant::now(), path: path.clone(), body });
    let act = state.plan.lock().expect("plan").pop_front().unwrap_or(Act::Take);
    let refuse = |status: u16, text: &str| (status, json!({"ok": false, "error_code": status, "description": text}));
    let (status, answer) = match act {
        _ if path != format!("/bot{TOKEN}/sendMessage") => refuse(404, "Not Found"),
        Act::Take => (200, json!({"ok": true, "result": {"message_id": 1}})),
        Act::BadTags if is_html => refuse(400, "Bad Request: can't parse entities: unclosed start tag"),
        Act::BadTags => (200, json!({"ok": true, "result": {"message_id": 1}})),
        Act::Status(status, text) => refuse(status, text),
        Act::RetryAfter(seconds) => {
            let mut answer = refuse(429, "Too Many Requests").1;
            answer["parameters"] = json!({"retry_after": seconds});
            (429, answer)
        }
        Act::Hang => {
            std::thread::park_timeout(Duration::from_secs(60));
            return;
        }
        Act::Drip => {
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
            while socket.write_all(b" ").and_then(|()| socket.flush()).is_ok() {
                std::thread::park_timeout(Duration::from_millis(50));
            }
            return;
        }
        Act::Endless => {
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            while socket.write_all(&[b' '; 4096]).is_ok() {}
            return;
        }
        Act::LongHeader => {
            let _ = write!(socket, "HTTP/1.1 200 OK\r\nX:{}\r\nContent-Length: 0\r\n\r\n", "x".repeat(8189));
            return;
        }
        Act::Redirect => {
            let _ = write!(socket, "HTTP/1.1 302 X\r\nLocation: {path}?again\r\nContent-Length: 0\r\n\r\n");
            return;
        }
        Act::Garbage => {
            let _ = socket.write_all(b"\x00\xffSSH-2.0-what\r\n\r\n{{{");
            return;
        }
        Act::Close => return,
    };
    let text = answer.to_string();
    let length = text.len();
    let _ = write!(
        socket,
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{text}"
    );
    let _ = socket.flush();
}
