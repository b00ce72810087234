//! A cluster with PostgreSQL's default settings, an outbox in it, and daemons between it and the sink.

use std::rc::Rc;
use std::time::Duration;

use tokio_postgres::{Client, NoTls};

use crate::processes::Moment;
use crate::sink::Sink;
use crate::support::cluster::Cluster;
use crate::support::daemon::Daemon;
use crate::support::port::free_port;
use crate::support::postgres::TestDb;

/// Where the drained queue goes in one request at a time: what the daemon is told, and what the bare loop does.
pub(crate) const CONCURRENCY: usize = 64;
const LOOK_AGAIN: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) cluster: Rc<Cluster>,
    pub(crate) db: TestDb,
    pub(crate) sql: Client,
    /// A login of an application, with its rights and no others.
    pub(crate) app: Client,
    pub(crate) sink: Sink,
    pub(crate) version: String,
    daemon_url: String,
    /// Rows that are finished and stay, and the last id of them.
    finished: u32,
    kept: i64,
}

/// The log of a daemon that is measured.
const LOG: &str = "outboxd=info";
/// The same with each message's steps.
const LOG_OF_WAYS: &str = "outboxd=info,outboxd::way=trace";

impl Site {
    pub(crate) async fn start() -> Site {
        // Only where the tests' clusters are told otherwise.
        let cluster = Cluster::start(
            "shared_buffers = '128MB'\nwal_keep_size = 0\njit = on\nshared_preload_libraries = 'pg_stat_statements'",
        )
        .await;
        Site::in_cluster(Rc::new(cluster), "bench").await
    }

    /// Another outbox in the same cluster.
    pub(crate) async fn beside(&self, hint: &str) -> Site {
        Site::in_cluster(Rc::clone(&self.cluster), hint).await
    }

    async fn in_cluster(cluster: Rc<Cluster>, hint: &str) -> Site {
        let db = TestDb::in_cluster(&cluster, hint).await;
        let sql = db.client().await;
        let version = sql.query_one("SELECT current_setting('server_version')", &[]).await.unwrap().get(0);
        let daemon_url = db.daemon_url().await;
        sql.batch_execute("CREATE EXTENSION pg_stat_statements").await.unwrap();
        let app = db.app_client("shop").await;
        Site { cluster, db, sql, app, sink: Sink::start(), version, daemon_url, finished: 0, kept: 0 }
    }

    /// Gives back its disk.
    pub(crate) async fn drop_database(self, other: &Site) {
        let name = self.db.name().to_owned();
        drop(self);
        other.run(&format!("DROP DATABASE {name} WITH (FORCE)")).await;
    }

    /// A running daemon that leads.
    pub(crate) async fn daemon(&self) -> Daemon {
        self.daemon_with("").await
    }

    /// The same, with more lines for its gateway, or after them.
    pub(crate) async fn daemon_with(&self, lines: &str) -> Daemon {
        led(Daemon::start(&self.config(&self.v2(), lines, LOG)).await).await
    }

    /// The same, and it logs each step of each message.
    pub(crate) async fn daemon_that_tells(&self) -> Daemon {
        led(Daemon::start(&self.config(&self.v2(), "", LOG_OF_WAYS)).await).await
    }

    /// A daemon whose gateway speaks another dialect: the lines that say which and where.
    pub(crate) async fn daemon_of_dialect(&self, dialect: &str) -> Daemon {
        led(Daemon::start(&self.config(dialect, "", LOG)).await).await
    }

    /// A daemon that has only just been started.
    pub(crate) fn start_daemon(&self) -> Daemon {
        Daemon::spawn(&self.config(&self.v2(), "", LOG))
    }

    /// A login with the daemon's rights.
    pub(crate) async fn daemon_client(&self) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.daemon_url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    fn v2(&self) -> String {
        let sink = self.sink.address;
        format!(
            "dialect = \"interactsms-v2\"\napi_url = \"http://{sink}\"\ntoken_url = \"http://{sink}/token\"\n\
             username = \"bench\"\npassword = \"bench\""
        )
    }

