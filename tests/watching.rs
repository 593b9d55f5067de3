//! Who looks at a student's screen, what he can do there, who is told, and what is written down; on a real guest, which tells of every key.

mod common;

use common::guests::still;
use common::{Events, Server, closed, shake_hands, until};
use serde_json::{Value, json};
use std::net::TcpStream;
use std::time::Instant;
use tungstenite::{Message, WebSocket};

type Screen = WebSocket<TcpStream>;

/// Presses and releases a key; `code` is what the guest calls it.
fn key(screen: &mut Screen, keysym: u8) {
    for down in [1, 0] {
        screen.send(Message::Binary(vec![4, down, 0, 0, 0, 0, 0, keysym].into())).expect("key");
    }
}

fn teacher(server: &Server, name: &str) -> String {
    server.sign_up(name);
    assert!(server.command(&["user", "promote", name, "teacher"], "").status.success());
    let body = json!({"email": name, "password": "correct horse"});
    server.call("POST", "/auth/login", "", &body).json["token"].as_str().expect("token").to_owned()
}

fn open(server: &Server, vm: &Value, token: &str, query: &str) -> Result<Screen, u16> {
    let bearer = format!("Bearer {token}");
    let mut screen = server.websocket(&format!("/ws/{}{query}", vm["http_port"]), &[("authorization", &bearer)])?;
    assert!(screen.read().expect("greeting").into_data().starts_with(b"RFB 003."), "no RFB greeting");
    shake_hands(&mut screen);
    Ok(screen)
}

/// All that was written before is through: the server answers pings in their order.
fn settle(screen: &mut Screen, mark: u8) {
    screen.send(Message::Ping(vec![mark].into())).expect("open");
    until("the answer", || (screen.read().expect("open") == Message::Pong(vec![mark].into())).then_some(()));
}

fn viewer(server: &Server, vm: &Value, token: &str, kind: &str) -> Value {
    let seen = server.call("GET", &format!("/connections/{}", vm["vmid"].as_str().expect("vmid")), token, &Value::Null);
    let all = seen.json["who"].as_array().unwrap_or_else(|| panic!("{seen:?}")).clone();
    all.into_iter().find(|who| who["kind"] == kind).unwrap_or_else(|| panic!("no {kind}: {seen:?}"))
}

fn may(server: &Server, vm: &Value, token: &str, who: &Value, control: bool) -> Value {
    let path = format!("/vms/{}/viewers/{}", vm["vmid"].as_str().expect("vmid"), who["id"]);
    let answer = server.call("POST", &path, token, &json!({"control": control}));
    assert_eq!((answer.status, &answer.json["viewer"]["control"]), (200, &json!(control)), "{answer:?}");
    answer.json
}

/// What is told of all `count` screens and terminals of a VM when all of them are closed.
fn ended_connections(server: &Server, vm: &Value, admin: &str, count: usize) -> Vec<Value> {
    let log = until("all that was opened has its end", || {
        let log = server.call("GET", "/connections", admin, &Value::Null).json["events"].as_array()?.clone();
        let of_kind = |kind: &str| log.iter().filter(|row| row["kind"] == kind).count();
        (of_kind("connect") == count && of_kind("disconnect") == count).then_some(log)
    });
    assert!(log.iter().all(|row| row["seconds"].is_null() == (row["kind"] == "connect")), "{log:?}");
    let path = format!("/connections/{}", vm["vmid"].as_str().expect("vmid"));
    let last = server.call("GET", &path, admin, &Value::Null).json["last_change"].clone();
    assert_eq!(Some(&last), log.iter().map(|row| &row["at"]).max_by_key(|at| at.as_str()), "{log:?}");
    log
}

