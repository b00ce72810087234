//! Things to do at a later time, in one heap and one task: a hundred thousand waiting messages are a hundred
//! thousand small entries, not tasks.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::sim::callbacks::Job;
use crate::sim::ledger::Ticket;

/// Entries taken from the heap in one go, so that its lock is held only shortly.
const BATCH: usize = 512;

#[derive(Debug)]
pub(super) enum Event {
    /// Try the handset.
    Deliver(Ticket),
    /// The message's validity is over.
    GiveUp(Ticket),
    /// A callback is due.
    Post(Job),
}

#[derive(Debug)]
struct Due {
    at: Instant,
    /// Keeps entries for the same instant in their order.
    turn: u64,
    event: Event,
}

#[derive(Debug, Default)]
struct Heap {
    entries: BinaryHeap<Due>,
    turns: u64,
}

#[derive(Debug, Default)]
pub(super) struct Agenda {
    heap: Mutex<Heap>,
    /// Rings when an entry comes before all others.
    earlier: Notify,
}

impl Agenda {
    pub(super) fn at(&self, at: Instant, event: Event) {
        let first = {
            let mut heap = self.lock();
            let first = heap.entries.peek().is_none_or(|next| at < next.at);
            heap.turns += 1;
            let turn = heap.turns;
            heap.entries.push(Due { at, turn, event });
            first
        };
        if first {
            self.earlier.notify_one();
        }
    }

    pub(super) fn clear(&self) {
        self.lock().entries.clear();
    }

    /// Waits until something is due and takes it, earliest first.
    pub(super) async fn due(&self, into: &mut Vec<Event>) {
        loop {
            let next = {
                let mut heap = self.lock();
                let now = Instant::now();
                while into.len() < BATCH && heap.entries.peek().is_some_and(|next| next.at <= now) {
                    into.extend(heap.entries.pop().map(|due| due.event));
                }
                heap.entries.peek().map(|next| next.at)
            };
            if !into.is_empty() {
                return;
            }
            match next {
                Some(at) => {
                    let _ = tokio::time::timeout_at(at, self.earlier.notified()).await;
                }
                None => self.earlier.notified().await,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Heap> {
        self.heap.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sleeps for a scripted or configured delay; none costs nothing.
pub(super) async fn pause(ms: u64) {
    if ms > 0 {
        sleep_until(after_ms(ms)).await;
    }
}

pub(super) fn after_ms(ms: u64) -> Instant {
    let now = Instant::now();
    // A year is as good as never, and cannot overflow.
    now.checked_add(std::time::Duration::from_millis(ms.min(365 * 86_400_000))).unwrap_or(now)
}

/// The heap hands out its greatest entry, so earlier is greater.
impl Ord for Due {
    fn cmp(&self, other: &Due) -> Ordering {
        (other.at, other.turn).cmp(&(self.at, self.turn))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        (self.at, self.turn) == (other.at, other.turn)
    }
}

impl Eq for Due {}
