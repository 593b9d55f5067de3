//! Terminals on a real guest's serial console: what is typed, what is kept, who may look, how it ends, what survives.

mod common;

use common::{Server, stand_in, until};
use serde_json::{Value, json};
use std::time::Instant;
use tungstenite::Message;

#[test]
fn stand_in_for_qemu() {
    stand_in::play();
}

fn vmid(vm: &Value) -> &str {
    vm["vmid"].as_str().expect("vmid")
}

#[test]
fn a_terminal_types_into_the_guest_and_later_ones_see_what_was() {
    let server = Server::with("tls = \"off\"\nstop_vms_on_exit = true", "serial_scrollback_kb = 4", &common::living());
    let token = server.sign_up("typist");
    let vm = server.launch(&token);
    let mut first = server.serial(&vm);
    first.wait_for("tiny: up");
    // What a terminal answers by itself goes to the guest and is nobody's input.
    first.send("\x1b[24;80R");
    first.wait_for("^[[24;80R");
    let path = format!("/connections/{}", vmid(&vm));
    let idle = || server.call("GET", &path, &token, &Value::Null).json["who"][0]["idle_s"].clone();
    assert_eq!(idle(), Value::Null);
    first.send("\n");
    first.wait_for("# ");
    assert!(idle().is_u64(), "typing is");
    let began = Instant::now();
    first.send("echo six times seven is $((6 * 7))\n");
    first.wait_for("six times seven is 42");
    let seen = server.call("GET", &format!("/vms/{}", vmid(&vm)), &token, &Value::Null).json;
    assert!(seen["idle_s"].as_u64().is_some_and(|idle| idle <= began.elapsed().as_secs()), "typing is input: {seen}");
    assert_eq!(seen["connected"], json!(true), "{seen}");

    let mut second = server.serial(&vm);
    second.wait_for("six times seven is 42");
    until("what is kept has an end", || {
        second.read();
        (second.marks == 1).then_some(())
    });
    second.send("echo typed by the $((1 + 1))nd\n");
    first.wait_for("typed by the 2nd");
    second.wait_for("typed by the 2nd");

    // More than is kept: a new terminal gets the end of it, from the beginning of a line.
    first.send("seq 100000 102000; echo the $((1 + 2))rd\n");
    first.wait_for("the 3rd");
    let mut late = server.serial(&vm);
    late.wait_for("the 3rd");
    assert!(late.text.len() <= 4096 + 64, "{} bytes", late.text.len());
    let line = late.text.lines().next().expect("a line");
    assert!(line.len() == 6 && line.starts_with("10"), "it begins with {line:?}");

    server.stop(&token, &vm);
    for terminal in [&mut first, &mut second, &mut late] {
        assert_eq!(terminal.closed(), (1000, "VM stopped".to_owned()));
    }
    until("terminals are in the list of connections", || {
        let sql = "select count(*) from connection_events where console = 'serial' and kind = 'disconnect' \
                   and reason = '1000 VM stopped' and bytes_to_browser > 0";
        (server.count(sql) == 3).then_some(())
    });
    server.assert_nothing_left();
    server.end();
}

#[test]
fn a_terminal_that_does_not_read_costs_nothing_and_is_moved_ahead() {
    let server = Server::with("tls = \"off\"\nstop_vms_on_exit = true", "serial_scrollback_kb = 16", &common::living());
    let token = server.sign_up("flood");
    let vm = server.launch(&token);
    let mut quick = server.serial(&vm);
    quick.wait_for("tiny: up");
    let mut slow = server.serial(&vm);
    // The kernel takes some hundred KB for somebody who does not read.
    quick.send("\nyes 0123456789012345678901234567890123456789012345678901234567890123456789 | head -c 400000; echo the $((1 + 3))th\n");
    let end = Instant::now() + std::time::Duration::from_secs(180);
    while !quick.text.contains("the 4th") {
        assert!(Instant::now() < end, "the guest does not come to an end");
        quick.read();
        let keep = quick.text.len().saturating_sub(100);
        quick.text.drain(..keep);
    }
    slow.wait_for("the 4th");
    assert!(slow.text.contains("KB were skipped: this terminal was too slow"), "{} bytes", slow.text.len());
    server.end();
}

