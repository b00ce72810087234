//! What the dialects reduce a request to, and what came of it: the vocabulary between a dialect and the SMSC.

use crate::sim::ledger::Dlr;
use crate::sim::script::{Refusal, Target};

/// A request to send one text to some recipients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) via: Target,
    pub(super) text: String,
    pub(super) sender: String,
    pub(super) recipients: Vec<Recipient>,
    /// Hold it so long before it goes to the carrier.
    pub(super) wait_ms: u64,
    pub(super) dlr: Option<Dlr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Recipient {
    /// As it was given.
    pub(super) number: String,
    pub(super) notify_id: String,
}

/// What came of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Everything but these.
    Scheduled {
        invalid: Vec<Recipient>,
    },
    Refused(Refusal),
}

impl Batch {
    /// The first recipient, for rules that look at its prefix.
    pub(super) fn first_number(&self) -> &str {
        self.recipients.first().map_or("", |recipient| recipient.number.as_str())
    }
}
