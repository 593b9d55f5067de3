//! `/vms/{vmid}/snapshots`: of a running VM with its memory; of a stopped one, of the disk it kept.

use super::Req;
use crate::db::vms::{self, VmRow, VmState};
use crate::house::Cx;
use crate::net::response::Response;
use crate::proto::json::Fields;
use crate::proto::problem::Problem;
use crate::store::{Claim, disks, names};
use crate::vm::snapshots::{self, Act, Snapshot};
use crate::vm::{Vm, Vmid};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Where a VM's snapshots are.
enum Place {
    Live(Rc<Vm>),
    Disk { uid: String, name: String, path: PathBuf },
}

async fn place(cx: &Cx, req: &Req) -> Result<Place, Problem> {
    let caller = req.caller()?;
    let not_found = || Problem::not_found("vm_not_found", "You have no such VM.");
    let vmid = Vmid::parse(req.param(0)).ok_or_else(not_found)?;
    let mine = |row: &VmRow| row.user_id == caller.user.id || caller.is_admin();
    if let Some(vm) = cx.vms.get(vmid) {
        let (mine, state) = { (mine(&vm.row.borrow()), vm.row.borrow().state) };
        return match (mine, state) {
            (false, _) => Err(not_found()),
            (true, VmState::Running) => Ok(Place::Live(vm)),
            (true, state) => {
                Err(Problem::conflict("vm_not_running", format!("The VM is {state}. Try again in a moment.")))
            }
        };
    }
    let row = cx.db(vms::by_id(&cx.db, vmid.to_string())).await?.filter(mine).ok_or_else(not_found)?;
    if row.state.is_live() {
        return Err(Problem::conflict("vm_not_running", format!("The VM is {}. Try again in a moment.", row.state)));
    }
    let gone = "This VM has ended and kept no disk, so it has no snapshots. Start with a kept disk to have them.";
    let name = row.disk.ok_or_else(|| Problem::conflict("no_disk", gone))?;
    let path = disks::path(&cx.layout, &row.user_id, &name);
    Ok(Place::Disk { uid: row.user_id, name, path })
}

fn answer(status: u16, found: &[Snapshot]) -> Response {
    let all: Vec<Value> = found.iter().map(Snapshot::to_json).collect();
    Response::json(status, &json!({ "snapshots": all }))
}

/// `GET`: `{snapshots: [{name, size, memory, created_at}]}`.
pub async fn list(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    match listed(&cx, &req).await {
        // Nothing to list is no mistake.
        Err(problem) if problem.code == "no_disk" => Ok(answer(200, &[])),
        found => found.map(|found| answer(200, &found)),
    }
}

async fn listed(cx: &Cx, req: &Req) -> Result<Vec<Snapshot>, Problem> {
    match place(cx, req).await? {
        Place::Live(vm) => snapshots::list_live(cx, &vm).await,
        Place::Disk { uid, name, path } => {
            let _claim = workable(cx, &uid, &name, &path).await?;
            snapshots::list_offline(cx, &path).await
        }
    }
}

/// The claim of a kept disk's owner, once the disk may be worked on.
async fn workable(cx: &Cx, uid: &str, name: &str, path: &Path) -> Result<Claim, Problem> {
    let claim = cx.claims.of(uid).await;
    let disk = path.to_owned();
    if !cx.disk(move || disk.exists()).await? {
        let detail = format!("The disk {name} that this VM kept was removed, and its snapshots with it.");
        return Err(Problem::conflict("no_disk", detail));
    }
    super::disks::workable(cx, uid, name).await?;
    Ok(claim)
}

/// `POST`: `{name}`.
pub async fn create(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    // Whose VM it is comes first: a stranger's body is not looked at.
    let place = place(&cx, &req).await?;
    let fields = Fields::parse(&req.body)?;
    fields.deny_unknown(&["name"])?;
    let name = names::check_snapshot("name", fields.str("name")?)?.to_owned();
    act(&cx, &req, place, Act::Save, &name).await.map(|found| {
        let made = found.iter().find(|snapshot| snapshot.name == name).map(Snapshot::to_json);
        let all: Vec<Value> = found.iter().map(Snapshot::to_json).collect();
        Response::json(201, &json!({ "snapshot": made, "snapshots": all }))
    })
}

/// `POST …/{name}/restore`.
pub async fn restore(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let place = place(&cx, &req).await?;
    act(&cx, &req, place, Act::Restore, req.param(1)).await.map(|found| answer(200, &found))
}

/// `DELETE …/{name}`.
pub async fn remove(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let place = place(&cx, &req).await?;
    act(&cx, &req, place, Act::Delete, req.param(1)).await.map(|_| Response::empty(204))
}

async fn act(cx: &Cx, req: &Req, place: Place, act: Act, name: &str) -> Result<Vec<Snapshot>, Problem> {
    let unknown = |_| Problem::not_found("snapshot_not_found", format!("There is no snapshot {name}."));
    names::check("name", name).map_err(unknown)?;
    let found = match place {
        Place::Live(vm) => snapshots::live(cx, &vm, act, name).await?,
        Place::Disk { uid, name: disk, path } => {
            let _claim = workable(cx, &uid, &disk, &path).await?;
            snapshots::offline(cx, &path, act, name).await?
        }
    };
    let what = match act {
        Act::Save => "create snapshot",
        Act::Restore => "restore snapshot",
        Act::Delete => "delete snapshot",
    };
    super::auth::audit(cx, req, &req.caller()?.user, what, &format!("{}/{name}", req.param(0))).await;
    Ok(found)
}
