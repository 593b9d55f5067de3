//! Which engine runs the guests here: decided by a guest that ran, not by a device file that opens.
//!
//! A `/dev/kvm` may open, make a machine, run a BIOS, and die in the first boot loader (nested or para-virtual hosts), or QEMU
//! aborts on its `-cpu host`. So after the cheap questions of `sys::kvm`, QEMU itself boots a small guest of ours
//! (`probe.S`) under KVM, as the user the machines will run as. Only its marker and its exit code prove KVM; anything else
//! means TCG, with the reason in one sentence for the log, `check` and the admin page.
//!
//! The trial's answer is kept in a file under a key of everything that could change it (QEMU, kernel, processor, user, the
//! device's rights), so it is asked once. Not kept: the cheap questions, and a trial that merely took too long without a
//! word, because a host that is busy while it boots must not lose KVM for months. A machine that stops with an internal
//! error later on adds its own answer by [`remember_failure`]. A file that cannot be read or written is no failure: the
//! trial is simply made again.
//!
//! Blocks for up to [`DEADLINE`]: for a worker thread, never for the loop.
//! Source: QEMU's docs on isa-debug-exit and isa-debugcon.

use super::args::{Accel, QemuVersion};
use crate::random;
use crate::sys::child::{self, Spawn};
use crate::sys::kvm::{self, KvmRefusal};
use crate::sys::pidfd::Exit;
use crate::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

/// How long the trial may take; it takes a fifth of a second.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// The trial's guest, assembled from `probe.S`.
const PROBE: &[u8] = include_bytes!("probe.bin");
/// The BIOS wants at least one whole cylinder of a disk.
const PROBE_DISK: u64 = 1 << 20;
/// What the guest writes last.
const MARKER: &str = "vm-share probe ok";
/// What QEMU makes of the guest's exit value 0x2a.
const PROVEN: Exit = Exit::Code(85);

/// What the settings ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// KVM where it runs, TCG elsewhere.
    Auto,
    /// KVM without a trial, as long as no failure under it is remembered.
    Kvm,
    /// TCG without a look at KVM.
    Tcg,
}

/// What decides the choice.
#[derive(Clone, Copy, Debug)]
pub struct Host<'a> {
    /// The emulator.
    pub qemu: &'a Path,
    /// Its version.
    pub version: QemuVersion,
    /// The user and group machines run as; `None` for our own.
    pub uid_gid: Option<(u32, u32)>,
    /// Their further groups, such as `sys::kvm::device_group()`.
    pub groups: &'a [u32],
    /// Where the answer is kept: `VM_BASE_DIR/accel.json`.
    pub cache_file: &'a Path,
}

/// The engine, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The engine.
    pub accel: Accel,
    /// One sentence for people.
    pub why: String,
    /// The trial was made earlier.
    pub from_cache: bool,
}

/// Chooses the engine for this host. Always has an answer.
#[must_use]
pub fn choose(wish: Wish, host: &Host<'_>) -> Choice {
    choose_by(wish, host, kvm::quick_check, DEADLINE)
}

fn choose_by(
    wish: Wish,
    host: &Host<'_>,
    quick_check: impl FnOnce() -> Result<(), KvmRefusal>,
    deadline: Duration,
) -> Choice {
    let tcg = |why: &str, from_cache| Choice { accel: Accel::Tcg, why: why.to_owned(), from_cache };
    if wish == Wish::Tcg {
        return tcg("the settings ask for TCG", false);
    }
    if wish == Wish::Kvm {
        return match recall(host.cache_file, &Key::of(host)).filter(|answer| !answer.works) {
            Some(answer) => tcg(&format!("KVM was asked for, but {}", answer.why), true),
            None => Choice { accel: Accel::Kvm, why: "the settings ask for KVM".to_owned(), from_cache: false },
        };
    }
    if let Err(refusal) = quick_check() {
        return tcg(&refusal.to_string(), false);
    }
    let key = Key::of(host);
    let (answer, from_cache) = match recall(host.cache_file, &key) {
        Some(answer) => (answer, true),
        None => {
            let (answer, definite) = try_kvm(host, key, deadline);
            if definite && let Err(e) = keep(host.cache_file, &answer) {
                log::warn!("cannot keep the answer about KVM in {}: {e}", host.cache_file.display());
            }
            (answer, false)
        }
    };
    match answer.works {
        true => Choice { accel: Accel::Kvm, why: answer.why, from_cache },
        false => tcg(&answer.why, from_cache),
    }
}

