//! How long a VM may run: its profile's idle limit and total time limit, told beforehand, then kept.
//!
//! The idle limit counts from the last key, pointer movement or typed byte (never from traffic), or from *Keep it running*; the total from
//! the start, and nothing moves it, a restart of the VM neither. Each VM has one story with one timer, which looks again
//! when its time has come: input only moves a number. The last input is written to the VM's row at most once in [`WRITE`], so that another server goes on from
//! there. A server that takes a VM back gives it at least the time of the warning: nobody could use it while there was no server.
//!
//! Start and last input are in the row by the host's uptime too, which is what the timers count: a wall clock that is set moves no limit. A VM
//! that is taken back is of the same boot (`adopt`).

use super::{Vm, stop};
use crate::config::Profile;
use crate::db::moments::{self, Moment};
use crate::db::vms::VmRow;
use crate::house::{Cx, House};
use crate::reactor::task::{Either, first};
use jiff::Timestamp;
use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Between two notes of the last input.
const WRITE: Duration = Duration::from_secs(60);
/// How soon input is noticed while a warning is shown.
const LOOK: Duration = Duration::from_secs(1);

/// Which limit ends a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Nobody used it.
    Idle,
    /// Its time is up.
    TimeLimit,
}

impl Why {
    /// As the contract writes it, in `exit` too.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::TimeLimit => "time limit",
        }
    }
}

/// When a VM ends unless something changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    /// The time.
    pub at: Instant,
    /// The limit.
    pub why: Why,
    /// It is time to warn.
    pub soon: bool,
}

/// A VM's limits.
#[derive(Debug, Default)]
pub struct Lifetime {
    /// The longest time without input.
    pub idle: Option<Duration>,
    /// The total time, and when it is up.
    total: Option<Duration>,
    up: Cell<Option<Instant>>,
    /// Neither limit ends it before this time.
    grace: Cell<Option<Instant>>,
    warning: Duration,
}

impl Lifetime {
    /// The limits of a VM that starts now, and whose row this is. A profile that is gone from the settings has none any more.
    #[must_use]
    pub fn of(cx: &House, row: &VmRow) -> Self {
        let warning = Duration::from_secs(cx.config.limits.limit_warning_seconds);
        let Some(Profile { idle_limit, time_limit, .. }) = cx.config.profiles.get(&row.profile) else {
            return Self::default();
        };
        let up = Cell::new(time_limit.map(|limit| cx.now() + limit));
        Self { idle: *idle_limit, total: *time_limit, up, grace: Cell::new(None), warning }
    }

    /// Not before the time that is given.
    fn graced(&self, at: Instant) -> Instant {
        self.grace.get().map_or(at, |grace| at.max(grace))
    }

    /// The end, given the last input.
    fn expiry(&self, input: Instant, now: Instant) -> Option<Expiry> {
        let idle = self.idle.map(|limit| (input + limit, Why::Idle));
        let up = self.up.get().map(|at| (at, Why::TimeLimit));
        let (at, why) = [up, idle].into_iter().flatten().min_by_key(|(at, _)| *at)?;
        let at = self.graced(at);
        Some(Expiry { at, why, soon: at.saturating_duration_since(now) <= self.warning })
    }
}

impl Vm {
    /// When it ends by a limit of its profile.
    #[must_use]
    pub fn expiry(&self, now: Instant) -> Option<Expiry> {
        self.lifetime.expiry(self.last_input(), now)
    }

    /// The same for people; one that is being stopped ends anyway.
    #[must_use]
    pub fn told_expiry(&self, now: Instant) -> Option<Expiry> {
        if self.leaving.get().is_some() { None } else { self.expiry(now) }
    }

    /// When its total time is up, whether or not it ends before that; for people too.
    #[must_use]
    pub fn time_limit_at(&self) -> Option<Instant> {
        if self.leaving.get().is_some() { None } else { self.lifetime.up.get().map(|at| self.lifetime.graced(at)) }
    }

    /// The last input, or when it was started.
    #[must_use]
    pub fn last_input(&self) -> Instant {
        self.meter.input.get().unwrap_or(self.since)
    }
}

