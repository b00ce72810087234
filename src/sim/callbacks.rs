//! Callbacks: a queue, and a fixed number of keep-alive connections that empty it.
//!
//! Nothing is promised to the receiver: what fails is tried again only as often as the settings say.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::sim::agenda::{Event, after_ms};
use crate::sim::hub::Hub;
use crate::sim::ledger::{Slip, Stage, Ticket};
use crate::sim::payload;
use crate::sim::script::Target;
use crate::sim::settings::Settings;
use crate::sim::times::Times;

/// A receiver's answer beyond this is not read; its connection is given up.
const LONGEST_ANSWER: usize = 64 << 10;
/// Receivers that a worker stays connected to.
const MOST_LINES: usize = 8;

/// One callback on its way.
#[derive(Debug)]
pub(super) struct Job {
    what: What,
    tries: u32,
}

#[derive(Debug, Clone)]
pub(super) enum What {
    /// What became of a message, as its dialect reports it.
    Receipt {
        ticket: Ticket,
        delivered: bool,
    },
    /// A receipt that the control API asked for.
    Report(Box<Report>),
    Result(Box<Processing>),
    Inbound(Box<Inbound>),
}

/// The contents of a delivery receipt.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Report {
    pub notify_id: String,
    pub number: String,
    pub sender: String,
    pub delivered: bool,
    /// Microseconds since 1970; 0: now.
    pub at_us: i64,
    /// Sign it with a secret that nobody has.
    pub forged: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Processing {
    pub(super) status: &'static str,
    pub(super) message: &'static str,
    pub(super) notify_id: Option<String>,
}

#[derive(Debug, Clone)]
pub(super) struct Inbound {
    pub(super) from: u64,
    pub(super) to: String,
    pub(super) text: String,
    pub(super) notify_id: String,
    pub(super) at_us: i64,
}

#[derive(Debug)]
pub(super) struct Outbound {
    queue: Mutex<VecDeque<Job>>,
    /// One permit for each job in the queue.
    ready: Semaphore,
    /// Receipts that wait to be sent newest first.
    held: Mutex<Vec<What>>,
    last_error: Mutex<Option<String>>,
    /// From posting a callback to its answer.
    pub(super) times: Times,
}

impl Default for Outbound {
    fn default() -> Outbound {
        Outbound {
            queue: Mutex::default(),
            ready: Semaphore::new(0),
            held: Mutex::default(),
            last_error: Mutex::default(),
            times: Times::default(),
        }
    }
}

impl Outbound {
    pub(super) fn push(&self, job: Job) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(job);
        self.ready.add_permits(1);
    }

    async fn pop(&self) -> Option<Job> {
        self.ready.acquire().await.ok()?.forget();
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    pub(super) fn clear(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clear();
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.times.clear();
    }

    /// Why the last failed callback failed.
    pub(super) fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends what is held, if it is enough.
    pub(super) fn flush(&self, hub: &Hub, enough: usize) {
        let released = {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            if held.len() < enough.max(1) {
                return;
            }
            std::mem::take(&mut *held)
        };
        let settings = hub.settings();
        for what in released.into_iter().rev() {
            schedule(hub, what, receipt_delay(hub, &settings));
        }
    }
}

/// Makes a callback that leaves after so many milliseconds.
pub(super) fn make(hub: &Hub, what: What, delay_ms: u64) {
    hub.counters.add(&hub.counters.callbacks_waiting, 1);
    schedule(hub, what, delay_ms);
}

