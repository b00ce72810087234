//! The inserters' tax: how many single-row transactions a second the applications get, turn by turn without outboxd, with
//! it asleep beside a gateway that is held, with it killed, and with it sending all that comes.

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

pub(crate) async fn measure(site: &Site, plan: &Plan, report: &mut Report) {
    for clients in CLIENTS {
        let names = match clients {
            32 => ["inserters_idle", "inserters_dead", "inserters_sending"],
            8 => ["inserters_8_idle", "inserters_8_dead", "inserters_8_sending"],
            _ => ["inserters_1_idle", "inserters_1_dead", "inserters_1_sending"],
        };
        let [mut idle, mut dead, mut sending] = figures(report, names);
        for round in 1..=plan.rounds {
            site.empty().await;
            site.run("DROP TABLE IF EXISTS public.plain").await;
            // What an application would have without us: the same columns, one index.
            site.run(
                "CREATE TABLE public.plain (LIKE sms.outbox INCLUDING DEFAULTS INCLUDING IDENTITY INCLUDING GENERATED, \
                 PRIMARY KEY (id))",
            )
            .await;
            let without = commits_per_s(site, "public.plain", clients).await;
            let mut daemon = site.daemon().await;
            site.run("SELECT sms.hold('bench')").await;
            let with_idle = commits_per_s(site, "sms.outbox", clients).await;
            site.run("SELECT sms.resume()").await;
            let with_sending = commits_per_s(site, "sms.outbox", clients).await;
            site.until_zero("SELECT count(*) FROM sms.outbox WHERE queued").await;
            daemon.kill9();
            site.empty().await;
            let with_dead = commits_per_s(site, "sms.outbox", clients).await;
            println!(
                "inserters {round}, {clients} clients: without {without:.0}/s, idle {with_idle:.0}/s, dead {with_dead:.0}/s, \
                 sending {with_sending:.0}/s"
            );
            idle.add(with_idle / without);
            dead.add(with_dead / without);
            sending.add(with_sending / without);
        }
        report.take([idle, dead, sending]);
    }
    site.empty().await;
}

fn figures(report: &Report, names: [&'static str; 3]) -> [Figure; 3] {
    let goals = [0.95, 0.95, 0.75];
    let says = [
        "commits a second of inserting clients beside outboxd with its gateways held / without outboxd",
        "the same with outboxd installed and killed",
        "the same with outboxd sending all that comes, on the same cores",
    ];
    std::array::from_fn(|n| {
        let mut figure = report.figure(names[n], "ratio", goals[n], Better::Higher);
        figure.says(says[n]);
        figure
    })
}

async fn commits_per_s(site: &Site, table: &str, clients: usize) -> f64 {
    let sql = format!("INSERT INTO {table} (recipient, body) VALUES ($1, $2)");
    let done = Rc::new(Cell::new(0_u32));
    let mut connections = Vec::new();
    for _ in 0..clients {
        let client = site.db.client().await;
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
