//! A whole site for one test: a database, a simulated gateway, and configurations for daemons between the two.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_postgres::Client;

use super::books::{Committed, Counted};
use super::cluster::Cluster;
use super::daemon::Daemon;
use super::eventually;
use super::port::free_port;
use super::postgres::{TestDb, in_full};
use super::sim::SimProcess;
use super::wire::Wire;

/// Above what anything here takes on a slow, busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
/// Where receipts are posted.
const CALLBACK_PATH: &str = "/cb/it-0123456789abcdef";

#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) db: TestDb,
    pub(crate) sim: SimProcess,
    /// The superuser: sees everything, whatever the privileges are.
    pub(crate) sql: Client,
    /// What the configurations of its daemons say: through the socket, as a role that may do what a daemon may.
    pub(crate) daemon_url: String,
    /// Lines of TOML for their table `database`, beside the URL.
    pub(crate) daemon_database: String,
    callback_port: u16,
}

/// Lines of TOML that a test wants beside what every site has.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Lines<'a> {
    pub(crate) queue: &'a str,
    /// Into the table of the gateway `main`.
    pub(crate) gateway: &'a str,
    /// Whole tables.
    pub(crate) more: &'a str,
    /// Listen for receipts.
    pub(crate) receipts: bool,
}

impl Site {
    /// A database, and a simulator that posts no receipts.
    pub(crate) async fn new(hint: &str) -> Site {
        Site::start(TestDb::create(hint).await, false).await
    }

    /// The simulator posts receipts to whichever daemon listens for them.
    pub(crate) async fn with_receipts(hint: &str) -> Site {
        Site::start(TestDb::create(hint).await, true).await
    }

    /// In a cluster of the test's own. After a restart of it `sql` is dead: see [`Site::reconnect`].
    pub(crate) async fn in_cluster(cluster: &Cluster, hint: &str, receipts: bool) -> Site {
        Site::start(TestDb::in_cluster(cluster, hint).await, receipts).await
    }

    /// The same database in another cluster, which took the place of the first.
    pub(crate) async fn move_to(&mut self, cluster: &Cluster) {
        self.db.move_to(cluster);
        self.reconnect().await;
    }

    /// Opens `sql` anew.
    pub(crate) async fn reconnect(&mut self) {
        self.sql = self.db.client().await;
    }

    async fn start(db: TestDb, receipts: bool) -> Site {
        let callback_port = free_port();
        let to = format!("http://127.0.0.1:{callback_port}{CALLBACK_PATH}");
        let sim = if receipts {
            SimProcess::start(&["--receipts-to", &to]).await
        } else {
            SimProcess::start(&[]).await
        };
        // A receipt that meets a daemon that is being restarted is to come again.
        sim.settings(&json!({"callbacks": {"retries": 200, "retry_ms": 50}})).await;
        let sql = db.client().await;
        let daemon_url = db.daemon_url().await;
        Site { db, sim, sql, daemon_url, daemon_database: String::new(), callback_port }
    }

    /// Daemons that are started from now on reach the database through the proxy.
    pub(crate) fn route_through(&mut self, wire: &Wire) {
        self.daemon_url = wire.url(&self.db.role("daemon"), self.db.name());
    }

    /// The configuration of a daemon whose gateway `main` speaks InteractSMS v2.
    pub(crate) fn config(&self, lines: Lines<'_>) -> String {
        let gateway = self.sim.address("gateway");
        let main = format!(
            "dialect = \"interactsms-v2\"\napi_url = \"{gateway}\"\ntoken_url = \"{gateway}/token\"\n\
             username = \"demo\"\npassword = \"demo-password\"\n{}",
            lines.gateway
        );
        self.config_with(&main, lines)
    }

