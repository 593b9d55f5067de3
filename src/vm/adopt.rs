//! After a start: takes back the VMs that outlived a former server, and ends what did not.
//!
//! Runs once, before the first launch. A row's process is the same one only if its start time is too; then the VM is on the table at once, and
//! its monitor is taken over as soon as QEMU answers, which it does not while it writes a snapshot: only one that is silent for
//! `adopt_seconds` is ended. What was starting when the server died is taken back whole; a VM that was between two QEMUs (its row runs and has no
//! process) gets the other one. Folders without a live row are removed.

use super::apart::Users;
use super::args::Accel;
use super::cgroup::Limits;
use super::process::Process;
use super::{
    Vm, diary, disks, host, janitor, lifetime, net_filter, real, restart, scroll, snapshots, stop, supervise, warm,
    watch,
};
use crate::db::events::{self, Event};
use crate::db::vms::{self, VmRow, VmState};
use crate::house::{Cx, House};
use crate::proto::problem::Problem;
use crate::reactor::task::{Either, first};
use crate::sys::pidfd::PidFd;
use crate::sys::signal::Signal;
use crate::sys::user::euid;
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How long a killed QEMU that nobody knows may take to be gone.
const KILL_WAIT: Duration = Duration::from_secs(5);
/// Why a VM has no process to take back.
const GONE: &str = "its qemu ended while the server was away";
const BETWEEN: &str = "its power cycle was under way";
/// Between attempts while the database is away.
const RETRY: Duration = Duration::from_millis(200);

/// Starts the story; [`House::swept`] is set at its end.
pub fn begin(cx: &Cx) {
    let (cx, spawner) = (Rc::clone(cx), cx.spawner.clone());
    spawner.spawn("adopt", async move {
        seed_ports(&cx).await;
        let rows = loop {
            match cx.db(vms::live_all(&cx.db)).await {
                Ok(rows) => break rows,
                Err(_) if cx.stopping.get() => return,
                Err(_) => cx.clock.sleep(RETRY).await,
            }
        };
        match cx.db(events::end_former_visits(&cx.db)).await {
            Ok(0) => {}
            Ok(count) => log::info!("{count} screens and terminals were open when the former server ended"),
            Err(problem) => {
                log::warn!("what was open when the former server ended stays open in the log: {}", problem.detail)
            }
        }
        let (mut kept, known) = (HashSet::new(), rows.iter().map(|row| row.vmid.clone()).collect());
        for row in rows {
            if adopt(&cx, row.clone()).await {
                kept.insert(row.vmid);
            }
        }
        net_filter::take_back(&cx).await;
        sweep(&cx, kept, known).await;
        cx.swept.set(true);
        janitor::begin(&cx);
        warm::begin(&cx);
    });
}

async fn seed_ports(cx: &House) {
    let ranges: Vec<_> = cx.config.profiles.values().map(|p| (p.vnc_ports.clone(), p.http_ports.clone())).collect();
    while cx.db(crate::db::ports::seed(&cx.db, ranges.clone())).await.is_err() && !cx.stopping.get() {
        cx.clock.sleep(RETRY).await;
    }
}

/// True when the VM goes on.
async fn adopt(cx: &Cx, row: VmRow) -> bool {
    let process = match take_process(cx, &row) {
        Ok(process) => process,
        Err(BETWEEN) => {
            // It may take as long as a boot, and there may be a class of them: nobody waits for it.
            let story = Rc::clone(cx);
            story.going_on.set(story.going_on.get() + 1);
            cx.spawner.spawn("go on with a power cycle", async move {
                go_on(&story, &row).await;
                story.going_on.set(story.going_on.get() - 1);
            });
            return true;
        }
        Err(why) => {
            log::info!(vmid:% = row.vmid, user = row.user_login.as_str(); "vm of a former server: {why}");
            return gone(cx, &row, why).await;
        }
    };
    let row = &row;
    take_user_back(cx, row).await;
    let pid = process.pid;
    if let Ok(has_internet) = cx.disk(move || net_filter::has_internet(pid)).await {
        process.has_internet.set(has_internet);
    }
    if row.state == VmState::Starting {
        real::kill(cx, &process).await;
        return gone(cx, row, "the server ended while it started").await;
    }
    scroll::take_back(cx, &process).await;
    if let Err(e) = process.connect_serial(cx) {
        log::warn!(vmid:% = row.vmid, user = row.user_login.as_str(); "its serial console does not answer: {e}");
    }
    // The server may have died between calling it running and letting its new disk be the user's.
    disks::keep(cx, row).await;
    bound_again(cx, row).await;
    let Ok(vm) = live(cx, row, &process).await else { return false };
    log::info!(vmid:% = row.vmid, user = row.user_login.as_str(); "vm adopted pid={}", process.pid);
    let story = Rc::clone(cx);
    cx.spawner.spawn("take monitor over", async move { take_over(&story, &vm).await });
    true
}

