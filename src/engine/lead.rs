//! Leadership: tries to become the one active sender, and stays it as long as the server agrees.
//!
//! The lease counts from the sending of the last confirmation that was answered. `deliver` looks at it when the first
//! byte of a request is about to leave; `store::queue` checks the epoch in every wave. The first keeps a paused or
//! cut-off leader from starting anything, the second keeps it from committing anything.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::clock::{self, Moment};
use crate::config::{AfterFailover, Database};
use crate::engine::Event;
use crate::engine::failover::{self, Judgement};
use crate::engine::memory::{Memory, OwnWaves};
use crate::engine::receipts;
use crate::message::Nonce;
use crate::store::control::{Identity, Role};
use crate::store::failover::{Cluster, Here, Uncertain};
use crate::store::leader::{LeaderSession, Standing};
use crate::store::{Store, StoreError};

/// Between two tries to reach the database. Short: after a failover everybody waits for the last one that comes back.
const AGAIN: Duration = Duration::from_millis(250);
/// Most facts in one statement.
const PIECE: usize = 1000;
/// Between two looks at who has spoken after a failover.
const HEAR_AGAIN: Duration = Duration::from_millis(50);

/// Until when we may start requests.
#[derive(Debug, Default)]
pub struct Lease {
    until: AtomicU64,
    epoch: AtomicI64,
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
}

/// A term of leadership as `dispatch` needs it.
#[derive(Debug, Clone)]
pub struct Leading {
    pub epoch: i64,
    pub nonce: Nonce,
    pub held: Option<String>,
    pub uncertain: Option<Uncertain>,
}

/// What lasts as long as the process, and outlives a change of the configuration: who it is, and what it knows.
#[derive(Debug)]
pub struct Life {
    pub identity: Identity,
    pub memory: Memory,
    pub own_waves: OwnWaves,
    /// The database that has all of it.
    home: Mutex<Option<Cluster>>,
    /// The other daemons, as the last heartbeat found them.
    others: Mutex<String>,
}

impl Life {
    pub fn new(identity: Identity) -> Life {
        Life {
            identity,
            memory: Memory::default(),
            own_waves: OwnWaves::default(),
            home: Mutex::new(None),
            others: Mutex::new("[]".to_owned()),
        }
    }

    fn home(&self) -> Option<Cluster> {
        *self.home.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, home: Cluster) {
        *self.home.lock().unwrap_or_else(PoisonError::into_inner) = Some(home);
    }

    fn others(&self) -> String {
        self.others.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn saw(&self, others: String) {
        *self.others.lock().unwrap_or_else(PoisonError::into_inner) = others;
    }
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
        let mut complained = false;
        loop {
            let error = match self.term(&events).await {
                Ok(never) => match never {},
                Err(error) => error,
            };
            if self.lease.until.load(Ordering::Acquire) != 0 {
                self.lease.revoke();
                if events.send(Event::Deposed).await.is_err() {
                    return;
                }
                warn!(%error, "lost leadership; nothing is sent until it is regained");
            } else if !complained {
                warn!(%error, "cannot become leader yet; trying again");
            }
            complained = true;
            self.store.connect_anew();
            tokio::time::sleep((self.lease_length / 5).min(AGAIN)).await;
        }
    }

    async fn term(&self, events: &mpsc::Sender<Event>) -> Result<std::convert::Infallible, StoreError> {
        let home = self.come_home().await?;
        let mut session = LeaderSession::connect(&self.database, &self.store, self.lease_length).await?;
        let beat = self.lease_length / 4;
        let mut standby_since: Option<Moment> = None;
        let mut confirmed_at = loop {
            if let Some(at) = session.try_lock().await? {
                break at;
            }
            if standby_since.is_none() {
                info!("standby: another daemon leads this outbox");
                standby_since = Some(clock::now());
            }
            self.show(Role::Standby, home).await?;
            tokio::time::sleep(beat).await;
        };
        // From the asking for the lock on; confirmed while the takeover is under way, which may wait for locks.
        let leading = {
            let takeover = self.take_over();
            tokio::pin!(takeover);
            loop {
                tokio::select! {
                    leading = &mut takeover => break leading?,
                    () = tokio::time::sleep(beat) => confirmed_at = session.confirm().await?,
                }
            }
        };
        self.lease.begin(leading.epoch, confirmed_at, self.lease_length);
        info!(epoch = leading.epoch, held = leading.held.is_some(), "leading");
        if events.send(Event::Lead(leading)).await.is_err() {
            std::future::pending::<()>().await;
        }
        // Side by side: a heartbeat that waits for a connection must not cost the leadership.
        let showing = async {
            loop {
                if let Err(error) = self.show(Role::Leader, home).await {
                    break error;
                }
                tokio::time::sleep(beat).await;
            }
        };
        let confirming = async {
            loop {
                tokio::time::sleep(beat).await;
                match session.confirm().await {
                    Ok(at) => self.lease.renew(at, self.lease_length),
                    Err(error) => break error,
                }
            }
        };
        tokio::select! {
            error = showing => Err(error),
            error = confirming => Err(error),
        }
    }