/// The time from one moment to another; by the wall clock, which may have been set back, only where an older version noted nothing better.
fn passed(from: Moment, to: Moment) -> Duration {
    match from.up.zip(to.up) {
        Some((from, to)) => Duration::try_from_secs_f64(to - from).unwrap_or(Duration::ZERO),
        None => Duration::try_from(to.at.duration_since(from.at)).unwrap_or(Duration::ZERO),
    }
}

/// A moment of the loop as the wall clock has it.
#[must_use]
pub fn wall_clock(at: Instant, now: Instant) -> Timestamp {
    let ahead = at.saturating_duration_since(now);
    let behind = now.saturating_duration_since(at);
    let moved = Timestamp::now().checked_add(ahead).and_then(|moved| moved.checked_sub(behind));
    moved.unwrap_or(Timestamp::MAX)
}

/// When a VM of a former server was started and when it last had input, as far as that is known.
pub async fn noted(cx: &Cx, row: &VmRow) -> [Option<Moment>; 2] {
    match cx.db(moments::of(&cx.db, row.vmid.clone())).await {
        Ok([started, input]) => [started, input.or(started)],
        // What is not known does not end a VM that was used a minute ago: it counts from now.
        Err(_) => [row.started_at.map(|at| Moment { at, up: None }), Some(Moment::present())],
    }
}

/// Goes on counting for a VM that a former server started, from what is [`noted`] of it.
pub fn take_back(cx: &Cx, vm: &Vm, [started, input]: [Option<Moment>; 2]) {
    let (now, present) = (cx.now(), Moment::present());
    let used = started.map_or(Duration::ZERO, |started| passed(started, present));
    vm.lifetime.up.set(vm.lifetime.total.map(|limit| now + limit.saturating_sub(used)));
    vm.meter.input.set(input.and_then(|input| now.checked_sub(passed(input, present))));
    vm.lifetime.grace.set(Some(now + vm.lifetime.warning));
}

/// Somebody wants it to run on: the idle limit counts from now.
pub async fn keep(cx: &Cx, vm: &Rc<Vm>) {
    vm.meter.input.set(Some(cx.now()));
    // Before anything is waited for: it is so already.
    cx.bus.publish_expiry(vm, cx.now());
    note_input(cx, vm).await;
}

async fn note_input(cx: &Cx, vm: &Vm) {
    let ago = cx.now().saturating_duration_since(vm.last_input());
    let up = Moment::present().up.map(|up| up - ago.as_secs_f64());
    let moment = Moment { at: wall_clock(vm.last_input(), cx.now()), up };
    if let Err(problem) = cx.db(moments::set_last_input(&cx.db, vm.vmid.to_string(), moment)).await {
        log::warn!(vmid:% = vm.vmid, user = vm.login().as_str(); "its last input is not in the database: {}", problem.detail);
    }
}

/// Starts the story of a VM.
pub fn begin(cx: &Cx, vm: &Rc<Vm>) {
    let (story, vm) = (Rc::clone(cx), Rc::clone(vm));
    cx.spawner.spawn("lifetime", async move {
        let Some(why) = run_out(&story, &vm).await else { return };
        log::info!(vmid:% = vm.vmid, user = vm.login().as_str(); "its limit has come: {}", why.word());
        if let Err(problem) = stop::stop(&story, &vm, why.word(), false).await {
            log::error!(vmid:% = vm.vmid, user = vm.login().as_str(); "{}", problem.detail);
        }
    });
}

