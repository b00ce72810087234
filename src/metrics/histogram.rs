//! A histogram without a lock: one count for each range, and the sum.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::metrics::page::Page;

/// Upper bounds in milliseconds: from an answer on the same machine to the longest that a gateway is waited for.
const BOUNDS_MS: [u64; 14] =
    [5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 120_000];

#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// Up to and including each bound, and above the one before it.
    counts: [AtomicU64; BOUNDS_MS.len()],
    above: AtomicU64,
    micros: AtomicU64,
}

impl Histogram {
    pub(super) fn observe(&self, took: Duration) {
        let range = BOUNDS_MS.iter().position(|bound| took <= Duration::from_millis(*bound));
        range.map_or(&self.above, |range| &self.counts[range]).fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    pub(super) fn write(&self, page: &mut Page, labels: &[(&str, &str)]) {
        let mut so_far = 0;
        for (bound, count) in BOUNDS_MS.iter().zip(&self.counts) {
            so_far += count.load(Ordering::Relaxed);
            let bound = Duration::from_millis(*bound).as_secs_f64().to_string();
            page.suffixed("_bucket", &[labels, &[("le", bound.as_str())]].concat(), so_far);
        }
        // From the same counts, so that a page agrees with itself while attempts end.
        so_far += self.above.load(Ordering::Relaxed);
        page.suffixed("_bucket", &[labels, &[("le", "+Inf")]].concat(), so_far);
        let sum = Duration::from_micros(self.micros.load(Ordering::Relaxed)).as_secs_f64();
        page.suffixed("_sum", labels, sum);
        page.suffixed("_count", labels, so_far);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Histogram;
    use crate::metrics::page::{Kind, Page};

    #[test]
    fn each_range_counts_what_is_below_its_bound() {
        let histogram = Histogram::default();
        for ms in [1, 5, 6, 30_000, 500_000] {
            histogram.observe(Duration::from_millis(ms));
        }
        let mut page = Page::default();
        page.family("x_seconds", Kind::Histogram, "Help.");
        histogram.write(&mut page, &[("gateway", "main")]);
        let text = page.into_text();
        for line in [
            "x_seconds_bucket{gateway=\"main\",le=\"0.005\"} 2",
            "x_seconds_bucket{gateway=\"main\",le=\"0.01\"} 3",
            "x_seconds_bucket{gateway=\"main\",le=\"10\"} 3",
            "x_seconds_bucket{gateway=\"main\",le=\"30\"} 4",
            "x_seconds_bucket{gateway=\"main\",le=\"120\"} 4",
            "x_seconds_bucket{gateway=\"main\",le=\"+Inf\"} 5",
            "x_seconds_sum{gateway=\"main\"} 530.012",
            "x_seconds_count{gateway=\"main\"} 5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing from:\n{text}");
        }
    }
}
