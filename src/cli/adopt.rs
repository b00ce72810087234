//! `outboxd adopt`: a person says that this database, though it is not the one that messages were last sent from, is
//! the one to send from.

use std::path::Path;
use std::process::ExitCode;

use crate::cli::database::Db;
use crate::cli::{block_on, print};
use crate::config;
use crate::store::failover::Cluster;

pub(super) fn run(path: &Path) -> anyhow::Result<ExitCode> {
    let config = config::load(path)?;
    block_on(async {
        let db = Db::open(&config.database)?;
        let before = db.ask(db.store.standing()).await?;
        let remembered = before.remembered.map_or_else(|| "never".to_owned(), shown);
        print(&format!("last sent from   {remembered}\nthis database    {}\n", shown(before.present)))?;
        let adopted = db.ask(db.store.adopt(before.present)).await?;
        db.ask(db.store.clear_alarm("database_changed", "")).await?;
        let after = db.ask(db.store.standing()).await?;
        let done = match adopted.was_held {
            Some(reason) => {
                format!("was held: {reason}\nadopted: messages are sent from this database from now on\n")
            }
            None if adopted.was_uncertain => {
                "adopted: what was not due yet when the database failed over will be sent\n".to_owned()
            }
            None if before.remembered == Some(before.present) => {
                "nothing to adopt: messages are sent from this database already\n".to_owned()
            }
            None => "adopted: messages are sent from this database from now on\n".to_owned(),
        };
        print(&done)?;
        if after.uncertain.is_some() {
            print(
                "messages that were due then, and may have been sent, stay set aside: \
                 `outboxd retry --status held --code failover_uncertain --force` sends them, \
                 `outboxd cancel --status held --code failover_uncertain` gives them up\n",
            )?;
        }
        if after.held {
            let reason = after.held_reason.unwrap_or_default();
            print(&format!("still held by an operator ({reason}): `outboxd resume` goes on\n"))?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn shown(cluster: Cluster) -> String {
    // PostgreSQL's tools print it unsigned.
    format!("cluster {}, timeline {}", cluster.system_identifier.cast_unsigned(), cluster.timeline)
}
