//! Snapshots of a VM's disks: with memory by QMP jobs while it runs, by `qemu-img` when it does not.
//!
//! The snapshots are inside the qcow2 files, which are the truth. A job that fails leaves the VM running. One job a VM at a time.
//! Source: QEMU's QMP reference, snapshot-save, snapshot-load, snapshot-delete, query-jobs.

use super::args::DISK_NODE;
use super::disk_args;
use super::process::Process;
use super::{Job, Vm, agent, disks};
use crate::house::{Cx, House};
use crate::proto::problem::Problem;
use data_encoding::HEXLOWER;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// How the names of our jobs in QEMU begin.
const JOBS: &str = "snapshot-";
/// Between two looks at a job.
const LOOK: Duration = Duration::from_millis(100);

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The number QEMU gave it.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Bytes of memory and devices in it; 0 for one of the disk alone.
    pub memory: u64,
    /// When it was taken.
    pub at: Option<Timestamp>,
}

impl Snapshot {
    /// As the API writes it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "size": self.memory,
            "memory": self.memory > 0,
            "created_at": self.at.map(|at| at.to_string()),
        })
    }
}

/// The list in what QEMU and `qemu-img` say of an image.
#[must_use]
pub fn parse(image: &Value) -> Vec<Snapshot> {
    let listed = image.get("snapshots").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let one = |value: &Value| {
        Some(Snapshot {
            id: value.get("id").and_then(Value::as_str).unwrap_or_default().to_owned(),
            name: value.get("name")?.as_str()?.to_owned(),
            memory: value.get("vm-state-size").and_then(Value::as_u64).unwrap_or(0),
            at: value.get("date-sec").and_then(Value::as_i64).and_then(|at| Timestamp::from_second(at).ok()),
        })
    };
    listed.iter().filter_map(one).collect()
}

fn refused(why: impl std::fmt::Display) -> Problem {
    Problem::conflict("snapshot_failed", format!("QEMU refused: {why}. The VM goes on."))
}

/// The VM's own disks as QEMU names them, with what it knows of the first one.
async fn nodes(cx: &House, process: &Process) -> Result<(Vec<String>, Value), Problem> {
    let all = process.ask(cx, "query-named-block-nodes", Some(json!({ "flat": true }))).await.map_err(refused)?;
    let mut names = Vec::new();
    let mut first = Value::Null;
    for node in all.as_array().map(Vec::as_slice).unwrap_or_default() {
        let Some(name) = node.get("node-name").and_then(Value::as_str).filter(|name| name.starts_with(DISK_NODE))
        else {
            continue;
        };
        if name == format!("{DISK_NODE}0") {
            first = node.get("image").cloned().unwrap_or_default();
        }
        names.push(name.to_owned());
    }
    names.sort();
    if names.is_empty() {
        return Err(no_disk());
    }
    Ok((names, first))
}

/// For a VM that has nothing to keep a snapshot in.
#[must_use]
pub fn no_disk() -> Problem {
    let detail = "This VM has no disk to keep a snapshot in. Start it with data_disk_gb, or with a kept disk.";
    Problem::conflict("no_disk", detail)
}

/// Those of a running VM.
///
/// # Errors
/// 409 when it has no disk or QEMU does not say.
pub async fn list_live(cx: &House, vm: &Vm) -> Result<Vec<Snapshot>, Problem> {
    let process = Rc::clone(&vm.process.borrow());
    Ok(parse(&nodes(cx, &process).await?.1))
}

/// Those of a disk nobody uses.
///
/// # Errors
/// 507 with `qemu-img`'s words.
pub async fn list_offline(cx: &Cx, disk: &Path) -> Result<Vec<Snapshot>, Problem> {
    let said = disks::qemu_img(cx, |program| disk_args::qemu_img_info(program, disk)).await?;
    let image: Value =
        serde_json::from_str(&said).map_err(|_| Problem::internal("qemu-img says nothing that can be read."))?;
    Ok(parse(&image))
}

/// What is done to a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Take it.
    Save,
    /// Go back to it.
    Restore,
    /// Remove it.
    Delete,
}

impl Act {
    fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Save => ("save", "snapshot-save", "-c"),
            Self::Restore => ("restore", "snapshot-load", "-a"),
            Self::Delete => ("delete", "snapshot-delete", "-d"),
        }
    }
}

/// Marks a job as under way; dropping it ends that.
struct Under(Rc<Vm>, Cx);

impl Under {
    fn begin(cx: &Cx, vm: &Rc<Vm>, act: Act, name: &str) -> Result<Self, Problem> {
        if let Some(job) = &*vm.job.borrow() {
            let detail =
                format!("A snapshot job ({}) is under way. Wait for its end.", [job.what, &job.name].join(" ").trim());
            return Err(Problem::conflict("snapshot_busy", detail));
        }
        vm.job.replace(Some(Job { what: act.words().0, name: name.to_owned(), percent: 0 }));
        cx.bus.publish(vm, cx.now());
        Ok(Self(Rc::clone(vm), Rc::clone(cx)))
    }

