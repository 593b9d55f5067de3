//! Snapshots on real guests, with memory and without.

mod common;

use common::store::{PLAIN, disks, folder_of, run, sh, snapshots, terminal};
use common::{Events, Serial, Server, SmallDisk, until};
use serde_json::{Value, json};
use std::process::Command;

#[test]
fn a_snapshot_brings_disk_and_memory_back() {
    let server = Server::start_living();
    let token = server.sign_up("saver");
    let vm = run(&server, &token, &json!({"disk": "work", "data_disk_gb": 1}));
    let mut serial = terminal(&server, &token, &vm);
    serial.wait_for("tiny: up");
    let write = |serial: &mut Serial, word: &str| {
        sh(
            serial,
            &format!(
                "echo {word} > /tmp/note; echo {word} | dd of=/dev/vda conv=sync bs=512 2>/dev/null; sync; echo done-$((1+1))"
            ),
            "done-2",
        );
    };
    write(&mut serial, "before");
    assert_eq!(snapshots(&server, &token, &vm, "GET", "", &Value::Null).json, json!({"snapshots": []}));
    let mut events = Events::of(&server, &token);
    let made = snapshots(&server, &token, &vm, "POST", "", &json!({"name": "clean"}));
    let told = events.wait_for("the job", |vm| vm["job"]["what"] == "save" && vm["job"]["name"] == "clean");
    assert!(told["job"]["percent"].as_u64().is_some_and(|percent| percent <= 100), "{told}");
    events.wait_for("the end of the job", |vm| vm["job"] == Value::Null);
    assert_eq!(
        (made.status, &made.json["snapshot"]["name"], &made.json["snapshot"]["memory"]),
        (201, &json!("clean"), &json!(true))
    );
    assert!(made.json["snapshot"]["size"].as_u64().is_some_and(|size| size > 1 << 20), "{made:?}");
    assert_eq!(snapshots(&server, &token, &vm, "POST", "", &json!({"name": "clean"})).code(), "snapshot_exists");
    assert_eq!(snapshots(&server, &token, &vm, "POST", "", &json!({"name": "a,b"})).status, 422);
    write(&mut serial, "foolish");
    let back = snapshots(&server, &token, &vm, "POST", "/clean/restore", &Value::Null);
    assert_eq!(back.status, 200, "{back:?}");
    sh(&mut serial, "cat /tmp/note; dd if=/dev/vda bs=6 count=1 2>/dev/null; echo said-$((1+1))", "said-2");
    assert!(serial.text.matches("before").count() == 2 && !serial.text.contains("foolish\r\n"), "{:?}", serial.text);
    for (method, rest) in [("POST", "/nothing/restore"), ("DELETE", "/nothing")] {
        assert_eq!(snapshots(&server, &token, &vm, method, rest, &Value::Null).code(), "snapshot_not_found");
    }
    let stranger = server.sign_up("stranger");
    assert_eq!(snapshots(&server, &stranger, &vm, "GET", "", &Value::Null).status, 404);
    write(&mut serial, "after");
    server.stop(&token, &vm);
    // Of the stopped VM, by its disk.
    assert_eq!(snapshots(&server, &token, &vm, "GET", "", &Value::Null).json["snapshots"][0]["name"], "clean");
    assert_eq!(snapshots(&server, &token, &vm, "POST", "", &json!({"name": "cold"})).status, 201);
    assert_eq!(snapshots(&server, &token, &vm, "POST", "/clean/restore", &Value::Null).status, 200);
    assert_eq!(snapshots(&server, &token, &vm, "DELETE", "/clean", &Value::Null).status, 204);
    let vm = run(&server, &token, &json!({"disk": "work"}));
    let mut serial = terminal(&server, &token, &vm);
    serial.wait_for("tiny: up");
    sh(&mut serial, "dd if=/dev/vda bs=6 count=1 2>/dev/null", "before");
    let left = snapshots(&server, &token, &vm, "DELETE", "/cold", &Value::Null);
    assert_eq!(left.status, 204, "{left:?}");
    assert_eq!(disks(&server, &token)["disks"][0]["snapshots"], 0);
    server.stop(&token, &vm);
    until("the audit trail has all of it", || {
        (server.count("select count(*) from audit where action like '%snapshot'") == 6).then_some(())
    });
    server.end();
}

