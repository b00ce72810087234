//! Latency: from the moment at which an application sends its INSERT to the moment at which the gateway has read the
//! request, all by one clock: at 20 and at 500 single-row transactions a second, and at half of what can be drained.
//!
//! What is quoted is measured beside a daemon as everybody has it. Then another one logs each step of each message
//! (`outboxd::way`), and the same clock says how long each part of the way took.

use std::collections::HashMap;
use std::time::Duration;

use tokio_postgres::Client;

use crate::Plan;
use crate::drain;
use crate::plot;
use crate::processes::{Moment, ms};
use crate::report::{Better, Report, quantile};
use crate::site::Site;
use crate::support::daemon::Daemon;

/// How often transactions of several rows come at half of saturation.
const BEAT: Duration = Duration::from_millis(5);
/// So many of them.
const BEATS: u64 = 800;
/// The steps that a daemon logs, in their order, and what has been done when each is reached.
const STEPS: [&str; 5] = ["read", "taken", "in a wave", "left", "recorded"];

pub(crate) async fn measure(site: &Site, plan: &Plan, report: &mut Report) {
    let mut p50 = report.figure("latency_p50_ratio", "ms", 0.7, Better::Lower);
    p50.says("INSERT -> POST received at 20/s, median, minus twice the median commit of that run");
    let mut p99 = report.figure("latency_p99_ms", "ms", 8.0, Better::Lower);
    p99.says("INSERT -> POST received at 20/s, 99th percentile");
    let mut busy = report.figure("latency_500_p99_ms", "ms", 8.0, Better::Lower);
    busy.says("the same at 500/s");
    let mut half = report.figure("latency_half_p99_ms", "ms", 50.0, Better::Lower);
    half.says("the same at half of what is drained a second, in transactions of several rows");
    let saturation = drain::outboxd(site, plan.rows).await.per_second;
    site.empty().await;
    let daemon = site.daemon().await;
    let mut all: [Vec<f64>; 3] = Default::default();
    for round in 1..=plan.rounds {
        let slow = at_20(site, 200).await;
        let fast = at_500(site).await;
        let loaded = at_half(site, saturation).await;
        println!(
            "latency {round}: 20/s p50 {:.2} ms, p99 {:.2} ms, commit p50 {:.2} ms; 500/s p50 {:.2} ms, p99 {:.2} ms; \
             {:.0}/s p50 {:.2} ms, p99 {:.2} ms",
            quantile(&slow.ways, 0.5),
            quantile(&slow.ways, 0.99),
            quantile(&slow.commits, 0.5),
            quantile(&fast.ways, 0.5),
            quantile(&fast.ways, 0.99),
            saturation / 2.0,
            quantile(&loaded.ways, 0.5),
            quantile(&loaded.ways, 0.99),
        );
        p50.add(quantile(&slow.ways, 0.5) - 2.0 * quantile(&slow.commits, 0.5));
        p99.add(quantile(&slow.ways, 0.99));
        busy.add(quantile(&fast.ways, 0.99));
        half.add(quantile(&loaded.ways, 0.99));
        for (all, seen) in all.iter_mut().zip([slow, fast, loaded]) {
            all.extend(seen.ways);
        }
    }
    drop(daemon);
    report.take([p50, p99, busy, half]);
    for (index, (name, rate)) in
        [("20", 20.0), ("500", 500.0), ("half", saturation / 2.0)].into_iter().enumerate()
    {
        // A log for each rate: who tells is started anew.
        site.empty().await;
        let daemon = site.daemon_that_tells().await;
        let seen = match index {
            0 => at_20(site, 200).await,
            1 => at_500(site).await,
            _ => at_half(site, saturation).await,
        };
        let parts = parts(site, &daemon, &seen).await;
        println!("the way at {rate:.0}/s, ms (p50, p99):");
        for (part, values) in &parts {
            println!("  {part:<26} {:>8.2} {:>8.2}", quantile(values, 0.5), quantile(values, 0.99));
        }
        let mut rows = vec![("all, nothing logged", all[index].clone())];
        rows.extend(parts);
        let title = format!("INSERT to POST received at {rate:.0} messages/s, and the parts of the way");
        report.plot(&format!("latency-{name}"), &plot::histograms(&title, &rows));
    }
    site.empty().await;
}

