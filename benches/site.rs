//! A cluster with PostgreSQL's default settings, an outbox in it, and daemons between it and the sink.

use std::time::Duration;

use tokio_postgres::Client;

use crate::sink::Sink;
use crate::support::cluster::Cluster;
use crate::support::daemon::Daemon;
use crate::support::postgres::TestDb;

/// Where the drained queue goes in one request at a time: what the daemon is told, and what the bare loop does.
pub(crate) const CONCURRENCY: usize = 64;
const LOOK_AGAIN: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) cluster: Cluster,
    pub(crate) db: TestDb,
    pub(crate) sql: Client,
    pub(crate) sink: Sink,
    pub(crate) version: String,
    daemon_url: String,
}

impl Site {
    pub(crate) async fn start() -> Site {
        // Only where the tests' clusters are told otherwise.
        let cluster = Cluster::start("shared_buffers = '128MB'\nwal_keep_size = 0\njit = on").await;
        let db = TestDb::in_cluster(&cluster, "bench").await;
        let sql = db.client().await;
        let version = sql.query_one("SELECT current_setting('server_version')", &[]).await.unwrap().get(0);
        let daemon_url = db.daemon_url().await;
        Site { cluster, db, sql, sink: Sink::start(), version, daemon_url }
    }

    /// A running daemon that leads.
    pub(crate) async fn daemon(&self) -> Daemon {
        let daemon = Daemon::start(&self.config()).await;
        daemon.wait_log(Duration::from_secs(30), "leading").await;
        daemon
    }

    pub(crate) fn config(&self) -> String {
        let sink = self.sink.address;
        format!(
            "[database]\nurl = \"{}\"\n\n[text]\ndefault_country = \"353\"\ndefault_sender = \"Bench\"\n\n\
             [gateway.main]\ndialect = \"interactsms-v2\"\napi_url = \"http://{sink}\"\n\
             token_url = \"http://{sink}/token\"\nusername = \"bench\"\npassword = \"bench\"\n\
             concurrency = {CONCURRENCY}\n\n[log]\nfilter = \"outboxd=info\"\n",
            self.daemon_url
        )
    }

    /// An outbox with nothing but so many queued rows, as the application inserted them, vacuumed and on disk.
    pub(crate) async fn queue(&self, rows: u32) {
        self.run("TRUNCATE sms.outbox, outboxd.wave").await;
        self.run(&format!(
            "INSERT INTO sms.outbox (recipient, body) SELECT '08' || (50000000 + n), {TEXT} FROM generate_series(1, {rows}) AS n"
        ))
        .await;
        self.run("VACUUM ANALYZE sms.outbox").await;
        self.run("CHECKPOINT").await;
    }

    pub(crate) async fn run(&self, sql: &str) {
        self.sql.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Waits until a query of one number answers zero.
    pub(crate) async fn until_zero(&self, sql: &str) {
        loop {
            let left: i64 = self.sql.query_one(sql, &[]).await.unwrap().get(0);
            if left == 0 {
                return;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// SQL of the text of message `n`: about what an appointment reminder has, and its number.
pub(crate) const TEXT: &str =
    "'Your appointment is on Tuesday at half past ten, reply STOP to opt out #' || n";
