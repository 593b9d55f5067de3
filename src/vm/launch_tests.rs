//! The matrix of launches: a failure at each step or none, times a client that vanishes at each step or never, all in one loop. Each
//! case ends whole (a running VM, nothing undone) or with nothing (everything done was undone, last first).

use super::*;
use crate::db::vms::VmState;
use crate::reactor::task::Tasks;
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Instant;

/// The steps, in their order.
const STEPS: [&str; 8] =
    ["check_image", "check_room", "reserve", "prepare", "spawn", "record", "ready", "mark_running"];

/// A world that does what the script says and remembers what is there.
#[derive(Clone, Default)]
struct Script(Rc<Scene>);

#[derive(Default)]
struct Scene {
    /// This step fails.
    fails: Option<&'static str>,
    /// The client vanishes while this step is under way.
    vanishes: Option<&'static str>,
    gone: Cancel,
    /// KVM breaks at the first `ready`.
    kvm_breaks: Cell<bool>,
    /// The user's former VM is on its way out for so many looks.
    busy: Cell<u32>,
    trail: RefCell<Vec<String>>,
    row: Cell<bool>,
    ports: Cell<bool>,
    folder: Cell<bool>,
    processes: Cell<u32>,
    running: Cell<bool>,
}

impl Script {
    fn step(&self, name: &'static str) -> Result<(), Problem> {
        self.0.trail.borrow_mut().push(name.to_owned());
        if self.0.vanishes == Some(name) {
            self.0.gone.set();
        }
        if self.0.fails == Some(name) {
            return Err(Problem::new(500, "scripted", name));
        }
        Ok(())
    }
}

fn row(state: VmState) -> VmRow {
    VmRow {
        vmid: "c9a2f1c9a2f1".into(),
        user_id: "e8f59c069959".into(),
        user_role: "user".into(),
        user_login: "alice".into(),
        profile: "custom".into(),
        iso: "tiny.iso".into(),
        disk: None,
        disk_gb: None,
        persistence: "ephemeral".into(),
        memory_mb: 128,
        cpus: 1,
        vnc_port: 5901,
        http_port: 6101,
        state,
        pid: None,
        pid_start: None,
        boot_id: None,
        accel: None,
        created_at: Timestamp::UNIX_EPOCH,
        started_at: None,
        ended_at: None,
        exit: None,
    }
}

impl World for Script {
    type Qemu = ();
    type Room = ();

    async fn check_image(&self, _: &Wish) -> Result<Image, Problem> {
        self.step("check_image")?;
        Ok(Image {
            name: "tiny.iso".into(),
            cd: Some("/tiny.iso".into()),
            order: BootOrder::Cd,
            overlay: None,
            scratch: None,
            new_kept: None,
            kept_gb: None,
        })
    }

    async fn check_room(&self, _: &Wish) -> Result<(), Problem> {
        self.step("check_room")
    }

    async fn reserve(&self, _: &Wish, _: &Image) -> Result<Reserved, Problem> {
        self.step("reserve")?;
        if self.0.busy.get() > 0 {
            self.0.busy.set(self.0.busy.get() - 1);
            return Ok(Reserved::Busy(row(VmState::Stopping)));
        }
        self.0.row.set(true);
        self.0.ports.set(true);
        Ok(Reserved::New(row(VmState::Starting)))
    }

    async fn wait_for_end(&self, _: &VmRow) -> Result<(), Problem> {
        self.step("wait_for_end")
    }

    async fn prepare(&self, _: &VmRow, _: &Image) -> Result<(), Problem> {
        // A step that fails may have done half of its work.
        self.0.folder.set(true);
        self.step("prepare")
    }

    async fn spawn(&self, _: &VmRow, _: &Wish, _: &Image) -> Result<(), Problem> {
        self.step("spawn")?;
        self.0.processes.set(self.0.processes.get() + 1);
        Ok(())
    }

    async fn record(&self, _: &VmRow, (): &()) -> Result<(), Problem> {
        self.step("record")
    }

    async fn ready(&self, _: &VmRow, (): &()) -> Result<(), Problem> {
        if self.0.kvm_breaks.get() {
            self.0.processes.set(self.0.processes.get() - 1);
            return Err(Problem::new(500, "qemu_failed", "qemu was killed by signal 6"));
        }
        self.step("ready")
    }

    async fn fell_back(&self, _: &VmRow, (): &(), _: &Problem) -> bool {
        self.0.kvm_breaks.replace(false)
    }

    async fn mark_running(&self, _: &VmRow, (): &()) -> Result<VmRow, Problem> {
        // The COMMIT may have happened although its answer was lost.
        self.0.running.set(true);
        self.step("mark_running")?;
        Ok(row(VmState::Running))
    }

    async fn undo(&self, _: &VmRow, step: &Undo) {
        self.0.trail.borrow_mut().push(format!("undo {step:?}"));
        match step {
            Undo::ForgetRow => {
                self.0.row.set(false);
                self.0.ports.set(false);
                self.0.running.set(false);
            }
            Undo::RemoveFolder => self.0.folder.set(false),
            Undo::Kill => self.0.processes.set(0),
        }
    }
}

