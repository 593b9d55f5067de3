//! What was measured lately: an hour as it was sampled, and a day by the minute. Rings of bounded size, nothing else.

use super::Sample;
use std::collections::VecDeque;

/// Entries of the fine ring at most: an hour at a second. At five seconds an hour is 720.
pub const FINE: usize = 3600;
/// How far back the fine ring goes, in seconds.
const FINE_SECONDS: i64 = 3600;
/// Entries of the coarse ring: a day at a minute.
pub const COARSE: usize = 1440;
/// Seconds of a coarse entry.
pub const COARSE_SECONDS: i64 = 60;

/// One moment, as graphs need it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Point {
    /// Seconds since 1970.
    pub at: i64,
    /// CPU use in percent.
    pub cpu: f64,
    /// Memory use in percent.
    pub memory: f64,
    /// Use of the volume of `VM_BASE_DIR` in percent.
    pub disk: f64,
    /// Load over one minute.
    pub load: f64,
    /// Bytes received in a second.
    pub rx: f64,
    /// Bytes sent in a second.
    pub tx: f64,
    /// Live VMs.
    pub vms: f64,
}

impl Point {
    fn of(sample: &Sample, cpu: f64) -> Self {
        Self {
            at: sample.at,
            cpu,
            memory: sample.memory_percent(),
            disk: sample.volumes.first().map_or(0.0, |volume| volume.percent),
            load: sample.load[0],
            rx: sample.network.rx,
            tx: sample.network.tx,
            #[allow(clippy::cast_precision_loss)]
            vms: sample.vms.len() as f64,
        }
    }

    fn fields(&mut self) -> [&mut f64; 7] {
        [&mut self.cpu, &mut self.memory, &mut self.disk, &mut self.load, &mut self.rx, &mut self.tx, &mut self.vms]
    }
}

/// See the file's page.
#[derive(Debug, Clone, Default)]
pub struct History {
    fine: VecDeque<Point>,
    coarse: VecDeque<Point>,
    /// The minute that is being added up, and how many points are in it.
    sum: Option<(Point, u32)>,
}

fn push(ring: &mut VecDeque<Point>, point: Point, bound: usize) {
    if ring.len() == bound {
        ring.pop_front();
    }
    ring.push_back(point);
}

impl History {
    /// Adds a sample; one of unknown processors leaves a gap.
    pub fn add(&mut self, sample: &Sample) {
        if let Some(cpu) = sample.cpu_percent {
            self.add_point(Point::of(sample, cpu));
        }
    }

    fn add_point(&mut self, point: Point) {
        push(&mut self.fine, point, FINE);
        while self.fine.front().is_some_and(|first| first.at <= point.at - FINE_SECONDS) {
            self.fine.pop_front();
        }
        let minute = point.at.div_euclid(COARSE_SECONDS);
        match &mut self.sum {
            Some((sum, count)) if sum.at.div_euclid(COARSE_SECONDS) == minute => {
                let mut point = point;
                sum.fields().into_iter().zip(point.fields()).for_each(|(sum, value)| *sum += *value);
                *count += 1;
            }
            other => {
                if let Some((mut sum, count)) = other.replace((point, 1)) {
                    sum.fields().into_iter().for_each(|value| *value /= f64::from(count));
                    sum.at = sum.at.div_euclid(COARSE_SECONDS) * COARSE_SECONDS;
                    push(&mut self.coarse, sum, COARSE);
                }
            }
        }
    }

    /// The last hour, as it was sampled; oldest first.
    pub fn hour(&self) -> impl Iterator<Item = &Point> {
        self.fine.iter()
    }

    /// The last day by the minute, each the mean of its samples; oldest first. The minute that is not over is not in it.
    pub fn day(&self) -> impl Iterator<Item = &Point> {
        self.coarse.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_and_a_day_are_kept_and_no_more() {
        let mut history = History::default();
        for n in 0..40_000_i64 {
            #[allow(clippy::cast_precision_loss)]
            history.add_point(Point { at: 1_000_020 + n * 5, cpu: n as f64, vms: 2.0, ..Point::default() });
        }
        let (hour, day): (Vec<_>, Vec<_>) = (history.hour().collect(), history.day().collect());
        assert_eq!((hour.len(), day.len()), (720, COARSE));
        assert_eq!((hour[0].cpu, hour[719].cpu), (39_280.0, 39_999.0));
        // The last whole minute has the means of its twelve samples.
        let last = day[COARSE - 1];
        assert_eq!((last.at % 60, last.vms), (0, 2.0));
        assert_eq!(last.cpu.fract(), 0.5, "{last:?}");
        assert!(day.windows(2).all(|pair| pair[1].at - pair[0].at == 60));
    }

    #[test]
    fn an_hour_is_an_hour_at_any_interval_and_bounded() {
        for (step, wanted) in [(1, FINE), (60, 60), (3600, 1)] {
            let mut history = History::default();
            (0..5000).for_each(|n| history.add_point(Point { at: n * step, ..Point::default() }));
            assert_eq!(history.hour().count(), wanted, "every {step} s");
        }
        let mut still = History::default();
        (0..5000).for_each(|_| still.add_point(Point::default()));
        assert_eq!(still.hour().count(), FINE, "a clock that stands still");
    }

    #[test]
    fn a_clock_that_jumps_breaks_nothing() {
        let mut history = History::default();
        for at in [100, 105, 50, -70, 100_000] {
            history.add_point(Point { at, cpu: 10.0, ..Point::default() });
        }
        assert_eq!(history.hour().count(), 1);
        assert!(history.day().all(|point| point.cpu == 10.0));
    }
}
