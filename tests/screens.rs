//! Screens and VM life on real QEMU: what passes the relay, who may look, how it ends, what survives.

mod common;

use common::{Answer, Server, closed, shake_hands, until};
use serde_json::{Value, json};
use std::fs;
use std::process::Command;
use tungstenite::Message;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::protocol::frame::{Frame, FrameHeader};

fn path_of(vm: &Value) -> String {
    format!("/vms/{}", vm["vmid"].as_str().expect("vmid"))
}

fn screen_path(vm: &Value) -> String {
    format!("/ws/{}", vm["http_port"])
}

#[test]
fn keys_reach_the_guest_and_what_is_no_rfb_or_no_frame_ends_the_screen() {
    let server = Server::start_living();
    let token = server.sign_up("alice");
    let vm = server.launch(&token);
    let mut serial = server.serial(&vm);
    serial.wait_for("fbdemo 1024x768");
    let mut screen = server.screen(&token, &vm);
    shake_hands(&mut screen);
    // The demo opens its keyboards within a second of its first picture.
    serial.wait_for_while("fbdemo key 30", || {
        for down in [1, 0] {
            screen.send(Message::Binary(vec![4, down, 0, 0, 0, 0, 0, 0x61].into())).expect("key");
        }
    });
    let seen = server.call("GET", &path_of(&vm), &token, &Value::Null).json;
    assert_eq!(seen["connected"], json!(true), "{seen}");
    assert!(seen["idle_s"].as_u64().is_some_and(|idle| idle < 5), "a key is input: {seen}");

    let mut nonsense = server.screen(&token, &vm);
    nonsense.send(Message::Binary(b"GET / HTTP/1.1\r\n".to_vec().into())).expect("send");
    assert_eq!(closed(&mut nonsense).0, 1002);
    let mut other = server.screen(&token, &vm);
    other.send(Message::Binary(b"RFB 003.003\n".to_vec().into())).expect("send");
    assert_eq!(closed(&mut other), (1002, "not the RFB protocol 3.8 or 3.7".to_owned()));
    let mut text = server.screen(&token, &vm);
    text.send(Message::Text("RFB 003.008\n".into())).expect("send");
    assert_eq!(closed(&mut text).0, 1003);
    let mut bare = server.screen(&token, &vm);
    let frame = Frame::from_payload(
        FrameHeader { opcode: OpCode::Data(Data::Binary), mask: None, ..FrameHeader::default() },
        b"RFB 003.008\n".to_vec().into(),
    );
    let mut bytes = Vec::new();
    frame.format(&mut bytes).expect("frame");
    std::io::Write::write_all(bare.get_mut(), &bytes).expect("send");
    assert_eq!(closed(&mut bare).0, 1002, "a frame without a mask");

    server.stop(&token, &vm);
    assert_eq!(closed(&mut screen), (1000, "VM stopped".to_owned()));
    until("connects and disconnects are written down", || {
        let events = "select count(*) from connection_events where console = 'vnc' and kind = ";
        (server.count(&format!("{events}'connect'")) == 5 && server.count(&format!("{events}'disconnect'")) == 5)
            .then_some(())
    });
    let about =
        server.call("GET", &format!("/connections/{}", vm["vmid"].as_str().expect("vmid")), &token, &Value::Null).json;
    assert_eq!((&about["connected"], &about["viewers"]), (&json!(false), &json!(0)), "{about}");
    assert!(about["bytes_to_browser"].as_u64() > Some(12) && about["bytes_to_vm"].as_u64() > Some(12), "{about}");
    server.end();
}

