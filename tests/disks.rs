//! What people keep, on real guests: disks that outlive their VM, overlays of disk images, snapshots with memory and without.

mod common;

use common::{Answer, Events, Serial, Server, SmallDisk, image, until};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

const PLAIN: &str = "tls = \"off\"\nstop_vms_on_exit = true";
const OWN: &str = "base_image = \"{VM_BASE_DIR}/uploads\"";

fn uid(server: &Server, token: &str) -> String {
    server.call("GET", "/auth/me", token, &Value::Null).json["user"]["id"].as_str().expect("id").to_owned()
}

fn folder_of(server: &Server, token: &str) -> PathBuf {
    server.base().join("users").join(uid(server, token))
}

fn run(server: &Server, token: &str, body: &Value) -> Value {
    let answer = server.call("POST", "/run-iso", token, body);
    assert_eq!(answer.status, 200, "{answer:?}\n{}", server.said());
    answer.json["vm"].clone()
}

fn terminal(server: &Server, token: &str, vm: &Value) -> Serial {
    server.terminal(token, vm).expect("a terminal")
}

/// Types a command until the guest's shell has answered it.
fn sh(serial: &mut Serial, command: &str, wanted: &str) {
    serial.text.clear();
    serial.send(&format!("{command}\n"));
    serial.wait_for(wanted);
}

fn snapshots(server: &Server, token: &str, vm: &Value, method: &str, rest: &str, body: &Value) -> Answer {
    server.call(method, &format!("/vms/{}/snapshots{rest}", vm["vmid"].as_str().expect("vmid")), token, body)
}

fn disks(server: &Server, token: &str) -> Value {
    server.call("GET", "/disks", token, &Value::Null).json
}

#[test]
fn what_a_guest_writes_to_a_kept_disk_is_there_next_time() {
    let server = Server::start();
    let token = server.sign_up("keeper");
    let none = server.call("POST", "/run-iso", &token, &json!({"disk": "work"}));
    assert_eq!((none.status, none.code()), (404, "disk_not_found"), "{none:?}");
    server.assert_nothing_left();
    let vm = run(&server, &token, &json!({"disk": "work", "data_disk_gb": 1}));
    assert_eq!((&vm["persistence"], &vm["disk"], &vm["disk_gb"]), (&json!("persistent"), &json!("work"), &json!(1)));
    let mut serial = terminal(&server, &token, &vm);
    serial.wait_for("tiny: up");
    sh(
        &mut serial,
        "echo kept-$((40+2)) | dd of=/dev/vda conv=sync bs=512 2>/dev/null; sync; echo done-$((1+1))",
        "done-2",
    );
    for (method, path, body) in
        [("DELETE", "/disks/work", Value::Null), ("POST", "/disks/work/grow", json!({"size_gb": 2}))]
    {
        let answer = server.call(method, path, &token, &body);
        assert_eq!((answer.status, answer.code()), (409, "disk_in_use"), "{answer:?}");
    }
    assert_eq!(disks(&server, &token)["disks"][0]["vmid"], vm["vmid"]);
    server.stop(&token, &vm);
    server.assert_nothing_left();
    let grown = server.call("POST", "/disks/work/grow", &token, &json!({"size_gb": 2}));
    assert_eq!((grown.status, &grown.json["disk"]["size_gb"]), (200, &json!(2)), "{grown:?}");
    let shrunk = server.call("POST", "/disks/work/grow", &token, &json!({"size_gb": 1}));
    assert_eq!((shrunk.status, &shrunk.json["field"]), (422, &json!("size_gb")));
    // The old version's field, with the path of the file.
    let path = folder_of(&server, &token).join("disks/work.qcow2");
    let vm = run(&server, &token, &json!({"install_disk_path": path}));
    assert_eq!((&vm["disk"], &vm["disk_gb"]), (&json!("work"), &json!(2)));
    let mut serial = terminal(&server, &token, &vm);
    serial.wait_for("tiny: up");
    sh(&mut serial, "dd if=/dev/vda bs=7 count=1 2>/dev/null", "kept-42");
    server.stop(&token, &vm);
    let stranger = server.sign_up("stranger");
    for body in [json!({"disk": "work"}), json!({"install_disk_path": path})] {
        assert_eq!(server.call("POST", "/run-iso", &stranger, &body).status, 404, "{body}");
    }
    assert_eq!(server.call("DELETE", "/disks/work", &stranger, &Value::Null).status, 404);
    assert_eq!(server.call("DELETE", "/disks/work", &token, &Value::Null).status, 204);
    assert_eq!(disks(&server, &token)["disks"], json!([]));
    server.end();
}

