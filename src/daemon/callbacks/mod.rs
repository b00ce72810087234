//! The listener for what the gateway reports later. It knows HTTP and nothing else: what a form means is the gateway
//! edge's business, what it does to a row the store's. A caller gets 200 only when its fact is committed.
//!
//! It stands open to strangers, so whatever they do has a bound (`daemon/listener`). Those who know the secret path are never
//! turned away for what strangers do.

mod pace;
mod source;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body as _, Incoming as Body};
use tokio::sync::watch;
use tracing::{debug, info};

use crate::config::{Callbacks, Secret};
use crate::daemon::callbacks::pace::Pace;
use crate::daemon::callbacks::source::Source;
use crate::daemon::listener::{self, Certificate, Quiet, Site, Socket};
use crate::daemon::meaning::Meaning;
use crate::engine::incoming::{Fact, Incoming, Taken};
use crate::gateway::callback::{self, CallbackError, Proof};
use crate::metrics::{Callback, Metrics, Told};

struct Listener {
    settings: Callbacks,
    meaning: Meaning,
    incoming: Incoming,
    pace: Option<Pace>,
    quiet: Quiet,
    metrics: Arc<Metrics>,
}

/// What the listener is made of.
pub(super) struct Parts {
    pub(super) socket: Arc<Socket>,
    pub(super) certificate: Option<Certificate>,
    pub(super) settings: Callbacks,
    pub(super) meaning: Meaning,
    pub(super) incoming: Incoming,
    pub(super) metrics: Arc<Metrics>,
    /// Turns true when nothing more is to be taken.
    pub(super) closing: watch::Receiver<bool>,
}

/// Runs until it is told to close; what was read by then is answered. The socket stays open, for whoever listens next.
pub(super) async fn serve(parts: Parts) {
    let Parts { socket, certificate, settings, meaning, incoming, metrics, closing } = parts;
    info!(address = %settings.listen, tls = certificate.is_some(), "taking callbacks");
    let (max_connections, timeout) = (settings.max_connections, settings.timeout);
    let pace = settings.rate.map(Pace::new);
    let quiet = Quiet::about("callbacks");
    let site = Arc::new(Listener { settings, meaning, incoming, pace, quiet, metrics });
    listener::serve(listener::Parts { socket, certificate, site, max_connections, timeout, closing }).await;
}

impl Site for Listener {
    async fn answer(&self, request: Request<Body>, peer: Option<IpAddr>) -> Response<Full<Bytes>> {
        // It listens on an address, so there is one.
        let peer = peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let limit = self.settings.timeout;
        let (status, text) = match tokio::time::timeout(limit, self.take(request, peer)).await {
            Ok(answer) => answer,
            // Its fact may be written all the same; repeated, it changes nothing.
            Err(_) => {
                self.metrics.callbacks.add(Callback::TooSlow, 1);
                (StatusCode::SERVICE_UNAVAILABLE, "too slow, please send it again\n")
            }
        };
        let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
        *response.status_mut() = status;
        response
    }

    fn quiet(&self) -> &Quiet {
        &self.quiet
    }
}

type Answer = (StatusCode, &'static str);

impl Listener {
    async fn take(&self, request: Request<Body>, peer: IpAddr) -> Answer {
        if !same(request.uri().path(), &self.settings.path) {
            return self.counted(Callback::WrongPath, StatusCode::NOT_FOUND, "not found\n");
        }
        let source = Source::of(peer, request.headers(), &self.settings.trusted_proxies);
        if !source.is_among(&self.settings.allow_from) {
            self.quiet.warn(&format!("a callback from {source}, which allow_from does not name"));
            return self.counted(Callback::WrongSource, StatusCode::FORBIDDEN, "not from there\n");
        }
        if request.method() != Method::POST {
            return self.counted(Callback::WrongMethod, StatusCode::METHOD_NOT_ALLOWED, "POST only\n");
        }
        if request.body().size_hint().lower() > callback::MOST_BYTES as u64 {
            return self.counted(Callback::TooLarge, StatusCode::PAYLOAD_TOO_LARGE, "too large\n");
        }
        let Ok(body) = Limited::new(request.into_body(), callback::MOST_BYTES).collect().await else {
            let text = "too large, or broken off\n";
            return self.counted(Callback::TooLarge, StatusCode::PAYLOAD_TOO_LARGE, text);
        };
        let proof = Proof {
            secrets: &self.settings.secrets,
            old_inbound_signature: self.settings.old_inbound_signature,
        };
        let callback = match callback::parse(&body.to_bytes(), proof) {
            Ok(callback) => callback,
            Err(fault) => return self.refuse(&fault),
        };
        debug!(?callback, "callback");
        let Some(fact) = self.meaning.of(callback) else {
            return self.counted(Callback::Ignored, StatusCode::OK, "OK\n");
        };
        if let Some(pace) = &self.pace {
            pace.wait().await;
        }
        let told = told(&fact);
        match self.incoming.submit(fact).await {
            Taken::Committed => self.counted(Callback::Written(told), StatusCode::OK, "OK\n"),
            Taken::Failed => {
                let text = "not written, please send it again\n";
                self.counted(Callback::NotWritten(told), StatusCode::SERVICE_UNAVAILABLE, text)
            }
        }
    }

    /// Counts a callback and answers it.
    fn counted(&self, callback: Callback, status: StatusCode, text: &'static str) -> Answer {
        self.metrics.callbacks.add(callback, 1);
        (status, text)
    }

    fn refuse(&self, fault: &CallbackError) -> Answer {
        match fault {
            // Messages from the gateway's web pages carry none: nothing of ours, and nothing wrong.
            CallbackError::EmptyReference => self.counted(Callback::Ignored, StatusCode::OK, "OK\n"),
            CallbackError::WrongSignature => {
                self.quiet
                    .warn("a callback with a wrong signature: forged, or client_secret is not the account's");
                self.counted(Callback::WrongSignature, StatusCode::FORBIDDEN, "wrong SMS-Verify\n")
            }
            CallbackError::NotUnderstood => {
                self.quiet
                    .warn("a callback that is neither a receipt, nor a message, nor a processing result");
                let text = "not understood\n";
                self.counted(Callback::NotUnderstood, StatusCode::UNPROCESSABLE_ENTITY, text)
            }
            CallbackError::Malformed(what) => {
                self.quiet.warn(&format!("a malformed callback: {what}"));
                self.counted(Callback::Malformed, StatusCode::BAD_REQUEST, "malformed\n")
            }
        }
    }
}

fn told(fact: &Fact) -> Told {
    match fact {
        Fact::Receipt(receipt) if receipt.delivered => Told::Delivered,
        Fact::Receipt(_) => Told::Undelivered,
        Fact::Processed(_) => Told::Processed,
        Fact::Inbound(_) => Told::Reply,
        Fact::CampaignRefused { .. } => Told::RequestRefused,
    }
}

/// Takes as long for a wrong path as for the right one, so that the path cannot be guessed letter by letter.
fn same(path: &str, secret: &Secret) -> bool {
    let (path, secret) = (path.as_bytes(), secret.expose().as_bytes());
    path.len() == secret.len() && path.iter().zip(secret).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}
