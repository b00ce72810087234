//! The edge to PostgreSQL: every statement that outboxd runs, one file of SQL each, and what its answer means.
//!
//! Nothing above this module knows a table or a column; nothing in it decides what to send. Statements run with a
//! limit on their answer: a connection that stays silent is thrown away, and what it was doing is *in doubt*.

pub mod connect;
pub mod control;
pub mod failover;
pub mod greet;
mod hosts;
pub mod inbox;
pub mod inspect;
pub mod leader;
pub mod listen;
pub mod migrate;
pub mod queue;
pub mod receipts;
pub mod record;
pub mod repair;
pub mod statement;
pub mod status;
pub mod sweep;
mod tls;
mod transaction;

use std::time::Duration;

use deadpool_postgres::{HookError, Object, Pool, PoolError};
use tokio::time::Instant;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use crate::config::Database;
use crate::store::failover::Expected;
pub use crate::store::statement::Statement;
use crate::store::transaction::Way;

/// Raised by `outboxd.expect_timeline`.
const ELSEWHERE: &str = "OB001";

/// What callers do differently about a failure.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No connection: nothing was asked, nothing happened.
    #[error("could not connect to PostgreSQL ({0})")]
    Unavailable(String),
    /// The connection went, or stayed silent, while a statement was under way: it may have been carried out.
    #[error("lost the connection to PostgreSQL while running {statement}: {reason}")]
    InDoubt { statement: &'static str, reason: String },
    /// The server is not the one that the statement was meant for: the database failed over. Nothing happened.
    #[error("{statement} came to another server than it was meant for: {reason}")]
    Elsewhere { statement: &'static str, reason: String },
    /// Somebody else holds a lock on a row; nothing happened.
    #[error("{statement} met a locked row")]
    Locked { statement: &'static str },
    /// The server is there and not able to do it now: its disk is full, it has no memory left, it is read-only. Nothing
    /// happened, and it is not about what the statement says.
    #[error("PostgreSQL is not able to run {statement}: {reason}")]
    Unable { statement: &'static str, reason: String },
    /// The server refused the statement; nothing happened. A person must look at schema or privileges when it stays.
    #[error("PostgreSQL refused {statement}: {reason}")]
    Refused { statement: &'static str, reason: String },
    /// The answer was not what the statement promises.
    #[error("unexpected answer to {statement}: {reason}")]
    Answer { statement: &'static str, reason: String },
    /// The way to the server is not what `[database]` says. Nothing happened, and waiting mends nothing.
    #[error("{what}; {advice}")]
    WrongWay { what: String, advice: &'static str },
}

impl StoreError {
    /// The statement that failed; `None`: there was no connection to run it on.
    pub const fn statement(&self) -> Option<&'static str> {
        match self {
            StoreError::Unavailable(_) | StoreError::WrongWay { .. } => None,
            StoreError::InDoubt { statement, .. }
            | StoreError::Elsewhere { statement, .. }
            | StoreError::Locked { statement }
            | StoreError::Unable { statement, .. }
            | StoreError::Refused { statement, .. }
            | StoreError::Answer { statement, .. } => Some(statement),
        }
    }
}

/// Between two looks for a connection of ours that is free, while the server gives no more.
const CROWDED_PAUSE: Duration = Duration::from_millis(20);

/// Connections of the daemon's work: reading, waves, records, receipts.
#[derive(Clone)]
pub struct Store {
    pool: Pool,
    way: Way,
    timeout: Duration,
    expected: Expected,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Store {
    /// Prepares the pool; connects only when first used.
    pub fn open(database: &Database) -> Result<Store, StoreError> {
        let expected = Expected::default();
        let (pool, way) = connect::pool(database, &expected)?;
        Ok(Store { pool, way, timeout: database.timeout, expected })
    }

    /// Closes the connections that nobody uses now. Those in use end with their statement, well or by its time limit.
    pub fn forget_connections(&self) {
        self.expected.start_over();
        self.pool.retain(|_, _| false);
    }

    /// How long a statement may take, and so may waiting for a connection to run it on.
    pub const fn patience(&self) -> Duration {
        self.timeout
    }

    async fn connection(&self) -> Result<Object, StoreError> {
        let deadline = Instant::now() + self.timeout;
        loop {
            match tokio::time::timeout_at(deadline, self.pool.get()).await {
                Ok(Ok(object)) => return Ok(object),
                Ok(Err(PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)))) => {
                    // The server gives no more, and we have some: one of ours will be free in a moment. Whoever gave up
                    // here instead would be beaten to it by the others again and again.
                    let again = Instant::now() + CROWDED_PAUSE;
                    if again < deadline && self.pool.status().size > 0 && is_crowded(&error) {
                        tokio::time::sleep_until(again).await;
                        continue;
                    }
                    return Err(connect::failed(&error));
                }
                Ok(Err(PoolError::PostCreateHook(HookError::Message(_)))) => {
                    return Err(connect::settings_dropped());
                }
                Ok(Err(error)) => return Err(StoreError::Unavailable(error.to_string())),
                Err(_) => {
                    return Err(StoreError::Unavailable(format!("no answer within {:?}", self.timeout)));
                }
            }
        }
    }

    /// Runs one statement in a transaction of its own.
    async fn query(
        &self,
        statement: Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        let client = self.connection().await?;
        match tokio::time::timeout(self.timeout, self.way.alone(&client, statement, params)).await {
            Ok(Err(error @ (StoreError::InDoubt { .. } | StoreError::Elsewhere { .. }))) => {
                discard(client);
                Err(error)
            }
            Ok(answer) => answer,
            Err(_) => {
                // The statement may still be running there: nobody else may get this connection.
                discard(client);
                Err(in_doubt(statement, format!("no answer within {:?}", self.timeout)))
            }
        }
    }

    async fn query_one(
        &self,
        statement: Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, StoreError> {
        self.query(statement, params).await?.pop().ok_or_else(|| StoreError::Answer {
            statement: statement.name,
            reason: "no row where one was promised".to_owned(),
        })
    }
}

fn is_crowded(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::TOO_MANY_CONNECTIONS)
}

fn discard(client: Object) {
    drop(Object::take(client));
}

fn in_doubt(statement: Statement, reason: impl Into<String>) -> StoreError {
    StoreError::InDoubt { statement: statement.name, reason: reason.into() }
}

/// Reduces the driver's error to what callers do about it.
fn classify(statement: Statement, error: &tokio_postgres::Error) -> StoreError {
    let Some(db) = error.as_db_error() else {
        return in_doubt(statement, plain(error));
    };
    let code = db.code();
    if *code == SqlState::LOCK_NOT_AVAILABLE
        || *code == SqlState::T_R_DEADLOCK_DETECTED
        || *code == SqlState::T_R_SERIALIZATION_FAILURE
    {
        StoreError::Locked { statement: statement.name }
    } else if code.code() == ELSEWHERE {
        StoreError::Elsewhere { statement: statement.name, reason: plain(error) }
    } else if *code == SqlState::ADMIN_SHUTDOWN
        || *code == SqlState::CRASH_SHUTDOWN
        || *code == SqlState::CANNOT_CONNECT_NOW
        || code.code().starts_with("08")
    {
        // Sent instead of a result: whether a commit had happened is not known.
        in_doubt(statement, plain(error))
    } else if *code == SqlState::INVALID_SQL_STATEMENT_NAME || *code == SqlState::DUPLICATE_PSTATEMENT {
        connect::session_lost(plain(error))
    } else if *code == SqlState::READ_ONLY_SQL_TRANSACTION
        // Insufficient resources, and errors of the system below the server.
        || code.code().starts_with("53")
        || code.code().starts_with("58")
    {
        StoreError::Unable { statement: statement.name, reason: plain(error) }
    } else {
        StoreError::Refused { statement: statement.name, reason: plain(error) }
    }
}

/// The server's words (message, detail, hint, SQLSTATE) or the driver's, with causes; never a parameter's value.
pub(crate) fn plain(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        let mut text = format!("{} [{}]", db.message(), db.code().code());
        if let Some(hint) = db.hint() {
            text.push_str("; ");
            text.push_str(hint);
        }
        return text;
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// Reads a column, as an error instead of a panic when the schema is not what the statement promises.
fn column<'a, T: tokio_postgres::types::FromSql<'a>>(
    statement: Statement,
    row: &'a Row,
    index: usize,
) -> Result<T, StoreError> {
    row.try_get(index)
        .map_err(|error| StoreError::Answer { statement: statement.name, reason: error.to_string() })
}
