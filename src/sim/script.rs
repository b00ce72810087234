//! Misbehaviour on demand: a queue of rules, each used on the next requests that fit it.
//!
//! A rule says *what* happens; `answer` carries it out. Nothing here touches a socket.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    Token,
    V1Form,
    V1Json,
    V2,
    Kannel,
    SenderList,
    Health,
}

impl Target {
    /// Asks for a message to be sent.
    pub const fn sends(self) -> bool {
        match self {
            Target::V1Form | Target::V1Json | Target::V2 | Target::Kannel => true,
            Target::Token | Target::SenderList | Target::Health => false,
        }
    }
}

/// Which requests a rule is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum On {
    /// Every request to send, in any dialect.
    #[default]
    Send,
    Any,
    Token,
    V1Form,
    V1Json,
    V2,
    Kannel,
    SenderList,
    Health,
}

impl On {
    fn fits(self, target: Target) -> bool {
        match self {
            On::Send => target.sends(),
            On::Any => true,
            On::Token => target == Target::Token,
            On::V1Form => target == Target::V1Form,
            On::V1Json => target == Target::V1Json,
            On::V2 => target == Target::V2,
            On::Kannel => target == Target::Kannel,
            On::SenderList => target == Target::SenderList,
            On::Health => target == Target::Health,
        }
    }
}

/// One entry of the script.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    #[serde(rename = "do")]
    pub act: Act,
    #[serde(default)]
    pub on: On,
    /// Digits that the first recipient starts with; empty: any request.
    #[serde(default)]
    pub prefix: String,
    /// Requests that fit and are let through first.
    #[serde(default)]
    pub skip: u32,
    /// Requests it is used on; 0: until the script is cleared.
    #[serde(default = "once")]
    pub times: u32,
}

const fn once() -> u32 {
    1
}

const fn yes() -> bool {
    true
}

const fn ok() -> u16 {
    200
}

const fn one() -> usize {
    1
}

impl Rule {
    /// Used once, on the next request to send.
    pub fn new(act: Act) -> Rule {
        Rule { act, on: On::Send, prefix: String::new(), skip: 0, times: 1 }
    }

    #[must_use]
    pub fn on(self, on: On) -> Rule {
        Rule { on, ..self }
    }

    #[must_use]
    pub fn times(self, times: u32) -> Rule {
        Rule { times, ..self }
    }

    #[must_use]
    pub fn always(self) -> Rule {
        self.times(0)
    }

    #[must_use]
    pub fn skip(self, skip: u32) -> Rule {
        Rule { skip, ..self }
    }

    #[must_use]
    pub fn prefix(self, prefix: impl Into<String>) -> Rule {
        Rule { prefix: prefix.into(), ..self }
    }
}

/// What happens to a request. `accept` says whether its messages travel on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Act {
    /// Any status, headers and body.
    Answer {
        status: u16,
        #[serde(default)]
        headers: BTreeMap<String, String>,
        #[serde(default)]
        body: String,
        #[serde(default)]
        accept: bool,
    },
    /// The connection ends without a byte of an answer; `reset`: with RST instead of FIN.
    Drop {
        #[serde(default)]
        accept: bool,
        #[serde(default)]
        reset: bool,
    },
    /// No answer, ever, while the connection stays open.
    Hang {
        #[serde(default)]
        accept: bool,
    },
    /// Accepted at once, and answered so much later: receipts may be faster than the answer.
    Late { ms: u64 },
    /// The true answer, `bytes` at a time, `ms` apart.
    Drip {
        ms: u64,
        #[serde(default = "one")]
        bytes: usize,
    },
    /// The true answer stops after `keep` bytes, head included; without `keep`, in the middle of its body.
    Truncate {
        #[serde(default)]
        keep: Option<usize>,
    },
    /// The true answer with a Content-Length that is off by so much; then the connection ends.
    WrongLength { by: i64 },
    /// The true answer; then the connection ends, without having said so.
    CloseAfter {},
    /// A page for people, as proxies and firewalls serve.
    Page {
        #[serde(default = "ok")]
        status: u16,
        #[serde(default = "yes")]
        accept: bool,
    },
    /// A body of so many bytes.
    Huge {
        bytes: usize,
        #[serde(default = "yes")]
        accept: bool,
    },
    /// No body.
    Empty {
        #[serde(default = "ok")]
        status: u16,
        #[serde(default = "yes")]
        accept: bool,
    },
    /// Bytes that are no text.
    Binary {
        #[serde(default = "yes")]
        accept: bool,
    },
    /// The gateway's own refusal, in the words of the dialect.
    Refuse { reason: Refusal },
    /// Every access token that was given out ends now; then the request is handled as usual.
    ExpireTokens {},
}