/// Reports what became of a message, if anybody wants to know.
pub(super) fn make_receipt(hub: &Hub, ticket: Ticket, slip: &Slip, delivered: bool) {
    let settings = hub.settings();
    let receipts = &settings.callbacks.receipts;
    let wanted = match (slip.via, &slip.dlr) {
        (Target::Kannel, Some(dlr)) => dlr.mask & if delivered { 1 } else { 2 } != 0,
        (Target::Kannel, None) => false,
        // A v1 message without a reference asks for no notifications; a v2 one gets them with an empty reference.
        (Target::V1Form | Target::V1Json, _) => receipts.to.is_some() && !slip.notify_id.is_empty(),
        _ => receipts.to.is_some(),
    };
    if !wanted {
        return;
    }
    if receipts.lost > 0.0 && hub.chance() < receipts.lost {
        hub.counters.add(&hub.counters.receipts_lost, 1);
        return;
    }
    for _ in 0..=receipts.copies {
        let what = What::Receipt { ticket, delivered };
        if receipts.reverse > 1 {
            hub.counters.add(&hub.counters.callbacks_waiting, 1);
            hub.outbound.held.lock().unwrap_or_else(PoisonError::into_inner).push(what);
            hub.outbound.flush(hub, receipts.reverse);
        } else {
            make(hub, what, receipt_delay(hub, &settings));
        }
    }
}

fn receipt_delay(hub: &Hub, settings: &Settings) -> u64 {
    let receipts = &settings.callbacks.receipts;
    hub.around(receipts.delay_ms, receipts.jitter_ms)
}

fn schedule(hub: &Hub, what: What, delay_ms: u64) {
    let job = Job { what, tries: 0 };
    if delay_ms == 0 {
        hub.outbound.push(job);
    } else {
        hub.agenda.at(after_ms(delay_ms), Event::Post(job));
    }
}

/// One of the workers that empty the queue.
pub(super) async fn run(hub: Arc<Hub>) {
    let mut lines = Lines::default();
    loop {
        let Some(job) = hub.outbound.pop().await else { continue };
        let settings = hub.settings();
        let Some(letter) = Letter::write(&hub, &settings, &job.what) else {
            hub.counters.sub(&hub.counters.callbacks_waiting, 1);
            continue;
        };
        let limit = Duration::from_millis(settings.callbacks.timeout_ms);
        let begun = Instant::now();
        let posted = match tokio::time::timeout(limit, lines.post(&letter)).await {
            Ok(posted) => {
                if posted.is_ok() {
                    hub.outbound.times.add(begun.elapsed());
                }
                posted
            }
            Err(_) => {
                lines.drop_line(&letter);
                Err("no answer in time".to_owned())
            }
        };
        settle(&hub, &settings, job, posted);
    }
}

fn settle(hub: &Hub, settings: &Settings, job: Job, posted: Result<(), String>) {
    let counters = &hub.counters;
    let (all, ok, failed) = match job.what {
        What::Receipt { .. } | What::Report(_) => {
            (&counters.receipts, &counters.receipts_ok, &counters.receipts_failed)
        }
        What::Result(_) => (&counters.results, &counters.results_ok, &counters.results_failed),
        What::Inbound(_) => (&counters.inbound, &counters.inbound_ok, &counters.inbound_failed),
    };
    counters.add(all, 1);
    match posted {
        Ok(()) => {
            counters.add(ok, 1);
        }
        Err(error) => {
            counters.add(failed, 1);
            *hub.outbound.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            if job.tries < settings.callbacks.retries {
                let again = Job { tries: job.tries + 1, ..job };
                hub.agenda.at(after_ms(settings.callbacks.retry_ms), Event::Post(again));
                return;
            }
        }
    }
    counters.sub(&counters.callbacks_waiting, 1);
}

/// A callback as it goes over the wire.
struct Letter {
    url: String,
    content_type: &'static str,
    /// `None`: GET.
    body: Option<String>,
}

