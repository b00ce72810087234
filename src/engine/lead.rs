//! Leadership: tries to become the one active sender, and stays it as long as the server agrees.
//!
//! The lease counts from the sending of the last confirmation that was answered. `deliver` looks at it when the first
//! byte of a request is about to leave; `store::queue` checks the epoch in every wave. The first keeps a paused or
//! cut-off leader from starting anything, the second keeps it from committing anything.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::clock::{self, Moment};
use crate::config::{AfterFailover, Database};
use crate::engine::Event;
use crate::engine::complaints::Complaints;
use crate::engine::failover::{self, Judgement};
use crate::engine::life::Life;
use crate::metrics;
use crate::metrics::progress::{self, AtWork, Part};
use crate::store::control::Role;
use crate::store::failover::{Cluster, Uncertain};
use crate::store::leader::{LeaderSession, Standing};
use crate::store::{Store, StoreError};

/// Between two looks at who has spoken after a failover.
const HEAR_AGAIN: Duration = Duration::from_millis(50);

/// Between two tries of a standby for the lock. The server lets go of the lock as soon as a leader's process has ended, so
/// this is what a takeover then takes; each try is one small statement without a write.
const STANDBY_PAUSE: Duration = Duration::from_millis(400);

/// First and longest pause before the lock session is made anew. A server that was restarted is to be noticed soon, and
/// one that is down or refuses us costs two tries a second.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_millis(500);

/// Until when we may start requests.
#[derive(Debug, Default)]
pub struct Lease {
    until: AtomicU64,
    epoch: AtomicI64,
    /// The last epoch of ours that was found to be over.
    superseded: watch::Sender<i64>,
}

impl Lease {
    /// Past this, nothing of the epoch is started. Not in a later epoch of ours either: somebody may have led in
    /// between, called it unknown, and sent it again as the policy says.
    pub fn holds(&self, epoch: i64) -> bool {
        // In this order: an epoch is set before its lease begins.
        clock::now().as_nanos() < self.until.load(Ordering::Acquire)
            && epoch == self.epoch.load(Ordering::Acquire)
    }

    fn begin(&self, epoch: i64, confirmed_at: Moment, lease: Duration) {
        self.epoch.store(epoch, Ordering::Release);
        self.renew(confirmed_at, lease);
    }

    fn renew(&self, confirmed_at: Moment, lease: Duration) {
        // A tenth less than the server grants: the two clocks need not run at quite the same speed.
        self.until.store((confirmed_at + lease * 9 / 10).as_nanos(), Ordering::Release);
    }

    fn revoke(&self) {
        self.until.store(0, Ordering::Release);
    }

    /// The database knows a later epoch than this one of ours, so none of our waves is taken any more.
    pub fn supersede(&self, epoch: i64) {
        self.superseded.send_replace(epoch);
    }

    /// Returns once this epoch was found to be over.
    async fn until_superseded(&self, epoch: i64) {
        let mut superseded = self.superseded.subscribe();
        if superseded.wait_for(|over| *over >= epoch).await.is_err() {
            // Not while we are there.
            std::future::pending::<()>().await;
        }
    }
}

/// A term of leadership as `dispatch` needs it.
#[derive(Debug, Clone)]
pub struct Leading {
    pub epoch: i64,
    pub timeline: i32,
    pub held: Option<String>,
    pub uncertain: Option<Uncertain>,
}

#[derive(Debug)]
pub struct Candidate {
    pub database: Database,
    pub store: Store,
    pub lease_length: Duration,
    pub after_failover: AfterFailover,
    pub lease: Arc<Lease>,
    pub life: Arc<Life>,
}

impl Candidate {
    /// Runs until its task is dropped: standby, leader, standby again.
    pub async fn run(self, events: mpsc::Sender<Event>) {
        let mut trouble = Trouble::default();
        let limit = progress::patient(self.store.patience()) + self.lease_length;
        let at_work = self.life.progress.begin(Part::Lead, limit);
        let seen = Seen(Arc::clone(&self.life.metrics));
        loop {
            at_work.gets_on();
            let ended = self.term((&events, &at_work), &mut trouble).await;
            seen.as_role(metrics::Role::None);
            let error = match ended {
                Ok(never) => match never {},
                Err(error) => error,
            };
            if matches!(error, StoreError::InDoubt { .. } | StoreError::Unavailable(_)) {
                // What cut off this session has cut off those that rest in the pool: each would be found out by a
                // statement that waits for its time limit.
                self.store.forget_connections();
            }
            let led = self.lease.until.load(Ordering::Acquire) != 0;
            if led {
                self.lease.revoke();
                if events.send(Event::Deposed).await.is_err() {
                    return;
                }
            }
            if trouble.complaints.is_news(&error) {
                if led {
                    warn!(%error, "lost leadership; nothing is sent until it is regained");
                } else {
                    warn!(%error, "cannot become leader yet; trying again");
                }
            }
            tokio::time::sleep(trouble.next_pause()).await;
        }
    }