#[test]
fn a_start_that_fails_leaves_no_new_disk_and_keeps_an_old_one() {
    let folder = common::folder();
    let text = common::settings(&folder.path().join("b"), PLAIN, "disk_quota_gb = 3\nboot_seconds = 5", "");
    let broken = folder.path().join("qemu");
    fs::write(
        &broken,
        "#!/bin/sh\ncase $* in *--version*) exec qemu-system-x86_64 --version;; esac\necho no luck >&2; exit 1\n",
    )
    .expect("qemu");
    Command::new("chmod").arg("755").arg(&broken).status().expect("chmod");
    fs::write(folder.path().join("vmshare.toml"), format!("qemu_bin = {broken:?}\n{text}")).expect("settings");
    let server = Server::run(folder);
    let token = server.sign_up("unlucky");
    let failed = server.call("POST", "/run-iso", &token, &json!({"disk": "new", "data_disk_gb": 1}));
    assert!(
        failed.status == 500 && failed.json["detail"].as_str().is_some_and(|d| d.contains("no luck")),
        "{failed:?}"
    );
    let made = server.call("POST", "/disks", &token, &json!({"name": "old", "size_gb": 1}));
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(server.call("POST", "/disks", &token, &json!({"name": "old", "size_gb": 1})).code(), "disk_exists");
    assert_eq!(server.call("POST", "/disks", &token, &json!({"name": "big", "size_gb": 3})).code(), "quota_exceeded");
    assert_eq!(server.call("POST", "/run-iso", &token, &json!({"disk": "old"})).status, 500);
    server.assert_nothing_left();
    let left: Vec<String> = fs::read_dir(folder_of(&server, &token).join("disks"))
        .expect("disks")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(left, ["old.qcow2"]);
    server.end();
}

#[test]
fn a_disk_image_boots_through_an_overlay_and_a_kept_one_without_any_iso() {
    let server = Server::with(PLAIN, "", OWN);
    let token = server.sign_up("imager");
    let images = folder_of(&server, &token).join("images");
    fs::create_dir_all(&images).expect("folder");
    // The test image boots from a disk as well as from a CD.
    fs::copy(image(), images.join("tiny.raw")).expect("image");
    let before = fs::read(images.join("tiny.raw")).expect("image");
    let vm = run(&server, &token, &json!({"iso": "tiny.raw"}));
    assert_eq!((&vm["iso"], &vm["persistence"]), (&json!("tiny.raw"), &json!("ephemeral")));
    let mut serial = terminal(&server, &token, &vm);
    serial.wait_for("tiny: up");
    sh(&mut serial, "dd if=/dev/zero of=/dev/vda bs=1M count=1 2>/dev/null; sync; echo done-$((1+1))", "done-2");
    let used = server.call("DELETE", "/isos/tiny.raw", &token, &Value::Null);
    assert_eq!((used.status, used.code()), (409, "image_in_use"));
    server.stop(&token, &vm);
    assert!(fs::read(images.join("tiny.raw")).expect("image") == before, "the guest wrote into the image");
    // A kept disk made from it boots with no ISO anywhere.
    let made = server.call("POST", "/disks", &token, &json!({"name": "installed", "image": "tiny.raw"}));
    assert_eq!((made.status, &made.json["disk"]["image"]), (201, &json!("tiny.raw")), "{made:?}");
    let vm = run(&server, &token, &json!({"disk": "installed"}));
    assert_eq!(vm["iso"], Value::Null);
    terminal(&server, &token, &vm).wait_for("tiny: up");
    server.stop(&token, &vm);
    let used = server.call("DELETE", "/isos/tiny.raw", &token, &Value::Null);
    assert!(used.status == 409 && used.json["detail"].as_str().is_some_and(|d| d.contains("installed")), "{used:?}");
    server.end();
}

