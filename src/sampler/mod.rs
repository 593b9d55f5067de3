//! The sampler: a thread that measures the host and its VMs, keeps an eye on the limits, and tells what it saw.
//!
//! Its clock is the time-out of its inbox: it reads `/proc` every few seconds, judges what it read by the rules, and hands a [`Report`] to whoever
//! asked for the next one, which is one story of the loop ([`crate::vm::host`]). Messages to people go to a thread of their own, because the
//! network may take its time. Nothing here is awaited by a request, and nothing here touches the loop's sockets.
//!
//! Must not: signal processes, write to the database, grow without bound. A QEMU that is gone is forgotten here by itself, should word of it be lost.

pub mod aside;
pub mod call;
pub mod history;
pub mod probe;
pub mod report;
pub mod rules;
pub mod storage;
pub mod telegram;
pub mod thresholds;

use crate::config::{self, Alerts};
use crate::proto::procfs::{self, Memory};
use crate::reactor::task::{Answer, Promise, oneshot};
use aside::Aside;
use jiff::Timestamp;
use probe::Probe;
use rules::{Event, Kind, Rules};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};
use storage::{Storage, Walk};
use thresholds::Change;

/// Words for the thread that may wait; the VMs of a host twice, and more.
const INBOX: usize = 4096;
/// Alerts that wait for somebody to ask for the next report; of more the oldest are dropped.
const CHANGES: usize = 256;
/// Between two walks over all that is stored.
const WALK_PAUSE: Duration = Duration::from_secs(300);
/// The first sample, after which there are rates.
const FIRST: Duration = Duration::from_millis(500);

/// A QEMU to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// Its process id.
    pub pid: u32,
    /// When it started, in ticks since boot.
    pub start: u64,
    /// The VM.
    pub vmid: String,
    /// The owner's login name.
    pub user: String,
    /// Where its control group tells what it reads and writes.
    pub io: Option<PathBuf>,
}

/// What a QEMU uses.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VmLoad {
    /// The VM.
    pub vmid: String,
    /// The owner's login name.
    pub user: String,
    /// Its process id.
    pub pid: u32,
    /// Percent of one processor; `None` at the first look, or when it could not be read.
    pub cpu_percent: Option<f64>,
    /// Bytes of memory, when it was last read.
    pub rss: u64,
    /// Threads.
    pub threads: u64,
    /// Bytes read from disks in a second; `None` where that cannot be known.
    pub read_bps: Option<f64>,
    /// Bytes written to disks in a second.
    pub write_bps: Option<f64>,
}

/// A process among the busiest.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Offender {
    /// Its id.
    pub pid: u32,
    /// Its program's name.
    pub name: String,
    /// Percent of one processor.
    pub cpu_percent: f64,
    /// Bytes of memory.
    pub rss: u64,
}

/// Shares of time in which somebody had to wait, in percent; `None` where the kernel does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// For a processor.
    pub cpu: Option<f64>,
    /// For memory.
    pub memory: Option<f64>,
    /// For a disk.
    pub io: Option<f64>,
}

/// Bytes a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    /// Received, or read.
    pub rx: f64,
    /// Sent, or written.
    pub tx: f64,
}

/// A file system.
#[derive(Debug, Clone, PartialEq)]
pub struct Volume {
    /// A folder on it, as the settings name it.
    pub path: PathBuf,
    /// Bytes in all.
    pub total: u64,
    /// Bytes left.
    pub free: u64,
    /// Bytes in use, in percent.
    pub percent: f64,
    /// Files in use, in percent of those there can be.
    pub inodes_percent: f64,
    /// It was measured just now; otherwise it does not answer, and this is what it said last.
    pub is_measured: bool,
}

/// The server's own process.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Own {
    /// Processor time so far.
    pub cpu_seconds: f64,
    /// Bytes of memory.
    pub rss: u64,
    /// Threads.
    pub threads: u64,
    /// Open files.
    pub fds: usize,
    /// Files it may open.
    pub max_fds: Option<u64>,
    /// When it started, in seconds since 1970.
    pub started: f64,
}