    async fn term(
        &self,
        (events, at_work): (&mpsc::Sender<Event>, &AtWork),
        trouble: &mut Trouble,
    ) -> Result<Infallible, StoreError> {
        let home = self.life.come_home(&self.store).await?;
        let mut session = LeaderSession::connect(&self.database, &self.store, self.lease_length).await?;
        let mut confirmed_at = match session.try_lock().await? {
            Some(at) => at,
            None => {
                info!("standby: another daemon leads this outbox");
                self.life.metrics.set_role(metrics::Role::Standby);
                *trouble = Trouble::default();
                // Side by side: a heartbeat that waits for a connection must not make the takeover late.
                tokio::select! {
                    won = self.stand_by(&mut session, at_work) => won?,
                    elsewhere = self.keep_showing(Role::Standby, home) => return Err(elsewhere),
                }
            }
        };
        // From the asking for the lock on; confirmed while the takeover is under way, which may wait for locks.
        let leading = {
            let takeover = self.take_over(session.holder());
            tokio::pin!(takeover);
            loop {
                tokio::select! {
                    leading = &mut takeover => break leading?,
                    () = tokio::time::sleep(self.beat()) => {
                        at_work.gets_on();
                        confirmed_at = session.confirm().await?;
                    }
                }
            }
        };
        let epoch = leading.epoch;
        self.lease.begin(epoch, confirmed_at, self.lease_length);
        self.life.metrics.epoch.store(epoch, Ordering::Relaxed);
        self.life.metrics.set_role(metrics::Role::Leader);
        info!(epoch = leading.epoch, held = leading.held.is_some(), "leading");
        *trouble = Trouble::default();
        if events.send(Event::Lead(leading)).await.is_err() {
            std::future::pending::<()>().await;
        }
        let holder = session.holder();
        let looking = async {
            loop {
                tokio::time::sleep(self.beat()).await;
                if let Err(error) = self.lock_is_here(holder).await {
                    break error;
                }
            }
        };
        let confirming = async {
            loop {
                if let Err(error) = session.rest(self.beat()).await {
                    break error;
                }
                at_work.gets_on();
                match session.confirm().await {
                    Ok(at) => self.lease.renew(at, self.lease_length),
                    Err(error) => break error,
                }
            }
        };
        // Although we hold the lock: a takeover that was given up as lost (ours, or that of a daemon before us) has come to
        // the server late. Nobody else would end this term, so it is begun anew.
        let superseded = self.lease.until_superseded(epoch);
        // Side by side: a heartbeat that waits for a connection must not cost the leadership.
        tokio::select! {
            elsewhere = self.keep_showing(Role::Leader, home) => Err(elsewhere),
            error = looking => Err(error),
            error = confirming => Err(error),
            () = superseded => Err(StoreError::Answer {
                statement: "daemon/control",
                reason: format!("epoch {epoch} is over, a later one has begun"),
            }),
        }
    }

    /// Between two confirmations, and between two heartbeats.
    fn beat(&self) -> Duration {
        self.lease_length / 4
    }

    /// Tries the lock until it is ours.
    async fn stand_by(&self, session: &mut LeaderSession, at_work: &AtWork) -> Result<Moment, StoreError> {
        let pause = self.beat().min(STANDBY_PAUSE);
        loop {
            at_work.gets_on();
            session.rest(pause).await?;
            if let Some(at) = session.try_lock().await? {
                return Ok(at);
            }
        }
    }

    async fn take_over(&self, holder: Option<i32>) -> Result<Leading, StoreError> {
        self.lock_is_here(holder).await?;
        let (standing, judgement) = self.hear_witnesses().await?;
        let mut hold = None;
        let mut uncertain = false;
        match judgement {
            Judgement::Certain => {}
            Judgement::Changed { reason } => {
                warn!(reason, "starting held: nothing is sent until `outboxd adopt`");
                self.store.open_alarm("database_changed", "", &reason).await?;
                hold = Some(reason);
            }
            Judgement::Uncertain { silent } if self.after_failover == AfterFailover::Send => {
                warn!(silent, "the database failed over; going on as after_failover says");
            }
            Judgement::Uncertain { silent } => {
                warn!(
                    silent,
                    "the database failed over, and nobody can tell what it lost: setting aside what was queued"
                );
                self.store.open_alarm("failover_uncertain", "", &failover::alarm_text(&silent, 0)).await?;
                uncertain = true;
            }
        }
        let instance = &self.life.identity.instance;
        let term = self.store.take_over(instance, standing.present, hold.as_deref(), uncertain).await?;
        let mut said = false;
        let unknown = loop {
            match self.store.mark_unknown(term.epoch, &self.life.own_waves.list()).await {
                Ok(count) => break count,
                Err(StoreError::Locked { .. }) if said => {}
                Err(StoreError::Locked { .. }) => {
                    said = true;
                    let holders = self.store.lock_holders(true).await.ok().flatten();
                    let holders = holders.as_deref().unwrap_or("nobody whom we can see");
                    warn!(holders, "a row whose attempt was cut off is locked by somebody; waiting for it");
                }
                Err(error) => return Err(error),
            }
        };
        if unknown > 0 {
            self.life.metrics.swept(metrics::Outcome::Unknown, unknown);
            warn!(unknown, "messages were under way when the last leader ended; their outcome is unknown");
        }
        let held = term.held.then(|| term.held_reason.unwrap_or_default());
        let timeline = standing.present.timeline;
        Ok(Leading { epoch: term.epoch, timeline, held, uncertain: term.uncertain })
    }

