//! Writing results into rows: one statement a batch, and no result lost because its row was locked, gone or changed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::message::{AttemptNo, Encoding, MessageId, RowVersion, Status};
use crate::store::queue::WaveKey;
use crate::store::{Statement, Store, StoreError, classify, column, discard, statement};

const RECORD: Statement = statement!("native/record");
const LOCK_FREE: Statement = statement!("native/lock_free");
const READ_STATES: Statement = statement!("native/read_states");
const ATTEMPT_NOTE: Statement = statement!("daemon/attempt_note");

/// What became of one message, as it is to stand in its row.
#[derive(Debug, Clone)]
pub struct Record {
    pub id: MessageId,
    pub fits: Fits,
    pub status: Status,
    /// Waits for a person.
    pub held: bool,
    pub gateway: Option<Arc<str>>,
    pub gateway_ref: Option<String>,
    pub gateway_message_id: Option<String>,
    pub error_code: Option<&'static str>,
    pub error: Option<String>,
    pub encoding: Option<Encoding>,
    pub segments: Option<i16>,
}

/// What the row must look like for the record to be about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fits {
    /// The result of this attempt.
    Attempt(AttemptNo),
    /// Refused before any attempt, judging by what the row said then: if it changed, it is judged anew.
    Unchanged { attempts: AttemptNo, version: RowVersion },
}

impl Fits {
    const fn expected(self) -> AttemptNo {
        match self {
            Fits::Attempt(attempt) => attempt - 1,
            Fits::Unchanged { attempts, .. } => attempts,
        }
    }

    const fn attempts_after(self) -> AttemptNo {
        match self {
            Fits::Attempt(attempt) => attempt,
            Fits::Unchanged { attempts, .. } => attempts,
        }
    }

    const fn version(self) -> Option<RowVersion> {
        match self {
            Fits::Attempt(_) => None,
            Fits::Unchanged { version, .. } => Some(version),
        }
    }
}

/// What the row looks like whose record did not fit.
#[derive(Debug)]
pub struct Misfit {
    pub record: Record,
    /// `None`: the row is gone.
    pub found: Option<Found>,
}

#[derive(Debug)]
pub struct Found {
    pub status: Option<Status>,
    pub attempts: AttemptNo,
    pub gateway_ref: Option<String>,
}

impl Misfit {
    /// The record was written before: its commit had been in doubt and it was written again.
    pub fn was_recorded_before(&self) -> bool {
        let (Fits::Attempt(attempt), Some(found)) = (self.record.fits, &self.found) else {
            return false;
        };
        found.attempts >= attempt
            && (found.gateway_ref == self.record.gateway_ref || self.record.status == Status::Queued)
    }
}

/// What came of writing a batch.
#[derive(Debug, Default)]
pub struct Recorded {
    /// Locked by somebody else: to be written again.
    pub locked: Vec<Record>,
    pub misfits: Vec<Misfit>,
}

impl Store {
    /// Writes a batch in one statement. `batch` must be sorted by id.
    ///
    /// `Locked` means that nothing was written: call [`Store::record_unlocked`].
    pub async fn record(
        &self,
        batch: Vec<Record>,
        finished: &[WaveKey],
    ) -> Result<Recorded, (StoreError, Vec<Record>)> {
        let columns = Columns::of(&batch, finished);
        let written = match self.query(RECORD, &columns.params()).await {
            Ok(rows) => rows,
            Err(error) => return Err((error, batch)),
        };
        let written: Result<HashSet<i64>, StoreError> =
            written.iter().map(|row| column(RECORD, row, 0)).collect();
        match written {
            Ok(written) => self.account(batch, &written).await,
            Err(error) => Err((error, batch)),
        }
    }

    /// The same, leaving out the rows that somebody else has locked.
    pub async fn record_unlocked(&self, batch: Vec<Record>) -> Result<Recorded, (StoreError, Vec<Record>)> {
        match self.write_free_rows(&batch).await {
            Ok((free, written)) => {
                let (free_batch, locked): (Vec<Record>, Vec<Record>) =
                    batch.into_iter().partition(|record| free.contains(&record.id.0));
                // A row that is gone is neither free nor locked; it is told apart by reading it.
                let (locked, gone) = match self.split_gone(locked).await {
                    Ok(split) => split,
                    Err((error, mut rest)) => {
                        rest.extend(free_batch.into_iter().filter(|r| !written.contains(&r.id.0)));
                        return Err((error, rest));
                    }
                };
                let mut recorded = self.account(free_batch, &written).await?;
                recorded.locked = locked;
                recorded.misfits.extend(gone.into_iter().map(|record| Misfit { record, found: None }));
                Ok(recorded)
            }
            Err(error) => Err((error, batch)),
        }
    }

    async fn write_free_rows(&self, batch: &[Record]) -> Result<(HashSet<i64>, HashSet<i64>), StoreError> {
        let ids: Vec<i64> = batch.iter().map(|r| r.id.0).collect();
        let mut client = self.connection().await?;
        let work = async {
            let transaction = client.transaction().await?;
            let lock_free = transaction.prepare_cached(LOCK_FREE.sql).await?;
            let free: HashSet<i64> =
                transaction.query(&lock_free, &[&ids]).await?.iter().map(|row| row.get(0)).collect();
            let chosen: Vec<Record> = batch.iter().filter(|r| free.contains(&r.id.0)).cloned().collect();
            let columns = Columns::of(&chosen, &[]);
            let record = transaction.prepare_cached(RECORD.sql).await?;
            let written =
                transaction.query(&record, &columns.params()).await?.iter().map(|row| row.get(0)).collect();
            transaction.commit().await?;
            Ok::<_, tokio_postgres::Error>((free, written))
        };
        match tokio::time::timeout(self.timeout, work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(classify(RECORD, &error)),
            Err(_) => {
                discard(client);
                Err(StoreError::InDoubt {
                    statement: RECORD.name,
                    reason: format!("no answer within {:?}", self.timeout),
                })
            }
        }
    }

