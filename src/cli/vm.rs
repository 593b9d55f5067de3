//! `vmshare vm list|show|stop`: the VMs as the database has them, whether a server runs or not.
//!
//! A stop first writes into the database why, as the server's own does, and then ends QEMU. Who is there writes the end down with that
//! reason: the server that watches the VM, this command where no server runs, or a server that starts meanwhile and finds QEMU gone. What this
//! command cannot judge it leaves to the server: a VM that starts, or that is between two QEMUs.

use super::{note, plain};
use crate::config::cli_args::VmCommand;
use crate::config::{Config, Overrides};
use crate::db::CliDb;
use crate::db::vms::{self, VmRow, VmState};
use crate::sys::lock::FolderLock;
use crate::sys::pidfd::PidFd;
use crate::sys::process::is_same_process;
use crate::sys::signal::Signal;
use crate::vm;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

/// Why a VM ended that was stopped here.
const WHY: &str = "stopped by the operator";
/// How long QEMU may take to end when it is asked, and when it is killed.
const QUIT_WAIT: Duration = Duration::from_secs(5);
/// How long the end may take to be written down once QEMU is gone.
const WRITE_WAIT: Duration = Duration::from_secs(10);
/// Between looks for that.
const LOOK: Duration = Duration::from_millis(50);

/// Does what was asked.
///
/// # Errors
/// What is wrong with it, in one line.
pub(super) fn run(overrides: &Overrides, action: VmCommand) -> Result<(), String> {
    let config = super::load(overrides)?;
    let mut db = crate::db::open_for_cli(&super::db_settings(&config))?;
    match action {
        VmCommand::List { all, json } => list(&mut db, all, json),
        VmCommand::Show { vmid, json } => {
            let row = find(&mut db, &vmid)?;
            if json {
                println!("{}", as_json(&row))
            } else {
                show(&row)
            }
            Ok(())
        }
        VmCommand::Stop { vmids } => {
            let mut failed = 0;
            for vmid in &vmids {
                match stop(&mut db, &config, vmid) {
                    Ok(row) => println!("{vmid} {}: {}", row.state, plain(row.exit.as_deref().unwrap_or_default())),
                    Err(why) if vmids.len() == 1 => return Err(why),
                    Err(why) => {
                        failed += 1;
                        eprintln!("vmshare: {why}");
                    }
                }
            }
            if failed == 0 { Ok(()) } else { Err(format!("{failed} of {} VMs are not stopped", vmids.len())) }
        }
    }
}

fn find(db: &mut CliDb, vmid: &str) -> Result<VmRow, String> {
    let found = db.run(|c| vms::by_id_now(c, vmid))?;
    found.ok_or_else(|| format!("there is no VM {}; vmshare vm list --all shows them", plain(vmid)))
}

fn list(db: &mut CliDb, all: bool, as_lines: bool) -> Result<(), String> {
    let rows = if all { db.run(|c| vms::list_all_now(c, i64::MAX, None, None))? } else { db.run(vms::live_all_now)? };
    if as_lines {
        for row in &rows {
            println!("{}", as_json(row));
        }
        return Ok(());
    }
    if rows.is_empty() {
        println!("no VMs{}", if all { "" } else { " now; --all lists those that have ended" });
        return Ok(());
    }
    println!(
        "{:12}  {:16}  {:8}  {:12}  {:20}  {:11}  {:>7}  {:>9}  EXIT",
        "VMID", "USER", "STATE", "PROFILE", "SINCE", "PORTS", "PID", "MEMORY"
    );
    for row in &rows {
        let pid = row.pid.filter(|_| row.state.is_live()).map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let ports = format!("{} {}", row.vnc_port, row.http_port);
        let memory = format!("{} MiB", row.memory_mb);
        println!(
            "{:12}  {:16}  {:8}  {:12}  {:20}  {ports:11}  {pid:>7}  {memory:>9}  {}",
            row.vmid,
            row.user_login,
            row.state.to_string(),
            row.profile,
            time(Some(since(row))),
            plain(row.exit.as_deref().unwrap_or("-")),
        );
    }
    Ok(())
}

