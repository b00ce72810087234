//! `outboxd status --nagios`: the monitoring plug-ins' format, which Nagios, Icinga, Naemon, Checkmk and Zabbix take. One
//! line with performance data, exit code 0 to 3.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use crate::cli::errors::{Code, Failure};
use crate::cli::span;
use crate::cli::status::needs::Need;
use crate::engine::alarm::Severity;
use crate::store::status::QueueStatus;

/// Longest text before the performance data: some of those programs cut at a kilobyte.
const TEXT_CHARS: usize = 500;

/// From which age of the oldest due message on somebody is told.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Thresholds {
    pub(super) warning: Option<Duration>,
    pub(super) critical: Option<Duration>,
}

/// The line, and how to exit.
pub(super) fn line(queue: &QueueStatus, needs: &[Need], limits: Thresholds) -> (String, ExitCode) {
    let mut found: Vec<(Severity, String)> = needs
        .iter()
        .map(|need| {
            let cause = need.cause.as_ref().map(|cause| format!(": {cause}")).unwrap_or_default();
            (need.severity, format!("{}{cause}", need.what))
        })
        .collect();
    let waits =
        |limit: Option<Duration>| limit.is_some_and(|limit| queue.oldest_due_seconds > limit.as_secs_f64());
    let late = if waits(limits.critical) {
        Severity::Critical
    } else if waits(limits.warning) {
        Severity::Warning
    } else {
        Severity::Ok
    };
    if late != Severity::Ok {
        found.push((
            late,
            format!("the oldest due message has waited for {}", span(queue.oldest_due_seconds)),
        ));
    }
    found.sort_by_key(|(severity, _)| std::cmp::Reverse(*severity));
    let worst = found.first().map_or(Severity::Ok, |(severity, _)| *severity);
    let text = if found.is_empty() {
        let host = queue.leader_host.as_deref().unwrap_or_default();
        format!("{} due, the daemon on {host} sends", queue.due)
    } else {
        found.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join("; ")
    };
    let word = worst.as_str().to_uppercase();
    (format!("OUTBOXD {word} - {} | {}\n", plain(&text), figures(queue, limits)), ExitCode::from(worst as u8))
}

/// A failure of the command itself. That the database cannot be reached is bad news, not missing news: nothing is sent.
pub(super) fn failure(error: &anyhow::Error) -> (String, ExitCode) {
    let failure = error.downcast_ref::<Failure>();
    let text = failure.map_or_else(|| error.to_string(), |failure| failure.message.clone());
    match failure.map(|failure| failure.code) {
        Some(Code::Unavailable) => (format!("OUTBOXD CRITICAL - {}\n", plain(&text)), ExitCode::from(2)),
        _ => (format!("OUTBOXD UNKNOWN - {}\n", plain(&text)), ExitCode::from(3)),
    }
}

/// One line without the character that begins the performance data.
fn plain(text: &str) -> String {
    let mut plain: String = text
        .chars()
        .map(|c| {
            if c == '|' {
                '/'
            } else if c.is_control() {
                ' '
            } else {
                c
            }
        })
        .take(TEXT_CHARS)
        .collect();
    if text.chars().nth(TEXT_CHARS).is_some() {
        plain.push('…');
    }
    plain
}

/// `label=value[unit];[warning];[critical];[least]`.
fn figures(queue: &QueueStatus, limits: Thresholds) -> String {
    let seconds =
        |limit: Option<Duration>| limit.map(|limit| limit.as_secs_f64().to_string()).unwrap_or_default();
    let mut figures = format!(
        "oldest_due={:.3}s;{};{};0",
        queue.oldest_due_seconds,
        seconds(limits.warning),
        seconds(limits.critical)
    );
    for (label, count) in [
        ("due", queue.due),
        ("scheduled", queue.scheduled),
        ("held", queue.held),
        ("unknown", queue.unknown),
        ("alarms", queue.open_alarms),
    ] {
        // Writing to a string does not fail.
        let _ = write!(figures, " {label}={count};;;0");
    }
    figures
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::{failure, plain};
    use crate::cli::errors::{Code, Failure};

    #[test]
    fn a_text_cannot_break_the_line_nor_begin_the_figures() {
        assert_eq!(plain("a|b\nc\td"), "a/b c d");
        let long = plain(&"ä".repeat(2000));
        assert_eq!((long.chars().count(), long.ends_with('…')), (501, true));
    }

    #[test]
    fn only_a_database_that_is_away_is_critical_by_itself() {
        let error =
            anyhow!("refused").context(Failure::new(Code::Unavailable, "could not reach the database"));
        assert_eq!(failure(&error).0, "OUTBOXD CRITICAL - could not reach the database\n");
        let error = anyhow::Error::from(Failure::new(Code::Config, "no tables"));
        assert_eq!(failure(&error).0, "OUTBOXD UNKNOWN - no tables\n");
        assert_eq!(failure(&anyhow!("what\n| else")).0, "OUTBOXD UNKNOWN - what / else\n");
    }
}
