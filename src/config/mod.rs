//! The configuration after it was read and checked: every value here can be used without looking at it again.
//!
//! `raw` holds what a person writes, `load` turns it into a [`Config`] or into errors that show the line.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::message::Lane;

mod admin;
mod callbacks;
mod connection;
mod database;
mod diagnostic;
mod document;
mod gateway;
mod http;
mod inbound;
mod libpq;
mod load;
mod mask;
mod network;
mod preset;
mod raw;
mod reach;
mod reader;
mod secret;

pub use connection::{ConnectionFault, connection, connection_in};
pub use diagnostic::ConfigError;
pub use http::PLACEHOLDERS;
pub use load::{load, load_noting, parse};
pub use raw::schema;
pub use reach::{ClientCertificate, Endpoint, Network, ProxyException, Reach, TlsMin, host_of, plain_name};
pub use secret::{ReadEnv, ReadFile, Surroundings};

/// The shipped `outboxd.toml`: the whole list of options, each with its default and its consequence.
pub fn default_toml() -> &'static str {
    include_str!("../../packaging/outboxd.toml")
}

/// Everything that `outboxd.toml` can say.
#[derive(Debug, Clone)]
pub struct Config {
    pub database: Database,
    pub queue: Queue,
    pub text: Text,
    /// By name. At least one.
    pub gateways: BTreeMap<String, Gateway>,
    pub routing: Routing,
    /// `None`: no listener for receipts.
    pub callbacks: Option<Callbacks>,
    pub inbox: Inbox,
    pub opt_out: OptOut,
    /// `None`: no metrics and no health pages.
    pub admin: Option<Admin>,
    pub log: Log,
}

/// A password or token. `Debug` and `Display` never show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Secret {
        Secret(value.into())
    }

    /// The one way to see it: greppable.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[derive(Clone)]
pub struct Database {
    /// Parsed connection string, password included.
    pub connect: tokio_postgres::Config,
    /// The same without secrets, for messages.
    pub shown: String,
    /// The password stands in the connection string itself.
    pub inline_password: bool,
    /// Connections for reading, waves, records and receipts. The lock and LISTEN connections come on top.
    pub pool_size: usize,
    /// Limit for establishing a connection, and for one statement's answer.
    pub timeout: Duration,
    pub tls: Tls,
    /// The oldest version of TLS that is spoken.
    pub tls_min: TlsMin,
    /// PEM file with the authorities to trust instead of the system's.
    pub root_cert: Option<PathBuf>,
    /// What we show to a server that asks who we are.
    pub client_certificate: Option<ClientCertificate>,
    /// SHA-256 of certificates, of which the server must have one. Then nothing else about it is looked at. Empty: no limit.
    pub pins: Vec<[u8; 32]>,
    /// What stands between us and the server on this way.
    pub pooler: Pooler,
    /// A second way, for what needs a session: the leader's lock and LISTEN.
    pub direct: Option<Box<Database>>,
}

impl Database {
    /// Where a session can be had; `None`: nowhere, only transactions.
    pub fn sessions(&self) -> Option<&Database> {
        match (&self.direct, self.pooler) {
            (Some(direct), _) => Some(direct),
            (None, Pooler::None) => Some(self),
            (None, Pooler::Transaction) => None,
        }
    }

    /// The leader's lock is not held where statements are sent: the two may come to lead to different servers.
    pub fn has_two_ways(&self) -> bool {
        self.direct.is_some() || self.pooler == Pooler::Transaction
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooler {
    /// A connection is a session of the server.
    None,
    /// Each transaction may meet another session of the server, as in PgBouncer's `pool_mode = transaction`.
    Transaction,
}

/// How far the database server must prove who it is; libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    Disable,
    /// Encrypted if the server offers it.
    Prefer,
    /// Encrypted, certificate not looked at.
    Require,
    /// The certificate must come from a trusted authority, whatever name it holds.
    VerifyCa,
    /// As before, and the name must be the host's.
    VerifyFull,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("connect", &self.shown).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone)]
pub struct Queue {
    pub wake: Wake,
    /// Longest pause between two looks at the table.
    pub poll_interval: Duration,
    /// A leader that cannot confirm itself for this long stops sending, and a standby may take over.
    pub lease: Duration,
    /// Rows held in memory per gateway and lane.
    pub lookahead: usize,
    /// A row that is due longer than this is held for a person. `None`: never.
    pub stale_after: Option<Duration>,
    /// The same for the urgent lane, where old codes are worse than none.
    pub stale_after_urgent: Option<Duration>,
    /// How long a stopping daemon waits for answers to what it has sent.
    pub shutdown_grace: Duration,
    pub after_failover: AfterFailover,
}

/// What becomes of queued rows when the database failed over and nobody can tell whether they were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterFailover {
    /// They are set aside for a person.
    Hold,
    /// They are sent: replication is synchronous, so nothing was lost.
    Send,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// Doorbell, unless `max_prepared_transactions` or a missing trigger speaks against it.
    Auto,
    Notify,
    Poll,
}

