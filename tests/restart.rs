//! `POST /vms/{vmid}/restart` on real guests: what stays, who is told, and what happens when no new QEMU starts.

mod common;

use common::{Server, closed, image, shake_hands, until};
use serde_json::{Value, json};
use tungstenite::Message;

fn path_of(vm: &Value) -> String {
    format!("/vms/{}", vm["vmid"].as_str().expect("vmid"))
}

#[test]
fn a_reset_boots_the_same_qemu_again_and_keeps_its_screens() {
    let server = Server::start_living();
    let token = server.sign_up("resetter");
    let vm = server.launch(&token);
    let mut serial = server.serial(&vm);
    serial.wait_for("tiny: up");
    let mut screen = server.screen(&token, &vm);
    shake_hands(&mut screen);
    serial.text.clear();
    let answer = server.call("POST", &format!("{}/restart", path_of(&vm)), &token, &Value::Null);
    assert_eq!((answer.status, &answer.json["pid"], &answer.json["state"]), (200, &vm["pid"], &json!("running")));
    serial.wait_for("tiny: up");
    screen.send(Message::Ping(vec![1].into())).expect("the screen is open");
    until("the screen answers", || (screen.read().expect("open") == Message::Pong(vec![1].into())).then_some(()));
    until("the restart is written down", || {
        (server.count("select count(*) from vm_events where kind = 'restart' and detail = 'reset'") == 1).then_some(())
    });
    let told = server.call("GET", &format!("{}/events", path_of(&vm)), &token, &Value::Null).json;
    let kinds: Vec<_> = told["events"].as_array().expect("events").iter().map(|event| event["kind"].clone()).collect();
    assert!(kinds.contains(&json!("restart")) && kinds.contains(&json!("running")), "{told}");
    let newest = server.call("GET", &format!("{}/events?limit=1", path_of(&vm)), &token, &Value::Null).json;
    assert_eq!((&newest["events"][0], &newest["next"]), (&told["events"][0], &told["events"][0]["id"]), "{newest}");
    let wrong = server.call("POST", &format!("{}/restart", path_of(&vm)), &token, &json!({"mode": "kick"}));
    assert_eq!((wrong.status, &wrong.json["field"]), (422, &json!("mode")), "{wrong:?}");
    server.stop(&token, &vm);
    let ended = server.call("POST", &format!("{}/restart", path_of(&vm)), &token, &Value::Null);
    assert_eq!((ended.status, ended.code()), (409, "vm_not_running"), "{ended:?}");
    server.end();
}

#[test]
fn a_power_cycle_is_another_qemu_with_the_same_id_ports_and_terminal() {
    let server = Server::start_living();
    let token = server.sign_up("cycler");
    let vm = server.launch(&token);
    let mut serial = server.serial(&vm);
    serial.wait_for("tiny: up");
    let mut screen = server.screen(&token, &vm);
    let restart = format!("{}/restart", path_of(&vm));
    // Two clicks: one power cycle.
    let answers: Vec<Value> = std::thread::scope(|scope| {
        let click = || server.call("POST", &restart, &token, &json!({"mode": "power-cycle"})).json;
        let clicks: Vec<_> = (0..2).map(|_| scope.spawn(click)).collect();
        clicks.into_iter().map(|click| click.join().expect("click")).collect()
    });
    let now = server.call("GET", &path_of(&vm), &token, &Value::Null).json;
    for answer in &answers {
        assert_eq!(answer["pid"], now["pid"], "{answers:?}");
    }
    assert_ne!(now["pid"], vm["pid"]);
    for same in ["vmid", "http_port", "vnc_port", "started_at", "iso"] {
        assert_eq!(now[same], vm[same], "{same}");
    }
    assert_eq!(closed(&mut screen), (1011, "the VM starts again".to_owned()));
    assert_eq!(serial.closed(), (1011, "the VM starts again".to_owned()));
    let mut serial = server.serial(&vm);
    until("it boots again, behind what was there before", || {
        serial.read();
        (serial.text.matches("tiny: up").count() == 2).then_some(())
    });
    drop(server.screen(&token, &vm));
    let (stop, cycle) = std::thread::scope(|scope| {
        let cycle = scope.spawn(|| server.call("POST", &restart, &token, &json!({"mode": "power-cycle"})));
        (server.stop(&token, &vm), cycle.join().expect("click"))
    });
    assert_eq!((&stop["state"], &stop["exit"]), (&json!("stopped"), &json!("stopped by user")), "a stop wins: {stop}");
    assert!([200, 409].contains(&cycle.status), "{cycle:?}");
    server.assert_nothing_left();
    server.end();
}

#[test]
fn a_power_cycle_whose_image_is_gone_fails_with_the_reason_and_leaves_nothing() {
    let folder = common::folder();
    let own = folder.path().join("own.iso");
    std::fs::copy(image(), &own).expect("an image of its own");
    let profile = format!("base_image = {own:?}");
    let text = common::settings(&folder.path().join("b"), "tls = \"off\"\nstop_vms_on_exit = true", "", &profile);
    std::fs::write(folder.path().join("vmshare.toml"), text).expect("settings");
    let server = Server::run(folder);
    let token = server.sign_up("imageless");
    let vm = server.launch(&token);
    std::fs::remove_file(&own).expect("the image goes");
    let answer = server.call("POST", &format!("{}/restart", path_of(&vm)), &token, &json!({"mode": "power-cycle"}));
    assert_eq!(answer.status, 404, "{answer:?}");
    let ended = until("the VM has failed", || {
        let now = server.call("GET", &path_of(&vm), &token, &Value::Null).json;
        (now["state"] == json!("failed")).then_some(now)
    });
    assert!(ended["exit"].as_str().expect("exit").contains("own.iso"), "{ended}");
    server.assert_nothing_left();
    server.end();
}
