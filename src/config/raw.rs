//! What a person may write in `outboxd.toml`: names and kinds only. Ranges, defaults and what belongs together
//! are `load`'s business.
//!
//! Everything is optional here, so that a missing key is reported with the others and in the same words.
//! No tagged enums and no flattening: both lose the place in the file.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, de};
use serde_json::Value;

/// A value and where it stands in the file.
#[derive(Debug, Clone)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<At<T>, D::Error> {
        let spanned = toml::Spanned::<T>::deserialize(deserializer)?;
        Ok(At { span: spanned.span(), value: spanned.into_inner() })
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// Text of a duration, such as `5s`; `load` parses it.
#[derive(Debug, Clone)]
pub(super) struct DurationText(pub(super) String);

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<DurationText, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = DurationText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration in quotes with its unit, such as \"5s\" or \"15m\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<DurationText, E> {
                Ok(DurationText(text.to_owned()))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl JsonSchema for DurationText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "examples": ["250ms", "5s", "15m", "24h"] })
    }
}

/// A number or the same in quotes: people write account numbers and HTTP statuses both ways.
#[derive(Debug, Clone)]
pub(super) struct NumberOrText(pub(super) String);

impl<'de> Deserialize<'de> for NumberOrText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<NumberOrText, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = NumberOrText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number or a string")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<NumberOrText, E> {
                Ok(NumberOrText(number.to_string()))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<NumberOrText, E> {
                Ok(NumberOrText(text.to_owned()))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for NumberOrText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "NumberOrText".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["integer", "string"] })
    }
}

pub(super) type Text = Option<At<String>>;
pub(super) type Whole = Option<At<i64>>;
pub(super) type Span = Option<At<DurationText>>;
pub(super) type Flag = Option<At<bool>>;

/// Configuration of outboxd. The shipped outboxd.toml explains every key by its consequence.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "outboxd.toml")]
pub(super) struct RawConfig {
    pub(super) database: Option<RawDatabase>,
    pub(super) queue: Option<RawQueue>,
    pub(super) text: Option<RawText>,
    /// One table a gateway; the name is what stands in the outbox column `gateway`.
    pub(super) gateway: Option<BTreeMap<String, RawGateway>>,
    pub(super) routing: Option<RawRouting>,
    pub(super) callbacks: Option<RawCallbacks>,
    pub(super) inbox: Option<RawInbox>,
    pub(super) opt_out: Option<RawOptOut>,
    pub(super) admin: Option<RawAdmin>,
    pub(super) log: Option<RawLog>,
}

/// The PostgreSQL database that holds the outbox.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDatabase {
    /// Connection string: a URL or libpq keywords.
    pub(super) url: Text,
    /// Password in this file. Only where it is readable by nobody else.
    pub(super) password: Text,
    /// File that holds the password.
    pub(super) password_file: Text,
    /// Name of a systemd credential that holds the password.
    pub(super) password_credential: Text,
    /// Name of an environment variable that holds the password.
    pub(super) password_env: Text,
    /// What stands between outboxd and the server. Default none.
    #[schemars(extend("enum" = ["none", "transaction"]))]
    pub(super) pooler: Text,
    /// A second connection string, past the pooler: for the leader's lock and for LISTEN.
    pub(super) direct_url: Text,
    /// Fingerprints, of which the server's certificate must have one.
    pub(super) certificate_sha256: Option<Vec<At<String>>>,
    /// Connections for reading and recording. Default 6.
    pub(super) pool_size: Whole,
    /// Limit for connecting, and for one statement. Default 10s.
    pub(super) timeout: Span,
}

