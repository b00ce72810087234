//! An answer as it came over the wire, and what every dialect reads from it in the same way: the status alone,
//! `Retry-After`, and text that may be shown to people.
//!
//! Pure: no clock. A `Retry-After` that names a date is measured against the answer's own `Date`, so that a wrong
//! clock on this host does not matter.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;

use crate::config::CodeClass;
use crate::message::mask_msisdn;
use crate::verdict::{DeferCause, Verdict};

/// A gateway that asks for more patience than this is asked again anyway.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// Characters of gateway text that are kept in a reason.
const QUOTE_CHARS: usize = 160;
/// So many digits in a row in a gateway's text are taken for somebody's number.
const NUMBER_DIGITS: usize = 7;

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
        let now = http_date(self.date.as_ref()?.to_str().ok()?)?;
        let secs = u64::try_from(until.saturating_sub(now)).unwrap_or(0);
        Some(Duration::from_secs(secs).min(LONGEST_WAIT))
    }

    /// Complete, and its status says success.
    pub(super) fn is_whole_success(&self) -> bool {
        (200..300).contains(&self.status) && !self.truncated
    }

    /// The body as JSON, if it is complete and valid.
    pub(super) fn json<'a, T: serde::Deserialize<'a>>(&'a self) -> Option<T> {
        if self.truncated { None } else { serde_json::from_slice(&self.body).ok() }
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
fn http_date(text: &str) -> Option<i64> {
    let parser = jiff::fmt::rfc2822::DateTimeParser::new();
    Some(parser.parse_timestamp(text.trim()).ok()?.as_second())
}

/// What a status means when the body does not decide. `said` is the gateway's own explanation, if it gave one.
///
/// 408 is unknown although it reads like a refusal: some servers and balancers send it on idle connections, where
/// it crosses with a request and is then taken for its answer.
pub(super) fn by_status(answer: &Answer, said: Option<&str>) -> Verdict {
    by_class(class_of_status(answer.status), answer, said)
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

/// The verdict of a class, in words. An `Accepted` carries no id: the dialect that knows one builds its own.
pub(super) fn by_class(class: CodeClass, answer: &Answer, said: Option<&str>) -> Verdict {
    let status = answer.status;
    let said = said.map(quote).filter(|text| !text.is_empty());
    let with = |sentence: String| match &said {
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
        CodeClass::Unknown => Verdict::Unknown { reason: unclear(answer, said.as_deref()) },
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

/// Text of a gateway made fit for a row and a log: one line, short, and with numbers masked.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::new();
    let mut digits = String::new();
    let mut kept = 0;
    // Mask before cutting, or a number cut in two would show its first half.
    for c in text.chars().take(4 * QUOTE_CHARS).chain(std::iter::once(' ')) {
        if c.is_ascii_digit() {
            digits.push(c);
            continue;
        }
        if !digits.is_empty() {
            let shown = if digits.len() >= NUMBER_DIGITS {
                mask_msisdn(&digits)
            } else {
                std::mem::take(&mut digits)
            };
            digits.clear();
            kept += shown.chars().count();
            out.push_str(&shown);
        }
        let c = if c.is_control() || c.is_whitespace() { ' ' } else { c };
        if !(c == ' ' && (out.is_empty() || out.ends_with(' '))) {
            out.push(c);
            kept += 1;
        }
        if kept >= QUOTE_CHARS {
            out.truncate(out.char_indices().nth(QUOTE_CHARS).map_or(out.len(), |(at, _)| at));
            out.push('…');
            return out;
        }
    }
    out.truncate(out.trim_end().len());
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderValue;
    use proptest::prelude::{any, prop_assert, proptest};

    use super::{Answer, by_status, quote};
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
        assert!(matches!(by_status(&answer, None), Verdict::Deferred { retry_after: None, .. }));
        answer.status = 429;
        assert!(matches!(
            by_status(&answer, None),
            Verdict::Deferred { cause: DeferCause::Throttled, retry_after: Some(wait), .. }
                if wait == Duration::from_secs(5)
        ));
    }

    #[test]
    fn a_quoted_text_is_one_line_without_numbers() {
        assert_eq!(
            quote("  Invalid\r\n MSISDN\t353871234567, code 12 "),
            "Invalid MSISDN 3538******67, code 12"
        );
        assert_eq!(quote("\u{0}\n"), "");
    }

    proptest! {
        #[test]
        fn a_quoted_text_is_short_and_shows_no_long_number(text in any::<String>(), number in "[0-9]{10,400}") {
            let quoted = quote(&format!("{text}{number}{text}"));
            prop_assert!(quoted.chars().count() <= 161);
            prop_assert!(!quoted.chars().any(char::is_control));
            let longest = quoted.split(|c: char| !c.is_ascii_digit()).map(str::len).max();
            prop_assert!(longest.unwrap_or(0) < 7, "{}", quoted);
        }
    }
}