#[test]
fn a_strangers_vm_does_not_exist_and_an_admin_sees_it() {
    let server = Server::start();
    let (owner, stranger) = (server.sign_up("owner"), server.sign_up("stranger"));
    let vm = server.launch(&owner);
    let bearer = |token: &str| format!("Bearer {token}");
    let stop = format!("{}/stop", path_of(&vm));
    let connections = format!("/connections/{}", vm["vmid"].as_str().expect("vmid"));
    for (method, path) in [("GET", &path_of(&vm)), ("POST", &stop), ("GET", &connections)] {
        assert_eq!(server.call(method, path, &stranger, &Value::Null).status, 404, "{path}");
        assert_eq!(server.call(method, path, "", &Value::Null).status, 401, "{path}");
    }
    let asked = |headers: &[(&str, &str)]| server.websocket(&screen_path(&vm), headers).map(drop);
    assert_eq!(asked(&[("authorization", &bearer(&stranger))]), Err(404));
    assert_eq!(asked(&[]), Err(401));
    assert_eq!(asked(&[("authorization", &bearer(&owner)), ("origin", "https://evil.example")]), Err(403));
    assert_eq!(asked(&[("origin", "https://evil.example")]), Err(403), "whoever asks");
    assert_eq!(server.call("GET", &screen_path(&vm), &owner, &Value::Null).status, 426);
    assert_eq!(server.count("select count(*) from connection_events"), 0, "no relay was opened");
    assert_eq!(server.call("GET", "/vms?all=1", &stranger, &Value::Null).json["vms"], json!([]));

    let promoted = server.command(&["user", "promote", "stranger"], "");
    assert!(promoted.status.success(), "{promoted:?}");
    // The running server believes a role for half a minute; a new session has the new one at once.
    let body = json!({"email": "stranger", "password": "correct horse"});
    let admin = server.call("POST", "/auth/login", "", &body).json["token"].as_str().expect("token").to_owned();
    assert_eq!(server.call("GET", &path_of(&vm), &admin, &Value::Null).status, 200);
    assert_eq!(server.call("GET", "/vms?all=1", &admin, &Value::Null).json["vms"][0]["vmid"], vm["vmid"]);
    drop(server.screen(&admin, &vm));
    let events = until("the connect is in the list", || {
        let events = server.call("GET", "/connections", &admin, &Value::Null).json["events"].clone();
        (!events.as_array().expect("list").is_empty()).then_some(events)
    });
    assert_eq!(events[0]["vmid"], vm["vmid"]);
    let stopped = server.call("POST", &stop, &admin, &json!({"force": true})).json;
    assert_eq!(stopped["exit"], json!("stopped by an administrator"));
    server.end();
}

/// Width and pixels of a picture.
fn decoded(answer: &Answer) -> (usize, Vec<u8>) {
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("image/png")), "{answer:?}");
    let mut reader = png::Decoder::new(std::io::Cursor::new(&answer.body)).read_info().expect("a PNG");
    let mut pixels = vec![0; reader.output_buffer_size().expect("a size")];
    let info = reader.next_frame(&mut pixels).expect("pixels");
    assert_eq!((info.color_type, info.bit_depth), (png::ColorType::Rgb, png::BitDepth::Eight));
    (info.width as usize, pixels)
}

#[test]
fn what_the_guest_shows_can_be_had_as_a_picture_by_those_who_may_look() {
    let server = Server::start_living();
    let (owner, stranger) = (server.sign_up("owner"), server.sign_up("stranger"));
    let vm = server.launch(&owner);
    let path = format!("{}/screen.png", path_of(&vm));
    let get = |rest: &str, token: &str| server.call("GET", &format!("{path}{rest}"), token, &Value::Null);
    // The demo's colour bars, as tests/browser sees them on a canvas.
    let bars = |(wide, pixels): &(usize, Vec<u8>), scale: usize| {
        let at = |x: usize| [0, 1, 2].map(|colour| pixels[(250 / scale * wide + x / scale) * 3 + colour]);
        (0..8).map(|bar| at(90 + bar * 60)).collect::<Vec<_>>()
    };
    let colours = [7, 6, 3, 2, 5, 4, 1, 0].map(|c| [c & 4, c & 2, c & 1].map(|bit| if bit > 0 { 255 } else { 0 }));
    server.serial(&vm).wait_for("fbdemo 1024x768");
    let whole = until("the picture has the colour bars", || {
        let picture = decoded(&get("", &owner));
        (picture.0 == 1024 && bars(&picture, 1) == colours).then_some(picture)
    });
    assert_eq!(whole.1.len(), 1024 * 768 * 3);
    // Many at once: all get it, and the same one.
    let many: Vec<Answer> = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..8).map(|_| scope.spawn(|| get("?w=256", &owner))).collect();
        asked.into_iter().map(|one| one.join().expect("an answer")).collect()
    });
    let small = decoded(&many[0]);
    assert_eq!((small.0, small.1.len(), bars(&small, 4)), (256, 256 * 192 * 3, colours.to_vec()));
    let tag = many[0].header("etag").expect("a tag").to_owned();
    assert!(many.iter().all(|one| one.header("etag") == Some(&tag)), "{:?}", many.iter().map(|one| one.header("etag")));
    assert_eq!(many[0].header("cache-control"), Some("private, max-age=3"));
    let unchanged = server.raw(&format!(
        "GET {path}?w=256 HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {owner}\r\nIf-None-Match: {tag}\r\nConnection: close\r\n\r\n"
    ));
    // A clock ticks in the demo's corner: unchanged is what still has the tag.
    assert!(unchanged.status == 304 && unchanged.body.is_empty() || unchanged.header("etag") != Some(&tag));
    for bad in ["?w=15", "?w=1281", "?w=x"] {
        assert_eq!((get(bad, &owner).status, get(bad, &owner).code()), (422, "invalid_field"), "{bad}");
    }
    assert_eq!((get("", &stranger).status, get("", "").status), (404, 401));
    let share = server.call("POST", &format!("{}/shares", path_of(&vm)), &owner, &Value::Null).json["share"].clone();
    let link = format!("?w=64&share={}", share["token"].as_str().expect("token"));
    assert_eq!(decoded(&get(&link, "")).0, 64);
    // Nobody is told of a picture, so others' is no more than a glance.
    let (large, admin) = (link.replace("w=64", "w=640"), common::admin(&server));
    for (rest, token) in [(large.as_str(), ""), (&large, &stranger), ("", &admin), ("?w=640", &admin)] {
        assert_eq!(decoded(&get(rest, token)).0, 320, "{rest}");
    }
    assert_eq!(decoded(&get(&large, &owner)).0, 640);
    let revoke = format!("{}/shares/{}", path_of(&vm), share["id"].as_str().expect("id"));
    assert_eq!(server.call("DELETE", &revoke, &owner, &Value::Null).status, 204);
    assert_eq!(get(&link, "").code(), "share_not_found");
    let run = server.base().join("runs").join(vm["vmid"].as_str().expect("vmid"));
    assert!(run.exists() && !run.join("screen.ppm").exists(), "QEMU's picture lies about in {run:?}");
    server.stop(&owner, &vm);
    assert_eq!((get("", &owner).status, get("", &owner).code()), (409, "vm_not_running"));
    server.end();
}