/// When its state began, as far as that is known.
fn since(row: &VmRow) -> Timestamp {
    row.ended_at.or(row.started_at).unwrap_or(row.created_at)
}

/// Whole seconds, for people.
fn time(at: Option<Timestamp>) -> String {
    let whole = at.map(|at| Timestamp::from_second(at.as_second()).unwrap_or(at));
    whole.map_or_else(|| "-".to_owned(), |at| at.to_string())
}

/// Whether the process that is written down still lives; a pid of another boot is nobody's.
fn is_alive(row: &VmRow) -> bool {
    let here = row.boot_id.as_deref() == Some(vm::boot_id().as_str());
    here && row.state.is_live() && row.pid.zip(row.pid_start).is_some_and(|(pid, start)| is_same_process(pid, start))
}

fn show(row: &VmRow) {
    let text = |value: &Option<String>| value.as_deref().map_or_else(|| "-".to_owned(), plain);
    let pid = match row.pid.filter(|_| row.state.is_live()) {
        Some(pid) if is_alive(row) => pid.to_string(),
        Some(pid) => format!("{pid}, which is gone: the server, or its next start, writes that down"),
        None => "-".to_owned(),
    };
    let disk = match (&row.disk, row.disk_gb) {
        (Some(name), Some(gb)) => format!("{name} ({gb} GiB)"),
        _ => text(&row.disk),
    };
    for (name, value) in [
        ("vmid", row.vmid.clone()),
        ("user", format!("{} ({})", row.user_login, row.user_id)),
        ("state", row.state.to_string()),
        ("exit", text(&row.exit)),
        ("profile", row.profile.clone()),
        ("image", plain(&row.iso)),
        ("disk", format!("{disk}, {}", row.persistence)),
        ("memory", format!("{} MiB", row.memory_mb)),
        ("cpus", row.cpus.to_string()),
        ("ports", format!("vnc {}, http {}", row.vnc_port, row.http_port)),
        ("pid", pid),
        ("accel", text(&row.accel)),
        ("created", time(Some(row.created_at))),
        ("started", time(row.started_at)),
        ("ended", time(row.ended_at)),
    ] {
        println!("{name:8}  {value}");
    }
}

fn as_json(row: &VmRow) -> Value {
    let at = |at: Option<Timestamp>| at.map(|at| at.to_string());
    json!({
        "vmid": row.vmid, "user": row.user_login, "user_id": row.user_id, "state": row.state.to_string(), "exit": row.exit,
        "profile": row.profile, "iso": row.iso, "persistence": row.persistence, "disk": row.disk, "disk_gb": row.disk_gb,
        "memory_mb": row.memory_mb, "cpus": row.cpus, "vnc_port": row.vnc_port, "http_port": row.http_port,
        "pid": row.pid.filter(|_| row.state.is_live()), "alive": is_alive(row), "accel": row.accel,
        "since": since(row).to_string(), "created_at": row.created_at.to_string(), "started_at": at(row.started_at),
        "ended_at": at(row.ended_at),
    })
}

/// Ends a VM at once; its final row.
fn stop(db: &mut CliDb, config: &Config, vmid: &str) -> Result<VmRow, String> {
    let row = find(db, vmid)?;
    let (pid, start, qemu) = hold(&row)?;
    let began = db.run(|c| {
        c.atomically(|c| {
            let began = vms::begin_stop_now(c, vmid, pid, start, WHY)?;
            // Somebody's stop that waits for the guest is under way: this one does not.
            if began || row.state == VmState::Stopping {
                note(c, "stop vm", vmid, "at once")?;
                return Ok(true);
            }
            Ok(false)
        })
    })?;
    if !began {
        return Err(format!("VM {vmid} is just being restarted, or has just ended: look at it again in a moment"));
    }
    let ended = end(&qemu).map_err(|e| format!("the QEMU of VM {vmid} (pid {pid}) cannot be signalled: {e}"))?;
    if !ended {
        return Err(format!(
            "the QEMU of VM {vmid} (pid {pid}) does not end although it was killed: a disk or network share it waits for hangs"
        ));
    }
    settle(db, config, vmid)
}

