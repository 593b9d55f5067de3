//! `vmshare vm …` and `vmshare image …`, beside a running server and without one.

mod common;

use common::{BINARY, Server, closed, until};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};
use vmshare::sys::pidfd::PidFd;
use vmshare::sys::signal::Signal;
use vmshare::sys::user::euid;

const STAYS: &str = "tls = \"off\"\nstop_vms_on_exit = false";
const WHY: &str = "stopped by the operator";

/// A command on the settings in a folder, whether a server runs there or not.
fn vmshare(folder: &Path, args: &[&str]) -> Output {
    let file = folder.join("vmshare.toml");
    Command::new(BINARY).args(args).arg("--config").arg(file).output().expect("it runs")
}

fn beside(server: &Server, args: &[&str]) -> Output {
    vmshare(server.config_file().parent().expect("folder"), args)
}

/// What it said; it must have done what was asked.
fn done(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Why it did not.
fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn vmid(vm: &Value) -> &str {
    vm["vmid"].as_str().expect("vmid")
}

fn qemu_of(vm: &Value) -> PidFd {
    PidFd::open(u32::try_from(vm["pid"].as_u64().expect("pid")).expect("pid")).expect("qemu")
}

#[test]
fn a_command_typed_in_a_folder_that_its_user_may_not_look_into_works() {
    let folder = common::folder();
    let (closed, file) = (folder.path().join("closed"), folder.path().join("vmshare.toml"));
    fs::create_dir(&closed).expect("folder");
    fs::write(&file, common::settings(&folder.path().join("b"), "", "", "")).expect("settings");
    // Root looks into every folder, so it gives that right up.
    let become_plain = if euid() == 0 { "setpriv --bounding-set=-dac_override,-dac_read_search" } else { "" };
    let script = format!("chmod 0 . && exec {become_plain} \"$@\"");
    let typed = Command::new("/bin/sh")
        .args(["-c", &script, "sh", BINARY, "check", "--config"])
        .arg(&file)
        .current_dir(&closed)
        .output()
        .expect("it runs");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).expect("chmod");
    assert!(String::from_utf8_lossy(&typed.stdout).contains("made at the first start"), "{typed:?}");
    assert!(!String::from_utf8_lossy(&typed.stderr).contains(".env"), "{typed:?}");
}

#[test]
fn a_command_whose_reader_has_seen_enough_ends_without_a_word() {
    let folder = common::folder();
    let file = folder.path().join("vmshare.toml");
    fs::write(&file, common::settings(&folder.path().join("b"), "", "", "")).expect("settings");
    let (image, file) = (common::image(), file.as_os_str());
    for (args, last) in [(["image", "check"], image.as_os_str()), (["check", "--config"], file)] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let ended = Command::new(BINARY).args(args).arg(last).stdout(writer).output().expect("it runs");
        assert_eq!(String::from_utf8_lossy(&ended.stderr), "", "{args:?}");
        assert!(!ended.status.success(), "{args:?}: nothing was printed");
    }
}

#[test]
fn an_operator_lists_shows_and_stops_vms_beside_the_server() {
    let server = Server::with(STAYS, "", "");
    let token = server.sign_up("ann");
    let vm = server.launch(&token);
    let listed = done(&beside(&server, &["vm", "list"]));
    for word in [vmid(&vm), "ann", "running", "custom", "128 MiB", &vm["pid"].to_string(), &vm["http_port"].to_string()]
    {
        assert!(listed.contains(word), "{word}: {listed}");
    }
    let line: Value = serde_json::from_str(&done(&beside(&server, &["vm", "list", "--json"]))).expect("one line");
    for same in ["vmid", "state", "pid", "vnc_port", "http_port", "memory_mb", "iso"] {
        assert_eq!(line[same], vm[same], "{same}");
    }
    let shown: Value =
        serde_json::from_str(&done(&beside(&server, &["vm", "show", vmid(&vm), "--json"]))).expect("json");
    assert_eq!((&shown, &shown["alive"]), (&line, &json!(true)));
    let shown = done(&beside(&server, &["vm", "show", vmid(&vm)]));
    assert!(shown.contains("image     still.iso") && shown.contains("user      ann ("), "{shown}");

    let mut screen = server.screen(&token, &vm);
    let said = done(&beside(&server, &["vm", "stop", vmid(&vm)]));
    assert_eq!(said, format!("{} stopped: {WHY}\n", vmid(&vm)));
    assert_eq!(closed(&mut screen), (1000, "VM stopped".to_owned()));
    let now = server.call("GET", &format!("/vms/{}", vmid(&vm)), &token, &Value::Null).json;
    assert_eq!((&now["state"], &now["exit"]), (&json!("stopped"), &json!(WHY)), "{now}\n{}", server.said());
    let audited = "select count(*) from audit where action = 'stop vm' and ip = 'command line' and target = ";
    assert_eq!(server.count(&format!("{audited}'{}'", vmid(&vm))), 1);
    server.assert_nothing_left();

    let again = refused(&beside(&server, &["vm", "stop", vmid(&vm)]));
    assert!(again.contains("does not run: it stopped at") && again.contains(WHY), "{again}");
    let unknown = refused(&beside(&server, &["vm", "stop", "000000000000", vmid(&vm)]));
    assert!(
        unknown.contains("there is no VM 000000000000") && unknown.contains("2 of 2 VMs are not stopped"),
        "{unknown}"
    );
    assert!(done(&beside(&server, &["vm", "list"])).starts_with("no VMs now"));
    let all = done(&beside(&server, &["vm", "list", "--all"]));
    assert!(all.contains(vmid(&vm)) && all.contains(WHY), "{all}");
    server.end();
}

