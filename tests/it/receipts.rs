//! Delivery receipts as the gateway posts them: late, repeated, out of order, for nobody, forged.

use serde_json::{Value, json};

use crate::support::daemon::Daemon;
use crate::support::site::{LIMIT, Lines, Site};

const RECEIPTS: Lines<'_> = Lines { queue: "", gateway: "", more: "", receipts: true };

/// Has the simulator post a receipt of the test's own, and returns once it has been answered.
async fn post(site: &Site, receipt: &Value) {
    let done = site.sim_count("receipts").await + 1;
    site.sim.control("POST", "receipt", Some(receipt)).await;
    site.sim_reaches(&format!("receipts={done}&idle=1")).await;
}

#[tokio::test]
async fn every_signature_that_the_documentation_allows_is_believed() {
    let site = Site::with_receipts("signatures").await;
    let _daemon = site.daemon(RECEIPTS).await;
    for secret in ["client-secret", "password"] {
        for boolean in ["lower", "as-posted"] {
            for id_field in ["SMS-NotifyId", "SMS-NotifyID"] {
                let signature = json!({"secret": secret, "boolean": boolean});
                let receipts = json!({"signature": signature, "id_field": id_field});
                site.sim.settings(&json!({"callbacks": {"receipts": receipts}})).await;
                let (id, _) = site.queue(1).await;
                site.until(id, "delivered").await;
            }
        }
    }
    assert_eq!(site.sim_count("receipts_failed").await, 0);
}

#[tokio::test]
async fn a_forged_receipt_changes_nothing_and_is_refused() {
    let site = Site::with_receipts("forged").await;
    site.sim.settings(&json!({"callbacks": {"retries": 0, "receipts": {"lost": 1.0}}})).await;
    let daemon = site.daemon(RECEIPTS).await;
    let (id, _) = site.queue(1).await;
    let row = site.until(id, "accepted").await;
    let forged = json!({"notify_id": row.gateway_ref, "number": "353870000001", "sender": "Demo",
        "delivered": true, "forged": true});
    post(&site, &forged).await;
    assert_eq!(site.sim_count("receipts_failed").await, 1);
    daemon.wait_log(LIMIT, "wrong signature").await;
    assert_eq!(site.row(id).await.status, "accepted");
}

#[tokio::test]
async fn receipts_for_nobody_are_taken_and_change_nothing() {
    let site = Site::with_receipts("nobody").await;
    let _daemon = site.daemon(RECEIPTS).await;
    let (id, _) = site.queue(1).await;
    let row = site.until_delivered(id).await;
    let reference = row.gateway_ref.clone().unwrap();
    let (base, nonce) = (reference.split('-').next().unwrap(), reference.split('-').nth(1).unwrap());
    for notify_id in [
        "".to_owned(),
        "order-001".to_owned(),
        "7ZZZZZZZZZZZZ-00000000-1".to_owned(),
        // The right row and another nonce, another attempt.
        format!("{base}-00000000-1"),
        format!("{base}-{nonce}-2"),
    ] {
        let receipt =
            json!({"notify_id": notify_id, "number": "353870000001", "sender": "Demo", "delivered": false});
        post(&site, &receipt).await;
    }
    assert_eq!(site.sim_count("receipts_failed").await, 0);
    assert_eq!(site.row(id).await, row);
}

#[tokio::test]
async fn repeated_and_contradicting_receipts_leave_what_was_delivered() {
    let site = Site::with_receipts("repeated").await;
    site.sim.settings(&json!({"callbacks": {"receipts": {"copies": 2, "jitter_ms": 30}}})).await;
    let _daemon = site.daemon(RECEIPTS).await;
    let (first, last) = site.queue(50).await;
    site.until_counts("all are delivered", |counts| counts.only(&["delivered"])).await;
    site.sim_reaches("receipts_ok=150&idle=1").await;
    let row = site.until_delivered(first).await;
    let receipt = |delivered: bool| {
        json!({"notify_id": row.gateway_ref, "number": "353870000001",
        "sender": "Demo", "delivered": delivered})
    };
    post(&site, &receipt(false)).await;
    assert_eq!(site.row(first).await, row, "delivered never goes back");
    assert_eq!(site.counts().await.of("delivered"), last - first + 1);
    assert_eq!(site.sim_count("receipts_failed").await, 0);
}

