//! Anomaly loops, as SQLite's authors do it: one small scenario with everything in it is played again and again, and
//! each time another call fails: the first, the second, the third … until a run is not touched any more. First the calls
//! of the database, then the requests to the gateway; for each kind of failure. After each run the three books must
//! agree, and the daemon must have recovered by itself.
//!
//! A run has some 900 calls of the database, and most of them are the same look at the table. So a run of all tests takes
//! a part: of the statements that everything hangs on, the first call and some later one; of the others, their preparing
//! included, one in three. The seed of the choice is printed; `OUTBOXD_ANOMALY_SEED=<seed>` makes the same choice again.
//! `OUTBOXD_ANOMALY=all` takes every call, which takes some ten minutes a kind of failure:
//! `OUTBOXD_ANOMALY=all tests/with-postgres cargo test --test it anomaly -- --nocapture --test-threads 1`.

mod scenario;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::wire::{Call, Calls, Cut, Fault, Kind};
use scenario::{Run, Stage, Trouble};

/// Runs side by side: they wait most of the time.
const STAGES: usize = 4;
/// Of these statements the first call always fails in one of the runs: what is in doubt about them must be settled.
const CARDINAL: [&str; 7] =
    ["leader_take", "mark_unknown", "commit(delete_old_waves)", "wave", "record", "receipts", "register"];
/// After so many failures a loop has told enough.
const ENOUGH: usize = 5;
/// The daemon's time limit for a statement is 1 s: this is beyond it, and within the loop's patience.
const TOO_LATE: Duration = Duration::from_millis(1500);

fn every_call() -> bool {
    std::env::var("OUTBOXD_ANOMALY").is_ok_and(|value| value == "all")
}

/// Numbers that look random and come again with the same seed.
struct Choice(u64);

