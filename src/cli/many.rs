//! What `retry`, `cancel` and `resolve` have in common: ids given or found, a progress bar over many, and a summary of
//! what became of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::database::Db;
use crate::cli::errors::Code;
use crate::cli::{counted, print};
use crate::message::MessageId;

/// Fewer are done before a bar could be read.
const BAR_FROM: usize = 20;
/// Ids that a line of the summary names.
const NAMED: usize = 10;

/// Every message in a state, in the order of ids.
pub(super) async fn find(
    db: &Db<'_>,
    status: &str,
    since: Option<Duration>,
    code: Option<&str>,
) -> anyhow::Result<Vec<MessageId>> {
    let mut found: Vec<MessageId> = Vec::new();
    let mut after = i64::MIN;
    loop {
        let page = db.ask(db.store.ids_with_status(status, after, since, code)).await?;
        let Some(last) = page.last() else { return Ok(found) };
        after = last.0;
        found.extend(page);
    }
}

/// On stderr, and only where a person looks at it.
pub(super) fn bar(count: usize) -> ProgressBar {
    if count < BAR_FROM {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(u64::try_from(count).unwrap_or(u64::MAX));
    // The template is a constant that indicatif understands; otherwise its own does.
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos} of {len}, {eta} left") {
        bar.set_style(style);
    }
    bar
}

/// What became of each message.
#[derive(Debug, Default)]
pub(super) struct Tally {
    done: usize,
    not: BTreeMap<String, Vec<MessageId>>,
}

impl Tally {
    pub(super) fn done(&mut self, count: usize) {
        self.done += count;
    }

    pub(super) fn not(&mut self, id: MessageId, why: impl Into<String>) {
        self.not.entry(why.into()).or_default().push(id);
    }

    /// `done`: what was done, as in "queued again".
    pub(super) fn text(&self, done: &str) -> String {
        let mut text = format!("{} {done}\n", counted(self.done, "message"));
        for (why, ids) in &self.not {
            let named: Vec<String> = ids.iter().take(NAMED).map(ToString::to_string).collect();
            let more = if ids.len() > NAMED { ", …" } else { "" };
            // Writing to a string does not fail.
            let _ =
                writeln!(text, "{} not: {why} ({}{more})", counted(ids.len(), "message"), named.join(", "));
        }
        text
    }

    /// Something ended the work half way: what was done is said all the same.
    pub(super) fn cut_short(&self, done: &str, error: anyhow::Error) -> anyhow::Error {
        match print(&self.text(done)) {
            Ok(()) => error,
            Err(unprinted) => unprinted,
        }
    }

    pub(super) fn report(&self, done: &str) -> anyhow::Result<ExitCode> {
        print(&self.text(done))?;
        Ok(if self.not.is_empty() { ExitCode::SUCCESS } else { Code::Failed.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;
    use crate::message::MessageId;

    #[test]
    fn the_summary_counts_by_reason_and_names_the_first_ids() {
        let mut tally = Tally::default();
        tally.done(1);
        for id in 1..=12 {
            tally.not(MessageId(id), "is delivered");
        }
        tally.not(MessageId(99), "does not exist");
        assert_eq!(
            tally.text("cancelled"),
            "1 message cancelled\n\
             1 message not: does not exist (99)\n\
             12 messages not: is delivered (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, …)\n"
        );
    }
}
