//! One gateway as the running leader keeps it: health, pace, and what waits to leave.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tracing::debug;

use crate::clock::Moment;
use crate::compose::Draft;
use crate::config;
use crate::engine::dispatch::launch::{Alike, Launch};
use crate::engine::dispatch::quickness::Quickness;
use crate::engine::lead::Lease;
use crate::engine::plan::Requests;
use crate::gateway::{Gate, Gateway};
use crate::message::{Lane, MessageId};
use crate::metrics::{GatewayMetrics, GatewayState};
use crate::pace::Pace;
use crate::policy::{Health, Limits, State};
use crate::store::{Store, StoreError};

/// Between two tries to write a gateway's state.
pub(super) const SHOW_AGAIN: Duration = Duration::from_secs(1);

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
    pub(super) launch: Launch,
    /// Requests under way.
    pub(super) running: usize,
    pub(super) quickness: Quickness,
    pub(super) together: Together,
    /// What `outboxd.gateway` says, so that it is written on change only.
    pub(super) shown: &'static str,
    pub(super) shows: Shows,
    pub(super) metrics: Arc<GatewayMetrics>,
    open: Arc<AtomicBool>,
    lease: Arc<Lease>,
}

/// Several messages in one request.
#[derive(Debug)]
pub(super) struct Together {
    /// The most, by the configuration; 1: never.
    coalesce: usize,
    requests_ahead: usize,
    pub(super) allowed: Allowed,
    pub(super) shows: Shows,
    hasher: RandomState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Allowed {
    /// The database has not been asked yet in this term.
    NotAsked,
    Yes,
    /// Not until a person says so: the gateway skipped somebody without saying whom.
    No,
}

impl Together {
    fn new(settings: &config::Gateway) -> Together {
        Together {
            coalesce: settings.coalesce(),
            requests_ahead: settings.requests_ahead(),
            allowed: Allowed::NotAsked,
            shows: Shows::default(),
            hasher: RandomState::new(),
        }
    }

    /// By the configuration, whether or not it is allowed now.
    pub(super) const fn is_configured(&self) -> bool {
        self.coalesce > 1
    }

    /// Most messages in one request now.
    pub(super) const fn most(&self) -> usize {
        match self.allowed {
            Allowed::Yes => self.coalesce,
            Allowed::NotAsked | Allowed::No => 1,
        }
    }

    /// What this message has in common with those that it may share a request with. `alone`: with none.
    pub(super) fn alike(&self, id: MessageId, draft: &Draft, alone: bool) -> Alike {
        if !self.is_configured() {
            0
        } else if alone {
            self.hasher.hash_one(id)
        } else {
            self.hasher.hash_one((&draft.text, &draft.sender))
        }
    }
}

/// Keeps what people are shown of one thing in order: each writing is a task of its own, and the last word must not
/// be overtaken by one that was said before it.
#[derive(Debug, Default)]
pub(super) struct Shows {
    newest: Arc<AtomicU64>,
    writing: Arc<Mutex<()>>,
}

/// The right to write, until somebody has something newer to say.
#[derive(Debug)]
pub(super) struct Turn {
    number: u64,
    newest: Arc<AtomicU64>,
    writing: Arc<Mutex<()>>,
}

impl Shows {
    pub(super) fn next(&self) -> Turn {
        let number = self.newest.fetch_add(1, Ordering::AcqRel) + 1;
        Turn { number, newest: Arc::clone(&self.newest), writing: Arc::clone(&self.writing) }
    }
}

impl Turn {
    /// Waits until whoever writes now has finished.
    pub(super) async fn begin(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().await
    }

    pub(super) fn is_newest(&self) -> bool {
        self.newest.load(Ordering::Acquire) == self.number
    }

