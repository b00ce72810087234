//! Behind the send APIs: takes batches, hands messages to carriers, stores and forwards them to handsets.
//!
//! Knows nothing of HTTP. Whatever happens to a message happens here once, and is in the ledger first.

use std::sync::Arc;

use tokio::time::Instant;

use crate::sim::agenda::{Event, after_ms};
use crate::sim::batch::{Batch, Outcome, Recipient};
use crate::sim::callbacks::{Inbound, Processing, What, make, make_receipt};
use crate::sim::handset::{Handset, Power};
use crate::sim::hub::Hub;
use crate::sim::ledger::{Accepted, Slip, Stage, Ticket, keep};
use crate::sim::number::{international, with_irish_default};
use crate::sim::script::{Refusal, Target};
use crate::sim::settings::{Carrier, Settings};
use crate::sim::stamp;

/// The shared number that opt-outs are sent to.
const OPT_OUT_NUMBER: &str = "50123";

/// Circumstances of a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// Refuse, whatever it says.
    pub(super) forced: Option<Refusal>,
    /// The answer leaves so much later; carriers and processing results wait for it.
    pub(super) answer_ms: u64,
}

/// What came of one recipient.
enum Fate {
    Accepted,
    Invalid,
    /// Empty number: told by a processing result only.
    Empty,
    NoCredit,
}

/// Accepts what can be accepted.
pub(super) fn take(hub: &Hub, settings: &Settings, batch: Batch, terms: Terms) -> Outcome {
    let unlisted =
        settings.senders.only_listed && !settings.senders.list.iter().any(|known| known.name == batch.sender);
    let refusal = terms.forced.or_else(|| unlisted.then_some(Refusal::Sender));
    if let Some(refusal) = refusal {
        hub.counters.add(&hub.counters.refused, batch.recipients.len() as u64);
        tell_refusal(hub, settings, &batch, refusal);
        return Outcome::Refused(refusal);
    }
    let mut hand = Hand {
        hub,
        settings,
        terms,
        via: batch.via,
        text: keep(&batch.text, settings.keep_text.0),
        sender: Arc::from(batch.sender.as_str()),
        wait_ms: batch.wait_ms,
        dlr: batch.dlr.map(Box::new),
        accepted: 0,
    };
    let mut invalid = Vec::new();
    let mut no_credit = false;
    for recipient in batch.recipients {
        match hand.take_one(&recipient) {
            Fate::Accepted | Fate::Empty => {}
            Fate::Invalid => invalid.push(recipient),
            Fate::NoCredit => no_credit = true,
        }
    }
    match (hand.accepted, no_credit) {
        (0, true) => Outcome::Refused(Refusal::Credits),
        (0, false) if !invalid.is_empty() => Outcome::Refused(Refusal::Number),
        _ => Outcome::Scheduled { invalid },
    }
}

/// What the recipients of one batch share.
struct Hand<'a> {
    hub: &'a Hub,
    settings: &'a Settings,
    terms: Terms,
    via: Target,
    text: (Arc<str>, [u8; 16]),
    sender: Arc<str>,
    wait_ms: u64,
    dlr: Option<Box<crate::sim::ledger::Dlr>>,
    accepted: u64,
}

impl Hand<'_> {
    fn take_one(&mut self, recipient: &Recipient) -> Fate {
        let number = match self.via {
            Target::V2
                if self.settings.v2.invalid.iter().any(|start| recipient.number.starts_with(start)) =>
            {
                None
            }
            Target::V2 => with_irish_default(&recipient.number),
            _ => international(&recipient.number),
        };
        let fate = match number {
            None if recipient.number.is_empty() && self.via == Target::V2 => Fate::Empty,
            None => Fate::Invalid,
            Some(_) if !self.hub.spend() => Fate::NoCredit,
            Some(number) => {
                self.accept(number, recipient.notify_id.clone());
                Fate::Accepted
            }
        };
        let (status, message) = match fate {
            Fate::Accepted => ("MESSAGE_SUCCESS", "Your message has been queued."),
            Fate::Empty => ("MESSAGE_ERROR", "null/empty MSISDN"),
            Fate::NoCredit => ("MESSAGE_ERROR", NO_CREDITS),
            Fate::Invalid => {
                self.hub.counters.add(&self.hub.counters.refused, 1);
                return fate;
            }
        };
        if !matches!(fate, Fate::Accepted) {
            self.hub.counters.add(&self.hub.counters.refused, 1);
        }
        let note = Processing { status, message, notify_id: Some(recipient.notify_id.clone()) };
        tell(self.hub, self.settings, self.via, (note, self.terms.answer_ms));
        fate
    }

    fn accept(&mut self, number: u64, notify_id: String) {
        let hub = self.hub;
        let carrier = carrier(self.settings, number);
        let road_ms = carrier.map_or(0, |carrier| hub.around(carrier.latency_ms, carrier.jitter_ms));
        let due = after_ms(self.terms.answer_ms.saturating_add(self.wait_ms).saturating_add(road_ms));
        let validity = std::time::Duration::from_millis(self.settings.network.validity_ms);
        let ticket = hub.ledger().write(Accepted {
            number,
            notify_id,
            text: Arc::clone(&self.text.0),
            text_md5: self.text.1,
            sender: Arc::clone(&self.sender),
            via: self.via,
            expires: due.checked_add(validity).unwrap_or(due),
            dlr: self.dlr.clone(),
        });
        let Some(ticket) = ticket else { return };
        self.accepted += 1;
        hub.counters.add(&hub.counters.pending, 1);
        hub.counters.add(&hub.counters.accepted, 1);
        hub.agenda.at(due, Event::Deliver(ticket));
    }
}

