//! The listener for what the gateway reports later. It knows HTTP and nothing else: what a form means is the gateway
//! edge's business, what it does to a row the store's. A caller gets 200 only when its fact is committed.
//!
//! It stands open to strangers, so whatever they do has a bound: connections (`connections`), bytes, time, and lines in
//! the log. Those who know the secret path are never turned away for what strangers do.

mod connections;
mod pace;
mod quiet;
mod source;
mod tls;

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body as _, Incoming as Body};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, info};

use crate::config::{Callbacks, Secret};
use crate::daemon::callbacks::connections::{Connections, Place};
use crate::daemon::callbacks::pace::Pace;
use crate::daemon::callbacks::quiet::Quiet;
use crate::daemon::callbacks::source::Source;
use crate::daemon::meaning::Meaning;
use crate::engine::incoming::{Incoming, Taken};
use crate::gateway::callback::{self, CallbackError, Proof};

pub(super) use tls::Certificate;

/// Longest head of a request, and most of its fields.
const HEAD_BYTES: usize = 16 * 1024;
const HEAD_FIELDS: usize = 64;
/// Pause after the system had no connection to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// When it is told to end: how long answers to what was read may take.
const LAST_ANSWERS: Duration = Duration::from_secs(3);
/// And how long a connection that has not asked yet may take to begin.
const FIRST_REQUEST: Duration = Duration::from_millis(250);

struct Listener {
    settings: Callbacks,
    meaning: Meaning,
    incoming: Incoming,
    pace: Option<Pace>,
    quiet: Quiet,
}

/// What the listener is made of.
pub(super) struct Parts {
    pub(super) socket: Arc<TcpListener>,
    pub(super) certificate: Option<Certificate>,
    pub(super) settings: Callbacks,
    pub(super) meaning: Meaning,
    pub(super) incoming: Incoming,
    /// Turns true when nothing more is to be taken.
    pub(super) closing: watch::Receiver<bool>,
}

/// Runs until it is told to close; what was read by then is answered. The socket stays open, for whoever listens next.
pub(super) async fn serve(parts: Parts) {
    let Parts { socket, certificate, settings, meaning, incoming, mut closing } = parts;
    info!(address = %settings.listen, tls = certificate.is_some(), "taking callbacks");
    let connections = Connections::new(settings.max_connections);
    let pace = settings.rate.map(Pace::new);
    let listener = Arc::new(Listener { settings, meaning, incoming, pace, quiet: Quiet::default() });
    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = closed(&mut closing) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                listener.quiet.warn(&format!("could not accept a connection: {error}"));
                connections.make_room();
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let place = tokio::select! {
            place = connections.place() => place,
            () = closed(&mut closing) => break,
        };
        let (listener, certificate, closing) = (Arc::clone(&listener), certificate.clone(), closing.clone());
        tasks.spawn(async move {
            attend(&listener, stream, peer.ip(), certificate, (place, closing)).await;
        });
        while tasks.try_join_next().is_some() {}
    }
    let last = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(LAST_ANSWERS, last).await.is_err() {
        debug!("callbacks without an answer were cut off");
    }
}

async fn closed(closing: &mut watch::Receiver<bool>) {
    // An error means that whoever could say so has gone.
    let _ = closing.wait_for(|closing| *closing).await;
}

