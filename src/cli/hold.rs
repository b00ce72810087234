//! `outboxd hold` and `outboxd resume`: the emergency brake, and letting go of it or of one stopped gateway.

use std::path::Path;
use std::process::ExitCode;

use crate::cli::args::{Hold, Resume};
use crate::cli::database::Db;
use crate::cli::errors::{Code, Failure};
use crate::cli::status::no_leader;
use crate::cli::{block_on, print, span};
use crate::config;

pub(super) fn hold(args: &Hold, path: &Path) -> anyhow::Result<ExitCode> {
    let config = config::load(path)?;
    block_on(async {
        let db = Db::open(&config.database)?;
        let before = db.ask(db.store.standing()).await?;
        db.ask(db.store.hold(args.reason.as_deref())).await?;
        let after = db.ask(db.store.standing()).await?;
        if before.held {
            print(&format!("was held already: {}\n", before.held_reason.as_deref().unwrap_or_default()))?;
        }
        print(&format!(
            "held: {}\nno further message is sent until `outboxd resume`; what is under way is not called back\n",
            after.held_reason.as_deref().unwrap_or_default()
        ))?;
        Ok(ExitCode::SUCCESS)
    })
}

pub(super) fn resume(args: &Resume, path: &Path) -> anyhow::Result<ExitCode> {
    let config = config::load(path)?;
    block_on(async {
        let db = Db::open(&config.database)?;
        match &args.gateway {
            Some(gateway) => resume_gateway(&db, gateway).await,
            None => resume_all(&db).await,
        }
    })
}

async fn resume_all(db: &Db<'_>) -> anyhow::Result<ExitCode> {
    let acknowledged = db.ask(db.store.acknowledge()).await?;
    if acknowledged > 0 {
        print(&format!("taken note of: {acknowledged} x request_refused\n"))?;
    }
    let before = db.ask(db.store.standing()).await?;
    let reason = before.held_reason.unwrap_or_default();
    if !before.held {
        if acknowledged == 0 {
            print("nothing is held\n")?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if before.held_code.as_deref() == Some("database_changed") {
        let failure = Failure::new(Code::Failed, format!("not resumed: {reason}"));
        return Err(failure
            .hint("`outboxd adopt` shows both databases and makes this the one to send from; never on a copy")
            .into());
    }
    db.ask(db.store.resume(None)).await?;
    print(&format!("was held: {reason}\nresumed\n"))?;
    warn_without_leader(db).await?;
    Ok(ExitCode::SUCCESS)
}

async fn resume_gateway(db: &Db<'_>, name: &str) -> anyhow::Result<ExitCode> {
    let status = db.ask(db.store.status()).await?;
    let Some(gateway) = status.gateways.iter().find(|gateway| gateway.name == name) else {
        let known: Vec<&str> = status.gateways.iter().map(|gateway| gateway.name.as_str()).collect();
        let known = if known.is_empty() {
            "none has been used yet; the daemon lists them when it runs".to_owned()
        } else {
            format!("there are: {}", known.join(", "))
        };
        return Err(Failure::new(Code::Failed, format!("no gateway is called {name}")).hint(known).into());
    };
    let reason = gateway.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    db.ask(db.store.resume(Some(name))).await?;
    print(&format!(
        "{name} was {} for {}{reason}\nthe daemon is asked to try it again\n",
        gateway.state,
        span(gateway.for_seconds)
    ))?;
    warn_without_leader(db).await?;
    Ok(ExitCode::SUCCESS)
}

async fn warn_without_leader(db: &Db<'_>) -> anyhow::Result<()> {
    let status = db.ask(db.store.status()).await?;
    match no_leader(&status.queue) {
        Some(reason) => print(&format!("nothing is sent for now: {reason}\n")),
        None => Ok(()),
    }
}