    fn config(&self, dialect: &str, lines: &str, log: &str) -> String {
        format!(
            "[database]\nurl = \"{}\"\n\n[text]\ndefault_country = \"353\"\ndefault_sender = \"Bench\"\n\n\
             [log]\nfilter = \"{log}\"\n\n[routing]\ndefault = \"main\"\n\n\
             [gateway.main]\nconcurrency = {CONCURRENCY}\n{dialect}\n{lines}",
            self.daemon_url
        )
    }

    /// Lines of a second gateway whose port nobody listens on.
    pub(crate) fn dead_gateway(&self) -> String {
        let port = free_port();
        format!(
            "\n[gateway.dead]\ndialect = \"interactsms-v2\"\napi_url = \"http://127.0.0.1:{port}\"\n\
             token_url = \"http://{}/token\"\nusername = \"bench\"\npassword = \"bench\"\n",
            self.sink.address
        )
    }

    /// Nothing is queued, and nothing that was sent is left.
    pub(crate) async fn empty(&self) {
        if self.kept == 0 {
            self.run("TRUNCATE sms.outbox, outboxd.wave").await;
        } else {
            self.run(&format!("DELETE FROM sms.outbox WHERE id > {}", self.kept)).await;
        }
    }

    /// An outbox with nothing but so many queued rows, as the application inserted them, vacuumed and on disk.
    pub(crate) async fn queue(&self, rows: u32) {
        self.queue_as("normal", "main", rows).await;
    }

    pub(crate) async fn queue_as(&self, lane: &str, gateway: &str, rows: u32) {
        self.empty().await;
        self.queue_more(lane, gateway, rows).await;
    }

    /// The same, and what was sent before stays.
    pub(crate) async fn queue_more(&self, lane: &str, gateway: &str, rows: u32) {
        self.insert(TEXT, lane, gateway, rows).await;
    }

    /// So many queued rows with one text.
    pub(crate) async fn queue_campaign(&self, rows: u32) {
        self.empty().await;
        self.insert("'All shops are open until nine tonight, reply STOP to opt out'", "bulk", "main", rows)
            .await;
    }

    async fn insert(&self, text: &str, lane: &str, gateway: &str, rows: u32) {
        self.run(&format!(
            "INSERT INTO sms.outbox (recipient, body, lane, gateway) SELECT '08' || (50000000 + n), {text}, '{lane}', \
             nullif('{gateway}', 'main') FROM generate_series(1, {rows}) AS n"
        ))
        .await;
        self.settle().await;
    }

    async fn settle(&self) {
        self.run("VACUUM ANALYZE sms.outbox").await;
        self.run("CHECKPOINT").await;
    }

    /// So many rows in all that were delivered long ago.
    pub(crate) async fn fill(&mut self, rows: u32) {
        const STEP: u32 = 500_000;
        self.empty().await;
        // As a restore would bring them: triggers would only set what is given here.
        self.run("SET session_replication_role = replica").await;
        let begun = Moment::now();
        for first in (self.finished + 1..=rows).step_by(STEP as usize) {
            let last = (first + STEP - 1).min(rows);
            self.run(&format!(
                "INSERT INTO sms.outbox (app, recipient, body, status, queued, attempts, gateway_ref, encoding, segments, sent_via, \
                     created_at, send_after, sent_at, final_at) \
                 SELECT 'shop', '08' || (50000000 + n), {TEXT}, 'delivered', false, 1, 'o' || n || '-1-bench', 'gsm7', 1, 'main', \
                     now() - interval '9 days', now() - interval '9 days', now() - interval '9 days', now() - interval '8 days' \
                 FROM generate_series({first}, {last}) AS n"
            ))
            .await;
            println!(
                "filled {last} of {rows} finished rows after {:.0} s",
                (Moment::now() - begun).as_secs_f64()
            );
        }
        self.run("SET session_replication_role = origin").await;
        self.settle().await;
        self.finished = rows;
        self.kept = self.sql.query_one("SELECT max(id) FROM sms.outbox", &[]).await.unwrap().get(0);
    }

    /// Forgets what statements have cost.
    pub(crate) async fn forget_statements(&self) {
        self.run("SELECT pg_stat_statements_reset()").await;
    }

