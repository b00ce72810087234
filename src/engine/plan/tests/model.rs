//! Random histories of a table that changes while it is read. Everything that changes rings once, at its commit; there
//! is no poll. So whatever is not found in the end was lost.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};

use super::{place, plan, ready_at};
use crate::clock::Moment;
use crate::engine::plan::{GatewayIndex, MOST_SET_ASIDE, PageEnd, Plan, Read, ReadKind, Ready};
use crate::message::{Lane, MessageId, Position, RowVersion};

const GATEWAYS: usize = 3;
const LIMIT: usize = 5;
const LOOKAHEAD: usize = 10;

#[derive(Debug, Clone)]
struct Row {
    id: i64,
    lane: Lane,
    send_after_us: i64,
    gateway: GatewayIndex,
    /// It says so itself; otherwise it was routed.
    names_gateway: bool,
    poison: bool,
    version: u32,
    committed: bool,
    queued: bool,
}

impl Row {
    fn position(&self) -> Position {
        place(self.send_after_us, self.id)
    }
}

#[derive(Debug, Clone, Copy)]
enum Op {
    /// Begins a transaction with this many rows, each so many milliseconds from now due.
    Insert {
        rows: usize,
        lane: Lane,
        due_in: i64,
        gateway: GatewayIndex,
        names: bool,
        poison: bool,
    },
    /// The n-th open row is committed.
    Commit(usize),
    CommitAll,
    Edit {
        row: usize,
        lane: Lane,
        move_by: i64,
    },
    Cancel(usize),
    /// The n-th read sees the table; it comes back later.
    See(usize),
    ReadComesBack(usize),
    ReadFails(usize),
    Wave(GatewayIndex),
    WaveComes {
        wave: usize,
        fails: bool,
    },
    Answer {
        flight: usize,
        accepted: bool,
    },
    Record(usize),
    Close(GatewayIndex),
    Open(GatewayIndex),
    StartOver,
    Wait(u64),
}

fn lanes() -> impl Strategy<Value = Lane> {
    prop_oneof![Just(Lane::Normal), Just(Lane::Normal), Just(Lane::Urgent), Just(Lane::Bulk)]
}

fn ops() -> impl Strategy<Value = Op> {
    let index = 0..1000_usize;
    let insert = (1..9_usize, lanes(), -20..20_i64, 0..GATEWAYS, any::<bool>(), 0..8_u8).prop_map(
        |(rows, lane, due_in, gateway, names, poison)| Op::Insert {
            rows,
            lane,
            due_in,
            gateway,
            names,
            poison: poison == 0,
        },
    );
    prop_oneof![
        4 => insert,
        3 => index.clone().prop_map(Op::Commit),
        2 => Just(Op::CommitAll),
        2 => (index.clone(), lanes(), -30..30_i64).prop_map(|(row, lane, move_by)| Op::Edit { row, lane, move_by }),
        1 => index.clone().prop_map(Op::Cancel),
        6 => index.clone().prop_map(Op::See),
        6 => index.clone().prop_map(Op::ReadComesBack),
        1 => index.clone().prop_map(Op::ReadFails),
        5 => (0..GATEWAYS).prop_map(Op::Wave),
        5 => (index.clone(), 0..4_u8).prop_map(|(wave, fails)| Op::WaveComes { wave, fails: fails == 0 }),
        5 => (index.clone(), any::<bool>()).prop_map(|(flight, accepted)| Op::Answer { flight, accepted }),
        5 => index.prop_map(Op::Record),
        1 => (0..GATEWAYS).prop_map(Op::Close),
        1 => (0..GATEWAYS).prop_map(Op::Open),
        1 => Just(Op::StartOver),
        3 => (1..60_u64).prop_map(Op::Wait),
    ]
}

#[derive(Debug)]
struct Reading {
    read: Read,
    seen: Option<Vec<Row>>,
}

#[derive(Debug)]
struct Flight {
    id: MessageId,
    position: Position,
}

/// A result on its way into the table.
#[derive(Debug)]
struct Result {
    id: MessageId,
    position: Position,
    /// `None`: of an attempt. Otherwise a judgement about this version.
    judged: Option<RowVersion>,
    ends: bool,
}

#[derive(Debug)]
struct Model {
    plan: Plan,
    now: Moment,
    cost: Duration,
    rows: Vec<Row>,
    open: [bool; GATEWAYS],
    readings: Vec<Reading>,
    waves: Vec<(GatewayIndex, Vec<Ready>)>,
    flights: Vec<Flight>,
    results: Vec<Result>,
    offered: HashSet<MessageId>,
    sent: HashMap<(MessageId, u32), usize>,
    reads: usize,
}

