//! Several messages of one text in one request: each stays a message of its own, none is lost, and none is sent twice,
//! whatever comes of the request.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::processing::until_alarms;
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::site::{LIMIT, Lines, Site};
use crate::support::wire::{Calls, Cut, Fault, Wire};

const HUNDRED: Lines<'_> =
    Lines { queue: "", gateway: "concurrency = 4\ncoalesce = 100", more: "", receipts: false };

/// Queues `count` rows of this text in one transaction, each to a number of its own; returns the first id.
async fn queue_alike(site: &Site, lane: &str, text: &str, count: i32) -> i64 {
    let sql = "WITH new AS (INSERT INTO sms.outbox (recipient, body, lane) \
               SELECT '+35387' || lpad(n::text, 7, '0'), $2, $3 FROM generate_series(1, $1) AS n \
               RETURNING id) SELECT min(id) FROM new";
    site.sql.query_one(sql, &[&count, &text, &lane]).await.unwrap().get(0)
}

/// Starts a daemon and waits until messages may share requests.
async fn sharing(site: &Site, lines: Lines<'_>) -> Daemon {
    let daemon = site.daemon(lines).await;
    daemon.wait_log(LIMIT, "share requests").await;
    daemon
}

/// The same, and queues rows of one text.
async fn with_rows(site: &Site, count: i32, lines: Lines<'_>) -> (Daemon, i64) {
    let daemon = sharing(site, lines).await;
    (daemon, queue_alike(site, "normal", "the same for all", count).await)
}

async fn until_all(site: &Site, status: &str) {
    site.until_counts(&format!("all are {status}"), |counts| counts.only(&[status])).await;
}

async fn requests(site: &Site) -> u64 {
    site.sim_count("requests").await
}

fn text(message: &Value) -> &str {
    message["text"].as_str().unwrap()
}

#[tokio::test]
async fn many_messages_of_one_text_share_requests_and_each_has_its_own_reference_and_receipt() {
    let site = Site::with_receipts("coalesce").await;
    let (daemon, _) = with_rows(&site, 1_000, Lines { receipts: true, ..HUNDRED }).await;
    until_all(&site, "delivered").await;
    assert!((10..=100).contains(&requests(&site).await), "{} requests", requests(&site).await);
    let sent = site.sent_references().await;
    assert_eq!(sent.len(), 1_000);
    assert_eq!(sent, site.references("delivered").await);
    let own = "SELECT count(*) FROM sms.outbox WHERE attempts = 1 AND error IS NULL AND sent_at IS NOT NULL \
               AND segments = 1 AND encoding = 'gsm7' AND sent_via = 'main'";
    site.until_true("each answer is recorded", &format!("SELECT ({own}) = 1000")).await;
    site.until_true("no wave is left", "SELECT count(*) = 0 FROM outboxd.wave").await;
    site.assert_nothing_twice().await;
    daemon.assert_memory_bounded();
}

/// Two connections write results at once when they come by the hundred; each may be lost on its way there or back.
#[tokio::test]
async fn results_are_written_beside_others_that_are_under_way_and_a_cut_of_either_costs_none() {
    let cuts = [Fault::CutBefore(Cut::Reset), Fault::CutAfter(Cut::Reset)];
    for second in cuts {
        let mut site = Site::new("coalesce_beside").await;
        let wire = Wire::to_cluster();
        site.route_through(&wire);
        let daemon = sharing(&site, Lines { gateway: "concurrency = 4\ncoalesce = 1000", ..HUNDRED }).await;
        let first = wire.plan(Calls::running("record"), Fault::StopBefore);
        let other = wire.plan(Calls::running("record").nth(3), second);
        queue_alike(&site, "normal", "the same for all", 10_000).await;
        let stopped = first.reached(LIMIT).await;
        site.until_counts("others are recorded", |counts| counts.of("accepted") > 0).await;
        other.reached(LIMIT).await;
        wire.cut(stopped.connection, Cut::Reset);
        until_all(&site, "accepted").await;
        site.until_true("no wave is left", "SELECT count(*) = 0 FROM outboxd.wave").await;
        assert_eq!(site.number("SELECT count(*) FROM sms.outbox WHERE attempts <> 1").await, 0);
        assert_eq!(
            site.number("SELECT count(*) FROM outboxd.attempt").await,
            0,
            "each result fitted its row"
        );
        assert_eq!(site.sent_references().await.len(), 10_000);
        site.assert_nothing_twice().await;
        daemon.assert_memory_bounded();
    }
}

