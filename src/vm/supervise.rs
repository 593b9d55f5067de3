//! What QEMU tells of a running guest (QMP events): written down, and acted on where it changes what the user can do.
//!
//! A guest stands still ([`Vm::paused`]) when the host's disk is full or broken, when its system crashed, or when somebody paused it
//! through QEMU; the page says so and offers what helps. Events that tell of the VM's life become rows of `vm_events`, but a guest makes some of
//! them as often as it likes, and so do those who look at it: beyond [`EVENTS`] of either in [`PERIOD`] they are counted and dropped.

use super::diary;
use super::process::Process;
use super::{Vm, watch};
use crate::db::events::Event;
use crate::house::Cx;
use crate::proto::problem::Problem;
use crate::proto::qmp::VmEvent;
use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Rows of its events, and as many of its viewers', and lines of its output in the log, that a VM may cause in a period.
const EVENTS: u32 = 120;
/// The period.
const PERIOD: Duration = Duration::from_secs(60);

/// Further events that are written down, and their names there.
const OTHERS: [(&str, &str); 7] = [
    ("POWERDOWN", "power button"),
    ("SUSPEND", "suspend"),
    ("WAKEUP", "wakeup"),
    ("WATCHDOG", "watchdog"),
    ("VNC_CONNECTED", "vnc connected"),
    ("VNC_INITIALIZED", "vnc initialized"),
    ("VNC_DISCONNECTED", "vnc disconnected"),
];

/// Why a guest stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// The host has no room for what it writes.
    DiskFull,
    /// Its disk cannot be read or written.
    DiskError,
    /// Its kernel crashed.
    GuestPanic,
    /// Somebody paused it through QEMU.
    Asked,
}

impl Pause {
    /// As the contract writes it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::DiskFull => "disk full",
            Self::DiskError => "disk error",
            Self::GuestPanic => "guest panic",
            Self::Asked => "paused",
        }
    }

    /// What QEMU's `query-status` says of one that stands still; `None` for states that pass by themselves.
    fn from_status(status: &str) -> Option<Self> {
        match status {
            "io-error" => Some(Self::DiskError),
            "guest-panicked" => Some(Self::GuestPanic),
            "paused" => Some(Self::Asked),
            _ => None,
        }
    }
}

/// How many of one kind a VM caused lately.
#[derive(Default)]
pub struct Ration {
    since: Cell<Option<Instant>>,
    used: Cell<u32>,
}

impl Ration {
    /// True while there is room; otherwise how many were dropped, when a period begins that has room again.
    pub(super) fn take(&self, now: Instant) -> (bool, u32) {
        let mut dropped = 0;
        if self.since.get().is_none_or(|since| now.saturating_duration_since(since) >= PERIOD) {
            dropped = self.used.get().saturating_sub(EVENTS);
            self.since.set(Some(now));
            self.used.set(0);
        }
        self.used.set(self.used.get().saturating_add(1));
        (self.used.get() <= EVENTS, dropped)
    }
}

/// What QEMU told of one VM lately. Its viewers' coming and going has a ration of its own: a class that connects again at once leaves
/// room for the crash of the guest.
#[derive(Default)]
pub struct Told {
    viewers: Ration,
    others: Ration,
}

impl Told {
    /// As [`Ration::take`].
    fn take(&self, event: &VmEvent, now: Instant) -> (bool, u32) {
        let of_viewers = matches!(event, VmEvent::Other(name) if name.starts_with("VNC_"));
        if of_viewers { self.viewers.take(now) } else { self.others.take(now) }
    }
}

/// An event of a VM's monitor.
pub fn on_event(cx: &Cx, process: &Rc<Process>, event: &VmEvent) {
    match words(event) {
        Some((kind, detail)) => {
            let (room, dropped) = process.told.take(event, cx.now());
            if dropped > 0 {
                log::warn!(vmid:% = process.vmid, user = process.owner(); "{dropped} events were not written down: too many at once");
            }
            if room {
                diary::note(cx, Event::Vm { vmid: process.vmid.to_string(), kind, detail });
            }
        }
        None => log::debug!(vmid:% = process.vmid, user = process.owner(); "qemu event {event:?}"),
    }
    match event {
        VmEvent::Shutdown { guest, .. } => {
            process.guest_shutdown.set(*guest);
            process.shut_down.set(true);
        }
        VmEvent::Stop => {
            watch::look_why_it_stopped(cx, process);
            look(cx, process);
        }
        VmEvent::Resume => set(cx, process, None),
        VmEvent::BlockIoError { nospace, stops: true, .. } => {
            set(cx, process, Some(if *nospace { Pause::DiskFull } else { Pause::DiskError }));
        }
        VmEvent::GuestPanicked => set(cx, process, Some(Pause::GuestPanic)),
        VmEvent::BlockIoError { .. } | VmEvent::Reset { .. } | VmEvent::Other(_) => {}
    }
}

