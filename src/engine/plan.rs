//! What the leader holds in memory: which rows are taken, where each lane was read up to, what goes out next.
//!
//! Pure: no I/O, no clock. `dispatch` asks it what to read and what to send, carries that out, and tells it what came.
//!
//! Invariants:
//! - A message is held at most once ([`Plan::is_known`]), from the page it was read with until its result is recorded.
//! - Memory is bounded: at most `lookahead` ready rows a gateway and lane, at most `limit` and its stretch under way a
//!   gateway, and in each lane `MOST_SET_ASIDE` rows and the pages under way set aside.
//! - Two reads a lane are under way at most, and one far read in all: they must leave connections to waves and results.
//! - What does not fit is not forgotten: `restart` marks where a gateway's rows must be read again.
//! - Nothing here is needed for safety: a row that is offered twice or too early is refused by its wave.

mod cursor;
mod lately;
mod requests;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Moment;
use crate::compose::Draft;
use crate::engine::plan::cursor::Cursor;
pub use crate::engine::plan::cursor::{Read, ReadKind};
use crate::engine::plan::lately::Lately;
pub use crate::engine::plan::requests::Requests;
use crate::message::{AttemptNo, CreatedAt, Lane, MessageId, Position, RowVersion};

/// Index of a gateway in the configuration's order.
pub type GatewayIndex = usize;

/// Rows read at once.
const PAGE: usize = 1000;
/// So many rows that wait for a wave keep it busy for longer than it takes to look for more.
const BACKLOG: usize = PAGE / 4;
/// Rows of a lane that are set aside at once: a million poison rows must not fill the memory, nor stop other lanes.
const MOST_SET_ASIDE: usize = 2 * PAGE;
/// Of four places, bulk gets one while normal waits too.
const BULK_EVERY: usize = 4;

/// A composed row that waits for a place in a wave.
#[derive(Debug)]
pub struct Ready {
    pub id: MessageId,
    pub version: RowVersion,
    pub lane: Lane,
    pub position: Position,
    pub row_made: CreatedAt,
    pub attempts: AttemptNo,
    pub draft: Draft,
    /// Where the gateway takes several messages in one request: those that may share one have the same.
    pub alike: u64,
}

#[derive(Debug)]
pub struct Plan {
    gateways: Vec<GatewayPlan>,
    cursors: [Cursor; 3],
    known: HashMap<MessageId, Known>,
    lately: Lately,
    /// How many of them are set aside, in each lane.
    set_aside: [usize; 3],
    lookahead: usize,
    /// A far read is under way.
    far_reading: bool,
    /// The lane that has the first claim to the next far read.
    far_turn: usize,
}

#[derive(Debug)]
struct GatewayPlan {
    name: Arc<str>,
    open: bool,
    /// Messages in a wave whose result is not recorded yet.
    under_way: usize,
    limit: usize,
    /// How many more than `limit` may be under way for now.
    stretch: usize,
    ready: [VecDeque<Ready>; 3],
    /// Places that went to normal or bulk while both waited, since bulk had its last one.
    since_bulk: usize,
    /// The same of places in requests, where several messages share one.
    requests_since_bulk: usize,
    /// Rows of this gateway after this place have not been taken.
    restart: [Option<Position>; 3],
}

impl GatewayPlan {
    fn read_again(&mut self, lane: Lane, after: Position) {
        let restart = &mut self.restart[lane.index()];
        if restart.is_none_or(|present| present > after) {
            *restart = Some(after);
        }
    }

    /// How many of `rest` places go to normal and to bulk. A remainder is carried over, so that bulk does not get every
    /// place when they become free one by one.
    fn share(&mut self, rest: usize) -> (usize, usize) {
        let waiting_normal = self.ready[Lane::Normal.index()].len();
        let waiting_bulk = self.ready[Lane::Bulk.index()].len();
        if waiting_normal == 0 || waiting_bulk == 0 {
            return (rest.min(waiting_normal), rest.min(waiting_bulk));
        }
        let bulk_share = (self.since_bulk + rest) / BULK_EVERY;
        self.since_bulk = (self.since_bulk + rest) % BULK_EVERY;
        let bulk = bulk_share.min(waiting_bulk);
        let normal = (rest - bulk).min(waiting_normal);
        (normal, (rest - normal).min(waiting_bulk))
    }

