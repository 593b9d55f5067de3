//! Links to a VM's consoles: what who only looks can and cannot do, how links end, and that their tokens are nowhere.

mod common;

use common::{Server, closed, shake_hands, until};
use serde_json::{Value, json};
use std::net::TcpStream;
use tungstenite::{Message, WebSocket};

fn shares_of(vm: &Value) -> String {
    format!("/vms/{}/shares", vm["vmid"].as_str().expect("vmid"))
}

fn share(server: &Server, token: &str, vm: &Value, wish: &Value) -> Value {
    let answer = server.call("POST", &shares_of(vm), token, wish);
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json["share"].clone()
}

/// A console opened with a link and nothing else.
fn open(server: &Server, vm: &Value, console: &str, share: &Value) -> Result<WebSocket<TcpStream>, u16> {
    let token = share["token"].as_str().expect("token");
    let mut socket = server.websocket(&format!("/ws/{}{console}?share={token}", vm["http_port"]), &[])?;
    if console.is_empty() {
        assert!(socket.read().expect("greeting").into_data().starts_with(b"RFB 003."), "no RFB greeting");
    }
    Ok(socket)
}

fn key(screen: &mut WebSocket<TcpStream>) {
    for down in [1, 0] {
        screen.send(Message::Binary(vec![4, down, 0, 0, 0, 0, 0, 0x61].into())).expect("key");
    }
}

/// Asks for a whole picture and waits for the beginning of one.
fn picture(screen: &mut WebSocket<TcpStream>) {
    screen.send(Message::Binary(vec![3, 0, 0, 0, 0, 0, 4, 0, 3, 0].into())).expect("request");
    until("a picture comes", || (screen.read().expect("open").into_data().first() == Some(&0)).then_some(()));
}

#[test]
fn who_only_looks_sees_everything_and_changes_nothing_and_who_may_control_does() {
    let server = Server::start_living();
    let token = server.sign_up("owner");
    let vm = server.launch(&token);
    let mut serial = server.serial(&vm);
    serial.wait_for("fbdemo 1024x768");
    let looking = share(&server, &token, &vm, &Value::Null);
    assert_eq!(looking["control"], json!(false));
    let url = format!("/novnc/?path=ws/{}&view=1#share={}", vm["http_port"], looking["token"].as_str().expect("token"));
    assert_eq!(looking["url"], json!(url));

    let mut screen = open(&server, &vm, "", &looking).expect("the screen");
    shake_hands(&mut screen);
    picture(&mut screen);
    let idle = server.call("GET", &format!("/vms/{}", vm["vmid"].as_str().expect("vmid")), &token, &Value::Null);
    for _ in 0..5 {
        key(&mut screen);
        screen.send(Message::Binary(vec![5, 1, 0, 9, 0, 9].into())).expect("pointer");
        screen.send(Message::Binary(vec![6, 0, 0, 0, 0, 0, 0, 1, b'x'].into())).expect("clipboard");
    }
    picture(&mut screen);
    let mut terminal = open(&server, &vm, "/serial", &looking).expect("the terminal");
    until("the terminal shows what was", || {
        String::from_utf8_lossy(&terminal.read().expect("open").into_data()).contains("tiny: up").then_some(())
    });
    terminal.send(Message::Binary(b"\necho typed by a looker\n".to_vec().into())).expect("typing");

    let control = share(&server, &token, &vm, &json!({"control": true, "minutes": 5}));
    let mut driver = open(&server, &vm, "", &control).expect("the screen");
    shake_hands(&mut driver);
    serial.wait_for_while("fbdemo key 30", || key(&mut driver));
    let mut typist = open(&server, &vm, "/serial", &control).expect("the terminal");
    typist.send(Message::Binary(b"\necho typed by a driver\n".to_vec().into())).expect("typing");
    serial.wait_for("typed by a driver");
    // The guest tells of every key and button: those of the looker would have come before the driver's.
    let before = serial.text.split("fbdemo key 30").next().expect("text");
    assert!(!before.contains("fbdemo button") && !serial.text.contains("looker"), "{}", serial.text);
    assert_eq!(idle.json["connected"], json!(true), "who looks is counted");

    let listed = server.call("GET", &shares_of(&vm), &token, &Value::Null);
    let listed = listed.json["shares"].as_array().expect("list").clone();
    assert_eq!(listed.iter().map(|share| &share["id"]).collect::<Vec<_>>(), [&looking["id"], &control["id"]]);
    assert!(listed.iter().all(|share| share["viewers"] == json!(2)), "a screen and a terminal each: {listed:?}");
    assert!(listed.iter().all(|share| share.get("token").is_none() && share.get("url").is_none()), "{listed:?}");
    for secret in [&looking["token"], &control["token"]] {
        assert!(!server.said().contains(secret.as_str().expect("token")), "a token is in the log");
    }
    assert_eq!(server.count("select count(*) from connection_events where user_id is null and kind = 'connect'"), 4);
    server.stop(&token, &vm);
    assert_eq!(closed(&mut screen).0, 1000);
    server.end();
}