#[tokio::test]
async fn a_receipt_corrects_an_earlier_one_that_said_undelivered() {
    let site = Site::with_receipts("corrected").await;
    site.sim.settings(&json!({"callbacks": {"receipts": {"lost": 1.0}}})).await;
    let _daemon = site.daemon(RECEIPTS).await;
    let (id, _) = site.queue(1).await;
    let reference = site.until(id, "accepted").await.gateway_ref;
    let receipt = |delivered: bool| {
        json!({"notify_id": reference, "number": "353870000001",
        "sender": "Demo", "delivered": delivered})
    };
    post(&site, &receipt(false)).await;
    assert_eq!(site.row(id).await.status, "undelivered");
    post(&site, &receipt(true)).await;
    let row = site.row(id).await;
    assert_eq!((row.status.as_str(), row.error, row.error_code), ("delivered", None, None));
}

#[tokio::test]
async fn a_receipt_may_be_faster_than_the_answer() {
    let site = Site::with_receipts("faster").await;
    let _daemon = site.daemon(RECEIPTS).await;
    site.sim.script(&json!({"do": {"late": {"ms": 1500}}})).await;
    let (id, _) = site.queue(1).await;
    site.until_true("the receipt has come", "SELECT status = 'delivered' FROM sms.outbox").await;
    let early = site.row(id).await;
    assert_eq!((early.attempts, early.sent), (1, false), "the answer is still to come");
    site.until_true("the answer fills in the rest", "SELECT sent_at IS NOT NULL FROM sms.outbox").await;
    let row = site.row(id).await;
    assert_eq!(
        (row.status.as_str(), row.sent_via.as_deref(), row.segments),
        ("delivered", Some("main"), Some(1))
    );
    assert_eq!(site.number("SELECT count(*) FROM outboxd.attempt").await, 0);
    site.assert_nothing_twice().await;
}

#[tokio::test]
async fn a_receipt_resolves_an_unknown_outcome() {
    let site = Site::with_receipts("resolves").await;
    let _daemon = site.daemon(RECEIPTS).await;
    // Receipts wait until there are so many.
    site.sim.settings(&json!({"callbacks": {"receipts": {"reverse": 100}}})).await;
    site.sim.script(&json!({"do": {"drop": {"accept": true}}})).await;
    let (id, _) = site.queue(1).await;
    assert_eq!(site.until(id, "unknown").await.code(), "outcome_unknown");
    site.sim.settings(&json!({"callbacks": {"receipts": {"reverse": 0}}})).await;
    let row = site.until(id, "delivered").await;
    assert_eq!((row.attempts, row.error), (1, None));
    site.assert_nothing_twice().await;
}

#[tokio::test]
async fn a_late_receipt_of_an_attempt_that_was_given_up_still_finds_its_message() {
    let site = Site::with_receipts("given_up").await;
    let _daemon = site.daemon(RECEIPTS).await;
    site.sim.settings(&json!({"callbacks": {"receipts": {"reverse": 100}}})).await;
    site.sim.script(&json!({"do": {"drop": {"accept": true}}})).await;
    let (id, _) = site.queue(1).await;
    let first = site.until(id, "unknown").await;
    let refused = site.sql.execute(&format!("SELECT sms.retry({id})"), &[]).await.unwrap_err();
    assert!(refused.as_db_error().unwrap().hint().unwrap().contains("force"));
    site.run(&format!("SELECT sms.retry({id}, force => true)")).await;
    let second = site.until(id, "accepted").await;
    assert_eq!(second.attempts, 2);
    assert_ne!(first.gateway_ref, second.gateway_ref);
    let receipt = json!({"notify_id": first.gateway_ref, "number": "353870000001", "sender": "Demo",
        "delivered": true});
    site.sim.control("POST", "receipt", Some(&receipt)).await;
    site.sim.settings(&json!({"callbacks": {"receipts": {"reverse": 0}}})).await;
    site.until(id, "delivered").await;
}

