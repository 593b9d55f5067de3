//! How long a VM may run: idle and total limits, warned of and kept, over restarts of VM and server; and whether it may start at all.

mod common;

use common::{Events, Server, closed, image, shake_hands, until};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tungstenite::Message;

const TOP: &str = "tls = \"off\"\nstop_vms_on_exit = true";

fn path_of(vm: &Value) -> String {
    format!("/vms/{}", vm["vmid"].as_str().expect("vmid"))
}

fn limited(limits: &str) -> String {
    format!("base_image = {:?}\n{limits}", image())
}

fn seconds_left(vm: &Value) -> f64 {
    seconds_until(&vm["expires_at"])
}

fn seconds_until(at: &Value) -> f64 {
    let at: jiff::Timestamp = at.as_str().expect("a time").parse().expect("a time");
    at.duration_since(jiff::Timestamp::now()).as_secs_f64()
}

fn warns(vm: &Value) -> bool {
    vm["expires_soon"] == json!(true)
}

#[test]
fn a_vm_nobody_uses_is_warned_of_kept_by_a_click_or_by_input_and_then_ends() {
    let server = Server::with(TOP, "limit_warning_seconds = 4", &limited("idle_minutes = 0.15"));
    let token = server.sign_up("idler");
    let mut events = Events::of(&server, &token);
    let vm = server.launch(&token);
    assert_eq!(
        (&vm["expires_because"], &vm["expires_soon"], &vm["idle_limit_s"]),
        (&json!("idle"), &json!(false), &json!(9))
    );
    assert_eq!(vm["time_limit_at"], Value::Null);
    assert!((6.0..=9.1).contains(&seconds_left(&vm)), "{vm}");
    // Somebody who looks and does nothing: traffic is no input.
    let mut screen = server.screen(&token, &vm);
    shake_hands(&mut screen);
    screen.send(Message::Binary(vec![3, 0, 0, 0, 0, 0, 4, 0, 3, 0].into())).expect("request");

    events.wait_for("the first warning", warns);
    let kept = server.call("POST", &format!("{}/keep", path_of(&vm)), &token, &Value::Null);
    assert_eq!(
        (kept.status, &kept.json["expires_soon"], &kept.json["idle_s"]),
        (200, &json!(false), &json!(0)),
        "{kept:?}"
    );
    let noted = "select count(*) from vms where last_input_at > now() - interval '5 s' and last_input_up > started_up";
    assert_eq!(server.count(noted), 1, "it is noted by both clocks");
    events.wait_for("the warning is over", |vm| !warns(vm));

    events.wait_for("the second warning", warns);
    screen.send(Message::Binary(vec![5, 0, 0, 9, 0, 9].into())).expect("the pointer moves");
    events.wait_for("the pointer is seen", |vm| !warns(vm));

    events.wait_for("the third warning", warns);
    server.serial(&vm).send("\n");
    events.wait_for("typing is seen", |vm| !warns(vm));

    let ended = events.wait_for("the end", |vm| vm["state"] == json!("stopped"));
    assert_eq!(ended["exit"], json!("idle"));
    assert_eq!(closed(&mut screen), (1000, "VM stopped".to_owned()));
    let late = server.call("POST", &format!("{}/keep", path_of(&vm)), &token, &Value::Null);
    assert_eq!((late.status, late.code()), (409, "vm_not_running"));
    server.assert_nothing_left();
    server.end();
}

#[test]
fn the_total_time_is_moved_neither_by_a_click_nor_by_a_restart() {
    let limits = limited("idle_minutes = 60\nmax_minutes = 0.25");
    let server = Server::with(TOP, "limit_warning_seconds = 60\nstop_grace_seconds = 1", &limits);
    let token = server.sign_up("timed");
    let began = Instant::now();
    let vm = server.launch(&token);
    assert_eq!((&vm["expires_because"], &vm["expires_soon"]), (&json!("time limit"), &json!(true)), "{vm}");
    assert_eq!(vm["time_limit_at"], vm["expires_at"]);
    let refused = server.call("POST", &format!("{}/keep", path_of(&vm)), &token, &Value::Null);
    assert_eq!((refused.status, refused.code()), (409, "time_limit"), "{refused:?}");
    assert!(refused.json["detail"].as_str().expect("detail").contains("cannot be extended"), "{refused:?}");
    let restart = format!("{}/restart", path_of(&vm));
    let again = server.call("POST", &restart, &token, &json!({"mode": "power-cycle"})).json;
    assert_ne!(again["pid"], vm["pid"]);
    assert!((seconds_left(&again) - seconds_left(&vm)).abs() < 1.5, "{again}");
    let ended = until("its time is up", || {
        let now = server.call("GET", &path_of(&vm), &token, &Value::Null).json;
        (now["state"] == json!("stopped")).then_some(now)
    });
    assert_eq!((&ended["exit"], &ended["time_limit_at"]), (&json!("time limit"), &Value::Null));
    assert!(began.elapsed() >= Duration::from_secs(15), "{:?}", began.elapsed());
    server.end();
}

/// The database outlives a server that is killed.
fn database_of(folder: &tempfile::TempDir) -> postgres::Client {
    let mut config = postgres::Config::new();
    config.host_path(folder.path().join("b/postgres/run")).user("vmshare").dbname("vmshare");
    config.connect(postgres::NoTls).expect("the database")
}

