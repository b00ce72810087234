//! Messages from handsets: into the inbox once, with the message that they answer, for the application that sent it.

use std::collections::BTreeSet;

use md5::{Digest, Md5};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client, NoTls};

use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::postgres::{cluster, connect};
use crate::support::site::{LIMIT, Lines, Site, insert};

pub(crate) const LISTENING: Lines<'_> = Lines { queue: "", gateway: "", more: "", receipts: true };
const NUMBER: &str = "353871234567";

/// A site whose simulator posts receipts and what handsets write.
pub(crate) async fn site(hint: &str) -> Site {
    let site = Site::with_receipts(hint).await;
    site.sim.settings(&json!({"callbacks": {"inbound_to": site.callback_url()}})).await;
    site
}

fn md5(text: &str) -> String {
    Md5::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A form as the gateway posts it, signed with the client secret.
pub(crate) fn form(from: &str, to: &str, text: &str, time: &str) -> String {
    signed_form(from, to, text, time, &md5(&format!("{from}{text}demo-secret")))
}

fn signed_form(from: &str, to: &str, text: &str, time: &str, signature: &str) -> String {
    form_urlencoded::Serializer::new(String::new())
        .extend_pairs([
            ("SMS-Type", "AuthCode"),
            ("SMS-Content", text),
            ("SMS-Keyphrase", "*"),
            ("SMS-Network", "272/1"),
            ("SMS-From", from),
            ("SMS-To", to),
            ("SMS-NotifyId", ""),
            ("SMS-Verify", signature),
            ("SMS-TimeStamp", time),
        ])
        .finish()
}

/// Posts a callback of the test's own; returns the status of the answer.
pub(crate) async fn post(site: &Site, body: &str) -> u16 {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    http.post(site.callback_url()).body(body.to_owned()).send().await.unwrap().status().as_u16()
}

/// Something is written on a handset; returns once the daemon has taken it.
pub(crate) async fn write(site: &Site, number: &str, text: &str) {
    let done = site.sim_count("inbound_ok").await + 1;
    site.sim.control("POST", &format!("handset/{number}/send"), Some(&json!({"text": text}))).await;
    site.sim_reaches(&format!("inbound_ok={done}")).await;
}

/// What is notified on a channel from now on.
async fn notifications(site: &Site, channel: &str) -> mpsc::UnboundedReceiver<String> {
    let (client, mut connection) = cluster(site.db.name()).connect(NoTls).await.unwrap();
    let (tell, told) = mpsc::unbounded_channel();
    let listening = tokio::spawn(async move {
        while let Some(message) = std::future::poll_fn(|context| connection.poll_message(context)).await {
            if let Ok(AsyncMessage::Notification(note)) = message {
                let _ = tell.send(note.payload().to_owned());
            }
        }
    });
    client.batch_execute(&format!("LISTEN {channel}")).await.unwrap();
    // The connection lives as long as its client.
    tokio::spawn(async move {
        let _client = client;
        let _ = listening.await;
    });
    told
}

async fn count(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_reply_reaches_the_application_with_the_message_that_it_answers() {
    let site = site("reply").await;
    site.sim.handset(&json!({"number": NUMBER, "reply": "Yes, at ten — Seán"})).await;
    let daemon = site.daemon(LISTENING).await;
    let (shop, bank) = (site.db.app_client("shop").await, site.db.app_client("bank").await);
    let mut told = notifications(&site, "sms_inbox").await;
    let id = insert(&shop, "(recipient, body) VALUES ('0871234567', 'Can you come?')").await;
    let told = tokio::time::timeout(LIMIT, told.recv()).await.unwrap().unwrap();

    let row = shop
        .query_one(
            "SELECT id::text, sender, recipient, body, keyword, network, answers, gateway_ref, effect,
                gateway_time BETWEEN now() - interval '1 minute' AND now() + interval '1 minute', handled_at IS NULL, app
             FROM sms.inbox",
            &[],
        )
        .await
        .unwrap();
    let text = |at: usize| row.get::<_, Option<String>>(at);
    assert_eq!(row.get::<_, String>(0), told, "the payload is the id");
    assert_eq!(text(1).as_deref(), Some(NUMBER));
    assert_eq!(text(2).as_deref(), Some("353861000000"));
    assert_eq!(text(3).as_deref(), Some("Yes, at ten — Seán"));
    assert_eq!((text(4).as_deref(), text(5).as_deref(), text(8)), (Some("YES"), Some("272/1"), None));
    assert_eq!(row.get::<_, Option<i64>>(6), Some(id));
    assert_eq!(text(7), site.row(id).await.gateway_ref);
    assert!(row.get::<_, bool>(9) && row.get::<_, bool>(10));
    assert_eq!(text(11), Some(site.db.role("shop")));

    assert_eq!(count(&bank, "SELECT count(*) FROM sms.inbox").await, 0, "another application sees nothing");
    assert_eq!(bank.execute("UPDATE sms.inbox SET handled_at = now()", &[]).await.unwrap(), 0);
    assert_eq!(shop.execute("UPDATE sms.inbox SET handled_at = now()", &[]).await.unwrap(), 1);
    for secret in ["at ten", NUMBER, "Can you come"] {
        assert!(!daemon.log().contains(secret), "{secret} is in the log");
    }
}

#[tokio::test]
async fn what_the_gateway_repeats_is_there_once_and_a_second_message_twice() {
    let site = site("repeated_reply").await;
    let _daemon = site.daemon(LISTENING).await;
    let first = form(NUMBER, "51000", "Yes", "2026-11-22 10:00:00");
    let (a, b, c) = tokio::join!(post(&site, &first), post(&site, &first), post(&site, &first));
    assert_eq!((a, b, c), (200, 200, 200));
    assert_eq!(post(&site, &first).await, 200);
    assert_eq!(site.number("SELECT count(*) FROM sms.inbox").await, 1);
    assert_eq!(post(&site, &form(NUMBER, "51000", "Yes", "2026-11-22 10:00:01")).await, 200);
    assert_eq!(site.number("SELECT count(*) FROM sms.inbox").await, 2);
    // Without a time nothing tells a repetition from a second message: none is thrown away.
    for _ in 0..2 {
        assert_eq!(post(&site, &form(NUMBER, "51000", "Yes", "")).await, 200);
    }
    assert_eq!(site.number("SELECT count(*) FROM sms.inbox").await, 4);
}

#[tokio::test]
async fn a_forged_message_is_refused_and_leaves_nothing() {
    let site = site("forged_reply").await;
    let daemon = site.daemon(LISTENING).await;
    let time = "2026-11-22 10:00:00";
    for signature in [md5("353871234567STOPguess"), md5("353871234567STOP"), md5("demo-secret")] {
        assert_eq!(post(&site, &signed_form(NUMBER, "50123", "STOP", time, &signature)).await, 403);
    }
    // As the older page has it, which is not asked for here.
    assert_eq!(post(&site, &signed_form(NUMBER, "50123", "STOP", time, &md5("demo-password"))).await, 403);
    assert_eq!(post(&site, &form(NUMBER, "50123", "STOP", time).replace("From", "Form")).await, 400);
    assert_eq!(site.number("SELECT count(*) FROM sms.inbox").await, 0);
    assert_eq!(site.number("SELECT count(*) FROM sms.opt_out").await, 0);
    daemon.wait_log(LIMIT, "wrong signature").await;
    // Signed with the account's password instead of the client secret, as one page says.
    let signature = md5("353871234567STOPdemo-password");
    assert_eq!(post(&site, &signed_form(NUMBER, "50123", "STOP", time, &signature)).await, 200);
    assert_eq!(site.number("SELECT count(*) FROM sms.opt_out").await, 1);
}

#[tokio::test]
async fn a_message_that_answers_none_belongs_to_whom_the_configuration_says() {
    let site = site("nobodys_reply").await;
    {
        let _daemon = site.daemon(LISTENING).await;
        write(&site, NUMBER, "Hello?").await;
    }
    let shop = site.db.app_client("shop").await;
    assert_eq!(count(&shop, "SELECT count(*) FROM sms.inbox").await, 0);
    let role = site.db.role("operator");
    site.run(&format!("CREATE ROLE {role} LOGIN IN ROLE outboxd_operator")).await;
    let operator = connect(cluster(site.db.name()).user(&role)).await;
    let give = format!("UPDATE sms.inbox SET app = '{}' WHERE app IS NULL", site.db.role("shop"));
    assert_eq!(operator.execute(&give, &[]).await.unwrap(), 1);
    assert_eq!(count(&shop, "SELECT count(*) FROM sms.inbox WHERE answers IS NULL").await, 1);

    let bank = site.db.app_client("bank").await;
    let more = format!(
        "[inbox]\ndefault_app = \"{}\"\n[inbox.app_of_number]\n51000 = \"{}\"\n",
        site.db.role("shop"),
        site.db.role("bank")
    );
    let _daemon = site.daemon(Lines { more: &more, ..LISTENING }).await;
    write(&site, NUMBER, "Hello again?").await;
    assert_eq!(count(&shop, "SELECT count(*) FROM sms.inbox").await, 2);
    assert_eq!(post(&site, &form(NUMBER, "51000", "Yes", "2026-11-22 10:00:00")).await, 200);
    assert_eq!(count(&bank, "SELECT count(*) FROM sms.inbox").await, 1);
    assert_eq!(count(&shop, "SELECT count(*) FROM sms.inbox").await, 2);
}

#[tokio::test]
async fn a_reply_may_be_faster_than_the_answer_to_its_message() {
    let site = site("fast_reply").await;
    site.sim.handset(&json!({"number": NUMBER, "reply": "Quick"})).await;
    let _daemon = site.daemon(LISTENING).await;
    site.sim.script(&json!({"do": {"late": {"ms": 1500}}})).await;
    let id = site.insert("(recipient, body) VALUES ('0871234567', 'Answer me')").await;
    site.until_true("the reply is there", "SELECT count(*) = 1 FROM sms.inbox").await;
    assert!(!site.row(id).await.sent, "the answer is still to come");
    assert_eq!(site.number("SELECT answers FROM sms.inbox").await, id);
    site.until_delivered(id).await;
}

#[tokio::test]
async fn a_reply_to_an_attempt_that_was_given_up_finds_its_message_and_a_foreign_reference_none() {
    let site = site("late_reply").await;
    let _daemon = site.daemon(LISTENING).await;
    site.sim.settings(&json!({"callbacks": {"receipts": {"lost": 1.0}}})).await;
    site.sim.script(&json!({"do": {"drop": {"accept": true}}})).await;
    let id = site.insert("(recipient, body) VALUES ('0871234567', 'Answer me')").await;
    let first = site.until(id, "unknown").await.gateway_ref.unwrap();
    site.run(&format!("SELECT sms.retry({id}, force => true)")).await;
    let second = site.until(id, "accepted").await.gateway_ref.unwrap();
    let mut parts = second.split('-');
    let foreign = format!("{}-00000000-{}", parts.next().unwrap(), parts.nth(1).unwrap());
    for (text, reference) in
        [("one", &first), ("two", &second), ("three", &foreign), ("four", &"order-1".to_owned())]
    {
        let form = form(NUMBER, "51000", text, "2026-11-22 10:00:00");
        let form = form.replace("SMS-NotifyId=", &format!("SMS-NotifyId={reference}"));
        assert_eq!(post(&site, &form).await, 200);
    }
    let answers = "SELECT count(*) FROM sms.inbox WHERE (answers IS NOT NULL) = (body IN ('one', 'two'))";
    assert_eq!(site.number(answers).await, 4);
}

#[tokio::test]
async fn one_message_that_the_database_refuses_keeps_no_other_out() {
    let site = site("poison_reply").await;
    let daemon = site.daemon(LISTENING).await;
    site.run(
        "CREATE FUNCTION public.fault() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN RAISE EXCEPTION 'a fault of the test'; END $$;
         CREATE TRIGGER fault BEFORE INSERT ON sms.inbox FOR EACH ROW WHEN (NEW.body = 'text 7')
             EXECUTE FUNCTION public.fault()",
    )
    .await;
    // Holds the first batch up until the others are all in one.
    let mut other = site.db.client().await;
    let lock = other.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE sms.inbox IN SHARE MODE").await.unwrap();
    let posts: Vec<_> = (0..40)
        .map(|n| {
            let (url, body) =
                (site.callback_url(), form(NUMBER, "51000", &format!("text {n}"), "2026-11-22 10:00:00"));
            tokio::spawn(async move {
                let http = reqwest::Client::builder().no_proxy().build().unwrap();
                (n, http.post(url).body(body).send().await.unwrap().status().as_u16())
            })
        })
        .collect();
    site.until_true(
        "the daemon waits for the table",
        "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'sms.inbox'::regclass AND NOT granted)",
    )
    .await;
    lock.rollback().await.unwrap();
    let mut refused = BTreeSet::new();
    for post in posts {
        let (n, status) = post.await.unwrap();
        if status == 200 {
            continue;
        };
        assert_eq!(status, 503);
        refused.insert(n);
    }
    assert_eq!(refused, BTreeSet::from([7]), "{}", daemon.log());
    assert_eq!(site.number("SELECT count(*) FROM sms.inbox").await, 39);
}

#[tokio::test]
async fn every_reply_that_was_answered_200_is_there_although_the_database_cuts_connections() {
    let site = site("cut_reply").await;
    let leader = site.daemon(LISTENING).await;
    let poster = async {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut answered = 0_i64;
        for n in 0..300 {
            let body = form(NUMBER, "51000", &format!("text {n}"), "2026-11-22 10:00:00");
            // As a gateway that repeats what it got no 200 for.
            eventually(LIMIT, "the reply is taken", async || {
                let status = http.post(site.callback_url()).body(body.clone()).send().await.unwrap().status();
                if status.is_success() { Ok(()) } else { Err(status) }
            })
            .await;
            answered += 1;
        }
        answered
    };
    let cutter = async {
        for round in 1..=5 {
            site.until_true("some are there", &format!("SELECT count(*) >= {} FROM sms.inbox", round * 40))
                .await;
            site.run(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                 WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )
            .await;
        }
    };
    let (answered, ()) = tokio::join!(poster, cutter);
    assert_eq!(site.number("SELECT count(*) FROM sms.inbox").await, answered);
    assert_eq!(site.number("SELECT count(DISTINCT body) FROM sms.inbox").await, answered);
    drop(leader);
}

#[tokio::test]
async fn a_standby_takes_replies_too() {
    let site = site("standby_reply").await;
    let leader = site.daemon(Lines::default()).await;
    let standby = Daemon::start(&site.config(LISTENING)).await;
    standby.wait_log(LIMIT, "standby").await;
    write(&site, NUMBER, "Hello?").await;
    assert_eq!(site.number("SELECT count(*) FROM sms.inbox").await, 1);
    drop(leader);
}
