//! Lanes: how long an urgent message waits behind a million others, at a gateway with a rate, and beside a gateway that
//! does not answer.

use std::time::Duration;

use crate::Plan;
use crate::latency::{Row, at_rate};
use crate::plot;
use crate::report::{Better, Report, quantile};
use crate::site::Site;
use crate::support::daemon::Daemon;

/// Messages a second of the limited gateway.
const RATE: u32 = 1000;
/// Urgent rows of a round, and between two of them.
const URGENT: u64 = 200;
const PAUSE: Duration = Duration::from_millis(20);

pub(crate) async fn measure(site: &Site, plan: &Plan, report: &mut Report) {
    let mut urgent = report.figure("urgent_p99_ms", "ms", 50.0, Better::Lower);
    urgent.says("INSERT -> POST received of an urgent row, 99th percentile: the longer of the next two");
    let mut bulk = report.figure("urgent_bulk_p99_ms", "ms", 50.0, Better::Lower);
    bulk.says("behind 1 M bulk rows at a gateway of 1,000/s");
    let mut dead = report.figure("urgent_dead_p99_ms", "ms", 50.0, Better::Lower);
    dead.says("beside 1 M rows of a gateway that is down");

    let (behind, behind_p99) = rounds(site, plan, "behind bulk", behind_bulk(site, plan).await).await;
    let (beside, beside_p99) =
        rounds(site, plan, "beside a dead gateway", beside_dead(site, plan).await).await;
    for (behind, beside) in behind_p99.iter().zip(&beside_p99) {
        bulk.add(*behind);
        dead.add(*beside);
        urgent.add(behind.max(*beside));
    }
    report.plot(
        "lanes",
        &plot::histograms(
            "An urgent message: INSERT to POST received",
            &[("behind 1,000/s of bulk", behind), ("beside a dead gateway", beside)],
        ),
    );
    report.take([urgent, bulk, dead]);
    site.empty().await;
}

async fn behind_bulk(site: &Site, plan: &Plan) -> Daemon {
    site.queue_as("bulk", "main", plan.many).await;
    let posts = site.sink.posts();
    let daemon = site.daemon_with(&format!("rate = {RATE}\n")).await;
    // Past what the gateway's pace lets through at once.
    site.until_posts_since(posts, 2 * u64::from(RATE)).await;
    daemon
}

async fn beside_dead(site: &Site, plan: &Plan) -> Daemon {
    site.queue_as("normal", "dead", plan.many).await;
    let daemon = site.daemon_with(&site.dead_gateway()).await;
    // It has had the time to find out.
    let found = "SELECT count(*) - 1 FROM outboxd.gateway WHERE name = 'dead' AND state = 'waiting'";
    site.until_zero(found).await;
    daemon
}

/// All times, and the 99th percentile of each round.
async fn rounds(site: &Site, plan: &Plan, where_: &str, daemon: Daemon) -> (Vec<f64>, Vec<f64>) {
    let row = Row { lane: "urgent", gateway: None };
    let (mut all, mut p99s) = (Vec::new(), Vec::new());
    for round in 1..=plan.rounds {
        let seen = at_rate(site, URGENT, 1, PAUSE, row).await;
        let [p50, p99] = [0.5, 0.99].map(|at| quantile(&seen.ways, at));
        println!("lanes {round}: {where_} p50 {p50:.2} ms, p99 {p99:.2} ms");
        all.extend(seen.ways);
        p99s.push(p99);
    }
    drop(daemon);
    (all, p99s)
}
