//! One SMS gateway, seen from this side: hand it a message, get a verdict.
//!
//! A `Dialect` says how a message and an answer are written, one file each; [`Protocol`] is everything that is pure,
//! `Sender` does all HTTP, `Auth` the log-in. Retrying, pacing, recording and routing are not done here: a verdict is all that goes back.

mod answer;
mod auth;
pub mod callback;
mod departure;
mod egress;
mod http_template;
mod interactsms_v1;
mod interactsms_v2;
mod lookup;
mod probe;
mod protocol;
mod quote;
mod sender;
mod skipped;
mod template;
pub mod walk;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use url::Url;

use crate::config::{self, Secret};
use crate::gateway::quote::Private;
use crate::message::{Outgoing, Refusal};
use crate::verdict::{DeferCause, Joint, Verdict};

pub use crate::gateway::answer::Answer;
pub use crate::gateway::departure::Gate;
pub use crate::gateway::probe::{ProbeReport, SenderId};
pub use crate::gateway::protocol::Protocol;

/// How one kind of gateway wants messages and gives answers. Pure: no I/O, no clock, no state that changes.
///
/// An implementation must call an answer accepted only when it is certainly the gateway's own and says so, and must
/// call unknown whatever it does not recognise. It must not retry, sleep or log.
trait Dialect: Send + Sync + fmt::Debug {
    /// The request that carries `messages`: one, or several of one text and sender where the dialect can do that. A
    /// refusal says that the message cannot be written in this dialect without changing it.
    fn request(&self, messages: &[Outgoing], token: Option<&Secret>) -> Result<Prepared, Refusal>;

    /// What an answer means for the message that was sent. Any status and any bytes may come; of the gateway's words
    /// none goes on that `private` has not quoted.
    fn verdict(&self, answer: &Answer, private: Private<'_>) -> Verdict;

    /// The same for messages that shared a request, of which an answer may tell some apart.
    fn joint_verdict(&self, answer: &Answer, _messages: &[Outgoing], private: Private<'_>) -> Joint {
        Joint::of(self.verdict(answer, private))
    }
}

/// A request ready to be sent. An empty body means none.
pub struct Prepared {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// URL and body hold numbers, texts and credentials.
impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared")
            .field("method", &self.method)
            .field("host", &self.url.host_str())
            .field("body_len", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// Certainly nothing was accepted, and why: the gateway could not be reached, logged in to, or used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Deferral {
    pub cause: DeferCause,
    pub retry_after: Option<Duration>,
    pub reason: String,
}

/// A failed probe says the same as a deferred message.
pub type ProbeFailure = Deferral;

impl From<Deferral> for Verdict {
    fn from(deferral: Deferral) -> Verdict {
        let Deferral { cause, retry_after, reason } = deferral;
        Verdict::Deferred { cause, retry_after, reason }
    }
}

/// Why a gateway cannot be used as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("{setting}: {reason}")]
    Setting { setting: &'static str, reason: String },
    #[error("{host} would get messages and credentials over plain http; use https, or set allow_http = true")]
    PlainHttp { host: String },
    #[error("could not use ca_file {}: {reason}", path.display())]
    CaFile { path: PathBuf, reason: String },
    #[error("this system has no certificate authorities; install ca-certificates, or set ca_file")]
    NoCertificates,
    #[error("could not set up the HTTP client: {reason}")]
    Client { reason: String },
}

fn parse_url(setting: &'static str, text: &str) -> Result<Url, BuildError> {
    let error = |reason: &str| BuildError::Setting { setting, reason: reason.to_owned() };
    let url = Url::parse(text).map_err(|source| error(&format!("not a URL: {source}")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(error("it must start with https:// (or http://) and name a host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(error("user and password do not belong into the URL; use the settings for them"));
    }
    if url.fragment().is_some() {
        return Err(error("a URL that messages are sent to has no part after #"));
    }
    Ok(url)
}

/// A configured gateway. Cheap to share behind an `Arc`; all methods take `&self`.
#[derive(Debug)]
pub struct Gateway {
    name: String,
    sender: sender::Sender,
}

impl Gateway {
    /// Reads `ca_file` and the system's certificate authorities; connects to nothing.
    pub fn build(config: &config::Gateway) -> Result<Gateway, BuildError> {
        let protocol = Protocol::build(&config.dialect)?;
        let egress = egress::Egress::build(config, &protocol.urls())?;
        Ok(Gateway { name: config.name.clone(), sender: sender::Sender { protocol, egress } })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends one message, at most once. `gate` is asked when its first byte is about to leave.
    ///
    /// A caller that drops the future before it is done must treat the message as unknown.
    pub async fn send(&self, message: &Outgoing, gate: &Gate) -> Verdict {
        self.sender.send(message, gate).await
    }

    /// The same for messages of one text and sender that travel in one request: all of them leave, or none does.
    pub async fn send_together(&self, messages: &[Outgoing], gate: &Gate) -> Joint {
        self.sender.send_together(messages, gate).await
    }

    /// Finds out whether the gateway can be used, without sending anybody anything.
    pub async fn probe(&self) -> Result<ProbeReport, ProbeFailure> {
        let protocol = &self.sender.protocol;
        protocol.probe.run(&self.sender.egress, protocol.auth.as_ref()).await
    }

    /// A person has looked at the credentials: log in again even though that was refused before.
    pub fn reset(&self) {
        if let Some(auth) = &self.sender.protocol.auth {
            auth.reset();
        }
    }
}

#[cfg(test)]
fn outgoing_for_tests(text: &str) -> Outgoing {
    use crate::message::{Encoding, MessageId};
    Outgoing {
        id: MessageId(1),
        attempt: 1,
        recipient: "353871234567".to_owned(),
        text: text.to_owned(),
        sender: "Clinic".to_owned(),
        encoding: Encoding::Gsm7,
        segments: 1,
        gateway_ref: "1-00000000-1".to_owned(),
    }
}