#[tokio::test]
async fn that_an_earlier_attempt_was_not_delivered_says_nothing_about_the_next_one() {
    let site = Site::with_receipts("earlier_attempt").await;
    site.sim.settings(&json!({"callbacks": {"receipts": {"lost": 1.0}}})).await;
    let _daemon = site.daemon(RECEIPTS).await;
    let (id, _) = site.queue(1).await;
    let first = site.until(id, "accepted").await.gateway_ref;
    let receipt = |reference: &Option<String>, delivered: bool| json!({"notify_id": reference, "number": "353870000001", "sender": "Demo", "delivered": delivered});
    post(&site, &receipt(&first, false)).await;
    assert_eq!(site.row(id).await.status, "undelivered");
    // Sent again, and the gateway repeats its receipt while that is under way.
    site.freeze().await;
    site.run(&format!("SELECT sms.retry({id})")).await;
    site.sim_reaches("frozen=1").await;
    let taken = site.sim_count("receipts_ok").await + 1;
    site.sim.control("POST", "receipt", Some(&receipt(&first, false))).await;
    site.sim_reaches(&format!("receipts_ok={taken}")).await;
    assert_eq!(site.row(id).await.status, "queued");
    site.thaw().await;
    let second = site.until(id, "accepted").await;
    assert_eq!(second.attempts, 2);
    post(&site, &receipt(&first, false)).await;
    assert_eq!(site.row(id).await, second);
    // The same for an attempt that was given up as unknown.
    site.run(&format!("UPDATE sms.outbox SET status = 'unknown' WHERE id = {id}")).await;
    site.run(&format!("SELECT sms.retry({id}, force => true)")).await;
    let third = site.until(id, "accepted").await;
    assert_eq!(third.attempts, 3);
    post(&site, &receipt(&second.gateway_ref, false)).await;
    assert_eq!(site.row(id).await, third);
    post(&site, &receipt(&third.gateway_ref, true)).await;
    assert_eq!(site.row(id).await.status, "delivered");
}

#[tokio::test]
async fn a_receipt_may_be_faster_than_the_answer_to_a_retry_too() {
    let site = Site::with_receipts("faster_retry").await;
    let _daemon = site.daemon(RECEIPTS).await;
    site.sim.settings(&json!({"callbacks": {"receipts": {"lost": 1.0}}})).await;
    let (id, _) = site.queue(1).await;
    let first = site.until(id, "accepted").await.gateway_ref;
    let receipt = json!({"notify_id": first, "number": "353870000001", "sender": "Demo", "delivered": false});
    post(&site, &receipt).await;
    site.sim.settings(&json!({"callbacks": {"receipts": {"lost": 0.0}}})).await;
    site.sim.script(&json!({"do": {"late": {"ms": 1500}}})).await;
    site.run(&format!("UPDATE sms.outbox SET sent_via = 'earlier' WHERE id = {id}; SELECT sms.retry({id})"))
        .await;
    let early = "SELECT status = 'delivered' AND sent_at IS NULL FROM sms.outbox";
    site.until_true("the receipt is there and the answer still to come", early).await;
    let row = site.until(id, "delivered").await;
    assert_eq!((row.attempts, row.sent_via.as_deref()), (2, Some("main")), "the answer fills in the rest");
    assert_eq!(site.number("SELECT count(*) FROM outboxd.attempt").await, 0);
}

