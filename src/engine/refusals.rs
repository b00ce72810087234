//! Requests that the gateway refused after it had accepted them, without saying which: finds the messages, where that can
//! be known.
//!
//! InteractSMS v2 tells of each message what became of it, but of a request that it refuses no more than that it did. So
//! what was accepted lately and has had no result of its own is what was refused, if there is as much of it as there are
//! refusals. Whatever could make that a coincidence (another daemon may have been told, something was accepted before we
//! listened, an answer is still to come) leaves it to the alarm that was raised when the refusal came.
//!
//! The same holds for messages that shared a request: each is told of once, and none has a result of its own. Should all of
//! a request be told at one time, they count as one that was repeated; then there are too few, and the alarm stays.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use tracing::{debug, info, warn};

use crate::clock::Moment;
use crate::message::NotifyRef;
use crate::store::receipts::{Processed, ProcessedFact};
use crate::store::{Store, StoreError};

/// Longest time from the gateway's answer to its refusal.
const BEFORE: Duration = Duration::from_secs(60);
/// A refusal may overtake the recording of its answer.
const AFTER: Duration = Duration::from_secs(2);
/// Results come one by one, and those of other messages not necessarily first.
const SETTLE: Duration = Duration::from_secs(5);
/// Results are remembered for as long as one of the times above, or all of them, may ask for them.
const KEEP: Duration = Duration::from_secs(180);
const MOST_TOLD: usize = 100_000;
/// Several requests of as many recipients as one may have: each is told of by itself.
const MOST_PENDING: usize = 10_000;
/// Between two looks for alarms that nobody needs any more.
const TIDY: Duration = Duration::from_secs(600);

/// Who we are, and whose refusals these may be.
#[derive(Debug, Clone)]
pub struct Ears {
    pub instance: String,
    /// Gateways that post results.
    pub gateways: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Refusals {
    ears: Ears,
    since: Moment,
    /// Messages that had a result of their own.
    told: HashSet<NotifyRef>,
    told_at: VecDeque<(Moment, NotifyRef)>,
    /// Some of them had to be forgotten until now.
    forgot_at: Option<Moment>,
    pending: Vec<Refusal>,
    /// Refusals by the gateway's time, so that a repetition is recognised; and whether their messages were found.
    known: HashMap<String, bool>,
    /// The same, oldest first.
    known_at: VecDeque<String>,
    tidy_at: Moment,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: &'static str,
    pub(super) reason: String,
    /// The gateway's time of it; nothing else tells two from one that is repeated.
    pub(super) finished_at: Option<String>,
    pub(super) at: Moment,
}

impl Refusals {
    pub(super) fn new(ears: Ears, now: Moment) -> Refusals {
        Refusals {
            ears,
            since: now,
            told: HashSet::new(),
            told_at: VecDeque::new(),
            forgot_at: None,
            pending: Vec::new(),
            known: HashMap::new(),
            known_at: VecDeque::new(),
            tidy_at: now,
        }
    }

    /// A message had a result of its own.
    pub(super) fn told(&mut self, reference: NotifyRef, now: Moment) {
        while self.told_at.front().is_some_and(|(at, _)| now.since(*at) > KEEP) {
            self.forget_first();
        }
        if self.told_at.len() >= MOST_TOLD {
            self.forget_first();
            self.forgot_at = Some(now);
        }
        if self.told.insert(reference) {
            self.told_at.push_back((now, reference));
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, reference)) = self.told_at.pop_front() {
            self.told.remove(&reference);
        }
    }

    /// True: its message has been found already.
    pub(super) fn refused(&mut self, refusal: Refusal) -> bool {
        if let Some(finished_at) = &refusal.finished_at {
            if let Some(found) = self.known.get(finished_at) {
                return *found;
            }
            if self.known.len() >= MOST_PENDING
                && let Some(oldest) = self.known_at.pop_front()
            {
                self.known.remove(&oldest);
            }
            self.known.insert(finished_at.clone(), false);
            self.known_at.push_back(finished_at.clone());
        }
        if self.pending.len() < MOST_PENDING {
            self.pending.push(refusal);
        }
        false
    }

    /// How long nothing is to be done.
    pub(super) fn rest(&self, now: Moment) -> Duration {
        let due = self.settle_at().unwrap_or(Moment::MAX).min(self.tidy_at);
        due.since(now)
    }

    /// When enough was heard: some time after the last, and not for ever when they do not end.
    fn settle_at(&self) -> Option<Moment> {
        let (first, last) = (self.pending.first()?, self.pending.last()?);
        Some((last.at + SETTLE).min(first.at + BEFORE))
    }

    pub(super) async fn settle(&mut self, store: &Store, now: Moment) {
        if self.tidy_at <= now {
            self.tidy_at = now + TIDY;
            if let Err(error) = store.clear_old_refusals().await {
                debug!(%error, "could not look for alarms that are over");
            }
        }
        if self.settle_at().is_none_or(|at| at > now) {
            return;
        }
        let group = std::mem::take(&mut self.pending);
        match self.attribute(store, &group, now).await {
            Ok(Some(messages)) => {
                for finished_at in group.iter().filter_map(|refusal| refusal.finished_at.as_ref()) {
                    self.known.entry(finished_at.clone()).and_modify(|found| *found = true);
                }
                info!(messages, "were accepted and then refused by requests that did not name them");
            }
            Ok(None) => {
                warn!(
                    refusals = group.len(),
                    "cannot tell which messages the gateway refused; see the alarm"
                );
            }
            Err(error) => {
                warn!(%error, "could not find out which messages the gateway refused; see the alarm");
            }
        }
    }

