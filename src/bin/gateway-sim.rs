//! `gateway-sim`: the simulator as a process. Reads flags and settings, says where it listens, waits for a signal.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Parser;
use futures_util::StreamExt;
use outboxd::sim::Sim;
use outboxd::sim::settings::Settings;
use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};

/// Plays an SMS gateway and everything behind it, for tests and demonstrations. Sends nothing to anybody.
#[derive(Debug, Parser)]
#[command(name = "gateway-sim", version, after_help = "The control API explains itself: GET /control/help.")]
struct Flags {
    /// Address of the gateway; port 0 takes any free port
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Address of the control API, on loopback
    #[arg(long, value_name = "ADDRESS")]
    control: Option<SocketAddr>,
    /// Settings as .json or .toml; flags win over it
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// User of the gateway's account
    #[arg(long)]
    username: Option<String>,
    /// Password of the gateway's account (a pretended one: it stands in the process list)
    #[arg(long)]
    password: Option<String>,
    /// API ID of the gateway's account, for v1
    #[arg(long)]
    api_id: Option<String>,
    /// Secret that signs callbacks (a pretended one: it stands in the process list)
    #[arg(long)]
    client_secret: Option<String>,
    /// Post delivery receipts there
    #[arg(long, value_name = "URL")]
    receipts_to: Option<String>,
    /// Post v2 processing results there
    #[arg(long, value_name = "URL")]
    results_to: Option<String>,
    /// Post inbound messages there
    #[arg(long, value_name = "URL")]
    inbound_to: Option<String>,
    /// Answer so much later
    #[arg(long, value_name = "MS")]
    latency_ms: Option<u64>,
    /// Write the addresses to this file, as JSON, once they are open
    #[arg(long, value_name = "PATH")]
    ready_file: Option<PathBuf>,
    /// Do not print the addresses
    #[arg(long)]
    quiet: bool,
    /// Threads
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    worker_threads: u16,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    match run(&flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing to be done when even this cannot be written.
            let _ = writeln!(std::io::stderr(), "gateway-sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> anyhow::Result<()> {
    let settings = settings(flags)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(usize::from(flags.worker_threads))
        .enable_all()
        .build()
        .context("could not start the runtime")?;
    runtime.block_on(async {
        // Before the addresses are told: who knows them may send a signal.
        let mut signals =
            signal_hook_tokio::Signals::new([SIGTERM, SIGINT]).context("could not listen for signals")?;
        let sim = Sim::start(settings).await.context("could not start")?;
        announce(flags, &sim)?;
        signals.next().await;
        Ok(())
    })
}

fn announce(flags: &Flags, sim: &Sim) -> anyhow::Result<()> {
    let ready = json!({"gateway": sim.url(), "control": sim.control_url(), "pid": std::process::id()});
    if !flags.quiet {
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{ready}").and_then(|()| stdout.flush()).context("could not print the addresses")?;
    }
    if let Some(path) = &flags.ready_file {
        // Renamed into place, so that nobody reads half of it.
        let partial = path.with_extension("partial");
        std::fs::write(&partial, format!("{ready}\n"))
            .and_then(|()| std::fs::rename(&partial, path))
            .with_context(|| format!("could not write {}", path.display()))?;
    }
    Ok(())
}

fn settings(flags: &Flags) -> anyhow::Result<Settings> {
    let mut settings = match &flags.settings {
        Some(path) => read_settings(path)?,
        None => Settings::default(),
    };
    let put = |place: &mut String, flag: &Option<String>| {
        if let Some(value) = flag {
            place.clone_from(value);
        }
    };
    put(&mut settings.account.username, &flags.username);
    put(&mut settings.account.password, &flags.password);
    put(&mut settings.account.api_id, &flags.api_id);
    put(&mut settings.account.client_secret, &flags.client_secret);
    let callbacks = &mut settings.callbacks;
    callbacks.receipts.to = flags.receipts_to.clone().or(callbacks.receipts.to.take());
    callbacks.results_to = flags.results_to.clone().or(callbacks.results_to.take());
    callbacks.inbound_to = flags.inbound_to.clone().or(callbacks.inbound_to.take());
    settings.answers.latency_ms = flags.latency_ms.unwrap_or(settings.answers.latency_ms);
    settings.bind.gateway = flags.listen.unwrap_or(settings.bind.gateway);
    settings.bind.control = flags.control.unwrap_or(settings.bind.control);
    Ok(settings)
}

fn read_settings(path: &Path) -> anyhow::Result<Settings> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("could not read {shown}"))?;
    let value: Value = match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => serde_json::from_str(&text).with_context(|| format!("{shown} is not JSON"))?,
        Some("toml") => toml::from_str(&text).with_context(|| format!("{shown} is not TOML"))?,
        Some(_) | None => bail!("{shown} must end in .json or .toml"),
    };
    serde_path_to_error::deserialize(value).with_context(|| format!("{shown} has a wrong setting"))
}
