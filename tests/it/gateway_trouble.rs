//! A gateway that misbehaves burns nothing: what it may have taken is unknown, what it did not take waits, and a person
//! is told what to do.

use std::collections::BTreeSet;

use serde_json::json;

use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::site::{LIMIT, Lines, Site};
use crate::support::wire::{Calls, Fault, Wire};

/// Pauses that a test can wait for.
const QUICK: &str = "concurrency = 8\nbackoff_min = \"50ms\"\nbackoff_max = \"200ms\"\n";

fn quick(gateway: &str) -> String {
    format!("{QUICK}{gateway}")
}

fn stopped() -> Vec<(String, String)> {
    vec![("gateway_stopped".to_owned(), "main".to_owned())]
}

async fn until_no_alarm(site: &Site) {
    eventually(LIMIT, "the alarm is cleared", async || {
        let alarms = site.alarms().await;
        if alarms.is_empty() { Ok(()) } else { Err(alarms) }
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_says_nothing_makes_its_message_unknown_and_no_other() {
    let site = Site::new("answers").await;
    let acts = [
        json!({"page": {}}),
        json!({"page": {"status": 502}}),
        json!({"page": {"status": 503, "accept": false}}),
        json!({"truncate": {}}),
        json!({"truncate": {"keep": 40}}),
        json!({"truncate": {"keep": 3}}),
        json!({"wrong-length": {"by": 10}}),
        json!({"huge": {"bytes": 50_000_000}}),
        json!({"empty": {}}),
        json!({"empty": {"status": 500}}),
        json!({"binary": {}}),
        json!({"drop": {"accept": true}}),
        json!({"drop": {"accept": true, "reset": true}}),
        json!({"drop": {"accept": false}}),
        json!({"hang": {"accept": true}}),
        json!({"answer": {"status": 500, "body": "{\"success\":false,\"message\":\"oops\"}"}}),
        json!({"answer": {"status": 200, "body": "{\"success\":\"maybe\"}", "accept": true}}),
        json!({"answer": {"status": 200, "body": "[[[[[[[[[[[[[[[[", "accept": true}}),
    ];
    for (n, act) in acts.iter().enumerate() {
        site.sim.script(&json!({"do": act, "prefix": format!("3538700000{:02}", n + 1)})).await;
    }
    let fine =
        [json!({"drip": {"ms": 1, "bytes": 7}}), json!({"close-after": {}}), json!({"late": {"ms": 300}})];
    for (n, act) in fine.iter().enumerate() {
        site.sim.script(&json!({"do": act, "prefix": format!("3538700000{:02}", acts.len() + n + 1)})).await;
    }
    let gateway = quick("breaker_failures = 1000\nrequest_timeout = \"2s\"");
    let daemon = site.daemon(Lines { gateway: &gateway, ..Lines::default() }).await;
    let (first, _) = site.queue(40).await;
    site.until_counts("every row has an end", |counts| counts.only(&["accepted", "unknown"])).await;
    for (n, act) in acts.iter().enumerate() {
        let row = site.row(first + i64::try_from(n).unwrap()).await;
        assert_eq!((row.status.as_str(), row.code()), ("unknown", "outcome_unknown"), "{act}: {row:?}");
        assert!(row.reason().len() > 10 && row.reason().len() < 600, "{act}: {row:?}");
    }
    assert_eq!(site.counts().await.of("accepted"), 22);
    site.assert_nothing_twice().await;
    assert!(!daemon.log().contains("panic"), "{}", daemon.log());
    assert_eq!(site.alarms().await, []);
}

#[tokio::test]
async fn a_gateway_that_asks_for_patience_gets_it() {
    let site = Site::new("retry_after").await;
    let act = json!({"answer": {"status": 429, "headers": {"Retry-After": "2"}, "body": "slow down"}});
    site.sim.script(&json!({"do": act})).await;
    let _daemon = site.daemon(Lines { gateway: QUICK, ..Lines::default() }).await;
    let (id, _) = site.queue(1).await;
    site.until_gateway("waiting").await;
    eventually(LIMIT, "the row says why it waits", async || {
        let row = site.row(id).await;
        if row.status == "queued" && row.code() == "gateway_throttled" { Ok(()) } else { Err(row) }
    })
    .await;
    let row = site.until(id, "accepted").await;
    assert_eq!((row.attempts, row.error), (2, None));
    let waited = "SELECT bool_and(sent_at >= created_at + interval '2 s') FROM sms.outbox";
    site.until_true("two seconds have passed", waited).await;
    site.until_gateway("open").await;
}

#[tokio::test]
async fn wrong_credentials_cost_one_log_in_and_no_message() {
    let site = Site::new("credentials").await;
    site.sim.settings(&json!({"account": {"password": "another"}})).await;
    let daemon = site.daemon(Lines { gateway: QUICK, ..Lines::default() }).await;
    site.queue(60).await;
    let reason = site.until_gateway("stopped").await.unwrap();
    assert!(reason.contains("username and password"), "{reason}");
    eventually(LIMIT, "a person is told", async || {
        let alarms = site.alarms().await;
        if alarms == stopped() { Ok(()) } else { Err(alarms) }
    })
    .await;
    daemon.wait_log(LIMIT, "ERROR").await;
    // Everything that was begun comes back to the queue.
    site.until_true("nothing is under way", "SELECT count(*) = 0 FROM outboxd.wave").await;
    let counts = site.counts().await;
    assert!(counts.only(&["queued"]), "{counts:?}");
    assert_eq!((site.sim_count("logins_refused").await, site.sim_count("requests").await), (1, 0));

    site.sim.settings(&json!({"account": {"password": "demo-password"}})).await;
    site.run("SELECT sms.resume('main')").await;
    site.until_counts("they are sent", |counts| counts.only(&["accepted"])).await;
    assert_eq!(site.sim_count("logins_refused").await, 1);
    until_no_alarm(&site).await;
    site.assert_nothing_twice().await;
    assert!(!daemon.log().contains("demo-password"));
}

#[tokio::test]
async fn a_gateway_that_refuses_everything_is_stopped_and_burns_nothing() {
    let site = Site::new("refuses").await;
    let body = "{\"success\":false,\"message\":\"Account blocked\"}";
    site.sim.script(&json!({"do": {"answer": {"status": 400, "body": body}}, "times": 0})).await;
    let gateway = quick("stop_after_refusals = 10");
    let _daemon = site.daemon(Lines { gateway: &gateway, ..Lines::default() }).await;
    site.queue(100).await;
    let reason = site.until_gateway("stopped").await.unwrap();
    assert!(reason.contains("Account blocked"), "{reason}");
    site.until_counts("nothing is burned", |counts| counts.only(&["queued"])).await;
    let asked = site.sim_count("requests").await;
    assert!((10..=18).contains(&asked), "{asked} messages were tried");
    eventually(LIMIT, "a person is told", async || {
        let alarms = site.alarms().await;
        if alarms == stopped() { Ok(()) } else { Err(alarms) }
    })
    .await;
    site.clear_script().await;
    site.run("SELECT sms.resume('main')").await;
    site.until_counts("they are sent", |counts| counts.only(&["accepted"])).await;
    until_no_alarm(&site).await;
    site.assert_nothing_twice().await;
}

#[tokio::test]
async fn who_says_go_on_before_the_refusals_are_written_does_not_burn_them() {
    let mut site = Site::new("refuses_late").await;
    let wire = Wire::to_cluster();
    site.route_through(&wire);
    let body = "{\"success\":false,\"message\":\"Account blocked\"}";
    site.sim.script(&json!({"do": {"answer": {"status": 400, "body": body}}, "times": 0})).await;
    let gateway = quick("stop_after_refusals = 5");
    let daemon = site.daemon(Lines { gateway: &gateway, ..Lines::default() }).await;
    let failing = wire.plan(Calls::running("record").always(), Fault::Refuse("53100"));
    site.queue(40).await;
    site.until_gateway("stopped").await;
    failing.reached(LIMIT).await;
    site.clear_script().await;
    site.run("SELECT sms.resume('main')").await;
    site.until_gateway("open").await;
    assert!(site.counts().await.only(&["queued"]), "nothing could be written");
    wire.lift();
    site.until_counts("all are sent", |counts| counts.only(&["accepted"])).await;
    daemon.wait_log(LIMIT, "had refused is queued again").await;
    site.assert_nothing_twice().await;
}

#[tokio::test]
async fn a_message_that_the_gateway_refuses_fails_alone() {
    let site = Site::new("refused").await;
    site.sim.settings(&json!({"v2": {"refuse_at_once": true}, "senders": {"only_listed": true}})).await;
    site.sim.script(&json!({"do": {"refuse": {"reason": "number"}}, "prefix": "353870000005"})).await;
    let _daemon = site.daemon(Lines { gateway: QUICK, ..Lines::default() }).await;
    let (first, _) = site.queue(20).await;
    let foreign = site.insert("(recipient, body, sender) VALUES ('0871234567', 'hi', 'Stranger')").await;
    let row = site.until(first + 4, "failed").await;
    assert_eq!((row.code(), row.attempts, row.finished), ("gateway_refused", 1, true));
    assert!(row.reason().contains("Invalid MSISDN"), "{row:?}");
    let row = site.until(foreign, "failed").await;
    assert_eq!(row.code(), "sender_not_valid");
    site.until_counts("the others are sent", |counts| counts.of("accepted") == 19).await;
    assert_eq!(site.alarms().await, []);
}

#[tokio::test]
async fn a_message_that_is_turned_away_is_not_sent_again_at_once_while_others_are_taken() {
    let site = Site::new("busy_for_one").await;
    let busy = json!({"status": 503, "body": r#"{"success":false,"message":"Try later","errors":[]}"#});
    site.sim.script(&json!({"do": {"answer": busy}, "prefix": "353871112222", "times": 0})).await;
    // Longer than this test lasts.
    let _daemon = site.daemon(Lines { gateway: "backoff_min = \"120s\"\n", ..Lines::default() }).await;
    let turned_away = site.insert("(recipient, body) VALUES ('0871112222', 'later')").await;
    site.queue(300).await;
    site.until_counts("the others are sent", |counts| counts.of("accepted") == 300).await;
    let row = site.row(turned_away).await;
    assert_eq!((row.status.as_str(), row.attempts, row.code()), ("queued", 1, "gateway_busy"));
    // It gave its place back, and does not keep others from being sent.
    site.queue(100).await;
    site.until_counts("later ones are sent", |counts| counts.of("accepted") == 400).await;
    assert_eq!(site.row(turned_away).await.attempts, 1);
}

#[tokio::test]
async fn rows_wait_for_a_gateway_that_is_down_and_go_out_when_it_returns() {
    let site = Site::new("down").await;
    let _daemon = site.daemon(Lines { gateway: QUICK, ..Lines::default() }).await;
    site.queue(300).await;
    site.sim_reaches("accepted=50").await;
    // Nobody is in the middle of a request when the port closes.
    site.run("SELECT sms.hold()").await;
    site.until_true("nothing is under way", "SELECT count(*) = 0 FROM outboxd.wave").await;
    site.sim.control("POST", "down", None).await;
    site.run("SELECT sms.resume()").await;
    site.until_gateway("waiting").await;
    eventually(LIMIT, "a person is told", async || {
        let alarms = site.alarms().await;
        if alarms == [("gateway_waiting".to_owned(), "main".to_owned())] { Ok(()) } else { Err(alarms) }
    })
    .await;
    let counts = site.counts().await;
    assert!(counts.only(&["queued", "accepted"]) && counts.of("queued") > 0, "{counts:?}");
    site.sim.control("POST", "up", None).await;
    let counts = site.until_counts("all are sent", |counts| counts.only(&["accepted"])).await;
    assert_eq!(counts.of("accepted"), 300);
    site.assert_nothing_twice().await;
    until_no_alarm(&site).await;
}

#[tokio::test]
async fn an_outage_costs_no_more_than_what_was_under_way_and_five() {
    let site = Site::new("outage").await;
    let _daemon = site.daemon(Lines { gateway: QUICK, ..Lines::default() }).await;
    site.queue(500).await;
    site.sim_reaches("accepted=60").await;
    site.sim.script(&json!({"do": {"drop": {"accept": true}}, "on": "any", "times": 0})).await;
    site.until_gateway("waiting").await;
    eventually(LIMIT, "it has been probed for a while", async || {
        let alarms = site.alarms().await;
        if alarms.is_empty() { Err(alarms) } else { Ok(()) }
    })
    .await;
    site.clear_script().await;
    let counts = site.until_counts("the rest is sent", |counts| counts.only(&["accepted", "unknown"])).await;
    assert!((1..=13).contains(&counts.of("unknown")), "{counts:?}");
    site.assert_nothing_twice().await;
    let lost: BTreeSet<String> = &site.references("accepted").await - &site.sent_references().await;
    assert!(lost.is_empty(), "accepted and never sent: {lost:?}");
}

#[tokio::test]
async fn an_unknown_outcome_is_sent_again_only_where_the_policy_says_so() {
    let site = Site::new("resend").await;
    let times = "request_timeout = \"500ms\"\nconnect_timeout = \"200ms\"\n";
    let gateway = quick(times) + "on_unknown = \"resend-after:2s\"";
    let daemon = site.daemon(Lines { queue: "lease = \"1s\"", gateway: &gateway, ..Lines::default() }).await;
    site.sim.script(&json!({"do": {"drop": {"accept": false}}})).await;
    let (id, _) = site.queue(1).await;
    site.until(id, "unknown").await;
    let row = site.until(id, "accepted").await;
    assert_eq!((row.attempts, row.error), (2, None));
    let after = "SELECT o.sent_at >= o.created_at + interval '2 s' AND a.attempt = 1 AND a.verdict = 'unknown' \
                 FROM sms.outbox o JOIN outboxd.attempt a ON a.message_id = o.id";
    site.until_true("it waited, and the first attempt is remembered", after).await;
    drop(daemon);

    let gateway = quick(times) + "on_unknown = \"hold\"";
    let _daemon = site.daemon(Lines { queue: "lease = \"1s\"", gateway: &gateway, ..Lines::default() }).await;
    site.sim.script(&json!({"do": {"drop": {"accept": true}}})).await;
    let (held, _) = site.queue(1).await;
    site.until(held, "unknown").await;
    // As old as the other policy would want it, and older.
    site.run(&format!("UPDATE sms.outbox SET sent_at = now() - interval '1 h' WHERE id = {held}")).await;
    let (next, _) = site.queue(1).await;
    site.until(next, "accepted").await;
    assert_eq!(site.row(held).await.attempts, 1);
    site.run(&format!("SELECT sms.retry({held}, true)")).await;
    assert_eq!(site.until(held, "accepted").await.attempts, 2);
}

#[tokio::test]
async fn tokens_that_end_in_a_drain_lose_and_double_nothing() {
    let site = Site::new("tokens").await;
    site.sim.settings(&json!({"auth": {"token_life_ms": 1000}})).await;
    let _daemon = site.daemon(Lines { gateway: QUICK, ..Lines::default() }).await;
    site.queue(600).await;
    for round in 1..=4 {
        site.sim_reaches(&format!("accepted={}", round * 100)).await;
        site.sim.control("POST", "expire-tokens", None).await;
    }
    site.until_counts("all are sent", |counts| counts.only(&["accepted"])).await;
    assert_eq!(site.sim_count("accepted").await, 600);
    assert!(site.sim_count("unauthorized").await > 0, "a token was refused");
    assert_eq!(site.sim_count("logins_refused").await, 0);
    site.assert_nothing_twice().await;
}

#[tokio::test]
async fn without_credits_everything_waits_for_somebody_to_pay() {
    let site = Site::new("credits").await;
    site.sim.settings(&json!({"v2": {"refuse_at_once": true}, "credits": {"balance": 15}})).await;
    let _daemon = site.daemon(Lines { gateway: QUICK, ..Lines::default() }).await;
    site.queue(60).await;
    let reason = site.until_gateway("stopped").await.unwrap();
    assert!(reason.contains("credit"), "{reason}");
    site.until_true("nothing is under way", "SELECT count(*) = 0 FROM outboxd.wave").await;
    let counts = site.counts().await;
    assert_eq!((counts.of("accepted"), counts.of("queued")), (15, 45), "{counts:?}");
    site.sim.control("POST", "credits", Some(&json!({"balance": null}))).await;
    site.run("SELECT sms.resume('main')").await;
    site.until_counts("the rest is sent", |counts| counts.only(&["accepted"])).await;
    site.assert_nothing_twice().await;
}

#[tokio::test]
async fn a_wrong_address_stops_the_gateway_before_it_burns_the_queue() {
    let site = Site::new("wrong_path").await;
    let gateway = site.sim.address("gateway");
    let main = format!(
        "dialect = \"interactsms-v2\"\napi_url = \"{gateway}/nowhere\"\ntoken_url = \"{gateway}/token\"\n\
         username = \"demo\"\npassword = \"demo-password\"\n{QUICK}"
    );
    let _daemon = Daemon::start(&site.config_with(&main, Lines::default())).await;
    site.queue(100).await;
    let reason = site.until_gateway("stopped").await.unwrap();
    assert!(reason.contains("url"), "{reason}");
    site.until_true("nothing is under way", "SELECT count(*) = 0 FROM outboxd.wave").await;
    let counts = site.counts().await;
    assert!(counts.only(&["queued"]), "{counts:?}");
}

#[tokio::test]
async fn a_log_in_that_fails_for_now_makes_rows_wait_and_nothing_unknown() {
    let site = Site::new("login_down").await;
    site.sim.script(&json!({"do": {"page": {"status": 502}}, "on": "token", "times": 0})).await;
    let _daemon = site.daemon(Lines { gateway: QUICK, ..Lines::default() }).await;
    site.queue(30).await;
    site.until_gateway("waiting").await;
    assert!(site.counts().await.only(&["queued"]));
    site.clear_script().await;
    site.until_counts("all are sent", |counts| counts.only(&["accepted"])).await;
    site.assert_nothing_twice().await;
}
