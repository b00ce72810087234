//! Every alarm that this program raises: how bad it is, and what a person is to do about it. `outboxd.alarm` holds those
//! that are open.

use serde::Serialize;

/// How soon a person is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Ok,
    /// Messages go out; something is to be looked after.
    Warning,
    /// Messages do not go out, or will soon not.
    Critical,
}

impl Severity {
    pub const fn as_str(self) -> &'static str {
        match self {
            Severity::Ok => "ok",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        }
    }
}

/// What is known of an alarm by its code.
#[derive(Debug, Clone, Copy)]
pub struct Alarm {
    pub code: &'static str,
    pub severity: Severity,
    /// `NAME` stands for what the alarm is about.
    to_do: &'static str,
}

pub const ALARMS: [Alarm; 10] = [
    Alarm {
        code: "database_changed",
        severity: Severity::Critical,
        to_do: "if this is the database to send from, look through what is queued, then run: outboxd adopt",
    },
    Alarm {
        code: "gateway_stopped",
        severity: Severity::Critical,
        to_do: "mend the cause, see what `outboxd check` says, then run: outboxd resume --gateway NAME",
    },
    Alarm {
        code: "messages_hidden",
        severity: Severity::Critical,
        to_do: "grant outboxd_daemon to the daemon's role, or restore the policy; `outboxd check` names it",
    },
    Alarm {
        code: "results_refused",
        severity: Severity::Critical,
        to_do: "undo the change of the schema or the privilege that `outboxd check` names; nothing is lost meanwhile",
    },
    Alarm {
        code: "statement_refused",
        severity: Severity::Critical,
        to_do: "undo the change of the schema or the privilege that `outboxd check` names; it goes on by itself",
    },
    Alarm {
        code: "gateway_waiting",
        severity: Severity::Warning,
        to_do: "it is tried again by itself; if it stays so, `outboxd check` says where the way to it is shut",
    },
    Alarm {
        code: "doorbell_silent",
        severity: Severity::Warning,
        to_do: "create or enable the triggers again: `outboxd check` names them",
    },
    Alarm {
        code: "failover_uncertain",
        severity: Severity::Warning,
        to_do: "look at the messages set aside, run `outboxd adopt`, then `outboxd retry --status held --force` or cancel",
    },
    Alarm {
        code: "skipped_unnamed",
        severity: Severity::Warning,
        to_do: "find in the gateway's web pages who was skipped, send to them again, then run: outboxd resume --gateway NAME",
    },
    Alarm {
        code: "request_refused",
        severity: Severity::Warning,
        to_do: "look into the gateway's web pages, send what it refused again, then run: outboxd resume",
    },
];

/// One of a newer version is at least worth a look.
const FOREIGN: Alarm = Alarm {
    code: "other",
    severity: Severity::Warning,
    to_do: "see the documentation of the newest outboxd in use",
};

impl Alarm {
    pub fn of(code: &str) -> Alarm {
        ALARMS.into_iter().find(|alarm| alarm.code == code).unwrap_or(FOREIGN)
    }

    /// What to do about one that is about this.
    pub fn to_do(&self, subject: &str) -> String {
        self.to_do.replace("NAME", subject)
    }
}
