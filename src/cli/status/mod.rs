//! `outboxd status`: the queue, the daemons, the gateways, and what needs a person. Reads the database alone, so that
//! it works with the daemon down.

mod nagios;
mod needs;

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use crate::cli::args::StatusArgs;
use crate::cli::database::Db;
use crate::cli::errors::Code;
use crate::cli::status::nagios::Thresholds;
use crate::cli::status::needs::Need;
use crate::cli::{block_on, print, print_json, span};
use crate::config;
use crate::engine::alarm::Severity;
use crate::store::status::{QueueStatus, StatusReport};

pub(super) use needs::no_leader;

/// What `--json` prints.
#[derive(Serialize)]
struct Page<'a> {
    severity: Severity,
    needs_a_person: &'a [Need],
    #[serde(flatten)]
    report: &'a StatusReport,
}

pub(super) fn run(args: &StatusArgs, path: &Path) -> anyhow::Result<ExitCode> {
    let report = match (read(path), args.nagios) {
        (Ok(report), _) => report,
        (Err(error), true) => {
            let (line, code) = nagios::failure(&error);
            print(&line)?;
            return Ok(code);
        }
        (Err(error), false) => return Err(error),
    };
    let needs = needs::of(&report);
    let severity = needs::worst(&needs);
    if args.nagios {
        let limits = Thresholds { warning: args.warning, critical: args.critical };
        let (line, code) = nagios::line(&report.queue, &needs, limits);
        print(&line)?;
        return Ok(code);
    }
    if args.json {
        print_json(&Page { severity, needs_a_person: &needs, report: &report })?;
    } else {
        print(&text(&report, &needs))?;
    }
    Ok(match severity {
        Severity::Ok => ExitCode::SUCCESS,
        Severity::Warning => Code::Failed.into(),
        Severity::Critical => Code::Critical.into(),
    })
}

fn read(path: &Path) -> anyhow::Result<StatusReport> {
    let config = config::load(path)?;
    block_on(async {
        let db = Db::open(&config.database)?;
        db.ask(db.store.status()).await
    })
}

fn text(report: &StatusReport, needs: &[Need]) -> String {
    let mut page = String::new();
    // Writing to a string does not fail.
    let mut line = |head: &str, rest: &str| {
        let _ = writeln!(page, "{head:<9} {rest}");
    };
    line("queue", &queue_line(&report.queue));
    for (nth, daemon) in report.daemons.iter().enumerate() {
        let seen = span(daemon.seen_seconds_ago);
        let head = if nth == 0 { "daemons" } else { "" };
        line(
            head,
            &format!(
                "{} on {}, process {}, version {}, seen {seen} ago",
                daemon.role, daemon.host, daemon.pid, daemon.version
            ),
        );
    }
    if report.daemons.is_empty() {
        line("daemons", "none");
    }
    for (nth, gateway) in report.gateways.iter().enumerate() {
        let head = if nth == 0 { "gateways" } else { "" };
        let reason = gateway.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        line(head, &format!("{} {} for {}{reason}", gateway.name, gateway.state, span(gateway.for_seconds)));
    }
    if needs.is_empty() {
        page.push_str("\nnothing needs a person\n");
        return page;
    }
    page.push_str("\nneeds a person:\n");
    for need in needs {
        let _ = write!(page, "- {} {}", need.severity.as_str().to_uppercase(), need.what);
        if let (Some(seconds), Some(since)) = (need.seconds, &need.since) {
            let _ = write!(page, " (for {}, since {since})", span(seconds));
        }
        if let Some(cause) = &need.cause {
            let _ = write!(page, ": {cause}");
        }
        let _ = writeln!(page, "\n  {}", need.to_do);
    }
    page
}