    /// Writes until it succeeds or there is something newer: an alarm that was lost to a moment's trouble with the
    /// database would be raised by nobody else.
    pub(super) async fn show(self, store: &Store, showing: &Showing) {
        let _writing = self.begin().await;
        while self.is_newest() {
            match showing.write(store).await {
                Ok(()) => return,
                Err(error) => {
                    debug!(%error, gateway = %showing.name, "could not show the gateway's state yet");
                }
            }
            tokio::time::sleep(SHOW_AGAIN).await;
        }
    }
}

/// What people are shown of a gateway.
#[derive(Debug)]
pub(super) struct Showing {
    pub(super) name: Arc<str>,
    pub(super) state: &'static str,
    pub(super) reason: Option<String>,
    /// Code of the alarm that is to stand; others are cleared.
    pub(super) alarm: Option<&'static str>,
    /// In which we lead.
    pub(super) epoch: i64,
}

impl Showing {
    async fn write(&self, store: &Store) -> Result<(), StoreError> {
        let Showing { name, state, reason, alarm, epoch } = self;
        if !store.show_gateway(name, state, reason.as_deref(), *epoch).await? {
            return Ok(());
        }
        if let Some(code) = alarm {
            let text = reason.as_deref().unwrap_or_default();
            store.open_alarm(code, name, &format!("gateway {name} is {state}: {text}")).await?;
        }
        for code in ["gateway_waiting", "gateway_stopped"] {
            if *alarm != Some(code) {
                store.clear_alarm(code, name).await?;
            }
        }
        Ok(())
    }
}

impl GatewayRun {
    pub(super) fn new(
        gateway: Arc<Gateway>,
        settings: &config::Gateway,
        lease: &Arc<Lease>,
        (metrics, now): (Arc<GatewayMetrics>, Moment),
    ) -> GatewayRun {
        let open = Arc::new(AtomicBool::new(true));
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
            launch: Launch::new(settings.coalesce()),
            running: 0,
            quickness: Quickness::new(now),
            together: Together::new(settings),
            shown: "",
            shows: Shows::default(),
            metrics,
            open,
            lease: Arc::clone(lease),
        }
    }

    /// How many messages may be put in a wave before those of earlier waves have been answered: as many as may be under
    /// way wait for their turn while the next wave is committed, and with a quick gateway twice what it answers meanwhile.
    ///
    /// Where messages share requests, requests are counted instead.
    pub(super) fn room_ahead(&self) -> usize {
        if self.together.is_configured() {
            return usize::MAX;
        }
        (2 * (self.concurrency + self.quick())).saturating_sub(self.running + self.launch.requests(1))
    }

    /// How many more messages than usual may be under way, from their wave to their recorded result: what waits to be
    /// recorded is part of them.
    pub(super) fn stretch(&self) -> usize {
        3 * self.quick()
    }

    /// While others still wait for their turn, a wave grows to so many: it costs a commit, however small it is.
    pub(super) fn wave_worth_its_commit(&self) -> usize {
        (self.concurrency + self.quick()).max(self.together.most())
    }

    fn quick(&self) -> usize {
        if self.together.is_configured() { 0 } else { self.quickness.ahead(self.concurrency) }
    }

    /// The places in requests that a wave may use; `None`: as many as for messages.
    pub(super) fn requests(&self) -> Option<Requests> {
        let Together { requests_ahead, .. } = self.together;
        self.together.is_configured().then(|| {
            let most = self.together.most();
            Requests::new(requests_ahead, self.running + self.launch.requests(most), most)
        })
    }

    /// Asked by a request of this epoch as its first byte is about to leave.
    pub(super) fn gate(&self, epoch: i64) -> Gate {
        let (open, lease) = (Arc::clone(&self.open), Arc::clone(&self.lease));
        Gate::new(move || open.load(Ordering::Acquire) && lease.holds(epoch))
    }

    /// What a page of metrics says of it.
    pub(super) fn publish(&self, leads: bool, ready: impl Fn(Lane) -> usize) {
        let state = match self.health.state() {
            State::Open => GatewayState::Open,
            State::Waiting { .. } | State::Probing { .. } => GatewayState::Waiting,
            State::Stopped { .. } => GatewayState::Stopped,
        };
        self.metrics.set_state(leads.then_some(state));
        self.metrics.in_flight.store(self.running, Ordering::Relaxed);
        for lane in Lane::ALL {
            self.metrics.set_ready(lane, ready(lane));
        }
    }

    /// Requests that have not begun to leave will not, or will again.
    pub(super) fn let_leave(&self, open: bool) {
        self.open.store(open, Ordering::Release);
    }
}
