//! What happens by the clock and on request: looking, sleeping, schedules, orders of a person, the sweep.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, info, warn};

use crate::clock::Moment;
use crate::config::{OnUnknown, Wake};
use crate::engine::Event;
use crate::engine::complaints::Complaints;
use crate::engine::dispatch::{Dispatch, TemplateState};
use crate::engine::wake::{self, WakeAction};
use crate::metrics::{Outcome, Wakeup};
use crate::store::StoreError;
use crate::store::control::{self, DatabaseClock, Doorbell, Orders};
use crate::store::listen::Heard;
use crate::store::queue;

/// While everything is held, or somebody asked for something.
const ORDERS_PAUSE: Duration = Duration::from_secs(1);
const SWEEP_PAUSE: Duration = Duration::from_secs(5);
/// Between two looks at what a failover made uncertain.
const UNCERTAIN_PAUSE: Duration = Duration::from_secs(2);
/// For a minute: a row may be set aside by a record that was late.
pub(super) const RELEASES: u32 = 30;
/// Between two questions for the next scheduled row while other rows are being sent or wait for their gateway's pace.
const DUE_PAUSE: Duration = Duration::from_millis(100);
/// Rows that expired while their gateway did not send are ended this long after the longest request could last.
const EXPIRY_MARGIN: Duration = Duration::from_secs(10);

/// A smaller step back of the database's clock is taken for the time that its answer took, and delays nobody for longer.
const CLOCK_SLACK: Duration = Duration::from_secs(3);

/// Timers of the leader.
#[derive(Debug)]
pub(super) struct Clockwork {
    /// The next scheduled row.
    due_at: Option<Moment>,
    /// Rows may have come whose schedule we do not know.
    due_unknown: bool,
    asking_due: bool,
    ask_due_at: Moment,
    orders_at: Option<Moment>,
    asking_orders: bool,
    sweep_at: Moment,
    uncertain_at: Moment,
    /// So many looks still let go what was set aside after a failover and is not uncertain any more.
    pub(super) releases: u32,
    /// Of the doubtful rows, so many were there when the templates began to be read.
    pub(super) doubtful_covered: usize,
    pub(super) complaints: Complaints,
    /// Statements that PostgreSQL refused lately, or whose answers we could not read.
    pub(super) refused: BTreeMap<&'static str, Refused>,
    database_clock: SeenClock,
    /// Somebody's lock keeps this statement from being carried out.
    pub(super) lock_met: Option<LockMet>,
}

#[derive(Debug)]
pub(super) struct Refused {
    /// When it was, last.
    pub(super) last: Moment,
    /// It worked since.
    pub(super) worked: bool,
}

#[derive(Debug)]
pub(super) struct LockMet {
    pub(super) statement: &'static str,
    pub(super) since: Moment,
    /// The log has it.
    pub(super) said: bool,
}

impl Clockwork {
    pub(super) fn new(now: Moment) -> Clockwork {
        Clockwork {
            due_at: None,
            due_unknown: true,
            asking_due: false,
            ask_due_at: now,
            orders_at: Some(now),
            asking_orders: false,
            sweep_at: now + SWEEP_PAUSE,
            uncertain_at: now + UNCERTAIN_PAUSE,
            releases: RELEASES,
            doubtful_covered: 0,
            complaints: Complaints::default(),
            refused: BTreeMap::new(),
            lock_met: None,
            database_clock: SeenClock::default(),
        }
    }

    /// A new term. What the log has complained of is not over with that, and the database's clock is the same.
    pub(super) fn start_over(&mut self, now: Moment) {
        *self = Clockwork {
            complaints: std::mem::take(&mut self.complaints),
            refused: std::mem::take(&mut self.refused),
            database_clock: self.database_clock,
            ..Clockwork::new(now)
        };
    }

    pub(super) fn next_at(&self) -> Option<Moment> {
        let looks = self.sweep_at.min(self.uncertain_at);
        [self.due_at, self.orders_at(), Some(looks)].into_iter().flatten().min()
    }

    /// When to ask next what a person wants, unless that is being asked already.
    pub(super) fn orders_at(&self) -> Option<Moment> {
        self.orders_at.filter(|_| !self.asking_orders)
    }

    /// When to ask for the next scheduled row.
    pub(super) fn next_question(&self) -> Option<Moment> {
        (self.due_unknown && !self.asking_due).then_some(self.ask_due_at)
    }

    pub(super) fn rows_came(&mut self) {
        self.due_unknown = true;
    }

