//! The daemon and its tools. Everything of substance is in the library.

use std::process::ExitCode;

use clap::Parser;

use outboxd::cli;

fn main() -> ExitCode {
    // Fails only when one is installed already, which would do as well.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match cli::Args::try_parse() {
        Ok(args) => cli::run(args),
        Err(error) => cli::usage(&error),
    }
}