/// One look at everything.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    /// When, in seconds since 1970.
    pub at: i64,
    /// Processors in use, in percent of all; `None` when that could not be read.
    pub cpu_percent: Option<f64>,
    /// How many there are; 0 when they could not be read.
    pub cpus: u32,
    /// Load over one, five and fifteen minutes.
    pub load: [f64; 3],
    /// Memory.
    pub memory: Memory,
    /// What had to be waited for.
    pub pressure: Pressure,
    /// File systems; the first is that of `VM_BASE_DIR`.
    pub volumes: Vec<Volume>,
    /// The network's traffic.
    pub network: Rates,
    /// The QEMUs.
    pub vms: Vec<VmLoad>,
    /// This server.
    pub own: Option<Own>,
}

impl Sample {
    /// Memory in use, in percent.
    #[must_use]
    pub fn memory_percent(&self) -> f64 {
        procfs::ratio(self.memory.total.saturating_sub(self.memory.available), self.memory.total) * 100.0
    }

    /// Swap space in use, in percent.
    #[must_use]
    pub fn swap_percent(&self) -> f64 {
        procfs::ratio(self.memory.swap_total.saturating_sub(self.memory.swap_free), self.memory.swap_total) * 100.0
    }
}

/// An alert as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Alert {
    /// What it is about.
    pub kind: Kind,
    /// Which of them.
    pub subject: String,
    /// What was seen last.
    pub value: f64,
    /// What is still good.
    pub threshold: f64,
    /// As people were told.
    pub text: String,
    /// When it was first told, in seconds since 1970.
    pub since: i64,
    /// When it was over.
    pub ended: Option<i64>,
}

/// What the thread tells the loop.
#[derive(Debug, Clone)]
pub struct Report {
    /// The last sample.
    pub sample: Arc<Sample>,
    /// What lies on the disk, once it was looked at.
    pub storage: Option<Arc<Storage>>,
    /// Alerts that began, went on or ended since the last report.
    pub alerts: Vec<Alert>,
    /// How many fire now, by kind.
    pub firing: BTreeMap<Kind, u64>,
    /// Why no VM may be launched now.
    pub pause: Option<String>,
}

/// A word to the thread.
enum Watch {
    Add(Watched),
    Remove(u32),
    Next(Answer<Report>),
    Logins(HashMap<String, String>),
}

/// The loop's handle; the thread ends with the last one.
#[derive(Clone)]
pub struct Sampler {
    inbox: SyncSender<Watch>,
    /// How Telegram takes it.
    pub told: Arc<telegram::Counts>,
}

impl Sampler {
    /// Starts the threads.
    ///
    /// # Errors
    /// The system's, when no thread can be made.
    pub fn start(config: &config::Config) -> std::io::Result<Self> {
        let (inbox, words) = sync_channel(INBOX);
        let told = Arc::new(telegram::Counts::default());
        let telegram = telegram::Bot::of(&config.telegram).map(|bot| telegram::start(bot, Arc::clone(&told)));
        let state = State::new(Path::new("/proc"), config, telegram.transpose()?, Arc::clone(&told));
        std::thread::Builder::new().name("sampler".into()).spawn(move || run(state, &words))?;
        Ok(Self { inbox, told })
    }

    /// Looks at this QEMU from now on.
    pub fn add(&self, watched: Watched) {
        self.send(Watch::Add(watched));
    }

    /// It has ended.
    pub fn remove(&self, pid: u32) {
        self.send(Watch::Remove(pid));
    }

    /// Tells who is behind user ids.
    pub fn logins(&self, logins: HashMap<String, String>) {
        self.send(Watch::Logins(logins));
    }

    /// The report of the next sample; the promise breaks when the thread has ended.
    #[must_use]
    pub fn next(&self) -> Promise<Report> {
        let (answer, promise) = oneshot();
        self.send(Watch::Next(answer));
        promise
    }

