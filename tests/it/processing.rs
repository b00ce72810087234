//! What InteractSMS v2 tells after it has answered: a message is queued, was refused, or the account is empty.

use serde_json::json;

use crate::inbox::{LISTENING, post};
use crate::support::eventually;
use crate::support::site::{LIMIT, Site};

/// A site whose simulator posts receipts and processing results.
pub(crate) async fn site(hint: &str) -> Site {
    let site = Site::with_receipts(hint).await;
    site.sim.settings(&json!({"callbacks": {"results_to": site.callback_url()}})).await;
    site
}

pub(crate) async fn lose_receipts(site: &Site, share: f64) {
    site.sim.settings(&json!({"callbacks": {"receipts": {"lost": share}}})).await;
}

fn result(status: &str, message: &str, reference: Option<&str>) -> String {
    let mut body =
        json!({"Status": status, "FinishedAt": "2026-11-22T10:00:00.1234567Z", "Message": message});
    if let Some(reference) = reference {
        body["NotifyId"] = json!(reference);
    }
    body.to_string()
}

pub(crate) async fn until_alarms(site: &Site, wanted: &[(&str, &str)]) {
    eventually(LIMIT, &format!("the alarms are {wanted:?}"), async || {
        let alarms = site.alarms().await;
        let same =
            alarms.iter().map(|(code, subject)| (code.as_str(), subject.as_str())).eq(wanted.iter().copied());
        if same { Ok(()) } else { Err(alarms) }
    })
    .await;
}

const INTERNAL: &str = "Error trying to add a new message to SMSBroadcastMessage";
const CREDITS: &str = "Error trying to add a new message. No credits available";

#[tokio::test]
async fn a_message_that_the_gateway_has_queued_is_no_longer_unknown() {
    let site = site("queued_there").await;
    lose_receipts(&site, 1.0).await;
    let _daemon = site.daemon(LISTENING).await;
    site.sim.script(&json!({"do": {"drop": {"accept": true}}})).await;
    let (id, _) = site.queue(1).await;
    let row = site.until(id, "accepted").await;
    assert_eq!((row.attempts, row.error_code, row.finished), (1, None, false));
    site.assert_nothing_twice().await;
    // Once more, and for nobody.
    let reference = row.gateway_ref.clone().unwrap();
    for reference in [Some(reference.as_str()), Some("order-1"), Some(""), None] {
        assert_eq!(
            post(&site, &result("MESSAGE_SUCCESS", "Your message has been queued.", reference)).await,
            200
        );
    }
    assert_eq!(site.row(id).await.status, "accepted");
}

#[tokio::test]
async fn a_message_that_was_given_up_is_not_sent_again_when_it_turns_out_to_be_queued_there() {
    let site = site("given_up_there").await;
    site.sim.settings(&json!({"callbacks": {"results_to": null, "receipts": {"lost": 1.0}}})).await;
    let _daemon = site.daemon(LISTENING).await;
    site.sim.script(&json!({"do": {"drop": {"accept": true}}})).await;
    let (id, _) = site.queue(1).await;
    let reference = site.until(id, "unknown").await.gateway_ref.unwrap();
    site.run("SELECT sms.hold()").await;
    site.run(&format!("SELECT sms.retry({id}, force => true)")).await;
    let queued = result("MESSAGE_SUCCESS", "Your message has been queued.", Some(&reference));
    assert_eq!(post(&site, &queued).await, 200);
    assert_eq!(site.row(id).await.status, "accepted");
    site.run("SELECT sms.resume()").await;
    let (other, _) = site.queue(1).await;
    site.until(other, "accepted").await;
    assert_eq!(site.row(id).await.attempts, 1);
    // But one that failed and was queued anew is another matter.
    assert_eq!(post(&site, &result("MESSAGE_ERROR", INTERNAL, Some(&reference))).await, 200);
    assert_eq!(site.row(id).await.code(), "gateway_refused");
    site.run("SELECT sms.hold()").await;
    site.run(&format!("SELECT sms.retry({id})")).await;
    assert_eq!(post(&site, &queued).await, 200);
    assert_eq!(site.row(id).await.status, "queued");
}

