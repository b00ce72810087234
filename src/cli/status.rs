//! `outboxd status`: the queue, the daemons, the gateways, and what needs a person. Reads the database alone, so that
//! it works with the daemon down.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use crate::cli::args::StatusArgs;
use crate::cli::database::Db;
use crate::cli::errors::Code;
use crate::cli::{LEADER_SILENCE, block_on, print, print_json, span};
use crate::config;
use crate::store::status::{QueueStatus, StatusReport};

pub(super) fn run(args: &StatusArgs, path: &Path) -> anyhow::Result<ExitCode> {
    let config = config::load(path)?;
    let report = block_on(async {
        let db = Db::open(&config.database)?;
        db.ask(db.store.status()).await
    })?;
    if args.json {
        print_json(&report)?;
    } else {
        print(&text(&report))?;
    }
    Ok(if for_a_person(&report).is_empty() { ExitCode::SUCCESS } else { Code::Failed.into() })
}

/// Why nothing is being sent, if no daemon leads.
pub(super) fn no_leader(queue: &QueueStatus) -> Option<String> {
    match (queue.leader_seen_seconds_ago, &queue.leader_host) {
        (Some(seconds), Some(host)) if seconds > LEADER_SILENCE.as_secs_f64() => {
            Some(format!("the daemon on {host} was last seen {} ago", span(seconds)))
        }
        (Some(_), Some(_)) => None,
        _ => Some("no daemon has sent from this database yet".to_owned()),
    }
}

/// One line for each thing that does not go away by itself, with what to do about it.
fn for_a_person(report: &StatusReport) -> Vec<String> {
    let queue = &report.queue;
    let mut lines = Vec::new();
    for alarm in &report.alarms {
        let subject = if alarm.subject.is_empty() { String::new() } else { format!(" {}", alarm.subject) };
        lines.push(format!("{}{subject} (for {}): {}", alarm.code, span(alarm.open_seconds), alarm.text));
    }
    if let Some(reason) = no_leader(queue) {
        lines.push(format!("{reason}: start it, for example with `systemctl start outboxd`"));
    }
    // An alarm says the same where the database has changed.
    if queue.all_held && !report.alarms.iter().any(|alarm| alarm.code == "database_changed") {
        let reason = queue.held_reason.as_deref().unwrap_or("no reason was given");
        lines.push(format!("nothing is sent ({reason}): `outboxd resume` goes on"));
    }
    if queue.unknown > 0 {
        lines.push(format!(
            "{} may or may not have been sent: find out, then `outboxd resolve`",
            messages(queue.unknown)
        ));
    }
    if queue.uncertain > 0 {
        lines.push(format!(
            "{} set aside that may have been sent before a failover: find out, then `outboxd cancel` or `outboxd retry \
             --force`",
            messages(queue.uncertain)
        ));
    }
    let others = queue.held - queue.uncertain;
    if others > 0 {
        lines.push(format!(
            "{} kept back: the column error says why; `outboxd retry` or `outboxd cancel`",
            messages(others)
        ));
    }
    lines
}

fn messages(count: i64) -> String {
    if count == 1 { "1 message".to_owned() } else { format!("{count} messages") }
}

fn text(report: &StatusReport) -> String {
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
    let needed = for_a_person(report);
    if needed.is_empty() {
        page.push_str("\nnothing needs a person\n");
    } else {
        page.push_str("\nneeds a person:\n");
        for need in needed {
            let _ = writeln!(page, "- {need}");
        }
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
    use super::{for_a_person, text};
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

    #[test]
    fn a_healthy_queue_needs_nobody() {
        assert_eq!(
            text(&healthy()),
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
        assert!(text(&report).contains("0 unknown, 7 without a receipt\n"));
        assert!(for_a_person(&report).is_empty());
    }

    #[test]
    fn each_thing_that_needs_a_person_is_one_line() {
        let mut report = healthy();
        report.queue.leader_seen_seconds_ago = Some(16.0);
        report.queue.unknown = 1;
        report.queue.held = 2;
        report.queue.all_held = true;
        assert_eq!(for_a_person(&report).len(), 4);
        report.alarms.push(AlarmStatus {
            code: "database_changed".to_owned(),
            subject: String::new(),
            text: "run `outboxd adopt`".to_owned(),
            open_seconds: 60.0,
        });
        let lines = for_a_person(&report);
        assert_eq!(lines.len(), 4, "the hold is the alarm's: {lines:?}");
        assert_eq!(lines[0], "database_changed (for 1m): run `outboxd adopt`");
    }
}
