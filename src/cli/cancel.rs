//! `outboxd cancel`: takes messages out of the queue before they leave.

use std::path::Path;
use std::process::ExitCode;

use crate::cli::args::Ids;
use crate::cli::block_on;
use crate::cli::database::Db;
use crate::cli::many::{Tally, bar};
use crate::config;
use crate::message::Status;
use crate::store::StoreError;

const DONE: &str = "cancelled";

pub(super) fn run(args: &Ids, path: &Path) -> anyhow::Result<ExitCode> {
    let config = config::load(path)?;
    block_on(async {
        let db = Db::open(&config.database)?;
        let mut tally = Tally::default();
        let bar = bar(args.ids.len());
        for id in &args.ids {
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
