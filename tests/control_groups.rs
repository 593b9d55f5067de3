//! Control groups of version 2, as a kernel keeps them: a small guest is booted whose groups are made as systemd makes those of the two
//! units in `conf`, and there this file's own tests run as the server would, without root.
//!
//! The host's kernel would do only where it has version 2 and delegates a group to whoever runs the tests. The guest is the tiny image's
//! kernel and root file system, with a second archive behind it that brings these programs and another first process.

mod common;

use common::{BINARY, image, until};
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use vmshare::config::{Config, Overrides, process_environment};
use vmshare::sys::child::Spawn;
use vmshare::sys::pidfd::Exit;
use vmshare::vm::cgroup::{Groups, Limits};

/// Boot and all tests of the guest; a busy host without KVM needs a quarter of it.
const GUEST: Duration = Duration::from_secs(240);
/// The last line of the guest.
const END: &str = "guest: the end";
const VMID: &str = "0a1b2c3d4e5f";
/// The smallest guest there is: what bounds it is mostly what QEMU needs.
const LIMITS: Limits = Limits { memory_mb: 8, cpus: 1 };
const MEMORY_MB: u64 = 8 + 1 + 256;

/// The guest's first process: `$DELEGATED` and `$VM_CGROUP` are what the units say.
const INIT: &str = r#"#!/bin/sh
export PATH=/bin:/sbin:/usr/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
modprobe virtio_pci
modprobe virtio_blk
modprobe isofs
chmod 666 /dev/vda
mount -t iso9660 -o ro /dev/vda /mnt
mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
cd /sys/fs/cgroup
echo "kernel $(uname -r), controllers: $(cat cgroup.controllers)"
# The groups, as systemd makes those of services with User= and Delegate=: the folder and three files are the user's, its limits are not.
enable() { for controller in $DELEGATED; do echo "+$controller" > "$1/cgroup.subtree_control"; done; }
delegate() {
  mkdir "$1"
  chown 1000:1000 "$1" "$1/cgroup.procs" "$1/cgroup.threads" "$1/cgroup.subtree_control"
}
mkdir system.slice
enable .
enable system.slice
delegate system.slice/own
delegate "$VM_CGROUP"
mkdir system.slice/vmshare.service system.slice/poor.slice
delegate system.slice/poor.slice/own
sh -c "echo \$\$ > $VM_CGROUP/cgroup.procs; exec /guest/setpriv --reuid 1000 --regid 1000 --clear-groups sleep 1000000" &

# in GROUP RIGHTS PROGRAM…: as the server's user in that group, with these rights only.
in_group() {
  group=$1 rights=$2
  shift 2
  sh -c "echo \$\$ > /sys/fs/cgroup/system.slice/$group/cgroup.procs; exec /guest/setpriv --reuid 1000 --regid 1000 --clear-groups \
    --inh-caps=-all$rights --ambient-caps=-all$rights --bounding-set=-all$rights --no-new-privs \"\$@\"" sh "$@"
}
# check NAME GROUP RIGHTS: what the command says, of a folder on the disk.
export VM_BASE_DIR=/mnt/vmshare
check() { echo "check $1:"; in_group "$2" "$3" /guest/vmshare check 2>&1; echo "end of check"; }
run() {
  name=$1
  shift
  in_group "$@" /guest/tests --ignored --exact --nocapture --test-threads 1 "$name"
  echo "guest: $name ended with $?"
}
RIGHTS=,+setuid,+setgid,+chown,+dac_override,+fowner,+kill
given=$VM_CGROUP
unset VM_CGROUP
check own own ''
run guest_bounds_vms_in_a_group_of_the_servers_own own ''
check service vmshare.service ''
run guest_says_what_a_group_lacks vmshare.service ''
run guest_says_what_a_group_lacks poor.slice/own ''
mkdir system.slice/closed
run guest_says_what_a_group_lacks closed ''
DELEGATED='memory cpu pids'
mkdir system.slice/noio.slice
enable system.slice/noio.slice
delegate system.slice/noio.slice/own
check noio noio.slice/own ''
run guest_bounds_vms_without_a_weight_at_the_disk noio.slice/own ''
export VM_CGROUP=$given
run guest_says_what_a_group_lacks vmshare.service ''
# With a disk that is divided by weights, in both ways.
disk=$(cat /sys/block/vda/dev)
echo "$disk enable=1" > /sys/fs/cgroup/io.cost.qos
check costs vmshare.service $RIGHTS
echo "$disk enable=0" > /sys/fs/cgroup/io.cost.qos
modprobe bfq
check unused vmshare.service $RIGHTS
echo bfq > /sys/block/vda/queue/scheduler
check bfq vmshare.service $RIGHTS
run guest_bounds_vms_in_the_group_that_is_held_for_them vmshare.service $RIGHTS
cd /
echo "left: $(find /sys/fs/cgroup -name 'vmshare-*' -type d -not -name '*.service' | tr '\n' ' ')."
echo "guest: the end"
reboot -f
"#;