/// How the outbox is read.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawQueue {
    /// How new rows are noticed. Default auto.
    #[schemars(extend("enum" = ["auto", "notify", "poll"]))]
    pub(super) wake: Text,
    /// Longest pause between two looks at the table. Default 5s.
    pub(super) poll_interval: Span,
    /// A leader that cannot confirm itself for this long stops sending. Default 5s.
    pub(super) lease: Span,
    /// Rows held in memory per gateway and lane. Default 2000.
    pub(super) lookahead: Whole,
    /// Rows due for longer than this wait for a person; "never" switches it off. Default 24h.
    pub(super) stale_after: Span,
    /// The same for the urgent lane. Default 15m.
    pub(super) stale_after_urgent: Span,
    /// How long a stopping daemon waits for answers. Default 25s.
    pub(super) shutdown_grace: Span,
    /// Queued rows that may have been sent before the database failed over. Default hold.
    #[schemars(extend("enum" = ["hold", "send"]))]
    pub(super) after_failover: Text,
}

/// How numbers and texts are read.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawText {
    /// Calling code put before national numbers, such as "353".
    pub(super) default_country: Text,
    /// Digits that open a national number. Default "0".
    pub(super) trunk_prefix: Text,
    /// Sender of rows that name none.
    pub(super) default_sender: Text,
    /// Longest text in segments. Default 6.
    pub(super) max_segments: Whole,
    /// Replace characters that would force UCS-2. Default false.
    pub(super) transliterate: Flag,
}

/// A gateway. Which keys apply depends on the dialect.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGateway {
    #[schemars(extend("enum" = ["interactsms-v2", "interactsms-v1", "interactsms-v1-json", "http"]))]
    pub(super) dialect: Text,
    /// Fills in the http dialect for a known product.
    #[schemars(extend("enum" = ["kannel"]))]
    pub(super) preset: Text,
    /// Where messages are sent: interactsms-v1, interactsms-v1-json, http.
    pub(super) url: Text,
    /// Base of the API: interactsms-v2.
    pub(super) api_url: Text,
    /// Where to log in: interactsms-v2.
    pub(super) token_url: Text,
    pub(super) username: Text,
    /// Password in this file. Only where it is readable by nobody else.
    pub(super) password: Text,
    /// File that holds the password.
    pub(super) password_file: Text,
    /// Name of a systemd credential that holds the password.
    pub(super) password_credential: Text,
    /// Name of an environment variable that holds the password.
    pub(super) password_env: Text,
    /// Label in the gateway's web pages: interactsms-v2.
    pub(super) campaign_name: Text,
    /// Most messages of one text and sender in one request: interactsms-v2. Default 1.
    pub(super) coalesce: Whole,
    /// Account's API id: interactsms-v1, interactsms-v1-json.
    pub(super) api_id: Option<At<NumberOrText>>,
    /// Name of the reference field: interactsms-v1, interactsms-v1-json.
    pub(super) notify_field: Text,
    /// What stands for a line break: interactsms-v1, interactsms-v1-json.
    #[schemars(extend("enum" = ["not-sign", "keep"]))]
    pub(super) newline: Text,
    /// Charset of the form: interactsms-v1.
    #[schemars(extend("enum" = ["utf-8", "latin1"]))]
    pub(super) charset: Text,
    /// Meaning of answer codes other than 0: interactsms-v1, interactsms-v1-json.
    pub(super) codes: Option<BTreeMap<String, At<String>>>,
    #[schemars(extend("enum" = ["get", "post"]))]
    pub(super) method: Text,
    /// Send username and password as HTTP Basic: http.
    pub(super) basic_auth: Flag,
    /// Additional request headers: http.
    pub(super) headers: Option<BTreeMap<String, At<String>>>,
    /// Fields of a form body: http.
    pub(super) form: Option<BTreeMap<String, At<String>>>,
    /// A JSON body: http.
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    pub(super) json: Option<At<toml::Table>>,
    /// What answers mean, tried in order: http.
    pub(super) rule: Option<Vec<At<RawHttpRule>>>,
    /// Where the message id stands in the answer: http.
    pub(super) message_id: Text,
    /// Where the reason of a refusal stands in the answer: http.
    pub(super) error: Text,
    /// Put + before the number: http.
    pub(super) plus: Flag,
    /// Messages a second.
    pub(super) rate: Option<At<f64>>,
    /// Requests under way at once. Default 16.
    pub(super) concurrency: Whole,
    pub(super) connect_timeout: Span,
    pub(super) request_timeout: Span,
    /// hold, resend, or resend-after:15m.
    pub(super) on_unknown: Text,
    pub(super) stop_after_refusals: Whole,
    pub(super) breaker_failures: Whole,
    pub(super) backoff_min: Span,
    pub(super) backoff_max: Span,
    /// Proxy URL, or env: what the environment names.
    pub(super) proxy: Text,
    /// File that holds the proxy URL.
    pub(super) proxy_file: Text,
    /// Name of a systemd credential that holds the proxy URL.
    pub(super) proxy_credential: Text,
    /// Name of an environment variable that holds the proxy URL.
    pub(super) proxy_env: Text,
    /// Hosts that are reached without the proxy.
    pub(super) proxy_except: Option<Vec<At<String>>>,
    /// Addresses or ranges outside which nothing is connected to. Default no limit.
    pub(super) allowed_addresses: Option<Vec<At<String>>>,
    /// Addresses of hosts, which are then not looked up.
    pub(super) addresses: Option<BTreeMap<String, At<Vec<At<String>>>>>,
    /// Address of this host that connections come from.
    pub(super) source_address: Text,
    /// Oldest version of TLS. Default 1.2.
    #[schemars(extend("enum" = ["1.2", "1.3"]))]
    pub(super) tls_min: Text,
    /// PEM file with further certificate authorities.
    pub(super) ca_file: Text,
    /// Trust those of ca_file alone. Default false.
    pub(super) ca_exclusive: Flag,
    /// PEM file with the certificate that shows the gateway who we are.
    pub(super) client_certificate_file: Text,
    /// PEM file with its key.
    pub(super) client_key_file: Text,
    /// Allow plain HTTP to another host.
    pub(super) allow_http: Flag,
}

