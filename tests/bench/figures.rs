//! The figures of a start and of a busy morning, each with its floor measured in the same run. `cargo bench --bench figures`.
//!
//! Needs QEMU, PostgreSQL and a bootable image (`VMSHARE_TEST_ISO`, else `target/test-images/tiny.iso`). Loopback only; ends by itself.
//! Nothing is asserted on seconds: ratios are printed beside their targets.

mod bare;
mod pings;
mod server;

use bare::Bare;
use pings::{Echo, meanwhile, pings, step_back};
use serde_json::json;
use server::{BINARY, Server, call, cpu_ticks, image, median, ms, screen, settle, sign_up, status_field};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

const LAUNCHES: usize = 11;
const STUDENTS: usize = 100;
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

fn launches(server: &Server, iso: &Path) {
    let token = sign_up(server.address, "founder");
    launch_ours(server, &token);
    drop(Bare::start(iso, 128));
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..LAUNCHES {
        ours.push(launch_ours(server, &token));
        bare.push(Bare::start(iso, 128).took);
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
    let mut echo = Echo::ahead();
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
