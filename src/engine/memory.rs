//! What this process knows of messages that it sent, for the case that the database forgets it: a replica that is
//! promoted without the last commits of its primary. A daemon that lives through that says all of it again, before
//! anything is sent that it could be about (`failover`).
//!
//! Nothing may fall between two chairs: a message that has left is in [`OwnWaves`] until its result is in the database,
//! and in [`Memory`] from then on. One that the gateway has certainly not taken is in neither: whoever leads then may send
//! it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Moment;
use crate::message::MessageId;
use crate::store::failover::Fact;
use crate::store::inbox::InboundFact;
use crate::store::queue::WaveKey;
use crate::store::receipts::{ProcessedFact, ReceiptFact};

/// Replication lags by seconds; minutes are plenty.
const KEEP: Duration = Duration::from_secs(600);
/// Bound of the results, and of the receipts: less than 80 bytes each.
const MOST: usize = 130_000;
/// Bound of what comes seldom, and with texts.
const FEW: usize = 10_000;

/// What was committed, and when that was known.
#[derive(Debug)]
pub struct Memory {
    pub results: Lately<Fact>,
    pub receipts: Lately<ReceiptFact>,
    pub processed: Lately<ProcessedFact>,
    pub inbound: Lately<InboundFact>,
}

impl Default for Memory {
    fn default() -> Memory {
        Memory {
            results: Lately::new(MOST),
            receipts: Lately::new(MOST),
            processed: Lately::new(FEW),
            inbound: Lately::new(FEW),
        }
    }
}

/// Facts of one kind, of the last minutes.
#[derive(Debug)]
pub struct Lately<T> {
    most: usize,
    kept: Mutex<Kept<T>>,
}

#[derive(Debug)]
struct Kept<T> {
    facts: VecDeque<(Moment, T)>,
    /// The youngest that was dropped.
    forgotten: Option<Moment>,
}

impl<T: Clone> Lately<T> {
    fn new(most: usize) -> Lately<T> {
        Lately { most, kept: Mutex::new(Kept { facts: VecDeque::new(), forgotten: None }) }
    }

    /// They were committed: `now` must be read after that.
    pub fn remember(&self, facts: impl IntoIterator<Item = T>, now: Moment) {
        let mut kept = lock(&self.kept);
        kept.facts.extend(facts.into_iter().map(|fact| (now, fact)));
        while let Some((at, _)) = kept.facts.front() {
            if kept.facts.len() <= self.most && now.since(*at) <= KEEP {
                break;
            }
            kept.forgotten = Some(*at);
            kept.facts.pop_front();
        }
    }

    /// Those that were committed from then on, in their order.
    pub fn since(&self, since: Option<Moment>) -> Vec<T> {
        let since = since.unwrap_or(Moment::ZERO);
        let kept = lock(&self.kept);
        kept.facts.iter().filter(|(at, _)| *at >= since).map(|(_, fact)| fact.clone()).collect()
    }

    /// Whether none is missing that was committed from then on.
    pub fn reaches_back_to(&self, since: Option<Moment>) -> bool {
        match (lock(&self.kept).forgotten, since) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(forgotten), Some(since)) => forgotten < since,
        }
    }
}

impl Lately<Fact> {
    /// The latest result of each message, by id, of those that were committed from then on.
    pub fn latest_since(&self, since: Option<Moment>) -> Vec<Fact> {
        let mut results = self.since(since);
        // What came last is first of its message.
        results.reverse();
        results.sort_by_key(|fact| (fact.id, std::cmp::Reverse(fact.attempt)));
        results.dedup_by_key(|fact| fact.id);
        results
    }

    /// These results were taken back: the messages wait again.
    pub fn forget(&self, ids: &[MessageId]) {
        lock(&self.kept).facts.retain(|(_, fact)| !ids.contains(&fact.id));
    }
}

/// Waves of this process that are not finished. A takeover by this very process leaves them alone: their results
/// will be known.
#[derive(Debug, Default)]
pub struct OwnWaves(Mutex<BTreeMap<WaveKey, HashMap<MessageId, Fact>>>);

impl OwnWaves {
    /// Its commit is under way.
    pub fn begin(&self, key: WaveKey) {
        lock(&self.0).insert(key, HashMap::new());
    }

    /// This message of a wave may leave from now on.
    pub fn may_leave(&self, key: WaveKey, message: Fact) {
        lock(&self.0).entry(key).or_default().insert(message.id, message);
    }