#[test]
fn a_teacher_looks_is_seen_and_controls_only_while_the_student_lets_him() {
    let server = Server::start_living();
    let (ada, lee) = (server.sign_up("ada"), teacher(&server, "lee"));
    let vm = server.launch(&ada);
    let before = Instant::now();
    let mut serial = server.serial(&vm);
    let opened = Instant::now();
    serial.wait_for("fbdemo 1024x768");
    let mut events = Events::of(&server, &ada);
    // The list of his students' VMs, and no more than looking.
    let listed = server.call("GET", "/vms?all=1", &lee, &Value::Null).json;
    assert_eq!(listed["vms"][0]["vmid"], vm["vmid"]);
    assert_eq!(open(&server, &vm, &lee, "?control=1").map(drop), Err(403));

    let mut screen = open(&server, &vm, &lee, "").expect("he may look");
    let told = events.wait_for("the badge", |vm| vm["watched_by"] == json!(["lee"]));
    assert!(told["viewers"].as_u64() >= Some(2), "{told}");
    let who = viewer(&server, &vm, &ada, "teacher");
    assert_eq!((&who["name"], &who["control"], &who["screens"]), (&json!("lee"), &json!(false), &json!(1)));
    key(&mut screen, b'b');
    settle(&mut screen, 1);
    let idle = |kind: &str| viewer(&server, &vm, &ada, kind)["idle_s"].clone();
    assert_eq!((idle("teacher"), idle("owner")), (Value::Null, Value::Null), "a key that is held back is no input");

    // Given, without a new connection: his keys arrive. 48 is the guest's name for b, 46 for c, 32 for d.
    may(&server, &vm, &ada, &who, true);
    serial.wait_for_while("fbdemo key 46", || key(&mut screen, b'c'));
    assert!(idle("teacher").as_u64().is_some_and(|seconds| seconds < 30), "his key was a moment ago");
    assert_eq!(idle("owner"), Value::Null, "what another one does is not hers");
    assert!(!serial.text.contains("fbdemo key 48"), "a key of before came through: {}", serial.text);
    // Taken, in the middle of a message: that one ends, and nothing more comes.
    screen.send(Message::Binary(vec![4, 1, 0, 0].into())).expect("half a key");
    settle(&mut screen, 2);
    may(&server, &vm, &ada, &who, false);
    screen.send(Message::Binary(vec![0, 0, 0, b'c'].into())).expect("its rest");
    for _ in 0..3 {
        key(&mut screen, b'd');
    }
    settle(&mut screen, 3);
    let mut own = open(&server, &vm, &ada, "").expect("the owner");
    serial.wait_for_while("fbdemo key 31", || key(&mut own, b's'));
    assert!(idle("owner").as_u64().is_some_and(|seconds| seconds < 30), "her own key was a moment ago");
    assert!(!serial.text.contains("fbdemo key 32"), "a key of after came through: {}", serial.text);
    // The terminal of who only looks is mute too.
    let mut terminal = server.terminal(&lee, &vm).expect("he may look");
    terminal.send("\necho typed by lee\n");
    terminal.wait_for("tiny: up");
    let owner = viewer(&server, &vm, &ada, "owner");
    let path = format!("/vms/{}/viewers/", vm["vmid"].as_str().expect("vmid"));
    let body = json!({"control": false});
    assert_eq!(server.call("POST", &format!("{path}{}", owner["id"]), &ada, &body).code(), "owner_controls");
    assert_eq!(server.call("POST", &format!("{path}{}", who["id"]), &lee, &json!({"control": true})).status, 404);
    assert_eq!(server.call("POST", &format!("{path}4711"), &ada, &body).code(), "viewer_not_found");

    // Closed by the owner: both his windows.
    assert_eq!(server.call("DELETE", &format!("{path}{}", who["id"]), &ada, &Value::Null).status, 204);
    assert_eq!(closed(&mut screen), (1008, "closed by the owner".to_owned()));
    assert_eq!(terminal.closed().0, 1008);
    events.wait_for("the end of the badge", |vm| vm["watched_by"] == json!([]));
    assert!(!serial.text.contains("typed by lee"));
    settle(&mut own, 4);
    until("it is written down", || {
        let sql = "select string_agg(action || ' ' || detail, ', ' order by id) from audit where action like 'watch%' \
                   or action like '%control' or action = 'close viewer'";
        let said: Option<String> = server.database().query_one(sql, &[]).expect("audit").get(0);
        let expected =
            "watch ada, give control teacher lee, take control teacher lee, close viewer teacher lee, watch ended ada";
        (said.as_deref() == Some(expected)).then_some(())
    });

    // How long her terminal was open, which saw the guest start.
    let least = opened.elapsed().as_secs();
    server.stop(&ada, &vm);
    let root = common::admin(&server);
    let log = ended_connections(&server, &vm, &root, 4);
    let hers = |row: &&Value| row["kind"] == "disconnect" && row["via"] == "owner" && row["console"] == "serial";
    let took = log.iter().find(hers).and_then(|row| row["seconds"].as_u64()).expect("how long it was open");
    assert!((least..=before.elapsed().as_secs() + 1).contains(&took), "{took} and not {least}: {log:?}");
    server.end();
}

