//! What the admin pages ask the database, on a connection of their own and seldom enough to cost it nothing, however
//! often somebody asks for a page.

use std::time::Duration;

use tokio::sync::Mutex;

use crate::clock::{self, Moment};
use crate::config::Database;
use crate::daemon::SchemaError;
use crate::store::status::Sample;
use crate::store::{Store, StoreError};

/// For connecting, and for one answer. A scraper waits for ten seconds as a rule.
const LIMIT: Duration = Duration::from_secs(2);
/// Between two looks whether the database is there.
const REACH_PAUSE: Duration = Duration::from_millis(500);
/// Between two looks at the queue: at least this, and so many times of what the last one cost.
const SAMPLE_PAUSE: Duration = Duration::from_secs(5);
const SAMPLE_REST: u32 = 20;
/// Counts stop here: a million dead rows must not be walked for a page.
pub(super) const MOST_COUNTED: i64 = 100_000;

/// Whether the database is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reached {
    Fits,
    /// It is there, and its schema is not what this version needs.
    Unfit(String),
    Not(String),
}

pub(super) struct Looks {
    store: Store,
    reached: Mutex<Kept<Reached>>,
    sampled: Mutex<Kept<Sample>>,
}

/// The last look, and when the next one may be.
struct Kept<T> {
    value: Option<T>,
    took: Duration,
    next: Moment,
}

impl<T> Default for Kept<T> {
    fn default() -> Kept<T> {
        Kept { value: None, took: Duration::ZERO, next: Moment::ZERO }
    }
}

impl Looks {
    /// Connects only when first asked.
    pub(super) fn new(database: &Database) -> Result<Looks, StoreError> {
        let own = Database { pool_size: 1, timeout: LIMIT.min(database.timeout), ..database.clone() };
        Ok(Looks { store: Store::open(&own)?, reached: Mutex::default(), sampled: Mutex::default() })
    }

    pub(super) async fn reach(&self) -> Reached {
        self.reach_in().await.0
    }

    /// And how long that took.
    pub(super) async fn reach_in(&self) -> (Reached, Duration) {
        // Held while it looks: who comes meanwhile gets the same answer.
        let mut kept = self.reached.lock().await;
        let begun = clock::now();
        if let Some(reached) = kept.value.as_ref().filter(|_| begun < kept.next) {
            return (reached.clone(), kept.took);
        }
        let reached = match tokio::time::timeout(LIMIT, self.store.schema_state()).await {
            Ok(Ok(state)) => match SchemaError::of(state) {
                None => Reached::Fits,
                Some(unfit) => Reached::Unfit(unfit.to_string()),
            },
            Ok(Err(error)) => Reached::Not(error.to_string()),
            Err(_) => Reached::Not(format!("the database did not answer within {LIMIT:?}")),
        };
        let now = clock::now();
        *kept = Kept { value: Some(reached.clone()), took: now.since(begun), next: now + REACH_PAUSE };
        (reached, kept.took)
    }

    /// What waits; `None`: it could not be found out.
    pub(super) async fn sample(&self) -> Option<Sample> {
        let mut kept = self.sampled.lock().await;
        let begun = clock::now();
        if begun >= kept.next {
            let value = self.store.sample(MOST_COUNTED).await.ok();
            let now = clock::now();
            let took = now.since(begun);
            *kept = Kept { value, took, next: now + SAMPLE_PAUSE.max(took * SAMPLE_REST) };
        }
        kept.value.clone()
    }
}
