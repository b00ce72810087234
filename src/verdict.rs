//! What an attempt to send came to. Every gateway's answers are reduced to these four arms, once, at the edge;
//! everything behind (recording, breaker, metrics) consumes the verdict and never looks at an answer again.

use std::time::Duration;

/// The meaning of one answer, for one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The gateway took the message.
    Accepted {
        /// The gateway's own id, if it gives one.
        gateway_message_id: Option<String>,
        /// Something a person should know although the message was accepted.
        note: Option<String>,
    },
    /// The gateway refused this message, certainly and for good. Says something about the message.
    Rejected { code: &'static str, reason: String },
    /// Certainly not accepted, and not the message's fault: it stays queued. Says something about the gateway.
    Deferred { cause: DeferCause, retry_after: Option<Duration>, reason: String },
    /// Bytes left, and no answer of the gateway's own came back: it may have been accepted. Never retried
    /// behind the user's back.
    Unknown { reason: String },
}

/// The meaning of one answer, for messages that travelled in one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joint {
    /// Of every message but the exceptions. `Rejected` says that none was accepted, and not whose fault that is.
    pub verdict: Verdict,
    /// Messages that the answer tells apart, by their place in the request. Each place stands here once.
    pub exceptions: Vec<(usize, Verdict)>,
    /// What the gateway said of messages that it did not take and that cannot be told from the others.
    pub unmatched: Option<String>,
}

impl Joint {
    /// The same for each message.
    pub const fn of(verdict: Verdict) -> Joint {
        Joint { verdict, exceptions: Vec::new(), unmatched: None }
    }
}

/// Why a message was deferred: decides what happens to its gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeferCause {
    /// Nothing left this host: connection refused, name or TLS failure.
    Unreachable,
    /// The gateway asks for patience (429, throttled).
    Throttled,
    /// The gateway said that it did not take the message and may later.
    Busy,
    /// Credentials are wrong or the account is blocked: the gateway is stopped until a person acts.
    Unauthorized,
    /// No credits: the gateway is stopped until a person acts.
    NoCredit,
    /// The request itself is wrong for every message (path, method, redirect): stopped until a person acts.
    Misconfigured,
    /// We did not start it: shutdown, lost leadership, a breaker that opened. Says nothing about the gateway.
    NotStarted,
}

impl DeferCause {
    pub const fn as_str(self) -> &'static str {
        match self {
            DeferCause::Unreachable => "gateway_unreachable",
            DeferCause::Throttled => "gateway_throttled",
            DeferCause::Busy => "gateway_busy",
            DeferCause::Unauthorized => "gateway_unauthorized",
            DeferCause::NoCredit => "gateway_no_credit",
            DeferCause::Misconfigured => "gateway_misconfigured",
            DeferCause::NotStarted => "not_started",
        }
    }

    /// Trying again without a person's help cannot succeed, and might lock the account.
    pub const fn needs_a_person(self) -> bool {
        match self {
            DeferCause::Unauthorized | DeferCause::NoCredit | DeferCause::Misconfigured => true,
            DeferCause::Unreachable | DeferCause::Throttled | DeferCause::Busy | DeferCause::NotStarted => {
                false
            }
        }
    }
}

/// What a delivery receipt says, after its signature was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The NotifyId that came back, as it came.
    pub gateway_ref: String,
    pub delivered: bool,
    /// How many SMS the message became, and what became of them.
    pub parts: Option<Parts>,
    /// The gateway's time of the event, microseconds since 1970, if it could be read.
    pub at_us: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    pub to_send: u32,
    pub sent: u32,
    pub failed: u32,
}

impl Receipt {
    /// It says "not delivered" only because parts are still to come: none has failed, and some have arrived.
    pub fn is_interim(&self) -> bool {
        let waiting = |parts: Parts| parts.failed == 0 && parts.sent > 0 && parts.sent < parts.to_send;
        !self.delivered && self.parts.is_some_and(waiting)
    }
}
