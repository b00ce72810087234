//! One small scenario with everything in it, played by the real daemon through the proxy; and the comparison of the three
//! books afterwards: what was inserted, what the rows say, what reached handsets.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::daemon::Daemon;
use crate::support::site::{Lines, Site};
use crate::support::wire::{Call, Calls, Fault, Wire};

/// Above what recovering from any one fault takes on a slow, busy machine: leases, pauses and time limits add up.
const LIMIT: Duration = Duration::from_secs(40);
/// Longer than any statement takes that is not held up, also on a busy machine; a silent one is given up after it.
const DATABASE_TIMEOUT: &str = "timeout = \"1s\"";
const LINES: Lines<'_> = Lines {
    queue: "lease = \"1s\"\npoll_interval = \"1s\"",
    gateway: "concurrency = 4\nrequest_timeout = \"700ms\"\nconnect_timeout = \"700ms\"\nbackoff_min = \"20ms\"\nbackoff_max = \"100ms\"",
    more: "",
    receipts: true,
};

/// Columns and values of a row's text.
const PLAIN: (&str, &str) = ("body", "'text'");
const GREETING: (&str, &str) = ("template, params", "'greeting', '{\"name\": \"Ada\"}'");

/// What was inserted, and what is to become of it.
type Rows = BTreeMap<i64, Expected>;

/// What is to go wrong in a run.
#[derive(Debug, Clone)]
pub(super) enum Trouble {
    None,
    Database(Calls, Fault),
    /// A rule of the simulator's script.
    Gateway(serde_json::Value),
}

/// What a row must come to when nothing stands in its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Delivered,
    /// For this reason, before anything is sent.
    Failed(&'static str),
    Cancelled,
    /// It stands in a wave that a leader before us left open.
    Unknown,
}

/// What came of a run that held.
#[derive(Debug)]
pub(super) struct Run {
    /// Requests that the gateway saw.
    pub(super) requests: u64,
    /// Whether the trouble came to pass.
    pub(super) touched: bool,
    pub(super) unknown: usize,
    /// Calls of the database, in their order.
    pub(super) seen: Vec<Call>,
}

/// A place where runs are played one after the other: a database and a simulator of its own.
#[derive(Debug)]
pub(super) struct Stage {
    site: Site,
    /// Part of every number, so that the ledger tells the runs apart.
    run: u32,
}

impl Stage {
    pub(super) async fn new(hint: &str) -> Stage {
        let mut site = Site::with_receipts(hint).await;
        site.daemon_database = DATABASE_TIMEOUT.to_owned();
        site.run("INSERT INTO sms.template (name, body) VALUES ('greeting', 'Dear {name}, welcome')").await;
        Stage { site, run: 0 }
    }

    /// Plays the scenario once and compares the books. `Err`: what does not agree, with the daemon's log and its calls.
    pub(super) async fn play(&mut self, trouble: &Trouble) -> Result<Run, String> {
        self.run += 1;
        self.clear().await;
        let wire = Wire::to_cluster();
        self.site.route_through(&wire);
        let planned = match trouble {
            Trouble::None => None,
            Trouble::Database(calls, fault) => Some(wire.plan(calls.clone(), *fault)),
            Trouble::Gateway(rule) => {
                self.site.sim.script(rule).await;
                None
            }
        };
        let requests = self.requests().await;
        let (mut rows, mut people) = (BTreeMap::new(), 0);
        self.before(&mut rows, &mut people).await;
        let mut daemon = Daemon::spawn(&self.site.config(LINES));
        let scenes = self.scenes(&mut daemon, &mut rows, &mut people);
        let played = match tokio::time::timeout(3 * LIMIT, scenes).await {
            Ok(played) => played,
            Err(_) => Err("the scenario did not come to its end".to_owned()),
        };
        let touched = match trouble {
            Trouble::None => false,
            Trouble::Database(..) => planned.as_ref().is_some_and(|planned| planned.times() > 0),
            Trouble::Gateway(_) => {
                self.site.sim.control("GET", "script", None).await.as_array().is_none_or(Vec::is_empty)
            }
        };
        let played = match played {
            Ok(()) => self.books(&rows, trouble, &daemon).await,
            Err(what) => Err(what),
        };
        match played {
            Ok(unknown) => {
                Ok(Run { requests: self.requests().await - requests, touched, unknown, seen: wire.seen() })
            }
            Err(what) => {
                let rows = self.shown_rows().await;
                let log = daemon.log();
                Err(format!("{trouble:?}: {what}\n{rows}\n--- calls\n{}--- log\n{log}---\n", wire.story()))
            }
        }
    }

