//! Primaries that die, and replicas that are promoted in their place. Daemons know both servers from the start.
//!
//! A synchronous replica has every commit that was acknowledged. An asynchronous one is cut off for a while before its
//! primary dies: what was committed in that time is gone, that a message was sent no less than the message itself.

use std::mem;
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

use crate::faults::last;
use crate::faults::postgres::first_message;
use crate::schedule::{Event, What, Whom};
use crate::support::cluster::{Cluster, Stop};
use crate::world::World;

/// How long after a promotion a leader stands still at most that was paused before it: it is waited for twice a lease, and
/// the shortest is a second.
const PAUSE_MS: u64 = 1500;
/// How long other faults may keep us from cutting the replica off.
const CUT_LIMIT: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

pub(super) async fn strike(world: &World, event: &Event) {
    let Some(replica) = world.replica.lock().await.take() else { return };
    // Nobody else restarts the primary meanwhile.
    let mut cluster = world.cluster.lock().await;
    if event.what != What::FailoverSync && !cut_off(world, &cluster, &replica).await {
        world.find("the replica could not be cut off");
        return;
    }
    if event.what != What::FailoverSync {
        last(event).await;
    }
    let everybody = event.what == What::FailoverAllLost;
    if everybody {
        for slot in &world.slots {
            slot.borrow_mut().kill();
        }
    }
    let mut paused = None;
    if event.what == What::FailoverPaused {
        let number = world.target(Whom::Leader).await;
        world.slots[number].borrow_mut().pause();
        paused = Some(number);
    }
    let death = Instant::now();
    if !cluster.has_ended() {
        cluster.stop(Stop::Immediate).await;
    }
    if event.what == What::FailoverSync {
        last(event).await;
    }
    replica.promote().await;
    world.move_to(&replica);
    let dead = mem::replace(&mut *cluster, replica);
    world.dead_primary.replace(Some(dead));
    drop(cluster);
    if everybody {
        for slot in &world.slots {
            slot.borrow_mut().start();
        }
    }
    if let Some(number) = paused {
        tokio::time::sleep(Duration::from_millis(event.dice % PAUSE_MS)).await;
        world.slots[number].borrow_mut().resume();
    }
    let first = first_message(world).await;
    world.notes.failovers.borrow_mut().push((death, first));
}

/// Waits until the replica has all that is committed at some moment, notes that moment, and has no more WAL shipped.
async fn cut_off(world: &World, primary: &Cluster, replica: &Cluster) -> bool {
    let limit = Instant::now() + CUT_LIMIT;
    while Instant::now() < limit {
        if let Some(since) = try_to_cut_off(primary, replica, limit).await {
            world.notes.commits_lost_since.set(Some(since));
            return true;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    false
}

/// Nothing: a session was thrown out, or the primary is away.
async fn try_to_cut_off(primary: &Cluster, replica: &Cluster, limit: Instant) -> Option<Instant> {
    let (source, target) = (connect(primary).await?, connect(replica).await?);
    let since = Instant::now();
    let row = source.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await.ok()?;
    let written: String = row.get(0);
    let has = "SELECT pg_last_wal_receive_lsn() >= $1::text::pg_lsn";
    until(&target, has, &[&written], limit).await?;
    target.batch_execute("ALTER SYSTEM SET primary_conninfo = ''").await.ok()?;
    target.batch_execute("SELECT pg_reload_conf()").await.ok()?;
    until(&source, "SELECT NOT EXISTS (SELECT FROM pg_stat_replication)", &[], limit).await?;
    Some(since)
}

async fn until(
    sql: &Client,
    condition: &str,
    params: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    limit: Instant,
) -> Option<()> {
    while Instant::now() < limit {
        if sql.query_one(condition, params).await.ok()?.get::<_, Option<bool>>(0) == Some(true) {
            return Some(());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    None
}

async fn connect(cluster: &Cluster) -> Option<Client> {
    let (client, connection) = cluster.config("postgres").connect(NoTls).await.ok()?;
    tokio::spawn(connection);
    Some(client)
}
