//! A stand-in for QEMU, for faults that no real one can be made to show. It is this test binary itself, started again by a script under the
//! name of QEMU; it speaks just enough RFB and QMP. What it does is in the script's `STAND_IN`:
//! `refuse` (a line on stderr, exit 1), `hang` (no sockets), `slow` (ready after some seconds), `kvm-dies` (STOP with internal-error
//! under KVM), `disk-full` (the host's disk is full, until `cont`), `disk-error` (its disk fails and it stands still, until `cont`; then it fails
//! again, which is only reported), `complains` (a line on stderr every few milliseconds, then `enough`),
//! `dies` (with last words, soon after it was started), `floods` (events without end), `writes` (silent for seconds when it is taken over, as one that writes a snapshot),
//! `job ID TYPE` (has a job of that id and type, which does not end),
//! `serial-ends` (the serial console greets, and ends when something is typed; in the other modes there is none), anything else: a VM that runs.

use super::Server;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Writes the script; its path is for `qemu_bin`. `test` is the name of the test that calls [`play`].
pub fn install(folder: &Path, mode: &str) -> PathBuf {
    let script = folder.join("qemu-stand-in");
    let mut own = std::env::current_exe().expect("own path");
    // QEMU's user must be able to come to it, also where the project lies in a folder of root's own.
    let passable = |place: &Path| fs::metadata(place).is_ok_and(|about| about.permissions().mode() & 0o001 != 0);
    if !own.ancestors().all(passable) {
        let copy = folder.join("stand-in");
        fs::copy(&own, &copy).expect("a copy");
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("chmod");
        own = copy;
    }
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
    if mode == "serial-ends" {
        let serial = UnixListener::bind(path("socket,id=serial,path=")).expect("serial");
        std::thread::spawn(move || {
            for mut client in serial.incoming().flatten() {
                let _ = client.write_all(b"hello\r\n");
                // Until something is typed.
                let _ = std::io::Read::read(&mut client, &mut [0]);
            }
        });
    }
    if mode == "complains" {
        std::thread::spawn(|| {
            for number in 0..400 {
                eprintln!("complaint {number}");
                std::thread::park_timeout(Duration::from_millis(5));
            }
            fs::write("enough", "").expect("a file");
        });
    }
    if mode == "dies" {
        std::thread::spawn(|| {
            park(2);
            eprintln!("qemu-system-x86_64: last words 42");
            std::process::exit(3);
        });
    }
    let trouble = match mode.as_str() {
        "kvm-dies" if args.contains("-accel kvm") => Some(Trouble { status: "internal-error", ..Trouble::default() }),
        "disk-full" => Some(Trouble {
            status: "io-error",
            disk: "nospace",
            before: disk_event(true, "stop"),
            after: String::new(),
        }),
        "disk-error" => {
            let (before, after) = (disk_event(false, "stop"), disk_event(false, "report"));
            Some(Trouble { status: "io-error", disk: "failed", before, after })
        }
        _ => None,
    };
    let jobs = mode.strip_prefix("job ").and_then(|job| job.split_once(' ')).map(|(id, kind)| {
        let progress = r#""status": "running", "current-progress": 2, "total-progress": 5"#;
        format!(r#"[{{"id": "{id}", "type": "{kind}", {progress}}}]"#)
    });
    let mut status = "running";
    for (number, client) in monitor.incoming().flatten().enumerate() {
        if mode == "floods" {
            let mut out = client.try_clone().expect("clone");
            std::thread::spawn(move || {
                park(1);
                let events = format!("{}\n", event("RTC_CHANGE")).repeat(1000);
                while out.write_all(events.as_bytes()).is_ok() {}
            });
        }
        let silent = if mode == "writes" && number > 0 { 7 } else { 0 };
        talk(client, silent, trouble.as_ref(), jobs.as_deref(), &mut status);
    }
}

/// What befalls it soon after it was first connected.
#[derive(Default)]
struct Trouble {
    /// The status it falls into.
    status: &'static str,
    /// The `io-status` of its disk meanwhile.
    disk: &'static str,
    /// The event before it, and the one after `cont`.
    before: String,
    after: String,
}

fn disk_event(nospace: bool, action: &str) -> String {
    let reason = if nospace { "No space left on device" } else { "Input/output error" };
    format!(
        r#"{{"timestamp": {{"seconds": 1, "microseconds": 2}}, "event": "BLOCK_IO_ERROR", "data": {{"device": "", "node-name": "disk0", "nospace": {nospace}, "operation": "write", "action": "{action}", "reason": "{reason}"}}}}"#
    )
}

fn event(name: &str) -> String {
    format!(r#"{{"timestamp": {{"seconds": 1, "microseconds": 2}}, "event": "{name}"}}"#)
}

/// `silent` is for how many seconds it answers nothing; `jobs` those it has.
fn talk(client: UnixStream, silent: u64, trouble: Option<&Trouble>, jobs: Option<&str>, status: &mut &'static str) {
    let mut out = client.try_clone().expect("clone");
    let _ = writeln!(
        out,
        r#"{{"QMP": {{"version": {{"qemu": {{"micro": 2, "minor": 0, "major": 10}}}}, "capabilities": []}}}}"#
    );
    park(silent);
    for line in BufReader::new(client).lines().map_while(Result::ok) {
        let command: serde_json::Value = serde_json::from_str(&line).expect("a command");
        let answer = match command["execute"].as_str() {
            Some("query-block") => {
                let disk = trouble.map_or("ok", |trouble| trouble.disk);
                format!(r#"[{{"device": ""}}, {{"device": "", "io-status": "{disk}"}}]"#)
            }
            Some("query-jobs") if jobs.is_some() => jobs.unwrap_or_default().to_owned(),
            _ => format!(r#"{{"status": "{status}"}}"#),
        };
        let _ = writeln!(out, r#"{{"return": {answer}, "id": {}}}"#, command["id"]);
        match (command["execute"].as_str(), trouble) {
            (Some("qmp_capabilities"), Some(trouble)) if *status == "running" => {
                // Late enough that the launch is over: the guest dies in its boot loader.
                park(1);
                *status = trouble.status;
                let _ = writeln!(out, "{}\n{}", trouble.before, event("STOP"));
            }
            (Some("cont"), _) => {
                *status = "running";
                let after = trouble.map_or("", |trouble| trouble.after.as_str());
                let _ = writeln!(out, "{}\n{after}", event("RESUME"));
            }
            (Some("quit"), _) => std::process::exit(0),
            _ => {}
        }
    }
}

fn park(seconds: u64) {
    let end = std::time::Instant::now() + Duration::from_secs(seconds);
    while std::time::Instant::now() < end {
        std::thread::park_timeout(Duration::from_secs(1));
    }
}
