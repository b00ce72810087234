//! The faults: one file for each family. Each strikes, lasts as long as its event says, and takes itself back before it
//! returns, so that when all have returned nothing is broken any more that a site could not mend by itself.
//!
//! Faults overlap. None relies on the state that another could have changed.

mod clock;
mod copies;
mod disk;
mod failovers;
mod gateway;
mod network;
mod postgres;
mod processes;

use std::time::{Duration, Instant};

use crate::schedule::{Event, Family};
use crate::world::World;

/// Plays one event, and notes when it began and ended.
pub(crate) async fn strike(world: &World, event: &Event) {
    tokio::time::sleep(Duration::from_millis(event.at_ms)).await;
    if let Some(reason) = world.stage.machine.lacks(event.what) {
        world.say(&format!("{:>5} ms  {event} is left out: {reason}", event.at_ms));
        return;
    }
    world.say(&format!("{:>5} ms  {event}", event.at_ms));
    *world.notes.faults.borrow_mut().entry(event.what).or_default() += 1;
    let at = {
        let mut spans = world.notes.spans.borrow_mut();
        spans.push((Instant::now(), None));
        spans.len() - 1
    };
    match event.what.family() {
        Family::Processes => processes::strike(world, event).await,
        Family::Postgres => postgres::strike(world, event).await,
        Family::Gateway => gateway::strike(world, event).await,
        Family::Network => network::strike(world, event).await,
        Family::Disk => disk::strike(world, event).await,
        Family::Clock => clock::strike(world, event).await,
        Family::Copies => copies::strike(world, event).await,
        Family::Failovers => failovers::strike(world, event).await,
    }
    world.notes.spans.borrow_mut()[at].1 = Some(Instant::now());
}

/// As long as the event lasts.
async fn last(event: &Event) {
    tokio::time::sleep(Duration::from_millis(event.lasts_ms)).await;
}
