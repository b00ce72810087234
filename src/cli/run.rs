//! `outboxd run`: the daemon.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;

use crate::cli::errors::{Code, Failure};
use crate::daemon::{self, SchemaError};
use crate::store::StoreError;
use crate::{config, telemetry};

pub(super) fn run(path: &Path) -> anyhow::Result<ExitCode> {
    let config = config::load(path)?;
    telemetry::init(&config.log)?;
    // One thread does it all: a message passes through a dozen tasks, and handing them from one processor to another cost
    // between a quarter and a third of what a message costs. PostgreSQL has the others.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("could not start the runtime")?;
    match runtime.block_on(daemon::run(path, config)) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        // Not a matter of waiting: systemd should not start it again and again.
        Err(error) if error.is::<SchemaError>() => Err(Failure::new(Code::Config, error.to_string()).into()),
        Err(error) => match error.downcast::<StoreError>() {
            Ok(StoreError::WrongWay { what, advice }) => {
                Err(Failure::new(Code::Config, what).hint(advice).into())
            }
            Ok(other) => Err(other.into()),
            Err(other) => Err(other),
        },
    }
}