#[tokio::test]
async fn a_refusal_that_comes_later_fails_the_message_with_its_reason() {
    let site = site("refused_later").await;
    lose_receipts(&site, 1.0).await;
    let _daemon = site.daemon(LISTENING).await;
    let (first, last) = site.queue(3).await;
    let mut references = Vec::new();
    for id in first..=last {
        references.push(site.until(id, "accepted").await.gateway_ref.unwrap());
    }
    let refused = result("MESSAGE_ERROR", INTERNAL, Some(&references[0]));
    assert_eq!(post(&site, &refused).await, 200);
    let row = site.row(first).await;
    assert_eq!((row.status.as_str(), row.code(), row.reason()), ("failed", "gateway_refused", INTERNAL));
    assert_eq!(post(&site, &refused).await, 200);
    assert_eq!(site.row(first).await, row);
    // Where a request carries the reference although it need not, the result is about that message.
    let sender = result("CAMPAIGN_ERROR", "Sender is not valid", Some(&references[1]));
    assert_eq!(post(&site, &sender).await, 200);
    assert_eq!(site.row(first + 1).await.code(), "sender_not_valid");
    // Another attempt's refusal says nothing.
    let foreign = references[2].replace("-1", "-2");
    assert_eq!(post(&site, &result("MESSAGE_ERROR", INTERNAL, Some(&foreign))).await, 200);
    assert_eq!(site.row(last).await.status, "accepted");
    assert_eq!(site.alarms().await, []);
}

#[tokio::test]
async fn what_was_delivered_stays_so_and_a_receipt_corrects_a_refusal() {
    let site = site("never_back").await;
    let _daemon = site.daemon(LISTENING).await;
    let (id, _) = site.queue(1).await;
    let row = site.until_delivered(id).await;
    let reference = row.gateway_ref.clone().unwrap();
    for message in [INTERNAL, CREDITS] {
        assert_eq!(post(&site, &result("MESSAGE_ERROR", message, Some(&reference))).await, 200);
    }
    assert_eq!(site.row(id).await, row);
    assert_eq!(site.until_gateway("open").await, None);
    lose_receipts(&site, 1.0).await;
    let (id, _) = site.queue(1).await;
    let reference = site.until(id, "accepted").await.gateway_ref.unwrap();
    assert_eq!(post(&site, &result("MESSAGE_ERROR", INTERNAL, Some(&reference))).await, 200);
    assert_eq!(site.row(id).await.status, "failed");
    let receipt =
        json!({"notify_id": reference, "number": "353870000001", "sender": "Demo", "delivered": true});
    site.sim.control("POST", "receipt", Some(&receipt)).await;
    assert_eq!(site.until(id, "delivered").await.error, None);
}

#[tokio::test]
async fn an_empty_account_stops_the_gateway_and_its_messages_wait() {
    let site = site("no_credits").await;
    let _daemon = site.daemon(LISTENING).await;
    site.sim.control("POST", "credits", Some(&json!({"balance": 5}))).await;
    let (first, last) = site.queue(40).await;
    let reason = site.until_gateway("stopped").await.unwrap();
    assert!(reason.contains("No credits available"), "{reason}");
    until_alarms(&site, &[("gateway_stopped", "main")]).await;
    site.until_counts("five were paid, the others wait", |counts| {
        counts.of("delivered") == 5 && counts.of("queued") == last - first - 4
    })
    .await;
    site.sim.control("POST", "credits", Some(&json!({"balance": null}))).await;
    // Nothing goes out by itself.
    site.sim_reaches("idle=1").await;
    assert_eq!(site.sim_count("accepted").await, 5);
    site.run("SELECT sms.resume('main')").await;
    site.until_counts("all are delivered", |counts| counts.of("delivered") == last - first + 1).await;
    site.assert_nothing_twice().await;
    until_alarms(&site, &[]).await;
}

