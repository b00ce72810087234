//! The gateway's own port: connections, requests, and which part of the gateway answers.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::sim::agenda::pause;
use crate::sim::answer::{Answer, LeaveHttp, Performance, Reply, play};
use crate::sim::batch::{Batch, Outcome};
use crate::sim::call::{Call, Unread, takes, target};
use crate::sim::counters::{Count, Counters};
use crate::sim::hub::Hub;
use crate::sim::script::{Act, Refusal, Target};
use crate::sim::settings::Settings;
use crate::sim::smsc::{Terms, take};
use crate::sim::{auth, kannel, send_v1, send_v2};

/// Pause after a connection could not be taken, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Serves until it is dropped. While the gateway is down its port is closed, so that connecting is refused.
pub(super) async fn serve(hub: Arc<Hub>, mut listener: TcpListener) {
    let Ok(address) = listener.local_addr() else { return };
    let mut wanted = hub.up_wanted.subscribe();
    loop {
        tokio::select! {
            () = take_connections(&hub, listener) => {}
            _ = wanted.wait_for(|up| !up) => {}
        }
        hub.up.send_replace(false);
        if wanted.wait_for(|up| *up).await.is_err() {
            return;
        }
        listener = loop {
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        };
        hub.up.send_replace(true);
    }
}

/// Takes connections until it is dropped, which ends them all.
async fn take_connections(hub: &Arc<Hub>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                hub.counters.add(&hub.counters.connections, 1);
                connections.spawn(converse(Arc::clone(hub), stream));
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

type Answered = Pin<Box<dyn Future<Output = Result<Response<Full<Bytes>>, LeaveHttp>> + Send>>;

/// One connection. A scripted fault ends the HTTP part of it and takes the socket over.
async fn converse(hub: Arc<Hub>, stream: TcpStream) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let service = service_fn(move |request| -> Answered { Box::pin(handle(Arc::clone(&hub), request)) });
    let mut connection = http1::Builder::new()
        // Tests hold connections open for as long as they like.
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service);
    let end = poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
    let stream = connection.into_parts().io.into_inner();
    let performance = match &end {
        Ok(()) => Performance::default(),
        Err(error) => std::error::Error::source(error)
            .and_then(|source| source.downcast_ref::<LeaveHttp>())
            .map(|leave| leave.0.clone())
            .unwrap_or_default(),
    };
    // The client may be gone: then there is nobody to tell.
    let _ = perform(stream, performance).await;
}

async fn perform(mut stream: TcpStream, performance: Performance) -> io::Result<()> {
    for piece in &performance.pieces {
        pause(performance.pause_ms).await;
        stream.write_all(piece).await?;
    }
    if performance.reset {
        stream.set_zero_linger()?;
        return Ok(());
    }
    stream.shutdown().await
}

