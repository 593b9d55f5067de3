//! When a value is an alert: over its limit for some time, told again now and then, and over when it has calmed down.
//!
//! ```text
//!          over the limit             for long enough
//!   calm ───────────────▶ over ───────────────────────▶ firing ⟲ told again every so often
//!    ▲  ◀─── under it ─────┘                              │ under the limit less 5 %, for a while
//!    └────────────────────────────────────────────────────┘
//! ```
//! Between the limit and 5 % below it nothing changes: a value that swings about its limit is one alert and not twenty. Pure: the time is an
//! argument, in seconds that only grow.

/// What a firing alert's value must be below, as a share of the limit.
const CALM_SHARE: f64 = 0.95;
/// Longest time a value must be calm before the alert is over; launches may be waiting for it.
const CALM_SECONDS: u64 = 60;

/// What counts as too much.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// The value that is still good.
    pub limit: f64,
    /// How long it must be over that.
    pub for_seconds: u64,
    /// How often it is told again; 0 is never.
    pub repeat_seconds: u64,
}

impl Rule {
    /// What the value must be below for the alert to end.
    #[must_use]
    pub fn calm_below(&self) -> f64 {
        self.limit * CALM_SHARE
    }
}

/// Something to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is an alert now.
    Fired,
    /// It still is.
    Repeated,
    /// It is none any more; it was one for so many seconds.
    Recovered {
        /// How long.
        after: u64,
    },
}

/// How one value stands to its rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum State {
    /// Under the limit.
    #[default]
    Calm,
    /// Over it, since then, but not for long enough.
    Over(u64),
    /// An alert.
    Firing {
        /// Since then.
        since: u64,
        /// Last told then.
        told: u64,
        /// Calm since then, if it is.
        calm: Option<u64>,
    },
}

impl State {
    /// True while it is an alert.
    #[must_use]
    pub const fn is_firing(&self) -> bool {
        matches!(self, Self::Firing { .. })
    }

    /// True while somebody should keep an eye on it: over its limit, whether told or not.
    #[must_use]
    pub const fn is_calm(&self) -> bool {
        matches!(self, Self::Calm)
    }

    /// Takes a value that was measured at `now`.
    pub fn see(&mut self, rule: &Rule, value: f64, now: u64) -> Option<Change> {
        match *self {
            Self::Calm | Self::Over(_) if value <= rule.limit => {
                *self = Self::Calm;
                None
            }
            Self::Calm | Self::Over(_) => {
                let since = if let Self::Over(since) = *self { since } else { now };
                if now.saturating_sub(since) < rule.for_seconds {
                    *self = Self::Over(since);
                    return None;
                }
                *self = Self::Firing { since, told: now, calm: None };
                Some(Change::Fired)
            }
            Self::Firing { since, told, calm } => {
                let calm = (value < rule.calm_below()).then(|| calm.unwrap_or(now));
                if calm.is_some_and(|from| now.saturating_sub(from) >= rule.for_seconds.min(CALM_SECONDS)) {
                    *self = Self::Calm;
                    return Some(Change::Recovered { after: now.saturating_sub(since) });
                }
                let again = rule.repeat_seconds > 0 && now.saturating_sub(told) >= rule.repeat_seconds;
                *self = Self::Firing { since, told: if again { now } else { told }, calm };
                again.then_some(Change::Repeated)
            }
        }
    }

    /// What it was about is gone.
    pub fn end(&mut self, now: u64) -> Option<Change> {
        match std::mem::take(self) {
            Self::Firing { since, .. } => Some(Change::Recovered { after: now.saturating_sub(since) }),
            Self::Calm | Self::Over(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULE: Rule = Rule { limit: 90.0, for_seconds: 60, repeat_seconds: 600 };

    /// What is told of values measured every ten seconds.
    fn told(rule: &Rule, values: &[(u64, f64)]) -> Vec<(u64, Change)> {
        let (mut state, mut now, mut told) = (State::default(), 0, Vec::new());
        for (times, value) in values {
            for _ in 0..*times {
                told.extend(state.see(rule, *value, now).map(|change| (now, change)));
                now += 10;
            }
        }
        told
    }

    #[test]
    fn a_peak_is_no_alert_and_a_plateau_is_one() {
        assert_eq!(told(&RULE, &[(5, 99.0), (1, 50.0), (6, 99.0), (100, 90.0)]), []);
        assert_eq!(told(&RULE, &[(10, 99.0)]), [(60, Change::Fired)]);
        assert_eq!(told(&Rule { for_seconds: 0, ..RULE }, &[(1, 90.1)]), [(0, Change::Fired)]);
    }

    #[test]
    fn a_value_that_swings_about_its_limit_is_one_alert() {
        let swing: Vec<(u64, f64)> = (0..40).map(|n| (1, if n % 2 == 0 { 91.0 } else { 86.0 })).collect();
        let all = [&[(7, 99.0)], swing.as_slice(), &[(20, 50.0)]].concat();
        assert_eq!(told(&RULE, &all), [(60, Change::Fired), (530, Change::Recovered { after: 530 })]);
    }

    #[test]
    fn an_alert_is_told_again_at_its_interval_and_once_when_that_is_0() {
        let long = [(200, 95.0)];
        let times: Vec<u64> = told(&RULE, &long).iter().map(|(at, _)| *at).collect();
        assert_eq!(times, [60, 660, 1260, 1860]);
        assert_eq!(told(&Rule { repeat_seconds: 0, ..RULE }, &long).len(), 1);
    }

    #[test]
    fn calm_must_last_but_not_longer_than_a_minute() {
        let slow = Rule { for_seconds: 3600, ..RULE };
        let last = told(&slow, &[(400, 99.0), (5, 10.0), (1, 99.0), (20, 10.0)]).pop();
        assert_eq!(last, Some((4120, Change::Recovered { after: 4120 })));
    }

    #[test]
    fn what_is_gone_is_over() {
        let mut state = State::default();
        assert_eq!(state.see(&Rule { for_seconds: 0, ..RULE }, 99.0, 5), Some(Change::Fired));
        assert_eq!(state.end(25), Some(Change::Recovered { after: 20 }));
        assert_eq!(state.end(30), None);
    }

    proptest! {
        #[test]
        fn alerts_begin_and_end_in_turn_and_never_begin_under_the_limit(
            values in proptest::collection::vec(0.0..150.0_f64, 1..200), for_seconds in 0..100_u64, repeat in 0..100_u64,
        ) {
            let rule = Rule { limit: 90.0, for_seconds, repeat_seconds: repeat };
            let (mut state, mut firing) = (State::default(), false);
            for (n, value) in values.iter().enumerate() {
                match state.see(&rule, *value, n as u64 * 7) {
                    Some(Change::Fired) => {
                        prop_assert!(!firing && *value > rule.limit);
                        firing = true;
                    }
                    Some(Change::Repeated) => prop_assert!(firing && repeat > 0),
                    Some(Change::Recovered { .. }) => {
                        prop_assert!(firing && *value < rule.calm_below());
                        firing = false;
                    }
                    None => {}
                }
                prop_assert_eq!(state.is_firing(), firing);
            }
        }
    }
}