    /// What each of outboxd's statements has cost since: calls, and microseconds of execution, for one of so many messages.
    pub(crate) async fn statements(&self, messages: u32) -> Vec<String> {
        // From PostgreSQL 18 on, the comment with the statement's name is not kept.
        let sql = "SELECT coalesce(substring(query FROM '-- outboxd: (\\S+)'), left(regexp_replace(query, '\\s+', ' ', 'g'), 40)), \
                          sum(calls)::float8, sum(total_exec_time)::float8 * 1000, sum(rows)::float8 \
                   FROM pg_stat_statements AS s JOIN pg_roles AS r ON r.oid = s.userid \
                   WHERE pg_has_role(r.oid, 'outboxd_daemon', 'member') AND NOT r.rolsuper \
                   GROUP BY 1 ORDER BY 3 DESC LIMIT 6";
        let rows = self.sql.query(sql, &[]).await.unwrap();
        let line = |row: &tokio_postgres::Row| {
            let (calls, us): (f64, f64) = (row.get(1), row.get(2));
            let name: Option<&str> = row.get(0);
            format!(
                "  {:<12} {:>8.1} messages a call, {:>6.1} µs a message",
                name.unwrap_or("?"),
                f64::from(messages) / calls,
                us / f64::from(messages)
            )
        };
        rows.iter().map(line).collect()
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

    /// Waits until every result is recorded. Asking costs little, however many are queued.
    pub(crate) async fn until_nothing_is_queued(&self) {
        self.until_zero("SELECT count(*) FROM (SELECT FROM sms.outbox WHERE queued LIMIT 1) AS found").await;
    }

    /// Waits until the newest rows have their results, which are sent last. While a snapshot is open, looking for any that is
    /// queued steps over every entry that has left its index since: that is no cost of what is measured.
    pub(crate) async fn until_newest_are_recorded(&self) {
        self.until_zero(
            "SELECT count(*) FROM (SELECT FROM sms.outbox \
             WHERE id > (SELECT max(id) FROM sms.outbox) - 5000 AND status = 'queued' LIMIT 1) AS found",
        )
        .await;
    }

    /// Waits for so many requests more than these.
    pub(crate) async fn until_posts_since(&self, posts: u64, more: u64) {
        while self.sink.posts() < posts + more {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Statements of daemons since the last [`Site::forget_statements`], BEGIN and COMMIT among them.
    pub(crate) async fn statements_of_daemons(&self) -> f64 {
        let sql = "SELECT coalesce(sum(calls), 0)::float8 FROM pg_stat_statements AS s JOIN pg_roles AS r ON r.oid = s.userid \
                   WHERE pg_has_role(r.oid, 'outboxd_daemon', 'member') AND NOT r.rolsuper";
        self.sql.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// Row versions that daemons left behind so far, and how many of the updates wrote no index. Waits until no daemon is
    /// connected: a session's counts are complete when it has ended.
    pub(crate) async fn row_versions(&self) -> (f64, f64) {
        self.until_zero(
            "SELECT count(*) FROM pg_stat_activity AS a JOIN pg_roles AS r ON r.oid = a.usesysid \
             WHERE pg_has_role(r.oid, 'outboxd_daemon', 'member') AND NOT r.rolsuper AND a.datname = current_database()",
        )
        .await;
        let sql = "SELECT sum(n_tup_upd + n_tup_del)::float8, sum(n_tup_hot_upd)::float8 FROM pg_stat_all_tables \
                   WHERE schemaname IN ('sms', 'outboxd')";
        let row = self.sql.query_one(sql, &[]).await.unwrap();
        (row.get(0), row.get(1))
    }

    /// Bytes of all indexes of the outbox and of what the daemon keeps.
    pub(crate) async fn index_bytes(&self) -> f64 {
        let sql = "SELECT sum(pg_indexes_size(relid))::float8 FROM pg_stat_all_tables WHERE schemaname IN ('sms', 'outboxd')";
        self.sql.query_one(sql, &[]).await.unwrap().get(0)
    }
}

async fn led(daemon: Daemon) -> Daemon {
    daemon.wait_log(Duration::from_secs(30), "leading").await;
    daemon
}

/// SQL of the text of message `n`: about what an appointment reminder has, and its number.
pub(crate) const TEXT: &str =
    "'Your appointment is on Tuesday at half past ten, reply STOP to opt out #' || n";