#[test]
fn a_clock_that_is_set_while_a_vm_runs_moves_no_limit_of_it() {
    let limits = format!("base_image = {:?}\nidle_minutes = 30\nmax_minutes = 20", common::guests::still());
    let mut server = Server::with(TOP, "limit_warning_seconds = 5", &limits);
    let token = server.sign_up("timed");
    let vm = server.launch(&token);
    server.kill("-KILL");
    let (_, folder, _) = server.wait();
    // What was noted looks so to the next server when the clock has gone three hours ahead meanwhile.
    let sql = "update vms set started_at = started_at - interval '3 hours', \
               last_input_at = started_at - interval '3 hours', last_input_up = started_up";
    assert_eq!(database_of(&folder).execute(sql, &[]).expect("sql"), 1);
    let server = Server::run(folder);
    let now = server.call("GET", &path_of(&vm), &token, &Value::Null).json;
    assert_eq!((&now["expires_because"], &now["expires_soon"]), (&json!("time limit"), &json!(false)), "{now}");
    assert!((seconds_left(&now) - seconds_left(&vm)).abs() < 30.0, "{now}, before {vm}");
    assert!(now["idle_s"].as_u64().is_some_and(|idle| idle < 120), "{now}");
    server.stop(&token, &vm);
    server.assert_nothing_left();
    server.end();
}

#[test]
fn limits_go_on_counting_under_another_server_which_gives_time_for_a_warning() {
    let limits = limited("idle_minutes = 10\nmax_minutes = 30");
    let server = Server::with("tls = \"off\"", "limit_warning_seconds = 5", &limits);
    let (idle, timed) = (server.sign_up("idle"), server.sign_up("timed"));
    let (one, two) = (server.launch(&idle), server.launch(&timed));
    let mut server = server;
    server.kill("-KILL");
    let (_, folder, _) = server.wait();
    let mut database = database_of(&folder);
    let id = |vm: &Value| vm["vmid"].as_str().expect("vmid").to_owned();
    // As an older version left it: by the wall clock alone.
    let sql = "update vms set last_input_at = now() - interval '8 minutes', started_at = now() - interval '20 minutes', \
               last_input_up = null, started_up = null where vmid = $1";
    assert_eq!(database.execute(sql, &[&id(&one)]).expect("sql"), 1);
    let sql = "update vms set last_input_at = now(), last_input_up = started_up, started_up = started_up - 7200 where vmid = $1";
    assert_eq!(database.execute(sql, &[&id(&two)]).expect("sql"), 1);
    let server = Server::run(folder);

    let now = server.call("GET", &path_of(&one), &idle, &Value::Null).json;
    assert_eq!(now["expires_because"], json!("idle"), "{now}");
    assert!((100.0..=121.0).contains(&seconds_left(&now)), "8 of 10 minutes are over: {now}");
    let left = seconds_until(&now["time_limit_at"]);
    assert!((580.0..=601.0).contains(&left), "20 of 30 minutes in all are over, which is told on its own: {now}");
    assert!(now["idle_s"].as_u64().is_some_and(|idle| (480..500).contains(&idle)), "{now}");

    let now = server.call("GET", &path_of(&two), &timed, &Value::Null).json;
    if now["state"] == json!("running") {
        assert_eq!((&now["expires_because"], &now["expires_soon"]), (&json!("time limit"), &json!(true)), "{now}");
    }
    let ended = until("the one whose time was up ends", || {
        let now = server.call("GET", &path_of(&two), &timed, &Value::Null).json;
        (now["state"] == json!("stopped")).then_some(now)
    });
    assert_eq!(ended["exit"], json!("time limit"));
    server.stop(&idle, &one);
    server.assert_nothing_left();
    server.end();
}

#[test]
fn a_launch_that_the_host_has_no_room_for_is_refused_with_the_reason_and_leaves_nothing() {
    for (limit, status, code, word) in [
        ("memory_reserve_mb = 1000000000", 503, "host_full", "MB of memory"),
        ("disk_reserve_mb = 1000000000", 507, "no_space", "disk space"),
    ] {
        let server = Server::with(TOP, limit, "");
        let token = server.sign_up("crowd");
        let refused = server.call("POST", "/run-iso", &token, &Value::Null);
        assert_eq!((refused.status, refused.code()), (status, code), "{refused:?}");
        assert!(refused.json["detail"].as_str().expect("detail").contains(word), "{refused:?}");
        assert!(refused.header("retry-after").is_some_and(|wait| wait.parse::<u32>().is_ok()), "{refused:?}");
        server.assert_nothing_left();
        server.end();
    }
}

#[test]
fn who_starts_too_often_is_told_why_and_until_when() {
    let folder = common::folder();
    let text = common::settings(&folder.path().join("b"), TOP, "", "");
    let text = text.replace("launches_per_minute_user = 1000", "launches_per_minute_user = 1");
    std::fs::write(folder.path().join("vmshare.toml"), text).expect("settings");
    let server = Server::run(folder);
    let token = server.sign_up("eager");
    let vm = server.launch(&token);
    assert_eq!(server.call("POST", "/run-iso", &token, &Value::Null).status, 200, "the one that runs costs nothing");
    server.stop(&token, &vm);
    let refused = server.call("POST", "/run-iso", &token, &Value::Null);
    assert_eq!((refused.status, refused.code()), (429, "too_many_requests"), "{refused:?}");
    let wait: u64 = refused.header("retry-after").expect("retry-after").parse().expect("seconds");
    assert!((1..=60).contains(&wait), "{wait}");
    assert!(refused.json["detail"].as_str().expect("detail").contains(&format!("Wait {wait} seconds")), "{refused:?}");
    server.end();
}

#[test]
fn an_address_that_starts_too_often_is_refused_whoever_asks_there() {
    let server = Server::with(TOP, "launches_per_minute_ip = 1", "");
    let (first, second) = (server.sign_up("first"), server.sign_up("second"));
    let vm = server.launch(&first);
    let refused = server.call("POST", "/run-iso", &second, &Value::Null);
    assert_eq!((refused.status, refused.code()), (429, "too_many_requests"), "{refused:?}");
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    server.stop(&first, &vm);
    server.end();
}
