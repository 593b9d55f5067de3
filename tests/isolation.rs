//! What keeps a VM apart from the server, from the host and from other VMs: seen on the processes of real guests, and tried.

mod common;

use common::{Server, image, until};
use serde_json::{Value, json};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use vmshare::sys::child::Spawn;
use vmshare::sys::pidfd::Exit;
use vmshare::sys::user::euid;

fn pid(vm: &Value) -> u32 {
    vm["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("pid")
}

fn run_dir(server: &Server, vm: &Value) -> PathBuf {
    server.base().join("runs").join(vm["vmid"].as_str().expect("vmid"))
}

/// A line of `/proc/PID/status`.
fn status(pid: u32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = text.lines().find_map(|line| line.strip_prefix(field)).expect("field");
    line.trim_start_matches(':').split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whom VMs run as here: users of their own where the tests may make them, else whoever runs the tests.
fn uid_of(vm: &Value) -> u32 {
    let uids = status(pid(vm), "Uid");
    let uid: u32 = uids.split(' ').next().expect("uid").parse().expect("uid");
    assert_eq!(uids, format!("{uid} {uid} {uid} {uid}"), "a way back to another user is left");
    if euid() == 0 {
        assert!((1_900_000_000..=1_900_065_535).contains(&uid), "{uid}");
        assert_eq!(status(pid(vm), "Gid"), uids);
        assert!(["", "kvm"].contains(&named_groups(pid(vm)).as_str()), "{}", status(pid(vm), "Groups"));
    } else {
        assert_eq!(uid, euid());
    }
    uid
}

/// `kvm` where its only further group is the one of that device.
fn named_groups(pid: u32) -> String {
    let device = fs::metadata("/dev/kvm").map_or(String::new(), |about| about.gid().to_string());
    match status(pid, "Groups") {
        groups if groups.is_empty() => groups,
        groups if groups == device => "kvm".into(),
        groups => groups,
    }
}

/// What a shell of that user says, and whether it went well.
fn as_user(uid: u32, folder: &Path, script: &str) -> (bool, String) {
    let args: Vec<OsString> = ["-c", script].map(OsString::from).to_vec();
    let user = (euid() == 0).then_some((uid, uid));
    let child = Spawn { uid_gid: user, ..Spawn::new(OsStr::new("/bin/sh"), &args, folder) }.start().expect("sh");
    assert!(child.pidfd.wait(common::PATIENT).expect("waited for"), "{script} does not end");
    let mut said = Vec::new();
    for mut pipe in [child.stderr, child.stdout].map(fs::File::from) {
        // A process that another test forks has this pipe until its exec: there is no end to read yet then.
        common::until("its output has an end", || pipe.read_to_end(&mut said).ok());
    }
    let said = String::from_utf8(said).expect("text");
    (child.pidfd.reap().expect("reaped") == Some(Exit::Code(0)), said)
}

#[test]
fn a_vm_is_a_user_of_its_own_who_can_reach_nothing_but_its_folder() {
    let profile = format!("base_image = {:?}", image());
    let server = Server::with("tls = \"off\"\nstop_vms_on_exit = true", "", &profile);
    let (ada, ben) = (server.sign_up("ada"), server.sign_up("ben"));
    let one = server.call("POST", "/run-iso", &ada, &json!({"data_disk_gb": 1, "persistence": "ephemeral"})).json["vm"]
        .clone();
    let two = server.launch(&ben);
    let (first, second) = (uid_of(&one), uid_of(&two));
    for vm in [&one, &two] {
        let status = |field| status(pid(vm), field);
        assert_eq!((status("NoNewPrivs"), status("Seccomp")), ("1".into(), "2".into()));
        for rights in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(status(rights), "0000000000000000", "{rights}");
        }
        let about = fs::metadata(run_dir(&server, vm)).expect("run folder");
        assert_eq!((about.uid(), about.permissions().mode() & 0o777), (uid_of(vm), 0o700));
        // Nothing of the server's environment, and no open file but its own.
        let environment = fs::read_to_string(format!("/proc/{}/environ", pid(vm))).expect("environ");
        assert!(!environment.contains("CARGO") && environment.contains("LC_ALL=C.UTF-8"), "{environment}");
        let own = [run_dir(&server, vm), image()];
        for fd in fs::read_dir(format!("/proc/{}/fd", pid(vm))).expect("fd").flatten() {
            let Ok(target) = fs::read_link(fd.path()) else { continue };
            let kind = target.to_string_lossy().into_owned();
            let plain = ["socket:[", "pipe:[", "anon_inode:", "/dev/null", "/dev/kvm", "/dev/urandom", "/memfd:"];
            let is_own = own.iter().any(|own| target.starts_with(own));
            assert!(is_own || plain.iter().any(|prefix| kind.starts_with(prefix)), "it holds {kind}");
        }
    }
    if euid() == 0 {
        assert_ne!(first, second);
        let (base, other) = (server.base(), run_dir(&server, &two));
        for (what, script) in [
            ("list the other's folder", format!("ls {}", other.display())),
            ("take the other's screen", format!("cat {}/vnc.sock", other.display())),
            ("read the server's secret", format!("cat {}/secret", base.display())),
            ("list the users", format!("ls {}/users", base.display())),
            ("read the database", format!("ls {}/postgres", base.display())),
            ("signal the other", format!("kill -0 {}", pid(&two))),
            ("signal the server", format!("kill -0 {}", server.pid())),
            ("read the other's memory", format!("cat /proc/{}/maps", pid(&two))),
        ] {
            let (done, said) = as_user(first, &run_dir(&server, &one), &script);
            assert!(
                !done && said.to_lowercase().contains("not permitted") || said.contains("ermission denied"),
                "it could {what}: {said}"
            );
        }
        let (done, said) = as_user(first, &run_dir(&server, &one), "touch mine && ls . && rm mine");
        assert!(done, "its own folder is its own: {said}");
    }
    let checked = server.command(&["check"], "");
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    let expected =
        if euid() == 0 { "each VM runs as a user of its own" } else { "WARNING VMs run as the server's own" };
    assert!(said.contains(expected), "{said}");
    server.stop(&ada, &one);
    server.stop(&ben, &two);
    server.assert_nothing_left();
    server.end();
}

#[test]
fn what_runs_a_vm_can_write_to_its_folder_and_nowhere_else() {
    let folder = common::folder();
    let (open, program) = (folder.path().join("open"), folder.path().join("qemu"));
    fs::create_dir(&open).expect("folder");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).expect("chmod");
    // QEMU, as somebody who has broken out of it.
    let script = format!(
        "#!/bin/sh\ncase $* in *--version*|*trial*) ;; *) (echo x > {0}/made; mkdir {0}/sub; ln -s x /dev/shm/vmsi-$$) 2> refused; echo y > mine;; esac\n\
         exec qemu-system-x86_64 \"$@\"\n",
        open.display()
    );
    fs::write(&program, script).expect("program");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
    let text = common::settings(&folder.path().join("b"), "tls = \"off\"\nstop_vms_on_exit = true", "", "");
    fs::write(folder.path().join("vmshare.toml"), format!("qemu_bin = {program:?}\n{text}")).expect("settings");
    let server = Server::run(folder);
    let token = server.sign_up("breaker");
    let vm = server.launch(&token);
    let said = fs::read_to_string(run_dir(&server, &vm).join("refused")).expect("what it tried");
    assert_eq!(said.matches("Permission denied").count() + said.matches("permission denied").count(), 3, "{said}");
    assert_eq!(fs::read_dir(&open).expect("folder").count(), 0, "{said}");
    assert_eq!(fs::read_to_string(run_dir(&server, &vm).join("mine")).expect("its own"), "y\n");
    server.stop(&token, &vm);
    server.assert_nothing_left();
    server.end();
}