#[test]
fn teachers_watch_students_and_nobody_watches_who_is_none() {
    let server = Server::start();
    let (ada, lee, kim) = (server.sign_up("ada"), teacher(&server, "lee"), teacher(&server, "kim"));
    let root = common::admin(&server);
    let (student, colleague) = (server.launch(&ada), server.launch(&kim));
    assert_eq!(open(&server, &colleague, &lee, "").map(drop), Err(404), "a teacher's own");
    assert_eq!(open(&server, &student, &server.sign_up("bob"), "").map(drop), Err(404), "a fellow student's");
    let all = server.call("GET", "/vms?all=1", &lee, &Value::Null).json;
    let seen: Vec<&Value> = all["vms"].as_array().expect("vms").iter().map(|vm| &vm["user"]).collect();
    assert_eq!(seen, [&json!("ada")]);
    // An administrator only looks, too, unless he says that he wants more.
    let mut looking = open(&server, &student, &root, "").expect("he may look");
    assert_eq!(viewer(&server, &student, &ada, "admin")["control"], json!(false));
    let mut acting = open(&server, &colleague, &root, "?control=1").expect("he may act");
    assert_eq!(viewer(&server, &colleague, &kim, "admin")["control"], json!(true));
    // Also where he was looking already.
    let mut more = open(&server, &student, &root, "?control=1").expect("he may act");
    let who = viewer(&server, &student, &ada, "admin");
    assert_eq!(who["control"], json!(true));
    // What was taken from him does not come back with a page that connects again.
    may(&server, &student, &ada, &who, false);
    let mut again = open(&server, &student, &root, "?control=kept").expect("he may look");
    assert_eq!(viewer(&server, &student, &ada, "admin")["control"], json!(false));
    assert_eq!(open(&server, &student, &lee, "?control=kept").map(drop), Err(403));
    until("that is written down", || {
        let sql = "select string_agg(action, ', ' order by action) from audit where action like 'watch%' and ip <> ''";
        let said: Option<String> = server.database().query_one(sql, &[]).expect("audit").get(0);
        (said.as_deref() == Some("watch, watch with control, watch with control")).then_some(())
    });
    // Signed out is out.
    assert_eq!(server.call("POST", "/auth/logout", &root, &Value::Null).status, 204);
    for screen in [&mut looking, &mut acting, &mut more, &mut again] {
        assert_eq!(closed(screen).0, 1008);
    }
    server.stop(&ada, &student);
    server.stop(&kim, &colleague);
    server.end();
}

#[test]
fn who_came_by_a_link_is_told_what_he_may_and_when_it_is_over() {
    let server = Server::start();
    let ada = server.sign_up("ada");
    let vm = server.launch(&ada);
    let vmid = vm["vmid"].as_str().expect("vmid");
    let made = server.call("POST", &format!("/vms/{vmid}/shares"), &ada, &Value::Null).json["share"].clone();
    let link = made["token"].as_str().expect("token");
    let mut screen = server.websocket(&format!("/ws/{}?share={link}", vm["http_port"]), &[]).expect("the link");
    drop(screen.read().expect("greeting"));
    shake_hands(&mut screen);
    let mut told = Events::by_link(&server, &format!("/ws/{}/events?share={link}", vm["http_port"]));
    let event = |control: bool| json!({"kind": "link", "id": 1, "control": control, "expires_at": null, "expires_because": null, "expires_soon": false});
    assert_eq!(told.wait_for("what he may", |_| true), event(false));
    let who = viewer(&server, &vm, &ada, "link");
    may(&server, &vm, &ada, &who, true);
    assert_eq!(told.wait_for("control", |_| true), event(true));
    may(&server, &vm, &ada, &who, false);
    assert_eq!(told.wait_for("no control", |_| true), event(false));
    // What is taken from a link that may control does not come back with a reload.
    let wish = json!({"control": true});
    let driver = server.call("POST", &format!("/vms/{vmid}/shares"), &ada, &wish).json["share"].clone();
    let path = format!("/ws/{}?share={}", vm["http_port"], driver["token"].as_str().expect("token"));
    let first = server.websocket(&path, &[]).expect("the link");
    let name = format!("link {}", driver["id"].as_str().expect("id"));
    let named = || {
        let seen = server.call("GET", &format!("/connections/{vmid}"), &ada, &Value::Null).json;
        seen["who"].as_array().expect("who").iter().find(|who| who["name"] == json!(name)).cloned()
    };
    let who = named().expect("he looks");
    assert_eq!(who["control"], json!(true));
    may(&server, &vm, &ada, &who, false);
    drop(first);
    until("he has left", || named().is_none().then_some(()));
    let _again = server.websocket(&path, &[]).expect("the link");
    assert_eq!(named().expect("he looks again")["control"], json!(false));
    server.stop(&ada, &vm);
    told.wait_for("the end", Value::is_null);
    server.end();
}

