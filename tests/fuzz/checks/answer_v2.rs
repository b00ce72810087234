//! Answers of InteractSMS v2. Accepted is what says so itself, whole and with a success status; whatever is not clearly
//! the gateway's own answer is unknown, because the message may have been taken.

use std::collections::BTreeSet;

use outboxd::gateway::Answer;
use outboxd::verdict::{DeferCause, Joint, Verdict};
use serde_json::Value;

use super::words::{self, Kind};
use super::{case, site};

pub fn check(input: &[u8]) {
    let answer = case::answer(input);
    let found = words::kind(&words::verdict("v2", &answer));
    let allowed = allowed(&answer);
    assert!(allowed.contains(&found), "{answer:?} is {found:?}, which is none of {allowed:?}");
    check_shared(&answer, found);
}

/// The same answer to a request that several messages shared.
fn check_shared(answer: &Answer, alone: Kind) {
    let messages = site::messages();
    let Joint { verdict, exceptions, unmatched } = site::protocol("v2").joint_verdict(answer, &messages);
    let places: BTreeSet<usize> = exceptions.iter().map(|(at, _)| *at).collect();
    assert_eq!(places.len(), exceptions.len(), "a message was told apart twice: {exceptions:?}");
    assert!(places.iter().all(|at| *at < messages.len()), "{exceptions:?}");
    for verdict in exceptions.iter().map(|(_, verdict)| verdict).chain([&verdict]) {
        match verdict {
            Verdict::Accepted { note, .. } => {
                assert!((200..300).contains(&answer.status) && !answer.truncated, "{answer:?}");
                note.iter().for_each(|note| words::presentable(note));
            }
            Verdict::Rejected { reason, .. }
            | Verdict::Deferred { reason, .. }
            | Verdict::Unknown { reason } => {
                words::presentable(reason);
                words::no_piece_of_the_password(answer, reason);
            }
        }
    }
    let kind = words::kind(&verdict);
    // What is sent again must not have been taken: nothing is refused or deferred here that would not be so alone.
    if matches!(kind, Kind::Rejected | Kind::Deferred(_)) {
        assert_eq!(kind, alone, "{answer:?}");
    }
    if kind == Kind::Accepted && exceptions.is_empty() && unmatched.is_none() {
        assert_eq!(alone, Kind::Accepted, "{answer:?}");
    }
    assert!(unmatched.is_none() || kind == Kind::Accepted);
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
