//! What lies between the bare loop and outboxd: loops that each do one thing more that outboxd must, turn by turn with
//! both. They tell where a drain's time goes. A loop leaves some of the two cores idle, and another depth or size of its
//! waves moves it by a tenth or more, so none of them proves what a better program could not have.
//!
//! - *row*: reqwest and a wave row, as the second loop of `limit.rs`, on the outbox itself instead of a plain table: its
//!   columns, checks and indexes; the statements stay as plain as they are there.
//! - *statements*: outboxd's own reading, waves and results, with everything that they look at, in its batches and with no
//!   more under way than it allows itself. Whatever outboxd does beside its statements and its requests is not done.
//! - *coalesced*: the same with a thousand recipients a request.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use outboxd::message::{CreatedAt, RowVersion};
use outboxd::store::queue::{DISCOVER, WAVE};
use outboxd::store::record::RECORD;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};
use tokio_postgres::Client;

use crate::limit::{self, Http, Loop};
use crate::processes::{Costs, Meter, Moment, Whose};
use crate::report::{Better, Report};
use crate::site::{CONCURRENCY, Site};
use crate::{Plan, drain};

/// Rows of one reading.
const PAGE: i64 = 1000;
/// Results wait so long for others.
const GATHERING: Duration = Duration::from_millis(1);
const RESULTS: usize = 1000;
/// Above all waves that a daemon wrote before.
const FIRST_WAVE: i64 = 1_000_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rung {
    /// A plain table.
    Loop(Loop),
    Row,
    Statements,
    Coalesced,
}

impl Rung {
    /// Messages of a request.
    const fn recipients(self) -> usize {
        if matches!(self, Rung::Coalesced) { 1000 } else { 1 }
    }

    /// Messages of a wave, as outboxd makes them at a quick gateway. A page has a whole number of waves.
    const fn in_a_wave(self) -> usize {
        if matches!(self, Rung::Coalesced) { 1000 } else { 200 }
    }

    /// The most between wave and recorded result.
    const fn under_way(self) -> usize {
        8 * if matches!(self, Rung::Coalesced) { self.in_a_wave() } else { CONCURRENCY }
    }
}

/// What one turn came to.
struct Turn {
    per_second: f64,
    costs: Costs,
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0}/s ({})", self.per_second, self.costs)
    }
}

pub(crate) async fn measure(site: &Site, plan: &Plan, report: &mut Report) {
    let mut row = report.figure("limit_row", "ratio", 0.60, Better::Higher);
    row.says(
        "beside drain_vs_bare: a loop with reqwest, a wave row and the outbox's own rows / the bare loop",
    );
    let mut statements = report.figure("limit_statements", "ratio", 0.60, Better::Higher);
    statements.says("beside drain_vs_bare: the same with outboxd's own statements / the bare loop");
    let mut reqwest = report.figure("limit_statements_vs_reqwest", "ratio", 0.85, Better::Higher);
    reqwest.says("beside drain_vs_reqwest: the same / the loop with reqwest and one wave row a batch");
    let mut own = report.figure("drain_vs_statements", "ratio", 0.60, Better::Higher);
    own.says("messages a second of outboxd / of the loop with its statements, which decides nothing and reads once");
    let mut row_us = report.figure("limit_row_pg_us", "µs", 16.0, Better::Lower);
    row_us.says("beside pg_us_per_message: CPU of PostgreSQL in the loop with the outbox's own rows");
    let mut statements_us = report.figure("limit_statements_pg_us", "µs", 16.0, Better::Lower);
    statements_us.says("the same with outboxd's own statements");
    let mut coalesced = report.figure("limit_coalesced_per_s", "1/s", 60_000.0, Better::Higher);
    coalesced.says("beside coalesced_per_s: messages a second of that loop, a thousand in a request");
    // There is an epoch, and a timeline, when somebody has led.
    drop(site.daemon().await);
    for round in 1..=plan.rounds {
        let bare = turn(site, plan.rows, Rung::Loop(Loop::Hyper)).await;
        let with_reqwest = turn(site, plan.rows, Rung::Loop(Loop::ReqwestAndWave)).await;
        let on_rows = turn(site, plan.rows, Rung::Row).await;
        let with_statements = turn(site, plan.rows, Rung::Statements).await;
        let outboxd = drain::outboxd(site, plan.rows).await;
        let together = turn(site, plan.rows, Rung::Coalesced).await;
        println!(
            "ladder {round}: bare {bare}, reqwest and wave {with_reqwest}, the outbox's rows {on_rows}, its statements \
             {with_statements}, outboxd {:.0}/s ({}); coalesced {together}",
            outboxd.per_second, outboxd.costs,
        );
        let (bare, with_reqwest) = (bare.per_second, with_reqwest.per_second);
        row.add(on_rows.per_second / bare);
        statements.add(with_statements.per_second / bare);
        reqwest.add(with_statements.per_second / with_reqwest);
        own.add(outboxd.per_second / with_statements.per_second);
        row_us.add(on_rows.costs.postgres_us);
        statements_us.add(with_statements.costs.postgres_us);
        coalesced.add(together.per_second);
    }
    report.take([row, statements, reqwest, own, row_us, statements_us, coalesced]);
    site.empty().await;
}

