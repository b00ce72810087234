//! Copies of the database that come up beside the original, each with a daemon that has the same gateway. What the original
//! sends is queued in them, and they must not send it too.

use std::fs;

use tokio_postgres::Client;

use crate::support::books::Committed;
use crate::support::cluster::{Cluster, give_to_server};
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::site::{LIMIT, Lines, Site};

/// A short lease: who is silent after what looks like a failover is waited for two of them.
const QUICK: Lines<'_> =
    Lines { queue: "lease = \"1s\"", gateway: "concurrency = 4", more: "", receipts: false };
/// One of them is due later.
const ALL: i64 = 301;

/// Some messages are under way, the others are queued, and one is due later.
async fn begin(cluster: &Cluster, hint: &str) -> (Site, Committed, Daemon) {
    let mut site = Site::in_cluster(cluster, hint, false).await;
    let role = site.db.role("daemon");
    site.daemon_url = format!("postgresql://{role}@{}/{}", cluster.address(), site.db.name());
    let mut committed = Committed::default();
    let daemon = site.daemon(QUICK).await;
    site.freeze().await;
    site.queue_texts(&mut committed, "due", 300).await;
    site.insert("(recipient, body, send_after) VALUES ('+353870009999', 'later', now() + interval '8 s')")
        .await;
    committed.add("later");
    site.sim_reaches("frozen=4").await;
    (site, committed, daemon)
}

/// A daemon with the same gateway, when it leads in the copy.
async fn wake_up(copy: &Cluster, original: &Cluster, site: &Site) -> (Client, Daemon) {
    let config = site.config(QUICK).replace(&original.address(), &copy.address());
    let daemon = Daemon::start(&config).await;
    daemon.wait_log(LIMIT, "leading").await;
    (copy.client(site.db.name()).await, daemon)
}

async fn number(sql: &Client, ask: &str) -> i64 {
    sql.query_one(ask, &[]).await.unwrap().get(0)
}

/// Waits until nothing is left in the copy that could be sent without a person.
async fn until_set_aside(sql: &Client) {
    eventually(LIMIT, "all is set aside", async || {
        let left = number(sql, "SELECT count(*) FROM sms.outbox WHERE queued").await;
        if left == 0 { Ok(()) } else { Err(left) }
    })
    .await;
    let ask =
        "SELECT count(*) FROM sms.outbox WHERE held AND error_code = 'failover_uncertain' AND attempts = 0";
    let unknown = number(sql, "SELECT count(*) FROM sms.outbox WHERE status = 'unknown'").await;
    assert!((4..=8).contains(&unknown), "{unknown} stood in waves");
    assert_eq!(number(sql, ask).await + unknown, ALL);
}

#[tokio::test]
async fn a_copy_that_is_promoted_beside_its_original_sends_nothing_of_what_it_has() {
    let original = Cluster::start("").await;
    let (site, committed, _daemon) = begin(&original, "promoted").await;
    let mut copy = original.backup();
    copy.recover_to_a_new_timeline();
    copy.run().await;
    let (sql, _other) = wake_up(&copy, &original, &site).await;
    site.thaw().await;
    until_set_aside(&sql).await;
    // The books would show what the copy had sent besides.
    site.until_all_sent(&committed).await;
}

#[tokio::test]
async fn a_backup_that_is_restored_to_a_point_in_time_beside_its_original_sends_nothing() {
    let archive = tempfile::tempdir().unwrap();
    give_to_server(archive.path());
    let shown = archive.path().display();
    let original = Cluster::start(&format!("archive_mode = on\narchive_command = 'cp %p {shown}/%f'")).await;
    let [mut soon, mut late] = [original.backup(), original.backup()];
    let (site, committed, _daemon) = begin(&original, "restored").await;
    site.run("SELECT pg_create_restore_point('before')").await;
    site.thaw().await;
    site.until_all_sent(&committed).await;
    let ended: String =
        site.sql.query_one("SELECT pg_walfile_name(pg_switch_wal())", &[]).await.unwrap().get(0);
    eventually(LIMIT, "the WAL is archived", async || {
        fs::exists(archive.path().join(&ended)).unwrap().then_some(()).ok_or(&ended)
    })
    .await;
    for copy in [&soon, &late] {
        copy.recover_to_a_new_timeline();
        copy.configure(&format!(
            "restore_command = 'cp {shown}/%f %p'\narchive_mode = off\n\
             recovery_target_name = 'before'\nrecovery_target_action = 'promote'"
        ));
    }

    // Within two minutes it might be a failover; what is inserted from then on would be sent.
    soon.run().await;
    let (sql, _other) = wake_up(&soon, &original, &site).await;
    until_set_aside(&sql).await;

    // As if it was restored an hour later: everything is held.
    late.run().await;
    let sql = late.client(site.db.name()).await;
    sql.batch_execute("UPDATE outboxd.daemon SET seen_at = seen_at - interval '1 hour'").await.unwrap();
    let (sql, other) = wake_up(&late, &original, &site).await;
    other.wait_log(LIMIT, "went back in time").await;
    let held = "SELECT count(*) FROM outboxd.leader WHERE held AND held_code = 'database_changed'";
    assert_eq!(number(&sql, held).await, 1);
    let ask = "SELECT count(*) FROM sms.outbox WHERE status = 'unknown' OR (queued AND attempts = 0)";
    assert_eq!(number(&sql, ask).await, ALL);

    site.assert_books(&committed).await;
}

/// Identity and timeline are the original's, so nothing tells it from the original: a person has to, before it is made.
#[tokio::test]
async fn a_copy_that_was_made_under_hold_stays_held_while_the_original_goes_on() {
    let original = Cluster::start("").await;
    let (site, committed, daemon) = begin(&original, "as_it_is").await;
    site.run("SELECT sms.hold('a copy is being made')").await;
    daemon.wait_log(LIMIT, "nothing is sent").await;
    site.thaw().await;
    site.sim_reaches("idle=1").await;
    site.until_true("what was under way is recorded", "SELECT NOT EXISTS (SELECT FROM outboxd.wave)").await;
    let sent = site.counts().await.of("accepted");
    let mut copy = original.backup();
    site.run("SELECT sms.resume()").await;
    copy.run().await;
    let (sql, other) = wake_up(&copy, &original, &site).await;
    other.wait_log(LIMIT, "everything is held").await;
    site.until_all_sent(&committed).await;
    assert_eq!(number(&sql, "SELECT count(*) FROM sms.outbox WHERE queued").await, ALL - sent);
}
