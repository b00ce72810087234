//! The clock by which leases, pauses and paces are measured.
//!
//! CLOCK_BOOTTIME, because it does neither of two things: the wall clock steps when somebody sets it, and
//! CLOCK_MONOTONIC (which `std::time::Instant` reads) stands still while the machine sleeps. A leader that slept past
//! its lease must know it. Nothing else in the program reads a clock for such decisions: [`now`] is called at the
//! edges, and the rules get the [`Moment`] handed in.

use std::ops::Add;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Nanoseconds since the machine booted. Lasts for 584 years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// The boot, and a place for tests to start from.
    pub const ZERO: Moment = Moment(0);
    /// Never.
    pub const MAX: Moment = Moment(u64::MAX);

    pub const fn from_nanos(nanos: u64) -> Moment {
        Moment(nanos)
    }

    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time passed since `earlier`; zero if that lies ahead.
    pub const fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Stops at [`Moment::MAX`] and does not wrap: a pause that is too long must not become none.
impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, pause: Duration) -> Moment {
        let nanos = u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX);
        Moment(self.0.saturating_add(nanos))
    }
}

pub fn now() -> Moment {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Boottime);
    // Neither is ever negative for this clock.
    let secs = u64::try_from(tv_sec).unwrap_or(0);
    let nanos = u64::try_from(tv_nsec).unwrap_or(0);
    Moment(secs.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// Seconds since 1970 by the wall clock: for people, and to compare with other machines' clocks. It steps; nothing is
/// decided by it.
pub fn wall() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Moment, now};

    #[test]
    fn time_goes_forward_and_is_the_uptime() {
        let before = now();
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let after = now();
        assert!(before <= after);
        // The kernel cuts the seconds in that file to hundredths.
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        let from = before.since(Moment::ZERO).as_secs_f64() - 0.02;
        let to = after.since(Moment::ZERO).as_secs_f64() + 0.02;
        assert!((from..=to).contains(&uptime), "{uptime} is not within {from}..{to}");
    }

    #[test]
    fn arithmetic_stops_at_the_ends() {
        let moment = Moment::from_nanos(5);
        assert_eq!(moment + Duration::from_nanos(7), Moment::from_nanos(12));
        assert_eq!(Moment::from_nanos(12).since(moment), Duration::from_nanos(7));
        assert_eq!(moment.since(Moment::from_nanos(12)), Duration::ZERO);
        assert_eq!(moment + Duration::MAX, Moment::MAX);
        assert_eq!(Moment::MAX + Duration::from_nanos(1), Moment::MAX);
        assert!(Moment::ZERO < moment);
    }
}
