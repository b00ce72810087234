//! PostgreSQL goes and comes back, in every way that it has: the daemon goes on by itself, nothing is lost or doubled,
//! and the log says so once.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

use crate::support::application::Application;
use crate::support::books::Committed;
use crate::support::cluster::{Cluster, Stop};
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::figures::Figures;
use crate::support::postgres::in_full;
use crate::support::site::{LIMIT, Lines, Site};

const EIGHT_AT_ONCE: Lines<'_> = Lines { queue: "", gateway: "concurrency = 8", more: "", receipts: false };
/// What a server has written survives its death, though not the machine's: quicker, and the same to the daemon.
const NO_FSYNC: &str = "fsync = off";
/// What a busy machine may add to a bound.
const ALLOWANCE: Duration = Duration::from_secs(2);

/// What one trouble may come to in the log: each of those who work with the database says each reason once, and a
/// restart gives several: the connection lost, shutting down, refused, starting up, not yet accepting.
const MOST_COMPLAINTS: usize = 14;

/// How many lines of the log tell a person that something is wrong.
fn complaints(daemon: &Daemon) -> usize {
    daemon.logged(" WARN ") + daemon.logged(" ERROR ")
}

#[tokio::test]
async fn postgresql_that_is_restarted_in_a_drain_three_times_in_each_way_loses_and_doubles_nothing() {
    let mut cluster = Cluster::start(NO_FSYNC).await;
    let mut site = Site::in_cluster(&cluster, "restarts", false).await;
    site.sim.settings(&json!({"answers": {"latency_ms": 5, "jitter_ms": 10}})).await;
    let daemon = site.daemon(EIGHT_AT_ONCE).await;
    let (one, other) = (Application::start(&site, "one"), Application::start(&site, "other"));
    for how in [Stop::Fast, Stop::Immediate, Stop::Kill] {
        for _ in 0..3 {
            let accepted = site.sim_count("accepted").await;
            site.sim_reaches(&format!("accepted={}", accepted + 60)).await;
            cluster.restart(how).await;
        }
    }
    let mut committed = one.stop().await;
    committed.add_all_of(other.stop().await);
    site.reconnect().await;
    // The daemon lives, so it knows what became of each.
    site.until_all_sent(&committed).await;
    assert!(daemon.logged("leading") >= 10, "{}", daemon.log());
    assert!(
        complaints(&daemon) <= 9 * MOST_COMPLAINTS,
        "{} complaints: {}",
        complaints(&daemon),
        daemon.log()
    );
    daemon.assert_memory_bounded();
}

/// From the server's readiness to the first request, after outages of several lengths: the daemon's pauses grow in them.
/// Of the two seconds at most one is waiting, for the lock session and for the recorder; the rest is work.
#[tokio::test]
async fn after_postgresql_comes_back_the_daemon_sends_again_within_two_seconds() {
    let mut cluster = Cluster::start(NO_FSYNC).await;
    let mut site = Site::in_cluster(&cluster, "comes_back", false).await;
    let daemon = site.daemon(EIGHT_AT_ONCE).await;
    let mut committed = Committed::default();
    let mut figures = [Figures::default(), Figures::default()];
    for round in 0..12 {
        let how = [Stop::Fast, Stop::Immediate, Stop::Kill][round % 3];
        let in_a_drain = round % 2 == 0;
        if in_a_drain {
            // All places are taken when the server goes, and their results cannot be written.
            site.freeze().await;
            site.queue_texts(&mut committed, &format!("drain {round}"), 200).await;
            site.sim_reaches("frozen=8").await;
        } else {
            site.until_all_sent(&committed).await;
        }
        cluster.stop(how).await;
        daemon.until_logged(round + 1, "lost leadership").await;
        site.thaw().await;
        site.sim_reaches("idle=1").await;
        let requests = site.sim_count("requests").await;
        // The length of the outage is part of the fault.
        tokio::time::sleep(Duration::from_millis(u64::try_from(round / 3).unwrap() * 500)).await;
        cluster.run().await;
        let begun = Instant::now();
        site.reconnect().await;
        if !in_a_drain {
            site.queue_texts(&mut committed, &format!("idle {round}"), 1).await;
        }
        site.sim_reaches(&format!("requests={}", requests + 1)).await;
        figures[round % 2].add(begun.elapsed());
    }
    println!("first request after a restart: in a drain {}, idle {}", figures[0], figures[1]);
    for figures in figures {
        assert!(figures.median() < Duration::from_secs(2), "{figures}");
        assert!(figures.greatest() < Duration::from_secs(2) + ALLOWANCE, "{figures}");
    }
    site.until_all_sent(&committed).await;
    daemon.assert_memory_bounded();
}