#[test]
fn who_looks_is_told_that_the_vm_ends_soon_and_that_it_is_kept() {
    let profile = format!("base_image = {:?}\nidle_minutes = 0.25", still());
    let server = Server::with("tls = \"off\"\nstop_vms_on_exit = true", "limit_warning_seconds = 8", &profile);
    let ada = server.sign_up("ada");
    let vm = server.launch(&ada);
    let path = format!("/vms/{}", vm["vmid"].as_str().expect("vmid"));
    let made = server.call("POST", &format!("{path}/shares"), &ada, &Value::Null).json["share"].clone();
    let link = made["token"].as_str().expect("token");
    let _screen = server.websocket(&format!("/ws/{}?share={link}", vm["http_port"]), &[]).expect("the link");
    let mut told = Events::by_link(&server, &format!("/ws/{}/events?share={link}", vm["http_port"]));
    let first = told.wait_for("what he may", |_| true);
    assert_eq!(first["expires_because"], json!("idle"), "{first}");
    let soon = told.wait_for("the warning", |told| told["expires_soon"] == json!(true));
    let of_owner = server.call("GET", &path, &ada, &Value::Null).json;
    assert_eq!((&soon["id"], &soon["control"]), (&json!(1), &json!(false)), "{soon}");
    let at =
        |told: &Value| told["expires_at"].as_str().and_then(|at| at.parse::<jiff::Timestamp>().ok()).expect("a time");
    assert!((at(&soon).as_second() - at(&of_owner).as_second()).abs() <= 1, "{soon} {of_owner}");
    assert_eq!(server.call("POST", &format!("{path}/keep"), &ada, &Value::Null).status, 200);
    told.wait_for("it is kept", |told| told["expires_soon"] == json!(false));
    server.stop(&ada, &vm);
    told.wait_for("the end", Value::is_null);
    server.end();
}

#[test]
fn one_of_those_who_came_by_the_same_link_is_given_control_alone() {
    let server = Server::start_living();
    let ada = server.sign_up("ada");
    let vm = server.launch(&ada);
    let mut serial = server.serial(&vm);
    serial.wait_for("fbdemo 1024x768");
    let vmid = vm["vmid"].as_str().expect("vmid");
    let made = server.call("POST", &format!("/vms/{vmid}/shares"), &ada, &Value::Null).json["share"].clone();
    let link = made["token"].as_str().expect("token");
    let path = |of: &str, guest: &str| format!("/ws/{}{of}?share={link}&guest={guest}", vm["http_port"]);
    let come = |guest: &str| {
        let mut screen = server.websocket(&path("", guest), &[]).expect("the link");
        drop(screen.read().expect("greeting"));
        shake_hands(&mut screen);
        screen
    };
    let (bob, eve) = ("b".repeat(32), "e".repeat(32));
    let mut news = Events::by_link(&server, &path("/events", &eve));
    assert_eq!(news.wait_for("before he looks", |_| true)["id"], Value::Null);
    let (mut bobs, mut eves) = (come(&bob), come(&eve));
    let told = news.wait_for("who he is", |_| true);
    let seen = server.call("GET", &format!("/connections/{vmid}"), &ada, &Value::Null).json;
    let mut guests = seen["who"].as_array().expect("who").clone();
    guests.retain(|who| who["kind"] == "link");
    assert_eq!(guests.len(), 2, "each is one: {seen}");
    assert_eq!((&told["id"], &told["control"]), (&guests[1]["id"], &json!(false)));
    let listed = server.call("GET", &format!("/vms/{vmid}/shares"), &ada, &Value::Null).json;
    assert_eq!(listed["shares"][0]["viewers"], json!(2), "{listed}");

    // 48 is the guest system's name for b, 46 for c.
    may(&server, &vm, &ada, &guests[1], true);
    assert_eq!(news.wait_for("control", |_| true)["control"], json!(true));
    key(&mut bobs, b'b');
    settle(&mut bobs, 1);
    serial.wait_for_while("fbdemo key 46", || key(&mut eves, b'c'));
    assert!(!serial.text.contains("fbdemo key 48"), "the other's key came through: {}", serial.text);

    // One is closed, and the other looks on.
    let viewer = format!("/vms/{vmid}/viewers/{}", guests[0]["id"]);
    assert_eq!(server.call("DELETE", &viewer, &ada, &Value::Null).status, 204);
    assert_eq!(closed(&mut bobs).0, 1008);
    settle(&mut eves, 2);
    assert_eq!(server.websocket(&path("", "short"), &[]).map(drop), Err(422), "a secret that anybody guesses");
    server.stop(&ada, &vm);
    server.end();
}

