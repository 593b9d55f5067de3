//! Ends a VM: asks the guest, then QEMU, then the kernel. The VM's own story ([`super::watch`]) writes the end; this one waits for it.

use super::Vm;
use crate::db::vms::{self, VmRow, VmState};
use crate::house::Cx;
use crate::proto::problem::Problem;
use crate::sys::signal::Signal;
use std::rc::Rc;
use std::time::Duration;

/// How long QEMU may take to quit.
const QUIT_WAIT: Duration = Duration::from_secs(5);
/// How long the end may take to be written once the process is gone; beyond it the database is away.
const WRITE_WAIT: Duration = Duration::from_secs(3);

/// How long a guest may take where the server's own end waits for it, and then QEMU: all of it, and the database, within what that end may take.
const LAST_GRACE: Duration = Duration::from_secs(4);
const LAST_QUIT: Duration = Duration::from_secs(1);

/// Ends a VM because the server ends. One whose disk is kept is asked first, for what it has not written yet; of others nothing is kept.
pub fn at_the_end(cx: &Cx, vm: &Rc<Vm>) {
    let (cx, vm) = (Rc::clone(cx), Rc::clone(vm));
    let keeps = vm.row.borrow().disk.is_some();
    cx.spawner.clone().spawn("stop at the end", async move {
        let grace = Duration::from_secs(cx.config.limits.stop_grace_seconds).min(LAST_GRACE);
        let grace = if keeps { grace } else { Duration::ZERO };
        if let Err(problem) = stop_within(&cx, &vm, "server stopped", (grace, LAST_QUIT)).await {
            log::error!(vmid:% = vm.vmid, user = vm.login().as_str(); "{}", problem.detail);
        }
    });
}

/// Stops `vm` because of `why`; with `force` without asking the guest. Returns the final row.
///
/// # Errors
/// 503 when the database is away: the VM ends all the same.
pub async fn stop(cx: &Cx, vm: &Rc<Vm>, why: &str, force: bool) -> Result<VmRow, Problem> {
    let grace = if force { Duration::ZERO } else { Duration::from_secs(cx.config.limits.stop_grace_seconds) };
    stop_within(cx, vm, why, (grace, QUIT_WAIT)).await
}

/// As [`stop`], with so much time for the guest (none is without asking it), and for the database and QEMU each.
async fn stop_within(
    cx: &Cx,
    vm: &Rc<Vm>,
    why: &str,
    (grace, patience): (Duration, Duration),
) -> Result<VmRow, Problem> {
    if vm.wish.borrow().is_none() {
        vm.wish.replace(Some(why.to_owned()));
    }
    vm.leaving.set(());
    let stopping =
        vms::change_state(&cx.db, vm.vmid.to_string(), vec![VmState::Running], VmState::Stopping, why.to_owned());
    // A database that is away must not keep a VM alive.
    if let Some(Ok(Some(row))) = cx.within(patience, cx.db(stopping)).await
        && vm.is_up()
    {
        vm.row.replace(row);
        cx.bus.publish_expiry(vm, cx.now());
    }
    let process = Rc::clone(&vm.process.borrow());
    // One that is silent, because its disk hangs or it was taken over from within, has the same time as a guest that is deaf.
    let guest = async {
        match process.execute("system_powerdown", None).await {
            Ok(_) => Some(process.exit.wait().await),
            Err(_) => None,
        }
    };
    if grace.is_zero() || cx.within(grace, guest).await.flatten().is_none() {
        // The answer to quit may be cut off by the end itself.
        let quit = async {
            let _ = process.execute("quit", None).await;
            process.exit.wait().await
        };
        if cx.within(patience, quit).await.is_none() {
            process.signal(Signal::Kill);
        }
    }
    match cx.within(QUIT_WAIT + WRITE_WAIT, vm.ended.wait()).await {
        Some(row) => Ok(row),
        None => Err(Problem::unavailable(
            "database_away",
            "The VM is being stopped, but the database does not answer to write it down.",
            3,
        )),
    }
}
