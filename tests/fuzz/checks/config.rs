//! The whole configuration: read, or refused with faults that stand in the file and show no secret. What is read can be
//! used as it is.

use std::collections::BTreeSet;

use outboxd::config::{self, Config, ConfigError, Dialect};
use outboxd::gateway::Protocol;
use outboxd::text::sender;
use toml::{Table, Value};

use super::site::{self, PASSWORD};

/// Stands for a secret that is written into the file itself.
const MARK: &str = "hunter2";
const NAME: &str = "fuzz.toml";

/// Keys whose values are nobody's business, and sections of which everything is.
const SECRET_KEYS: [&str; 4] = ["password", "client_secret", "account_password", "path"];
const SECRET_SECTIONS: [&str; 3] = ["headers", "form", "json"];

pub fn check(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    match config::parse(&text, NAME, &site::surroundings()) {
        Ok(config) => usable(&config),
        Err(error) => {
            for colour in [false, true] {
                let shown = error.render(colour);
                assert!(!shown.contains(PASSWORD), "{shown}");
                assert!(!shown.contains(MARK) || !mark_is_secret(&text), "{shown}");
            }
            inside_the_file(&error, &text);
        }
    }
}

/// Nothing is left to be found out by a message.
fn usable(config: &Config) {
    assert!(!format!("{config:?}").contains(PASSWORD));
    assert!(config.gateways.contains_key(&config.routing.default_gateway));
    assert!(config.routing.rules.iter().all(|rule| config.gateways.contains_key(&rule.gateway)));
    assert!((1..=255).contains(&config.text.max_segments));
    if let Some(sender) = &config.text.default_sender {
        assert_eq!(sender::check(sender), Ok(()), "every row without a sender would fail");
    }
    for gateway in config.gateways.values() {
        assert!(gateway.rate.is_none_or(|rate| rate > 0.0 && rate.is_finite()));
        assert!(gateway.concurrency >= 1 && gateway.backoff_min <= gateway.backoff_max);
        let protocol = Protocol::build(&gateway.dialect);
        let protocol = protocol.unwrap_or_else(|error| panic!("gateway {}: {error}", gateway.name));
        goes_where_it_should(&protocol, &gateway.dialect);
    }
}

/// No message can choose where it is sent.
fn goes_where_it_should(protocol: &Protocol, dialect: &Dialect) {
    let mut message = site::message();
    let Ok(plain) = protocol.request(&message, None) else { return };
    message.text = "&x=1#y?{password}/../@host\u{20ac}\"".to_owned();
    let Ok(odd) = protocol.request(&message, None) else { return };
    assert_eq!(plain.url[..url::Position::AfterPath], odd.url[..url::Position::AfterPath]);
    assert_eq!(odd.url.fragment(), None);
    if let Dialect::InteractsmsV2(_) = dialect {
        assert!(odd.url.path().ends_with("/api/v2/Campaign") && odd.url.query().is_none(), "{}", odd.url);
    }
}

/// Each place that an error names is a place in the file.
fn inside_the_file(error: &ConfigError, text: &str) {
    let shown = error.to_string();
    assert!(shown.starts_with("error: "), "{shown}");
    let lines: Vec<&str> = text.split('\n').collect();
    for place in shown.lines().filter_map(|line| line.trim_start().strip_prefix("--> ")) {
        let Some(place) = place.strip_prefix(NAME).and_then(|place| place.strip_prefix(':')) else {
            assert_eq!(place, NAME);
            continue;
        };
        let (line, column) = place.split_once(':').unwrap_or((place, "1"));
        let (line, column): (usize, usize) = (line.parse().unwrap_or(0), column.parse().unwrap_or(0));
        let found = line.checked_sub(1).and_then(|line| lines.get(line));
        assert!(found.is_some(), "line {line} of {}: {shown}", lines.len());
        let width = found.map_or(0, |line| line.chars().count());
        assert!((1..=width + 1).contains(&column), "column {column} of {width}: {shown}");
    }
}

/// The mark stands in the file, and only where a secret belongs.
fn mark_is_secret(text: &str) -> bool {
    let marks = text.matches(MARK).count();
    match text.parse::<Table>() {
        Ok(table) => marks > 0 && count(&Value::Table(table), false) == marks,
        // A file that does not parse is judged by its lines.
        Err(_) => {
            let keys: BTreeSet<&str> = SECRET_KEYS.into();
            let secret = text
                .split('\n')
                .filter_map(|line| line.split_once('='))
                .filter(|(key, _)| keys.contains(key.trim()));
            marks > 0 && secret.map(|(_, value)| value.matches(MARK).count()).sum::<usize>() == marks
        }
    }
}

/// Marks in values that are secret.
fn count(value: &Value, secret: bool) -> usize {
    match value {
        Value::String(text) if secret => text.matches(MARK).count(),
        Value::Array(items) => items.iter().map(|item| count(item, secret)).sum(),
        Value::Table(fields) => fields
            .iter()
            .map(|(key, value)| {
                let section = value.is_table() && SECRET_SECTIONS.contains(&key.as_str());
                let secret = secret || section || (value.is_str() && SECRET_KEYS.contains(&key.as_str()));
                count(value, secret)
            })
            .sum(),
        _ => 0,
    }
}
