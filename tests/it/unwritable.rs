//! Results that cannot be written while the gateway goes on taking messages; connections that fall silent; locks that
//! somebody keeps. Nothing is sent twice, nothing piles up, and people are told once and in words.
//!
//! `OUTBOXD_UNWRITABLE=60` lets the first three last for a minute. The 12 s of a usual run are longer than whatever the
//! product counts in that case: the lease (1 s), the pauses of the recorder (2 s and 5 s), the database's time limit (1 s).

use std::time::{Duration, Instant};

use crate::support::daemon::Daemon;
use crate::support::site::{LIMIT, Lines, Site};
use crate::support::wire::{Calls, Cut, Fault, Wire};

/// What may stand in waves of a gateway that answers at once: eight times its `concurrency`.
const MOST_UNDER_WAY: u64 = 8 * 8;
const LINES: Lines<'_> = Lines {
    queue: "lease = \"1s\"\npoll_interval = \"1s\"\nlookahead = 100",
    gateway: "concurrency = 8",
    more: "",
    receipts: false,
};
const ROWS: i32 = 400;
/// What the daemon may use, in kilobytes of resident memory at its peak.
const MOST_MEMORY_KB: u64 = 100 * 1024;

async fn site(hint: &str) -> (Site, Wire) {
    let mut site = Site::new(hint).await;
    let wire = Wire::to_cluster();
    site.route_through(&wire);
    site.daemon_database = "timeout = \"1s\"".to_owned();
    (site, wire)
}

fn how_long() -> Duration {
    let given = std::env::var("OUTBOXD_UNWRITABLE").ok();
    Duration::from_secs(given.map_or(12, |seconds| seconds.parse().expect("seconds")))
}

/// The most memory that the process ever had, as the kernel counts it.
fn peak_memory_kb(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn lines_with<'a>(log: &'a str, text: &str) -> Vec<&'a str> {
    log.lines().filter(|line| line.contains(text)).collect()
}

