//! `make chaos`: seeded, randomised schedules of faults against the real daemon, a real PostgreSQL and the simulated
//! gateway, with applications that go on writing meanwhile. Afterwards three books are compared: what the applications'
//! COMMITs were acknowledged for, what the rows say, and what the gateway accepted.
//!
//!     cargo test --test chaos -- --seed 7 --schedules 20
//!
//! A seed gives the same schedule each time: the same site, the same faults at the same times, and the same choices of
//! the applications. What a machine makes of it differs: which message is under way when a fault strikes is decided by
//! its timing. So a finding may need several runs of its seed to come again.
//!
//! Writes `target/chaos/books.json` and `target/chaos/table.md`, also when something was found; then the exit status is
//! 1, and the logs and books of the schedules concerned are in `target/chaos/kept`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot go on says so by failing")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a program for people")]

mod books;
mod clients;
mod daemons;
mod disk;
mod faults;
mod machine;
mod proxy;
mod random;
mod report;
mod run;
mod sabotage;
mod schedule;
mod selfcheck;
#[path = "../it/support/mod.rs"]
#[allow(unused_imports, reason = "its own tests run with the suites that it is for")]
mod support;
mod template;
mod world;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::Parser;

use crate::report::Report;
use crate::run::{Outcome, play};
use crate::schedule::{FAMILIES, KINDS, Schedule, Shape, draw};
use crate::template::Stage;

/// Set for the process that does the work, to the first seed: see `prepare`.
const STAGE: &str = "OUTBOXD_CHAOS_STAGE";

#[derive(Debug, Parser)]
#[command(name = "chaos", about = "Plays seeded schedules of faults, and compares the books afterwards")]
struct Arguments {
    /// Seed of the first schedule; the next ones count up from it. Without it: from the clock
    #[arg(long)]
    seed: Option<u64>,
    /// So many schedules
    #[arg(long, default_value_t = 20)]
    schedules: u64,
    /// For so long instead, for example 10m
    #[arg(long, value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    /// Only faults of this family, or only this fault; `none`: no faults. See --list
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// About so many messages in each schedule
    #[arg(long)]
    messages: Option<u64>,
    /// So many schedules at once
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Keep logs and books of every schedule, not only of those with a finding
    #[arg(long)]
    keep: bool,
    /// What the daemons log, for example outboxd=debug
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Where results go. Without it: target/chaos
    #[arg(long, value_name = "DIRECTORY")]
    output: Option<PathBuf>,
    /// List the families and their faults
    #[arg(long)]
    list: bool,
    /// Print the schedules and play none
    #[arg(long)]
    show: bool,
    /// Test the test: falsify books, and see that it is found
    #[arg(long)]
    self_check: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        list();
        return ExitCode::SUCCESS;
    }
    let shape = Shape {
        only: arguments.only.clone(),
        messages: arguments.messages,
        log_filter: arguments.log.clone(),
    };
    if !shape.is_known() {
        eprintln!("chaos: --only names no family and no fault; see --list");
        return ExitCode::from(64);
    }
    let stage = std::env::var(STAGE).ok();
    let chosen = stage.as_deref().map(|seed| seed.parse().unwrap()).or(arguments.seed);
    let first = chosen.unwrap_or_else(|| u64::try_from(jiff::Timestamp::now().as_second()).unwrap());
    if arguments.show {
        for number in 0..arguments.schedules {
            println!("{:#?}", draw(first + number, &shape));
        }
        return ExitCode::SUCCESS;
    }
    if stage.is_none() {
        return prepare(first);
    }
    if arguments.self_check {
        return if selfcheck::passes() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    println!("chaos: seed {first}; the same again: make chaos SEED={first}");
    let report = play_all(&arguments, &shape, first);
    report.write(&output(&arguments));
    println!("chaos: {}", report.summary());
    println!("chaos: {}", output(&arguments).join("books.json").display());
    if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn list() {
    for family in FAMILIES {
        println!("{}", family.name());
        for kind in family.kinds() {
            println!("  {:<24}{}", kind.name, kind.says);
        }
    }
}

fn output(arguments: &Arguments) -> PathBuf {
    let usual = || Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("chaos");
    arguments.output.clone().unwrap_or_else(usual)
}

/// Becomes the process that does the work: with PostgreSQL's binaries found, in namespaces of its own.
fn prepare(first: u64) -> ExitCode {
    let (mut command, not_isolated) = machine::isolating(std::env::current_exe().unwrap());
    command.args(std::env::args_os().skip(1)).env(STAGE, first.to_string());
    command.env(machine::ISOLATION, not_isolated);
    if std::env::var_os("OUTBOXD_TEST_PG_BIN").is_none() {
        let script = support::repository().join("tests/with-postgres");
        let found = Command::new(script).arg("--bin").stderr(Stdio::inherit()).output().unwrap();
        if !found.status.success() {
            eprintln!("chaos: PostgreSQL's server is not installed: run tests/install-needs");
            return ExitCode::from(69);
        }
        command.env("OUTBOXD_TEST_PG_BIN", String::from_utf8_lossy(&found.stdout).trim());
    }
    let error = command.exec();
    eprintln!("chaos: could not start itself again: {error}");
    ExitCode::FAILURE
}

/// Plays schedules side by side until there are enough, the time is over, or something was found.
fn play_all(arguments: &Arguments, shape: &Shape, first: u64) -> Report {
    let begun = Instant::now();
    // Its thread keeps the runtime: processes die with the thread that started them.
    let runtime = runtime();
    let stage = Arc::new(runtime.block_on(Stage::make()));
    let mut report = Report::default();
    for kind in &KINDS {
        if let Some(reason) = stage.machine.lacks(kind.what) {
            report.left_out.push(format!("{}: {reason}", kind.name));
        }
    }
    for sentence in &report.left_out {
        println!("chaos: left out on this machine: {sentence}");
    }
    let state = Mutex::new((report, 0));
    let kept = output(arguments).join("kept");
    let _ = std::fs::remove_dir_all(&kept);
    let next = || {
        let mut state = state.lock().unwrap();
        let over = match arguments.duration {
            Some(duration) => begun.elapsed() >= duration,
            None => state.1 >= arguments.schedules,
        };
        if over || !state.0.is_clean() {
            return None;
        }
        state.1 += 1;
        Some(first + state.1 - 1)
    };
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(|| {
                while let Some(seed) = next() {
                    let schedule = draw(seed, shape);
                    let outcome = play_one(&schedule, &stage, (&kept, arguments));
                    let mut state = state.lock().unwrap();
                    match outcome {
                        Some(outcome) => state.0.add(&schedule, &outcome),
                        None => state.0.add_failure(seed),
                    }
                }
            });
        }
    });
    state.into_inner().unwrap().0
}

