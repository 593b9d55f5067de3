//! How soon VMs are taken back by a server that follows a killed one, and how soon a crash of QEMU is told. `cargo bench --bench life`.
//!
//! Needs QEMU, PostgreSQL and a bootable image (`VMSHARE_TEST_ISO`, else `target/test-images/tiny.iso`). Loopback only; ends by itself. The
//! floors of the same run: a start that has nothing to take back, and a bare QEMU's end as its own parent sees it.

mod server;

use serde_json::Value;
use server::{PATIENT, Server, call, image, median, ms, screen, settle, sign_up};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What is promised: how soon VMs are taken back, and how soon a crash is told. The program fails where it is not kept.
const TAKEN_BACK: Duration = Duration::from_secs(2);
const TOLD: Duration = Duration::from_secs(1);
/// As many as boot on two cores in a minute of emulation.
const VMS: usize = 8;
const ROUNDS: usize = 5;

struct Owner {
    token: String,
    port: u64,
    pid: u32,
}

fn launch(server: &Server, token: String) -> Owner {
    let (status, answer) = call(server.address, "POST", "/run-iso", Some(&token), &Value::Null);
    assert_eq!(status, 200, "{answer}");
    let vm = &answer["vm"];
    let number = |name: &str| vm[name].as_u64().unwrap_or_else(|| panic!("no {name}: {answer}"));
    Owner { token, port: number("http_port"), pid: u32::try_from(number("pid")).expect("pid") }
}

/// Kills the server and starts another one: how soon that is ready, and how soon each VM's screen has greeted its owner.
fn start_again(server: Server, owners: &[Owner]) -> (Server, Duration, Duration) {
    let server = server.killed();
    for owner in owners {
        drop(screen(server.address, &owner.token, owner.port));
    }
    let (ready, all) = (server.ready, server.began.elapsed());
    (server, ready, all)
}

/// From the end of a VM's QEMU to the word of it at its owner's page.
fn crash(server: &Server, owner: &Owner) -> Duration {
    let mut socket = TcpStream::connect(server.address).expect("connect");
    let head = format!("GET /events HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {}\r\n\r\n", owner.token);
    socket.write_all(head.as_bytes()).expect("head");
    socket.set_read_timeout(Some(PATIENT)).expect("timeout");
    let mut lines = BufReader::new(socket).lines();
    let mut wait_for = |word: &str| {
        let word = format!("\"state\":\"{word}\"");
        lines.by_ref().map(|line| line.expect("the stream goes on")).find(|line| line.contains(&word)).expect("word");
    };
    wait_for("running");
    let began = Instant::now();
    let pid = owner.pid.to_string();
    assert!(Command::new("kill").args(["-KILL", &pid]).status().expect("kill").success());
    wait_for("failed");
    began.elapsed()
}

/// The same for a QEMU that nobody has to be told of.
fn crash_bare() -> Duration {
    let qemu = vmshare::vm::programs::find_qemu(None).expect("qemu");
    let mut child = Command::new(qemu)
        .args(["-nodefaults", "-display", "none", "-S", "-m", "128", "-monitor", "stdio"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("qemu starts");
    let mut greeting = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut greeting).expect("it runs");
    let began = Instant::now();
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-KILL", &pid]).status().expect("kill").success());
    child.wait().expect("ended");
    began.elapsed()
}

fn main() {
    let mut server = Server::start(&image());
    let tokens: Vec<String> = (0..VMS).map(|n| sign_up(server.address, &format!("owner{n}"))).collect();
    let (mut none, mut ready, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (next, took, _) = start_again(server, &[]);
        none.push(took);
        server = next;
    }
    let owners: Vec<Owner> = tokens.into_iter().map(|token| launch(&server, token)).collect();
    owners.iter().for_each(|owner| settle(owner.pid));
    for _ in 0..ROUNDS {
        let (next, took, last) = start_again(server, &owners);
        ready.push(took);
        all.push(last);
        server = next;
    }
    let (none, ready, all) = (median(none), median(ready), median(all));
    println!(
        "a server after a killed one   {VMS} VMs taken back: ready after {:.0} ms, the last screen greets after {:.0} ms (promised {} ms); with none ready after {:.0} ms: {:.2}x",
        ms(ready),
        ms(all),
        TAKEN_BACK.as_millis(),
        ms(none),
        ms(all) / ms(none)
    );
    let (mut told, mut bare) = (Vec::new(), Vec::new());
    for owner in &owners {
        told.push(crash(&server, owner));
        bare.push(crash_bare());
    }
    let worst = told.iter().max().copied().unwrap_or_default();
    println!(
        "a crash of QEMU is told       after {:.1} ms, {:.1} ms at worst (promised {} ms); a bare QEMU's parent hears of its end after {:.1} ms: {:.2}x",
        ms(median(told.clone())),
        ms(worst),
        TOLD.as_millis(),
        ms(median(bare.clone())),
        ms(median(told)) / ms(median(bare))
    );
    assert!(all < TAKEN_BACK && worst < TOLD, "a promise is not kept");
}