/// Puts a VM of a former server on the table.
async fn live(cx: &Cx, row: &VmRow, process: &Rc<Process>) -> Result<Rc<Vm>, Problem> {
    let noted = lifetime::noted(cx, row).await;
    let vm = real::live(cx, row, process)?;
    lifetime::take_back(cx, &vm, noted);
    watch::begin(cx, &vm);
    Ok(vm)
}

/// The user a VM runs as is written on its folder.
async fn take_user_back(cx: &Cx, row: &VmRow) {
    let folder = real::run_dir(cx, &row.vmid);
    if let Ok(Some(uid)) = cx.disk(move || folder.metadata().map(|about| about.uid()).ok()).await
        && let Ok(vmid) = real::vmid_of(row)
    {
        cx.apart.take_back(vmid, uid);
    }
}

/// Ends a power cycle that a former server began: the VM has no QEMU, or one that nobody wrote down.
async fn go_on(cx: &Cx, row: &VmRow) {
    log::info!(vmid:% = row.vmid, user = row.user_login.as_str(); "its power cycle goes on");
    take_user_back(cx, row).await;
    let (runs, users, vmid) = (cx.config.base_dir.join("runs"), cx.apart.users().clone(), row.vmid.clone());
    let strays_ended = cx.disk(move || end_strays(&users, &runs, &HashSet::from([vmid.clone()]), |it| it == vmid));
    let started = async {
        strays_ended.await?;
        cx.hypervisor.looked.wait().await;
        if cx.stopping.get() {
            // The next server ends it.
            return Ok(None);
        }
        let process = restart::spawn(cx, row, cx.hypervisor.accel()).await?;
        scroll::take_back(cx, &process).await;
        match restart::come_up(cx, row, &process).await {
            Ok(row) => Ok(Some((process, row))),
            Err(problem) => {
                real::kill(cx, &process).await;
                Err(problem)
            }
        }
    };
    let vm = match started.await {
        Ok(None) => return,
        Ok(Some((process, Some(row)))) => live(cx, &row, &process).await,
        Ok(Some((_, None))) => Err(restart::being_stopped()),
        Err(problem) => Err(problem),
    };
    match vm {
        Ok(vm) => {
            diary::note(cx, Event::Vm { vmid: vm.vmid.to_string(), kind: "restart", detail: "power-cycle".into() });
            cx.bus.publish(&vm, cx.now());
        }
        Err(problem) => {
            // The command line may have ended it meanwhile.
            match cx.db(events::stopping_because(&cx.db, row.vmid.clone())).await.ok().flatten() {
                Some(why) => ended(cx, row, VmState::Stopped, &why).await,
                None => {
                    log::error!(vmid:% = row.vmid, user = row.user_login.as_str(); "it could not be started again: {}", problem.detail);
                    ended(cx, row, VmState::Failed, &problem.detail).await;
                }
            }
        }
    }
}

/// Connects the monitor of a VM that was taken back, and goes on with what the former server had begun.
async fn take_over(cx: &Cx, vm: &Rc<Vm>) {
    let process = Rc::clone(&vm.process.borrow());
    let state = vm.row.borrow().state;
    let patience = match state {
        // Whoever stops it has waited long enough.
        VmState::Stopping => cx.config.limits.stop_grace_seconds,
        _ => cx.config.limits.adopt_seconds,
    };
    let connected = async {
        if process.connect_monitor(cx).await.is_err() {
            // It closed the monitor, as one does that ends: that is told next.
            std::future::pending::<()>().await;
        }
    };
    match cx.within(Duration::from_secs(patience), first(process.exit.wait(), connected)).await {
        Some(Either::Second(())) => {
            supervise::look(cx, &process);
            snapshots::take_back(cx, vm).await;
        }
        // It ended, or another took its place.
        Some(Either::First(_)) => return,
        None if state == VmState::Stopping => {}
        None => {
            log::warn!(vmid:% = vm.vmid, user = vm.login().as_str(); "its qemu (pid {}) does not answer; it is ended", process.pid);
            return end(cx, vm, "qemu did not answer after a restart of the server", true).await;
        }
    }
    if state == VmState::Stopping {
        let why = cx.db(events::stopping_because(&cx.db, vm.vmid.to_string())).await.ok().flatten();
        end(cx, vm, why.as_deref().unwrap_or("stopped by user"), false).await;
    }
}

async fn end(cx: &Cx, vm: &Rc<Vm>, why: &str, force: bool) {
    if let Err(Problem { detail, .. }) = stop::stop(cx, vm, why, force).await {
        log::error!(vmid:% = vm.vmid, user = vm.login().as_str(); "{detail}");
    }
}

/// Writes its limits again: a service manager that restarts a service may have to switch them off meanwhile.
async fn bound_again(cx: &Cx, row: &VmRow) {
    let (groups, id) = (Arc::clone(&cx.groups), row.vmid.clone());
    let limits = Limits { memory_mb: row.memory_mb, cpus: row.cpus };
    if let Ok(Err(e)) = cx.disk(move || groups.make(&id, limits).map(drop)).await {
        log::warn!(vmid:% = row.vmid, user = row.user_login.as_str(); "its control groups cannot be set again: {e}");
    }
}

