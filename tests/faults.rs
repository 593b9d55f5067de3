//! What breaks under a running server: PostgreSQL killed, locked or frozen, the server itself killed or told to end at a bad moment.
//! In each case nobody's desktop notices, what was acknowledged is kept, and nothing is left behind.

mod common;

use common::{Server, closed, processes_of, stand_in, until};
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};
use tungstenite::{Message, WebSocket};

/// An end within this is in time (the contract's 10 s, and a second for a busy machine).
const IN_TIME: Duration = Duration::from_secs(11);

#[test]
fn stand_in_for_qemu() {
    stand_in::play();
}

fn signal(name: &str, pids: &[u32]) {
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    // One of them may have ended meanwhile.
    let _ = Command::new("kill").arg(name).args(&pids).stderr(std::process::Stdio::null()).status();
}

/// All processes of a server's own PostgreSQL: the postmaster and its children, which are titled without the folder.
fn postgres(server: &Server) -> Vec<u32> {
    let file = server.base().join("postgres/data/postmaster.pid");
    let text = fs::read_to_string(file).expect("PostgreSQL runs");
    let postmaster: u32 = text.lines().next().and_then(|pid| pid.parse().ok()).expect("pid");
    let children = Command::new("pgrep").args(["-P", &postmaster.to_string()]).output().expect("pgrep");
    let children = String::from_utf8(children.stdout).expect("numbers");
    std::iter::once(postmaster).chain(children.lines().map(|pid| pid.parse().expect("pid"))).collect()
}

/// PostgreSQL as a host under heavy swapping has it: there, and silent. Goes on when this is dropped.
struct Frozen(Vec<u32>);

impl Frozen {
    fn new(server: &Server) -> Self {
        let pids = postgres(server);
        signal("-STOP", &pids);
        Self(pids)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        signal("-CONT", &self.0);
    }
}

fn ping(screen: &mut WebSocket<TcpStream>) {
    screen.send(Message::Ping(b"x".to_vec().into())).expect("ping");
    while screen.read().expect("pong") != Message::Pong(b"x".to_vec().into()) {}
}

/// Waits until the VM's end is in the database, and what it held is free.
fn ended(server: &Server, vm: &Value) -> (String, String) {
    let vmid = vm["vmid"].as_str().expect("vmid").to_owned();
    let row = until("the end is written down", || {
        // The database may still be on its way back.
        let answer = server.call("GET", "/readyz", "", &Value::Null);
        (answer.status == 200).then_some(())?;
        let sql = "select state, coalesce(exit, '') from vms where vmid = $1 and ended_at is not null";
        server.database().query_opt(sql, &[&vmid]).expect("row")
    });
    until("its folder is gone", || (!server.base().join("runs").join(&vmid).exists()).then_some(()));
    (row.get(0), row.get(1))
}

#[test]
fn postgresql_that_is_killed_comes_back_and_an_end_it_missed_is_written_then() {
    let server = Server::start();
    let (stays, dies) = (server.sign_up("stays"), server.sign_up("dies"));
    let (kept, lost) = (server.launch(&stays), server.launch(&dies));
    let (mut screen, mut other) = (server.screen(&stays, &kept), server.screen(&dies, &lost));
    signal("-KILL", &postgres(&server));
    signal("-KILL", &[u32::try_from(lost["pid"].as_u64().expect("pid")).expect("pid")]);
    let began = Instant::now();
    assert_eq!(closed(&mut other).0, 1000, "the screen is told without the database");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    ping(&mut screen);
    assert_eq!(server.call("GET", "/", "", &Value::Null).status, 200);

    let (state, exit) = ended(&server, &lost);
    assert_eq!(state, "failed");
    assert!(exit.starts_with("qemu was killed by signal 9"), "{exit}");
    let again = server.launch(&dies);
    assert_ne!(again["vmid"], lost["vmid"]);
    ping(&mut screen);
    server.stop(&dies, &again);
    server.stop(&stays, &kept);
    server.assert_nothing_left();
    server.end();
}

