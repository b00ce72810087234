//! Writing results into rows: one statement a batch, and no result lost because its row was locked, gone or changed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio_postgres::Row;

use crate::message::{AttemptNo, CreatedAt, Encoding, MessageId, RowVersion, Status};
use crate::store::queue::WaveKey;
pub use crate::store::statement::RECORD;
use crate::store::statement::{ATTEMPT_NOTE, LOCK_FREE, READ_STATES};
use crate::store::{Store, StoreError, column};

/// What became of one message, as it is to stand in its row.
#[derive(Debug, Clone)]
pub struct Record {
    pub id: MessageId,
    pub fits: Fits,
    /// Of the server that knew of the attempt, or whose row was judged.
    pub timeline: i32,
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
    /// The result of an attempt to send this very row.
    Attempt { number: AttemptNo, row_made: CreatedAt },
    /// Refused before any attempt, judging by what the row said then: if it changed, it is judged anew.
    Unchanged { attempts: AttemptNo, version: RowVersion },
}

/// Attempts of no row: who waits for this record can only be known by its reference.
const OF_NO_ROW: AttemptNo = -1;

impl Record {
    /// How many attempts a row shows at most that still waits for this record, where `here` is the present timeline.
    ///
    /// After a failover, a row that has not heard of an attempt may be under way under another leader, in an attempt of
    /// the same number. That nothing came of the first one would be taken for the end of the second, and the row sent again.
    /// It needs no such word: it waits anyhow. Nor is it what was judged before, although it may look the same.
    fn expected(&self, here: Option<i32>) -> AttemptNo {
        let failed_over = here.is_some_and(|here| here != self.timeline);
        match self.fits {
            Fits::Attempt { .. } if failed_over && self.status == Status::Queued => OF_NO_ROW,
            Fits::Unchanged { .. } if failed_over => OF_NO_ROW,
            Fits::Attempt { number, .. } => number - 1,
            Fits::Unchanged { attempts, .. } => attempts,
        }
    }
}

impl Fits {
    pub const fn attempts_after(self) -> AttemptNo {
        match self {
            Fits::Attempt { number, .. } => number,
            Fits::Unchanged { attempts, .. } => attempts,
        }
    }

    const fn version(self) -> Option<RowVersion> {
        match self {
            Fits::Attempt { .. } => None,
            Fits::Unchanged { version, .. } => Some(version),
        }
    }

    const fn row_made(self) -> Option<CreatedAt> {
        match self {
            Fits::Attempt { row_made, .. } => Some(row_made),
            Fits::Unchanged { .. } => None,
        }
    }
}

/// What the row looks like whose record did not fit.
#[derive(Debug)]
pub struct Misfit {
    pub record: Record,
    /// `None`: the row is gone.
    pub found: Option<Found>,
    /// Attempts that a waiting row was to show at most.
    expected: AttemptNo,
}

#[derive(Debug)]
pub struct Found {
    pub status: Option<Status>,
    pub attempts: AttemptNo,
    pub gateway_ref: Option<String>,
    pub row_made: CreatedAt,
    pub version: RowVersion,
}

impl Misfit {
    /// The record was written before: its commit had been in doubt and it was written again.
    pub fn was_recorded_before(&self) -> bool {
        let (Fits::Attempt { number, row_made }, Some(found)) = (self.record.fits, &self.found) else {
            return false;
        };
        found.row_made == row_made
            && found.attempts >= number
            && (found.gateway_ref == self.record.gateway_ref || self.record.status == Status::Queued)
    }

    /// Another message has the id now.
    pub fn is_of_another(&self) -> bool {
        let (Some(row_made), Some(found)) = (self.record.fits.row_made(), &self.found) else { return false };
        found.row_made != row_made
    }

