//! Restarts a VM that runs: its id, ports, disk and folder stay, and so does the time its limits count from.
//!
//! A *reset* presses the guest's reset button; screens stay open. A *power cycle* ends QEMU and starts another in the same folder: screens are
//! closed with 1011 and their pages connect again. The VM's own story ([`super::watch`]) does the starting, because it alone decides what an exit
//! means: who wants a power cycle leaves [`Vm::again`] and ends QEMU. When the new QEMU does not start, the VM has failed. Before QEMU ends, its pid
//! is struck from the row, so that a server that takes over in the middle knows that another is to follow ([`super::adopt`]).

use super::args::{Accel, BootOrder};
use super::process::Process;
use super::{Vm, image, real};
use crate::db::vms::{self, VmRow, VmState};
use crate::house::{Cx, Order, Which};
use crate::net::relay::End;
use crate::proto::problem::Problem;
use crate::reactor::task::{Either, Latch, first};
use crate::sys::signal::Signal;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How long QEMU may take to quit before it is killed.
const QUIT_WAIT: Duration = Duration::from_secs(5);
/// How long after a start's own bound its outcome may take to be told.
const TELL_WAIT: Duration = Duration::from_secs(20);

/// Presses the reset button; a guest that stood still runs again.
///
/// # Errors
/// 409 when QEMU is ending, 502 when it refuses.
pub async fn reset(cx: &Cx, vm: &Rc<Vm>) -> Result<(), Problem> {
    let process = Rc::clone(&vm.process.borrow());
    let refused =
        |e| Problem::new(502, "qemu_refused", format!("QEMU does not restart the VM ({e}). Stop it, then start it."));
    process.ask(cx, "system_reset", None).await.map_err(refused)?;
    if vm.paused.get().is_some() {
        process.ask(cx, "cont", None).await.map_err(refused)?;
    }
    Ok(())
}

/// Ends QEMU and waits until another runs in its place; who asks while that is under way waits for the same.
///
/// # Errors
/// 409 when the VM is being ended, 503 while the database is away or QEMU is looked for; why the new QEMU did not start.
pub async fn power_cycle(cx: &Cx, vm: &Rc<Vm>) -> Result<(), Problem> {
    if vm.leaving.get().is_some() || vm.ended.get().is_some() {
        return Err(being_stopped());
    }
    // Without this there would be none to follow.
    cx.hypervisor.qemu()?;
    let under_way = vm.again.borrow().clone();
    let outcome = match under_way {
        Some(outcome) => outcome,
        None => {
            let outcome = Latch::default();
            vm.again.replace(Some(outcome.clone()));
            if let Err(problem) = strike(cx, vm).await {
                vm.again.replace(None);
                outcome.set(Err(problem.clone()));
                return Err(problem);
            }
            let process = Rc::clone(&vm.process.borrow());
            // The answer to quit may be cut off by the end itself.
            let quit = async {
                let _ = process.execute("quit", None).await;
                process.exit.wait().await
            };
            if cx.within(QUIT_WAIT, quit).await.is_none() {
                process.signal(Signal::Kill);
            }
            outcome
        }
    };
    let limit = Duration::from_secs(cx.config.limits.boot_seconds) + TELL_WAIT;
    let silent =
        || Problem::internal("The VM is being restarted, and it is not known how it went; look again in a moment.");
    match cx.within(limit, first(outcome.wait(), vm.ended.wait())).await.ok_or_else(silent)? {
        Either::First(outcome) => outcome,
        // It had ended by itself in the same moment.
        Either::Second(_) => Err(being_stopped()),
    }
}

async fn strike(cx: &Cx, vm: &Vm) -> Result<(), Problem> {
    let struck = cx.db(vms::strike_process(&cx.db, vm.vmid.to_string())).await?;
    if struck { Ok(()) } else { Err(being_stopped()) }
}

/// What is told to who restarts a VM that somebody ends.
#[must_use]
pub(super) fn being_stopped() -> Problem {
    Problem::conflict("vm_not_running", "This VM is being stopped; start it again when it has ended.")
}

/// Starts a QEMU in the place of one that is gone.
///
/// # Errors
/// Why there is none; nothing of it is left then.
pub(super) async fn start_again(cx: &Cx, vm: &Rc<Vm>, accel: Accel) -> Result<(), Problem> {
    // The browsers' pages connect again by themselves, to the new screen.
    cx.order(Order::End(Which::Vm(vm.vmid), End::new(1011, "the VM starts again")));
    let row = vm.row.borrow().clone();
    let process = spawn(cx, &row, accel).await?;
    // Terminals see what was before.
    process.line.replace(vm.process.borrow().line.borrow().clone());
    let ready = match first(vm.leaving.wait(), come_up(cx, &row, &process)).await {
        Either::First(()) => Err(being_stopped()),
        Either::Second(ready) => ready,
    };
    match ready {
        Ok(row) => {
            if let Some(row) = row {
                vm.row.replace(row);
            }
            vm.paused.set(None);
            vm.process.replace(process);
            cx.bus.publish(vm, cx.now());
            Ok(())
        }
        Err(problem) => {
            real::kill(cx, &process).await;
            Err(problem)
        }
    }
}

/// Starts another QEMU for a row; [`come_up`] waits for it.
///
/// # Errors
/// Why there is none.
pub(super) async fn spawn(cx: &Cx, row: &VmRow, accel: Accel) -> Result<Rc<Process>, Problem> {
    let (config, old) = (Arc::clone(&cx.config), row.clone());
    let found = cx.disk(move || {
        let gone = || Problem::internal("the profile is gone");
        let profile = config.profiles.get(&old.profile).ok_or_else(gone)?;
        image::cd_again(&config, profile, &old.user_id, &old.iso)
    });
    let cd = found.await??;
    // What was installed meanwhile is on the disk.
    real::spawn_qemu(cx, row, cd.as_deref(), BootOrder::Disk, accel).await
}

/// Writes another QEMU down and waits until its screen can be shown: the row then, if there is one. Who gets an error kills it.
///
/// # Errors
/// It is not ready in time, or the database is away.
pub(super) async fn come_up(cx: &Cx, row: &VmRow, process: &Rc<Process>) -> Result<Option<VmRow>, Problem> {
    let (vmid, accel) = (row.vmid.clone(), Some(real::accel_name(process.accel)));
    let moved = vms::set_process(&cx.db, vmid, process.pid, process.start, super::boot_id(), accel);
    let row = cx.db(moved).await?;
    // The command line ends VMs without asking this server.
    if row.as_ref().is_some_and(|row| row.state != VmState::Running) {
        return Err(being_stopped());
    }
    real::wait_ready(cx, process).await?;
    Ok(row)
}
