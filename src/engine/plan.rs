//! What the leader holds in memory: which rows are taken, where each lane was read up to, what goes out next.
//!
//! Pure: no I/O, no clock. `dispatch` asks it what to read and what to send, carries that out, and tells it what came.
//!
//! Invariants:
//! - A message is held at most once ([`Plan::is_known`]), from the page it was read with until its result is recorded.
//! - Memory is bounded: at most `lookahead` ready rows a gateway and lane, at most `limit` under way a gateway.
//! - What does not fit is not forgotten: `restart` marks where a gateway's rows must be read again.
//! - Nothing here is needed for safety: a row that is offered twice or too early is refused by its wave.

mod cursor;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Moment;
use crate::compose::Draft;
use crate::engine::plan::cursor::Cursor;
pub use crate::engine::plan::cursor::{Read, ReadKind};
use crate::message::{AttemptNo, Lane, MessageId, Position, RowVersion};

/// Index of a gateway in the configuration's order.
pub type GatewayIndex = usize;

/// Rows read at once.
const PAGE: usize = 1000;
/// Rows that are set aside at once: a million poison rows must not fill the memory.
const MOST_REFUSED: usize = 2 * PAGE;

/// A composed row that waits for a place in a wave.
#[derive(Debug)]
pub struct Ready {
    pub id: MessageId,
    pub version: RowVersion,
    pub lane: Lane,
    pub position: Position,
    pub attempts: AttemptNo,
    pub draft: Draft,
}

#[derive(Debug)]
pub struct Plan {
    gateways: Vec<GatewayPlan>,
    cursors: [Cursor; 3],
    known: HashMap<MessageId, Known>,
    /// How many of them are set aside.
    refused: usize,
    lookahead: usize,
}

#[derive(Debug)]
struct GatewayPlan {
    name: Arc<str>,
    open: bool,
    /// Messages in a wave whose result is not recorded yet.
    under_way: usize,
    limit: usize,
    ready: [VecDeque<Ready>; 3],
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
}

