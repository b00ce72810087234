//! The wall clock, as callbacks and the ledger write it. The only place in the simulator that reads it.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Microseconds since 1970.
pub(super) fn now_us() -> i64 {
    Timestamp::now().as_microsecond()
}

/// `2026-04-08 09:15:02`, UTC, as receipts and inbound messages have it.
pub(super) fn seconds(us: i64) -> String {
    civil(us).map(|time| time.strftime("%Y-%m-%d %H:%M:%S").to_string()).unwrap_or_default()
}

/// `2026-04-08T09:15:02.1234560Z`: seven fractional digits, as processing results have it.
pub(super) fn ticks(us: i64) -> String {
    let fraction = us.rem_euclid(1_000_000) * 10;
    civil(us).map(|time| format!("{}.{fraction:07}Z", time.strftime("%Y-%m-%dT%H:%M:%S"))).unwrap_or_default()
}

/// Milliseconds from now to a time like `2030-06-01T09:00Z`; 0 when it is past. `None`: not a time.
pub(super) fn ms_until(text: &str) -> Option<u64> {
    let then: Timestamp = text.parse().ok()?;
    Some(ms_from_now(then.as_millisecond()))
}

/// Milliseconds from now to this many seconds after 1970; 0 when it is past.
pub(super) fn ms_until_unix(seconds: i64) -> u64 {
    ms_from_now(seconds.saturating_mul(1000))
}

fn ms_from_now(then_ms: i64) -> u64 {
    u64::try_from(then_ms - now_us() / 1000).unwrap_or(0)
}

fn civil(us: i64) -> Option<jiff::Zoned> {
    Some(Timestamp::from_microsecond(us).ok()?.to_zoned(TimeZone::UTC))
}

#[cfg(test)]
mod tests {
    use super::{ms_until, seconds, ticks};

    #[test]
    fn times_are_written_as_the_gateway_writes_them() {
        let us = 1_775_639_702_123_456;
        assert_eq!(seconds(us), "2026-04-08 09:15:02");
        assert_eq!(ticks(us), "2026-04-08T09:15:02.1234560Z");
        assert_eq!(ms_until("2020-06-01T09:00Z"), Some(0));
        assert!(ms_until("2130-06-01T09:00Z").is_some_and(|ms| ms > 0));
        assert_eq!(ms_until("tomorrow"), None);
    }
}
