//! What outboxd needs when it has nothing to do, and when it has very much: memory, statements, CPU, time to be ready, and
//! the size of the program.

use std::time::Duration;

use crate::Plan;
use crate::processes::{Moment, cpu, memory_mb, ms};
use crate::report::{Better, Report};
use crate::site::Site;

/// How long doing nothing is watched.
const WATCH: Duration = Duration::from_secs(60);

pub(crate) async fn measure(site: &Site, plan: &Plan, report: &mut Report) {
    let mut idle = report.figure("rss_idle_mb", "MB", 15.0, Better::Lower);
    idle.says("resident memory of outboxd after a minute of nothing");
    let mut full = report.figure("rss_1m_mb", "MB", 48.0, Better::Lower);
    full.says("largest resident memory while 1 M queued rows are drained");
    let mut ready = report.figure("ready_1m_ms", "ms", 300.0, Better::Lower);
    ready.says("start of the process -> first POST received, with 1 M queued rows");
    let mut ready_empty = report.figure("ready_ms", "ms", 300.0, Better::Lower);
    ready_empty.says("start of the process -> leading, with an empty outbox");
    let mut statements = report.figure("idle_statements_per_min", "1/min", 60.0, Better::Lower);
    statements.says("statements of outboxd in a minute of nothing, BEGIN and COMMIT among them");
    let mut burnt = report.figure("idle_cpu_ms_per_min", "ms", 100.0, Better::Lower);
    burnt.says("CPU of outboxd in a minute of nothing");
    let mut binary = report.figure("binary_mb", "MB", 15.0, Better::Lower);
    binary.says("size of the stripped program");

    site.empty().await;
    let begun = Moment::now();
    let daemon = site.daemon().await;
    ready_empty.add(ms(Moment::now() - begun));
    tokio::time::sleep(Duration::from_secs(3)).await;
    site.forget_statements().await;
    let spent = cpu(daemon.pid(), false);
    tokio::time::sleep(WATCH).await;
    burnt.add(ms(cpu(daemon.pid(), false) - spent));
    statements.add(site.statements_of_daemons().await);
    idle.add(memory_mb(daemon.pid(), "VmRSS"));
    drop(daemon);
    #[expect(clippy::cast_precision_loss, reason = "some megabytes")]
    binary.add(std::fs::metadata(env!("CARGO_BIN_EXE_outboxd")).unwrap().len() as f64 / 1e6);

    for round in 1..=plan.rounds.min(3) {
        site.empty().await;
        site.queue_as("normal", "main", plan.many).await;
        let posts = site.sink.posts();
        let begun = Moment::now();
        let daemon = site.start_daemon();
        site.until_posts_since(posts, 1).await;
        let first = ms(Moment::now() - begun);
        site.until_posts_since(posts, u64::from(plan.many)).await;
        let peak = memory_mb(daemon.pid(), "VmHWM");
        println!("size {round}: first POST after {first:.0} ms, {peak:.1} MB at most");
        ready.add(first);
        full.add(peak);
    }
    report.take([idle, full, ready, ready_empty, statements, burnt, binary]);
    site.empty().await;
}