fn wish() -> Wish {
    Wish {
        user: "e8f59c069959".into(),
        profile: "custom".into(),
        iso: None,
        memory_mb: 128,
        cpus: 1,
        data_disk_gb: None,
        kept: None,
    }
}

/// Runs one launch to its end.
fn play(script: &Script) -> Outcome {
    let mut tasks = Tasks::new(Arc::new(|| ()));
    let outcome = Latch::default();
    let (script, told) = (script.clone(), outcome.clone());
    tasks.spawner().spawn("launch", async move { told.set(launch(&script, &wish(), &script.0.gone).await) });
    tasks.run_ready(Instant::now(), 1000);
    outcome.get().expect("the launch has an outcome")
}

#[test]
fn every_failure_at_every_step_with_every_vanished_client_ends_whole_or_with_nothing() {
    let any = STEPS.iter().map(|step| Some(*step)).chain([None]);
    let mut cases = 0;
    for fails in any.clone() {
        for vanishes in any.clone() {
            let script = Script(Rc::new(Scene { fails, vanishes, ..Scene::default() }));
            let outcome = play(&script);
            let scene = &script.0;
            let left =
                (scene.row.get(), scene.ports.get(), scene.folder.get(), scene.processes.get(), scene.running.get());
            let case = format!("fails {fails:?}, vanishes {vanishes:?}: {:?}", scene.trail.borrow());
            match &outcome {
                Ok((row, how)) => {
                    assert_eq!(left, (true, true, true, 1, true), "whole; {case}");
                    assert_eq!((row.state, *how), (VmState::Running, How::Started), "{case}");
                    // Only a client that leaves when all is done gets a VM without waiting for it.
                    assert!(fails.is_none() && matches!(vanishes, None | Some("mark_running")), "{case}");
                }
                Err(problem) => {
                    assert_eq!(left, (false, false, false, 0, false), "nothing; {case}");
                    let expected = if problem.code == "scripted" { fails } else { vanishes };
                    assert!(expected.is_some(), "{} for nothing; {case}", problem.code);
                }
            }
            cases += 1;
        }
    }
    assert_eq!(cases, 81);
}

#[test]
fn undoing_goes_backwards() {
    let script = Script(Rc::new(Scene { fails: Some("ready"), ..Scene::default() }));
    assert!(play(&script).is_err());
    let trail = script.0.trail.borrow();
    let undone: Vec<&str> = trail.iter().map(String::as_str).filter(|step| step.starts_with("undo")).collect();
    assert_eq!(undone, ["undo Kill", "undo RemoveFolder", "undo ForgetRow"]);
}

#[test]
fn a_vm_on_its_way_out_is_waited_for_and_then_a_new_one_starts() {
    let script = Script(Rc::new(Scene { busy: Cell::new(2), ..Scene::default() }));
    assert!(play(&script).is_ok(), "{:?}", script.0.trail.borrow());
    let endless = Script(Rc::new(Scene { busy: Cell::new(99), ..Scene::default() }));
    assert_eq!(play(&endless).expect_err("it never ends").code, "vm_busy");
    assert!(!endless.0.row.get());
}

#[test]
fn when_kvm_breaks_the_same_launch_goes_on_under_tcg_once() {
    let script = Script(Rc::new(Scene { kvm_breaks: Cell::new(true), ..Scene::default() }));
    assert!(play(&script).is_ok(), "{:?}", script.0.trail.borrow());
    assert_eq!(script.0.processes.get(), 1);
    let spawned = script.0.trail.borrow().iter().filter(|step| *step == "spawn").count();
    assert_eq!(spawned, 2);
}

#[test]
fn a_gate_lets_so_many_in_and_passes_over_who_left() {
    let mut tasks = Tasks::new(Arc::new(|| ()));
    let gate = Rc::new(Gate::new(1));
    let inside: Latch<()> = Latch::default();
    let (first_gate, leave) = (Rc::clone(&gate), inside.clone());
    tasks.spawner().spawn("first", async move {
        let _permit = first_gate.enter().await;
        leave.wait().await;
    });
    let impatient = Cancel::default();
    let (second_gate, gone) = (Rc::clone(&gate), impatient.clone());
    tasks.spawner().spawn("second", async move { drop(gone.or(second_gate.enter()).await) });
    let third: Latch<()> = Latch::default();
    let (third_gate, got_in) = (Rc::clone(&gate), third.clone());
    tasks.spawner().spawn("third", async move {
        let _permit = third_gate.enter().await;
        got_in.set(());
    });
    tasks.run_ready(Instant::now(), 100);
    assert_eq!(third.get(), None, "only one at a time");
    impatient.set();
    tasks.run_ready(Instant::now(), 100);
    inside.set(());
    tasks.run_ready(Instant::now(), 100);
    assert_eq!(third.get(), Some(()), "the one who left is passed over");
    assert_eq!(gate.0.free.get(), 1);
}
