//! The least that a gateway can do: reads a request, answers that it was accepted, notes when it came. It runs on a
//! thread of its own, in this process, so that its clock is ours.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::processes::Moment;

/// Name of its thread.
pub(crate) const THREAD: &str = "sink";
const TOKEN: &str = r#"{"access_token":"bench.bench.bench","expires_in":86400,"token_type":"Bearer"}"#;
/// How each dialect says yes, by the path of the request.
const ACCEPTED: [(&str, &str); 4] = [
    ("/api/v2/Campaign", r#"{"success":true,"message":"Campaign scheduled","errors":[]}"#),
    ("/v1-json", r#"{"status":"0\nMessage sent"}"#),
    ("/v1", "0\nMessage sent"),
    ("/http", "OK"),
];
/// Stands once in a v2 request for each recipient.
const NOTIFY_ID: &[u8] = b"\"notifyId\"";

#[derive(Debug)]
pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    posts: AtomicU64,
    /// Only while somebody wants it: counting takes time.
    recipients: AtomicU64,
    counts_recipients: AtomicBool,
    /// By the number behind `~` in the text: only while somebody wants it.
    arrivals: Mutex<Option<HashMap<u64, Moment>>>,
}

impl Sink {
    pub(crate) fn start() -> Sink {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let served = Arc::clone(&shared);
        std::thread::Builder::new().name(THREAD.into()).spawn(move || serve(listener, &served)).unwrap();
        Sink { address, shared }
    }

    /// Requests to send so far.
    pub(crate) fn posts(&self) -> u64 {
        self.shared.posts.load(Ordering::Acquire)
    }

    /// From now on, counts the recipients of each request.
    pub(crate) fn count_recipients(&self) {
        self.shared.recipients.store(0, Ordering::Relaxed);
        self.shared.counts_recipients.store(true, Ordering::Relaxed);
    }

    /// How many there were since.
    pub(crate) fn recipients(&self) -> u64 {
        self.shared.recipients.load(Ordering::Relaxed)
    }

    /// From now on, notes when each message arrives.
    pub(crate) fn note_arrivals(&self) {
        *self.shared.arrivals.lock().unwrap() = Some(HashMap::new());
    }

    /// How many have arrived since.
    pub(crate) fn noted(&self) -> u64 {
        self.shared.arrivals.lock().unwrap().as_ref().map_or(0, |arrivals| arrivals.len() as u64)
    }

    /// What arrived since, by number; and stops noting.
    pub(crate) fn arrivals(&self) -> HashMap<u64, Moment> {
        self.shared.arrivals.lock().unwrap().take().unwrap_or_default()
    }
}

fn serve(listener: std::net::TcpListener, shared: &Arc<Shared>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener).unwrap();
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let _ = stream.set_nodelay(true);
            let shared = Arc::clone(shared);
            tokio::spawn(async move {
                let service = service_fn(|request| answer(&shared, request));
                // A client that goes away ends its connection; nobody needs to know.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
}

async fn answer(shared: &Shared, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path();
    let accepted = ACCEPTED.iter().find(|(of, _)| *of == path).map(|(_, text)| *text);
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    if accepted.is_some() {
        shared.took(&body);
    }
    let text = accepted.unwrap_or(TOKEN);
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

impl Shared {
    fn took(&self, body: &[u8]) {
        if self.counts_recipients.load(Ordering::Relaxed) {
            let recipients = body.windows(NOTIFY_ID.len()).filter(|bytes| *bytes == NOTIFY_ID).count();
            self.recipients.fetch_add(recipients as u64, Ordering::Relaxed);
        }
        if let Some(arrivals) = self.arrivals.lock().unwrap().as_mut()
            && let Some(number) = number_of(body)
        {
            arrivals.insert(number, Moment::now());
        }
        // Last: who waits for it looks at the rest then.
        self.posts.fetch_add(1, Ordering::Release);
    }
}

/// The digits behind `~` in the text: only what is watched has one.
fn number_of(body: &[u8]) -> Option<u64> {
    let at = body.iter().position(|byte| *byte == b'~')? + 1;
    let digits = body[at..].iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(None, |number, digit| Some(number.unwrap_or(0) * 10 + u64::from(digit - b'0')))
}