#[test]
fn control_that_was_taken_from_one_behind_a_link_is_back_neither_after_a_reload_nor_after_a_restart() {
    let mut server = Server::with("tls = \"off\"", "", "");
    let ada = server.sign_up("ada");
    let vm = server.launch(&ada);
    let vmid = vm["vmid"].as_str().expect("vmid").to_owned();
    let wish = json!({"control": true});
    let made = server.call("POST", &format!("/vms/{vmid}/shares"), &ada, &wish).json["share"].clone();
    let link = made["token"].as_str().expect("token").to_owned();
    let guests = |server: &Server| {
        let seen = server.call("GET", &format!("/connections/{vmid}"), &ada, &Value::Null).json;
        let mut who = seen["who"].as_array().unwrap_or_else(|| panic!("{seen}")).clone();
        who.retain(|who| who["kind"] == "link");
        who
    };
    // All who come, one after the other, and whether they have control then.
    let come = |server: &Server, names: &str| {
        until("those of before have left", || guests(server).is_empty().then_some(()));
        let path = |name: char| format!("/ws/{}?share={link}&guest={}", vm["http_port"], name.to_string().repeat(20));
        let screens: Vec<_> = names.chars().map(|name| server.websocket(&path(name), &[]).expect("the link")).collect();
        let may: Vec<bool> = guests(server).iter().map(|who| who["control"] == json!(true)).collect();
        (screens, may)
    };
    let (screens, may_ab) = come(&server, "ab");
    assert_eq!(may_ab, [true, true]);
    may(&server, &vm, &ada, &guests(&server)[0], false);
    drop(screens);
    let (screens, may_bac) = come(&server, "bac");
    assert_eq!(may_bac, [true, false, false], "who kept it has it; the other has not, and nobody new");
    drop(screens);

    server.kill("-KILL");
    let server = Server::run(server.wait().1);
    let (screens, may_bac) = come(&server, "bac");
    assert_eq!(may_bac, [false; 3], "the next server knows only that it was taken");
    may(&server, &vm, &ada, &guests(&server)[0], true);
    drop(screens);
    let (_screens, may_bac) = come(&server, "bac");
    assert_eq!(may_bac, [true, false, false], "it was given to one of them");
    server.stop(&ada, &vm);
    server.end();
}

#[test]
fn who_is_no_student_any_more_is_not_watched_any_more() {
    let server = Server::start();
    let (ada, lee, root) = (server.sign_up("ada"), teacher(&server, "lee"), common::admin(&server));
    let vm = server.launch(&ada);
    let mut screen = open(&server, &vm, &lee, "").expect("he may look");
    let id =
        server.database().query_one("select id from users where login = 'ada'", &[]).expect("row").get::<_, String>(0);
    let change = server.call("POST", &format!("/admin/users/{id}"), &root, &json!({"role": "teacher"}));
    assert_eq!(change.status, 200, "{change:?}");
    assert_eq!(closed(&mut screen), (1008, "its owner is no student any more".to_owned()));
    assert_eq!(open(&server, &vm, &lee, "").map(drop), Err(404));
    server.stop(&ada, &vm);
    server.end();
}

