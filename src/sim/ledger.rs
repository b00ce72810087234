//! What was accepted and what reached a handset: the truth that tests compare the daemon's rows with.
//!
//! Grows with every message until a reset; some hundred bytes each. Never forgets, never judges.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::sim::digest::{hex, md5};
use crate::sim::script::Target;
use crate::sim::stamp;

/// One message as the ledger shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Order of acceptance, from 1.
    pub seq: u64,
    pub number: String,
    pub notify_id: String,
    /// What makes two messages the same one; see [`key_of`].
    pub key: String,
    pub text: String,
    /// Of the whole text, even where `text` was cut.
    pub text_md5: String,
    pub sender: String,
    pub via: Target,
    pub stage: Stage,
    pub accepted_at: String,
    /// When it arrived or was given up.
    pub finished_at: Option<String>,
    /// How often a message with this key has reached this number.
    pub arrivals: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Accepted, and on its road.
    Pending,
    Arrived,
    /// Given up: a receipt says `False`.
    Undelivered,
}

/// Which messages to show; everything that is given must fit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Query {
    pub number: Option<String>,
    pub notify_id: Option<String>,
    pub key: Option<String>,
    pub stage: Option<Stage>,
    /// Only what reached its number more than once.
    pub twice: bool,
    /// Only what comes after this `seq`.
    pub after: u64,
    /// Default 1000.
    pub limit: Option<usize>,
}

/// Names a message; worthless after a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket {
    era: u32,
    index: u32,
}

/// A message to be written down.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) number: u64,
    pub(super) notify_id: String,
    pub(super) text: Arc<str>,
    pub(super) text_md5: [u8; 16],
    pub(super) sender: Arc<str>,
    pub(super) via: Target,
    pub(super) expires: Instant,
    pub(super) dlr: Option<Box<Dlr>>,
}

/// Where a Kannel-like receipt goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dlr {
    pub(super) url: String,
    pub(super) mask: u32,
}

/// What the SMSC needs to know of a message.
#[derive(Debug, Clone)]
pub(super) struct Slip {
    pub(super) number: u64,
    pub(super) notify_id: Box<str>,
    pub(super) sender: Arc<str>,
    pub(super) via: Target,
    pub(super) expires: Instant,
    pub(super) stage: Stage,
    pub(super) finished_us: i64,
    pub(super) dlr: Option<Box<Dlr>>,
}

#[derive(Debug)]
struct Record {
    number: u64,
    notify_id: Box<str>,
    text: Arc<str>,
    text_md5: [u8; 16],
    sender: Arc<str>,
    via: Target,
    stage: Stage,
    accepted_us: i64,
    finished_us: i64,
    expires: Instant,
    dlr: Option<Box<Dlr>>,
    /// The previous message with the same reference, and to the same number.
    older_ref: Option<u32>,
    older_number: Option<u32>,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    era: u32,
    records: Vec<Record>,
    newest_ref: HashMap<u64, u32>,
    newest_number: HashMap<u64, u32>,
    /// Arrivals by hash of key and number.
    arrivals: HashMap<u64, u32>,
    senders: HashSet<Arc<str>>,
    hasher: RandomState,
}

impl Ledger {
    /// `None` after four thousand million messages.
    pub(super) fn write(&mut self, message: Accepted) -> Option<Ticket> {
        let index = u32::try_from(self.records.len()).ok()?;
        let reference = self.hasher.hash_one(message.notify_id.as_str());
        let sender = match self.senders.get(&message.sender) {
            Some(known) => Arc::clone(known),
            None => {
                self.senders.insert(Arc::clone(&message.sender));
                message.sender
            }
        };
        self.records.push(Record {
            number: message.number,
            notify_id: message.notify_id.into_boxed_str(),
            text: message.text,
            text_md5: message.text_md5,
            sender,
            via: message.via,
            stage: Stage::Pending,
            accepted_us: stamp::now_us(),
            finished_us: 0,
            expires: message.expires,
            dlr: message.dlr,
            older_ref: self.newest_ref.insert(reference, index),
            older_number: self.newest_number.insert(message.number, index),
        });
        Some(Ticket { era: self.era, index })
    }

    pub(super) fn slip(&self, ticket: Ticket) -> Option<Slip> {
        let record = self.record(ticket)?;
        Some(Slip {
            number: record.number,
            notify_id: record.notify_id.clone(),
            sender: Arc::clone(&record.sender),
            via: record.via,
            expires: record.expires,
            stage: record.stage,
            finished_us: record.finished_us,
            dlr: record.dlr.clone(),
        })
    }

    /// The message reached its handset. Returns how often it has now; `None` if it was finished before.
    pub(super) fn arrive(&mut self, ticket: Ticket) -> Option<u32> {
        let hash = {
            let record = self.finish(ticket, Stage::Arrived)?;
            (record.number, key_of(&record.notify_id, &record.text_md5))
        };
        let arrivals = self.arrivals.entry(self.hasher.hash_one(hash)).or_default();
        *arrivals += 1;
        Some(*arrivals)
    }

    /// The message will not arrive. False if it was finished before.
    pub(super) fn give_up(&mut self, ticket: Ticket) -> bool {
        self.finish(ticket, Stage::Undelivered).is_some()
    }

