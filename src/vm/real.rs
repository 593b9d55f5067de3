//! The steps of a launch, done for real: files and forks on the `disk` threads, rows on the `db` thread, QEMU by QMP.

use super::args::{self, Accel, BootOrder, Machine, Network, Video, Vnc};
use super::attach::Wanted;
use super::cgroup::Limits;
use super::launch::{Image, Undo, Wish, World};
use super::lifetime::Lifetime;
use super::process::Process;
use super::viewers::Viewers;
use super::{Vm, Vmid, apart, disks, host, hypervisor, image, net_filter, room, scroll, vnc_socket, watch};
use crate::config::{self, Profile};
use crate::db::vms::{self, Reserved, VmRow, VmState};
use crate::house::{Cx, House};
use crate::net::relay::Meter;
use crate::proto::problem::Problem;
use crate::reactor::task::{Either, Latch, first};
use crate::store;
use crate::sys::child::Spawn;
use crate::sys::landlock::Bounds;
use crate::sys::pidfd::Exit;
use crate::sys::signal::Signal;
use std::cell::{Cell, RefCell};
use std::fs::DirBuilder;
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// A disk of the VM's own that is an overlay of an image.
const OVERLAY: &str = "overlay.qcow2";
/// A disk of the VM's own.
const SCRATCH: &str = "scratch.qcow2";
/// How long a killed QEMU may take to be gone.
const KILL_WAIT: Duration = Duration::from_secs(10);
/// How long the screen may take to greet once QEMU takes commands.
const BANNER_WAIT: Duration = Duration::from_secs(2);
/// Between attempts to write an end to a database that is away.
const RETRY: Duration = Duration::from_secs(1);
/// Devices that QEMU writes to.
const WRITABLE: [&str; 2] = ["/dev/kvm", "/dev/null"];

/// How the contract and the database write it.
pub(super) fn accel_name(accel: Accel) -> String {
    accel.to_string().to_lowercase()
}

/// A VM's folder.
#[must_use]
pub fn run_dir(house: &House, vmid: &str) -> PathBuf {
    house.config.base_dir.join("runs").join(vmid)
}

/// The profile of a launch or a row; it was looked up by the one who asked, but a row may be older than the settings.
fn profile<'a>(house: &'a House, name: &str) -> Result<&'a Profile, Problem> {
    let gone = || Problem::internal(format!("The profile {name:?} is not in the settings any more."));
    house.config.profiles.get(name).ok_or_else(gone)
}

/// The id in a row.
pub(super) fn vmid_of(row: &VmRow) -> Result<Vmid, Problem> {
    Vmid::parse(&row.vmid).ok_or_else(|| Problem::internal("A VM's row has no valid id."))
}

impl World for Cx {
    type Qemu = Rc<Process>;
    type Room = room::Promise;

    async fn check_image(&self, wish: &Wish) -> Result<Image, Problem> {
        let config = Arc::clone(&self.config);
        let wish = wish.clone();
        self.disk(move || {
            let profile = config.profiles.get(&wish.profile).ok_or_else(|| Problem::internal("no such profile"))?;
            image::media(&config, profile, &wish)
        })
        .await?
    }

    async fn check_room(&self, wish: &Wish) -> Result<room::Promise, Problem> {
        room::take(self, wish).await
    }

    async fn reserve(&self, wish: &Wish, image: &Image) -> Result<Reserved, Problem> {
        let profile = profile(self, &wish.profile)?;
        let reservation = vms::Wish {
            vmid: Vmid::random().to_string(),
            user_id: wish.user.clone(),
            profile: wish.profile.clone(),
            iso: image.name.clone(),
            persistence: if wish.kept.is_some() { "persistent" } else { "ephemeral" }.into(),
            disk: wish.kept.as_ref().map(|kept| (kept.name.clone(), image.kept_gb.unwrap_or(0))),
            memory_mb: wish.memory_mb,
            cpus: wish.cpus,
            vnc_range: profile.vnc_ports.clone(),
            http_range: profile.http_ports.clone(),
        };
        let vmid = reservation.vmid.clone();
        match self.db(vms::reserve(&self.db, reservation)).await {
            // Its end is not written yet, or another QEMU is not up yet in the place of one that is gone.
            Ok(Reserved::Running(row))
                if !vmid_of(&row).is_ok_and(|vmid| self.vms.get(vmid).is_some_and(|vm| vm.is_up())) =>
            {
                Err(Problem::unavailable(
                    "between",
                    "Your VM is just ending or being started again. Try again in a moment.",
                    1,
                ))
            }
            Ok(reserved) => {
                if let Reserved::New(row) = &reserved {
                    self.bus.publish_row(row, self.now());
                }
                Ok(reserved)
            }
            Err(problem) => {
                // The answer may be lost although the row was written.
                forget(self, vmid).await;
                Err(problem)
            }
        }
    }

