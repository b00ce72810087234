//! `outboxd check`: walks from the configuration over the database to each gateway, hop by hop, and says of each step
//! that it is ok or what to do. Sends no message and changes nothing.
//!
//! A step that fails does not end the walk: with the database down the gateways are still looked at.

mod database;
mod encryption;
mod files;
mod hops;
mod horizon;
mod network;
mod outside;
mod progress;
mod reach;
mod replies;
mod ways;

use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use crate::cli::args::Check;
use crate::cli::check::network::{Here, Way};
use crate::cli::check::progress::Progress;
use crate::cli::errors::Code;
use crate::cli::{block_on, counted, print, print_json};
use crate::config::{self, Config};
use crate::hop::certificate::Shown;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Ok,
    /// Works, and should not stay so.
    Warning,
    Failed,
}

/// What kind of failure it is: decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Cannot be reached; may pass by itself.
    Unreachable,
    /// Stays until a person changes something.
    Wrong,
}

/// One step.
#[derive(Debug, Serialize)]
struct Finding {
    name: String,
    outcome: Outcome,
    detail: String,
    /// What to do about it.
    advice: Option<String>,
    /// One word for what is wrong, where there is one.
    problem: Option<&'static str>,
    /// The sentence to send to whoever runs the network or the proxy.
    network_team: Option<String>,
    /// Where a hop leads.
    #[serde(rename = "to")]
    way: Option<Way>,
    /// From where a hop that failed was tried, and when.
    #[serde(rename = "from")]
    tried: Option<Here>,
    /// What was shown in TLS.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    certificates: Vec<Shown>,
    #[serde(skip)]
    fault: Option<Fault>,
}

impl Finding {
    fn ok(name: impl Into<String>, detail: impl Into<String>) -> Finding {
        Finding {
            name: name.into(),
            outcome: Outcome::Ok,
            detail: detail.into(),
            advice: None,
            problem: None,
            network_team: None,
            way: None,
            tried: None,
            certificates: Vec::new(),
            fault: None,
        }
    }

    /// It is not as bad as that: there is another way.
    fn soften(&mut self) {
        if self.outcome == Outcome::Failed {
            self.outcome = Outcome::Warning;
            self.fault = None;
        }
    }

    fn warning(name: impl Into<String>, detail: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { outcome: Outcome::Warning, advice: Some(advice.into()), ..Finding::ok(name, detail) }
    }

    fn wrong(name: impl Into<String>, detail: impl Into<String>, advice: impl Into<String>) -> Finding {
        let fault = Some(Fault::Wrong);
        Finding { outcome: Outcome::Failed, fault, ..Finding::warning(name, detail, advice) }
    }

    fn unreachable(name: impl Into<String>, detail: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { fault: Some(Fault::Unreachable), ..Finding::wrong(name, detail, advice) }
    }
}

pub(super) fn run(args: &Check, path: &Path) -> anyhow::Result<ExitCode> {
    let (config, read) = match config::load_noting(path) {
        Ok(loaded) => loaded,
        // People get the file with its lines on stderr; a machine gets the same as a finding.
        Err(error) if args.json => {
            let advice = "correct the file; `outboxd config default` explains every option";
            print_json(&[Finding::wrong("configuration", error.render(false), advice)])?;
            return Ok(Code::Config.into());
        }
        Err(error) => return Err(error.into()),
    };
    let mut findings = vec![configuration(&config, path)];
    findings.extend(files::check(&config, &read));
    let (gateways, unusable) = outside::build(&config);
    findings.extend(unusable);
    findings.extend(outside::shared_requests(&config));
    if args.offline {
        for gateway in &gateways {
            findings.push(Finding::ok(format!("gateway {}", gateway.name()), "can be used as configured"));
        }
    } else {
        block_on(async {
            let progress = Progress::default();
            let (seen, gateways) =
                tokio::join!(database::check(&config, &progress), hops::check(&config, &gateways, &progress));
            findings.extend(seen.findings);
            findings.extend(gateways);
            findings.extend(outside::health(&config, &seen.gateways));
            findings.extend(outside::callbacks(&config, seen.daemon_here));
            Ok(())
        })?;
    }
    if args.json {
        print_json(&findings)?;
    } else {
        print(&text(&findings))?;
    }
    Ok(exit_code(&findings))
}

fn configuration(config: &Config, path: &Path) -> Finding {
    let gateways = counted(config.gateways.len(), "gateway");
    Finding::ok("configuration", format!("{}: {gateways}, secrets can be read", path.display()))
}

/// What stays wrong counts more than what may pass.
fn exit_code(findings: &[Finding]) -> ExitCode {
    let has = |fault| findings.iter().any(|finding| finding.fault == Some(fault));
    if has(Fault::Wrong) {
        Code::Config.into()
    } else if has(Fault::Unreachable) {
        Code::Unavailable.into()
    } else {
        ExitCode::SUCCESS
    }
}

fn text(findings: &[Finding]) -> String {
    let mut page = String::new();
    let width = findings.iter().map(|finding| finding.name.chars().count()).max().unwrap_or(0);
    for finding in findings {
        let outcome = match finding.outcome {
            Outcome::Ok => "ok",
            Outcome::Warning => "warning",
            Outcome::Failed => "FAILED",
        };
        page.push_str(&format!("{outcome:<8} {:<width$}  {}\n", finding.name, finding.detail));
        if let Some(advice) = &finding.advice {
            page.push_str(&format!("{:<8} {:<width$}  -> {advice}\n", "", ""));
        }
        if let Some(sentence) = &finding.network_team {
            page.push_str(&format!("{:<8} {:<width$}  to the network team: {sentence}\n", "", ""));
        }
    }
    let count = |outcome| findings.iter().filter(|finding| finding.outcome == outcome).count();
    let (failed, warnings) = (count(Outcome::Failed), count(Outcome::Warning));
    page.push_str(&match (failed, warnings) {
        (0, 0) => "\nall is well\n".to_owned(),
        (0, warnings) => format!("\n{}\n", counted(warnings, "warning")),
        (failed, 0) => format!("\n{failed} failed\n"),
        (failed, warnings) => format!("\n{failed} failed, {}\n", counted(warnings, "warning")),
    });
    page
}

#[cfg(test)]
mod tests {
    use super::{Finding, text};

    #[test]
    fn each_step_says_ok_or_what_to_do() {
        let findings =
            [Finding::ok("database", "PostgreSQL 15"), Finding::wrong("schema", "is missing", "migrate")];
        assert_eq!(
            text(&findings),
            "ok       database  PostgreSQL 15\n\
             FAILED   schema    is missing\n\
             \u{20}                  -> migrate\n\
             \n1 failed\n"
        );
    }
}
