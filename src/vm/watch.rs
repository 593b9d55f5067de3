//! Accompanies a running VM to its end and writes down why it ended.
//!
//! One story a VM. It wakes when the process is gone, starts another in its place if that was asked for or if it was KVM that died and not the
//! guest, and otherwise ends the VM: row, ports, screens, folder. A database that is away only delays the row; the screens are told at once.

use super::args::Accel;
use super::process::Process;
use super::{Vm, lifetime, real, restart};
use crate::db::events;
use crate::db::vms::{self, VmState};
use crate::house::{Cx, Order, Which};
use crate::net::relay::End;
use crate::sys::pidfd::Exit;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How long the database may take to say what the command line wanted.
const WISH_WAIT: Duration = Duration::from_secs(1);

/// Starts the story for a VM that runs.
pub fn begin(cx: &Cx, vm: &Rc<Vm>) {
    lifetime::begin(cx, vm);
    if cx.stopping.get() && cx.config.stop_vms_on_exit {
        // Its launch was past the point where it could be taken back when the server was told to end.
        super::stop::at_the_end(cx, vm);
    }
    let (cx, vm) = (Rc::clone(cx), Rc::clone(vm));
    let spawner = cx.spawner.clone();
    spawner.spawn("watch vm", async move {
        let (exit, failure) = loop {
            let process = Rc::clone(&vm.process.borrow());
            let exit = process.exit.wait().await;
            let asked = vm.again.borrow().clone();
            let accel = match process.kvm_broke.get() {
                true => Some(Accel::Tcg),
                false => asked.as_ref().map(|_| cx.hypervisor.accel()),
            };
            let outcome = match accel {
                None => break (exit, None),
                Some(_) if vm.leaving.get().is_some() => Err(restart::being_stopped()),
                Some(accel) => restart::start_again(&cx, &vm, accel).await,
            };
            vm.again.replace(None);
            if let Some(asked) = asked {
                asked.set(outcome.clone());
            }
            if let Err(problem) = outcome {
                log::error!(vmid:% = vm.vmid, user = vm.login().as_str(); "it could not be started again: {}", problem.detail);
                break (exit, Some(problem.detail));
            }
        };
        end(&cx, &vm, exit, failure).await;
    });
}

/// QEMU says that the guest does not run any more; under KVM that may be KVM's own end.
pub fn look_why_it_stopped(cx: &Cx, process: &Rc<Process>) {
    if process.accel != Accel::Kvm {
        return;
    }
    let (cx, process) = (Rc::clone(cx), Rc::clone(process));
    let spawner = cx.spawner.clone();
    spawner.spawn("look why qemu stopped", async move {
        let status = process.execute("query-status", None).await;
        let broke = status.is_ok_and(|s| s.get("status").and_then(|s| s.as_str()) == Some("internal-error"));
        if broke && cx.hypervisor.kvm_failed(&cx, "a guest died with KVM's internal error").await {
            log::warn!(vmid:% = process.vmid, user = process.owner(); "KVM internal error: the VM is started again under TCG");
            process.kvm_broke.set(true);
            // A server that takes over now starts the other one.
            let _ = cx.db(vms::strike_process(&cx.db, process.vmid.to_string())).await;
            real::kill(&cx, &process).await;
        }
    });
}

/// `failure` says why there is no other QEMU in the place of the one that is gone.
async fn end(cx: &Cx, vm: &Rc<Vm>, exit: Exit, failure: Option<String>) {
    let process = Rc::clone(&vm.process.borrow());
    cx.order(Order::End(Which::Vm(vm.vmid), End::new(1000, "VM stopped")));
    let wish = wish(cx, vm).await;
    let starved = wish.is_none() && matches!(exit, Exit::Signal(9) | Exit::Unknown) && short_of_memory(cx, vm).await;
    let (state, why) = match wish {
        Some(wish) => (VmState::Stopped, wish),
        None if failure.is_some() => (VmState::Failed, failure.unwrap_or_default()),
        None if starved => (VmState::Failed, "qemu took more memory than a VM may".to_owned()),
        None if process.guest_shutdown.get() => (VmState::Stopped, "guest shutdown".to_owned()),
        None if exit == Exit::Code(0) || process.shut_down.get() => {
            (VmState::Stopped, real::exit_text(exit, process.last_line()))
        }
        None => (VmState::Failed, real::exit_text(exit, process.last_line())),
    };
    log::info!(vmid:% = vm.vmid, user = vm.login().as_str(); "vm {state}: {why}");
    {
        let mut row = vm.row.borrow_mut();
        (row.state, row.exit, row.ended_at) = (state, Some(why.clone()), Some(jiff::Timestamp::now()));
    }
    cx.bus.publish(vm, cx.now());
    cx.bus.end_viewers(vm.vmid);
    let vmid = vm.vmid.to_string();
    if let Some(row) = real::finish(cx, &vmid, state, &why).await {
        vm.row.replace(row);
    }
    cx.vms.remove(vm.vmid);
    vm.ended.set(vm.row.borrow().clone());
    real::remove_folder(cx, &vmid).await;
}

/// Why it was to end: this server's word, or what the command line wrote into the database before it ended QEMU itself.
async fn wish(cx: &Cx, vm: &Vm) -> Option<String> {
    let wish = vm.wish.borrow().clone();
    match wish {
        Some(wish) => Some(wish),
        // What is told does not wait long for a database that is away.
        None => {
            let asked = cx.db(events::stopping_because(&cx.db, vm.vmid.to_string()));
            cx.within(WISH_WAIT, asked).await.and_then(Result::ok).flatten()
        }
    }
}

/// Whether the kernel ended it because it took more memory than it may.
async fn short_of_memory(cx: &Cx, vm: &Vm) -> bool {
    let (groups, vmid) = (Arc::clone(&cx.groups), vm.vmid.to_string());
    cx.disk(move || groups.was_short_of_memory(&vmid)).await.unwrap_or(false)
}
