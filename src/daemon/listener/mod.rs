//! A listener that speaks HTTP/1.1 and bears strangers: whatever they do has a bound. Connections (`connections`), bytes
//! of a head, time, and lines in the log (`quiet`). What a request means is its [`Site`]'s business.
//!
//! Shared by the callback listener, which may be published, and the admin pages, which are not.

mod connections;
mod quiet;
mod tls;

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming as Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::debug;

use crate::daemon::listener::connections::{Connections, Place};

pub(super) use quiet::Quiet;
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

/// What answers requests. It sees to it that each is answered in time.
pub(super) trait Site: Send + Sync + 'static {
    /// `peer`: who is connected; `None`: somebody on this machine.
    fn answer(
        &self,
        request: Request<Body>,
        peer: Option<IpAddr>,
    ) -> impl Future<Output = Response<Full<Bytes>>> + Send;

    /// Warnings that callers can cause.
    fn quiet(&self) -> &Quiet;
}

/// Where connections come from.
pub(super) enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// What a listener is made of.
pub(super) struct Parts<S> {
    pub(super) socket: Arc<Socket>,
    pub(super) certificate: Option<Certificate>,
    pub(super) site: Arc<S>,
    pub(super) max_connections: usize,
    /// For a caller to send the head of a request, and between two requests.
    pub(super) timeout: Duration,
    /// Turns true when nothing more is to be taken.
    pub(super) closing: watch::Receiver<bool>,
}

/// Runs until it is told to close; what was read by then is answered. The socket stays open, for whoever listens next.
pub(super) async fn serve<S: Site>(parts: Parts<S>) {
    let Parts { socket, certificate, site, max_connections, timeout, mut closing } = parts;
    let connections = Connections::new(max_connections);
    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = closed(&mut closing) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                site.quiet().warn(&format!("could not accept a connection: {error}"));
                connections.make_room();
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let place = tokio::select! {
            place = connections.place() => place,
            () = closed(&mut closing) => break,
        };
        let caller = Caller { site: Arc::clone(&site), peer, place, timeout, closing: closing.clone() };
        let certificate = certificate.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = attend(&caller, stream, certificate) => {}
                () = caller.place.given_up() => debug!("closed an idle connection: its place was wanted"),
            }
        });
        while tasks.try_join_next().is_some() {}
    }
    let last = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(LAST_ANSWERS, last).await.is_err() {
        debug!("callers without an answer were cut off");
    }
}

async fn closed(closing: &mut watch::Receiver<bool>) {
    // An error means that whoever could say so has gone.
    let _ = closing.wait_for(|closing| *closing).await;
}

impl Socket {
    async fn accept(&self) -> std::io::Result<(Stream, Option<IpAddr>)> {
        match self {
            Socket::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Stream::Tcp(stream), Some(peer.ip())))
            }
            Socket::Unix(listener) => Ok((Stream::Unix(listener.accept().await?.0), None)),
        }
    }
}

/// One connection.
struct Caller<S> {
    site: Arc<S>,
    peer: Option<IpAddr>,
    place: Place,
    timeout: Duration,
    closing: watch::Receiver<bool>,
}

async fn attend<S: Site>(caller: &Caller<S>, stream: Stream, certificate: Option<Certificate>) {
    let stream = match stream {
        Stream::Unix(stream) => return talk(caller, stream).await,
        Stream::Tcp(stream) => stream,
    };
    // An answer is one small packet; there is nothing to wait for.
    let _ = stream.set_nodelay(true);
    let Some(certificate) = certificate else { return talk(caller, stream).await };
    match tokio::time::timeout(caller.timeout, certificate.accept(stream)).await {
        Ok(Ok(stream)) => talk(caller, stream).await,
        Ok(Err(error)) => debug!(%error, "no TLS with a caller"),
        Err(_) => debug!("a caller did not finish its TLS handshake"),
    }
}

async fn talk<S: Site>(caller: &Caller<S>, stream: impl AsyncRead + AsyncWrite + Unpin) {
    let has_asked = AtomicBool::new(false);
    let service = service_fn(|request| {
        has_asked.store(true, Ordering::Relaxed);
        async move {
            let _busy = caller.place.busy();
            let mut response = caller.site.answer(request, caller.peer).await;
            if response.status() != StatusCode::OK {
                // Its body may not have been read, and strangers need not stay.
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(caller.timeout)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEAD_FIELDS)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut closing = caller.closing.clone();
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