    /// Takes from the first so many messages of each lane those that find places in requests too, by the same rules.
    fn take_in_requests(
        &mut self,
        requests: &mut Requests,
        [urgent, normal, bulk]: [usize; 3],
    ) -> Vec<Ready> {
        let mut taken = Vec::with_capacity(urgent + normal + bulk);
        let [urgent_ready, normal_ready, bulk_ready] = &mut self.ready;
        requests.take(urgent_ready, urgent, requests.free, &mut taken);
        let rest = requests.free.saturating_sub(kept_for_urgent(requests.all));
        let mut kept_for_bulk = 0;
        if normal > 0 && bulk > 0 {
            kept_for_bulk = (self.requests_since_bulk + rest) / BULK_EVERY;
            self.requests_since_bulk = (self.requests_since_bulk + rest) % BULK_EVERY;
        }
        let before = requests.free;
        requests.take(normal_ready, normal, rest.saturating_sub(kept_for_bulk), &mut taken);
        let used = before - requests.free;
        requests.take(bulk_ready, bulk, rest.saturating_sub(used), &mut taken);
        taken
    }
}

#[derive(Debug, Clone, Copy)]
struct Known {
    lane: Lane,
    version: RowVersion,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the queue of its gateway.
    Ready(GatewayIndex),
    /// In a wave, until its result is recorded.
    UnderWay(GatewayIndex),
    /// Judged without a wave, until that is recorded.
    SetAside,
}

impl Plan {
    /// `gateways`: name and how many messages may be under way at once.
    pub fn new(gateways: &[(Arc<str>, usize)], lookahead: usize) -> Plan {
        Plan {
            gateways: gateways
                .iter()
                .map(|(name, limit)| GatewayPlan {
                    name: Arc::clone(name),
                    open: true,
                    under_way: 0,
                    limit: *limit,
                    stretch: 0,
                    ready: Default::default(),
                    since_bulk: 0,
                    requests_since_bulk: 0,
                    restart: [None; 3],
                })
                .collect(),
            cursors: Default::default(),
            known: HashMap::new(),
            lately: Lately::default(),
            set_aside: [0; 3],
            lookahead,
            far_reading: false,
            far_turn: 0,
        }
    }

    /// Something may have changed: look at every lane, ahead and behind.
    pub fn wake(&mut self) {
        for cursor in &mut self.cursors {
            cursor.wake();
        }
    }

    /// The database's clock, from which the trailing windows count.
    pub fn set_database_time(&mut self, us: i64, now: Moment) {
        for cursor in &mut self.cursors {
            cursor.set_database_time(us, now);
        }
    }

    /// The next thing to read in a lane, if anything. To be asked of every lane until each says `None`.
    pub fn next_read(&mut self, lane: Lane, now: Moment) -> Option<Read> {
        if !self.may_read(lane) {
            return None;
        }
        let few_held = self.known.len() < self.page() / 4;
        let near = self.cursors[lane.index()].next_near(lane, now, few_held);
        let mut read = near.or_else(|| self.next_far(lane, now))?;
        read.limit = self.page();
        read.number = Some(self.lately.read_begins());
        for index in 0..self.gateways.len() {
            let room = self.has_room(index, lane);
            let gateway = &mut self.gateways[index];
            if !room {
                read.left_out.push(index);
                read.without_gateways.push(gateway.name.to_string());
            } else if read.kind == ReadKind::Restart
                && let Some(place) = gateway.restart[lane.index()].take()
            {
                // One page serves all of them.
                read.restarts.push((index, place));
            }
        }
        Some(read)
    }