#[test]
fn a_large_paste_waits_for_a_guest_that_is_busy_and_arrives_whole() {
    let server = Server::start_living();
    let token = server.sign_up("paster");
    let vm = server.launch(&token);
    let mut terminal = server.serial(&vm);
    terminal.wait_for("tiny: up");
    let text: String = (0..1000).map(|n| format!("line {n:05} of a paste that is long enough\n")).collect();
    let digest = data_encoding::HEXLOWER.encode(ring::digest::digest(&ring::digest::SHA256, text.as_bytes()).as_ref());
    // The shell reads nothing for a moment: what is typed waits on this side.
    terminal.send(&format!("\nstty -echo; echo rea''dy; sleep 2; head -c {} | sha256sum; stty echo\n", text.len()));
    terminal.wait_for("ready");
    terminal.send(&text);
    terminal.wait_for(&digest);
    server.stop(&token, &vm);
    server.end();
}

#[test]
fn only_its_owner_and_administrators_have_a_vms_terminal_and_a_log_out_ends_it() {
    let server = Server::start();
    let (owner, stranger) = (server.sign_up("owner"), server.sign_up("stranger"));
    let vm = server.launch(&owner);
    let path = format!("/ws/{}/serial", vm["http_port"]);
    assert_eq!(server.websocket(&path, &[]).map(drop), Err(401));
    assert_eq!(server.terminal(&stranger, &vm).map(drop), Err(404));
    let bearer = format!("Bearer {owner}");
    let foreign = [("authorization", bearer.as_str()), ("origin", "https://evil.example")];
    assert_eq!(server.websocket(&path, &foreign).map(drop), Err(403));
    assert_eq!(server.call("GET", &path, &owner, &Value::Null).status, 426);
    let mut terminal = server.terminal(&owner, &vm).expect("its owner");
    terminal.socket.send(Message::Text("\n".into())).expect("text is taken for what is typed");
    assert_eq!(server.call("POST", "/auth/logout", &owner, &Value::Null).status, 204);
    assert_eq!(terminal.closed(), (1008, "signed out".to_owned()));
    server.end();
}

#[test]
fn a_server_that_was_killed_has_its_terminals_again() {
    let server = Server::with("tls = \"off\"", "", &common::living());
    let token = server.sign_up("survivor");
    let vm = server.launch(&token);
    let mut terminal = server.serial(&vm);
    terminal.wait_for("tiny: up");
    terminal.send("\nread answer\n");
    terminal.wait_for("read answer");
    let kept = server.base().join("consoles").join(vm["vmid"].as_str().expect("vmid"));
    until("what it wrote is on the disk", || {
        std::fs::read_to_string(&kept).ok().filter(|text| text.contains("read answer")).map(drop)
    });
    let mut server = server;
    server.kill("-KILL");
    let (_, folder, _) = server.wait();
    let mut server = Server::run(folder);
    let mut terminal = server.serial(&vm);
    terminal.wait_for("tiny: up");
    terminal.wait_for("read answer");
    terminal.send("yes\necho the shell heard $answer, it is the same\n");
    terminal.wait_for("the shell heard yes, it is the same");
    server.kill("-TERM");
    assert_eq!(terminal.closed(), (1001, "server going away".to_owned()));
    let (code, folder, said) = server.wait();
    assert_eq!(code, Some(0), "{said}");
    let server = Server::run(folder);
    // One that ends in order keeps all of it.
    server.serial(&vm).wait_for("the shell heard yes, it is the same");
    server.stop(&token, &vm);
    until("it goes with its VM", || (!kept.exists()).then_some(()));
    server.end();
}

#[test]
fn a_console_that_breaks_off_is_told_and_joined_again_and_a_missing_one_is_503() {
    let server = stand_in::server("serial-ends", "");
    let token = server.sign_up("broken");
    let vm = server.launch(&token);
    for times in 1..=2 {
        let mut terminal = server.terminal(&token, &vm).expect("the terminal");
        until("the console greets, behind what it said before", || {
            terminal.read();
            (terminal.text.matches("hello").count() >= times).then_some(())
        });
        terminal.send("x");
        assert_eq!(terminal.closed(), (1011, "the connection to the VM ended".to_owned()));
    }
    server.stop(&token, &vm);
    server.end();

    let server = stand_in::server("runs", "");
    let token = server.sign_up("without");
    let vm = server.launch(&token);
    assert_eq!(server.terminal(&token, &vm).map(drop), Err(503));
    server.stop(&token, &vm);
    server.assert_nothing_left();
    server.end();
}
