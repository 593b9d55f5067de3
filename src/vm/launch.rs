//! One launch, whoever waits for it: ends with a running VM or with nothing.
//!
//! A launch belongs to the user's VM, not to a request. Requests hold [`Seat`]s; a second click joins the first's launch. When the
//! last seat is left, the launch is cancelled, but only after a grace: a page reload is "leave, then join", and must neither start a
//! second VM nor kill the first. Who joins while a cancelled launch is being undone waits for its end and starts afresh.
//!
//! Each step first writes down how to take it back ([`Undo`], plain data). Undoing cannot be cancelled. What the steps do to the
//! world is behind [`World`], so that a test can let each of them fail, with a client that vanishes at each.

use super::args::BootOrder;
use super::diary;
use super::disk_args::NewDisk;
use crate::db::events::Event;
use crate::db::vms::{Reserved, VmRow};
use crate::house::Cx;
use crate::proto::problem::Problem;
use crate::reactor::task::{Answer, Cancel, Cancelled, Latch, oneshot};
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// What a user asked for, checked against the profile's limits.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The user's id.
    pub user: String,
    /// The profile's name.
    pub profile: String,
    /// The image asked for by name or path; `None` is the profile's.
    pub iso: Option<String>,
    /// Guest memory in MiB.
    pub memory_mb: u32,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Size in GiB of the disk that is made: a scratch disk, or the kept one if it is not there yet.
    pub data_disk_gb: Option<u32>,
    /// The disk that is kept when the VM ends.
    pub kept: Option<KeptDisk>,
}

/// Who asked for a launch first: it is theirs in the log and in the audit trail, whoever joins or leaves.
#[derive(Debug, Clone)]
pub struct Asker {
    /// The login name.
    pub login: String,
    /// From where.
    pub ip: String,
    /// The request's id.
    pub req: String,
    /// When.
    pub at: Instant,
}

/// A disk of the user's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptDisk {
    /// Its name.
    pub name: String,
    /// It was asked for by name, so it is only made where its size is told.
    pub by_name: bool,
}

/// What a VM starts from: images that passed every check, and the disks to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What the user sees of it: its file name; empty for a disk alone.
    pub name: String,
    /// The CD: canonical path, inside an allowed folder.
    pub cd: Option<PathBuf>,
    /// What the firmware tries first.
    pub order: BootOrder,
    /// A disk of the VM's own that is an overlay of an image, and gone with it.
    pub overlay: Option<NewDisk>,
    /// A disk of the VM's own, gone with it.
    pub scratch: Option<NewDisk>,
    /// The kept disk is not there yet.
    pub new_kept: Option<NewDisk>,
    /// Its size in GiB, then or now.
    pub kept_gb: Option<u32>,
}

/// How the caller came to the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It was started now.
    Started,
    /// It ran already.
    AlreadyRunning,
}

/// A step to take back. Each may be done twice, and for something that never happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undo {
    /// The row and its ports, in whatever state.
    ForgetRow,
    /// The run folder with all in it, and a kept disk that was made for this start.
    RemoveFolder,
    /// The QEMU process, until it is gone.
    Kill,
}

