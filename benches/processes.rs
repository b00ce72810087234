//! What processes cost, from `/proc`, and the one clock of all measurements.

use std::fs;
use std::ops::{Add, Sub};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A moment of CLOCK_MONOTONIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(Duration);

impl Moment {
    pub(crate) fn now() -> Moment {
        let now = clock_gettime(ClockId::Monotonic);
        Moment(Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0)))
    }

    /// The moment that a log wrote by the clock on the wall, as that clock stands now.
    pub(crate) fn of_log(time: &str) -> Option<Moment> {
        let written: jiff::Timestamp = time.parse().ok()?;
        let age = jiff::Timestamp::now().duration_since(written).unsigned_abs();
        Some(Moment(Moment::now().0.checked_sub(age)?))
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, later: Duration) -> Moment {
        Moment(self.0 + later)
    }
}

impl Sub for Moment {
    type Output = Duration;

    fn sub(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// User and system time of a process with all its threads; with `children`, of those that it has waited for and of
/// those that live, as PostgreSQL's backends are.
pub(crate) fn cpu(pid: u32, children: bool) -> Duration {
    let mut ticks = stat(pid).map_or(0, |stat| stat.own + if children { stat.reaped } else { 0 });
    if children {
        let all =
            fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        ticks += all.filter_map(stat).filter(|stat| stat.parent == pid).map(|stat| stat.own).sum::<u64>();
    }
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

#[derive(Debug)]
struct Stat {
    parent: u32,
    own: u64,
    reaped: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Stat {
        parent: u32::try_from(number(1)?).ok()?,
        own: number(11)? + number(12)?,
        reaped: number(13)? + number(14)?,
    })
}

/// In milliseconds.
pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// A size in `/proc/<pid>/status`, such as `VmHWM`, in MB.
pub(crate) fn memory_mb(pid: u32, key: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let kb: f64 = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0.0);
    kb / 1024.0
}