    fn at(&self, percent: u64) {
        let changed = match &mut *self.0.job.borrow_mut() {
            Some(job) if job.percent != percent => {
                job.percent = percent;
                true
            }
            _ => false,
        };
        if changed {
            self.1.bus.publish(&self.0, self.1.now());
        }
    }
}

impl Drop for Under {
    fn drop(&mut self) {
        self.0.job.replace(None);
        if self.0.ended.get().is_none() {
            self.1.bus.publish(&self.0, self.1.now());
        }
    }
}

/// Does it to a running VM, memory and all.
///
/// # Errors
/// 409 with QEMU's reason; 404 and 409 for a name that is not, or already, there. The VM runs on.
pub async fn live(cx: &Cx, vm: &Rc<Vm>, act: Act, name: &str) -> Result<Vec<Snapshot>, Problem> {
    let process = Rc::clone(&vm.process.borrow());
    let under = Under::begin(cx, vm, act, name)?;
    let (disks, image) = nodes(cx, &process).await?;
    may(cx, act, name, &parse(&image))?;
    if act == Act::Save {
        let memory = u64::from(vm.row.borrow().memory_mb) << 20;
        disks::room(cx, &cx.layout.base().join(name), memory).await?;
    }
    let id = job_id(name);
    let (_, command, _) = act.words();
    let mut arguments = json!({ "job-id": id, "tag": name, "devices": disks });
    if act != Act::Delete
        && let Some(object) = arguments.as_object_mut()
    {
        object.insert("vmstate".into(), json!(format!("{DISK_NODE}0")));
    }
    if act != Act::Delete {
        agent::unplug(cx, &process).await;
    }
    let outcome = match process.execute(command, Some(arguments)).await {
        Ok(_) => end(cx, &process, &id, &under).await,
        Err(e) => Err(refused(e)),
    };
    if act != Act::Delete {
        agent::plug(cx, &process).await;
    }
    outcome?;
    log::info!(vmid:% = vm.vmid, user = vm.login().as_str(); "{command} {name}");
    list_live(cx, vm).await
}

/// Waits for a job's end and takes it off QEMU's list; a failed one leaves the VM running.
async fn end(cx: &Cx, process: &Process, id: &str, under: &Under) -> Result<(), Problem> {
    let outcome = wait(cx, process, id, under).await;
    let _ = process.execute("job-dismiss", Some(json!({ "id": id }))).await;
    if outcome.is_err() {
        go_on(process).await;
    }
    outcome
}

/// Sees to jobs that a former server had begun: QEMU goes on with them, and keeps their outcome until somebody takes note.
pub(super) async fn take_back(cx: &Cx, vm: &Rc<Vm>) {
    let process = Rc::clone(&vm.process.borrow());
    let Ok(jobs) = process.execute("query-jobs", None).await else { return };
    let ours: Vec<_> = jobs.as_array().into_iter().flatten().filter_map(ours).collect();
    if ours.is_empty() {
        // It may have ended between the job's end and this.
        agent::plug(cx, &process).await;
    }
    for (id, act, name) in ours {
        let (cx, vm, process) = (Rc::clone(cx), Rc::clone(vm), Rc::clone(&process));
        let spawner = cx.spawner.clone();
        spawner.spawn("snapshot of a former server", async move {
            // Only one job was ever under way, but who asked before QEMU answered may have begun another.
            let under = loop {
                match Under::begin(&cx, &vm, act, &name) {
                    Ok(under) => break under,
                    Err(_) if vm.ended.get().is_some() => return,
                    Err(_) => cx.clock.sleep(LOOK).await,
                }
            };
            let (what, ..) = act.words();
            match end(&cx, &process, &id, &under).await {
                Ok(()) => log::info!(vmid:% = vm.vmid, user = vm.login().as_str(); "a snapshot job of the former server has ended: {what} {name}"),
                Err(e) => log::warn!(vmid:% = vm.vmid, user = vm.login().as_str(); "a snapshot job of the former server failed: {what} {name}: {}", e.detail),
            }
            agent::plug(&cx, &process).await;
        });
    }
}

/// The id of a new job. It has the snapshot's name in it, for QEMU does not say of which one a job is; not as it is written: an id has fewer letters
/// than a name.
fn job_id(name: &str) -> String {
    format!("{JOBS}{}-{}", crate::random::hex_id(), HEXLOWER.encode(name.as_bytes()))
}

/// The id of a job that a server of ours began, what it does, and to which snapshot, where its id says so.
fn ours(job: &Value) -> Option<(String, Act, String)> {
    let text = |name: &str| job.get(name).and_then(Value::as_str);
    let id = text("id")?;
    let (_, name) = id.strip_prefix(JOBS)?.split_once('-').unwrap_or_default();
    let name = HEXLOWER.decode(name.as_bytes()).ok().and_then(|name| String::from_utf8(name).ok());
    let kind = text("type")?;
    let act = [Act::Save, Act::Restore, Act::Delete].into_iter().find(|act| act.words().1 == kind)?;
    Some((id.to_owned(), act, name.unwrap_or_default()))
}

