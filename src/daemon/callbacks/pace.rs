//! No more callbacks a second than the site wants its database to take. They wait; none is turned away for it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// So much may be made up for after a pause.
const BURST: Duration = Duration::from_millis(100);

pub(super) struct Pace {
    /// Between two callbacks.
    gap: Duration,
    /// When the next one may go.
    next: Mutex<Instant>,
}

impl Pace {
    pub(super) fn new(per_second: f64) -> Pace {
        let gap = Duration::try_from_secs_f64(1.0 / per_second).unwrap_or(Duration::from_secs(1));
        Pace { gap, next: Mutex::new(Instant::now()) }
    }

    pub(super) async fn wait(&self) {
        tokio::time::sleep_until(self.turn(Instant::now())).await;
    }

    fn turn(&self, now: Instant) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = (*next).max(now.checked_sub(BURST).unwrap_or(now));
        *next = turn + self.gap;
        turn
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::Pace;

    #[test]
    fn turns_are_a_gap_apart_and_a_pause_is_made_up_for_in_part() {
        let pace = Pace::new(100.0);
        let start = Instant::now() + Duration::from_secs(10);
        let at = |turn: Instant| turn.saturating_duration_since(start).as_millis();
        let turns: Vec<u128> = (0..13).map(|_| at(pace.turn(start))).collect();
        assert_eq!(turns, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 20]);
        assert_eq!(at(pace.turn(start + Duration::from_millis(25))), 30);
    }
}