async fn handle(hub: Arc<Hub>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, LeaveHttp> {
    let _open = Open::count(&hub, |counters| &counters.in_flight);
    let (parts, body) = request.into_parts();
    let Some(target) = target(parts.uri.path()) else {
        return decent(Answer::text(404, "not found"), 0).await;
    };
    if !takes(target, &parts.method) {
        return decent(Answer::text(405, "method not allowed"), 0).await;
    }
    let limit = hub.settings().answers.max_body_bytes;
    let call = match Call::read(parts, body, limit).await {
        Ok(call) => call,
        Err(Unread::TooLarge) => return decent(Answer::text(413, "request body too large"), 0).await,
        Err(Unread::Broken) => return Err(LeaveHttp(Performance::default())),
    };
    let reply = if target.sends() {
        hub.counters.add(&hub.counters.requests, 1);
        if hub.frost.borrow().frozen {
            stand_still(&hub, target, call).await
        } else {
            decide(&hub, target, &call)
        }
    } else {
        decide(&hub, target, &call)
    };
    match reply {
        Reply::Decent(answer, delay_ms) => decent(answer, delay_ms).await,
        Reply::Raw(performance) => Err(LeaveHttp(performance)),
        Reply::Silence => std::future::pending().await,
    }
}

async fn decent(answer: Answer, delay_ms: u64) -> Result<Response<Full<Bytes>>, LeaveHttp> {
    pause(delay_ms).await;
    // A scripted header or status that hyper would not write is written by hand.
    answer.response().ok_or_else(|| LeaveHttp(answer.raw(0)))
}

/// Waits for the thaw in a task of its own: a gateway that has read a request acts on it, client or no client.
async fn stand_still(hub: &Arc<Hub>, target: Target, call: Call) -> Reply {
    let (answer, answered) = oneshot::channel();
    let owned = Arc::clone(hub);
    {
        let mut strays = hub.strays();
        while strays.try_join_next().is_some() {}
        let mut frost = hub.frost.subscribe();
        let thaws = frost.borrow().thaws;
        strays.spawn(async move {
            let discard = {
                let _open = Open::count(&owned, |counters| &counters.frozen);
                match frost.wait_for(|frost| frost.thaws > thaws).await {
                    Ok(frost) => frost.discard,
                    Err(_) => true,
                }
            };
            let reply =
                if discard { Reply::Raw(Performance::default()) } else { decide(&owned, target, &call) };
            // The client may be gone.
            let _ = answer.send(reply);
        });
    }
    answered.await.unwrap_or_else(|_| Reply::Raw(Performance::default()))
}

/// Reads, scripts, accepts: everything that happens to a request between its last byte and its answer.
fn decide(hub: &Hub, target: Target, call: &Call) -> Reply {
    let settings = hub.settings();
    let batch = read(&settings, target, call);
    let number = match &batch {
        Some(Ok(batch)) => batch.first_number(),
        Some(Err(_)) | None => "",
    };
    let mut act = hub.script.next(target, number).or_else(|| strike(hub, &settings, target));
    if act.is_some() {
        hub.counters.add(&hub.counters.faults, 1);
    }
    if act == Some(Act::ExpireTokens {}) {
        hub.tokens.expire_all();
        act = None;
    }
    let latency_ms = hub.around(settings.answers.latency_ms, settings.answers.jitter_ms);
    if let Some(act) = act.take_if(|act| !act.handles()) {
        return play(act, Answer::text(200, ""), latency_ms);
    }
    let forced = match &act {
        Some(Act::Refuse { reason }) => Some(*reason),
        Some(_) | None => None,
    };
    let terms = Terms { forced, answer_ms: latency_ms };
    let answer = match batch {
        Some(batch) => submit(hub, &settings, (target, call, batch), terms),
        None => inquire(hub, &settings, (target, call), forced),
    };
    match act {
        Some(act) => play(act, answer, latency_ms),
        None => Reply::Decent(answer, latency_ms),
    }
}

/// Why a request is not a batch: the reason, and its answer.
pub(super) type Unfit = (Refusal, Answer);

/// `None`: this is not a request to send.
fn read(settings: &Settings, target: Target, call: &Call) -> Option<Result<Batch, Unfit>> {
    match target {
        Target::V1Form => Some(send_v1::read_form(settings, call)),
        Target::V1Json => Some(send_v1::read_json(settings, call)),
        Target::V2 => Some(send_v2::read(settings, call)),
        Target::Kannel => Some(kannel::read(settings, call)),
        Target::Token | Target::SenderList | Target::Health => None,
    }
}

/// A fault by chance, if one strikes.
fn strike(hub: &Hub, settings: &Settings, target: Target) -> Option<Act> {
    if !target.sends() {
        return None;
    }
    settings.answers.faults.iter().find(|fault| hub.chance() < fault.rate).map(|fault| fault.act.clone())
}

fn submit(
    hub: &Hub,
    settings: &Settings,
    (target, call, batch): (Target, &Call, Result<Batch, Unfit>),
    terms: Terms,
) -> Answer {
    if target == Target::V2 && !auth::is_authorized(hub, call) {
        hub.counters.add(&hub.counters.unauthorized, 1);
        return send_v2::unauthorized();
    }
    let outcome = match batch {
        Ok(batch) => take(hub, settings, batch, terms),
        Err((refusal, answer)) => {
            if refusal == Refusal::Login {
                hub.counters.add(&hub.counters.unauthorized, 1);
            }
            return answer;
        }
    };
    if outcome == Outcome::Refused(Refusal::Login) {
        hub.counters.add(&hub.counters.unauthorized, 1);
    }
    match target {
        Target::V1Form => send_v1::answer_form(settings, &outcome),
        Target::V1Json => send_v1::answer_json(settings, &outcome),
        Target::Kannel => kannel::answer(&outcome),
        Target::V2 | Target::Token | Target::SenderList | Target::Health => {
            send_v2::answer(settings, &outcome)
        }
    }
}

/// Requests that send nothing.
fn inquire(
    hub: &Hub,
    settings: &Settings,
    (target, call): (Target, &Call),
    forced: Option<Refusal>,
) -> Answer {
    match target {
        Target::Token if forced.is_some() => auth::wrong_credentials(hub),
        Target::Token => auth::token(hub, settings, call),
        Target::SenderList if forced.is_some() || !auth::is_authorized(hub, call) => {
            hub.counters.add(&hub.counters.unauthorized, 1);
            send_v2::unauthorized()
        }
        Target::SenderList => send_v2::sender_list(settings),
        Target::Health if forced.is_some() => Answer::text(503, "Unhealthy"),
        Target::Health | Target::V1Form | Target::V1Json | Target::V2 | Target::Kannel => {
            Answer::text(200, "Healthy")
        }
    }
}

/// Counts something as open until it is dropped.
struct Open<'a> {
    counters: &'a Counters,
    count: &'a Count,
}

impl<'a> Open<'a> {
    fn count(hub: &'a Hub, which: impl Fn(&'a Counters) -> &'a Count) -> Open<'a> {
        let counters = &hub.counters;
        let count = which(counters);
        let now = counters.add(count, 1);
        if std::ptr::eq(count, &raw const counters.in_flight) {
            counters.raise(&counters.peak_in_flight, now);
        }
        Open { counters, count }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.counters.sub(self.count, 1);
    }
}
