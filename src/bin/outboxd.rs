//! The daemon and its tools. Everything of substance is in the library.

use std::process::ExitCode;

use clap::Parser;

use outboxd::{cli, telemetry};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

fn main() -> ExitCode {
    // Passwords, texts and numbers are in memory, and must not come out of it. A limit of the size does not keep a core
    // dump from a program that takes it through a pipe. Where this is forbidden, that limit in the unit remains.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    telemetry::panics::install();
    // Fails only when one is installed already, which would do as well.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match cli::Args::try_parse() {
        Ok(args) => cli::run(args),
        Err(error) => cli::usage(&error),
    }
}
