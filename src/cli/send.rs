//! `outboxd send`: queues one message like any application and shows what becomes of it.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::cli::args::Send;
use crate::cli::database::Db;
use crate::cli::errors::{Code, Failure};
use crate::cli::render::params;
use crate::cli::status::no_leader;
use crate::cli::{block_on, print};
use crate::clock::{self, Moment};
use crate::config::{self, Config};
use crate::message::{MessageId, Status};
use crate::store::StoreError;
use crate::store::repair::{NewMessage, Progress};

/// Between two looks at the row.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

pub(super) fn run(args: Send, path: &Path) -> anyhow::Result<ExitCode> {
    let config = config::load(path)?;
    let (wait, timeout) = (!args.no_wait, args.timeout);
    let message = NewMessage {
        recipient: args.to,
        params: params(&args.content),
        body: args.content.text,
        template: args.content.template,
        language: args.content.language,
        sender: args.sender,
        gateway: args.gateway,
        lane: args.lane,
    };
    block_on(async {
        let db = Db::open(&config.database)?;
        let id = db.ask(db.store.insert(&message)).await?;
        if !wait {
            print(&format!("{id}\n"))?;
            return Ok(ExitCode::SUCCESS);
        }
        let asked_at = clock::now();
        print(&format!("message {id}\n"))?;
        say_if_nothing_is_sent(&db).await?;
        Wait { db: &db, config: &config, id, asked_at, timeout }.watch().await
    })
}

async fn say_if_nothing_is_sent(db: &Db<'_>) -> anyhow::Result<()> {
    let queue = db.ask(db.store.status()).await?.queue;
    if let Some(reason) = no_leader(&queue) {
        print(&format!("it stays queued until a daemon runs: {reason}\n"))?;
    } else if queue.all_held {
        let reason = queue.held_reason.unwrap_or_default();
        print(&format!("it stays queued, nothing is sent: {reason}\n"))?;
    }
    Ok(())
}

struct Wait<'a> {
    db: &'a Db<'a>,
    config: &'a Config,
    id: MessageId,
    asked_at: Moment,
    timeout: Duration,
}

impl Wait<'_> {
    async fn watch(&self) -> anyhow::Result<ExitCode> {
        let mut last = None;
        loop {
            match self.db.store.progress(self.id).await {
                Ok(Some(now)) => {
                    if last.as_ref() != Some(&now) {
                        print(&self.line(&now))?;
                        if let Some(code) = self.end(&now)? {
                            return Ok(code);
                        }
                        last = Some(now);
                    }
                }
                Ok(None) => {
                    return Err(Failure::new(Code::Failed, format!("message {} was deleted", self.id)).into());
                }
                // The row waits in the database, and so do we.
                Err(
                    StoreError::Unavailable(_)
                    | StoreError::InDoubt { .. }
                    | StoreError::Locked { .. }
                    | StoreError::Unable { .. },
                ) => {}
                Err(error) => return Err(self.db.explain(error).await),
            }
            let passed = clock::now().since(self.asked_at);
            if passed >= self.timeout {
                return Err(self.too_late(last.as_ref()).into());
            }
            tokio::time::sleep(LOOK_AGAIN.min(self.timeout.saturating_sub(passed))).await;
        }
    }

    fn line(&self, now: &Progress) -> String {
        let mut line = format!("{:>6.1} s  {}", clock::now().since(self.asked_at).as_secs_f64(), now.status);
        if now.held {
            line.push_str(", held");
        }
        if let Some(gateway) = &now.sent_via {
            line.push_str(&format!(", by {gateway}"));
        }
        if let (Some(segments), Some(encoding)) = (now.segments, &now.encoding) {
            line.push_str(&format!(", {segments} × {encoding}"));
        }
        match (&now.error_code, &now.error) {
            (Some(code), Some(error)) => line.push_str(&format!(": {error} ({code})")),
            (Some(text), None) | (None, Some(text)) => line.push_str(&format!(": {text}")),
            (None, None) => {}
        }
        line.push('\n');
        line
    }

    /// `None`: more is to come.
    fn end(&self, now: &Progress) -> anyhow::Result<Option<ExitCode>> {
        Ok(match Status::parse(&now.status) {
            Some(Status::Delivered) => Some(ExitCode::SUCCESS),
            Some(Status::Undelivered | Status::Failed | Status::Expired | Status::Cancelled) => {
                Some(Code::Failed.into())
            }
            Some(Status::Accepted) if self.config.callbacks.is_none() => {
                print("without [callbacks] no receipt comes back: this is all that will be known\n")?;
                Some(ExitCode::SUCCESS)
            }
            Some(Status::Queued | Status::Unknown | Status::Accepted) | None => None,
        })
    }

    fn too_late(&self, last: Option<&Progress>) -> Failure {
        let status = last.map_or("not seen", |now| now.status.as_str());
        let limit = humantime::format_duration(self.timeout);
        Failure::new(Code::Temporary, format!("message {} is still {status} after {limit}", self.id)).hint(format!(
            "look later: SELECT status, error FROM sms.outbox WHERE id = {}; `outboxd status` shows what it waits for",
            self.id
        ))
    }
}
