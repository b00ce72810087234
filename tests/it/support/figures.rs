//! Durations that a test measures, and their least, middle and greatest for whoever reads its output.

use std::fmt;
use std::time::Duration;

#[derive(Debug, Default)]
pub(crate) struct Figures(Vec<Duration>);

impl Figures {
    pub(crate) fn add(&mut self, took: Duration) {
        self.0.push(took);
        self.0.sort();
    }

    pub(crate) fn median(&self) -> Duration {
        self.0[self.0.len() / 2]
    }

    pub(crate) fn greatest(&self) -> Duration {
        self.0[self.0.len() - 1]
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [least, median, greatest] =
            [self.0[0], self.median(), self.greatest()].map(|took| took.as_millis());
        write!(f, "{least}/{median}/{greatest} ms (least, median, greatest of {})", self.0.len())
    }
}
