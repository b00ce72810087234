//! One site for all checks: its gateways, their secrets, and a message that is on its way.
//!
//! Read from TOML, so that defaults and presets are the shipped ones.

use std::path::PathBuf;
use std::sync::OnceLock;

use outboxd::config::{self, Config, Surroundings};
use outboxd::gateway::Protocol;
use outboxd::message::{Encoding, MessageId, Outgoing};

/// The password of every gateway, the client secret, and what every secret file and variable holds. Digits, quotes and
/// spaces are what quoting and masking change.
pub const PASSWORD: &str = "hunter2-  \"5551234567\" {x}";
pub const NUMBER: &str = "353871234567";
/// Long enough for any piece of it to be recognised.
pub const TEXT: &str = "Private: the code\n is 482913 today, tell nobody";

const TOML: &str = r#"
[database]
url = "host=/run/postgresql"

[routing]
default = "v2"

[gateway.v2]
dialect = "interactsms-v2"
username = "account"
password_env = "PASSWORD"
campaign_name = "fuzz"

[gateway.v1]
dialect = "interactsms-v1"
username = "account"
password_env = "PASSWORD"
api_id = 42
codes = { "7" = "no_credit", "BUSY" = "busy", "3" = "accepted", "9" = "unknown" }

[gateway.v1-latin1]
dialect = "interactsms-v1"
username = "account"
password_env = "PASSWORD"
api_id = 42
charset = "latin1"
newline = "keep"

[gateway.v1-json]
dialect = "interactsms-v1-json"
username = "account"
password_env = "PASSWORD"
api_id = 42
codes = { "7" = "no_credit", "BUSY" = "busy", "3" = "accepted", "9" = "unknown" }

[gateway.kannel]
dialect = "http"
preset = "kannel"
url = "http://127.0.0.1:13013/cgi-bin/sendsms"
username = "account"
password_env = "PASSWORD"

# Answers in JSON, with the id and the reason of a refusal somewhere in it.
[gateway.json]
dialect = "http"
url = "https://gateway.example/v1/messages?ref={ref}"
username = "account"
password_env = "PASSWORD"
basic_auth = true
message_id = "/messages/0/id"
error = "/messages/0/error"
plus = true
rule = [
    { status = "200-299", json_pointer = "/messages/0/status", json_equals = 0, class = "accepted" },
    { status = 200, json_pointer = "/messages/0/status", json_equals = 1, class = "throttled" },
    { status = 200, json_pointer = "/messages/0/status", json_equals = 9, class = "no_credit" },
    { json_pointer = "/messages/0/status", json_equals = "busy", class = "busy" },
    { status = 200, json_pointer = "/error/final", json_equals = "true", class = "rejected" },
]
[gateway.json.json]
messages = [{ to = "{recipient}", text = "{text}", from = "{sender}", parts = "{segments}", id = "x{id}", n = 1, key = "{password}" }]

# Answers in words, with the id between quotes.
[gateway.quoted]
dialect = "http"
url = "http://127.0.0.1:1401/send"
username = "account"
password_env = "PASSWORD"
message_id = "after:Success \""
error = "after:Error "
form = { to = "{recipient}", content = "{text}", from = "{sender}", coding = "{encoding:0|8}", password = "{password}", key = "AKIA-0123456789-key" }
rule = [{ status = 200, body_starts_with = "Success", class = "accepted" }, { status = 412, class = "rejected" }]

# Answers with the id alone.
[gateway.bare]
dialect = "http"
url = "https://gateway.example/send?to={recipient}&text={text}&from={sender}&key=AKIA-0123456789-key&pw={password}"
method = "get"
username = "account"
password_env = "PASSWORD"
message_id = "body"
error = "body"
headers = { X-Key = "secret-header-key" }
rule = [{ status = 200, class = "accepted" }]
"#;

/// A machine on which everything secret is [`PASSWORD`] and no file is open to all.
pub fn surroundings() -> Surroundings {
    Surroundings {
        mode: Some(0o640),
        directory: PathBuf::from("/etc/outboxd"),
        read: Box::new(|_| Ok((format!("{PASSWORD}\n"), 0o100_640))),
        env: Box::new(|_| Some(PASSWORD.to_owned())),
    }
}

fn config() -> &'static Config {
    static CONFIG: OnceLock<Config> = OnceLock::new();
    CONFIG.get_or_init(|| {
        config::parse(TOML, "site.toml", &surroundings()).unwrap_or_else(|error| panic!("{error}"))
    })
}

/// The gateway of this name.
pub fn protocol(name: &str) -> &'static Protocol {
    static PROTOCOLS: OnceLock<Vec<(String, Protocol)>> = OnceLock::new();
    let protocols = PROTOCOLS.get_or_init(|| {
        let built = config().gateways.values().map(|gateway| {
            let protocol = Protocol::build(&gateway.dialect).unwrap_or_else(|error| panic!("{error}"));
            (gateway.name.clone(), protocol)
        });
        built.collect()
    });
    match protocols.iter().find(|(found, _)| found == name) {
        Some((_, protocol)) => protocol,
        None => panic!("no gateway {name}"),
    }
}

/// All of them.
pub fn names() -> impl Iterator<Item = &'static str> {
    config().gateways.keys().map(String::as_str)
}

/// Some that share a request.
pub fn messages() -> Vec<Outgoing> {
    let other = |n: i64| Outgoing {
        id: MessageId(n),
        recipient: format!("35387123450{n}"),
        gateway_ref: format!("{n}-0000000A-1"),
        ..message()
    };
    vec![message(), other(2), other(3)]
}

pub fn message() -> Outgoing {
    Outgoing {
        id: MessageId(1),
        attempt: 1,
        recipient: NUMBER.to_owned(),
        text: TEXT.to_owned(),
        sender: "Clinic".to_owned(),
        encoding: Encoding::Gsm7,
        segments: 1,
        gateway_ref: "1-0000000A-1".to_owned(),
    }
}
