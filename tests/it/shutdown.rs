//! Signals at bad moments, and a log that cannot be written: what was known is not forgotten, what was not known is
//! called unknown, and nothing is sent twice.

use std::fs::OpenOptions;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::support::books::Committed;
use crate::support::cluster::{Cluster, Stop};
use crate::support::daemon::Daemon;
use crate::support::site::{LIMIT, Lines, Site};
use crate::support::wire::{Calls, Cut, Door, Fault, Wire};

/// Where a daemon's log goes.
type Way<'a> = &'a dyn Fn(&mut Command);

const CONCURRENCY: usize = 8;
/// What may stand in waves of a gateway that answers at once.
const MOST_UNKNOWN: usize = 8 * CONCURRENCY;
const EIGHT_AT_ONCE: Lines<'_> = Lines { queue: "", gateway: "concurrency = 8", more: "", receipts: false };

/// A daemon in a drain whose database has gone, with answers that it could not write down.
struct Outage {
    cluster: Cluster,
    site: Site,
    daemon: Daemon,
    committed: Committed,
}

impl Outage {
    async fn begin(hint: &str, lines: Lines<'_>) -> Outage {
        let mut cluster = Cluster::start("fsync = off").await;
        let site = Site::in_cluster(&cluster, hint, false).await;
        let daemon = site.daemon(lines).await;
        let mut committed = Committed::default();
        site.queue_texts(&mut committed, "drain", 300).await;
        site.sim_reaches("accepted=50").await;
        site.freeze().await;
        site.sim_reaches(&format!("frozen={CONCURRENCY}")).await;
        cluster.stop(Stop::Fast).await;
        site.thaw().await;
        site.sim_reaches("idle=1").await;
        daemon.wait_log(LIMIT, "cannot write results").await;
        Outage { cluster, site, daemon, committed }
    }

    async fn end(&mut self) {
        self.cluster.run().await;
        self.site.reconnect().await;
    }

    /// Those that were known to the daemon alone are unknown now, and no others.
    async fn assert_forgotten_are_unknown(&mut self, lines: Lines<'_>) {
        self.end().await;
        let _next = self.site.daemon(lines).await;
        let counts =
            self.site.until_counts("the rest is sent", |counts| counts.only(&["accepted", "unknown"])).await;
        let unknown = counts.of("unknown");
        assert!((1..=i64::try_from(MOST_UNKNOWN).unwrap()).contains(&unknown), "{counts:?}");
        self.site.assert_books(&self.committed).await;
    }
}

#[tokio::test]
async fn a_stop_while_the_database_is_away_gives_up_in_time_and_says_what_that_costs() {
    let lines = Lines { queue: "shutdown_grace = \"300ms\"", ..EIGHT_AT_ONCE };
    let mut outage = Outage::begin("stop_away", lines).await;
    outage.daemon.terminate();
    assert!(!outage.daemon.wait_exit(LIMIT).await.success());
    assert!(outage.daemon.log().contains("will be called unknown"), "{}", outage.daemon.log());
    outage.assert_forgotten_are_unknown(lines).await;
}

#[tokio::test]
async fn a_second_request_to_stop_does_not_wait_for_a_database_that_is_away() {
    // Far beyond what this test waits.
    let lines = Lines { queue: "shutdown_grace = \"120s\"", ..EIGHT_AT_ONCE };
    let mut outage = Outage::begin("stop_twice", lines).await;
    outage.daemon.signal(Signal::INT);
    outage.daemon.wait_log(LIMIT, "stopping").await;
    outage.daemon.signal(Signal::INT);
    assert!(!outage.daemon.wait_exit(LIMIT).await.success());
    outage.assert_forgotten_are_unknown(lines).await;
}

#[tokio::test]
async fn a_stop_while_the_database_is_away_ends_well_if_it_comes_back_in_time() {
    let mut outage = Outage::begin("stop_back", EIGHT_AT_ONCE).await;
    outage.daemon.terminate();
    outage.daemon.wait_log(LIMIT, "stopping").await;
    outage.end().await;
    assert!(outage.daemon.wait_exit(LIMIT).await.success());
    let counts = outage.site.counts().await;
    assert!(counts.only(&["accepted", "queued"]), "{counts:?}");
    outage.site.assert_books(&outage.committed).await;
}

/// A reload stops the engine, and must not forget what only that knows: it waits for the database as the daemon does.
#[tokio::test]
async fn a_reload_while_the_database_is_away_forgets_no_result_however_long_it_takes() {
    // Not 0: the gateway has answered everything, but on a busy machine the daemon may not have read all of it yet.
    let lines = Lines { queue: "shutdown_grace = \"5s\"", ..EIGHT_AT_ONCE };
    let mut outage = Outage::begin("reload_away", lines).await;
    let changed = outage.site.config(lines).replace("\"Demo\"", "\"Changed\"");
    outage.daemon.rewrite(&changed);
    outage.daemon.signal(Signal::HUP);
    outage.daemon.wait_log(LIMIT, "stopping").await;
    // Longer than any stop waits for answers and for its last results.
    tokio::time::sleep(Duration::from_secs(17)).await;
    outage.end().await;
    outage.site.until_all_sent(&outage.committed).await;
    outage.daemon.wait_log(LIMIT, "configuration read again").await;
    let (id, _) = outage.site.queue(1).await;
    let row = outage.site.until(id, "accepted").await;
    assert_eq!(outage.site.in_ledger(&row).await["sender"], "Changed");
}

