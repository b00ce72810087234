//! Leadership: an advisory lock on a connection of its own, and an epoch that grows with every change.
//!
//! The lock belongs to a session. Behind a transaction pooler, without a way past it, there is none, and the lock
//! belongs to a transaction that stays open. The server itself throws out a holder that stays silent for a lease
//! (`idle_session_timeout`, `idle_in_transaction_session_timeout`), be it paused, cut off or dead; without that it would
//! keep the lock for ever. So a holder may act until a lease has passed since it *sent* the last confirmation that was
//! answered, and not a moment longer.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::future::join;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, SimpleQueryMessage};

use crate::clock::{self, Moment};
use crate::config::Database;
use crate::message::{AttemptNo, CreatedAt, MessageId, Nonce, NotifyRef};
use crate::store::failover::{Cluster, Uncertain};
use crate::store::queue::WaveKey;
use crate::store::statement::{
    ADOPT, CONFIRM, DELETE_OLD_WAVES, LEADER_READ, LEADER_TAKE, LOCK_LIMIT, LOCK_SEEN, LOCK_SESSION,
    LOCK_TRANSACTION, MARK_UNKNOWN, OPEN_WAVES,
};
use crate::store::transaction::typed;
use crate::store::{Statement, Store, StoreError, classify, column, connect, in_doubt, plain};

/// Key of the advisory lock: `outboxd` in ASCII. One outbox a database, and advisory locks are per database.
const LOCK_KEY: i64 = 0x006f_7574_626f_7864;

/// The longest that a takeover may take after a failover of which nobody can tell what it lost.
const TAKE_UNCERTAIN: Duration = Duration::from_secs(120);

/// Written by takeover into rows whose fate nobody knows.
const UNKNOWN_AFTER_CRASH: &str =
    "the daemon stopped while the request was under way; the gateway may or may not have accepted it";

/// A connection that tries to hold the lock, or holds it.
pub struct LeaderSession {
    client: Client,
    driver: Driver,
    hold: Hold,
    lease: Duration,
    /// The server process that holds the lock for us.
    holder: Option<i32>,
}

type Driver = Pin<Box<dyn Future<Output = Result<(), tokio_postgres::Error>> + Send>>;

/// What the lock belongs to.
enum Hold {
    Session,
    /// Begun by this.
    Transaction {
        begin: String,
    },
}

impl std::fmt::Debug for LeaderSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LeaderSession").finish_non_exhaustive()
    }
}

impl LeaderSession {
    /// Connects, and makes sure that the server will throw us out when we fall silent.
    pub async fn connect(
        database: &Database,
        store: &Store,
        lease: Duration,
    ) -> Result<LeaderSession, StoreError> {
        let session = |(client, connection), hold| {
            let driver: Driver = Box::pin(connection);
            LeaderSession { client, driver, hold, lease, holder: None }
        };
        let expected = &store.expected;
        let Some(sessions) = database.sessions() else {
            let begin = begin(lease);
            return Ok(session(connect::bare(database, expected).await?, Hold::Transaction { begin }));
        };
        let ms = lease.as_millis();
        let settings =
            format!("-c idle_session_timeout={ms} -c statement_timeout={ms} -c search_path=pg_catalog");
        let mut session = session(connect::direct(sessions, expected, &settings).await?, Hold::Session);
        let LeaderSession { client, driver, .. } = &mut session;
        let row = ask(driver, lease, LOCK_LIMIT, client.query_typed_one(LOCK_LIMIT.sql, &[])).await?;
        thrown_out_after(column(LOCK_LIMIT, &row, 0)?, lease)?;
        Ok(session)
    }

    /// Tries the lock once. A blocking wait would pin the xmin horizon of the whole cluster.
    /// On success, the moment from which the lease counts.
    pub async fn try_lock(&mut self) -> Result<Option<Moment>, StoreError> {
        let asked_at = clock::now();
        let LeaderSession { client, driver, hold, lease, holder } = self;
        let (statement, row) = match hold {
            Hold::Session => {
                let key = &typed(LOCK_SESSION, &[&LOCK_KEY]);
                let work = client.query_typed_one(LOCK_SESSION.sql, key);
                (LOCK_SESSION, ask(driver, *lease, LOCK_SESSION, work).await?)
            }
            Hold::Transaction { begin } => {
                let work = lock_in_transaction(client, begin);
                (LOCK_TRANSACTION, ask(driver, *lease, LOCK_TRANSACTION, work).await?)
            }
        };
        let got_it: bool = column(statement, &row, 0)?;
        *holder = if got_it { Some(column(statement, &row, 1)?) } else { None };
        Ok(got_it.then_some(asked_at))
    }

