//! An application that inserts a row at a time for as long as it is let, whatever happens to the database: one that
//! lost the answer to its INSERT does it again under the same `client_ref`, and so never inserts twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, NoTls};

use super::books::Committed;
use super::site::Site;

/// Between two rows.
const PACE: Duration = Duration::from_millis(4);
/// Before it connects again.
const RECONNECT: Duration = Duration::from_millis(50);
const INSERT: &str = "INSERT INTO sms.outbox (recipient, body, client_ref) VALUES ('0871234567', $1, $1) \
                      ON CONFLICT (app, client_ref) WHERE client_ref IS NOT NULL DO NOTHING";

#[derive(Debug)]
pub(crate) struct Application {
    stopping: Arc<AtomicBool>,
    inserting: JoinHandle<Committed>,
}

impl Application {
    /// As the superuser, whom a full or choosy server lets in for longest. The name keeps its rows apart from others'.
    pub(crate) fn start(site: &Site, name: &str) -> Application {
        let stopping = Arc::new(AtomicBool::new(false));
        let config: Config = site.db.url().parse().unwrap();
        let inserting = tokio::spawn(insert(config, name.to_owned(), Arc::clone(&stopping)));
        Application { stopping, inserting }
    }

    /// Stops after the row that it is at, and returns all that the database has acknowledged.
    pub(crate) async fn stop(self) -> Committed {
        self.stopping.store(true, Ordering::Release);
        self.inserting.await.unwrap()
    }
}

async fn insert(config: Config, name: String, stopping: Arc<AtomicBool>) -> Committed {
    let mut committed = Committed::default();
    let mut client: Option<Client> = None;
    while !stopping.load(Ordering::Acquire) {
        let text = format!("{name} {}", committed.len());
        // Without an answer, the same row again: nothing is left in doubt.
        loop {
            let Some(connected) = &client else {
                client = config.connect(NoTls).await.ok().map(|(client, connection)| {
                    tokio::spawn(connection);
                    client
                });
                if client.is_none() {
                    tokio::time::sleep(RECONNECT).await;
                }
                continue;
            };
            match connected.execute(INSERT, &[&text]).await {
                Ok(_) => break,
                Err(_) => client = None,
            }
        }
        committed.add(text);
        tokio::time::sleep(PACE).await;
    }
    committed
}