    /// The record fits, and was not written all the same: something of the site's (a trigger, a rule, a policy, a
    /// changed function) keeps rows from being changed.
    pub fn is_suppressed(&self) -> bool {
        let Some(found) = &self.found else { return false };
        let next = self.record.status;
        let may_become = found
            .status
            .is_some_and(|now| now.may_become(next) || (now == Status::Queued && next == Status::Queued));
        may_become
            && found.attempts <= self.expected
            && match self.record.fits {
                Fits::Attempt { row_made, .. } => found.row_made == row_made,
                Fits::Unchanged { attempts, version } => {
                    found.version == version && found.attempts == attempts
                }
            }
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
    /// `Locked` means that nothing was written: call [`Store::record_unlocked`]. Any error brings the whole batch back.
    pub async fn record(
        &self,
        batch: Vec<Record>,
        finished: &[WaveKey],
    ) -> Result<Recorded, (StoreError, Vec<Record>)> {
        let here = self.expected.get();
        let columns = Columns::of(&batch, finished, here);
        let written = match self.query(RECORD, &columns.params()).await {
            Ok(rows) => rows,
            Err(error) => return Err((error, batch)),
        };
        let written: Result<HashSet<i64>, StoreError> =
            written.iter().map(|row| column(RECORD, row, 0)).collect();
        let written = match written {
            Ok(written) => written,
            Err(error) => return Err((error, batch)),
        };
        match self.states_of_others(&batch, &written).await {
            Ok(found) => Ok(Recorded { locked: Vec::new(), misfits: misfits(batch, &written, found, here) }),
            Err(error) => Err((error, batch)),
        }
    }

    /// The same, leaving out the rows that somebody else has locked.
    pub async fn record_unlocked(&self, batch: Vec<Record>) -> Result<Recorded, (StoreError, Vec<Record>)> {
        let here = self.expected.get();
        let (free, written) = match self.write_free_rows(&batch, here).await {
            Ok(done) => done,
            Err(error) => return Err((error, batch)),
        };
        let found = match self.states_of_others(&batch, &written).await {
            Ok(found) => found,
            Err(error) => return Err((error, batch)),
        };
        // A row that is gone is neither free nor locked; it is told apart by having been read.
        let (locked, rest) = batch
            .into_iter()
            .partition(|record| !free.contains(&record.id.0) && found.contains_key(&record.id.0));
        Ok(Recorded { locked, misfits: misfits(rest, &written, found, here) })
    }

    async fn write_free_rows(
        &self,
        batch: &[Record],
        here: Option<i32>,
    ) -> Result<(HashSet<i64>, HashSet<i64>), StoreError> {
        let ids: Vec<i64> = batch.iter().map(|r| r.id.0).collect();
        let transaction = self.begin(RECORD, self.timeout).await?;
        let ids_of = |rows: Vec<Row>| -> Result<HashSet<i64>, StoreError> {
            rows.iter().map(|row| column(RECORD, row, 0)).collect()
        };
        let free = ids_of(transaction.query(LOCK_FREE, &[/* ids */ &ids]).await?)?;
        let chosen: Vec<Record> = batch.iter().filter(|r| free.contains(&r.id.0)).cloned().collect();
        let columns = Columns::of(&chosen, &[], here);
        let written = ids_of(transaction.query(RECORD, &columns.params()).await?)?;
        transaction.commit().await?;
        Ok((free, written))
    }

    /// Reads the rows that were not written. When it fails, the *whole* batch must come again: nobody but the caller
    /// knows of those that were written, and written again they only show that they were.
    async fn states_of_others(
        &self,
        batch: &[Record],
        written: &HashSet<i64>,
    ) -> Result<HashMap<i64, Found>, StoreError> {
        let others: Vec<i64> = batch.iter().map(|r| r.id.0).filter(|id| !written.contains(id)).collect();
        if others.is_empty() { Ok(HashMap::new()) } else { self.read_states(&others).await }
    }

    async fn read_states(&self, ids: &[i64]) -> Result<HashMap<i64, Found>, StoreError> {
        let rows = self.query(READ_STATES, &[/* ids */ &ids]).await?;
        rows.iter()
            .map(|row| {
                let status: String = column(READ_STATES, row, 1)?;
                let found = Found {
                    status: Status::parse(&status),
                    attempts: column(READ_STATES, row, 2)?,
                    gateway_ref: column(READ_STATES, row, 3)?,
                    row_made: column(READ_STATES, row, 4)?,
                    version: column(READ_STATES, row, 5)?,
                };
                Ok((column(READ_STATES, row, 0)?, found))
            })
            .collect()
    }

    /// Keeps results that fit no row any more.
    pub async fn note_attempts(&self, notes: &[(Record, String)]) -> Result<(), StoreError> {
        let ids: Vec<i64> = notes.iter().map(|(r, _)| r.id.0).collect();
        let rows_made: Vec<Option<CreatedAt>> = notes.iter().map(|(r, _)| r.fits.row_made()).collect();
        let attempts: Vec<i32> = notes.iter().map(|(r, _)| r.fits.attempts_after()).collect();
        let gateways: Vec<Option<&str>> = notes.iter().map(|(r, _)| r.gateway.as_deref()).collect();
        let refs: Vec<Option<&str>> = notes.iter().map(|(r, _)| r.gateway_ref.as_deref()).collect();
        let verdicts: Vec<&str> = notes.iter().map(|(r, _)| r.status.as_str()).collect();
        let texts: Vec<&str> = notes.iter().map(|(_, text)| text.as_str()).collect();
        self.query(
            ATTEMPT_NOTE,
            &[
                /* ids */ &ids, /* rows made */ &rows_made, /* attempts */ &attempts,
                /* gateways */ &gateways, /* refs */ &refs, /* verdicts */ &verdicts,
                /* notes */ &texts,
            ],
        )
        .await?;
        Ok(())
    }
}

fn misfits(
    batch: Vec<Record>,
    written: &HashSet<i64>,
    mut found: HashMap<i64, Found>,
    here: Option<i32>,
) -> Vec<Misfit> {
    let others = batch.into_iter().filter(|record| !written.contains(&record.id.0));
    others
        .map(|record| Misfit { found: found.remove(&record.id.0), expected: record.expected(here), record })
        .collect()
}

/// What most batches have none of need not travel: an empty array stands for as many NULLs as it takes.
fn unless_all_null<T>(values: impl Iterator<Item = Option<T>> + Clone) -> Vec<Option<T>> {
    if values.clone().all(|value| value.is_none()) { Vec::new() } else { values.collect() }
}

/// A batch turned on its side: one array a column, as `unnest` wants it.
struct Columns<'a> {
    ids: Vec<i64>,
    rows_made: Vec<Option<CreatedAt>>,
    expected: Vec<i32>,
    attempts: Vec<i32>,
    versions: Vec<Option<RowVersion>>,
    statuses: Vec<&'static str>,
    held: Vec<Option<bool>>,
    gateways: Vec<Option<&'a str>>,
    refs: Vec<Option<&'a str>>,
    message_ids: Vec<Option<&'a str>>,
    codes: Vec<Option<&'static str>>,
    errors: Vec<Option<&'a str>>,
    encodings: Vec<Option<&'static str>>,
    segments: Vec<Option<i16>>,
    epochs: Vec<i64>,
    seqs: Vec<i64>,
    timeline: Option<i32>,
}

