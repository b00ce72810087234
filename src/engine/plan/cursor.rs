//! Where a lane has been read up to, and how what appears behind that place is found.
//!
//! Rows appear behind the watermark: transactions that commit late, retries, schedules, edits, replicated rows. Reading
//! from the start finds them all, and is done at every look while it is cheap. When it is not (a forgotten transaction
//! pins a million dead index entries), windows of growing length behind the present are read again, each resting for
//! twenty times of what it cost, the longest one reaching back to the start: the short ones find a late commit within
//! milliseconds, the long one finds everything, and none takes more than a twentieth of the time.

use std::time::Duration;

use crate::clock::Moment;
use crate::engine::plan::{GatewayIndex, PageEnd};
use crate::message::{Lane, Position};

/// Reading from the start is cheap below this.
const CHEAP: Duration = Duration::from_millis(2);
/// With more rows in memory than this, a page from the start would mostly bring rows that we hold.
const FEW_KNOWN: usize = 250;
/// A window rests so many times longer than it took, and at least so long.
const REST_FACTOR: u32 = 20;
const REST_MIN: Duration = Duration::from_millis(10);
/// Windows behind the present; the last reaches back to the start.
const WINDOWS: [Option<Duration>; 6] = [
    Some(Duration::from_millis(250)),
    Some(Duration::from_secs(1)),
    Some(Duration::from_secs(8)),
    Some(Duration::from_secs(60)),
    Some(Duration::from_secs(600)),
    None,
];
const WHOLE: usize = WINDOWS.len() - 1;

/// One page to read.
#[derive(Debug, Clone)]
pub struct Read {
    pub lane: Lane,
    pub kind: ReadKind,
    pub after: Position,
    pub up_to: Position,
    pub limit: usize,
    pub without_gateways: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadKind {
    /// On from the watermark.
    Forward,
    /// From the start to the end: ahead and behind in one.
    Whole,
    /// One page of a window behind the watermark.
    Behind(usize),
    /// Rows that changed under our hands, or that a wave did not take.
    Again,
    /// Rows of one gateway that did not fit before.
    Restart(GatewayIndex),
}

#[derive(Debug)]
pub(super) struct Cursor {
    watermark: Position,
    woken: bool,
    more: bool,
    reading: bool,
    again: Option<Position>,
    windows: [Window; WINDOWS.len()],
    /// The window that is being read, page by page.
    scan: Option<Scan>,
    /// So that reading ahead and looking behind take turns.
    ahead_last: bool,
    database_clock: Option<(i64, Moment)>,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    wanted: bool,
    rests_until: Moment,
    cost: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Scan {
    window: usize,
    after: Position,
    cost: Duration,
}

impl Default for Cursor {
    fn default() -> Cursor {
        Cursor {
            watermark: Position::START,
            woken: true,
            more: false,
            reading: false,
            again: None,
            windows: [Window { wanted: false, rests_until: Moment::ZERO, cost: Duration::ZERO };
                WINDOWS.len()],
            scan: None,
            ahead_last: false,
            database_clock: None,
        }
    }
}

impl Cursor {
    pub(super) fn wake(&mut self) {
        self.woken = true;
        for window in &mut self.windows {
            window.wanted = true;
        }
    }

    pub(super) fn set_database_time(&mut self, us: i64, now: Moment) {
        self.database_clock = Some((us, now));
    }