#[tokio::test]
async fn without_coalescing_each_message_has_a_request_of_its_own() {
    let site = Site::new("coalesce_off").await;
    let _daemon = site.daemon(Lines::default()).await;
    queue_alike(&site, "normal", "the same for all", 200).await;
    until_all(&site, "accepted").await;
    assert_eq!(requests(&site).await, 200);
}

#[tokio::test]
async fn different_texts_and_senders_never_share_a_request() {
    let site = Site::new("coalesce_mixed").await;
    let _daemon = sharing(&site, HUNDRED).await;
    site.run(
        "INSERT INTO sms.outbox (recipient, body, sender)
         SELECT '+35387' || lpad(n::text, 7, '0'), 'text ' || n % 7, 'From' || n % 3 FROM generate_series(1, 630) AS n",
    )
    .await;
    until_all(&site, "accepted").await;
    let asked = requests(&site).await;
    assert!((21..=210).contains(&asked), "{asked} requests for 21 kinds of messages");
    let sql = "SELECT gateway_ref, body, sender, recipient FROM sms.outbox";
    let rows = site.sql.query(sql, &[]).await.unwrap();
    let ledger: BTreeMap<String, Value> =
        site.ledger().await.into_iter().map(|m| (m["notify_id"].as_str().unwrap().to_owned(), m)).collect();
    for row in rows {
        let message = &ledger[row.get::<_, &str>(0)];
        assert_eq!(text(message), row.get::<_, &str>(1));
        assert_eq!(message["sender"], row.get::<_, &str>(2));
        assert_eq!(format!("+{}", message["number"].as_str().unwrap()), row.get::<_, &str>(3));
    }
    site.assert_nothing_twice().await;
}

#[tokio::test]
async fn a_number_that_is_there_twice_is_in_two_requests() {
    let site = Site::new("coalesce_number").await;
    let _daemon = sharing(&site, HUNDRED).await;
    // Written in two ways.
    site.run(
        "INSERT INTO sms.outbox (recipient, body)
         SELECT CASE WHEN n = 7 THEN '0871234568' WHEN n % 2 = 0 THEN '0871234567' ELSE '+353871234567' END, 'the same'
         FROM generate_series(1, 7) AS n",
    )
    .await;
    until_all(&site, "accepted").await;
    assert_eq!(requests(&site).await, 6);
    assert_eq!(site.sent_references().await.len(), 7);
}

#[tokio::test]
async fn a_kill_in_a_drain_of_shared_requests_loses_nothing_and_doubles_nothing() {
    let site = Site::new("coalesce_kill").await;
    // Two are answered, then nothing more.
    site.sim.script(&json!({"do": {"hang": {"accept": true}}, "skip": 2, "times": 2})).await;
    site.sim.script(&json!({"do": {"hang": {"accept": false}}, "skip": 2, "times": 0})).await;
    let (mut daemon, _) = with_rows(&site, 2_000, HUNDRED).await;
    site.sim_reaches("requests=6").await;
    site.until_true("two are recorded", "SELECT count(*) >= 200 FROM sms.outbox WHERE status = 'accepted'")
        .await;
    daemon.kill9();
    site.clear_script().await;
    let _daemon = site.daemon(HUNDRED).await;
    let counts =
        site.until_counts("every row has an end", |counts| counts.only(&["accepted", "unknown"])).await;
    assert_eq!(counts.of("accepted") + counts.of("unknown"), 2_000);
    // What was under way, and what stood in waves: twice the concurrency, in requests.
    assert!((400..=800).contains(&counts.of("unknown")), "{counts:?}");
    let (sent, accepted) = (site.sent_references().await, site.references("accepted").await);
    assert!(accepted.is_subset(&sent) && (&sent - &accepted).is_subset(&site.references("unknown").await));
    assert_eq!((&sent - &accepted).len(), 200, "two requests were taken and never answered");
    site.assert_nothing_twice().await;
}

