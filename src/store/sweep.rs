//! What changes rows without anybody sending: expiry, the resend policy, and giving back what a stopped gateway refused.

use std::time::Duration;

use crate::message::MessageId;
use crate::store::statement::{DUE_AGAIN, EXPIRE, MARK_OVERDUE, REQUEUE_REFUSED, RESEND};
use crate::store::{Store, StoreError, column};

impl Store {
    /// Ends rows that expired more than `margin` ago, other than those `in_memory`. At most 1,000 a call.
    pub async fn expire(&self, margin: Duration, in_memory: &[i64]) -> Result<Vec<MessageId>, StoreError> {
        let rows =
            self.query(EXPIRE, &[/* margin */ &margin.as_secs_f64(), /* in memory */ &in_memory]).await?;
        rows.iter().map(|row| column(EXPIRE, row, 0).map(MessageId)).collect()
    }

    /// Queues again what has been unknown at this gateway for longer than `age`. At most 1,000 a call.
    pub async fn resend(&self, gateway: &str, age: Duration) -> Result<Vec<MessageId>, StoreError> {
        let rows = self.query(RESEND, &[/* gateway */ &gateway, /* age */ &age.as_secs_f64()]).await?;
        rows.iter().map(|row| column(RESEND, row, 0).map(MessageId)).collect()
    }

    /// The database's clock was set back and had been at `us` before: makes those due that were due by then. Returns how
    /// many; not necessarily all of them in one call.
    pub async fn due_again(&self, us: i64) -> Result<usize, StoreError> {
        Ok(self.query(DUE_AGAIN, &[/* where it had been */ &us]).await?.len())
    }

    /// Says in rows that were accepted longer ago than this that no receipt has come. Returns how many.
    pub async fn mark_overdue(&self, age: Duration) -> Result<i64, StoreError> {
        let row = self.query_one(MARK_OVERDUE, &[/* age */ &age.as_secs_f64()]).await?;
        column(MARK_OVERDUE, &row, 0)
    }

    /// Gives back what a gateway refused just before it was stopped.
    pub async fn requeue_refused(
        &self,
        refused: &[(MessageId, String)],
    ) -> Result<Vec<MessageId>, StoreError> {
        let ids: Vec<i64> = refused.iter().map(|(id, _)| id.0).collect();
        let refs: Vec<&str> = refused.iter().map(|(_, reference)| reference.as_str()).collect();
        let rows = self.query(REQUEUE_REFUSED, &[/* ids */ &ids, /* refs */ &refs]).await?;
        rows.iter().map(|row| column(REQUEUE_REFUSED, row, 0).map(MessageId)).collect()
    }
}