#[test]
fn a_vm_keeps_its_user_over_a_power_cycle_and_a_restarted_server() {
    let mut server = Server::with("tls = \"off\"\nstop_vms_on_exit = false", "", "");
    let token = server.sign_up("keeper");
    let vm = server.launch(&token);
    let uid = uid_of(&vm);
    let restart = format!("/vms/{}/restart", vm["vmid"].as_str().expect("vmid"));
    let again = server.call("POST", &restart, &token, &json!({"mode": "power-cycle"}));
    assert_eq!(again.status, 200, "{again:?}");
    assert_eq!(uid_of(&again.json), uid);
    server.kill("-KILL");
    let (_, folder, _) = server.wait();
    let server = Server::run(folder);
    let taken_back = server.call("GET", "/auth/me", &token, &Value::Null).json["vm"].clone();
    assert_eq!((&taken_back["pid"], uid_of(&taken_back)), (&again.json["pid"], uid));
    // Who comes now gets another one.
    let other = server.launch(&server.sign_up("newcomer"));
    assert!(euid() != 0 || uid_of(&other) != uid, "two VMs are one user");
    for (vm, who) in [(&taken_back, "keeper"), (&other, "newcomer")] {
        let body = json!({"email": who, "password": "correct horse"});
        let token = server.call("POST", "/auth/login", "", &body).json["token"].as_str().expect("token").to_owned();
        server.stop(&token, vm);
    }
    server.assert_nothing_left();
    server.end();
}