    async fn wait_for_end(&self, row: &VmRow) -> Result<(), Problem> {
        let grace = Duration::from_secs(self.config.limits.stop_grace_seconds + 10);
        match self.vms.get(vmid_of(row)?) {
            Some(vm) => drop(self.within(grace, vm.ended.wait()).await),
            // Nobody here knows it: a sweep or another step is about to end it.
            None => self.clock.sleep(Duration::from_millis(500)).await,
        }
        Ok(())
    }

    async fn prepare(&self, row: &VmRow, image: &Image) -> Result<(), Problem> {
        let (folder, uid) = (run_dir(self, &row.vmid), self.apart.take(vmid_of(row)?)?);
        let made = folder.clone();
        self.disk(move || make_run_dir(&made, uid)).await?.map_err(no_space)?;
        if let Some(new) = &image.new_kept {
            return disks::make_for(self, row, new).await;
        }
        let _claim = disks::settled(self, row).await?;
        for (name, new) in [(OVERLAY, &image.overlay), (SCRATCH, &image.scratch)] {
            if let Some(new) = new {
                disks::make(self, &folder.join(name), new).await?;
            }
        }
        Ok(())
    }

    async fn spawn(&self, row: &VmRow, _: &Wish, image: &Image) -> Result<Rc<Process>, Problem> {
        let accel = self.hypervisor.accel();
        spawn_qemu(self, row, image.cd.as_deref(), image.order, accel).await
    }

    async fn record(&self, row: &VmRow, qemu: &Rc<Process>) -> Result<(), Problem> {
        let (vmid, pid, start) = (row.vmid.clone(), qemu.pid, qemu.start);
        self.db(vms::set_process(&self.db, vmid, pid, start, super::boot_id(), None)).await.map(drop)
    }

    async fn ready(&self, _: &VmRow, qemu: &Rc<Process>) -> Result<(), Problem> {
        wait_ready(self, qemu).await
    }

    async fn fell_back(&self, _: &VmRow, qemu: &Rc<Process>, problem: &Problem) -> bool {
        if qemu.accel != Accel::Kvm || qemu.exit.get().is_none() {
            return false;
        }
        self.hypervisor.kvm_failed(self, &problem.detail).await
    }

    async fn mark_running(&self, row: &VmRow, qemu: &Rc<Process>) -> Result<VmRow, Problem> {
        let vmid = row.vmid.clone();
        let marked = vms::mark_running(&self.db, vmid, qemu.pid, qemu.start, super::boot_id(), accel_name(qemu.accel));
        let marked = self.db(marked).await?;
        let row = marked.ok_or_else(|| Problem::conflict("vm_gone", "The VM was ended while it started."))?;
        disks::keep(self, &row).await;
        let vm = live(self, &row, qemu)?;
        watch::begin(self, &vm);
        self.bus.publish(&vm, self.now());
        Ok(row)
    }

    async fn undo(&self, row: &VmRow, step: &Undo) {
        match step {
            Undo::Kill => {
                let process = vmid_of(row).ok().and_then(|vmid| self.vms.process_of(vmid));
                if let Some(process) = process {
                    kill(self, &process).await;
                }
            }
            Undo::RemoveFolder => {
                disks::take_back(self, row).await;
                remove_folder(self, &row.vmid).await;
            }
            Undo::ForgetRow => {
                forget(self, row.vmid.clone()).await;
                self.bus.publish_gone(row);
            }
        }
    }
}

/// Puts a running VM on the table.
pub(super) fn live(cx: &Cx, row: &VmRow, process: &Rc<Process>) -> Result<Rc<Vm>, Problem> {
    let vm = Rc::new(Vm {
        vmid: vmid_of(row)?,
        user: row.user_id.clone(),
        run_dir: process.run_dir.clone(),
        row: RefCell::new(row.clone()),
        process: RefCell::new(Rc::clone(process)),
        job: RefCell::default(),
        wish: RefCell::default(),
        lifetime: Lifetime::of(cx, row),
        leaving: Latch::default(),
        again: RefCell::default(),
        paused: Cell::new(None),
        shares: RefCell::default(),
        shots: super::screen::Shots::default(),
        ended: Latch::default(),
        viewers: Viewers::default(),
        meter: Rc::new(Meter::below(&cx.relayed)),
        since: cx.now(),
    });
    cx.vms.insert(Rc::clone(&vm));
    Ok(vm)
}

