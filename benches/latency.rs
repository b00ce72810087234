//! Latency: from the moment at which an application sends its INSERT to the moment at which the gateway has read the
//! request, all by one clock, at 20 and at 500 single-row transactions a second.

use std::time::Duration;

use crate::Plan;
use crate::processes::Moment;
use crate::report::{Better, Report, quantile};
use crate::site::Site;

pub(crate) async fn measure(site: &Site, plan: &Plan, report: &mut Report) {
    let mut p50 = report.figure("latency_p50_ratio", "ms", 0.7, Better::Lower);
    p50.says("INSERT -> POST received at 20/s, median, minus twice the median commit of that run");
    let mut p99 = report.figure("latency_p99_ms", "ms", 8.0, Better::Lower);
    p99.says("INSERT -> POST received at 20/s, 99th percentile");
    let mut busy = report.figure("latency_500_p99_ms", "ms", 8.0, Better::Lower);
    busy.says("the same at 500/s");
    site.empty().await;
    let _daemon = site.daemon().await;
    let mut next = 1_u64;
    for round in 1..=plan.rounds {
        let slow = at_rate(site, &mut next, 200, Duration::from_millis(50), Row::default()).await;
        let fast = at_rate(site, &mut next, 2_000, Duration::from_millis(2), Row::default()).await;
        println!(
            "latency {round}: 20/s p50 {:.2} ms, p99 {:.2} ms, commit p50 {:.2} ms; 500/s p50 {:.2} ms, p99 {:.2} ms",
            quantile(&slow.ways, 0.5),
            quantile(&slow.ways, 0.99),
            quantile(&slow.commits, 0.5),
            quantile(&fast.ways, 0.5),
            quantile(&fast.ways, 0.99),
        );
        p50.add(quantile(&slow.ways, 0.5) - 2.0 * quantile(&slow.commits, 0.5));
        p99.add(quantile(&slow.ways, 0.99));
        busy.add(quantile(&fast.ways, 0.99));
    }
    report.take([p50, p99, busy]);
}

/// In milliseconds.
pub(crate) struct Seen {
    pub(crate) ways: Vec<f64>,
    pub(crate) commits: Vec<f64>,
}

/// What is inserted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) lane: &'static str,
    pub(crate) gateway: Option<&'static str>,
}

impl Default for Row {
    fn default() -> Row {
        Row { lane: "normal", gateway: None }
    }
}

/// Inserts `count` rows, one transaction each and a pause apart, and waits until all have arrived.
pub(crate) async fn at_rate(site: &Site, next: &mut u64, count: u64, pause: Duration, row: Row) -> Seen {
    let sql = "INSERT INTO sms.outbox (recipient, body, lane, gateway) VALUES ($1, $2, $3, $4)";
    let insert = site.sql.prepare(sql).await.unwrap();
    site.sink.note_arrivals();
    let mut inserted = Vec::new();
    let mut commits = Vec::new();
    let mut beat = tokio::time::interval(pause);
    for number in *next..*next + count {
        beat.tick().await;
        let text = format!("Your code for today ~{number}");
        let recipient = format!("+35387{number:07}");
        let begun = Moment::now();
        site.sql.execute(&insert, &[&recipient, &text, &row.lane, &row.gateway]).await.unwrap();
        commits.push(ms(Moment::now() - begun));
        inserted.push((number, begun));
    }
    *next += count;
    while site.sink.noted() < count {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let arrivals = site.sink.arrivals();
    let ways =
        inserted.iter().filter_map(|(number, begun)| Some(ms(*arrivals.get(number)? - *begun))).collect();
    Seen { ways, commits }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
