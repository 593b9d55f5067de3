//! `/vms`, `/connections` and `/events`: how lists page, what is told as it happens, and when ports come back.

mod common;

use common::{Server, image, stand_in, until};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::time::{Duration, Instant};

#[test]
fn stand_in_for_qemu() {
    stand_in::play();
}

fn vmid(vm: &Value) -> &str {
    vm["vmid"].as_str().expect("vmid")
}

/// Follows `next` to the end; the vmids in their order.
fn pages(server: &Server, token: &str, extra: &str, limit: usize) -> Vec<String> {
    let (mut found, mut before) = (Vec::new(), String::new());
    for _ in 0..50 {
        let path = format!("/vms?limit={limit}{extra}{before}");
        let page = server.call("GET", &path, token, &Value::Null);
        assert_eq!(page.status, 200, "{path}: {page:?}");
        let vms = page.json["vms"].as_array().expect("a list");
        assert!(vms.len() <= limit, "{path}");
        found.extend(vms.iter().map(|vm| vmid(vm).to_owned()));
        match page.json["next"].as_str() {
            Some(next) => before = format!("&before={}", next.replace('+', "%2B")),
            None => return found,
        }
    }
    panic!("the pages have no end: {found:?}");
}

#[test]
fn pages_of_a_list_have_every_vm_once_and_live_ones_first() {
    let server = Server::start();
    let (early, late) = (server.sign_up("early"), server.sign_up("late"));
    // One that runs on while others come and go: older than all of them, and still first.
    let live = server.launch(&early);
    let mut past: Vec<String> = Vec::new();
    for _ in 0..4 {
        let vm = server.launch(&late);
        server.stop(&late, &vm);
        past.insert(0, vmid(&vm).to_owned());
    }
    assert_eq!(pages(&server, &late, "", 3), past, "newest first");
    assert_eq!(pages(&server, &late, "", 2), past, "a last page that is full");
    let mut all = vec![vmid(&live).to_owned()];
    all.extend(past);
    let token = common::admin(&server);
    assert_eq!(pages(&server, &token, "&all=1", 20), all);
    assert_eq!(pages(&server, &token, "&all=1", 2), all, "no page loses what is between a live VM and its neighbours");
    for wrong in ["limit=0", "limit=101", "limit=x", "before=yesterday"] {
        let answer = server.call("GET", &format!("/vms?{wrong}"), &late, &Value::Null);
        assert_eq!((answer.status, answer.code()), (422, "invalid_field"), "{wrong}: {answer:?}");
    }
    server.end();
}

#[test]
fn a_port_cools_down_before_it_is_given_again() {
    let ranges = format!("base_image = {:?}\nvnc_port_range = [5901, 5901]\nhttp_port_range = [6101, 6101]", image());
    let folder = common::folder();
    let top = "tls = \"off\"\nstop_vms_on_exit = true";
    let text = common::settings(&folder.path().join("b"), top, "", &ranges);
    let text = text.replace("port_cooldown_seconds = 0", "port_cooldown_seconds = 2");
    std::fs::write(folder.path().join("vmshare.toml"), text).expect("settings");
    let server = Server::run(folder);
    let (first, second) = (server.sign_up("first"), server.sign_up("second"));
    let vm = server.launch(&first);
    let stopped = Instant::now();
    server.stop(&first, &vm);
    let refused = server.call("POST", "/run-iso", &second, &Value::Null);
    assert_eq!((refused.status, refused.code()), (503, "ports_exhausted"), "{refused:?}");
    assert!(refused.header("retry-after").is_some_and(|wait| wait.parse::<u32>().is_ok()), "{refused:?}");
    let vm = until("the port has cooled down", || {
        let answer = server.call("POST", "/run-iso", &second, &Value::Null);
        (answer.status == 200).then(|| answer.json["vm"].clone())
    });
    assert!(stopped.elapsed() >= Duration::from_secs(2), "{:?}", stopped.elapsed());
    server.stop(&second, &vm);
    server.end();
}

#[test]
fn who_leaves_a_launch_for_good_leaves_nothing_at_once_where_there_is_no_grace() {
    let server = stand_in::server("hang", "launch_grace_seconds = 0");
    let token = server.sign_up("leaver");
    drop(stand_in::launching(&server, &token));
    until("the launch is taken back", || (server.count("select count(*) from vms") == 0).then_some(()));
    until("its folder is gone", || {
        (std::fs::read_dir(server.base().join("runs")).expect("runs").count() == 0).then_some(())
    });
    server.assert_nothing_left();
    server.end();
}

