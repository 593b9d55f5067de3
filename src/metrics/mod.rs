//! Counters of the loop's thread. What is counted while it happens is here; what can be looked up is looked up by `web::metrics` when somebody
//! asks. Labels are of bounded number: routes, statuses, codes, never what a client chose.

pub mod text;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use text::{Kind, Page};

/// A turn that takes longer is told with its owner.
pub const SLOW_TURN: Duration = Duration::from_millis(50);

const REQUEST: &[f64] = &[0.005, 0.025, 0.1, 0.5, 2.5, 10.0];
const DATABASE: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 3.0];
const LAUNCH: &[f64] = &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0];
const TURN: &[f64] = &[0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5];

/// A number that only grows.
#[derive(Default)]
pub struct Counter(Cell<u64>);

impl Counter {
    /// Adds to it.
    pub fn add(&self, count: u64) {
        self.0.set(self.0.get() + count);
    }

    #[allow(clippy::cast_precision_loss)]
    fn get(&self) -> f64 {
        self.0.get() as f64
    }
}

/// A number that is what it is.
#[derive(Default)]
pub struct Gauge(Cell<u64>);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: u64) {
        self.0.set(value);
    }

    #[allow(clippy::cast_precision_loss)]
    fn get(&self) -> f64 {
        self.0.get() as f64
    }
}

/// Times, counted by upper bound.
pub struct Histogram {
    bounds: &'static [f64],
    counts: RefCell<Vec<u64>>,
    count: Cell<u64>,
    sum: Cell<f64>,
}

impl Histogram {
    /// Counts by these bounds in seconds, which grow.
    #[must_use]
    pub fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: RefCell::new(vec![0; bounds.len()]), count: Cell::new(0), sum: Cell::new(0.0) }
    }

    /// Adds a time.
    pub fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        self.count.set(self.count.get() + 1);
        self.sum.set(self.sum.get() + seconds);
        let mut counts = self.counts.borrow_mut();
        if let Some((_, count)) = self.bounds.iter().zip(counts.iter_mut()).find(|(bound, _)| seconds <= **bound) {
            *count += 1;
        }
    }

    /// Each bound, and how many are between it and the one before.
    fn counts(&self) -> Vec<(f64, u64)> {
        self.bounds.iter().copied().zip(self.counts.borrow().iter().copied()).collect()
    }

    fn count(&self) -> u64 {
        self.count.get()
    }

    fn sum(&self) -> f64 {
        self.sum.get()
    }
}

/// The longest of a minute: of this one, or of the one before.
#[derive(Default)]
pub struct Peak {
    since: Cell<Option<Instant>>,
    now: Cell<Duration>,
    before: Cell<Duration>,
}

impl Peak {
    const WINDOW: Duration = Duration::from_secs(60);

    /// Adds a time.
    pub fn observe(&self, time: Duration, now: Instant) {
        self.turn(now);
        self.now.set(self.now.get().max(time));
    }

    /// The longest of the last minute or two.
    #[must_use]
    pub fn get(&self, now: Instant) -> Duration {
        self.turn(now);
        self.now.get().max(self.before.get())
    }

    fn turn(&self, now: Instant) {
        let since = self.since.get().unwrap_or(now);
        let passed = now.saturating_duration_since(since);
        if passed >= Self::WINDOW {
            self.before.set(if passed < Self::WINDOW * 2 { self.now.get() } else { Duration::ZERO });
            self.now.set(Duration::ZERO);
            self.since.set(Some(now));
        } else {
            self.since.set(Some(since));
        }
    }
}

/// All of them.
pub struct Metrics {
    /// Answers by status code.
    responses: RefCell<BTreeMap<u16, u64>>,
    /// Answers by method, route and status.
    requests: RefCell<BTreeMap<(String, &'static str, u16), u64>>,
    /// Times of answers by route.
    request_seconds: RefCell<BTreeMap<&'static str, Histogram>>,
    /// Open connections.
    pub connections: Gauge,
    /// Connections that were let in.
    pub accepted: Counter,
    /// Connections refused because there were too many, or no descriptor.
    pub refused: Counter,
    /// Launches by what came of them, and why that.
    launches: RefCell<BTreeMap<(&'static str, &'static str), u64>>,
    launch_seconds: Histogram,
    /// Waits for the database.
    pub db_seconds: Histogram,
    /// Waits for the database that took too long.
    pub db_timeouts: Counter,
    /// Bytes of uploads that came.
    pub upload_bytes: Counter,
    /// Uploads by what came of them.
    uploads: RefCell<BTreeMap<&'static str, u64>>,
    /// Connections or stories that ended in a panic.
    pub panics: Counter,
    /// How long the loop's turns are.
    turn_seconds: Histogram,
    /// How late timers are.
    pub lag_seconds: Histogram,
    /// The longest turn lately.
    pub slowest_turn: Peak,
    /// Turns that took longer than they may.
    slow_turns: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            responses: RefCell::default(),
            requests: RefCell::default(),
            request_seconds: RefCell::default(),
            connections: Gauge::default(),
            accepted: Counter::default(),
            refused: Counter::default(),
            launches: RefCell::default(),
            launch_seconds: Histogram::new(LAUNCH),
            db_seconds: Histogram::new(DATABASE),
            db_timeouts: Counter::default(),
            upload_bytes: Counter::default(),
            uploads: RefCell::default(),
            panics: Counter::default(),
            turn_seconds: Histogram::new(TURN),
            lag_seconds: Histogram::new(TURN),
            slowest_turn: Peak::default(),
            slow_turns: Counter::default(),
        }
    }
}

impl Metrics {
    /// Counts an answer.
    pub fn response(&self, status: u16) {
        *self.responses.borrow_mut().entry(status).or_default() += 1;
    }

