//! Reading due rows and committing waves: the two statements between a row and its request.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type};

use crate::message::{
    AttemptNo, CreatedAt, Lane, MessageId, Nonce, OutboxRow, Position, RowVersion, TemplateRow,
};
pub use crate::store::statement::{DISCOVER, NEXT_DUE, TEMPLATES, WAVE};
use crate::store::statement::{SETTLE_NOTED, WAVE_TOMBSTONE};
use crate::store::{Store, StoreError, column};

/// Which rows to read.
#[derive(Debug, Clone)]
pub struct Discover {
    pub lane: Lane,
    pub after: Position,
    pub up_to: Position,
    /// Rows that name one of these gateways are left out: they cannot be sent now.
    pub without_gateways: Vec<String>,
    pub limit: i64,
}

/// A row and how long it has been due.
#[derive(Debug)]
pub struct DueRow {
    pub row: OutboxRow,
    /// Whether its own `expires_at` has passed; `None`: it has none.
    pub expired: Option<bool>,
    pub due_for: Duration,
    /// The database's clock when it was read, in its own microseconds.
    pub clock_us: i64,
}

/// Identity of a wave: the epoch it was committed under, and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WaveKey {
    pub epoch: i64,
    pub seq: i64,
}

/// The attempts that are about to be made.
#[derive(Debug, Clone)]
pub struct WaveIntent {
    pub key: WaveKey,
    pub gateway: Arc<str>,
    pub nonce: Nonce,
    pub entries: Vec<WaveEntry>,
}

#[derive(Clone)]
pub struct WaveEntry {
    pub id: MessageId,
    pub attempt: AttemptNo,
    pub version: RowVersion,
    pub row_made: CreatedAt,
    /// Looked up among those who opted out; `None`: sent whether they did or not.
    pub recipient: Option<String>,
}

/// Numbers of real people stay out of logs, so `Debug` does not show it.
impl fmt::Debug for WaveEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaveEntry")
            .field("id", &self.id)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

/// What the wave's commit answered.
#[derive(Debug)]
pub enum WaveOutcome {
    Confirmed {
        /// These rows, and only these, may be sent now.
        rows: Vec<(MessageId, CreatedAt)>,
        /// These could have been, but for their recipients, who want no messages.
        opted_out: Vec<MessageId>,
    },
    /// Another leader took over, or everything is held: nothing was written, nothing may be sent.
    Fenced,
}

impl Store {
    pub async fn discover(&self, what: &Discover) -> Result<Vec<DueRow>, StoreError> {
        let after = Timestamp(what.after.send_after_us);
        let up_to = Timestamp(what.up_to.send_after_us);
        let rows = self
            .query(
                DISCOVER,
                &[
                    /* lane */ &what.lane.as_str(),
                    /* after */ &after,
                    &what.after.id.0,
                    /* up to */ &up_to,
                    &what.up_to.id.0,
                    /* without gateways */ &what.without_gateways,
                    /* limit */ &what.limit,
                ],
            )
            .await?;
        rows.iter().map(|row| due_row(what.lane, row)).collect()
    }

    /// Time until the next scheduled row is due.
    pub async fn next_due(&self) -> Result<Option<Duration>, StoreError> {
        let row = self.query_one(NEXT_DUE, &[]).await?;
        let seconds: Option<f64> = column(NEXT_DUE, &row, 0)?;
        Ok(seconds.map(|s| Duration::from_secs_f64(s.clamp(0.0, 86_400.0))))
    }

    pub async fn commit_wave(&self, wave: &WaveIntent) -> Result<WaveOutcome, StoreError> {
        let ids: Vec<i64> = wave.entries.iter().map(|e| e.id.0).collect();
        let attempts: Vec<i32> = wave.entries.iter().map(|e| e.attempt).collect();
        let versions: Vec<RowVersion> = wave.entries.iter().map(|e| e.version).collect();
        let rows_made: Vec<CreatedAt> = wave.entries.iter().map(|e| e.row_made).collect();
        let recipients: Vec<Option<&str>> = wave.entries.iter().map(|e| e.recipient.as_deref()).collect();
        let row = self
            .query_one(
                WAVE,
                &[
                    /* epoch */ &wave.key.epoch,
                    /* seq */ &wave.key.seq,
                    /* gateway */ &wave.gateway.as_ref(),
                    /* nonce */ &wave.nonce.encode(),
                    /* ids */ &ids,
                    /* attempts */ &attempts,
                    /* versions */ &versions,
                    /* recipients */ &recipients,
                    /* rows made */ &rows_made,
                ],
            )
            .await?;
        let fenced_in: bool = column(WAVE, &row, 0)?;
        if !fenced_in {
            return Ok(WaveOutcome::Fenced);
        }
        let confirmed: Vec<i64> = column(WAVE, &row, 1)?;
        let rows_made: Vec<CreatedAt> = column(WAVE, &row, 2)?;
        let opted_out: Vec<i64> = column(WAVE, &row, 3)?;
        Ok(WaveOutcome::Confirmed {
            rows: confirmed.into_iter().map(MessageId).zip(rows_made).collect(),
            opted_out: opted_out.into_iter().map(MessageId).collect(),
        })
    }

