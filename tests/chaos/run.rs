//! One schedule from beginning to end: set up, let clients write and faults strike, mend, wait until the queue has
//! settled, compare the books.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::books::{Books, Breach, Comparison, Finding, GivenUp, Row, Sent, compare};
use crate::clients::{App, Fate, Written};
use crate::faults::strike;
use crate::proxy;
use crate::sabotage::Sabotage;
use crate::schedule::{Schedule, What};
use crate::template::Stage;
use crate::world::World;

/// After the faults are over, how long the queue may take to come to rest.
const SETTLE_LIMIT: Duration = Duration::from_secs(600);
/// The same while nothing at all moves.
const STANDSTILL_LIMIT: Duration = Duration::from_secs(45);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// While it has not come to rest, how often that is said.
const SAY_PAUSE: Duration = Duration::from_secs(5);
/// How often a process is looked at.
const WATCH_PAUSE: Duration = Duration::from_millis(50);
const EPOCH_PAUSE: Duration = Duration::from_millis(20);
/// More than this no daemon may need.
const MOST_MEMORY_KB: u64 = 100_000;

/// What came of one schedule.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) comparison: Comparison,
    pub(crate) faults: BTreeMap<What, u64>,
    pub(crate) acknowledged: u64,
    pub(crate) in_doubt: u64,
    pub(crate) peak_kb: u64,
    /// Milliseconds from the kill of a leader to the next epoch, while nothing else was wrong.
    pub(crate) takeovers_ms: Vec<u64>,
    /// Milliseconds from PostgreSQL's return to the next message accepted, while nothing else was wrong.
    pub(crate) first_sends_ms: Vec<u64>,
    /// Milliseconds beyond the lease, from the pause or cut of a leader to the next epoch, while nothing else was wrong.
    pub(crate) beyond_lease_ms: Vec<i64>,
    pub(crate) copies_held: u64,
    /// Milliseconds from the death of a primary to the next message accepted, while nothing else was wrong.
    pub(crate) failovers_ms: Vec<u64>,
    pub(crate) settled_ms: u64,
    pub(crate) took: Duration,
}

/// Plays it. What is left for inspection goes into `directory`.
pub(crate) async fn play(
    schedule: Schedule,
    stage: &Arc<Stage>,
    directory: &Path,
    sabotage: Option<Sabotage>,
) -> Outcome {
    let begun = Instant::now();
    let world = World::new(schedule, stage, directory).await;
    world.say(&describe(&world.schedule));
    for slot in &world.slots {
        slot.borrow_mut().start();
    }
    let mut outcome = Outcome::default();
    let story = async {
        let clients = world.schedule.clients.iter().enumerate().map(async |(number, plan)| {
            let written = App::new(&world, number, plan).run().await;
            written.into_iter().map(|written| (number, written)).collect::<Vec<_>>()
        });
        let faults = world.schedule.events.iter().map(|event| strike(&world, event));
        let (book, _) = tokio::join!(join_all(clients), join_all(faults));
        let mut book = book.concat();
        let healed = Instant::now();
        mend(&world).await;
        settle(&world).await;
        outcome.settled_ms = ms(healed.elapsed());
        if let Some(sabotage) = sabotage {
            sabotage.strike(&world, &mut book).await;
        }
        let books = read_books(&world, book).await;
        keep(&world, &books).await;
        let fated = |fate| books.written.iter().filter(|(_, written)| written.fate == fate).count() as u64;
        outcome.acknowledged = fated(Fate::Acknowledged);
        outcome.in_doubt = fated(Fate::InDoubt);
        compare(&books)
    };
    tokio::select! {
        comparison = story => outcome.comparison = comparison,
        never = watch(&world) => match never {},
        never = follow_epochs(&world) => match never {},
        never = proxy::serve(&world) => match never {},
    }
    add_findings(&world, &mut outcome);
    outcome.faults = world.notes.faults.take();
    measure(&world, &mut outcome);
    outcome.took = begun.elapsed();
    outcome
}

fn describe(schedule: &Schedule) -> String {
    let families: Vec<&str> = schedule.families.iter().map(|family| family.name()).collect();
    let messages: u64 = schedule.clients.iter().map(|plan| plan.messages).sum();
    format!(
        "{} | {} events in {} ms, {messages} messages by {} clients | {:?}",
        families.join(" + "),
        schedule.events.len(),
        schedule.window_ms,
        schedule.clients.len(),
        schedule.site
    )
}

