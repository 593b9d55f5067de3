//! Accompanies a running VM to its end and writes down why it ended.
//!
//! One story a VM. It wakes when the process is gone, puts it under TCG once if it was KVM that died and not the guest, and otherwise ends the
//! VM: row, ports, screens, folder. A database that is away only delays the row; the screens are told at once.

use super::args::{Accel, BootOrder};
use super::process::Process;
use super::real;
use super::{Vm, image};
use crate::db::vms::VmState;
use crate::house::{Cx, Order, Which};
use crate::net::relay::End;
use crate::proto::problem::Problem;
use crate::sys::pidfd::Exit;
use std::rc::Rc;
use std::sync::Arc;

/// Starts the story for a VM that runs.
pub fn begin(cx: &Cx, vm: &Rc<Vm>) {
    let (cx, vm) = (Rc::clone(cx), Rc::clone(vm));
    let spawner = cx.spawner.clone();
    spawner.spawn("watch vm", async move {
        let exit = loop {
            let process = Rc::clone(&vm.process.borrow());
            let exit = process.exit.wait().await;
            if !process.kvm_broke.get() || vm.wish.borrow().is_some() {
                break exit;
            }
            if let Err(problem) = restart_under_tcg(&cx, &vm).await {
                log::error!(vmid:% = vm.vmid; "it could not be started under TCG: {}", problem.detail);
                break exit;
            }
        };
        end(&cx, &vm, exit).await;
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
            log::warn!(vmid:% = process.vmid; "KVM internal error: the VM is started again under TCG");
            process.kvm_broke.set(true);
            real::kill(&cx, &process).await;
        }
    });
}

async fn restart_under_tcg(cx: &Cx, vm: &Rc<Vm>) -> Result<(), Problem> {
    // The browsers' pages connect again by themselves, to the new screen.
    cx.order(Order::End(Which::Vm(vm.vmid), End::new(1011, "the VM starts again")));
    let row = vm.row.borrow().clone();
    let (config, row_too) = (Arc::clone(&cx.config), row.clone());
    let found = cx.disk(move || {
        let gone = || Problem::internal("the profile is gone");
        let profile = config.profiles.get(&row_too.profile).ok_or_else(gone)?;
        image::cd_again(&config, profile, &row_too.user_id, &row_too.iso)
    });
    let cd = found.await??;
    let process = real::spawn_qemu(cx, &row, cd.as_deref(), BootOrder::Disk, Accel::Tcg).await?;
    if let Err(problem) = real::wait_ready(cx, &process).await {
        real::kill(cx, &process).await;
        return Err(problem);
    }
    let accel = Some(real::accel_name(process.accel));
    let moved =
        crate::db::vms::set_process(&cx.db, row.vmid.clone(), process.pid, process.start, super::boot_id(), accel);
    if let Some(row) = cx.db(moved).await? {
        vm.row.replace(row);
    }
    vm.process.replace(process);
    cx.bus.publish(vm, cx.now());
    Ok(())
}

async fn end(cx: &Cx, vm: &Rc<Vm>, exit: Exit) {
    let process = Rc::clone(&vm.process.borrow());
    let wish = vm.wish.borrow().clone();
    let (state, why) = match wish {
        Some(wish) => (VmState::Stopped, wish),
        None if process.guest_shutdown.get() => (VmState::Stopped, "guest shutdown".to_owned()),
        None if exit == Exit::Code(0) => (VmState::Stopped, real::exit_text(exit, None)),
        None => (VmState::Failed, real::exit_text(exit, process.last_line())),
    };
    log::info!(vmid:% = vm.vmid; "vm {state}: {why}");
    cx.order(Order::End(Which::Vm(vm.vmid), End::new(1000, "VM stopped")));
    let vmid = vm.vmid.to_string();
    if let Some(row) = real::finish(cx, &vmid, state, &why).await {
        vm.row.replace(row);
    } else {
        let mut row = vm.row.borrow_mut();
        row.state = state;
        row.exit = Some(why);
    }
    cx.vms.remove(vm.vmid);
    cx.bus.publish(vm, cx.now());
    vm.ended.set(vm.row.borrow().clone());
    real::remove_folder(cx, &vmid).await;
}