impl Model {
    fn new(cost: Duration) -> Model {
        Model {
            plan: plan(GATEWAYS, LIMIT, LOOKAHEAD),
            now: Moment::ZERO + Duration::from_secs(1000),
            cost,
            rows: Vec::new(),
            open: [true; GATEWAYS],
            readings: Vec::new(),
            waves: Vec::new(),
            flights: Vec::new(),
            results: Vec::new(),
            offered: HashSet::new(),
            sent: HashMap::new(),
            reads: 0,
        }
    }

    fn us(&self) -> i64 {
        i64::try_from(self.now.as_nanos() / 1000).unwrap()
    }

    fn act(&mut self, op: &Op) {
        match *op {
            Op::Insert { rows, lane, due_in, gateway, names, poison } => {
                for _ in 0..rows {
                    let row = Row {
                        id: i64::try_from(self.rows.len()).unwrap(),
                        lane,
                        // Rows of one transaction have the same time.
                        send_after_us: self.us() + due_in * 1000,
                        gateway,
                        names_gateway: names,
                        poison,
                        version: 1,
                        committed: false,
                        queued: true,
                    };
                    self.rows.push(row);
                }
            }
            Op::Commit(n) => {
                let mut open: Vec<&mut Row> = self.rows.iter_mut().filter(|row| !row.committed).collect();
                if !open.is_empty() {
                    let n = n % open.len();
                    open[n].committed = true;
                    self.plan.wake();
                }
            }
            Op::CommitAll => {
                self.rows.iter_mut().for_each(|row| row.committed = true);
                self.plan.wake();
            }
            Op::Edit { row, lane, move_by } => {
                if let Some(row) = self.pick_row(row) {
                    row.lane = lane;
                    row.send_after_us += move_by * 1000;
                    row.version += 1;
                    self.plan.wake();
                }
            }
            Op::Cancel(n) => {
                if let Some(row) = self.pick_row(n) {
                    row.queued = false;
                    row.version += 1;
                }
            }
            Op::See(n) => self.see(n),
            Op::ReadComesBack(n) => self.read_comes_back(n),
            Op::ReadFails(n) => {
                if !self.readings.is_empty() {
                    let reading = self.readings.swap_remove(n % self.readings.len());
                    self.plan.read_failed(&reading.read);
                }
            }
            Op::Wave(gateway) => self.begin_wave(gateway),
            Op::WaveComes { wave, fails } => self.wave_comes(wave, fails),
            Op::Answer { flight, accepted } => {
                if !self.flights.is_empty() {
                    let flight = self.flights.swap_remove(flight % self.flights.len());
                    let Flight { id, position } = flight;
                    self.results.push(Result { id, position, judged: None, ends: accepted });
                }
            }
            Op::Record(n) => self.record(n),
            Op::Close(gateway) => {
                self.open[gateway] = false;
                self.plan.close(gateway);
                let plan = &self.plan;
                self.offered.retain(|id| plan.gateway_of(*id).is_some() || plan.known.contains_key(id));
            }
            Op::Open(gateway) => self.open(gateway),
            Op::StartOver => {
                self.plan.start_over();
                self.plan.wake();
                let plan = &self.plan;
                self.offered.retain(|id| plan.known.contains_key(id));
            }
            Op::Wait(millis) => self.pass(Duration::from_millis(millis)),
        }
        self.read_on();
        self.check_bounds();
    }

    /// What the schedule's timer does: a row that becomes due wakes.
    fn pass(&mut self, length: Duration) {
        let before = self.us();
        self.now = self.now + length;
        let now = self.us();
        if self.rows.iter().any(|row| row.queued && row.send_after_us > before && row.send_after_us <= now) {
            self.plan.wake();
        }
    }

    fn open(&mut self, gateway: GatewayIndex) {
        if !self.open[gateway] {
            self.open[gateway] = true;
            self.plan.open(gateway);
            self.plan.wake();
        }
    }

    fn pick_row(&mut self, n: usize) -> Option<&mut Row> {
        let mut rows: Vec<&mut Row> =
            self.rows.iter_mut().filter(|row| row.committed && row.queued).collect();
        let n = n % rows.len().max(1);
        (!rows.is_empty()).then(|| rows.swap_remove(n))
    }

