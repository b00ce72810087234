//! Takes what the callback listener was told and commits it in batches. A caller is answered only when its fact is in the
//! database, so that nothing is lost that the gateway believes delivered. Works on every daemon, leader or not: what the
//! gateway reports is a fact.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info, warn};

use crate::clock::{self, Moment};
use crate::engine::life::Life;
use crate::engine::memory::{Lately, Memory};
use crate::engine::refusals::{Ears, Refusal, Refusals};
use crate::message::MessageId;
use crate::store::inbox::InboundFact;
use crate::store::receipts::{ProcessedFact, ReceiptFact};
use crate::store::{Store, StoreError};

/// Facts waiting for the next batch; past this, callers wait.
const QUEUE: usize = 4096;
/// Most facts in one batch.
const BATCH: usize = 1000;
/// A locked row is usually our own recorder, writing the answer of the very message; then the next try succeeds.
const LOCKED_TRIES: u32 = 20;
/// Parts of a batch that may meet a lock, one after the other, before the rest is given up: each costs a lock's timeout.
const LOCKED_PARTS: u32 = 40;

/// What the gateway told.
#[derive(Debug)]
pub enum Fact {
    Receipt(ReceiptFact),
    Processed(ProcessedFact),
    Inbound(Box<InboundFact>),
    /// A whole request was refused, and nothing says which.
    CampaignRefused {
        code: &'static str,
        reason: String,
        /// When, by the gateway's clock, as it wrote it.
        finished_at: Option<String>,
    },
}

/// What became of a fact that was handed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// In the database, or known there already, or about nothing that is there.
    Committed,
    /// The database did not take it: the gateway should send it again.
    Failed,
}

type Waiting = (Fact, oneshot::Sender<Taken>);

/// The way in, for the listener.
#[derive(Debug, Clone)]
pub struct Incoming(mpsc::Sender<Waiting>);

impl Incoming {
    pub fn channel() -> (Incoming, mpsc::Receiver<Waiting>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Incoming(sender), receiver)
    }

    /// Returns when the fact is committed.
    pub async fn submit(&self, fact: Fact) -> Taken {
        let (answer, answered) = oneshot::channel();
        if self.0.send((fact, answer)).await.is_err() {
            return Taken::Failed;
        }
        answered.await.unwrap_or(Taken::Failed)
    }
}

/// The batching task: ends when every [`Incoming`] is dropped.
pub async fn run(store: Store, life: Arc<Life>, ears: Ears, mut incoming: mpsc::Receiver<Waiting>) {
    let mut batch: Vec<Waiting> = Vec::with_capacity(BATCH);
    let mut refusals = Refusals::new(ears, clock::now());
    loop {
        tokio::select! {
            count = incoming.recv_many(&mut batch, BATCH) => if count == 0 { return },
            () = tokio::time::sleep(refusals.rest(clock::now())) => {
                refusals.settle(&store, clock::now()).await;
                continue;
            }
        }
        let now = clock::now();
        let mut receipts = Pile::default();
        let mut processed = Pile::default();
        let mut inbound = Pile::default();
        let mut refused = BTreeMap::new();
        for (fact, answer) in batch.drain(..) {
            match fact {
                Fact::Receipt(fact) => receipts.push(fact, answer),
                Fact::Processed(fact) => {
                    refusals.told(fact.reference, now);
                    processed.push(fact, answer);
                }
                Fact::Inbound(fact) => inbound.push(*fact, answer),
                Fact::CampaignRefused { code, reason, finished_at } => {
                    let refusal = Refusal { code, reason: reason.clone(), finished_at, at: now };
                    if refusals.refused(refusal) {
                        // The gateway may have hung up meanwhile.
                        let _ = answer.send(Taken::Committed);
                    } else {
                        refused.entry((code, reason)).or_insert_with(Vec::new).push(answer);
                    }
                }
            }
        }
        // One kind must not wait for, nor fail with, another.
        tokio::join!(
            receipts.settle(&store, &life.memory),
            processed.settle(&store, &life.memory),
            inbound.settle(&store, &life.memory),
            raise_alarms(&store, refused)
        );
    }
}

