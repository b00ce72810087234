//! Queues that are much bigger than usual, or full of rows that nobody could send: bounded memory, the urgent first, the
//! rate from the first second, and the good rows as if the others were not there.

use std::time::Instant;

use serde_json::{Value, json};

use crate::support::books::Committed;
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::site::{LIMIT, Lines, Site};

const RATE: usize = 100;

/// When the gateway accepted it, in microseconds of its clock.
fn accepted_us(message: &Value) -> i64 {
    let at: jiff::Timestamp = message["accepted_at"].as_str().unwrap().parse().unwrap();
    at.as_microsecond()
}

/// The most messages that any span of a second has.
fn most_in_a_second(ledger: &[Value]) -> usize {
    let mut times: Vec<i64> = ledger.iter().map(accepted_us).collect();
    times.sort_unstable();
    let within = |from: usize| times[from..].iter().take_while(|at| **at < times[from] + 1_000_000).count();
    (0..times.len()).map(within).max().unwrap_or(0)
}

async fn start_and_measure(site: &Site, lines: Lines<'_>) -> Daemon {
    let requests = site.sim_count("requests").await;
    let begun = Instant::now();
    let daemon = Daemon::start(&site.config(lines)).await;
    let ready = begun.elapsed();
    daemon.wait_log(LIMIT, "leading").await;
    let leading = begun.elapsed();
    site.sim_reaches(&format!("requests={}", requests + 1)).await;
    eprintln!("1,000,000 rows: ready {ready:?}, leading {leading:?}, first request {:?}", begun.elapsed());
    daemon
}

#[tokio::test]
async fn a_restart_with_a_million_queued_rows_keeps_memory_the_rate_and_the_urgent_lane() {
    let site = Site::new("million").await;
    let rate = format!("concurrency = 8\nrate = {RATE}");
    let lines = Lines { gateway: &rate, ..Lines::default() };
    site.run(
        "INSERT INTO sms.outbox (recipient, body, lane) \
         SELECT '+35387' || lpad(n::text, 7, '0'), 'bulk message ' || n, 'bulk' FROM generate_series(1, 1000000) AS n",
    )
    .await;
    let urgent = site.insert("(recipient, body, lane) VALUES ('0871111111', 'code 1', 'urgent')").await;
    let mut daemon = start_and_measure(&site, lines).await;
    let row = site.until(urgent, "accepted").await;
    let place = site.in_ledger(&row).await["seq"].as_u64().unwrap();
    assert!(place <= 20, "it was number {place}");

    // Killed in the drain, and started again: the same once more.
    site.sim_reaches("accepted=250").await;
    daemon.assert_memory_bounded();
    daemon.kill9();
    let before = site.sim_count("accepted").await;
    let urgent = site.insert("(recipient, body, lane) VALUES ('0871111111', 'code 2', 'urgent')").await;
    let daemon = start_and_measure(&site, lines).await;
    let row = site.until(urgent, "accepted").await;
    let place = site.in_ledger(&row).await["seq"].as_u64().unwrap();
    assert!(place <= before + 20, "it was number {place}, and {before} were sent before");

    // One that comes while a million wait.
    site.sim_reaches(&format!("accepted={}", before + 100)).await;
    let before = site.sim_count("accepted").await;
    let urgent = site.insert("(recipient, body, lane) VALUES ('0871111111', 'code 3', 'urgent')").await;
    let row = site.until(urgent, "accepted").await;
    let place = site.in_ledger(&row).await["seq"].as_u64().unwrap();
    assert!(place <= before + 50, "it was number {place}, and {before} were sent before");

    // Two daemons have paced themselves in these seconds, each from its first request on.
    let ledger = site.ledger().await;
    let most = most_in_a_second(&ledger);
    println!("{} sent, most in a second: {most}; peak memory {} MB", ledger.len(), daemon.peak_memory_mb());
    // A tenth of a second's worth may go at once, at either end of the span; a busy machine may shift some more.
    assert!(most <= RATE * 13 / 10, "{most} in one second");
    daemon.assert_memory_bounded();
    let counts = site.counts().await;
    assert!(counts.only(&["queued", "accepted", "unknown"]) && counts.of("unknown") <= 8 * 8, "{counts:?}");
    site.assert_nothing_twice().await;
}

