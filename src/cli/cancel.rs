//! `outboxd cancel`: takes messages out of the queue before they leave.

use std::path::Path;
use std::process::ExitCode;

use crate::cli::args::Cancel;
use crate::cli::database::Db;
use crate::cli::many::{Tally, bar, find};
use crate::cli::{block_on, print};
use crate::config;
use crate::message::Status;
use crate::store::StoreError;

const DONE: &str = "cancelled";

pub(super) fn run(args: &Cancel, path: &Path) -> anyhow::Result<ExitCode> {
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
        let mut tally = Tally::default();
        let bar = bar(ids.len());
        for id in &ids {
            match db.store.cancel(*id).await {
                Ok(Some(status)) if status == Status::Cancelled.as_str() => tally.done(1),
                Ok(Some(status)) => tally.not(*id, format!("already {status}")),
                Ok(None) => tally.not(*id, "no such message"),
                Err(StoreError::Locked { .. }) => tally.not(*id, "locked by another session, try again"),
                Err(error) => {
                    bar.finish_and_clear();
                    return Err(tally.cut_short(DONE, db.explain(error).await));
                }
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        tally.report(DONE)
    })
}
