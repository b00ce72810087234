//! The doorbell is taken away while the daemon relies on it, and put back: rows are found by the poll meanwhile, and
//! people are told.

use crate::support::books::Committed;
use crate::support::cli::Cli;
use crate::support::cluster::{Cluster, Stop};
use crate::support::site::{LIMIT, Lines, Site};

/// Far enough away that a row which is found sooner was looked for, and near enough to be waited for.
const QUEUE: &str = "poll_interval = \"2s\"";

/// What makes it silent, what puts it back, and what `outboxd check` advises meanwhile.
const SILENCED: [(&str, &str, &str, &str); 5] = [
    (
        "disabled",
        "ALTER TABLE sms.outbox DISABLE TRIGGER outbox_ring_insert",
        "ALTER TABLE sms.outbox ENABLE TRIGGER outbox_ring_insert",
        "ENABLE TRIGGER outbox_ring_insert;",
    ),
    (
        "all_disabled",
        "ALTER TABLE sms.outbox DISABLE TRIGGER ALL",
        "ALTER TABLE sms.outbox ENABLE TRIGGER ALL",
        "ENABLE TRIGGER outbox_ring_insert;",
    ),
    (
        "on_replicas",
        "ALTER TABLE sms.outbox ENABLE REPLICA TRIGGER outbox_ring_insert",
        "ALTER TABLE sms.outbox ENABLE ALWAYS TRIGGER outbox_ring_insert",
        "ENABLE TRIGGER outbox_ring_insert;",
    ),
    (
        "dropped",
        "DROP TRIGGER outbox_ring_insert ON sms.outbox",
        "CREATE TRIGGER ours AFTER INSERT ON sms.outbox FOR EACH STATEMENT EXECUTE FUNCTION outboxd.ring_if_asleep()",
        "create outbox_ring_insert as `outboxd migrate --print` shows",
    ),
    (
        "function_dropped",
        "ALTER FUNCTION outboxd.ring_if_asleep() RENAME TO aside; \
         CREATE FUNCTION outboxd.ring_if_asleep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "DROP FUNCTION outboxd.ring_if_asleep(); ALTER FUNCTION outboxd.aside() RENAME TO ring_if_asleep",
        "create outbox_ring_insert, outbox_ring_update as `outboxd migrate --print` shows",
    ),
];

async fn works_without(name: &str, silence: &str, restore: &str, advice: &str) {
    let site = Site::new(&format!("bell_{name}")).await;
    let lines = Lines { queue: QUEUE, ..Lines::default() };
    let daemon = site.daemon(lines).await;
    let mut committed = Committed::default();
    site.until_asleep(&daemon).await;
    site.run(silence).await;
    for n in 1..=2 {
        site.queue_texts(&mut committed, &format!("silent {n}"), 3).await;
        site.until_all_sent(&committed).await;
    }
    daemon.wait_log(LIMIT, "not using the doorbell").await;
    site.until_true("the alarm stands", "SELECT count(*) = 1 FROM outboxd.alarm WHERE cleared_at IS NULL")
        .await;
    assert_eq!(site.alarms().await, [("doorbell_silent".to_owned(), String::new())], "{name}");
    let cli = Cli::new(&site.config(lines));
    // Without any trigger nothing keeps the rows sound, which is worse.
    let checked = cli.run(&["check"]).await.expect(if name == "all_disabled" { 78 } else { 0 });
    let line = checked.stdout.lines().find(|line| line.contains("doorbell")).unwrap_or_default();
    assert!(checked.stdout.contains(advice) && !line.is_empty(), "{name}: {checked:#?}");
    let status = cli.run(&["status"]).await;
    assert!(status.stdout.contains("doorbell_silent"), "{name}: {status:#?}");
    let asleep = daemon.logged("fell asleep");

    site.run(restore).await;
    daemon.wait_log(LIMIT, "the doorbell can be used again").await;
    site.until_true("the alarm is over", "SELECT count(*) = 0 FROM outboxd.alarm WHERE cleared_at IS NULL")
        .await;
    daemon.until_logged(asleep + 1, "fell asleep").await;
    site.queue_texts(&mut committed, "rung", 3).await;
    site.until_all_sent(&committed).await;
    assert_eq!(daemon.logged("not using the doorbell"), 1, "{name}: {}", daemon.log());
}

#[tokio::test]
async fn when_the_doorbell_is_taken_away_from_a_sleeping_daemon_it_polls_and_says_so_until_it_is_back() {
    let all = SILENCED.map(|(name, silence, restore, advice)| works_without(name, silence, restore, advice));
    futures_util::future::join_all(all).await;
}