    /// Writes the refusals into the messages that they are about. `None`: that cannot be told.
    async fn attribute(
        &self,
        store: &Store,
        group: &[Refusal],
        now: Moment,
    ) -> Result<Option<usize>, StoreError> {
        let Some((first, last)) = group.first().zip(group.last()) else { return Ok(None) };
        let alike =
            group.iter().all(|refusal| (refusal.code, &refusal.reason) == (first.code, &first.reason));
        let named = group.iter().all(|refusal| refusal.finished_at.is_some());
        let forgot = self.forgot_at.is_some_and(|at| now.since(at) <= KEEP);
        if !alike || !named || forgot || group.len() >= MOST_PENDING {
            return Ok(None);
        }
        let age = |moment: Moment| now.since(moment).as_secs_f64();
        let window = (age(first.at) + BEFORE.as_secs_f64(), age(last.at) - AFTER.as_secs_f64());
        let Ears { instance, gateways } = &self.ears;
        let suspects = store.suspects(gateways, window, age(self.since), instance).await?;
        let Some(suspects) = suspects else { return Ok(None) };
        let left: Vec<NotifyRef> =
            suspects.into_iter().filter(|reference| !self.told.contains(reference)).collect();
        if left.len() != group.len() {
            return Ok(None);
        }
        let outcome = if first.code == "gateway_no_credit" {
            Processed::NoCredit { reason: first.reason.clone() }
        } else {
            Processed::Failed { code: first.code, reason: first.reason.clone() }
        };
        let mut facts: Vec<ProcessedFact> =
            left.into_iter().map(|reference| ProcessedFact { reference, outcome: outcome.clone() }).collect();
        facts.sort_by_key(|fact| fact.reference.id);
        let messages = store.apply_processed(&facts).await?;
        // A refusal before these may have raised it, and is still for a person.
        store.clear_alarm_since("request_refused", first.code, age(first.at) + 1.0).await?;
        Ok(Some(messages))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Ears, MOST_PENDING, MOST_TOLD, Refusal, Refusals, SETTLE};
    use crate::clock::Moment;
    use crate::message::{MessageId, Nonce, NotifyRef};

    const SECOND: Duration = Duration::from_secs(1);

    fn refusals() -> Refusals {
        let ears = Ears { instance: "me".to_owned(), gateways: vec!["main".to_owned()] };
        Refusals { tidy_at: Moment::MAX, ..Refusals::new(ears, Moment::ZERO) }
    }

    fn refusal(finished_at: Option<&str>, at: Moment) -> Refusal {
        let finished_at = finished_at.map(str::to_owned);
        Refusal { code: "sender_not_valid", reason: "no".to_owned(), finished_at, at }
    }

    fn reference(id: i64) -> NotifyRef {
        NotifyRef { id: MessageId(id), nonce: Nonce::from_bits(1), attempt: 1 }
    }

    #[test]
    fn a_refusal_that_is_repeated_counts_once_and_two_of_no_time_are_two() {
        let mut refusals = refusals();
        for finished_at in [Some("a"), Some("a"), Some("b"), None, None] {
            assert!(!refusals.refused(refusal(finished_at, Moment::ZERO)));
        }
        assert_eq!(refusals.pending.len(), 4);
        refusals.pending.clear();
        refusals.known.insert("a".to_owned(), true);
        assert!(refusals.refused(refusal(Some("a"), Moment::ZERO)), "its message has been found");
        assert!(refusals.pending.is_empty());
    }

    #[test]
    fn a_full_request_is_not_too_much_to_be_attributed() {
        let mut refusals = refusals();
        for n in 0..2000 {
            refusals.refused(refusal(Some(&n.to_string()), Moment::ZERO));
        }
        assert!(refusals.pending.len() == 2000 && refusals.pending.len() < MOST_PENDING);
        assert_eq!((refusals.known.len(), refusals.known_at.len()), (2000, 2000));
        for n in 2000..MOST_PENDING + 7 {
            refusals.refused(refusal(Some(&n.to_string()), Moment::ZERO));
        }
        assert_eq!((refusals.known.len(), refusals.known_at.len()), (MOST_PENDING, MOST_PENDING));
    }

    #[test]
    fn it_waits_until_they_have_ended_but_not_for_ever() {
        let mut refusals = refusals();
        let start = Moment::ZERO + SECOND;
        assert!(refusals.rest(start) > Duration::from_secs(1_000_000));
        refusals.refused(refusal(Some("0"), start));
        assert_eq!(refusals.rest(start), SETTLE);
        for n in 1..=70 {
            let now = start + n * SECOND;
            refusals.refused(refusal(Some(&n.to_string()), now));
            assert_eq!(refusals.rest(now), SETTLE.min((60 * SECOND).saturating_sub(n * SECOND)));
        }
    }

    #[test]
    fn results_are_remembered_for_a_while_and_within_bounds() {
        let mut refusals = refusals();
        refusals.told(reference(1), Moment::ZERO);
        refusals.told(reference(2), Moment::ZERO + 170 * SECOND);
        assert!(refusals.told.contains(&reference(1)));
        refusals.told(reference(3), Moment::ZERO + 190 * SECOND);
        assert!(!refusals.told.contains(&reference(1)) && refusals.told.contains(&reference(2)));
        assert_eq!(refusals.forgot_at, None);
        for id in 0..=i64::try_from(MOST_TOLD).unwrap() {
            refusals.told(reference(id), Moment::ZERO + 190 * SECOND);
        }
        assert_eq!((refusals.told.len(), refusals.told_at.len()), (MOST_TOLD, MOST_TOLD));
        assert!(refusals.forgot_at.is_some());
    }
}