async fn raise_alarms(store: &Store, refused: BTreeMap<(&'static str, String), Vec<oneshot::Sender<Taken>>>) {
    for ((code, reason), answers) in refused {
        let text = format!(
            "the gateway refused a request after it had accepted it, and does not say which: {reason}. Messages that are \
             accepted since then, and get no receipt, were not sent; mend the cause, look into the gateway's web pages, \
             send them again, then run: outboxd resume"
        );
        let taken = match store.open_alarm("request_refused", code, &text).await {
            Ok(()) => Taken::Committed,
            Err(error) => {
                warn!(%error, "could not raise an alarm; the gateway was told so");
                Taken::Failed
            }
        };
        for answer in answers {
            // The gateway may have hung up meanwhile.
            let _ = answer.send(taken);
        }
    }
}

/// A kind of fact that is written by one statement for many.
trait Writable: Clone + Send + Sync {
    /// Writes all of them or none. Returns how many changed something.
    fn write(store: &Store, facts: &[Self]) -> impl Future<Output = Result<usize, StoreError>> + Send;

    /// Where they are kept for the case that the database forgets them.
    fn memory(memory: &Memory) -> &Lately<Self>;

    /// Writing it twice does no more than writing it once.
    fn may_be_repeated(&self) -> bool {
        true
    }

    /// As it is written again after a failover.
    fn once_more(self) -> Self {
        self
    }
}

impl Writable for ReceiptFact {
    fn memory(memory: &Memory) -> &Lately<Self> {
        &memory.receipts
    }

    async fn write(store: &Store, facts: &[Self]) -> Result<usize, StoreError> {
        let mut changed = 0;
        for round in rounds(facts, |fact| fact.reference.id) {
            changed += store.apply_receipts(&round).await?;
        }
        Ok(changed)
    }
}

impl Writable for ProcessedFact {
    fn memory(memory: &Memory) -> &Lately<Self> {
        &memory.processed
    }

    async fn write(store: &Store, facts: &[Self]) -> Result<usize, StoreError> {
        let mut changed = 0;
        for round in rounds(facts, |fact| fact.reference.id) {
            changed += store.apply_processed(&round).await?;
        }
        Ok(changed)
    }
}

impl Writable for InboundFact {
    fn memory(memory: &Memory) -> &Lately<Self> {
        &memory.inbound
    }

    fn may_be_repeated(&self) -> bool {
        self.fingerprint.is_some()
    }

    /// The answer that went out by itself was queued with it, and may have been sent.
    fn once_more(self) -> Self {
        InboundFact { auto_reply: None, ..self }
    }

    async fn write(store: &Store, facts: &[Self]) -> Result<usize, StoreError> {
        let received = store.receive(facts).await?;
        for (inbox_id, answer) in &received.answered {
            info!(inbox_id, message_id = answer.0, "a reply is answered by itself");
        }
        for (inbox_id, problem) in &received.unanswered {
            warn!(inbox_id, problem, "a reply should be answered by itself, and that could not be queued");
        }
        Ok(received.new)
    }
}

/// Facts of one kind in a batch, and who waits for each.
struct Pile<F> {
    facts: Vec<F>,
    answers: Vec<oneshot::Sender<Taken>>,
}

impl<F> Default for Pile<F> {
    fn default() -> Pile<F> {
        Pile { facts: Vec::new(), answers: Vec::new() }
    }
}

impl<F: Writable> Pile<F> {
    fn push(&mut self, fact: F, answer: oneshot::Sender<Taken>) {
        self.facts.push(fact);
        self.answers.push(answer);
    }

    /// Writes them and answers. What the server refuses is found by halving: one fact must not keep out the others.
    async fn settle(self, store: &Store, memory: &Memory) {
        let mut answers = self.answers.into_iter();
        let mut rest = vec![self.facts.as_slice()];
        let (mut gone, mut tries, mut patience) = (false, LOCKED_TRIES, LOCKED_PARTS);
        while let Some(facts) = rest.pop().filter(|facts| !facts.is_empty()) {
            let written = if gone { Err(None) } else { write(store, facts, tries).await.map_err(Some) };
            tries = 1;
            if matches!(written, Err(Some(StoreError::Locked { .. }))) {
                patience = patience.saturating_sub(1);
            }
            let taken = match written {
                Ok(changed) => {
                    debug!(facts = facts.len(), changed, "callbacks written");
                    // Also what changed nothing: its row may be one that a failover threw back.
                    let lasting = facts.iter().filter(|fact| fact.may_be_repeated()).cloned();
                    F::memory(memory).remember(lasting, clock::now());
                    Taken::Committed
                }
                Err(Some(
                    StoreError::Refused { .. } | StoreError::Answer { .. } | StoreError::Locked { .. },
                )) if facts.len() > 1 => {
                    let (first, second) = facts.split_at(facts.len() / 2);
                    rest.extend([second, first]);
                    continue;
                }
                Err(error) => {
                    if let Some(error) = error {
                        // The others would only wait for the same.
                        gone = patience == 0
                            || matches!(
                                error,
                                StoreError::Unavailable(_)
                                    | StoreError::InDoubt { .. }
                                    | StoreError::Elsewhere { .. }
                            );
                        warn!(%error, callbacks = facts.len(), "could not write callbacks; the gateway was told so");
                    }
                    Taken::Failed
                }
            };
            for answer in answers.by_ref().take(facts.len()) {
                // The gateway may have hung up meanwhile.
                let _ = answer.send(taken);
            }
        }
    }
}

/// Writes again what was taken since, after a failover that may have lost it.
pub(super) async fn write_again(
    store: &Store,
    memory: &Memory,
    since: Option<Moment>,
) -> Result<(), StoreError> {
    again::<ProcessedFact>(store, memory, since).await?;
    again::<ReceiptFact>(store, memory, since).await?;
    again::<InboundFact>(store, memory, since).await
}

async fn again<F: Writable>(store: &Store, memory: &Memory, since: Option<Moment>) -> Result<(), StoreError> {
    let facts: Vec<F> = F::memory(memory).since(since).into_iter().map(F::once_more).collect();
    for facts in facts.chunks(BATCH) {
        match write(store, facts, LOCKED_TRIES).await {
            Ok(0) => {}
            Ok(changed) => warn!(changed, "the failover had lost callbacks; written again from memory"),
            Err(error @ (StoreError::Refused { .. } | StoreError::Answer { .. })) => {
                // Nothing is sent for want of it.
                warn!(%error, callbacks = facts.len(), "could not write callbacks again after the failover");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn write<F: Writable>(store: &Store, facts: &[F], tries: u32) -> Result<usize, StoreError> {
    for _ in 1..tries {
        match F::write(store, facts).await {
            Err(StoreError::Locked { .. }) => {}
            other => return other,
        }
    }
    F::write(store, facts).await
}

/// Splits a batch so that no statement names a message twice (an UPDATE would take an arbitrary one of the two), and
/// sorts by id, so that two daemons lock rows in the same order.
fn rounds<F: Clone>(facts: &[F], message: impl Fn(&F) -> MessageId) -> Vec<Vec<F>> {
    let mut by_message: BTreeMap<MessageId, Vec<&F>> = BTreeMap::new();
    for fact in facts {
        by_message.entry(message(fact)).or_default().push(fact);
    }
    let mut rounds: Vec<Vec<F>> = Vec::new();
    for facts in by_message.into_values() {
        for (round, fact) in facts.into_iter().enumerate() {
            if rounds.len() == round {
                rounds.push(Vec::new());
            }
            rounds[round].push(fact.clone());
        }
    }
    rounds
}

#[cfg(test)]
mod tests {
    use super::rounds;
    use crate::message::MessageId;

    #[test]
    fn a_message_stands_once_in_a_round_and_its_facts_keep_their_order() {
        let facts = [(5, false), (2, true), (5, true), (9, true)];
        assert_eq!(
            rounds(&facts, |(id, _)| MessageId(*id)),
            [vec![(2, true), (5, false), (9, true)], vec![(5, true)]]
        );
    }
}
