//! What comes back at odd moments: two days late, during a takeover, at a standby before the leader has recorded the answer,
//! and while daemons and PostgreSQL are killed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::inbox::{LISTENING, form};
use crate::support::cluster::{Cluster, Stop};
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::site::{LIMIT, Lines, Site};

fn receipt(reference: &str) -> Value {
    json!({"notify_id": reference, "number": "353870000001", "sender": "Demo", "delivered": true})
}

/// Has the simulator post receipts, and returns once they have been answered with 200.
async fn post(site: &Site, references: impl IntoIterator<Item = String>) {
    let mut taken = site.sim_count("receipts_ok").await;
    for reference in references {
        site.sim.control("POST", "receipt", Some(&receipt(&reference))).await;
        taken += 1;
    }
    site.sim_reaches(&format!("receipts_ok={taken}")).await;
}

/// The test posts receipts itself.
async fn lose_receipts(site: &Site) {
    site.sim.settings(&json!({"callbacks": {"receipts": {"lost": 1.0}}})).await;
}

#[tokio::test]
async fn receipts_that_come_two_days_late_settle_what_was_accepted_what_is_unknown_and_what_was_given_up() {
    let site = Site::with_receipts("two_days").await;
    lose_receipts(&site).await;
    let mut late = Vec::new();
    let given_up = {
        let _daemon = site.daemon(LISTENING).await;
        let (accepted, _) = site.queue(1).await;
        late.push((accepted, site.until(accepted, "accepted").await.gateway_ref.unwrap()));
        site.sim.script(&json!({"do": {"drop": {"accept": true}}, "times": 2})).await;
        let (unknown, given_up) = site.queue(2).await;
        late.push((unknown, site.until(unknown, "unknown").await.gateway_ref.unwrap()));
        late.push((given_up, site.until(given_up, "unknown").await.gateway_ref.unwrap()));
        site.run(&format!("SELECT sms.retry({given_up}, force => true)")).await;
        assert_ne!(site.until(given_up, "accepted").await.gateway_ref.as_ref(), Some(&late[2].1));
        given_up
    };
    // Nobody was there for two days and an hour, and the tables were cleaned up meanwhile.
    site.run(
        "UPDATE sms.outbox SET sent_at = sent_at - interval '49 hours', send_after = send_after - interval '49 hours';
         UPDATE outboxd.attempt SET at = at - interval '49 hours';
         UPDATE outboxd.receipt_watch SET looked_until = '-infinity'",
    )
    .await;
    site.run("VACUUM FULL sms.outbox").await;
    let _daemon = site.daemon(LISTENING).await;
    site.until_true(
        "the accepted ones are overdue",
        "SELECT count(*) = 2 FROM sms.outbox WHERE error_code = 'receipt_overdue'",
    )
    .await;
    post(&site, late.iter().map(|(_, reference)| reference.clone())).await;
    for (id, reference) in &late {
        let row = site.row(*id).await;
        assert_eq!((row.status.as_str(), row.code()), ("delivered", ""), "{row:?}");
        assert_eq!(row.gateway_ref.as_ref(), Some(reference), "the attempt that arrived");
    }
    assert_eq!(site.row(given_up).await.attempts, 2);
    assert_eq!(site.number("SELECT receipts_overdue FROM sms.health").await, 0);
}

#[tokio::test]
async fn receipts_that_come_during_a_takeover_count_and_those_after_it_resolve_what_it_called_unknown() {
    let site = Site::with_receipts("in_takeover").await;
    lose_receipts(&site).await;
    let mut leader = site.daemon(Lines { gateway: "concurrency = 8", ..Lines::default() }).await;
    let standby = Daemon::start(&site.config(LISTENING)).await;
    standby.wait_log(LIMIT, "standby").await;
    site.freeze().await;
    let (first, last) = site.queue(8).await;
    site.sim_reaches("frozen=8").await;
    // The successor gets as far as beginning its epoch, and no further.
    let mut other = site.db.client().await;
    let lock = other.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE outboxd.leader IN EXCLUSIVE MODE").await.unwrap();
    leader.kill9();
    site.thaw().await;
    site.sim_reaches("accepted=8&idle=1").await;
    let references: Vec<String> = site.sent_references().await.into_iter().collect();
    site.until_true(
        "the takeover waits",
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() \
         AND wait_event_type = 'Lock' AND query LIKE '%leader_take%')",
    )
    .await;
    let (during, after) = references.split_at(4);
    post(&site, during.iter().cloned()).await;
    assert_eq!(site.counts().await.of("delivered"), 4);
    assert_eq!(standby.logged("leading"), 0);
    lock.rollback().await.unwrap();
    standby.wait_log(LIMIT, "leading").await;
    let counts = site.counts().await;
    assert_eq!((counts.of("delivered"), counts.of("unknown")), (4, 4), "{counts:?}");
    post(&site, after.iter().cloned()).await;
    assert_eq!(site.counts().await.of("delivered"), last - first + 1);
    assert_eq!(
        site.number("SELECT count(*) FROM sms.outbox WHERE attempts <> 1 OR error_code IS NOT NULL").await,
        0
    );
    site.assert_nothing_twice().await;
}