#[test]
fn a_killed_server_leaves_no_visit_open_and_gives_no_control_back() {
    let mut server = Server::with("tls = \"off\"", "", "");
    let ada = server.sign_up("ada");
    let vm = server.launch(&ada);
    let vmid = vm["vmid"].as_str().expect("vmid").to_owned();
    let made =
        server.call("POST", &format!("/vms/{vmid}/shares"), &ada, &json!({"control": true})).json["share"].clone();
    let path = format!("/ws/{}?share={}", vm["http_port"], made["token"].as_str().expect("token"));
    let _guest = server.websocket(&path, &[]).expect("the link");
    let _own = server.screen(&ada, &vm);
    let who = viewer(&server, &vm, &ada, "link");
    may(&server, &vm, &ada, &who, false);
    let visits = |server: &Server, kind: &str| {
        let sql = format!("select count(*) from connection_events where vmid = '{vmid}' and kind = '{kind}'");
        server.count(&sql)
    };
    until("both are written down", || (visits(&server, "connect") == 2).then_some(()));
    server.kill("-KILL");
    let (_, folder, _) = server.wait();
    let server = Server::run(folder);
    let ended = "disconnect' and reason = 'the server ended";
    assert_eq!((visits(&server, ended), visits(&server, "disconnect")), (2, 2));
    let _guest = server.websocket(&path, &[]).expect("the link is valid yet");
    assert_eq!(viewer(&server, &vm, &ada, "link")["control"], json!(false), "control came back");
    let admin = common::admin(&server);
    let listed = server.call("GET", "/connections", &admin, &Value::Null);
    assert_eq!(listed.json["events"].as_array().map(Vec::len), Some(5), "{listed:?}");
    server.stop(&ada, &vm);
    assert_eq!(visits(&server, "connect"), 3);
    until("the last is written down", || (visits(&server, "disconnect") == 3).then_some(()));
    server.end();
}

#[test]
fn records_that_are_older_than_they_are_to_be_kept_are_removed_and_others_are_not() {
    let server = Server::with("tls = \"off\"", "event_days = 30\naudit_days = 60", "");
    let mut database = server.database();
    let past = "insert into vm_events (vmid, at, kind, detail)
                    select 'aaaaaaaaaaaa', now() - make_interval(days => d), 'test', '' from generate_series(1, 2500) d;
                insert into connection_events (vmid, at, kind, console, ip, bytes_to_browser, bytes_to_vm, reason)
                    select 'aaaaaaaaaaaa', now() - make_interval(days => d), 'connect', 'vnc', '', 0, 0, '' from generate_series(1, 100) d;
                insert into audit (at, ip, action, target, detail)
                    select now() - make_interval(days => d), '', 'test', '', '' from generate_series(1, 100) d;";
    database.batch_execute(past).expect("records");
    drop(database);
    let (_, folder, _) = {
        let mut server = server;
        server.kill("-KILL");
        server.wait()
    };
    // The janitor looks at a start, and then every hour.
    let server = Server::run(folder);
    let left = |table: &str, condition: &str| server.count(&format!("select count(*) from {table} where {condition}"));
    until("the old ones are gone", || {
        let old = "at < now() - interval '61 days'";
        let counts = ["vm_events", "connection_events", "audit"].map(|table| left(table, old));
        (counts == [0, 0, 0]).then_some(())
    });
    until("what is to be kept is", || {
        let found =
            (left("vm_events", "kind = 'test'"), left("connection_events", "true"), left("audit", "action = 'test'"));
        // What was made so many days ago to the second is older by now.
        (found == (29, 29, 59)).then_some(())
    });
    server.end();
}

