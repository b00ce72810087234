//! Where a lane has been read up to, and how what appears behind that place is found.
//!
//! Rows appear behind the watermark: transactions that commit late, retries, schedules, edits, replicated rows. Reading
//! from the start finds them all, and is done at every look while one quick page does it, or after what is ahead while
//! one cheap page does. When it does not (a forgotten transaction pins a million dead index entries, a stopped gateway
//! leaves a million rows), windows of growing length behind the present are read, page by page, each resting after a
//! page for twenty times of what it cost; the longest one reaches back to the start. The short ones find a late commit
//! within milliseconds, the long one finds everything, and none takes more than a twentieth of the time. All that reach
//! back beyond an old queue walk through the same rows: of those only the longest is read.
//!
//! A lane has two reads under way at most: a near one, short by experience, and a far one for what may take long, so
//! that new rows wait for neither a costly window nor a million rows that are read again.
//!
//! Must not forget: what a read was to find is wanted again when it fails.

use std::time::Duration;

use crate::clock::Moment;
use crate::engine::plan::lately::ReadNumber;
use crate::engine::plan::{GatewayIndex, PageEnd};
use crate::message::{Lane, Position};

/// Below this, one read from the start finds what is new as well. Above it, what is new is read first: after a drain each
/// read from the start steps over the index entries of rows that have left, until VACUUM has been there.
const QUICK: Duration = Duration::from_micros(500);
/// Reading from the start is cheap below this.
const CHEAP: Duration = Duration::from_millis(2);
/// A window whose page costs more is read beside the others.
const COSTLY: Duration = Duration::from_millis(5);
/// A window rests so many times longer than its page took, and at least so long.
const REST_FACTOR: u32 = 20;
const REST_MIN: Duration = Duration::from_millis(10);
/// What was found ahead is given so long to leave before the looks behind take the cores from it.
const GIVE_WAY: Duration = Duration::from_millis(4);
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
    /// The same, by index.
    pub(super) left_out: Vec<GatewayIndex>,
    /// Whose rows are read again, each from where.
    pub(super) restarts: Vec<(GatewayIndex, Position)>,
    /// `None` until the plan gives it out.
    pub(super) number: Option<ReadNumber>,
    slot: Slot,
    generation: u64,
}

impl Read {
    pub(super) fn is_far(&self) -> bool {
        self.slot == Slot::Far
    }
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
    /// Rows that their gateways had no place for before.
    Restart,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Near,
    Far,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    kind: ReadKind,
    after: Position,
    up_to: Position,
}

#[derive(Debug)]
pub(super) struct Cursor {
    /// Tells the reads of before `start_over` from those after it.
    generation: u64,
    watermark: Position,
    woken: bool,
    more: bool,
    near_reading: bool,
    far_reading: bool,
    /// Everything after the first place up to the second is to be read again.
    again: Option<(Position, Position)>,
    windows: [Window; WINDOWS.len()],
    /// So that reading ahead and looking behind take turns.
    ahead_last: bool,
    /// Looks behind have been put off, and none has been since: what comes fast must not keep them off for good.
    gave_way: bool,
    database_clock: Option<(i64, Moment)>,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    wanted: bool,
    /// It is being read page by page, and goes on from here.
    after: Option<Position>,
    /// A page of it is under way.
    reading: bool,
    rests_until: Moment,
    /// Of a page, smoothed.
    cost: Duration,
    /// What the pages have cost since it was begun, and what a whole walk through it costs, smoothed.
    walking: Duration,
    walk: Duration,
    /// The last time, one page held it all.
    one_page: bool,
}

impl Window {
    const NEW: Window = Window {
        wanted: false,
        after: None,
        reading: false,
        rests_until: Moment::ZERO,
        cost: Duration::ZERO,
        walking: Duration::ZERO,
        walk: Duration::ZERO,
        one_page: true,
    };

    fn rest(&mut self, cost: Duration, ended: bool, now: Moment) {
        self.cost = smoothed(self.cost, cost);
        self.walking += cost;
        if ended {
            self.walk = smoothed(self.walk, self.walking);
            self.walking = Duration::ZERO;
        }
        self.rests_until = now + (cost * REST_FACTOR).max(REST_MIN);
    }

    fn slot(&self) -> Slot {
        if self.cost < COSTLY { Slot::Near } else { Slot::Far }
    }

    /// Does walking through this one, which holds that other, cost about the same? Then the other adds nothing.
    fn makes_up_for(&self, shorter: &Window) -> bool {
        let walk = self.walk.max(self.walking);
        !self.walk.is_zero() && walk * 4 <= shorter.walk * 5
    }
}