#[test]
fn a_link_that_is_revoked_or_has_expired_closes_at_once_and_opens_nothing_more() {
    let server = Server::with("tls = \"off\"\nstop_vms_on_exit = true", "shares_per_vm = 3", "");
    let (token, other) = (server.sign_up("owner"), server.sign_up("other"));
    let (vm, elsewhere) = (server.launch(&token), server.launch(&other));
    let revoked = share(&server, &token, &vm, &Value::Null);
    let kept = share(&server, &token, &vm, &json!({"minutes": 1}));
    let short = share(&server, &token, &vm, &json!({"minutes": 1}));
    let full = server.call("POST", &shares_of(&vm), &token, &Value::Null);
    assert_eq!((full.status, full.code()), (409, "too_many_shares"), "{full:?}");
    for wrong in [json!({"minutes": 0}), json!({"minutes": 10081}), json!({"control": "yes"}), json!({"owner": true})] {
        assert_eq!(server.call("POST", &shares_of(&vm), &token, &wrong).status, 422, "{wrong}");
    }
    assert_eq!(open(&server, &elsewhere, "", &kept).map(drop), Err(404), "a link is for one VM");
    assert_eq!(open(&server, &vm, "", &json!({"token": "0".repeat(43)})).map(drop), Err(404));
    assert_eq!(server.websocket(&format!("/ws/{}?share=%zz", vm["http_port"]), &[]).map(drop), Err(400));

    let path = format!("{}/{}", shares_of(&vm), revoked["id"].as_str().expect("id"));
    assert_eq!(server.call("DELETE", &path, &other, &Value::Null).status, 404, "somebody else's");
    let foreign = format!("{}/{}", shares_of(&elsewhere), revoked["id"].as_str().expect("id"));
    assert_eq!(server.call("DELETE", &foreign, &other, &Value::Null).status, 404, "by way of one's own VM");
    let mut screens =
        [open(&server, &vm, "", &revoked).expect("one"), open(&server, &vm, "/serial", &revoked).expect("two")];
    let mut going_on = open(&server, &vm, "", &kept).expect("another link");
    shake_hands(&mut going_on);
    assert_eq!(server.call("DELETE", &path, &token, &Value::Null).status, 204);
    for screen in &mut screens {
        assert_eq!(closed(screen), (1008, "the link was revoked".to_owned()));
    }
    assert_eq!(open(&server, &vm, "", &revoked).map(drop), Err(404));
    assert_eq!(server.call("DELETE", &path, &token, &Value::Null).status, 404);
    picture(&mut going_on);
    assert_eq!(server.count("select count(*) from audit where action = 'share'"), 3);
    assert_eq!(server.count("select count(*) from audit where action = 'revoke'"), 1);

    let sql = "update shares set expires_at = now() + interval '2 seconds' where id = $1";
    assert_eq!(server.database().execute(sql, &[&short["id"].as_str().expect("id")]).expect("sql"), 1);
    let mut screen = open(&server, &vm, "", &short).expect("for two seconds");
    assert_eq!(closed(&mut screen), (1008, "the link has expired".to_owned()));
    assert_eq!(open(&server, &vm, "", &short).map(drop), Err(404));
    picture(&mut going_on);
    let stored = server.database().query("select token_hash from shares", &[]).expect("rows");
    for secret in [&kept["token"], &revoked["token"]] {
        let secret = secret.as_str().expect("token").as_bytes();
        assert!(stored.iter().all(|row| row.get::<_, &[u8]>(0) != secret));
    }
    server.stop(&token, &vm);
    let ended = server.call("POST", &shares_of(&vm), &token, &Value::Null);
    assert_eq!((ended.status, ended.code()), (409, "vm_not_running"), "{ended:?}");
    server.end();
}
