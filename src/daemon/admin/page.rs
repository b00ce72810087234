//! `/metrics`: what is counted in memory, what the database says, and the process itself.

use std::time::Duration;

use crate::daemon::admin::look::{Looks, Reached};
use crate::daemon::admin::process;
use crate::engine::alarm::{ALARMS, Alarm};
use crate::metrics::{Kind, Metrics, Page};
use crate::store::status::Sample;

/// Under which alarms are counted that this version does not know.
const OTHER: &str = "other";

pub(super) async fn write(page: &mut Page, metrics: &Metrics, looks: &Looks) {
    metrics.write(page);
    let (reached, took) = looks.reach_in().await;
    write_database(page, &reached, took);
    // Absent while the database is: a number of before would be taken for one of now.
    if reached == Reached::Fits
        && let Some(sample) = looks.sample().await
    {
        write_sample(page, &sample);
    }
    page.family("outboxd_build_info", Kind::Gauge, "Always 1; the version is in the label.");
    page.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    process::write(page);
}

fn write_database(page: &mut Page, reached: &Reached, took: Duration) {
    page.family("outboxd_database_up", Kind::Gauge, "1: the database answers.");
    page.sample(&[], u8::from(!matches!(reached, Reached::Not(_))));
    page.family(
        "outboxd_schema_fits",
        Kind::Gauge,
        "1: the database answers, and its schema is that of this version.",
    );
    page.sample(&[], u8::from(*reached == Reached::Fits));
    page.family(
        "outboxd_database_look_seconds",
        Kind::Gauge,
        "How long the database took to answer these pages.",
    );
    page.sample(&[], took.as_secs_f64());
}

fn write_sample(page: &mut Page, sample: &Sample) {
    page.family(
        "outboxd_queue_due_messages",
        Kind::Gauge,
        "Messages that could be sent now, by lane. Counted up to 100000.",
    );
    for lane in &sample.lanes {
        page.sample(&[("lane", lane.lane.as_str())], lane.due);
    }
    page.family(
        "outboxd_queue_oldest_due_seconds",
        Kind::Gauge,
        "How long the first message that could be sent has waited, by lane; 0: none waits.",
    );
    for lane in &sample.lanes {
        page.sample(&[("lane", lane.lane.as_str())], lane.oldest.unwrap_or_default().as_secs_f64());
    }
    page.family(
        "outboxd_queue_held_messages",
        Kind::Gauge,
        "Messages that wait for a person. Counted up to 100000.",
    );
    page.sample(&[], sample.held);
    page.family(
        "outboxd_queue_unknown_messages",
        Kind::Gauge,
        "Messages that may or may not have been accepted. Counted up to 100000.",
    );
    page.sample(&[], sample.unknown);
    page.family("outboxd_alarms_open", Kind::Gauge, "Open alarms, by code.");
    let count = |code: &str| sample.alarms.iter().filter(|open| Alarm::of(open).code == code).count();
    for code in ALARMS.iter().map(|alarm| alarm.code).chain([OTHER]) {
        page.sample(&[("code", code)], count(code));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{write_database, write_sample};
    use crate::daemon::admin::look::{MOST_COUNTED, Reached};
    use crate::message::Lane;
    use crate::metrics::Page;
    use crate::store::status::{LaneSample, Sample};

    #[test]
    fn a_sample_is_told_by_lane_and_an_alarm_of_another_version_as_other() {
        let oldest = Some(Duration::from_millis(1500));
        let sample = Sample {
            lanes: vec![LaneSample { lane: Lane::Bulk, due: 3, oldest }],
            held: 1,
            unknown: 2,
            alarms: ["gateway_stopped", "gateway_stopped", "of_the_future"].map(str::to_owned).into(),
        };
        let mut page = Page::default();
        write_sample(&mut page, &sample);
        let text = page.into_text();
        for line in [
            "outboxd_queue_due_messages{lane=\"bulk\"} 3",
            "outboxd_queue_oldest_due_seconds{lane=\"bulk\"} 1.5",
            "outboxd_queue_held_messages 1",
            "outboxd_queue_unknown_messages 2",
            "outboxd_alarms_open{code=\"gateway_stopped\"} 2",
            "outboxd_alarms_open{code=\"database_changed\"} 0",
            "outboxd_alarms_open{code=\"other\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing from:\n{text}");
        }
        assert!(
            text.contains(&format!("Counted up to {MOST_COUNTED}.")),
            "the help says where counting ends"
        );
    }

    #[test]
    fn a_database_with_another_schema_is_up() {
        for (reached, lines) in [
            (Reached::Fits, ["outboxd_database_up 1", "outboxd_schema_fits 1"]),
            (Reached::Unfit(String::new()), ["outboxd_database_up 1", "outboxd_schema_fits 0"]),
            (Reached::Not(String::new()), ["outboxd_database_up 0", "outboxd_schema_fits 0"]),
        ] {
            let mut page = Page::default();
            write_database(&mut page, &reached, Duration::ZERO);
            let text = page.into_text();
            assert!(lines.iter().all(|line| text.lines().any(|found| found == *line)), "{reached:?}: {text}");
        }
    }
}