/// What a unit of `conf` says.
fn unit(name: &str, key: &str) -> String {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("conf").join(name)).expect("the unit");
    text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("{name} has no {key}")).to_owned()
}

fn run(command: &mut Command) -> String {
    let done = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(done.status.success(), "{command:?}: {done:?}");
    String::from_utf8(done.stdout).expect("text")
}

/// Puts a program of the host and the libraries it needs into the guest's root.
fn put(root: &Path, program: &Path, place: &str) {
    let target = root.join(place);
    fs::create_dir_all(target.parent().expect("a folder")).expect("folder");
    // Without what only a debugger needs it is a tenth.
    run(Command::new("strip").arg("-o").arg(&target).arg(program));
    for word in run(Command::new("ldd").arg(program)).split_whitespace().filter(|word| word.starts_with('/')) {
        let target = root.join(word.trim_start_matches('/'));
        fs::create_dir_all(target.parent().expect("a folder")).expect("folder");
        fs::copy(word, target).unwrap_or_else(|e| panic!("{word}: {e}"));
    }
}

/// The guest's kernel and its root file system.
fn make_guest(folder: &Path) -> (PathBuf, PathBuf) {
    let (kernel, initrd, root) = (folder.join("vmlinuz"), folder.join("initrd"), folder.join("root"));
    run(Command::new("xorriso")
        .args(["-osirrox", "on", "-indev"])
        .arg(image())
        .args(["-extract", "/vmlinuz"])
        .arg(&kernel)
        .args(["-extract", "/initrd.gz"])
        .arg(&initrd));
    put(&root, &std::env::current_exe().expect("this program"), "guest/tests");
    put(&root, Path::new(BINARY), "guest/vmshare");
    put(&root, Path::new("/usr/bin/setpriv"), "guest/setpriv");
    let settings = format!(
        "DELEGATED='{}'\n{}\n",
        unit("vmshare-vms.service", "Delegate="),
        unit("vmshare.service", "Environment=")
    );
    fs::write(root.join("init"), INIT.replacen('\n', &format!("\n{settings}"), 1)).expect("init");
    // Archives may follow one another, each at a multiple of four; of two files of one name the later counts.
    let size = fs::metadata(&initrd).expect("the image's archive").len().next_multiple_of(4);
    // Whoever runs the tests, with whatever umask: in there all is root's, and the server's user may run it.
    let pack = "chmod u+w ../initrd && truncate -s $1 ../initrd && chmod -R a+rX . && chmod 755 init \
        && find . | cpio -o -H newc -R 0:0 --quiet >> ../initrd";
    run(Command::new("sh").args(["-c", pack, "sh"]).arg(size.to_string()).current_dir(&root));
    (kernel, initrd)
}

/// A guest that is ended with the test, however that ends.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the guest says until its end.
fn boot(kernel: &Path, initrd: &Path) -> String {
    let mut guest = Guest(
        Command::new("qemu-system-x86_64")
            .args(["-nodefaults", "-no-reboot", "-accel", "tcg", "-smp", "2", "-m", "640", "-display", "none"])
            .args([
                "-serial",
                "stdio",
                "-append",
                "console=ttyS0 quiet loglevel=4 tsc=unstable no_timer_check panic=-1",
            ])
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(initrd)
            .arg("-drive")
            .arg(format!("file={},format=raw,if=virtio,readonly=on", image().display()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("QEMU starts"),
    );
    let (tell, told) = mpsc::channel();
    let lines = BufReader::new(guest.0.stdout.take().expect("piped")).split(b'\n');
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| tell.send(line)));
    let (began, mut said) = (Instant::now(), String::new());
    while let Ok(line) = told.recv_timeout(GUEST.saturating_sub(began.elapsed())) {
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        said.push_str(&format!("{line}\n"));
        if line.ends_with(END) {
            println!("the guest took {} ms", began.elapsed().as_millis());
            return said;
        }
    }
    panic!("the guest did not come to its end within {} s; it said:\n{said}", GUEST.as_secs());
}