    /// Shows the server that we are alive; the lease counts from the moment returned.
    ///
    /// By the simple protocol, see `lock_in_transaction`.
    pub async fn confirm(&mut self) -> Result<Moment, StoreError> {
        let asked_at = clock::now();
        let answers =
            ask(&mut self.driver, self.lease, CONFIRM, self.client.simple_query(CONFIRM.sql)).await?;
        let process = answers.iter().find_map(|answer| match answer {
            SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
            _ => None,
        });
        if process.is_none() || process != self.holder {
            // Whoever answered is not the one that holds the lock, and does not keep it alive.
            return Err(connect::session_lost("the leader's lock was taken in another"));
        }
        Ok(asked_at)
    }

    /// Waits, and notices if the session ends meanwhile.
    pub async fn rest(&mut self, pause: Duration) -> Result<(), StoreError> {
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            ended = &mut self.driver => Err(lost(CONFIRM, ended)),
        }
    }

    /// The server process that holds the lock for us, see [`Store::sees_lock`].
    pub fn holder(&self) -> Option<i32> {
        self.holder
    }
}

/// Begins the transaction that holds the lock.
fn begin(lease: Duration) -> String {
    let ms = lease.as_millis().to_string();
    let settings = vec![
        ("idle_in_transaction_session_timeout", ms.clone()),
        ("statement_timeout", ms),
        ("search_path", "pg_catalog".to_owned()),
    ];
    // From PostgreSQL 17 on a site may limit the length of transactions. This one is to last.
    let for_long = "SELECT set_config('transaction_timeout', '0', true) \
                    WHERE current_setting('transaction_timeout', true) IS NOT NULL";
    format!("{}; {for_long}", connect::begin(&settings))
}

/// Tries the lock in a transaction that is left open if it was got.
///
/// A question of the extended protocol keeps its snapshot until the next one, and in a transaction that stays open the
/// snapshot would pin the xmin horizon of the whole cluster. One of the simple protocol behind it ends that.
async fn lock_in_transaction(client: &Client, begin: &str) -> Result<Row, tokio_postgres::Error> {
    let key = &typed(LOCK_TRANSACTION, &[&LOCK_KEY]);
    // Both are on their way before the first is answered.
    let (begun, row) =
        join(client.batch_execute(begin), client.query_typed_one(LOCK_TRANSACTION.sql, key)).await;
    begun?;
    let row = row?;
    let got_it: bool = row.try_get(0)?;
    client.batch_execute(if got_it { CONFIRM.sql } else { "ROLLBACK" }).await?;
    Ok(row)
}

/// Without the server's own limit a daemon that is paused would keep the lock for ever; with a shorter one, another
/// would get it while we believe that we have it.
fn thrown_out_after(limit_ms: i64, lease: Duration) -> Result<(), StoreError> {
    if u128::try_from(limit_ms) == Ok(lease.as_millis()) {
        return Ok(());
    }
    Err(StoreError::WrongWay {
        what: format!(
            "the session for the leader's lock has idle_session_timeout = {limit_ms} ms instead of lease"
        ),
        advice: "take it out of `options` in [database]; if a connection pooler stands there, say pooler = \"transaction\"",
    })
}