    /// One far read at a time in all lanes, which take turns.
    fn next_far(&mut self, lane: Lane, now: Moment) -> Option<Read> {
        if self.far_reading {
            return None;
        }
        let turn =
            (0..Lane::ALL.len()).map(|n| Lane::ALL[(self.far_turn + n) % Lane::ALL.len()]).find(|other| {
                self.may_read(*other)
                    && self.cursors[other.index()].wants_far(now, self.first_restart(*other))
            })?;
        if turn != lane {
            return None;
        }
        let restart = self.first_restart(lane);
        let read = self.cursors[lane.index()].next_far(lane, now, restart)?;
        self.far_reading = true;
        self.far_turn = lane.index() + 1;
        Some(read)
    }

    fn page(&self) -> usize {
        PAGE.min(self.lookahead.div_ceil(2)).max(1)
    }

    fn has_room(&self, gateway: GatewayIndex, lane: Lane) -> bool {
        let gateway = &self.gateways[gateway];
        gateway.open && gateway.ready[lane.index()].len() + self.page() <= self.lookahead
    }

    /// Somebody has a place for what would be found.
    fn may_read(&self, lane: Lane) -> bool {
        self.set_aside[lane.index()] < MOST_SET_ASIDE
            && (0..self.gateways.len()).any(|index| self.has_room(index, lane))
    }

    fn first_restart(&self, lane: Lane) -> Option<Position> {
        (0..self.gateways.len())
            .filter(|index| self.has_room(*index, lane))
            .filter_map(|index| self.gateways[index].restart[lane.index()])
            .min()
    }

    /// Is this version of the row held already, or was it when the page was read? An older version that still waits is let
    /// go: the row was edited.
    pub fn is_known(&mut self, id: MessageId, version: RowVersion) -> bool {
        match self.known.get(&id) {
            None => self.lately.contains(id, version),
            Some(Known { place: Place::Ready(gateway), version: held, lane }) if *held != version => {
                self.gateways[*gateway].ready[lane.index()].retain(|ready| ready.id != id);
                self.known.remove(&id);
                false
            }
            Some(_) => true,
        }
    }

    /// Takes a composed row, or notes where to read its gateway again.
    pub fn offer(&mut self, gateway: GatewayIndex, ready: Ready) {
        let at = ready.lane.index();
        let plan = &mut self.gateways[gateway];
        if !plan.open || plan.ready[at].len() >= self.lookahead {
            plan.read_again(ready.lane, ready.position.before());
            return;
        }
        let known = Known { lane: ready.lane, version: ready.version, place: Place::Ready(gateway) };
        self.known.insert(ready.id, known);
        let queue = &mut plan.ready[at];
        if queue.back().is_none_or(|last| last.position < ready.position) {
            queue.push_back(ready);
        } else {
            // Found behind others: a late commit, a retry, a schedule. Older ones go first.
            let place = queue.partition_point(|other| other.position < ready.position);
            queue.insert(place, ready);
        }
    }

    /// A row that was judged without a wave (refused, expired, held): kept in mind until that is recorded.
    pub fn set_aside(&mut self, id: MessageId, lane: Lane, version: RowVersion) {
        self.set_aside[lane.index()] += 1;
        self.known.insert(id, Known { lane, version, place: Place::SetAside });
    }

    /// A page has been taken in: every row of it was offered, set aside, or known.
    pub fn page_read(&mut self, read: &Read, page: PageEnd, now: Moment) {
        if !self.came_back(read) {
            return;
        }
        for gateway in &read.left_out {
            // Marked only now: until the page is here, nothing of theirs has been passed by.
            self.gateways[*gateway].read_again(read.lane, read.after);
        }
        if let (true, Some(last)) = (page.full, page.last) {
            for (gateway, place) in &read.restarts {
                self.gateways[*gateway].read_again(read.lane, last.max(*place));
            }
        }
        self.cursors[read.lane.index()].page_read(read, page, now);
    }