/// How long each part of the way took, for those messages of which every step is known.
async fn parts(site: &Site, daemon: &Daemon, seen: &Seen) -> Vec<(&'static str, Vec<f64>)> {
    site.until_nothing_is_queued().await;
    daemon.until_logged(seen.rows.len(), "recorded").await;
    let log = daemon.log();
    // Each reading for nothing makes a wave for nothing.
    #[expect(clippy::cast_precision_loss, reason = "some thousand")]
    let often =
        log.lines().filter(|line| line.contains("TRACE read ")).count() as f64 / seen.rows.len() as f64;
    println!("each message was read {often:.2} times");
    let told = steps_told(&log);
    let mut parts: Vec<(&'static str, Vec<f64>)> = [
        "all, while it is logged",
        "commit",
        "noticed and read",
        "pace: taken for a wave",
        "wave committed",
        "bytes out",
        "received",
        "recorded",
    ]
    .map(|part| (part, Vec::new()))
    .into();
    for row in &seen.rows {
        let Some(steps) = told.get(&row.id) else { continue };
        let [Some(read), Some(taken), Some(wave), Some(left), Some(recorded)] = *steps else { continue };
        // Who reads the log of the server's commit may be quicker than the client that is told of it.
        let marks = [row.begun, row.committed, read, taken, wave, left, row.received, recorded];
        parts[0].1.push(ms(row.received - row.begun));
        for (part, pair) in parts[1..].iter_mut().zip(marks.windows(2)) {
            part.1.push(ms(pair[1] - pair[0]));
        }
    }
    assert!(!parts[0].1.is_empty(), "the log tells no whole way");
    parts
}

fn steps_told(log: &str) -> HashMap<i64, [Option<Moment>; STEPS.len()]> {
    let mut told: HashMap<i64, [Option<Moment>; STEPS.len()]> = HashMap::new();
    for line in log.lines() {
        // `<time> TRACE <spans>: <step> message_id=<id>`, and other lines.
        let Some((before, id)) = line.rsplit_once(" message_id=") else { continue };
        let (Ok(id), Some((time, rest))) = (id.trim().parse(), before.split_once(' ')) else { continue };
        let step = STEPS.iter().position(|step| rest.ends_with(&format!(" {step}")));
        if let (Some(step), Some(moment)) = (step.filter(|_| rest.contains("TRACE")), Moment::of_log(time)) {
            told.entry(id).or_default()[step].get_or_insert(moment);
        }
    }
    told
}

/// In milliseconds.
pub(crate) struct Seen {
    pub(crate) ways: Vec<f64>,
    pub(crate) commits: Vec<f64>,
    rows: Vec<SeenRow>,
}

struct SeenRow {
    id: i64,
    begun: Moment,
    committed: Moment,
    received: Moment,
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

/// So many rows, twenty a second, in transactions of their own.
pub(crate) async fn at_20(site: &Site, count: u64) -> Seen {
    at_rate(site, count, 1, Duration::from_millis(50), Row::default()).await
}

async fn at_500(site: &Site) -> Seen {
    at_rate(site, 2_000, 1, Duration::from_millis(2), Row::default()).await
}

/// In transactions of as many rows as it takes: single ones would need all cores for themselves.
async fn at_half(site: &Site, saturation: f64) -> Seen {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some hundred")]
    let each = (saturation / 2.0 * BEAT.as_secs_f64()).round().max(1.0) as u64;
    at_rate(site, each * BEATS, each, BEAT, Row::default()).await
}

/// Inserts `count` rows, `each` in a transaction and these a pause apart, and waits until all have arrived.
pub(crate) async fn at_rate(site: &Site, count: u64, each: u64, pause: Duration, row: Row) -> Seen {
    let insert = Insert::prepare(&site.app).await;
    site.sink.note_arrivals();
    let mut inserted = Vec::new();
    let mut commits = Vec::new();
    let mut beat = tokio::time::interval(pause);
    for first in (1..=count).step_by(usize::try_from(each).unwrap()) {
        beat.tick().await;
        let numbers: Vec<u64> = (first..first + each).collect();
        let begun = Moment::now();
        let ids = insert.run(&numbers, row).await;
        let committed = Moment::now();
        commits.push(ms(committed - begun));
        inserted.extend(numbers.into_iter().zip(ids).map(|(number, id)| (number, id, begun, committed)));
    }
    while site.sink.noted() < count {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let arrivals = site.sink.arrivals();
    let rows: Vec<SeenRow> = inserted
        .into_iter()
        .map(|(number, id, begun, committed)| SeenRow { id, begun, committed, received: arrivals[&number] })
        .collect();
    Seen { ways: rows.iter().map(|row| ms(row.received - row.begun)).collect(), commits, rows }
}

/// An application's INSERT of some rows, committed with the statement.
struct Insert<'a> {
    client: &'a Client,
    statement: tokio_postgres::Statement,
}

impl<'a> Insert<'a> {
    async fn prepare(client: &'a Client) -> Insert<'a> {
        let sql = "INSERT INTO sms.outbox (recipient, body, lane, gateway) \
                   SELECT r.recipient, r.body, $3, $4 FROM unnest($1::text[], $2::text[]) AS r(recipient, body) RETURNING id";
        Insert { client, statement: client.prepare(sql).await.unwrap() }
    }

    async fn run(&self, numbers: &[u64], row: Row) -> Vec<i64> {
        let recipients: Vec<String> = numbers.iter().map(|number| format!("+35387{number:07}")).collect();
        let texts: Vec<String> =
            numbers.iter().map(|number| format!("Your code for today ~{number}")).collect();
        let rows = self.client.query(&self.statement, &[&recipients, &texts, &row.lane, &row.gateway]).await;
        rows.unwrap().iter().map(|row| row.get(0)).collect()
    }
}