#[test]
fn an_end_that_a_lock_keeps_from_being_written_is_written_when_the_lock_is_gone() {
    let server = Server::start();
    let token = server.sign_up("locked");
    let vm = server.launch(&token);
    let mut operator = server.database();
    let mut lock = operator.transaction().expect("transaction");
    lock.batch_execute("lock table vms in exclusive mode").expect("lock");
    signal("-KILL", &[u32::try_from(vm["pid"].as_u64().expect("pid")).expect("pid")]);
    // Longer than the server's lock_timeout of 2 s.
    server.wait_for_log("killed by signal 9");
    // What is told of it does not wait for the database, and nobody is led to a machine that is gone.
    let path = format!("/vms/{}", vm["vmid"].as_str().expect("vmid"));
    assert_eq!(server.call("GET", &path, &token, &Value::Null).json["state"], "failed");
    assert_eq!(server.call("GET", "/auth/me", &token, &Value::Null).json["vm"], Value::Null);
    let refused = server.call("POST", "/run-iso", &token, &Value::Null);
    assert_eq!(refused.status, 503, "{refused:?}");
    let began = Instant::now();
    until("the server's first attempt is over", || (began.elapsed() > Duration::from_millis(2500)).then_some(()));
    lock.rollback().expect("unlock");
    drop(operator);
    assert_eq!(ended(&server, &vm).0, "failed");
    let vm = server.launch(&token);
    server.stop(&token, &vm);
    server.assert_nothing_left();
    server.end();
}

#[test]
fn a_launch_that_loses_its_database_is_told_so_and_leaves_nothing() {
    let server = stand_in::server("slow", "");
    let token = server.sign_up("halfway");
    let mut socket = stand_in::launching(&server, &token);
    let frozen = Frozen::new(&server);
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 503", "{}", String::from_utf8_lossy(&answer));
    drop(frozen);
    until("the row is gone", || (server.count("select count(*) from vms") == 0).then_some(()));
    server.assert_nothing_left();
    let vm = server.launch(&token);
    server.stop(&token, &vm);
    server.end();
}

#[test]
fn a_vm_is_stopped_although_the_database_is_frozen_and_its_end_is_written_later() {
    let server = Server::start();
    let token = server.sign_up("stopper");
    let vm = server.launch(&token);
    let pid = u32::try_from(vm["pid"].as_u64().expect("pid")).expect("pid");
    let path = format!("/vms/{}/stop", vm["vmid"].as_str().expect("vmid"));
    let frozen = Frozen::new(&server);
    let answer = server.call("POST", &path, &token, &json!({"force": true}));
    assert_eq!((answer.status, answer.code()), (503, "database_away"), "{answer:?}");
    assert!(!fs::exists(format!("/proc/{pid}")).expect("proc"), "the VM does not wait for the database");
    drop(frozen);
    assert_eq!(ended(&server, &vm), ("stopped".to_owned(), "stopped by user".to_owned()));
    server.assert_nothing_left();
    server.end();
}

#[test]
fn who_looked_while_the_database_was_away_is_written_down_once_when_it_is_back() {
    let server = Server::with("tls = \"off\"", "db_seconds = 1\n", "");
    let (owner, warden) = (server.sign_up("looked-at"), common::admin(&server));
    let vm = server.launch(&owner);
    // Known to the server before, so that looking needs no database.
    drop((server.screen(&owner, &vm), server.screen(&warden, &vm)));
    let vmid = vm["vmid"].as_str().expect("vmid").to_owned();
    let kinds = |of: &str| {
        let sql = format!(
            "select kind || coalesce(' ' || at::text, '') from connection_events where vmid = $1 and {of} order by id"
        );
        let rows = server.database().query(&sql, &[&vmid]).expect("rows");
        rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>()
    };
    until("the first visits are written down", || (kinds("true").len() == 4).then_some(()));
    let frozen = Frozen::new(&server);
    let began = jiff::Timestamp::now();
    let mut screens = [server.screen(&owner, &vm), server.screen(&warden, &vm)];
    screens.iter_mut().for_each(ping);
    drop(screens);
    until("both are gone", || (server.said().matches("relay closed").count() == 4).then_some(()));
    // Tried, and tried again: an answer that is lost may belong to something that was done.
    server.wait_for_log("events wait for it");
    let gone = jiff::Timestamp::now();
    drop(frozen);
    server.wait_for_log("events that waited for the database are written");
    let during = format!("at between '{began}' and '{gone}'");
    let visits = kinds(&during);
    assert_eq!(visits.len(), 4, "as they happened, and each once: {visits:?} of {:?}", kinds("true"));
    let sql = format!("select action from audit where action like 'watch%' and {during} order by id");
    let watched: Vec<String> = server.database().query(&sql, &[]).expect("rows").iter().map(|row| row.get(0)).collect();
    assert_eq!(watched, ["watch", "watch ended"]);
    assert_eq!(kinds("true").len(), 8);
    server.stop(&owner, &vm);
    server.end();
}