/// What a launch does to the world. Its futures live on the loop's thread, so they need not be `Send`.
#[allow(async_fn_in_trait)]
pub trait World {
    /// A started QEMU.
    type Qemu: Clone;
    /// Room on the host, given back when it is dropped.
    type Room;
    /// Finds the image and looks into it.
    async fn check_image(&self, wish: &Wish) -> Result<Image, Problem>;
    /// Looks whether the host has room, and holds it while the launch goes on.
    async fn check_room(&self, wish: &Wish) -> Result<Self::Room, Problem>;
    /// Takes the row and the ports, in one transaction.
    async fn reserve(&self, wish: &Wish, image: &Image) -> Result<Reserved, Problem>;
    /// Waits a while for a VM that is on its way out.
    async fn wait_for_end(&self, row: &VmRow) -> Result<(), Problem>;
    /// Makes the run folder and the disks.
    async fn prepare(&self, row: &VmRow, image: &Image) -> Result<(), Problem>;
    /// Starts QEMU.
    async fn spawn(&self, row: &VmRow, wish: &Wish, image: &Image) -> Result<Self::Qemu, Problem>;
    /// Writes down the process, so that a sweep after a crash finds it.
    async fn record(&self, row: &VmRow, qemu: &Self::Qemu) -> Result<(), Problem>;
    /// Waits until the screen can be shown. A plain wait: dropping it leaves nothing.
    async fn ready(&self, row: &VmRow, qemu: &Self::Qemu) -> Result<(), Problem>;
    /// QEMU did not get ready: true when it ran under KVM, which is not used from now on; then the process is gone.
    async fn fell_back(&self, row: &VmRow, qemu: &Self::Qemu, problem: &Problem) -> bool;
    /// The row becomes `running`; from here the VM is the user's.
    async fn mark_running(&self, row: &VmRow, qemu: &Self::Qemu) -> Result<VmRow, Problem>;
    /// Takes a step back. Never fails: what cannot be done now is retried until it is.
    async fn undo(&self, row: &VmRow, step: &Undo);
}

impl From<Cancelled> for Problem {
    fn from(_: Cancelled) -> Self {
        Self::conflict(CANCELLED, "Nobody waited for this start any more, so it was taken back. Start again.")
    }
}

const CANCELLED: &str = "launch_cancelled";
/// How often a start waits for a VM that is on its way out.
const WAITS_FOR_END: usize = 3;

/// The story of a launch.
///
/// # Errors
/// The first failing step's; everything done before it is undone by then.
pub async fn launch<W: World>(world: &W, wish: &Wish, gone: &Cancel) -> Result<(VmRow, How), Problem> {
    gone.check()?;
    let image = world.check_image(wish).await?;
    gone.check()?;
    let _room = world.check_room(wish).await?;
    gone.check()?;
    let mut reserved = world.reserve(wish, &image).await?;
    for _ in 0..WAITS_FOR_END {
        let Reserved::Busy(row) = &reserved else { break };
        gone.or(world.wait_for_end(row)).await??;
        reserved = world.reserve(wish, &image).await?;
    }
    let row = match reserved {
        Reserved::Running(row) => return Ok((row, How::AlreadyRunning)),
        Reserved::New(row) => row,
        Reserved::Busy(row) => {
            let detail = format!("Your VM is {}. Try again in a moment.", row.state);
            return Err(Problem::conflict("vm_busy", detail));
        }
        Reserved::NoPorts { kind, free_in: Some(seconds) } => {
            let detail = format!(
                "All {kind} ports of this profile are in use, or rest after a VM that ended. One is free in {seconds} s: try again then."
            );
            return Err(Problem::unavailable("ports_exhausted", detail, seconds));
        }
        Reserved::NoPorts { kind, free_in: None } => {
            let detail =
                format!("All {kind} ports of this profile are in use. Try again when somebody has stopped a VM.");
            return Err(Problem::unavailable("ports_exhausted", detail, 30));
        }
    };
    let mut undo = vec![Undo::ForgetRow];
    match boot(world, &row, wish, &image, &mut undo, gone).await {
        Ok(row) => Ok((row, How::Started)),
        Err(problem) => {
            while let Some(step) = undo.pop() {
                world.undo(&row, &step).await;
            }
            Err(problem)
        }
    }
}

async fn boot<W: World>(
    world: &W,
    row: &VmRow,
    wish: &Wish,
    image: &Image,
    undo: &mut Vec<Undo>,
    gone: &Cancel,
) -> Result<VmRow, Problem> {
    gone.check()?;
    undo.push(Undo::RemoveFolder);
    world.prepare(row, image).await?;
    gone.check()?;
    undo.push(Undo::Kill);
    let mut qemu = start(world, row, wish, image).await?;
    let mut ready = gone.or(world.ready(row, &qemu)).await?;
    if let Err(problem) = &ready
        && world.fell_back(row, &qemu, problem).await
    {
        gone.check()?;
        qemu = start(world, row, wish, image).await?;
        ready = gone.or(world.ready(row, &qemu)).await?;
    }
    ready?;
    gone.check()?;
    world.mark_running(row, &qemu).await
}