fn queue_line(queue: &QueueStatus) -> String {
    let mut line = format!("{} due", queue.due);
    if queue.due > 0 {
        let _ = write!(line, " (the oldest for {})", span(queue.oldest_due_seconds));
    }
    let _ = write!(line, ", {} scheduled, {} held, {} unknown", queue.scheduled, queue.held, queue.unknown);
    if queue.receipts_overdue > 0 {
        let _ = write!(line, ", {} without a receipt", queue.receipts_overdue);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::{needs, text};
    use crate::engine::alarm::Severity;
    use crate::store::status::{AlarmStatus, DaemonStatus, GatewayStatus, QueueStatus, StatusReport};

    fn healthy() -> StatusReport {
        StatusReport {
            queue: QueueStatus {
                due: 3,
                scheduled: 2,
                held: 0,
                unknown: 0,
                uncertain: 0,
                oldest_due_seconds: 0.7,
                all_held: false,
                held_reason: None,
                epoch: 4,
                leader_host: Some("sms1".to_owned()),
                leader_version: Some("0.1.0".to_owned()),
                leader_seen_seconds_ago: Some(0.4),
                open_alarms: 0,
                receipts_overdue: 0,
            },
            gateways: vec![GatewayStatus {
                name: "main".to_owned(),
                state: "waiting".to_owned(),
                reason: Some("busy".to_owned()),
                for_seconds: 125.0,
            }],
            alarms: Vec::new(),
            daemons: vec![DaemonStatus {
                instance: "x".to_owned(),
                host: "sms1".to_owned(),
                pid: 77,
                version: "0.1.0".to_owned(),
                role: "leader".to_owned(),
                seen_seconds_ago: 0.4,
            }],
        }
    }

    fn page(report: &StatusReport) -> String {
        text(report, &needs::of(report))
    }

    #[test]
    fn a_healthy_queue_needs_nobody() {
        assert_eq!(
            page(&healthy()),
            "queue     3 due (the oldest for 0s), 2 scheduled, 0 held, 0 unknown\n\
             daemons   leader on sms1, process 77, version 0.1.0, seen 0s ago\n\
             gateways  main waiting for 2m 5s: busy\n\
             \nnothing needs a person\n"
        );
    }

    #[test]
    fn messages_without_a_receipt_are_counted_and_need_nobody() {
        let mut report = healthy();
        report.queue.receipts_overdue = 7;
        assert!(page(&report).contains("0 unknown, 7 without a receipt\n"));
        assert!(needs::of(&report).is_empty());
    }

    #[test]
    fn each_thing_that_needs_a_person_is_told_with_what_to_do_the_worst_first() {
        let mut report = healthy();
        report.queue.leader_seen_seconds_ago = Some(16.0);
        report.queue.unknown = 1;
        report.queue.held = 2;
        report.queue.all_held = true;
        let found = needs::of(&report);
        assert_eq!(found.len(), 4);
        assert_eq!((found[0].severity, needs::worst(&found[1..])), (Severity::Critical, Severity::Warning));
        assert!(found.iter().all(|need| !need.to_do.is_empty()));
        report.alarms.push(AlarmStatus {
            code: "database_changed".to_owned(),
            subject: String::new(),
            text: "another cluster".to_owned(),
            opened_at: "2026-11-22T19:00:00Z".to_owned(),
            open_seconds: 60.0,
        });
        assert_eq!(needs::of(&report).len(), 4, "the hold is the alarm's");
        let text = page(&report);
        let line =
            "- CRITICAL database_changed (for 1m, since 2026-11-22T19:00:00Z): another cluster\n  if this is";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn a_stopped_gateway_is_started_again_by_its_name() {
        let mut report = healthy();
        report.alarms.push(AlarmStatus {
            code: "gateway_stopped".to_owned(),
            subject: "uk".to_owned(),
            text: "wrong password".to_owned(),
            opened_at: "2026-11-22T19:00:00Z".to_owned(),
            open_seconds: 60.0,
        });
        assert!(page(&report).contains("outboxd resume --gateway uk\n"), "{}", page(&report));
    }
}
