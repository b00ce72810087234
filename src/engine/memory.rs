//! What was recorded lately, for the case that the database forgets it: a replica that is promoted without the last
//! commits of its primary. A daemon that lives through that writes its results again before it sends anything.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Moment;
use crate::message::{AttemptNo, MessageId, NotifyRef, Status};

/// Replication lags by seconds; minutes are plenty.
const KEEP: Duration = Duration::from_secs(600);
/// Bound of the memory, about 64 bytes each.
const MOST: usize = 100_000;

/// A result that was committed.
#[derive(Debug, Clone)]
pub struct Remembered {
    pub at: Moment,
    pub id: MessageId,
    /// With the id, tells the row from another that was given the same id later.
    pub send_after_us: i64,
    pub attempt: AttemptNo,
    pub status: Status,
    pub gateway: Arc<str>,
    pub reference: NotifyRef,
}

#[derive(Debug, Default)]
pub struct Memory(Mutex<VecDeque<Remembered>>);

impl Memory {
    pub fn remember(&self, results: impl Iterator<Item = Remembered>, now: Moment) {
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        memory.extend(results);
        while memory.len() > MOST || memory.front().is_some_and(|oldest| now.since(oldest.at) > KEEP) {
            memory.pop_front();
        }
    }

    /// The latest result of each message, by id.
    pub fn recall(&self) -> Vec<Remembered> {
        let memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut latest: Vec<Remembered> = memory.iter().cloned().collect();
        drop(memory);
        latest.sort_by_key(|result| (result.id, std::cmp::Reverse(result.attempt)));
        latest.dedup_by_key(|result| result.id);
        latest
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::{KEEP, MOST, Memory, Remembered};
    use crate::clock::Moment;
    use crate::message::{MessageId, Nonce, NotifyRef, Status};

    fn result(id: i64, attempt: i32, at: Moment) -> Remembered {
        let id = MessageId(id);
        Remembered {
            at,
            id,
            send_after_us: 0,
            attempt,
            status: Status::Accepted,
            gateway: Arc::from("main"),
            reference: NotifyRef { id, nonce: Nonce::from_bits(1), attempt },
        }
    }

    #[test]
    fn the_latest_attempt_of_a_message_is_recalled() {
        let memory = Memory::default();
        let now = Moment::ZERO;
        memory.remember([result(7, 1, now), result(3, 1, now), result(7, 2, now)].into_iter(), now);
        let recalled: Vec<(i64, i32)> = memory.recall().iter().map(|r| (r.id.0, r.attempt)).collect();
        assert_eq!(recalled, [(3, 1), (7, 2)]);
    }

    #[test]
    fn old_results_and_too_many_are_forgotten() {
        let memory = Memory::default();
        memory.remember(std::iter::once(result(1, 1, Moment::ZERO)), Moment::ZERO);
        let later = Moment::ZERO + KEEP + Duration::from_secs(1);
        memory.remember(std::iter::once(result(2, 1, later)), later);
        assert_eq!(memory.recall().len(), 1);
        memory.remember((0..).take(MOST + 10).map(|id| result(id, 1, later)), later);
        assert_eq!(memory.recall().len(), MOST);
    }
}
