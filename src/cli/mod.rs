//! The commands of `outboxd`: each turns its arguments into work and its outcome into text and an exit code.
//!
//! `anyhow` lives here and in `daemon` only; below, errors are typed.

use std::future::Future;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

use crate::cli::args::Command;

mod adopt;
pub mod args;
mod cancel;
mod check;
mod completions;
pub mod config;
mod database;
mod egress;
pub mod errors;
mod hold;
mod many;
mod migrate;
mod opt_out;
mod render;
mod resolve;
mod retry;
pub mod run;
mod send;
mod status;

pub use args::Args;

/// A leader that was not seen for longer is taken for dead.
const LEADER_SILENCE: Duration = Duration::from_secs(15);

/// Runs one command to its end.
pub fn run(args: Args) -> ExitCode {
    match dispatch(args) {
        Ok(code) => code,
        Err(error) => errors::report(&error),
    }
}

fn dispatch(args: Args) -> anyhow::Result<ExitCode> {
    let path = args.config;
    match args.command {
        Command::Run => run::run(&path),
        Command::Migrate(args) => migrate::run(&args, &path),
        Command::Check(args) => check::run(&args, &path),
        Command::Egress(args) => egress::run(&args, &path),
        Command::Status(args) => status::run(&args, &path),
        Command::Send(args) => send::run(args, &path),
        Command::Render(args) => render::run(args, &path),
        Command::Retry(args) => retry::run(&args, &path),
        Command::Cancel(args) => cancel::run(&args, &path),
        Command::Resolve(args) => resolve::run(&args, &path),
        Command::Adopt => adopt::run(&path),
        Command::Hold(args) => hold::hold(&args, &path),
        Command::Resume(args) => hold::resume(&args, &path),
        Command::OptOut(command) => opt_out::run(&command, &path),
        Command::Config(command) => config::run(command, &path),
        Command::Completions { shell } => completions::run(shell),
    }
}

/// Runs what a command does over the network, on this thread.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("could not start the asynchronous runtime")?;
    let done = runtime.block_on(work);
    // A name server that does not answer keeps its thread for longer than anybody waits for it here.
    runtime.shutdown_background();
    done
}

/// Prints an answer at once, also into a pipe.
fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("could not print")
}

fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value).context("could not write JSON")?;
    print(&format!("{text}\n"))
}

/// A time span as people say it: its two largest units.
fn span(seconds: f64) -> String {
    let whole = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default().as_secs();
    let text = humantime::format_duration(Duration::from_secs(whole)).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// `1 message`, `2 messages`.
fn counted(count: usize, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}

/// Help and version are no faults; everything else is wrong usage.
pub fn usage(error: &clap::Error) -> ExitCode {
    // Printing can fail only when the terminal is gone.
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    // Whoever calls a plug-in knows the exit codes 0 to 3, and reads stdout.
    if std::env::args_os().any(|argument| argument == "--nagios") {
        let _ = print("OUTBOXD UNKNOWN - wrong arguments\n");
        return ExitCode::from(3);
    }
    errors::Code::Usage.into()
}

#[cfg(test)]
mod tests {
    use super::{counted, span};

    #[test]
    fn a_span_is_told_in_its_two_largest_units() {
        assert_eq!(span(0.4), "0s");
        assert_eq!(span(61.0), "1m 1s");
        assert_eq!(span(90_061.0), "1day 1h");
        assert_eq!(span(-3.0), "0s");
        assert_eq!(span(f64::NAN), "0s");
    }

    #[test]
    fn one_is_singular() {
        assert_eq!((counted(1, "message"), counted(0, "message")), ("1 message".into(), "0 messages".into()));
    }
}
