//! Writing delivery receipts into rows. Repeated, foreign and late receipts change nothing or correct the row.

use crate::message::{MessageId, NotifyRef, Status};
use crate::store::statement::RECEIPTS;
use crate::store::{Store, StoreError, column};

/// A verified receipt for a reference that is ours in form.
#[derive(Debug, Clone)]
pub struct ReceiptFact {
    pub reference: NotifyRef,
    pub delivered: bool,
}

impl Store {
    /// Applies a batch: sorted by id, at most one entry a message. Returns the messages that changed.
    pub async fn apply_receipts(&self, facts: &[ReceiptFact]) -> Result<Vec<MessageId>, StoreError> {
        let ids: Vec<i64> = facts.iter().map(|f| f.reference.id.0).collect();
        let attempts: Vec<i32> = facts.iter().map(|f| f.reference.attempt).collect();
        let nonces: Vec<String> = facts.iter().map(|f| f.reference.nonce.encode()).collect();
        let refs: Vec<String> = facts.iter().map(|f| f.reference.encode()).collect();
        let statuses: Vec<&str> = facts
            .iter()
            .map(|f| if f.delivered { Status::Delivered } else { Status::Undelivered }.as_str())
            .collect();
        let timeline = self.expected.get();
        let rows = self
            .query(
                RECEIPTS,
                &[
                    /* ids */ &ids, /* attempts */ &attempts, /* nonces */ &nonces,
                    /* refs */ &refs, /* statuses */ &statuses, /* timeline */ &timeline,
                ],
            )
            .await?;
        rows.iter().map(|row| column(RECEIPTS, row, 0).map(MessageId)).collect()
    }
}
