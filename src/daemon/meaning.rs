//! From a callback that may be believed to a fact that is to be written: whose message it is, what it answers, whether
//! somebody wants no more. Pure, but for the log.

use tracing::debug;

use crate::config::{Config, Inbox, OptOut, Text};
use crate::engine::incoming::Fact;
use crate::gateway::callback::{Callback, Inbound, Outcome, Processing};
use crate::message::NotifyRef;
use crate::store::inbox::{AutoReply, InboundFact};
use crate::store::receipts::{Processed, ProcessedFact, ReceiptFact};
use crate::text::keyword;
use crate::text::msisdn::{self, NumberPlan};
use crate::verdict::Receipt;

/// Longest reason that is written into a row.
const REASON_CHARS: usize = 500;

pub(super) struct Meaning {
    text: Text,
    inbox: Inbox,
    opt_out: OptOut,
}

impl Meaning {
    pub(super) fn new(config: &Config) -> Meaning {
        Meaning { text: config.text.clone(), inbox: config.inbox.clone(), opt_out: config.opt_out.clone() }
    }

    /// `None`: genuine, and nothing to us.
    pub(super) fn of(&self, callback: Callback) -> Option<Fact> {
        match callback {
            Callback::Receipt(receipt) => of_receipt(&receipt).map(Fact::Receipt),
            Callback::Processing(processing) => of_processing(processing),
            Callback::Inbound(inbound) => Some(Fact::Inbound(Box::new(self.of_inbound(inbound)))),
        }
    }

    fn of_inbound(&self, inbound: Inbound) -> InboundFact {
        let effect = keyword::effect(&inbound.text, &inbound.recipient, &self.opt_out);
        let keyword = keyword::words(&inbound.text).into_iter().next();
        InboundFact {
            sender: self.number(inbound.sender),
            auto_reply: keyword.as_deref().and_then(|keyword| self.auto_reply(keyword)),
            keyword,
            app: self.inbox.app_of(&inbound.recipient).map(str::to_owned),
            recipient: inbound.recipient,
            body: inbound.text,
            network: inbound.network,
            reference: inbound.gateway_ref.as_deref().and_then(NotifyRef::parse),
            gateway_ref: inbound.gateway_ref,
            at_us: inbound.at_us,
            effect: effect.map(keyword::Effect::as_str),
            fingerprint: inbound.fingerprint,
        }
    }

    /// "Start at ten?" opts nobody in, and must not be told that it did.
    fn auto_reply(&self, keyword: &str) -> Option<AutoReply> {
        let template = self.inbox.auto_reply.get(keyword)?.clone();
        let opts_in = self.opt_out.opt_in_keywords.iter().any(|words| words == &[keyword]);
        let only_for = opts_in.then(|| keyword::Effect::OptIn.as_str());
        Some(AutoReply { template, only_for, pause: self.inbox.auto_reply_pause })
    }

    /// International digits, as the numbers of messages are compared. A gateway gives those without `+`, so they are
    /// taken for what they are before a national number is made of them.
    fn number(&self, written: String) -> String {
        let international = NumberPlan { country: None, trunk: "" };
        let plan =
            NumberPlan { country: self.text.default_country.as_deref(), trunk: &self.text.trunk_prefix };
        msisdn::normalise(&written, international)
            .or_else(|_| msisdn::normalise(&written, plan))
            .unwrap_or(written)
    }
}

fn of_receipt(receipt: &Receipt) -> Option<ReceiptFact> {
    let Some(reference) = NotifyRef::parse(&receipt.gateway_ref) else {
        debug!("a receipt for a message that did not come from here");
        return None;
    };
    if receipt.is_interim() {
        debug!(message_id = reference.id.0, "a receipt for some of its parts; others are still to come");
        return None;
    }
    let some_arrived = receipt.parts.filter(|parts| !receipt.delivered && parts.sent > 0);
    let note = some_arrived
        .map(|parts| format!("only {} of its {} SMS reached the handset", parts.sent, parts.to_send));
    Some(ReceiptFact { reference, delivered: receipt.delivered, note })
}

fn of_processing(processing: Processing) -> Option<Fact> {
    let Processing { gateway_ref, outcome, finished_at } = processing;
    let Some(gateway_ref) = gateway_ref else {
        let (code, reason) = match outcome {
            Outcome::Accepted => return None,
            Outcome::Rejected { code, reason } => (code, reason),
            Outcome::NoCredit { reason } => ("gateway_no_credit", reason),
        };
        return Some(Fact::CampaignRefused { code, reason: presentable(&reason), finished_at });
    };
    let Some(reference) = NotifyRef::parse(&gateway_ref) else {
        debug!("a processing result for a message that did not come from here");
        return None;
    };
    let outcome = match outcome {
        Outcome::Accepted => Processed::Accepted,
        Outcome::Rejected { code, reason } => Processed::Failed { code, reason: presentable(&reason) },
        Outcome::NoCredit { reason } => Processed::NoCredit { reason: presentable(&reason) },
    };
    Some(Fact::Processed(ProcessedFact { reference, outcome }))
}

/// Text from outside as it may stand in a column.
fn presentable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(REASON_CHARS).collect()
}