    pub(super) fn look_at_uncertain_now(&mut self) {
        self.uncertain_at = Moment::ZERO;
    }

    pub(super) fn ask_orders_now(&mut self) {
        self.orders_at = Some(Moment::ZERO);
    }
}

/// The database's clock as it was seen last.
#[derive(Debug, Clone, Copy, Default)]
struct SeenClock {
    last: Option<(i64, Moment)>,
    /// It was set back from there, and has not come there again.
    set_back_from: Option<i64>,
}

impl SeenClock {
    /// Where it was before somebody set it back, until it has come there again.
    fn see(&mut self, clock: DatabaseClock, now: Moment) -> Option<i64> {
        let expected = self.last.map(|(us, at)| us.saturating_add(micros(now.since(at))));
        self.last = Some((clock.us, now));
        // A daemon that starts afterwards sees it by the heartbeats of those before it.
        let before = expected.max(clock.last_sign_of_life_us);
        if before.is_some_and(|before| before.saturating_sub(clock.us) > micros(CLOCK_SLACK)) {
            self.set_back_from = self.set_back_from.max(before);
        }
        self.set_back_from = self.set_back_from.filter(|before| *before > clock.us);
        self.set_back_from
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

impl Dispatch {
    /// Everything that is due by the clock while we may send.
    pub(super) fn keep_up(&mut self, now: Moment) {
        for action in self.wakefulness.act(now) {
            match action {
                WakeAction::Look => {
                    self.life.metrics.wakeups.add(Wakeup::Look, 1);
                    self.plan.wake();
                }
                WakeAction::Poll => {
                    self.life.metrics.wakeups.add(Wakeup::Poll, 1);
                    self.plan.wake();
                    self.clockwork.ask_orders_now();
                    if self.templates == TemplateState::Loaded {
                        self.templates = TemplateState::Stale;
                    }
                    self.ask_doorbell();
                }
                WakeAction::RegisterAwake(believed) => {
                    let store = self.store.clone();
                    self.ask(async move { said(store.register_awake(believed).await) });
                }
                WakeAction::RegisterAsleep(believed) => {
                    let store = self.store.clone();
                    self.ask(async move { said(store.register_asleep(believed).await) });
                }
                WakeAction::FallAsleep(falling) => {
                    let store = self.store.clone();
                    self.ask(async move {
                        let outcome = wake::fall_asleep(&store, &falling).await;
                        Some(Event::FellAsleep(falling, outcome))
                    });
                }
            }
        }
        if self.clockwork.due_at.is_some_and(|at| at <= now) {
            self.life.metrics.wakeups.add(Wakeup::Schedule, 1);
            self.clockwork.due_at = None;
            self.clockwork.due_unknown = true;
            self.plan.wake();
        }
        // Also while a slow gateway's rows keep us busy: they must not make a scheduled row of another one late.
        let may_ask = self.clockwork.ask_due_at <= now || self.plan.is_idle();
        if self.clockwork.due_unknown && !self.clockwork.asking_due && may_ask {
            self.clockwork.ask_due_at = now + DUE_PAUSE;
            self.clockwork.due_unknown = false;
            self.clockwork.asking_due = true;
            let store = self.store.clone();
            self.ask(async move { Some(Event::NextDue(store.next_due().await)) });
        }
        if self.clockwork.sweep_at <= now {
            self.clockwork.sweep_at = now + SWEEP_PAUSE;
            self.sweep();
            self.settle_refused(now);
        }
        if self.clockwork.uncertain_at <= now {
            self.clockwork.uncertain_at = now + UNCERTAIN_PAUSE;
            self.look_at_uncertain();
        }
        self.ask_orders(now);
    }

    pub(super) fn next_due_came(&mut self, due: Result<Option<Duration>, StoreError>, now: Moment) {
        self.clockwork.asking_due = false;
        match due {
            Ok(due) => {
                self.database_works(queue::NEXT_DUE, now);
                self.clockwork.due_at = due.map(|pause| now + pause);
            }
            Err(error) => {
                self.clockwork.due_unknown = true;
                self.database_failed(&error, now);
            }
        }
    }

    fn ask_doorbell(&mut self) {
        let store = self.store.clone();
        self.ask(async move { Some(Event::Doorbell(store.doorbell().await)) });
    }

    /// A site may drop its triggers, or disable them for a big load, while we sleep and believe in them.
    pub(super) fn doorbell_came(&mut self, found: Result<Doorbell, StoreError>, now: Moment) {
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                debug!(%error, "could not look at the doorbell");
                return;
            }
        };
        let wake = self.config.queue.wake;
        let unusable = if !found.rings {
            Some("its triggers are missing or disabled")
        } else if found.prepared_transactions && wake == Wake::Auto {
            Some("prepared transactions are allowed here")
        } else {
            None
        };
        if self.wakefulness.set_doorbell(self.listening && unusable.is_none(), now) {
            match unusable {
                Some(why) => warn!(why, "not using the doorbell; looking at the table at intervals instead"),
                None => info!("the doorbell can be used again"),
            }
        }
        let silent = (!found.rings && wake != Wake::Poll).then(|| {
            let poll = humantime::format_duration(self.config.queue.poll_interval);
            format!("its triggers on sms.outbox are missing or disabled: messages wait up to {poll}; see outboxd check")
        });
        let _news = self.alarm(|alarms| &mut alarms.doorbell, silent);
        let hidden = (!found.sees_rows).then(|| {
            "row-level security of sms.outbox has no policy for the daemon: it sees no message, and sends none; see outboxd \
             check"
                .to_owned()
        });
        if self.alarm(|alarms| &mut alarms.hidden, hidden.clone()) {
            match hidden {
                Some(reason) => warn!(reason, "the messages are out of sight"),
                None => info!("the messages are in sight again"),
            }
        }
    }