    /// A read that failed will be tried again.
    pub fn read_failed(&mut self, read: &Read) {
        if !self.came_back(read) {
            return;
        }
        for (gateway, place) in &read.restarts {
            self.gateways[*gateway].read_again(read.lane, *place);
        }
        self.cursors[read.lane.index()].read_failed(read);
    }

    /// Whether it still counts: not if we started over since it was sent.
    fn came_back(&mut self, read: &Read) -> bool {
        if read.is_far() {
            self.far_reading = false;
        }
        if let Some(number) = read.number {
            self.lately.read_ends(number);
        }
        self.cursors[read.lane.index()].came_back(read)
    }

    /// So many more messages than its limit may be under way at a gateway for now.
    pub fn stretch(&mut self, gateway: GatewayIndex, more: usize) {
        self.gateways[gateway].stretch = more;
    }

    /// How many messages may join a wave of this gateway now.
    pub fn room_for_wave(&self, gateway: GatewayIndex) -> usize {
        let plan = &self.gateways[gateway];
        if plan.open { (plan.limit + plan.stretch).saturating_sub(plan.under_way) } else { 0 }
    }

    pub fn has_ready(&self, gateway: GatewayIndex) -> bool {
        self.gateways[gateway].ready.iter().any(|queue| !queue.is_empty())
    }

    /// How many wait for a place in a wave.
    pub fn ready_in(&self, gateway: GatewayIndex, lane: Lane) -> usize {
        self.gateways[gateway].ready[lane.index()].len()
    }

    /// More waits for a wave than goes out between two looks at the table.
    pub fn has_backlog(&self) -> bool {
        self.gateways.iter().flat_map(|gateway| &gateway.ready).any(|queue| queue.len() >= BACKLOG)
    }

    /// Takes up to `room` messages: urgent first; bulk gets a quarter of what is left while normal waits too, and
    /// the two together never take the places that are kept free for urgent ones. `requests`: nor more than these carry.
    pub fn take_for_wave(
        &mut self,
        gateway: GatewayIndex,
        room: usize,
        requests: Option<&mut Requests>,
    ) -> Vec<Ready> {
        let plan = &mut self.gateways[gateway];
        let urgent = room.min(plan.ready[Lane::Urgent.index()].len());
        let free = (plan.limit + plan.stretch).saturating_sub(plan.under_way + urgent);
        let rest = (room - urgent).min(free.saturating_sub(kept_for_urgent(plan.limit)));
        let (normal, bulk) = plan.share(rest);
        let taken = match requests {
            Some(requests) => plan.take_in_requests(requests, [urgent, normal, bulk]),
            None => {
                let mut taken = Vec::with_capacity(urgent + normal + bulk);
                for (lane, count) in [(Lane::Urgent, urgent), (Lane::Normal, normal), (Lane::Bulk, bulk)] {
                    taken.extend(plan.ready[lane.index()].drain(..count));
                }
                taken
            }
        };
        plan.under_way += taken.len();
        for ready in &taken {
            if let Some(known) = self.known.get_mut(&ready.id) {
                known.place = Place::UnderWay(gateway);
            }
        }
        taken
    }

    /// The wave did not take it: the row has changed, or the wave came to nothing. Read it again.
    pub fn not_in_wave(&mut self, gateway: GatewayIndex, ready: &Ready) {
        if self.known.get(&ready.id).is_none_or(|known| known.place != Place::UnderWay(gateway)) {
            return;
        }
        self.known.remove(&ready.id);
        let plan = &mut self.gateways[gateway];
        plan.under_way = plan.under_way.saturating_sub(1);
        self.read_row_again(ready.lane, ready.position);
    }

    /// Its attempt came to nothing and it is left alone for a while: it gives its place to others, and is not read again
    /// until [`Plan::recorded`] says so.
    pub fn cool(&mut self, id: MessageId) {
        let Some(known) = self.known.get_mut(&id) else { return };
        if let Place::UnderWay(gateway) = known.place {
            known.place = Place::SetAside;
            self.set_aside[known.lane.index()] += 1;
            self.gateways[gateway].under_way -= 1;
        }
    }

