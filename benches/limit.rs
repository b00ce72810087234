//! The machine's limit: loops that do only what cannot be left out. One read and one write for many messages, one
//! request on a kept-alive connection for each, 64 at once, all on one thread.
//!
//! They are no daemons: nobody wakes them, they lose rows that are committed late, know one gateway, and forget what
//! was under way when they are killed.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_postgres::Client;

use crate::processes::Moment;
use crate::site::{CONCURRENCY, Site, TEXT};

/// Rows of one read; writes take whatever is there.
const BATCH: i64 = 500;

/// What sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loop {
    /// Bare hyper, and no durable intent.
    Hyper,
    /// reqwest as outboxd uses it, and one committed row for each batch before it is sent.
    ReqwestAndWave,
}

/// The plainest table that can hold a queue: what was asked for, and what became of it.
pub(crate) async fn queue(site: &Site, rows: u32) {
    site.run("DROP TABLE IF EXISTS public.bare, public.bare_wave").await;
    site.run(
        "CREATE TABLE public.bare (id bigint PRIMARY KEY, recipient text, body text, status text NOT NULL, \
         reference text, sent_at timestamptz) WITH (fillfactor = 50); \
         CREATE TABLE public.bare_wave (seq bigint PRIMARY KEY, ids bigint[])",
    )
    .await;
    site.run(&format!(
        "INSERT INTO public.bare SELECT n, '08' || (50000000 + n), {TEXT}, 'queued' FROM generate_series(1, {rows}) AS n"
    ))
    .await;
    site.run("VACUUM ANALYZE public.bare").await;
    site.run("CHECKPOINT").await;
}

/// Sends all that is queued; how long it took from the first read to the last write.
pub(crate) async fn drain(site: &Site, how: Loop) -> Duration {
    let (reader, writer) = (site.db.client().await, site.db.client().await);
    let http = match how {
        Loop::Hyper => Http::Hyper(Rc::new(RefCell::new(connections(site).await))),
        Loop::ReqwestAndWave => Http::reqwest(site),
    };
    let begun = Moment::now();
    let (found, batches) = mpsc::channel(2);
    let (sent, results) = mpsc::unbounded_channel();
    let waves = how == Loop::ReqwestAndWave;
    let send = async move {
        let batches = stream::unfold(batches, async |mut batches: mpsc::Receiver<Vec<Message>>| {
            Some((batches.recv().await?, batches))
        });
        let http = &http;
        let sent = &sent;
        batches
            .flat_map(stream::iter)
            .map(async |message: Message| {
                http.send(&message).await;
                let _ = sent.send(message.id);
            })
            .buffer_unordered(CONCURRENCY)
            .collect::<()>()
            .await;
    };
    tokio::join!(read(&reader, waves, found), send_all(send), write(&writer, results));
    Moment::now() - begun
}

/// Drops the channel to the writer at the end, which ends the writer.
pub(crate) async fn send_all(send: impl Future<Output = ()>) {
    send.await;
}

#[derive(Debug)]
struct Message {
    id: i64,
    recipient: String,
    body: String,
}

async fn read(client: &Client, waves: bool, found: mpsc::Sender<Vec<Message>>) {
    let next = client
        .prepare("SELECT id, recipient, body FROM public.bare WHERE id > $1 AND status = 'queued' ORDER BY id LIMIT $2")
        .await
        .unwrap();
    let wave = client.prepare("INSERT INTO public.bare_wave VALUES ($1, $2)").await.unwrap();
    let mut last = 0_i64;
    loop {
        let rows = client.query(&next, &[&last, &BATCH]).await.unwrap();
        let Some(row) = rows.last() else { return };
        last = row.get(0);
        if waves {
            let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
            client.execute(&wave, &[&last, &ids]).await.unwrap();
        }
        let batch =
            rows.iter().map(|row| Message { id: row.get(0), recipient: row.get(1), body: row.get(2) });
        if found.send(batch.collect()).await.is_err() {
            return;
        }
    }
}

async fn write(client: &Client, mut results: mpsc::UnboundedReceiver<i64>) {
    let record = client
        .prepare(
            "UPDATE public.bare AS b SET status = 'accepted', reference = r.reference, sent_at = now() \
             FROM unnest($1::bigint[], $2::text[]) AS r(id, reference) WHERE b.id = r.id AND b.status = 'queued'",
        )
        .await
        .unwrap();
    let mut ids = Vec::new();
    while results.recv_many(&mut ids, 2_000).await > 0 {
        ids.sort_unstable();
        let references: Vec<String> = ids.iter().map(|id| format!("ref-{id}-1")).collect();
        client.execute(&record, &[&ids, &references]).await.unwrap();
        ids.clear();
    }
}

/// Connections that are free.
type Free = Rc<RefCell<Vec<SendRequest<Full<Bytes>>>>>;

#[derive(Debug)]
pub(crate) enum Http {
    Hyper(Free),
    Reqwest(reqwest::Client, String),
}

impl Http {
    /// reqwest, as outboxd uses it.
    pub(crate) fn reqwest(site: &Site) -> Http {
        Http::Reqwest(
            reqwest::Client::builder().no_proxy().http1_only().tcp_nodelay(true).build().unwrap(),
            format!("http://{}/api/v2/Campaign", site.sink.address),
        )
    }

    async fn send(&self, message: &Message) {
        let body = serde_json::to_vec(&serde_json::json!({
            "text": message.body, "from": "Bench",
            "recipientInfo": [{"msisdn": message.recipient, "notifyId": format!("ref-{}-1", message.id)}],
        }))
        .unwrap();
        self.post(body).await;
    }

    pub(crate) async fn post(&self, body: Vec<u8>) {
        let answer = match self {
            Http::Hyper(free) => {
                // As many as are under way at most, so one is always free.
                let mut connection = free.borrow_mut().pop().expect("a free connection");
                let request = Request::builder()
                    .method(Method::POST)
                    .uri("/api/v2/Campaign")
                    .header(HOST, "sink")
                    .header(CONTENT_TYPE, "application/json")
                    .header(AUTHORIZATION, "Bearer bench.bench.bench")
                    .body(Full::new(Bytes::from(body)))
                    .unwrap();
                connection.ready().await.unwrap();
                let answer = connection.send_request(request).await.unwrap();
                let answer = answer.into_body().collect().await.unwrap().to_bytes();
                free.borrow_mut().push(connection);
                answer
            }
            Http::Reqwest(client, url) => {
                let request = client
                    .post(url)
                    .header(CONTENT_TYPE, "application/json")
                    .bearer_auth("bench.bench.bench");
                request.body(body).send().await.unwrap().bytes().await.unwrap()
            }
        };
        assert!(answer.starts_with(b"{\"success\":true"), "the sink accepts everything");
    }
}

async fn connections(site: &Site) -> Vec<SendRequest<Full<Bytes>>> {
    let mut open = Vec::new();
    for _ in 0..CONCURRENCY {
        let stream = TcpStream::connect(site.sink.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        open.push(sender);
    }
    open
}