    /// As after a fresh start; ids go on, so that no row of this run has the id of an earlier one.
    async fn clear(&mut self) {
        self.site.clear_script().await;
        self.site
            .run(
                "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity \
                 WHERE datname = current_database() AND pid <> pg_backend_pid(); \
                 TRUNCATE sms.outbox, outboxd.wave, outboxd.attempt, outboxd.alarm, outboxd.daemon, outboxd.gateway",
            )
            .await;
    }

    async fn requests(&self) -> u64 {
        self.site.sim_count("requests").await
    }

    /// A leader was killed with a message under way, and rows wait for the next one.
    async fn before(&self, rows: &mut Rows, people: &mut u32) {
        let open = self.insert(rows, people, "normal", PLAIN, Expected::Unknown).await;
        self.site
            .run(&format!(
                "INSERT INTO outboxd.wave (epoch, seq, gateway, nonce, ids, attempts, rows_made) \
                 SELECT l.epoch, 1000000, 'main', '00000000', ARRAY[o.id], ARRAY[1], ARRAY[o.created_at] \
                 FROM outboxd.leader AS l, sms.outbox AS o WHERE o.id = {open}"
            ))
            .await;
        for _ in 0..5 {
            self.insert(rows, people, "normal", PLAIN, Expected::Delivered).await;
        }
        self.insert(rows, people, "bulk", PLAIN, Expected::Delivered).await;
        self.insert(rows, people, "normal", GREETING, Expected::Delivered).await;
    }

