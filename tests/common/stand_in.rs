//! A stand-in for QEMU, for faults that no real one can be made to show. It is this test binary itself, started again by a script under the
//! name of QEMU; it speaks just enough RFB and QMP. What it does is in the script's `STAND_IN`:
//! `refuse` (a line on stderr, exit 1), `hang` (no sockets), `slow` (ready after some seconds), `kvm-dies` (STOP with internal-error
//! under KVM), anything else: a VM that runs.

use super::Server;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Writes the script; its path is for `qemu_bin`. `test` is the name of the test that calls [`play`].
pub fn install(folder: &Path, mode: &str) -> PathBuf {
    let script = folder.join("qemu-stand-in");
    let own = std::env::current_exe().expect("own path");
    let text = format!(
        "#!/bin/sh\nif [ \"$1\" = --version ]; then echo 'QEMU emulator version 10.0.2'; exit 0; fi\n\
         export STAND_IN='{mode}'\nexport STAND_IN_ARGS=\"$*\"\nexec '{}' --exact stand_in_for_qemu --nocapture \"{}\"\n",
        own.display(),
        // Names the folder on the command line, as QEMU's own arguments do.
        "--skip=$*"
    );
    fs::write(&script, text).expect("script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("chmod");
    script
}

/// A server whose QEMU is the stand-in.
pub fn server(mode: &str, limits: &str) -> Server {
    let folder = super::folder();
    let qemu = install(folder.path(), mode);
    let accel = if mode == "kvm-dies" { "kvm" } else { "tcg" };
    let top = format!("tls = \"off\"\nstop_vms_on_exit = true\naccel = \"{accel}\"\nqemu_bin = {qemu:?}");
    let text = super::settings(&folder.path().join("b"), &top, limits, "");
    fs::write(folder.path().join("vmshare.toml"), text).expect("settings");
    Server::run(folder)
}

/// A launch that is under way; the connection that asked for it.
pub fn launching(server: &Server, token: &str) -> TcpStream {
    let mut socket = server.connect();
    write!(socket, "POST /run-iso HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\n\r\n")
        .expect("send");
    let recorded = "select count(*) from vms where state = 'starting' and pid is not null";
    super::until("the launch is under way", || (server.count(recorded) > 0).then_some(()));
    socket
}

/// The body of the test `stand_in_for_qemu`: nothing, unless started by the script.
pub fn play() {
    let (Ok(mode), Ok(args)) = (std::env::var("STAND_IN"), std::env::var("STAND_IN_ARGS")) else { return };
    match mode.as_str() {
        "refuse" => {
            eprintln!("qemu-system-x86_64: cannot set up guest memory 'pc.ram': Cannot allocate memory");
            std::process::exit(1);
        }
        "hang" => park(600),
        "slow" => park(3),
        _ => {}
    }
    let path = |before: &str| {
        let (_, rest) = args.split_once(before).expect("argument");
        PathBuf::from(rest.split([',', ' ']).next().expect("path"))
    };
    let screen = UnixListener::bind(path("-vnc unix:")).expect("vnc");
    let monitor = UnixListener::bind(path("socket,id=qmp,path=")).expect("qmp");
    std::thread::spawn(move || {
        for client in screen.incoming().flatten() {
            let mut client = client;
            let _ = client.write_all(b"RFB 003.008\n");
            std::mem::forget(client);
        }
    });
    let dies = mode == "kvm-dies" && args.contains("-accel kvm");
    for client in monitor.incoming().flatten() {
        talk(client, dies);
    }
}

fn talk(client: std::os::unix::net::UnixStream, dies: bool) {
    let mut out = client.try_clone().expect("clone");
    let _ = writeln!(
        out,
        r#"{{"QMP": {{"version": {{"qemu": {{"micro": 2, "minor": 0, "major": 10}}}}, "capabilities": []}}}}"#
    );
    for line in BufReader::new(client).lines().map_while(Result::ok) {
        let command: serde_json::Value = serde_json::from_str(&line).expect("a command");
        let status = if dies { "internal-error" } else { "running" };
        let _ = writeln!(out, r#"{{"return": {{"status": "{status}"}}, "id": {}}}"#, command["id"]);
        if dies && command["execute"] == "qmp_capabilities" {
            // Late enough that the launch is over: the guest dies in its boot loader.
            park(1);
            let _ = writeln!(out, r#"{{"timestamp": {{"seconds": 1, "microseconds": 2}}, "event": "STOP"}}"#);
        }
        if command["execute"] == "quit" {
            std::process::exit(0);
        }
    }
}

fn park(seconds: u64) {
    let end = std::time::Instant::now() + Duration::from_secs(seconds);
    while std::time::Instant::now() < end {
        std::thread::park_timeout(Duration::from_secs(1));
    }
}