    /// Its result is recorded. `queued_again`: it goes on waiting, at this place.
    pub fn recorded(&mut self, id: MessageId, queued_again: Option<Position>) {
        let Some(Known { lane, place, version }) = self.known.get(&id).copied() else { return };
        match place {
            Place::Ready(_) => return,
            Place::UnderWay(gateway) => {
                let plan = &mut self.gateways[gateway];
                plan.under_way = plan.under_way.saturating_sub(1);
                if queued_again.is_none() {
                    self.lately.recorded(id, version);
                }
            }
            Place::SetAside => {
                let count = &mut self.set_aside[lane.index()];
                *count = count.saturating_sub(1);
            }
        }
        self.known.remove(&id);
        if let Some(position) = queued_again {
            self.read_row_again(lane, position);
        }
    }

    /// Somebody may have moved the row, to an earlier place or to another lane; the doorbell that rang for it woke a
    /// read that passed the row by, since it was known. So look everywhere, and at its old place first.
    fn read_row_again(&mut self, lane: Lane, position: Position) {
        self.cursors[lane.index()].look_again(position.before(), position);
        self.wake();
    }

    pub fn open(&mut self, gateway: GatewayIndex) {
        self.gateways[gateway].open = true;
    }

    /// Nothing more goes to this gateway: its ready rows are let go, to be read again when it opens.
    pub fn close(&mut self, gateway: GatewayIndex) {
        let plan = &mut self.gateways[gateway];
        plan.open = false;
        for lane in Lane::ALL {
            if let Some(first) = plan.ready[lane.index()].front() {
                let place = first.position.before();
                plan.read_again(lane, place);
            }
            for ready in std::mem::take(&mut plan.ready[lane.index()]) {
                self.known.remove(&ready.id);
            }
        }
    }

    /// Forgets everything that waits for a wave and reads from the start: a new term, or the end of a hold. What is
    /// under way or set aside stays until it is recorded.
    pub fn start_over(&mut self) {
        for plan in &mut self.gateways {
            plan.restart = [None; 3];
            for ready in plan.ready.iter_mut().flat_map(|queue| queue.drain(..)) {
                self.known.remove(&ready.id);
            }
        }
        for cursor in &mut self.cursors {
            cursor.start_over();
        }
    }

    /// Gateway of a message that is under way.
    pub fn gateway_of(&self, id: MessageId) -> Option<GatewayIndex> {
        match self.known.get(&id)?.place {
            Place::Ready(gateway) | Place::UnderWay(gateway) => Some(gateway),
            Place::SetAside => None,
        }
    }

    /// Messages held: ready, under way or set aside.
    pub fn held(&self) -> usize {
        self.known.len()
    }

    /// Everything held, for statements that must leave it alone.
    pub fn known_ids(&self) -> Vec<i64> {
        self.known.keys().map(|id| id.0).collect()
    }

    /// Nothing is held and nothing is to be read.
    pub fn is_idle(&self) -> bool {
        self.known.is_empty()
            && self.cursors.iter().all(Cursor::is_idle)
            && Lane::ALL.iter().all(|lane| self.first_restart(*lane).is_none())
    }

    /// When a lane wants to be read although nothing happens.
    pub fn next_at(&self, now: Moment) -> Option<Moment> {
        Lane::ALL
            .into_iter()
            .filter(|lane| self.may_read(*lane))
            .filter_map(|lane| self.cursors[lane.index()].next_at(now, !self.far_reading))
            .min()
    }
}

/// Of so many places.
const fn kept_for_urgent(places: usize) -> usize {
    // With two places or less, keeping one free would halve what a gateway can do.
    if places > 2 { places.div_ceil(8) } else { 0 }
}

/// What a page was like.
#[derive(Debug, Clone, Copy)]
pub struct PageEnd {
    pub last: Option<Position>,
    /// As many rows as asked for: there may be more behind the last one.
    pub full: bool,
    pub cost: Duration,
}

#[cfg(test)]
mod tests;
