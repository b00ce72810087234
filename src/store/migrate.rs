//! Numbered, forward-only migrations, embedded in the binary. The daemon itself only checks the version; changing the
//! schema is a separate command, run as the owner, or by a DBA with psql (`outboxd migrate --print`).

use sha2::{Digest, Sha256};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Transaction};

use crate::config::Database;
use crate::store::failover::Expected;
use crate::store::statement::{SCHEMA_EXISTS, SCHEMA_VERSION};
use crate::store::{Store, StoreError, column, connect, plain};

#[derive(Debug, Clone, Copy)]
pub struct Migration {
    pub version: i32,
    pub name: &'static str,
    pub sql: &'static str,
}

macro_rules! migrations {
    ($($version:literal $name:literal),+ $(,)?) => {
        &[$(Migration {
            version: $version,
            name: $name,
            sql: include_str!(concat!("../../sql/migrations/", $name, ".sql")),
        }),+]
    };
}

/// In order; a released one is never edited.
pub const MIGRATIONS: &[Migration] = migrations![
    1 "0001_roles", 2 "0002_daemon_tables", 3 "0003_outbox", 4 "0004_functions", 5 "0005_inbound"
];

/// Two runs at once wait for each other on this advisory lock: `outboxmi` in ASCII.
const MIGRATION_LOCK: i64 = 0x6f75_7462_6f78_6d69;

