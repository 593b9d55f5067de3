//! A model of who has which VM, held against the real server: launches, stops, power cycles, deaths of QEMU and of the server, in any order.
//!
//! QEMU is a stand-in, for speed. After each step the database, the processes, the run folders and the API must tell the same story as the
//! model. Bounded in time: what is not begun by then is left to the next run, which draws other steps.

mod common;

use common::{Server, processes_of, stand_in, until};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

#[test]
fn stand_in_for_qemu() {
    stand_in::play();
}

/// More users than ports, so that ports run out and come back.
const USERS: usize = 4;
const PORTS: usize = 3;
/// No case begins after this.
const TIME: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy)]
enum Step {
    /// One click, or several at once.
    Launch { user: usize, clicks: usize },
    /// `POST …/stop`, of the last VM too when it has ended.
    Stop { user: usize },
    /// Switched off and on: another QEMU; or a stop at the same moment, which wins.
    Cycle { user: usize, and_stop: bool },
    /// QEMU is killed.
    Death { user: usize },
    /// The server is killed and started again; somebody's QEMU may be killed in between.
    Restart { death: Option<usize> },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..USERS, 1..=3_usize).prop_map(|(user, clicks)| Step::Launch { user, clicks }),
        2 => (0..USERS).prop_map(|user| Step::Stop { user }),
        2 => (0..USERS, any::<bool>()).prop_map(|(user, and_stop)| Step::Cycle { user, and_stop }),
        2 => (0..USERS).prop_map(|user| Step::Death { user }),
        1 => proptest::option::of(0..USERS).prop_map(|death| Step::Restart { death }),
    ]
}

/// The server, and what must be true of it.
struct World {
    server: Option<Server>,
    tokens: Vec<String>,
    /// VMs that run, by user.
    live: BTreeMap<usize, Value>,
    /// The last VM of each user that ended.
    past: BTreeMap<usize, Value>,
}

fn vmid(vm: &Value) -> &str {
    vm["vmid"].as_str().expect("vmid")
}

fn pid(vm: &Value) -> u32 {
    u32::try_from(vm["pid"].as_u64().expect("pid")).expect("pid")
}

fn kill(pid: u32) {
    assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().expect("kill").success());
}

