//! Warnings that strangers can cause: one in a while, with the number of those that were left out, so that nobody can
//! fill the disk from outside.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

/// Between two warnings.
const PAUSE: Duration = Duration::from_secs(1);
/// So many may come one after the other.
const BURST: u32 = 10;

pub(in crate::daemon) struct Quiet {
    /// What the warnings are about.
    about: &'static str,
    budget: Mutex<Budget>,
}

struct Budget {
    left: u32,
    earned: Instant,
    left_out: u64,
}

impl Quiet {
    pub(in crate::daemon) fn about(about: &'static str) -> Quiet {
        let budget = Mutex::new(Budget { left: BURST, earned: Instant::now(), left_out: 0 });
        Quiet { about, budget }
    }

    pub(in crate::daemon) fn warn(&self, text: &str) {
        if let Some(left_out) = self.may(Instant::now()) {
            if left_out > 0 {
                warn!(left_out, "further warnings about {} were left out", self.about);
            }
            warn!("{text}");
        }
    }

    /// How many were left out before this one; `None`: it is to be left out too.
    fn may(&self, now: Instant) -> Option<u64> {
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        while budget.left < BURST && budget.earned + PAUSE <= now {
            budget.left += 1;
            budget.earned += PAUSE;
        }
        if budget.left == BURST {
            budget.earned = now;
        }
        if budget.left == 0 {
            budget.left_out += 1;
            return None;
        }
        budget.left -= 1;
        Some(std::mem::take(&mut budget.left_out))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{BURST, Quiet};

    #[test]
    fn a_flood_is_one_line_a_second_with_the_count_of_the_others() {
        let quiet = Quiet::about("callbacks");
        let start = Instant::now() + Duration::from_secs(5);
        let said = (0..1000).filter(|_| quiet.may(start) == Some(0)).count();
        assert_eq!(said, BURST as usize);
        assert_eq!(quiet.may(start + Duration::from_millis(1500)), Some(990));
        assert_eq!(quiet.may(start + Duration::from_millis(1600)), None);
        assert_eq!(quiet.may(start + Duration::from_secs(600)), Some(1));
    }
}
