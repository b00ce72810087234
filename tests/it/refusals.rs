//! Requests that InteractSMS v2 refuses after it has accepted them, without saying which: attributed when it can only be
//! these messages, and shown when it cannot be told.

use serde_json::json;

use crate::inbox::{LISTENING, post};
use crate::processing::{lose_receipts, site, until_alarms};
use crate::support::cli::Cli;
use crate::support::site::{LIMIT, Site};

const SHOWN: [(&str, &str); 1] = [("request_refused", "sender_not_valid")];
const CANNOT_TELL: &str = "cannot tell which messages the gateway refused";

/// Posts the refusal of a request, of this time by the gateway's clock.
async fn refuse(site: &Site, time: &str) {
    let body = json!({"Status": "CAMPAIGN_ERROR", "FinishedAt": time, "Message": "Sender is not valid"});
    assert_eq!(post(site, &body.to_string()).await, 200);
}

/// Posts that a message is queued there.
async fn accept(site: &Site, reference: &str) {
    let body = json!({"Status": "MESSAGE_SUCCESS", "FinishedAt": "2026-11-22T10:00:00Z", "Message": "queued",
        "NotifyId": reference});
    assert_eq!(post(site, &body.to_string()).await, 200);
}

/// The test posts results itself.
async fn no_results(site: &Site) {
    site.sim.settings(&json!({"callbacks": {"results_to": null, "receipts": {"lost": 1.0}}})).await;
}

async fn accepted(site: &Site) -> (i64, String) {
    let (id, _) = site.queue(1).await;
    (id, site.until(id, "accepted").await.gateway_ref.unwrap())
}

#[tokio::test]
async fn refused_requests_are_attributed_when_all_other_messages_had_results_of_their_own() {
    let site = site("attributed").await;
    lose_receipts(&site, 1.0).await;
    let _daemon = site.daemon(LISTENING).await;
    let (first, last) = site.queue(5).await;
    site.until_counts("five are accepted", |counts| counts.of("accepted") == 5).await;
    site.sim.script(&json!({"do": {"refuse": {"reason": "sender"}}, "times": 2})).await;
    let (refused, _) = site.queue(2).await;
    until_alarms(&site, &SHOWN).await;
    for id in [refused, refused + 1] {
        let row = site.until(id, "failed").await;
        assert_eq!((row.code(), row.reason(), row.attempts), ("sender_not_valid", "Sender is not valid", 1));
    }
    for id in first..=last {
        assert_eq!(site.row(id).await.status, "accepted");
    }
    // Nothing is left for a person to find out.
    until_alarms(&site, &[]).await;
}

#[tokio::test]
async fn the_one_message_that_was_accepted_lately_is_the_one_that_was_refused() {
    let site = site("the_one").await;
    no_results(&site).await;
    let _daemon = site.daemon(LISTENING).await;
    let (id, _) = accepted(&site).await;
    refuse(&site, "2026-11-22T10:00:00.1234567Z").await;
    assert_eq!(site.until(id, "failed").await.code(), "sender_not_valid");
    until_alarms(&site, &[]).await;
    // The gateway repeats itself: that is not about the next one.
    let (next, _) = accepted(&site).await;
    refuse(&site, "2026-11-22T10:00:00.1234567Z").await;
    until_alarms(&site, &[]).await;
    // And it corrects itself: the truth wins.
    let reference = site.row(id).await.gateway_ref;
    let receipt =
        json!({"notify_id": reference, "number": "353870000001", "sender": "Demo", "delivered": true});
    site.sim.control("POST", "receipt", Some(&receipt)).await;
    site.until(id, "delivered").await;
    assert_eq!(site.row(next).await.status, "accepted");
}

#[tokio::test]
async fn an_empty_account_that_is_told_without_a_reference_queues_the_message_again_and_stops_the_gateway() {
    let site = site("nameless_credits").await;
    no_results(&site).await;
    let _daemon = site.daemon(LISTENING).await;
    let (id, _) = accepted(&site).await;
    let body = json!({"Status": "CAMPAIGN_ERROR", "FinishedAt": "2026-11-22T10:00:00Z",
        "Message": "No credits available"});
    assert_eq!(post(&site, &body.to_string()).await, 200);
    assert_eq!(site.until(id, "queued").await.code(), "gateway_no_credit");
    site.until_gateway("stopped").await;
}

#[tokio::test]
async fn what_could_have_been_another_message_is_shown_and_changes_none() {
    let site = site("nameless").await;
    no_results(&site).await;
    let daemon = site.daemon(LISTENING).await;
    let (first, reference) = accepted(&site).await;
    let (second, _) = accepted(&site).await;
    refuse(&site, "2026-11-22T10:00:00Z").await;
    until_alarms(&site, &SHOWN).await;
    daemon.wait_log(LIMIT, CANNOT_TELL).await;
    for id in [first, second] {
        assert_eq!(site.row(id).await.error, None);
    }
    // One of them is queued there, so the next refusal can be the other's only. The first one stays with the person.
    accept(&site, &reference).await;
    refuse(&site, "2026-11-22T10:00:01Z").await;
    site.until(second, "failed").await;
    assert_eq!(site.row(first).await.status, "accepted");
    until_alarms(&site, &SHOWN).await;
    let cli = Cli::new(&site.config(LISTENING));
    let ended = cli.run(&["resume"]).await.expect(0);
    assert!(ended.stdout.contains("request_refused"), "{ended:?}");
    until_alarms(&site, &[]).await;
}

#[tokio::test]
async fn what_another_daemon_may_know_of_is_shown_and_changes_no_message() {
    let site = site("nameless_pair").await;
    no_results(&site).await;
    let id = {
        let daemon = site.daemon(LISTENING).await;
        let (id, _) = accepted(&site).await;
        site.run(
            "INSERT INTO outboxd.daemon (instance, host, pid, version, role, started_at)
             VALUES ('other', 'other', 1, '0', 'standby', now())",
        )
        .await;
        refuse(&site, "2026-11-22T10:00:00Z").await;
        daemon.wait_log(LIMIT, CANNOT_TELL).await;
        id
    };
    // The same for what was accepted before this daemon listened.
    site.run("DELETE FROM outboxd.daemon").await;
    let daemon = site.daemon(LISTENING).await;
    refuse(&site, "2026-11-22T10:00:01Z").await;
    daemon.wait_log(LIMIT, CANNOT_TELL).await;
    assert_eq!(site.row(id).await.status, "accepted");
    until_alarms(&site, &SHOWN).await;
}

#[tokio::test]
async fn a_refusal_is_not_shown_for_ever() {
    let site = site("nameless_old").await;
    site.run(
        "INSERT INTO outboxd.alarm (code, subject, text, opened_at, seen_at) VALUES
            ('request_refused', 'sender_not_valid', 'x', now() - interval '9 days', now() - interval '73 hours'),
            ('request_refused', 'gateway_refused', 'x', now() - interval '9 days', now() - interval '71 hours')",
    )
    .await;
    let _daemon = site.daemon(LISTENING).await;
    until_alarms(&site, &[("request_refused", "gateway_refused")]).await;
    site.run("SELECT sms.acknowledge()").await;
    until_alarms(&site, &[]).await;
}
