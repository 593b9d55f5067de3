//! `/vms/{vmid}/restart` and what else a running VM can be told, save to end.
//!
//! Somebody else's VM answers 404; a VM that does not run answers 409 with what to do.

use super::Req;
use super::auth::audit_with;
use super::session::Caller;
use super::throttle::{Kind, Rate};
use super::vms::visible;
use crate::db::events::Event;
use crate::db::vms::VmState;
use crate::house::Cx;
use crate::net::response::Response;
use crate::proto::json::Fields;
use crate::proto::problem::Problem;
use crate::vm::diary;
use crate::vm::lifetime::{self, Why};
use crate::vm::{self, Vm, Vmid, restart, supervise};
use std::rc::Rc;

/// The caller's VM, which runs.
async fn running(cx: &Cx, req: &Req) -> Result<Rc<Vm>, Problem> {
    running_one(cx, req.caller()?, req.param(0)).await
}

/// A VM that `caller` may see, and that runs.
pub(super) async fn running_one(cx: &Cx, caller: &Caller, vmid: &str) -> Result<Rc<Vm>, Problem> {
    let row = visible(cx, caller, vmid).await?;
    let not_running =
        || Problem::conflict("vm_not_running", format!("This VM is {}; start it, then do this.", row.state));
    let vm = Vmid::parse(&row.vmid).and_then(|vmid| cx.vms.get(vmid)).ok_or_else(not_running)?;
    if vm.row.borrow().state != VmState::Running || vm.leaving.get().is_some() {
        return Err(not_running());
    }
    Ok(vm)
}

fn shown(cx: &Cx, vm: &Vm) -> Response {
    Response::json(200, &vm::to_json(&vm.row.borrow(), Some(vm), cx.now()))
}

/// `POST /vms/{vmid}/restart`.
pub async fn restart(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let vm = running(&cx, &req).await?;
    let fields = Fields::parse_or_empty(&req.body)?;
    fields.deny_unknown(&["mode"])?;
    let mode = fields.opt_str("mode")?.unwrap_or("reset");
    if mode == "power-cycle" {
        let rate = Rate::per_minute(cx.config.limits.launches_per_minute_user);
        cx.throttle.take(Kind::UserLaunch, &req.caller()?.user.id, rate, cx.now())?;
    }
    again(&cx, &req, &vm, mode).await?;
    audit_with(&cx, &req, &req.caller()?.user, "restart vm", &vm.vmid.to_string(), mode).await;
    Ok(shown(&cx, &vm))
}

/// Restarts a VM as `mode` says.
pub(super) async fn again(cx: &Cx, req: &Req, vm: &Rc<Vm>, mode: &str) -> Result<(), Problem> {
    match mode {
        "reset" => restart::reset(cx, vm).await?,
        // Not bound to the asker: a restart that began goes to its end.
        "power-cycle" => restart::power_cycle(cx, vm).await?,
        _ => return Err(Problem::unprocessable("mode", "must be \"reset\" or \"power-cycle\"")),
    }
    log::info!(vmid:% = vm.vmid, user = req.caller()?.user.login.as_str(), req = req.id.as_str(); "vm restarted: {mode}");
    diary::note(cx, Event::Vm { vmid: vm.vmid.to_string(), kind: "restart", detail: mode.to_owned() });
    Ok(())
}

/// `POST /vms/{vmid}/resume`.
pub async fn resume(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let vm = running(&cx, &req).await?;
    Fields::parse_or_empty(&req.body)?.deny_unknown(&[])?;
    supervise::resume(&cx, &vm).await?;
    audit_with(&cx, &req, &req.caller()?.user, "resume vm", &vm.vmid.to_string(), "").await;
    Ok(shown(&cx, &vm))
}

/// `POST /vms/{vmid}/keep`: the idle limit counts from now. Nothing moves the total time.
pub async fn keep(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let vm = running(&cx, &req).await?;
    Fields::parse_or_empty(&req.body)?.deny_unknown(&[])?;
    lifetime::keep(&cx, &vm).await;
    audit_with(&cx, &req, &req.caller()?.user, "keep vm", &vm.vmid.to_string(), "").await;
    match vm.expiry(cx.now()).filter(|expiry| expiry.soon && expiry.why == Why::TimeLimit) {
        Some(_) => {
            let detail = "This VM's total time is nearly up and cannot be extended; save your work elsewhere.";
            Err(Problem::conflict("time_limit", detail))
        }
        None => Ok(shown(&cx, &vm)),
    }
}
