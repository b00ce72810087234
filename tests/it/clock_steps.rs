//! Wall clocks that step, forwards and back, by an hour and by a day: the daemon's and the database's. Leases and pauses
//! go by the time since the boot; what is due, expires or is stale goes by the database's clock.

use std::time::Duration;

use serde_json::json;

use crate::support::books::Committed;
use crate::support::clock::WallClock;
use crate::support::cluster::Cluster;
use crate::support::daemon::Daemon;
use crate::support::site::{LIMIT, Lines, Site};

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;
const EIGHT_AT_ONCE: Lines<'_> = Lines { queue: "", gateway: "concurrency = 8", more: "", receipts: false };

#[tokio::test]
async fn steps_of_the_daemons_clock_in_a_drain_change_nothing() {
    let Some(clock) = WallClock::new() else { return };
    let site = Site::new("daemon_clock").await;
    // Tokens are fetched again and again: their life is counted too.
    site.sim
        .settings(&json!({"answers": {"latency_ms": 10, "jitter_ms": 20}, "auth": {"token_life_ms": 2_000}}))
        .await;
    let daemon = Daemon::spawn_with(&site.config(EIGHT_AT_ONCE), |command| {
        command.envs(clock.environment());
    });
    daemon.wait_log(LIMIT, "leading").await;
    let mut committed = Committed::default();
    for (round, seconds) in [HOUR, 0, -HOUR, DAY, -DAY, 0].into_iter().enumerate() {
        site.queue_texts(&mut committed, &format!("clock {seconds} {round}"), 300).await;
        let sent = site.sim_count("accepted").await;
        site.sim_reaches(&format!("accepted={}", sent + 50)).await;
        clock.set(seconds);
        site.until_all_sent(&committed).await;
    }
    assert_eq!((daemon.logged("leading"), daemon.logged("lost leadership")), (1, 0), "{}", daemon.log());
    assert_eq!(site.alarms().await, []);
    daemon.assert_memory_bounded();
}

/// The library that steps the server's clock shows its signal handlers the true one: a server that is behind ends idle
/// sessions as soon as it looks, and with them the leader's. With a long lease it looks seldom.
const LONG_LEASE: Lines<'_> =
    Lines { queue: "lease = \"60s\"", gateway: "concurrency = 8", more: "", receipts: false };

/// A site whose database goes by a clock of the test's.
async fn site_by(clock: &WallClock, hint: &str) -> (Cluster, Site) {
    let mut cluster = Cluster::start("fsync = off").await;
    cluster.stop(crate::support::cluster::Stop::Fast).await;
    for (name, value) in clock.environment() {
        cluster.set_environment(name, value);
    }
    cluster.run().await;
    let site = Site::in_cluster(&cluster, hint, false).await;
    (cluster, site)
}

impl Site {
    /// Waits until the database goes by this step of its clock.
    async fn until_stepped(&self, seconds: i64) {
        let true_now = jiff::Timestamp::now().as_second();
        let sql = format!("SELECT abs(extract(epoch FROM clock_timestamp()) - {}) < 600", true_now + seconds);
        self.until_true("the database's clock has stepped", &sql).await;
    }
}

/// Rows that were queued before it are due in an hour, by the new clock; who inserted them said "now".
#[tokio::test]
async fn steps_of_the_databases_clock_by_an_hour_in_a_drain_lose_double_and_delay_nothing() {
    let Some(clock) = WallClock::new() else { return };
    let (_cluster, site) = site_by(&clock, "database_clock").await;
    site.sim.settings(&json!({"answers": {"latency_ms": 20}})).await;
    let daemon = site.daemon(LONG_LEASE).await;
    let mut committed = Committed::default();
    let scheduled = site
        .insert("(recipient, body, send_after) VALUES ('0871234567', 'later', now() + interval '30 min')")
        .await;
    for (round, seconds) in [-HOUR, 0, -HOUR].into_iter().enumerate() {
        site.queue_texts(&mut committed, &format!("clock {round}"), 800).await;
        let sent = site.sim_count("accepted").await;
        site.sim_reaches(&format!("accepted={}", sent + 50)).await;
        clock.set(seconds);
        site.until_stepped(seconds).await;
        assert!(site.counts().await.of("queued") > 1, "in the drain");
        site.queue_texts(&mut committed, &format!("after {round}"), 10).await;
        site.until_counts("all are sent but the scheduled one", |counts| counts.of("queued") == 1).await;
        assert_eq!(site.row(scheduled).await.attempts, 0);
    }
    site.run(&format!("SELECT sms.cancel({scheduled}); DELETE FROM sms.outbox WHERE id = {scheduled}")).await;
    site.assert_books(&committed).await;
    daemon.assert_memory_bounded();
}

/// After a day nobody wants yesterday's messages unasked: the stale guard takes the new clock at its word.
#[tokio::test]
async fn a_step_of_the_databases_clock_by_a_day_holds_what_waited_and_sends_what_comes() {
    let Some(clock) = WallClock::new() else { return };
    let (_cluster, site) = site_by(&clock, "database_day").await;
    let daemon = site.daemon(LONG_LEASE).await;
    site.freeze().await;
    let mut committed = Committed::default();
    site.queue_texts(&mut committed, "yesterday", 2_500).await;
    site.sim_reaches("frozen=8").await;
    clock.set(DAY + 60);
    site.until_stepped(DAY + 60).await;
    site.thaw().await;
    site.queue_texts(&mut committed, "today", 100).await;
    let today = "SELECT count(*) = 100 FROM sms.outbox WHERE body LIKE 'today%' AND status = 'accepted'";
    site.until_true("what comes is sent", today).await;
    let held = "SELECT count(*) FILTER (WHERE held AND error_code = 'held_stale') > 0 AND count(*) FILTER (WHERE queued) = 0 \
                FROM sms.outbox";
    site.until_true("what waited is sent or held", held).await;
    // And back: nothing of it comes by itself, and a person may let it go.
    clock.set(0);
    site.until_stepped(0).await;
    site.queue_texts(&mut committed, "again", 100).await;
    let again = "SELECT count(*) = 100 FROM sms.outbox WHERE body LIKE 'again%' AND status = 'accepted'";
    site.until_true("what comes is sent", again).await;
    site.run("SELECT sms.retry(id) FROM sms.outbox WHERE held").await;
    site.until_all_sent(&committed).await;
    daemon.assert_memory_bounded();
}

/// The register says until when the doorbell is to ring, by a clock that then steps.
#[tokio::test]
async fn a_sleeping_daemon_is_woken_within_a_poll_whatever_the_databases_clock_did() {
    let Some(clock) = WallClock::new() else { return };
    let (_cluster, site) = site_by(&clock, "clock_asleep").await;
    let daemon = site.daemon(LONG_LEASE).await;
    for seconds in [HOUR, -HOUR, DAY, 0] {
        site.until_asleep(&daemon).await;
        clock.set(seconds);
        site.until_stepped(seconds).await;
        let begun = std::time::Instant::now();
        let (id, _) = site.queue(1).await;
        site.until(id, "accepted").await;
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(5 + 3), "the poll is 5 s, it took {took:?} at {seconds}");
    }
    site.assert_nothing_twice().await;
}
