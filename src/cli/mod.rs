//! The commands of `outboxd`: each turns its arguments into work and its outcome into text and an exit code.
//!
//! `anyhow` lives here and in `daemon` only; below, errors are typed.

use std::process::ExitCode;

use crate::cli::args::Command;
use crate::cli::errors::{Code, Failure};

pub mod args;
pub mod config;
pub mod errors;
pub mod run;

pub use args::Args;

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
        Command::Config(command) => config::run(command, &path),
        Command::Run => run::run(&path),
        Command::Migrate(_) => not_built("migrate"),
        Command::Check(_) => not_built("check"),
        Command::Status(_) => not_built("status"),
        Command::Send(_) => not_built("send"),
        Command::Render(_) => not_built("render"),
        Command::Retry(_) => not_built("retry"),
        Command::Cancel(_) => not_built("cancel"),
        Command::Resolve(_) => not_built("resolve"),
        Command::Adopt => not_built("adopt"),
        Command::Hold(_) => not_built("hold"),
        Command::Resume(_) => not_built("resume"),
    }
}

fn not_built(command: &str) -> anyhow::Result<ExitCode> {
    Err(Failure::new(Code::Bug, format!("`outboxd {command}` is not built yet")).into())
}

/// Help and version are no faults; everything else is wrong usage.
pub fn usage(error: &clap::Error) -> ExitCode {
    // Printing can fail only when the terminal is gone.
    let _ = error.print();
    if error.use_stderr() { Code::Usage.into() } else { ExitCode::SUCCESS }
}
