//! What may stand in the words of a verdict or a fault, whatever the gateway wrote.

use std::time::Duration;

use outboxd::config::CodeClass;
use outboxd::gateway::{Answer, Deferral};
use outboxd::verdict::{DeferCause, Verdict};
use serde_json::Value;

use super::site::{self, NUMBER, PASSWORD, TEXT};

/// A reason is one sentence and a short quotation.
const MOST_CHARS: usize = 500;
/// The most that a gateway may ask us to wait.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Judges an answer and looks at the words of the verdict.
pub fn verdict(gateway: &str, answer: &Answer) -> Verdict {
    let protocol = site::protocol(gateway);
    let verdict = protocol.verdict(answer, &site::message());
    if let Verdict::Rejected { reason, .. } | Verdict::Deferred { reason, .. } | Verdict::Unknown { reason } =
        &verdict
    {
        for key in keys(gateway) {
            assert!(!reason.contains(key), "{gateway}: a key: {reason}");
        }
        no_piece_of_the_password(answer, reason);
    }
    assert_eq!(verdict, protocol.verdict(answer, &site::message()), "the same answer means the same");
    match &verdict {
        Verdict::Accepted { gateway_message_id, note } => {
            assert!(
                (200..300).contains(&answer.status) && !answer.truncated,
                "{gateway}: accepted by {answer:?}"
            );
            if let Some(id) = gateway_message_id {
                assert!(!id.is_empty() && id.chars().count() <= 128, "{gateway}: id {id:?}");
                let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '<' | '>' | '"');
                assert!(!id.contains(odd), "{gateway}: id {id:?}");
            }
            note.iter().for_each(|note| presentable(note));
        }
        Verdict::Rejected { code, reason } => {
            assert!(code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{code}");
            presentable(reason);
        }
        Verdict::Deferred { cause, retry_after, reason } => {
            deferral(&Deferral { cause: *cause, retry_after: *retry_after, reason: reason.clone() });
        }
        Verdict::Unknown { reason } => presentable(reason),
    }
    verdict
}

/// Where the gateway repeated the whole password, not even its beginning is left.
pub fn no_piece_of_the_password(answer: &Answer, reason: &str) {
    const PIECE: &str = "hunter2-";
    let body = String::from_utf8_lossy(&answer.body);
    let json = serde_json::to_string(PASSWORD).unwrap_or_default();
    let form: String = form_urlencoded::byte_serialize(PASSWORD.as_bytes()).collect();
    let rest = [PASSWORD, json.trim_matches('"'), &form]
        .iter()
        .fold(body.into_owned(), |body, spelling| body.replace(spelling, " "));
    assert!(rest.contains(PIECE) || !reason.contains(PIECE), "the password: {reason}");
}

/// What the configuration of a gateway sends beside its password.
fn keys(gateway: &str) -> &'static [&'static str] {
    match gateway {
        "quoted" => &["AKIA-0123456789-key"],
        "bare" => &["AKIA-0123456789-key", "secret-header-key"],
        _ => &[],
    }
}

pub fn deferral(deferral: &Deferral) {
    presentable(&deferral.reason);
    if let Some(wait) = deferral.retry_after {
        assert!(wait <= LONGEST_WAIT, "{wait:?}");
        assert!(!deferral.cause.needs_a_person(), "waiting does not mend {:?}", deferral.cause);
    }
    assert_ne!(deferral.cause, DeferCause::NotStarted, "an answer came");
    assert_ne!(deferral.cause, DeferCause::Unreachable, "an answer came");
}

/// Fit for a column and a log line: short, in one line, with nobody's number, no text and no secret in it.
pub fn presentable(reason: &str) {
    assert!(!reason.is_empty());
    assert!(reason.chars().count() <= MOST_CHARS, "{} characters: {reason}", reason.chars().count());
    assert!(!reason.contains(char::is_control), "{reason:?}");
    assert!(!reason.contains(&NUMBER[3..]), "the number: {reason}");
    assert!(!reason.contains(PASSWORD) && !reason.contains("5551234567"), "the password: {reason}");
    let words = TEXT.replace('\n', "");
    assert!(!reason.contains(&words[..8]), "the text: {reason}");
    assert!(!reason.contains("482913"), "what the text confides: {reason}");
}

/// The body as JSON, if the answer is whole.
pub fn json(answer: &Answer) -> Option<Value> {
    if answer.truncated { None } else { serde_json::from_slice(&answer.body).ok() }
}

/// What a verdict says about the gateway or the message, without the words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Accepted,
    Rejected,
    Deferred(DeferCause),
    Unknown,
}

pub fn kind(verdict: &Verdict) -> Kind {
    match verdict {
        Verdict::Accepted { .. } => Kind::Accepted,
        Verdict::Rejected { .. } => Kind::Rejected,
        Verdict::Deferred { cause, .. } => Kind::Deferred(*cause),
        Verdict::Unknown { .. } => Kind::Unknown,
    }
}

/// What a status by itself says, as the README tells operators.
pub fn by_status(status: u16) -> Kind {
    match status {
        400 | 422 => Kind::Rejected,
        401 => Kind::Deferred(DeferCause::Unauthorized),
        402 => Kind::Deferred(DeferCause::NoCredit),
        429 => Kind::Deferred(DeferCause::Throttled),
        408 => Kind::Unknown,
        300..=499 => Kind::Deferred(DeferCause::Misconfigured),
        _ => Kind::Unknown,
    }
}

/// The kind of a class that an operator names in a rule.
pub fn of_class(class: CodeClass) -> Kind {
    match class {
        CodeClass::Accepted => Kind::Accepted,
        CodeClass::Rejected => Kind::Rejected,
        CodeClass::Throttled => Kind::Deferred(DeferCause::Throttled),
        CodeClass::Busy => Kind::Deferred(DeferCause::Busy),
        CodeClass::NoCredit => Kind::Deferred(DeferCause::NoCredit),
        CodeClass::Unauthorized => Kind::Deferred(DeferCause::Unauthorized),
        CodeClass::Misconfigured => Kind::Deferred(DeferCause::Misconfigured),
        CodeClass::Unknown => Kind::Unknown,
    }
}