#[test]
fn a_log_out_ends_the_open_screen_at_once() {
    let server = Server::start();
    let token = server.sign_up("leaver");
    let vm = server.launch(&token);
    let mut screen = server.screen(&token, &vm);
    assert_eq!(server.call("POST", "/auth/logout", &token, &Value::Null).status, 204);
    assert_eq!(closed(&mut screen), (1008, "signed out".to_owned()));
    assert_eq!(server.call("GET", "/auth/me", &token, &Value::Null).status, 401);
    server.end();
}

#[test]
fn a_guest_ends_by_its_own_power_by_acpi_or_by_a_kill_each_with_its_reason() {
    let server = Server::start_living();
    let token = server.sign_up("ender");
    let end_of = |vm: &Value| {
        until("the VM ended", || {
            let now = server.call("GET", &path_of(vm), &token, &Value::Null).json;
            ["stopped", "failed"].contains(&now["state"].as_str().expect("state")).then_some(now)
        })
    };
    let vm = server.launch(&token);
    let mut serial = server.serial(&vm);
    serial.wait_for("fbdemo 1024x768");
    serial.send("\npoweroff\n");
    let ended = end_of(&vm);
    assert_eq!((&ended["state"], &ended["exit"]), (&json!("stopped"), &json!("guest shutdown")));

    let vm = server.launch(&token);
    server.serial(&vm).wait_for("fbdemo 1024x768");
    let stopped = server.call("POST", &format!("{}/stop", path_of(&vm)), &token, &json!({}));
    assert_eq!(stopped.json["exit"], json!("stopped by user"), "{stopped:?}");

    let vm = server.launch(&token);
    let mut screen = server.screen(&token, &vm);
    let pid = vm["pid"].to_string();
    assert!(Command::new("kill").args(["-KILL", &pid]).status().expect("kill").success());
    let ended = end_of(&vm);
    assert_eq!((&ended["state"], &ended["pid"]), (&json!("failed"), &Value::Null), "{ended}");
    assert!(ended["exit"].as_str().expect("exit").starts_with("qemu was killed by signal 9"), "{ended}");
    assert_ne!(closed(&mut screen).0, 1006, "the browser is told");
    let vm = server.launch(&token);
    server.stop(&token, &vm);
    server.assert_nothing_left();
    server.end();
}

