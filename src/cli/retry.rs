//! `outboxd retry`: queues messages again. One that may have been sent is only touched with `--force`.

use std::path::Path;
use std::process::ExitCode;

use crate::cli::args::{Retry, Retryable};
use crate::cli::database::Db;
use crate::cli::errors::{Code, Failure};
use crate::cli::many::{Tally, bar, find};
use crate::cli::{block_on, print};
use crate::config;
use crate::message::{MessageId, Status};
use crate::store::StoreError;
use crate::store::failover::Uncertain;

const DONE: &str = "queued again";
const FAILOVER_UNCERTAIN: &str = "failover_uncertain";

pub(super) fn run(args: &Retry, path: &Path) -> anyhow::Result<ExitCode> {
    if args.status == Some(Retryable::Unknown) && !args.force {
        let failure = Failure::new(Code::Usage, "unknown messages may have been sent already");
        return Err(failure
            .hint("find out and use `outboxd resolve`; --force sends them again, perhaps twice")
            .into());
    }
    let config = config::load(path)?;
    block_on(async {
        let db = Db::open(&config.database)?;
        let ids = match args.status {
            Some(status) => find(&db, status.as_str(), args.bound.since, args.bound.code.as_deref()).await?,
            None => args.ids.clone(),
        };
        if ids.is_empty() {
            print("no such messages; nothing to do\n")?;
            return Ok(ExitCode::SUCCESS);
        }
        if args.bound.code.as_deref() == Some(FAILOVER_UNCERTAIN) {
            adopted(&db).await?;
        }
        let mut tally = Tally::default();
        let bar = bar(ids.len());
        for id in ids {
            if let Err(error) = retry(&db, id, args.force, &mut tally).await {
                bar.finish_and_clear();
                return Err(tally.cut_short(DONE, error));
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        tally.report(DONE)
    })
}

/// What a failover made uncertain is set aside again until somebody has said that this is the database.
async fn adopted(db: &Db<'_>) -> anyhow::Result<()> {
    let standing = db.ask(db.store.standing()).await?;
    if standing.uncertain.is_some_and(Uncertain::covers_all_that_is_due) {
        let failure =
            Failure::new(Code::Failed, "nobody has said yet that messages are to be sent from this database");
        return Err(failure.hint("if they are, run `outboxd adopt` first; never on a copy").into());
    }
    Ok(())
}

async fn retry(db: &Db<'_>, id: MessageId, force: bool, tally: &mut Tally) -> anyhow::Result<()> {
    // Asked first: a message that is queued already answers like one that was queued again.
    let Some(before) = db.ask(db.store.progress(id)).await? else {
        tally.not(id, "no such message");
        return Ok(());
    };
    let queued = Status::Queued.as_str();
    if before.status == Status::Unknown.as_str() && !force {
        tally.not(id, "may have been sent already: `outboxd resolve`, or --force");
    } else if before.held && before.error_code.as_deref() == Some(FAILOVER_UNCERTAIN) && !force {
        tally.not(id, "may have been sent before the failover: find out; --force sends it, perhaps twice");
    } else if before.status == queued && !before.held {
        tally.not(id, "still queued");
    } else {
        match db.store.retry(id, force).await {
            Ok(Some(status)) if status == queued => tally.done(1),
            Ok(Some(status)) => tally.not(id, status),
            Ok(None) => tally.not(id, "no such message"),
            Err(StoreError::Locked { .. }) => tally.not(id, "locked by another session, try again"),
            Err(error) => return Err(db.explain(error).await),
        }
    }
    Ok(())
}