/// Waits for an answer while keeping the connection going.
async fn ask<T>(
    driver: &mut Driver,
    limit: Duration,
    statement: Statement,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, StoreError> {
    tokio::select! {
        answer = work => answer.map_err(|error| classify(statement, &error)),
        ended = driver => Err(lost(statement, ended)),
        () = tokio::time::sleep(limit) => Err(in_doubt(statement, format!("no answer within {limit:?}"))),
    }
}

/// The session has ended.
fn lost(statement: Statement, ended: Result<(), tokio_postgres::Error>) -> StoreError {
    let reason = match ended {
        Ok(()) => "the connection was closed".to_owned(),
        Err(error) => plain(&error),
    };
    in_doubt(statement, reason)
}

/// The leader row beside the cluster that we are really connected to.
#[derive(Debug, Clone)]
pub struct Standing {
    pub epoch: i64,
    pub held: bool,
    pub held_code: Option<String>,
    pub held_reason: Option<String>,
    /// Cluster that messages were last sent from; `None`: none yet.
    pub remembered: Option<Cluster>,
    pub present: Cluster,
    /// Instance that led last.
    pub last_leader: Option<String>,
    pub uncertain: Option<Uncertain>,
}

/// An epoch that has begun.
#[derive(Debug, Clone)]
pub struct Term {
    pub epoch: i64,
    pub held: bool,
    pub held_reason: Option<String>,
    pub uncertain: Option<Uncertain>,
}

/// What an adoption changed.
#[derive(Debug)]
pub struct Adopted {
    /// Why everything was held, if it was for that reason; a hold by an operator stays.
    pub was_held: Option<String>,
    /// What was not due yet when the database failed over goes on.
    pub was_uncertain: bool,
}

impl Store {
    /// Whether the lock that `holder` holds is one of this very database.
    pub async fn sees_lock(&self, holder: i32) -> Result<bool, StoreError> {
        let row = self.query_one(LOCK_SEEN, &[/* key */ &LOCK_KEY, /* process */ &holder]).await?;
        column(LOCK_SEEN, &row, 0)
    }

    pub async fn standing(&self) -> Result<Standing, StoreError> {
        let row = self.query_one(LEADER_READ, &[]).await?;
        let remembered_id: Option<i64> = column(LEADER_READ, &row, 4)?;
        let remembered_timeline: Option<i32> = column(LEADER_READ, &row, 5)?;
        Ok(Standing {
            epoch: column(LEADER_READ, &row, 0)?,
            held: column(LEADER_READ, &row, 1)?,
            held_code: column(LEADER_READ, &row, 2)?,
            held_reason: column(LEADER_READ, &row, 3)?,
            remembered: remembered_id
                .zip(remembered_timeline)
                .map(|(system_identifier, timeline)| Cluster { system_identifier, timeline }),
            present: Cluster {
                system_identifier: column(LEADER_READ, &row, 6)?,
                timeline: column(LEADER_READ, &row, 7)?,
            },
            last_leader: column(LEADER_READ, &row, 8)?,
            uncertain: Uncertain::of(LEADER_READ, &row, 9)?,
        })
    }

    /// Begins a new epoch. `hold` says why nothing may be sent in it; `uncertain`: nobody could tell what a failover
    /// lost.
    pub async fn take_over(
        &self,
        instance: &str,
        cluster: Cluster,
        hold: Option<&str>,
        uncertain: bool,
    ) -> Result<Term, StoreError> {
        let params: [&(dyn ToSql + Sync); 5] = [
            /* instance */ &instance,
            /* system_identifier */ &cluster.system_identifier,
            /* timeline */ &cluster.timeline,
            /* hold */ &hold,
            /* uncertain */ &uncertain,
        ];
        let row = if uncertain {
            self.take_uncertain(&params).await?
        } else {
            self.query_one(LEADER_TAKE, &params).await?
        };
        Ok(Term {
            epoch: column(LEADER_TAKE, &row, 0)?,
            held: column(LEADER_TAKE, &row, 1)?,
            held_reason: column(LEADER_TAKE, &row, 2)?,
            uncertain: Uncertain::of(LEADER_TAKE, &row, 3)?,
        })
    }

    /// With patience: after a failover it reads every row that waits, on a server that has nothing in memory yet.
    async fn take_uncertain(&self, params: &[&(dyn ToSql + Sync)]) -> Result<Row, StoreError> {
        let limit = self.timeout.max(TAKE_UNCERTAIN);
        let transaction = self.begin(LEADER_TAKE, limit).await?;
        transaction
            .execute(&format!("SET LOCAL statement_timeout = {}", (limit * 4 / 5).as_millis()))
            .await?;
        let row = transaction.query(LEADER_TAKE, params).await?.pop().ok_or_else(|| StoreError::Answer {
            statement: LEADER_TAKE.name,
            reason: "no row where one was promised".to_owned(),
        })?;
        transaction.commit().await?;
        Ok(row)
    }

    /// Calls unknown what stands in a wave of an earlier epoch without a result, and clears those waves.
    /// `own` are waves that this very process still has under way: it will know their results.
    pub async fn mark_unknown(&self, epoch: i64, own: &[WaveKey]) -> Result<u64, StoreError> {
        let epochs: Vec<i64> = own.iter().map(|w| w.epoch).collect();
        let seqs: Vec<i64> = own.iter().map(|w| w.seq).collect();
        let timeline = self.expected.get();
        let rows = self.query(OPEN_WAVES, &[&epoch, &epochs, &seqs, &timeline]).await?;
        let mut ids: Vec<i64> = Vec::with_capacity(rows.len());
        let mut rows_made: Vec<CreatedAt> = Vec::with_capacity(rows.len());
        let mut attempts: Vec<AttemptNo> = Vec::with_capacity(rows.len());
        let mut gateways: Vec<String> = Vec::with_capacity(rows.len());
        let mut refs: Vec<String> = Vec::with_capacity(rows.len());
        for row in &rows {
            let id: i64 = column(OPEN_WAVES, row, 0)?;
            let attempt: AttemptNo = column(OPEN_WAVES, row, 1)?;
            let row_made: CreatedAt = column(OPEN_WAVES, row, 2)?;
            let nonce: String = column(OPEN_WAVES, row, 4)?;
            let Some(nonce) = Nonce::parse(&nonce) else {
                return Err(StoreError::Answer {
                    statement: OPEN_WAVES.name,
                    reason: "unreadable nonce".to_owned(),
                });
            };
            if ids.last() == Some(&id) && rows_made.last() == Some(&row_made) {
                // Two waves name the message: its latest attempt is the one in question.
                ids.pop();
                rows_made.pop();
                attempts.pop();
                gateways.pop();
                refs.pop();
            }
            ids.push(id);
            rows_made.push(row_made);
            attempts.push(attempt);
            gateways.push(column(OPEN_WAVES, row, 3)?);
            refs.push(NotifyRef { id: MessageId(id), nonce, attempt }.encode());
        }
        let transaction = self.begin(MARK_UNKNOWN, self.timeout.max(Duration::from_secs(10))).await?;
        // A row that somebody has locked is worth waiting for: without its mark nothing may be sent.
        transaction.execute("SET LOCAL lock_timeout = '5s'").await?;
        let mut marked: u64 = 0;
        // In pieces, so that no statement runs into its time limit.
        for at in (0..ids.len()).step_by(1000) {
            let end = ids.len().min(at + 1000);
            let rows = transaction
                .query(
                    MARK_UNKNOWN,
                    &[
                        /* ids */ &&ids[at..end],
                        /* rows made */ &&rows_made[at..end],
                        /* attempts */ &&attempts[at..end],
                        /* gateways */ &&gateways[at..end],
                        /* refs */ &&refs[at..end],
                        /* error */ &UNKNOWN_AFTER_CRASH,
                    ],
                )
                .await?;
            marked += u64::try_from(rows.len()).unwrap_or(u64::MAX);
        }
        transaction.query(DELETE_OLD_WAVES, &[&epoch, &epochs, &seqs, &timeline]).await?;
        transaction.commit().await?;
        Ok(marked)
    }

    /// A person says that this is the database to send from.
    pub async fn adopt(&self, cluster: Cluster) -> Result<Adopted, StoreError> {
        let row = self.query_one(ADOPT, &[&cluster.system_identifier, &cluster.timeline]).await?;
        let changed: bool = column(ADOPT, &row, 0)?;
        let reason: Option<String> = column(ADOPT, &row, 1)?;
        Ok(Adopted {
            was_held: changed.then(|| reason.unwrap_or_else(|| "no reason was noted".to_owned())),
            was_uncertain: column(ADOPT, &row, 2)?,
        })
    }
}