/// A name that can be taken, or that is there.
pub(crate) fn may(cx: &Cx, act: Act, name: &str, there: &[Snapshot]) -> Result<(), Problem> {
    let known = there.iter().any(|snapshot| snapshot.name == name);
    let most = cx.config.limits.snapshots_per_disk as usize;
    match act {
        Act::Save if known => Err(Problem::conflict(
            "snapshot_exists",
            format!("There is a snapshot {name} already. Choose another name."),
        )),
        Act::Save if there.len() >= most => Err(Problem::conflict(
            "too_many_snapshots",
            format!("There are {most} snapshots already. Remove one first."),
        )),
        Act::Restore | Act::Delete if !known => {
            Err(Problem::not_found("snapshot_not_found", format!("There is no snapshot {name}.")))
        }
        Act::Restore => there.iter().find(|other| other.id == name && other.name != name).map_or(Ok(()), |other| {
            // QEMU looks at ids first: it would go back to that one, and what is now would be lost for nothing.
            let detail = format!(
                "QEMU would take {name} for the number of the snapshot {}. Go back to another one, or remove that first.",
                other.name
            );
            Err(Problem::conflict("snapshot_ambiguous", detail))
        }),
        Act::Save | Act::Delete => Ok(()),
    }
}

/// Waits for a job's end and tells how far it is.
async fn wait(cx: &Cx, process: &Process, id: &str, under: &Under) -> Result<(), Problem> {
    loop {
        let jobs = process.execute("query-jobs", None).await.map_err(refused)?;
        let job =
            jobs.as_array().and_then(|jobs| jobs.iter().find(|job| job.get("id").and_then(Value::as_str) == Some(id)));
        let Some(job) = job else { return Err(refused("the job is gone")) };
        let number = |name: &str| job.get(name).and_then(Value::as_u64).unwrap_or(0);
        if job.get("status").and_then(Value::as_str) == Some("concluded") {
            return match job.get("error").and_then(Value::as_str) {
                Some(why) => Err(refused(why)),
                None => Ok(()),
            };
        }
        under.at((number("current-progress") * 100).checked_div(number("total-progress")).unwrap_or(0).min(100));
        cx.clock.sleep(LOOK).await;
    }
}

/// A failed job may have left the guest standing.
async fn go_on(process: &Process) {
    let status = process.execute("query-status", None).await;
    let stands = status.is_ok_and(|status| status.get("running").and_then(Value::as_bool) == Some(false));
    if stands {
        let _ = process.execute("cont", None).await;
    }
}

/// Does it to a disk nobody uses.
///
/// # Errors
/// As [`live`]; 507 with `qemu-img`'s words.
pub async fn offline(cx: &Cx, disk: &Path, act: Act, name: &str) -> Result<Vec<Snapshot>, Problem> {
    may(cx, act, name, &list_offline(cx, disk).await?)?;
    let (.., flag) = act.words();
    disks::qemu_img(cx, |program| disk_args::qemu_img_snapshot(program, disk, flag, name)).await?;
    list_offline(cx, disk).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_of_a_former_server_is_told_as_what_it_is() {
        for (kind, act) in
            [("snapshot-save", Act::Save), ("snapshot-load", Act::Restore), ("snapshot-delete", Act::Delete)]
        {
            // The older servers' ids had no name in them.
            for (id, name) in [(job_id("v1.0+a"), "v1.0+a"), ("snapshot-0123456789ab".to_owned(), "")] {
                let job = json!({ "id": id, "type": kind, "status": "running" });
                assert!(id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)), "QEMU refuses {id}");
                assert_eq!(ours(&job), Some((id, act, name.to_owned())));
            }
        }
        assert_eq!(ours(&json!({ "id": "snapshot-1", "type": "commit" })), None);
        assert_eq!(ours(&json!({ "id": "drive0", "type": "snapshot-save" })), None);
    }

    #[test]
    fn the_list_is_read_as_qemu_writes_it() {
        let image = json!({ "virtual-size": 1, "snapshots": [
            { "id": "1", "name": "clean", "vm-state-size": 115_343_360u64, "date-sec": 1_790_000_000, "date-nsec": 0, "vm-clock-sec": 9 },
            { "id": "2", "name": "cold", "vm-state-size": 0, "date-sec": 1_790_000_001 },
            { "id": "3" },
        ]});
        let listed = parse(&image);
        let short: Vec<_> = listed.iter().map(|s| (s.id.as_str(), s.name.as_str(), s.memory)).collect();
        assert_eq!(short, [("1", "clean", 115_343_360), ("2", "cold", 0)]);
        assert_eq!(listed[0].to_json()["created_at"], "2026-09-21T14:13:20Z");
        assert!(parse(&json!({})).is_empty() && parse(&Value::Null).is_empty());
    }
}
