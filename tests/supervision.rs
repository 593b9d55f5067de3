//! What QEMU tells of a running guest: crashes, a full disk, resets, each written down and shown to who can do something about it.

mod common;

use common::{Server, SmallDisk, stand_in, until};
use serde_json::{Value, json};
use vmshare::sys::pidfd::PidFd;
use vmshare::sys::signal::Signal;
use vmshare::vm::supervise::Pause;

#[test]
fn stand_in_for_qemu() {
    stand_in::play();
}

fn path_of(vm: &Value) -> String {
    format!("/vms/{}", vm["vmid"].as_str().expect("vmid"))
}

fn wait_for_pause(server: &Server, token: &str, vm: &Value, wanted: &Value) -> Value {
    until(&format!("paused is {wanted}"), || {
        let now = server.call("GET", &path_of(vm), token, &Value::Null).json;
        (now["paused"] == *wanted).then_some(now)
    })
}

fn wait_for_event(server: &Server, kind: &str, detail: &str) {
    until(&format!("the event {kind} {detail} is written down"), || {
        let sql = format!("select count(*) from vm_events where kind = '{kind}' and detail like '{detail}'");
        (server.count(&sql) > 0).then_some(())
    });
}

#[test]
fn a_guest_whose_kernel_crashes_stands_still_and_a_restart_helps() {
    let server = Server::start_living();
    let token = server.sign_up("crasher");
    let vm = server.launch(&token);
    let mut serial = server.serial(&vm);
    serial.wait_for("fbdemo 1024x768");
    assert_eq!(server.call("GET", &path_of(&vm), &token, &Value::Null).json["paused"], Value::Null);
    drop(server.screen(&token, &vm));
    wait_for_event(&server, "vnc connected", "%");
    wait_for_event(&server, "vnc disconnected", "%");
    let resume = format!("{}/resume", path_of(&vm));
    assert_eq!(server.call("POST", &resume, &token, &Value::Null).status, 200, "one that runs goes on");
    serial.send("\necho c > /proc/sysrq-trigger\n");
    wait_for_pause(&server, &token, &vm, &json!("guest panic"));
    wait_for_event(&server, "panic", "the guest''s kernel crashed");
    let refused = server.call("POST", &resume, &token, &Value::Null);
    assert_eq!((refused.status, refused.code()), (409, "guest_panicked"), "{refused:?}");
    serial.text.clear();
    let restart = server.call("POST", &format!("{}/restart", path_of(&vm)), &token, &Value::Null);
    assert_eq!(restart.status, 200, "{restart:?}");
    serial.wait_for("tiny: up");
    wait_for_pause(&server, &token, &vm, &Value::Null);
    wait_for_event(&server, "reset", "by the host (%");
    serial.wait_for("fbdemo 1024x768");
    serial.text.clear();
    serial.send("\nreboot -f\n");
    wait_for_event(&server, "reset", "by the guest (%");
    serial.wait_for("fbdemo 1024x768");
    serial.send("\npoweroff -f\n");
    wait_for_event(&server, "shutdown", "by the guest (guest-shutdown)");
    until("its end is written down", || {
        let sql = "select count(*) from vms where state = 'stopped' and exit = 'guest shutdown'";
        (server.count(sql) == 1).then_some(())
    });
    server.end();
}

#[test]
fn a_qemu_that_dies_while_it_runs_ends_the_vm_at_once_with_its_last_words() {
    let server = stand_in::server("dies", "");
    let token = server.sign_up("witness");
    let vm = server.launch(&token);
    let mut screen = server.screen(&token, &vm);
    assert_eq!(common::closed(&mut screen), (1000, "VM stopped".to_owned()));
    let row = until("its end is told", || {
        let now = server.call("GET", &path_of(&vm), &token, &Value::Null).json;
        (now["state"] == "failed").then_some(now)
    });
    let exit = row["exit"].as_str().expect("why").to_owned();
    assert!(exit.contains("last words 42") && exit.contains("qemu exited 3"), "{exit}");
    server.assert_nothing_left();
    server.end();
}

#[test]
fn a_qemu_that_outlived_its_server_is_still_heard_and_ends_with_its_last_words() {
    let mut server = Server::with("tls = \"off\"\nstop_vms_on_exit = false", "", "");
    let token = server.sign_up("heir");
    let vm = server.launch(&token);
    server.kill("-KILL");
    let (_, folder, _) = server.wait();
    let server = Server::run(folder);
    let now = server.call("GET", &path_of(&vm), &token, &Value::Null).json;
    assert_eq!((&now["state"], &now["pid"]), (&json!("running"), &vm["pid"]), "{now}\n{}", server.said());
    // QEMU says who ended it, on its standard error.
    let pid = u32::try_from(vm["pid"].as_u64().expect("pid")).expect("pid");
    PidFd::open(pid).expect("qemu").send(Signal::Terminate).expect("sent");
    let ended = until("its end is told", || {
        let now = server.call("GET", &path_of(&vm), &token, &Value::Null).json;
        (!now["ended_at"].is_null()).then_some(now)
    });
    let exit = ended["exit"].as_str().expect("why");
    assert!(exit.contains("terminating on signal 15"), "{ended}\n{}", server.said());
    assert!(server.said().contains("qemu: qemu-system-x86_64: terminating on signal 15"), "{}", server.said());
    server.assert_nothing_left();
    server.end();
}