    /// With two ways to the server (a pooler, and one past it) the lock may be held in another database than our
    /// statements go to, by mistake or since the ways were switched to another server one after the other. It then
    /// keeps nobody away. Nor may we keep it where the statements' way is closed: a pooler that is to be paused waits
    /// for our transaction to end, and another daemon's way may be open.
    async fn lock_is_here(&self, holder: Option<i32>) -> Result<(), StoreError> {
        let (true, Some(holder)) = (self.database.has_two_ways(), holder) else { return Ok(()) };
        match tokio::time::timeout(self.lease_length, self.store.sees_lock(holder)).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err(StoreError::WrongWay {
                what: "the lock is not held in the database that statements go to".to_owned(),
                advice: "let url and direct_url lead to the same server; the pooler may have been switched to another",
            }),
            Ok(Err(error)) => Err(error),
            Err(_) => {
                let waited = self.lease_length;
                Err(StoreError::Unavailable(format!("nothing came through the pooler for {waited:?}")))
            }
        }
    }

    /// Waits, for a bounded time, until everybody has spoken who may know what a failover lost. Longer than a lease:
    /// a leader that has not noticed yet may send for so long.
    async fn hear_witnesses(&self) -> Result<(Standing, Judgement), StoreError> {
        let until = clock::now() + self.lease_length * 2;
        let mut said = false;
        loop {
            let standing = self.store.standing().await?;
            let witnesses = self.store.witnesses().await?;
            let judgement = failover::judge(&standing, &witnesses);
            let wait = judgement != Judgement::Certain && failover::worth_waiting(&standing, &witnesses);
            if !wait || clock::now() >= until {
                return Ok((standing, judgement));
            }
            if !std::mem::replace(&mut said, true) {
                info!("the database failed over; waiting for the daemons that may know what it lost");
            }
            tokio::time::sleep(HEAR_AGAIN).await;
        }
    }

    /// Ends when the database is another one than before.
    async fn keep_showing(&self, role: Role, home: Cluster) -> StoreError {
        loop {
            if let Err(elsewhere) = self.life.show(&self.store, role, home).await {
                return elsewhere;
            }
            tokio::time::sleep(self.beat()).await;
        }
    }
}

/// What others see of us. An engine that is taken down leads no more.
struct Seen(Arc<metrics::Metrics>);

impl Seen {
    fn as_role(&self, role: metrics::Role) {
        self.0.set_role(role);
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        self.as_role(metrics::Role::None);
    }
}

/// We neither lead nor stand by.
#[derive(Debug)]
struct Trouble {
    pause: Duration,
    complaints: Complaints,
}

impl Default for Trouble {
    fn default() -> Trouble {
        Trouble { pause: RETRY_MIN, complaints: Complaints::default() }
    }
}

impl Trouble {
    fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(RETRY_MAX);
        pause
    }
}

/// Random bits from the operating system; should that fail, from the clock, which still differs from any earlier time.
pub fn random_bits() -> u64 {
    getrandom::u64().unwrap_or_else(|_| clock::now().as_nanos().wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::Lease;
    use crate::clock;

    #[test]
    fn a_lease_ends_by_itself_and_when_revoked() {
        let lease = Lease::default();
        assert!(!lease.holds(2), "nothing confirmed yet");
        lease.begin(2, clock::now(), Duration::from_secs(60));
        assert!(lease.holds(2));
        assert!(!lease.holds(1), "what was begun in an earlier epoch stays here");
        lease.revoke();
        assert!(!lease.holds(2));
        lease.renew(clock::Moment::ZERO, Duration::from_nanos(1));
        assert!(!lease.holds(2));
    }

    #[tokio::test]
    async fn an_epoch_that_is_over_ends_its_term_and_no_later_one() {
        let lease = Lease::default();
        assert_eq!(lease.until_superseded(2).now_or_never(), None);
        lease.supersede(2);
        assert_eq!(lease.until_superseded(2).now_or_never(), Some(()));
        assert_eq!(lease.until_superseded(3).now_or_never(), None);
    }
}
