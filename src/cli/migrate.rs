//! `outboxd migrate`: brings the schema up to date, or prints the SQL for somebody who may.
//!
//! Needs a configuration file only when `--database` names no database.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::cli::args::Migrate;
use crate::cli::database::Db;
use crate::cli::errors::{Code, Failure};
use crate::cli::{block_on, counted, print};
use crate::config::{self, Database, Pooler};
use crate::store::StoreError;
use crate::store::migrate::{self, MIGRATIONS, Migration, SchemaState};

pub(super) fn run(args: &Migrate, path: &Path) -> anyhow::Result<ExitCode> {
    if args.print {
        print(&script())?;
        return Ok(ExitCode::SUCCESS);
    }
    let password = std::env::var("PGPASSWORD").ok();
    let mut database = match args.named_database(password.as_deref())? {
        Some(database) => database,
        None => config::load(path)?.database,
    };
    // Nobody can say what `--database` leads to, and this is the way that works in any case.
    database.pooler = Pooler::Transaction;
    block_on(apply(&database))
}

/// Everything for psql, whatever the database has already.
fn script() -> String {
    let mut text = format!(
        "-- The schema of outboxd {}. Run it with psql as the role that is to own it; what a database has already is\n\
         -- left alone, so it may be run again.\n\
         \\set ON_ERROR_STOP on\n\\set QUIET on\n",
        env!("CARGO_PKG_VERSION")
    );
    for migration in MIGRATIONS {
        text.push('\n');
        text.push_str(&migration.script());
    }
    text
}

async fn apply(database: &Database) -> anyhow::Result<ExitCode> {
    let db = Db::open(database)?;
    match db.store.schema_state().await {
        Ok(SchemaState::Current) => {
            print(&format!("{}: nothing to do, the schema is up to date\n", database.shown))?;
            return Ok(ExitCode::SUCCESS);
        }
        Ok(SchemaState::Newer(version)) => return Err(newer(version).into()),
        Ok(SchemaState::Altered(version)) => return Err(altered(version).into()),
        Ok(SchemaState::Missing | SchemaState::Behind(_)) => {}
        Err(error @ StoreError::Refused { .. }) => return Err(refused(error)),
        Err(error) => return Err(db.explain(error).await),
    }
    print(&format!("{}\n", database.shown))?;
    match migrate::migrate(database, announce).await {
        Ok(applied) => {
            print(&format!("{} applied; the schema is up to date\n", counted(applied.len(), "migration")))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error @ StoreError::Refused { .. }) => Err(refused(error)),
        Err(error) => Err(db.explain(error).await),
    }
}

fn announce(migration: &Migration) {
    let mut stdout = io::stdout().lock();
    // A closed pipe is no reason to stop half way.
    let _ = writeln!(stdout, "  applying {}", migration.name).and_then(|()| stdout.flush());
}

fn newer(version: i32) -> Failure {
    let known = MIGRATIONS.len();
    Failure::new(
        Code::Config,
        format!("this database was migrated by a newer outboxd: it has migration {version}, this one knows {known}"),
    )
    .hint("migrations only go forward; use the newer outboxd")
}

fn altered(version: i32) -> Failure {
    Failure::new(
        Code::Config,
        format!("migration {version} in this database is not the one that this outboxd knows by that number"),
    )
    .hint("it was made by another build; use that one, or restore the database from before it")
}

fn refused(error: StoreError) -> anyhow::Error {
    let reason = error.to_string();
    let (code, hint) = if reason.contains("[42501]") {
        (
            Code::Failed,
            "run it as a role that may create schemas and roles here: `outboxd migrate --database '… user=postgres'` \
             or, by a DBA, `outboxd migrate --print | psql`; what was applied before stays",
        )
    } else if reason.contains("[55P03]") {
        (Code::Temporary, "another session holds a lock; see pg_stat_activity, then try again")
    } else if reason.contains("[25006]") {
        (Code::Failed, "this is a replica; connect to the primary")
    } else if reason.contains("[42P06]") || reason.contains("[42P07]") {
        (
            Code::Config,
            "something else in this database has that name already; use a database of its own for the outbox",
        )
    } else {
        (Code::Failed, "nothing of this migration was kept; remove the cause and run it again")
    };
    anyhow::Error::from(error).context(Failure::new(code, "the database could not be migrated").hint(hint))
}

#[cfg(test)]
mod tests {
    use super::script;
    use crate::store::migrate::MIGRATIONS;

    #[test]
    fn the_script_holds_every_migration_once_and_stops_at_the_first_error() {
        let script = script();
        assert!(script.contains("\\set ON_ERROR_STOP on\n"));
        for migration in MIGRATIONS {
            assert_eq!(script.matches(migration.sql).count(), 1, "{}", migration.name);
        }
        let ends = |word: &str| script.lines().filter(|line| *line == word).count();
        assert_eq!(ends("\\endif"), MIGRATIONS.len() * 2);
        assert_eq!((ends("BEGIN;"), ends("COMMIT;")), (MIGRATIONS.len(), MIGRATIONS.len()));
    }
}
