//! One gateway as the running leader keeps it: health, pace, and what waits to leave.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::clock::Moment;
use crate::config;
use crate::engine::lead::Lease;
use crate::gateway::{Gate, Gateway};
use crate::message::Outgoing;
use crate::pace::Pace;
use crate::policy::{Health, Limits};

#[derive(Debug)]
pub(super) struct GatewayRun {
    pub(super) name: Arc<str>,
    pub(super) gateway: Arc<Gateway>,
    pub(super) concurrency: usize,
    pub(super) health: Health,
    pub(super) pace: Pace,
    /// A wave is being committed.
    pub(super) committing: bool,
    /// In a committed wave, not yet begun.
    pub(super) launch: VecDeque<Outgoing>,
    /// Requests under way.
    pub(super) running: usize,
    /// Asked by each request as its first byte is about to leave.
    pub(super) gate: Gate,
    /// What `outboxd.gateway` says, so that it is written on change only.
    pub(super) shown: &'static str,
    open: Arc<AtomicBool>,
}

impl GatewayRun {
    pub(super) fn new(
        gateway: Arc<Gateway>,
        settings: &config::Gateway,
        lease: &Arc<Lease>,
        now: Moment,
    ) -> GatewayRun {
        let open = Arc::new(AtomicBool::new(true));
        let gate = {
            let (open, lease) = (Arc::clone(&open), Arc::clone(lease));
            Gate::new(move || open.load(Ordering::Acquire) && lease.holds())
        };
        let limits = Limits {
            breaker_failures: settings.breaker_failures,
            stop_after_refusals: settings.stop_after_refusals,
            backoff_min: settings.backoff_min,
            backoff_max: settings.backoff_max,
        };
        GatewayRun {
            name: Arc::from(settings.name.as_str()),
            gateway,
            concurrency: settings.concurrency,
            health: Health::new(limits),
            pace: Pace::new(settings.rate, now),
            committing: false,
            launch: VecDeque::new(),
            running: 0,
            gate,
            shown: "",
            open,
        }
    }

    /// Requests that have not begun to leave will not, or will again.
    pub(super) fn let_leave(&self, open: bool) {
        self.open.store(open, Ordering::Release);
    }
}