    fn send(&self, word: Watch) {
        // The thread is away for a moment at most; what is lost here it finds out by itself, or an asker is told.
        if self.inbox.try_send(word).is_err() {
            log::warn!("the sampler takes no word now");
        }
    }
}

/// What the thread owns.
struct State {
    probe: Probe,
    rules: Rules,
    watched: BTreeMap<u32, Watched>,
    base: PathBuf,
    host: String,
    interval: Duration,
    began: Instant,
    /// A step of the walk an answer.
    walk: Option<Aside<Option<Storage>>>,
    walk_next: Instant,
    storage: Option<Arc<Storage>>,
    logins: HashMap<String, String>,
    changes: VecDeque<Alert>,
    /// When those that fire were first told, in seconds since 1970, and under which name: that stays, also when a user's becomes known.
    since: BTreeMap<rules::Key, (i64, String)>,
    asked: Vec<Answer<Report>>,
    telegram: Option<SyncSender<telegram::Outgoing>>,
    told: Arc<telegram::Counts>,
}

impl State {
    fn new(
        proc: &Path,
        config: &config::Config,
        telegram: Option<SyncSender<telegram::Outgoing>>,
        told: Arc<telegram::Counts>,
    ) -> Self {
        let alerts: &Alerts = &config.alerts;
        let others = alerts.volumes.keys().map(PathBuf::from).filter(|path| *path != config.base_dir);
        let volumes: Vec<PathBuf> = std::iter::once(config.base_dir.clone()).chain(others).collect();
        let now = Instant::now();
        Self {
            probe: Probe::new(proc, volumes),
            rules: Rules::new(alerts.clone()),
            watched: BTreeMap::new(),
            base: config.base_dir.clone(),
            host: host_name(),
            interval: Duration::from_secs(alerts.sample_seconds),
            began: now,
            walk: None,
            walk_next: now,
            storage: None,
            logins: HashMap::new(),
            changes: VecDeque::new(),
            since: BTreeMap::new(),
            asked: Vec::new(),
            telegram,
            told,
        }
    }

    fn take(&mut self, word: Watch) {
        match word {
            Watch::Add(vm) => drop(self.watched.insert(vm.pid, vm)),
            Watch::Remove(pid) => drop(self.watched.remove(&pid)),
            Watch::Next(answer) => self.asked.push(answer),
            Watch::Logins(logins) => self.logins = logins,
        }
    }

    /// One sample, and all that follows from it.
    fn sample(&mut self, now: Instant) {
        let sample = Arc::new(self.probe.sample(&mut self.watched, now));
        let fresh = self.walk(now);
        let storage = self.storage.clone();
        // While something is over its limit its causes are wanted, with rates, before it is told.
        let seconds = (now - self.began).as_secs();
        let events = self.rules.see(&sample, storage.as_deref().filter(|_| fresh), seconds);
        let offenders = if self.rules.is_over(Kind::Cpu) || self.rules.is_over(Kind::Memory) {
            self.probe.offenders(now)
        } else {
            self.probe.forget_offenders();
            Default::default()
        };
        let pause = self.rules.pause(&self.base.to_string_lossy());
        for event in events {
            self.tell(&event, &sample, &offenders, pause.is_some());
        }
        let mut firing = BTreeMap::new();
        self.rules.firing().for_each(|(kind, _)| *firing.entry(*kind).or_default() += 1);
        if !self.asked.is_empty() {
            let alerts = self.changes.drain(..).collect();
            let report = Report { sample, storage, alerts, firing, pause };
            self.asked.drain(..).for_each(|answer| answer.give(report.clone()));
        }
    }

