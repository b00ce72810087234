//! Copies of the database that wake up beside the original, each with a daemon that has the same gateway: what a staging
//! system is, and what a restored backup is. In a copy what was sent lately is still queued, so its daemon must send
//! nothing until a person has looked.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::daemons::Slot;
use crate::faults::last;
use crate::schedule::{Event, What};
use crate::support::cluster::Cluster;
use crate::support::port::free_port;
use crate::template::{DAEMON, DATABASE};
use crate::world::{World, config};

/// How long the copy's daemon may take to find out where it is.
const LEAD_LIMIT: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Slots of copies have numbers of their own.
const FIRST_NUMBER: usize = 10;

pub(super) async fn strike(world: &World, event: &Event) {
    let copy = match event.what {
        What::Clone => clone(world).await,
        What::Restored => restore(world).await,
        other => unreachable!("{other:?} makes no copy"),
    };
    let Some(copy) = copy else { return };
    let socket = copy.socket().to_str().unwrap().replace('/', "%2F");
    let url = format!("postgresql://{DAEMON}@{socket}:{}/{DATABASE}", copy.port());
    let text = config(&world.schedule, world.sim.address("gateway"), &url, free_port());
    let number = FIRST_NUMBER + world.notes.copies.replace(world.notes.copies.get() + 1);
    let before = epoch_and_hold(&copy).await;
    let mut slot = Slot::new(number, &world.directory, &text);
    slot.start();
    let begun = Instant::now();
    let mut after = before.clone();
    while after.0 == before.0 && begun.elapsed() < LEAD_LIMIT {
        tokio::time::sleep(LOOK_AGAIN).await;
        after = epoch_and_hold(&copy).await;
    }
    last(event).await;
    let (epoch, held) = epoch_and_hold(&copy).await;
    slot.watch();
    slot.kill();
    let kind = event.what.kind().name;
    if epoch == before.0 {
        world.find(format!("{kind}: the copy's daemon did not lead within {LEAD_LIMIT:?}"));
    } else if held.as_deref() != Some("database_changed") {
        world.find(format!("{kind}: the copy's daemon is not held: {held:?}"));
    } else {
        world.notes.copies_held.set(world.notes.copies_held.get() + 1);
    }
    let confessions = slot.confessions();
    for finding in slot.findings.drain(..).chain(confessions) {
        world.find(finding);
    }
}

async fn epoch_and_hold(copy: &Cluster) -> (i64, Option<String>) {
    let sql = copy.client(DATABASE).await;
    let ask = "SELECT epoch, CASE WHEN held THEN held_code END FROM outboxd.leader";
    let row = sql.query_one(ask, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

/// The database as it is now, in a cluster of another identity. Nothing while PostgreSQL is away. (Everything of this
/// schedule but its processes stands still meanwhile, which takes about a second.)
async fn clone(world: &World) -> Option<Cluster> {
    let mut stranger = world.stranger.lock().await.take()?;
    stranger.run().await;
    let original = world.cluster.lock().await;
    let dump = program("pg_dump", &original)
        .args(["--lock-wait-timeout=3000", DATABASE])
        .stdout(Stdio::piped())
        .spawn();
    let mut dump = dump.expect("pg_dump can be started");
    let load = program("psql", &stranger)
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", DATABASE])
        .stdin(dump.stdout.take().unwrap())
        .stdout(Stdio::null())
        .status()
        .expect("psql can be started");
    let dumped = dump.wait().unwrap().success();
    (dumped && load.success()).then_some(stranger)
}

/// A base backup of now, restored to a timeline of its own. Nobody has shown a sign of life in it for an hour.
async fn restore(world: &World) -> Option<Cluster> {
    let mut copy = {
        let original = world.cluster.lock().await;
        original.try_backup().ok()?
    };
    copy.recover_to_a_new_timeline();
    // It would wait for a replica that it does not have.
    copy.configure("synchronous_standby_names = ''");
    copy.run().await;
    let sql = copy.client(DATABASE).await;
    sql.batch_execute("UPDATE outboxd.daemon SET seen_at = seen_at - interval '1 hour'").await.unwrap();
    Some(copy)
}

/// One of PostgreSQL's own programs, for this cluster.
fn program(name: &str, cluster: &Cluster) -> Command {
    let directory = std::env::var("OUTBOXD_TEST_PG_BIN").expect("set when we started ourselves again");
    let mut command = Command::new(format!("{directory}/{name}"));
    command
        .arg("-h")
        .arg(cluster.socket())
        .arg("-p")
        .arg(cluster.port().to_string())
        .args(["-U", "postgres"]);
    command.stderr(Stdio::null());
    command
}