/// A machine failed under KVM in a way the trial did not see: from now on [`choose`] says TCG, with this reason, until QEMU,
/// the kernel, the processor or the rights change.
///
/// # Errors
/// When the file cannot be written.
pub fn remember_failure(host: &Host<'_>, reason: &str) -> io::Result<()> {
    let why = format!("a machine failed under KVM here: {reason}");
    keep(host.cache_file, &Answer { key: Key::of(host), works: false, why })
}

/// Everything that could change the trial's outcome.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    qemu: String,
    qemu_version: String,
    qemu_changed: i64,
    kernel: String,
    processor: String,
    user: String,
    device: String,
}

impl Key {
    fn of(host: &Host<'_>) -> Self {
        let device = fs::metadata("/dev/kvm").map(|m| format!("{:o} {} {}", m.mode(), m.uid(), m.gid()));
        Self {
            qemu: host.qemu.display().to_string(),
            qemu_version: host.version.to_string(),
            qemu_changed: fs::metadata(host.qemu).map_or(0, |meta| meta.mtime()),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            processor: processor(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
            user: format!("{:?} {:?}", host.uid_gid, host.groups),
            device: device.unwrap_or_default(),
        }
    }
}

fn processor(cpuinfo: &str) -> String {
    let name = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map(|(_, name)| name.trim().to_owned()).unwrap_or_default()
}

/// The file's content.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    key: Key,
    works: bool,
    why: String,
}

fn recall(file: &Path, key: &Key) -> Option<Answer> {
    let answer: Answer = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    (answer.key == *key).then_some(answer)
}

fn keep(file: &Path, answer: &Answer) -> io::Result<()> {
    write_whole(file, serde_json::to_string_pretty(answer)?.as_bytes())
}

/// All or nothing: a reader sees the old file or the new one.
fn write_whole(file: &Path, content: &[u8]) -> io::Result<()> {
    let new = file.with_extension(random::hex_id());
    let written = (|| {
        let mut out = File::create_new(&new)?;
        out.set_permissions(fs::Permissions::from_mode(0o600))?;
        out.write_all(content)?;
        fs::rename(&new, file)
    })();
    if written.is_err() {
        // The name is random, so this is our own half-made file or nothing.
        drop(fs::remove_file(&new));
    }
    written
}

/// The trial, and whether its answer is worth keeping.
fn try_kvm(host: &Host<'_>, key: Key, deadline: Duration) -> (Answer, bool) {
    let (works, why, definite) = match trial(host, Accel::Kvm, deadline) {
        Ok(Trial::Proven) => {
            (true, "a trial guest ran under KVM up to long mode and timer interrupts".to_owned(), true)
        }
        Ok(Trial::Failed(why)) => (false, format!("the trial under KVM failed: {why}"), true),
        Ok(Trial::Silent) => (false, format!("the trial under KVM did not end within {} s", deadline.as_secs()), false),
        Err(e) => (false, format!("the trial under KVM could not be made: {e}"), false),
    };
    (Answer { key, works, why }, definite)
}

#[derive(Debug, PartialEq, Eq)]
enum Trial {
    Proven,
    Failed(String),
    /// It hung without a word.
    Silent,
}

fn trial(host: &Host<'_>, accel: Accel, deadline: Duration) -> io::Result<Trial> {
    let disk = host.cache_file.with_file_name("accel-probe.img");
    write_disk(&disk)?;
    // Handed over open: the machines' users need not be able to come here.
    let files = [File::open(&disk)?];
    let args = trial_args(files[0].as_raw_fd(), accel);
    let (uid_gid, groups, files) = (host.uid_gid, host.groups, files.as_slice());
    let plain = Spawn::new(host.qemu.as_os_str(), &args, Path::new("/"));
    let child = Spawn { uid_gid, groups, files, ..plain }.start()?;
    let ended = child.pidfd.wait(deadline)?;
    if !ended {
        child.pidfd.send(Signal::Kill)?;
        // A killed process ends in any case; without its end there would be a zombie.
        child.pidfd.wait(DEADLINE)?;
    }
    let exit = child.pidfd.reap()?.filter(|_| ended);
    Ok(judge(exit, &drain(child.stdout)?, &drain(child.stderr)?))
}

