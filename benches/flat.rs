//! Flatness: draining beside millions of finished rows, and while a snapshot keeps the server from forgetting anything.

use crate::Plan;
use crate::drain;
use crate::report::{Better, Report};
use crate::site::Site;

/// Drains while one snapshot is open.
const PINNED_DRAINS: u32 = 4;

pub(crate) async fn measure(site: &Site, plan: &Plan, report: &mut Report) {
    finished(site, plan, report).await;
    pinned(site, plan, report).await;
}

async fn finished(site: &Site, plan: &Plan, report: &mut Report) {
    let mut flat = report.figure("drain_10m", "ratio", 0.95, Better::Higher);
    flat.says("drain beside 10 M finished rows / with an empty table");
    let mut full = site.beside("full").await;
    full.fill(plan.finished).await;
    for round in 1..=plan.rounds {
        let empty = drain::outboxd(site, plan.rows).await.per_second;
        let beside = drain::outboxd(&full, plan.rows).await.per_second;
        println!("flat {round}: empty {empty:.0}/s, beside {} finished rows {beside:.0}/s", plan.finished);
        flat.add(beside / empty);
    }
    report.take([flat]);
    full.drop_database(site).await;
}

async fn pinned(site: &Site, plan: &Plan, report: &mut Report) {
    let mut figure = report.figure("drain_pinned", "ratio", 0.90, Better::Higher);
    figure.says("drain of 1 M messages under one open REPEATABLE READ snapshot / without it");
    let each = plan.many / PINNED_DRAINS;
    for round in 1..=plan.rounds.min(3) {
        let free = drain::outboxd_times(site, each, PINNED_DRAINS).await;
        let snapshot = site.db.client().await;
        snapshot
            .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM outboxd.wave")
            .await
            .unwrap();
        let held = drain::outboxd_times(site, each, PINNED_DRAINS).await;
        snapshot.batch_execute("COMMIT").await.unwrap();
        println!("pinned {round}: free {free:.0}/s, pinned {held:.0}/s");
        figure.add(held / free);
    }
    report.take([figure]);
}
