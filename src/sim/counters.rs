//! What happened so far, as numbers, and waiting until a number is reached.
//!
//! Every count is one atomic; nobody waits for a lock to count.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// A reading of every counter.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub struct State {
            $($(#[$doc])* pub $name: u64,)+
            /// Messages that may still be accepted; absent: no end.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub credits: Option<u64>,
            /// Microseconds within which half of the callbacks that were taken were answered; absent: none yet.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub callback_p50_us: Option<u64>,
            /// The same for 99 in 100.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub callback_p99_us: Option<u64>,
        }

        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: Count,)+
            changed: Notify,
            waiting: AtomicUsize,
        }

        impl Counters {
            pub(super) fn read(&self) -> State {
                State {
                    $($name: self.$name.read(),)+
                    credits: None,
                    callback_p50_us: None,
                    callback_p99_us: None,
                }
            }

            /// All to zero, but for what counts open things.
            pub(super) fn reset(&self) {
                $(self.$name.reset(stringify!($name));)+
            }
        }

        /// Counts to wait for: each one that is given must be reached.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Want {
            $(pub $name: Option<u64>,)+
            /// Also wait until nothing is under way: no request, no message on its road, no callback.
            pub idle: bool,
        }

        impl Want {
            /// Sets the count of this name. False: there is none.
            pub fn set(&mut self, name: &str, count: u64) -> bool {
                match name {
                    $(stringify!($name) => self.$name = Some(count),)+
                    "idle" => self.idle = count > 0,
                    _ => return false,
                }
                true
            }

            pub fn met_by(&self, state: &State) -> bool {
                $(self.$name.is_none_or(|wanted| state.$name >= wanted))&&+ && (!self.idle || state.is_idle())
            }
        }
    };
}

counters! {
    /// Connections taken.
    connections,
    /// Requests to send that were read to their end.
    requests,
    /// Requests of any kind under way now.
    in_flight,
    peak_in_flight,
    /// Requests that stand still because of a freeze.
    frozen,
    /// Acts of the script and of chance that were played.
    faults,
    /// Messages accepted.
    accepted,
    /// Recipients refused: not a number, no credits, sender not valid.
    refused,
    /// Requests refused for a wrong or expired token, or a wrong user or password.
    unauthorized,
    logins,
    logins_refused,
    /// Messages accepted that have neither arrived nor been given up.
    pending,
    /// Arrivals at handsets.
    arrived,
    /// Messages given up.
    undelivered,
    /// Messages, by the id part of their reference and number, that arrived more than once.
    reached_twice,
    /// Receipts posted, every try counted.
    receipts,
    receipts_ok,
    receipts_failed,
    /// Receipts that were lost on purpose.
    receipts_lost,
    results,
    results_ok,
    results_failed,
    inbound,
    inbound_ok,
    inbound_failed,
    /// Callbacks made and not yet done.
    callbacks_waiting,
}

impl State {
    fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.pending == 0 && self.callbacks_waiting == 0
    }
}

/// One counter.
#[derive(Debug, Default)]
pub(super) struct Count(std::sync::atomic::AtomicU64);

impl Count {
    pub(super) fn read(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn reset(&self, name: &str) {
        // What is open now is closed, and counted down, later.
        if !matches!(name, "in_flight" | "frozen") {
            self.0.store(0, Ordering::SeqCst);
        }
    }
}

impl Counters {
    pub(super) fn add(&self, count: &Count, by: u64) -> u64 {
        let now = count.0.fetch_add(by, Ordering::SeqCst) + by;
        self.wake();
        now
    }

    /// Counts down, and stops at zero: a reset may have come between.
    pub(super) fn sub(&self, count: &Count, by: u64) {
        let down = |now: u64| Some(now.saturating_sub(by));
        let _ = count.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, down);
        self.wake();
    }

    pub(super) fn raise(&self, count: &Count, to: u64) {
        count.0.fetch_max(to, Ordering::SeqCst);
    }

    fn wake(&self) {
        // SeqCst here, on the counts and in `until`: either the waiter sees the new count, or we see the waiter.
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.changed.notify_waiters();
        }
    }

    /// Returns once the reading meets `want`.
    pub(super) async fn until(&self, want: &Want) -> State {
        let _present = Present::new(&self.waiting);
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            let state = self.read();
            if want.met_by(&state) {
                return state;
            }
            changed.await;
        }
    }
}

/// Counts a thing as long as it lives.
struct Present<'a>(&'a AtomicUsize);

impl<'a> Present<'a> {
    fn new(count: &'a AtomicUsize) -> Present<'a> {
        count.fetch_add(1, Ordering::SeqCst);
        Present(count)
    }
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
