//! PostgreSQL that throws sessions out, restarts, crashes, or whose rows and tables are locked by somebody else.

use std::time::{Duration, Instant};

use crate::faults::last;
use crate::schedule::{Event, What};
use crate::support::cluster::Stop;
use crate::world::World;

/// How long the first message after a restart is waited for.
const FIRST_SEND_LIMIT: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

pub(super) async fn strike(world: &World, event: &Event) {
    match event.what {
        What::TerminateSessions => {
            for _ in 0..event.count {
                let everybody = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                                 WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
                world.try_sql(everybody).await;
                last(event).await;
            }
        }
        What::FastRestart => restart(world, event, Stop::Fast).await,
        What::ImmediateRestart => restart(world, event, Stop::Immediate).await,
        What::KillPostmaster => restart(world, event, Stop::Kill).await,
        What::LockRows => {
            let rows = format!(
                "SELECT FROM sms.outbox WHERE id IN (SELECT id FROM sms.outbox ORDER BY id DESC LIMIT {}) FOR UPDATE",
                event.count
            );
            hold_lock(world, event, &rows).await;
        }
        What::LockTable => hold_lock(world, event, "LOCK TABLE sms.outbox IN ACCESS EXCLUSIVE MODE").await,
        What::LockLeader => hold_lock(world, event, "SELECT FROM outboxd.leader FOR UPDATE").await,
        other => unreachable!("{other:?} is no fault of PostgreSQL"),
    }
}

async fn restart(world: &World, event: &Event, how: Stop) {
    {
        // Two restarts at once come one after the other.
        let mut cluster = world.cluster.lock().await;
        cluster.stop(how).await;
        last(event).await;
        cluster.run().await;
    }
    let back = Instant::now();
    let first = first_message(world).await;
    world.notes.first_sends.borrow_mut().push((back, first));
}

/// When the gateway accepts the next message, if that is soon.
pub(super) async fn first_message(world: &World) -> Option<Instant> {
    let begun = Instant::now();
    let before = world.accepted().await;
    while begun.elapsed() <= FIRST_SEND_LIMIT {
        if world.accepted().await > before {
            return Some(Instant::now());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    None
}

/// Takes a lock in a transaction of its own. Where that is refused or cut off, nothing was locked, which happens.
async fn hold_lock(world: &World, event: &Event, lock: &str) {
    let Some(mut client) = world.sql().await else { return };
    let Ok(transaction) = client.transaction().await else { return };
    let statement = format!("SET LOCAL lock_timeout = '3s'; {lock}");
    if transaction.batch_execute(&statement).await.is_ok() {
        last(event).await;
    }
    // The end of the connection ends it in any case.
    let _ = transaction.rollback().await;
}