/// The row's process, if it lives.
fn take_process(cx: &Cx, row: &VmRow) -> Result<Rc<Process>, &'static str> {
    if row.boot_id.as_deref().is_some_and(|id| id != super::boot_id()) {
        return Err("host restarted");
    }
    let (Some(pid), Some(start)) = (row.pid, row.pid_start) else {
        return Err(if row.state == VmState::Running { BETWEEN } else { GONE });
    };
    let vmid = real::vmid_of(row).map_err(|_| GONE)?;
    let accel = if row.accel.as_deref() == Some("kvm") { Accel::Kvm } else { Accel::Tcg };
    let folder = real::run_dir(cx, &row.vmid);
    let process = Process::adopted(cx, (vmid, &row.user_login), pid, start, accel, folder).map_err(|_| GONE)?;
    host::watch(cx, row, &process);
    Ok(process)
}

async fn gone(cx: &Cx, row: &VmRow, why: &str) -> bool {
    if row.state == VmState::Starting {
        disks::take_back(cx, row).await;
    }
    // One that was being stopped ended because of that.
    let wish = match row.state {
        VmState::Stopping => cx.db(events::stopping_because(&cx.db, row.vmid.clone())).await.ok().flatten(),
        _ => None,
    };
    ended(cx, row, VmState::Stopped, wish.as_deref().unwrap_or(why)).await;
    false
}

/// Writes an end down, and tells it to pages that were open when the former server went.
async fn ended(cx: &Cx, row: &VmRow, state: VmState, why: &str) {
    if let Some(row) = real::finish(cx, &row.vmid, state, why).await {
        cx.bus.publish_row(&row, cx.now());
    }
    real::remove_folder(cx, &row.vmid).await;
}

/// Ends QEMUs that were started but not written down, and removes run folders that no live VM owns. `known` are VMs there was a row of.
async fn sweep(cx: &Cx, kept: HashSet<String>, known: HashSet<String>) {
    let (runs, users) = (cx.config.base_dir.join("runs"), cx.apart.users().clone());
    let (groups, base) = (Arc::clone(&cx.groups), cx.config.base_dir.clone());
    let swept = cx.disk(move || {
        end_strays(&users, &runs, &known, |vmid| !kept.contains(vmid));
        scroll::sweep(&base, |vmid| kept.contains(vmid));
        // Only now they are empty.
        groups.sweep(&kept);
        let Ok(entries) = std::fs::read_dir(&runs) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if super::Vmid::parse(&name).is_none() || kept.contains(&name) {
                continue;
            }
            match std::fs::remove_dir_all(entry.path()) {
                Ok(()) => log::info!(vmid:% = name; "run folder without a vm removed"),
                Err(e) => log::error!(vmid:% = name; "{}: {e}", entry.path().display()),
            }
        }
    });
    if let Err(problem) = swept.await {
        log::error!("run folders are not swept: {}", problem.detail);
    }
}

/// Kills those that were started as QEMU for a VM that `doomed` names. Blocks, bounded.
fn end_strays(users: &Users, runs: &Path, known: &HashSet<String>, doomed: impl Fn(&str) -> bool) {
    let runs = runs.canonicalize().unwrap_or_else(|_| runs.to_owned());
    for (pid, vmid) in strays(users, &runs, known).into_iter().filter(|(_, vmid)| doomed(vmid)) {
        log::warn!(vmid:% = vmid; "a qemu without a row (pid {pid}) is ended");
        if let Ok(process) = PidFd::open(pid) {
            let _ = process.send(Signal::Kill);
            let _ = process.wait(KILL_WAIT);
        }
    }
}

/// Processes that were started as QEMU for a VM of this server, by the VM's id; only those of users that VMs run as. Another server of this host
/// may use the same users: what is ours stands in one of our run folders (also one that is removed), or is a VM we know.
fn strays(users: &Users, runs: &Path, known: &HashSet<String>) -> Vec<(u32, String)> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let ours = |uid| match users {
        Users::Range(range) => range.contains(&uid) || uid == euid(),
        _ => uid == euid(),
    };
    let one = |entry: std::fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        entry.metadata().ok().filter(|about| ours(about.uid()))?;
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let words: Vec<_> = line.split(|byte| *byte == 0).collect();
        let name = words.windows(2).find(|pair| pair.first() == Some(&&b"-name"[..]))?.get(1)?;
        let vmid = String::from_utf8_lossy(name).into_owned();
        super::Vmid::parse(&vmid)?;
        let stands = std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(runs));
        (stands || known.contains(&vmid) || runs.join(&vmid).exists()).then_some((pid, vmid))
    };
    entries.flatten().filter_map(one).collect()
}
