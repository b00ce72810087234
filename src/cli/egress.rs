//! `outboxd egress`: what a firewall must let out for this configuration, as a table for people, as JSON, or as rules
//! that nftables and systemd can be given.
//!
//! It says what the daemon connects to, by the same pages of the configuration that the daemon itself goes by; it asks
//! name servers for addresses, and connects to nothing.

mod nftables;
mod openings;
mod systemd;

use std::path::Path;
use std::process::ExitCode;

use crate::cli::args::{Egress, EgressFormat};
use crate::cli::egress::openings::{Opening, openings};
use crate::cli::errors::{Code, Failure};
use crate::cli::{block_on, print, print_json};
use crate::config::{self, Config};

pub(super) fn run(args: &Egress, path: &Path) -> anyhow::Result<ExitCode> {
    let config = config::load(path)?;
    let openings = block_on(async { Ok(openings(&config).await) })?;
    match args.format {
        EgressFormat::Table => print(&table(&config, &openings))?,
        EgressFormat::Json => print_json(&openings)?,
        EgressFormat::Nftables => {
            refuse_gaps(&openings)?;
            print(&nftables::ruleset(&openings, &args.user, path))?;
            return Ok(ExitCode::SUCCESS);
        }
        EgressFormat::Systemd => {
            refuse_gaps(&openings)?;
            print(&systemd::drop_in(&config, &openings, path)?)?;
            return Ok(ExitCode::SUCCESS);
        }
    }
    let complete = openings.iter().all(|opening| opening.problem.is_none());
    Ok(if complete { ExitCode::SUCCESS } else { Code::Unavailable.into() })
}

/// Rules with a gap would shut the daemon in.
fn refuse_gaps(openings: &[Opening]) -> Result<(), Failure> {
    let Some(gap) = openings.iter().find(|opening| opening.targets().is_empty()) else { return Ok(()) };
    let problem = gap.problem.as_deref().unwrap_or("no address");
    let message = format!("the rules would lack {}: {problem}", gap.host);
    let hint = "run this where the name can be looked up; for a gateway's host, addresses or allowed_addresses in the \
                configuration will do as well";
    Err(Failure::new(Code::Unavailable, message).hint(hint))
}

/// For the first lines of rules: a path may hold anything.
fn shown(path: &Path) -> String {
    path.display().to_string().replace(char::is_control, "?")
}

fn table(config: &Config, openings: &[Opening]) -> String {
    let head = ["HOST", "PORT", "PROTOCOL", "ADDRESSES NOW", "WHY"].map(str::to_owned);
    let mut rows = vec![head];
    for opening in openings {
        let addresses = match &opening.problem {
            Some(problem) => problem.clone(),
            None => opening.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        let why = match opening.ranges.as_slice() {
            [] => opening.why.clone(),
            ranges => format!("{} (only within {})", opening.why, ranges.join(", ")),
        };
        let [host, protocol] = [&opening.host, opening.protocol].map(str::to_owned);
        rows.push([host, opening.port.to_string(), protocol, addresses, why]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2), width(3)];
    let mut page = String::new();
    for row in &rows {
        for (cell, width) in row.iter().zip(widths) {
            page.push_str(&format!("{cell:<width$}  "));
        }
        page.push_str(&format!("{}\n", row[4]));
    }
    for (socket, why) in openings::local_sockets(config) {
        page.push_str(&format!("\n{why} is reached through the local socket {socket}: nothing to open\n"));
    }
    page
}