#[tokio::test]
async fn the_loss_of_an_answer_makes_its_messages_unknown_and_no_other() {
    let site = Site::new("coalesce_lost").await;
    for act in [
        json!({"drop": {"accept": true}}),
        json!({"truncate": {}}),
        json!({"page": {"status": 502}}),
        json!({"drop": {"accept": false, "reset": true}}),
    ] {
        site.sim.script(&json!({"do": act})).await;
    }
    let lines = Lines { gateway: "concurrency = 1\ncoalesce = 100\nbackoff_min = \"50ms\"", ..HUNDRED };
    let (_daemon, _) = with_rows(&site, 1_000, lines).await;
    let counts =
        site.until_counts("every row has an end", |counts| counts.only(&["accepted", "unknown"])).await;
    assert!((5..=400).contains(&counts.of("unknown")), "{counts:?}");
    let each = "SELECT count(*) FROM sms.outbox WHERE status = 'unknown' AND attempts = 1 \
                AND error_code = 'outcome_unknown' AND gateway_ref IS NOT NULL";
    assert_eq!(site.number(each).await, counts.of("unknown"));
    assert_eq!(site.alarms().await, [], "four answers were lost, and not four hundred");
    assert!((&site.references("accepted").await - &site.sent_references().await).is_empty());
    site.assert_nothing_twice().await;
}

#[tokio::test]
async fn a_refused_request_is_sent_again_message_by_message() {
    let site = Site::new("coalesce_refused").await;
    let refusal =
        json!({"answer": {"status": 422, "body": "{\"success\":false,\"message\":\"Bad request\"}"}});
    site.sim.script(&json!({"do": refusal})).await;
    // And the one who is to blame is refused alone too.
    site.sim.script(&json!({"do": refusal, "prefix": "353870000007"})).await;
    let lines = Lines { gateway: "concurrency = 1\ncoalesce = 100", ..HUNDRED };
    let (_daemon, first) = with_rows(&site, 50, lines).await;
    site.until_counts("49 are sent", |counts| counts.of("accepted") == 49 && counts.of("failed") == 1).await;
    let blamed = site.row(first + 6).await;
    assert_eq!((blamed.status.as_str(), blamed.code(), blamed.attempts), ("failed", "gateway_refused", 2));
    assert!(blamed.reason().contains("Bad request"), "{blamed:?}");
    assert_eq!(requests(&site).await, 51);
    site.assert_nothing_twice().await;
    // Those that come later share requests again.
    queue_alike(&site, "normal", "another", 50).await;
    site.until_counts("all others too", |counts| counts.of("accepted") == 99).await;
    assert!(requests(&site).await <= 76, "{} requests", requests(&site).await);
}

#[tokio::test]
async fn a_gateway_that_refuses_every_request_is_stopped_and_burns_nothing() {
    let site = Site::new("coalesce_refuses").await;
    let body = "{\"success\":false,\"message\":\"Account blocked\"}";
    site.sim.script(&json!({"do": {"answer": {"status": 400, "body": body}}, "times": 0})).await;
    let (_daemon, _) = with_rows(&site, 500, HUNDRED).await;
    let reason = site.until_gateway("stopped").await.unwrap();
    assert!(reason.contains("Account blocked"), "{reason}");
    until_all(&site, "queued").await;
    assert!((20..=32).contains(&requests(&site).await), "{} requests", requests(&site).await);
    site.clear_script().await;
    site.run("SELECT sms.resume('main')").await;
    until_all(&site, "accepted").await;
    site.assert_nothing_twice().await;
}