#[test]
fn a_qemu_that_does_not_hear_is_killed_and_its_vm_is_stopped_all_the_same() {
    let server = Server::with(STAYS, "", "");
    let token = server.sign_up("deaf");
    let vm = server.launch(&token);
    let frozen = Command::new("kill").args(["-STOP", &vm["pid"].to_string()]).status().expect("kill");
    assert!(frozen.success());
    assert_eq!(done(&beside(&server, &["vm", "stop", vmid(&vm)])), format!("{} stopped: {WHY}\n", vmid(&vm)));
    server.assert_nothing_left();
    // The ports rest or are free: the next VM starts.
    let next = server.launch(&token);
    done(&beside(&server, &["vm", "stop", vmid(&next)]));
    server.assert_nothing_left();
    server.end();
}

#[test]
fn a_vm_is_stopped_without_a_server_and_the_next_one_finds_nothing_of_it() {
    let mut server = Server::with(STAYS, "", "");
    let token = server.sign_up("orphan");
    let vm = server.launch(&token);
    server.kill("-TERM");
    let (_, folder, said) = server.wait();
    let listed = done(&vmshare(folder.path(), &["vm", "list"]));
    assert!(listed.contains(vmid(&vm)) && listed.contains("running"), "{listed}\n{said}");
    assert_eq!(done(&vmshare(folder.path(), &["vm", "stop", vmid(&vm)])), format!("{} stopped: {WHY}\n", vmid(&vm)));
    assert!(!folder.path().join("b/runs").join(vmid(&vm)).exists(), "its folder is gone");
    let shown = done(&vmshare(folder.path(), &["vm", "show", vmid(&vm)]));
    assert!(shown.contains("state     stopped") && shown.contains("pid       -"), "{shown}");

    let server = Server::run(folder);
    let now = server.call("GET", &format!("/vms/{}", vmid(&vm)), &token, &Value::Null).json;
    assert_eq!((&now["state"], &now["exit"]), (&json!("stopped"), &json!(WHY)), "{now}");
    server.assert_nothing_left();
    let rested = "select count(*) from ports p, vms v where p.free_after >= v.ended_at";
    assert_eq!(server.count(rested), 2, "its ports cool down from then on");
    let next = server.launch(&token);
    server.stop(&token, &next);
    server.end();
}

#[test]
fn a_stop_whose_command_died_is_finished_by_the_next_server_with_its_reason() {
    let mut server = Server::with(STAYS, "", "");
    let token = server.sign_up("half");
    let vm = server.launch(&token);
    let mut database = server.database();
    server.kill("-KILL");
    let (_, folder, _) = server.wait();
    let begun = format!(
        "update vms set state = 'stopping'; insert into vm_events (vmid, kind, detail) values ('{}', 'stopping', '{WHY}')",
        vmid(&vm)
    );
    database.batch_execute(&begun).expect("begun");
    drop(database);
    let qemu = qemu_of(&vm);
    qemu.send(Signal::Kill).expect("sent");
    assert!(qemu.wait(common::PATIENT).expect("poll"), "qemu ends");
    let shown = done(&vmshare(folder.path(), &["vm", "show", vmid(&vm)]));
    assert!(shown.contains("which is gone"), "{shown}");
    let gone = refused(&vmshare(folder.path(), &["vm", "stop", vmid(&vm)]));
    assert!(gone.contains("has ended already"), "{gone}");
    let server = Server::run(folder);
    let now = until("its end is told", || {
        let now = server.call("GET", &format!("/vms/{}", vmid(&vm)), &token, &Value::Null).json;
        (!now["ended_at"].is_null()).then_some(now)
    });
    assert_eq!((&now["state"], &now["exit"]), (&json!("stopped"), &json!(WHY)), "{now}");
    server.assert_nothing_left();
    server.end();
}

