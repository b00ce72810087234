//! What the looks behind the watermark cost, and how soon they find a late row, by a clock of the test's own.
//!
//! The table holds dead index entries, a thousand for each second of the past, a million where nothing else is said: a page
//! costs by how many it must walk over.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use super::{at, plan, ready_at};
use crate::clock::Moment;
use crate::engine::plan::{PageEnd, Plan, Read, ReadKind};
use crate::message::{Lane, Position, RowVersion};

const DEAD: Duration = Duration::from_secs(1000);
/// The walk over the dead entries of one second.
const WALK: Duration = Duration::from_micros(200);
const ROUND_TRIP: Duration = Duration::from_micros(300);

struct Table {
    plan: Plan,
    now: Moment,
    /// With the moment of its commit.
    waiting: BTreeMap<Position, Moment>,
    /// Answers under way, each with the moment when it is there.
    reading: Vec<(Moment, Read, Vec<Position>)>,
    delays: Vec<Duration>,
    behind: Duration,
    /// How far back its dead entries go.
    dead: Duration,
    reads: usize,
}

impl Table {
    fn new(dead: Duration) -> Table {
        Table {
            plan: plan(2, 16, 2000),
            // Long enough after the start for a past to exist.
            now: at(2_000_000),
            waiting: BTreeMap::new(),
            reading: Vec::new(),
            delays: Vec::new(),
            behind: Duration::ZERO,
            dead,
            reads: 0,
        }
    }

    fn us(&self) -> i64 {
        i64::try_from(self.now.as_nanos() / 1000).unwrap()
    }

    fn cost(&self, read: &Read) -> Duration {
        let oldest = self.us() - i64::try_from(self.dead.as_micros()).unwrap();
        let from = read.after.send_after_us.max(oldest);
        let to = read.up_to.send_after_us.min(self.us());
        let walked = u64::try_from((to - from).max(0)).unwrap();
        ROUND_TRIP + WALK.mul_f64(Duration::from_micros(walked).as_secs_f64())
    }

    fn commit(&mut self, age: Duration, id: i64) {
        let send_after_us = self.us() - i64::try_from(age.as_micros()).unwrap();
        let position = Position { send_after_us, id: crate::message::MessageId(id) };
        self.waiting.insert(position, self.now);
    }

    fn step(&mut self) {
        self.now = self.now + Duration::from_micros(500);
        let (back, still) =
            std::mem::take(&mut self.reading).into_iter().partition(|(at, ..)| *at <= self.now);
        self.reading = still;
        for (_, read, rows) in back {
            self.take_in(&read, rows);
        }
        while let Some(read) = self.plan.next_read(Lane::Normal, self.now) {
            let span = (Bound::Excluded(read.after), Bound::Included(read.up_to));
            let rows = self.waiting.range(span).map(|(position, _)| *position).take(read.limit).collect();
            let cost = self.cost(&read);
            if matches!(read.kind, ReadKind::Behind(_) | ReadKind::Whole) {
                self.behind += cost;
            }
            self.reads += 1;
            self.reading.push((self.now + cost, read, rows));
        }
    }

    fn take_in(&mut self, read: &Read, rows: Vec<Position>) {
        let page =
            PageEnd { last: rows.last().copied(), full: rows.len() >= read.limit, cost: self.cost(read) };
        if !rows.is_empty() {
            self.plan.set_database_time(self.us(), self.now);
        }
        for position in rows {
            if self.plan.is_known(position.id, RowVersion(1)) {
                continue;
            }
            self.plan.offer(gateway_of(position), ready_at(read.lane, position, RowVersion(1)));
            if gateway_of(position) == 0
                && let Some(committed) = self.waiting.remove(&position)
            {
                self.delays.push(self.now.since(committed));
                // Sent, recorded, gone.
                for taken in self.plan.take_for_wave(0, 16, None) {
                    self.plan.recorded(taken.id, None);
                }
            }
        }
        self.plan.page_read(read, page, self.now);
    }

    /// Wakes it every few milliseconds, as a busy table does, and lets rows come late, up to `oldest`.
    fn run(&mut self, length: Duration, oldest: Duration) {
        let end = self.now + length;
        let mut n: u32 = 0;
        while self.now < end {
            if n.is_multiple_of(6) {
                self.plan.wake();
            }
            if n.is_multiple_of(50) {
                // Spread evenly, without a pattern.
                let age =
                    oldest.mul_f64(f64::from(n.wrapping_mul(2_654_435_761) >> 8) / f64::from(u32::MAX >> 8));
                self.commit(age, i64::from(n));
            }
            self.step();
            n += 1;
        }
    }
}

