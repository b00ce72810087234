//! A sender of messages as one would build it on `graphile_worker`, tuned: jobs are fetched many at once, completed many
//! at once, and 64 requests are under way on kept-alive connections.
//!
//! usage: outboxd-bench-peer DATABASE_URL SINK_URL
//!
//! It prepares the schema, prints `ready`, waits for a line, then works until it is killed.

use std::sync::OnceLock;
use std::time::Duration;

use graphile_worker::{IntoTaskHandlerResult, LocalQueueConfig, TaskHandler, WorkerContext, WorkerOptions};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};

static SINK: OnceLock<(reqwest::Client, String)> = OnceLock::new();

#[derive(Deserialize, Serialize)]
struct SendMessage {
    id: i64,
    recipient: String,
    body: String,
}

impl TaskHandler for SendMessage {
    const IDENTIFIER: &'static str = "send_message";

    async fn run(self, _context: WorkerContext) -> impl IntoTaskHandlerResult {
        self.post().await.map_err(|error| error.to_string())
    }
}

impl SendMessage {
    async fn post(&self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let (client, url) = SINK.get().ok_or("the sink is set before jobs run")?;
        let body = serde_json::to_vec(&serde_json::json!({
            "text": self.body, "from": "Bench",
            "recipientInfo": [{"msisdn": self.recipient, "notifyId": format!("ref-{}-1", self.id)}],
        }))?;
        let request = client
            .post(url)
            .header("content-type", "application/json")
            .bearer_auth("bench.bench.bench")
            .body(body);
        let answer = request.send().await?.error_for_status()?.bytes().await?;
        if answer.starts_with(b"{\"success\":true") { Ok(()) } else { Err("refused".into()) }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(database), Some(sink)) = (arguments.next(), arguments.next()) else {
        return Err("usage: outboxd-bench-peer DATABASE_URL SINK_URL".into());
    };
    let client = reqwest::Client::builder().no_proxy().http1_only().tcp_nodelay(true).build()?;
    let _ = SINK.set((client, sink));
    let worker = WorkerOptions::default()
        .database_url(&database)
        .max_pg_conn(20)
        .concurrency(64)
        .local_queue(LocalQueueConfig::default().with_size(500))
        .complete_job_batch_delay(Duration::from_millis(1))
        .define_job::<SendMessage>()
        .init()
        .await?;
    println!("ready");
    BufReader::new(tokio::io::stdin()).read_line(&mut String::new()).await?;
    worker.run().await?;
    Ok(())
}