/// The process of a VM that runs, held so that its number cannot come to mean another one.
fn hold(row: &VmRow) -> Result<(u32, u64, PidFd), String> {
    let vmid = &row.vmid;
    if !row.state.is_live() {
        let exit = plain(row.exit.as_deref().unwrap_or_default());
        return Err(format!("VM {vmid} does not run: it {} at {} ({exit})", row.state, time(row.ended_at)));
    }
    if row.boot_id.as_ref().is_some_and(|id| *id != vm::boot_id()) {
        return Err(format!(
            "VM {vmid} does not run here: this host was restarted since, or another one has it; its server writes down what became of it"
        ));
    }
    if row.state == VmState::Starting {
        return Err(format!(
            "VM {vmid} is still starting: stop it when it runs; a server that starts takes back what a former one left so"
        ));
    }
    let (Some(pid), Some(start)) = (row.pid, row.pid_start) else {
        return Err(format!(
            "VM {vmid} is just being switched off and on: try again in a moment, or when the server runs again"
        ));
    };
    let gone = || format!("the QEMU of VM {vmid} has ended already: the server, or its next start, writes that down");
    let qemu = PidFd::open(pid).map_err(|_| gone())?;
    // Asked when it is held: from now on the number is not given to another.
    if !is_same_process(pid, start) {
        return Err(gone());
    }
    qemu.may_send().map_err(|e| match e.kind() {
        ErrorKind::PermissionDenied => {
            format!("you may not end VM {vmid}: its QEMU (pid {pid}) is another user's; run this as root")
        }
        _ => format!("the QEMU of VM {vmid} (pid {pid}) cannot be signalled: {e}"),
    })?;
    Ok((pid, start, qemu))
}

/// Asks, then kills; false when neither ended it. QEMU writes its disks out when it is asked.
fn end(qemu: &PidFd) -> io::Result<bool> {
    qemu.send(Signal::Terminate)?;
    if qemu.wait(QUIT_WAIT)? {
        return Ok(true);
    }
    qemu.send(Signal::Kill)?;
    qemu.wait(QUIT_WAIT)
}

/// Waits until the end is written down. Without a server that is done here, under the server's lock, so that none starts in the middle.
fn settle(db: &mut CliDb, config: &Config, vmid: &str) -> Result<VmRow, String> {
    let deadline = Instant::now() + WRITE_WAIT;
    loop {
        let row = find(db, vmid)?;
        if !row.state.is_live() {
            return Ok(row);
        }
        // Where a server has ever run there is a lock; one of ours might be one that it cannot open.
        if config.base_dir.join("lock").exists()
            && let Ok(_lock) = FolderLock::take(&config.base_dir)
        {
            return finish(db, config, vmid);
        }
        if Instant::now() > deadline {
            return Err(format!(
                "the QEMU of VM {vmid} has ended; the server has not written that down yet: look at its log"
            ));
        }
        std::thread::park_timeout(LOOK);
    }
}

/// What the server does at the end of a VM. Its control groups the next server sweeps.
fn finish(db: &mut CliDb, config: &Config, vmid: &str) -> Result<VmRow, String> {
    let cooldown = Duration::from_secs(config.limits.port_cooldown_seconds);
    let row = db.run(|c| {
        let why = crate::db::events::stopping_because_now(c, vmid)?;
        vms::finish_now(c, vmid, VmState::Stopped, why.as_deref().unwrap_or(WHY), cooldown)
    })?;
    crate::vm::scroll::remove(&config.base_dir, vmid);
    let folder = config.base_dir.join("runs").join(vmid);
    match std::fs::remove_dir_all(&folder) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            log::warn!("{}: {e}; the next start of the server removes it", folder.display());
        }
        _ => {}
    }
    row.ok_or_else(|| format!("the row of VM {vmid} is gone"))
}