#[tokio::test]
async fn a_server_that_is_starting_up_for_seconds_is_waited_for() {
    let mut cluster = Cluster::start(NO_FSYNC).await;
    let mut site = Site::in_cluster(&cluster, "starting_up", false).await;
    let daemon = site.daemon(EIGHT_AT_ONCE).await;
    let application = Application::start(&site, "patient");
    site.sim_reaches("accepted=50").await;
    cluster.stop(Stop::Fast).await;
    cluster.start_up_without_end().await;
    daemon.wait_log(LIMIT, "[57P03]").await;
    // So does one that starts meanwhile.
    let late = Daemon::spawn(&site.config(EIGHT_AT_ONCE));
    late.wait_log(LIMIT, "waiting for the database").await;
    daemon.wait_log(LIMIT, "cannot become leader yet").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(complaints(&daemon) <= MOST_COMPLAINTS, "it is said once: {}", daemon.log());
    cluster.stop(Stop::Fast).await;
    cluster.run().await;
    let committed = application.stop().await;
    site.reconnect().await;
    site.until_all_sent(&committed).await;
    daemon.until_logged(1, "leading").await;
    late.wait_log(LIMIT, "ready").await;
    assert_eq!(late.logged("waiting for the database"), 1);
}

#[tokio::test]
async fn connections_that_are_cut_again_and_again_lose_and_double_nothing() {
    let site = Site::new("cut_again").await;
    site.sim.settings(&json!({"answers": {"latency_ms": 3, "jitter_ms": 5}})).await;
    let daemon = site.daemon(EIGHT_AT_ONCE).await;
    let application = Application::start(&site, "cut off");
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
               WHERE datname = current_database() AND pid <> pg_backend_pid()";
    for round in 1..=20 {
        site.sim_reaches(&format!("accepted={}", round * 10)).await;
        site.run(cut).await;
    }
    let committed = application.stop().await;
    site.until_all_sent(&committed).await;
    site.until_true("no wave is left", "SELECT NOT EXISTS (SELECT FROM outboxd.wave WHERE ids <> '{}')")
        .await;
    daemon.assert_memory_bounded();
}

/// Runs SQL in the cluster's own database: the outbox's may be closed to everybody.
async fn administer(cluster: &Cluster, sql: &str) {
    let client = cluster.client("postgres").await;
    if let Err(error) = client.batch_execute(sql).await {
        panic!("{sql}: {}", in_full(&error));
    }
}

/// Ends whatever the role has open, and waits until it is gone.
async fn throw_out(cluster: &Cluster, role: &str) {
    let client = cluster.client("postgres").await;
    let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = $1";
    eventually(LIMIT, "the role has no session", async || {
        let open: i64 = client.query_one(sql, &[&role]).await.unwrap().get(0);
        if open == 0 { Ok(()) } else { Err(open) }
    })
    .await;
}