/// What an answer means.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHttpRule {
    /// 202 or "200-299".
    pub(super) status: Option<At<NumberOrText>>,
    pub(super) body_starts_with: Text,
    /// JSON pointer whose value must equal json_equals.
    pub(super) json_pointer: Text,
    pub(super) json_equals: Option<At<NumberOrText>>,
    #[schemars(extend("enum" = ["accepted", "rejected", "throttled", "busy", "no_credit", "unauthorized", "misconfigured", "unknown"]))]
    pub(super) class: Text,
}

/// Which gateway a message takes when its row names none.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRouting {
    /// Gateway of messages that no rule matches. May be left out when there is just one gateway.
    pub(super) default: Text,
    pub(super) rule: Option<Vec<At<RawRouteRule>>>,
}

/// A rule needs a prefix, a lane, or both.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRouteRule {
    /// Digits that the international number starts with.
    pub(super) prefix: Option<At<NumberOrText>>,
    #[schemars(extend("enum" = ["urgent", "normal", "bulk"]))]
    pub(super) lane: Text,
    pub(super) gateway: Text,
}

/// The listener for receipts and replies.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCallbacks {
    /// Address and port, such as 127.0.0.1:8025.
    pub(super) listen: Text,
    /// Secret path under which the gateway posts.
    pub(super) path: Text,
    pub(super) path_file: Text,
    pub(super) path_credential: Text,
    pub(super) path_env: Text,
    pub(super) client_secret: Text,
    pub(super) client_secret_file: Text,
    pub(super) client_secret_credential: Text,
    pub(super) client_secret_env: Text,
    pub(super) account_password: Text,
    pub(super) account_password_file: Text,
    pub(super) account_password_credential: Text,
    pub(super) account_password_env: Text,
    /// Believe replies whose signature covers neither number nor text. Default false.
    pub(super) old_inbound_signature: Flag,
    /// Addresses or ranges that may post. Default everybody.
    pub(super) allow_from: Option<Vec<At<String>>>,
    /// Reverse proxies whose X-Forwarded-For is believed. Default none.
    pub(super) trusted_proxies: Option<Vec<At<String>>>,
    /// Callers at once. Default 512.
    pub(super) max_connections: Whole,
    /// Longest wait for a request, and for its answer. Default 30s.
    pub(super) timeout: Span,
    /// Callbacks a second; more wait. Default no limit.
    pub(super) rate: Option<At<f64>>,
    /// An accepted message without a receipt says so after this; "never" switches it off. Default 48h.
    pub(super) receipt_overdue_after: Span,
    /// PEM file with the certificate to show, and those that sign it.
    pub(super) certificate_file: Text,
    /// PEM file with its key.
    pub(super) key_file: Text,
}

