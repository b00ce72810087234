//! An answer as it came over the wire, and what every dialect reads from it in the same way: the status alone, and
//! `Retry-After`.
//!
//! Pure: no clock. A `Retry-After` that names a date is measured against the answer's own `Date`, so that a wrong
//! clock on this host does not matter.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;

use crate::config::CodeClass;
use crate::verdict::{DeferCause, Verdict};

/// A gateway that asks for more patience than this is asked again anyway.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub retry_after: Option<HeaderValue>,
    pub date: Option<HeaderValue>,
    /// At most the first 64 KiB.
    pub body: Bytes,
    /// The body was longer than that, broke off, or did not end in time.
    pub truncated: bool,
}

impl Answer {
    pub fn new(status: u16, body: impl Into<Bytes>) -> Answer {
        Answer { status, retry_after: None, date: None, body: body.into(), truncated: false }
    }

    /// How long the gateway asks us to wait, at most an hour. Nonsense counts as nothing.
    pub fn wait(&self) -> Option<Duration> {
        let text = self.retry_after.as_ref()?.to_str().ok()?.trim();
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            let secs = text.parse::<u64>().unwrap_or(u64::MAX);
            return Some(Duration::from_secs(secs).min(LONGEST_WAIT));
        }
        let until = http_date(text)?;
        let now = self.told_time()?;
        let secs = u64::try_from(until.saturating_sub(now)).unwrap_or(0);
        Some(Duration::from_secs(secs).min(LONGEST_WAIT))
    }

    /// What time it was where it came from: seconds since 1970.
    pub(super) fn told_time(&self) -> Option<i64> {
        http_date(self.date.as_ref()?.to_str().ok()?)
    }

    /// Complete, and its status says success.
    pub(super) fn is_whole_success(&self) -> bool {
        (200..300).contains(&self.status) && !self.truncated
    }

    /// The body as a JSON object with the fields of `T`. A list of the same values, which a derived reader would take as
    /// well, is nobody's answer.
    pub(super) fn object<'a, T: serde::Deserialize<'a>>(&'a self) -> Option<T> {
        if self.body.trim_ascii_start().starts_with(b"{") { self.json() } else { None }
    }

    /// The body as JSON, if it is complete and valid.
    pub(super) fn json<'a, T: serde::Deserialize<'a>>(&'a self) -> Option<T> {
        if self.truncated {
            return None;
        }
        // All of it must be text: a derived reader looks at no field that it does not know.
        let text = std::str::from_utf8(&self.body).ok()?;
        serde_json::from_str(text).ok()
    }
}

/// Answers may repeat texts and numbers, so `Debug` shows no body.
impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("status", &self.status)
            .field("retry_after", &self.retry_after)
            .field("body_len", &self.body.len())
            .field("truncated", &self.truncated)
            .finish_non_exhaustive()
    }
}

/// Seconds since 1970 of an `IMF-fixdate`; the two older forms count as nonsense.
pub(super) fn http_date(text: &str) -> Option<i64> {
    let parser = jiff::fmt::rfc2822::DateTimeParser::new();
    Some(parser.parse_timestamp(text.trim()).ok()?.as_second())
}

/// What a status means when the body does not decide.
///
/// 408 is unknown although it reads like a refusal: some servers and balancers send it on idle connections, where
/// it crosses with a request and is then taken for its answer.
pub(super) fn by_status(answer: &Answer) -> Verdict {
    by_class(class_of_status(answer.status), answer, None)
}

pub(super) const fn class_of_status(status: u16) -> CodeClass {
    match status {
        400 | 422 => CodeClass::Rejected,
        401 => CodeClass::Unauthorized,
        402 => CodeClass::NoCredit,
        408 => CodeClass::Unknown,
        429 => CodeClass::Throttled,
        300..=499 => CodeClass::Misconfigured,
        _ => CodeClass::Unknown,
    }
}