    pub(super) fn heard(&mut self, heard: &Heard) {
        match heard {
            Heard::Ring => {
                self.life.metrics.wakeups.add(Wakeup::Doorbell, 1);
                self.plan.wake();
            }
            Heard::Control => self.clockwork.ask_orders_now(),
            Heard::Templates => self.templates = TemplateState::Stale,
            Heard::Echo(_) => {}
        }
    }

    /// Asks what a person wants; also while everything is held.
    pub(super) fn ask_orders(&mut self, now: Moment) {
        let Some(term) = &self.term else { return };
        if self.clockwork.asking_orders || self.clockwork.orders_at.is_none_or(|at| at > now) {
            return;
        }
        self.clockwork.orders_at = term.held.is_some().then_some(now + ORDERS_PAUSE);
        self.clockwork.asking_orders = true;
        let (store, epoch) = (self.store.clone(), term.epoch);
        self.ask(async move { Some(Event::Orders { epoch, orders: store.orders(epoch).await }) });
    }

    pub(super) fn orders_came(&mut self, epoch: i64, orders: Result<Orders, StoreError>, now: Moment) {
        if self.term.as_ref().is_none_or(|term| term.epoch != epoch) {
            // Asked in a term that has ended. That its epoch is over says nothing about ours, which nobody would begin
            // again if we ended it: the lock is held.
            return;
        }
        self.clockwork.asking_orders = false;
        let orders = match orders {
            Ok(orders) => orders,
            Err(error) => {
                self.clockwork.orders_at = Some(now + ORDERS_PAUSE);
                self.database_failed(&error, now);
                return;
            }
        };
        self.database_works(control::CONTROL, now);
        let Some(term) = &mut self.term else { return };
        if !orders.leads {
            // Nothing that we tried would be taken. `lead` begins anew, if the lock is still ours.
            warn!(epoch = term.epoch, "another epoch has begun");
            self.lease.supersede(term.epoch);
            self.end_term();
            return;
        }
        match (term.held.is_some(), orders.held) {
            (false, true) => {
                let reason = orders.held_reason.unwrap_or_default();
                warn!(reason, "everything is held; nothing is sent");
                term.held = Some(reason);
                self.clockwork.orders_at = Some(now + ORDERS_PAUSE);
                self.plan.start_over();
                self.forget_doubtful();
                for index in 0..self.gateways.len() {
                    self.hold_back(index);
                }
            }
            (true, false) => {
                info!("no longer held");
                term.held = None;
                self.clockwork.orders_at = None;
                self.plan.start_over();
                self.plan.wake();
            }
            (true, true) | (false, false) => {}
        }
        self.clock_seen(orders.clock, now);
        self.uncertain_is(orders.uncertain);
        self.together_as_asked(&orders.not_together);
        for (name, reason) in orders.stopped {
            self.stop_gateway(&name, &reason);
        }
        for name in orders.resumed {
            self.resume_gateway(&name);
        }
    }

