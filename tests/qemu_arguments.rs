//! The command line of `vm::args` given to the QEMU that is installed: it must take every option, make its sockets, and come up
//! as root and as a plain user, with either graphics card, on a file that is no bootable CD.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};
use vmshare::sys::child::Spawn;
use vmshare::sys::pidfd::Exit;
use vmshare::sys::user::{euid, lookup_user};
use vmshare::vm::args::{self, Accel, Disk, Machine, Network, Video, Vnc};
use vmshare::vm::disk_args;
use vmshare::vm::programs;

/// Enough for a busy test machine; nothing waits for it in vain.
const PATIENT: Duration = Duration::from_secs(60);

/// The monitor's socket is there a moment after the start; there is no event for that, so this asks again.
fn connect(path: &Path) -> UnixStream {
    let start = Instant::now();
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return stream,
            Err(e) => assert!(start.elapsed() < PATIENT, "{}: {e}", path.display()),
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Starts the machine, greets its monitor, lets it quit, and returns what it wrote to standard error.
fn run(disk: Option<File>, change: impl FnOnce(&mut Machine<'_>), uid_gid: Option<(u32, u32)>) -> String {
    let base = tempfile::tempdir().unwrap();
    fs::set_permissions(base.path(), Permissions::from_mode(0o711)).unwrap();
    let (iso, run_dir) = (base.path().join("odd, name.iso"), base.path().join("run"));
    File::create(&iso).unwrap().set_len(11 << 20).unwrap();
    // Only we may read it: it is handed over open.
    fs::set_permissions(&iso, Permissions::from_mode(0o600)).unwrap();
    let mut files = vec![File::open(&iso).unwrap()];
    fs::create_dir(&run_dir).unwrap();
    fs::set_permissions(&run_dir, Permissions::from_mode(0o700)).unwrap();
    if let Some((uid, gid)) = uid_gid {
        chown(&run_dir, Some(uid), Some(gid)).unwrap();
    }
    let disks: Vec<Disk> = disk.iter().map(|disk| Disk { fd: disk.as_raw_fd(), base: None }).collect();
    files.extend(disk);
    let qemu = programs::find_qemu(None).unwrap();
    let mut machine = Machine {
        qemu: &qemu,
        version: programs::version(&qemu).unwrap(),
        accel: Accel::Tcg,
        name: "vm-test",
        memory_mb: 64,
        cpus: 1,
        cd: Some(files[0].as_raw_fd()),
        run_dir: &run_dir,
        vnc: Vnc::Unix,
        network: Network::Restricted,
        video: Video::Std,
        disks: &disks,
        order: args::BootOrder::Cd,
        viewers: 68,
    };
    change(&mut machine);
    let line: Vec<OsString> = args::qemu(&machine).unwrap();
    let (program, args) = line.split_first().unwrap();
    let child = Spawn { uid_gid, files: &files, ..Spawn::new(program, args, &run_dir) }.start().unwrap();

    // A machine that refused its options ends at once: then its own words are the message.
    let started = Instant::now();
    while !machine.qmp_socket().exists() && !child.pidfd.has_exited().unwrap() && started.elapsed() < PATIENT {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    if !child.pidfd.has_exited().unwrap() {
        quit(&connect(&machine.qmp_socket()));
        for socket in [machine.serial_socket(), machine.qmp_socket()] {
            assert!(!socket.exists() || socket.metadata().unwrap().permissions().mode() & 0o077 == 0);
        }
    }
    assert!(child.pidfd.wait(PATIENT).unwrap(), "QEMU does not quit");
    let mut errors = String::new();
    File::from(child.stderr).read_to_string(&mut errors).unwrap();
    assert_eq!(child.pidfd.reap().unwrap(), Some(Exit::Code(0)), "{errors}");
    errors
}

fn quit(mut monitor: &UnixStream) {
    monitor.set_read_timeout(Some(PATIENT)).unwrap();
    let mut lines = BufReader::new(monitor);
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert!(line.contains("\"QMP\""), "{line}");
    monitor
        .write_all(b"{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"query-status\"}\n{\"execute\":\"quit\"}\n")
        .unwrap();
    let mut rest = String::new();
    // A reset instead of an end is as good: it may come before the answer is read.
    drop(lines.read_to_string(&mut rest));
    assert!(rest.contains("\"running\": true") && !rest.contains("\"error\""), "{rest}");
}

#[test]
fn qemu_takes_every_option_and_says_nothing() {
    assert_eq!(run(None, |_| {}, None), "");
}

#[test]
fn qemu_takes_the_virtio_screen_no_network_and_a_scratch_disk() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("a,b.qcow2");
    let create = disk_args::qemu_img_create(
        &programs::find_qemu_img(None).unwrap(),
        &disk,
        &disk_args::NewDisk { gb: Some(1), base: None },
    )
    .unwrap();
    let made = std::process::Command::new(&create[0]).args(&create[1..]).status().unwrap();
    assert!(made.success(), "{create:?}");
    let disk = File::options().read(true).write(true).open(&disk).unwrap();
    let change = |m: &mut Machine<'_>| (m.video, m.network, m.cpus) = (Video::Virtio, Network::None, 2);
    assert_eq!(run(Some(disk), change, None), "");
}

#[test]
fn qemu_runs_as_a_plain_user_with_both_cards() {
    let Some(nobody) = lookup_user("nobody").unwrap().filter(|_| euid() == 0) else { return };
    assert_eq!(run(None, |_| {}, Some(nobody)), "");
    assert_eq!(run(None, |m| m.video = Video::Virtio, Some(nobody)), "");
}

#[test]
fn qemu_offers_its_screen_on_a_tcp_port() {
    // A port that was free a moment ago; VNC's begin at 5900.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let change = |m: &mut Machine<'_>| m.vnc = Vnc::Tcp { host: free.ip(), port: free.port() };
    assert_eq!(run(None, change, None), "");
}