/// Keeps an eye on the processes, for ever.
async fn watch(world: &World) -> Infallible {
    loop {
        for slot in &world.slots {
            slot.borrow_mut().watch();
        }
        tokio::time::sleep(WATCH_PAUSE).await;
    }
}

/// Notes each new epoch, for ever.
async fn follow_epochs(world: &World) -> Infallible {
    let mut known = 0;
    let mut client: Option<Client> = None;
    loop {
        tokio::time::sleep(EPOCH_PAUSE).await;
        let Some(sql) = &client else {
            client = world.sql().await;
            continue;
        };
        let ask = sql.query_one("SELECT epoch FROM outboxd.leader", &[]);
        match tokio::time::timeout(Duration::from_secs(5), ask).await {
            Ok(Ok(row)) => {
                let epoch: i64 = row.get(0);
                if epoch != known {
                    known = epoch;
                    world.notes.epochs.borrow_mut().push((Instant::now(), epoch));
                }
            }
            _ => client = None,
        }
    }
}

/// Takes back what faults may have left, as people would: a gateway's script, processes that stand still or are away.
async fn mend(world: &World) {
    world.sim.control("DELETE", "script", None).await;
    world.sim.control("POST", "thaw", None).await;
    world.sim.control("POST", "up", None).await;
    world.sim.settings(&json!({"credits": {"balance": null}})).await;
    for slot in &world.slots {
        slot.borrow_mut().resume();
        slot.borrow_mut().start();
    }
    let mut cluster = world.cluster.lock().await;
    if cluster.has_ended() {
        cluster.run().await;
    }
}