impl Letter {
    /// `None`: there is nobody to write to any more.
    fn write(hub: &Hub, settings: &Settings, what: &What) -> Option<Letter> {
        const FORM: &str = "application/x-www-form-urlencoded";
        let callbacks = &settings.callbacks;
        let (url, content_type, body) = match what {
            What::Receipt { ticket, delivered } => {
                let slip = hub.ledger().slip(*ticket).filter(|slip| slip.stage != Stage::Pending)?;
                if let Some(dlr) = &slip.dlr {
                    let url = payload::dlr_url(dlr, &slip, *delivered);
                    return Some(Letter { url, content_type: FORM, body: None });
                }
                let report = Report {
                    notify_id: slip.notify_id.into(),
                    number: slip.number.to_string(),
                    sender: slip.sender.to_string(),
                    delivered: *delivered,
                    at_us: slip.finished_us,
                    forged: false,
                };
                (callbacks.receipts.to.clone()?, FORM, payload::receipt(settings, &report))
            }
            What::Report(report) => {
                (callbacks.receipts.to.clone()?, FORM, payload::receipt(settings, report))
            }
            What::Result(note) => {
                (callbacks.results_to.clone()?, "application/json", payload::processing(note))
            }
            What::Inbound(inbound) => {
                (callbacks.inbound_to.clone()?, FORM, payload::inbound(settings, inbound))
            }
        };
        Some(Letter { url, content_type, body: Some(body) })
    }

    fn request(&self) -> Result<(String, Request<Full<Bytes>>), String> {
        let uri: Uri = self.url.parse().map_err(|error| format!("callback URL is wrong: {error}"))?;
        if uri.scheme_str() != Some("http") {
            return Err("callback URL must start with http://".to_owned());
        }
        let Some(authority) = uri.authority() else {
            return Err("callback URL names no host".to_owned());
        };
        let address = match authority.port_u16() {
            Some(_) => authority.to_string(),
            None => format!("{}:80", authority.host()),
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let method = if self.body.is_some() { "POST" } else { "GET" };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", authority.as_str())
            .header("user-agent", "gateway-sim");
        if self.body.is_some() {
            request = request.header("content-type", self.content_type);
        }
        let body = Full::new(Bytes::from(self.body.clone().unwrap_or_default()));
        let request = request.body(body).map_err(|error| format!("callback URL is wrong: {error}"))?;
        Ok((address, request))
    }
}

/// A worker's open connections, by address.
#[derive(Default)]
struct Lines {
    open: HashMap<String, SendRequest<Full<Bytes>>>,
    drivers: JoinSet<()>,
}

impl Lines {
    async fn post(&mut self, letter: &Letter) -> Result<(), String> {
        let (address, mut request) = letter.request()?;
        if let Some(mut line) = self.open.remove(&address)
            && line.ready().await.is_ok()
        {
            match line.try_send_request(request).await {
                Ok(response) => return self.finish(address, line, response).await,
                // Never left this host, because the receiver had closed the idle connection: not a try.
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(format!("{address}: {}", error.into_error())),
                },
            }
        }
        let mut line = self.connect(&address).await.map_err(|error| format!("{address}: {error}"))?;
        let response = line.send_request(request).await.map_err(|error| format!("{address}: {error}"))?;
        self.finish(address, line, response).await
    }

    async fn connect(&mut self, address: &str) -> Result<SendRequest<Full<Bytes>>, String> {
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let (line, driver) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        while self.drivers.try_join_next().is_some() {}
        self.drivers.spawn(async move {
            // Whatever ends the connection is told to the request on it.
            let _ = driver.await;
        });
        Ok(line)
    }

    /// Reads the answer; a connection that is still good is kept.
    async fn finish(
        &mut self,
        address: String,
        line: SendRequest<Full<Bytes>>,
        response: http::Response<hyper::body::Incoming>,
    ) -> Result<(), String> {
        let status = response.status();
        if Limited::new(response.into_body(), LONGEST_ANSWER).collect().await.is_ok() {
            if self.open.len() >= MOST_LINES {
                self.open.clear();
            }
            self.open.insert(address.clone(), line);
        }
        if status.is_success() { Ok(()) } else { Err(format!("{address}: answered {status}")) }
    }

    fn drop_line(&mut self, letter: &Letter) {
        if let Ok((address, _)) = letter.request() {
            self.open.remove(&address);
        }
    }
}
