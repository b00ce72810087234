//! Leadership: a session advisory lock on a connection of its own, and an epoch that grows with every change.
//!
//! The server itself throws out a holder that stays silent for a lease (`idle_session_timeout`), be it paused, cut
//! off or dead; without that it would keep the lock for ever. So a holder may act until a lease has passed since it
//! *sent* the last confirmation that was answered, and not a moment longer.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio_postgres::Client;

use crate::clock::{self, Moment};
use crate::config::Database;
use crate::message::{AttemptNo, CreatedAt, MessageId, Nonce, NotifyRef};
use crate::store::failover::{Cluster, Uncertain};
use crate::store::queue::WaveKey;
use crate::store::statement::{
    ADOPT, CONFIRM, DELETE_OLD_WAVES, LEADER_READ, LEADER_TAKE, LOCK, MARK_UNKNOWN, OPEN_WAVES,
};
use crate::store::{Statement, Store, StoreError, classify, column, connect, discard, plain};

/// Key of the advisory lock: `outboxd` in ASCII. One outbox a database, and advisory locks are per database.
const LOCK_KEY: i64 = 0x006f_7574_626f_7864;

/// Written by takeover into rows whose fate nobody knows.
const UNKNOWN_AFTER_CRASH: &str =
    "the daemon stopped while the request was under way; the gateway may or may not have accepted it";

/// A connection that tries to hold the lock, or holds it.
pub struct LeaderSession {
    client: Client,
    driver: Pin<Box<dyn Future<Output = Result<(), tokio_postgres::Error>> + Send>>,
    timeout: Duration,
}

impl std::fmt::Debug for LeaderSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LeaderSession").finish_non_exhaustive()
    }
}

impl LeaderSession {
    pub async fn connect(
        database: &Database,
        store: &Store,
        lease: Duration,
    ) -> Result<LeaderSession, StoreError> {
        let settings = format!(
            "-c idle_session_timeout={} -c statement_timeout={} -c search_path=pg_catalog",
            lease.as_millis(),
            lease.as_millis()
        );
        let (client, connection) = connect::direct(database, &store.expected, &settings).await?;
        Ok(LeaderSession { client, driver: Box::pin(connection), timeout: lease })
    }

    /// Tries the lock once. A blocking wait would pin the xmin horizon of the whole cluster.
    /// On success, the moment from which the lease counts.
    pub async fn try_lock(&mut self) -> Result<Option<Moment>, StoreError> {
        let asked_at = clock::now();
        let row = self.ask(LOCK, Some(LOCK_KEY)).await?;
        Ok(row.then_some(asked_at))
    }

    /// Shows the server that we are alive; the lease counts from the moment returned.
    pub async fn confirm(&mut self) -> Result<Moment, StoreError> {
        let asked_at = clock::now();
        self.ask(CONFIRM, None).await?;
        Ok(asked_at)
    }

    /// Waits, and notices if the session ends meanwhile.
    pub async fn rest(&mut self, pause: Duration) -> Result<(), StoreError> {
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            ended = &mut self.driver => Err(lost(CONFIRM, ended)),
        }
    }

    async fn ask(&mut self, statement: Statement, key: Option<i64>) -> Result<bool, StoreError> {
        let client = &self.client;
        let work = async {
            let row = match key {
                Some(key) => client.query_one(statement.sql, &[&key]).await?,
                None => client.query_one(statement.sql, &[]).await?,
            };
            row.try_get::<_, bool>(0)
        };
        tokio::select! {
            answer = work => answer.map_err(|error| classify(statement, &error)),
            ended = &mut self.driver => Err(lost(statement, ended)),
            () = tokio::time::sleep(self.timeout) => Err(StoreError::InDoubt {
                statement: statement.name,
                reason: format!("no answer within {:?}", self.timeout),
            }),
        }
    }
}

/// The session has ended.
fn lost(statement: Statement, ended: Result<(), tokio_postgres::Error>) -> StoreError {
    let reason = match ended {
        Ok(()) => "the connection was closed".to_owned(),
        Err(error) => plain(&error),
    };
    StoreError::InDoubt { statement: statement.name, reason }
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
        let row = self
            .query_one(
                LEADER_TAKE,
                &[
                    /* instance */ &instance,
                    /* system_identifier */ &cluster.system_identifier,
                    /* timeline */ &cluster.timeline,
                    /* hold */ &hold,
                    /* uncertain */ &uncertain,
                ],
            )
            .await?;
        Ok(Term {
            epoch: column(LEADER_TAKE, &row, 0)?,
            held: column(LEADER_TAKE, &row, 1)?,
            held_reason: column(LEADER_TAKE, &row, 2)?,
            uncertain: Uncertain::of(LEADER_TAKE, &row, 3)?,
        })
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
        let mut client = self.connection().await?;
        let work = async {
            let transaction = client.transaction().await?;
            // A row that somebody has locked is worth waiting for: without its mark nothing may be sent.
            transaction.batch_execute("SET LOCAL lock_timeout = '5s'").await?;
            let mut marked: u64 = 0;
            // In pieces, so that no statement runs into its time limit.
            for at in (0..ids.len()).step_by(1000) {
                let end = ids.len().min(at + 1000);
                marked += transaction
                    .execute(
                        MARK_UNKNOWN.sql,
                        &[
                            &&ids[at..end],
                            &&rows_made[at..end],
                            &&attempts[at..end],
                            &&gateways[at..end],
                            &&refs[at..end],
                            &UNKNOWN_AFTER_CRASH,
                        ],
                    )
                    .await?;
            }
            transaction.execute(DELETE_OLD_WAVES.sql, &[&epoch, &epochs, &seqs, &timeline]).await?;
            transaction.commit().await?;
            Ok::<u64, tokio_postgres::Error>(marked)
        };
        match tokio::time::timeout(self.timeout.max(Duration::from_secs(10)), work).await {
            Ok(done) => done.map_err(|error| classify(MARK_UNKNOWN, &error)),
            Err(_) => {
                discard(client);
                Err(StoreError::InDoubt {
                    statement: MARK_UNKNOWN.name,
                    reason: "no answer in time".to_owned(),
                })
            }
        }
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