/// So that one disturbed look does not decide.
fn smoothed(before: Duration, now: Duration) -> Duration {
    if before.is_zero() { now } else { (before * 3 + now) / 4 }
}

impl Default for Cursor {
    fn default() -> Cursor {
        Cursor {
            generation: 0,
            watermark: Position::START,
            woken: true,
            more: false,
            near_reading: false,
            far_reading: false,
            again: None,
            windows: [Window::NEW; WINDOWS.len()],
            ahead_last: false,
            gave_way: false,
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

    /// From the start again. Reads under way come back and count for nothing; what reading costs is still known.
    pub(super) fn start_over(&mut self) {
        self.generation += 1;
        self.watermark = Position::START;
        self.woken = true;
        self.more = false;
        self.again = None;
        for window in &mut self.windows {
            window.wanted = false;
            window.after = None;
            window.walking = Duration::ZERO;
            window.reading = false;
        }
    }

    pub(super) fn set_database_time(&mut self, us: i64, now: Moment) {
        self.database_clock = Some((us, now));
    }

    pub(super) fn look_again(&mut self, after: Position, up_to: Position) {
        self.again = Some(match self.again {
            Some((first, last)) => (first.min(after), last.max(up_to)),
            None => (after, up_to),
        });
    }

    pub(super) fn is_idle(&self) -> bool {
        !self.near_reading
            && !self.far_reading
            && !self.woken
            && !self.more
            && self.again.is_none()
            && self.active_windows().next().is_none()
    }

    /// When a resting window may be read. Everything else that is wanted is given out at once by `next_near` and
    /// `next_far`, or waits for a read that is under way.
    pub(super) fn next_at(&self, now: Moment, far_free: bool) -> Option<Moment> {
        let free = |slot| match slot {
            Slot::Near => !self.near_reading,
            Slot::Far => far_free && !self.far_reading,
        };
        self.active_windows()
            .filter(|w| free(self.windows[*w].slot()) && !self.is_empty(*w, now))
            .map(|w| self.windows[w].rests_until)
            .min()
    }

    /// `few_held`: a page from the start would mostly bring rows that are not in memory.
    pub(super) fn next_near(&mut self, lane: Lane, now: Moment, few_held: bool) -> Option<Read> {
        if self.near_reading {
            return None;
        }
        self.forget_empty_windows(now);
        let whole = &self.windows[WHOLE];
        let span = if self.woken
            && !self.more
            && few_held
            && self.whole_is_cheap()
            && whole.cost < QUICK
            && whole.after.is_none()
            && whole.rests_until <= now
        {
            self.woken = false;
            for window in &mut self.windows {
                window.wanted = false;
                window.after = None;
                window.walking = Duration::ZERO;
            }
            Span { kind: ReadKind::Whole, after: Position::START, up_to: Position::END }
        } else {
            let ahead = self.woken || self.more;
            match self.due_window(Slot::Near, now) {
                Some(window) if !ahead || self.ahead_last => {
                    self.ahead_last = false;
                    self.window_page(window, now)
                }
                _ if ahead => {
                    self.ahead_last = true;
                    self.woken = false;
                    Span { kind: ReadKind::Forward, after: self.watermark, up_to: Position::END }
                }
                _ => return None,
            }
        };
        self.near_reading = true;
        Some(self.read(lane, span, Slot::Near))
    }

    pub(super) fn wants_far(&self, now: Moment, restart: Option<Position>) -> bool {
        !self.far_reading
            && (self.again.is_some() || restart.is_some() || self.due_window(Slot::Far, now).is_some())
    }

    /// `restart`: the first place from which a gateway with room wants its rows again.
    pub(super) fn next_far(&mut self, lane: Lane, now: Moment, restart: Option<Position>) -> Option<Read> {
        if self.far_reading {
            return None;
        }
        let span = if let Some((after, up_to)) = self.again.take() {
            Span { kind: ReadKind::Again, after, up_to }
        } else if let Some(window) = self.due_window(Slot::Far, now) {
            // Before the restarts, of which there may be many: it rests in between, they do not.
            self.window_page(window, now)
        } else if let Some(after) = restart {
            Span { kind: ReadKind::Restart, after, up_to: self.watermark.max(after) }
        } else {
            return None;
        };
        self.far_reading = true;
        Some(self.read(lane, span, Slot::Far))
    }

    pub(super) fn page_read(&mut self, read: &Read, page: PageEnd, now: Moment) {
        let reached = page.last.unwrap_or(Position::START);
        match read.kind {
            ReadKind::Forward => {
                self.watermark = self.watermark.max(reached);
                self.more = page.full;
                if page.last.is_some() && !page.full && !self.gave_way {
                    self.gave_way = true;
                    for window in &mut self.windows {
                        window.rests_until = window.rests_until.max(now + GIVE_WAY);
                    }
                }
            }
            ReadKind::Whole => {
                let short = page.full && reached < self.watermark;
                if short {
                    // Not cheap after all: the rest of it is read like the other windows, and they meanwhile.
                    for window in &mut self.windows[..WHOLE] {
                        window.wanted = true;
                    }
                    self.windows[WHOLE].after = Some(reached);
                }
                // If it was cut short, nothing ahead has been seen either.
                self.more = page.full;
                self.watermark = self.watermark.max(reached);
                self.windows[WHOLE].one_page = !short;
                self.windows[WHOLE].rest(page.cost, !short, now);
            }
            ReadKind::Behind(window) => {
                let ended = !page.full || reached >= read.up_to;
                let state = &mut self.windows[window];
                state.reading = false;
                state.after = if ended { None } else { Some(reached) };
                state.one_page = ended && read.after == Position::START;
                state.rest(page.cost, ended, now);
                if ended {
                    // Those that it makes up for are tried again by and by.
                    for shorter in &mut self.windows[..window] {
                        shorter.walk = shorter.walk * 31 / 32;
                    }
                }
            }
            ReadKind::Again => {
                if let (true, Some(last)) = (page.full && reached < read.up_to, page.last) {
                    self.look_again(last, read.up_to);
                }
            }
            // Rows ahead of the watermark may have been left out as well.
            ReadKind::Restart => self.more |= !page.full,
        }
    }

    pub(super) fn read_failed(&mut self, read: &Read) {
        match read.kind {
            ReadKind::Forward => self.woken = true,
            ReadKind::Whole => self.wake(),
            ReadKind::Behind(window) => {
                let state = &mut self.windows[window];
                state.reading = false;
                state.after = Some(read.after);
            }
            ReadKind::Again => self.look_again(read.after, read.up_to),
            ReadKind::Restart => {}
        }
    }

    /// To be called first when a read comes back. Whether it still counts.
    pub(super) fn came_back(&mut self, read: &Read) -> bool {
        match read.slot {
            Slot::Near => self.near_reading = false,
            Slot::Far => self.far_reading = false,
        }
        read.generation == self.generation
    }

    fn read(&self, lane: Lane, span: Span, slot: Slot) -> Read {
        let Span { kind, after, up_to } = span;
        Read {
            lane,
            kind,
            after,
            up_to,
            limit: 0,
            without_gateways: Vec::new(),
            left_out: Vec::new(),
            restarts: Vec::new(),
            number: None,
            slot,
            generation: self.generation,
        }
    }

    fn window_page(&mut self, window: usize, now: Moment) -> Span {
        self.gave_way = false;
        let start = self.window_start(window, now);
        let state = &mut self.windows[window];
        let after = state.after.take().unwrap_or_else(|| {
            state.wanted = false;
            start
        });
        state.reading = true;
        Span { kind: ReadKind::Behind(window), after, up_to: self.watermark }
    }

    /// The shortest window that has rested.
    fn due_window(&self, slot: Slot, now: Moment) -> Option<usize> {
        self.active_windows().find(|w| {
            let window = &self.windows[*w];
            window.slot() == slot && window.rests_until <= now && !self.is_empty(*w, now)
        })
    }

    /// Only while no read is ahead: what it passes by, while more is committed, will lie in these windows.
    fn forget_empty_windows(&mut self, now: Moment) {
        for window in 0..WINDOWS.len() {
            if self.is_empty(window, now) {
                self.windows[window].wanted = false;
            }
        }
    }

    /// The window begins where reading ahead does.
    fn is_empty(&self, window: usize, now: Moment) -> bool {
        self.windows[window].after.is_none() && self.window_start(window, now) >= self.watermark
    }

    /// Windows that want to be read. While reading from the start is cheap, the shorter ones add nothing.
    fn active_windows(&self) -> impl Iterator<Item = usize> + '_ {
        let first = if self.whole_is_cheap() { WHOLE } else { 0 };
        (first..WINDOWS.len()).filter(|w| {
            let window = &self.windows[*w];
            !window.reading
                && (window.wanted || window.after.is_some())
                && !self.windows[w + 1..].iter().any(|longer| longer.makes_up_for(window))
        })
    }

    fn whole_is_cheap(&self) -> bool {
        self.windows[WHOLE].cost < CHEAP && self.windows[WHOLE].one_page
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