#[tokio::test]
async fn a_stop_during_a_takeover_leaves_everything_to_the_next_daemon() {
    let site = Site::new("stop_takeover").await;
    let mut committed = Committed::default();
    let mut leader = site.daemon(EIGHT_AT_ONCE).await;
    site.freeze().await;
    site.queue_texts(&mut committed, "takeover", 100).await;
    site.sim_reaches(&format!("frozen={CONCURRENCY}")).await;
    leader.kill9();
    site.sim.control("POST", "thaw?discard=1", None).await;
    let mut other = site.db.client().await;
    let lock = other.transaction().await.unwrap();
    lock.execute("SELECT FROM sms.outbox FOR UPDATE", &[]).await.unwrap();
    let mut next = Daemon::start(&site.config(EIGHT_AT_ONCE)).await;
    let waiting = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() \
                   AND wait_event_type = 'Lock' AND query LIKE '%mark_unknown%')";
    site.until_true("the takeover waits for a row", waiting).await;
    next.terminate();
    let begun = Instant::now();
    assert!(next.wait_exit(LIMIT).await.success());
    assert!(begun.elapsed() < Duration::from_secs(5), "nothing keeps it: it took {:?}", begun.elapsed());
    assert!(!next.log().contains("leading"));
    lock.rollback().await.unwrap();
    let _last = site.daemon(EIGHT_AT_ONCE).await;
    let counts = site.until_counts("the rest is sent", |counts| counts.only(&["accepted", "unknown"])).await;
    assert!((8..=16).contains(&counts.of("unknown")), "{counts:?}");
    site.assert_books(&committed).await;
}

#[tokio::test]
async fn a_stop_leaves_no_wave_behind_for_one_lost_connection() {
    let mut site = Site::new("stop_cut").await;
    let wire = Wire::to_cluster();
    site.route_through(&wire);
    // The first brings the result, the second only says that the wave is finished.
    let last = wire.plan(Calls::running("record").nth(2), Fault::StopBefore);
    let mut daemon = site.daemon(EIGHT_AT_ONCE).await;
    let (id, _) = site.queue(1).await;
    site.until(id, "accepted").await;
    let call = last.reached(LIMIT).await;
    daemon.terminate();
    daemon.wait_log(LIMIT, "stopping").await;
    wire.cut(call.connection, Cut::Reset);
    assert!(daemon.wait_exit(LIMIT).await.success());
    assert_eq!(site.number("SELECT count(*) FROM outboxd.wave WHERE ids <> '{}'").await, 0);
}

#[tokio::test]
async fn a_stop_at_the_start_waits_for_no_database() {
    let site = Site::new("stop_start").await;
    let wire = Wire::to_cluster();
    let config = site
        .config(EIGHT_AT_ONCE)
        .replace(&site.daemon_url, &wire.url(&site.db.role("daemon"), site.db.name()));
    for (door, signal) in [(Door::Reset, Signal::TERM), (Door::Silent, Signal::INT)] {
        wire.door(door);
        let mut daemon = Daemon::spawn(&config);
        match door {
            Door::Reset => _ = daemon.wait_log(LIMIT, "waiting for the database").await,
            // It has nothing to say yet.
            _ => {
                crate::support::eventually(LIMIT, "it tries to connect", async || {
                    if wire.connections() > 0 { Ok(()) } else { Err(()) }
                })
                .await;
            }
        }
        let begun = Instant::now();
        daemon.signal(signal);
        assert!(daemon.wait_exit(LIMIT).await.success());
        assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn reloads_one_after_another_in_a_drain_lose_and_double_nothing() {
    let site = Site::new("reloads").await;
    site.sim.settings(&json!({"answers": {"latency_ms": 5, "jitter_ms": 20}})).await;
    let mut committed = Committed::default();
    let mut daemon = site.daemon(EIGHT_AT_ONCE).await;
    site.queue_texts(&mut committed, "reload", 800).await;
    let config = site.config(EIGHT_AT_ONCE);
    for round in 1..=8 {
        site.sim_reaches(&format!("accepted={}", round * 70)).await;
        let valid = round % 3 != 0;
        let wrong = config.replace("[database]", "[databose]");
        daemon.rewrite(if valid { &config } else { &wrong });
        daemon.signal(Signal::HUP);
        let (said, times) = if valid {
            ("configuration read again", round - round / 3)
        } else {
            ("was not taken over", round / 3)
        };
        daemon.until_logged(times, said).await;
    }
    site.until_all_sent(&committed).await;
    daemon.assert_memory_bounded();
    daemon.signal(Signal::INT);
    assert!(daemon.wait_exit(LIMIT).await.success());
}

#[tokio::test]
async fn a_daemon_whose_log_cannot_be_written_goes_on_sending() {
    let full = |command: &mut Command| {
        command.stderr(OpenOptions::new().write(true).open("/dev/full").unwrap());
    };
    let nobody_reads = |command: &mut Command| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        command.stderr(writer);
    };
    let none = |command: &mut Command| {
        command.stderr(Stdio::null());
    };
    let ways: [(&str, Way<'_>); 3] = [("full", &full), ("closed", &nobody_reads), ("none", &none)];
    for (way, change) in ways {
        let site = Site::new(&format!("log_{way}")).await;
        let mut committed = Committed::default();
        let mut daemon = Daemon::spawn_with(&site.config(EIGHT_AT_ONCE), change);
        site.queue_texts(&mut committed, way, 200).await;
        site.sim_reaches("accepted=50").await;
        // What is worth a word to a person: connections lost, a file that is wrong.
        let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";
        site.run(cut).await;
        daemon.rewrite("nonsense");
        daemon.signal(Signal::HUP);
        site.until_all_sent(&committed).await;
        daemon.terminate();
        assert!(daemon.wait_exit(LIMIT).await.success(), "{way}");
    }
}
