//! Whom the entries of a partial answer name, where several messages shared a request.
//!
//! How such an entry looks is not documented. So any will do that holds one reference or one number of one message,
//! alone in a word; one that holds none, or those of two, names nobody: a guess would call the wrong message failed.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

use crate::message::{NotifyRef, Outgoing};

/// One entry: what it says, and the place of the message that it names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) names: Option<usize>,
    /// Empty if it says nothing.
    pub(super) text: String,
}

/// The messages of a request, by what may stand for them. No two have the same number.
pub(super) struct Members<'a> {
    by_reference: HashMap<&'a str, usize>,
    by_number: HashMap<&'a str, usize>,
}

impl<'a> Members<'a> {
    pub(super) fn of(messages: &'a [Outgoing]) -> Members<'a> {
        let by = |what: fn(&Outgoing) -> &str| messages.iter().map(what).zip(0..).collect();
        Members {
            by_reference: by(|message| &message.gateway_ref),
            by_number: by(|message| &message.recipient),
        }
    }

    /// What is listed: the items of an array, or the fields of an object whose keys name messages, or else one thing.
    pub(super) fn read(&self, listed: &Value) -> Vec<Entry> {
        match listed {
            Value::Array(items) => items.iter().map(|item| self.entry(words(item))).collect(),
            Value::Object(fields) if fields.keys().any(|key| self.named_in(key).is_some()) => {
                fields.iter().map(|(key, value)| self.entry(join(key.clone(), &words(value)))).collect()
            }
            other => vec![self.entry(words(other))],
        }
    }

    fn entry(&self, text: String) -> Entry {
        Entry { names: self.named_in(&text), text }
    }

    fn named_in(&self, text: &str) -> Option<usize> {
        let mut named = BTreeSet::new();
        for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-') {
            if let Some(at) = self.by_reference.get(word.to_ascii_uppercase().as_str()) {
                named.insert(*at);
            } else if NotifyRef::parse(word).is_none() {
                // The digits of somebody else's reference are nobody's number.
                named.extend(word.split('-').filter_map(|digits| self.by_digits(digits)));
            }
        }
        named.pop_first().filter(|_| named.is_empty())
    }

    /// We send international digits; one who puts 00 before them means the same.
    fn by_digits(&self, digits: &str) -> Option<usize> {
        let plain = digits.strip_prefix("00").unwrap_or(digits);
        self.by_number.get(plain).copied()
    }
}

/// The texts and numbers in a value, wherever they stand in it. Depth is bounded by the JSON parser.
pub(super) fn words(value: &Value) -> String {
    match value {
        Value::Null | Value::Bool(_) => String::new(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.trim().to_owned(),
        Value::Array(items) => items.iter().map(words).fold(String::new(), |all, one| join(all, &one)),
        Value::Object(fields) => fields.values().map(words).fold(String::new(), |all, one| join(all, &one)),
    }
}

fn join(mut all: String, one: &str) -> String {
    if !all.is_empty() && !one.is_empty() {
        all.push_str(", ");
    }
    all.push_str(one);
    all
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::Members;
    use crate::gateway::outgoing_for_tests;
    use crate::message::Outgoing;

    fn messages() -> Vec<Outgoing> {
        let message = |number: &str, reference: &str| Outgoing {
            recipient: number.to_owned(),
            gateway_ref: reference.to_owned(),
            ..outgoing_for_tests("hi")
        };
        vec![
            message("353871234567", "1A-0000000Z-1"),
            message("353871234568", "1B-0000000Z-1"),
            // Short enough to be a nonce.
            message("12345678", "1C-0000000Z-1"),
        ]
    }

    fn named(listed: &Value) -> Vec<Option<usize>> {
        Members::of(&messages()).read(listed).iter().map(|entry| entry.names).collect()
    }

    #[test]
    fn an_entry_names_the_one_message_whose_number_or_reference_stands_in_it() {
        for entry in [
            json!("353871234568"),
            json!(353_871_234_568_u64),
            json!("+353871234568"),
            json!("Invalid MSISDN: 00353871234568."),
            json!("1B-0000000Z-1"),
            json!("1b-0000000z-1: barred"),
            json!({"msisdn": "353871234568", "message": "Invalid"}),
            json!({"error": {"to": ["353871234568", "1B-0000000Z-1"]}, "code": 17}),
        ] {
            assert_eq!(named(&json!([entry])), [Some(1)], "{entry}");
        }
    }

    #[test]
    fn an_entry_that_could_be_about_another_names_nobody() {
        for entry in [
            json!("Invalid MSISDN"),
            json!(null),
            json!({}),
            json!("recipientInfo[1].msisdn"),
            json!("3538712345689 and 53871234568"),
            json!("353 87 123 4568"),
            json!("353871234568 repeats 353871234567"),
            json!({"msisdn": "353871234568", "notifyId": "1A-0000000Z-1"}),
            // Somebody else's reference.
            json!("1B-12345678-1"),
            json!("x353871234568"),
        ] {
            assert_eq!(named(&json!([entry])), [None], "{entry}");
        }
    }

    #[test]
    fn fields_are_entries_where_their_names_are_those_of_messages() {
        let listed = json!({"353871234567": ["Invalid"], "12345678": "Barred", "other": "?"});
        let mut found = named(&listed);
        found.sort_unstable();
        assert_eq!(found, [None, Some(0), Some(2)]);
        assert_eq!(named(&json!({"msisdn": "353871234567", "message": "Invalid"})), [Some(0)]);
        assert_eq!(named(&json!("Invalid MSISDN: 353871234567")), [Some(0)]);
    }
}
