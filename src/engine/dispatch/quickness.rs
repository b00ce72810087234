//! How quickly a gateway answers, and so how much more must stand ready for it than for others.
//!
//! A wave is committed while the one before it is sent. With a gateway that answers within milliseconds, what is ready is
//! gone before the commit is done, and small waves cost PostgreSQL several times what large ones do. So such a gateway is
//! given as much ahead as it answers in the time of a few commits. No other is: what stands in a wave is unknown after a
//! crash.

use std::time::Duration;

use crate::clock::Moment;

/// The commits of a wave and of its results, and the waits between them.
const AHEAD: Duration = Duration::from_millis(10);
/// Answers are counted for so long at least.
const COUNTED: Duration = Duration::from_millis(40);
/// The most that may be ahead, for each place in `concurrency`.
const MOST: usize = 2;

#[derive(Debug)]
pub(super) struct Quickness {
    since: Moment,
    count: u32,
    ahead: usize,
}

impl Quickness {
    pub(super) fn new(now: Moment) -> Quickness {
        Quickness { since: now, count: 0, ahead: 0 }
    }

    pub(super) fn one_answer(&mut self, now: Moment) {
        self.count += 1;
        let counted = now.since(self.since);
        if counted >= COUNTED {
            let times = counted.as_micros() / AHEAD.as_micros();
            self.ahead = usize::try_from(u128::from(self.count) / times.max(1)).unwrap_or(0);
            (self.since, self.count) = (now, 0);
        }
    }

    /// How many messages it answers in the time of a few commits, up to twice its concurrency.
    pub(super) fn ahead(&self, concurrency: usize) -> usize {
        self.ahead.min(MOST * concurrency)
    }
}