#[tokio::test]
async fn a_standby_takes_receipts_before_the_leader_has_the_answer_and_resolves_what_is_unknown() {
    let site = Site::with_receipts("standby_early").await;
    lose_receipts(&site).await;
    let leader = site.daemon(Lines::default()).await;
    let standby = Daemon::start(&site.config(LISTENING)).await;
    standby.wait_log(LIMIT, "standby").await;
    site.sim.script(&json!({"do": {"drop": {"accept": true}}})).await;
    let (unknown, _) = site.queue(1).await;
    let lost = site.until(unknown, "unknown").await.gateway_ref.unwrap();
    site.sim.script(&json!({"do": {"late": {"ms": 1500}}})).await;
    let (early, _) = site.queue(1).await;
    site.sim_reaches("accepted=2").await;
    let references = site.sent_references().await;
    post(&site, references).await;
    let row = site.row(early).await;
    assert_eq!((row.status.as_str(), row.sent), ("delivered", false), "the answer is still to come");
    let row = site.row(unknown).await;
    assert_eq!((row.status.as_str(), row.gateway_ref), ("delivered", Some(lost)));
    assert_eq!(site.until_delivered(early).await.attempts, 1);
    assert_eq!((leader.logged("leading"), standby.logged("leading")), (1, 0));
    site.assert_nothing_twice().await;
}

const WRITERS: u64 = 6;
/// Of each: every third opts out, every third asks for information.
const MESSAGES: u64 = 60;

/// What writer `writer` writes as its message `n`, each from a number of its own.
fn message(writer: u64, n: u64) -> String {
    let text = ["Stop", "Info", "Hello"][usize::try_from(n % 3).unwrap()];
    form(&format!("35387{writer}{n:06}"), "51000", &format!("{text} {writer} {n}"), "2026-11-22 10:00:00")
}

/// Writes as a gateway that repeats what it got no 200 for, and now and then what it got one for.
async fn write_all(url: &str, writer: u64, answered: &AtomicU64) {
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().unwrap();
    for n in 0..MESSAGES {
        for _ in 0..=n % 2 {
            eventually(2 * LIMIT, "the reply is taken", async || {
                let sent = http.post(url).body(message(writer, n)).send().await;
                let status = sent.map_err(|error| error.to_string())?.status();
                if status.is_success() { Ok(()) } else { Err(status.to_string()) }
            })
            .await;
        }
        answered.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn every_reply_that_was_answered_200_is_there_once_although_daemons_and_postgresql_are_killed() {
    let mut cluster = Cluster::start("").await;
    let mut site = Site::in_cluster(&cluster, "killed_replies", true).await;
    site.run("INSERT INTO sms.template (name, body) VALUES ('info', 'Open from 9 to 17.')").await;
    let lines = Lines { more: "[inbox.auto_reply]\nINFO = \"info\"\n", ..LISTENING };
    let mut daemon = site.daemon(lines).await;
    let (answered, url) = (AtomicU64::new(0), site.callback_url());
    let writing = join_all((0..WRITERS).map(|writer| write_all(&url, writer, &answered)));
    let killing = async {
        for round in 1..=8 {
            let enough = round * WRITERS * MESSAGES / 10;
            eventually(2 * LIMIT, "some are answered", async || {
                let count = answered.load(Ordering::Relaxed);
                if count >= enough { Ok(()) } else { Err(count) }
            })
            .await;
            if round % 2 == 0 {
                cluster.restart(Stop::Kill).await;
            } else {
                daemon.kill9();
                daemon = Daemon::start(&site.config(lines)).await;
            }
        }
    };
    tokio::join!(writing, killing);
    site.reconnect().await;
    let all = i64::try_from(WRITERS * MESSAGES).unwrap();
    assert_eq!(site.number("SELECT count(*) FROM sms.inbox").await, all);
    assert_eq!(site.number("SELECT count(DISTINCT body) FROM sms.inbox").await, all);
    let opted_out = "SELECT count(*) FROM sms.opt_out WHERE ended_at IS NULL AND source = 'reply'";
    assert_eq!(site.number(opted_out).await, all / 3);
    // Each question has its one answer, from the same transaction.
    let answers = "SELECT count(*) FROM sms.outbox AS o JOIN sms.inbox AS i \
                   ON o.client_ref = 'auto-reply:' || i.id AND o.recipient = '+' || i.sender WHERE i.keyword = 'INFO'";
    assert_eq!(site.number(answers).await, all / 3);
    assert_eq!(site.number("SELECT count(*) FROM sms.outbox").await, all / 3);
    drop(daemon);
}