#[tokio::test]
async fn messages_that_the_gateway_names_as_skipped_are_failed_and_no_other() {
    for shape in ["object", "sentence", "number", "reference"] {
        let site = Site::new("coalesce_named").await;
        site.sim.settings(&json!({"v2": {"error_items": shape, "invalid": ["35387000001"]}})).await;
        let (_daemon, first) = with_rows(&site, 100, HUNDRED).await;
        site.until_counts("ten are skipped", |counts| {
            counts.of("accepted") == 90 && counts.of("failed") == 10
        })
        .await;
        let row = site.row(first + 9).await;
        assert_eq!((row.status.as_str(), row.code(), row.attempts), ("failed", "gateway_refused", 1));
        assert!(shape == "number" || row.reason().contains("Invalid MSISDN"), "{shape}: {row:?}");
        assert!(!row.reason().contains("353870000010"), "{shape}: {row:?}");
        assert_eq!(site.row(first + 8).await.error, None);
        assert_eq!(site.references("accepted").await, site.sent_references().await);
        assert_eq!(site.alarms().await, []);
        site.assert_nothing_twice().await;
    }
}

#[tokio::test]
async fn a_skipped_message_that_is_not_named_leaves_a_note_and_an_alarm_and_ends_coalescing() {
    let site = Site::new("coalesce_nameless").await;
    site.sim.settings(&json!({"v2": {"error_items": "nameless", "invalid": ["353870000010"]}})).await;
    let alarm = [("skipped_unnamed", "main")];
    {
        let lines = Lines { gateway: "concurrency = 1\ncoalesce = 100", ..HUNDRED };
        let (daemon, first) = with_rows(&site, 30, lines).await;
        until_all(&site, "accepted").await;
        for id in [first, first + 9] {
            let row = site.row(id).await;
            assert!(row.reason().contains("Invalid MSISDN") && row.reason().contains("29 others"), "{row:?}");
        }
        until_alarms(&site, &alarm).await;
        daemon.wait_log(LIMIT, "without naming them").await;
        assert_eq!(requests(&site).await, 1);
        queue_alike(&site, "normal", "one by one", 30).await;
        site.until_counts("the one is refused alone", |counts| {
            counts.of("accepted") == 59 && counts.of("failed") == 1
        })
        .await;
        assert_eq!(requests(&site).await, 31);
    }
    // Neither a start nor a takeover forgets it, but a person decides.
    let daemon = site.daemon(HUNDRED).await;
    daemon.wait_log(LIMIT, "gets one message a request").await;
    queue_alike(&site, "normal", "still one by one", 9).await;
    site.until_counts("nine more", |counts| counts.of("accepted") == 68).await;
    assert_eq!(requests(&site).await, 40);
    site.run("SELECT sms.resume('main')").await;
    until_alarms(&site, &[]).await;
    queue_alike(&site, "normal", "together again", 9).await;
    site.until_counts("nine more", |counts| counts.of("accepted") == 77).await;
    assert!(requests(&site).await < 49, "{} requests", requests(&site).await);
    site.assert_nothing_twice().await;
}

#[tokio::test]
async fn an_expired_token_costs_a_shared_request_one_more_and_no_message() {
    let site = Site::new("coalesce_token").await;
    site.sim.script(&json!({"do": {"expire-tokens": {}}})).await;
    let lines = Lines { gateway: "concurrency = 1\ncoalesce = 100", ..HUNDRED };
    let (_daemon, _) = with_rows(&site, 100, lines).await;
    until_all(&site, "accepted").await;
    assert_eq!((requests(&site).await, site.sim_count("unauthorized").await), (2, 1));
    assert_eq!(site.number("SELECT count(*) FROM sms.outbox WHERE attempts = 1").await, 100);
    site.assert_nothing_twice().await;
}