#[test]
fn a_full_disk_pauses_the_guest_is_told_survives_a_server_and_ends_with_resume() {
    let server = stand_in::server("disk-full", "");
    let token = server.sign_up("full");
    let vm = server.launch(&token);
    wait_for_pause(&server, &token, &vm, &json!("disk full"));
    wait_for_event(&server, "disk", "disk0: the host''s disk is full; the guest stands still");
    wait_for_event(&server, "stop", "");
    let text = std::fs::read_to_string(server.config_file()).expect("settings");
    let mut server = server;
    server.kill("-KILL");
    let (_, folder, _) = server.wait();
    std::fs::write(folder.path().join("vmshare.toml"), text).expect("settings");
    let server = Server::run(folder);
    wait_for_pause(&server, &token, &vm, &json!("disk full"));
    let answer = server.call("POST", &format!("{}/resume", path_of(&vm)), &token, &Value::Null);
    assert_eq!((answer.status, &answer.json["paused"]), (200, &Value::Null), "{answer:?}");
    wait_for_event(&server, "resume", "");
    server.stop(&token, &vm);
    server.assert_nothing_left();
    server.end();
}

#[test]
fn a_broken_disk_pauses_the_guest_until_resume_and_an_error_it_is_told_of_pauses_nothing() {
    let server = stand_in::server("disk-error", "");
    let token = server.sign_up("broken");
    let vm = server.launch(&token);
    wait_for_pause(&server, &token, &vm, &json!(Pause::DiskError.word()));
    wait_for_event(&server, "disk", "disk0: input or output failed; the guest stands still");
    // QEMU is asked why it stopped, and says the same.
    wait_for_event(&server, "stop", "");
    let answer = server.call("POST", &format!("{}/resume", path_of(&vm)), &token, &Value::Null);
    assert_eq!((answer.status, &answer.json["paused"]), (200, &Value::Null), "{answer:?}");
    wait_for_event(&server, "resume", "");
    // The next one goes to the guest's system, which runs on.
    wait_for_event(&server, "disk", "disk0: input or output failed");
    assert_eq!(server.call("GET", &path_of(&vm), &token, &Value::Null).json["paused"], Value::Null);
    server.stop(&token, &vm);
    server.assert_nothing_left();
    server.end();
}

#[test]
fn a_guest_on_a_disk_that_is_really_full_waits_and_loses_nothing_when_there_is_room_again() {
    let server = Server::with("tls = \"off\"\nstop_vms_on_exit = true", "disk_reserve_mb = 0", &common::living());
    let disk = SmallDisk::over(&server.base().join("runs"), 8);
    let token = server.sign_up("writer");
    let answer = server.call("POST", "/run-iso", &token, &json!({"data_disk_gb": 1, "persistence": "ephemeral"}));
    assert_eq!(answer.status, 200, "{answer:?}\n{}", server.said());
    let vm = answer.json["vm"].clone();
    let mut serial = server.serial(&vm);
    serial.wait_for("tiny: up");
    serial.send(
        "yes abcdefg | head -c 20000000 | tee /dev/vda | md5sum; sync; echo 3 > /proc/sys/vm/drop_caches; \
         dd if=/dev/vda bs=1000 count=20000 2>/dev/null | md5sum; echo written-$((1 + 1))\n",
    );
    wait_for_pause(&server, &token, &vm, &json!("disk full"));
    wait_for_event(&server, "disk", "disk0: the host''s disk is full; the guest stands still");
    disk.grow(64);
    let resumed = server.call("POST", &format!("{}/resume", path_of(&vm)), &token, &Value::Null);
    assert_eq!((resumed.status, &resumed.json["paused"]), (200, &Value::Null), "{resumed:?}");
    serial.wait_for("written-2");
    let sums: Vec<&str> = serial.text.lines().filter_map(|line| line.trim().strip_suffix("  -")).collect();
    assert!(sums.len() == 2 && sums[0] == sums[1], "what is on the disk is not what was written: {:?}", serial.text);
    server.stop(&token, &vm);
    drop(disk);
    server.end();
}