    /// After an error in doubt: makes sure that the wave is not there and never will be.
    pub async fn settle_wave(&self, wave: &WaveIntent) -> Result<(), StoreError> {
        self.query(
            WAVE_TOMBSTONE,
            &[
                /* epoch */ &wave.key.epoch,
                /* seq */ &wave.key.seq,
                /* gateway */ &wave.gateway.as_ref(),
                /* nonce */ &wave.nonce.encode(),
            ],
        )
        .await?;
        Ok(())
    }

    /// Gives rows that a wave left out the results that were noted because no row waited for them. Returns those that had
    /// one.
    pub async fn settle_noted(&self, ids: &[MessageId]) -> Result<Vec<MessageId>, StoreError> {
        let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
        let rows = self.query(SETTLE_NOTED, &[/* ids */ &ids]).await?;
        rows.iter().map(|row| column(SETTLE_NOTED, row, 0).map(MessageId)).collect()
    }

    pub async fn templates(&self) -> Result<Vec<TemplateRow>, StoreError> {
        let rows = self.query(TEMPLATES, &[]).await?;
        rows.iter()
            .map(|row| {
                Ok(TemplateRow {
                    name: column(TEMPLATES, row, 0)?,
                    language: column(TEMPLATES, row, 1)?,
                    body: column(TEMPLATES, row, 2)?,
                    transactional: column(TEMPLATES, row, 3)?,
                })
            })
            .collect()
    }
}

fn due_row(lane: Lane, row: &tokio_postgres::Row) -> Result<DueRow, StoreError> {
    let send_after: Timestamp = column(DISCOVER, row, 2)?;
    let clock: Timestamp = column(DISCOVER, row, 12)?;
    let due_for_us = match send_after {
        // `-infinity` means "at once" to whoever writes it, not "too late since ever".
        Timestamp::BEFORE_EVERYTHING => 0,
        Timestamp(us) => clock.0.saturating_sub(us),
    };
    Ok(DueRow {
        row: OutboxRow {
            id: MessageId(column(DISCOVER, row, 0)?),
            version: column(DISCOVER, row, 1)?,
            lane,
            send_after_us: send_after.0,
            row_made: column(DISCOVER, row, 13)?,
            attempts: column(DISCOVER, row, 4)?,
            recipient: column(DISCOVER, row, 5)?,
            body: column(DISCOVER, row, 6)?,
            template: column(DISCOVER, row, 7)?,
            language: column(DISCOVER, row, 8)?,
            params: column(DISCOVER, row, 9)?,
            sender: column(DISCOVER, row, 10)?,
            gateway: column(DISCOVER, row, 11)?,
        },
        expired: column(DISCOVER, row, 3)?,
        due_for: Duration::from_micros(u64::try_from(due_for_us).unwrap_or(0)),
        clock_us: clock.0,
    })
}

/// PostgreSQL's own count of microseconds since 2000; the extremes are its infinities. Never converted, only
/// compared and given back, so that no time an application may write can overflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Timestamp(pub(super) i64);

impl Timestamp {
    /// `-infinity`.
    const BEFORE_EVERYTHING: Timestamp = Timestamp(i64::MIN);
}

impl<'a> FromSql<'a> for Timestamp {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Timestamp(i64::from_be_bytes(raw.try_into()?)))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }
}

impl ToSql for Timestamp {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_i64(self.0);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }

    tokio_postgres::types::to_sql_checked!();
}

impl<'a> FromSql<'a> for CreatedAt {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Timestamp::from_sql(ty, raw).map(|time| CreatedAt(time.0))
    }

    fn accepts(ty: &Type) -> bool {
        <Timestamp as FromSql>::accepts(ty)
    }
}

impl ToSql for CreatedAt {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        Timestamp(self.0).to_sql(ty, out)
    }

    fn accepts(ty: &Type) -> bool {
        <Timestamp as ToSql>::accepts(ty)
    }

    tokio_postgres::types::to_sql_checked!();
}

impl<'a> FromSql<'a> for RowVersion {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(RowVersion(u32::from_be_bytes(raw.try_into()?)))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::XID
    }
}

impl ToSql for RowVersion {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_u32(self.0);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::XID
    }

    tokio_postgres::types::to_sql_checked!();
}