#[derive(Debug, Clone)]
pub struct Text {
    /// Digits put before a national number, for example `353`.
    pub default_country: Option<String>,
    /// Digits that open a national number and fall away, usually `0`.
    pub trunk_prefix: String,
    /// Sender ID of rows that name none.
    pub default_sender: Option<String>,
    /// Longer texts are refused.
    pub max_segments: i16,
    /// Replace characters outside GSM 03.38 by near ones when the whole text then fits that alphabet.
    pub transliterate: bool,
}

#[derive(Debug, Clone)]
pub struct Gateway {
    pub name: String,
    pub dialect: Dialect,
    /// Messages a second; `None`: as fast as the gateway answers.
    pub rate: Option<f64>,
    /// Requests under way at once.
    pub concurrency: usize,
    pub connect_timeout: Duration,
    /// From the first byte of a request to the last byte of its answer.
    pub request_timeout: Duration,
    pub on_unknown: OnUnknown,
    /// So many refusals in a row for the same reason, without a success between, stop the gateway.
    pub stop_after_refusals: u32,
    /// Failures in a row that open the breaker.
    pub breaker_failures: u32,
    /// First pause of an open breaker; it doubles up to `backoff_max`.
    pub backoff_min: Duration,
    pub backoff_max: Duration,
    /// HTTP CONNECT or SOCKS5 proxy; the environment's only where that was asked for.
    pub proxy: Option<Secret>,
    /// PEM file with certificate authorities to trust beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Plain HTTP to a host other than loopback must be asked for.
    pub allow_http: bool,
    pub network: Network,
}

impl Gateway {
    /// Most messages of one text and sender in one request.
    pub fn coalesce(&self) -> usize {
        match &self.dialect {
            Dialect::InteractsmsV2(v2) => v2.coalesce,
            Dialect::InteractsmsV1(_) | Dialect::Http(_) => 1,
        }
    }

    /// Requests that may be under way or stand in waves: while some are under way, as many others are made ready.
    pub fn requests_ahead(&self) -> usize {
        self.concurrency * 2
    }

    /// Messages in waves whose results are not recorded yet: what those requests carry. Where they carry many, eight that
    /// are full are as fast as a hundred, while a kill would make unknown whatever stood in waves.
    pub fn messages_ahead(&self) -> usize {
        const MOST: usize = 8000;
        let requests = self.requests_ahead();
        (requests * self.coalesce()).min(requests.max(MOST))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnUnknown {
    Hold,
    /// Queue it again once this much time has passed since the attempt (never less than lease + request timeout).
    ResendAfter(Duration),
}

#[derive(Debug, Clone)]
pub enum Dialect {
    InteractsmsV2(InteractsmsV2),
    InteractsmsV1(InteractsmsV1),
    Http(Box<HttpTemplate>),
}

#[derive(Debug, Clone)]
pub struct InteractsmsV2 {
    /// `https://api.interactsms.com` unless a test says otherwise. No trailing slash.
    pub api_url: String,
    /// `https://auth.interactsms.com/token`.
    pub token_url: String,
    pub username: String,
    pub password: Secret,
    pub campaign_name: Option<String>,
    /// Most messages of one text and sender in one request; 1: each has its own.
    pub coalesce: usize,
}

#[derive(Debug, Clone)]
pub struct InteractsmsV1 {
    /// Form: `https://secure.interactsms.com/api/v1/sendmessage.aspx`; JSON: `…/api/v1/sendmessage`.
    pub url: String,
    pub json: bool,
    pub user: String,
    pub password: Secret,
    pub api_id: String,
    /// The pages contradict each other: `NotifyID` (default for the form), `notify_id`, `NotifyId` (default for JSON).
    pub notify_field: String,
    /// What stands for a line break: `¬` by the documentation.
    pub newline: Newline,
    /// Charset of the form: the documentation does not say.
    pub charset: Charset,
    /// Answer codes other than 0, mapped by the operator; everything else is a refusal.
    pub codes: BTreeMap<String, CodeClass>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Newline {
    /// `¬` (U+00AC).
    NotSign,
    Keep,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charset {
    Utf8,
    Latin1,
}

/// What an answer of the gateway means for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeClass {
    Accepted,
    Rejected,
    Throttled,
    Busy,
    NoCredit,
    Unauthorized,
    Misconfigured,
    Unknown,
}

/// Any other gateway, described by configuration. `{username}` and `{password}` are already filled in.
#[derive(Clone)]
pub struct HttpTemplate {
    pub method: HttpMethod,
    /// Secret behind the `?`. May hold `{recipient}` and the other placeholders in its query, percent-encoded when filled in.
    pub url: String,
    /// Sent as they are: no placeholders.
    pub headers: Vec<(String, Secret)>,
    pub body: HttpBody,
    pub basic_auth: Option<(String, Secret)>,
    /// Rules are tried in this order; the first that matches decides. None matches: unknown for 2xx and 5xx,
    /// rejected for 400 and 422, misconfigured for the other 3xx and 4xx.
    pub rules: Vec<HttpRule>,
    /// Where the gateway's message id stands.
    pub message_id: Option<Extract>,
    /// Where the reason of a refusal stands.
    pub error: Option<Extract>,
    /// Put `+` before the number.
    pub plus: bool,
    /// Already filled in; what no text of the gateway may bring back.
    pub password: Option<Secret>,
}

/// Not derived: the URL's query may hold credentials.
impl fmt::Debug for HttpTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpTemplate")
            .field("method", &self.method)
            .field("url", &self.url.split('?').next())
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpMethod {
    Get,
    Post,
}

#[derive(Clone)]
pub enum HttpBody {
    None,
    /// Field name and value template; the query of a GET.
    Form(Vec<(String, Secret)>),
    /// A JSON value whose string leaves are templates.
    Json(serde_json::Value),
}

/// Not derived: a JSON body may hold credentials.
impl fmt::Debug for HttpBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HttpBody::None => "None",
            HttpBody::Form(_) => "Form",
            HttpBody::Json(_) => "Json",
        })
    }
}

