//! Daemons that are killed, stopped, paused or told to read their configuration again.

use std::time::{Duration, Instant};

use crate::faults::last;
use crate::schedule::{Event, What};
use crate::world::World;

/// The grace of three seconds, and then ten for the last results: what a daemon may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

pub(super) async fn strike(world: &World, event: &Event) {
    let number = world.target(event.whom).await;
    let slot = &world.slots[number];
    match event.what {
        What::Kill => {
            let standbys = world.standbys(number);
            let leads = world.leader().await == Some(number);
            if slot.borrow_mut().kill() && leads && standbys > 0 {
                world.notes.kills.borrow_mut().push(Instant::now());
            }
            last(event).await;
            slot.borrow_mut().start();
        }
        What::KillAll => {
            for slot in &world.slots {
                slot.borrow_mut().kill();
            }
            last(event).await;
            for slot in &world.slots {
                slot.borrow_mut().start();
            }
        }
        What::Pause | What::PauseBeyondLease => {
            let leads = world.leader().await == Some(number);
            if leads && world.standbys(number) > 0 && event.what == What::PauseBeyondLease {
                world.notes.silences.borrow_mut().push(Instant::now());
            }
            slot.borrow_mut().pause();
            last(event).await;
            slot.borrow_mut().resume();
        }
        What::Terminate => {
            stop(world, number).await;
            last(event).await;
            slot.borrow_mut().start();
        }
        What::Reload => {
            world.notes.stops.set(world.notes.stops.get() + 1);
            slot.borrow_mut().reload();
        }
        other => unreachable!("{other:?} is no fault of processes"),
    }
}

/// SIGTERM, and waits until it is gone.
pub(super) async fn stop(world: &World, number: usize) {
    world.notes.stops.set(world.notes.stops.get() + 1);
    let process = world.slots[number].borrow().process();
    if world.slots[number].borrow_mut().terminate() {
        until_gone(world, number, process).await;
    }
}

/// Another fault may have started the next process in the same place meanwhile: nobody told that one to stop.
async fn until_gone(world: &World, number: usize, process: Option<u32>) {
    let begun = Instant::now();
    while !world.slots[number].borrow_mut().has_ended() && world.slots[number].borrow().process() == process {
        if begun.elapsed() > STOP_LIMIT {
            world.find(format!("daemon {number} did not stop within {STOP_LIMIT:?} of SIGTERM"));
            world.slots[number].borrow_mut().kill();
            return;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