#[tokio::test]
async fn a_gateway_that_asks_for_patience_defers_all_that_shared_the_request() {
    let site = Site::new("coalesce_429").await;
    let act = json!({"answer": {"status": 429, "headers": {"Retry-After": "1"}, "body": "slow down"}});
    site.sim.script(&json!({"do": act})).await;
    let lines = Lines { gateway: "concurrency = 1\ncoalesce = 100", ..HUNDRED };
    let (_daemon, _) = with_rows(&site, 100, lines).await;
    site.until_gateway("waiting").await;
    let why =
        "SELECT count(*) = 100 FROM sms.outbox WHERE status = 'queued' AND error_code = 'gateway_throttled'";
    site.until_true("each says why it waits", why).await;
    until_all(&site, "accepted").await;
    assert_eq!(requests(&site).await, 2);
    site.assert_nothing_twice().await;
}

#[tokio::test]
async fn the_rate_counts_messages_and_not_requests() {
    let site = Site::new("coalesce_rate").await;
    let lines = Lines { gateway: "coalesce = 100\nrate = 200", ..HUNDRED };
    let (_daemon, _) = with_rows(&site, 400, lines).await;
    until_all(&site, "accepted").await;
    let sql = "SELECT (extract(epoch FROM max(sent_at) - min(sent_at)) * 1000)::bigint FROM sms.outbox";
    let took = site.number(sql).await;
    // A tenth of a second's worth may go at once.
    assert!((1_700..=20_000).contains(&took), "400 messages at 200 a second took {took} ms");
    assert!(requests(&site).await < 400);
}

#[tokio::test]
async fn an_urgent_message_passes_bulk_that_shares_requests_and_bulk_that_does_not() {
    let site = Site::new("coalesce_lanes").await;
    site.sim.settings(&json!({"answers": {"latency_ms": 100}})).await;
    let lines = Lines { gateway: "concurrency = 2\ncoalesce = 20", ..HUNDRED };
    queue_alike(&site, "bulk", "the same for all", 1_000).await;
    site.queue_in("bulk", 300).await;
    let _daemon = site.daemon(lines).await;
    for round in 0..3 {
        site.until_counts("bulk is under way", |counts| counts.of("accepted") > 20 + 100 * round).await;
        let urgent =
            site.insert("(recipient, body, lane) VALUES ('0871234568', 'code 1234', 'urgent')").await;
        site.until(urgent, "accepted").await;
        // It waits for a place in a request, and not for all that stands in waves.
        let behind = format!(
            "SELECT count(*) FROM sms.outbox AS o, sms.outbox AS u WHERE u.id = {urgent} AND o.sent_at > u.created_at \
             AND o.sent_at < u.sent_at"
        );
        assert!(site.number(&behind).await <= 200, "{} passed it", site.number(&behind).await);
    }
    assert!(site.counts().await.of("queued") > 0, "bulk still waits");
}

#[tokio::test]
async fn messages_that_are_all_different_do_not_pile_up_in_waves() {
    let site = Site::new("coalesce_pile").await;
    site.freeze().await;
    site.queue(1_000).await;
    let mut daemon = site.daemon(Lines { gateway: "concurrency = 4\ncoalesce = 1000", ..HUNDRED }).await;
    site.sim_reaches("frozen=4").await;
    daemon.kill9();
    site.thaw().await;
    site.sim_reaches("idle=1").await;
    let _daemon = site.daemon(HUNDRED).await;
    let counts =
        site.until_counts("every row has an end", |counts| counts.only(&["accepted", "unknown"])).await;
    assert!((4..=8).contains(&counts.of("unknown")), "{counts:?}");
    site.assert_nothing_twice().await;
}

