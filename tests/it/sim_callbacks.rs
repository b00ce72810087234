//! Receipts, processing results and inbound messages, as a receiver gets them.

use md5::{Digest, Md5};
use outboxd::sim::callbacks::Report;
use outboxd::sim::counters::Want;
use outboxd::sim::handset::{Handset, Power};
use outboxd::sim::script::{Act, On, Refusal, Rule};
use outboxd::sim::settings::{HashedBoolean, SignedWith};
use serde_json::json;

use crate::sim_receiver::{Receiver, campaign, client, log_in, reach, send_well, start_with, to_one};

const NUMBER: &str = "353871234567";

fn md5(text: &str) -> String {
    Md5::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_documented_sample_hash_is_lower_case_true_and_the_password() {
    assert_eq!(md5("321354truePassword1"), "9db038748b3088971d913616c13e769b");
}

#[tokio::test]
async fn a_receipt_is_posted_as_documented_and_signed() {
    let receiver = Receiver::start(200).await;
    let sim = start_with(|settings| {
        settings.callbacks.receipts.to = Some(format!("{}/cb/secret?x=1", receiver.url));
        settings.account.client_secret = "s3cret".into();
    })
    .await;
    send_well(&sim, NUMBER, "2A-00000000-1").await;
    reach(&sim, Want { receipts_ok: Some(1), ..Want::default() }).await;
    let posted = &receiver.got()[0];
    assert_eq!(posted.path, "/cb/secret?x=1");
    assert_eq!(posted.content_type, "application/x-www-form-urlencoded");
    let form = posted.form();
    assert_eq!(form["SMS-Type"], "Notification");
    assert_eq!(form["SMS-NotifyId"], "2A-00000000-1");
    assert_eq!(form["SMS-Success"], "True");
    assert_eq!(form["SMS-To"], NUMBER);
    assert_eq!(form["SMS-From"], "Demo");
    assert_eq!(form["SMS-Verify"], md5("2A-00000000-1trues3cret"));
    assert_eq!(
        (&*form["SMS-TotalToSend"], &*form["SMS-TotalSent"], &*form["SMS-TotalFailed"]),
        ("1", "1", "0")
    );
    assert_eq!(form["SMS-TimeStamp"].len(), "2026-04-08 09:15:02".len());
}

#[tokio::test]
async fn every_variant_of_the_signature_can_be_chosen() {
    let receiver = Receiver::start(200).await;
    let sim = start_with(|settings| {
        settings.callbacks.receipts.to = Some(receiver.url.clone());
        settings.callbacks.receipts.id_field = "SMS-NotifyID".into();
    })
    .await;
    let mut sent = 0;
    for (secret, secret_text) in
        [(SignedWith::ClientSecret, "demo-secret"), (SignedWith::Password, "demo-password")]
    {
        for (boolean, boolean_text) in [(HashedBoolean::Lower, "true"), (HashedBoolean::AsPosted, "True")] {
            for forged in [false, true] {
                sim.change(|settings| {
                    let signature = &mut settings.callbacks.receipts.signature;
                    (signature.secret, signature.boolean, signature.forged) = (secret, boolean, forged);
                });
                send_well(&sim, NUMBER, "r").await;
                sent += 1;
                reach(&sim, Want { receipts_ok: Some(sent), ..Want::default() }).await;
                let form = receiver.got().pop().unwrap().form();
                assert_eq!(form["SMS-NotifyID"], "r");
                let right = md5(&format!("r{boolean_text}{secret_text}"));
                assert_eq!(form["SMS-Verify"] == right, !forged);
            }
        }
    }
}

#[tokio::test]
async fn a_handset_that_is_off_is_given_up_after_the_validity() {
    let receiver = Receiver::start(200).await;
    let sim = start_with(|settings| {
        settings.callbacks.receipts.to = Some(receiver.url.clone());
        settings.network.validity_ms = 50;
        settings.network.retry_ms = 10;
        let off = Handset { state: Power::Off, reply: None };
        settings.handsets.insert(NUMBER.into(), off);
    })
    .await;
    assert!(sim.switch("353871234568", Power::Unreachable));
    send_well(&sim, NUMBER, "off").await;
    send_well(&sim, "353871234568", "unreachable").await;
    let want = Want { undelivered: Some(2), receipts_ok: Some(2), idle: true, ..Want::default() };
    let state = reach(&sim, want).await;
    assert_eq!((state.arrived, state.pending), (0, 0));
    for posted in receiver.got() {
        let form = posted.form();
        assert_eq!((&*form["SMS-Success"], &*form["SMS-TotalFailed"]), ("False", "1"));
        assert_eq!(form["SMS-Verify"], md5(&format!("{}falsedemo-secret", form["SMS-NotifyId"])));
    }
}

#[tokio::test]
async fn a_handset_that_is_switched_on_gets_what_waited() {
    let sim = start_with(|settings| settings.network.retry_ms = 5).await;
    sim.switch(NUMBER, Power::Off);
    sim.switch("353871234568", Power::Unreachable);
    for id in ["a", "b", "c"] {
        send_well(&sim, NUMBER, id).await;
        send_well(&sim, "353871234568", id).await;
    }
    assert_eq!(sim.state().arrived, 0);
    // Something unrelated changes: the handsets must stay as they are.
    sim.change(|settings| settings.answers.latency_ms = 1);
    assert_eq!(sim.state().pending, 6);
    sim.switch(NUMBER, Power::On);
    reach(&sim, Want { arrived: Some(3), ..Want::default() }).await;
    sim.switch("353871234568", Power::On);
    reach(&sim, Want { arrived: Some(6), ..Want::default() }).await;
    assert_eq!(sim.state().undelivered, 0);
}

#[tokio::test]
async fn a_carrier_that_is_down_delivers_later() {
    let sim = start_with(|settings| {
        settings.network.retry_ms = 5;
        let mut down = settings.network.carriers[0].clone();
        (down.prefix, down.down) = ("44".into(), true);
        settings.network.carriers.push(down);
    })
    .await;
    send_well(&sim, "447911123456", "uk").await;
    send_well(&sim, NUMBER, "ie").await;
    let state = reach(&sim, Want { arrived: Some(1), ..Want::default() }).await;
    assert_eq!(state.pending, 1);
    sim.change(|settings| settings.network.carriers[1].down = false);
    reach(&sim, Want { arrived: Some(2), ..Want::default() }).await;
}

#[tokio::test]
async fn stop_is_relayed_to_the_opt_out_number_and_signed() {
    let receiver = Receiver::start(200).await;
    let sim = start_with(|settings| settings.callbacks.inbound_to = Some(receiver.url.clone())).await;
    sim.set_handset(NUMBER, Handset { state: Power::On, reply: Some("Stop".into()) });
    send_well(&sim, NUMBER, "id-1").await;
    reach(&sim, Want { inbound_ok: Some(1), ..Want::default() }).await;
    let form = receiver.got()[0].form();
    assert_eq!((&*form["SMS-To"], &*form["SMS-From"], &*form["SMS-Content"]), ("50123", NUMBER, "Stop"));
    assert_eq!((&*form["SMS-NotifyId"], &*form["SMS-Keyphrase"]), ("id-1", "Stop"));
    assert_eq!(form["SMS-Verify"], md5("353871234567Stopdemo-secret"));
    assert!(sim.text_from("447911123456", "yes please", None));
    reach(&sim, Want { inbound_ok: Some(2), ..Want::default() }).await;
    let form = receiver.got()[1].form();
    assert_eq!((&*form["SMS-NotifyId"], &*form["SMS-Keyphrase"], &*form["SMS-Type"]), ("", "*", "AuthCode"));
    assert_ne!(form["SMS-To"], "50123");
}

#[tokio::test]
async fn processing_results_follow_a_campaign() {
    let receiver = Receiver::start(200).await;
    let sim = start_with(|settings| {
        settings.callbacks.results_to = Some(receiver.url.clone());
        settings.callbacks.connections = 1;
    })
    .await;
    let token = log_in(&sim).await;
    let last = || receiver.got().pop().unwrap().json();
    assert_eq!(campaign(&sim, &token, &to_one(NUMBER, "a")).await.0, 200);
    reach(&sim, Want { results_ok: Some(1), ..Want::default() }).await;
    assert_eq!(last()["Status"], "MESSAGE_SUCCESS");
    assert_eq!(
        (&last()["NotifyId"], &last()["Message"]),
        (&json!("a"), &json!("Your message has been queued."))
    );
    assert!(last()["FinishedAt"].as_str().unwrap().ends_with('Z'));

    sim.script(Rule::new(Act::Refuse { reason: Refusal::Sender }).on(On::V2));
    let (status, body) = campaign(&sim, &token, &to_one(NUMBER, "b")).await;
    assert_eq!((status, &body["success"]), (200, &json!(true)), "told only by the result");
    reach(&sim, Want { results_ok: Some(2), ..Want::default() }).await;
    assert_eq!((&last()["Status"], &last()["NotifyId"]), (&json!("CAMPAIGN_ERROR"), &json!(null)));

    sim.set_credits(Some(0));
    assert_eq!(campaign(&sim, &token, &to_one(NUMBER, "c")).await.0, 200);
    reach(&sim, Want { results_ok: Some(3), ..Want::default() }).await;
    assert_eq!((&last()["Status"], &last()["NotifyId"]), (&json!("MESSAGE_ERROR"), &json!("c")));
    assert!(last()["Message"].as_str().unwrap().ends_with("No credits available"));

    assert_eq!(campaign(&sim, &token, &to_one("", "d")).await.0, 200);
    reach(&sim, Want { results_ok: Some(4), ..Want::default() }).await;
    assert_eq!(last()["Message"], "null/empty MSISDN");
    assert_eq!(sim.state().accepted, 1);
}

#[tokio::test]
async fn receipts_can_be_repeated_lost_and_turned_round() {
    let receiver = Receiver::start(200).await;
    let sim = start_with(|settings| {
        settings.callbacks.receipts.to = Some(receiver.url.clone());
        settings.callbacks.connections = 1;
        settings.callbacks.receipts.copies = 2;
    })
    .await;
    send_well(&sim, NUMBER, "thrice").await;
    reach(&sim, Want { receipts_ok: Some(3), ..Want::default() }).await;
    sim.change(|settings| {
        settings.callbacks.receipts.copies = 0;
        settings.callbacks.receipts.lost = 1.0;
    });
    send_well(&sim, NUMBER, "lost").await;
    reach(&sim, Want { receipts_lost: Some(1), ..Want::default() }).await;
    sim.change(|settings| {
        settings.callbacks.receipts.lost = 0.0;
        settings.callbacks.receipts.reverse = 2;
    });
    for (id, arrived) in [("first", 3), ("second", 4), ("third", 5)] {
        send_well(&sim, NUMBER, id).await;
        reach(&sim, Want { arrived: Some(arrived), ..Want::default() }).await;
    }
    reach(&sim, Want { receipts_ok: Some(5), ..Want::default() }).await;
    sim.change(|settings| settings.callbacks.receipts.reverse = 0);
    reach(&sim, Want { receipts_ok: Some(6), idle: true, ..Want::default() }).await;
    let ids: Vec<String> =
        receiver.got().iter().map(|posted| posted.form()["SMS-NotifyId"].clone()).collect();
    assert_eq!(ids, ["thrice", "thrice", "thrice", "second", "first", "third"]);
}

#[tokio::test]
async fn a_receiver_that_fails_is_tried_as_often_as_the_settings_say() {
    let receiver = Receiver::start(503).await;
    let sim = start_with(|settings| {
        settings.callbacks.receipts.to = Some(receiver.url.clone());
        settings.callbacks.retries = 2;
        settings.callbacks.retry_ms = 1;
    })
    .await;
    send_well(&sim, NUMBER, "x").await;
    let state = reach(&sim, Want { receipts_failed: Some(3), idle: true, ..Want::default() }).await;
    assert_eq!((state.receipts, state.receipts_ok, receiver.got().len()), (3, 0, 3));
    assert!(sim.last_callback_error().unwrap().contains("503"));
}

#[tokio::test]
async fn a_blank_reference_gets_a_receipt_in_v2_and_none_in_v1() {
    let receiver = Receiver::start(200).await;
    let sim = start_with(|settings| settings.callbacks.receipts.to = Some(receiver.url.clone())).await;
    send_well(&sim, NUMBER, "").await;
    let token = log_in(&sim).await;
    let body = json!({"text": "x", "from": "Demo", "recipientInfo": [{"msisdn": NUMBER}]});
    assert_eq!(campaign(&sim, &token, &body).await.0, 200);
    reach(&sim, Want { arrived: Some(2), idle: true, ..Want::default() }).await;
    assert_eq!(receiver.got().len(), 1);
    assert_eq!(receiver.got()[0].form()["SMS-NotifyId"], "");
}

#[tokio::test]
async fn a_receipt_can_be_made_up() {
    let receiver = Receiver::start(200).await;
    let sim = start_with(|settings| settings.callbacks.receipts.to = Some(receiver.url.clone())).await;
    let report = Report {
        notify_id: "never-sent".into(),
        number: NUMBER.into(),
        sender: "Demo".into(),
        delivered: true,
        at_us: 0,
        forged: true,
    };
    sim.report(report);
    reach(&sim, Want { receipts_ok: Some(1), ..Want::default() }).await;
    let form = receiver.got()[0].form();
    assert_eq!(form["SMS-NotifyId"], "never-sent");
    assert_ne!(form["SMS-Verify"], md5("never-senttruedemo-secret"));
}

#[tokio::test]
async fn a_kannel_receipt_calls_the_url_of_its_message() {
    let receiver = Receiver::start(200).await;
    let sim = start_with(|_| {}).await;
    let dlr = format!("{}/dlr?ref=row-1&type=%d&to=%p&x=a%20b", receiver.url);
    let dlr: String = form_urlencoded::byte_serialize(dlr.as_bytes()).collect();
    let query = format!("username=demo&password=demo-password&to={NUMBER}&text=x&dlr-mask=3&dlr-url={dlr}");
    let url = format!("{}/cgi-bin/sendsms?{query}", sim.url());
    assert_eq!(client().get(url).send().await.unwrap().status(), 202);
    reach(&sim, Want { receipts_ok: Some(1), ..Want::default() }).await;
    assert_eq!(receiver.got()[0].path, format!("/dlr?ref=row-1&type=1&to={NUMBER}&x=a%20b"));
    assert_eq!(sim.message("row-1").len(), 1);
}
