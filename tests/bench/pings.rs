//! What a round trip costs while something else goes on: websocket pings over an open relay, and a bare echo process in turn with them.
//!
//! A program that uses it answers `--echo` with [`Echo::run`].
#![allow(dead_code, missing_docs, unreachable_pub)]

use crate::server::{at, median, ms};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tungstenite::{Message, WebSocket};

pub const PINGS: usize = 2000;
/// One round of 1.5 s has some dozens of pings in its slowest hundredth; the medians of five say more.
const ROUNDS: usize = 5;

/// A process that does nothing but send back what it gets: what a round trip costs on this machine at this moment, without any server.
pub struct Echo(Child, TcpStream);

impl Echo {
    fn start() -> Self {
        let program = std::env::current_exe().expect("own path");
        let mut child = Command::new(program).arg("--echo").stdout(Stdio::piped()).spawn().expect("echo starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("address");
        let socket = TcpStream::connect(line.trim()).expect("connect");
        socket.set_nodelay(true).expect("nodelay");
        Self(child, socket)
    }

    /// It and the thread that asks go before the crowd's, as the server's loop does.
    pub fn ahead() -> Self {
        let echo = Self::start();
        step_forward(&echo.0.id().to_string());
        let own = fs::read_link("/proc/thread-self").expect("proc");
        step_forward(&own.file_name().expect("id").to_string_lossy());
        echo
    }

    pub fn run() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        println!("{}", listener.local_addr().expect("address"));
        let (mut socket, _) = listener.accept().expect("accept");
        socket.set_nodelay(true).expect("nodelay");
        let mut byte = [0; 1];
        while socket.read_exact(&mut byte).is_ok() {
            socket.write_all(&byte).expect("echo");
        }
    }

    fn ping(&mut self) {
        let mut byte = [0; 1];
        self.1.write_all(&byte).expect("ping");
        self.1.read_exact(&mut byte).expect("echo");
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lets a thread or process go before the crowd's threads, as the server's loop does where it has the right: what is measured is
/// the relay, not how long the one who measures waits for a core.
fn step_forward(id: &str) {
    let _ = Command::new("renice").args(["-n", "-10", "-p", id]).stdout(Stdio::null()).status();
}

/// A new thread has its maker's priority; the crowd has the usual one.
pub fn step_back() {
    let own = fs::read_link("/proc/thread-self").expect("proc");
    let id = own.file_name().expect("id").to_string_lossy().into_owned();
    let _ = Command::new("renice").args(["-n", "0", "-p", &id]).stdout(Stdio::null()).status();
}

/// Round trips of websocket pings over an open relay and, in turn with them, of the floor; both sorted.
pub fn pings(
    relay: &mut WebSocket<TcpStream>,
    floor: &mut Echo,
    mut more: impl FnMut(usize) -> bool,
) -> (Vec<Duration>, Vec<Duration>) {
    let (mut times, mut floors) = (Vec::new(), Vec::new());
    while more(times.len()) {
        let began = Instant::now();
        relay.send(Message::Ping(b"ping".as_slice().into())).expect("ping");
        while !matches!(relay.read().expect("pong"), Message::Pong(_)) {}
        times.push(began.elapsed());
        let began = Instant::now();
        floor.ping();
        floors.push(began.elapsed());
        // A thousand a second: as often as a hand moves a mouse, and not a load of its own.
        std::thread::park_timeout(Duration::from_millis(1));
    }
    times.sort_unstable();
    floors.sort_unstable();
    (times, floors)
}

/// Round trips while nothing goes on and while what `begin` starts does, until it says that it is over.
pub fn meanwhile(
    what: &str,
    relay: &mut WebSocket<TcpStream>,
    echo: &mut Echo,
    begin: &dyn Fn() -> Box<dyn Fn() -> bool>,
) {
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (idle, idle_floor) = pings(relay, echo, |count| count < PINGS);
        let is_over = begin();
        let (busy, busy_floor) = pings(relay, echo, |_| !is_over());
        ours.push((at(&idle, 0.99), at(&busy, 0.99)));
        floor.push((at(&idle_floor, 0.99), at(&busy_floor, 0.99)));
    }
    println!("{what}, {ROUNDS} rounds; a round trip's p99, idle -> meanwhile");
    for (name, rounds) in [("relay ping", ours), ("bare echo process", floor)] {
        let (idle, busy): (Vec<_>, Vec<_>) = rounds.iter().copied().unzip();
        let each: Vec<_> = rounds.iter().map(|(idle, busy)| format!("{:.2}x", ms(*busy) / ms(*idle))).collect();
        let (idle, busy) = (ms(median(idle)), ms(median(busy)));
        println!(
            "  {name:22} {idle:.3} -> {busy:.3} ms: {:.2}x of the medians, rounds {} (target <= 2x)",
            busy / idle,
            each.join(" ")
        );
    }
}
