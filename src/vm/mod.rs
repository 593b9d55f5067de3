//! The product: a VM's life from the click to its end.
//!
//! ```text
//!            launch                 stop                 exit
//! (nothing) ───────▶ starting ──▶ running ──▶ stopping ──────▶ stopped | failed
//!                        │            └──────── exit ───────────────▲
//!                        └── any failure: undone, nothing is left
//! ```
//! The row in PostgreSQL is the truth. [`Vm`] is what the loop holds beside it while a QEMU runs: the process, its monitor, who
//! looks at it. [`launch`] starts one, [`watch`] accompanies it to its end, [`stop`] asks it to end, [`adopt`] takes back those that
//! outlived a former server. All blocking work (files, fork) is done on the `disk` threads.

pub mod accel;
pub mod adopt;
mod agent;
pub mod apart;
pub mod args;
pub mod attach;
pub mod cgroup;
pub mod diary;
pub mod disk_args;
pub mod disk_weight;
pub mod disks;
pub mod host;
pub mod hypervisor;
pub mod image;
pub mod janitor;
pub mod launch;
pub mod lifetime;
pub mod monitor;
pub mod net_filter;
pub mod process;
pub mod programs;
pub mod real;
pub mod restart;
pub mod room;
pub mod screen;
pub mod scroll;
pub mod snapshots;
pub mod stop;
pub mod supervise;
pub mod tool;
pub mod viewers;
pub mod warm;
pub mod watch;

use crate::db::vms::{VmRow, VmState};
use crate::net::relay::Meter;
use crate::proto::problem::Problem;
use crate::reactor::task::Latch;
use process::Process;
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;
use supervise::Pause;
use viewers::Viewers;

/// A VM's name: 48 random bits, shown as 12 hex digits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Vmid(u64);

impl Vmid {
    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        let bytes = crate::random::bytes::<6>();
        Self(bytes.iter().fold(0, |id, byte| (id << 8) | u64::from(*byte)))
    }

    /// As a number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// Reads exactly 12 lower-case hex digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.len() == 12 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if hex { u64::from_str_radix(text, 16).ok().map(Self) } else { None }
    }
}

impl fmt::Display for Vmid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}", self.0)
    }
}

/// A VM that is starting, running or stopping.
pub struct Vm {
    /// Its name.
    pub vmid: Vmid,
    /// Its owner's user id.
    pub user: String,
    /// Its folder: sockets, logs, scratch disk.
    pub run_dir: PathBuf,
    /// The row as last written.
    pub row: RefCell<VmRow>,
    /// The QEMU that runs it now; another one after a restart with another accelerator.
    pub process: RefCell<Rc<Process>>,
    /// A job with its disk that is under way: what it is, and how far in percent.
    pub job: RefCell<Option<Job>>,
    /// Why it is about to end, once somebody asked for it: `stopped by user`.
    pub wish: RefCell<Option<String>>,
    /// How long it may run.
    pub lifetime: lifetime::Lifetime,
    /// Set when somebody asked for its end.
    pub leaving: Latch<()>,
    /// Set while QEMU is ended for another to be started in its place; the latch tells how that went.
    pub again: RefCell<Option<Latch<Result<(), Problem>>>>,
    /// Why the guest stands still, if it does.
    pub paused: Cell<Option<Pause>>,
    /// Links (their tokens' hashes) that were used and have not ended; the latch tells of a revocation.
    pub shares: RefCell<HashMap<[u8; 32], Latch<()>>>,
    /// Set when its end is in the database.
    pub ended: Latch<VmRow>,
    /// Who looks at it.
    pub viewers: Viewers,
    /// Pictures of its screen.
    pub shots: screen::Shots,
    /// Bytes and input of all its screens.
    pub meter: Rc<Meter>,
    /// When it was started or adopted, for the idle time before the first input.
    pub since: Instant,
}

/// Something that is done with a VM's disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// `save`, `restore` or `delete`.
    pub what: &'static str,
    /// The snapshot's name.
    pub name: String,
    /// 0 to 100.
    pub percent: u64,
}

impl Vm {
    /// False once its QEMU is gone and no other one takes its place.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.process.borrow().exit.get().is_none() || self.again.borrow().is_some()
    }

    /// The VNC socket of the QEMU that runs it now.
    #[must_use]
    pub fn vnc_socket(&self) -> PathBuf {
        vnc_socket(&self.run_dir)
    }

    /// The login name of its owner.
    #[must_use]
    pub fn login(&self) -> String {
        self.row.borrow().user_login.clone()
    }

    /// Seconds since the last key or pointer message.
    #[must_use]
    pub fn idle_seconds(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.last_input()).as_secs()
    }
}

/// Names the boot of the host that process ids belong to.
#[must_use]
pub fn boot_id() -> String {
    crate::sys::process::boot_id().unwrap_or_default()
}

/// The VNC socket in a VM's folder.
#[must_use]
pub fn vnc_socket(run_dir: &Path) -> PathBuf {
    run_dir.join("vnc.sock")
}

/// The QMP socket in a VM's folder.
#[must_use]
pub fn qmp_socket(run_dir: &Path) -> PathBuf {
    run_dir.join("qmp.sock")
}

/// The serial console's socket in a VM's folder.
#[must_use]
pub fn serial_socket(run_dir: &Path) -> PathBuf {
    run_dir.join("serial.sock")
}

