//! What all parts of the simulator share. Each lock is held for a few instructions and never across an await.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::sim::agenda::Agenda;
use crate::sim::auth::Tokens;
use crate::sim::callbacks::Outbound;
use crate::sim::counters::{Counters, State};
use crate::sim::handset::{Handset, Handsets};
use crate::sim::ledger::Ledger;
use crate::sim::number::international;
use crate::sim::script::Script;
use crate::sim::settings::Settings;
use crate::sim::smsc::set_handset;

/// In `credits`: nobody counts.
const NO_END: u64 = u64::MAX;

#[derive(Debug)]
pub(super) struct Hub {
    settings: RwLock<Arc<Settings>>,
    /// As at the start: what a reset returns to.
    first: Settings,
    credits: AtomicU64,
    random: AtomicU64,
    ledger: Mutex<Ledger>,
    pub(super) counters: Counters,
    pub(super) script: Script,
    pub(super) handsets: Handsets,
    pub(super) tokens: Tokens,
    pub(super) agenda: Agenda,
    pub(super) outbound: Outbound,
    pub(super) frost: watch::Sender<Frost>,
    /// Whether the gateway's port shall be open, and whether it is.
    pub(super) up_wanted: watch::Sender<bool>,
    pub(super) up: watch::Sender<bool>,
    /// Requests whose handling goes on although their client may be gone.
    strays: Mutex<JoinSet<()>>,
}

/// Whether requests stand still, and how often they were set free: a thaw frees those that stood still before it,
/// even if the next freeze follows at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Frost {
    pub(super) frozen: bool,
    pub(super) thaws: u64,
    /// What was freed last is forgotten, not accepted, and its connections end. Otherwise it is handled, even where
    /// the client is gone: a gateway that has read a request acts on it.
    pub(super) discard: bool,
}

impl Hub {
    pub(super) fn new(settings: Settings) -> Hub {
        let seed = settings.answers.seed.or_else(|| getrandom::u64().ok()).unwrap_or(1);
        let hub = Hub {
            settings: RwLock::new(Arc::new(settings.clone())),
            credits: AtomicU64::new(NO_END),
            random: AtomicU64::new(seed),
            ledger: Mutex::default(),
            counters: Counters::default(),
            script: Script::default(),
            handsets: Handsets::default(),
            tokens: Tokens::default(),
            agenda: Agenda::default(),
            outbound: Outbound::default(),
            frost: watch::Sender::new(Frost::default()),
            up_wanted: watch::Sender::new(true),
            up: watch::Sender::new(true),
            strays: Mutex::default(),
            first: settings,
        };
        hub.set_credits(hub.first.credits.balance);
        hub.place_handsets(hub.first.handsets.iter());
        hub
    }

    pub(super) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes new settings. Addresses and the number of callback connections stay what they are.
    pub(super) fn apply(&self, settings: Settings) {
        let balance = settings.credits.balance;
        let settings = Arc::new(settings);
        let before = {
            let mut current = self.settings.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, Arc::clone(&settings))
        };
        // Setting anything else must not refill what was used up.
        if before.credits.balance != balance {
            self.set_credits(balance);
        }
        // A handset that was switched since keeps its state, unless these settings say something new about it.
        let news =
            settings.handsets.iter().filter(|(number, now)| before.handsets.get(*number) != Some(*now));
        self.place_handsets(news);
        self.outbound.flush(self, settings.callbacks.receipts.reverse);
    }

    fn place_handsets<'a>(&self, handsets: impl Iterator<Item = (&'a String, &'a Handset)>) {
        for (number, handset) in handsets {
            if let Some(number) = international(number) {
                set_handset(self, number, handset.clone());
            }
        }
    }

    pub(super) fn set_credits(&self, balance: Option<u64>) {
        self.credits.store(balance.unwrap_or(NO_END), Ordering::SeqCst);
    }

    /// Uses one credit, if there is one.
    pub(super) fn spend(&self) -> bool {
        let less = |left: u64| if left == NO_END { Some(left) } else { left.checked_sub(1) };
        self.credits.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn strays(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.strays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> State {
        self.with_credits(self.counters.read())
    }

    pub(super) fn with_credits(&self, state: State) -> State {
        let credits = self.credits.load(Ordering::SeqCst);
        State {
            credits: (credits != NO_END).then_some(credits),
            callback_p50_us: self.outbound.times.within(0.5),
            callback_p99_us: self.outbound.times.within(0.99),
            ..state
        }
    }

    pub(super) fn freeze(&self) {
        self.frost.send_modify(|frost| frost.frozen = true);
    }

    pub(super) fn thaw(&self, discard: bool) {
        self.frost.send_modify(|frost| {
            *frost = Frost { frozen: false, thaws: frost.thaws + 1, discard };
        });
    }

    /// Everything as at the start; open connections stay open.
    pub(super) fn reset(&self) {
        self.thaw(true);
        self.up_wanted.send_replace(true);
        self.script.clear();
        self.agenda.clear();
        self.outbound.clear();
        self.tokens.expire_all();
        self.handsets.clear();
        self.ledger().clear();
        self.counters.reset();
        self.apply(self.first.clone());
        self.set_credits(self.first.credits.balance);
        self.place_handsets(self.first.handsets.iter());
    }

    /// Evenly distributed from 0.0 to just below 1.0.
    pub(super) fn chance(&self) -> f64 {
        f64::from(self.roll()) / (f64::from(u32::MAX) + 1.0)
    }

    /// `base` and evenly up to `jitter` more.
    pub(super) fn around(&self, base: u64, jitter: u64) -> u64 {
        let span = u64::from(u32::try_from(jitter).unwrap_or(u32::MAX));
        base.saturating_add((u64::from(self.roll()) * span) >> 32)
    }

    /// SplitMix64: one atomic add, and good enough for dice.
    fn roll(&self) -> u32 {
        let mut z = self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from(z >> 32).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::Hub;
    use crate::sim::settings::Settings;

    #[test]
    fn chance_and_jitter_stay_in_their_bounds() {
        let hub = Hub::new(Settings::default());
        let delays: Vec<u64> = (0..2000).map(|_| hub.around(100, 50)).collect();
        assert!(delays.iter().all(|ms| (100..150).contains(ms)));
        assert!(delays.iter().any(|ms| *ms < 110) && delays.iter().any(|ms| *ms >= 140));
        assert_eq!(hub.around(7, 0), 7);
        assert!((0..2000).all(|_| (0.0..1.0).contains(&hub.chance())));
    }
}