#[test]
fn a_stop_may_be_asked_for_twice_at_once_and_again_afterwards() {
    let server = Server::start();
    let token = server.sign_up("twice");
    let vm = server.launch(&token);
    let answers: Vec<Value> = std::thread::scope(|scope| {
        let clicks: Vec<_> = (0..3).map(|_| scope.spawn(|| server.stop(&token, &vm))).collect();
        clicks.into_iter().map(|click| click.join().expect("click")).collect()
    });
    for answer in &answers {
        assert_eq!((&answer["state"], &answer["exit"]), (&json!("stopped"), &json!("stopped by user")), "{answers:?}");
    }
    assert_eq!(server.stop(&token, &vm)["exit"], json!("stopped by user"));
    let wrong = server.call("POST", &format!("/vms/{}/stop", vmid(&vm)), &token, &json!({"froce": true}));
    assert_eq!((wrong.status, &wrong.json["field"]), (422, &json!("froce")), "{wrong:?}");
    server.assert_nothing_left();
    server.end();
}

#[test]
fn the_stream_of_events_tells_a_vms_life_and_the_end_of_the_session() {
    let server = Server::start();
    let token = server.sign_up("watcher");
    let mut socket = server.connect();
    write!(socket, "GET /events HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n\r\n").expect("send");
    let mut lines = BufReader::new(socket).lines().map(|line| line.expect("the stream goes on"));
    let mut wait_for = |wanted: &str| {
        let found = lines.by_ref().filter(|line| line.starts_with("event: me") || line.starts_with("data: {"));
        let mut seen = BTreeSet::new();
        for line in found {
            if line.contains(wanted) {
                return;
            }
            seen.insert(line);
        }
        panic!("the stream ended before {wanted}; it had {seen:?}");
    };
    let vm = server.launch(&token);
    wait_for("\"state\":\"starting\"");
    wait_for("\"state\":\"running\"");
    let screen = server.screen(&token, &vm);
    wait_for("\"connected\":true");
    drop(screen);
    wait_for("\"connected\":false");
    server.stop(&token, &vm);
    wait_for("\"state\":\"stopped\"");
    assert_eq!(server.call("POST", "/auth/logout", &token, &Value::Null).status, 204);
    wait_for("event: me");
    server.end();
}

/// Opens the stream of events, having heard `id` last; gives what reads it, event by event as id and data.
fn events(server: &Server, token: &str, id: &str) -> impl Iterator<Item = (String, Value)> + use<> {
    let mut socket = server.connect();
    let head = format!("GET /events HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n{id}\r\n");
    socket.write_all(head.as_bytes()).expect("send");
    let mut lines = BufReader::new(socket).lines().map(|line| line.expect("the stream goes on"));
    std::iter::from_fn(move || {
        let id = lines.find_map(|line| Some(line.strip_prefix("id: ")?.to_owned()))?;
        let data = lines.find_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok())?;
        Some((id, data))
    })
}

#[test]
fn who_lost_the_stream_of_events_gets_what_he_missed_and_only_that() {
    let server = Server::start();
    let token = server.sign_up("listener");
    let vm = server.launch(&token);
    let (heard, now) = events(&server, &token, "").next().expect("the present state");
    assert_eq!((&now["vmid"], &now["state"]), (&vm["vmid"], &json!("running")));
    server.stop(&token, &vm);
    let again = format!("Last-Event-ID: {heard}\r\n");
    let mut missed = events(&server, &token, &again);
    // Present would be: no VM. Missed is how it ended.
    let (last, end) = missed.find(|(_, vm)| vm["state"] == "stopped").expect("the end");
    assert_eq!((&end["vmid"], &end["exit"]), (&vm["vmid"], &json!("stopped by user")));
    // Nothing was missed since: the next event is the next start.
    let mut on_time = events(&server, &token, &format!("Last-Event-ID: {last}\r\n"));
    let next = server.launch(&token);
    assert_eq!(on_time.next().expect("a start").1["vmid"], next["vmid"]);
    for unknown in ["", "x", "0-0", "000000000000-1", &format!("{heard}999")] {
        let (_, now) = events(&server, &token, &format!("Last-Event-ID: {unknown}\r\n")).next().expect("an event");
        assert_eq!(now["vmid"], next["vmid"], "{unknown}: the present state comes first");
    }
    server.stop(&token, &next);
    server.end();
}