#[test]
fn a_qemu_whose_monitor_talks_without_end_holds_nobody_up_and_is_stopped() {
    let server = stand_in::server("floods", "stop_grace_seconds = 1");
    let token = server.sign_up("flooded");
    let vm = server.launch(&token);
    let mut screen = server.screen(&token, &vm);
    for _ in 0..200 {
        ping(&mut screen);
        assert_eq!(server.call("GET", "/healthz", "", &Value::Null).status, 200);
    }
    server.stop(&token, &vm);
    server.assert_nothing_left();
    server.end();
}

#[test]
fn a_qemu_that_hangs_is_ended_by_an_ordinary_stop() {
    let server = Server::with("tls = \"off\"", "stop_grace_seconds = 1", "");
    let token = server.sign_up("hanging");
    let vm = server.launch(&token);
    signal("-STOP", &[u32::try_from(vm["pid"].as_u64().expect("pid")).expect("pid")]);
    let reset =
        server.call("POST", &format!("/vms/{}/restart", vm["vmid"].as_str().expect("vmid")), &token, &Value::Null);
    assert_eq!((reset.status, reset.code()), (502, "qemu_refused"), "{reset:?}");
    let ended = server.stop(&token, &vm);
    assert_eq!((&ended["state"], &ended["exit"]), (&json!("stopped"), &json!("stopped by user")), "{ended}");
    server.assert_nothing_left();
    server.end();
}

#[test]
fn a_qemu_that_is_silent_when_it_is_taken_over_runs_on_and_holds_nobody_up() {
    let mut server = stand_in::server("writes", "");
    let token = server.sign_up("writer");
    let vm = server.launch(&token);
    server.kill("-KILL");
    let (_, folder, _) = server.wait();
    // Launches are taken before it has said a word.
    let server = Server::run(folder);
    let other = server.sign_up("other");
    let second = server.launch(&other);
    let path = format!("/vms/{}", vm["vmid"].as_str().expect("vmid"));
    let now = server.call("GET", &path, &token, &Value::Null).json;
    assert_eq!((&now["state"], &now["pid"]), (&json!("running"), &vm["pid"]), "{now}\n{}", server.said());
    // What is asked of it waits for it.
    let reset = server.call("POST", &format!("{path}/restart"), &token, &Value::Null);
    assert_eq!((reset.status, &reset.json["pid"]), (200, &vm["pid"]), "{reset:?}\n{}", server.said());
    server.stop(&token, &vm);
    server.stop(&other, &second);
    server.end();
}

#[test]
fn a_snapshot_that_a_former_server_began_is_told_by_its_name() {
    let id = format!("snapshot-0123456789ab-{}", data_encoding::HEXLOWER.encode(b"v1.0+a"));
    let mut server = stand_in::server(&format!("job {id} snapshot-load"), "");
    let token = server.sign_up("restorer");
    let vm = server.launch(&token);
    server.kill("-KILL");
    let (_, folder, _) = server.wait();
    let server = Server::run(folder);
    let path = format!("/vms/{}", vm["vmid"].as_str().expect("vmid"));
    let job = json!({"what": "restore", "name": "v1.0+a", "percent": 40});
    until("it is told", || (server.call("GET", &path, &token, &Value::Null).json["job"] == job).then_some(()));
    let snapshot = server.call("POST", &format!("{path}/snapshots"), &token, &json!({"name": "next"}));
    assert_eq!((snapshot.status, snapshot.code()), (409, "snapshot_busy"), "{snapshot:?}");
    assert!(snapshot.json["detail"].as_str().is_some_and(|why| why.contains("restore v1.0+a")), "{snapshot:?}");
    server.stop(&token, &vm);
    server.end();
}

