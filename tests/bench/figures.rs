//! The figures of a start and of a busy morning, each with its floor measured in the same run. `cargo bench --bench figures`.
//!
//! Needs QEMU, PostgreSQL and a bootable image (`VMSHARE_TEST_ISO`, else `target/test-images/tiny.iso`). Loopback only; ends by itself.
//! Nothing is asserted on seconds: ratios are printed beside their targets.

mod server;

use serde_json::json;
use server::{BINARY, PATIENT, Server, at, call, cpu_ticks, image, median, ms, screen, settle, sign_up};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tungstenite::{Message, WebSocket};
use vmshare::sys::child::Spawn;
use vmshare::sys::signal::Signal;
use vmshare::vm::args::{self, Accel, BootOrder, Machine, Network, Video, Vnc};
use vmshare::vm::programs;

const LAUNCHES: usize = 11;
const STUDENTS: usize = 100;
const PINGS: usize = 2000;
/// One round of 1.5 s has some dozens of pings in its slowest hundredth; the medians of five say more.
const ROUNDS: usize = 5;
const UPLOAD: usize = 2 << 30;

/// From the click to the first bytes of the screen, through our server.
fn launch_ours(server: &Server, token: &str) -> Duration {
    let began = Instant::now();
    let (status, answer) = call(server.address, "POST", "/run-iso", Some(token), &json!(null));
    assert_eq!(status, 200, "{answer}");
    let socket = screen(server.address, token, answer["vm"]["http_port"].as_u64().expect("port"));
    let took = began.elapsed();
    drop(socket);
    let vmid = answer["vm"]["vmid"].as_str().expect("vmid");
    let (status, answer) =
        call(server.address, "POST", &format!("/vms/{vmid}/stop"), Some(token), &json!({"force": true}));
    assert_eq!(status, 200, "{answer}");
    took
}

/// From QEMU's exec to the first bytes of its screen, with the same arguments and nothing between.
fn launch_bare(iso: &Path) -> Duration {
    let folder = tempfile::Builder::new().prefix("vmsb").tempdir_in("/tmp").expect("folder");
    let files = [fs::File::open(iso).expect("image")];
    let qemu = programs::find_qemu(None).expect("qemu");
    let machine = Machine {
        qemu: &qemu,
        version: programs::version(&qemu).expect("version"),
        accel: Accel::Tcg,
        name: "bare",
        memory_mb: 128,
        cpus: 1,
        cd: Some(files[0].as_raw_fd()),
        disks: &[],
        order: BootOrder::Cd,
        viewers: 250,
        run_dir: folder.path(),
        vnc: Vnc::Unix,
        network: Network::Restricted,
        video: Video::Std,
    };
    let line = args::qemu(&machine).expect("arguments");
    let began = Instant::now();
    let (program, args) = line.split_first().expect("a program");
    let child = Spawn { files: &files, ..Spawn::new(program, args, folder.path()) }.start().expect("qemu starts");
    let mut banner = [0; 12];
    loop {
        if let Ok(mut socket) = UnixStream::connect(machine.vnc_socket()) {
            socket.read_exact(&mut banner).expect("banner");
            break;
        }
        assert!(began.elapsed() < PATIENT, "no screen");
        std::thread::park_timeout(Duration::from_micros(500));
    }
    let took = began.elapsed();
    child.pidfd.send(Signal::Kill).expect("kill");
    assert!(child.pidfd.wait(PATIENT).expect("waited for"), "QEMU does not end");
    child.pidfd.reap().expect("reaped");
    took
}

