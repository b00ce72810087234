//! When to look at the table: notifications are hints, the poll is the truth and never stops.
//!
//! [`listen`] keeps a LISTEN connection and tests it by an echo; [`Wakefulness`] decides how often to look and when the
//! doorbell may stay silent. Going to sleep must lose nothing, see [`fall_asleep`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use crate::clock::{self, Moment};
use crate::config::Database;
use crate::engine::Event;
use crate::engine::life::Life;
use crate::metrics::progress::{self, AtWork, BREATH, Part};
use crate::store::listen::{Heard, Listener};
use crate::store::{Store, StoreError};

/// Between two looks while rows keep coming.
const BUSY_TICK: Duration = Duration::from_millis(3);
/// The same while more rows wait in memory than can be sent by then: looking costs what sending could use.
const BACKLOG_TICK: Duration = Duration::from_millis(10);
/// Between two looks while falling asleep: the doorbell rings already, except for transactions that began before, whose
/// rows must not wait for long either.
const FALLING_TICK: Duration = Duration::from_millis(30);
/// Between two tests whether everybody who may not know of it has ended.
const SETTLE_TICK: Duration = Duration::from_millis(100);
/// After a failure to fall asleep, or after being woken while at it, it is not tried again for this long.
const SLEEP_RETRY: Duration = Duration::from_secs(1);
/// Longest pause between two looks while notifications do not come through.
const DEAF_TICK: Duration = Duration::from_millis(200);
/// No new row, or only few, for this long: let the doorbell ring instead.
const QUIET_BEFORE_SLEEP: Duration = Duration::from_millis(300);
/// So many new rows within [`RUSH_WINDOW`] make polling cheaper for the application than ringing.
const RUSH: usize = 50;
/// Fewer than so many are few: being rung for each is sooner than the next look, and cheaper than looking hundreds of times
/// a second. Between the two, it stays as it is.
const FEW: usize = 10;
const RUSH_WINDOW: Duration = Duration::from_millis(100);
/// The register is believed for so many polls: if the daemon dies, the doorbell falls silent after that.
const REGISTER_POLLS: u32 = 3;
/// An echo that has not come back after this means that notifications do not come through.
const ECHO_LIMIT: Duration = Duration::from_secs(3);
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug)]
enum Mode {
    /// Looking often; the doorbell is told to be silent.
    Awake,
    /// The doorbell rings, but somebody may not know it yet.
    Falling(Falling),
    /// The doorbell rings for everything.
    Asleep,
}

/// One try to fall asleep. Once it was given up its outcome counts for nothing: the register may have said awake since,
/// and whoever read that is silent.
#[derive(Debug, Clone)]
pub struct Falling {
    pub believed: Duration,
    given_up: Arc<AtomicBool>,
}

impl Falling {
    fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Acquire)
    }
}

/// What is to be done now.
#[derive(Debug)]
pub enum WakeAction {
    Look,
    /// The regular poll: look, and do what is to be done every few seconds.
    Poll,
    RegisterAwake(Duration),
    RegisterAsleep(Duration),
    FallAsleep(Falling),
}

/// Decides when to look. Pure.
#[derive(Debug)]
pub struct Wakefulness {
    doorbell: bool,
    poll: Duration,
    ears: bool,
    mode: Mode,
    next_look: Moment,
    next_poll: Moment,
    tick: Duration,
    last_new: Moment,
    /// When more than a few had come.
    last_many: Moment,
    rush_since: Moment,
    rush: usize,
    /// Before this, falling asleep is not tried.
    sleep_from: Moment,
}

impl Wakefulness {
    /// `doorbell`: whether there is a trigger that may be relied upon.
    pub fn new(doorbell: bool, poll: Duration, now: Moment) -> Wakefulness {
        Wakefulness {
            doorbell,
            poll,
            ears: false,
            mode: Mode::Awake,
            next_look: now,
            next_poll: now,
            tick: BUSY_TICK,
            last_new: now,
            last_many: now,
            rush_since: now,
            rush: 0,
            sleep_from: now,
        }
    }

    /// A new term: awake, with the ears we have.
    pub fn start_over(&mut self, now: Moment) {
        self.wake_up();
        *self = Wakefulness { ears: self.ears, ..Wakefulness::new(self.doorbell, self.poll, now) };
    }

