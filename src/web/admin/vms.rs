//! `POST /admin/vms/stop` and `/admin/vms/restart`: the same for many VMs, a few at a time, each with its own result.

use super::note;
use crate::house::Cx;
use crate::net::response::Response;
use crate::proto::json::Fields;
use crate::proto::problem::Problem;
use crate::reactor::task::Latch;
use crate::web::vms::{end, visible};
use crate::web::{Req, life};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// VMs of one request.
const MOST: usize = 200;
/// VMs that are stopped at the same time: that is mostly waiting for guests.
const STOPS: usize = 32;
/// VMs that are restarted at the same time: each may be a QEMU that starts, which launches wait for too.
const RESTARTS: usize = 4;

/// What is done to each of them.
#[derive(Clone)]
enum Act {
    Stop { force: bool },
    Restart { mode: String },
}

/// `POST /admin/vms/stop`: `{vmids, force?}`.
pub async fn stop(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let fields = Fields::parse(&req.body)?;
    fields.deny_unknown(&["vmids", "force"])?;
    let force = fields.opt_bool("force")?.unwrap_or(false);
    each(&cx, &req, vmids(&fields)?, &Act::Stop { force }, STOPS).await
}

/// `POST /admin/vms/restart`: `{vmids, mode?}`.
pub async fn restart(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let fields = Fields::parse(&req.body)?;
    fields.deny_unknown(&["vmids", "mode"])?;
    let mode = fields.opt_str("mode")?.unwrap_or("reset").to_owned();
    if !matches!(mode.as_str(), "reset" | "power-cycle") {
        return Err(Problem::unprocessable("mode", "must be \"reset\" or \"power-cycle\""));
    }
    each(&cx, &req, vmids(&fields)?, &Act::Restart { mode }, RESTARTS).await
}

/// Each once, in the order in which they were named.
fn vmids(fields: &Fields) -> Result<Vec<String>, Problem> {
    let mut all: Vec<String> = Vec::new();
    for vmid in fields.strs("vmids", MOST)? {
        if !all.iter().any(|known| known == vmid) {
            all.push(vmid.to_owned());
        }
    }
    Ok(all)
}

type Results = Rc<RefCell<Vec<Option<Value>>>>;

/// Sets its latch however its story ends.
struct Done(Latch<()>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.set(());
    }
}

/// Not bound to the asker: what began goes to its end.
async fn each(cx: &Cx, req: &Rc<Req>, vmids: Vec<String>, act: &Act, at_once: usize) -> Result<Response, Problem> {
    let results: Results = Rc::new(RefCell::new(vec![None; vmids.len()]));
    let queue: VecDeque<(usize, String)> = vmids.iter().cloned().enumerate().collect();
    let queue = Rc::new(RefCell::new(queue));
    let latches: Vec<Latch<()>> = (0..at_once.min(vmids.len())).map(|_| Latch::default()).collect();
    for latch in &latches {
        let done = Done(latch.clone());
        let (story, req, act) = (Rc::clone(cx), Rc::clone(req), act.clone());
        let (queue, results) = (Rc::clone(&queue), Rc::clone(&results));
        cx.spawner.spawn("many", async move {
            let _done = done;
            loop {
                let Some((place, vmid)) = ({ queue.borrow_mut().pop_front() }) else { return };
                let result = one(&story, &req, &vmid, &act).await;
                if let Some(slot) = results.borrow_mut().get_mut(place) {
                    *slot = Some(result);
                }
            }
        });
    }
    for latch in latches {
        latch.wait().await;
    }
    let shown: Vec<Value> = results
        .take()
        .into_iter()
        .zip(vmids)
        .map(|(result, vmid)| result.unwrap_or_else(|| failed(&vmid, &Problem::internal("The server's log says why."))))
        .collect();
    Ok(Response::json(200, &json!({ "results": shown })))
}

fn failed(vmid: &str, problem: &Problem) -> Value {
    json!({ "vmid": vmid, "ok": false, "state": null, "code": problem.code, "detail": problem.detail })
}

async fn one(cx: &Cx, req: &Req, vmid: &str, act: &Act) -> Value {
    match work(cx, req, vmid, act).await {
        // One that had ended is as it was: nothing was done.
        Ok((state, false)) => json!({ "vmid": vmid, "ok": true, "state": state, "code": null, "detail": null }),
        Ok((state, true)) => {
            let (action, detail) = match act {
                Act::Stop { force } => ("stop vm", if *force { "at once" } else { "by its power button" }.to_owned()),
                Act::Restart { mode } => ("restart vm", mode.clone()),
            };
            note(cx, req, action, vmid, detail).await;
            json!({ "vmid": vmid, "ok": true, "state": state, "code": null, "detail": null })
        }
        Err(problem) => failed(vmid, &problem),
    }
}

/// The VM's state, and whether anything was done to it.
async fn work(cx: &Cx, req: &Req, vmid: &str, act: &Act) -> Result<(String, bool), Problem> {
    let caller = req.caller()?;
    match act {
        Act::Stop { force } => {
            let row = visible(cx, caller, vmid).await?;
            let was_live = row.state.is_live();
            Ok((end(cx, caller, row, *force).await?.state.to_string(), was_live))
        }
        Act::Restart { mode } => {
            let vm = life::running_one(cx, caller, vmid).await?;
            life::again(cx, req, &vm, mode).await?;
            let state = vm.row.borrow().state.to_string();
            Ok((state, true))
        }
    }
}
