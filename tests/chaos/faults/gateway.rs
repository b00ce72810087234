//! A gateway that throttles, fails, lies, answers slowly or not at all, or is away: played by the simulator.

use std::time::Duration;

use serde_json::{Value, json};

use crate::faults::last;
use crate::random::Random;
use crate::schedule::{Event, What};
use crate::world::World;

pub(super) async fn strike(world: &World, event: &Event) {
    let mut random = Random::new(event.dice);
    match event.what {
        What::ThrottleSeconds => throttle(world, event, &json!({"Retry-After": "1"})).await,
        What::ThrottleDate => throttle(world, event, &json!({"Retry-After": in_two_seconds()})).await,
        What::ThrottleNonsense => {
            let nonsense =
                random.pick(&["soon", "-5", "1e9", "", "99999999999999999999999", "Wed, 99 Foo 2025"]);
            world.notes.long_wait.set(true);
            throttle(world, event, &json!({"Retry-After": nonsense})).await;
        }
        What::ThrottleYear => {
            world.notes.long_wait.set(true);
            throttle(world, event, &json!({"Retry-After": "31536000"})).await;
        }
        What::FailAfterAccepting => {
            let body = random.pick(&["", "{\"success\": false, \"message\": \"Internal error\"}", "oops"]);
            let act = json!({"answer": {"status": 500, "body": body, "accept": true}});
            rule(world, event, &act).await;
        }
        What::ResetBefore => rule(world, event, &json!({"drop": {"accept": false, "reset": true}})).await,
        What::ResetAfter => rule(world, event, &json!({"drop": {"accept": true, "reset": true}})).await,
        What::DropAfter => rule(world, event, &json!({"drop": {"accept": true, "reset": false}})).await,
        What::SlowBody => rule(world, event, &json!({"drip": {"ms": event.lasts_ms, "bytes": 1}})).await,
        What::SlowAnswer => rule(world, event, &json!({"late": {"ms": event.lasts_ms}})).await,
        What::NoAnswer => rule(world, event, &json!({"hang": {"accept": random.chance(50)}})).await,
        What::Page => {
            let status = random.pick(&[200, 502, 503]);
            rule(world, event, &json!({"page": {"status": status, "accept": random.chance(50)}})).await;
        }
        What::Truncate => rule(world, event, &json!({"truncate": {}})).await,
        What::ExpireTokens => {
            for _ in 0..event.count {
                world.sim.control("POST", "expire-tokens", None).await;
                last(event).await;
            }
        }
        What::NoCredits => {
            world.sim.control("POST", "credits", Some(&json!({"balance": random.between(0, 20)}))).await;
            last(event).await;
            world.sim.control("POST", "credits", Some(&json!({"balance": null}))).await;
        }
        What::CloseAfter => rule(world, event, &json!({"close-after": {}})).await,
        What::Down => {
            world.note_outage();
            world.sim.control("POST", "down", None).await;
            last(event).await;
            world.sim.control("POST", "up", None).await;
        }
        What::Freeze => {
            world.note_outage();
            world.sim.control("POST", "freeze", None).await;
            last(event).await;
            let thaw = if random.chance(30) { "thaw?discard=1" } else { "thaw" };
            world.sim.control("POST", thaw, None).await;
        }
        What::Receipts => receipts(world, event).await,
        other => unreachable!("{other:?} is no fault of a gateway"),
    }
}

/// The next requests to send meet this. What nobody came to meet is taken back at the end of the schedule.
async fn rule(world: &World, event: &Event, act: &Value) {
    world.sim.script(&json!({"do": act, "times": event.count})).await;
}

async fn throttle(world: &World, event: &Event, headers: &Value) {
    rule(world, event, &json!({"answer": {"status": 429, "headers": headers}})).await;
}

async fn receipts(world: &World, event: &Event) {
    let strange = json!({"delay_ms": 50, "jitter_ms": 400, "copies": 1, "reverse": 20});
    world.sim.settings(&json!({"callbacks": {"receipts": strange}})).await;
    last(event).await;
    let usual = json!({"delay_ms": 0, "jitter_ms": 0, "copies": 0, "reverse": 0});
    world.sim.settings(&json!({"callbacks": {"receipts": usual}})).await;
}

fn in_two_seconds() -> String {
    let then = jiff::Timestamp::now() + Duration::from_secs(2);
    then.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}