#[tokio::test]
async fn what_was_cancelled_or_held_before_its_wave_is_in_no_request() {
    let site = Site::new("coalesce_cancel").await;
    let lines = Lines { gateway: "concurrency = 1\ncoalesce = 10\nrate = 50", ..HUNDRED };
    let (_daemon, first) = with_rows(&site, 200, lines).await;
    site.until_counts("it has begun", |counts| counts.of("accepted") > 0).await;
    // Read long since, and not in a wave yet.
    site.run(&format!("SELECT sms.cancel(id) FROM sms.outbox WHERE id >= {first} + 150 AND id % 2 = 0"))
        .await;
    site.run(&format!(
        "UPDATE sms.outbox SET body = 'corrected' WHERE id = {first} + 151 AND status = 'queued'"
    ))
    .await;
    site.run("SELECT sms.hold()").await;
    site.until_true("nothing is under way", "SELECT count(*) = 0 FROM outboxd.wave").await;
    let held = site.counts().await;
    assert!(held.of("queued") > 0 && held.of("cancelled") >= 25, "{held:?}");
    site.run("SELECT sms.resume()").await;
    site.until_counts("the rest is sent", |counts| counts.only(&["accepted", "cancelled"])).await;
    let counts = site.counts().await;
    assert_eq!(counts.of("cancelled"), held.of("cancelled"));
    assert_eq!(site.sent_references().await, site.references("accepted").await);
    let row = site.row(first + 151).await;
    if row.status == "accepted" {
        assert_eq!(text(&site.in_ledger(&row).await), "corrected");
    }
    site.assert_nothing_twice().await;
}

#[tokio::test]
async fn a_shared_request_that_was_never_begun_leaves_its_messages_queued() {
    let site = Site::new("coalesce_stop").await;
    site.freeze().await;
    let (mut daemon, _) = with_rows(&site, 800, HUNDRED).await;
    site.sim_reaches("frozen=4").await;
    daemon.terminate();
    daemon.wait_log(LIMIT, "stopping").await;
    site.thaw().await;
    assert!(daemon.wait_exit(LIMIT).await.success());
    let counts = site.counts().await;
    assert_eq!((counts.of("accepted"), counts.of("queued")), (400, 400), "{counts:?}");
    assert_eq!(site.number("SELECT count(*) FROM outboxd.wave").await, 0);
    let _daemon = site.daemon(HUNDRED).await;
    until_all(&site, "accepted").await;
    site.assert_nothing_twice().await;
}

#[tokio::test]
async fn results_without_a_reference_find_the_messages_of_the_one_request_that_was_refused() {
    let site = crate::processing::site("coalesce_results").await;
    crate::processing::lose_receipts(&site, 1.0).await;
    let lines = Lines { receipts: true, ..HUNDRED };
    let (_daemon, _) = with_rows(&site, 100, lines).await;
    until_all(&site, "accepted").await;
    // Answered as accepted; afterwards each of its messages is told of, and none by its reference.
    site.sim.script(&json!({"do": {"refuse": {"reason": "sender"}}})).await;
    queue_alike(&site, "normal", "refused later", 40).await;
    eventually(LIMIT, "those of that request are failed", async || {
        let sql = "SELECT count(*) FROM sms.outbox WHERE status = 'failed' AND body = 'refused later' \
                   AND error_code = 'sender_not_valid'";
        let failed = site.number(sql).await;
        if failed > 0 { Ok(()) } else { Err(failed) }
    })
    .await;
    let wrong = "SELECT count(*) FROM sms.outbox WHERE status = 'failed' AND gateway_ref = ANY ($1)";
    let sent: Vec<String> = site.sent_references().await.into_iter().collect();
    let wrong: i64 = site.sql.query_one(wrong, &[&sent]).await.unwrap().get(0);
    assert_eq!(wrong, 0, "what the gateway has is not failed");
    until_alarms(&site, &[]).await;
}
