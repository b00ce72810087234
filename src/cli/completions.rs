//! `outboxd completions`: what a shell needs to complete our command lines, made from the arguments themselves.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Generator;
use clap_complete::shells::{Bash, Fish, Zsh};

use crate::cli::args::{Args, Shell};

pub(super) fn run(shell: Shell) -> anyhow::Result<ExitCode> {
    let script = match shell {
        Shell::Bash => script(Bash),
        Shell::Zsh => script(Zsh),
        Shell::Fish => script(Fish),
    };
    crate::cli::print(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}

/// Made in memory: the generators panic when they cannot write, as into a pipe that was closed.
fn script(generator: impl Generator) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(generator, &mut Args::command(), "outboxd", &mut script);
    script
}
