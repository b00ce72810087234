//! How many callers there are at once. When all places are taken, the connection that has been idle for longest gives up
//! its own: so whoever opens thousands of connections and says nothing keeps nobody out.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// The idle ones, in the order in which they became so.
type Idle = Arc<Mutex<BTreeMap<u64, Arc<Notify>>>>;

pub(super) struct Connections {
    places: Arc<Semaphore>,
    idle: Idle,
    next: Arc<AtomicU64>,
}

/// The place of one connection; free again when it is dropped.
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    idle: Idle,
    next: Arc<AtomicU64>,
    /// Where it stands among the idle ones; what is there no more is busy.
    turn: AtomicU64,
    give_up: Arc<Notify>,
}

/// As long as it lives, its connection is not asked to give up.
pub(super) struct Busy<'a>(&'a Place);

impl Connections {
    pub(super) fn new(most: usize) -> Connections {
        Connections { places: Arc::new(Semaphore::new(most)), idle: Idle::default(), next: Arc::default() }
    }

    /// A place for a new connection. Waits only while all are busy.
    pub(super) async fn place(&self) -> Place {
        let permit = match Arc::clone(&self.places).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                self.make_room();
                match Arc::clone(&self.places).acquire_owned().await {
                    Ok(permit) => permit,
                    // Nobody closes the semaphore.
                    Err(_) => std::future::pending().await,
                }
            }
        };
        let place = Place {
            _permit: permit,
            idle: Arc::clone(&self.idle),
            next: Arc::clone(&self.next),
            turn: AtomicU64::new(0),
            give_up: Arc::default(),
        };
        place.rest();
        place
    }

    /// Asks the one that has been idle for longest to give up its place.
    pub(super) fn make_room(&self) {
        if let Some((_, give_up)) = lock(&self.idle).pop_first() {
            give_up.notify_one();
        }
    }
}

impl Place {
    pub(super) async fn given_up(&self) {
        self.give_up.notified().await;
    }

    pub(super) fn busy(&self) -> Busy<'_> {
        lock(&self.idle).remove(&self.turn.load(Ordering::Relaxed));
        Busy(self)
    }

    fn rest(&self) {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        self.turn.store(turn, Ordering::Relaxed);
        lock(&self.idle).insert(turn, Arc::clone(&self.give_up));
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.rest();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.idle).remove(&self.turn.load(Ordering::Relaxed));
    }
}

fn lock(idle: &Idle) -> MutexGuard<'_, BTreeMap<u64, Arc<Notify>>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::Connections;

    #[tokio::test]
    async fn the_one_that_is_idle_for_longest_gives_way_and_a_busy_one_never() {
        let connections = Connections::new(3);
        let (first, second, third) =
            (connections.place().await, connections.place().await, connections.place().await);
        drop(second.busy());
        let busy = first.busy();
        assert!(connections.place().now_or_never().is_none(), "all places are taken");
        assert!(third.given_up().now_or_never().is_some(), "it has been idle for longest");
        assert!(second.given_up().now_or_never().is_none() && first.given_up().now_or_never().is_none());
        drop(third);
        let fourth = connections.place().await;
        let (_busy_too, _busy_as_well) = (second.busy(), fourth.busy());
        assert!(connections.place().now_or_never().is_none(), "nobody is asked while all are busy");
        drop(busy);
        assert!(first.given_up().now_or_never().is_none());
        connections.make_room();
        assert!(first.given_up().now_or_never().is_some());
    }
}
