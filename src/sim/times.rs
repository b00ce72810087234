//! How long receivers took to answer callbacks: counts by length, each length at most a sixteenth above the truth.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Lengths of one power of two.
const STEPS: u32 = 16;
/// Up to 2^40 microseconds.
const COUNTS: usize = 40 * STEPS as usize;

#[derive(Debug)]
pub(super) struct Times(Vec<AtomicU64>);

impl Default for Times {
    fn default() -> Times {
        Times((0..COUNTS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Times {
    pub(super) fn add(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if let Some(count) = self.0.get(place(us)).or(self.0.last()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn clear(&self) {
        for count in &self.0 {
            count.store(0, Ordering::Relaxed);
        }
    }

    /// Microseconds within which this share of the answers came; `None`: there were none.
    pub(super) fn within(&self, share: f64) -> Option<u64> {
        let counts: Vec<u64> = self.0.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let all: u64 = counts.iter().sum();
        let mut seen = 0;
        for (place, count) in counts.iter().enumerate() {
            seen += count;
            if *count > 0 && share_of(seen, all) >= share {
                return Some(longest(place));
            }
        }
        None
    }
}

fn share_of(part: u64, all: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts of callbacks are far below 2^53")]
    let (part, all) = (part as f64, all as f64);
    part / all
}

/// Below sixteen each length has a place of its own; above, each power of two has sixteen.
fn place(us: u64) -> usize {
    let power = us.max(1).ilog2();
    let place = if power < 4 { us } else { u64::from((power - 3) * STEPS) + ((us >> (power - 4)) & 15) };
    usize::try_from(place).unwrap_or(usize::MAX)
}

/// The longest that has this place.
fn longest(place: usize) -> u64 {
    let place = place as u64;
    let (power, step) = (place / u64::from(STEPS), place % u64::from(STEPS));
    if power == 0 { step } else { ((17 + step) << (power - 1)) - 1 }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Times, longest, place};

    #[test]
    fn a_place_holds_neighbours_and_says_its_longest() {
        for us in (0..5000).chain([65_535, 65_536, 1_000_000, 123_456_789]) {
            let told = longest(place(us));
            assert!(told >= us && told <= us + us / 16, "{us} is told as {told}");
            assert!(place(told) == place(us) && place(told + 1) == place(us) + 1, "{us}");
        }
    }

    #[test]
    fn of_a_hundred_the_slowest_is_beyond_99_in_100() {
        let times = Times::default();
        assert_eq!(times.within(0.5), None);
        for ms in 1..=100 {
            times.add(Duration::from_millis(ms));
        }
        let ms = |share| times.within(share).unwrap() / 1000;
        assert!((50..=53).contains(&ms(0.5)) && (99..=105).contains(&ms(0.99)), "{} {}", ms(0.5), ms(0.99));
        times.add(Duration::MAX);
        assert!(ms(1.0) > 1_000_000);
        times.clear();
        assert_eq!(times.within(0.99), None);
    }
}