/// One connection, until it ends or its place is wanted for another.
async fn attend(
    listener: &Arc<Listener>,
    stream: TcpStream,
    peer: IpAddr,
    certificate: Option<Certificate>,
    (place, closing): (Place, watch::Receiver<bool>),
) {
    // An answer is one small packet; there is nothing to wait for.
    let _ = stream.set_nodelay(true);
    let work = async {
        match certificate {
            None => talk(listener, stream, peer, &place, closing).await,
            Some(certificate) => {
                let shaken =
                    tokio::time::timeout(listener.settings.timeout, certificate.accept(stream)).await;
                match shaken {
                    Ok(Ok(stream)) => talk(listener, stream, peer, &place, closing).await,
                    Ok(Err(error)) => debug!(%error, "no TLS with a caller"),
                    Err(_) => debug!("a caller did not finish its TLS handshake"),
                }
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = place.given_up() => debug!("closed an idle connection: its place was wanted"),
    }
}

async fn talk<S>(
    listener: &Arc<Listener>,
    stream: S,
    peer: IpAddr,
    place: &Place,
    mut closing: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let has_asked = AtomicBool::new(false);
    let service = service_fn(|request| {
        has_asked.store(true, Ordering::Relaxed);
        let listener = Arc::clone(listener);
        async move {
            let _busy = place.busy();
            let (status, text) = listener.answer(request, peer).await;
            let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
            *response.status_mut() = status;
            if status != StatusCode::OK {
                // Its body may not have been read, and strangers need not stay.
                response
                    .headers_mut()
                    .insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(listener.settings.timeout)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEAD_FIELDS)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closed(&mut closing) => {
            // Of one that has just come the request may be on its way: it could not know that it was not read.
            let patience = if has_asked.load(Ordering::Relaxed) { Duration::ZERO } else { FIRST_REQUEST };
            match tokio::time::timeout(patience, connection.as_mut()).await {
                Ok(ended) => ended,
                Err(_) => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a caller's connection broke off");
    }
}

type Answer = (StatusCode, &'static str);

impl Listener {
    async fn answer(&self, request: Request<Body>, peer: IpAddr) -> Answer {
        let limit = self.settings.timeout;
        match tokio::time::timeout(limit, self.take(request, peer)).await {
            Ok(answer) => answer,
            // Its fact may be written all the same; repeated, it changes nothing.
            Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "too slow, please send it again\n"),
        }
    }

    async fn take(&self, request: Request<Body>, peer: IpAddr) -> Answer {
        if !same(request.uri().path(), &self.settings.path) {
            return (StatusCode::NOT_FOUND, "not found\n");
        }
        let source = Source::of(peer, request.headers(), &self.settings.trusted_proxies);
        if !source.is_among(&self.settings.allow_from) {
            self.quiet.warn(&format!("a callback from {source}, which allow_from does not name"));
            return (StatusCode::FORBIDDEN, "not from there\n");
        }
        if request.method() != Method::POST {
            return (StatusCode::METHOD_NOT_ALLOWED, "POST only\n");
        }
        if request.body().size_hint().lower() > callback::MOST_BYTES as u64 {
            return (StatusCode::PAYLOAD_TOO_LARGE, "too large\n");
        }
        let Ok(body) = Limited::new(request.into_body(), callback::MOST_BYTES).collect().await else {
            return (StatusCode::PAYLOAD_TOO_LARGE, "too large, or broken off\n");
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
        let Some(fact) = self.meaning.of(callback) else { return (StatusCode::OK, "OK\n") };
        if let Some(pace) = &self.pace {
            pace.wait().await;
        }
        match self.incoming.submit(fact).await {
            Taken::Committed => (StatusCode::OK, "OK\n"),
            Taken::Failed => (StatusCode::SERVICE_UNAVAILABLE, "not written, please send it again\n"),
        }
    }

    fn refuse(&self, fault: &CallbackError) -> Answer {
        match fault {
            // Messages from the gateway's web pages carry none: nothing of ours, and nothing wrong.
            CallbackError::EmptyReference => (StatusCode::OK, "OK\n"),
            CallbackError::WrongSignature => {
                self.quiet
                    .warn("a callback with a wrong signature: forged, or client_secret is not the account's");
                (StatusCode::FORBIDDEN, "wrong SMS-Verify\n")
            }
            CallbackError::NotUnderstood => {
                self.quiet
                    .warn("a callback that is neither a receipt, nor a message, nor a processing result");
                (StatusCode::UNPROCESSABLE_ENTITY, "not understood\n")
            }
            CallbackError::Malformed(what) => {
                self.quiet.warn(&format!("a malformed callback: {what}"));
                (StatusCode::BAD_REQUEST, "malformed\n")
            }
        }
    }
}

/// Takes as long for a wrong path as for the right one, so that the path cannot be guessed letter by letter.
fn same(path: &str, secret: &Secret) -> bool {
    let (path, secret) = (path.as_bytes(), secret.expose().as_bytes());
    path.len() == secret.len() && path.iter().zip(secret).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}
