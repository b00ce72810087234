//! What the simulator can be told at its start and, but for addresses and `callbacks.connections`, while it runs.
//!
//! Every field has a default, so `{}` is a whole settings file. Where the gateway's documentation contradicts
//! itself or is silent, the field says so, and its default is the variant that the documentation shows.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::sim::handset::Handset;
use crate::sim::script::Act;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub bind: Bind,
    pub account: Account,
    pub auth: Auth,
    pub answers: Answers,
    pub v1: V1,
    pub v2: V2,
    pub senders: Senders,
    pub credits: Credits,
    pub network: Network,
    pub callbacks: Callbacks,
    /// By number, in international digits. A number that is not listed is switched on.
    pub handsets: BTreeMap<String, Handset>,
    /// Characters of a text that the ledger keeps; its hash always covers all of it. Default 1600.
    pub keep_text: KeepText,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeepText(pub usize);

impl Default for KeepText {
    fn default() -> KeepText {
        KeepText(1600)
    }
}

/// Addresses to listen on; port 0 takes any free port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bind {
    pub gateway: SocketAddr,
    /// The control API has no password: only loopback is allowed.
    pub control: SocketAddr,
}

impl Default for Bind {
    fn default() -> Bind {
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Bind { gateway: any_port, control: any_port }
    }
}

/// The one account that this gateway knows.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Account {
    pub username: String,
    pub password: String,
    pub api_id: String,
    /// Signs callbacks; never used to log in.
    pub client_secret: String,
}

impl Default for Account {
    fn default() -> Account {
        Account {
            username: "demo".into(),
            password: "demo-password".into(),
            api_id: "1".into(),
            client_secret: "demo-secret".into(),
        }
    }
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("username", &self.username).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// Life of an access token, milliseconds. `expires_in` says the same in seconds, rounded up. Default 120 000.
    pub token_life_ms: u64,
}

impl Default for Auth {
    fn default() -> Auth {
        Auth { token_life_ms: 120_000 }
    }
}

/// How requests are answered when nothing is scripted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Answers {
    /// A message is accepted when its request was read; its answer leaves so much later. Default 0.
    pub latency_ms: u64,
    /// Up to so much more, evenly distributed. Default 0.
    pub jitter_ms: u64,
    /// Faults that strike by chance; the first that strikes is played.
    pub faults: Vec<Chance>,
    /// Larger request bodies are answered with 413. Default 64 MiB.
    pub max_body_bytes: usize,
    /// Seed of all chance; `None` takes a new one at each start.
    pub seed: Option<u64>,
}

impl Default for Answers {
    fn default() -> Answers {
        Answers { latency_ms: 0, jitter_ms: 0, faults: Vec::new(), max_body_bytes: 64 << 20, seed: None }
    }
}

/// A fault that strikes this share of send requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chance {
    /// From 0.0, never, to 1.0, always.
    pub rate: f64,
    #[serde(rename = "do")]
    pub act: Act,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct V1 {
    /// The form field that carries the client's reference: the documentation has two names. A request that uses
    /// the other one gets no receipts, as it would in life.
    pub notify_field: NotifyField,
    /// The documentation has two meanings for the time field.
    pub delivery_time: DeliveryTime,
    /// Bytes of the form above 127 are read so: the documentation does not say.
    pub charset: Charset,
    /// Longer texts are refused; `None`: no limit, as nothing is documented.
    pub max_chars: Option<usize>,
    /// First lines of refusals. Only `0` is documented: these are invented.
    pub codes: V1Codes,
}