/// Starts QEMU for a row; it is on the table of processes then.
pub(super) async fn spawn_qemu(
    cx: &Cx,
    row: &VmRow,
    cd: Option<&Path>,
    order: BootOrder,
    accel: Accel,
) -> Result<Rc<Process>, Problem> {
    let profile = profile(cx, &row.profile)?;
    let folder = run_dir(cx, &row.vmid);
    let (qemu, version) = cx.hypervisor.qemu()?;
    if profile.network == config::Network::Internet {
        net_filter::ensure(cx).await?;
    }
    let vmid = vmid_of(row)?;
    let uid = cx.apart.of(vmid);
    let wanted = Wanted {
        cd: cd.map(Path::to_owned),
        kept: row.disk.as_ref().map(|name| store::disks::path(&cx.layout, &row.user_id, name)),
        own: [OVERLAY, SCRATCH].map(|name| folder.join(name)).to_vec(),
    };
    let (config, owner) = (Arc::clone(&cx.config), row.user_id.clone());
    let attached = cx.disk(move || wanted.open(&config, &owner)).await??;
    let args = args::qemu(&Machine {
        qemu: &qemu,
        version,
        accel,
        name: &row.vmid,
        memory_mb: row.memory_mb,
        cpus: row.cpus,
        cd: attached.cd,
        disks: &attached.disks,
        order,
        viewers: cx.config.limits.viewers_per_vm,
        run_dir: &folder,
        vnc: match profile.vnc {
            config::VncListen::Unix => Vnc::Unix,
            config::VncListen::Tcp => Vnc::Tcp { host: cx.config.vnc_host, port: row.vnc_port },
        },
        network: match profile.network {
            config::Network::None => Network::None,
            config::Network::Restricted => Network::Restricted,
            config::Network::Internet => Network::Internet,
        },
        video: match profile.video {
            config::Video::Std => Video::Std,
            config::Video::Virtio => Video::Virtio,
        },
    });
    let args = args.map_err(|e| Problem::internal(e.to_string()))?;
    let sockets = [vnc_socket(&folder), super::qmp_socket(&folder)];
    let (cwd, control, id) = (folder.clone(), Arc::clone(&cx.groups), row.vmid.clone());
    let limits = Limits { memory_mb: row.memory_mb, cpus: row.cpus };
    let started = cx
        .disk(move || {
            // A QEMU that ended leaves its VNC socket behind.
            for socket in &sockets {
                let _ = std::fs::remove_file(socket);
            }
            let Some((program, args)) = args.split_first() else { return Err(std::io::ErrorKind::NotFound.into()) };
            let cgroups = &control.make(&id, limits)?;
            let (groups, files) = (&hypervisor::groups(), attached.files.as_slice());
            let uid_gid = uid.map(|uid| (uid, uid));
            let output = Some(cwd.as_path());
            let bounds = Bounds::below(&cwd, &WRITABLE)?;
            let bounds = bounds.as_ref();
            Spawn { uid_gid, groups, files, cgroups, bounds, output, ..Spawn::new(program, args, &cwd) }.start()
        })
        .await?;
    let process = started.and_then(|child| Process::started(cx, vmid, child, accel, folder));
    if let Ok(process) = &process {
        process.has_internet.set(profile.network == config::Network::Internet);
        host::watch(cx, row, process);
    }
    process.map_err(|e| Problem::new(500, "qemu_failed", format!("QEMU could not be started: {e}")))
}

/// A VM's folder, and, as its owner, the user it runs as. The folder of all of them can be passed through, not listed.
fn make_run_dir(folder: &Path, uid: Option<u32>) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    match uid {
        Some(uid) => std::os::unix::fs::chown(folder, Some(uid), Some(uid)),
        None => Ok(()),
    }
}

/// Waits until QEMU takes commands and its screen greets; the error carries QEMU's last line.
pub(super) async fn wait_ready(cx: &Cx, process: &Rc<Process>) -> Result<(), Problem> {
    let limit = Duration::from_secs(cx.config.limits.boot_seconds);
    let greet = async {
        process.connect_monitor(cx).await.map_err(|e| qemu_problem(&e.to_string()))?;
        let socket = vnc_socket(&process.run_dir);
        let pid = process.pid;
        cx.disk(move || banner(&socket, pid))
            .await?
            .map_err(|e| qemu_problem(&format!("its screen does not answer: {e}")))
    };
    match first(process.exit.wait(), cx.within(limit, greet)).await {
        Either::First(exit) => Err(qemu_problem(&exit_text(exit, process.last_line()))),
        Either::Second(None) => Err(qemu_problem(&format!("it was not ready after {} seconds", limit.as_secs()))),
        Either::Second(Some(result)) => {
            // QEMU may have closed its monitor because it is exiting: its last words say more.
            if result.is_ok()
                && let Err(e) = process.connect_serial(cx)
            {
                log::warn!(vmid:% = process.vmid, user = process.owner(); "its serial console does not answer: {e}");
            }
            match (result, process.exit.get()) {
                (Err(_), Some(exit)) => Err(qemu_problem(&exit_text(exit, process.last_line()))),
                (Err(problem), None) => match cx.within(BANNER_WAIT, process.exit.wait()).await {
                    Some(exit) => Err(qemu_problem(&exit_text(exit, process.last_line()))),
                    None => Err(problem),
                },
                (Ok(()), _) => Ok(()),
            }
        }
    }
}