    fn read_on(&mut self) {
        for lane in Lane::ALL {
            while let Some(read) = self.plan.next_read(lane, self.now) {
                assert_eq!(read.lane, lane);
                assert!(read.limit > 0 && read.after <= read.up_to, "{read:?}");
                self.reads += 1;
                self.readings.push(Reading { read, seen: None });
            }
            let near_and_far = self.readings.iter().filter(|reading| reading.read.lane == lane).count();
            assert!(near_and_far <= 2);
        }
        assert!(self.readings.iter().filter(|reading| reading.read.is_far()).count() <= 1);
    }

    /// As `sql/native/discover.sql`.
    fn answer(&self, read: &Read) -> Vec<Row> {
        let now = self.us();
        let left_out =
            |row: &Row| row.names_gateway && read.without_gateways.contains(&format!("g{}", row.gateway));
        let mut rows: Vec<Row> = self
            .rows
            .iter()
            .filter(|row| row.committed && row.queued && row.lane == read.lane)
            .filter(|row| row.position() > read.after && row.position() <= read.up_to)
            .filter(|row| row.send_after_us <= now && !left_out(row))
            .cloned()
            .collect();
        rows.sort_by_key(Row::position);
        rows.truncate(read.limit);
        rows
    }

    fn see(&mut self, n: usize) {
        if self.readings.is_empty() {
            return;
        }
        let n = n % self.readings.len();
        if self.readings[n].seen.is_none() {
            self.readings[n].seen = Some(self.answer(&self.readings[n].read));
        }
    }

    fn read_comes_back(&mut self, n: usize) {
        if self.readings.is_empty() {
            return;
        }
        let n = n % self.readings.len();
        self.see(n);
        let Reading { read, seen } = self.readings.swap_remove(n);
        let rows = seen.unwrap();
        let page = PageEnd {
            last: rows.last().map(Row::position),
            full: rows.len() >= read.limit,
            cost: if read.kind == ReadKind::Forward { Duration::from_micros(300) } else { self.cost },
        };
        if !rows.is_empty() {
            self.plan.set_database_time(self.us(), self.now);
        }
        for row in rows {
            let (id, version) = (MessageId(row.id), RowVersion(row.version));
            if self.plan.is_known(id, version) {
                continue;
            }
            self.offered.remove(&id);
            if row.poison {
                self.plan.set_aside(id, row.lane, version);
                let (position, judged) = (row.position(), Some(version));
                self.results.push(Result { id, position, judged, ends: true });
            } else {
                self.plan.offer(row.gateway, ready_at(row.lane, row.position(), version));
            }
            if self.plan.known.contains_key(&id) {
                assert!(self.offered.insert(id), "{id:?} was taken twice");
            }
        }
        self.plan.page_read(&read, page, self.now);
    }

    fn begin_wave(&mut self, gateway: GatewayIndex) {
        let room = self.plan.room_for_wave(gateway);
        let taken = self.plan.take_for_wave(gateway, room, None);
        if !taken.is_empty() {
            assert!(self.open[gateway]);
            self.waves.push((gateway, taken));
        }
    }

    /// As `sql/native/wave.sql`: only rows that are still as they were read.
    fn wave_comes(&mut self, n: usize, fails: bool) {
        if self.waves.is_empty() {
            return;
        }
        let (gateway, taken) = self.waves.swap_remove(n % self.waves.len());
        for ready in taken {
            let row = &self.rows[usize::try_from(ready.id.0).unwrap()];
            if !fails
                && row.queued
                && RowVersion(row.version) == ready.version
                && row.send_after_us <= self.us()
            {
                let times = self.sent.entry((ready.id, ready.version.0)).or_default();
                *times += 1;
                assert_eq!(*times, 1, "{:?} was sent twice", ready.id);
                assert!(self.flights.iter().all(|flight| flight.id != ready.id), "under way twice");
                self.flights.push(Flight { id: ready.id, position: ready.position });
            } else {
                self.plan.not_in_wave(gateway, &ready);
                self.offered.remove(&ready.id);
            }
        }
    }

    /// As the recorder does it, misfits included.
    fn record(&mut self, n: usize) {
        if self.results.is_empty() {
            return;
        }
        let Result { id, position, judged, ends } = self.results.swap_remove(n % self.results.len());
        let row = &mut self.rows[usize::try_from(id.0).unwrap()];
        let fits = judged.is_none_or(|version| row.queued && RowVersion(row.version) == version);
        if fits {
            row.queued &= !ends;
            row.version += 1;
        }
        let again = row.queued.then_some(position);
        self.plan.recorded(id, again);
        self.offered.remove(&id);
    }