/// Waits for the limit that ends the VM; `None` when it ended before.
async fn run_out(cx: &Cx, vm: &Rc<Vm>) -> Option<Why> {
    let mut warned = false;
    let mut noted = (vm.last_input(), cx.now());
    loop {
        let now = cx.now();
        let expiry = vm.expiry(now);
        if let Some(expiry) = expiry.filter(|expiry| expiry.at <= now) {
            return Some(expiry.why);
        }
        let moved = noted.0 != vm.last_input() && now >= noted.1 + WRITE;
        if moved {
            noted = (vm.last_input(), now);
            note_input(cx, vm).await;
        }
        let soon = expiry.is_some_and(|expiry| expiry.soon);
        if warned != soon || (moved && vm.lifetime.idle.is_some()) {
            warned = soon;
            cx.bus.publish_expiry(vm, now);
        }
        let wait = match expiry {
            Some(expiry) if soon => (expiry.at - now).min(LOOK),
            Some(expiry) => (expiry.at - now).saturating_sub(vm.lifetime.warning).min(WRITE),
            None => WRITE,
        };
        // A moment later than the limit, so that it has passed for certain.
        let wait = wait + Duration::from_millis(1);
        if let Either::First(_) = first(vm.ended.wait(), cx.clock.sleep(wait)).await {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn limits(idle: Option<u32>, up: Option<Instant>) -> Lifetime {
        let idle = idle.map(|minutes| MINUTE * minutes);
        Lifetime { idle, total: None, up: Cell::new(up), grace: Cell::new(None), warning: MINUTE * 5 }
    }

    #[test]
    fn the_earlier_limit_counts_and_is_told_in_time() {
        let start = Instant::now();
        let both = limits(Some(30), Some(start + MINUTE * 60));
        let expiry = |input, now| both.expiry(start + MINUTE * input, start + MINUTE * now).unwrap();
        assert_eq!(expiry(0, 0), Expiry { at: start + MINUTE * 30, why: Why::Idle, soon: false });
        assert_eq!(expiry(0, 25), Expiry { at: start + MINUTE * 30, why: Why::Idle, soon: true });
        assert_eq!(expiry(25, 26), Expiry { at: start + MINUTE * 55, why: Why::Idle, soon: false });
        assert_eq!(expiry(50, 55), Expiry { at: start + MINUTE * 60, why: Why::TimeLimit, soon: true });
    }

    #[test]
    fn no_limit_is_no_end() {
        let start = Instant::now();
        assert_eq!(limits(None, None).expiry(start, start), None);
        assert_eq!(limits(Some(10), None).expiry(start, start).map(|expiry| expiry.why), Some(Why::Idle));
    }

    #[test]
    fn a_vm_that_was_taken_back_has_the_time_of_the_warning() {
        let start = Instant::now();
        let late = limits(Some(1), Some(start));
        late.grace.set(Some(start + MINUTE * 5));
        assert_eq!(late.expiry(start, start).unwrap().at, start + MINUTE * 5);
        assert_eq!(late.up.get().map(|at| late.graced(at)), Some(start + MINUTE * 5));
        let early = limits(Some(30), None);
        early.grace.set(Some(start + MINUTE * 5));
        assert_eq!(early.expiry(start, start).unwrap().at, start + MINUTE * 30, "it gives no more than there was");
    }

    #[test]
    fn a_clock_that_was_set_changes_nothing_of_what_has_passed() {
        let at = |hour: i64, up: Option<f64>| Moment { at: Timestamp::from_second(hour * 3600).unwrap(), up };
        let noted = at(100, Some(50.0));
        for hour in [0, 97, 100, 103, 9000] {
            assert_eq!(passed(noted, at(hour, Some(170.5))), Duration::from_millis(120_500), "hour {hour}");
        }
        assert_eq!(passed(noted, at(200, Some(49.0))), Duration::ZERO, "not before it was");
        // What an older version noted.
        assert_eq!(passed(at(100, None), at(103, Some(170.5))), Duration::from_secs(3 * 3600));
        assert_eq!(passed(at(100, None), at(97, Some(170.5))), Duration::ZERO);
    }

    #[test]
    fn the_wall_clock_is_told_both_ways() {
        let now = Instant::now();
        let there = wall_clock(now + MINUTE, now).as_second() - wall_clock(now, now).as_second();
        let back = wall_clock(now, now).as_second() - wall_clock(now, now + MINUTE).as_second();
        assert!((59..=61).contains(&there) && (59..=61).contains(&back), "{there} {back}");
    }
}
