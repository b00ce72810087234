//! Drain: so many queued rows through v2 to the sink, one recipient a request, turn by turn with the machine's limit;
//! then through the other dialects, and many recipients of one text in a request.
//!
//! outboxd is measured from its first request to its last recorded result, the loops from their first read to their
//! last write: starting a program is not part of either.

use std::process::Command;
use std::time::Duration;

use crate::Plan;
use crate::limit::{self, Loop};
use crate::processes::{Costs, Meter, Moment, Whose, memory_mb};
use crate::report::{Better, Report};
use crate::site::Site;

/// Recipients of the campaign, and of one request.
const CAMPAIGN: u32 = 100_000;
const COALESCE: u32 = 1000;

pub(crate) async fn measure(site: &Site, plan: &Plan, report: &mut Report) {
    let mut bare = report.figure("drain_vs_bare", "ratio", 0.60, Better::Higher);
    bare.says("messages a second of outboxd / of a loop with bare hyper, one read and one write a batch");
    let mut reqwest = report.figure("drain_vs_reqwest", "ratio", 0.85, Better::Higher);
    reqwest.says("the same / a loop with reqwest and one wave row a batch");
    let mut postgres = report.figure("pg_us_per_message", "µs", 16.0, Better::Lower);
    postgres.says("CPU of all PostgreSQL processes for one drained message");
    let mut daemon = report.figure("daemon_us_per_message", "µs", 20.0, Better::Lower);
    daemon.says("CPU of outboxd for one drained message");
    let mut sink = report.figure("sink_us_per_message", "µs", 20.0, Better::Lower);
    sink.says("CPU of the sink for one drained message, on the same cores");
    let mut busy = report.figure("drain_busy", "ratio", 0.8, Better::Higher);
    busy.says("how much of all cores' time was used in that drain, by whomever");
    let mut rate = report.figure("drain_per_s", "1/s", 10_000.0, Better::Higher);
    rate.says("messages a second of outboxd");
    let mut memory = report.figure("rss_drain_mb", "MB", 48.0, Better::Lower);
    memory.says("largest resident memory of outboxd in that drain");
    let mut wal = report.figure("wal_bytes_per_message", "B", 1000.0, Better::Lower);
    wal.says("WAL written for one drained message, no full-page images");
    let mut dead = report.figure("dead_tuples_per_message", "rows", 1.2, Better::Lower);
    dead.says("row versions left behind by one drained message, in all tables");
    let mut index = report.figure("index_bytes_per_message", "B", 100.0, Better::Lower);
    index.says("growth of all indexes by one drained message, without VACUUM");
    for round in 1..=plan.rounds {
        let (hyper, hyper_costs) = loops(site, plan.rows, Loop::Hyper).await;
        let drained = outboxd(site, plan.rows).await;
        let (with_reqwest, reqwest_costs) = loops(site, plan.rows, Loop::ReqwestAndWave).await;
        let (own, costs) = (drained.per_second, drained.costs);
        println!(
            "drain {round}: bare {hyper:.0}/s ({hyper_costs}), outboxd {own:.0}/s ({costs}), \
             reqwest and wave {with_reqwest:.0}/s ({reqwest_costs}); outboxd: {:.0} bytes of WAL, {:.2} dead rows \
             ({:.0} % of the updates HOT), {:.0} bytes of index a message",
            drained.wal_bytes,
            drained.dead,
            drained.hot * 100.0,
            drained.index_bytes
        );
        for line in &drained.statements {
            println!("{line}");
        }
        bare.add(own / hyper);
        reqwest.add(own / with_reqwest);
        postgres.add(costs.postgres_us);
        daemon.add(costs.client_us);
        sink.add(costs.sink_us);
        busy.add(costs.busy);
        rate.add(own);
        memory.add(drained.memory_mb);
        wal.add(drained.wal_bytes);
        dead.add(drained.dead);
        index.add(drained.index_bytes);
    }
    report.take([bare, reqwest, postgres, daemon, sink, busy, rate, memory, wal, dead, index]);
}

/// The other dialects beside v2: what a request and an answer of each cost.
pub(crate) async fn dialects(site: &Site, plan: &Plan, report: &mut Report) {
    let sink = site.sink.address;
    let account = "username = \"bench\"\npassword = \"bench\"\napi_id = 1";
    let dialects = [
        ("drain_v1", format!("dialect = \"interactsms-v1\"\nurl = \"http://{sink}/v1\"\n{account}")),
        (
            "drain_v1_json",
            format!("dialect = \"interactsms-v1-json\"\nurl = \"http://{sink}/v1-json\"\n{account}"),
        ),
        (
            "drain_http",
            format!(
                "dialect = \"http\"\nurl = \"http://{sink}/http\"\n\
                 form = {{ to = \"{{recipient}}\", from = \"{{sender}}\", text = \"{{text}}\", ref = \"{{ref}}\" }}\n\
                 rule = [{{ status = 200, class = \"accepted\" }}]"
            ),
        ),
    ];
    let mut figures = dialects.each_ref().map(|(name, _)| report.figure(name, "ratio", 0.9, Better::Higher));
    for figure in &mut figures {
        figure.says("messages a second through this dialect / through v2");
    }
    for round in 1..=plan.rounds {
        let v2 = outboxd(site, plan.rows).await.per_second;
        for ((name, lines), figure) in dialects.iter().zip(&mut figures) {
            let daemon = site.daemon_of_dialect(lines).await;
            site.run("SELECT sms.hold('bench')").await;
            site.queue(plan.rows).await;
            let rate = per_second(plan.rows, drained(site, plan.rows).await);
            drop(daemon);
            println!("dialects {round}: {name} {rate:.0}/s, v2 {v2:.0}/s");
            figure.add(rate / v2);
        }
    }
    report.take(figures);
}