#[derive(Debug, Clone, Copy)]
struct Known {
    /// `None`: set aside.
    gateway: Option<GatewayIndex>,
    lane: Lane,
    version: RowVersion,
    under_way: bool,
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
                    ready: Default::default(),
                    restart: [None; 3],
                })
                .collect(),
            cursors: Default::default(),
            known: HashMap::new(),
            refused: 0,
            lookahead,
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

    /// The next thing to read in a lane, if anything; at most one read a lane is under way.
    pub fn next_read(&mut self, lane: Lane, now: Moment) -> Option<Read> {
        let page = PAGE.min(self.lookahead.div_ceil(2)).max(1);
        let at = lane.index();
        let room = |g: &GatewayPlan| g.open && g.ready[at].len() + page <= self.lookahead;
        if self.refused >= MOST_REFUSED || !self.gateways.iter().any(room) {
            return None;
        }
        let restart = self.gateways.iter().enumerate().find_map(|(index, g)| {
            if room(g) { g.restart[at].map(|position| (index, position)) } else { None }
        });
        let mut read = self.cursors[at].next_read(lane, now, restart, self.known.len())?;
        read.limit = page;
        if let ReadKind::Restart(gateway) = read.kind {
            // Set again by what does not fit, and by `page_read` if there is more.
            self.gateways[gateway].restart[at] = None;
        }
        for gateway in &mut self.gateways {
            if !room(gateway) {
                // Its rows are left out of the page, so they must be read again from there.
                gateway.read_again(lane, read.after);
                read.without_gateways.push(gateway.name.to_string());
            }
        }
        Some(read)
    }

    /// Is this version of the row held already? An older version that still waits is let go: the row was edited.
    pub fn is_known(&mut self, id: MessageId, version: RowVersion) -> bool {
        match self.known.get(&id) {
            None => false,
            Some(known) if known.under_way || known.version == version => true,
            Some(known) => {
                if let Some(gateway) = known.gateway {
                    self.gateways[gateway].ready[known.lane.index()].retain(|ready| ready.id != id);
                }
                self.known.remove(&id);
                false
            }
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
        let known =
            Known { gateway: Some(gateway), lane: ready.lane, version: ready.version, under_way: false };
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
        self.refused += 1;
        self.known.insert(id, Known { gateway: None, lane, version, under_way: true });
    }

    /// A page has been taken in.
    pub fn page_read(&mut self, read: &Read, page: PageEnd, now: Moment) {
        if let (ReadKind::Restart(gateway), true, Some(last)) = (read.kind, page.full, page.last) {
            self.gateways[gateway].read_again(read.lane, last);
        }
        self.cursors[read.lane.index()].page_read(read, page, now);
    }

    /// A read that failed will be tried again.
    pub fn read_failed(&mut self, read: &Read) {
        if let ReadKind::Restart(gateway) = read.kind {
            self.gateways[gateway].read_again(read.lane, read.after);
        }
        self.cursors[read.lane.index()].read_failed(read);
    }

    /// How many messages may join a wave of this gateway now.
    pub fn room_for_wave(&self, gateway: GatewayIndex) -> usize {
        let plan = &self.gateways[gateway];
        if plan.open { plan.limit.saturating_sub(plan.under_way) } else { 0 }
    }

    pub fn has_ready(&self, gateway: GatewayIndex) -> bool {
        self.gateways[gateway].ready.iter().any(|queue| !queue.is_empty())
    }

    /// Takes up to `room` messages: urgent first; bulk gets a quarter of what is left while normal waits too, and
    /// the two together never take the places that are kept free for urgent ones.
    pub fn take_for_wave(&mut self, gateway: GatewayIndex, room: usize) -> Vec<Ready> {
        let plan = &mut self.gateways[gateway];
        let reserve = plan.limit / 8;
        let urgent = room.min(plan.ready[Lane::Urgent.index()].len());
        let free = plan.limit.saturating_sub(plan.under_way + urgent);
        let rest = (room - urgent).min(free.saturating_sub(reserve));
        let waiting_normal = plan.ready[Lane::Normal.index()].len();
        let waiting_bulk = plan.ready[Lane::Bulk.index()].len();
        let bulk_share = if waiting_normal == 0 { rest } else { rest.div_ceil(4) };
        let bulk = bulk_share.min(waiting_bulk);
        let normal = (rest - bulk).min(waiting_normal);
        let bulk = (rest - normal).min(waiting_bulk);
        let mut taken = Vec::with_capacity(urgent + normal + bulk);
        for (lane, count) in [(Lane::Urgent, urgent), (Lane::Normal, normal), (Lane::Bulk, bulk)] {
            taken.extend(plan.ready[lane.index()].drain(..count));
        }
        plan.under_way += taken.len();
        for ready in &taken {
            if let Some(known) = self.known.get_mut(&ready.id) {
                known.under_way = true;
            }
        }
        taken
    }

    /// The wave did not take it: the row has changed, or the wave came to nothing. Read it again.
    pub fn not_in_wave(&mut self, gateway: GatewayIndex, ready: &Ready) {
        let plan = &mut self.gateways[gateway];
        plan.under_way = plan.under_way.saturating_sub(1);
        self.known.remove(&ready.id);
        self.cursors[ready.lane.index()].look_again_from(ready.position.before());
    }

    /// Its result is recorded. `queued_again`: it goes on waiting, at this place.
    pub fn recorded(&mut self, id: MessageId, queued_again: Option<Position>) {
        let Some(known) = self.known.remove(&id) else { return };
        match known.gateway {
            Some(gateway) => {
                let plan = &mut self.gateways[gateway];
                plan.under_way = plan.under_way.saturating_sub(1);
                if let Some(position) = queued_again {
                    plan.read_again(known.lane, position.before());
                }
            }
            None => {
                self.refused = self.refused.saturating_sub(1);
                if let Some(position) = queued_again {
                    self.cursors[known.lane.index()].look_again_from(position.before());
                }
            }
        }
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

    /// Forgets everything that is not under way and reads from the start: a new term, or the end of a hold.
    pub fn start_over(&mut self) {
        for plan in &mut self.gateways {
            plan.restart = [None; 3];
            for queue in &mut plan.ready {
                for ready in queue.drain(..) {
                    self.known.remove(&ready.id);
                }
            }
        }
        self.cursors = Default::default();
    }

    /// Gateway of a message that is under way.
    pub fn gateway_of(&self, id: MessageId) -> Option<GatewayIndex> {
        self.known.get(&id).and_then(|known| known.gateway)
    }

    pub fn under_way(&self, gateway: GatewayIndex) -> usize {
        self.gateways[gateway].under_way
    }

    /// Everything held, for statements that must leave it alone.
    pub fn known_ids(&self) -> Vec<i64> {
        self.known.keys().map(|id| id.0).collect()
    }

    pub fn is_idle(&self) -> bool {
        self.known.is_empty() && self.cursors.iter().all(Cursor::is_idle)
    }

    /// When a lane wants to be read although nothing happens.
    pub fn next_at(&self) -> Option<Moment> {
        self.cursors.iter().filter_map(Cursor::next_at).min()
    }
}

/// What a page was like.
#[derive(Debug, Clone, Copy)]
pub struct PageEnd {
    pub last: Option<Position>,
    /// As many rows as asked for: there may be more behind the last one.
    pub full: bool,
    /// Rows that were not held before.
    pub new: usize,
    pub cost: Duration,
}

#[cfg(test)]
mod tests;
