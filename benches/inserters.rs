//! The inserters' tax: how many single-row transactions a second the applications get, turn by turn without outboxd, with
//! it asleep beside a gateway that is held, with it killed, and with it sending all that comes.
//!
//! "Without" is the table that an application would have had: the same columns and a primary key. Two more measures are
//! that table with one index of waiting rows, without which nobody can find them: what it leaves bounds what any queue
//! can; and the same table with all its indexes: what is left beside it is what the doorbell, the rights and what keeps
//! rows sound cost.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::Plan;
use crate::processes::Moment;
use crate::report::{Better, Figure, Report};
use crate::site::Site;

/// How long each turn lasts.
const TURN: Duration = Duration::from_secs(3);
const CLIENTS: [usize; 3] = [32, 8, 1];
/// What is compared with what is had without outboxd, and the least that should be left.
const GOALS: [(f64, &str); 5] = [
    (
        0.95,
        "commits a second of inserting clients beside outboxd with its gateways held / into a table without outboxd",
    ),
    (0.95, "the same with outboxd installed and killed"),
    (0.75, "the same with outboxd sending all that comes, on the same cores"),
    (0.95, "the same with outboxd installed and killed / into a table with the same indexes"),
    (
        0.95,
        "the same into a table with one index of waiting rows, and without outboxd: what no queue can be above",
    ),
];

pub(crate) async fn measure(site: &Site, plan: &Plan, report: &mut Report) {
    for clients in CLIENTS {
        let names = match clients {
            32 => [
                "inserters_idle",
                "inserters_dead",
                "inserters_sending",
                "inserters_doorbell",
                "inserters_bound",
            ],
            8 => [
                "inserters_8_idle",
                "inserters_8_dead",
                "inserters_8_sending",
                "inserters_8_doorbell",
                "inserters_8_bound",
            ],
            _ => [
                "inserters_1_idle",
                "inserters_1_dead",
                "inserters_1_sending",
                "inserters_1_doorbell",
                "inserters_1_bound",
            ],
        };
        let mut figures = figures(report, names);
        for round in 1..=plan.rounds {
            let turn = turn(site, clients).await;
            println!(
                "inserters {round}, {clients} clients: without {:.0}/s, with one index {:.0}/s, with the same indexes \
                 {:.0}/s, idle {:.0}/s, sending {:.0}/s, dead {:.0}/s",
                turn.without, turn.one_index, turn.indexed, turn.idle, turn.sending, turn.dead
            );
            let ratios = [
                turn.idle / turn.without,
                turn.dead / turn.without,
                turn.sending / turn.without,
                turn.dead / turn.indexed,
                turn.one_index / turn.without,
            ];
            for (figure, ratio) in figures.iter_mut().zip(ratios) {
                figure.add(ratio);
            }
        }
        report.take(figures);
    }
    site.run("DROP TABLE public.plain, public.one_index, public.indexed").await;
    site.empty().await;
}

/// Commits a second.
struct Turn {
    without: f64,
    one_index: f64,
    indexed: f64,
    idle: f64,
    sending: f64,
    dead: f64,
}

async fn turn(site: &Site, clients: usize) -> Turn {
    site.empty().await;
    site.run(
        "DROP TABLE IF EXISTS public.plain, public.one_index, public.indexed; \
         CREATE TABLE public.plain (LIKE sms.outbox INCLUDING DEFAULTS INCLUDING IDENTITY, PRIMARY KEY (id)); \
         CREATE TABLE public.one_index (LIKE public.plain INCLUDING ALL); \
         CREATE INDEX ON public.one_index (lane, send_after, id) WHERE queued; \
         CREATE TABLE public.indexed (LIKE sms.outbox INCLUDING ALL); \
         GRANT INSERT ON public.plain, public.one_index, public.indexed TO outboxd_app",
    )
    .await;
    let without = commits_per_s(site, "public.plain", clients).await;
    let mut daemon = site.daemon().await;
    site.run("SELECT sms.hold('bench')").await;
    let idle = commits_per_s(site, "sms.outbox", clients).await;
    site.run("SELECT sms.resume()").await;
    let sending = commits_per_s(site, "sms.outbox", clients).await;
    site.until_nothing_is_queued().await;
    daemon.kill9();
    site.empty().await;
    let dead = commits_per_s(site, "sms.outbox", clients).await;
    let one_index = commits_per_s(site, "public.one_index", clients).await;
    let indexed = commits_per_s(site, "public.indexed", clients).await;
    // The machine may have become quicker or slower meanwhile.
    let again = commits_per_s(site, "public.plain", clients).await;
    Turn { without: f64::midpoint(without, again), one_index, indexed, idle, sending, dead }
}

fn figures(report: &Report, names: [&'static str; 5]) -> [Figure; 5] {
    std::array::from_fn(|n| {
        let (goal, says) = GOALS[n];
        let mut figure = report.figure(names[n], "ratio", goal, Better::Higher);
        figure.says(says);
        figure
    })
}

async fn commits_per_s(site: &Site, table: &str, clients: usize) -> f64 {
    let sql = format!("INSERT INTO {table} (recipient, body) VALUES ($1, $2)");
    let done = Rc::new(Cell::new(0_u32));
    let mut connections = Vec::new();
    for _ in 0..clients {
        let client = site.db.app_client("shop").await;
        let insert = client.prepare(&sql).await.unwrap();
        connections.push((client, insert));
    }
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let mut inserters = JoinSet::new();
            let begun = Moment::now();
            for (client, insert) in connections {
                let done = Rc::clone(&done);
                inserters.spawn_local(async move {
                    while Moment::now() - begun < TURN {
                        client.execute(&insert, &[&"0850000001", &"Your order has been sent"]).await.unwrap();
                        done.set(done.get() + 1);
                    }
                });
            }
            while inserters.join_next().await.is_some() {}
            f64::from(done.get()) / (Moment::now() - begun).as_secs_f64()
        })
        .await
}