impl World {
    fn new() -> Self {
        let folder = common::folder();
        let qemu = stand_in::install(folder.path(), "runs");
        let top = format!("tls = \"off\"\nstop_vms_on_exit = true\naccel = \"tcg\"\nqemu_bin = {qemu:?}");
        let last = PORTS - 1;
        let profile = format!(
            "base_image = {:?}\nvnc_port_range = [5901, {}]\nhttp_port_range = [6101, {}]",
            common::image(),
            5901 + last,
            6101 + last
        );
        let text = common::settings(&folder.path().join("b"), &top, "launches_per_minute_ip = 1000", &profile);
        fs::write(folder.path().join("vmshare.toml"), text).expect("settings");
        let server = Server::run(folder);
        let tokens = (0..USERS).map(|user| server.sign_up(&format!("user{user}"))).collect();
        Self { server: Some(server), tokens, live: BTreeMap::new(), past: BTreeMap::new() }
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("it runs")
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Launch { user, clicks } => self.launch(user, clicks),
            Step::Stop { user } => self.stop(user),
            Step::Cycle { user, and_stop } => self.cycle(user, and_stop),
            Step::Death { user } => {
                if let Some(vm) = self.live.remove(&user) {
                    kill(pid(&vm));
                    self.ends(user, vm, "failed");
                }
            }
            Step::Restart { death } => self.restart(death),
        }
    }

    fn launch(&mut self, user: usize, clicks: usize) {
        let (server, token) = (self.server(), &self.tokens[user]);
        let answers: Vec<common::Answer> = std::thread::scope(|scope| {
            let click = || server.call("POST", "/run-iso", token, &Value::Null);
            let all: Vec<_> = (0..clicks).map(|_| scope.spawn(click)).collect();
            all.into_iter().map(|one| one.join().expect("click")).collect()
        });
        let before = self.live.get(&user);
        if before.is_none() && self.live.len() == PORTS {
            for answer in &answers {
                assert_eq!((answer.status, answer.code()), (503, "ports_exhausted"), "{answer:?}");
            }
            return;
        }
        for answer in &answers {
            assert_eq!(answer.status, 200, "{answer:?}");
            let (got, first) = (&answer.json["vm"], before.unwrap_or_else(|| &answers[0].json["vm"]));
            assert_eq!((vmid(got), pid(got)), (vmid(first), pid(first)), "one user, one VM");
        }
        self.live.insert(user, answers[0].json["vm"].clone());
    }

    fn stop(&mut self, user: usize) {
        let Some(vm) = self.live.remove(&user) else {
            if let Some(past) = self.past.get(&user) {
                let again = self.server().stop(&self.tokens[user], past);
                assert_eq!((&again["exit"], &again["ended_at"]), (&past["exit"], &past["ended_at"]), "it ended once");
            }
            return;
        };
        self.server().stop(&self.tokens[user], &vm);
        self.ends(user, vm, "stopped");
    }

    fn cycle(&mut self, user: usize, and_stop: bool) {
        let (server, token) = (self.server(), &self.tokens[user]);
        let cycle = |vm: &Value| {
            let path = format!("/vms/{}/restart", vmid(vm));
            server.call("POST", &path, token, &json!({"mode": "power-cycle"}))
        };
        let Some(vm) = self.live.get(&user).cloned() else {
            if let Some(past) = self.past.get(&user) {
                assert_eq!(cycle(past).code(), "vm_not_running");
            }
            return;
        };
        if and_stop {
            let (answer, _) = std::thread::scope(|scope| {
                let cycle = scope.spawn(|| cycle(&vm));
                let stopped = server.stop(token, &vm);
                (cycle.join().expect("click"), stopped)
            });
            assert!(answer.status == 200 || answer.status == 409, "{answer:?}");
            self.live.remove(&user);
            self.ends(user, vm, "stopped");
            return;
        }
        let answer = cycle(&vm);
        assert_eq!((answer.status, &answer.json["vmid"]), (200, &vm["vmid"]), "{answer:?}");
        assert_ne!(pid(&answer.json), pid(&vm), "another QEMU");
        self.live.insert(user, answer.json);
    }

    fn restart(&mut self, death: Option<usize>) {
        let mut server = self.server.take().expect("it runs");
        server.kill("-KILL");
        let (_, folder, _) = server.wait();
        let dead = death.and_then(|user| Some((user, self.live.remove(&user)?)));
        if let Some((_, vm)) = &dead {
            kill(pid(vm));
        }
        self.server = Some(Server::run(folder));
        if let Some((user, vm)) = dead {
            // Nobody saw how it ended.
            self.ends(user, vm, "stopped");
        }
    }

    /// Waits until the end of a VM is told, and then written: telling does not wait for the database.
    fn ends(&mut self, user: usize, vm: Value, state: &str) {
        let path = format!("/vms/{}", vmid(&vm));
        let now = until(&format!("{path} is {state}"), || {
            let now = self.server().call("GET", &path, &self.tokens[user], &Value::Null).json;
            (now["state"] == state).then_some(now)
        });
        assert!(now["exit"].is_string() && now["pid"].is_null(), "{now}");
        let written = format!("select count(*) from vms where vmid = '{}' and state = '{state}'", vmid(&vm));
        until("its end is written", || (self.server().count(&written) == 1).then_some(()));
        self.past.insert(user, now);
    }

    /// Everything tells the same story.
    fn check(&self) {
        let server = self.server();
        let vmids: BTreeSet<String> = self.live.values().map(|vm| vmid(vm).to_owned()).collect();
        let pids: BTreeSet<u32> = self.live.values().map(pid).collect();
        for (user, token) in self.tokens.iter().enumerate() {
            let told = server.call("GET", "/auth/me", token, &Value::Null).json["vm"].clone();
            match self.live.get(&user) {
                None => assert_eq!(told, Value::Null, "user {user} has no VM"),
                Some(vm) => {
                    assert_eq!(told["state"], json!("running"), "{told}");
                    for same in ["vmid", "pid", "http_port", "vnc_port"] {
                        assert_eq!(told[same], vm[same], "{same} of user {user}");
                    }
                }
            }
        }
        let text =
            "select vmid, user_id, vnc_port, http_port from vms where state in ('starting', 'running', 'stopping')";
        let rows = server.database().query(text, &[]).expect("rows");
        let column = |n: usize| rows.iter().map(|row| row.get::<_, String>(n)).collect::<BTreeSet<String>>();
        let ports = |n: usize| rows.iter().map(|row| row.get::<_, i32>(n)).collect::<BTreeSet<i32>>();
        assert_eq!((rows.len(), &column(0)), (vmids.len(), &vmids), "live rows");
        assert_eq!(column(1).len(), rows.len(), "one live VM a user");
        assert_eq!((ports(2).len(), ports(3).len()), (rows.len(), rows.len()), "no port twice");
        let taken = server.count("select count(distinct vmid) from ports where vmid is not null");
        assert_eq!(usize::try_from(taken).expect("a count"), rows.len(), "ports of live VMs only");
        // A stop answers when the end is written down; the folder goes right after.
        let runs = server.base().join("runs");
        until("run folders are those of live VMs", || {
            let folders = fs::read_dir(&runs).expect("runs").flatten();
            let names: BTreeSet<String> = folders.map(|one| one.file_name().to_string_lossy().into_owned()).collect();
            (names == vmids).then_some(())
        });
        let processes: BTreeSet<u32> = processes_of(&runs).into_iter().collect();
        assert_eq!(processes, pids, "processes are those of live VMs");
    }
}

fn play(steps: &[Step]) {
    let mut world = World::new();
    for step in steps {
        world.take(*step);
        world.check();
    }
    world.server.take().expect("it runs").end();
}

#[test]
fn one_of_each_kind_of_step_leaves_the_world_as_the_model_has_it() {
    let launch = |user, clicks| Step::Launch { user, clicks };
    play(&[
        launch(0, 3),
        launch(0, 1),
        launch(1, 1),
        launch(2, 2),
        // All ports are taken.
        launch(3, 2),
        Step::Restart { death: Some(1) },
        Step::Cycle { user: 0, and_stop: false },
        Step::Cycle { user: 2, and_stop: true },
        Step::Cycle { user: 2, and_stop: false },
        launch(2, 1),
        launch(3, 1),
        Step::Death { user: 3 },
        Step::Stop { user: 0 },
        Step::Stop { user: 0 },
        launch(0, 2),
        Step::Restart { death: None },
        Step::Stop { user: 2 },
    ]);
}

#[test]
fn random_lives_leave_the_world_as_the_model_has_it() {
    let began = Instant::now();
    let config = Config { cases: 64, max_shrink_iters: 8, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&proptest::collection::vec(step(), 4..20), |steps| {
        if began.elapsed() < TIME {
            play(&steps);
        }
        Ok(())
    });
    outcome.unwrap_or_else(|e| panic!("{e}"));
}
