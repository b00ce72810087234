//! Messages that are answered by themselves: once each, from a template, and never so that two machines go on for ever.

use serde_json::json;

use crate::inbox::{LISTENING, form, post, site, write};
use crate::support::daemon::Daemon;
use crate::support::port::free_port;
use crate::support::site::{LIMIT, Lines, Site, insert};

const NUMBER: &str = "353871234567";
const REPLIES: &str = "[inbox.auto_reply]\nInfo = \"opening_hours\"\n";

async fn templates(site: &Site) {
    site.run(
        "INSERT INTO sms.template (name, language, body) VALUES
            ('opening_hours', '', 'You wrote {keyword} from {sender} to {recipient}: open from 9 to 17.'),
            ('opening_hours', 'pl', 'Otwarte od 9 do 17.')",
    )
    .await;
}

/// Rows that were queued as answers.
async fn answers(site: &Site) -> i64 {
    site.number("SELECT count(*) FROM sms.outbox WHERE client_ref LIKE 'auto-reply:%'").await
}

fn at(second: u32) -> String {
    format!("2026-11-22 10:00:{second:02}")
}

#[tokio::test]
async fn a_keyword_is_answered_once_however_often_the_gateway_repeats_the_message() {
    let site = site("answered").await;
    templates(&site).await;
    let shop = site.db.app_client("shop").await;
    let more = format!("[inbox]\ndefault_app = \"{}\"\n{REPLIES}", site.db.role("shop"));
    let daemon = site.daemon(Lines { more: &more, ..LISTENING }).await;
    let message = form(NUMBER, "51000", "info, please", &at(0));
    let (a, b, c) = tokio::join!(post(&site, &message), post(&site, &message), post(&site, &message));
    assert_eq!((a, b, c), (200, 200, 200));
    assert_eq!(post(&site, &message).await, 200);
    assert_eq!(answers(&site).await, 1);
    // The application that the message belongs to sees the answer as one of its own.
    let sql = "SELECT o.id FROM sms.outbox AS o JOIN sms.inbox AS i ON o.client_ref = 'auto-reply:' || i.id";
    let id: i64 = shop.query_one(sql, &[]).await.unwrap().get(0);
    let row = site.until_delivered(id).await;
    let sent = site.in_ledger(&row).await;
    assert_eq!(sent["text"], format!("You wrote INFO from {NUMBER} to 51000: open from 9 to 17."));
    assert_eq!(sent["number"], NUMBER);
    daemon.wait_log(LIMIT, "a reply is answered by itself").await;
    for secret in [NUMBER, "please"] {
        assert!(!daemon.log().contains(secret), "{secret} is in the log");
    }
}

#[tokio::test]
async fn the_answer_to_a_reply_has_the_language_and_the_application_of_the_message_before_it() {
    let site = site("answered_reply").await;
    templates(&site).await;
    site.run("INSERT INTO sms.template (name, language, body) VALUES ('ask', 'pl', 'Co?')").await;
    let shop = site.db.app_client("shop").await;
    let _daemon = site.daemon(Lines { more: REPLIES, ..LISTENING }).await;
    let id = insert(&shop, "(recipient, template, language) VALUES ('0871234567', 'ask', 'pl')").await;
    let reference = site.until_delivered(id).await.gateway_ref.unwrap();
    let message = form(NUMBER, "51000", "Info", &at(0));
    let message = message.replace("SMS-NotifyId=", &format!("SMS-NotifyId={reference}"));
    assert_eq!(post(&site, &message).await, 200);
    let sql = "SELECT id FROM sms.outbox WHERE client_ref LIKE 'auto-reply:%'";
    let answer: i64 = shop.query_one(sql, &[]).await.unwrap().get(0);
    let row = site.until_delivered(answer).await;
    assert_eq!(site.in_ledger(&row).await["text"], "Otwarte od 9 do 17.");
}

#[tokio::test]
async fn two_machines_that_answer_each_other_stop_after_one_answer() {
    let site = site("two_machines").await;
    templates(&site).await;
    // Whatever it gets, this handset answers with the keyword again.
    site.sim.handset(&json!({"number": NUMBER, "reply": "INFO you asked for"})).await;
    let _daemon = site.daemon(Lines { more: REPLIES, ..LISTENING }).await;
    write(&site, NUMBER, "Info").await;
    site.until_true("the answer was answered", "SELECT count(*) = 2 FROM sms.inbox WHERE keyword = 'INFO'")
        .await;
    assert_eq!(answers(&site).await, 1);
    // After the pause it may go round once more.
    site.run("UPDATE outboxd.auto_reply SET at = at - interval '61 minutes'").await;
    write(&site, NUMBER, "Info").await;
    site.until_true("once more", "SELECT count(*) = 4 FROM sms.inbox WHERE keyword = 'INFO'").await;
    assert_eq!(answers(&site).await, 2);
    // Somebody else has a pause of their own.
    write(&site, "353871234568", "Info").await;
    site.until_true("it has come", "SELECT count(*) = 5 FROM sms.inbox WHERE keyword = 'INFO'").await;
    assert_eq!(answers(&site).await, 3);
}

