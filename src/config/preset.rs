//! Well-known products behind the `http` dialect: what they take and what they answer.
//!
//! A preset fills in what the operator left out; everything in it can be overridden in the file.

use super::{CodeClass, Extract, HttpMethod, HttpRule};

/// What a preset fills in. The query goes behind a URL that has none.
#[derive(Debug)]
pub(super) struct Preset {
    pub(super) method: HttpMethod,
    pub(super) query: &'static str,
    pub(super) rules: Vec<HttpRule>,
    pub(super) message_id: Option<Extract>,
    pub(super) error: Option<Extract>,
    pub(super) plus: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PresetName {
    Kannel,
}

pub(super) const NAMES: &[(&str, PresetName)] = &[("kannel", PresetName::Kannel)];

impl PresetName {
    pub(super) fn preset(self) -> Preset {
        match self {
            PresetName::Kannel => kannel(),
        }
    }
}

/// Kannel's smsbox answers 202 when it took the message or queued it, and gives no id. Its 503 says that it did
/// not take it.
fn kannel() -> Preset {
    let rule = |status: u16, class: CodeClass| HttpRule {
        status: (status, status),
        body_starts_with: None,
        json_equals: None,
        class,
    };
    Preset {
        method: HttpMethod::Get,
        query: "username={username}&password={password}&from={sender}&to={recipient}&text={text}\
                &charset=UTF-8&coding={encoding:0|2}",
        rules: vec![
            rule(202, CodeClass::Accepted),
            rule(503, CodeClass::Busy),
            rule(401, CodeClass::Unauthorized),
            rule(403, CodeClass::Unauthorized),
        ],
        message_id: None,
        error: Some(Extract::Body),
        plus: false,
    }
}