#[test]
fn what_the_command_line_changes_ends_the_screens_that_are_open() {
    let mut server = Server::with("tls = \"off\"", "", "");
    let (ada, lee) = (server.sign_up("ada"), teacher(&server, "lee"));
    let vm = server.launch(&ada);
    let (mut own, mut watched) = (server.screen(&ada, &vm), open(&server, &vm, &lee, "").expect("the teacher looks"));
    let bob = server.sign_up("bob");
    let others = server.launch(&bob);
    let mut goes_on = server.screen(&bob, &others);
    let body = json!({"email": "bob", "password": "correct horse"});
    let elsewhere = server.call("POST", "/auth/login", "", &body).json["token"].as_str().expect("token").to_owned();
    let mut expired = server.screen(&elsewhere, &others);
    assert!(server.command(&["user", "passwd", "ada", "--password-stdin"], "another horse\n").status.success());
    assert!(server.command(&["user", "promote", "lee", "user"], "").status.success());
    // A session whose time is over: the newest one of Bob's.
    let over = "update sessions set expires_at = now() where token_hash = (select token_hash from sessions s join users u on u.id = s.user_id \
                where u.login = 'bob' order by s.expires_at desc limit 1)";
    assert_eq!(server.database().execute(over, &[]).expect("sql"), 1);
    assert_eq!(closed(&mut own), (1008, "signed out".to_owned()));
    assert_eq!(closed(&mut watched), (1008, "your rights have changed".to_owned()));
    assert_eq!(closed(&mut expired), (1008, "signed out".to_owned()));
    settle(&mut goes_on, 7);
    assert_eq!(server.call("GET", "/vms", &ada, &Value::Null).status, 401);
    // How much has passed is noted at the same time, and told of by a server that follows one that was killed.
    let vmid = others["vmid"].as_str().expect("vmid").to_owned();
    let noted = format!(
        "select count(*) from connection_events where vmid = '{vmid}' and kind = 'connect' and bytes_to_browser > 0"
    );
    until("it is noted", || (server.count(&noted) > 0).then_some(()));
    server.kill("-KILL");
    let server = Server::run(server.wait().1);
    let seen = server.call("GET", &format!("/connections/{vmid}"), &bob, &Value::Null).json;
    assert!(seen["bytes_to_browser"].as_u64().is_some_and(|bytes| bytes > 0), "{seen}");
    let admin = common::admin(&server);
    let found =
        |q: &str| server.call("GET", &format!("/connections?q={q}"), &admin, &Value::Null).json["events"].clone();
    let of_lee = found("teacher");
    assert_eq!((&of_lee[0]["user"], &of_lee[0]["via"]), (&json!("lee"), &json!("teacher")), "{of_lee}");
    assert_eq!(found("nobody-of-this-name"), json!([]));
    server.stop(&admin, &vm);
    server.stop(&bob, &others);
    server.end();
}

#[test]
fn who_looks_on_leaves_room_for_the_owner() {
    let server = Server::with("tls = \"off\"\nstop_vms_on_exit = true", "viewers_per_vm = 40", "");
    let token = server.sign_up("owner");
    let vm = server.launch(&token);
    let shares = format!("/vms/{}/shares", vm["vmid"].as_str().expect("vmid"));
    let link =
        server.call("POST", &shares, &token, &json!({})).json["share"]["token"].as_str().expect("token").to_owned();
    let by_link = || server.websocket(&format!("/ws/{}?share={link}", vm["http_port"]), &[]);
    let mut looking = Vec::new();
    // More than the 32 that QEMU serves of itself.
    for n in 0..40 {
        let mut screen = by_link().unwrap_or_else(|status| panic!("viewer {n}: {status}"));
        assert!(screen.read().expect("greeting").into_data().starts_with(b"RFB 003."), "viewer {n}");
        shake_hands(&mut screen);
        looking.push(screen);
    }
    assert_eq!(by_link().err(), Some(503));
    let mut own = open(&server, &vm, &token, "").expect("the owner comes in");
    settle(&mut own, 1);
    for (n, screen) in looking.iter_mut().enumerate() {
        settle(screen, u8::try_from(n).expect("few"));
    }
    server.end();
}

#[test]
fn who_tries_tokens_is_slowed_down_and_others_are_not() {
    let server = Server::with("tls = \"off\"\nstop_vms_on_exit = true", "bad_tokens_per_minute_ip = 5", "");
    let token = server.sign_up("known");
    let tries = |path: &str, token: &str| {
        (0..8).map(|_| server.call("GET", path, token, &Value::Null).status).collect::<Vec<_>>()
    };
    assert_eq!(tries("/vms", "guess"), [401, 401, 401, 401, 401, 429, 429, 429]);
    assert_eq!(server.call("GET", "/vms", &token, &Value::Null).status, 200, "who is known is not asked for");
    server.end();
}
