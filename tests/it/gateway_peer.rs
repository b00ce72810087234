//! A gateway on loopback that does to each connection and request exactly what a test tells it, good or bad, and
//! remembers what reached it. Raw TCP, because no HTTP server would misbehave as wanted.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outboxd::config::{self, InteractsmsV2, OnUnknown, Secret};
use outboxd::message::{Encoding, MessageId, Outgoing};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A complete request as it came over the wire.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) head: String,
    pub(crate) body: String,
    /// Counted from 0 on its connection.
    pub(crate) nth: usize,
}

impl Request {
    pub(crate) fn is(&self, start: &str) -> bool {
        self.head.starts_with(start)
    }
}

/// What happens after a request was read.
pub(crate) enum Act {
    Answer(String),
    /// Without saying so in the answer: a server that is about to restart, or whose idle limit has passed.
    AnswerThenClose(String),
    Close,
    /// Keeps the connection open and says nothing.
    Hang,
    /// One byte at a time.
    Drip(String, Duration),
}

/// What happens when a connection comes in.
pub(crate) enum Greeting {
    Serve,
    Close,
    Say(&'static [u8]),
}

pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Seen {
    connections: usize,
    requests: Vec<Request>,
}

impl Peer {
    pub(crate) async fn serve(script: impl Fn(&Request) -> Act + Send + Sync + 'static) -> Peer {
        Peer::start(|| Greeting::Serve, script).await
    }

    /// Answers every request in the same way.
    pub(crate) async fn answering(status: u16, body: &str) -> Peer {
        let answer = answer(status, body);
        Peer::serve(move |_| Act::Answer(answer.clone())).await
    }

    pub(crate) async fn start(
        greet: impl Fn() -> Greeting + Send + 'static,
        script: impl Fn(&Request) -> Act + Send + Sync + 'static,
    ) -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let script = Arc::new(script);
        let mut tasks = JoinSet::new();
        let noted = seen.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                noted.lock().unwrap().connections += 1;
                match greet() {
                    Greeting::Close => drop(stream),
                    Greeting::Say(bytes) => {
                        stream.write_all(bytes).await.ok();
                    }
                    Greeting::Serve => {
                        let (noted, script) = (noted.clone(), script.clone());
                        connections.spawn(async move { converse(stream, &noted, &*script).await });
                    }
                }
            }
        });
        Peer { address, seen, _tasks: tasks }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn connections(&self) -> usize {
        self.seen.lock().unwrap().connections
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.seen.lock().unwrap().requests.clone()
    }

    pub(crate) fn count(&self, start: &str) -> usize {
        self.requests().iter().filter(|request| request.is(start)).count()
    }
}

async fn converse(
    mut stream: TcpStream,
    seen: &Mutex<Seen>,
    script: &(dyn Fn(&Request) -> Act + Send + Sync),
) {
    let mut buffer = Vec::new();
    for nth in 0.. {
        let Some(request) = read_request(&mut stream, &mut buffer, nth).await else { return };
        seen.lock().unwrap().requests.push(request.clone());
        match script(&request) {
            Act::Answer(answer) => {
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
            Act::AnswerThenClose(answer) => {
                stream.write_all(answer.as_bytes()).await.ok();
                return;
            }
            Act::Close => return,
            Act::Hang => {
                // Ends when the other side gives up.
                stream.read_exact(&mut [0; 1]).await.ok();
                return;
            }
            Act::Drip(answer, pause) => {
                for byte in answer.bytes() {
                    if stream.write_all(&[byte]).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
}

/// `None` when the connection ends before the request does.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>, nth: usize) -> Option<Request> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(buffer[..end].to_vec()).unwrap();
            let length: usize = head
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok())
                .unwrap_or(0);
            if buffer.len() >= end + 4 + length {
                let body = String::from_utf8(buffer[end + 4..end + 4 + length].to_vec()).unwrap();
                buffer.drain(..end + 4 + length);
                return Some(Request { head, body, nth });
            }
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => buffer.extend_from_slice(&chunk[..read]),
        }
    }
}

pub(crate) fn answer(status: u16, body: &str) -> String {
    answer_with(status, "", body)
}

/// `headers` ends each of its lines with CRLF.
pub(crate) fn answer_with(status: u16, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status} Status\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

pub(crate) const V1_ACCEPTED: &str = "0\nRequest deferred successfully\n";
pub(crate) const V2_ACCEPTED: &str = r#"{"success":true,"message":"Campaign scheduled","errors":[]}"#;

pub(crate) fn gateway(dialect: config::Dialect) -> config::Gateway {
    config::Gateway {
        name: "test".to_owned(),
        dialect,
        rate: None,
        concurrency: 64,
        connect_timeout: Duration::from_secs(5),
        request_timeout: Duration::from_secs(10),
        on_unknown: OnUnknown::Hold,
        stop_after_refusals: 10,
        breaker_failures: 5,
        backoff_min: Duration::from_secs(1),
        backoff_max: Duration::from_secs(60),
        proxy: None,
        ca_file: None,
        allow_http: false,
        network: config::Network::default(),
    }
}

pub(crate) fn v1(url: &str) -> config::Gateway {
    gateway(config::Dialect::InteractsmsV1(config::InteractsmsV1 {
        url: url.to_owned(),
        json: false,
        user: "user".to_owned(),
        password: Secret::new("correct-horse"),
        api_id: "42".to_owned(),
        notify_field: "NotifyID".to_owned(),
        newline: config::Newline::NotSign,
        charset: config::Charset::Utf8,
        codes: BTreeMap::new(),
    }))
}

pub(crate) fn v2(api: &str, token_url: &str) -> config::Gateway {
    gateway(config::Dialect::InteractsmsV2(InteractsmsV2 {
        api_url: api.to_owned(),
        token_url: token_url.to_owned(),
        username: "user".to_owned(),
        password: Secret::new("correct-horse"),
        campaign_name: None,
        coalesce: 1,
    }))
}

/// Tells itself apart from the others by its reference, `ref-{n}`.
pub(crate) fn message(n: usize) -> Outgoing {
    Outgoing {
        id: MessageId(1),
        attempt: 1,
        recipient: "353871234567".to_owned(),
        text: "Your appointment is at nine".to_owned(),
        sender: "Clinic".to_owned(),
        encoding: Encoding::Gsm7,
        segments: 1,
        gateway_ref: format!("ref-{n}-"),
    }
}