/// How an event is written down; `None` for those that tell nothing of the VM's life.
fn words(event: &VmEvent) -> Option<(&'static str, String)> {
    let by = |guest: bool| if guest { "by the guest" } else { "by the host" };
    let (kind, detail) = match event {
        VmEvent::Shutdown { guest, reason } => ("shutdown", format!("{} ({reason})", by(*guest))),
        VmEvent::Reset { guest, reason } => ("reset", format!("{} ({reason})", by(*guest))),
        VmEvent::Stop => ("stop", String::new()),
        VmEvent::Resume => ("resume", String::new()),
        VmEvent::BlockIoError { node, nospace, stops } => {
            let why = if *nospace { "the host's disk is full" } else { "input or output failed" };
            ("disk", format!("{node}: {why}{}", if *stops { "; the guest stands still" } else { "" }))
        }
        VmEvent::GuestPanicked => ("panic", "the guest's kernel crashed".to_owned()),
        VmEvent::Other(name) => (OTHERS.iter().find(|(event, _)| event == name)?.1, String::new()),
    };
    Some((kind, detail))
}

/// Asks QEMU whether the guest stands still, and why: after a STOP, and after this server took the VM over.
pub fn look(cx: &Cx, process: &Rc<Process>) {
    let (story, process) = (Rc::clone(cx), Rc::clone(process));
    cx.spawner.spawn("look whether it is paused", async move {
        let is_full = is_full(&process).await;
        // Last, and then nothing is waited for: a guest that is let go on meanwhile is told as that.
        let Ok(status) = process.execute("query-status", None).await else { return };
        let status = status.get("status").and_then(|status| status.as_str()).unwrap_or("");
        match Pause::from_status(status) {
            Some(Pause::DiskError) if is_full => set(&story, &process, Some(Pause::DiskFull)),
            Some(pause) => set(&story, &process, Some(pause)),
            None => {}
        }
    });
}

/// True when it was for lack of room that a disk stopped the guest.
async fn is_full(process: &Process) -> bool {
    let disks = process.execute("query-block", None).await.unwrap_or_default();
    let full = |disk: &serde_json::Value| disk.get("io-status").and_then(|status| status.as_str()) == Some("nospace");
    disks.as_array().is_some_and(|disks| disks.iter().any(full))
}

/// Notes that the guest stands still or goes on, and tells its owner.
fn set(cx: &Cx, process: &Rc<Process>, pause: Option<Pause>) {
    let Some(vm) = cx.vms.get(process.vmid) else { return };
    if !Rc::ptr_eq(&vm.process.borrow(), process) || vm.paused.replace(pause) == pause {
        return;
    }
    match pause {
        Some(pause) => {
            log::warn!(vmid:% = vm.vmid, user = vm.login().as_str(); "the guest stands still: {}", pause.word())
        }
        None => log::info!(vmid:% = vm.vmid, user = vm.login().as_str(); "the guest goes on"),
    }
    if vm.ended.get().is_none() {
        cx.bus.publish(&vm, cx.now());
    }
}

/// Lets a guest that stands still go on; one that runs already does.
///
/// # Errors
/// 409 when its system crashed or the disk is still full, 502 when QEMU refuses.
pub async fn resume(cx: &Cx, vm: &Rc<Vm>) -> Result<(), Problem> {
    if vm.paused.get() == Some(Pause::GuestPanic) {
        let detail = "The system in this VM has crashed, so it cannot go on. Restart it.";
        return Err(Problem::conflict("guest_panicked", detail));
    }
    let process = Rc::clone(&vm.process.borrow());
    let refused = |e| Problem::new(502, "qemu_refused", format!("QEMU does not let the VM go on ({e}). Restart it."));
    process.ask(cx, "cont", None).await.map_err(refused)?;
    set(cx, &process, None);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_resets_without_end_fills_no_table() {
        let ration = Ration::default();
        let start = Instant::now();
        let written = (0..1000).filter(|_| ration.take(start).0).count();
        assert_eq!(written, EVENTS as usize);
        assert_eq!(ration.take(start + PERIOD), (true, 1000 - EVENTS), "the next period tells what was lost");
        assert_eq!(ration.take(start + PERIOD), (true, 0));
    }

    #[test]
    fn viewers_that_come_and_go_without_end_leave_room_for_what_befalls_the_guest() {
        let (told, now) = (Told::default(), Instant::now());
        let comes = VmEvent::Other("VNC_CONNECTED".into());
        let written = (0..1000).filter(|_| told.take(&comes, now).0).count();
        assert_eq!(written, EVENTS as usize);
        assert_eq!(told.take(&VmEvent::GuestPanicked, now), (true, 0));
        assert_eq!(told.take(&VmEvent::Other("POWERDOWN".into()), now), (true, 0));
        assert_eq!(told.take(&comes, now + PERIOD), (true, 1000 - EVENTS), "the next period tells what was lost");
    }

    #[test]
    fn states_that_pass_by_themselves_are_no_pauses() {
        for status in
            ["running", "save-vm", "restore-vm", "finish-migrate", "shutdown", "prelaunch", "", "internal-error"]
        {
            assert_eq!(Pause::from_status(status), None, "{status}");
        }
        assert_eq!(Pause::from_status("io-error"), Some(Pause::DiskError));
    }
}
