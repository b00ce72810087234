//! The ways to the database in `outboxd check`: the pooler in between, the way past it, and the session for the lock.

use crate::cli::check::Finding;
use crate::cli::check::database::unexpected;
use crate::config::{Config, Pooler};
use crate::store::leader::LeaderSession;
use crate::store::{Store, StoreError};

pub(super) async fn check(config: &Config, store: &Store) -> Vec<Finding> {
    let database = &config.database;
    let mut findings = Vec::new();
    if database.pooler == Pooler::Transaction && database.direct.is_none() {
        findings.push(pooler(store).await);
    }
    if let Some(direct) = &database.direct {
        let found = store.compare_ways(direct).await;
        let same = found.is_ok();
        findings.push(match found {
            Ok(()) => Finding::ok("direct_url", format!("{}: leads to the same database", direct.shown)),
            Err(error @ StoreError::Unavailable(_)) => Finding::unreachable(
                "direct_url",
                format!("{}: {error}", direct.shown),
                "may this host connect there, past the pooler?",
            ),
            Err(error) => unexpected("direct_url", &error),
        });
        if !same {
            return findings;
        }
    }
    if database.sessions().is_some() {
        findings.push(lock(config, store).await);
    }
    findings
}

async fn pooler(store: &Store) -> Finding {
    match store.passes_beside_a_transaction().await {
        Ok(()) => Finding::ok("pooler", "lets a statement through while another transaction is open"),
        Err(StoreError::InDoubt { .. } | StoreError::Unavailable(_)) => Finding::wrong(
            "pooler",
            "lets no statement through while another transaction is open",
            "the leader's lock is such a transaction: give this user two server connections at least \
             (default_pool_size, pool_size), or a direct_url that leads past the pooler",
        ),
        Err(error) => unexpected("pooler", &error),
    }
}

async fn lock(config: &Config, store: &Store) -> Finding {
    let lease = humantime::format_duration(config.queue.lease);
    match LeaderSession::connect(&config.database, store, config.queue.lease).await {
        Ok(_) => Finding::ok("lock", format!("the server ends the session of a silent leader after {lease}")),
        Err(error) => unexpected("lock", &error),
    }
}
