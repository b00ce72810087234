//! Lanes: how long an urgent message waits behind a million others, at a gateway with a rate, and beside a gateway that
//! does not answer.

use std::time::Duration;

use crate::Plan;
use crate::latency::{Row, at_rate};
use crate::report::{Better, Report, quantile};
use crate::site::Site;

/// Messages a second of the limited gateway.
const RATE: u32 = 1000;

pub(crate) async fn measure(site: &Site, plan: &Plan, report: &mut Report) {
    let mut urgent = report.figure("urgent_p99_ms", "ms", 50.0, Better::Lower);
    urgent.says("INSERT -> POST received of an urgent row behind 1 M bulk rows at 1,000/s, 99th percentile");
    let mut dead = report.figure("urgent_dead_p99_ms", "ms", 50.0, Better::Lower);
    dead.says("the same beside 1 M rows of a gateway that is down");
    let mut next = 1;
    let row = Row { lane: "urgent", gateway: None };

    site.empty().await;
    site.queue_as("bulk", "main", plan.many).await;
    let daemon = site.daemon_with(&format!("rate = {RATE}\n")).await;
    site.until_posts(1000).await;
    for round in 1..=plan.rounds {
        let seen = at_rate(site, &mut next, 200, Duration::from_millis(20), row).await;
        println!(
            "lanes {round}: behind bulk p50 {:.2} ms, p99 {:.2} ms",
            quantile(&seen.ways, 0.5),
            quantile(&seen.ways, 0.99)
        );
        urgent.add(quantile(&seen.ways, 0.99));
    }
    drop(daemon);

    site.empty().await;
    site.queue_as("normal", "dead", plan.many).await;
    let daemon = site.daemon_with(&site.dead_gateway()).await;
    // It has had the time to find out.
    site.until_zero("SELECT count(*) - 1 FROM outboxd.gateway WHERE name = 'dead' AND state = 'waiting'")
        .await;
    for round in 1..=plan.rounds {
        let seen = at_rate(site, &mut next, 200, Duration::from_millis(20), row).await;
        println!(
            "lanes {round}: beside a dead gateway p50 {:.2} ms, p99 {:.2} ms",
            quantile(&seen.ways, 0.5),
            quantile(&seen.ways, 0.99)
        );
        dead.add(quantile(&seen.ways, 0.99));
    }
    drop(daemon);
    report.take([urgent, dead]);
    site.empty().await;
}
