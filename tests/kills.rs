//! The server is killed (SIGKILL) at each step of what it does, and started again: whatever it was at is whole or was never there, and
//! nothing is left over or lost: no row, port, file, process, control group or lock.
//!
//! A step is not a time: each test looks at the world (rows, files, processes) as fast as it can and kills when it sees the
//! step's mark. The kill may come a little late, so what must hold afterwards holds for every moment.

mod common;

use common::{Server, until};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use vmshare::sys::pidfd::PidFd;
use vmshare::sys::signal::Signal;

/// A step may be over before it is looked at; then it is tried again.
const ATTEMPTS: u32 = 10;
const STAYS: &str = "tls = \"off\"\nstop_vms_on_exit = false";

/// What can be seen of a server from outside.
struct World {
    database: postgres::Client,
    base: PathBuf,
}

impl World {
    fn of(server: &Server) -> Self {
        Self { database: server.database(), base: server.base() }
    }

    fn rows(&mut self, condition: &str) -> bool {
        let sql = format!("select exists (select from vms where {condition})");
        self.database.query_one(&sql, &[]).is_ok_and(|row| row.get(0))
    }

    fn run_dirs(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.base.join("runs")).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    }

    fn has(&self, file: &str) -> bool {
        self.run_dirs().iter().any(|folder| folder.join(file).exists())
    }
}

/// Asks for something and does not wait for the answer; the connection is held until the returned value is dropped.
fn ask(server: &Server, method: &str, path: &str, token: &str, body: &Value) -> TcpStream {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut socket = server.connect();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n");
    write!(socket, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).expect("send");
    socket
}

/// Kills the server when `seen` says so, or at the latest when what was asked for is answered. True when it was seen before.
fn kill_when(server: &Server, asked: &TcpStream, mut seen: impl FnMut() -> bool) -> bool {
    let process = PidFd::open(server.pid()).expect("the server");
    asked.set_nonblocking(true).expect("non-blocking");
    let deadline = Instant::now() + common::PATIENT;
    let mut asked = asked;
    let came = loop {
        if seen() {
            break true;
        }
        // Answered: the moment is over.
        if matches!(asked.read(&mut [0]), Ok(1..)) {
            break seen();
        }
        assert!(Instant::now() < deadline, "neither the step nor the answer came");
    };
    process.send(Signal::Kill).expect("killed");
    came
}

fn again(server: Server) -> Server {
    let (_, folder, _) = server.wait();
    Server::run(folder)
}

fn disk_files(server: &Server) -> Vec<String> {
    let mut found = Vec::new();
    for user in fs::read_dir(server.base().join("users")).into_iter().flatten().flatten() {
        for file in fs::read_dir(user.path().join("disks")).into_iter().flatten().flatten() {
            found.push(file.file_name().to_string_lossy().into_owned());
        }
    }
    found
}

/// Either one VM runs, whole, or there is nothing of one. Gives its pid.
fn one_vm_or_none(server: &Server, step: &str) -> Option<u64> {
    let running = server.count("select count(*) from vms where state = 'running'");
    let live = server.count("select count(*) from vms where state in ('starting', 'running', 'stopping')");
    assert_eq!(running, live, "{step}: a VM is neither running nor gone\n{}", server.said());
    let ports = server.count("select count(*) from ports where vmid is not null");
    let folders = fs::read_dir(server.base().join("runs")).map_or(0, |all| all.flatten().count());
    let processes = common::processes_of(&server.base().join("runs"));
    let qemus = usize::try_from(live).expect("a number");
    assert_eq!((ports, folders, processes.len()), (live * 2, qemus, qemus), "{step}\n{}", server.said());
    let disks = disk_files(server);
    assert_eq!(disks.len(), qemus, "{step}: {disks:?}\n{}", server.said());
    (live == 1).then(|| {
        let pid = server.database().query_one("select pid from vms where state = 'running'", &[]).expect("row");
        let pid = u64::try_from(pid.get::<_, i32>(0)).expect("pid");
        assert_eq!(u64::from(processes[0]), pid, "{step}: the row names another process");
        pid
    })
}