/// The header of a disk that is an overlay of a file of the host's.
fn foreign_overlay() -> Vec<u8> {
    let mut head = vec![0; 16 << 20];
    head[..4].copy_from_slice(b"QFI\xfb");
    (head[7], head[23], head[27], head[103]) = (3, 16, 1, 104);
    let backing = b"/etc/shadow";
    (head[14], head[19]) = (2, 11);
    head[512..512 + backing.len()].copy_from_slice(backing);
    head
}

#[test]
fn an_image_from_the_shell_is_for_everybody_and_stays_while_a_vm_needs_it() {
    let server = Server::with(STAYS, "", "");
    let token = server.sign_up("pupil");
    let tiny = common::image();
    let iso = tiny.to_str().expect("path");
    let added = done(&beside(&server, &["image", "add", iso, "--name", "Our Course.ISO"]));
    assert!(added.starts_with("added Our-Course.iso (iso, "), "{added}");
    let sum = added.trim_end().rsplit(' ').next().expect("sum").to_owned();
    let told = done(&Command::new("sha256sum").arg(&tiny).output().expect("sha256sum"));
    assert_eq!(told.split(' ').next(), Some(sum.as_str()));
    let folder = server.base().join("images");
    let about = fs::metadata(folder.join("Our-Course.iso")).expect("the image");
    assert_eq!((about.mode() & 0o7777, about.len()), (0o600, fs::metadata(&tiny).expect("tiny").len()));
    let mut names: Vec<_> = fs::read_dir(&folder).expect("library").flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    assert_eq!(names, ["Our-Course.iso", "Our-Course.iso.sha256"], "nothing half is left");

    let of_course = |images: &[Value]| images.iter().find(|image| image["name"] == "Our-Course.iso").cloned();
    let isos = server.call("GET", "/isos", &token, &Value::Null).json["isos"].clone();
    let of_server = of_course(isos.as_array().expect("isos")).expect("the server has it");
    let lines = done(&beside(&server, &["image", "list", "--user", "pupil", "--json"]));
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("a line")).collect();
    let listed = of_course(&lines).expect("it is listed");
    for same in ["name", "format", "size", "sha256", "modified_at", "shared", "default"] {
        assert_eq!(listed[same], of_server[same], "{same}");
    }
    assert_eq!(listed["sha256"], json!(sum));
    let shared = done(&beside(&server, &["image", "list"]));
    assert!(shared.contains("Our-Course.iso") && shared.contains(&sum) && shared.lines().count() == 1, "{shared}");
    let nobody = refused(&beside(&server, &["image", "list", "--user", "nobody"]));
    assert!(nobody.contains("there is no account"), "{nobody}");

    let answer = server.call("POST", "/run-iso", &token, &json!({"iso": "Our-Course.iso"}));
    assert_eq!(answer.status, 200, "{answer:?}\n{}", server.said());
    let vm = answer.json["vm"].clone();
    let needed = refused(&beside(&server, &["image", "remove", "Our-Course.iso"]));
    assert!(needed.contains("Our-Course.iso is needed by a running VM"), "{needed}");
    done(&beside(&server, &["vm", "stop", vmid(&vm)]));
    assert_eq!(done(&beside(&server, &["image", "remove", "Our-Course.iso"])), "removed Our-Course.iso\n");
    assert_eq!(fs::read_dir(&folder).expect("library").count(), 0);
    let audited = "select count(*) from audit where ip = 'command line' and target = 'Our-Course.iso'";
    assert_eq!(server.count(audited), 2, "it came and went");
    server.end();
}

