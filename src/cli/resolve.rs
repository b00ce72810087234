//! `outboxd resolve`: a person says what became of messages whose answer was lost.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use crate::cli::args::{Outcome, Resolve};
use crate::cli::database::Db;
use crate::cli::many::{Tally, bar, find};
use crate::cli::{block_on, print};
use crate::config;
use crate::message::{MessageId, Status};
use crate::store::StoreError;

/// Messages of one statement.
const BATCH: usize = 500;

pub(super) fn run(args: &Resolve, path: &Path) -> anyhow::Result<ExitCode> {
    let config = config::load(path)?;
    block_on(async {
        let db = Db::open(&config.database)?;
        let ids = if args.all {
            find(&db, Status::Unknown.as_str(), None, None).await?
        } else {
            let once: BTreeSet<MessageId> = args.ids.iter().copied().collect();
            once.into_iter().collect()
        };
        if ids.is_empty() {
            print("no message is unknown; nothing to do\n")?;
            return Ok(ExitCode::SUCCESS);
        }
        let outcome = args.outcome.status().as_str();
        let done = match args.outcome {
            Outcome::Accepted => "declared accepted",
            Outcome::Delivered => "declared delivered",
            Outcome::Failed => "declared failed",
            Outcome::Queued => "queued again",
        };
        let who = who();
        let mut tally = Tally::default();
        let bar = bar(ids.len());
        for batch in ids.chunks(BATCH) {
            if let Err(error) = resolve(&db, batch, (outcome, &who), &mut tally).await {
                bar.finish_and_clear();
                return Err(tally.cut_short(done, error));
            }
            bar.inc(u64::try_from(batch.len()).unwrap_or(0));
        }
        bar.finish_and_clear();
        tally.report(done)
    })
}

async fn resolve(
    db: &Db<'_>,
    batch: &[MessageId],
    (outcome, who): (&str, &str),
    tally: &mut Tally,
) -> anyhow::Result<()> {
    match db.store.resolve(batch, outcome, who).await {
        Ok(resolved) => {
            tally.done(resolved.len());
            for id in batch.iter().filter(|id| !resolved.contains(id)) {
                let now = db.ask(db.store.progress(*id)).await?;
                tally.not(
                    *id,
                    now.map_or_else(|| "no such message".to_owned(), |now| format!("already {}", now.status)),
                );
            }
            Ok(())
        }
        // One row that somebody holds must not stop the others.
        Err(StoreError::Locked { .. }) if batch.len() > 1 => {
            for id in batch {
                Box::pin(resolve(db, std::slice::from_ref(id), (outcome, who), tally)).await?;
            }
            Ok(())
        }
        Err(StoreError::Locked { .. }) => {
            for id in batch {
                tally.not(*id, "locked by another session, try again");
            }
            Ok(())
        }
        Err(error) => Err(db.explain(error).await),
    }
}

/// For the history of the message; not a proof of anything.
fn who() -> String {
    ["SUDO_USER", "USER", "LOGNAME"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()))
        .unwrap_or_else(|| "an operator".to_owned())
}