/// Whose replies are that answer no message.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawInbox {
    /// Database role of the application that gets them.
    pub(super) default_app: Text,
    /// The same by the number that people wrote to.
    pub(super) app_of_number: Option<BTreeMap<String, At<String>>>,
    /// Templates of answers, by the word that a message begins with.
    pub(super) auto_reply: Option<BTreeMap<String, At<String>>>,
    /// No second answer to the same number and word within this time. Default 1h.
    pub(super) auto_reply_pause: Span,
}

/// What makes a reply an opt-out, and what is sent all the same.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOptOut {
    /// A reply that begins with one of these opts out.
    pub(super) keywords: Option<Vec<At<String>>>,
    /// A reply that is one of these, and nothing else, opts in again.
    pub(super) opt_in_keywords: Option<Vec<At<String>>>,
    /// Whatever is sent to these numbers opts out. Default 50123.
    pub(super) numbers: Option<Vec<At<NumberOrText>>>,
    /// Lanes whose messages are sent to people who opted out as well. Default none.
    pub(super) transactional_lanes: Option<Vec<At<String>>>,
}

/// Metrics and health pages, for this machine only.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAdmin {
    /// A loopback address with a port, such as 127.0.0.1:9464, or unix:/run/outboxd/admin.sock.
    pub(super) listen: Text,
    /// Callers at once. Default 16.
    pub(super) max_connections: Whole,
    /// Longest wait for a request, and for its answer. Default 10s.
    pub(super) timeout: Span,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLog {
    /// Level, or a filter such as "info,outboxd::gateway=debug". Default info.
    pub(super) filter: Text,
    /// One JSON object a line. Default false.
    pub(super) json: Flag,
}

/// JSON schema of `outboxd.toml`, for editors.
pub fn schema() -> String {
    let mut schema = schemars::schema_for!(RawConfig).to_value();
    polish(&mut schema);
    // A schema is plain data; it cannot fail to become text, and an empty one would fail its test.
    serde_json::to_string_pretty(&schema).unwrap_or_default()
}

/// TOML has no null, and nobody outside needs to know that the structs are called raw.
fn polish(schema: &mut Value) {
    if let Value::Object(fields) = schema {
        if let Some(Value::Array(choices)) = fields.get_mut("anyOf") {
            choices.retain(|choice| choice["type"] != "null");
            if let [Value::Object(only)] = choices.as_mut_slice() {
                let mut only = std::mem::take(only);
                fields.remove("anyOf");
                fields.append(&mut only);
            }
        }
        if let Some(Value::Array(kinds)) = fields.get_mut("type") {
            kinds.retain(|kind| kind != "null");
            if let [only] = kinds.as_mut_slice() {
                let only = only.take();
                fields.insert("type".to_owned(), only);
            }
        }
        if let Some(Value::String(target)) = fields.get_mut("$ref") {
            *target = target.replace("/Raw", "/");
        }
        if let Some(Value::Object(definitions)) = fields.get_mut("$defs") {
            *definitions = std::mem::take(definitions)
                .into_iter()
                .map(|(name, definition)| (name.trim_start_matches("Raw").to_owned(), definition))
                .collect();
        }
    }
    match schema {
        Value::Object(fields) => fields.values_mut().for_each(polish),
        Value::Array(items) => items.iter_mut().for_each(polish),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
