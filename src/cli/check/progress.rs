//! What `outboxd check` is waiting for, shown while it waits: on a terminal only, and gone when it is done.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar};

#[derive(Debug, Default)]
pub(super) struct Progress {
    lines: MultiProgress,
}

/// One of several things that go on at once. It disappears when it is dropped.
#[derive(Debug)]
pub(super) struct Line {
    what: String,
    bar: ProgressBar,
}

impl Progress {
    pub(super) fn line(&self, what: impl Into<String>) -> Line {
        let bar = self.lines.add(ProgressBar::new_spinner());
        bar.enable_steady_tick(Duration::from_millis(200));
        Line { what: what.into(), bar }
    }
}

impl Line {
    pub(super) fn say(&self, doing: &str) {
        self.bar.set_message(format!("{}: {doing}", self.what));
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