#[test]
fn the_kernel_bounds_vms_in_delegated_groups_of_version_2_and_where_there_is_none_it_is_said() {
    let folder = common::folder();
    let (kernel, initrd) = make_guest(folder.path());
    let said = boot(&kernel, &initrd);
    let ended: Vec<&str> = said
        .lines()
        .filter_map(|line| line.split_once("guest: ")?.1.split_once(" ended with "))
        .map(|(_, code)| code)
        .collect();
    assert_eq!(ended, ["0"; 7], "a test failed in the guest:\n{said}");
    assert_eq!(said.matches("test result: ok. 1 passed").count(), 7, "{said}");
    let check = |name: &str| {
        let (_, rest) =
            said.split_once(&format!("check {name}:\n")).unwrap_or_else(|| panic!("no check {name}: {said}"));
        rest.split("end of check").next().expect("a beginning").to_owned()
    };
    for (name, is_divided) in [("own", false), ("costs", true), ("unused", false), ("bfq", true)] {
        let said = check(name);
        assert!(said.contains("ok      VMs are bounded"), "{name}: {said}");
        assert_eq!(said.contains("vda goes by no weights"), !is_divided, "{name}: {said}");
        assert!(!said.contains("delegate io too"), "{name}: {said}");
    }
    let without = check("noio");
    assert!(without.contains("ok      VMs are bounded") && without.contains("delegate io too"), "{without}");
    let service = check("service");
    assert!(service.contains("WARNING VMs are not bounded") && service.contains("vmshare-vms.service"), "{service}");
    assert!(said.contains("\nleft: ."), "groups are left:\n{said}");
}

fn look() -> Groups {
    // A mistake here would move whoever runs the tests.
    assert!(fs::metadata("/guest/tests").is_ok(), "this is for the guest that the other test of this file boots");
    let (config, _) = Config::load(&Overrides::default(), process_environment(), Path::new("/")).expect("settings");
    Groups::look(&config)
}

fn own_group() -> String {
    fs::read_to_string("/proc/self/cgroup").expect("cgroup").trim().to_owned()
}

/// A VM's process: a shell that does what QEMU would not.
struct Vm {
    child: vmshare::sys::child::Child,
    group: PathBuf,
}

impl Vm {
    fn start(groups: &Groups, user: Option<u32>, script: &str) -> Self {
        let made = groups.make(VMID, LIMITS).expect("groups");
        let args = ["-c", script].map(OsString::from);
        let spawn = Spawn {
            uid_gid: user.map(|uid| (uid, uid)),
            cgroups: &made,
            ..Spawn::new(OsStr::new("/bin/sh"), &args, Path::new("/"))
        };
        let child = spawn.start().expect("a process in the group");
        let own = fs::read_to_string(format!("/proc/{}/cgroup", child.pid)).expect("cgroup");
        let group = Path::new("/sys/fs/cgroup").join(own.trim().trim_start_matches("0::/"));
        let name = group.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(name.starts_with("vmshare-") && name.ends_with(VMID), "it is in {own}");
        let vm = Self { child, group };
        assert!(
            vm.said("cgroup.procs").lines().any(|pid| pid == vm.child.pid.to_string()),
            "{}",
            vm.said("cgroup.procs")
        );
        vm
    }

    fn said(&self, file: &str) -> String {
        let path = self.group.join(file);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_owned()
    }

    /// A number from a file of names and numbers.
    fn counted(&self, file: &str, name: &str) -> u64 {
        let text = self.said(file);
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or_else(|| panic!("{file} has no {name}: {text}"))
    }

    fn ended(&self) -> Exit {
        assert!(self.child.pidfd.wait(common::PATIENT).expect("waited for"), "it does not end");
        self.child.pidfd.reap().expect("reaped").expect("it has ended")
    }

    /// Ends whatever is in the group.
    fn kill(&self) {
        fs::write(self.group.join("cgroup.kill"), "1").expect("killed");
        self.ended();
    }
}