#[derive(Debug, Clone)]
pub struct HttpRule {
    /// Statuses from..=to.
    pub status: (u16, u16),
    /// The body must start so.
    pub body_starts_with: Option<String>,
    /// The value at this JSON pointer must equal this text.
    pub json_equals: Option<(String, String)>,
    pub class: CodeClass,
}

#[derive(Debug, Clone)]
pub enum Extract {
    /// JSON pointer, for example `/messages/0/id`.
    JsonPointer(String),
    /// Text after this marker up to white space or a quote.
    After(String),
    Body,
}

#[derive(Debug, Clone)]
pub struct Routing {
    pub default_gateway: String,
    /// Longest matching prefix wins; a rule with a lane beats one without.
    pub rules: Vec<RouteRule>,
}

#[derive(Debug, Clone)]
pub struct RouteRule {
    /// Digits that the international number starts with; empty: all.
    pub prefix: String,
    pub lane: Option<Lane>,
    pub gateway: String,
}

#[derive(Debug, Clone)]
pub struct Callbacks {
    pub listen: SocketAddr,
    /// Path under which the gateway posts, for example `/cb/4f2a…`; long and secret.
    pub path: Secret,
    /// Accepted as the secret half of `SMS-Verify`: client secret, account password, or both.
    pub secrets: Vec<Secret>,
    /// Believe messages that are signed as an older page of the documentation says.
    pub old_inbound_signature: bool,
    /// Who may post; empty: whoever knows the path.
    pub allow_from: Vec<AddressRange>,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<AddressRange>,
    /// Callers at once.
    pub max_connections: usize,
    /// For a caller to send its request, and for us to answer it.
    pub timeout: Duration,
    /// Callbacks a second; more wait. `None`: as fast as the database takes them.
    pub rate: Option<f64>,
    /// An accepted message without a receipt says so after this time. `None`: never.
    pub receipt_overdue_after: Option<Duration>,
    /// `None`: plain HTTP, for a reverse proxy.
    pub tls: Option<CallbackTls>,
}

/// PEM files of the callback listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallbackTls {
    /// The certificate, and those between it and the authority.
    pub certificate_file: PathBuf,
    pub key_file: PathBuf,
}

/// Addresses that begin with the same bits: `198.51.100.0/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    first: IpAddr,
    bits: u8,
}

/// Whose a message from a handset is that answers none of ours, and which are answered by themselves.
#[derive(Debug, Clone)]
pub struct Inbox {
    /// `None`: nobody's; only operators see it.
    pub default_app: Option<String>,
    /// By the number that it was sent to.
    pub app_of_number: BTreeMap<String, String>,
    /// Templates by the word that a message begins with, in capitals.
    pub auto_reply: BTreeMap<String, String>,
    /// For so long no second answer to the same number and word.
    pub auto_reply_pause: Duration,
}

impl Inbox {
    pub fn app_of(&self, recipient: &str) -> Option<&str> {
        self.app_of_number.get(recipient).or(self.default_app.as_ref()).map(String::as_str)
    }
}

/// Who gets no messages, and what is sent all the same.
#[derive(Debug, Clone)]
pub struct OptOut {
    /// Each as its words in capitals.
    pub keywords: Vec<Vec<String>>,
    pub opt_in_keywords: Vec<Vec<String>>,
    /// What is sent to these numbers is an opt-out, whatever it says.
    pub numbers: Vec<String>,
    /// Their messages go out to people who opted out as well.
    pub transactional_lanes: Vec<Lane>,
}

/// Metrics and health pages, for this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    pub listen: AdminListen,
    /// Callers at once.
    pub max_connections: usize,
    /// For a caller to send its request, and for us to answer it.
    pub timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminListen {
    /// Always a loopback address.
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for AdminListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdminListen::Tcp(address) => address.fmt(f),
            AdminListen::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Log {
    /// `info`, or a filter such as `outboxd=debug`.
    pub filter: String,
    pub json: bool,
}