/// All live VMs and their processes.
#[derive(Default)]
pub struct Vms {
    by_id: RefCell<HashMap<Vmid, Rc<Vm>>>,
    processes: RefCell<HashMap<u64, Rc<Process>>>,
    next_process: Cell<u64>,
}

impl Vms {
    /// Adds one that runs.
    pub fn insert(&self, vm: Rc<Vm>) {
        self.by_id.borrow_mut().insert(vm.vmid, vm);
    }

    /// Forgets one that ended.
    pub fn remove(&self, vmid: Vmid) {
        self.by_id.borrow_mut().remove(&vmid);
    }

    /// By name.
    #[must_use]
    pub fn get(&self, vmid: Vmid) -> Option<Rc<Vm>> {
        self.by_id.borrow().get(&vmid).cloned()
    }

    /// By the name of its websocket path.
    #[must_use]
    pub fn by_http_port(&self, port: u16) -> Option<Rc<Vm>> {
        self.by_id.borrow().values().find(|vm| vm.row.borrow().http_port == port).cloned()
    }

    /// The one of a user.
    #[must_use]
    pub fn of_user(&self, user: &str) -> Option<Rc<Vm>> {
        self.by_id.borrow().values().find(|vm| vm.user == user).cloned()
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<Rc<Vm>> {
        self.by_id.borrow().values().cloned().collect()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.borrow().len()
    }

    /// True when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A number for a new process's events.
    #[must_use]
    pub fn next_process_id(&self) -> u64 {
        let id = self.next_process.get();
        self.next_process.set(id + 1);
        id
    }

    /// Adds a process, so that its events find it.
    pub fn insert_process(&self, process: Rc<Process>) {
        self.processes.borrow_mut().insert(process.id, process);
    }

    /// The process of an event.
    #[must_use]
    pub fn process(&self, id: u64) -> Option<Rc<Process>> {
        self.processes.borrow().get(&id).cloned()
    }

    /// The process of a VM that is not in the table yet (a launch under way).
    #[must_use]
    pub fn process_of(&self, vmid: Vmid) -> Option<Rc<Process>> {
        self.processes.borrow().values().find(|process| process.vmid == vmid).cloned()
    }

    /// Forgets a process that exited.
    pub fn remove_process(&self, id: u64) {
        self.processes.borrow_mut().remove(&id);
    }
}

/// The `vm` object of the contract: the row, and what only memory knows.
#[must_use]
pub fn to_json(row: &VmRow, live: Option<&Vm>, now: Instant) -> Value {
    let expiry = live.and_then(|vm| vm.told_expiry(now));
    let told = |at: Instant| lifetime::wall_clock(at, now).round_to_second();
    let live_state = matches!(row.state, VmState::Starting | VmState::Running | VmState::Stopping);
    json!({
        "vmid": row.vmid,
        "state": row.state.to_string(),
        "user": row.user_login,
        "profile": row.profile,
        "iso": if row.iso.is_empty() { Value::Null } else { json!(row.iso) },
        "persistence": row.persistence,
        "memory_mb": row.memory_mb,
        "cpus": row.cpus,
        "vnc_port": row.vnc_port,
        "http_port": row.http_port,
        "pid": row.pid.filter(|_| live_state),
        "accel": row.accel,
        "created_at": row.created_at.round_to_second(),
        "started_at": row.started_at.map(RoundToSecond::round_to_second),
        "ended_at": row.ended_at.map(RoundToSecond::round_to_second),
        "expires_at": expiry.map(|expiry| told(expiry.at)),
        "expires_because": expiry.map(|expiry| expiry.why.word()),
        "expires_soon": expiry.is_some_and(|expiry| expiry.soon),
        "time_limit_at": live.and_then(Vm::time_limit_at).map(told),
        "idle_limit_s": live.and_then(|vm| vm.lifetime.idle).map(|limit| limit.as_secs()),
        "idle_s": live.map(|vm| vm.idle_seconds(now)),
        "connected": live.is_some_and(|vm| vm.viewers.open() > 0),
        "viewers": live.map_or(0, |vm| vm.viewers.open()),
        "watched_by": live.map(|vm| vm.viewers.watching()).unwrap_or_default(),
        "disk": row.disk,
        "disk_gb": row.disk_gb,
        "job": live.and_then(|vm| vm.job.borrow().clone()).map(|job| {
            json!({ "what": job.what, "name": job.name, "percent": job.percent })
        }),
        "paused": live.and_then(|vm| vm.paused.get()).map(Pause::word),
        "exit": row.exit,
    })
}

/// Times in the contract are RFC 3339 UTC with whole seconds.
trait RoundToSecond {
    fn round_to_second(self) -> String;
}

impl RoundToSecond for jiff::Timestamp {
    fn round_to_second(self) -> String {
        Self::from_second(self.as_second()).unwrap_or(self).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vmid_is_twelve_lower_case_hex_digits_and_nothing_else() {
        let vmid = Vmid::random();
        assert_eq!(Vmid::parse(&vmid.to_string()), Some(vmid));
        for bad in ["", "c9a2f1", "C9A2F1C9A2F1", "c9a2f1c9a2f1c", "c9a2f1c9a2g1", "+9a2f1c9a2f1", "../../../etc"] {
            assert_eq!(Vmid::parse(bad), None, "{bad}");
        }
    }
}