    /// The same with another table for the gateway `main`; `lines.gateway` is not looked at.
    pub(crate) fn config_with(&self, main: &str, lines: Lines<'_>) -> String {
        let mut text = format!(
            "[database]\nurl = \"{}\"\n{}\n\n[queue]\n{}\n\n[text]\ndefault_country = \"353\"\n\
             default_sender = \"Demo\"\n\n[gateway.main]\n{main}\n\n[routing]\ndefault = \"main\"\n\n\
             [log]\nfilter = \"outboxd=debug\"\n\n{}\n",
            self.daemon_url, self.daemon_database, lines.queue, lines.more
        );
        if lines.receipts {
            let _ = write!(
                text,
                "\n[callbacks]\nlisten = \"127.0.0.1:{}\"\npath = \"{CALLBACK_PATH}\"\n\
                 client_secret = \"demo-secret\"\naccount_password = \"demo-password\"\n",
                self.callback_port
            );
        }
        text
    }

    /// Starts a daemon and waits until it leads.
    pub(crate) async fn daemon(&self, lines: Lines<'_>) -> Daemon {
        let daemon = Daemon::start(&self.config(lines)).await;
        daemon.wait_log(LIMIT, "leading").await;
        daemon
    }

    /// Address that receipts are posted to.
    pub(crate) fn callback_url(&self) -> String {
        format!("http://127.0.0.1:{}{CALLBACK_PATH}", self.callback_port)
    }

    /// Runs SQL as the superuser.
    pub(crate) async fn run(&self, sql: &str) {
        if let Err(error) = self.sql.batch_execute(sql).await {
            panic!("{sql}: {}", in_full(&error));
        }
    }

    /// Inserts one row by `INSERT INTO sms.outbox <tail> RETURNING id`, as the superuser.
    pub(crate) async fn insert(&self, tail: &str) -> i64 {
        insert(&self.sql, tail).await
    }

    /// Queues `count` rows in one transaction, each to a number of its own; returns the first and the last id.
    pub(crate) async fn queue(&self, count: i32) -> (i64, i64) {
        self.queue_in("normal", count).await
    }

    pub(crate) async fn queue_in(&self, lane: &str, count: i32) -> (i64, i64) {
        let sql = "WITH new AS (INSERT INTO sms.outbox (recipient, body, lane) \
                   SELECT '+35387' || lpad(n::text, 7, '0'), 'message ' || n, $2 FROM generate_series(1, $1) AS n \
                   RETURNING id) SELECT min(id), max(id) FROM new";
        let row = self.sql.query_one(sql, &[&count, &lane]).await.unwrap();
        (row.get(0), row.get(1))
    }

    /// Queues `count` rows in one transaction, their texts `name 1`, `name 2` and so on.
    pub(crate) async fn queue_texts(&self, committed: &mut Committed, name: &str, count: i32) {
        let sql = "INSERT INTO sms.outbox (recipient, body) \
                   SELECT '+35387' || lpad(n::text, 7, '0'), $2 || ' ' || n FROM generate_series(1, $1::integer) AS n";
        self.sql.execute(sql, &[&count, &name]).await.unwrap();
        committed.add_all((1..=count).map(|n| format!("{name} {n}")));
    }

    pub(crate) async fn row(&self, id: i64) -> OutboxRow {
        let sql = "SELECT status, error_code, error, attempts, held, gateway_ref, sent_via, encoding, segments::integer, \
                   sent_at IS NOT NULL, final_at IS NOT NULL FROM sms.outbox WHERE id = $1";
        let row = self.sql.query_one(sql, &[&id]).await.unwrap();
        OutboxRow {
            status: row.get(0),
            error_code: row.get(1),
            error: row.get(2),
            attempts: row.get(3),
            held: row.get(4),
            gateway_ref: row.get(5),
            sent_via: row.get(6),
            encoding: row.get(7),
            segments: row.get(8),
            sent: row.get(9),
            finished: row.get(10),
        }
    }

    /// Waits until the row has this status, and what was known of its last attempt stands in it: a receipt may be
    /// quicker than the recording of the answer.
    pub(crate) async fn until(&self, id: i64, status: &str) -> OutboxRow {
        eventually(LIMIT, &format!("row {id} is {status}"), async || {
            let row = self.row(id).await;
            let recorded = row.sent || !matches!(status, "delivered" | "undelivered");
            if row.status == status && recorded { Ok(row) } else { Err(row) }
        })
        .await
    }