/// Negative ids belong to a gateway of their own.
fn gateway_of(position: Position) -> usize {
    usize::from(position.id.0 < 0)
}

#[test]
fn with_a_million_dead_entries_late_rows_are_found_within_50_ms_at_a_bounded_share_of_time() {
    let mut table = Table::new(DEAD);
    // It learns what a look costs.
    table.run(Duration::from_secs(10), Duration::from_millis(1));
    table.delays.clear();
    table.behind = Duration::ZERO;
    let begun = table.now;
    table.run(Duration::from_secs(60), Duration::from_secs(7));
    assert!(table.delays.len() > 2000, "{} found", table.delays.len());
    let longest = table.delays.iter().max().unwrap();
    assert!(*longest <= Duration::from_millis(50), "{longest:?}");
    let share = table.behind.as_secs_f64() / table.now.since(begun).as_secs_f64();
    assert!(share <= 0.3, "{share}");
    assert!(share > 0.05, "nothing looked far back: {share}");
}

#[test]
fn with_a_million_dead_entries_very_late_rows_are_found_by_and_by() {
    let mut table = Table::new(DEAD);
    table.run(Duration::from_secs(10), Duration::from_millis(1));
    table.delays.clear();
    table.commit(Duration::from_secs(900), 1_000_000_000);
    table.run(Duration::from_secs(10), Duration::from_millis(1));
    assert!(table.waiting.keys().all(|position| position.id.0 != 1_000_000_000));
}

#[test]
fn once_the_dead_entries_are_gone_it_reads_from_the_start_again() {
    let mut table = Table::new(DEAD);
    table.run(Duration::from_secs(10), Duration::from_millis(1));
    table.dead = Duration::ZERO;
    table.run(Duration::from_secs(10), Duration::from_millis(1));
    table.delays.clear();
    table.run(Duration::from_secs(10), Duration::from_secs(900));
    let longest = table.delays.iter().max().unwrap();
    assert!(*longest <= Duration::from_millis(20), "{longest:?}");
}

#[test]
fn after_a_drain_new_rows_do_not_wait_for_the_walk_from_the_start() {
    // A read from the start takes 1.1 ms: still cheap.
    let mut table = Table::new(Duration::from_secs(4));
    table.run(Duration::from_secs(10), Duration::from_millis(1));
    let reads = table.reads;
    for n in 0..100 {
        table.delays.clear();
        // Every fifth one is late.
        let age = Duration::from_secs(if n % 5 == 4 { 900 } else { 0 });
        table.commit(age, 1_000_000_000 + n);
        table.plan.wake();
        for _ in 0..200 {
            table.step();
        }
        let [delay] = table.delays[..] else { panic!("found {:?}", table.delays) };
        let most = Duration::from_micros(if age.is_zero() { 1_000 } else { 15_000 });
        assert!(delay <= most, "{delay:?} for one that came {age:?} late");
    }
    assert!(table.reads - reads <= 2 * 100, "{} reads for 100 rows", table.reads - reads);
}

/// They name no gateway, so that no statement can leave them out.
#[test]
fn many_rows_of_a_closed_gateway_neither_delay_others_nor_are_walked_without_rest() {
    let mut table = Table::new(Duration::ZERO);
    table.plan.close(1);
    for n in 1..=20_000 {
        table.commit(Duration::from_secs(1000) - Duration::from_millis(u64::try_from(n).unwrap() / 100), -n);
    }
    // The first walk, on to the end.
    table.run(Duration::from_secs(2), Duration::from_millis(1));
    table.delays.clear();
    table.behind = Duration::ZERO;
    let begun = table.now;
    table.run(Duration::from_secs(4), Duration::from_secs(7));
    let longest = table.delays.iter().max().unwrap();
    assert!(*longest <= Duration::from_millis(50), "{longest:?}");
    let share = table.behind.as_secs_f64() / table.now.since(begun).as_secs_f64();
    assert!(share <= 0.3, "{share}");
    assert_eq!(table.plan.held(), 0, "rows of a closed gateway are not held");
}