/// What was sent since VACUUM last came is in no summary, and each look reads all of it: a daemon that starts to look a
/// week back would not get through within a statement's time.
#[tokio::test]
async fn an_overdue_receipt_is_found_in_a_table_that_was_filled_in_one_go() {
    let mut site = Site::with_receipts("overdue_big").await;
    site.daemon_database = "timeout = \"1s\"".to_owned();
    site.run(
        "ALTER TABLE sms.outbox SET (autovacuum_enabled = false); \
         INSERT INTO sms.outbox (recipient, body, status, sent_at) \
         SELECT '0871234567', 'sent just now', 'accepted', now() FROM generate_series(1, 200000); \
         INSERT INTO sms.outbox (recipient, body, status, sent_at) \
         VALUES ('0871234567', 'sent days ago', 'accepted', now() - interval '8 days 20 hours')",
    )
    .await;
    let _daemon = Daemon::start(&site.config(RECEIPTS)).await;
    let marked = "SELECT count(*) = 1 FROM sms.outbox WHERE error_code = 'receipt_overdue'";
    site.until_true("it is marked", marked).await;
}

#[tokio::test]
async fn a_message_without_a_receipt_says_so_and_a_late_receipt_settles_it() {
    let site = Site::with_receipts("overdue").await;
    site.sim.settings(&json!({"callbacks": {"receipts": {"lost": 1.0}}})).await;
    // [callbacks] is the last section.
    let config = format!("{}receipt_overdue_after = \"1s\"\n", site.config(RECEIPTS));
    let _daemon = Daemon::start(&config).await;
    let (first, last) = site.queue(20).await;
    let marked =
        "SELECT count(*) = 20 FROM sms.outbox WHERE status = 'accepted' AND error_code = 'receipt_overdue'";
    site.until_true("all are marked", marked).await;
    assert_eq!(site.number("SELECT receipts_overdue FROM sms.health").await, last - first + 1);
    let row = site.row(first).await;
    assert_eq!((row.finished, row.sent), (false, true));
    let receipt = |reference: &Option<String>, delivered: bool| json!({"notify_id": reference, "number": "353870000001", "sender": "Demo", "delivered": delivered});
    post(&site, &receipt(&row.gateway_ref, true)).await;
    let row = site.row(first).await;
    assert_eq!((row.status.as_str(), row.code(), row.reason()), ("delivered", "", ""));
    let second = site.row(first + 1).await;
    post(&site, &receipt(&second.gateway_ref, false)).await;
    assert_eq!(site.row(first + 1).await.code(), "undelivered");
    assert_eq!(site.number("SELECT receipts_overdue FROM sms.health").await, last - first - 1);
    assert_eq!(site.alarms().await, []);
}

#[tokio::test]
async fn a_standby_takes_receipts_too() {
    let site = Site::with_receipts("standby_receipts").await;
    let leader = site.daemon(Lines::default()).await;
    let standby = Daemon::start(&site.config(RECEIPTS)).await;
    standby.wait_log(LIMIT, "standby").await;
    let (id, _) = site.queue(1).await;
    site.until(id, "delivered").await;
    drop(leader);
}

#[tokio::test]
async fn the_listener_answers_nothing_but_its_secret_path() {
    let site = Site::with_receipts("listener").await;
    let _daemon = site.daemon(RECEIPTS).await;
    let url = site.callback_url();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let post =
        async |url: &str, body: Vec<u8>| http.post(url).body(body).send().await.unwrap().status().as_u16();
    let root = url.split("/cb/").next().unwrap();
    assert_eq!(post(&format!("{root}/"), Vec::new()).await, 404);
    assert_eq!(post(&format!("{root}/cb/it-0123456789abcdeX"), Vec::new()).await, 404);
    assert_eq!(http.get(&url).send().await.unwrap().status(), 405);
    assert_eq!(post(&url, b"SMS-Type=Notification&SMS-NotifyId=1&SMS-Success=perhaps".to_vec()).await, 400);
    assert_eq!(post(&url, b"\xff\x00%zz=%&&&=".to_vec()).await, 422);
    assert_eq!(post(&url, vec![b'x'; 1 << 20]).await, 413);
}