#[test]
fn a_power_cycle_of_a_qemu_that_was_not_taken_over_yet_is_not_taken_for_its_silence() {
    let mut server = stand_in::server("writes", "adopt_seconds = 7");
    let token = server.sign_up("impatient");
    let vm = server.launch(&token);
    server.kill("-KILL");
    let (_, folder, _) = server.wait();
    let server = Server::run(folder);
    let began = Instant::now();
    let path = format!("/vms/{}", vm["vmid"].as_str().expect("vmid"));
    let cycled = server.call("POST", &format!("{path}/restart"), &token, &json!({"mode": "power-cycle"}));
    assert_eq!(cycled.status, 200, "{cycled:?}\n{}", server.said());
    assert_ne!(cycled.json["pid"], vm["pid"]);
    until("the time for the one before is over", || (began.elapsed() > Duration::from_secs(8)).then_some(()));
    let ended = server.stop(&token, &vm);
    assert_eq!(ended["exit"], json!("stopped by user"), "{ended}\n{}", server.said());
    server.end();
}

#[test]
fn a_qemu_that_stays_silent_when_it_is_taken_over_is_ended_with_the_reason() {
    let mut server = Server::with("tls = \"off\"\nstop_vms_on_exit = false", "adopt_seconds = 1", "");
    let token = server.sign_up("silent");
    let vm = server.launch(&token);
    signal("-STOP", &[u32::try_from(vm["pid"].as_u64().expect("pid")).expect("pid")]);
    server.kill("-KILL");
    let (_, folder, _) = server.wait();
    let server = Server::run(folder);
    let why = "qemu did not answer after a restart of the server".to_owned();
    assert_eq!(ended(&server, &vm), ("stopped".to_owned(), why));
    server.assert_nothing_left();
    server.end();
}

#[test]
fn a_qemu_that_complains_without_end_does_not_fill_the_log() {
    let server = stand_in::server("complains", "");
    let token = server.sign_up("patient");
    let vm = server.launch(&token);
    let enough = server.base().join("runs").join(vm["vmid"].as_str().expect("vmid")).join("enough");
    until("it has complained enough", || enough.exists().then_some(()));
    // It is read in order: what comes after the end of its complaints is told behind them.
    server.stop(&token, &vm);
    let said = server.said();
    let complaints = said.matches("qemu: complaint").count();
    assert!((100..=120).contains(&complaints), "{complaints} of 400 lines\n{said}");
    server.end();
}

#[test]
fn a_server_told_to_end_while_the_database_is_frozen_ends_in_time() {
    let mut server = Server::with("tls = \"off\"", "", "");
    server.sign_up("last");
    let frozen = Frozen::new(&server);
    let began = Instant::now();
    server.kill("-TERM");
    let (code, folder, said) = server.wait();
    let took = began.elapsed();
    drop(frozen);
    assert_eq!(code, Some(0), "{said}");
    assert!(took < IN_TIME, "{took:?}\n{said}");
    // The next server has a PostgreSQL that works, whatever became of the former one.
    let server = Server::run(folder);
    assert_eq!(server.count("select count(*) from users"), 1);
    server.end();
}

#[test]
fn a_server_told_to_end_while_the_database_is_frozen_and_a_request_hangs_ends_in_time() {
    let mut server = Server::with("tls = \"off\"", "", "");
    server.sign_up("last");
    let mut hangs = server.connect();
    hangs.write_all(b"POST /auth/login HTTP/1.1\r\nHost: h\r\nContent-Length: 50\r\n\r\n{").expect("half a request");
    server.call("GET", "/healthz", "", &Value::Null);
    let frozen = Frozen::new(&server);
    let began = Instant::now();
    server.kill("-TERM");
    let (code, _folder, said) = server.wait();
    let took = began.elapsed();
    drop(frozen);
    assert_eq!(code, Some(0), "{said}");
    assert!(took < IN_TIME, "{took:?}\n{said}");
}

#[test]
fn a_server_told_to_end_leaves_no_qemu_that_hangs_where_it_ends_them() {
    let mut server = Server::with("tls = \"off\"\nstop_vms_on_exit = true", "", "");
    let token = server.sign_up("hanging");
    // Its disk is kept, so the guest would be asked first.
    let asked = server.call("POST", "/run-iso", &token, &json!({"data_disk_gb": 1}));
    assert_eq!(asked.status, 200, "{asked:?}");
    let pid = u32::try_from(asked.json["vm"]["pid"].as_u64().expect("pid")).expect("pid");
    signal("-STOP", &[pid]);
    server.kill("-TERM");
    let (code, folder, said) = server.wait();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(processes_of(folder.path()), Vec::<u32>::new(), "{said}");
    assert!(said.contains("vm stopped: server stopped"), "{said}");
}