#[tokio::test]
async fn a_result_may_be_faster_than_the_answer() {
    let site = site("fast_result").await;
    site.sim.settings(&json!({"callbacks": {"results_to": null, "receipts": {"lost": 1.0}}})).await;
    let daemon = site.daemon(LISTENING).await;
    for (message, status, code) in
        [(INTERNAL, "failed", "gateway_refused"), (CREDITS, "queued", "gateway_no_credit")]
    {
        site.sim.script(&json!({"do": {"late": {"ms": 1500}}})).await;
        let before = site.sim_count("accepted").await;
        let (id, _) = site.queue(1).await;
        site.sim_reaches(&format!("accepted={}", before + 1)).await;
        let messages = site.ledger().await;
        let reference = messages.last().unwrap()["notify_id"].as_str().unwrap().to_owned();
        assert_eq!(post(&site, &result("MESSAGE_ERROR", message, Some(&reference))).await, 200);
        let row = site.row(id).await;
        assert_eq!((row.status.as_str(), row.code(), row.attempts), (status, code, 1));
        // The answer, "accepted", does not undo what came after it.
        daemon.wait_log(LIMIT, &format!("accepted message_id={id} ")).await;
        site.until_true("the wave is settled", "SELECT NOT EXISTS (SELECT FROM outboxd.wave)").await;
        let row = site.row(id).await;
        assert_eq!((row.status.as_str(), row.code(), row.attempts), (status, code, 1));
    }
    site.until_gateway("stopped").await;
    site.run("SELECT sms.resume('main')").await;
    site.until_counts("it is sent when there are credits", |counts| counts.of("accepted") == 1).await;
}

#[tokio::test]
async fn that_a_message_is_queued_there_may_be_known_before_its_answer_comes() {
    let site = site("early_success").await;
    lose_receipts(&site, 1.0).await;
    let _daemon = site.daemon(LISTENING).await;
    for act in [json!({"late": {"ms": 1500}}), json!({"answer": {"status": 502, "accept": true}})] {
        site.sim.script(&json!({"do": act, "times": 1})).await;
        site.sim.settings(&json!({"callbacks": {"results_to": null}})).await;
        site.freeze().await;
        let (id, _) = site.queue(1).await;
        site.sim_reaches("frozen=1").await;
        let sql = "SELECT nonce FROM outboxd.wave WHERE $1 = ANY (ids)";
        let nonce: String = site.sql.query_one(sql, &[&id]).await.unwrap().get(0);
        let reference = format!("{id}-{nonce}-1");
        let queued = result("MESSAGE_SUCCESS", "Your message has been queued.", Some(&reference));
        assert_eq!(post(&site, &queued).await, 200);
        let row = site.row(id).await;
        assert_eq!((row.status.as_str(), row.sent, row.attempts), ("accepted", false, 1));
        site.thaw().await;
        site.until_true(
            "the answer fills in the rest",
            &format!("SELECT sent_at IS NOT NULL FROM sms.outbox WHERE id = {id}"),
        )
        .await;
        let row = site.row(id).await;
        assert_eq!(
            (row.status.as_str(), row.sent_via.as_deref(), row.segments),
            ("accepted", Some("main"), Some(1))
        );
        assert_eq!(row.gateway_ref, Some(reference));
    }
    site.assert_nothing_twice().await;
}

#[tokio::test]
async fn a_message_of_which_some_parts_arrived_says_so_and_one_that_waits_for_parts_is_no_failure() {
    let site = site("parts").await;
    lose_receipts(&site, 1.0).await;
    let _daemon = site.daemon(LISTENING).await;
    let (id, _) = site.queue(1).await;
    let reference = site.until(id, "accepted").await.gateway_ref.unwrap();
    let receipt = |sent: u32, failed: u32| {
        use md5::{Digest, Md5};
        let hash = Md5::digest(format!("{reference}falsedemo-secret").as_bytes());
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        format!(
            "SMS-Type=Notification&SMS-NotifyId={reference}&SMS-Success=False&SMS-Verify={hex}&SMS-TotalToSend=3\
             &SMS-TotalSent={sent}&SMS-TotalFailed={failed}"
        )
    };
    assert_eq!(post(&site, &receipt(1, 0)).await, 200);
    assert_eq!(site.row(id).await.status, "accepted");
    assert_eq!(post(&site, &receipt(2, 1)).await, 200);
    let row = site.row(id).await;
    assert_eq!((row.status.as_str(), row.code()), ("undelivered", "undelivered"));
    assert_eq!(row.reason(), "only 2 of its 3 SMS reached the handset");
}