/// The same bytes at every trial, so two at once do not disturb each other.
fn write_disk(disk: &Path) -> io::Result<()> {
    let mut content = PROBE.to_vec();
    content.resize(usize::try_from(PROBE_DISK).map_err(io::Error::other)?, 0);
    write_whole(disk, &content)
}

fn trial_args(disk: RawFd, accel: Accel) -> Vec<OsString> {
    let (accel, cpu) = match accel {
        Accel::Kvm => ("kvm", "host"),
        Accel::Tcg => ("tcg", "max"),
    };
    let file = format!("fd={disk},set={disk}");
    let drive = format!("if=none,id=probe,format=raw,read-only=on,file=/dev/fdset/{disk}");
    let line = "-nodefaults -no-user-config -machine pc -m 32 -display none -no-reboot -debugcon stdio \
        -device isa-debug-exit,iobase=0xf4,iosize=0x04 -device virtio-blk-pci,drive=probe,bootindex=0";
    let mut args: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
    args.extend(["-accel", accel, "-cpu", cpu, "-add-fd", &file, "-drive", &drive].map(OsString::from));
    args
}

/// What is in the pipe now; a grandchild holding it open is not waited for.
fn drain(pipe: OwnedFd) -> io::Result<String> {
    child::set_nonblocking(&pipe)?;
    let mut bytes = Vec::new();
    match File::from(pipe).take(64 * 1024).read_to_end(&mut bytes) {
        Err(e) if e.kind() != io::ErrorKind::WouldBlock => Err(e),
        _ => Ok(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

/// Exit code and marker together are the proof; `exit` is `None` when it had to be killed.
fn judge(exit: Option<Exit>, console: &str, errors: &str) -> Trial {
    if exit == Some(PROVEN) && console.contains(MARKER) {
        return Trial::Proven;
    }
    let complaint = complaint(errors);
    let stage = stage(console);
    match (exit, complaint) {
        (None, None) => Trial::Silent,
        (None, Some(line)) => Trial::Failed(format!("{stage}, then stood still: {line}")),
        (Some(exit), None) => Trial::Failed(format!("{stage}, {exit}")),
        (Some(exit), Some(line)) => Trial::Failed(format!("{stage}, {exit}: {line}")),
    }
}

/// The first line that is more than a warning, without the program's name.
fn complaint(errors: &str) -> Option<String> {
    let line = errors.lines().map(str::trim).find(|line| !line.is_empty() && !line.contains(" warning: "))?;
    let line = line.split_once("qemu-system-x86_64: ").map_or(line, |(_, rest)| rest);
    Some(line.chars().filter(|c| !c.is_control()).take(200).collect())
}

/// How far the guest came, by the letters of `probe.S`.
fn stage(console: &str) -> &'static str {
    match console.trim_start().chars().take_while(|c| "RPBLFST".contains(*c)).last() {
        None => "the guest never started",
        Some('R') => "it came as far as real mode",
        Some('P' | 'B') => "it came as far as protected mode",
        Some('L') => "it came as far as long mode",
        Some('F') => "it came as far as page faults",
        Some('S') => "it came as far as timer interrupts",
        Some(_) => "it came to its end",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::user::{euid, lookup_user};
    use crate::vm::programs;
    use std::path::PathBuf;
    use std::process::Command;

    /// Enough for a busy test machine; nothing waits for it in vain.
    const PATIENT: Duration = Duration::from_secs(60);

    struct Place {
        folder: tempfile::TempDir,
        qemu: PathBuf,
        cache_file: PathBuf,
    }

    impl Place {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
            let cache_file = folder.path().join("accel.json");
            Self { qemu: programs::find_qemu(None).unwrap(), cache_file, folder }
        }

        /// A stand-in for QEMU that writes down each start.
        fn with_script(script: &str) -> Self {
            let mut place = Self::new();
            place.qemu = place.folder.path().join("qemu");
            let text = format!("#!/bin/sh\necho >> {}\n{script}\n", place.starts().display());
            let draft = place.folder.path().join("draft");
            fs::write(&draft, text).unwrap();
            fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).unwrap();
            // By another process: a program that somebody holds open for writing cannot be started, and a child that another
            // test is just forking would hold ours.
            assert!(Command::new("cp").arg(&draft).arg(&place.qemu).status().unwrap().success());
            place
        }

        fn starts(&self) -> PathBuf {
            self.folder.path().join("starts")
        }

        fn started(&self) -> usize {
            fs::read_to_string(self.starts()).unwrap_or_default().lines().count()
        }

        fn host(&self) -> Host<'_> {
            let version = QemuVersion(10, 0, 2);
            Host { qemu: &self.qemu, version, uid_gid: None, groups: &[], cache_file: &self.cache_file }
        }

        fn choose(&self, deadline: Duration) -> Choice {
            choose_by(Wish::Auto, &self.host(), || Ok(()), deadline)
        }
    }

    #[test]
    fn the_probe_guest_runs_to_its_end_in_software() {
        let place = Place::new();
        assert_eq!(trial(&place.host(), Accel::Tcg, PATIENT).unwrap(), Trial::Proven);
        if let (0, Some(nobody)) = (euid(), lookup_user("nobody").unwrap()) {
            let host = Host { uid_gid: Some(nobody), ..place.host() };
            assert_eq!(trial(&host, Accel::Tcg, PATIENT).unwrap(), Trial::Proven);
        }
    }

    #[test]
    fn kvm_is_chosen_only_where_the_probe_guest_runs_under_it() {
        let place = Place::new();
        let choice = place.choose(DEADLINE);
        let proof = trial(&place.host(), Accel::Kvm, DEADLINE).unwrap();
        assert_eq!(choice.accel == Accel::Kvm, proof == Trial::Proven, "{choice:?} {proof:?}");
        // Where the device is missing or lies, the reason must be what came of the trial: QEMU's own word, or that it stands still.
        assert!(choice.accel == Accel::Kvm || choice.why.starts_with("the trial under KVM "), "{choice:?}");
    }

    #[test]
    fn the_host_is_never_given_kvm_it_has_not() {
        let place = Place::new();
        let choice = choose(Wish::Auto, &place.host());
        if let Err(refusal) = kvm::quick_check() {
            assert_eq!((choice.accel, choice.from_cache), (Accel::Tcg, false));
            assert_eq!(choice.why, refusal.to_string());
            assert!(!place.cache_file.exists(), "a cheap answer is not kept");
        }
    }

    #[test]
    fn kvm_by_setting_is_believed_until_a_machine_failed_under_it() {
        let place = Place::with_script("exit 1");
        assert_eq!(choose(Wish::Kvm, &place.host()).accel, Accel::Kvm);
        remember_failure(&place.host(), "a guest died").unwrap();
        let choice = choose(Wish::Kvm, &place.host());
        assert_eq!((choice.accel, choice.from_cache), (Accel::Tcg, true), "{choice:?}");
        assert!(choice.why.starts_with("KVM was asked for, but "), "{}", choice.why);
        assert_eq!(place.started(), 0, "no trial is made");
    }

    #[test]
    fn a_guest_that_ran_under_kvm_is_asked_for_once() {
        let place = Place::with_script("echo RPBLFST vm-share probe ok; exit 85");
        let first = place.choose(PATIENT);
        assert_eq!((first.accel, first.from_cache), (Accel::Kvm, false), "{first:?}");
        let second = place.choose(PATIENT);
        assert_eq!(second, Choice { from_cache: true, ..first });
        assert_eq!(place.started(), 1);
    }

    #[test]
    fn a_trial_that_fails_is_remembered_with_its_reason() {
        let complaint = "qemu-system-x86_64: warning: no pni\nqemu-system-x86_64: error: failed to set MSR 0x10a\n";
        let place = Place::with_script(&format!("printf RPB; printf '{complaint}' >&2; kill -ABRT $$"));
        let why = "the trial under KVM failed: it came as far as protected mode, killed by signal 6: \
            error: failed to set MSR 0x10a";
        assert_eq!(place.choose(PATIENT), Choice { accel: Accel::Tcg, why: why.into(), from_cache: false });
        assert_eq!(place.choose(PATIENT), Choice { accel: Accel::Tcg, why: why.into(), from_cache: true });
        assert_eq!(place.started(), 1);
    }

    #[test]
    fn the_marker_without_the_exit_code_proves_nothing_nor_the_other_way() {
        assert!(matches!(judge(Some(Exit::Code(0)), "RPBLFST vm-share probe ok", ""), Trial::Failed(_)));
        assert!(matches!(judge(Some(PROVEN), "RPBLFS", ""), Trial::Failed(_)));
        assert!(matches!(judge(Some(Exit::Code(255)), "RP!", ""), Trial::Failed(_)));
    }

    #[test]
    fn a_trial_that_hangs_is_ended_and_means_tcg_this_time_only() {
        let place = Place::with_script("exec sleep 600");
        let choice = place.choose(Duration::from_millis(300));
        assert_eq!((choice.accel, choice.from_cache), (Accel::Tcg, false));
        assert!(choice.why.contains("did not end"), "{choice:?}");
        assert!(!place.cache_file.exists(), "a busy host must not lose KVM for months");
    }

    #[test]
    fn a_machine_stopped_by_an_internal_error_is_a_definite_answer() {
        let place = Place::with_script("echo RPBLF; echo 'KVM internal error. Suberror: 1' >&2; exec sleep 600");
        // The stand-in has spoken long before; the limit is for the slowest start of a shell.
        let choice = place.choose(Duration::from_secs(2));
        assert!(choice.why.ends_with("page faults, then stood still: KVM internal error. Suberror: 1"), "{choice:?}");
        assert!(place.choose(PATIENT).from_cache);
    }

    #[test]
    fn a_failure_at_run_time_is_remembered_until_qemu_changes() {
        let place = Place::with_script("echo RPBLFST vm-share probe ok; exit 85");
        assert_eq!(place.choose(PATIENT).accel, Accel::Kvm);
        remember_failure(&place.host(), "vm-1 stopped with internal-error").unwrap();
        let choice = place.choose(PATIENT);
        assert_eq!((choice.accel, choice.from_cache, place.started()), (Accel::Tcg, true, 1));
        assert!(choice.why.contains("vm-1 stopped"), "{choice:?}");
        let newer = Host { version: QemuVersion(10, 1, 0), ..place.host() };
        assert_eq!(choose_by(Wish::Auto, &newer, || Ok(()), PATIENT).accel, Accel::Kvm);
        assert_eq!(place.started(), 2);
    }

    #[test]
    fn a_corrupt_cache_is_ignored_and_mended() {
        let place = Place::with_script("echo RPBLFST vm-share probe ok; exit 85");
        fs::write(&place.cache_file, "{\"key\":").unwrap();
        assert!(!place.choose(PATIENT).from_cache);
        assert!(place.choose(PATIENT).from_cache);
    }

    #[test]
    fn a_wish_for_tcg_asks_nobody() {
        let place = Place::with_script("exit 1");
        let choice = choose_by(Wish::Tcg, &place.host(), || unreachable!("asked"), PATIENT);
        assert_eq!((choice.accel, place.started()), (Accel::Tcg, 0));
    }

    #[test]
    fn the_probe_is_what_its_source_says() {
        let assembler_is_there = |name| Command::new(name).arg("--version").output().is_ok();
        if !(cfg!(target_arch = "x86_64") && assembler_is_there("as") && assembler_is_there("objcopy")) {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (object, binary) = (folder.path().join("probe.o"), folder.path().join("probe.bin"));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/vm/probe.S");
        let assembled = Command::new("as").args(["--64", "-o"]).arg(&object).arg(source).status().unwrap();
        let mut copy = Command::new("objcopy");
        let copied = copy.args(["-O", "binary", "-j", ".text"]).arg(&object).arg(&binary).status().unwrap();
        assert!(assembled.success() && copied.success());
        assert!(fs::read(&binary).unwrap() == PROBE, "assemble probe.S again, see its head");
    }
}
