//! What lasts as long as the process, and outlives a change of the configuration: who it is, what it knows, and which
//! database has all of that.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::{info, warn};

use crate::clock;
use crate::engine::incoming;
use crate::engine::memory::{Memory, OwnWaves};
use crate::metrics::Metrics;
use crate::metrics::progress::Progress;
use crate::store::control::{Identity, Role};
use crate::store::failover::{Cluster, Here};
use crate::store::{Store, StoreError};

/// Most facts in one statement.
const PIECE: usize = 1000;

#[derive(Debug)]
pub struct Life {
    pub identity: Identity,
    pub memory: Memory,
    pub own_waves: OwnWaves,
    pub metrics: Arc<Metrics>,
    pub progress: Arc<Progress>,
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
            metrics: Arc::default(),
            progress: Arc::default(),
            home: Mutex::new(None),
            others: Mutex::new("[]".to_owned()),
        }
    }

    /// What this process knows must be in the database that it works on, before anything else is done there. After a
    /// failover it may not be: then all of it is written again. To be called while nothing can leave.
    pub async fn come_home(&self, store: &Store) -> Result<Cluster, StoreError> {
        let here = store.here(&self.identity).await?;
        let home = here.cluster;
        let before = *lock(&self.home);
        match before {
            Some(before) if before != home => {
                info!(?before, now = ?home, "the database failed over");
                self.testify(store, here).await?;
            }
            Some(_) | None => store.expect(home.timeline),
        }
        *lock(&self.home) = Some(home);
        Ok(home)
    }

    async fn testify(&self, store: &Store, here: Here) -> Result<(), StoreError> {
        let mut lost = 0;
        // In this order: what is recorded in between is in both.
        let under_way = self.own_waves.under_way();
        let results = self.memory.results.latest_since(here.beat);
        // Results first: what is under way now may have been tried before.
        for facts in [results, under_way] {
            for piece in facts.chunks(PIECE) {
                lost += store.reapply(piece, here.cluster).await?;
            }
        }
        // From here on others may write as well: a receipt finds its row as it was.
        store.expect(here.cluster.timeline);
        incoming::write_again(store, &self.memory, here.beat).await?;
        let vouches = self.memory.results.reaches_back_to(here.beat);
        let others = lock(&self.others).clone();
        store.vouch(&self.identity, here.cluster, clock::now(), vouches, &others).await?;
        if lost > 0 {
            warn!(messages = lost, "the failover had lost what became of them; written again from memory");
        }
        if !vouches {
            warn!("the failover went back further than memory does: what was sent before that is not known");
        }
        Ok(())
    }

    /// A sign of life in the database that has all we know. An error says that this is another one; that it could not be
    /// written is none: the lock session tells whether we lead.
    pub async fn show(&self, store: &Store, role: Role, home: Cluster) -> Result<(), StoreError> {
        match store.heartbeat(&self.identity, role, home, clock::now()).await {
            Ok(pulse) if pulse.cluster == home => *lock(&self.others) = pulse.others,
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