async fn start<W: World>(world: &W, row: &VmRow, wish: &Wish, image: &Image) -> Result<W::Qemu, Problem> {
    let qemu = world.spawn(row, wish, image).await?;
    world.record(row, &qemu).await?;
    Ok(qemu)
}

/// What a launch came to.
pub type Outcome = Result<(VmRow, How), Problem>;

struct Launch {
    seats: Cell<u32>,
    /// Counts joins, so that a grace that began before one does not end after it.
    joins: Cell<u64>,
    gone: Cancel,
    outcome: Latch<Outcome>,
}

/// Launches under way: at most one a user, and a bounded number of QEMUs starting at a time.
pub struct Launches {
    by_user: Rc<RefCell<HashMap<String, Rc<Launch>>>>,
    gate: Gate,
    promised: Rc<Cell<u64>>,
}

impl Launches {
    /// Room for `at_once` starting QEMUs; further launches wait their turn.
    #[must_use]
    pub fn new(at_once: usize) -> Self {
        Self { by_user: Rc::default(), gate: Gate::new(at_once), promised: Rc::default() }
    }

    /// Memory in MiB that launches under way were promised.
    #[must_use]
    pub fn promised(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.promised)
    }

    /// Launches that wait for their turn.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.gate.0.waiting.borrow().len()
    }

    /// Users whose VM is being started.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_user.borrow().len()
    }

    /// True when nothing is being started.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Cancels all of them: the server ends.
    pub fn cancel_all(&self) {
        let all: Vec<_> = self.by_user.borrow().values().cloned().collect();
        all.iter().for_each(|launch| launch.gone.set());
    }

    /// Joins the user's launch, or begins one.
    pub async fn join(&self, cx: &Cx, wish: Wish, asker: Asker) -> Seat {
        loop {
            let there = self.by_user.borrow().get(&wish.user).cloned();
            match there {
                Some(launch) if launch.gone.is_set() => drop(launch.outcome.wait().await),
                Some(launch) => return Seat::take(cx, launch),
                None => return self.begin(cx, wish, asker),
            }
        }
    }

    fn begin(&self, cx: &Cx, wish: Wish, asker: Asker) -> Seat {
        let launch = Rc::new(Launch {
            seats: Cell::new(0),
            joins: Cell::new(0),
            gone: Cancel::default(),
            outcome: Latch::default(),
        });
        self.by_user.borrow_mut().insert(wish.user.clone(), Rc::clone(&launch));
        let seat = Seat::take(cx, Rc::clone(&launch));
        let (story_cx, by_user) = (Rc::clone(cx), Rc::clone(&self.by_user));
        let ends = Ends { by_user, user: wish.user.clone(), launch: Rc::clone(&launch) };
        cx.spawner.spawn("launch", async move {
            let outcome = match launch.gone.or(story_cx.launches.gate.enter()).await {
                Ok(_permit) => crate::vm::launch::launch(&story_cx, &wish, &launch.gone).await,
                Err(cancelled) => Err(cancelled.into()),
            };
            tell(&story_cx, &wish, &asker, &outcome).await;
            ends.with(outcome);
        });
        seat
    }
}

/// Refusals that are a fault of the server's, and nobody's who asked.
const FAULTS: [&str; 4] = ["disk_failed", "disk_busy", "network_unavailable", "not_isolated"];