/// One text to very many, a thousand in a request.
pub(crate) async fn coalesce(site: &Site, plan: &Plan, report: &mut Report) {
    let schema = Command::new(env!("CARGO_BIN_EXE_outboxd")).args(["config", "schema"]).output().unwrap();
    if !String::from_utf8_lossy(&schema.stdout).contains("\"coalesce\"") {
        println!("coalesce: left out, for this outboxd has no `coalesce` in its configuration");
        return;
    }
    let mut figure = report.figure("coalesced_per_s", "1/s", 60_000.0, Better::Higher);
    figure.says("messages a second of 100,000 with one text, up to 1,000 in a v2 request");
    site.sink.count_recipients();
    for round in 1..=plan.rounds {
        let daemon = site.daemon_with(&format!("coalesce = {COALESCE}\n")).await;
        site.run("SELECT sms.hold('bench')").await;
        site.queue_campaign(CAMPAIGN).await;
        site.sink.count_recipients();
        let posts = site.sink.posts();
        let meter = Meter::start(site.cluster.pid(), Whose::Process(daemon.pid()));
        // Its first request is a hundredth of all: here the wave before it is part of what is measured.
        let begun = Moment::now();
        site.run("SELECT sms.resume()").await;
        while site.sink.recipients() < u64::from(CAMPAIGN) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        site.until_nothing_is_queued().await;
        let rate = per_second(CAMPAIGN, Moment::now() - begun);
        let costs = meter.stop(CAMPAIGN);
        println!("coalesce {round}: {rate:.0}/s in {} requests ({costs})", site.sink.posts() - posts);
        figure.add(rate);
    }
    report.take([figure]);
    site.empty().await;
}

/// Messages a second, and what one cost.
async fn loops(site: &Site, rows: u32, how: Loop) -> (f64, Costs) {
    limit::queue(site, rows).await;
    let meter = Meter::start(site.cluster.pid(), Whose::Ourselves);
    let took = limit::drain(site, how).await;
    (per_second(rows, took), meter.stop(rows))
}

pub(crate) fn per_second(rows: u32, took: Duration) -> f64 {
    f64::from(rows) / took.as_secs_f64()
}

/// What one drain came to.
#[derive(Debug)]
pub(crate) struct Drained {
    pub(crate) per_second: f64,
    pub(crate) costs: Costs,
    memory_mb: f64,
    wal_bytes: f64,
    dead: f64,
    /// Of the updates.
    hot: f64,
    index_bytes: f64,
    statements: Vec<String>,
}

pub(crate) async fn outboxd(site: &Site, rows: u32) -> Drained {
    let (dead, hot) = site.row_versions().await;
    let daemon = site.daemon().await;
    // Held while it starts: logging in, connecting and preparing statements is not the drain.
    site.run("SELECT sms.hold('bench')").await;
    site.queue(rows).await;
    let (wal, index) = (wal(site).await, site.index_bytes().await);
    site.forget_statements().await;
    let meter = Meter::start(site.cluster.pid(), Whose::Process(daemon.pid()));
    let took = drained(site, rows).await;
    let costs = meter.stop(rows);
    let memory_mb = memory_mb(daemon.pid(), "VmHWM");
    let wal_bytes = self::wal(site).await - wal;
    let index_bytes = site.index_bytes().await - index;
    let statements = site.statements(rows).await;
    drop(daemon);
    let (dead_after, hot_after) = site.row_versions().await;
    let rows = f64::from(rows);
    Drained {
        per_second: rows / took.as_secs_f64(),
        costs,
        memory_mb,
        wal_bytes: wal_bytes / rows,
        dead: (dead_after - dead) / rows,
        hot: (hot_after - hot) / rows,
        index_bytes: index_bytes / rows,
        statements,
    }
}

/// From the first request to the last recorded result of what is queued while everything is held.
pub(crate) async fn drained(site: &Site, rows: u32) -> Duration {
    let posts = site.sink.posts();
    site.run("SELECT sms.resume()").await;
    site.until_posts_since(posts, 1).await;
    let begun = Moment::now();
    site.until_posts_since(posts, u64::from(rows)).await;
    site.until_newest_are_recorded().await;
    let took = Moment::now() - begun;
    site.until_nothing_is_queued().await;
    took
}

/// Bytes of WAL so far.
async fn wal(site: &Site) -> f64 {
    site.sql.query_one("SELECT (pg_current_wal_lsn() - '0/0')::float8", &[]).await.unwrap().get(0)
}
