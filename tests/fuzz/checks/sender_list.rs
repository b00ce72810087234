//! The list of senders, which `outboxd check` prints: taken from a whole answer only, and fit for a terminal.

use serde_json::Value;

use super::words::{deferral, json};
use super::{case, site};

pub fn check(input: &[u8]) {
    let answer = case::answer(input);
    let Some(read) = site::protocol("v2").senders(&answer) else { panic!("v2 has a list") };
    let listed = json(&answer).and_then(|body| match body {
        Value::Array(items) => Some(items),
        _ => None,
    });
    match read {
        Ok(report) => {
            let listed = listed.unwrap_or_else(|| panic!("senders out of {answer:?}"));
            assert!((200..300).contains(&answer.status), "{answer:?}");
            let Some(senders) = report.senders else { panic!("a list that is none") };
            assert!(senders.len() <= listed.len());
            for sender in senders {
                assert!(sender.name.chars().count() <= 40, "{:?}", sender.name);
                assert!(!sender.name.contains(char::is_control), "{:?}", sender.name);
                let same = |item: &Value| item["name"] == sender.name.as_str();
                assert!(listed.iter().any(same), "{:?} is not in the list", sender.name);
            }
        }
        Err(fault) => deferral(&fault),
    }
    assert_eq!(site::protocol("kannel").senders(&answer), None, "Kannel has no list");
}
