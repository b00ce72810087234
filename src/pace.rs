//! How many messages may leave for a gateway now: a token bucket.
//!
//! Pure: the moment is handed in. It keeps one number, the moment at which the bucket will be full again, so that
//! nothing drifts and nothing must be topped up. The configured rate is never exceeded over time; the bucket holds a
//! tenth of a second's worth, so that a daemon that starts on a full queue does not open with a flood.

use std::time::Duration;

use crate::clock::Moment;

/// Share of a second that may leave at once.
const BURST: Duration = Duration::from_millis(100);

#[derive(Debug, Clone)]
pub struct Pace {
    /// `None`: no limit.
    limit: Option<Limit>,
}

#[derive(Debug, Clone)]
struct Limit {
    /// Nanoseconds that one message takes of the rate. At least 1.
    interval: u64,
    /// Messages that a full bucket holds. At least 1.
    burst: u64,
    /// The bucket is full from then on.
    full_at: Moment,
}

impl Pace {
    /// Begins with a full bucket. The configuration accepts positive finite rates only; should another come here, it
    /// counts as the slowest possible, since sending too little does less harm than too much.
    pub fn new(rate_per_second: Option<f64>, now: Moment) -> Pace {
        let limit = rate_per_second.map(|rate| {
            let interval = interval_nanos(rate);
            let burst = u64::try_from(BURST.as_nanos()).unwrap_or(u64::MAX) / interval;
            Limit { interval, burst: burst.max(1), full_at: now }
        });
        Pace { limit }
    }

    /// Messages that may leave now; `usize::MAX` without a limit.
    pub fn available(&self, now: Moment) -> usize {
        let Some(limit) = &self.limit else {
            return usize::MAX;
        };
        let missing = nanos(limit.full_at.since(now)).div_ceil(limit.interval);
        usize::try_from(limit.burst.saturating_sub(missing)).unwrap_or(usize::MAX)
    }

    /// Books `n` messages that leave now. More than are available is a debt: it is waited for afterwards.
    pub fn take(&mut self, n: usize, now: Moment) {
        if let Some(limit) = &mut self.limit {
            let cost = limit.interval.saturating_mul(u64::try_from(n).unwrap_or(u64::MAX));
            limit.full_at = limit.full_at.max(now) + Duration::from_nanos(cost);
        }
    }

    /// When the next message may leave; `None` if one may leave now.
    pub fn next_at(&self, now: Moment) -> Option<Moment> {
        let limit = self.limit.as_ref()?;
        if self.available(now) > 0 {
            return None;
        }
        // One message is there as soon as all others but one are missing.
        let others = limit.interval.saturating_mul(limit.burst - 1);
        Some(Moment::from_nanos(limit.full_at.as_nanos().saturating_sub(others)))
    }
}

/// Rounded up, so that the rate is never exceeded.
fn interval_nanos(rate: f64) -> u64 {
    let slowest = Duration::from_secs(24 * 3600);
    let interval = if rate > 0.0 { Duration::try_from_secs_f64(1.0 / rate) } else { Ok(slowest) };
    let interval = interval.unwrap_or(slowest).min(slowest);
    let rounded_down = interval.as_secs_f64() * rate < 1.0;
    nanos(interval).saturating_add(u64::from(rounded_down)).max(1)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::Pace;
    use crate::clock::Moment;

    const START: Moment = Moment::from_nanos(1_000_000_000_000);

    fn after(millis: u64) -> Moment {
        START + Duration::from_millis(millis)
    }

    #[test]
    fn without_a_rate_nothing_is_held_back() {
        let mut pace = Pace::new(None, START);
        pace.take(usize::MAX, START);
        assert_eq!(pace.available(START), usize::MAX);
        assert_eq!(pace.next_at(START), None);
    }

    #[test]
    fn the_first_second_is_no_flood() {
        let mut pace = Pace::new(Some(100.0), START);
        assert_eq!(pace.available(START), 10);
        pace.take(10, START);
        assert_eq!(pace.available(START), 0);
        assert_eq!(pace.next_at(START), Some(after(10)));
        assert_eq!(pace.available(after(9)), 0);
        assert_eq!(pace.available(after(10)), 1);
        assert_eq!(pace.available(after(1_000)), 10, "what was not used is not saved up");
    }

    #[test]
    fn a_slow_rate_lets_one_go_at_a_time() {
        let mut pace = Pace::new(Some(0.5), START);
        assert_eq!(pace.available(START), 1);
        pace.take(1, START);
        assert_eq!(pace.next_at(START), Some(after(2_000)));
        assert_eq!(pace.available(after(1_999)), 0);
        assert_eq!(pace.next_at(after(2_000)), None);
    }

    #[test]
    fn a_rate_that_does_not_divide_a_second_is_not_exceeded() {
        let mut pace = Pace::new(Some(3.0), START);
        pace.take(3, START);
        assert_eq!(pace.next_at(START), Some(START + Duration::from_nanos(1_000_000_002)));
    }

    #[test]
    fn what_was_taken_beyond_the_limit_is_waited_for() {
        let mut pace = Pace::new(Some(10.0), START);
        pace.take(5, START);
        assert_eq!(pace.available(after(499)), 0);
        assert_eq!(pace.next_at(START), Some(after(500)));
        assert_eq!(pace.available(after(500)), 1);
    }

    #[test]
    fn senseless_rates_are_slow_and_harmless() {
        for rate in [0.0, -1.0, f64::NAN, 1e-300, f64::MIN_POSITIVE] {
            let mut pace = Pace::new(Some(rate), START);
            assert_eq!(pace.available(START), 1, "{rate}");
            pace.take(1, START);
            assert_eq!(pace.available(after(1_000)), 0, "{rate}");
            pace.take(usize::MAX, START);
            assert_eq!(pace.available(after(1_000)), 0, "{rate}");
            assert!(pace.next_at(START) > Some(after(1_000)), "{rate}");
        }
        assert!(Pace::new(Some(f64::INFINITY), START).available(START) > 1);
    }

    proptest! {
        #[test]
        fn the_rate_is_kept_and_used(rate in 0.1_f64..50_000.0, steps in proptest::collection::vec(0_u64..500, 1..200)) {
            let mut pace = Pace::new(Some(rate), START);
            let burst = pace.available(START);
            let mut now = START;
            let mut sent = 0;
            for step in steps {
                let n = pace.available(now);
                prop_assert!(n <= burst);
                pace.take(n, now);
                sent += n;
                let next = pace.next_at(now);
                // Everything was taken, so there is a wait, and it is exactly as long as needed.
                let Some(next) = next else { panic!("no wait after taking all") };
                prop_assert!(next > now);
                prop_assert!(pace.available(Moment::from_nanos(next.as_nanos() - 1)) == 0);
                prop_assert!(pace.available(next) >= 1);
                now = if step < 250 { next } else { now + Duration::from_millis(step) };
            }
            let allowed = now.since(START).as_secs_f64() * rate + f64::from(u32::try_from(burst).unwrap());
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            let sent_exactly = sent as f64;
            prop_assert!(sent_exactly <= allowed + 1e-6, "{sent} of {allowed}");
        }

        #[test]
        fn a_clock_that_stands_still_or_jumps_does_no_harm(rate in 0.1_f64..1e12, n in 0_usize.., at in 0..u64::MAX / 2) {
            let mut pace = Pace::new(Some(rate), START);
            let other = Moment::from_nanos(at);
            pace.take(n, other);
            let _ = pace.next_at(START);
            let before = pace.available(other);
            pace.take(before, other);
            prop_assert_eq!(pace.available(other), 0);
        }
    }
}
