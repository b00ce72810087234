//! What an administrator does to messages by hand: queue one, watch it, cancel, retry, resolve; hold and resume.

use std::time::Duration;

use crate::message::{Lane, MessageId};
use crate::store::statement::{CANCEL, HOLD, INSERT, RESOLVE, RESUME, RETRY, SELECT_BY_STATUS, WATCH};
use crate::store::{Store, StoreError, column};

/// A message as an administrator asks for it.
#[derive(Debug, Clone)]
pub struct NewMessage {
    pub recipient: String,
    pub body: Option<String>,
    pub template: Option<String>,
    pub language: Option<String>,
    /// JSON text.
    pub params: Option<String>,
    pub sender: Option<String>,
    pub gateway: Option<String>,
    pub lane: Lane,
}

/// What became of a message so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    pub status: String,
    pub error_code: Option<String>,
    pub error: Option<String>,
    pub attempts: i32,
    pub segments: Option<i16>,
    pub encoding: Option<String>,
    pub sent_via: Option<String>,
    pub held: bool,
}

impl Store {
    pub async fn insert(&self, message: &NewMessage) -> Result<MessageId, StoreError> {
        let row = self
            .query_one(
                INSERT,
                &[
                    /* recipient */ &message.recipient,
                    /* body */ &message.body,
                    /* template */ &message.template,
                    /* params */ &message.params,
                    /* sender */ &message.sender,
                    /* gateway */ &message.gateway,
                    /* lane */ &message.lane.as_str(),
                    /* language */ &message.language,
                ],
            )
            .await?;
        column(INSERT, &row, 0).map(MessageId)
    }

    /// `None`: there is no such message.
    pub async fn progress(&self, id: MessageId) -> Result<Option<Progress>, StoreError> {
        let rows = self.query(WATCH, &[/* id */ &id.0]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(Progress {
            status: column(WATCH, row, 0)?,
            error_code: column(WATCH, row, 1)?,
            error: column(WATCH, row, 2)?,
            attempts: column(WATCH, row, 3)?,
            segments: column(WATCH, row, 4)?,
            encoding: column(WATCH, row, 5)?,
            sent_via: column(WATCH, row, 6)?,
            held: column(WATCH, row, 7)?,
        }))
    }

    /// The status it has now; `None`: there is no such message.
    pub async fn cancel(&self, id: MessageId) -> Result<Option<String>, StoreError> {
        let row = self.query_one(CANCEL, &[/* id */ &id.0]).await?;
        column(CANCEL, &row, 0)
    }

    /// The status it has now; `None`: there is no such message.
    pub async fn retry(&self, id: MessageId, force: bool) -> Result<Option<String>, StoreError> {
        let row = self.query_one(RETRY, &[/* id */ &id.0, /* force */ &force]).await?;
        column(RETRY, &row, 0)
    }

    /// The next ids after `after` (at most 1,000) in a state (`held` counts as one); with `since`, only those queued no
    /// longer ago than that, by the database's clock; with `code`, only those with that error code.
    pub async fn ids_with_status(
        &self,
        status: &str,
        after: i64,
        since: Option<Duration>,
        code: Option<&str>,
    ) -> Result<Vec<MessageId>, StoreError> {
        let since = since.map(|age| age.as_secs_f64());
        let rows = self
            .query(
                SELECT_BY_STATUS,
                &[
                    /* status */ &status, /* after */ &after, /* since */ &since,
                    /* limit */ &1000_i64, /* code */ &code,
                ],
            )
            .await?;
        rows.iter().map(|row| column(SELECT_BY_STATUS, row, 0).map(MessageId)).collect()
    }

    /// Declares unknown messages to be `status`. Returns those that were unknown.
    pub async fn resolve(
        &self,
        ids: &[MessageId],
        status: &str,
        who: &str,
    ) -> Result<Vec<MessageId>, StoreError> {
        let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
        let rows = self.query(RESOLVE, &[/* ids */ &ids, /* status */ &status, /* who */ &who]).await?;
        rows.iter().map(|row| column(RESOLVE, row, 0).map(MessageId)).collect()
    }

    pub async fn hold(&self, reason: Option<&str>) -> Result<(), StoreError> {
        self.query(HOLD, &[/* reason */ &reason]).await?;
        Ok(())
    }

    pub async fn resume(&self, gateway: Option<&str>) -> Result<(), StoreError> {
        self.query(RESUME, &[/* gateway */ &gateway]).await?;
        Ok(())
    }
}
