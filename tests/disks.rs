//! Disks that people keep, on real guests: they outlive their VM, lie over disk images, and come back from a backup.

mod common;

use common::store::{OWN, PLAIN, disks, folder_of, run, sh, snapshots, terminal};
use common::{Serial, Server, image, until};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

#[test]
fn what_a_guest_writes_to_a_kept_disk_is_there_next_time() {
    let server = Server::start_living();
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
fn the_cd_is_first_when_it_is_asked_for_and_else_the_disk_and_snapshots_have_a_bound() {
    let server = Server::with(PLAIN, "snapshots_per_disk = 1", &common::living());
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