/// Why the gateway itself refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// Wrong user, password, API id or token.
    Login,
    Sender,
    Credits,
    /// No recipient is a number.
    Number,
    /// Something else is missing or wrong.
    Parameter,
    /// A failure inside the gateway, before anything was accepted.
    Busy,
}

impl Act {
    /// Whether the request is handled as usual before the act changes its answer.
    pub(super) const fn handles(&self) -> bool {
        match self {
            Act::Answer { accept, .. }
            | Act::Drop { accept, .. }
            | Act::Hang { accept }
            | Act::Page { accept, .. }
            | Act::Huge { accept, .. }
            | Act::Empty { accept, .. }
            | Act::Binary { accept } => *accept,
            Act::Late { .. }
            | Act::Drip { .. }
            | Act::Truncate { .. }
            | Act::WrongLength { .. }
            | Act::CloseAfter {}
            | Act::Refuse { .. }
            | Act::ExpireTokens {} => true,
        }
    }
}

/// The rules that wait for their requests, oldest first.
#[derive(Debug, Default)]
pub(super) struct Script {
    rules: Mutex<VecDeque<Rule>>,
    /// Length of `rules`, so that an empty script costs no lock.
    waiting: AtomicUsize,
}

impl Script {
    pub(super) fn push(&self, rule: Rule) {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        rules.push_back(rule);
        self.waiting.store(rules.len(), Ordering::Release);
    }

    pub(super) fn clear(&self) {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        rules.clear();
        self.waiting.store(0, Ordering::Release);
    }

    pub(super) fn rules(&self) -> Vec<Rule> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Takes the first rule that fits. A rule that only counts down its `skip` lets later rules have the request.
    pub(super) fn next(&self, target: Target, number: &str) -> Option<Act> {
        if self.waiting.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = None;
        for (at, rule) in rules.iter_mut().enumerate() {
            if !rule.on.fits(target) || !number.starts_with(&rule.prefix) {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            found = Some(at);
            break;
        }
        let at = found?;
        let rule = rules.get_mut(at)?;
        let act = rule.act.clone();
        match rule.times {
            0 => {}
            1 => {
                rules.remove(at);
            }
            _ => rule.times -= 1,
        }
        self.waiting.store(rules.len(), Ordering::Release);
        Some(act)
    }
}

#[cfg(test)]
mod tests {
    use super::{Act, Rule, Script, Target};

    #[test]
    fn rules_are_used_in_order_as_often_as_they_say() {
        let script = Script::default();
        script.push(Rule::new(Act::CloseAfter {}).times(2).prefix("353"));
        script.push(Rule::new(Act::Late { ms: 1 }).skip(1));
        assert_eq!(script.next(Target::Token, ""), None);
        assert_eq!(script.next(Target::V2, "44700"), None, "skipped once");
        assert_eq!(script.next(Target::V2, "353871"), Some(Act::CloseAfter {}));
        assert_eq!(script.next(Target::V2, "44700"), Some(Act::Late { ms: 1 }));
        assert_eq!(script.next(Target::V1Form, "353871"), Some(Act::CloseAfter {}));
        assert_eq!(script.next(Target::V2, "353871"), None);
        assert!(script.rules().is_empty());
    }

    #[test]
    fn a_misspelt_rule_is_refused() {
        for text in [
            r#"{"do":{"drop":{"acept":true}}}"#,
            r#"{"do":{"dorp":{}}}"#,
            r#"{"do":{"drop":{}},"time":3}"#,
            r#"{"on":"send"}"#,
        ] {
            assert!(serde_json::from_str::<Rule>(text).is_err(), "{text}");
        }
        let rule: Rule = serde_json::from_str(r#"{"do":{"drop":{"accept":true}}}"#).unwrap();
        assert_eq!(rule, Rule::new(Act::Drop { accept: true, reset: false }));
    }
}
