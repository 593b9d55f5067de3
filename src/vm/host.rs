//! The host as the loop knows it: the sampler's last report, the history for graphs, and whether launches wait.
//!
//! One story asks the sampler for each report. What must be written goes to the database by a story of its own, as late as the database
//! likes: the next report is not kept waiting for it.

use super::process::Process;
use crate::db::alerts::{self, AlertRow};
use crate::db::users;
use crate::db::vms::VmRow;
use crate::house::{Cx, House};
use crate::sampler::history::History;
use crate::sampler::{Alert, Report, Watched};
use jiff::Timestamp;
use std::cell::{Cell, Ref, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Alerts that wait for the database; of more the oldest are dropped, the log has them.
const UNWRITTEN: usize = 512;
/// Before the sampler is asked again after it gave no answer.
const AGAIN: Duration = Duration::from_secs(10);
/// Between attempts while the database is away.
const RETRY: Duration = Duration::from_secs(1);

/// See the file's page.
#[derive(Default)]
pub struct Host {
    report: RefCell<Option<Report>>,
    /// When the last report came, or when this began.
    heard: Cell<Option<Instant>>,
    history: RefCell<History>,
    logins: RefCell<HashMap<String, String>>,
    unwritten: RefCell<VecDeque<Alert>>,
    is_writing: Cell<bool>,
    /// Alerts that began, by kind.
    pub fired: RefCell<std::collections::BTreeMap<&'static str, u64>>,
}

impl Host {
    /// The last report, without its alerts; `None` in the first moment.
    #[must_use]
    pub fn report(&self) -> Option<Report> {
        self.report.borrow().clone()
    }

    /// How long ago the host was measured.
    #[must_use]
    pub fn age(&self, now: Instant) -> Duration {
        self.heard.get().map_or(Duration::ZERO, |heard| now.saturating_duration_since(heard))
    }

    /// What was measured lately.
    #[must_use]
    pub fn history(&self) -> Ref<'_, History> {
        self.history.borrow()
    }

    /// The login name behind a user's id, as far as it was asked for.
    #[must_use]
    pub fn login(&self, id: &str) -> Option<String> {
        self.logins.borrow().get(id).cloned()
    }

    /// Why nothing may be launched now.
    #[must_use]
    pub fn pause(&self) -> Option<String> {
        self.report.borrow().as_ref().and_then(|report| report.pause.clone())
    }

    /// Takes a report; true when it is the first with what now lies on the disk.
    fn take(&self, mut report: Report) -> bool {
        self.history.borrow_mut().add(&report.sample);
        for alert in report.alerts.drain(..) {
            if alert.ended.is_none() {
                *self.fired.borrow_mut().entry(alert.kind.name()).or_default() += 1;
            }
            let mut unwritten = self.unwritten.borrow_mut();
            if unwritten.len() == UNWRITTEN {
                unwritten.pop_front();
            }
            unwritten.push_back(alert);
        }
        let before = self.report.borrow_mut().replace(report.clone()).and_then(|before| before.storage);
        match (before, report.storage) {
            (Some(before), Some(now)) => !Arc::ptr_eq(&before, &now),
            (None, now) => now.is_some(),
            (Some(_), None) => false,
        }
    }
}

/// Has the sampler look at a QEMU from now on; its exit ends that.
pub(super) fn watch(cx: &House, row: &VmRow, process: &Process) {
    let (vmid, user) = (row.vmid.clone(), row.user_login.clone());
    let _ = process.user.set(user.clone());
    let io = cx.groups.io_file(&vmid);
    cx.sampler.add(Watched { pid: process.pid, start: process.start, vmid, user, io });
}

/// Starts the story.
pub fn begin(cx: &Cx) {
    // Alerts have whole seconds: one of this server's first second is none of a former's.
    let (story, began) = (Rc::clone(cx), Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default());
    cx.spawner.spawn("alerts of a former server", async move {
        while !story.stopping.get() && story.db(alerts::end_former(&story.db, began)).await.is_err() {
            story.clock.sleep(RETRY).await;
        }
    });
    cx.host.heard.set(Some(cx.now()));
    let story = Rc::clone(cx);
    cx.spawner.spawn("host", async move {
        loop {
            // What it said before is not for ever.
            let silent = Duration::from_secs(story.config.alerts.sample_seconds * 3) + AGAIN * 3;
            match story.within(silent, story.sampler.next()).await {
                Some(Ok(report)) => {
                    story.host.heard.set(Some(story.now()));
                    if story.host.take(report) {
                        ask_logins(&story);
                    }
                    write(&story);
                }
                Some(Err(_)) | None => {
                    // Nobody would take back a reason to refuse launches.
                    if story.host.report.borrow_mut().take().is_some() {
                        log::error!(
                            "the sampler does not answer: the host is not measured, and launches are not refused for it"
                        );
                    }
                    story.clock.sleep(AGAIN).await;
                }
            }
        }
    });
}

/// Asks the database who is behind the ids of users who keep something, and tells the sampler, whose messages name them.
fn ask_logins(cx: &Cx) {
    let storage = cx.host.report.borrow().as_ref().and_then(|report| report.storage.clone());
    let Some(storage) = storage else { return };
    let story = Rc::clone(cx);
    cx.spawner.spawn("names of users", async move {
        let ids = storage.users.iter().map(|(id, _)| id.clone()).collect();
        if let Ok(logins) = story.db(users::logins(&story.db, ids)).await {
            let logins: HashMap<String, String> = logins.into_iter().collect();
            story.sampler.logins(logins.clone());
            story.host.logins.replace(logins);
        }
    });
}

/// Brings what waits to the database, one after the other.
fn write(cx: &Cx) {
    if cx.host.unwritten.borrow().is_empty() || cx.host.is_writing.replace(true) {
        return;
    }
    let story = Rc::clone(cx);
    cx.spawner.spawn("write alerts", async move {
        loop {
            let next = story.host.unwritten.borrow_mut().pop_front();
            let Some(alert) = next else { break };
            while let Err(problem) = story.db(alerts::put(&story.db, row(&alert))).await {
                if problem.status != 503 || story.stopping.get() {
                    log::error!(alert = alert.kind.name(); "an alert cannot be written down: {}", problem.detail);
                    break;
                }
                story.clock.sleep(RETRY).await;
            }
        }
        story.host.is_writing.set(false);
    });
}

fn row(alert: &Alert) -> AlertRow {
    let time = |seconds: i64| Timestamp::from_second(seconds).unwrap_or_default();
    AlertRow {
        id: 0,
        rule: alert.kind.name().to_owned(),
        subject: alert.subject.clone(),
        value: alert.value,
        threshold: alert.threshold,
        text: alert.text.clone(),
        since: time(alert.since),
        ended: alert.ended.map(time),
    }
}