/// Plays one schedule in a thread of its own, so that whatever it leaves running ends with it. None: it failed.
fn play_one(
    schedule: &Schedule,
    stage: &Arc<Stage>,
    (kept, arguments): (&Path, &Arguments),
) -> Option<Outcome> {
    let seed = schedule.seed;
    let directory = tempfile::Builder::new().prefix("outboxd-chaos.").tempdir().unwrap();
    let outcome = std::thread::scope(|scope| {
        let work = || runtime().block_on(play(schedule.clone(), stage, directory.path(), None));
        std::thread::Builder::new()
            .name(format!("seed {seed}"))
            .spawn_scoped(scope, work)
            .unwrap()
            .join()
            .ok()
    });
    let clean = outcome.as_ref().is_some_and(|outcome| outcome.comparison.findings.is_empty());
    if !clean || arguments.keep {
        let target = kept.join(format!("seed-{seed}"));
        std::fs::create_dir_all(kept).unwrap();
        let copied = Command::new("cp").arg("-a").arg(directory.path()).arg(&target).status().unwrap();
        assert!(copied.success());
        println!("[{seed}] logs and books: {}", target.display());
    }
    match &outcome {
        Some(outcome) => tell(seed, outcome, arguments.only.as_deref()),
        None => println!("[{seed}] FAILED: the schedule could not be played to its end"),
    }
    outcome
}

fn tell(seed: u64, outcome: &Outcome, only: Option<&str>) {
    let Outcome { comparison, acknowledged, in_doubt, peak_kb, settled_ms, took, .. } = outcome;
    let word = if comparison.findings.is_empty() { "clean" } else { "FOUND" };
    println!(
        "[{seed}] {word}: {} rows ({acknowledged} acknowledged, {in_doubt} in doubt), {} sent, {} unknown, {} sent again, \
         settled after {settled_ms} ms, {} MB, {:.1} s in all",
        comparison.messages,
        comparison.accepted,
        comparison.unknown,
        comparison.resent,
        peak_kb / 1000,
        took.as_secs_f64()
    );
    for finding in comparison.findings.iter().take(20) {
        println!("[{seed}] {finding}");
    }
    if !comparison.findings.is_empty() {
        let only = only.map(|only| format!(" ONLY={only}")).unwrap_or_default();
        println!(
            "[{seed}] {} findings; again: make chaos SEED={seed} SCHEDULES=1{only}",
            comparison.findings.len()
        );
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
