//! Handsets: whether a number can be reached, and what waits for it.
//!
//! Numbers that were never mentioned are switched on and take no memory here.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::sim::ledger::Ticket;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Handset {
    pub state: Power,
    /// Sent back after each message that arrives, for example `STOP`.
    pub reply: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Power {
    #[default]
    On,
    /// The SMSC knows it, waits, and delivers the moment it is switched on.
    Off,
    /// Out of coverage: the SMSC does not know, and tries again and again.
    Unreachable,
}

#[derive(Debug, Default)]
struct Entry {
    handset: Handset,
    waiting: Vec<Ticket>,
}

#[derive(Debug, Default)]
pub(super) struct Handsets {
    by_number: Mutex<HashMap<u64, Entry>>,
    /// Length of the map, so that a network of ordinary handsets costs no lock.
    known: AtomicUsize,
}

impl Handsets {
    /// Changes a handset; returns what waited for it and can now be delivered.
    pub(super) fn set(&self, number: u64, handset: Handset) -> Vec<Ticket> {
        let mut map = self.lock();
        let entry = map.entry(number).or_default();
        entry.handset = handset;
        let released =
            if entry.handset.state == Power::Off { Vec::new() } else { std::mem::take(&mut entry.waiting) };
        self.known.store(map.len(), Ordering::Release);
        released
    }

    pub(super) fn get(&self, number: u64) -> Handset {
        if self.known.load(Ordering::Acquire) == 0 {
            return Handset::default();
        }
        self.lock().get(&number).map(|entry| entry.handset.clone()).unwrap_or_default()
    }

    /// Leaves a message with the SMSC until the handset is switched on. False: it is not off any more.
    pub(super) fn park(&self, number: u64, ticket: Ticket) -> bool {
        let mut map = self.lock();
        match map.get_mut(&number) {
            Some(entry) if entry.handset.state == Power::Off => {
                entry.waiting.push(ticket);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Drops a message that was given up.
    pub(super) fn unpark(&self, number: u64, ticket: Ticket) {
        if let Some(entry) = self.lock().get_mut(&number) {
            entry.waiting.retain(|waiting| *waiting != ticket);
        }
    }

    pub(super) fn clear(&self) {
        self.lock().clear();
        self.known.store(0, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Entry>> {
        self.by_number.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