#[test]
fn a_server_killed_at_any_step_of_a_launch_leaves_a_running_vm_or_nothing() {
    let mut server = Server::with(STAYS, "", "");
    let token = server.sign_up("launcher");
    let wish = json!({"disk": "work", "data_disk_gb": 1});
    type Step = (&'static str, fn(&mut World) -> bool);
    let steps: [Step; 7] = [
        ("the row is there", |world| world.rows("state = 'starting'")),
        ("the run folder is there", |world| !world.run_dirs().is_empty()),
        ("the disk is there", |world| !fs_walk(&world.base.join("users"), "work.qcow2").is_empty()),
        ("qemu lives", |world| !common::processes_of(&world.base.join("runs")).is_empty()),
        ("its pid is written down", |world| world.rows("state = 'starting' and pid is not null")),
        ("its screen is there", |world| world.has("vnc.sock")),
        ("it is called running", |world| world.rows("state = 'running'")),
    ];
    let mut survived = 0;
    let mut left: VecDeque<_> = steps.into_iter().map(|(step, seen)| (step, seen, ATTEMPTS)).collect();
    while let Some((step, seen, attempts)) = left.pop_front() {
        let mut world = World::of(&server);
        let asked = ask(&server, "POST", "/run-iso", &token, &wish);
        if !kill_when(&server, &asked, || seen(&mut world)) {
            assert!(attempts > 1, "never seen: {step}");
            left.push_front((step, seen, attempts - 1));
        }
        server = again(server);
        let runs = one_vm_or_none(&server, step);
        survived += u32::from(runs.is_some());
        // No lock is left: the same user starts, or has it already, and everything ends as ever.
        let vm = server.call("POST", "/run-iso", &token, &wish);
        assert_eq!(vm.status, 200, "{step}: {vm:?}\n{}", server.said());
        assert!(runs.is_none() || vm.json["vm"]["pid"] == json!(runs), "{step}: another VM: {vm:?}");
        server.stop(&token, &vm.json["vm"]);
        server.assert_nothing_left();
        let removed = server.call("DELETE", "/disks/work", &token, &Value::Null);
        assert_eq!(removed.status, 204, "{step}: {removed:?}");
    }
    assert!(survived > 0, "no kill came when the VM was already running");
    server.end();
}

/// Files of that name below a folder.
fn fs_walk(folder: &Path, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(fs_walk(&entry.path(), name));
        } else if entry.file_name().to_string_lossy() == name {
            found.push(entry.path());
        }
    }
    found
}