    async fn account(
        &self,
        batch: Vec<Record>,
        written: &HashSet<i64>,
    ) -> Result<Recorded, (StoreError, Vec<Record>)> {
        let unwritten: Vec<Record> = batch.into_iter().filter(|r| !written.contains(&r.id.0)).collect();
        if unwritten.is_empty() {
            return Ok(Recorded::default());
        }
        let mut found = match self.read_states(&unwritten).await {
            Ok(found) => found,
            Err(error) => return Err((error, unwritten)),
        };
        let misfits = unwritten
            .into_iter()
            .map(|record| Misfit { found: found.remove(&record.id.0), record })
            .collect();
        Ok(Recorded { locked: Vec::new(), misfits })
    }

    async fn split_gone(
        &self,
        rest: Vec<Record>,
    ) -> Result<(Vec<Record>, Vec<Record>), (StoreError, Vec<Record>)> {
        if rest.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        match self.read_states(&rest).await {
            Ok(found) => Ok(rest.into_iter().partition(|record| found.contains_key(&record.id.0))),
            Err(error) => Err((error, rest)),
        }
    }

    async fn read_states(&self, records: &[Record]) -> Result<HashMap<i64, Found>, StoreError> {
        let ids: Vec<i64> = records.iter().map(|r| r.id.0).collect();
        let rows = self.query(READ_STATES, &[/* ids */ &ids]).await?;
        rows.iter()
            .map(|row| {
                let status: String = column(READ_STATES, row, 1)?;
                let found = Found {
                    status: Status::parse(&status),
                    attempts: column(READ_STATES, row, 2)?,
                    gateway_ref: column(READ_STATES, row, 3)?,
                };
                Ok((column(READ_STATES, row, 0)?, found))
            })
            .collect()
    }

    /// Keeps results that fit no row any more.
    pub async fn note_attempts(&self, notes: &[(Record, String)]) -> Result<(), StoreError> {
        let ids: Vec<i64> = notes.iter().map(|(r, _)| r.id.0).collect();
        let attempts: Vec<i32> = notes.iter().map(|(r, _)| r.fits.attempts_after()).collect();
        let gateways: Vec<Option<&str>> = notes.iter().map(|(r, _)| r.gateway.as_deref()).collect();
        let refs: Vec<Option<&str>> = notes.iter().map(|(r, _)| r.gateway_ref.as_deref()).collect();
        let verdicts: Vec<&str> = notes.iter().map(|(r, _)| r.status.as_str()).collect();
        let texts: Vec<&str> = notes.iter().map(|(_, text)| text.as_str()).collect();
        self.query(
            ATTEMPT_NOTE,
            &[
                /* ids */ &ids, /* attempts */ &attempts, /* gateways */ &gateways,
                /* refs */ &refs, /* verdicts */ &verdicts, /* notes */ &texts,
            ],
        )
        .await?;
        Ok(())
    }
}

/// A batch turned on its side: one array a column, as `unnest` wants it.
struct Columns<'a> {
    ids: Vec<i64>,
    expected: Vec<i32>,
    attempts: Vec<i32>,
    versions: Vec<Option<RowVersion>>,
    statuses: Vec<&'static str>,
    held: Vec<bool>,
    gateways: Vec<Option<&'a str>>,
    refs: Vec<Option<&'a str>>,
    message_ids: Vec<Option<&'a str>>,
    codes: Vec<Option<&'static str>>,
    errors: Vec<Option<&'a str>>,
    encodings: Vec<Option<&'static str>>,
    segments: Vec<Option<i16>>,
    epochs: Vec<i64>,
    seqs: Vec<i64>,
}

impl<'a> Columns<'a> {
    fn of(batch: &'a [Record], finished: &[WaveKey]) -> Columns<'a> {
        Columns {
            ids: batch.iter().map(|r| r.id.0).collect(),
            expected: batch.iter().map(|r| r.fits.expected()).collect(),
            attempts: batch.iter().map(|r| r.fits.attempts_after()).collect(),
            versions: batch.iter().map(|r| r.fits.version()).collect(),
            statuses: batch.iter().map(|r| r.status.as_str()).collect(),
            held: batch.iter().map(|r| r.held).collect(),
            gateways: batch.iter().map(|r| r.gateway.as_deref()).collect(),
            refs: batch.iter().map(|r| r.gateway_ref.as_deref()).collect(),
            message_ids: batch.iter().map(|r| r.gateway_message_id.as_deref()).collect(),
            codes: batch.iter().map(|r| r.error_code).collect(),
            errors: batch.iter().map(|r| r.error.as_deref()).collect(),
            encodings: batch.iter().map(|r| r.encoding.map(Encoding::as_str)).collect(),
            segments: batch.iter().map(|r| r.segments).collect(),
            epochs: finished.iter().map(|w| w.epoch).collect(),
            seqs: finished.iter().map(|w| w.seq).collect(),
        }
    }

    fn params(&self) -> [&(dyn tokio_postgres::types::ToSql + Sync); 15] {
        [
            &self.ids,
            &self.expected,
            &self.attempts,
            &self.versions,
            &self.statuses,
            &self.held,
            &self.gateways,
            &self.refs,
            &self.message_ids,
            &self.codes,
            &self.errors,
            &self.encodings,
            &self.segments,
            &self.epochs,
            &self.seqs,
        ]
    }
}
