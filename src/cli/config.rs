//! `outboxd config`: prints the default file, the schema, or what a file comes to.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;

use crate::cli::args::ConfigCommand;
use crate::config;

pub fn run(command: ConfigCommand, path: &Path) -> anyhow::Result<ExitCode> {
    let text = match command {
        ConfigCommand::Default => config::default_toml().to_owned(),
        ConfigCommand::Schema => format!("{}\n", config::schema()),
        ConfigCommand::Show => format!("{:#?}\n", config::load(path)?),
    };
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("could not print")?;
    Ok(ExitCode::SUCCESS)
}