#[test]
fn a_profile_with_a_base_disk_starts_everybody_from_it() {
    let folder = common::folder();
    let base = folder.path().join("class.raw");
    fs::copy(image(), &base).expect("image");
    let profile = format!("base_disk = {base:?}\npersistence = \"persistent\"\n{OWN}");
    let text = common::settings(&folder.path().join("b"), PLAIN, "", &profile);
    fs::write(folder.path().join("vmshare.toml"), text).expect("settings");
    let server = Server::run(folder);
    server.wait_for_log(&format!("read ahead: {}", base.display()));
    let token = server.sign_up("pupil");
    let vm = run(&server, &token, &Value::Null);
    assert_eq!((&vm["disk"], &vm["iso"]), (&json!("default"), &json!("class.raw")));
    terminal(&server, &token, &vm).wait_for("tiny: up");
    server.stop(&token, &vm);
    let kept = disks(&server, &token)["disks"][0].clone();
    assert_eq!((&kept["name"], &kept["image"]), (&json!("default"), &json!("class.raw")));
    server.end();
}

#[test]
fn hostile_and_broken_disk_images_are_refused() {
    let server = Server::with(PLAIN, "", OWN);
    let token = server.sign_up("hostile");
    let images = folder_of(&server, &token).join("images");
    fs::create_dir_all(&images).expect("folder");
    let qcow2 = images.join("evil.qcow2");
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-u", "-f", "qcow2", "-b", "/etc/shadow", "-F", "raw"])
        .arg(&qcow2)
        .arg("1G")
        .status();
    assert!(made.expect("qemu-img").success());
    let refused = server.call("POST", "/run-iso", &token, &json!({"iso": "evil.qcow2"}));
    assert!(
        refused.status == 422 && refused.json["detail"].as_str().is_some_and(|d| d.contains("overlay")),
        "{refused:?}"
    );
    fs::write(images.join("noise.qcow2"), vec![7; 20_000_000]).expect("noise");
    assert_eq!(server.call("POST", "/run-iso", &token, &json!({"iso": "noise.qcow2"})).status, 422);
    // A disk that is none any more.
    fs::create_dir_all(folder_of(&server, &token).join("disks")).expect("folder");
    fs::write(folder_of(&server, &token).join("disks/bad.qcow2"), b"x").expect("disk");
    let bad = server.call("POST", "/run-iso", &token, &json!({"disk": "bad"}));
    assert_eq!((bad.status, &bad.json["field"]), (422, &json!("disk")), "{bad:?}");
    server.assert_nothing_left();
    server.end();
}

#[test]
fn an_image_that_claims_more_than_a_vm_may_write_to_is_not_started_but_the_operators_is() {
    let folder = common::folder();
    let big = folder.path().join("class.qcow2");
    let make = |path: &std::path::Path| {
        let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(path).arg("3G").status();
        assert!(made.expect("qemu-img").success());
    };
    make(&big);
    let profile = format!("base_disk = {big:?}\n{OWN}");
    let text = common::settings(&folder.path().join("b"), PLAIN, "max_data_disk_gb = 2", &profile);
    fs::write(folder.path().join("vmshare.toml"), text).expect("settings");
    let server = Server::run(folder);
    let token = server.sign_up("filler");
    let images = folder_of(&server, &token).join("images");
    fs::create_dir_all(&images).expect("folder");
    make(&images.join("huge.qcow2"));
    let refused = server.call("POST", "/run-iso", &token, &json!({"iso": "huge.qcow2"}));
    assert_eq!((refused.status, &refused.json["field"]), (422, &json!("iso")), "{refused:?}");
    assert!(refused.json["detail"].as_str().is_some_and(|why| why.contains("3 GiB")), "{refused:?}");
    server.assert_nothing_left();
    let vm = run(&server, &token, &Value::Null);
    assert_eq!(vm["iso"], json!("class.qcow2"));
    server.stop(&token, &vm);
    server.end();
}

#[test]
fn a_snapshot_brings_disk_and_memory_back() {
    let server = Server::start();
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
    let server = Server::start();
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
fn the_quota_that_is_told_is_the_one_that_is_kept() {
    let server = Server::with(PLAIN, "disk_quota_gb = 3\ndisk_reserve_mb = 0", "");
    let token = server.sign_up("counter");
    assert_eq!(server.call("POST", "/disks", &token, &json!({"name": "work", "size_gb": 1})).status, 201);
    assert_eq!(disks(&server, &token)["quota"], json!({"used_gb": 1, "limit_gb": 3}));
    // Snapshots take more than the guest sees.
    let path = folder_of(&server, &token).join("disks/work.qcow2");
    let more = Command::new("fallocate").args(["-l", "1200M"]).arg(&path).status().expect("fallocate");
    assert!(more.success());
    assert_eq!(disks(&server, &token)["quota"], json!({"used_gb": 2, "limit_gb": 3}));
    let make =
        |name: &str, gb: u32| server.call("POST", "/disks", &token, &json!({"name": name, "size_gb": gb})).status;
    assert_eq!((make("big", 2), make("small", 1)), (413, 201));
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

/// Every file below a folder by its path there, with its bytes.
fn files_below(folder: &std::path::Path) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut left) = (std::collections::BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(&next).expect("folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                left.push(path);
            } else {
                found.insert(path.strip_prefix(folder).expect("below").to_owned(), fs::read(&path).expect("file"));
            }
        }
    }
    found
}