    /// Rows that were due stay due when somebody sets the database's clock back.
    fn clock_seen(&mut self, clock: DatabaseClock, now: Moment) {
        let Some(before) = self.clockwork.database_clock.see(clock, now) else { return };
        if !self.may_send() {
            return;
        }
        let store = self.store.clone();
        self.ask(async move {
            let mut messages = 0;
            loop {
                match store.due_again(before).await {
                    Ok(0) => break,
                    Ok(some) => messages += some,
                    Err(error) => {
                        debug!(%error, "could not make due again what had been due");
                        break;
                    }
                }
            }
            if messages == 0 {
                return None;
            }
            let seconds = (before - clock.us) / 1_000_000;
            warn!(messages, seconds, "the database's clock was set back; what had been due is due now");
            Some(Event::Swept)
        });
    }

    fn sweep(&mut self) {
        let longest = self.config.gateways.values().map(|g| g.request_timeout + g.connect_timeout).max();
        let margin = longest.unwrap_or_default() + EXPIRY_MARGIN;
        let known = self.plan.known_ids();
        let policies: Vec<(String, Duration)> = self
            .config
            .gateways
            .values()
            .filter_map(|gateway| match gateway.on_unknown {
                OnUnknown::Hold => None,
                OnUnknown::ResendAfter(age) => {
                    // Never while the first attempt could still be under way.
                    let least = self.config.queue.lease + gateway.connect_timeout + gateway.request_timeout;
                    Some((gateway.name.clone(), age.max(least)))
                }
            })
            .collect();
        let overdue_after =
            self.config.callbacks.as_ref().and_then(|callbacks| callbacks.receipt_overdue_after);
        let (store, metrics) = (self.store.clone(), Arc::clone(&self.life.metrics));
        self.ask(async move {
            if let Some(age) = overdue_after {
                match store.mark_overdue(age).await {
                    Ok(0) => {}
                    Ok(messages) => info!(messages, "were accepted, and their receipts are overdue"),
                    Err(error) => debug!(%error, "could not look for overdue receipts"),
                }
            }
            match store.expire(margin, &known).await {
                Ok(expired) if !expired.is_empty() => {
                    metrics.swept(Outcome::Expired, expired.len() as u64);
                    info!(messages = expired.len(), "expired while their gateway did not send");
                }
                Ok(_) => {}
                Err(error) => debug!(%error, "could not end expired rows"),
            }
            let mut resent = 0;
            for (gateway, age) in policies {
                match store.resend(&gateway, age).await {
                    Ok(ids) => resent += ids.len(),
                    Err(error) => debug!(%error, gateway, "could not queue unknown messages again"),
                }
            }
            if resent > 0 {
                warn!(messages = resent, "of unknown outcome, are sent again as on_unknown says");
                return Some(Event::Swept);
            }
            None
        });
    }
}

fn said(result: Result<(), StoreError>) -> Option<Event> {
    if let Err(error) = result {
        debug!(%error, "could not write the register; the poll finds what does not ring");
    }
    None
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::SeenClock;
    use crate::clock::Moment;
    use crate::store::control::DatabaseClock;

    const SECOND: i64 = 1_000_000;

    fn clock(seconds: i64) -> DatabaseClock {
        DatabaseClock { us: seconds * SECOND, last_sign_of_life_us: None }
    }

    fn at(seconds: u64) -> Moment {
        Moment::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn a_clock_that_goes_on_or_forwards_was_not_set_back() {
        let mut seen = SeenClock::default();
        for (us, now) in [(1_000, 10), (1_005, 15), (1_008, 20), (9_000, 25), (9_004, 30)] {
            assert_eq!(seen.see(clock(us), at(now)), None);
        }
    }

    #[test]
    fn a_clock_that_was_set_back_is_told_until_it_has_come_there_again() {
        let mut seen = SeenClock::default();
        seen.see(clock(5_000), at(10));
        assert_eq!(seen.see(clock(1_405), at(15)), Some(5_005 * SECOND));
        assert_eq!(seen.see(clock(1_410), at(20)), Some(5_005 * SECOND));
        // Once more, from less far.
        assert_eq!(seen.see(clock(1_000), at(25)), Some(5_005 * SECOND));
        assert_eq!(seen.see(clock(5_006), at(30)), None);
    }

    #[test]
    fn who_starts_after_the_step_sees_it_by_the_heartbeats() {
        let mut seen = SeenClock::default();
        let clock = DatabaseClock { us: 100 * SECOND, last_sign_of_life_us: Some(3_700 * SECOND) };
        assert_eq!(seen.see(clock, at(1)), Some(3_700 * SECOND));
    }
}