impl<'a> Columns<'a> {
    fn of(batch: &'a [Record], finished: &[WaveKey], here: Option<i32>) -> Columns<'a> {
        Columns {
            ids: batch.iter().map(|r| r.id.0).collect(),
            rows_made: batch.iter().map(|r| r.fits.row_made()).collect(),
            expected: batch.iter().map(|r| r.expected(here)).collect(),
            attempts: batch.iter().map(|r| r.fits.attempts_after()).collect(),
            versions: unless_all_null(batch.iter().map(|r| r.fits.version())),
            statuses: batch.iter().map(|r| r.status.as_str()).collect(),
            held: unless_all_null(batch.iter().map(|r| r.held.then_some(true))),
            gateways: batch.iter().map(|r| r.gateway.as_deref()).collect(),
            refs: batch.iter().map(|r| r.gateway_ref.as_deref()).collect(),
            message_ids: batch.iter().map(|r| r.gateway_message_id.as_deref()).collect(),
            codes: unless_all_null(batch.iter().map(|r| r.error_code)),
            errors: unless_all_null(batch.iter().map(|r| r.error.as_deref())),
            encodings: batch.iter().map(|r| r.encoding.map(Encoding::as_str)).collect(),
            segments: batch.iter().map(|r| r.segments).collect(),
            epochs: finished.iter().map(|w| w.epoch).collect(),
            seqs: finished.iter().map(|w| w.seq).collect(),
            timeline: here,
        }
    }

    fn params(&self) -> [&(dyn tokio_postgres::types::ToSql + Sync); 17] {
        [
            &self.ids,
            &self.rows_made,
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
            &self.timeline,
        ]
    }
}
