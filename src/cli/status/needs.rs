//! What needs a person: alarms, and what the queue says by itself; how soon, since when, and what to do.

use serde::Serialize;

use crate::cli::{LEADER_SILENCE, span};
use crate::engine::alarm::{Alarm, Severity};
use crate::store::status::{QueueStatus, StatusReport};

/// One thing that does not go away by itself.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Need {
    pub(super) severity: Severity,
    /// What it is, in few words.
    pub(super) what: String,
    /// Why, if there is more to say.
    pub(super) cause: Option<String>,
    /// For how long, if that is known.
    pub(super) seconds: Option<f64>,
    /// The same as a time.
    pub(super) since: Option<String>,
    pub(super) to_do: String,
}

/// The worst first.
pub(super) fn of(report: &StatusReport) -> Vec<Need> {
    let queue = &report.queue;
    let mut needs: Vec<Need> = report
        .alarms
        .iter()
        .map(|open| {
            let alarm = Alarm::of(&open.code);
            Need {
                severity: alarm.severity,
                what: if open.subject.is_empty() {
                    open.code.clone()
                } else {
                    format!("{} {}", open.code, open.subject)
                },
                cause: Some(open.text.clone()),
                seconds: Some(open.open_seconds),
                since: Some(open.opened_at.clone()),
                to_do: alarm.to_do(&open.subject),
            }
        })
        .collect();
    if let Some(reason) = no_leader(queue) {
        let to_do = "start it, for example with `systemctl start outboxd`";
        needs
            .push(Need { seconds: queue.leader_seen_seconds_ago, ..need(Severity::Critical, reason, to_do) });
    }
    // An alarm says the same where the database has changed.
    if queue.all_held && !report.alarms.iter().any(|alarm| alarm.code == "database_changed") {
        let reason = queue.held_reason.clone().unwrap_or_else(|| "no reason was given".to_owned());
        let held = need(Severity::Warning, "nothing is sent, as a person wanted", "`outboxd resume` goes on");
        needs.push(Need { cause: Some(reason), ..held });
    }
    if queue.unknown > 0 {
        let what = format!("{} may or may not have been sent", messages(queue.unknown));
        needs.push(need(Severity::Warning, what, "find out whether they were sent, then `outboxd resolve`"));
    }
    if queue.uncertain > 0 {
        let what =
            format!("{} set aside that may have been sent before a failover", messages(queue.uncertain));
        let to_do = "find out whether they were sent, then `outboxd cancel` or `outboxd retry --force`";
        needs.push(need(Severity::Warning, what, to_do));
    }
    let others = queue.held - queue.uncertain;
    if others > 0 {
        let what = format!("{} kept back", messages(others));
        let to_do = "the column error says why; then `outboxd retry` or `outboxd cancel`";
        needs.push(need(Severity::Warning, what, to_do));
    }
    needs.sort_by_key(|need| std::cmp::Reverse(need.severity));
    needs
}

fn need(severity: Severity, what: impl Into<String>, to_do: &str) -> Need {
    Need { severity, what: what.into(), cause: None, seconds: None, since: None, to_do: to_do.to_owned() }
}

pub(super) fn worst(needs: &[Need]) -> Severity {
    needs.iter().map(|need| need.severity).max().unwrap_or(Severity::Ok)
}

/// Why nothing is being sent, if no daemon leads.
pub(in crate::cli) fn no_leader(queue: &QueueStatus) -> Option<String> {
    match (queue.leader_seen_seconds_ago, &queue.leader_host) {
        (Some(seconds), Some(host)) if seconds > LEADER_SILENCE.as_secs_f64() => {
            Some(format!("the daemon on {host} was last seen {} ago", span(seconds)))
        }
        (Some(_), Some(_)) => None,
        _ => Some("no daemon has sent from this database yet".to_owned()),
    }
}

fn messages(count: i64) -> String {
    if count == 1 { "1 message".to_owned() } else { format!("{count} messages") }
}