/// A cluster in which applications may prepare transactions.
async fn with_two_phases(hint: &str) -> (Cluster, Site) {
    let cluster = Cluster::start("fsync = off\nmax_prepared_transactions = 8").await;
    let site = Site::in_cluster(&cluster, hint, false).await;
    (cluster, site)
}

/// Inserts rows and prepares their commit.
fn prepare(name: &str, rows: i32) -> String {
    format!(
        "BEGIN; INSERT INTO sms.outbox (recipient, body) \
         SELECT '+35387' || lpad(n::text, 7, '0'), '{name} ' || n FROM generate_series(1, {rows}) AS n; \
         PREPARE TRANSACTION '{name}'"
    )
}

fn texts(name: &str, rows: i32) -> impl Iterator<Item = String> {
    (1..=rows).map(move |n| format!("{name} {n}"))
}

#[tokio::test]
async fn rows_of_prepared_transactions_are_sent_once_when_they_are_committed_and_never_when_rolled_back() {
    let (mut cluster, mut site) = with_two_phases("two_phases").await;
    let lines = Lines { gateway: "concurrency = 8", ..Lines::default() };
    let mut daemon = site.daemon(lines).await;
    assert!(daemon.log().contains("prepared transactions are allowed here"), "{}", daemon.log());
    let mut committed = Committed::default();
    for name in ["kept", "dropped", "over a kill", "over a restart"] {
        site.run(&prepare(name, 20)).await;
    }
    // Higher ids are committed and sent meanwhile.
    site.queue_texts(&mut committed, "higher", 200).await;
    site.until_all_sent(&committed).await;
    site.run("COMMIT PREPARED 'kept'").await;
    committed.add_all(texts("kept", 20));
    site.run("ROLLBACK PREPARED 'dropped'").await;
    site.until_all_sent(&committed).await;

    daemon.kill9();
    let daemon = site.daemon(lines).await;
    site.queue_texts(&mut committed, "after the kill", 200).await;
    site.until_all_sent(&committed).await;
    site.run("COMMIT PREPARED 'over a kill'").await;
    committed.add_all(texts("over a kill", 20));
    site.until_all_sent(&committed).await;

    cluster.restart(Stop::Immediate).await;
    site.reconnect().await;
    daemon.until_logged(2, "leading").await;
    site.queue_texts(&mut committed, "after the restart", 200).await;
    site.until_all_sent(&committed).await;
    site.run("COMMIT PREPARED 'over a restart'").await;
    committed.add_all(texts("over a restart", 20));
    site.until_all_sent(&committed).await;
    assert_eq!(site.alarms().await, []);
    daemon.assert_memory_bounded();
}

/// PostgreSQL does not prepare what has notified. Whoever says `notify` has been told by `outboxd check`.
#[tokio::test]
async fn where_the_doorbell_is_insisted_upon_a_transaction_that_rang_cannot_be_prepared_and_nothing_of_it_is_sent()
 {
    let (_cluster, site) = with_two_phases("two_phases_notify").await;
    let lines = Lines { queue: "wake = \"notify\"\npoll_interval = \"60s\"", ..Lines::default() };
    let client = site.db.client().await;
    let mut committed = Committed::default();
    // One that is prepared before it relies on the doorbell has not rung, and keeps it from falling asleep.
    client.batch_execute(&prepare("silent", 5)).await.unwrap();
    let daemon = site.daemon(lines).await;
    site.until_true("it tries to fall asleep", "SELECT last_value < 0 FROM outboxd.register").await;
    site.queue_texts(&mut committed, "meanwhile", 5).await;
    site.until_all_sent(&committed).await;
    assert!(!daemon.log().contains("fell asleep"), "somebody has not rung yet");
    site.run("COMMIT PREPARED 'silent'").await;
    committed.add_all(texts("silent", 5));
    site.until_all_sent(&committed).await;

    site.until_asleep(&daemon).await;
    let checked = Cli::new(&site.config(lines)).run(&["check"]).await.expect(0);
    let told = "max_prepared_transactions is 8: a transaction that wakes the daemon cannot be prepared";
    assert!(checked.stdout.contains(told), "{checked:#?}");
    let error = client.batch_execute(&prepare("rang", 5)).await.unwrap_err();
    let words = error.as_db_error().map(|error| error.message().to_owned()).unwrap_or_default();
    assert!(words.contains("NOTIFY"), "{error:?}");
    client.batch_execute("ROLLBACK").await.unwrap();
    site.queue_texts(&mut committed, "rings", 5).await;
    site.until_all_sent(&committed).await;
}