impl Default for V1 {
    fn default() -> V1 {
        V1 {
            notify_field: NotifyField::NotifyID,
            delivery_time: DeliveryTime::Unix,
            charset: Charset::Utf8,
            max_chars: None,
            codes: V1Codes::default(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NotifyField {
    NotifyID,
    #[serde(rename = "notify_id")]
    WithUnderscore,
    /// Takes both.
    #[serde(rename = "either")]
    Either,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeliveryTime {
    Unix,
    Minutes,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Charset {
    #[default]
    Utf8,
    Latin1,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct V1Codes {
    pub login: String,
    pub number: String,
    pub sender: String,
    pub credits: String,
    pub parameter: String,
    pub busy: String,
}

impl Default for V1Codes {
    fn default() -> V1Codes {
        V1Codes {
            login: "1".into(),
            number: "2".into(),
            sender: "3".into(),
            credits: "4".into(),
            parameter: "5".into(),
            busy: "99".into(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct V2 {
    /// Shape of an entry in `errors`: not documented.
    pub error_items: ErrorItems,
    /// Say "sender is not valid" and "no credits" in the answer too. Documented is only the processing result that
    /// follows a 200, so the default is false.
    pub refuse_at_once: bool,
    /// Recipients in one request. Default 400 000.
    pub max_recipients: usize,
    /// Numbers that begin with one of these are no valid recipients. Default none.
    pub invalid: Vec<String>,
}

impl Default for V2 {
    fn default() -> V2 {
        V2 {
            error_items: ErrorItems::Object,
            refuse_at_once: false,
            max_recipients: 400_000,
            invalid: Vec::new(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorItems {
    /// `{"msisdn":"12","message":"Invalid MSISDN"}`
    Object,
    /// `"Invalid MSISDN: 12"`
    Sentence,
    /// `"12"`
    Number,
    /// `{"notifyId":"1-00000000-1","message":"Invalid MSISDN"}`
    Reference,
    /// `"Invalid MSISDN"`: cannot be matched to a recipient.
    Nameless,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Senders {
    pub list: Vec<Sender>,
    /// Refuse what is not in the list. Default false: every sender is valid.
    pub only_listed: bool,
}

impl Default for Senders {
    fn default() -> Senders {
        let sender = |name: &str, kind| Sender { name: name.into(), kind };
        Senders {
            list: vec![sender("Demo", 0), sender("FreeText", 1), sender("50123", 2)],
            only_listed: false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sender {
    pub name: String,
    /// 0 registered, 1 international, 2 numeric.
    #[serde(rename = "type")]
    pub kind: u8,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Credits {
    /// Messages that may still be accepted; `None`: no end. Counts down; `GET /control/state` shows what is left.
    pub balance: Option<u64>,
}

/// Carriers, and the SMSC that stores and forwards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// The longest prefix that fits decides.
    pub carriers: Vec<Carrier>,
    /// Pause between two tries at a handset that is unreachable. Default 1000.
    pub retry_ms: u64,
    /// A message that did not arrive within this time is given up. Default 60 000.
    pub validity_ms: u64,
}

impl Default for Network {
    fn default() -> Network {
        Network { carriers: vec![Carrier::default()], retry_ms: 1000, validity_ms: 60_000 }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Carrier {
    /// Digits that its numbers start with; empty: all.
    pub prefix: String,
    pub latency_ms: u64,
    pub jitter_ms: u64,
    /// While down, every handset of this carrier is unreachable.
    pub down: bool,
}

impl Default for Carrier {
    fn default() -> Carrier {
        Carrier { prefix: String::new(), latency_ms: 5, jitter_ms: 0, down: false }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Callbacks {
    pub receipts: Receipts,
    /// URL for v2 processing results, `http://` only; `None`: none are sent.
    pub results_to: Option<String>,
    /// URL for inbound messages, `http://` only; `None`: none are sent.
    pub inbound_to: Option<String>,
    /// Keep-alive connections to the receivers, set at start. With 1, callbacks arrive in the order they were made.
    /// Default 8.
    pub connections: usize,
    /// Further tries after an answer other than 2xx or none. The documentation says nothing, so: 0.
    pub retries: u32,
    pub retry_ms: u64,
    /// Limit for one callback, connecting included. Default 10 000.
    pub timeout_ms: u64,
}

impl Default for Callbacks {
    fn default() -> Callbacks {
        Callbacks {
            receipts: Receipts::default(),
            results_to: None,
            inbound_to: None,
            connections: 8,
            retries: 0,
            retry_ms: 1000,
            timeout_ms: 10_000,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Receipts {
    /// URL for delivery receipts, `http://` only; `None`: none are sent.
    pub to: Option<String>,
    /// So much later than what they report, and up to `jitter_ms` more: with jitter they overtake each other.
    pub delay_ms: u64,
    pub jitter_ms: u64,
    /// Further copies of each receipt. Default 0.
    pub copies: u32,
    /// Share of receipts that never leave, 0.0 to 1.0.
    pub lost: f64,
    /// Hold receipts until so many are there, then send the newest first. 0 and 1: as they come. A remainder waits
    /// until this is set to 0.
    pub reverse: usize,
    pub signature: Signature,
    /// Spelling of the reference's field: the documentation has `SMS-NotifyId` and `SMS-NotifyID`.
    pub id_field: String,
}

impl Default for Receipts {
    fn default() -> Receipts {
        Receipts {
            to: None,
            delay_ms: 0,
            jitter_ms: 0,
            copies: 0,
            lost: 0.0,
            reverse: 0,
            signature: Signature::default(),
            id_field: "SMS-NotifyId".into(),
        }
    }
}

/// How `SMS-Verify` is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Signature {
    pub secret: SignedWith,
    pub boolean: HashedBoolean,
    /// Sign with a secret that nobody has.
    pub forged: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SignedWith {
    #[default]
    ClientSecret,
    Password,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HashedBoolean {
    /// `true`, as in the one sample that can be recomputed.
    #[default]
    Lower,
    /// `True`, as the field is posted.
    AsPosted,
}