    /// Goes on with the walk; true when it came to its end just now. Its steps are done aside: a disk that hangs holds up the walk alone.
    fn walk(&mut self, now: Instant) -> bool {
        if self.walk.is_none() && now >= self.walk_next {
            let mut walk = Walk::new(&self.base);
            self.walk = Aside::start("walk", move || walk.step()).ok();
        }
        let Some(walk) = &mut self.walk else { return false };
        let found = walk.answer(Duration::ZERO).flatten();
        if walk.is_over {
            (self.walk, self.walk_next) = (None, now + WALK_PAUSE);
            return false;
        }
        walk.ask();
        let Some(found) = found else { return false };
        self.storage = Some(Arc::new(found));
        self.walk = None;
        self.walk_next = now + WALK_PAUSE;
        true
    }

    fn tell(&mut self, event: &Event, sample: &Sample, offenders: &(Vec<Offender>, Vec<Offender>), paused: bool) {
        let now = Timestamp::now();
        let (kind, subject) = &event.key;
        let stops = match kind {
            Kind::Cpu | Kind::Memory => true,
            Kind::Disk | Kind::Inodes => *subject == self.base.to_string_lossy(),
            _ => false,
        };
        let whole = Timestamp::from_second(now.as_second()).unwrap_or(now);
        let around = report::Around {
            host: &self.host,
            time: whole.to_string().replace('T', " "),
            sample,
            storage: self.storage.as_deref(),
            logins: &self.logins,
            offenders,
            paused,
            stops,
        };
        let message = report::message(event, &around);
        let (name, text) = (kind.name(), message.plain());
        let line = text
            .trim_start_matches(|c: char| !c.is_ascii())
            .trim_start()
            .lines()
            .filter(|line| !line.starts_with("Time: "))
            .collect::<Vec<_>>()
            .join("; ");
        let recovered = matches!(event.change, Change::Recovered { .. });
        if recovered {
            log::info!(alert = name, subject = subject.as_str(); "{line}");
        } else {
            log::warn!(alert = name, subject = subject.as_str(); "{line}");
        }
        let known = self.logins.get(subject).filter(|_| *kind == Kind::UserStorage);
        let first = || (now.as_second(), known.unwrap_or(subject).clone());
        let (since, named) = match recovered {
            true => self.since.remove(&event.key).unwrap_or_else(first),
            false => self.since.entry(event.key.clone()).or_insert_with(first).clone(),
        };
        if self.changes.len() == CHANGES {
            self.changes.pop_front();
        }
        self.changes.push_back(Alert {
            kind: *kind,
            subject: named,
            value: event.value,
            threshold: event.rule.limit,
            text,
            since,
            ended: recovered.then(|| now.as_second()),
        });
        if let Some(telegram) = &self.telegram {
            let about = format!("{name} {subject}");
            if telegram.try_send(telegram::Outgoing { about, message }).is_err() {
                self.told.lost.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                log::error!("too many alerts wait for telegram; one is given up");
            }
        }
    }
}

/// As messages name it.
#[must_use]
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "this host".to_owned() } else { name.to_owned() }
}

fn run(mut state: State, words: &Receiver<Watch>) {
    let mut next = Instant::now();
    // Nothing to compare with yet: this look is the ground of the next one's rates.
    drop(state.probe.sample(&mut state.watched, next));
    for path in state.probe.unmeasured_volumes() {
        log::warn!(
            "alerts.volumes: {} is not watched, it cannot be measured; correct its name or mount it",
            path.display()
        );
    }
    next += FIRST.min(state.interval);
    loop {
        match words.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(word) => {
                state.take(word);
                if Instant::now() < next {
                    continue;
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
        }
        let now = Instant::now();
        if catch_unwind(AssertUnwindSafe(|| state.sample(now))).is_err() {
            log::error!("a sample panicked; the next one is tried");
        }
        next = following(next, now, state.interval);
    }
}

/// When the sample after the one of `now` is due. A host that stood still is not measured twice at once: a rate over no time is none.
fn following(due: Instant, now: Instant, interval: Duration) -> Instant {
    let next = due + interval;
    if next > now { next } else { now + interval }
}

#[cfg(test)]
#[path = "mod_tests.rs"]
mod tests;