/// Reads the 12 bytes of an RFB server's greeting (RFC 6143 7.1.1). Blocks, bounded.
fn banner(screen: &Path, pid: u32) -> std::io::Result<()> {
    let mut socket = UnixStream::connect(screen)?;
    apart::is_of(&socket, pid)?;
    socket.set_read_timeout(Some(BANNER_WAIT))?;
    let mut greeting = [0; 12];
    socket.read_exact(&mut greeting)?;
    if greeting.starts_with(b"RFB ") { Ok(()) } else { Err(std::io::ErrorKind::InvalidData.into()) }
}

/// An exit in words: `qemu exited 1: <its last line>`.
#[must_use]
pub fn exit_text(exit: Exit, last_line: Option<String>) -> String {
    let what = match exit {
        Exit::Code(code) => format!("qemu exited {code}"),
        Exit::Signal(signal) => format!("qemu was killed by signal {signal}"),
        Exit::Unknown => "qemu ended".to_owned(),
    };
    match last_line {
        Some(line) => format!("{what}: {line}"),
        None => what,
    }
}

fn qemu_problem(why: &str) -> Problem {
    Problem::new(500, "qemu_failed", format!("The VM did not start: {why}"))
}

fn no_space(e: std::io::Error) -> Problem {
    log::error!("a run folder cannot be made: {e}");
    Problem::new(507, "no_space", format!("The server cannot store what a VM needs ({e}). Tell the operator."))
}

/// Kills a process and waits until it is gone.
pub(super) async fn kill(cx: &Cx, process: &Rc<Process>) {
    process.signal(Signal::Kill);
    if cx.within(KILL_WAIT, process.exit.wait()).await.is_none() {
        log::error!(vmid:% = process.vmid, user = process.owner(); "qemu (pid {}) does not go away after SIGKILL", process.pid);
    }
}

/// Removes a VM's folder and what bounds it; one that is gone already is no error.
pub(super) async fn remove_folder(cx: &Cx, vmid: &str) {
    loop {
        let (folder, groups, id) = (run_dir(cx, vmid), Arc::clone(&cx.groups), vmid.to_owned());
        let base = cx.config.base_dir.clone();
        let shown = folder.clone();
        let job = move || {
            groups.remove(&id);
            scroll::remove(&base, &id);
            std::fs::remove_dir_all(&folder)
        };
        match cx.disk(job).await {
            Ok(Err(e)) if e.kind() != std::io::ErrorKind::NotFound => {
                return log::error!(vmid:% = vmid; "{} cannot be removed: {e}", shown.display());
            }
            Ok(_) => break,
            Err(_) => cx.clock.sleep(RETRY).await,
        }
    }
    // One that does not die keeps its user to itself.
    if let Some(vmid) = Vmid::parse(vmid).filter(|vmid| cx.vms.process_of(*vmid).is_none()) {
        cx.apart.give_back(vmid);
    }
}

/// Removes a row and frees its ports; while the database is away a story of its own goes on trying.
async fn forget(cx: &Cx, vmid: String) {
    let rest = cooldown(cx);
    if cx.db(vms::forget(&cx.db, vmid.clone(), rest)).await.is_ok() {
        return;
    }
    log::warn!(vmid:% = vmid; "the database does not answer; the row is removed when it does");
    let story = Rc::clone(cx);
    cx.spawner.spawn("forget row", async move {
        while !story.stopping.get() && story.db(vms::forget(&story.db, vmid.clone(), rest)).await.is_err() {
            story.clock.sleep(RETRY).await;
        }
    });
}

fn cooldown(cx: &Cx) -> Duration {
    Duration::from_secs(cx.config.limits.port_cooldown_seconds)
}

/// Writes a VM's end, however long the database is away.
pub(super) async fn finish(cx: &Cx, vmid: &str, state: VmState, exit: &str) -> Option<VmRow> {
    loop {
        match cx.db(vms::finish(&cx.db, vmid.to_owned(), state, exit.to_owned(), cooldown(cx))).await {
            Ok(row) => return row,
            Err(problem) if problem.status == 503 => cx.clock.sleep(RETRY).await,
            Err(problem) => {
                log::error!(vmid:% = vmid; "the end cannot be written: {}", problem.detail);
                return None;
            }
        }
    }
}