    pub(super) fn look_again_from(&mut self, place: Position) {
        if self.again.is_none_or(|present| present > place) {
            self.again = Some(place);
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        !self.reading
            && !self.woken
            && !self.more
            && self.again.is_none()
            && self.scan.is_none()
            && !self.windows.iter().any(|w| w.wanted)
    }

    pub(super) fn next_at(&self) -> Option<Moment> {
        if self.reading {
            return None;
        }
        self.wanted_windows().map(|w| self.windows[w].rests_until).min()
    }

    pub(super) fn next_read(
        &mut self,
        lane: Lane,
        now: Moment,
        restart: Option<(GatewayIndex, Position)>,
        known: usize,
    ) -> Option<Read> {
        if self.reading {
            return None;
        }
        let ahead = self.woken || self.more;
        let behind = self.behind(now, restart);
        let (kind, after, up_to) = match behind {
            Some(choice) if !ahead || self.ahead_last => {
                self.ahead_last = false;
                choice
            }
            _ if ahead => {
                self.ahead_last = true;
                self.woken = false;
                if !self.more && self.is_cheap(known) && self.windows[WHOLE].rests_until <= now {
                    (ReadKind::Whole, Position::START, Position::END)
                } else {
                    (ReadKind::Forward, self.watermark, Position::END)
                }
            }
            _ => return None,
        };
        self.reading = true;
        Some(Read { lane, kind, after, up_to, limit: 0, without_gateways: Vec::new() })
    }

    pub(super) fn page_read(&mut self, read: &Read, page: PageEnd, now: Moment) {
        self.reading = false;
        let reached = page.last.unwrap_or(Position::START);
        match read.kind {
            ReadKind::Forward => {
                self.watermark = self.watermark.max(reached);
                self.more = page.full;
            }
            ReadKind::Whole => {
                if page.full && reached < self.watermark {
                    self.look_again_from(reached);
                } else {
                    self.more = page.full;
                }
                self.watermark = self.watermark.max(reached);
                self.rest(WHOLE, page.cost, now);
                for window in &mut self.windows {
                    window.wanted = false;
                }
            }
            ReadKind::Behind(window) => {
                let cost = self.scan.map_or(Duration::ZERO, |scan| scan.cost) + page.cost;
                if page.full && reached < self.watermark {
                    self.scan = Some(Scan { window, after: reached, cost });
                } else {
                    self.scan = None;
                    self.rest(window, cost, now);
                }
            }
            ReadKind::Again => {
                // Moved back meanwhile by another row: then that stays.
                if self.again == Some(read.after) {
                    self.again = page.last.filter(|_| page.full);
                }
            }
            ReadKind::Restart(_) => {}
        }
    }

    pub(super) fn read_failed(&mut self, read: &Read) {
        self.reading = false;
        match read.kind {
            ReadKind::Forward | ReadKind::Whole => self.woken = true,
            ReadKind::Behind(window) => {
                self.scan = None;
                self.windows[window].wanted = true;
            }
            ReadKind::Again | ReadKind::Restart(_) => {}
        }
    }

    fn behind(
        &mut self,
        now: Moment,
        restart: Option<(GatewayIndex, Position)>,
    ) -> Option<(ReadKind, Position, Position)> {
        if let Some(place) = self.again {
            if place < self.watermark {
                return Some((ReadKind::Again, place, self.watermark));
            }
            self.again = None;
        }
        if let Some((gateway, place)) = restart {
            return Some((ReadKind::Restart(gateway), place, self.watermark.max(place)));
        }
        if let Some(scan) = self.scan {
            return Some((ReadKind::Behind(scan.window), scan.after, self.watermark));
        }
        let window = self.wanted_windows().find(|w| self.windows[*w].rests_until <= now)?;
        self.windows[window].wanted = false;
        Some((ReadKind::Behind(window), self.window_start(window, now), self.watermark))
    }

    /// While reading from the start is cheap, the shorter windows add nothing.
    fn wanted_windows(&self) -> impl Iterator<Item = usize> + '_ {
        let first = if self.windows[WHOLE].cost < CHEAP { WHOLE } else { 0 };
        (first..WINDOWS.len()).filter(|w| self.windows[*w].wanted)
    }

    fn is_cheap(&self, known: usize) -> bool {
        self.windows[WHOLE].cost < CHEAP && known < FEW_KNOWN
    }

    fn rest(&mut self, window: usize, cost: Duration, now: Moment) {
        let state = &mut self.windows[window];
        // Smoothed, so that one disturbed look does not decide.
        state.cost = if state.cost.is_zero() { cost } else { (state.cost * 3 + cost) / 4 };
        state.rests_until = now + (cost * REST_FACTOR).max(REST_MIN);
    }

    fn window_start(&self, window: usize, now: Moment) -> Position {
        let (Some(length), Some((us, at))) = (WINDOWS[window], self.database_clock) else {
            return Position::START;
        };
        let back = i64::try_from(length.as_micros()).unwrap_or(i64::MAX);
        let passed = i64::try_from(now.since(at).as_micros()).unwrap_or(i64::MAX);
        let send_after_us = us.saturating_add(passed).saturating_sub(back);
        Position { send_after_us, ..Position::START }
    }
}
