//! How long the loop's turns are, and who is to blame: time is read after each thing that was done, which costs some tens of nanoseconds.

use std::time::{Duration, Instant};

/// What was done: its kind, and which of them.
pub type Deed = (&'static str, u64);

/// A turn that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// All of it, without the sleep.
    pub took: Duration,
    /// What took longest.
    pub slowest: Deed,
    /// How long that was.
    pub slowest_took: Duration,
}

/// See the file's page.
pub struct Pulse {
    began: Instant,
    last: Instant,
    slowest: Deed,
    slowest_took: Duration,
}

impl Default for Pulse {
    fn default() -> Self {
        let now = Instant::now();
        Self { began: now, last: now, slowest: ("", 0), slowest_took: Duration::ZERO }
    }
}

impl Pulse {
    /// A turn begins.
    pub fn begin(&mut self, now: Instant) {
        *self = Self { began: now, last: now, slowest: ("nothing", 0), slowest_took: Duration::ZERO };
    }

    /// Something was done since the last word.
    pub fn done(&mut self, deed: Deed) {
        let now = Instant::now();
        let took = now.saturating_duration_since(self.last);
        if took > self.slowest_took {
            (self.slowest, self.slowest_took) = (deed, took);
        }
        self.last = now;
    }

    /// The turn is over; what was done since the last word is the loop's own.
    pub fn end(&mut self) -> Turn {
        self.done(("loop", 0));
        Turn {
            took: self.last.saturating_duration_since(self.began),
            slowest: self.slowest,
            slowest_took: self.slowest_took,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_deed_of_a_turn_is_told() {
        let mut pulse = Pulse::default();
        let began = Instant::now();
        pulse.begin(began);
        pulse.done(("listener", 1));
        std::thread::park_timeout(Duration::from_millis(20));
        pulse.done(("connection", 7));
        pulse.done(("story", 2));
        let turn = pulse.end();
        assert_eq!(turn.slowest, ("connection", 7));
        assert!(turn.took >= turn.slowest_took && turn.slowest_took > Duration::ZERO, "{turn:?}");
        pulse.begin(Instant::now());
        assert!(pulse.end().took < turn.took);
    }
}
