//! Flatness: draining and latency beside millions of finished rows, and while a snapshot keeps the server from
//! forgetting anything.

use crate::Plan;
use crate::drain;
use crate::latency;
use crate::plot;
use crate::report::{Better, Report, quantile};
use crate::site::Site;

/// Drains while one snapshot is open.
const PINNED_DRAINS: u32 = 10;
/// Rows whose way is watched beside the finished ones.
const WATCHED: u64 = 100;

pub(crate) async fn measure(site: &Site, plan: &Plan, report: &mut Report) {
    finished(site, plan, report).await;
    pinned(site, plan, report).await;
}

async fn finished(site: &Site, plan: &Plan, report: &mut Report) {
    let mut flat = report.figure("drain_10m", "ratio", 0.95, Better::Higher);
    flat.says("drain beside 10 M finished rows / with an empty table");
    let mut late = report.figure("latency_10m", "ratio", 1.2, Better::Lower);
    late.says("INSERT -> POST received at 20/s, median: beside 10 M finished rows / with an empty table");
    let (mut empty_line, mut full_line) = (Vec::new(), Vec::new());
    let mut full = site.beside("full").await;
    for finished in [plan.finished / 100, plan.finished / 10, plan.finished] {
        full.fill(finished).await;
        let last = finished == plan.finished;
        let rounds = if last { plan.rounds } else { 1 };
        let (mut empty_rates, mut full_rates) = (Vec::new(), Vec::new());
        for round in 1..=rounds {
            let empty = drain::outboxd(site, plan.rows).await.per_second;
            let beside = drain::outboxd(&full, plan.rows).await.per_second;
            println!("flat {round}: empty {empty:.0}/s, beside {finished} finished rows {beside:.0}/s");
            empty_rates.push(empty);
            full_rates.push(beside);
            if last {
                flat.add(beside / empty);
                let (empty, beside) = (way_p50(site).await, way_p50(&full).await);
                println!("flat {round}: at 20/s p50 empty {empty:.2} ms, beside {finished} {beside:.2} ms");
                late.add(beside / empty);
            }
        }
        empty_line.push((f64::from(finished), quantile(&empty_rates, 0.5)));
        full_line.push((f64::from(finished), quantile(&full_rates, 0.5)));
    }
    report.plot(
        "flat-finished",
        &plot::lines(
            "Draining beside finished rows",
            "finished rows in the table",
            "messages/s",
            &[("beside them", full_line), ("empty, then", empty_line)],
        ),
    );
    report.take([flat, late]);
    full.drop_database(site).await;
}

async fn way_p50(site: &Site) -> f64 {
    site.empty().await;
    let _daemon = site.daemon().await;
    quantile(&latency::at_20(site, WATCHED).await.ways, 0.5)
}

async fn pinned(site: &Site, plan: &Plan, report: &mut Report) {
    let mut figure = report.figure("drain_pinned", "ratio", 0.90, Better::Higher);
    figure.says("drain of 1 M messages under one open REPEATABLE READ snapshot / without it");
    let mut late = report.figure("latency_pinned", "ratio", 1.2, Better::Lower);
    late.says(
        "INSERT -> POST received at 20/s, median: after those 1 M messages, snapshot still open / without it",
    );
    let each = plan.many / PINNED_DRAINS;
    let mut drawn = Vec::new();
    for round in 1..=plan.rounds.min(3) {
        let free = many_drains(site, each).await;
        let snapshot = site.db.client().await;
        // The first statement takes the snapshot. It reads no table, whose lock would be held as long.
        snapshot.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").await.unwrap();
        let held = many_drains(site, each).await;
        snapshot.batch_execute("COMMIT").await.unwrap();
        println!(
            "pinned {round}: free {:.0}/s, pinned {:.0}/s; then at 20/s p50 free {:.2} ms, pinned {:.2} ms",
            free.per_second, held.per_second, free.way_p50, held.way_p50
        );
        figure.add(held.per_second / free.per_second);
        late.add(held.way_p50 / free.way_p50);
        drawn = vec![("snapshot open", held.line), ("none", free.line)];
    }
    report.plot(
        "flat-pinned",
        &plot::lines(
            "Draining while a snapshot is open (last round)",
            "messages drained since it was taken",
            "messages/s",
            &drawn,
        ),
    );
    report.take([figure, late]);
    site.empty().await;
}

struct Many {
    per_second: f64,
    way_p50: f64,
    line: Vec<(f64, f64)>,
}

/// One daemon drains again and again; all that it sent stays in the table.
async fn many_drains(site: &Site, each: u32) -> Many {
    site.empty().await;
    let daemon = site.daemon().await;
    let (mut took, mut line) = (0.0, Vec::new());
    for drain in 1..=PINNED_DRAINS {
        site.run("SELECT sms.hold('bench')").await;
        site.queue_more("normal", "main", each).await;
        let seconds = drain::drained(site, each).await.as_secs_f64();
        took += seconds;
        line.push((f64::from(each * drain), f64::from(each) / seconds));
    }
    let way_p50 = quantile(&latency::at_20(site, WATCHED).await.ways, 0.5);
    drop(daemon);
    Many { per_second: f64::from(each * PINNED_DRAINS) / took, way_p50, line }
}