    /// Its result is in the database, or it is certain that the gateway has not taken it.
    pub fn is_over(&self, key: WaveKey, id: MessageId) {
        if let Some(wave) = lock(&self.0).get_mut(&key) {
            wave.remove(&id);
        }
    }

    pub fn finish(&self, key: WaveKey) {
        lock(&self.0).remove(&key);
    }

    pub fn clear(&self) {
        lock(&self.0).clear();
    }

    pub fn list(&self) -> Vec<WaveKey> {
        lock(&self.0).keys().copied().collect()
    }

    /// Every message that may have left and whose result is not in the database, by id.
    pub fn under_way(&self) -> Vec<Fact> {
        let mut facts: Vec<Fact> = lock(&self.0).values().flat_map(|wave| wave.values().cloned()).collect();
        facts.sort_by_key(|fact| fact.id);
        facts
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::{KEEP, MOST, Memory, OwnWaves};
    use crate::clock::Moment;
    use crate::message::{CreatedAt, MessageId, Nonce, NotifyRef, Status};
    use crate::store::failover::Fact;
    use crate::store::queue::WaveKey;

    fn fact(id: i64, attempt: i32, status: Status) -> Fact {
        let id = MessageId(id);
        Fact {
            id,
            row_made: CreatedAt(0),
            attempt,
            status,
            gateway: Arc::from("main"),
            reference: NotifyRef { id, nonce: Nonce::from_bits(1), attempt },
        }
    }

    fn at(seconds: u64) -> Moment {
        Moment::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn the_latest_result_of_the_latest_attempt_of_a_message_is_recalled() {
        let results = Memory::default().results;
        let [accepted, unknown] = [Status::Accepted, Status::Unknown];
        results.remember([fact(7, 1, accepted), fact(3, 1, unknown), fact(7, 2, accepted)], at(1));
        results.remember([fact(3, 1, accepted)], at(2));
        let recalled: Vec<(i64, i32, Status)> =
            results.latest_since(None).iter().map(|fact| (fact.id.0, fact.attempt, fact.status)).collect();
        assert_eq!(recalled, [(3, 1, accepted), (7, 2, accepted)]);
        results.forget(&[MessageId(7)]);
        assert_eq!(results.latest_since(None).len(), 1);
    }

    #[test]
    fn what_a_database_has_for_certain_is_not_recalled() {
        let results = Memory::default().results;
        results.remember([fact(1, 1, Status::Accepted)], at(1));
        results.remember([fact(2, 1, Status::Accepted)], at(2));
        let recalled: Vec<i64> = results.latest_since(Some(at(2))).iter().map(|fact| fact.id.0).collect();
        assert_eq!(recalled, [2]);
    }

    #[test]
    fn it_says_how_far_back_it_reaches() {
        let results = Memory::default().results;
        assert!(results.reaches_back_to(None), "nothing was sent yet");
        results.remember([fact(1, 1, Status::Accepted)], at(1));
        assert!(results.reaches_back_to(None), "everything is still here");
        let later = at(2) + KEEP;
        results.remember([fact(2, 1, Status::Accepted)], later);
        assert_eq!(results.latest_since(None).len(), 1);
        assert!(!results.reaches_back_to(None));
        assert!(!results.reaches_back_to(Some(at(1))), "that one may have been committed later than this");
        assert!(results.reaches_back_to(Some(at(2))));
    }

    #[test]
    fn too_many_results_are_forgotten() {
        let results = Memory::default().results;
        results.remember((0..).take(MOST + 10).map(|id| fact(id, 1, Status::Accepted)), at(1));
        assert_eq!(results.latest_since(None).len(), MOST);
        assert!(!results.reaches_back_to(Some(at(1))));
    }

    #[test]
    fn a_message_is_under_way_from_its_wave_to_its_result() {
        let waves = OwnWaves::default();
        let key = WaveKey { epoch: 1, seq: 1 };
        waves.begin(key);
        assert!(waves.under_way().is_empty(), "nothing has left");
        for id in [5, 4] {
            waves.may_leave(key, fact(id, 1, Status::Unknown));
        }
        waves.is_over(key, MessageId(5));
        assert_eq!(waves.under_way().iter().map(|fact| fact.id.0).collect::<Vec<_>>(), [4]);
        assert_eq!(waves.list(), [key]);
        waves.finish(key);
        assert!(waves.under_way().is_empty() && waves.list().is_empty());
    }
}
