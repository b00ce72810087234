//! Answers of InteractSMS v2. Accepted is what says so itself, whole and with a success status; whatever is not clearly
//! the gateway's own answer is unknown, because the message may have been taken.

use outboxd::gateway::Answer;
use outboxd::verdict::DeferCause;
use serde_json::Value;

use super::case;
use super::words::{self, Kind};

pub fn check(input: &[u8]) {
    let answer = case::answer(input);
    let found = words::kind(&words::verdict("v2", &answer));
    let allowed = allowed(&answer);
    assert!(allowed.contains(&found), "{answer:?} is {found:?}, which is none of {allowed:?}");
}

/// Every kind of verdict that such an answer may lead to. The wording of a refusal may turn it into one for the account.
fn allowed(answer: &Answer) -> Vec<Kind> {
    // Bytes in it that are no text are forgiven where they decide nothing.
    let text = String::from_utf8_lossy(&answer.body);
    let body: Option<Value> = serde_json::from_str(&text).ok().filter(|_| !answer.truncated);
    let own = body.and_then(|body| Some((body.get("success")?.as_bool()?, body)));
    let says = |words: &str| text.to_ascii_lowercase().contains(words);
    let mut kinds = match (answer.status, own) {
        (200..=299, Some((true, body))) if says_nothing(&body["errors"]) => {
            return vec![Kind::Accepted, Kind::Unknown];
        }
        (200..=299, Some((true, body))) if !has_words(&body["errors"]) => return vec![Kind::Unknown],
        (200..=299, Some(_)) => vec![Kind::Rejected, Kind::Unknown],
        (502..=504, Some((false, _))) => vec![Kind::Deferred(DeferCause::Busy), Kind::Unknown],
        (400 | 422, Some(_)) => vec![Kind::Rejected],
        (status, _) => return vec![words::by_status(status)],
    };
    if says("no credit") || says("\\u") {
        kinds.push(Kind::Deferred(DeferCause::NoCredit));
    }
    if says("sender is not valid") || says("\\u") {
        kinds.push(Kind::Rejected);
    }
    kinds
}

/// Nothing is listed there, in whatever way one may write that.
fn says_nothing(errors: &Value) -> bool {
    match errors {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// A text or a number stands in it somewhere.
fn has_words(errors: &Value) -> bool {
    match errors {
        Value::Null | Value::Bool(_) => false,
        Value::Number(_) => true,
        Value::String(text) => !text.trim().is_empty(),
        Value::Array(items) => items.iter().any(has_words),
        Value::Object(fields) => fields.values().any(has_words),
    }
}
