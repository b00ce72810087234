//! Two servers that take writes, where one should: nothing keeps the old primary away. A daemon that knows both works with
//! one of them, the one on the later timeline.

use crate::support::books::Committed;
use crate::support::daemon::Daemon;
use crate::support::pair::{Pair, Replication};
use crate::support::site::{LIMIT, Lines, Site};

const QUICK: Lines<'_> =
    Lines { queue: "lease = \"1s\"", gateway: "concurrency = 8", more: "", receipts: false };

async fn queue(site: &Site, committed: &mut Committed, numbers: std::ops::Range<i32>) {
    let sql = "INSERT INTO sms.outbox (recipient, body) SELECT '+35387' || lpad(n::text, 7, '0'), 'text ' || n \
               FROM generate_series($1::int, $2::int) AS n";
    site.sql.execute(sql, &[&numbers.start, &(numbers.end - 1)]).await.unwrap();
    committed.add_all(numbers.map(|n| format!("text {n}")));
}

#[tokio::test]
async fn an_old_primary_that_comes_back_is_left_alone() {
    let mut pair = Pair::start(Replication::Asynchronous).await;
    let mut site = pair.site("comes_back", false).await;
    let mut committed = Committed::default();
    let daemon = site.daemon(QUICK).await;
    queue(&site, &mut committed, 0..100).await;
    site.until_all_sent(&committed).await;
    pair.catch_up().await;
    pair.fail_over(&mut site).await;
    queue(&site, &mut committed, 100..200).await;
    site.until_all_sent(&committed).await;
    let led = site.number("SELECT epoch FROM outboxd.leader").await;

    // Nobody has told it that it is not the primary any more; it is the first in the list.
    pair.primary.run().await;
    let old = pair.primary.client(site.db.name()).await;
    old.batch_execute("INSERT INTO sms.outbox (recipient, body) VALUES ('+353870000000', 'stale')")
        .await
        .unwrap();
    for round in 1..=3 {
        site.run("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'outboxd'").await;
        let wanted = led + round;
        site.until_true(
            "it leads again where it led",
            &format!("SELECT epoch >= {wanted} FROM outboxd.leader"),
        )
        .await;
        let from = i32::try_from(round).unwrap() * 100 + 100;
        queue(&site, &mut committed, from..from + 100).await;
        site.until_all_sent(&committed).await;
    }
    // Nor does a daemon fall for it that has never worked with either.
    let fresh = Daemon::start(&site.config(QUICK)).await;
    fresh.wait_log(LIMIT, "standby").await;
    drop(daemon);
    queue(&site, &mut committed, 500..600).await;
    site.until_counts("the fresh one goes on", |counts| counts.of("accepted") == 600).await;
    let untouched = old
        .query_one("SELECT status = 'queued' AND attempts = 0 FROM sms.outbox WHERE body = 'stale'", &[])
        .await
        .unwrap();
    assert!(untouched.get::<_, bool>(0));
    site.assert_books(&committed).await;
}

/// The old primary lets nobody in any more and keeps who is in; the lock session is. So the leader goes on believing,
/// and its statements come to the replica, where what it sent last is queued.
#[tokio::test]
async fn a_leader_whose_statements_come_to_the_promoted_replica_first_sends_nothing_twice() {
    let mut pair = Pair::start(Replication::Asynchronous).await;
    let mut site = pair.site("smart", false).await;
    let mut committed = Committed::default();
    let daemon = site.daemon(Lines { queue: "lease = \"5s\"", ..QUICK }).await;
    site.freeze().await;
    queue(&site, &mut committed, 0..300).await;
    pair.catch_up().await;
    pair.stop_shipping().await;
    site.thaw().await;
    site.until_all_sent(&committed).await;
    let old = pair.primary.client(site.db.name()).await;
    pair.primary.close();
    pair.promote(&mut site).await;
    let others = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'outboxd' \
                  AND pid NOT IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory')";
    old.batch_execute(others).await.unwrap();
    queue(&site, &mut committed, 300..400).await;
    daemon.wait_log(LIMIT, "failed over").await;
    site.until_all_sent(&committed).await;
    drop(old);
}