    /// The story itself, from the daemon's start to its stop.
    async fn scenes(&self, daemon: &mut Daemon, rows: &mut Rows, people: &mut u32) -> Result<(), String> {
        wait(LIMIT, "a daemon leads", || daemon.log().contains("leading")).await?;
        for lane in ["urgent", "normal", "bulk"] {
            for _ in 0..4 {
                self.insert(rows, people, lane, PLAIN, Expected::Delivered).await;
            }
        }
        self.insert(rows, people, "urgent", GREETING, Expected::Delivered).await;
        for (text, why) in [
            (("template", "'greeting'"), "missing_parameter"),
            (("template", "'nobody wrote it'"), "unknown_template"),
        ] {
            self.insert(rows, people, "normal", text, Expected::Failed(why)).await;
        }
        let soon = ("body, send_after", "'text', now() + interval '200 ms'");
        self.insert(rows, people, "normal", soon, Expected::Delivered).await;
        let later = ("body, send_after", "'text', now() + interval '1 h'");
        let cancelled = self.insert(rows, people, "normal", later, Expected::Cancelled).await;
        self.site.run(&format!("SELECT sms.cancel({cancelled})")).await;
        self.until_done().await?;
        // And some are inserted while it sleeps.
        let asleep = "SELECT last_value < 0 FROM outboxd.register";
        self.until(asleep, "the register says asleep").await?;
        wait(LIMIT, "it fell asleep", || daemon.log().contains("fell asleep")).await?;
        for lane in ["urgent", "normal", "normal"] {
            self.insert(rows, people, lane, PLAIN, Expected::Delivered).await;
        }
        self.until_done().await?;
        daemon.terminate();
        match tokio::time::timeout(LIMIT, daemon.wait_exit(2 * LIMIT)).await {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("the daemon ended with {status}")),
            Err(_) => Err("the daemon does not end".to_owned()),
        }
    }

    /// Inserts a row to a number that no other row of any run has; `text`: columns and their values.
    async fn insert(
        &self,
        rows: &mut Rows,
        people: &mut u32,
        lane: &str,
        text: (&str, &str),
        expected: Expected,
    ) -> i64 {
        *people += 1;
        let number = format!("+35387{:04}{people:03}", self.run);
        let (columns, values) = text;
        let sql = format!("(recipient, lane, {columns}) VALUES ('{number}', '{lane}', {values})");
        let id = self.site.insert(&sql).await;
        rows.insert(id, expected);
        id
    }

    /// Nothing is queued, nothing waits for its receipt.
    async fn until_done(&self) -> Result<(), String> {
        self.until(
            "SELECT NOT EXISTS (SELECT FROM sms.outbox WHERE status IN ('queued', 'accepted') OR \
                 (status = 'delivered' AND sent_at IS NULL))",
            "every row has an end",
        )
        .await
    }

    async fn until(&self, sql: &str, what: &str) -> Result<(), String> {
        let deadline = tokio::time::Instant::now() + LIMIT;
        loop {
            if self.site.sql.query_one(sql, &[]).await.map_err(|error| error.to_string())?.get(0) {
                return Ok(());
            }
            if tokio::time::Instant::now() > deadline {
                return Err(format!("{what}: not within {LIMIT:?}"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Compares the three books. Returns how many rows are unknown.
    async fn books(&self, expected: &Rows, trouble: &Trouble, daemon: &Daemon) -> Result<usize, String> {
        let prefix = format!("35387{:04}", self.run);
        let mut handset: BTreeMap<String, u64> = BTreeMap::new();
        for message in self.site.ledger().await {
            let number = message["number"].as_str().unwrap_or_default();
            if number.starts_with(&prefix) {
                *handset.entry(number.to_owned()).or_default() += 1;
            }
        }
        let sql = "SELECT id, status, coalesce(error_code, ''), coalesce(error, ''), ltrim(recipient, '+') FROM sms.outbox";
        let rows = self.site.sql.query(sql, &[]).await.map_err(|error| error.to_string())?;
        let mut wrong = Vec::new();
        if rows.len() != expected.len() {
            wrong.push(format!("{} rows were inserted, {} are there", expected.len(), rows.len()));
        }
        let mut unknown = 0;
        for row in &rows {
            let (id, status): (i64, String) = (row.get(0), row.get(1));
            let (code, reason, number): (String, String, String) = (row.get(2), row.get(3), row.get(4));
            let times = handset.get(&number).copied().unwrap_or(0);
            let fits = match (expected.get(&id), status.as_str()) {
                (Some(Expected::Delivered), "delivered") => times == 1,
                (Some(Expected::Failed(why)), "failed") => times == 0 && code == *why,
                (Some(Expected::Cancelled), "cancelled") => times == 0,
                (Some(Expected::Unknown), "unknown") => times == 0 && code == "outcome_unknown",
                // Only what became of a request can be unknown, and only if a request met with trouble.
                (Some(Expected::Delivered), "unknown") => {
                    unknown += 1;
                    matches!(trouble, Trouble::Gateway(_)) && times == 0 && !reason.is_empty()
                }
                _ => false,
            };
            if !fits {
                wrong.push(format!(
                    "row {id} is {status} ({code}: {reason}), sent {times} times, expected {:?}",
                    expected.get(&id)
                ));
            }
        }
        if unknown > 1 {
            wrong.push(format!("{unknown} are unknown after one fault"));
        }
        let left = "SELECT count(*) FROM outboxd.wave WHERE ids <> '{}'";
        let left: i64 = self.site.sql.query_one(left, &[]).await.map_err(|error| error.to_string())?.get(0);
        if left > 0 {
            wrong.push(format!("{left} waves are left after a stop in good order"));
        }
        if daemon.log().contains("please report") {
            wrong.push("the daemon asks to report a fault".to_owned());
        }
        if wrong.is_empty() { Ok(unknown) } else { Err(wrong.join("\n")) }
    }

    async fn shown_rows(&self) -> String {
        let sql = "SELECT format('%s %s %s attempts=%s %s %s sent=%s', id, lane, status, attempts, error_code, gateway_ref, \
                   sent_at) FROM sms.outbox WHERE status <> 'delivered' OR sent_at IS NULL ORDER BY id";
        match self.site.sql.query(sql, &[]).await {
            Ok(rows) => rows.iter().map(|row| row.get::<_, String>(0) + "\n").collect(),
            Err(error) => error.to_string(),
        }
    }
}

async fn wait(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) -> Result<(), String> {
    let deadline = tokio::time::Instant::now() + limit;
    while !holds() {
        if tokio::time::Instant::now() > deadline {
            return Err(format!("{what}: not within {limit:?}"));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}