/// Does something to a disk that no VM has, as `qemu-io` is told.
fn qemu_io(disk: &std::path::Path, command: &str) {
    let output = Command::new("qemu-io").args(["-f", "qcow2", "-c", command]).arg(disk).output().expect("qemu-io");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && !said.contains("failed"), "{command}: {output:?}");
}

#[test]
fn a_users_folder_comes_back_from_a_backup_with_bytes_snapshots_and_overlays() {
    let server = Server::with(PLAIN, "", OWN);
    let token = server.sign_up("backup");
    let folder = folder_of(&server, &token);
    fs::create_dir_all(folder.join("images")).expect("folder");
    for name in ["mine.iso", "mine.raw"] {
        fs::copy(image(), folder.join("images").join(name)).expect("image");
    }
    // A disk with what a guest wrote before and after a snapshot of its memory.
    let vm = run(&server, &token, &json!({"iso": "mine.iso", "disk": "work", "data_disk_gb": 1}));
    let mut serial = terminal(&server, &token, &vm);
    serial.wait_for("tiny: up");
    let write = |serial: &mut Serial, word: &str| {
        let disk = format!("echo {word} | dd of=/dev/vda conv=sync bs=512 2>/dev/null; sync");
        sh(serial, &format!("echo {word} > /tmp/note; {disk}; echo done-$((1+1))"), "done-2");
    };
    write(&mut serial, "before");
    assert_eq!(snapshots(&server, &token, &vm, "POST", "", &json!({"name": "clean"})).status, 201);
    write(&mut serial, "later!");
    server.stop(&token, &vm);
    // An overlay of an image, with bytes of its own.
    let layer = json!({"name": "layer", "image": "mine.raw", "size_gb": 1});
    assert_eq!(server.call("POST", "/disks", &token, &layer).status, 201);
    qemu_io(&folder.join("disks/layer.qcow2"), "write -P 0x5a 20M 1M");
    let listed = || {
        let isos = server.call("GET", "/isos", &token, &Value::Null).json["isos"].clone();
        (disks(&server, &token)["disks"].clone(), isos)
    };
    let copy = |from: &PathBuf, to: &PathBuf| {
        assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp").success());
    };
    let backup = server.base().join("backup");
    copy(&folder, &backup);
    let (were, bytes) = (listed(), files_below(&folder));
    fs::remove_dir_all(&folder).expect("lost");
    assert_eq!(listed(), (json!([]), json!([])));
    copy(&backup, &folder);
    // What a file takes on the host is how it was copied.
    let mut now = listed();
    for (before, after) in were.0.as_array().expect("disks").iter().zip(now.0.as_array_mut().expect("disks")) {
        after["used"] = before["used"].clone();
    }
    assert_eq!(now, were);
    assert!(files_below(&folder) == bytes, "a file is another one");
    qemu_io(&folder.join("disks/layer.qcow2"), "read -P 0x5a 20M 1M");
    let vm = run(&server, &token, &json!({"disk": "layer"}));
    let mut serial = terminal(&server, &token, &vm);
    serial.wait_for("tiny: up");
    sh(&mut serial, "dd if=/dev/vda bs=1M skip=20 count=1 2>/dev/null | tr -d Z | wc -c; echo said-$((1+1))", "said-2");
    assert!(serial.text.contains("\r\n0\r\n"), "{:?}", serial.text);
    server.stop(&token, &vm);
    // It need not have booted: it goes on where the snapshot was taken.
    qemu_io(&folder.join("disks/work.qcow2"), "read -P 0x6c 0 1");
    let vm = run(&server, &token, &json!({"iso": "mine.iso", "disk": "work"}));
    let mut serial = terminal(&server, &token, &vm);
    assert_eq!(snapshots(&server, &token, &vm, "POST", "/clean/restore", &Value::Null).status, 200);
    sh(&mut serial, "cat /tmp/note; dd if=/dev/vda bs=6 count=1 2>/dev/null; echo said-$((1+1))", "said-2");
    assert_eq!(serial.text.matches("before").count(), 2, "{:?}", serial.text);
    server.stop(&token, &vm);
    server.end();
}