impl Migration {
    pub fn sha256(&self) -> String {
        Sha256::digest(self.sql.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The migration and its entry in the list of migrations, for psql; skips itself where it is applied already, so
    /// that one file serves a new database and every older one.
    pub fn script(&self) -> String {
        let Migration { version, name, sql } = self;
        format!(
            "\\echo {name}\n\
             SELECT to_regclass('outboxd.migration') IS NOT NULL AS outboxd_listed \\gset\n\
             \\set outboxd_applied false\n\
             \\if :outboxd_listed\n\
             SELECT EXISTS (SELECT FROM outboxd.migration WHERE version = {version}) AS outboxd_applied \\gset\n\
             \\endif\n\
             \\if :outboxd_applied\n\
             \\echo '  is applied already'\n\
             \\else\n\
             BEGIN;\nSET LOCAL lock_timeout = '30s';\nSELECT pg_advisory_xact_lock({MIGRATION_LOCK}) AS outboxd_lock \\gset\n\n{sql}\n\
             INSERT INTO outboxd.migration (version, name, sha256) VALUES ({version}, '{name}', '{}');\nCOMMIT;\n\
             \\endif\n",
            self.sha256()
        )
    }
}

/// What the schema in a database is, compared with this binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchemaState {
    Current,
    /// No outboxd schema at all.
    Missing,
    /// Older: these are to be applied.
    Behind(Vec<&'static str>),
    /// Made by a newer outboxd.
    Newer(i32),
    /// A migration differs from what this binary knows under its number.
    Altered(i32),
}

impl Store {
    pub async fn schema_state(&self) -> Result<SchemaState, StoreError> {
        let row = self.query_one(SCHEMA_EXISTS, &[]).await?;
        if !column::<bool>(SCHEMA_EXISTS, &row, 0)? {
            return Ok(SchemaState::Missing);
        }
        let rows = self.query(SCHEMA_VERSION, &[]).await?;
        let applied: Vec<(i32, String)> = rows
            .iter()
            .map(|row| Ok((column(SCHEMA_VERSION, row, 0)?, column(SCHEMA_VERSION, row, 1)?)))
            .collect::<Result<_, StoreError>>()?;
        Ok(compare(&applied))
    }
}

fn compare(applied: &[(i32, String)]) -> SchemaState {
    for (version, sha256) in applied {
        match MIGRATIONS.iter().find(|m| m.version == *version) {
            None => return SchemaState::Newer(*version),
            Some(known) if known.sha256() != *sha256 => return SchemaState::Altered(*version),
            Some(_) => {}
        }
    }
    let behind: Vec<&'static str> = MIGRATIONS
        .iter()
        .filter(|m| !applied.iter().any(|(version, _)| *version == m.version))
        .map(|m| m.name)
        .collect();
    if applied.is_empty() {
        SchemaState::Missing
    } else if behind.is_empty() {
        SchemaState::Current
    } else {
        SchemaState::Behind(behind)
    }
}

/// Applies what is missing, each migration in a transaction of its own. Calls `progress` before each.
pub async fn migrate(
    database: &Database,
    mut progress: impl FnMut(&Migration),
) -> Result<Vec<&'static str>, StoreError> {
    // Nothing below needs a session, so that it works through any pooler.
    let sessions = database.sessions().unwrap_or(database);
    let (mut client, connection) = connect::bare(sessions, &Expected::default()).await?;
    let mut applied_now = Vec::new();
    let work = async {
        for migration in MIGRATIONS {
            if apply(&mut client, migration, &mut progress).await? {
                applied_now.push(migration.name);
            }
        }
        Ok::<(), StoreError>(())
    };
    tokio::select! {
        done = work => done?,
        ended = connection => {
            let reason = ended.err().map_or_else(|| "the connection was closed".to_owned(), |e| plain(&e));
            return Err(StoreError::InDoubt { statement: "migrate", reason });
        }
    }
    Ok(applied_now)
}

async fn apply(
    client: &mut Client,
    migration: &Migration,
    progress: &mut impl FnMut(&Migration),
) -> Result<bool, StoreError> {
    let refused = |error: tokio_postgres::Error| StoreError::Refused {
        statement: migration.name,
        reason: plain(&error),
    };
    let transaction = client.transaction().await.map_err(refused)?;
    let settings = "SET LOCAL client_min_messages = warning; SET LOCAL lock_timeout = '30s'";
    transaction.batch_execute(settings).await.map_err(refused)?;
    let lock = [(&MIGRATION_LOCK as &(dyn ToSql + Sync), Type::INT8)];
    transaction.execute_typed("SELECT pg_advisory_xact_lock($1)", &lock).await.map_err(refused)?;
    if is_applied(&transaction, migration.version).await.map_err(refused)? {
        return Ok(false);
    }
    progress(migration);
    transaction.batch_execute(migration.sql).await.map_err(refused)?;
    transaction
        .execute_typed(
            "INSERT INTO outboxd.migration (version, name, sha256) VALUES ($1, $2, $3)",
            &[
                (&migration.version, Type::INT4),
                (&migration.name, Type::TEXT),
                (&migration.sha256(), Type::TEXT),
            ],
        )
        .await
        .map_err(refused)?;
    transaction.commit().await.map_err(refused)?;
    Ok(true)
}

async fn is_applied(transaction: &Transaction<'_>, version: i32) -> Result<bool, tokio_postgres::Error> {
    let exists: bool = transaction
        .query_typed_one("SELECT to_regclass('outboxd.migration') IS NOT NULL", &[])
        .await?
        .try_get(0)?;
    if !exists {
        return Ok(false);
    }
    let exists = "SELECT EXISTS (SELECT FROM outboxd.migration WHERE version = $1)";
    let row = transaction.query_typed_one(exists, &[(&version, Type::INT4)]).await?;
    row.try_get(0)
}

#[cfg(test)]
mod tests {
    use super::{MIGRATIONS, SchemaState, compare};

    #[test]
    fn migrations_are_numbered_without_gaps_and_named_by_their_number() {
        for (index, migration) in MIGRATIONS.iter().enumerate() {
            assert_eq!(usize::try_from(migration.version), Ok(index + 1));
            assert!(migration.name.starts_with(&format!("{:04}_", migration.version)), "{}", migration.name);
        }
    }

    #[test]
    fn a_schema_is_current_behind_newer_or_altered() {
        let all: Vec<(i32, String)> = MIGRATIONS.iter().map(|m| (m.version, m.sha256())).collect();
        assert_eq!(compare(&all), SchemaState::Current);
        assert_eq!(compare(&[]), SchemaState::Missing);
        assert_eq!(
            compare(&all[..2]),
            SchemaState::Behind(vec!["0003_outbox", "0004_functions", "0005_inbound"])
        );
        let mut newer = all.clone();
        newer.push((99, String::new()));
        assert_eq!(compare(&newer), SchemaState::Newer(99));
        let mut altered = all;
        altered[1].1 = "other".to_owned();
        assert_eq!(compare(&altered), SchemaState::Altered(2));
    }
}
