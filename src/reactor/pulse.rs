//! How long the loop's turns are, and who is to blame: time is read after each thing that was done, which costs some tens of nanoseconds.

use std::fmt;
use std::time::{Duration, Instant};

/// Between two lines about slow turns.
const PAUSE: Duration = Duration::from_secs(1);

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

/// A turn that kept everybody waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slow {
    /// The turn.
    pub turn: Turn,
    /// The story that was polled longest in it, and for how long.
    pub story: Option<(&'static str, Duration)>,
}

impl fmt::Display for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Turn { took, slowest: (kind, _), slowest_took } = self.turn;
        write!(f, "{} ms, {} of them for this", took.as_millis(), slowest_took.as_millis())?;
        match self.story.filter(|_| kind == "stories") {
            Some((name, took)) => write!(f, ", the longest of them {name:?} for {} ms", took.as_millis()),
            None => Ok(()),
        }
    }
}

/// Slow turns that are not told, because one just was: how many, and the worst of them.
#[derive(Default)]
pub struct SlowTurns {
    told: Option<Instant>,
    untold: u64,
    worst: Option<Slow>,
}

impl SlowTurns {
    /// What to tell of this turn, and of those that were not told since the last line; nothing while that is fresh.
    pub fn see(&mut self, slow: Slow, now: Instant) -> Option<String> {
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < PAUSE) {
            self.untold += 1;
            if self.worst.is_none_or(|worst| slow.turn.took > worst.turn.took) {
                self.worst = Some(slow);
            }
            return None;
        }
        self.told = Some(now);
        let (untold, worst) = (std::mem::take(&mut self.untold), self.worst.take());
        let before = worst.map_or_else(String::new, |worst| {
            let (kind, id) = worst.turn.slowest;
            format!("; {untold} more since the last such line, the worst of {kind} {id}: {worst}")
        });
        Some(format!("{slow}{before}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_turns_that_are_not_told_at_once_are_counted_and_the_worst_is_named() {
        let (mut turns, began) = (SlowTurns::default(), Instant::now());
        let mut see = |millis, slowest, story, at| {
            let (took, slowest_took) = (Duration::from_millis(millis), Duration::from_millis(millis - 5));
            let turn = Turn { took, slowest, slowest_took };
            turns.see(Slow { turn, story }, began + Duration::from_millis(at))
        };
        let launch = Some(("launch", Duration::from_millis(180)));
        assert_eq!(see(60, ("connection", 7), launch, 0).as_deref(), Some("60 ms, 55 of them for this"));
        assert_eq!(see(70, ("listener", 0), None, 100), None);
        assert_eq!(see(190, ("stories", 0), launch, 300), None);
        assert_eq!(see(80, ("screen", 9), None, 900), None);
        let wanted = "90 ms, 85 of them for this; 3 more since the last such line, the worst of stories 0: 190 ms, 185 of them for this, \
            the longest of them \"launch\" for 180 ms";
        assert_eq!(see(90, ("answer", 7), None, 1000).as_deref(), Some(wanted));
        assert_eq!(
            see(60, ("answer", 7), None, 2100).as_deref(),
            Some("60 ms, 55 of them for this"),
            "they are told once"
        );
    }

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