/// The verdict of a class, in words. `said` is the gateway's own explanation, if it gave one, fit to be quoted. An
/// `Accepted` carries no id: the dialect that knows one builds its own.
pub(super) fn by_class(class: CodeClass, answer: &Answer, said: Option<&str>) -> Verdict {
    let status = answer.status;
    let said = said.filter(|text| !text.is_empty());
    let with = |sentence: String| match said {
        Some(text) => format!("{sentence}: \"{text}\""),
        None => sentence,
    };
    let deferred = |cause, sentence: String| Verdict::Deferred {
        cause,
        retry_after: match cause {
            DeferCause::Throttled | DeferCause::Busy => answer.wait(),
            _ => None,
        },
        reason: with(sentence),
    };
    match class {
        CodeClass::Accepted => Verdict::Accepted { gateway_message_id: None, note: None },
        CodeClass::Rejected => Verdict::Rejected {
            code: "gateway_refused",
            reason: with(format!("the gateway refused the message (HTTP {status})")),
        },
        CodeClass::Throttled => {
            deferred(DeferCause::Throttled, format!("the gateway asks for fewer messages (HTTP {status})"))
        }
        CodeClass::Busy => deferred(
            DeferCause::Busy,
            format!("the gateway did not take the message for now (HTTP {status})"),
        ),
        CodeClass::NoCredit => {
            deferred(DeferCause::NoCredit, format!("the gateway account has no credit (HTTP {status})"))
        }
        CodeClass::Unauthorized => deferred(
            DeferCause::Unauthorized,
            format!("the gateway did not accept our credentials (HTTP {status}); check user and password"),
        ),
        CodeClass::Misconfigured => deferred(
            DeferCause::Misconfigured,
            format!(
                "the gateway has nothing to take messages at this address (HTTP {status}); {}",
                hint(status)
            ),
        ),
        CodeClass::Unknown => Verdict::Unknown { reason: unclear(answer, said) },
    }
}

/// What to look at first, for a status that every message would get.
const fn hint(status: u16) -> &'static str {
    match status {
        300..=399 => "it answered with a redirect, which is not followed; check the gateway's url",
        403 => "check the account's rights and whether this host's address is allowed",
        407 => "the proxy wants a log-in; check user and password in proxy",
        _ => "check the gateway's url",
    }
}

fn unclear(answer: &Answer, said: Option<&str>) -> String {
    let status = answer.status;
    let what = if answer.truncated {
        "was cut off or too long"
    } else if answer.body.is_empty() {
        "was empty"
    } else if answer.body.trim_ascii_start().starts_with(b"<") {
        "was a web page, not one of the gateway's own"
    } else {
        "does not say whether the message was accepted"
    };
    match said {
        Some(text) => format!("the answer (HTTP {status}) {what}: \"{text}\""),
        None => format!("the answer (HTTP {status}) {what}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderValue;

    use super::{Answer, by_status};
    use crate::verdict::{DeferCause, Verdict};

    fn wait(retry_after: &str, date: Option<&str>) -> Option<u64> {
        let mut answer = Answer::new(429, "");
        answer.retry_after = Some(HeaderValue::from_str(retry_after).unwrap());
        answer.date = date.map(|text| HeaderValue::from_str(text).unwrap());
        answer.wait().map(|wait| wait.as_secs())
    }

    #[test]
    fn retry_after_is_read_as_seconds_or_date_and_never_exceeds_an_hour() {
        let date = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(wait("7", None), Some(7));
        assert_eq!(wait(" 0 ", None), Some(0));
        assert_eq!(wait("31536000", None), Some(3600));
        assert_eq!(wait("99999999999999999999999999", None), Some(3600));
        assert_eq!(wait("Sun, 06 Nov 1994 08:50:07 GMT", date), Some(30));
        assert_eq!(wait("Sun, 06 Nov 2044 08:50:07 GMT", date), Some(3600));
        assert_eq!(wait("Sun, 06 Nov 1994 08:00:00 GMT", date), Some(0));
        for nonsense in ["", "-1", "soon", "1.5", "Sun, 06 Nov", "1 second"] {
            assert_eq!(wait(nonsense, date), None, "{nonsense}");
        }
        assert_eq!(wait("Sun, 06 Nov 1994 08:50:07 GMT", None), None, "no date to measure it against");
    }

    #[test]
    fn only_throttled_and_busy_answers_carry_a_wait() {
        let mut answer = Answer::new(404, "");
        answer.retry_after = Some(HeaderValue::from_static("5"));
        assert!(matches!(by_status(&answer), Verdict::Deferred { retry_after: None, .. }));
        answer.status = 429;
        assert!(matches!(
            by_status(&answer),
            Verdict::Deferred { cause: DeferCause::Throttled, retry_after: Some(wait), .. }
                if wait == Duration::from_secs(5)
        ));
    }
}
