//! The labels, and counters that have one for each of their values.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::message::Status;
use crate::verdict::{DeferCause, Verdict};

/// A label of few values, all of them known beforehand.
pub trait Label: Copy + PartialEq + 'static {
    const ALL: &'static [Self];
}

/// One count for each value.
#[derive(Debug)]
pub struct Counters<L> {
    counts: Box<[AtomicU64]>,
    labels: PhantomData<L>,
}

impl<L: Label> Default for Counters<L> {
    fn default() -> Counters<L> {
        Counters { counts: L::ALL.iter().map(|_| AtomicU64::new(0)).collect(), labels: PhantomData }
    }
}

impl<L: Label> Counters<L> {
    pub fn add(&self, label: L, count: u64) {
        // A handful of values: looking for it costs less than hashing it would.
        if let Some(at) = L::ALL.iter().position(|one| *one == label) {
            self.counts[at].fetch_add(count, Ordering::Relaxed);
        }
    }

    pub(super) fn each(&self, mut tell: impl FnMut(L, u64)) {
        for (label, count) in L::ALL.iter().zip(&self.counts) {
            tell(*label, count.load(Ordering::Relaxed));
        }
    }
}

/// What a row says after a result was written into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Accepted,
    Failed,
    Unknown,
    Expired,
    /// The attempt came to nothing, and it goes on waiting.
    Queued,
    /// It waits for a person.
    Held,
}

impl Outcome {
    /// `None`: a status that no result of an attempt has.
    pub const fn of(status: Status, held: bool) -> Option<Outcome> {
        match status {
            Status::Queued if held => Some(Outcome::Held),
            Status::Queued => Some(Outcome::Queued),
            Status::Unknown => Some(Outcome::Unknown),
            Status::Accepted => Some(Outcome::Accepted),
            Status::Failed => Some(Outcome::Failed),
            Status::Expired => Some(Outcome::Expired),
            Status::Delivered | Status::Undelivered | Status::Cancelled => None,
        }
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Outcome::Accepted => "accepted",
            Outcome::Failed => "failed",
            Outcome::Unknown => "unknown",
            Outcome::Expired => "expired",
            Outcome::Queued => "queued",
            Outcome::Held => "held",
        }
    }
}

impl Label for Outcome {
    const ALL: &'static [Outcome] = &[
        Outcome::Accepted,
        Outcome::Failed,
        Outcome::Unknown,
        Outcome::Expired,
        Outcome::Queued,
        Outcome::Held,
    ];
}

/// What an attempt came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    Accepted,
    Rejected,
    Unknown,
    Unreachable,
    Throttled,
    Busy,
    Unauthorized,
    NoCredit,
    Misconfigured,
    NotStarted,
}

impl Attempt {
    pub const fn of(verdict: &Verdict) -> Attempt {
        match verdict {
            Verdict::Accepted { .. } => Attempt::Accepted,
            Verdict::Rejected { .. } => Attempt::Rejected,
            Verdict::Unknown { .. } => Attempt::Unknown,
            Verdict::Deferred { cause, .. } => match cause {
                DeferCause::Unreachable => Attempt::Unreachable,
                DeferCause::Throttled => Attempt::Throttled,
                DeferCause::Busy => Attempt::Busy,
                DeferCause::Unauthorized => Attempt::Unauthorized,
                DeferCause::NoCredit => Attempt::NoCredit,
                DeferCause::Misconfigured => Attempt::Misconfigured,
                DeferCause::NotStarted => Attempt::NotStarted,
            },
        }
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Attempt::Accepted => "accepted",
            Attempt::Rejected => "rejected",
            Attempt::Unknown => "unknown",
            Attempt::Unreachable => "unreachable",
            Attempt::Throttled => "throttled",
            Attempt::Busy => "busy",
            Attempt::Unauthorized => "unauthorized",
            Attempt::NoCredit => "no_credit",
            Attempt::Misconfigured => "misconfigured",
            Attempt::NotStarted => "not_started",
        }
    }
}