/// Waits until nothing is due, nothing is under way, and every receipt has come. When that takes too long the books say
/// what is missing.
async fn settle(world: &World) {
    let begun = Instant::now();
    let mut last = String::new();
    let mut said = begun;
    let mut moved = begun;
    while begun.elapsed() < SETTLE_LIMIT && moved.elapsed() < STANDSTILL_LIMIT {
        resume_gateways(world).await;
        let Some(now) = unsettled(world).await else { return };
        if now != last {
            moved = Instant::now();
            last = now;
        }
        if said.elapsed() >= SAY_PAUSE {
            said = Instant::now();
            world.say(&format!("not settled yet: {last}"));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    world.say(&format!("gave up waiting after {:?}: {last}", begun.elapsed()));
}

/// A person resumes gateways that were stopped, which no daemon does by itself, and those that were told to wait for a
/// year.
async fn resume_gateways(world: &World) {
    let states = if world.notes.long_wait.get() { "'stopped', 'waiting'" } else { "'stopped'" };
    let resume = format!("SELECT sms.resume(name) FROM outboxd.gateway WHERE state IN ({states})");
    world.try_sql(&resume).await;
}

async fn unsettled(world: &World) -> Option<String> {
    let Some(sql) = world.sql().await else { return Some("PostgreSQL is away".to_owned()) };
    let ask = "SELECT count(*) FILTER (WHERE status = 'queued' AND NOT held AND send_after < now() + interval '1 minute'), \
               count(*) FILTER (WHERE status = 'unknown'), \
               (SELECT count(*) FROM outboxd.wave WHERE ids <> '{}') FROM sms.outbox";
    let Ok(row) = sql.query_one(ask, &[]).await else { return Some("PostgreSQL does not answer".to_owned()) };
    let [queued, unknown, waves]: [i64; 3] = [row.get(0), row.get(1), row.get(2)];
    let queued = if is_held_back(world, &sql).await { 0 } else { queued };
    // With `resend` what is unknown is still to be sent again.
    let unknown = if world.schedule.site.resend { unknown } else { 0 };
    let sim = world.sim.state().await;
    let busy = ["in_flight", "pending", "callbacks_waiting"].map(|name| sim[name].as_u64().unwrap());
    let rest = queued == 0 && unknown == 0 && waves == 0 && busy == [0, 0, 0];
    (!rest).then(|| format!("{queued} queued, {unknown} unknown, {waves} waves, gateway {busy:?}"))
}

fn has_moved_clock(world: &World) -> bool {
    world.schedule.events.iter().any(|event| event.what == What::DatabaseClock)
}

/// A primary whose clock was behind died, and every daemon that knew more: what was promoted looks like a restored backup,
/// and everything waits for a person, who would look at what was sent.
async fn is_held_back(world: &World, sql: &Client) -> bool {
    if !has_moved_clock(world) || world.notes.failovers.borrow().is_empty() {
        return false;
    }
    let ask = "SELECT held AND held_code = 'database_changed' FROM outboxd.leader";
    sql.query_one(ask, &[]).await.is_ok_and(|row| row.get::<_, Option<bool>>(0) == Some(true))
}

async fn read_books(world: &World, mut written: Vec<(usize, Written)>) -> Books {
    let commits_lost_since = world.notes.commits_lost_since.get();
    if let Some(since) = commits_lost_since {
        for (_, written) in &mut written {
            written.doubt_since(since);
        }
    }
    let sql = world.sql().await.expect("PostgreSQL is there after the faults");
    let held_back = is_held_back(world, &sql).await;
    // What is to be set aside after a failover is set aside when it comes up.
    let rows = sql
        .query(
            "SELECT o.id, coalesce(o.params ->> 'token', o.body), o.status, o.held OR c.to_be_set_aside, \
             o.send_after <= now(), o.attempts, o.gateway_ref, o.error, \
             o.error_code IS NOT DISTINCT FROM 'failover_uncertain' OR c.to_be_set_aside \
             FROM sms.outbox AS o, outboxd.leader AS l, LATERAL (SELECT (o.status = 'queued' \
             AND o.id <= l.uncertain_id AND o.created_at <= l.uncertain_before AND o.send_after <= l.uncertain_due) IS TRUE) AS c(to_be_set_aside)",
            &[],
        )
        .await
        .unwrap();
    let rows = rows
        .iter()
        .map(|row| Row {
            id: row.get(0),
            token: token_in(row.get(1)),
            status: row.get(2),
            held: row.get::<_, bool>(3) || held_back,
            set_aside: row.get::<_, bool>(8) || held_back,
            due: row.get(4),
            attempts: row.get(5),
            reference: row.get(6),
            error: row.get(7),
        })
        .collect();
    let given_up = "SELECT message_id, gateway_ref FROM outboxd.attempt WHERE note LIKE 'sent again%'";
    let given_up = sql.query(given_up, &[]).await.unwrap();
    let given_up = given_up.iter().map(|row| GivenUp { id: row.get(0), reference: row.get(1) }).collect();
    let waves = "SELECT w::text FROM outboxd.wave AS w WHERE ids <> '{}'";
    let open_waves = sql.query(waves, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    let epochs: i64 = sql.query_one("SELECT epoch FROM outboxd.leader", &[]).await.unwrap().get(0);
    let ledger = world.sim.control("GET", "ledger?limit=1000000", None).await;
    let sent = ledger["messages"].as_array().unwrap().iter().map(sent).collect();
    let state = world.sim.state().await;
    Books {
        written,
        rows,
        sent,
        given_up,
        open_waves,
        // What a receipt said can be lost with a primary, although it was answered.
        receipts_came: world.schedule.site.receipts
            && state["callbacks_waiting"] == 0
            && commits_lost_since.is_none(),
        callbacks_waiting: state["callbacks_waiting"].as_u64().unwrap(),
        commits_were_lost: commits_lost_since.is_some(),
        most_unknown: most_unknown(world, u64::try_from(epochs).unwrap(), state["faults"].as_u64().unwrap()),
    }
}

fn sent(message: &Value) -> Sent {
    let text = |name: &str| message[name].as_str().unwrap_or_default().to_owned();
    Sent {
        token: token_in(&text("text")),
        reference: text("notify_id"),
        stage: text("stage"),
        via: text("via"),
        accepted_at: text("accepted_at"),
    }
}

/// What stands between the first two `#` of a text, with them.
fn token_in(text: &str) -> String {
    let mut parts = text.splitn(3, '#');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(token), Some(_)) => format!("#{token}#"),
        _ => text.to_owned(),
    }
}

/// The most messages that may be unknown. Each loss of a leader costs what stood in waves, up to eight times the
/// concurrency of each gateway; so does each stop that was cut short. A gateway that went away costs what it had under way,
/// and what it took to notice. Each played fault of the script costs one message.
fn most_unknown(world: &World, epochs: u64, played: u64) -> u64 {
    const GATEWAYS: u64 = 2;
    const TO_NOTICE: u64 = 10;
    let concurrency = world.schedule.site.concurrency;
    let cut_off = (epochs + world.notes.stops.get()) * 8 * concurrency * GATEWAYS;
    let outages = world.notes.outages.get() * (concurrency + TO_NOTICE) * GATEWAYS;
    cut_off + outages + played
}

/// What a person needs to look into a finding.
async fn keep(world: &World, books: &Books) {
    let write = |name: &str, lines: Vec<String>| {
        std::fs::write(world.directory.join(name), lines.join("\n")).unwrap();
    };
    write("schedule.txt", vec![format!("{:#?}", world.schedule)]);
    write(
        "clients.txt",
        books.written.iter().map(|(client, written)| format!("{client} {written:?}")).collect(),
    );
    write("rows.txt", books.rows.iter().map(|row| format!("{row:?}")).collect());
    write("ledger.txt", books.sent.iter().map(|sent| format!("{sent:?}")).collect());
    write("given-up.txt", books.given_up.iter().map(|attempt| format!("{attempt:?}")).collect());
    if let Some(sql) = world.sql().await {
        for table in ["leader", "daemon", "wave", "attempt", "gateway", "alarm"] {
            let rows = sql.query(&format!("SELECT t::text FROM outboxd.{table} AS t"), &[]).await.unwrap();
            write(&format!("table-{table}.txt"), rows.iter().map(|row| row.get(0)).collect());
        }
    }
    if world.log_disk.is_some() {
        for slot in &world.slots {
            let text = std::fs::read(slot.borrow().log()).unwrap_or_default();
            let name = format!("daemon-{}.log", slot.borrow().number);
            write(&name, vec![String::from_utf8_lossy(&text).into_owned()]);
        }
    }
    write("postgres.log", vec![world.cluster.lock().await.log()]);
    write("gateway.json", vec![world.sim.state().await.to_string()]);
}

/// What was found elsewhere than in the books.
fn add_findings(world: &World, outcome: &mut Outcome) {
    let mut texts = world.notes.findings.take();
    for slot in &world.slots {
        let mut slot = slot.borrow_mut();
        texts.append(&mut slot.findings);
        texts.extend(slot.confessions());
        outcome.peak_kb = outcome.peak_kb.max(slot.peak_kb);
        if slot.peak_kb > MOST_MEMORY_KB {
            texts.push(format!("daemon {} needed {} kB of memory", slot.number, slot.peak_kb));
        }
    }
    outcome.comparison.findings.extend(texts.into_iter().map(|text| Finding { breach: Breach::Wrong, text }));
}

/// How quickly what was broken worked again. Only where a single fault was at work: two at once measure nothing.
fn measure(world: &World, outcome: &mut Outcome) {
    let spans = world.notes.spans.borrow();
    let alone = |from: Instant, to: Instant| {
        let touching = |(begun, ended): &&(Instant, Option<Instant>)| {
            *begun < to && ended.is_none_or(|ended| ended + Duration::from_secs(2) > from)
        };
        spans.iter().filter(touching).count() <= 1
    };
    for kill in world.notes.kills.borrow().iter() {
        let next = world.notes.epochs.borrow().iter().map(|(at, _)| *at).find(|at| at > kill);
        if let Some(next) = next.filter(|next| alone(*kill, *next)) {
            outcome.takeovers_ms.push(ms(next - *kill));
        }
    }
    let lease = i64::try_from(world.schedule.site.lease_ms).unwrap();
    for silence in world.notes.silences.borrow().iter() {
        let next = world.notes.epochs.borrow().iter().map(|(at, _)| *at).find(|at| at > silence);
        if let Some(next) = next.filter(|next| alone(*silence, *next)) {
            outcome.beyond_lease_ms.push(i64::try_from(ms(next - *silence)).unwrap() - lease);
        }
    }
    outcome.copies_held = world.notes.copies_held.get();
    for (death, first) in world.notes.failovers.borrow().iter() {
        if let Some(first) = first.filter(|first| alone(*death, *first)) {
            outcome.failovers_ms.push(ms(first - *death));
        }
    }
    for (back, first) in world.notes.first_sends.borrow().iter() {
        if let Some(first) = first.filter(|first| alone(*back, *first)) {
            outcome.first_sends_ms.push(ms(first - *back));
        }
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