#[test]
fn a_snapshot_whose_name_is_the_number_of_another_is_not_restored_in_its_place() {
    let server = Server::start_living();
    let token = server.sign_up("counter");
    let vm = run(&server, &token, &json!({"disk": "work", "data_disk_gb": 1}));
    let digits = snapshots(&server, &token, &vm, "POST", "", &json!({"name": "7"}));
    assert_eq!((digits.status, &digits.json["field"]), (422, &json!("name")), "{digits:?}");
    server.stop(&token, &vm);
    assert_eq!(snapshots(&server, &token, &vm, "POST", "", &json!({"name": "7"})).status, 422);
    // As an older server, or the disk's owner, may have named them: the third one is called 2, and so is its own number not.
    let disk = folder_of(&server, &token).join("disks/work.qcow2");
    for name in ["one", "two", "2", "4"] {
        let made = Command::new("qemu-img").args(["snapshot", "-c", name]).arg(&disk).status();
        assert!(made.expect("qemu-img").success());
    }
    let restore = |name: &str, vm: &Value| {
        let answer = snapshots(&server, &token, vm, "POST", &format!("/{name}/restore"), &Value::Null);
        (answer.status, answer.code().to_owned())
    };
    assert_eq!(restore("2", &vm), (409, "snapshot_ambiguous".to_owned()));
    assert_eq!(restore("4", &vm).0, 200, "its name is its own number");
    let vm = run(&server, &token, &json!({"disk": "work"}));
    terminal(&server, &token, &vm).wait_for("tiny: up");
    assert_eq!(restore("2", &vm), (409, "snapshot_ambiguous".to_owned()));
    assert_eq!(snapshots(&server, &token, &vm, "DELETE", "/2", &Value::Null).status, 204);
    let left = snapshots(&server, &token, &vm, "GET", "", &Value::Null).json["snapshots"].to_string();
    assert!(left.contains("two") && !left.contains("\"2\""), "{left}");
    server.stop(&token, &vm);
    server.end();
}

#[test]
fn a_vm_without_a_disk_is_told_the_remedy() {
    let server = Server::start();
    let token = server.sign_up("diskless");
    let vm = server.launch(&token);
    assert_eq!(snapshots(&server, &token, &vm, "GET", "", &Value::Null).json, json!({"snapshots": []}));
    let refused = snapshots(&server, &token, &vm, "POST", "", &json!({"name": "x"}));
    assert!(
        refused.status == 409 && refused.json["detail"].as_str().is_some_and(|d| d.contains("data_disk_gb")),
        "{refused:?}"
    );
    server.stop(&token, &vm);
    let kept = run(&server, &token, &json!({"disk": "work", "data_disk_gb": 1}));
    server.stop(&token, &kept);
    assert_eq!(server.call("DELETE", "/disks/work", &token, &Value::Null).status, 204);
    for ended in [&vm, &kept] {
        let none = snapshots(&server, &token, ended, "GET", "", &Value::Null);
        assert_eq!((none.status, none.json), (200, json!({"snapshots": []})));
        for (method, rest, body) in
            [("POST", "", json!({"name": "x"})), ("POST", "/x/restore", Value::Null), ("DELETE", "/x", Value::Null)]
        {
            let refused = snapshots(&server, &token, ended, method, rest, &body);
            assert_eq!((refused.status, refused.code()), (409, "no_disk"), "{method} {rest}: {refused:?}");
        }
    }
    server.end();
}

#[test]
fn a_snapshot_that_fails_says_why_and_the_vm_goes_on() {
    let server = Server::with(PLAIN, "disk_reserve_mb = 0", &common::living());
    // Too small for the guest's memory.
    let disk = SmallDisk::over(&server.base().join("runs"), 12);
    let token = server.sign_up("unlucky");
    let vm = run(&server, &token, &json!({"data_disk_gb": 1, "persistence": "ephemeral"}));
    let mut serial = terminal(&server, &token, &vm);
    serial.wait_for("tiny: up");
    let failed = snapshots(&server, &token, &vm, "POST", "", &json!({"name": "big"}));
    assert_eq!((failed.status, failed.code()), (409, "snapshot_failed"), "{failed:?}");
    let why = failed.json["detail"].as_str().unwrap_or_default();
    assert!(why.contains("No space left") || why.contains("writing VM state"), "{why}");
    sh(&mut serial, "echo alive-$((40+2))", "alive-42");
    let now = server.call("GET", &format!("/vms/{}", vm["vmid"].as_str().expect("vmid")), &token, &Value::Null).json;
    assert_eq!((&now["state"], &now["paused"], &now["job"]), (&json!("running"), &Value::Null, &Value::Null), "{now}");
    server.stop(&token, &vm);
    drop(disk);
    server.end();
}