#[test]
fn images_that_cannot_be_used_or_are_there_already_are_refused_and_leave_nothing() {
    let folder = common::folder();
    let text = common::settings(&folder.path().join("b"), "tls = \"off\"", "", "");
    fs::write(folder.path().join("vmshare.toml"), text).expect("settings");
    let run = |args: &[&str]| vmshare(folder.path(), args);
    let early = refused(&run(&["image", "add", "/dev/null"]));
    assert!(early.contains("there is no such folder; start the server once"), "{early}");
    // As an account is made before the first start.
    assert!(done(&run(&["user", "list"])).contains("no accounts yet"));
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).expect("a file");
        path.to_str().expect("path").to_owned()
    };
    let small = file("small.iso", &[0; 4096]);
    let noise = folder.path().join("noise.iso");
    common::noise(&noise, 11_000_000);
    let noise = noise.to_str().expect("path");
    let overlay = file("overlay.qcow2", &foreign_overlay());
    for (path, why) in [
        (small.as_str(), "only 4096 bytes"),
        (noise, "no CD001"),
        (overlay.as_str(), "overlay of another file"),
        ("/dev/zero", "no plain file"),
        ("/nowhere.iso", "/nowhere.iso: No such file"),
    ] {
        for command in ["check", "add"] {
            let told = refused(&run(&["image", command, path]));
            assert!(told.contains(why), "{command} {path}: {told}");
        }
    }
    let disguised = refused(&run(&["image", "add", &overlay, "--format", "raw", "--name", "a"]));
    assert!(disguised.contains("it is a qcow2 image"), "{disguised}");
    assert_eq!(fs::read_dir(folder.path().join("b/images")).expect("library").count(), 0, "nothing is left of them");

    let tiny = common::image();
    let iso = tiny.to_str().expect("path");
    done(&run(&["image", "add", iso]));
    let taken = refused(&run(&["image", "add", iso]));
    assert!(taken.contains("tiny.iso is in the library already"), "{taken}");
    let checked = done(&run(&["image", "check", iso]));
    assert!(
        checked.contains("format  iso") && checked.contains("known   no") && checked.contains("boots   yes"),
        "{checked}"
    );
    let known = done(&run(&["image", "known", "--json"]));
    let known: Value = serde_json::from_str(known.lines().next().expect("one")).expect("json");
    let renamed = folder.path().join(known["file"].as_str().expect("file"));
    fs::copy(&tiny, &renamed).expect("a copy");
    let wrong = refused(&run(&["image", "check", renamed.to_str().expect("path")]));
    assert!(wrong.contains("and not its SHA-256"), "{wrong}");
    let missing = refused(&run(&["image", "remove", "other.iso"]));
    assert!(missing.contains("there is no image other.iso"), "{missing}");
    let outside = refused(&run(&["image", "remove", "../lock"]));
    assert!(outside.contains("no image of this name"), "{outside}");
}

#[test]
fn a_disk_that_is_an_overlay_keeps_its_image_and_a_broken_off_copy_goes() {
    let folder = common::folder();
    let text = common::settings(&folder.path().join("b"), "tls = \"off\"", "leftover_hours = 0", "");
    fs::write(folder.path().join("vmshare.toml"), text).expect("settings");
    let run = |args: &[&str]| vmshare(folder.path(), args);
    let qemu_img = |args: &[&str]| done(&Command::new("qemu-img").args(args).output().expect("qemu-img"));
    done(&run(&["user", "list"]));
    let (base, library) = (folder.path().join("base.qcow2"), folder.path().join("b/images"));
    let base = base.to_str().expect("path");
    qemu_img(&["create", "-q", "-f", "qcow2", base, "1G"]);
    let added = done(&run(&["image", "add", base]));
    assert!(added.starts_with("added base.qcow2 (qcow2, "), "{added}");
    let disks = folder.path().join("b/users/0a/disks");
    fs::create_dir_all(&disks).expect("disks");
    let (image, disk) = (library.join("base.qcow2"), disks.join("work.qcow2"));
    let (image, disk) = (image.to_str().expect("path"), disk.to_str().expect("path"));
    qemu_img(&["create", "-q", "-f", "qcow2", "-b", image, "-F", "qcow2", disk]);
    let needed = refused(&run(&["image", "remove", "base.qcow2"]));
    assert!(needed.contains("is needed by the disk work: remove that first"), "{needed}");
    fs::remove_file(disk).expect("the disk goes");
    assert_eq!(done(&run(&["image", "remove", "base.qcow2"])), "removed base.qcow2\n");

    let half = library.join(".big.iso.0123.part");
    fs::write(&half, "half").expect("a copy");
    let old = fs::File::options().write(true).open(&half).expect("it");
    old.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("old");
    assert!(done(&run(&["image", "list"])).starts_with("no images yet"));
    let cleaned = done(&run(&["clean"]));
    assert!(cleaned.contains("image half in its place") && !half.exists(), "{cleaned}");
}