/// A process that does nothing but send back what it gets: what a round trip costs on this machine at this moment, without any server.
struct Echo(Child, TcpStream);

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

    fn run() {
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
fn step_back() {
    let own = fs::read_link("/proc/thread-self").expect("proc");
    let id = own.file_name().expect("id").to_string_lossy().into_owned();
    let _ = Command::new("renice").args(["-n", "0", "-p", &id]).stdout(Stdio::null()).status();
}

/// Round trips of websocket pings over an open relay and, in turn with them, of the floor; both sorted.
fn pings(
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

fn status_field(pid: u32, file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).expect("proc");
    let line = text.lines().find(|line| line.starts_with(name)).expect("field");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("number")
}

fn launches(server: &Server, iso: &Path) {
    let token = sign_up(server.address, "founder");
    launch_ours(server, &token);
    launch_bare(iso);
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..LAUNCHES {
        ours.push(launch_ours(server, &token));
        bare.push(launch_bare(iso));
    }
    let (ours, bare) = (median(ours), median(bare));
    println!(
        "launch to banner         ours {:.1} ms, bare QEMU {:.1} ms: {:.2}x, {:+.1} ms (target within 1.15x + 50 ms: {:.1} ms)",
        ms(ours),
        ms(bare),
        ms(ours) / ms(bare),
        ms(ours) - ms(bare),
        ms(bare) * 1.15 + 50.0
    );
}

fn morning(server: &Server) {
    let token = sign_up(server.address, "teacher");
    let (status, answer) = call(server.address, "POST", "/run-iso", Some(&token), &json!(null));
    assert_eq!(status, 200, "{answer}");
    let mut relay = screen(server.address, &token, answer["vm"]["http_port"].as_u64().expect("port"));
    for student in 0..STUDENTS {
        sign_up(server.address, &format!("student{student}"));
    }
    // The guest boots for some seconds; its end of work is when its CPU time stands still.
    let pid = u32::try_from(answer["vm"]["pid"].as_u64().expect("pid")).expect("pid");
    settle(pid);
    let mut echo = Echo::start();
    step_forward(&echo.0.id().to_string());
    let own = fs::read_link("/proc/thread-self").expect("proc");
    step_forward(&own.file_name().expect("id").to_string_lossy());
    pings(&mut relay, &mut echo, |count| count < 200);
    let crowd = || {
        let crowd: Vec<_> = (0..STUDENTS).map(|student| sign_in(server.address, student)).collect();
        Box::new(move || crowd.iter().all(std::thread::JoinHandle::is_finished)) as Box<dyn Fn() -> bool>
    };
    meanwhile(&format!("{STUDENTS} sign-ins at once"), &mut relay, &mut echo, &crowd);
    let upload = || {
        let sender = upload(server.address, token.clone());
        Box::new(move || sender.is_finished()) as Box<dyn Fn() -> bool>
    };
    meanwhile("an upload of 2 GiB", &mut relay, &mut echo, &upload);
    let vmid = answer["vm"]["vmid"].as_str().expect("vmid");
    call(server.address, "POST", &format!("/vms/{vmid}/stop"), Some(&token), &json!({"force": true}));
}

/// Round trips while nothing goes on and while what `begin` starts does, until it says that it is over.
fn meanwhile(what: &str, relay: &mut WebSocket<TcpStream>, echo: &mut Echo, begin: &dyn Fn() -> Box<dyn Fn() -> bool>) {
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

/// Sends 2 GiB as one piece of a resumable upload, and throws it away.
fn upload(address: SocketAddr, token: String) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        step_back();
        let ask = |line: &str, extra: &str| {
            let mut socket = TcpStream::connect(address).expect("connect");
            let head = format!(
                "{line} HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {token}\r\nTus-Resumable: 1.0.0\r\nConnection: close\r\n{extra}\r\n"
            );
            socket.write_all(head.as_bytes()).expect("head");
            socket
        };
        let read = |mut socket: TcpStream| {
            let mut answer = String::new();
            socket.read_to_string(&mut answer).expect("answer");
            answer
        };
        let made = read(ask("POST /uploads/", &format!("Upload-Length: {}\r\nContent-Length: 0\r\n", UPLOAD + 1)));
        let path = made.lines().find_map(|line| line.strip_prefix("location: ")).expect("location").trim().to_owned();
        let extra = format!(
            "Upload-Offset: 0\r\nContent-Type: application/offset+octet-stream\r\nContent-Length: {UPLOAD}\r\n"
        );
        let mut socket = ask(&format!("PATCH {path}"), &extra);
        let piece = vec![0x5a; 1 << 20];
        for _ in 0..UPLOAD >> 20 {
            socket.write_all(&piece).expect("piece");
        }
        assert!(read(socket).contains(" 204 "), "the upload failed");
        read(ask(&format!("DELETE {path}"), ""));
    })
}

fn sign_in(address: SocketAddr, student: usize) -> std::thread::JoinHandle<u16> {
    std::thread::spawn(move || {
        step_back();
        let body = json!({"email": format!("student{student}@example.org"), "password": "correct horse"});
        call(address, "POST", "/auth/login", None, &body).0
    })
}

fn idle(server: &Server) {
    let pid = server.child.id();
    let wakes = || status_field(pid, "status", "voluntary_ctxt_switches");
    let ticks = || cpu_ticks(pid);
    // What was asked last is answered and written down.
    std::thread::park_timeout(Duration::from_secs(2));
    // Both: a loop that spins never sleeps, and so never wakes up.
    let (woken, worked) = (wakes(), ticks());
    std::thread::park_timeout(Duration::from_secs(10));
    println!(
        "idle server              {} wake-ups of the loop and {} ms of CPU in 10 s (target: those of the sampler, 2)",
        wakes() - woken,
        (ticks() - worked) * 10
    );
    println!(
        "memory                   {} KB resident, {} KB of it anonymous",
        status_field(pid, "status", "VmRSS"),
        status_field(pid, "status", "RssAnon")
    );
}

fn main() {
    if std::env::args().any(|arg| arg == "--echo") {
        return Echo::run();
    }
    let iso = image();
    let server = Server::start(&iso);
    let size = fs::metadata(BINARY).expect("binary").len();
    println!("binary                   {:.2} MB", size as f64 / 1e6);
    println!(
        "first start              listening after {:.0} ms, ready after {:.0} ms (initdb, migration, QEMU's probe)",
        ms(server.listening),
        ms(server.ready)
    );
    idle(&server);
    launches(&server, &iso);
    morning(&server);
    let again = server.again();
    println!(
        "cold start               listening after {:.0} ms, ready after {:.0} ms",
        ms(again.listening),
        ms(again.ready)
    );
}
