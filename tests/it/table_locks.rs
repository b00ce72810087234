//! Locks that others hold: maintenance that rewrites the table, a table locked for longer than any statement may take,
//! and transactions that somebody left open over single rows. The daemon waits where it must, and goes on by itself.

use std::time::Duration;

use serde_json::json;

use crate::support::application::Application;
use crate::support::books::Committed;
use crate::support::site::{LIMIT, Lines, Site};

const EIGHT_AT_ONCE: Lines<'_> = Lines { queue: "", gateway: "concurrency = 8", more: "", receipts: false };

/// What administrators do to big tables, on all that is written while sending.
const MAINTENANCE: [&str; 12] = [
    "VACUUM FULL sms.outbox",
    "CLUSTER sms.outbox USING outbox_pkey",
    "REINDEX TABLE sms.outbox",
    "REINDEX TABLE CONCURRENTLY sms.outbox",
    "CREATE INDEX CONCURRENTLY by_recipient ON sms.outbox (recipient)",
    "DROP INDEX CONCURRENTLY sms.by_recipient",
    "VACUUM (FREEZE, ANALYZE) sms.outbox",
    "ALTER TABLE sms.outbox SET (fillfactor = 50)",
    "ALTER TABLE sms.outbox ADD COLUMN remark text DEFAULT gen_random_uuid()::text",
    "VACUUM FULL outboxd.wave",
    "VACUUM FULL outboxd.leader",
    "REINDEX SCHEMA outboxd",
];

#[tokio::test]
async fn maintenance_that_locks_and_rewrites_the_tables_in_a_drain_loses_and_doubles_nothing() {
    let site = Site::new("maintenance").await;
    site.sim.settings(&json!({"answers": {"latency_ms": 20}})).await;
    let daemon = site.daemon(EIGHT_AT_ONCE).await;
    let application = Application::start(&site, "meanwhile");
    let mut committed = Committed::default();
    for (round, what) in MAINTENANCE.into_iter().enumerate() {
        let before = site.sim_count("accepted").await;
        site.queue_texts(&mut committed, &format!("round {round}"), 100).await;
        site.sim_reaches(&format!("accepted={}", before + 30)).await;
        site.run(what).await;
    }
    committed.add_all_of(application.stop().await);
    site.until_all_sent(&committed).await;
    assert_eq!(daemon.logged("lost leadership"), 0, "{}", daemon.log());
    assert_eq!(site.alarms().await, []);
    daemon.assert_memory_bounded();
}

/// Answers come while it is locked, and cannot be written. Statements are given up meanwhile, and tried again.
async fn outlasts(lock: &str) {
    let mut site = Site::new("locked_table").await;
    site.daemon_database = "timeout = \"2s\"".to_owned();
    let daemon = site.daemon(EIGHT_AT_ONCE).await;
    let mut committed = Committed::default();
    site.queue_texts(&mut committed, "text", 300).await;
    site.sim_reaches("accepted=30").await;
    site.freeze().await;
    site.sim_reaches("frozen=8").await;
    let mut other = site.db.client().await;
    let transaction = other.transaction().await.unwrap();
    transaction.batch_execute(lock).await.unwrap();
    site.thaw().await;
    // One or the other is said after five seconds, with who it is.
    let pid: i32 = transaction.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let said = daemon.wait_log(LIMIT, &format!("process {pid} of postgres (AccessExclusiveLock on ")).await;
    assert!(said.contains("WARN"), "{said}");
    let requests = site.sim_count("requests").await;
    assert!(requests < 300, "what is not recorded keeps its place: {requests}");
    transaction.rollback().await.unwrap();
    site.until_all_sent(&committed).await;
    assert_eq!(daemon.logged("lost leadership"), 0, "{}", daemon.log());
    let complaints = daemon.logged(" WARN ") + daemon.logged(" ERROR ");
    assert!(complaints <= 6, "{lock}: each is told once: {}", daemon.log());
}

