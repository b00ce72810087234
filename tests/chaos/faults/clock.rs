//! Clocks that step, forwards or back: of a daemon's host, or of PostgreSQL's. Only the wall clock: what counts since the
//! boot goes on, as it does when somebody sets the clock of a machine.

use crate::faults::last;
use crate::random::Random;
use crate::schedule::{Event, What};
use crate::support::clock::set_clock;
use crate::world::World;

pub(super) async fn strike(world: &World, event: &Event) {
    let file = match event.what {
        What::DaemonClock => {
            let number = world.target(event.whom).await;
            world.slots[number].borrow().clock_file()
        }
        What::DatabaseClock => world.database_clock.clone(),
        other => unreachable!("{other:?} is no fault of a clock"),
    };
    let minutes = i64::try_from(event.count).unwrap();
    let minutes = if Random::new(event.dice).chance(50) { minutes } else { -minutes };
    set_clock(&file, minutes * 60);
    last(event).await;
    set_clock(&file, 0);
}