async fn turn(site: &Site, rows: u32, rung: Rung) -> Turn {
    match rung {
        Rung::Coalesced => site.queue_campaign(rows).await,
        Rung::Row | Rung::Statements => site.queue(rows).await,
        Rung::Loop(_) => limit::queue(site, rows).await,
    }
    let meter = Meter::start(site.cluster.pid(), Whose::Ourselves);
    let took = match rung {
        Rung::Loop(how) => limit::drain(site, how).await,
        Rung::Row | Rung::Statements | Rung::Coalesced => climb(site, rung).await,
    };
    let costs = meter.stop(rows);
    if !matches!(rung, Rung::Loop(_)) {
        site.until_nothing_is_queued().await;
    }
    Turn { per_second: drain::per_second(rows, took), costs }
}

/// A message on its way.
#[derive(Debug)]
struct Message {
    wave: i64,
    id: i64,
    version: RowVersion,
    made: CreatedAt,
    recipient: String,
    body: String,
}

/// Sends all that is queued; how long it took from the first read to the last write. Connecting is not part of it, as it is
/// not of the other loops.
async fn climb(site: &Site, rung: Rung) -> Duration {
    let (reader, waver, recorder) =
        (site.daemon_client().await, site.daemon_client().await, site.daemon_client().await);
    let epoch: i64 = site.sql.query_one("SELECT epoch FROM outboxd.leader", &[]).await.unwrap().get(0);
    let under_way = Semaphore::new(rung.under_way());
    let http = Http::reqwest(site);
    let begun = Moment::now();
    let (found, pages) = mpsc::channel(2);
    let (committed, waves) = mpsc::channel(1);
    let (sent, results) = mpsc::unbounded_channel();
    let send = async move {
        let requests = stream::unfold(waves, async |mut waves: mpsc::Receiver<Vec<Message>>| {
            let mut wave: Vec<Message> = waves.recv().await?;
            let mut requests = Vec::new();
            while !wave.is_empty() {
                let rest = wave.split_off(wave.len().min(rung.recipients()));
                requests.push(std::mem::replace(&mut wave, rest));
            }
            Some((requests, waves))
        });
        let (http, sent) = (&http, &sent);
        requests
            .flat_map(stream::iter)
            .map(async |messages: Vec<Message>| {
                http.post(body_of(&messages)).await;
                let _ = sent.send(messages);
            })
            .buffer_unordered(CONCURRENCY)
            .collect::<()>()
            .await;
    };
    tokio::join!(
        read(&reader, rung, found),
        commit(&waver, rung, epoch, pages, &under_way, committed),
        limit::send_all(send),
        record(&recorder, rung, epoch, results, &under_way)
    );
    Moment::now() - begun
}

async fn read(client: &Client, rung: Rung, found: mpsc::Sender<Vec<Message>>) {
    let plain = "SELECT o.id, o.xmin, o.send_after, o.created_at, o.recipient, o.body FROM sms.outbox AS o \
                 WHERE o.id > $1 AND o.status = 'queued' ORDER BY o.id LIMIT $2";
    let sql = if rung == Rung::Row { plain } else { DISCOVER.sql };
    let next = client.prepare(sql).await.unwrap();
    let lane = if rung == Rung::Coalesced { "bulk" } else { "normal" };
    let mut last = (CreatedAt(i64::MIN), i64::MIN);
    loop {
        let rows = if rung == Rung::Row {
            client.query(&next, &[&last.1, &PAGE]).await.unwrap()
        } else {
            let (end, none) = (CreatedAt(i64::MAX), Vec::<String>::new());
            client.query(&next, &[&lane, &last.0, &last.1, &end, &i64::MAX, &none, &PAGE]).await.unwrap()
        };
        let Some(row) = rows.last() else { return };
        last = (row.get(2), row.get(0));
        let (made, recipient, body) = if rung == Rung::Row { (3, 4, 5) } else { (13, 5, 6) };
        let page = rows.iter().map(|row| Message {
            wave: 0,
            id: row.get(0),
            version: row.get(1),
            made: row.get(made),
            recipient: row.get(recipient),
            body: row.get(body),
        });
        if found.send(page.collect()).await.is_err() {
            return;
        }
    }
}