impl Label for Attempt {
    const ALL: &'static [Attempt] = &[
        Attempt::Accepted,
        Attempt::Rejected,
        Attempt::Unknown,
        Attempt::Unreachable,
        Attempt::Throttled,
        Attempt::Busy,
        Attempt::Unauthorized,
        Attempt::NoCredit,
        Attempt::Misconfigured,
        Attempt::NotStarted,
    ];
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaveResult {
    Committed,
    /// Another leader took over, or everything is held.
    Fenced,
    Failed,
}

impl WaveResult {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            WaveResult::Committed => "committed",
            WaveResult::Fenced => "fenced",
            WaveResult::Failed => "failed",
        }
    }
}

impl Label for WaveResult {
    const ALL: &'static [WaveResult] = &[WaveResult::Committed, WaveResult::Fenced, WaveResult::Failed];
}

/// Why the leader looked at the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wakeup {
    Doorbell,
    Poll,
    /// Between polls, while rows keep coming or the doorbell cannot be relied upon.
    Look,
    /// A scheduled row became due.
    Schedule,
}

impl Wakeup {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Wakeup::Doorbell => "doorbell",
            Wakeup::Poll => "poll",
            Wakeup::Look => "look",
            Wakeup::Schedule => "schedule",
        }
    }
}

impl Label for Wakeup {
    const ALL: &'static [Wakeup] = &[Wakeup::Doorbell, Wakeup::Poll, Wakeup::Look, Wakeup::Schedule];
}

/// A callback: its kind, and what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Callback {
    Written(Told),
    /// The gateway was told to send it again.
    NotWritten(Told),
    /// Genuine, and nothing to us.
    Ignored,
    WrongPath,
    WrongSource,
    WrongMethod,
    WrongSignature,
    Malformed,
    NotUnderstood,
    TooLarge,
    TooSlow,
}

/// What a callback tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    Delivered,
    Undelivered,
    Processed,
    Reply,
    RequestRefused,
}

impl Callback {
    pub(super) const fn kind(self) -> &'static str {
        match self {
            Callback::Written(told) | Callback::NotWritten(told) => match told {
                Told::Delivered => "delivered",
                Told::Undelivered => "undelivered",
                Told::Processed => "processed",
                Told::Reply => "reply",
                Told::RequestRefused => "request_refused",
            },
            Callback::Ignored
            | Callback::WrongPath
            | Callback::WrongSource
            | Callback::WrongMethod
            | Callback::WrongSignature
            | Callback::Malformed
            | Callback::NotUnderstood
            | Callback::TooLarge
            | Callback::TooSlow => "none",
        }
    }

    pub(super) const fn result(self) -> &'static str {
        match self {
            Callback::Written(_) => "written",
            Callback::NotWritten(_) => "not_written",
            Callback::Ignored => "ignored",
            Callback::WrongPath => "wrong_path",
            Callback::WrongSource => "wrong_source",
            Callback::WrongMethod => "wrong_method",
            Callback::WrongSignature => "wrong_signature",
            Callback::Malformed => "malformed",
            Callback::NotUnderstood => "not_understood",
            Callback::TooLarge => "too_large",
            Callback::TooSlow => "too_slow",
        }
    }
}

impl Label for Callback {
    const ALL: &'static [Callback] = &[
        Callback::Written(Told::Delivered),
        Callback::Written(Told::Undelivered),
        Callback::Written(Told::Processed),
        Callback::Written(Told::Reply),
        Callback::Written(Told::RequestRefused),
        Callback::NotWritten(Told::Delivered),
        Callback::NotWritten(Told::Undelivered),
        Callback::NotWritten(Told::Processed),
        Callback::NotWritten(Told::Reply),
        Callback::NotWritten(Told::RequestRefused),
        Callback::Ignored,
        Callback::WrongPath,
        Callback::WrongSource,
        Callback::WrongMethod,
        Callback::WrongSignature,
        Callback::Malformed,
        Callback::NotUnderstood,
        Callback::TooLarge,
        Callback::TooSlow,
    ];
}
