//! `outboxd run`: the daemon.

use std::path::Path;
use std::process::ExitCode;

use crate::cli::errors::{Code, Failure};

pub fn run(_path: &Path) -> anyhow::Result<ExitCode> {
    Err(Failure::new(Code::Bug, "`outboxd run` is not built yet").into())
}
