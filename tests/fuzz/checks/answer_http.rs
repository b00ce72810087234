//! Answers of gateways that the configuration describes. Accepted needs a rule that says so, a whole answer with a success
//! status, and the id where it was said to stand: exactly what stands there, and nothing that is no id.

use outboxd::gateway::Answer;
use outboxd::verdict::{DeferCause, Verdict};
use serde_json::Value;

use super::case;
use super::words::{self, Kind};

pub fn check(input: &[u8]) {
    let answer = case::answer(input);
    kannel(&answer);
    json(&answer);
    quoted(&answer);
    bare(&answer);
}

fn kannel(answer: &Answer) {
    let verdict = words::verdict("kannel", answer);
    let expected = match answer.status {
        202 if answer.truncated => Kind::Unknown,
        202 => Kind::Accepted,
        503 => Kind::Deferred(DeferCause::Busy),
        403 => Kind::Deferred(DeferCause::Unauthorized),
        status => words::by_status(status),
    };
    assert_eq!(words::kind(&verdict), expected, "{answer:?}");
    assert!(!matches!(verdict, Verdict::Accepted { gateway_message_id: Some(_), .. }), "Kannel gives no id");
}

fn json(answer: &Answer) {
    let verdict = words::verdict("json", answer);
    let body = words::json(answer);
    let at = |pointer: &str| body.as_ref().and_then(|body| body.pointer(pointer)).and_then(leaf);
    let status = at("/messages/0/status");
    let expected = match (answer.status, status.as_deref()) {
        (200..=299, Some("0")) => Kind::Accepted,
        (200, Some("1")) => Kind::Deferred(DeferCause::Throttled),
        (200, Some("9")) => Kind::Deferred(DeferCause::NoCredit),
        (100..=599, Some("busy")) => Kind::Deferred(DeferCause::Busy),
        (200, _) if at("/error/final").as_deref() == Some("true") => Kind::Rejected,
        (status, _) => words::by_status(status),
    };
    with_id("json", answer, &verdict, expected, at("/messages/0/id").as_deref());
}

fn quoted(answer: &Answer) {
    let verdict = words::verdict("quoted", answer);
    let success = answer.body.trim_ascii_start().starts_with(b"Success");
    let expected = match answer.status {
        200 if success && !answer.truncated => Kind::Accepted,
        412 => Kind::Rejected,
        status => words::by_status(status),
    };
    let text = std::str::from_utf8(&answer.body).ok();
    let id = text.and_then(|text| text.split_once("Success \"")).map(|(_, after)| {
        let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '\'');
        after.split(ends).next().unwrap_or_default().to_owned()
    });
    with_id("quoted", answer, &verdict, expected, id.as_deref());
}

fn bare(answer: &Answer) {
    let verdict = words::verdict("bare", answer);
    let expected = match answer.status {
        200 if !answer.truncated => Kind::Accepted,
        status => words::by_status(status),
    };
    let id = std::str::from_utf8(&answer.body).ok().map(|text| text.trim().to_owned());
    with_id("bare", answer, &verdict, expected, id.as_deref());
}

/// What was to be accepted is accepted with exactly this id, or unknown when that is no id.
fn with_id(gateway: &str, answer: &Answer, verdict: &Verdict, expected: Kind, id: Option<&str>) {
    let found = words::kind(verdict);
    if expected != Kind::Accepted {
        assert_eq!(found, expected, "{gateway}: {answer:?}");
        return;
    }
    match verdict {
        Verdict::Accepted { gateway_message_id, .. } => {
            assert_eq!(gateway_message_id.as_deref(), id, "{gateway}: a foreign id");
        }
        // What an id may look like is asserted with the words.
        Verdict::Unknown { .. } => {
            let plain = |id: &str| {
                (1..=64).contains(&id.len())
                    && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':'))
            };
            assert!(!id.is_some_and(plain), "{gateway}: the id {id:?} was not taken");
        }
        Verdict::Rejected { .. } | Verdict::Deferred { .. } => {
            panic!("{gateway}: a rule says accepted, and {answer:?} is {found:?}")
        }
    }
}

fn leaf(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
