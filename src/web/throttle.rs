//! Rates per address and account: token buckets in memory, bounded in number.
//!
//! A bucket holds as many tokens as may be used at once and fills again over its period; an empty one says when to come back.
//! A restart fills all buckets; the slow password hash still stands in the way then.

use crate::proto::problem::Problem;
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Buckets kept; beyond it the full ones are dropped, which loses nothing.
const KEPT: usize = 50_000;

/// Whom an address stands for: itself, or, of version 6, its network of 64 bits, in which one computer has as many addresses as it likes.
#[must_use]
pub fn household(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Sign-ups of an address.
    Signup,
    /// Log-ins of an address.
    Login,
    /// Wrong passwords for an account.
    AccountFailure,
    /// Wrong passwords from an address.
    AddressFailure,
    /// Starts of a user.
    UserLaunch,
    /// Starts from an address.
    AddressLaunch,
    /// Tokens from an address that let nobody in.
    AddressToken,
}

/// So many in a period.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Tokens in a full bucket.
    pub count: u32,
    /// Time in which an empty bucket fills.
    pub period: Duration,
}

impl Rate {
    /// `count` a minute.
    #[must_use]
    pub const fn per_minute(count: u32) -> Self {
        Self { count, period: Duration::from_secs(60) }
    }

    /// `count` in a quarter of an hour.
    #[must_use]
    pub const fn per_quarter_hour(count: u32) -> Self {
        Self { count, period: Duration::from_secs(900) }
    }
}

struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn fill(&mut self, rate: Rate, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        let gained = passed * f64::from(rate.count) / rate.period.as_secs_f64();
        self.tokens = (self.tokens + gained).min(f64::from(rate.count));
        self.at = now;
    }
}

/// All buckets.
#[derive(Default)]
pub struct Throttle(RefCell<HashMap<(Kind, String), (Bucket, Rate)>>);

impl Throttle {
    /// Takes a token.
    ///
    /// # Errors
    /// 429 with the time to wait.
    pub fn take(&self, kind: Kind, key: &str, rate: Rate, now: Instant) -> Result<(), Problem> {
        self.with(kind, key, rate, now, 1.0)
    }

    /// Gives a token back: what it was taken for did no harm.
    pub fn give_back(&self, kind: Kind, key: &str) {
        if let Some((bucket, rate)) = self.0.borrow_mut().get_mut(&(kind, key.to_owned())) {
            bucket.tokens = (bucket.tokens + 1.0).min(f64::from(rate.count));
        }
    }

    /// Says whether a token is there without taking it.
    ///
    /// # Errors
    /// 429 with the time to wait.
    pub fn check(&self, kind: Kind, key: &str, rate: Rate, now: Instant) -> Result<(), Problem> {
        self.with(kind, key, rate, now, 0.0)
    }

    fn with(&self, kind: Kind, key: &str, rate: Rate, now: Instant, cost: f64) -> Result<(), Problem> {
        if rate.count == 0 {
            // 0 in the settings: not limited.
            return Ok(());
        }
        let mut buckets = self.0.borrow_mut();
        if buckets.len() >= KEPT {
            buckets.retain(|_, (bucket, rate)| {
                bucket.fill(*rate, now);
                bucket.tokens < f64::from(rate.count)
            });
        }
        let full = || (Bucket { tokens: f64::from(rate.count), at: now }, rate);
        let (bucket, _) = buckets.entry((kind, key.to_owned())).or_insert_with(full);
        bucket.fill(rate, now);
        if bucket.tokens >= 1.0 {
            bucket.tokens -= cost;
            return Ok(());
        }
        let wait = (1.0 - bucket.tokens) * rate.period.as_secs_f64() / f64::from(rate.count);
        Err(Problem::too_many(Duration::from_secs_f64(wait.max(0.0)).as_secs() + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_says_when_to_come_back_and_fills_again() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        let rate = Rate::per_minute(3);
        for _ in 0..3 {
            throttle.take(Kind::Login, "a", rate, start).expect("there are tokens");
        }
        let refused = throttle.take(Kind::Login, "a", rate, start).expect_err("it is empty");
        assert_eq!(refused.status, 429);
        assert!(refused.headers.contains(&("retry-after", "21".to_owned())), "{:?}", refused.headers);
        throttle.take(Kind::Login, "b", rate, start).expect("another address has its own");
        throttle.take(Kind::Login, "a", rate, start + Duration::from_secs(21)).expect("it filled again");
    }

    #[test]
    fn what_is_given_back_may_be_taken_again_and_a_bucket_never_overflows() {
        let (throttle, now, rate) = (Throttle::default(), Instant::now(), Rate::per_minute(1));
        throttle.give_back(Kind::AccountFailure, "a");
        throttle.take(Kind::AccountFailure, "a", rate, now).expect("the only one");
        for _ in 0..3 {
            throttle.give_back(Kind::AccountFailure, "a");
        }
        throttle.take(Kind::AccountFailure, "a", rate, now).expect("it is back");
        throttle.take(Kind::AccountFailure, "a", rate, now).expect_err("and was one");
    }

    #[test]
    fn addresses_of_one_network_of_version_6_are_one_household() {
        let of = |text: &str| household(text.parse().expect("address")).to_string();
        assert_eq!((of("192.0.2.7"), of("2001:db8:1:2:3:4:5:6")), ("192.0.2.7".into(), "2001:db8:1:2::".into()));
        assert_eq!(of("2001:db8:1:2:ffff::1"), of("2001:db8:1:2::9"));
        assert_ne!(of("2001:db8:1:3::1"), of("2001:db8:1:2::1"));
    }

    #[test]
    fn looking_takes_nothing() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for _ in 0..9 {
            throttle.check(Kind::AccountFailure, "a", Rate::per_minute(1), now).expect("still there");
        }
    }
}
