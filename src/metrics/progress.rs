//! Whether the process gets on: each of its loops says so at every turn. One that has not for longer than its longest
//! honest wait is wedged; then `/livez` turns red and the service manager's watchdog is not fed.
//!
//! A loop that waits for a database that is away gets on: its waits have limits, and it tries again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::{self, Moment};

/// A loop that must not stand still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Waits for the database before anything else is there.
    Start,
    Dispatch,
    Recorder,
    Lead,
    Listen,
}

impl Part {
    const ALL: [Part; 5] = [Part::Start, Part::Dispatch, Part::Recorder, Part::Lead, Part::Listen];

    pub const fn as_str(self) -> &'static str {
        match self {
            Part::Start => "start",
            Part::Dispatch => "dispatch",
            Part::Recorder => "recorder",
            Part::Lead => "lead",
            Part::Listen => "listen",
        }
    }
}

/// The longest pause that a loop makes by itself, so that it is heard of often enough.
pub const BREATH: Duration = Duration::from_secs(1);
/// For a loop that waits for nothing: a turn takes milliseconds.
pub const PROMPT: Duration = Duration::from_secs(10);

/// For a loop that asks the database: several statements in a turn, each of which may take up to `timeout` for a
/// connection and `timeout` for its answer.
pub fn patient(timeout: Duration) -> Duration {
    PROMPT * 3 + timeout * 6
}

#[derive(Debug, Default)]
pub struct Progress([Turns; Part::ALL.len()]);

#[derive(Debug, Default)]
struct Turns {
    /// When the loop last got on; 0: it is not running.
    last: AtomicU64,
    limit: AtomicU64,
}

/// As long as it lives, its loop is expected to get on.
#[derive(Debug)]
pub struct AtWork {
    progress: Arc<Progress>,
    part: Part,
}

/// A loop that stands still, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stall {
    pub part: Part,
    pub since: Duration,
}

impl Progress {
    /// A loop begins. `limit`: when it is taken for wedged.
    pub fn begin(self: &Arc<Progress>, part: Part, limit: Duration) -> AtWork {
        let limit = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        self.0[part as usize].limit.store(limit, Ordering::Relaxed);
        let at_work = AtWork { progress: Arc::clone(self), part };
        at_work.gets_on();
        at_work
    }

    /// Those that stand still.
    pub fn stalls(&self, now: Moment) -> Vec<Stall> {
        let parts = Part::ALL.into_iter().filter_map(|part| {
            let turns = &self.0[part as usize];
            let last = turns.last.load(Ordering::Acquire);
            let since = now.since(Moment::from_nanos(last));
            let limit = Duration::from_nanos(turns.limit.load(Ordering::Relaxed));
            (last != 0 && since > limit).then_some(Stall { part, since })
        });
        parts.collect()
    }
}

impl AtWork {
    pub fn gets_on(&self) {
        self.progress.0[self.part as usize].last.store(clock::now().as_nanos().max(1), Ordering::Release);
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.progress.0[self.part as usize].last.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::{Part, Progress};
    use crate::clock;

    #[test]
    fn only_a_loop_that_runs_can_stand_still() {
        let progress = Arc::new(Progress::default());
        let later = || clock::now() + Duration::from_secs(60);
        assert!(progress.stalls(later()).is_empty(), "nothing runs");
        let dispatch = progress.begin(Part::Dispatch, Duration::from_secs(10));
        let lead = progress.begin(Part::Lead, Duration::from_secs(90));
        assert!(progress.stalls(clock::now()).is_empty());
        let stalls = progress.stalls(later());
        assert_eq!(stalls.len(), 1, "{stalls:?}");
        assert_eq!(stalls[0].part, Part::Dispatch);
        assert!(stalls[0].since >= Duration::from_secs(60));
        dispatch.gets_on();
        assert!(progress.stalls(clock::now() + Duration::from_secs(9)).is_empty());
        drop(dispatch);
        assert!(progress.stalls(later()).is_empty(), "it ended");
        drop(lead);
    }
}