    /// What this process knows must be in the database that it works on, before anything else is done there. After a
    /// failover it may not be: then all of it is written again.
    async fn come_home(&self) -> Result<Cluster, StoreError> {
        let here = self.store.here(&self.life.identity).await?;
        let home = here.cluster;
        match self.life.home() {
            Some(before) if before != home => {
                info!(?before, now = ?home, "the database failed over");
                self.testify(here).await?;
            }
            Some(_) | None => self.store.expect(home.timeline),
        }
        self.life.settle(home);
        Ok(home)
    }

    async fn testify(&self, here: Here) -> Result<(), StoreError> {
        let Life { identity, memory, own_waves, .. } = self.life.as_ref();
        let mut facts = memory.results_since(here.beat);
        let mut lost = 0;
        // Results first: what is under way by now may have an earlier attempt among them.
        for facts in [std::mem::take(&mut facts), own_waves.under_way()] {
            for piece in facts.chunks(PIECE) {
                lost += self.store.reapply(piece, here.cluster).await?;
            }
        }
        // From here on also by those who did not wait for us: a receipt finds its row as it was.
        self.store.expect(here.cluster.timeline);
        receipts::apply(&self.store, &memory.receipts_since(here.beat)).await?;
        let vouches = memory.reaches_back_to(here.beat);
        self.store.vouch(identity, here.cluster, clock::now(), vouches, &self.life.others()).await?;
        if lost > 0 {
            warn!(messages = lost, "the failover had lost what became of them; written again from memory");
        }
        if !vouches {
            warn!("the failover went back further than memory does: what was sent before that is not known");
        }
        Ok(())
    }

    async fn take_over(&self) -> Result<Leading, StoreError> {
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
        let nonce = fresh_nonce();
        let term = self
            .store
            .take_over(nonce, &self.life.identity.instance, standing.present, hold.as_deref(), uncertain)
            .await?;
        let unknown = loop {
            match self.store.mark_unknown(term.epoch, &self.life.own_waves.list()).await {
                Ok(count) => break count,
                Err(StoreError::Locked { .. }) => {
                    warn!("a row whose attempt was cut off is locked by somebody; waiting for it");
                }
                Err(error) => return Err(error),
            }
        };
        if unknown > 0 {
            warn!(unknown, "messages were under way when the last leader ended; their outcome is unknown");
        }
        let held = term.held.then(|| term.held_reason.unwrap_or_default());
        Ok(Leading { epoch: term.epoch, nonce, held, uncertain: term.uncertain })
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

    /// A sign of life. An error says that the database is another one than before; that it could not be written is none:
    /// the lock session tells whether we lead.
    async fn show(&self, role: Role, home: Cluster) -> Result<(), StoreError> {
        match self.store.heartbeat(&self.life.identity, role, home, clock::now()).await {
            Ok(pulse) if pulse.cluster == home => self.life.saw(pulse.others),
            Ok(_) => {
                return Err(StoreError::Elsewhere {
                    statement: "heartbeat",
                    reason: "the database failed over".to_owned(),
                });
            }
            Err(error) => tracing::debug!(%error, "could not write the heartbeat"),
        }
        Ok(())
    }
}

fn fresh_nonce() -> Nonce {
    Nonce::from_bits(random_bits())
}

/// Random bits from the operating system; should that fail, from the clock, which still differs from any earlier time.
pub fn random_bits() -> u64 {
    getrandom::u64().unwrap_or_else(|_| clock::now().as_nanos().wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
}