    pub fn set_ears(&mut self, ears: bool, now: Moment) {
        if !ears {
            self.wake_up();
        }
        self.ears = ears;
        // What came while nobody listened.
        self.next_look = now;
    }

    /// Whether the trigger may be relied upon from now on. True if that is news.
    pub fn set_doorbell(&mut self, doorbell: bool, now: Moment) -> bool {
        if self.doorbell == doorbell {
            return false;
        }
        self.doorbell = doorbell;
        if !doorbell {
            self.wake_up();
            self.next_look = now;
        }
        true
    }

    /// New rows were found by a look. `backlog`: there is enough to send without them.
    pub fn found(&mut self, new: usize, backlog: bool, now: Moment) {
        if new == 0 {
            return;
        }
        self.last_new = now;
        self.tick = if backlog { BACKLOG_TICK } else { BUSY_TICK };
        if matches!(self.mode, Mode::Awake) {
            // The next look was planned while it was quiet, perhaps for seconds later.
            self.next_look = self.next_look.min(now + self.tick);
        }
        if now.since(self.rush_since) > RUSH_WINDOW {
            self.rush_since = now;
            self.rush = 0;
        }
        self.rush += new;
        if self.rush >= FEW {
            self.last_many = now;
        }
    }

    /// How a try to fall asleep ended.
    pub fn fell_asleep(&mut self, falling: &Falling, succeeded: bool) {
        if falling.is_given_up() || !matches!(self.mode, Mode::Falling(_)) {
            return;
        }
        debug!(succeeded, "fell asleep: from now on the doorbell is relied upon");
        if succeeded {
            self.mode = Mode::Asleep;
            // The full look that finds what silent transactions left; and the register is renewed by the poll from here
            // on, while its last renewal may be half of its life ago.
            self.next_poll = Moment::ZERO;
        } else {
            self.wake_up();
        }
    }

    fn wake_up(&mut self) {
        if let Mode::Falling(falling) = std::mem::replace(&mut self.mode, Mode::Awake) {
            falling.given_up.store(true, Ordering::Release);
        }
    }

    pub fn next_at(&self) -> Moment {
        match self.mode {
            Mode::Asleep => self.next_poll,
            Mode::Awake | Mode::Falling(_) => self.next_look.min(self.next_poll),
        }
    }

    /// To be called at `next_at` and after anything has changed.
    pub fn act(&mut self, now: Moment) -> Vec<WakeAction> {
        let mut actions = Vec::new();
        let believed = self.poll * REGISTER_POLLS;
        let polling = self.next_poll <= now;
        if polling {
            self.next_poll = now + self.poll;
            actions.push(WakeAction::Poll);
        }
        let rush = self.rush >= RUSH && now.since(self.rush_since) <= RUSH_WINDOW;
        if rush && !matches!(self.mode, Mode::Awake) {
            // Falling counts too: with a transaction that somebody forgot it lasts for hours.
            debug!("rows come fast: polling instead of being rung for each");
            self.wake_up();
            self.sleep_from = now + SLEEP_RETRY;
            self.next_look = now;
            actions.push(WakeAction::RegisterAwake(believed));
        } else if polling && self.doorbell {
            match self.mode {
                Mode::Awake => actions.push(WakeAction::RegisterAwake(believed)),
                // Renewed by `fall_asleep`.
                Mode::Falling(_) => {}
                Mode::Asleep => actions.push(WakeAction::RegisterAsleep(believed)),
            }
        }
        match self.mode {
            Mode::Asleep => {}
            Mode::Falling(_) => {
                if self.next_look <= now {
                    self.next_look = now + FALLING_TICK;
                    actions.push(WakeAction::Look);
                }
            }
            Mode::Awake => {
                let quiet = now.since(self.last_new) > QUIET_BEFORE_SLEEP;
                let few = now.since(self.last_many) > QUIET_BEFORE_SLEEP;
                if few && self.doorbell && self.ears && self.sleep_from <= now {
                    let falling = Falling { believed, given_up: Arc::new(AtomicBool::new(false)) };
                    self.mode = Mode::Falling(falling.clone());
                    self.sleep_from = now + SLEEP_RETRY;
                    self.next_look = self.next_look.min(now + FALLING_TICK);
                    actions.push(WakeAction::FallAsleep(falling));
                } else if self.next_look <= now {
                    actions.push(WakeAction::Look);
                    if quiet {
                        let longest = if self.doorbell { DEAF_TICK.min(self.poll) } else { self.poll };
                        self.tick = (self.tick * 2).min(longest);
                    }
                    self.next_look = now + self.tick;
                }
            }
        }
        actions
    }
}

