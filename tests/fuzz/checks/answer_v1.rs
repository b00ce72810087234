//! Answers of InteractSMS v1, form and JSON: HTTP 200 whatever happened, and a first line that is a code. Only `0` is a
//! success; only a number is a refusal; all else may be anybody's page.

use std::borrow::Cow;

use outboxd::config::CodeClass;
use outboxd::gateway::Answer;
use serde_json::Value;

use super::case;
use super::words::{self, Kind};

/// As in the configuration of the site.
const MAPPED: [(&str, CodeClass); 4] = [
    ("7", CodeClass::NoCredit),
    ("BUSY", CodeClass::Busy),
    ("3", CodeClass::Accepted),
    ("9", CodeClass::Unknown),
];

pub fn check(input: &[u8]) {
    let answer = case::answer(input);
    let form = String::from_utf8_lossy(&answer.body);
    judge("v1", &answer, Some(form.clone()), &MAPPED);
    judge("v1-latin1", &answer, Some(form.clone()), &[]);
    let status = words::json(&answer).and_then(|body| match body.get("status")? {
        Value::String(text) => Some(Cow::Owned(text.clone())),
        Value::Number(number) => Some(Cow::Owned(number.to_string())),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    });
    judge("v1-json", &answer, status, &MAPPED);
}

fn judge(gateway: &str, answer: &Answer, text: Option<Cow<'_, str>>, mapped: &[(&str, CodeClass)]) {
    let found = words::kind(&words::verdict(gateway, answer));
    let whole = answer.status == 200 && !answer.truncated;
    let Some(text) = text.filter(|_| whole) else {
        assert_eq!(found, words::by_status(answer.status), "{gateway}: {answer:?}");
        return;
    };
    let text = text.trim_start_matches('\u{feff}').trim();
    let code = text.split('\n').next().unwrap_or_default().trim();
    let expected = match mapped.iter().find(|(mapped, _)| *mapped == code) {
        Some((_, class)) => words::of_class(*class),
        None if code == "0" => Kind::Accepted,
        None if is_nonzero_number(code) => Kind::Rejected,
        None => Kind::Unknown,
    };
    // A field that stands twice is one that two readers may read differently.
    let twice = gateway == "v1-json" && found == Kind::Unknown;
    assert!(found == expected || twice, "{gateway}: {code:?} is {found:?}, not {expected:?}");
}

fn is_nonzero_number(code: &str) -> bool {
    let digits = code.strip_prefix('-').unwrap_or(code);
    code.len() <= 16 && digits.bytes().all(|b| b.is_ascii_digit()) && digits.bytes().any(|b| b != b'0')
}