#[test]
fn twenty_tabs_that_reload_at_once_all_get_the_screen() {
    let server = Server::start();
    let token = server.sign_up("tabs");
    let vm = server.launch(&token);
    std::thread::scope(|scope| {
        let tabs: Vec<_> = (0..20).map(|_| scope.spawn(|| drop(server.screen(&token, &vm)))).collect();
        tabs.into_iter().for_each(|tab| tab.join().expect("a screen"));
    });
    until("the viewers are gone", || {
        let now = server.call("GET", &path_of(&vm), &token, &Value::Null).json;
        (now["connected"] == json!(false)).then_some(())
    });
    server.end();
}

#[test]
fn a_browser_that_stops_reading_costs_no_memory_and_nobody_else_notices() {
    let server = Server::start_living();
    let token = server.sign_up("reader");
    let vm = server.launch(&token);
    server.serial(&vm).wait_for("fbdemo 1024x768");
    let memory = || {
        let text = fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("status");
        let line = text.lines().find(|line| line.starts_with("RssAnon")).expect("field").to_owned();
        line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).expect("number")
    };
    let mut deaf: Vec<_> = (0..5).map(|_| server.screen(&token, &vm)).collect();
    for screen in &mut deaf {
        shake_hands(screen);
    }
    let before = memory();
    // A full picture is 3 MB; nobody reads any of these.
    for screen in &mut deaf {
        for _ in 0..20 {
            screen.send(Message::Binary(vec![3, 0, 0, 0, 0, 0, 4, 0, 3, 0].into())).expect("request");
        }
    }
    let mut other = server.screen(&token, &vm);
    for n in 0..100_u8 {
        other.send(Message::Ping(vec![n].into())).expect("ping");
        while other.read().expect("pong") != Message::Pong(vec![n].into()) {}
    }
    let grown = memory().saturating_sub(before);
    assert!(grown < 4096, "{grown} KB for five readers that stopped");
    // One reads again: how long QEMU waited for it is known.
    let stalled = || {
        let text = String::from_utf8(server.call("GET", "/metrics", "", &Value::Null).body).expect("text");
        let line =
            text.lines().find_map(|line| line.strip_prefix("vmshare_relay_stalled_seconds_total{direction=\"down\"} "));
        line.and_then(|seconds| seconds.parse::<f64>().ok()).expect("a number")
    };
    until("the time of back-pressure is counted", || {
        deaf[0].read().expect("a picture");
        (stalled() > 0.0).then_some(())
    });
    server.end();
}

#[test]
fn vms_outlive_a_server_that_ends_or_is_killed_and_are_taken_back() {
    let server = Server::with("tls = \"off\"", "", "");
    let token = server.sign_up("keeper");
    let vm = server.launch(&token);
    let mut screen = server.screen(&token, &vm);
    let mut server = server;
    server.kill("-TERM");
    assert_eq!(closed(&mut screen), (1001, "server going away".to_owned()));
    let (code, folder, said) = server.wait();
    assert_eq!(code, Some(0), "{said}");

    let mut server = Server::run(folder);
    let back = server.call("GET", &path_of(&vm), &token, &Value::Null).json;
    assert_eq!((&back["state"], &back["pid"], &back["http_port"]), (&json!("running"), &vm["pid"], &vm["http_port"]));
    drop(server.screen(&token, &back));
    server.kill("-KILL");
    let (code, folder, _) = server.wait();
    assert_eq!(code, None);

    let server = Server::run(folder);
    let back = server.call("GET", &path_of(&vm), &token, &Value::Null).json;
    assert_eq!((&back["state"], &back["pid"]), (&json!("running"), &vm["pid"]), "{}", server.said());
    drop(server.screen(&token, &back));
    server.stop(&token, &back);
    server.assert_nothing_left();
    server.end();
}

#[test]
fn a_server_killed_in_the_middle_of_a_launch_leaves_nothing_to_the_next() {
    let server = Server::with("tls = \"off\"", "", "");
    let token = server.sign_up("unlucky");
    let vm = server.launch(&token);
    // As if it had died one step earlier: the row is still starting, QEMU runs.
    let sql = "update vms set state = 'starting', started_at = null where vmid = $1";
    assert_eq!(server.database().execute(sql, &[&vm["vmid"].as_str().expect("vmid")]).expect("sql"), 1);
    let stray = server.base().join("runs/0123456789ab");
    fs::create_dir(&stray).expect("a folder no row names");
    let mut server = server;
    server.kill("-KILL");
    let (_, folder, _) = server.wait();
    let server = Server::run(folder);
    server.assert_nothing_left();
    let vm = server.launch(&token);
    server.stop(&token, &vm);
    server.end();
}
