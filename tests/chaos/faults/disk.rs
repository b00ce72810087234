//! Disks that are full: under PostgreSQL's WAL, and under the daemons' logs.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::daemons::LogEnd;
use crate::faults::{last, processes};
use crate::schedule::{Event, What};
use crate::world::World;

const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long PostgreSQL may take to come back once there is room again.
const BACK_LIMIT: Duration = Duration::from_secs(60);

pub(super) async fn strike(world: &World, event: &Event) {
    match event.what {
        What::WalFull => wal_full(world, event).await,
        What::LogFull => {
            let Some(disk) = &world.log_disk else { return };
            disk.fill();
            last(event).await;
            disk.empty();
        }
        What::LogDevice => {
            let number = world.target(event.whom).await;
            processes::stop(world, number).await;
            world.slots[number].borrow_mut().log_to(LogEnd::FullDevice);
            world.slots[number].borrow_mut().start();
            last(event).await;
            processes::stop(world, number).await;
            world.slots[number].borrow_mut().log_to(LogEnd::File);
            world.slots[number].borrow_mut().start();
        }
        other => unreachable!("{other:?} is no fault of a disk"),
    }
}

/// PostgreSQL goes on until it needs the next segment of WAL: it is made to need one soon. Then it panics, tries to
/// recover, and may give up; whoever runs it makes room and starts it again.
async fn wal_full(world: &World, event: &Event) {
    let Some(disk) = &world.wal_disk else { return };
    disk.fill();
    let until = Instant::now() + Duration::from_millis(event.lasts_ms);
    while Instant::now() < until {
        world.try_sql("SELECT pg_switch_wal()").await;
        // What recycling frees is taken as well.
        disk.fill();
        sleep(LOOK_AGAIN).await;
    }
    disk.empty();
    let mut cluster = world.cluster.lock().await;
    let limit = Instant::now() + BACK_LIMIT;
    while !world.try_sql("SELECT 1").await {
        assert!(Instant::now() < limit, "PostgreSQL did not come back: {}", cluster.log());
        if cluster.has_ended() {
            cluster.run().await;
        }
        sleep(LOOK_AGAIN).await;
    }
}
