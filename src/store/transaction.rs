//! How statements go over a connection of the pool: each in a transaction of its own, or several in one. The one place
//! that knows whether a pooler stands in between.
//!
//! Behind a transaction pooler a connection is no session: the next transaction may meet another one. So nothing may
//! stay behind in it and nothing be expected of it. Each transaction brings its settings with it (`SET LOCAL`), and
//! statements are sent without a name, with their types.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Object;
use futures_util::future::join3;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Error, Row};

use crate::store::{Statement, Store, StoreError, classify, connect, discard, in_doubt, plain};

/// What a connection of the pool is.
#[derive(Debug, Clone)]
pub(super) enum Way {
    /// A session of ours: its settings came with its start, and a statement is prepared once.
    Session,
    /// The way to a transaction pooler. `begin` is what begins a transaction with our settings.
    Pooler { begin: Arc<str> },
}

impl Way {
    /// Runs one statement in a transaction of its own. Costs one round trip on either way.
    pub(super) async fn alone(
        &self,
        client: &Object,
        statement: Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        let Way::Pooler { begin } = self else {
            let answer = match self.within(client, statement, params).await {
                // Nothing was done, and it is prepared anew.
                Err(error) if plan_is_outdated(&error) => self.within(client, statement, params).await,
                answer => answer,
            };
            return answer.map_err(|error| classify(statement, &error));
        };
        let params = typed(statement, params);
        // All three are on their way before the first is answered: `join3` polls in this order.
        let (begun, answer, committed) = join3(
            client.batch_execute(begin),
            client.query_typed(statement.sql, &params),
            client.batch_execute("COMMIT"),
        )
        .await;
        outcome(statement, begun, answer, committed)
    }

    /// Has the server read a statement without running it.
    pub(super) async fn read(&self, client: &Object, statement: Statement) -> Result<(), Error> {
        let Way::Pooler { begin } = self else { return client.prepare(statement.sql).await.map(drop) };
        // What is prepared and closed again within one transaction stays behind in nobody's session.
        client.batch_execute(begin).await?;
        let read = client.prepare(statement.sql).await.map(drop);
        client.batch_execute("ROLLBACK").await?;
        read
    }

    /// Runs a statement in the transaction that is open.
    async fn within(
        &self,
        client: &Object,
        statement: Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Error> {
        match self {
            Way::Session => {
                let prepared = client.prepare_cached(statement.sql).await?;
                let answer = client.query(&prepared, params).await;
                if answer.as_ref().is_err_and(plan_is_outdated) {
                    drop(client.statement_cache.remove(statement.sql, &[]));
                }
                answer
            }
            Way::Pooler { .. } => client.query_typed(statement.sql, &typed(statement, params)).await,
        }
    }

    fn begin(&self) -> &str {
        match self {
            Way::Session => "BEGIN",
            Way::Pooler { begin } => begin,
        }
    }
}

/// Somebody changed the type of a column that is returned. The server refuses what was prepared before that, and would
/// for as long as it stays prepared.
fn plan_is_outdated(error: &Error) -> bool {
    error.as_db_error().is_some_and(|db| {
        *db.code() == SqlState::FEATURE_NOT_SUPPORTED && db.routine() == Some("RevalidateCachedQuery")
    })
}

pub(super) fn typed<'a>(
    statement: Statement,
    params: &[&'a (dyn ToSql + Sync)],
) -> Vec<(&'a (dyn ToSql + Sync), Type)> {
    debug_assert_eq!(params.len(), statement.types.len(), "{}", statement.name);
    params.iter().copied().zip(statement.types.iter().cloned()).collect()
}

/// What the three answers come to. After a statement that failed, the server answers COMMIT with ROLLBACK, which is no
/// error; so it is the statement's answer that counts, and COMMIT's only after a good one.
fn outcome<T>(
    statement: Statement,
    begun: Result<(), Error>,
    answer: Result<T, Error>,
    committed: Result<(), Error>,
) -> Result<T, StoreError> {
    match (begun, answer, committed) {
        (Ok(()), Ok(rows), Ok(())) => Ok(rows),
        (Ok(()), Err(error), _) | (Ok(()), Ok(_), Err(error)) => Err(classify(statement, &error)),
        (Err(error), Err(follows), _) if follows.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION) => {
            Err(classify(statement, &error))
        }
        // No transaction was begun: the statement may have been carried out by itself.
        (Err(error), ..) => {
            Err(connect::wrong_way(&error).unwrap_or_else(|| in_doubt(statement, plain(&error))))
        }
    }
}

/// A transaction of several statements. When it is dropped before [`Transaction::commit`] its connection is thrown
/// away, and with it what was done.
pub(super) struct Transaction {
    /// `None`: it is over.
    client: Option<Object>,
    way: Way,
    /// Under whose name its errors go.
    statement: Statement,
    /// When the whole must be done.
    until: Instant,
}

impl Store {
    pub(super) async fn begin(
        &self,
        statement: Statement,
        limit: Duration,
    ) -> Result<Transaction, StoreError> {
        let client = self.connection().await?;
        let until = Instant::now() + limit;
        let transaction = Transaction { client: Some(client), way: self.way.clone(), statement, until };
        transaction.execute(self.way.begin()).await?;
        Ok(transaction)
    }
}

impl Transaction {
    /// Runs what has neither parameters nor an answer.
    pub(super) async fn execute(&self, sql: &str) -> Result<(), StoreError> {
        self.limited(self.client()?.batch_execute(sql)).await
    }

    pub(super) async fn query(
        &self,
        statement: Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        self.limited(self.way.within(self.client()?, statement, params)).await
    }

    pub(super) async fn commit(mut self) -> Result<(), StoreError> {
        self.execute("COMMIT").await?;
        self.client = None;
        Ok(())
    }

    fn client(&self) -> Result<&Object, StoreError> {
        self.client.as_ref().ok_or_else(|| in_doubt(self.statement, "the transaction is over"))
    }

    async fn limited<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, StoreError> {
        match tokio::time::timeout_at(self.until, work).await {
            Ok(done) => done.map_err(|error| classify(self.statement, &error)),
            Err(_) => Err(in_doubt(self.statement, "no answer in time")),
        }
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            discard(client);
        }
    }
}