    fn check_bounds(&self) {
        let mut under_way = 0;
        let mut waiting = 0;
        for (index, gateway) in self.plan.gateways.iter().enumerate() {
            assert!(gateway.under_way <= LIMIT);
            assert!(gateway.ready.iter().all(|queue| queue.len() <= LOOKAHEAD));
            for queue in &gateway.ready {
                assert!(queue.iter().zip(queue.iter().skip(1)).all(|(a, b)| a.position < b.position));
            }
            assert!(self.open[index] || gateway.ready.iter().all(|queue| queue.is_empty()));
            under_way += gateway.under_way;
            waiting += gateway.ready.iter().map(|queue| queue.len()).sum::<usize>();
        }
        let in_waves: usize = self.waves.iter().map(|(_, taken)| taken.len()).sum();
        let judged = self.results.iter().filter(|result| result.judged.is_some()).count();
        assert_eq!(under_way, in_waves + self.flights.len() + self.results.len() - judged);
        assert_eq!(self.plan.set_aside.iter().sum::<usize>(), judged);
        assert_eq!(self.plan.held(), under_way + waiting + judged);
        assert!(judged <= 3 * MOST_SET_ASIDE);
    }

    fn in_flight(&self) -> bool {
        !(self.readings.is_empty()
            && self.waves.is_empty()
            && self.flights.is_empty()
            && self.results.is_empty())
    }

    /// Everything comes to an end, and nobody wakes it but those who have a reason to.
    fn settle(&mut self) {
        self.act(&Op::CommitAll);
        for gateway in 0..GATEWAYS {
            self.open(gateway);
        }
        let begun = self.reads;
        for _ in 0..20_000 {
            self.read_on();
            if !self.in_flight() && (0..GATEWAYS).all(|gateway| !self.plan.has_ready(gateway)) {
                let due = self.rows.iter().filter(|row| row.queued).map(|row| row.send_after_us);
                if let Some(next) = self.plan.next_at(self.now) {
                    assert!(next > self.now, "a timer that has passed, and nothing to read: it spins");
                    self.pass(next.since(self.now));
                } else if let Some(next) = due.filter(|at| *at > self.us()).min() {
                    assert!(self.plan.is_idle(), "something is wanted, and no timer is set: {:?}", self.plan);
                    self.pass(Duration::from_micros(u64::try_from(next - self.us()).unwrap()));
                } else {
                    break;
                }
            }
            for gateway in 0..GATEWAYS {
                self.act(&Op::Wave(gateway));
            }
            self.act(&Op::WaveComes { wave: 0, fails: false });
            self.act(&Op::Answer { flight: 0, accepted: true });
            self.act(&Op::Record(0));
            self.act(&Op::ReadComesBack(0));
        }
        let left: Vec<&Row> = self.rows.iter().filter(|row| row.queued).collect();
        assert!(left.is_empty(), "never offered again: {left:?}\n{:?}", self.plan);
        assert!(self.plan.is_idle(), "{:?}", self.plan);
        assert_eq!(self.plan.next_at(self.now), None);
        let reads = self.reads - begun;
        assert!(reads <= 300 + 60 * self.rows.len(), "{reads} reads for {} rows", self.rows.len());
    }

    /// A wake that finds nothing costs a few reads, and then there is peace.
    fn wake_for_nothing(&mut self) {
        let begun = self.reads;
        self.pass(Duration::from_secs(3600));
        self.plan.wake();
        for _ in 0..1000 {
            self.read_on();
            if !self.in_flight() {
                match self.plan.next_at(self.now) {
                    Some(next) => self.pass(next.since(self.now)),
                    None => break,
                }
            }
            self.act(&Op::ReadComesBack(0));
        }
        assert!(self.plan.is_idle());
        let reads = self.reads - begun;
        assert!((3..=3 * 7).contains(&reads), "{reads} reads for one wake");
    }
}

proptest! {
    #[test]
    fn whatever_happens_every_row_is_sent_once_and_then_there_is_peace(
        history in vec(ops(), 1..120),
        cost in prop_oneof![Just(300), Just(1_000), Just(4_000), Just(50_000)],
    ) {
        let mut model = Model::new(Duration::from_micros(cost));
        for op in &history {
            model.act(op);
        }
        model.settle();
        model.wake_for_nothing();
    }
}
