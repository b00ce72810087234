//! The commands' way to the database, and what they say when it does not work: every [`StoreError`] becomes a sentence
//! with an exit code and the next thing to do.

use std::future::Future;

use crate::cli::errors::{Code, Failure};
use crate::config::Database;
use crate::store::migrate::SchemaState;
use crate::store::{Store, StoreError};

/// The database of one command.
pub(super) struct Db<'a> {
    pub(super) store: Store,
    database: &'a Database,
}

impl<'a> Db<'a> {
    /// Connects only when first asked.
    pub(super) fn open(database: &'a Database) -> anyhow::Result<Db<'a>> {
        let store = Store::open(database).map_err(|error| unreachable(database, error))?;
        Ok(Db { store, database })
    }

    /// Does one thing with the store, and explains its failure.
    pub(super) async fn ask<T>(
        &self,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> anyhow::Result<T> {
        match work.await {
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.explain(error).await),
        }
    }

    pub(super) async fn explain(&self, error: StoreError) -> anyhow::Error {
        let failure = match &error {
            StoreError::Unavailable(_) => return unreachable(self.database, error),
            StoreError::WrongWay { what, advice } => {
                return Failure::new(Code::Config, what.clone()).hint(*advice).into();
            }
            StoreError::InDoubt { .. } => Failure::new(Code::Temporary, "the database's answer was lost")
                .hint("it may have been done all the same: look with `outboxd status` before trying again"),
            StoreError::Locked { .. } => {
                Failure::new(Code::Temporary, "somebody else holds a lock; nothing was done")
                    .hint("try again; pg_stat_activity shows who has a transaction open")
            }
            StoreError::Elsewhere { .. } => {
                Failure::new(Code::Temporary, "the database failed over just now; nothing was done")
                    .hint("try again")
            }
            StoreError::Unable { .. } => {
                Failure::new(Code::Temporary, "the database is not able to do it now; nothing was done")
                    .hint("is its disk full, or is it a replica? its log says more")
            }
            StoreError::Refused { .. } | StoreError::Answer { .. } => self.misfit().await,
        };
        anyhow::Error::from(error).context(failure)
    }

    /// Nearly always the schema is older than the program, or the role has no right to it.
    async fn misfit(&self) -> Failure {
        match self.store.schema_state().await {
            Ok(SchemaState::Missing) => {
                Failure::new(Code::Config, format!("outboxd's tables are not in {}", self.database.shown))
                    .hint("run `outboxd migrate` as the role that is to own them")
            }
            Ok(SchemaState::Behind(_)) => {
                Failure::new(Code::Config, "the database's schema is older than this program")
                    .hint("run `outboxd migrate` as the role that owns it")
            }
            Ok(SchemaState::Newer(_)) => {
                Failure::new(Code::Config, "the database's schema is newer than this program")
                    .hint("use the outboxd that is installed where the database was migrated last")
            }
            Ok(SchemaState::Current | SchemaState::Altered(_)) | Err(_) => {
                Failure::new(Code::Failed, "the database refused it")
                    .hint("`outboxd check` tells whether the connected role has the rights that it needs")
            }
        }
    }
}

fn unreachable(database: &Database, error: StoreError) -> anyhow::Error {
    let failure = Failure::new(Code::Unavailable, format!("could not reach the database {}", database.shown))
        .hint("is it running, and does it let this user in? `outboxd check` looks at each step");
    anyhow::Error::from(error).context(failure)
}