#[tokio::test]
async fn tables_that_are_locked_for_longer_than_a_statement_may_take_delay_and_cost_nothing() {
    tokio::join!(
        outlasts("LOCK TABLE sms.outbox IN ACCESS EXCLUSIVE MODE"),
        outlasts("LOCK TABLE outboxd.wave IN ACCESS EXCLUSIVE MODE"),
        outlasts("LOCK TABLE outboxd.leader IN ACCESS EXCLUSIVE MODE"),
    );
}

/// Somebody looked at rows with FOR UPDATE and went to lunch: rows that wait, and rows that are under way.
#[tokio::test]
async fn rows_that_somebody_keeps_locked_delay_no_others_and_are_accounted_for_when_they_are_free() {
    let site = Site::new("locked_rows").await;
    let daemon = site.daemon(EIGHT_AT_ONCE).await;
    let mut committed = Committed::default();
    site.freeze().await;
    site.queue_texts(&mut committed, "text", 300).await;
    site.sim_reaches("frozen=8").await;
    let mut other = site.db.client().await;
    let transaction = other.transaction().await.unwrap();
    let locked = "SELECT id FROM sms.outbox WHERE id % 100 = 90 \
                  OR id IN (SELECT unnest(ids) FROM outboxd.wave ORDER BY 1 LIMIT 3) FOR UPDATE";
    let locked = transaction.query(locked, &[]).await.unwrap().len();
    assert_eq!(locked, 6);
    let pid: i32 = transaction.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    site.thaw().await;
    let rest = i64::try_from(300 - locked).unwrap();
    site.until_counts("the others are sent", |counts| counts.of("accepted") == rest).await;
    let said = daemon.wait_log(LIMIT, "results wait: somebody keeps their rows locked").await;
    assert!(said.contains(&format!("process {pid} of postgres (RowShareLock on sms.outbox)")), "{said}");
    site.queue_texts(&mut committed, "later", 100).await;
    site.until_counts("and those that come", |counts| counts.of("accepted") == rest + 100).await;
    transaction.rollback().await.unwrap();
    site.until_all_sent(&committed).await;
    daemon.wait_log(LIMIT, "no result waits for a lock any more").await;
    assert_eq!(daemon.logged("results wait"), 1, "{}", daemon.log());
    assert_eq!(daemon.logged("lost leadership"), 0, "{}", daemon.log());
}

/// The rows are called unknown before anything else is sent. That waits for who holds them, and says so once.
#[tokio::test]
async fn a_takeover_waits_for_locked_rows_that_were_under_way_and_says_so_once() {
    let site = Site::new("locked_takeover").await;
    let mut first = site.daemon(EIGHT_AT_ONCE).await;
    site.freeze().await;
    site.queue(20).await;
    site.sim_reaches("frozen=8").await;
    first.kill9();
    site.thaw().await;
    let mut other = site.db.client().await;
    let transaction = other.transaction().await.unwrap();
    let one = "SELECT FROM sms.outbox WHERE id = (SELECT ids[1] FROM outboxd.wave LIMIT 1) FOR UPDATE";
    transaction.batch_execute(one).await.unwrap();
    let second = crate::support::daemon::Daemon::start(&site.config(EIGHT_AT_ONCE)).await;
    second.wait_log(LIMIT, "is locked by somebody; waiting for it").await;
    // Several tries later.
    assert!(tokio::time::timeout(Duration::from_secs(12), std::future::pending::<()>()).await.is_err());
    assert_eq!(second.logged("is locked by somebody"), 1, "{}", second.log());
    assert_eq!(second.logged("leading"), 0, "{}", second.log());
    transaction.rollback().await.unwrap();
    let counts =
        site.until_counts("every row has an end", |counts| counts.only(&["accepted", "unknown"])).await;
    // What stood in a wave, sent or not.
    assert!((8..=16).contains(&counts.of("unknown")), "{counts:?}");
    site.assert_nothing_twice().await;
}