/// Kinds of rows that nobody could send: columns and values, and how each ends.
const POISON: [(&str, &str, &str, &str); 18] = [
    ("recipient, body", "'nonsense', 'x'", "failed", "bad_number"),
    ("recipient, body", "NULL, 'x'", "failed", "bad_number"),
    ("recipient, body", "repeat('9', 100000), 'x'", "failed", "bad_number"),
    ("recipient, body, sender", "'0871234567', 'x', 'TwelveLetter'", "failed", "bad_sender"),
    ("recipient, body, gateway", "'0871234567', 'x', 'nowhere'", "failed", "unknown_gateway"),
    ("recipient, body", "'0871234567', repeat('x', 100000)", "failed", "too_long"),
    ("recipient, body", "'0871234567', repeat('é€😀', 33333)", "failed", "too_long"),
    ("recipient, template", "'0871234567', 'missing'", "failed", "unknown_template"),
    ("recipient, template", "'0871234567', 'broken'", "failed", "bad_template"),
    ("recipient, template", "'0871234567', 'ready'", "failed", "missing_parameter"),
    (
        "recipient, template, params",
        r#"'0871234567', 'ready', '{"name": "a\u0000b"}'"#,
        "failed",
        "bad_parameters",
    ),
    (
        "recipient, template, params",
        "'0871234567', 'ready', json_build_object('name', repeat('x', 100000))",
        "failed",
        "too_long",
    ),
    ("recipient, body, template", "'0871234567', 'x', 'ready'", "failed", "body_and_template"),
    ("recipient, body, expires_at", "'0871234567', 'x', now() - interval '1 s'", "expired", "expired"),
    ("recipient, body, send_after", "'0871234567', 'x', now() - interval '2 days'", "queued", "held_stale"),
    // What the gateway does with these is in its script.
    ("recipient, body", "'0872000400', 'x'", "failed", "gateway_refused"),
    ("recipient, body", "'0872000500', 'x'", "unknown", "outcome_unknown"),
    ("recipient, body", "'0872000503', 'x'", "queued", "gateway_busy"),
];

#[tokio::test]
async fn two_hundred_poison_rows_among_a_thousand_good_ones_harm_only_themselves() {
    let site = Site::new("poison_among_good").await;
    site.run("INSERT INTO sms.template VALUES ('ready', '', 'Hi {name}'), ('broken', '', 'Hi {name')").await;
    let answer = |status: u16, body: &str| json!({"answer": {"status": status, "body": body}});
    for (prefix, act) in [
        ("353872000400", json!({"refuse": {"reason": "number"}})),
        ("353872000500", answer(500, "{\"success\":false,\"message\":\"oops\"}")),
        ("353872000503", answer(503, "{\"success\":false,\"message\":\"Try later\",\"errors\":[]}")),
    ] {
        site.sim.script(&json!({"do": act, "prefix": prefix, "times": 0})).await;
    }
    site.sim.settings(&json!({"v2": {"refuse_at_once": true}})).await;
    let daemon = site.daemon(Lines { gateway: "concurrency = 8", ..Lines::default() }).await;

    // What a thousand take by themselves.
    let mut committed = Committed::default();
    site.queue_texts(&mut committed, "alone", 1_000).await;
    let begun = Instant::now();
    site.until_all_sent(&committed).await;
    let alone = begun.elapsed();

    // In one transaction, five good ones between two that are not.
    let mut good = Committed::default();
    let mut sql = String::from("BEGIN;");
    let mut expected: Vec<(String, &str, &str)> = Vec::new();
    for n in 0..200 {
        for m in 0..5 {
            let text = format!("good {n} {m}");
            sql +=
                &format!("INSERT INTO sms.outbox (recipient, body) VALUES ('0871{n:03}{m:03}', '{text}');");
            good.add(text);
        }
        let (columns, values, status, code) = POISON[n % POISON.len()];
        let reference = format!("poison {n}");
        sql += &format!("INSERT INTO sms.outbox ({columns}, client_ref) VALUES ({values}, '{reference}');");
        expected.push((reference, status, code));
    }
    sql += "COMMIT";
    site.run(&sql).await;
    let begun = Instant::now();
    let all_good = "SELECT count(*) = 1000 FROM sms.outbox WHERE body LIKE 'good %' AND status = 'accepted'";
    site.until_true("all good ones are sent", all_good).await;
    let among_poison = begun.elapsed();
    println!("1,000 good rows alone {alone:?}, among 200 poison ones {among_poison:?}");
    assert!(among_poison < 3 * alone + LIMIT / 10, "the good ones had to wait for the others");
    for (reference, status, code) in expected {
        let id = "SELECT id FROM sms.outbox WHERE client_ref = '".to_owned() + &reference + "'";
        let id = site.number(&id).await;
        let row = eventually(LIMIT, &format!("{reference} ends"), async || {
            let row = site.row(id).await;
            if row.status == status && row.code() == code { Ok(row) } else { Err(row) }
        })
        .await;
        assert!(row.reason().len() > 10 && row.reason().len() <= 600, "{row:?}");
    }
    // The good ones and nothing else reached the handsets, each once.
    site.run("DELETE FROM sms.outbox WHERE client_ref LIKE 'poison %'").await;
    committed.add_all_of(good);
    site.assert_books(&committed).await;
    assert_eq!(site.alarms().await, []);
    assert!(!daemon.log().contains("panic"), "{}", daemon.log());
    daemon.assert_memory_bounded();
}