#[tokio::test]
async fn of_many_messages_at_once_one_is_answered_whichever_daemon_takes_them() {
    let site = site("answered_at_once").await;
    templates(&site).await;
    let lines = Lines { more: REPLIES, ..LISTENING };
    let _leader = site.daemon(lines).await;
    let config = site.config(lines);
    let url = site.callback_url();
    let port = url.split(':').nth(2).unwrap().split('/').next().unwrap();
    let (other_port, free) = (port.to_owned(), free_port().to_string());
    let _standby = Daemon::start(&config.replace(&other_port, &free)).await;
    let urls = [url.clone(), url.replace(&other_port, &free)];
    let posts = (0..60).map(|n: usize| {
        let (url, body) =
            (urls[n % 2].clone(), form(NUMBER, "51000", "Info", &at(u32::try_from(n).unwrap())));
        tokio::spawn(async move {
            let http = reqwest::Client::builder().no_proxy().build().unwrap();
            http.post(url).body(body).send().await.unwrap().status().as_u16()
        })
    });
    for post in posts.collect::<Vec<_>>() {
        assert_eq!(post.await.unwrap(), 200);
    }
    assert_eq!(site.number("SELECT count(*) FROM sms.inbox").await, 60);
    assert_eq!(answers(&site).await, 1);
}

#[tokio::test]
async fn short_codes_and_the_number_itself_get_no_answer() {
    let site = site("no_answer").await;
    templates(&site).await;
    let _daemon = site.daemon(Lines { more: REPLIES, ..LISTENING }).await;
    for (from, to) in [("51000", "353861000000"), ("501234", "51000"), ("353861000000", "353861000000")] {
        assert_eq!(post(&site, &form(from, to, "Info", &at(0))).await, 200);
    }
    assert_eq!(site.number("SELECT count(*) FROM sms.inbox WHERE keyword = 'INFO'").await, 3);
    // What begins with another word is for people.
    assert_eq!(post(&site, &form(NUMBER, "51000", "More info", &at(0))).await, 200);
    assert_eq!(answers(&site).await, 0);
    assert_eq!(site.number("SELECT count(*) FROM outboxd.auto_reply").await, 0);
}

#[tokio::test]
async fn a_stop_is_confirmed_only_by_a_transactional_template_and_a_start_only_if_it_is_one() {
    let site = site("confirmed").await;
    site.run(
        "INSERT INTO sms.template (name, body, transactional) VALUES ('bye', 'You get no more of these.', true),
            ('adverts', 'Buy one more!', false), ('hello', 'You get our messages again.', false)",
    )
    .await;
    let more = "[inbox.auto_reply]\nSTOP = \"bye\"\nUNSUBSCRIBE = \"adverts\"\nSTART = \"hello\"\n";
    let _daemon = site.daemon(Lines { more, ..LISTENING }).await;
    let answer_to = async |text: &str, second: u32| {
        assert_eq!(post(&site, &form(NUMBER, "51000", text, &at(second))).await, 200);
        let sql = "SELECT coalesce(max(o.id), 0) FROM sms.outbox AS o WHERE o.client_ref = \
                   (SELECT 'auto-reply:' || max(i.id) FROM sms.inbox AS i)";
        site.number(sql).await
    };
    let stop = answer_to("Stop it", 0).await;
    site.until_delivered(stop).await;
    let advert = answer_to("Unsubscribe", 1).await;
    assert_eq!(site.until(advert, "failed").await.code(), "opted_out");
    assert_eq!(answer_to("Start at ten?", 2).await, 0, "it opts nobody in");
    let start = answer_to("Start", 3).await;
    site.until_delivered(start).await;
}

#[tokio::test]
async fn an_answer_that_cannot_be_queued_keeps_no_message_and_no_opt_out_away() {
    let site = site("unanswerable").await;
    let more = "[inbox.auto_reply]\nSTOP = \"bye\"\nINFO = \"nowhere\"\n";
    let daemon = site.daemon(Lines { more, ..LISTENING }).await;
    assert_eq!(post(&site, &form("353871234568", "51000", "Info", &at(0))).await, 200);
    let id = site.number("SELECT id FROM sms.outbox").await;
    assert_eq!(site.until(id, "failed").await.code(), "unknown_template");
    site.run(
        "CREATE FUNCTION public.fault() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN RAISE EXCEPTION 'a fault of the test'; END $$;
         CREATE TRIGGER fault BEFORE INSERT ON sms.outbox FOR EACH ROW EXECUTE FUNCTION public.fault()",
    )
    .await;
    assert_eq!(post(&site, &form(NUMBER, "51000", "Stop", &at(1))).await, 200);
    assert_eq!(site.number("SELECT count(*) FROM sms.inbox WHERE effect = 'opt_out'").await, 1);
    assert_eq!(site.number("SELECT count(*) FROM sms.opt_out").await, 1);
    daemon.wait_log(LIMIT, "a fault of the test").await;
    // It was not answered, so the next one may be.
    site.run("DROP TRIGGER fault ON sms.outbox").await;
    assert_eq!(post(&site, &form(NUMBER, "51000", "Stop", &at(2))).await, 200);
    assert_eq!(answers(&site).await, 2);
}

#[tokio::test]
async fn who_was_answered_is_forgotten_after_a_month() {
    let site = site("forgotten").await;
    templates(&site).await;
    site.run(
        "INSERT INTO outboxd.auto_reply SELECT '35387' || 1000000 + n, 'INFO', now() - interval '32 days' \
         FROM generate_series(1, 3) AS n",
    )
    .await;
    let _daemon = site.daemon(Lines { more: REPLIES, ..LISTENING }).await;
    for n in 1..=2 {
        let from = format!("35386000000{n}");
        assert_eq!(post(&site, &form(&from, "51000", "Info", &at(0))).await, 200);
    }
    assert_eq!(site.number("SELECT count(*) FROM outboxd.auto_reply").await, 2);
}