#[test]
fn a_tool_that_fails_is_quoted_and_one_that_hangs_is_ended() {
    let folder = common::folder();
    let (tool, mode) = (folder.path().join("qemu-img"), folder.path().join("mode"));
    // The real one, except where it is told to misbehave.
    let script = format!(
        "#!/bin/sh\ncase $(cat '{}' 2>/dev/null) in\n\
         fails) echo 'qemu-img: the disk is on fire' >&2; exit 1 ;;\n\
         hangs) echo half > \"$6\"; exec sleep 600 ;;\nesac\nexec qemu-img \"$@\"\n",
        mode.display()
    );
    fs::write(&tool, script).expect("script");
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).expect("chmod");
    let text = common::settings(
        &folder.path().join("b"),
        &format!("{PLAIN}\nqemu_img_bin = {tool:?}"),
        "disk_job_seconds = 1",
        "",
    );
    fs::write(folder.path().join("vmshare.toml"), text).expect("settings");
    let server = Server::run(folder);
    let token = server.sign_up("patient");
    let make = || server.call("POST", "/disks", &token, &json!({"name": "work", "size_gb": 1}));
    fs::write(&mode, "fails").expect("mode");
    let failed = make();
    assert_eq!((failed.status, failed.code()), (507, "disk_failed"), "{failed:?}");
    assert!(failed.json["detail"].as_str().is_some_and(|why| why.contains("the disk is on fire")), "{failed:?}");
    fs::write(&mode, "hangs").expect("mode");
    let late = make();
    assert_eq!((late.status, late.code()), (503, "disk_busy"), "{late:?}");
    assert_eq!(disks(&server, &token)["disks"], json!([]), "half a disk is left");
    // Also where a launch needs it.
    let launch = server.call("POST", "/run-iso", &token, &json!({"data_disk_gb": 1, "persistence": "ephemeral"}));
    assert_eq!((launch.status, launch.code()), (503, "disk_busy"), "{launch:?}");
    server.assert_nothing_left();
    fs::write(&mode, "works").expect("mode");
    assert_eq!(make().status, 201);
    server.end();
}

#[test]
fn a_snapshot_that_fails_says_why_and_the_vm_goes_on() {
    let server = Server::with(PLAIN, "disk_reserve_mb = 0", "");
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

#[test]
fn the_cd_is_first_when_it_is_asked_for_and_else_the_disk_and_snapshots_have_a_bound() {
    let server = Server::with(PLAIN, "snapshots_per_disk = 1", "");
    let token = server.sign_up("installer");
    let order = |vm: &Value| {
        let line = fs::read(format!("/proc/{}/cmdline", vm["pid"])).expect("qemu");
        let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        let at = words.iter().position(|word| word == "-boot").expect("an order");
        words[at + 1].to_string()
    };
    let first = run(&server, &token, &json!({"iso_path": image(), "disk": "work", "data_disk_gb": 1}));
    assert_eq!(order(&first), "order=dc");
    let snapshot = |name: &str| snapshots(&server, &token, &first, "POST", "", &json!({"name": name}));
    assert_eq!(snapshot("one").status, 201);
    let second = snapshot("two");
    assert_eq!((second.status, second.code()), (409, "too_many_snapshots"), "{second:?}");
    server.stop(&token, &first);
    let later = run(&server, &token, &json!({"disk": "work"}));
    assert_eq!(order(&later), "order=cd");
    server.stop(&token, &later);
    server.end();
}

/// A server whose `qemu-img` stops before it does what it is called for while there is a file; gives that file, and one with a line for each that
/// stopped.
fn holding(verb: &str) -> (Server, PathBuf, PathBuf) {
    let folder = common::folder();
    let [tool, hold, held] = ["qemu-img", "hold", "held"].map(|name| folder.path().join(name));
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = {verb} ] && [ -e '{0}' ]; then echo held >> '{1}'; while [ -e '{0}' ]; do sleep 0.02; done; fi\n\
         exec qemu-img \"$@\"\n",
        hold.display(),
        held.display()
    );
    fs::write(&tool, script).expect("script");
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).expect("chmod");
    let text = common::settings(&folder.path().join("b"), &format!("{PLAIN}\nqemu_img_bin = {tool:?}"), "", "");
    fs::write(folder.path().join("vmshare.toml"), text).expect("settings");
    fs::write(&hold, "").expect("hold");
    (Server::run(folder), hold, held)
}

