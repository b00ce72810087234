//! Drain: so many queued rows through v2 to the sink, one recipient a request, turn by turn with the machine's limit.
//!
//! outboxd is measured from its first request to its last recorded result, the loops from their first read to their
//! last write: starting a program is not part of either.

use std::time::Duration;

use crate::Plan;
use crate::limit::{self, Loop};
use crate::processes::{Moment, cpu, memory_mb};
use crate::report::{Better, Report};
use crate::site::Site;
use crate::support::daemon::Daemon;

pub(crate) async fn measure(site: &Site, plan: &Plan, report: &mut Report) {
    let mut bare = report.figure("drain_vs_bare", "ratio", 0.60, Better::Higher);
    bare.says("messages a second of outboxd / of a loop with bare hyper, one read and one write a batch");
    let mut reqwest = report.figure("drain_vs_reqwest", "ratio", 0.85, Better::Higher);
    reqwest.says("the same / a loop with reqwest and one wave row a batch");
    let mut postgres = report.figure("pg_us_per_message", "µs", 16.0, Better::Lower);
    postgres.says("CPU of all PostgreSQL processes for one drained message");
    let mut daemon = report.figure("daemon_us_per_message", "µs", 20.0, Better::Lower);
    daemon.says("CPU of outboxd for one drained message");
    let mut rate = report.figure("drain_per_s", "1/s", 10_000.0, Better::Higher);
    rate.says("messages a second of outboxd");
    let mut memory = report.figure("rss_drain_mb", "MB", 48.0, Better::Lower);
    memory.says("largest resident memory of outboxd in that drain");
    let mut wal = report.figure("wal_bytes_per_message", "B", 1000.0, Better::Lower);
    wal.says("WAL written for one drained message, no full-page images");
    for round in 1..=plan.rounds {
        let hyper = per_second(plan.rows, loops(site, plan.rows, Loop::Hyper).await);
        let drained = outboxd(site, plan.rows).await;
        let with_reqwest = per_second(plan.rows, loops(site, plan.rows, Loop::ReqwestAndWave).await);
        let own = drained.per_second;
        println!(
            "drain {round}: bare {hyper:.0}/s, outboxd {own:.0}/s, reqwest and wave {with_reqwest:.0}/s; \
             PostgreSQL {:.1} µs, outboxd {:.1} µs a message",
            drained.postgres_us, drained.daemon_us
        );
        for line in &drained.statements {
            println!("{line}");
        }
        bare.add(own / hyper);
        reqwest.add(own / with_reqwest);
        postgres.add(drained.postgres_us);
        daemon.add(drained.daemon_us);
        rate.add(own);
        memory.add(drained.memory_mb);
        wal.add(drained.wal_bytes);
    }
    report.take([bare, reqwest, postgres, daemon, rate, memory, wal]);
}

async fn loops(site: &Site, rows: u32, how: Loop) -> Duration {
    limit::queue(site, rows).await;
    limit::drain(site, how).await
}

fn per_second(rows: u32, took: Duration) -> f64 {
    f64::from(rows) / took.as_secs_f64()
}

/// What one drain came to.
#[derive(Debug)]
pub(crate) struct Drained {
    pub(crate) per_second: f64,
    postgres_us: f64,
    daemon_us: f64,
    memory_mb: f64,
    wal_bytes: f64,
    statements: Vec<String>,
}

/// One daemon drains so many rows again and again: messages a second, queueing them not counted.
pub(crate) async fn outboxd_times(site: &Site, rows: u32, times: u32) -> f64 {
    let daemon = site.daemon().await;
    let mut took = Duration::ZERO;
    for _ in 0..times {
        took += drained_by(site, &daemon, rows).await;
    }
    f64::from(rows * times) / took.as_secs_f64()
}

pub(crate) async fn outboxd(site: &Site, rows: u32) -> Drained {
    let daemon = site.daemon().await;
    // Held while it starts: logging in, connecting and preparing statements is not the drain.
    site.run("SELECT sms.hold('bench')").await;
    site.queue(rows).await;
    let server = site.cluster.pid();
    let wal = wal(site).await;
    site.forget_statements().await;
    let (before, daemon_before) = (cpu(server, true), cpu(daemon.pid(), false));
    let took = drained(site, rows).await;
    let each = |spent: Duration| spent.as_secs_f64() * 1e6 / f64::from(rows);
    Drained {
        per_second: per_second(rows, took),
        postgres_us: each(cpu(server, true) - before),
        daemon_us: each(cpu(daemon.pid(), false) - daemon_before),
        memory_mb: memory_mb(daemon.pid(), "VmHWM"),
        wal_bytes: (self::wal(site).await - wal) / f64::from(rows),
        statements: site.statements(rows).await,
    }
}

async fn drained_by(site: &Site, _daemon: &Daemon, rows: u32) -> Duration {
    site.run("SELECT sms.hold('bench')").await;
    site.queue(rows).await;
    drained(site, rows).await
}

/// From the first request to the last recorded result.
async fn drained(site: &Site, rows: u32) -> Duration {
    let posts = site.sink.posts();
    site.run("SELECT sms.resume()").await;
    site.until_posts_since(posts, 1).await;
    let begun = Moment::now();
    site.until_posts_since(posts, u64::from(rows)).await;
    site.until_zero("SELECT count(*) FROM sms.outbox WHERE queued").await;
    Moment::now() - begun
}

/// Bytes of WAL so far.
async fn wal(site: &Site) -> f64 {
    site.sql.query_one("SELECT (pg_current_wal_lsn() - '0/0')::float8", &[]).await.unwrap().get(0)
}
