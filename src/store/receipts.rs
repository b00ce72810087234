//! Writing delivery receipts and processing results into rows. Repeated, foreign and late ones change nothing or correct
//! the row.

use crate::message::{NotifyRef, Status};
use crate::store::statement::{NO_CREDIT, PROCESSED, RECEIPTS, SUSPECTS};
use crate::store::{Store, StoreError, column};

/// A verified receipt for a reference that is ours in form.
#[derive(Debug, Clone)]
pub struct ReceiptFact {
    pub reference: NotifyRef,
    pub delivered: bool,
    /// Why it was not delivered, in words, if there is more to say than that.
    pub note: Option<String>,
}

/// What became of a request after the gateway had answered it.
#[derive(Debug, Clone)]
pub struct ProcessedFact {
    pub reference: NotifyRef,
    pub outcome: Processed,
}

#[derive(Debug, Clone)]
pub enum Processed {
    Accepted,
    Failed {
        code: &'static str,
        reason: String,
    },
    /// The account has no credits: the message waits, and its gateway is to be stopped.
    NoCredit {
        reason: String,
    },
}

/// References turned on their side, as `unnest` wants them.
struct References {
    ids: Vec<i64>,
    attempts: Vec<i32>,
    nonces: Vec<String>,
    refs: Vec<String>,
}

impl References {
    fn of<'a>(references: impl Iterator<Item = &'a NotifyRef> + Clone) -> References {
        References {
            ids: references.clone().map(|r| r.id.0).collect(),
            attempts: references.clone().map(|r| r.attempt).collect(),
            nonces: references.clone().map(|r| r.nonce.encode()).collect(),
            refs: references.map(|r| r.encode()).collect(),
        }
    }
}

impl Store {
    /// Applies a batch: sorted by id, at most one entry a message. Returns how many messages changed.
    pub async fn apply_receipts(&self, facts: &[ReceiptFact]) -> Result<usize, StoreError> {
        let references = References::of(facts.iter().map(|f| &f.reference));
        let statuses: Vec<&str> = facts
            .iter()
            .map(|f| if f.delivered { Status::Delivered } else { Status::Undelivered }.as_str())
            .collect();
        let notes: Vec<Option<&str>> = facts.iter().map(|f| f.note.as_deref()).collect();
        let rows = self
            .query(
                RECEIPTS,
                &[
                    /* ids */ &references.ids,
                    /* attempts */ &references.attempts,
                    /* nonces */ &references.nonces,
                    /* refs */ &references.refs,
                    /* statuses */ &statuses,
                    /* notes */ &notes,
                    /* timeline */ &self.expected.get(),
                ],
            )
            .await?;
        Ok(rows.len())
    }

    /// The same for processing results.
    pub async fn apply_processed(&self, facts: &[ProcessedFact]) -> Result<usize, StoreError> {
        let (unpaid, settled): (Vec<&ProcessedFact>, Vec<&ProcessedFact>) =
            facts.iter().partition(|fact| matches!(fact.outcome, Processed::NoCredit { .. }));
        let mut changed = 0;
        if !settled.is_empty() {
            changed += self.apply_settled(&settled).await?;
        }
        if !unpaid.is_empty() {
            changed += self.apply_unpaid(&unpaid).await?;
        }
        Ok(changed)
    }

    /// What these gateways accepted between so many seconds ago, and may have refused afterwards. `None`: that cannot be
    /// told apart from others. `heard_for`: since when this daemon has taken results.
    pub async fn suspects(
        &self,
        gateways: &[String],
        (oldest, newest): (f64, f64),
        heard_for: f64,
        instance: &str,
    ) -> Result<Option<Vec<NotifyRef>>, StoreError> {
        let rows = self
            .query(
                SUSPECTS,
                &[
                    /* gateways */ &gateways, /* oldest */ &oldest, /* newest */ &newest,
                    /* heard for */ &heard_for, /* instance */ &instance,
                ],
            )
            .await?;
        rows.iter()
            .map(|row| Ok(column::<Option<&str>>(SUSPECTS, row, 0)?.and_then(NotifyRef::parse)))
            .collect()
    }

    async fn apply_settled(&self, facts: &[&ProcessedFact]) -> Result<usize, StoreError> {
        let references = References::of(facts.iter().map(|f| &f.reference));
        let (mut statuses, mut codes, mut errors) = (Vec::new(), Vec::new(), Vec::new());
        for fact in facts {
            let (status, code, error) = match &fact.outcome {
                Processed::Accepted => (Status::Accepted, None, None),
                Processed::Failed { code, reason } => (Status::Failed, Some(*code), Some(reason.as_str())),
                Processed::NoCredit { .. } => continue,
            };
            statuses.push(status.as_str());
            codes.push(code);
            errors.push(error);
        }
        let rows = self
            .query(
                PROCESSED,
                &[
                    /* ids */ &references.ids,
                    /* attempts */ &references.attempts,
                    /* nonces */ &references.nonces,
                    /* refs */ &references.refs,
                    /* statuses */ &statuses,
                    /* codes */ &codes,
                    /* errors */ &errors,
                    /* timeline */ &self.expected.get(),
                ],
            )
            .await?;
        Ok(rows.len())
    }

    async fn apply_unpaid(&self, facts: &[&ProcessedFact]) -> Result<usize, StoreError> {
        let references = References::of(facts.iter().map(|f| &f.reference));
        let errors: Vec<&str> = facts
            .iter()
            .map(|fact| match &fact.outcome {
                Processed::NoCredit { reason } => reason.as_str(),
                Processed::Accepted | Processed::Failed { .. } => "",
            })
            .collect();
        let row = self
            .query_one(
                NO_CREDIT,
                &[
                    /* ids */ &references.ids,
                    /* attempts */ &references.attempts,
                    /* nonces */ &references.nonces,
                    /* refs */ &references.refs,
                    /* errors */ &errors,
                    /* timeline */ &self.expected.get(),
                ],
            )
            .await?;
        let changed: i64 = column(NO_CREDIT, &row, 0)?;
        Ok(usize::try_from(changed).unwrap_or(0))
    }
}