/// Lets the doorbell ring, and waits until everybody who may not have heard of it has ended.
///
/// An inserter whose trigger read the register before it changed is silent, and its row may appear after our next look.
/// So: first the register; then, in a later transaction, note which transactions there are (a snapshot taken together
/// with the change misses an open inserter); wait until all of them have ended; the full look after that finds what
/// they left. LISTEN stands all the while.
/// Ends early when it was given up.
pub async fn fall_asleep(store: &Store, falling: &Falling) -> Result<(), StoreError> {
    let believed = falling.believed;
    let mut renewed = clock::now();
    store.register_asleep(believed).await?;
    let barrier = store.sleep_barrier().await?;
    while !falling.is_given_up() && !store.sleep_settled(&barrier).await? {
        tokio::time::sleep(SETTLE_TICK).await;
        let now = clock::now();
        if now.since(renewed) >= believed / 2 && !falling.is_given_up() {
            // Somebody keeps a transaction open for long; the doorbell must not fall silent meanwhile.
            renewed = now;
            store.register_asleep(believed).await?;
        }
    }
    Ok(())
}

/// Keeps a LISTEN connection for the life of the process. A fault is said once, and once when it has gone.
pub async fn listen(
    (database, store): (Database, Store),
    life: Arc<Life>,
    echo_every: Duration,
    events: mpsc::Sender<Event>,
) {
    let mut deaf_said = false;
    let at_work = life.progress.begin(Part::Listen, progress::patient(store.patience()));
    let instance = &life.identity.instance;
    loop {
        at_work.gets_on();
        let ears = (&events, &at_work);
        match listen_once((&database, &store), instance, echo_every, ears, &mut deaf_said).await {
            Ok(()) => return,
            Err(error) => {
                if !deaf_said {
                    warn!(%error, "notifications do not come through; looking at the table several times a second instead");
                    deaf_said = true;
                }
                if events.send(Event::Ears(false)).await.is_err() {
                    return;
                }
            }
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

/// `Ok`: nobody wants to hear any more.
async fn listen_once(
    (database, store): (&Database, &Store),
    instance: &str,
    echo_every: Duration,
    (events, at_work): (&mpsc::Sender<Event>, &AtWork),
    deaf_said: &mut bool,
) -> Result<(), StoreError> {
    let mut listener = Listener::connect(database, store, instance).await?;
    let mut number = 0_u64;
    loop {
        number += 1;
        let mut echoed = false;
        let mut heard = listener.test(number).await?;
        let echo_until = tokio::time::Instant::now() + ECHO_LIMIT;
        let round_until = tokio::time::Instant::now() + echo_every.max(ECHO_LIMIT);
        loop {
            for what in heard.drain(..) {
                if what == Heard::Echo(number) {
                    if !echoed && number == 1 {
                        if std::mem::take(deaf_said) {
                            info!("notifications come through again");
                        }
                        if events.send(Event::Ears(true)).await.is_err() {
                            return Ok(());
                        }
                    }
                    echoed = true;
                } else if events.send(Event::Heard(what)).await.is_err() {
                    return Ok(());
                }
            }
            at_work.gets_on();
            let until = if echoed { round_until } else { echo_until };
            let breath = tokio::time::Instant::now() + BREATH;
            match tokio::time::timeout_at(until.min(breath), listener.hear()).await {
                Ok(what) => heard.push(what?),
                Err(_) if breath < until => {}
                Err(_) if echoed => break,
                Err(_) => {
                    return Err(StoreError::InDoubt {
                        statement: "listen",
                        reason: "our own test notification did not come back".to_owned(),
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
