//! Takes delivery receipts from the callback listener and commits them in batches. A caller is answered only when its
//! receipt is in the database, so that nothing is lost that the gateway believes delivered. Works on every daemon,
//! leader or not: a receipt is a fact.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};

use crate::clock;
use crate::engine::lead::Life;
use crate::message::MessageId;
use crate::store::receipts::ReceiptFact;
use crate::store::{Store, StoreError};

/// Receipts waiting for the next batch; past this, callers wait.
const QUEUE: usize = 4096;
/// Most receipts in one statement.
const BATCH: usize = 1000;

/// What became of a receipt that was handed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// In the database: it moved its message, or there was nothing to move.
    Committed { changed: bool },
    /// The database did not take it: the gateway should send it again.
    Failed,
}

type Waiting = (ReceiptFact, oneshot::Sender<Taken>);

/// The way in, for the listener.
#[derive(Debug, Clone)]
pub struct Receipts(mpsc::Sender<Waiting>);

impl Receipts {
    pub fn channel() -> (Receipts, mpsc::Receiver<Waiting>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Receipts(sender), receiver)
    }

    /// Returns when the receipt is committed.
    pub async fn submit(&self, fact: ReceiptFact) -> Taken {
        let (answer, answered) = oneshot::channel();
        if self.0.send((fact, answer)).await.is_err() {
            return Taken::Failed;
        }
        answered.await.unwrap_or(Taken::Failed)
    }
}

/// The batching task: ends when every [`Receipts`] is dropped.
pub async fn run(store: Store, life: Arc<Life>, mut incoming: mpsc::Receiver<Waiting>) {
    let mut batch: Vec<Waiting> = Vec::with_capacity(BATCH);
    while incoming.recv_many(&mut batch, BATCH).await > 0 {
        let facts: Vec<ReceiptFact> = batch.iter().map(|(fact, _)| fact.clone()).collect();
        let outcome = apply(&store, &facts).await;
        if let Err(error) = &outcome {
            warn!(%error, receipts = batch.len(), "could not write receipts; the gateway was told so");
        }
        if outcome.is_ok() {
            // Also what changed nothing: its row may have been one that a failover threw back.
            life.memory.remember_receipts(facts, clock::now());
        }
        for (fact, answer) in batch.drain(..) {
            let taken = match &outcome {
                Ok(changed) => Taken::Committed { changed: changed.contains(&fact.reference.id) },
                Err(_) => Taken::Failed,
            };
            // The gateway may have hung up meanwhile.
            let _ = answer.send(taken);
        }
    }
}

/// Writes receipts, in batches; a message's in their order. Returns the messages that changed.
pub(super) async fn apply(store: &Store, facts: &[ReceiptFact]) -> Result<Vec<MessageId>, StoreError> {
    let mut changed = Vec::new();
    for batch in facts.chunks(BATCH) {
        for round in rounds(batch.iter()) {
            changed.extend(apply_round(store, &round).await?);
        }
    }
    if !facts.is_empty() {
        debug!(receipts = facts.len(), changed = changed.len(), "receipts written");
    }
    Ok(changed)
}

async fn apply_round(store: &Store, round: &[ReceiptFact]) -> Result<Vec<MessageId>, StoreError> {
    // A locked row is usually our own recorder, writing the answer of the very message.
    for _ in 0..20 {
        match store.apply_receipts(round).await {
            Err(StoreError::Locked { .. }) => {}
            other => return other,
        }
    }
    // One row is locked for long: the others must not wait for it.
    let mut changed = Vec::new();
    let mut failure = None;
    for fact in round {
        match store.apply_receipts(std::slice::from_ref(fact)).await {
            Ok(ids) => changed.extend(ids),
            Err(error) => failure = Some(error),
        }
    }
    failure.map_or(Ok(changed), Err)
}

/// Splits a batch so that no statement names a message twice (an UPDATE would take an arbitrary one of the two), and
/// sorts by id, so that two daemons lock rows in the same order.
fn rounds<'a>(facts: impl Iterator<Item = &'a ReceiptFact>) -> Vec<Vec<ReceiptFact>> {
    let mut by_message: BTreeMap<MessageId, Vec<&ReceiptFact>> = BTreeMap::new();
    for fact in facts {
        by_message.entry(fact.reference.id).or_default().push(fact);
    }
    let mut rounds: Vec<Vec<ReceiptFact>> = Vec::new();
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
    use crate::message::{MessageId, Nonce, NotifyRef};
    use crate::store::receipts::ReceiptFact;

    #[test]
    fn a_message_stands_once_in_a_round_and_its_receipts_keep_their_order() {
        let fact = |id: i64, delivered: bool| ReceiptFact {
            reference: NotifyRef { id: MessageId(id), nonce: Nonce::from_bits(1), attempt: 1 },
            delivered,
        };
        let facts = [fact(5, false), fact(2, true), fact(5, true), fact(9, true)];
        let rounds = rounds(facts.iter());
        let shown: Vec<Vec<(i64, bool)>> = rounds
            .iter()
            .map(|round| round.iter().map(|f| (f.reference.id.0, f.delivered)).collect())
            .collect();
        assert_eq!(shown, [vec![(2, true), (5, false), (9, true)], vec![(5, true)]]);
    }
}
