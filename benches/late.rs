//! Late commits: a transaction inserts, stays open while later rows are sent, then commits. How long its row waits.

use std::time::Duration;

use crate::Plan;
use crate::processes::{Moment, ms};
use crate::report::{Better, Report, quantile};
use crate::site::Site;

/// Late transactions of a round, one after the other.
const LATE: u64 = 100;
/// Rows that others commit while one is open, ten milliseconds apart.
const OTHERS: u64 = 10;

pub(crate) async fn measure(site: &Site, plan: &Plan, report: &mut Report) {
    let mut p99 = report.figure("late_commit_p99_ms", "ms", 50.0, Better::Lower);
    p99.says("commit sent -> POST received of a row whose transaction was open while later rows were sent");
    site.empty().await;
    let _daemon = site.daemon().await;
    let slow = site.db.app_client("shop").await;
    let insert = "INSERT INTO sms.outbox (recipient, body) VALUES ($1, $2)";
    let (late, other) = (slow.prepare(insert).await.unwrap(), site.app.prepare(insert).await.unwrap());
    let mut next = 1_u64;
    for round in 1..=plan.rounds {
        site.sink.note_arrivals();
        let posts = site.sink.posts();
        let mut committed = Vec::new();
        for _ in 0..LATE {
            let number = next;
            slow.batch_execute("BEGIN").await.unwrap();
            slow.execute(&late, &[&"+353870000000", &format!("late ~{number}")]).await.unwrap();
            for _ in 0..OTHERS {
                next += 1;
                site.app.execute(&other, &[&"+353870000001", &format!("in time ~{next}")]).await.unwrap();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            next += 1;
            committed.push((number, Moment::now()));
            slow.batch_execute("COMMIT").await.unwrap();
        }
        site.until_posts_since(posts, LATE * (OTHERS + 1)).await;
        let arrivals = site.sink.arrivals();
        let waits: Vec<f64> = committed.iter().map(|(number, at)| ms(arrivals[number] - *at)).collect();
        println!("late {round}: p50 {:.2} ms, p99 {:.2} ms", quantile(&waits, 0.5), quantile(&waits, 0.99));
        p99.add(quantile(&waits, 0.99));
    }
    report.take([p99]);
    site.empty().await;
}