#[test]
fn a_screen_that_somebody_else_listens_for_is_not_shown() {
    let server = Server::start();
    let token = server.sign_up("deputy");
    let vm = server.launch(&token);
    drop(server.screen(&token, &vm));
    // What a guest that has broken out of its QEMU could do in its folder: put another VM's screen in the place of its own.
    let socket = run_dir(&server, &vm).join("vnc.sock");
    fs::remove_file(&socket).expect("removed");
    let _other = UnixListener::bind(&socket).expect("bound");
    let bearer = format!("Bearer {token}");
    let refused = server.websocket(&format!("/ws/{}", vm["http_port"]), &[("authorization", &bearer)]);
    assert_eq!(refused.map(drop).unwrap_err(), 503);
    server.wait_for_log("listens in the place of qemu");
    server.stop(&token, &vm);
    server.assert_nothing_left();
    server.end();
}

#[test]
fn a_kept_disk_that_names_a_file_of_the_host_is_refused() {
    let server = Server::start();
    let token = server.sign_up("forger");
    let made = server.call("POST", "/disks", &token, &json!({"name": "work", "size_gb": 1}));
    assert_eq!(made.status, 201, "{made:?}");
    let me = server.call("GET", "/auth/me", &token, &Value::Null).json["user"]["id"].as_str().expect("id").to_owned();
    let disk = server.base().join("users").join(me).join("disks/work.qcow2");
    // What a broken-out guest could write into the header of its disk.
    let rebased = Command::new("qemu-img")
        .args(["rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd"])
        .arg(&disk)
        .status()
        .expect("qemu-img");
    assert!(rebased.success());
    let refused = server.call("POST", "/run-iso", &token, &json!({"disk": "work"}));
    assert_eq!((refused.status, refused.code()), (409, "disk_refused"), "{refused:?}");
    let grown = server.call("POST", "/disks/work/grow", &token, &json!({"size_gb": 2}));
    assert_eq!((grown.status, grown.code()), (409, "disk_refused"), "{grown:?}");
    let body = json!({"name": "work2", "size_gb": 1});
    assert_eq!(server.call("POST", "/disks", &token, &body).status, 201, "other disks are as good as before");
    server.assert_nothing_left();
    server.end();
}

#[test]
fn a_vm_is_bounded_in_memory_processor_time_and_threads_and_nothing_of_that_is_left() {
    let server = Server::start();
    let said = String::from_utf8_lossy(&server.command(&["check"], "").stdout).into_owned();
    let token = server.sign_up("bounded");
    let vm = server.launch(&token);
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", pid(&vm))).expect("cgroup");
    if said.contains("WARNING VMs are not bounded") {
        // A host without: it is said, and VMs start all the same.
        assert!(!groups.contains("vmshare-"), "{groups}");
    } else {
        assert!(said.contains("bounded in memory"), "{said}");
        let name =
            groups.lines().find_map(|line| line.rsplit_once("/vmshare-").map(|(_, name)| name)).expect("a group");
        assert!(name.ends_with(vm["vmid"].as_str().expect("vmid")), "{groups}");
        let folders = groups_named(&format!("vmshare-{name}"));
        assert!(!folders.is_empty(), "{groups}");
        let limits: Vec<u64> = folders
            .iter()
            .flat_map(|folder| ["memory.max", "memory.limit_in_bytes"].map(|file| folder.join(file)))
            .filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok())
            .collect();
        assert_eq!(limits, [(128 + 16 + 256) << 20], "{folders:?}");
        let said = |file: &str| folders.iter().find_map(|folder| fs::read_to_string(folder.join(file)).ok());
        let quota = said("cpu.max").or_else(|| said("cpu.cfs_quota_us")).expect("a bound of processor time");
        let quota: u64 =
            quota.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number of microseconds");
        assert!((100_000..=200_000).contains(&quota), "one processor has {quota} us in 100 ms");
        let tasks: u64 = said("pids.max").and_then(|n| n.trim().parse().ok()).expect("a bound of threads");
        assert!((16..=512).contains(&tasks), "{tasks} threads");
        for folder in &folders {
            let tasks = fs::read_to_string(folder.join("cgroup.procs")).expect("procs");
            assert_eq!(tasks.trim(), pid(&vm).to_string(), "{}", folder.display());
        }
    }
    server.stop(&token, &vm);
    server.assert_nothing_left();
    until("its control groups are gone", || {
        groups_named(&format!("-{}", vm["vmid"].as_str().expect("vmid"))).is_empty().then_some(())
    });
    server.end();
}

/// Control groups whose name ends so.
fn groups_named(end: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, end: &str, found: &mut Vec<PathBuf>, depth: u32) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) && depth > 0 {
                if entry.file_name().to_string_lossy().ends_with(end) {
                    found.push(entry.path());
                }
                walk(&entry.path(), end, found, depth - 1);
            }
        }
    }
    let mut found = Vec::new();
    walk(Path::new("/sys/fs/cgroup"), end, &mut found, 8);
    found
}
