//! Counters of the loop's thread, as Prometheus text (exposition format 0.0.4).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// A number that only grows.
#[derive(Default)]
pub struct Counter(Cell<u64>);

impl Counter {
    /// Adds to it.
    pub fn add(&self, count: u64) {
        self.0.set(self.0.get() + count);
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
}

/// How many and how long in all.
#[derive(Default)]
pub struct Timing(Cell<u64>, Cell<f64>);

impl Timing {
    /// Adds one.
    pub fn observe(&self, time: Duration) {
        self.0.set(self.0.get() + 1);
        self.1.set(self.1.get() + time.as_secs_f64());
    }
}

/// All of them.
#[derive(Default)]
pub struct Metrics {
    /// Answers by status code.
    responses: RefCell<BTreeMap<u16, u64>>,
    /// Open connections.
    pub connections: Gauge,
    /// Connections refused because there were too many, or no descriptor.
    pub refused: Counter,
    /// Open relays.
    pub relays: Gauge,
    /// Live VMs.
    pub vms: Gauge,
    /// Launches under way.
    pub launching: Gauge,
    launched: Timing,
    launch_failures: Counter,
    /// Waits for the database.
    pub db_seconds: Timing,
    /// Waits for the database that took too long.
    pub db_timeouts: Counter,
    /// Connections or stories that ended in a panic.
    pub panics: Counter,
    /// Turns of the loop.
    pub turns: Counter,
}

impl Metrics {
    /// Counts an answer.
    pub fn response(&self, status: u16) {
        *self.responses.borrow_mut().entry(status).or_default() += 1;
    }

    /// Counts a launch.
    pub fn launch(&self, worked: bool, time: Duration) {
        if worked { self.launched.observe(time) } else { self.launch_failures.add(1) }
    }

    /// The text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::new();
        let mut one = |name: &str, kind: &str, help: &str, lines: &[(String, String)]| {
            let _ = writeln!(out, "# HELP vmshare_{name} {help}\n# TYPE vmshare_{name} {kind}");
            for (labels, value) in lines {
                let _ = writeln!(out, "vmshare_{name}{labels} {value}");
            }
        };
        let plain = |value: u64| [(String::new(), value.to_string())];
        let responses: Vec<_> = self
            .responses
            .borrow()
            .iter()
            .map(|(status, count)| (format!("{{status=\"{status}\"}}"), count.to_string()))
            .collect();
        one("http_responses_total", "counter", "Answers by status code.", &responses);
        one("connections", "gauge", "Open connections.", &plain(self.connections.0.get()));
        one("connections_refused_total", "counter", "Connections turned away.", &plain(self.refused.0.get()));
        one("relays", "gauge", "Open relays to a screen.", &plain(self.relays.0.get()));
        one("vms", "gauge", "Live VMs.", &plain(self.vms.0.get()));
        one("launching", "gauge", "Launches under way.", &plain(self.launching.0.get()));
        one("launch_failures_total", "counter", "Launches that failed.", &plain(self.launch_failures.0.get()));
        one("db_timeouts_total", "counter", "Waits for the database given up.", &plain(self.db_timeouts.0.get()));
        one("panics_total", "counter", "Bugs survived.", &plain(self.panics.0.get()));
        one("loop_turns_total", "counter", "Turns of the loop.", &plain(self.turns.0.get()));
        for (name, help, timing) in [
            ("launch_seconds", "Launches that worked, from the request to the answer.", &self.launched),
            ("db_seconds", "Waits for the database.", &self.db_seconds),
        ] {
            let _ = writeln!(out, "# HELP vmshare_{name} {help}\n# TYPE vmshare_{name} summary");
            let _ = writeln!(out, "vmshare_{name}_sum {}\nvmshare_{name}_count {}", timing.1.get(), timing.0.get());
        }
        out
    }
}