/// Counts a launch, and writes it down: here and not where it was asked for, because who asked may have left, and others may have joined.
async fn tell(cx: &Cx, wish: &Wish, asker: &Asker, outcome: &Outcome) {
    let (result, why) = match outcome {
        Ok((_, How::Started)) => ("started", ""),
        Ok((_, How::AlreadyRunning)) => ("running", ""),
        Err(problem) if problem.code == CANCELLED => ("cancelled", ""),
        Err(problem) if problem.status == 500 || FAULTS.contains(&problem.code) => ("failed", problem.code),
        Err(problem) => ("refused", problem.code),
    };
    cx.metrics.launch(result, why, cx.now() - asker.at);
    let (user, req) = (asker.login.as_str(), asker.req.as_str());
    let row = match outcome {
        Ok((row, How::Started)) => row,
        Ok((_, How::AlreadyRunning)) => return,
        Err(problem) => return log::info!(user = user, req = req; "launch {result}: {}", problem.detail),
    };
    let (pid, accel) = (row.pid.unwrap_or(0), row.accel.as_deref().unwrap_or_default());
    log::info!(vmid:% = row.vmid, user = user, req = req; "vm running pid={pid} accel={accel} iso={}", row.iso);
    let detail = format!("profile={} iso={} memory_mb={} cpus={}", row.profile, row.iso, row.memory_mb, row.cpus);
    let (user_id, ip) = (Some(wish.user.clone()), asker.ip.clone());
    diary::write(cx, Event::Audit { user_id, ip, action: "start vm".into(), target: row.vmid.clone(), detail }).await;
}

/// Takes a launch off the table and tells its outcome; when the story broke off (a bug), that too is an outcome.
struct Ends {
    by_user: Rc<RefCell<HashMap<String, Rc<Launch>>>>,
    user: String,
    launch: Rc<Launch>,
}

impl Ends {
    fn with(&self, outcome: Outcome) {
        // Off the table first: who is woken by the outcome may begin anew at once.
        self.by_user.borrow_mut().remove(&self.user);
        self.launch.outcome.set(outcome);
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        if self.launch.outcome.get().is_none() {
            self.with(Err(Problem::internal("The start broke off; the server's log says why.")));
        }
    }
}

/// One request's interest in a launch.
pub struct Seat {
    cx: Cx,
    launch: Rc<Launch>,
}

impl Seat {
    fn take(cx: &Cx, launch: Rc<Launch>) -> Self {
        launch.seats.set(launch.seats.get() + 1);
        launch.joins.set(launch.joins.get() + 1);
        Self { cx: Rc::clone(cx), launch }
    }

    /// Waits for the launch to end.
    pub async fn outcome(&self) -> Outcome {
        self.launch.outcome.wait().await
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let launch = Rc::clone(&self.launch);
        launch.seats.set(launch.seats.get() - 1);
        if launch.seats.get() > 0 || launch.outcome.get().is_some() {
            return;
        }
        let (cx, joins) = (Rc::clone(&self.cx), launch.joins.get());
        let grace = Duration::from_secs(cx.config.limits.launch_grace_seconds);
        self.cx.spawner.spawn("launch grace", async move {
            cx.clock.sleep(grace).await;
            if launch.seats.get() == 0 && launch.joins.get() == joins {
                launch.gone.set();
            }
        });
    }
}

/// Lets a bounded number in at a time; the others wait in order.
struct Gate(Rc<GateState>);

struct GateState {
    free: Cell<usize>,
    waiting: RefCell<VecDeque<Answer<Permit>>>,
}

/// The right to be inside; dropping it lets the next one in.
struct Permit(Rc<GateState>);

impl Gate {
    fn new(room: usize) -> Self {
        Self(Rc::new(GateState { free: Cell::new(room), waiting: RefCell::default() }))
    }

    async fn enter(&self) -> Option<Permit> {
        if self.0.free.get() > 0 {
            self.0.free.set(self.0.free.get() - 1);
            return Some(Permit(Rc::clone(&self.0)));
        }
        let (answer, promise) = oneshot();
        self.0.waiting.borrow_mut().push_back(answer);
        promise.await.ok()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        loop {
            let next = self.0.waiting.borrow_mut().pop_front();
            match next {
                // Its asker left; the permit would only come back here.
                Some(answer) if answer.is_abandoned() => {}
                Some(answer) => return answer.give(Self(Rc::clone(&self.0))),
                None => return self.0.free.set(self.0.free.get() + 1),
            }
        }
    }
}

#[cfg(test)]
#[path = "launch_tests.rs"]
mod tests;