/// The gateway takes what it is sent, and for a time no result can be written.
async fn while_no_result_is_written(hint: &str, fault: Fault) -> (Site, Daemon) {
    let (site, wire) = site(hint).await;
    let daemon = site.daemon(LINES).await;
    let failing = wire.plan(Calls::running("record").always(), fault);
    site.queue(ROWS).await;
    failing.reached(LIMIT).await;
    site.sim_reaches("idle=1").await;
    let begun = Instant::now();
    let mut most = 0;
    while begun.elapsed() < how_long() {
        most = site.sim_count("requests").await;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    assert!((1..=MOST_UNDER_WAY).contains(&most), "{most} requests were made");
    let counts = site.counts().await;
    assert_eq!(counts.of("queued"), i64::from(ROWS), "nothing could be written: {counts:?}");
    assert!(failing.times() > 1, "it was tried again");
    wire.lift();
    site.until_counts("every row is sent", |counts| counts.of("accepted") == i64::from(ROWS)).await;
    assert_eq!(site.sim_count("requests").await, u64::try_from(ROWS).unwrap(), "each was sent once");
    site.assert_nothing_twice().await;
    let tried = "SELECT count(*) FROM sms.outbox WHERE attempts <> 1";
    assert_eq!(site.number(tried).await, 0);
    let memory = peak_memory_kb(&daemon);
    eprintln!(
        "{hint}: {most} requests in {:?}, {} records failed, peak {memory} kB",
        how_long(),
        failing.times()
    );
    assert!(memory < MOST_MEMORY_KB, "{memory} kB");
    (site, daemon)
}

#[tokio::test]
async fn while_a_full_disk_refuses_results_nothing_new_is_sent_and_nothing_again() {
    let (_site, daemon) = while_no_result_is_written("disk_full", Fault::Refuse("53100")).await;
    let log = daemon.log();
    assert_eq!(lines_with(&log, "cannot write results").len(), 1, "{log}");
    assert_eq!(lines_with(&log, "results are being written again").len(), 1, "{log}");
}

#[tokio::test]
async fn while_a_revoked_privilege_refuses_results_nothing_new_is_sent_and_nothing_again() {
    let (_site, daemon) = while_no_result_is_written("revoked", Fault::Refuse("42501")).await;
    let log = daemon.log();
    // Each result is tried by itself every few seconds, and all of them for the same reason.
    assert_eq!(lines_with(&log, "ERROR").len(), 1, "{log}");
    assert_eq!(lines_with(&log, "no result is refused any more").len(), 1, "{log}");
}

#[tokio::test]
async fn while_results_are_never_answered_nothing_new_is_sent_and_nothing_again() {
    let (_site, daemon) = while_no_result_is_written("hanging", Fault::Silence).await;
    let log = daemon.log();
    assert_eq!(lines_with(&log, "cannot write results").len(), 1, "{log}");
    assert_eq!(lines_with(&log, "results are being written again").len(), 1, "{log}");
}

#[tokio::test]
async fn while_results_are_written_and_never_answered_they_are_accounted_for_once() {
    let (site, wire) = site("unanswered").await;
    let daemon = site.daemon(LINES).await;
    let failing = wire.plan(Calls::running("record").times(4), Fault::SilenceAfter);
    site.queue(ROWS).await;
    failing.reached(LIMIT).await;
    site.until_counts("every row is sent", |counts| counts.of("accepted") == i64::from(ROWS)).await;
    assert_eq!(failing.times(), 4);
    assert_eq!(site.sim_count("requests").await, u64::try_from(ROWS).unwrap(), "each was sent once");
    site.assert_nothing_twice().await;
    assert_eq!(site.number("SELECT count(*) FROM outboxd.attempt").await, 0, "each result fitted its row");
    site.until_true("every place is free again", "SELECT NOT EXISTS (SELECT FROM outboxd.wave)").await;
    drop(daemon);
}

/// The network forgets the connection that notifications come over, without a word to either side.
#[tokio::test]
async fn a_listening_connection_that_is_half_open_delays_a_row_by_no_more_than_the_poll() {
    let (site, wire) = site("deaf").await;
    let daemon = site.daemon(LINES).await;
    site.until_asleep(&daemon).await;
    wire.silence(wire.connection_of(LIMIT, "listen").await);
    let begun = Instant::now();
    let (id, _) = site.queue(1).await;
    site.until(id, "accepted").await;
    let took = begun.elapsed();
    // The poll's second, and what a busy machine may add.
    assert!(took < Duration::from_secs(4), "{took:?}");
    daemon.wait_log(LIMIT, "notifications do not come through").await;
    daemon.wait_log(LIMIT, "notifications come through again").await;
    site.until_asleep(&daemon).await;
    let (id, _) = site.queue(1).await;
    site.until(id, "accepted").await;
    site.assert_nothing_twice().await;
}

/// Whether the leader's connection is cut or falls silent: what is under way is finished and recorded, nothing is called
/// unknown, and it leads again by itself.
#[tokio::test]
async fn a_leader_whose_session_is_cut_or_falls_silent_leads_again_and_doubles_nothing() {
    for silent in [false, true] {
        let (site, wire) = site("session").await;
        let daemon = site.daemon(LINES).await;
        site.sim.settings(&serde_json::json!({"answers": {"latency_ms": 20}})).await;
        site.queue(ROWS).await;
        site.sim_reaches("requests=50").await;
        let session = wire.connection_of(LIMIT, "lock_session").await;
        if silent {
            wire.silence(session);
        } else {
            wire.cut(session, Cut::Reset);
        }
        daemon.wait_log(LIMIT, "lost leadership").await;
        site.until_true("it leads in a new epoch", "SELECT epoch = 2 FROM outboxd.leader").await;
        let counts =
            site.until_counts("every row is sent", |counts| counts.of("accepted") == i64::from(ROWS)).await;
        assert_eq!(counts.of("unknown"), 0);
        site.assert_nothing_twice().await;
    }
}

/// Half-open is the leader's session, and another daemon stands by: the server throws the first one out, though it never
/// hears of its end, and nobody sends in between.
#[tokio::test]
async fn a_leader_whose_session_falls_silent_is_replaced_when_its_lease_is_over() {
    let (site, wire) = site("replaced").await;
    let first = site.daemon(LINES).await;
    let other_wire = Wire::to_cluster();
    let standby = {
        let direct = site.config(LINES).replace(&wire.port().to_string(), &other_wire.port().to_string());
        Daemon::start(&direct).await
    };
    standby.wait_log(LIMIT, "standby").await;
    site.sim.settings(&serde_json::json!({"answers": {"latency_ms": 20}})).await;
    site.queue(ROWS).await;
    site.sim_reaches("requests=50").await;
    wire.silence(wire.connection_of(LIMIT, "lock_session").await);
    standby.wait_log(LIMIT, "leading").await;
    first.wait_log(LIMIT, "lost leadership").await;
    let counts =
        site.until_counts("every row has an end", |counts| counts.only(&["accepted", "unknown"])).await;
    // What the first had under way is unknown to the second, until the first writes what it knows.
    assert_eq!(counts.of("accepted") + counts.of("unknown"), i64::from(ROWS));
    site.until_counts("the first has recorded its results", |counts| counts.of("unknown") == 0).await;
    site.assert_nothing_twice().await;
}

/// Somebody locks a table, or the leader's row, and keeps it.
async fn told_of_a_lock(lock: &str) {
    let site = Site::new("lock_table").await;
    let daemon = site.daemon(LINES).await;
    let mut other = site.db.client().await;
    let pid: i32 = other.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let transaction = other.transaction().await.unwrap();
    transaction.batch_execute(lock).await.unwrap();
    let row = site.db.client().await;
    // A lock of the outbox keeps the application waiting as well.
    let inserting = tokio::spawn(async move {
        let sql = "INSERT INTO sms.outbox (recipient, body) VALUES ('+353871999999', 'text')";
        row.batch_execute(sql).await.unwrap();
    });
    let said = daemon.wait_log(LIMIT, "somebody holds a lock").await;
    assert!(said.contains("WARN") && said.contains(&format!("process {pid} ")), "{lock}: {said}");
    // For as long again, and longer: it is not said again.
    assert!(tokio::time::timeout(Duration::from_secs(6), std::future::pending::<()>()).await.is_err());
    transaction.rollback().await.unwrap();
    inserting.await.unwrap();
    daemon.wait_log(LIMIT, "the lock is gone").await;
    site.until_counts("it is sent", |counts| counts.of("accepted") == 1).await;
    let log = daemon.log();
    assert_eq!(lines_with(&log, "somebody holds a lock").len(), 1, "{lock}:\n{log}");
    site.assert_nothing_twice().await;
}

#[tokio::test]
async fn a_lock_that_keeps_everything_from_being_sent_is_told_once_with_who_holds_it() {
    tokio::join!(
        told_of_a_lock("LOCK TABLE outboxd.wave IN SHARE MODE"),
        told_of_a_lock("LOCK TABLE sms.outbox"),
        told_of_a_lock("SELECT sms.hold('never committed')"),
    );
}