/// Each is made while the daemon is shut out, holds for a while, and is undone: nobody restarts the daemon.
#[tokio::test]
async fn a_server_that_does_not_let_the_daemon_in_is_waited_for_whatever_its_reason() {
    let cluster = Cluster::start("fsync = off\npassword_encryption = 'scram-sha-256'").await;
    let mut site = Site::in_cluster(&cluster, "shut_out", false).await;
    let (role, name) = (site.db.role("daemon"), site.db.name().to_owned());
    administer(&cluster, &format!("ALTER ROLE {role} PASSWORD 'right'")).await;
    let hba = std::fs::read_to_string(cluster.data().join("pg_hba.conf")).unwrap();
    let set_hba = async |line: &str| {
        std::fs::write(cluster.data().join("pg_hba.conf"), format!("{line}\n{hba}")).unwrap();
        administer(&cluster, "SELECT pg_reload_conf()").await;
    };
    let password = format!("local all {role} scram-sha-256");
    set_hba(&password).await;
    let config = site.config(EIGHT_AT_ONCE).replace("[database]\n", "[database]\npassword = \"right\"\n");
    let daemon = Daemon::start(&config).await;
    daemon.wait_log(LIMIT, "leading").await;

    let grant = format!("CREATE ROLE {role} LOGIN PASSWORD 'right' IN ROLE outboxd_daemon");
    let hindrances = [
        (format!("ALTER ROLE {role} NOLOGIN"), format!("ALTER ROLE {role} LOGIN"), "[28000]"),
        (
            format!("ALTER ROLE {role} CONNECTION LIMIT 0"),
            format!("ALTER ROLE {role} CONNECTION LIMIT -1"),
            "[53300]",
        ),
        (
            format!("ALTER ROLE {role} PASSWORD 'wrong'"),
            format!("ALTER ROLE {role} PASSWORD 'right'"),
            "[28P01]",
        ),
        (format!("DROP ROLE {role}"), grant, "[28"),
        (
            format!("ALTER DATABASE {name} RENAME TO away"),
            format!("ALTER DATABASE away RENAME TO {name}"),
            "[3D000]",
        ),
        (format!("REVOKE outboxd_daemon FROM {role}"), format!("GRANT outboxd_daemon TO {role}"), "[42501]"),
    ];
    let mut committed = Committed::default();
    for (round, (hinder, undo, code)) in hindrances.iter().enumerate() {
        site.queue_texts(&mut committed, &format!("{code} {round}"), 60).await;
        let (terms, before) = (daemon.logged("leading"), complaints(&daemon));
        site.sim_reaches(&format!("accepted={}", round * 60 + 10)).await;
        // Nobody is in while it is made.
        set_hba(&format!("local all {role} reject")).await;
        throw_out(&cluster, &role).await;
        site.sql = cluster.client("postgres").await;
        administer(&cluster, hinder).await;
        set_hba(&password).await;
        daemon.wait_log(LIMIT, code).await;
        // It lasts.
        tokio::time::sleep(Duration::from_millis(700)).await;
        administer(&cluster, undo).await;
        site.reconnect().await;
        site.until_all_sent(&committed).await;
        daemon.until_logged(terms + 1, "leading").await;
        let said = complaints(&daemon) - before;
        assert!(said <= MOST_COMPLAINTS, "{said} complaints of {hinder}: {}", daemon.log());
    }
    assert!(!daemon.log().contains("right"), "no password in the log");
    daemon.assert_memory_bounded();
}

#[tokio::test]
async fn a_server_whose_connections_others_have_used_up_is_waited_for_and_used_again() {
    let mut cluster = Cluster::start("fsync = off\nmax_connections = 16").await;
    let mut site = Site::in_cluster(&cluster, "used_up", false).await;
    administer(&cluster, "CREATE ROLE greedy LOGIN").await;
    let mut committed = Committed::default();
    // Before the daemon comes, and while it works.
    let greed = take_all_connections(&cluster).await;
    let mut early = Daemon::spawn(&site.config(EIGHT_AT_ONCE));
    early.wait_log(LIMIT, "[53300]").await;
    drop(greed);
    early.wait_log(LIMIT, "leading").await;

    let role = site.db.role("daemon");
    site.queue_texts(&mut committed, "used up", 400).await;
    site.sim_reaches("accepted=100").await;
    administer(&cluster, &format!("ALTER ROLE {role} CONNECTION LIMIT 0")).await;
    throw_out(&cluster, &role).await;
    let greed = take_all_connections(&cluster).await;
    administer(&cluster, &format!("ALTER ROLE {role} CONNECTION LIMIT -1")).await;
    early.wait_log(LIMIT, "remaining connection slots").await;
    drop(greed);
    site.until_all_sent(&committed).await;

    // With fewer than it would like it still works: the lock session, the one that listens, and two for everything else.
    cluster.configure("max_connections = 9");
    cluster.restart(Stop::Fast).await;
    site.reconnect().await;
    site.queue_texts(&mut committed, "few", 200).await;
    site.until_all_sent(&committed).await;
    early.assert_memory_bounded();
    early.terminate();
    assert!(early.wait_exit(LIMIT).await.success());
}

/// Every connection that an ordinary role may have.
async fn take_all_connections(cluster: &Cluster) -> Vec<Client> {
    let mut taken = Vec::new();
    loop {
        match cluster.config("postgres").user("greedy").connect(NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                taken.push(client);
            }
            Err(error) => {
                assert_eq!(error.code(), Some(&SqlState::TOO_MANY_CONNECTIONS), "{}", in_full(&error));
                return taken;
            }
        }
    }
}