#[test]
fn a_server_told_to_end_twice_does_not_wait_for_anybody() {
    let mut server = Server::with("tls = \"off\"", "", "");
    let mut hangs = server.connect();
    hangs.write_all(b"POST /auth/login HTTP/1.1\r\nHost: h\r\nContent-Length: 50\r\n\r\n{").expect("half a request");
    server.call("GET", "/healthz", "", &Value::Null);
    server.kill("-TERM");
    server.wait_for_log("ending: no new connections, 1 open");
    server.kill("-TERM");
    let (code, folder, said) = server.wait();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("told to end twice"), "{said}");
    assert_eq!(processes_of(folder.path()), Vec::<u32>::new(), "{said}");
}

#[test]
fn a_server_told_to_end_in_the_middle_of_a_launch_takes_it_back_and_answers() {
    let mut server = stand_in::server("slow", "");
    let token = server.sign_up("middle");
    let mut socket = stand_in::launching(&server, &token);
    let began = Instant::now();
    server.kill("-TERM");
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).expect("the answer, then the end");
    let status = common::Answer::parse(&answer).status;
    assert!(status == 503 || status == 409, "{}", String::from_utf8_lossy(&answer));
    let (code, folder, said) = server.wait();
    assert_eq!(code, Some(0), "{said}");
    assert!(began.elapsed() < IN_TIME, "{:?}\n{said}", began.elapsed());
    assert_eq!(processes_of(folder.path()), Vec::<u32>::new(), "{said}");
    let server = Server::run(folder);
    server.assert_nothing_left();
    server.end();
}

#[test]
fn a_server_killed_while_qemu_starts_leaves_nothing_to_the_next() {
    let mut server = stand_in::server("hang", "");
    let token = server.sign_up("killed");
    let socket = stand_in::launching(&server, &token);
    let qemu = processes_of(&server.base().join("runs"));
    assert!(!qemu.is_empty(), "the stand-in runs");
    server.kill("-KILL");
    let (_, folder, _) = server.wait();
    drop(socket);
    let server = Server::run(folder);
    server.assert_nothing_left();
    let exit = server.database().query_one("select exit from vms", &[]).expect("row");
    assert_eq!(exit.get::<_, &str>(0), "the server ended while it started");
    server.end();
}

#[test]
fn a_second_server_on_the_same_database_is_refused_in_words() {
    let host = Server::start();
    host.database().batch_execute("create database shared").expect("a database");
    let url = format!("postgresql://vmshare@/shared?host={}", host.base().join("postgres/run").display());
    let top = format!("tls = \"off\"\ndatabase_url = {url:?}");
    let first = Server::with(&top, "", "");
    let folder = common::folder();
    fs::write(folder.path().join("vmshare.toml"), common::settings(&folder.path().join("b"), &top, "", ""))
        .expect("settings");
    let (code, _folder, said) = Server::run_unready(folder).wait();
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(first.call("GET", "/readyz", "", &Value::Null).status, 200, "the first one goes on");
    first.end();
    host.end();
}

#[test]
fn a_database_that_is_away_at_the_start_is_waited_for_and_told() {
    let host = Server::start();
    let url = "postgresql://vmshare@127.0.0.1:1/own";
    let folder = common::folder();
    let top = format!("tls = \"off\"\ndatabase_url = {url:?}");
    fs::write(folder.path().join("vmshare.toml"), common::settings(&folder.path().join("b"), &top, "", ""))
        .expect("settings");
    let server = Server::run_unready(folder);
    server.wait_for_log("database away");
    let ready = server.call("GET", "/readyz", "", &Value::Null);
    assert_eq!((ready.status, ready.code()), (503, "not_ready"), "{ready:?}");
    assert!(ready.json["detail"].as_str().expect("detail").contains("database"), "{ready:?}");
    assert_eq!(server.call("GET", "/", "", &Value::Null).status, 200);
    let body = json!({"email": "a@example.org", "password": "correct horse"});
    assert_eq!(server.call("POST", "/auth/login", "", &body).code(), "database_away");
    server.end();
    host.end();
}