impl Choice {
    fn new() -> Choice {
        let given = std::env::var("OUTBOXD_ANOMALY_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| outboxd::engine::lead::random_bits() >> 32);
        eprintln!("OUTBOXD_ANOMALY_SEED={seed}");
        Choice(seed)
    }

    /// From 1 up to `most`.
    fn up_to(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % most + 1
    }
}

/// What a loop plays next; `None`: it is through.
trait Plan {
    fn next(&mut self, untouched: bool) -> Option<Trouble>;
}

/// A given list.
struct Listed(std::vec::IntoIter<Trouble>);

impl Plan for Listed {
    fn next(&mut self, _untouched: bool) -> Option<Trouble> {
        self.0.next()
    }
}

/// The n-th, n = 1, 2, 3 … until a run is not touched.
struct Counting<F: FnMut(usize) -> Trouble> {
    n: usize,
    trouble: F,
}

impl<F: FnMut(usize) -> Trouble> Plan for Counting<F> {
    fn next(&mut self, untouched: bool) -> Option<Trouble> {
        if untouched {
            return None;
        }
        self.n += 1;
        Some((self.trouble)(self.n))
    }
}

#[derive(Debug, Default)]
struct Tally {
    runs: usize,
    touched: usize,
    unknown: usize,
    wrong: Vec<String>,
    /// A run was not touched: there are no more calls.
    through: bool,
}

impl Tally {
    fn take(&mut self, outcome: Result<Run, String>) {
        self.runs += 1;
        match outcome {
            Ok(run) => {
                self.touched += usize::from(run.touched);
                self.unknown += run.unknown;
                self.through |= !run.touched;
            }
            Err(what) => self.wrong.push(what),
        }
    }
}

/// Plays everything that is planned, on several stages at once.
async fn play_all(hint: &str, plan: impl Plan) -> Tally {
    let plan = Mutex::new(plan);
    let tally = Mutex::new(Tally::default());
    let stages = (0..STAGES).map(|_| async {
        let mut stage = Stage::new(hint).await;
        loop {
            let next = {
                let tally = tally.lock().unwrap();
                if tally.wrong.len() >= ENOUGH {
                    break;
                }
                plan.lock().unwrap().next(tally.through)
            };
            let Some(trouble) = next else { break };
            let outcome = stage.play(&trouble).await;
            tally.lock().unwrap().take(outcome);
        }
    });
    futures_util::future::join_all(stages).await;
    let tally = tally.into_inner().unwrap();
    let Tally { runs, touched, unknown, wrong, .. } = &tally;
    eprintln!("{hint}: {runs} runs, {touched} touched, {unknown} rows unknown, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{} of {runs} runs went wrong:\n{}", wrong.len(), wrong.join("\n\n"));
    tally
}

/// Of each statement the first call and a later one, as far as they are chosen.
fn some_calls(seen: &[Call], fault: Fault) -> Vec<Trouble> {
    let mut counts: BTreeMap<(&str, &str), (Kind, usize)> = BTreeMap::new();
    for call in seen {
        let kind = match call.kind {
            Kind::Connect => "connect",
            Kind::Prepare => "prepare",
            Kind::Run => "run",
        };
        counts.entry((kind, &call.name)).or_insert((call.kind, 0)).1 += 1;
    }
    let mut choice = Choice::new();
    let mut troubles = Vec::new();
    for ((_, name), (kind, count)) in counts {
        let mut chosen = vec![1, choice.up_to(count)];
        chosen.dedup();
        let cardinal = kind == Kind::Run && CARDINAL.contains(&name);
        chosen.retain(|_| cardinal || choice.up_to(3) == 1);
        let calls = chosen.into_iter().map(|n| Calls::named(kind, name).nth(n));
        troubles.extend(calls.map(|calls| Trouble::Database(calls, fault)));
    }
    troubles
}

async fn whatever_database_call_meets(hint: &str, fault: Fault) {
    if every_call() {
        play_all(hint, Counting { n: 0, trouble: |n| Trouble::Database(Calls::any().nth(n), fault) }).await;
        return;
    }
    let untouched = Stage::new(hint).await.play(&Trouble::None).await.unwrap_or_else(|what| panic!("{what}"));
    let troubles = some_calls(&untouched.seen, fault);
    let planned = troubles.len();
    let tally = play_all(hint, Listed(troubles.into_iter())).await;
    // A later call need not come in every run, the first of each does.
    assert!(tally.touched * 2 > planned, "{} of {planned} runs were touched", tally.touched);
}

#[tokio::test]
async fn whatever_database_call_is_cut_off_before_the_server_hears_of_it_the_books_agree() {
    whatever_database_call_meets("cut_before", Fault::CutBefore(Cut::Reset)).await;
}

#[tokio::test]
async fn whatever_database_call_is_cut_off_after_the_server_did_it_the_books_agree() {
    whatever_database_call_meets("cut_after", Fault::CutAfter(Cut::Close)).await;
}

#[tokio::test]
async fn whatever_database_call_is_refused_for_a_full_disk_the_books_agree() {
    whatever_database_call_meets("disk_full", Fault::Refuse("53100")).await;
}

#[tokio::test]
async fn whatever_database_call_is_refused_as_a_deadlock_the_books_agree() {
    whatever_database_call_meets("deadlock", Fault::Refuse("40P01")).await;
}

#[tokio::test]
async fn whatever_database_call_meets_a_shutdown_the_books_agree() {
    whatever_database_call_meets("shutdown", Fault::Refuse("57P01")).await;
}

#[tokio::test]
async fn whatever_database_call_is_never_answered_the_books_agree() {
    whatever_database_call_meets("silence", Fault::Silence).await;
}

#[tokio::test]
async fn whatever_database_call_is_done_and_never_answered_the_books_agree() {
    whatever_database_call_meets("silence_after", Fault::SilenceAfter).await;
}

#[tokio::test]
async fn whatever_database_call_reaches_the_server_after_it_was_given_up_the_books_agree() {
    whatever_database_call_meets("late", Fault::Late(TOO_LATE)).await;
}

/// What can befall a request, in the words of the simulator's script.
fn faults_of_the_gateway() -> Vec<Value> {
    vec![
        json!({"drop": {"accept": false, "reset": true}}),
        json!({"drop": {"accept": true, "reset": true}}),
        json!({"drop": {"accept": true}}),
        json!({"hang": {"accept": false}}),
        json!({"hang": {"accept": true}}),
        json!({"truncate": {}}),
        json!({"truncate": {"keep": 20}}),
        json!({"page": {"status": 502, "accept": false}}),
        json!({"page": {"status": 502, "accept": true}}),
        json!({"empty": {"status": 500, "accept": true}}),
        json!({"answer": {"status": 429, "headers": {"Retry-After": "0"}}}),
        json!({"expire-tokens": {}}),
        json!({"close-after": {}}),
        json!({"late": {"ms": 1500}}),
    ]
}

#[tokio::test]
async fn whatever_request_to_the_gateway_fails_the_books_agree() {
    let untouched =
        Stage::new("requests").await.play(&Trouble::None).await.unwrap_or_else(|what| panic!("{what}"));
    let requests = usize::try_from(untouched.requests).unwrap();
    let rule = |fault: &Value, n: usize| Trouble::Gateway(json!({"do": fault, "on": "any", "skip": n - 1}));
    if every_call() {
        for fault in faults_of_the_gateway() {
            eprintln!("{fault}");
            play_all("requests", Counting { n: 0, trouble: |n| rule(&fault, n) }).await;
        }
        return;
    }
    let mut choice = Choice::new();
    let mut troubles = Vec::new();
    for fault in faults_of_the_gateway() {
        // The first request is the log-in.
        for n in [1, 1 + choice.up_to(requests - 1)] {
            troubles.push(rule(&fault, n));
        }
    }
    let planned = troubles.len();
    let tally = play_all("requests", Listed(troubles.into_iter())).await;
    assert!(tally.touched * 2 > planned, "{} of {planned} runs were touched", tally.touched);
}
