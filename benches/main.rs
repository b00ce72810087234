//! `make bench`: what outboxd does, beside what this machine can do at all, measured in one run and turn by turn.
//!
//! Everything runs on this machine: a private PostgreSQL cluster with its default settings, the release build of
//! outboxd, and a sink that answers every request at once (`sink.rs`). A figure is a ratio wherever it can be: the
//! speed of a machine changes from minute to minute, its ratios hardly. Nothing here passes or fails.
//!
//! usage: tests/with-postgres cargo bench --bench bench -- [--part NAME]... [--rounds N] [--rows N] [--many N] [--finished N] [--by-major]

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a measurement that cannot go on says so by ending"
)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its output is its purpose")]

mod drain;
mod flat;
mod inserters;
mod ladder;
mod lanes;
mod late;
mod latency;
mod limit;
mod peer;
mod plot;
mod processes;
mod report;
mod sink;
mod site;
mod size;
#[path = "../tests/it/support/mod.rs"]
#[allow(unused_imports, reason = "its own tests run with the suites that it is for")]
mod support;

use std::path::{Path, PathBuf};

use report::Report;
use site::Site;

/// What to measure, and how often.
#[derive(Debug, Clone)]
struct Plan {
    parts: Vec<String>,
    rounds: usize,
    /// Queued rows of one drain.
    rows: u32,
    /// Queued rows where there are to be very many.
    many: u32,
    /// Finished rows of the full table.
    finished: u32,
    /// Figures go into a directory of their own for each major version of PostgreSQL.
    by_major: bool,
}

const PARTS: [&str; 11] = [
    "drain",
    "ladder",
    "dialects",
    "coalesce",
    "peer",
    "latency",
    "late",
    "inserters",
    "lanes",
    "size",
    "flat",
];

fn main() {
    let plan = plan(std::env::args().skip(1));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let site = Site::start().await;
        let mut report = Report::new(&directory(&plan, &site.version), &site.version);
        println!("PostgreSQL {}, {} rounds, {} rows a drain\n", site.version, plan.rounds, plan.rows);
        for part in &plan.parts {
            match part.as_str() {
                "drain" => drain::measure(&site, &plan, &mut report).await,
                "ladder" => ladder::measure(&site, &plan, &mut report).await,
                "dialects" => drain::dialects(&site, &plan, &mut report).await,
                "coalesce" => drain::coalesce(&site, &plan, &mut report).await,
                "peer" => peer::measure(&site, &plan, &mut report).await,
                "latency" => latency::measure(&site, &plan, &mut report).await,
                "late" => late::measure(&site, &plan, &mut report).await,
                "inserters" => inserters::measure(&site, &plan, &mut report).await,
                "lanes" => lanes::measure(&site, &plan, &mut report).await,
                "size" => size::measure(&site, &plan, &mut report).await,
                "flat" => flat::measure(&site, &plan, &mut report).await,
                other => unreachable!("{other} was checked"),
            }
        }
        report.finish();
    });
}

/// Where figures and plots go.
fn directory(plan: &Plan, version: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    let major = version.split(['.', ' ']).next().unwrap_or(version);
    if plan.by_major { directory.join(format!("postgresql-{major}")) } else { directory }
}

fn plan(mut arguments: impl Iterator<Item = String>) -> Plan {
    let mut plan = Plan {
        parts: Vec::new(),
        rounds: 5,
        rows: 50_000,
        many: 1_000_000,
        finished: 10_000_000,
        by_major: false,
    };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_else(|| usage(&format!("{argument} wants a value")));
        let number = |text: String| text.parse().unwrap_or_else(|_| usage(&format!("{text} is no number")));
        match argument.as_str() {
            // Cargo's own.
            "--bench" => {}
            "--part" => plan.parts.push(value()),
            "--rounds" => plan.rounds = number(value()) as usize,
            "--rows" => plan.rows = number(value()),
            "--many" => plan.many = number(value()),
            "--finished" => plan.finished = number(value()),
            "--by-major" => plan.by_major = true,
            other => usage(&format!("{other} is not known")),
        }
    }
    if let Some(part) = plan.parts.iter().find(|part| !PARTS.contains(&part.as_str())) {
        usage(&format!("there is no part {part}"));
    }
    if plan.parts.is_empty() {
        plan.parts = PARTS.map(str::to_owned).to_vec();
    }
    plan
}

#[expect(clippy::exit, reason = "wrong arguments end a program")]
fn usage(why: &str) -> ! {
    eprintln!(
        "{why}\nusage: [--part {}]... [--rounds N] [--rows N] [--many N] [--finished N] [--by-major]",
        PARTS.join("|")
    );
    std::process::exit(64)
}