/// What the kernel makes of a VM's limits, and that nothing of the VM is left.
fn assert_bounds(groups: &Groups, user: Option<u32>, with_bfq: bool) {
    let vm = Vm::start(groups, user, "(while :; do :; done) & while :; do :; done");
    if let Some(uid) = user {
        assert_eq!(fs::metadata(format!("/proc/{}", vm.child.pid)).expect("about").uid(), uid);
        // What a service manager made hereditary stays with the server.
        let status = fs::read_to_string(format!("/proc/{}/status", vm.child.pid)).expect("status");
        for rights in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert!(status.contains(&format!("{rights}:\t0000000000000000\n")), "{rights}: {status}");
        }
    }
    let (processors, tasks) = (vm.said("cpu.max"), vm.said("pids.max"));
    assert_eq!((processors.as_str(), tasks.as_str()), ("120000 100000", "161"));
    assert_eq!((vm.said("memory.max"), vm.said("memory.swap.max")), ((MEMORY_MB << 20).to_string(), "0".into()));
    assert_eq!(vm.said("io.weight"), "default 50");
    assert_eq!(vm.group.join("io.bfq.weight").exists(), with_bfq);
    if with_bfq {
        assert_eq!(vm.said("io.bfq.weight"), "default 50");
    }
    until("two busy loops are held back to one processor and a fifth", || {
        (vm.counted("cpu.stat", "nr_throttled") > 0).then_some(())
    });
    // The next server finds the group in use, and the limits as they are.
    let mut next = look();
    next.enter().expect("entered again");
    next.sweep(&HashSet::from([VMID.to_owned()]));
    assert_eq!(vm.said("pids.max"), "161");
    vm.kill();
    groups.remove(VMID);
    assert!(!vm.group.exists(), "{} is left", vm.group.display());

    let vm = Vm::start(groups, user, "n=0; while [ $n -lt 300 ]; do sleep 1000 & n=$((n + 1)); done; wait");
    until("the kernel refuses a process", || (vm.counted("pids.events", "max") > 0).then_some(()));
    let there: u64 = vm.said("pids.current").parse().expect("a number");
    assert!((100..=161).contains(&there), "{there} processes");
    fs::write(vm.group.join("cgroup.kill"), "1").expect("killed");
    vm.ended();
    groups.remove(VMID);
    assert!(!vm.group.exists(), "{} is left", vm.group.display());

    let more = format!(
        "dd if=/dev/vda of=/dev/null bs=1M count=2; dd if=/dev/zero of=/dev/null bs={}M count=1",
        MEMORY_MB + 20
    );
    let vm = Vm::start(groups, user, &format!("{more}; exit 7"));
    assert_eq!(vm.ended(), Exit::Code(7));
    assert!(groups.was_short_of_memory(VMID), "{}", vm.said("memory.events"));
    assert!(vm.counted("memory.events", "oom_kill") == 1, "{}", vm.said("memory.events"));
    let read = fs::read_to_string(groups.io_file(VMID).expect("where it is told")).expect("io.stat");
    let bytes = read.split_whitespace().find_map(|word| word.strip_prefix("rbytes=")?.parse::<u64>().ok());
    assert!(bytes.is_some_and(|bytes| bytes >= 2 << 20), "2 MiB were read: {read}");
    groups.sweep(&HashSet::from([VMID.to_owned()]));
    assert!(vm.group.exists(), "a VM's group was swept");
    groups.sweep(&HashSet::new());
    assert!(!vm.group.exists(), "{} is left", vm.group.display());
    groups.remove(VMID);
}

#[test]
#[ignore = "for the guest"]
fn guest_bounds_vms_in_a_group_of_the_servers_own() {
    let mut groups = look();
    assert_eq!(groups.missing(), None);
    assert!(groups.weigh_disks());
    groups.enter().expect("the group is divided");
    assert_eq!(own_group(), "0::/system.slice/own/server");
    assert_bounds(&groups, None, false);
}

#[test]
#[ignore = "for the guest"]
fn guest_bounds_vms_in_the_group_that_is_held_for_them() {
    let mut groups = look();
    assert_eq!(groups.missing(), None);
    groups.enter().expect("the group is divided");
    assert_eq!(own_group(), "0::/system.slice/vmshare.service", "the server stays in its own");
    let given = PathBuf::from(std::env::var_os("VM_CGROUP").expect("of the unit"));
    assert_eq!(fs::read_to_string(given.join("server/cgroup.procs")).expect("procs").lines().count(), 1, "its holder");
    assert_bounds(&groups, Some(1_900_000_000), true);
}

#[test]
#[ignore = "for the guest"]
fn guest_bounds_vms_without_a_weight_at_the_disk() {
    let mut groups = look();
    assert_eq!((groups.missing(), groups.weigh_disks()), (None, false));
    groups.enter().expect("the group is divided");
    let vm = Vm::start(&groups, None, "sleep 1000");
    assert_eq!((vm.said("pids.max").as_str(), vm.group.join("io.weight").exists()), ("161", false));
    vm.kill();
    groups.remove(VMID);
    assert!(!vm.group.exists(), "{} is left", vm.group.display());
}

/// For each group in which the guest runs it.
#[test]
#[ignore = "for the guest"]
fn guest_says_what_a_group_lacks() {
    let mut groups = look();
    let own = own_group();
    let expected = match (own.as_str(), std::env::var_os("VM_CGROUP")) {
        (_, Some(_)) => "vm_cgroup needs CAP_DAC_OVERRIDE",
        ("0::/system.slice/vmshare.service", None) => "set vm_cgroup to that of vmshare-vms.service",
        ("0::/system.slice/closed", None) => "/system.slice/closed is not delegated to this process",
        ("0::/system.slice/poor.slice/own", None) => "does not offer memory, cpu, pids",
        (other, _) => panic!("{other} is no group of these tests"),
    };
    let why = groups.missing().expect("there are no limits").to_owned();
    assert!(why.contains(expected), "{own}: {why}");
    println!("said of {own}: {why}");
    // VMs start all the same, where the server is.
    groups.enter().expect("nothing to do");
    let made = groups.make(VMID, LIMITS).expect("no groups");
    assert!(made.is_empty());
    assert_eq!((own_group(), groups.io_file(VMID)), (own, None));
    groups.remove(VMID);
}