    /// Waits until the row is delivered and the gateway's answer is recorded too: a receipt may be quicker.
    pub(crate) async fn until_delivered(&self, id: i64) -> OutboxRow {
        eventually(LIMIT, &format!("row {id} is delivered and complete"), async || {
            let row = self.row(id).await;
            if row.status == "delivered" && row.sent { Ok(row) } else { Err(row) }
        })
        .await
    }

    /// How many rows there are in each status.
    pub(crate) async fn counts(&self) -> Counts {
        let sql = "SELECT status, count(*) FROM sms.outbox GROUP BY status";
        let rows = self.sql.query(sql, &[]).await.unwrap();
        Counts(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Waits until the counts are as wanted.
    pub(crate) async fn until_counts(&self, what: &str, wanted: impl Fn(&Counts) -> bool) -> Counts {
        eventually(2 * LIMIT, what, async || {
            let counts = self.counts().await;
            if wanted(&counts) { Ok(counts) } else { Err(counts) }
        })
        .await
    }

    /// Waits until a query of one boolean says true.
    pub(crate) async fn until_true(&self, what: &str, sql: &str) {
        eventually(LIMIT, what, async || {
            let row = self.sql.query_one(sql, &[]).await.unwrap();
            if row.get::<_, bool>(0) { Ok(()) } else { Err(()) }
        })
        .await;
    }

    pub(crate) async fn number(&self, sql: &str) -> i64 {
        self.sql.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// One counter of the simulator.
    pub(crate) async fn sim_count(&self, counter: &str) -> u64 {
        self.sim.state().await[counter].as_u64().expect("a counter of the simulator")
    }

    /// Returns once the simulator's counters have reached these, for example `requests=5&idle=1`.
    pub(crate) async fn sim_reaches(&self, counters: &str) {
        let path = format!("wait?{counters}&timeout_ms={}", LIMIT.as_millis());
        self.sim.control("GET", &path, None).await;
    }

    pub(crate) async fn freeze(&self) {
        self.sim.control("POST", "freeze", None).await;
    }

    pub(crate) async fn thaw(&self) {
        self.sim.control("POST", "thaw", None).await;
    }

    /// Everything that the gateway accepted.
    pub(crate) async fn ledger(&self) -> Vec<Value> {
        let answer = self.sim.control("GET", "ledger?limit=1000000", None).await;
        answer["messages"].as_array().expect("a ledger").clone()
    }

    /// The ledger's one entry for a row.
    pub(crate) async fn in_ledger(&self, row: &OutboxRow) -> Value {
        let reference = row.gateway_ref.as_deref().expect("a row that was sent");
        let mut found = self.ledger().await;
        found.retain(|message| message["notify_id"] == reference);
        assert_eq!(found.len(), 1, "{reference} is in the ledger once: {found:?}");
        found.remove(0)
    }

    /// The gateway has taken no row more than once, whatever the attempt.
    pub(crate) async fn assert_nothing_twice(&self) {
        let mut keys: BTreeMap<String, u32> = BTreeMap::new();
        for message in self.ledger().await {
            *keys.entry(message["key"].to_string()).or_default() += 1;
        }
        let sent = keys.values().map(|count| *count as usize).sum();
        keys.retain(|_, count| *count > 1);
        self.note_counts(sent, keys.len()).await;
        assert!(keys.is_empty(), "sent more than once: {keys:?}");
        assert_eq!(self.sim_count("reached_twice").await, 0);
    }

    async fn note_counts(&self, sent: usize, doubled: usize) {
        // Before the ledger, which then has all of them also where messages are still being sent.
        let sql = "SELECT status, gateway_ref FROM sms.outbox";
        let rows = self.sql.query(sql, &[]).await.unwrap();
        let reference = |message: &Value| message["notify_id"].as_str().unwrap_or_default().to_owned();
        let sent_as: BTreeSet<String> = self.ledger().await.iter().map(reference).collect();
        // A dialect without references tells nothing of that.
        let tells = !sent_as.contains("");
        let status = |row: &tokio_postgres::Row| row.get::<_, String>(0);
        let is_lost = |row: &&tokio_postgres::Row| {
            tells
                && matches!(status(row).as_str(), "accepted" | "delivered" | "undelivered")
                && row.get::<_, Option<&str>>(1).is_some_and(|reference| !sent_as.contains(reference))
        };
        Counted {
            messages: rows.len(),
            sent,
            lost: rows.iter().filter(is_lost).count(),
            doubled,
            unknown: rows.iter().filter(|row| status(row) == "unknown").count(),
        }
        .note();
    }

    /// The open alarms: code and subject.
    pub(crate) async fn alarms(&self) -> Vec<(String, String)> {
        let sql = "SELECT code, subject FROM outboxd.alarm WHERE cleared_at IS NULL ORDER BY 1, 2";
        self.sql.query(sql, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    /// Waits until `outboxd.gateway` shows `main` in this state; returns the reason.
    pub(crate) async fn until_gateway(&self, state: &str) -> Option<String> {
        eventually(LIMIT, &format!("gateway main is {state}"), async || {
            let sql = "SELECT state, reason FROM outboxd.gateway WHERE name = 'main'";
            let found = self.sql.query_opt(sql, &[]).await.unwrap();
            match found.map(|row| (row.get::<_, String>(0), row.get::<_, Option<String>>(1))) {
                Some((found, reason)) if found == state => Ok(reason),
                other => Err(other),
            }
        })
        .await
    }

    /// Ends all rules of the simulator's script.
    pub(crate) async fn clear_script(&self) {
        self.sim.control("DELETE", "script", None).await;
    }

    /// References of the rows in this status.
    pub(crate) async fn references(&self, status: &str) -> BTreeSet<String> {
        let sql = "SELECT gateway_ref FROM sms.outbox WHERE status = $1";
        self.sql.query(sql, &[&status]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// References of everything that the gateway accepted.
    pub(crate) async fn sent_references(&self) -> BTreeSet<String> {
        let ledger = self.ledger().await;
        ledger.iter().map(|message| message["notify_id"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until the daemon relies on the doorbell.
    pub(crate) async fn until_asleep(&self, daemon: &Daemon) {
        self.until_true("the register says asleep", "SELECT last_value < 0 FROM outboxd.register").await;
        // Settling takes one look after everybody who may not have heard has ended.
        daemon.wait_log(LIMIT, "fell asleep").await;
    }
}

/// Inserts one row by `INSERT INTO sms.outbox <tail> RETURNING id`.
pub(crate) async fn insert(client: &Client, tail: &str) -> i64 {
    let sql = format!("INSERT INTO sms.outbox {tail} RETURNING id");
    match client.query_one(&sql, &[]).await {
        Ok(row) => row.get(0),
        Err(error) => panic!("{sql}: {}", in_full(&error)),
    }
}

/// What a test looks at in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OutboxRow {
    pub(crate) status: String,
    pub(crate) error_code: Option<String>,
    pub(crate) error: Option<String>,
    pub(crate) attempts: i32,
    pub(crate) held: bool,
    pub(crate) gateway_ref: Option<String>,
    pub(crate) sent_via: Option<String>,
    pub(crate) encoding: Option<String>,
    pub(crate) segments: Option<i32>,
    pub(crate) sent: bool,
    pub(crate) finished: bool,
}

impl OutboxRow {
    /// `error_code`, or nothing.
    pub(crate) fn code(&self) -> &str {
        self.error_code.as_deref().unwrap_or_default()
    }

    pub(crate) fn reason(&self) -> &str {
        self.error.as_deref().unwrap_or_default()
    }
}

/// Rows by status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counts(BTreeMap<String, i64>);

impl Counts {
    pub(crate) fn of(&self, status: &str) -> i64 {
        self.0.get(status).copied().unwrap_or(0)
    }

    /// Rows that the gateway has accepted.
    pub(crate) fn sent(&self) -> u64 {
        u64::try_from(self.of("accepted") + self.of("delivered") + self.of("undelivered")).unwrap()
    }

    /// Rows that are nowhere else than in these.
    pub(crate) fn only(&self, statuses: &[&str]) -> bool {
        self.0.keys().all(|status| statuses.contains(&status.as_str()))
    }
}