    /// The reference of the last message to this number.
    pub(super) fn last_to(&self, number: u64) -> Option<String> {
        let index = *self.newest_number.get(&number)?;
        Some(self.records.get(index as usize)?.notify_id.to_string())
    }

    pub(super) fn find(&self, query: &Query) -> Vec<Message> {
        let limit = query.limit.unwrap_or(1000);
        let after = usize::try_from(query.after).unwrap_or(usize::MAX);
        let fits = |message: &Message| query.fits(message);
        if query.notify_id.is_none() && query.number.is_none() {
            let all = after..self.records.len();
            return all.filter_map(|index| self.show(index)).filter(fits).take(limit).collect();
        }
        let mut found: Vec<Message> = self
            .chain(query)
            .filter(|index| *index >= after)
            .filter_map(|i| self.show(i))
            .filter(fits)
            .collect();
        found.reverse();
        found.truncate(limit);
        found
    }

    pub(super) fn clear(&mut self) {
        *self = Ledger { era: self.era.wrapping_add(1), ..Ledger::default() };
    }

    /// The candidates for a query by reference or number, newest first.
    fn chain(&self, query: &Query) -> impl Iterator<Item = usize> {
        let by_ref = query.notify_id.is_some();
        let newest = match (&query.notify_id, &query.number) {
            (Some(reference), _) => self.newest_ref.get(&self.hasher.hash_one(reference.as_str())),
            (None, Some(number)) => number.parse().ok().and_then(|n: u64| self.newest_number.get(&n)),
            (None, None) => None,
        };
        std::iter::successors(newest.copied(), move |index| {
            let record = self.records.get(*index as usize)?;
            if by_ref { record.older_ref } else { record.older_number }
        })
        .map(|index| index as usize)
    }

    fn show(&self, index: usize) -> Option<Message> {
        let record = self.records.get(index)?;
        let key = key_of(&record.notify_id, &record.text_md5);
        let arrivals = self.arrivals.get(&self.hasher.hash_one((record.number, &key))).copied();
        Some(Message {
            seq: index as u64 + 1,
            number: record.number.to_string(),
            notify_id: record.notify_id.to_string(),
            key,
            text: record.text.to_string(),
            text_md5: hex(&record.text_md5),
            sender: record.sender.to_string(),
            via: record.via,
            stage: record.stage,
            accepted_at: stamp::ticks(record.accepted_us),
            finished_at: (record.stage != Stage::Pending).then(|| stamp::ticks(record.finished_us)),
            arrivals: arrivals.unwrap_or(0),
        })
    }

    fn record(&self, ticket: Ticket) -> Option<&Record> {
        self.records.get(ticket.index as usize).filter(|_| ticket.era == self.era)
    }

    fn finish(&mut self, ticket: Ticket, stage: Stage) -> Option<&Record> {
        if ticket.era != self.era {
            return None;
        }
        let record = self.records.get_mut(ticket.index as usize)?;
        if record.stage != Stage::Pending {
            return None;
        }
        record.stage = stage;
        record.finished_us = stamp::now_us();
        Some(record)
    }
}

impl Query {
    fn fits(&self, message: &Message) -> bool {
        let same = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|text| text == is);
        same(&self.number, &message.number)
            && same(&self.notify_id, &message.notify_id)
            && same(&self.key, &message.key)
            && self.stage.is_none_or(|stage| stage == message.stage)
            && (!self.twice || message.arrivals > 1)
    }
}

/// Two attempts of one row are one message: of `base32(id)-nonce-attempt` only the id counts. Any other reference
/// counts whole, and where there is none, the text does.
pub fn key_of(notify_id: &str, text_md5: &[u8; 16]) -> String {
    if notify_id.is_empty() {
        return hex(text_md5);
    }
    let base32 = |part: &str| {
        part.bytes().all(|b| b.is_ascii_alphanumeric() && !b"ILOU".contains(&b.to_ascii_uppercase()))
    };
    let parts: Vec<&str> = notify_id.splitn(4, '-').collect();
    match parts.as_slice() {
        [id, nonce, attempt]
            if (1..=13).contains(&id.len())
                && base32(id)
                && nonce.len() == 8
                && base32(nonce)
                && !attempt.is_empty()
                && attempt.bytes().all(|b| b.is_ascii_digit()) =>
        {
            id.to_ascii_uppercase()
        }
        _ => notify_id.to_owned(),
    }
}

/// The text as it is kept, and the digest of all of it.
pub(super) fn keep(text: &str, chars: usize) -> (Arc<str>, [u8; 16]) {
    let digest = md5(&[text]);
    let end = text.char_indices().nth(chars).map_or(text.len(), |(at, _)| at);
    (Arc::from(text.get(..end).unwrap_or_default()), digest)
}

#[cfg(test)]
mod tests {
    use super::key_of;

    #[test]
    fn two_attempts_of_one_row_have_one_key() {
        let text = [0; 16];
        assert_eq!(key_of("2A-00000000-1", &text), key_of("2a-ZZZZZZZZ-17", &text));
        assert_ne!(key_of("2A-00000000-1", &text), key_of("2B-00000000-1", &text));
        for foreign in ["order-001", "2A-0000000-1", "2A-00000000-1-1", "2A-00000000-x", "2U-00000000-1"] {
            assert_eq!(key_of(foreign, &text), foreign);
        }
        assert_eq!(key_of("", &text).len(), 32);
    }
}