#[test]
fn an_image_of_all_is_not_removed_while_a_disk_is_made_from_it() {
    let (server, hold, held) = holding("create");
    let (admin, token) = (common::admin(&server), server.sign_up("pupil"));
    let library = server.base().join("images");
    fs::create_dir_all(&library).expect("library");
    let mut made = Command::new("qemu-img");
    made.args(["create", "-q", "-f", "qcow2"]).arg(library.join("lesson.qcow2")).arg("1G");
    assert!(made.status().expect("qemu-img").success());
    let body = json!({"name": "work", "image": "lesson.qcow2"});
    std::thread::scope(|scope| {
        let making = scope.spawn(|| server.call("POST", "/disks", &token, &body));
        until("the disk is being made", || held.exists().then_some(()));
        let removing = scope.spawn(|| server.call("DELETE", "/isos/lesson.qcow2", &admin, &Value::Null));
        // Time enough for it to be looked at, and to be gone if nothing held it.
        for _ in 0..100 {
            server.call("GET", "/isos", &admin, &Value::Null);
            assert!(library.join("lesson.qcow2").exists(), "it was removed");
        }
        fs::remove_file(&hold).expect("go on");
        assert_eq!(making.join().expect("made").status, 201);
        let refused = removing.join().expect("refused");
        assert_eq!((refused.status, refused.code()), (409, "image_in_use"), "{refused:?}");
    });
    server.end();
}

#[test]
fn a_class_that_starts_from_one_image_of_all_does_not_wait_for_each_others_overlays() {
    let (server, hold, held) = holding("create");
    let (admin, class) = (common::admin(&server), ["ada", "ben", "cleo"].map(|name| server.sign_up(name)));
    let library = server.base().join("images");
    fs::create_dir_all(&library).expect("library");
    fs::copy(image(), library.join("lesson.raw")).expect("image");
    let overlays = || fs::read_to_string(&held).map_or(0, |text| text.lines().count());
    std::thread::scope(|scope| {
        let start = |token| server.call("POST", "/run-iso", token, &json!({"iso": "lesson.raw"}));
        let starting = class.each_ref().map(|token| scope.spawn(move || start(token)));
        until("all of them are being made", || (overlays() == class.len()).then_some(()));
        let removing = scope.spawn(|| server.call("DELETE", "/isos/lesson.raw", &admin, &Value::Null));
        fs::remove_file(&hold).expect("go on");
        let refused = removing.join().expect("refused");
        assert_eq!((refused.status, refused.code()), (409, "image_in_use"), "{refused:?}");
        for (starting, token) in starting.into_iter().zip(&class) {
            let started = starting.join().expect("started");
            assert_eq!(started.status, 200, "{started:?}\n{}", server.said());
            server.stop(token, &started.json["vm"]);
        }
    });
    server.end();
}

#[test]
fn a_start_waits_until_its_disk_has_grown() {
    let (server, hold, held) = holding("resize");
    let token = server.sign_up("grower");
    assert_eq!(server.call("POST", "/disks", &token, &json!({"name": "work", "size_gb": 1})).status, 201);
    std::thread::scope(|scope| {
        let growing = scope.spawn(|| server.call("POST", "/disks/work/grow", &token, &json!({"size_gb": 2})));
        until("the disk is being worked on", || held.exists().then_some(()));
        let starting = scope.spawn(|| server.call("POST", "/run-iso", &token, &json!({"disk": "work"})));
        until("its row is there", || (server.count("select count(*) from vms") == 1).then_some(()));
        for _ in 0..200 {
            server.call("GET", "/vms", &token, &Value::Null);
            let qemus = common::processes_of(&server.base().join("runs"));
            assert!(qemus.is_empty(), "a VM has the disk that is being worked on");
        }
        fs::remove_file(&hold).expect("go on");
        let grown = growing.join().expect("grown");
        assert_eq!(grown.status, 200, "{grown:?}");
        let started = starting.join().expect("started");
        assert_eq!(started.status, 200, "{started:?}");
        server.stop(&token, &started.json["vm"]);
    });
    server.end();
}