const NO_CREDITS: &str = "Error trying to add a new message. No credits available";

/// A refused v2 batch is answered with 200 and told by a processing result for each recipient.
fn tell_refusal(hub: &Hub, settings: &Settings, batch: &Batch, refusal: Refusal) {
    for recipient in &batch.recipients {
        let note = match refusal {
            // Carries no reference: that is how it is documented.
            Refusal::Sender => {
                Processing { status: "CAMPAIGN_ERROR", message: "Sender is not valid", notify_id: None }
            }
            Refusal::Credits => Processing {
                status: "MESSAGE_ERROR",
                message: NO_CREDITS,
                notify_id: Some(recipient.notify_id.clone()),
            },
            Refusal::Login | Refusal::Number | Refusal::Parameter | Refusal::Busy => return,
        };
        tell(hub, settings, batch.via, (note, 0));
    }
}

fn tell(hub: &Hub, settings: &Settings, via: Target, (note, delay_ms): (Processing, u64)) {
    if via == Target::V2 && settings.callbacks.results_to.is_some() {
        make(hub, What::Result(Box::new(note)), delay_ms);
    }
}

/// Does what the agenda says, for ever.
pub(super) async fn run(hub: Arc<Hub>) {
    let mut events = Vec::new();
    loop {
        hub.agenda.due(&mut events).await;
        for event in events.drain(..) {
            match event {
                Event::Deliver(ticket) => deliver(&hub, ticket),
                Event::GiveUp(ticket) => give_up(&hub, ticket),
                Event::Post(job) => hub.outbound.push(job),
            }
        }
        // Under a flood there is always something due; others want the thread too.
        tokio::task::yield_now().await;
    }
}

/// Changes a handset. What waited for it is tried at once.
pub(super) fn set_handset(hub: &Hub, number: u64, handset: Handset) {
    let now = Instant::now();
    for ticket in hub.handsets.set(number, handset) {
        hub.agenda.at(now, Event::Deliver(ticket));
    }
}

/// A text written on a handset: a reply, or an opt-out. False: nobody is configured to get it.
pub(super) fn text_from(hub: &Hub, number: u64, text: &str, to: Option<String>) -> bool {
    if hub.settings().callbacks.inbound_to.is_none() {
        return false;
    }
    let opt_out = matches!(text.trim().to_ascii_uppercase().as_str(), "STOP" | "OPTOUT");
    let to = to.unwrap_or_else(|| if opt_out { OPT_OUT_NUMBER.into() } else { "353861000000".into() });
    let notify_id = hub.ledger().last_to(number).unwrap_or_default();
    let inbound = Inbound { from: number, to, text: text.to_owned(), notify_id, at_us: stamp::now_us() };
    make(hub, What::Inbound(Box::new(inbound)), 0);
    true
}

fn deliver(hub: &Hub, ticket: Ticket) {
    let Some(slip) = hub.ledger().slip(ticket).filter(|slip| slip.stage == Stage::Pending) else { return };
    let settings = hub.settings();
    let handset = hub.handsets.get(slip.number);
    let down = carrier(&settings, slip.number).is_some_and(|carrier| carrier.down);
    let now = Instant::now();
    match if down { Power::Unreachable } else { handset.state } {
        Power::On => arrive(hub, ticket, &slip, &handset),
        Power::Off if hub.handsets.park(slip.number, ticket) => {
            hub.agenda.at(slip.expires, Event::GiveUp(ticket));
        }
        // Switched on since we looked.
        Power::Off => hub.agenda.at(now, Event::Deliver(ticket)),
        Power::Unreachable if now >= slip.expires => give_up(hub, ticket),
        Power::Unreachable => {
            let again = after_ms(settings.network.retry_ms.max(1)).min(slip.expires);
            hub.agenda.at(again, Event::Deliver(ticket));
        }
    }
}

fn arrive(hub: &Hub, ticket: Ticket, slip: &Slip, handset: &Handset) {
    let Some(arrivals) = hub.ledger().arrive(ticket) else { return };
    if arrivals == 2 {
        hub.counters.add(&hub.counters.reached_twice, 1);
    }
    make_receipt(hub, ticket, slip, true);
    if let Some(reply) = &handset.reply {
        text_from(hub, slip.number, reply, None);
    }
    hub.counters.sub(&hub.counters.pending, 1);
    hub.counters.add(&hub.counters.arrived, 1);
}

fn give_up(hub: &Hub, ticket: Ticket) {
    let slip = {
        let mut ledger = hub.ledger();
        let Some(slip) = ledger.slip(ticket) else { return };
        if !ledger.give_up(ticket) {
            return;
        }
        slip
    };
    hub.handsets.unpark(slip.number, ticket);
    make_receipt(hub, ticket, &slip, false);
    hub.counters.sub(&hub.counters.pending, 1);
    hub.counters.add(&hub.counters.undelivered, 1);
}

/// The carrier with the longest prefix that fits.
fn carrier(settings: &Settings, number: u64) -> Option<&Carrier> {
    match settings.network.carriers.as_slice() {
        [only] if only.prefix.is_empty() => Some(only),
        carriers => {
            let digits = number.to_string();
            let fitting = carriers.iter().filter(|carrier| digits.starts_with(&carrier.prefix));
            fitting.max_by_key(|carrier| carrier.prefix.len())
        }
    }
}