/// Commits waves, and lets their messages go.
async fn commit(
    client: &Client,
    rung: Rung,
    epoch: i64,
    mut pages: mpsc::Receiver<Vec<Message>>,
    under_way: &Semaphore,
    committed: mpsc::Sender<Vec<Message>>,
) {
    let plain = "INSERT INTO outboxd.wave (epoch, seq, gateway, nonce, ids, attempts, rows_made) \
                 VALUES ($1, $2, 'main', '', $3, '{}', '{}')";
    let sql = if rung == Rung::Row { plain } else { WAVE.sql };
    let wave = client.prepare(sql).await.unwrap();
    let mut seq = FIRST_WAVE;
    while let Some(mut page) = pages.recv().await {
        while !page.is_empty() {
            let rest = page.split_off(page.len().min(rung.in_a_wave()));
            let mut messages = std::mem::replace(&mut page, rest);
            seq += 1;
            let places = u32::try_from(messages.len()).unwrap();
            under_way.acquire_many(places).await.unwrap().forget();
            messages.iter_mut().for_each(|message| message.wave = seq);
            let ids: Vec<i64> = messages.iter().map(|message| message.id).collect();
            if rung == Rung::Row {
                client.execute(&wave, &[&epoch, &seq, &ids]).await.unwrap();
            } else {
                let attempts = vec![1_i32; ids.len()];
                let versions: Vec<RowVersion> = messages.iter().map(|message| message.version).collect();
                let made: Vec<CreatedAt> = messages.iter().map(|message| message.made).collect();
                let numbers: Vec<Option<String>> =
                    messages.iter().map(|message| Some(international(&message.recipient))).collect();
                let (gateway, nonce) = ("main", "abcdefghijkl");
                let row = client
                    .query_one(
                        &wave,
                        &[&epoch, &seq, &gateway, &nonce, &ids, &attempts, &versions, &numbers, &made],
                    )
                    .await
                    .unwrap();
                let confirmed: Vec<i64> = row.get(1);
                assert_eq!(confirmed.len(), ids.len(), "nobody changes these rows");
            }
            if committed.send(messages).await.is_err() {
                return;
            }
        }
    }
}

async fn record(
    client: &Client,
    rung: Rung,
    epoch: i64,
    mut results: mpsc::UnboundedReceiver<Vec<Message>>,
    under_way: &Semaphore,
) {
    let plain = "WITH finished AS (DELETE FROM outboxd.wave WHERE epoch = $3 AND seq = ANY ($4)) \
                 UPDATE sms.outbox AS o SET status = 'accepted', queued = false, attempts = 1, gateway_ref = r.reference, \
                     sent_at = now() \
                 FROM unnest($1::bigint[], $2::text[]) AS r(id, reference) WHERE o.id = r.id AND o.status = 'queued'";
    let sql = if rung == Rung::Row { plain } else { RECORD.sql };
    let update = client.prepare(sql).await.unwrap();
    // The last wave may be a smaller one, and stays.
    let mut waves: HashMap<i64, usize> = HashMap::new();
    let mut came = Vec::new();
    while results.recv_many(&mut came, RESULTS).await > 0 {
        tokio::time::sleep(GATHERING).await;
        while came.len() < RESULTS
            && let Ok(more) = results.try_recv()
        {
            came.push(more);
        }
        let mut done: Vec<Message> = came.drain(..).flatten().collect();
        done.sort_unstable_by_key(|message| message.id);
        let ids: Vec<i64> = done.iter().map(|message| message.id).collect();
        let references: Vec<String> = ids.iter().map(|id| format!("o{id}-1-abcdefghijkl")).collect();
        for message in &done {
            *waves.entry(message.wave).or_default() += 1;
        }
        let mut finished: Vec<i64> = Vec::new();
        waves.retain(|wave, count| {
            let whole = *count == rung.in_a_wave();
            if whole {
                finished.push(*wave);
            }
            !whole
        });
        if rung == Rung::Row {
            client.execute(&update, &[&ids, &references, &epoch, &finished]).await.unwrap();
        } else {
            let made: Vec<CreatedAt> = done.iter().map(|message| message.made).collect();
            let (before, after) = (vec![0_i32; ids.len()], vec![1_i32; ids.len()]);
            let versions = vec![None::<RowVersion>; ids.len()];
            let (status, held) = (vec!["accepted"; ids.len()], vec![false; ids.len()]);
            let gateways = vec!["main"; ids.len()];
            let none = vec![None::<&str>; ids.len()];
            let (encodings, segments) = (vec!["gsm7"; ids.len()], vec![1_i16; ids.len()]);
            let epochs = vec![epoch; finished.len()];
            let rows = client
                .query(
                    &update,
                    &[
                        &ids,
                        &made,
                        &before,
                        &after,
                        &versions,
                        &status,
                        &held,
                        &gateways,
                        &references,
                        &none,
                        &none,
                        &none,
                        &encodings,
                        &segments,
                        &epochs,
                        &finished,
                        &None::<i32>,
                    ],
                )
                .await
                .unwrap();
            assert_eq!(rows.len(), ids.len(), "nobody changes these rows");
        }
        under_way.add_permits(ids.len());
    }
}

fn international(number: &str) -> String {
    format!("353{}", number.trim_start_matches('0'))
}

/// A v2 request.
fn body_of(messages: &[Message]) -> Vec<u8> {
    let recipients: Vec<_> = messages
        .iter()
        .map(|message| {
            json!({
                "msisdn": international(&message.recipient),
                "notifyId": format!("o{}-1-abcdefghijkl", message.id),
            })
        })
        .collect();
    serde_json::to_vec(&json!({"text": messages[0].body, "from": "Bench", "recipientInfo": recipients}))
        .unwrap()
}