#[test]
fn a_server_killed_at_any_step_of_a_stop_ends_the_vm_or_has_it_running() {
    let mut server = Server::with(STAYS, "stop_grace_seconds = 2", "");
    let token = server.sign_up("stopper");
    type Step = (&'static str, bool, fn(&mut World) -> bool);
    let steps: [Step; 4] = [
        ("it is called stopping", false, |world| world.rows("state = 'stopping'")),
        ("it is called stopping, by force", true, |world| world.rows("state = 'stopping'")),
        ("qemu is gone", true, |world| common::processes_of(&world.base.join("runs")).is_empty()),
        ("its end is written down", true, |world| !world.rows("state in ('running', 'stopping')")),
    ];
    let mut left: VecDeque<_> = steps.into_iter().map(|(step, force, seen)| (step, force, seen, ATTEMPTS)).collect();
    while let Some((step, force, seen, attempts)) = left.pop_front() {
        let vm = server.launch(&token);
        let mut world = World::of(&server);
        let path = format!("/vms/{}/stop", vm["vmid"].as_str().expect("vmid"));
        let asked = ask(&server, "POST", &path, &token, &json!({"force": force}));
        if !kill_when(&server, &asked, || seen(&mut world)) {
            assert!(attempts > 1, "never seen: {step}");
            left.push_front((step, force, seen, attempts - 1));
        }
        server = again(server);
        // What was begun goes on: nobody has to ask twice.
        until(&format!("{step}: the VM has ended"), || {
            let path = format!("/vms/{}", vm["vmid"].as_str().expect("vmid"));
            let now = server.call("GET", &path, &token, &Value::Null).json;
            (now["state"] == "stopped").then_some(())
        });
        server.assert_nothing_left();
    }
    server.end();
}

#[test]
fn a_server_killed_at_any_step_of_a_power_cycle_ends_it_and_the_vm_runs() {
    let mut server = Server::with(STAYS, "", &common::living());
    let token = server.sign_up("cycler");
    let answer = server.call("POST", "/run-iso", &token, &json!({"disk": "work", "data_disk_gb": 1}));
    let vm = answer.json["vm"].clone();
    let path = format!("/vms/{}", vm["vmid"].as_str().expect("vmid"));
    let mut old = u32::try_from(vm["pid"].as_u64().expect("pid")).expect("pid");
    type Step = (&'static str, fn(&mut World, u32) -> bool);
    let qemus = |world: &World| common::processes_of(&world.base.join("runs"));
    let steps: [Step; 4] = [
        ("its process is struck", |world, _| world.rows("state = 'running' and pid is null")),
        ("qemu is gone", |world, old| !common::processes_of(&world.base.join("runs")).contains(&old)),
        ("another lives", |world, old| common::processes_of(&world.base.join("runs")).iter().any(|pid| *pid != old)),
        ("it is written down", |world, old| world.rows(&format!("state = 'running' and pid <> {old}"))),
    ];
    let mut left: VecDeque<_> = steps.into_iter().map(|(step, seen)| (step, seen, ATTEMPTS)).collect();
    while let Some((step, seen, attempts)) = left.pop_front() {
        let mut world = World::of(&server);
        let asked = ask(&server, "POST", &format!("{path}/restart"), &token, &json!({"mode": "power-cycle"}));
        if !kill_when(&server, &asked, || seen(&mut world, old)) {
            assert!(attempts > 1, "never seen: {step}");
            left.push_front((step, seen, attempts - 1));
        }
        server = again(server);
        // The server does not wait for it, and who comes meanwhile is told to come again.
        until("it can be used", || match server.terminal(&token, &vm) {
            Ok(_) => Some(()),
            Err(status) => {
                assert_eq!(status, 503, "{step}\n{}", server.said());
                None
            }
        });
        let pid = one_vm_or_none(&server, step).unwrap_or_else(|| panic!("{step}: it is lost\n{}", server.said()));
        let now = server.call("GET", &path, &token, &Value::Null).json;
        assert_eq!(
            (&now["state"], &now["pid"], &now["started_at"]),
            (&json!("running"), &json!(pid), &vm["started_at"])
        );
        assert_ne!(pid, u64::from(old), "{step}: what was begun goes on\n{}", server.said());
        assert_eq!(qemus(&world), [u32::try_from(pid).expect("pid")], "{step}");
        // Its guest boots, and answers what is typed.
        let mut serial = server.serial(&vm);
        serial.wait_for("tiny: up");
        serial.send("echo still-$((1))-here\n");
        serial.wait_for("still-1-here");
        old = u32::try_from(pid).expect("pid");
    }
    server.stop(&token, &vm);
    server.assert_nothing_left();
    server.end();
}

#[test]
fn after_a_restart_of_the_host_vms_are_over_with_that_reason_and_nothing_of_them_is_left() {
    let mut server = Server::with(STAYS, "", "");
    let token = server.sign_up("rebooted");
    let vm = server.launch(&token);
    // As if that had been in another life of the host; a pid of that life names nobody, or somebody else.
    let changed = server.database().execute("update vms set boot_id = 'another', pid = 1, pid_start = 0", &[]);
    assert_eq!(changed.expect("sql"), 1);
    server.kill("-KILL");
    let server = again(server);
    let now = server.call("GET", &format!("/vms/{}", vm["vmid"].as_str().expect("vmid")), &token, &Value::Null).json;
    assert_eq!((&now["state"], &now["exit"]), (&json!("stopped"), &json!("host restarted")), "{now}");
    server.assert_nothing_left();
    let next = server.launch(&token);
    assert_ne!(next["vmid"], vm["vmid"]);
    server.stop(&token, &next);
    server.end();
}

#[test]
fn a_server_killed_in_the_middle_of_a_snapshot_leaves_a_vm_that_runs_and_can_be_snapshotted() {
    let mut server = Server::with(STAYS, "", &common::living());
    let token = server.sign_up("keeper");
    let answer = server.call("POST", "/run-iso", &token, &json!({"disk": "work", "data_disk_gb": 1}));
    let vm = answer.json["vm"].clone();
    server.serial(&vm).wait_for("tiny: up");
    let snapshots = format!("/vms/{}/snapshots", vm["vmid"].as_str().expect("vmid"));
    let disk = fs_walk(&server.base().join("users"), "work.qcow2").remove(0);
    let size = || fs::metadata(&disk).map_or(0, |about| about.len());
    let base = size();
    let mut told = 0;
    // Begun, in the middle, near the end: the guest's memory is written into the disk.
    let mut left: VecDeque<_> = [1, 4 << 20, 24 << 20].map(|grown| (grown, ATTEMPTS)).into();
    for n in 0.. {
        let Some((grown, attempts)) = left.pop_front() else { break };
        let before = size().max(base);
        let asked = ask(&server, "POST", &snapshots, &token, &json!({"name": format!("s{n}")}));
        if !kill_when(&server, &asked, || size() >= before + grown) {
            assert!(attempts > 1, "never seen: a snapshot of {grown} bytes");
            left.push_front((grown, attempts - 1));
        }
        server = again(server);
        let now = server.call("GET", "/auth/me", &token, &Value::Null).json["vm"].clone();
        assert_eq!((&now["vmid"], &now["pid"]), (&vm["vmid"], &vm["pid"]), "{now}\n{}", server.said());
        until("the job that was under way is over", || {
            let answer = server.call("POST", &snapshots, &token, &json!({"name": format!("after{n}")}));
            match answer.status {
                201 => Some(()),
                409 if ["snapshot_busy", "snapshot_failed"].contains(&answer.code()) => None,
                _ => panic!("{answer:?}\n{}", server.said()),
            }
        });
        // It runs, and answers what is typed.
        let mut serial = server.serial(&vm);
        serial.send(&format!("echo still-$(({n}))-here\n"));
        serial.wait_for(&format!("still-{n}-here"));
        // It is told once it was looked for again, a moment after it is over; or never, when it was over before the kill.
        let line = format!("job of the former server has ended: save s{n}");
        let looked = Instant::now();
        while !server.said().contains(&line) && looked.elapsed() < Duration::from_secs(2) {
            std::thread::park_timeout(Duration::from_millis(20));
        }
        told += u32::from(server.said().contains(&line));
    }
    assert!(told > 0, "no kill came while a snapshot was under way");
    server.stop(&token, &vm);
    server.assert_nothing_left();
    server.end();
}

#[test]
fn a_server_killed_while_a_snapshot_is_gone_back_to_or_removed_leaves_a_vm_that_runs() {
    let mut server = Server::with(STAYS, "", &common::living());
    let token = server.sign_up("keeper");
    let vm = server.call("POST", "/run-iso", &token, &json!({"disk": "work", "data_disk_gb": 1})).json["vm"].clone();
    server.serial(&vm).wait_for("tiny: up");
    let snapshots = format!("/vms/{}/snapshots", vm["vmid"].as_str().expect("vmid"));
    for (n, step) in ["asked to go back", "going back", "asked to remove", "asked to go back"].into_iter().enumerate() {
        let made = server.call("POST", &snapshots, &token, &json!({"name": format!("s{n}")}));
        assert_eq!(made.status, 201, "{step}: what was interrupted leaves no port or job behind: {made:?}");
        let (method, rest) = if step.contains("remove") { ("DELETE", "") } else { ("POST", "/restore") };
        let asked = ask(&server, method, &format!("{snapshots}/s{n}{rest}"), &token, &Value::Null);
        // It may be over before it is seen: then that is what is tried.
        let busy = || server.call("GET", "/auth/me", &token, &Value::Null).json["vm"]["job"] != Value::Null;
        kill_when(&server, &asked, || !step.starts_with("going") || busy());
        server = again(server);
        until("no job is under way", || {
            let now = server.call("GET", "/auth/me", &token, &Value::Null).json["vm"].clone();
            assert_eq!((&now["vmid"], &now["pid"]), (&vm["vmid"], &vm["pid"]), "{step}: {now}\n{}", server.said());
            (now["job"] == Value::Null && now["paused"] == Value::Null).then_some(())
        });
        let mut serial = server.serial(&vm);
        serial.send(&format!("echo still-$(({n}))-here\n"));
        serial.wait_for(&format!("still-{n}-here"));
        let listed = server.call("GET", &snapshots, &token, &Value::Null);
        assert_eq!(listed.status, 200, "{step}: {listed:?}");
    }
    server.stop(&token, &vm);
    server.assert_nothing_left();
    server.end();
}

#[test]
fn a_server_killed_when_an_upload_comes_to_its_place_has_it_whole_or_goes_on_with_it() {
    let mut server = Server::with(STAYS, "", "base_image = \"{VM_BASE_DIR}/uploads\"");
    let token = server.sign_up("bringer");
    let image = fs::read(common::image()).expect("image");
    let images = |server: &Server| fs_walk(&server.base().join("users"), "tiny.iso");
    let halves = |server: &Server| {
        let users = fs::read_dir(server.base().join("users")).into_iter().flatten().flatten();
        users.flat_map(|user| fs::read_dir(user.path().join("uploads")).into_iter().flatten().flatten()).count()
    };
    let steps = ["the last byte was sent", "the image is in its place", "its row is gone"];
    let mut left: VecDeque<_> = steps.map(|step| (step, ATTEMPTS)).into();
    while let Some((step, attempts)) = left.pop_front() {
        let head = |method: &str, path: &str, extra: &str, length: usize| {
            format!(
                "{method} {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\nTus-Resumable: 1.0.0\r\n{extra}\
                 Content-Length: {length}\r\nConnection: close\r\n\r\n"
            )
        };
        let metadata = format!("filename {}", data_encoding::BASE64.encode(b"tiny.iso"));
        let extra = format!("Upload-Length: {}\r\nUpload-Metadata: {metadata}\r\n", image.len());
        let made = server.raw(&head("POST", "/uploads/", &extra, 0));
        let place = made.header("location").unwrap_or_else(|| panic!("{made:?}")).to_owned();
        let mut socket = server.connect();
        let extra = "Upload-Offset: 0\r\nContent-Type: application/offset+octet-stream\r\n";
        socket.write_all(head("PATCH", &place, extra, image.len()).as_bytes()).expect("head");
        socket.write_all(&image).expect("body");
        let mut database = server.database();
        let seen = kill_when(&server, &socket, || match step {
            "the last byte was sent" => true,
            "the image is in its place" => !images(&server).is_empty(),
            _ => {
                let sql = "select exists (select from uploads where state <> 'done')";
                !database.query_one(sql, &[]).is_ok_and(|row| row.get::<_, bool>(0))
            }
        });
        if !seen {
            assert!(attempts > 1, "never seen: {step}");
            left.push_front((step, attempts - 1));
        }
        server = again(server);
        let told = server.raw(&head("HEAD", &place, "", 0));
        assert_eq!(told.status, 200, "{step}: its client would send all of it again: {told:?}\n{}", server.said());
        let offset: usize = told.header("upload-offset").and_then(|text| text.parse().ok()).unwrap_or(image.len());
        if images(&server).is_empty() {
            assert_eq!(told.status, 200, "{step}: neither the image nor its upload is there: {told:?}");
            let extra = format!("Upload-Offset: {offset}\r\nContent-Type: application/offset+octet-stream\r\n");
            let mut socket = server.connect();
            socket.write_all(head("PATCH", &place, &extra, image.len() - offset).as_bytes()).expect("head");
            socket.write_all(&image[offset..]).expect("body");
            let mut answer = Vec::new();
            let _ = socket.read_to_end(&mut answer);
            assert!(answer.starts_with(b"HTTP/1.1 204"), "{step}: {}", String::from_utf8_lossy(&answer));
        }
        let found = images(&server);
        assert_eq!(found.len(), 1, "{step}: it was {offset} of {} bytes: {found:?}\n{}", image.len(), server.said());
        assert!(fs::read(&found[0]).expect("image") == image, "{step}: the image is not what was sent");
        let listed = server.call("GET", "/isos", &token, &Value::Null);
        assert!(listed.json.to_string().contains("tiny.iso"), "{step}: {listed:?}");
        let removed = server.call("DELETE", "/isos/tiny.iso", &token, &Value::Null);
        assert_eq!(removed.status, 204, "{step}: {removed:?}");
        until(&format!("{step}: no half upload is left"), || (halves(&server) == 0).then_some(()));
    }
    server.end();
}