    /// Counts an answer of a route, and how long it took.
    pub fn request(&self, method: String, route: &'static str, status: u16, time: Duration) {
        *self.requests.borrow_mut().entry((method, route, status)).or_default() += 1;
        self.request_seconds.borrow_mut().entry(route).or_insert_with(|| Histogram::new(REQUEST)).observe(time);
    }

    /// Counts a launch by its outcome: `started`, `running`, `cancelled`, or `refused` or `failed` with why.
    pub fn launch(&self, result: &'static str, why: &'static str, time: Duration) {
        *self.launches.borrow_mut().entry((result, why)).or_default() += 1;
        if result == "started" {
            self.launch_seconds.observe(time);
        }
    }

    /// Counts an upload's end.
    pub fn upload(&self, result: &'static str) {
        *self.uploads.borrow_mut().entry(result).or_default() += 1;
    }

    /// Counts a turn of the loop; true when it was too long.
    pub fn turn(&self, took: Duration, now: Instant) -> bool {
        self.turn_seconds.observe(took);
        self.slowest_turn.observe(took, now);
        let slow = took > SLOW_TURN;
        self.slow_turns.add(u64::from(slow));
        slow
    }

    /// Writes what was counted.
    #[allow(clippy::cast_precision_loss)]
    pub fn write(&self, page: &mut Page, now: Instant) {
        use Kind::{Counter, Gauge, Histogram};
        let labelled = |page: &mut Page, name, help, label, counts: &RefCell<BTreeMap<&'static str, u64>>| {
            let mut family = page.family(name, Counter, help);
            counts.borrow().iter().for_each(|(key, count)| family.value(&[(label, key)], *count as f64));
        };
        let mut family = page.family("vmshare_http_responses_total", Counter, "Answers by status code.");
        for (status, count) in &*self.responses.borrow() {
            family.value(&[("status", &status.to_string())], *count as f64);
        }
        let help = "Answers by method, route and status; pages and files are the route page.";
        let mut family = page.family("vmshare_http_requests_total", Counter, help);
        for ((method, route, status), count) in &*self.requests.borrow() {
            let status = status.to_string();
            family.value(&[("method", method), ("route", route), ("status", &status)], *count as f64);
        }
        let help = "From a whole request to its answer, by route; an upload's with its bytes.";
        let mut family = page.family("vmshare_http_request_seconds", Histogram, help);
        for (route, histogram) in &*self.request_seconds.borrow() {
            family.histogram(&[("route", route)], histogram);
        }
        page.one("vmshare_connections", Gauge, "Open connections.", self.connections.get());
        page.one("vmshare_connections_accepted_total", Counter, "Connections let in.", self.accepted.get());
        page.one("vmshare_connections_refused_total", Counter, "Connections turned away.", self.refused.get());
        let help = "Launches by outcome: started, running, cancelled, refused or failed; the last two with the problem's code.";
        let mut family = page.family("vmshare_launches_total", Counter, help);
        for ((result, why), count) in &*self.launches.borrow() {
            let labels = [("result", *result), ("why", *why)];
            family.value(if why.is_empty() { &labels[..1] } else { &labels }, *count as f64);
        }
        let help = "Launches that worked, from the request to the answer.";
        page.family("vmshare_launch_seconds", Histogram, help).histogram(&[], &self.launch_seconds);
        page.family("vmshare_db_seconds", Histogram, "Waits for the database.").histogram(&[], &self.db_seconds);
        page.one("vmshare_db_timeouts_total", Counter, "Waits for the database given up.", self.db_timeouts.get());
        page.one("vmshare_upload_bytes_total", Counter, "Bytes of uploads that came.", self.upload_bytes.get());
        labelled(page, "vmshare_uploads_total", "Uploads by outcome.", "result", &self.uploads);
        page.one("vmshare_panics_total", Counter, "Bugs survived.", self.panics.get());
        let mut family = page.family("vmshare_loop_turn_seconds", Histogram, "Turns of the loop, without their sleep.");
        family.histogram(&[], &self.turn_seconds);
        let mut family = page.family("vmshare_loop_lag_seconds", Histogram, "How late timers of the loop are.");
        family.histogram(&[], &self.lag_seconds);
        let slowest = self.slowest_turn.get(now).as_secs_f64();
        page.one("vmshare_loop_slowest_turn_seconds", Gauge, "The longest turn of the last minute or two.", slowest);
        let help = "Turns of more than 50 ms; the log tells whose.";
        page.one("vmshare_loop_slow_turns_total", Counter, help, self.slow_turns.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_turn_is_forgotten_after_two_minutes() {
        let (peak, began) = (Peak::default(), Instant::now());
        let at = |seconds| began + Duration::from_secs(seconds);
        let millis = Duration::from_millis;
        peak.observe(millis(70), at(0));
        peak.observe(millis(20), at(59));
        assert_eq!(peak.get(at(59)), millis(70));
        peak.observe(millis(30), at(61));
        assert_eq!(peak.get(at(62)), millis(70), "of the minute before");
        assert_eq!(peak.get(at(122)), millis(30));
        assert_eq!(peak.get(at(900)), Duration::ZERO);
    }

    #[test]
    fn a_turn_of_more_than_fifty_milliseconds_is_slow() {
        let metrics = Metrics::default();
        assert!(!metrics.turn(SLOW_TURN, Instant::now()));
        assert!(metrics.turn(SLOW_TURN + Duration::from_millis(1), Instant::now()));
        let mut page = Page::default();
        metrics.write(&mut page, Instant::now());
        let text = page.into_text();
        assert!(text.contains("vmshare_loop_slow_turns_total 1\n"), "{text}");
        assert!(text.contains("vmshare_loop_turn_seconds_bucket{le=\"0.05\"} 1\n"), "{text}");
    }
}
