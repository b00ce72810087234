//! Killed at every step of the pipeline, one by one: the real daemon is stopped on the wire exactly there, and killed with
//! SIGKILL. Afterwards the three books must agree: what was inserted, what the rows say, what reached the gateway.
//!
//! What is unknown after a kill is known exactly: the attempts that stand in committed waves and have no recorded result.
//! Everything that was under way is among them.

use std::collections::BTreeSet;
use std::time::Duration;

use outboxd::message::NotifyRef;

use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::site::{LIMIT, Lines, Site};
use crate::support::wire::{Calls, Cut, Door, Fault, Kind, Planned, Wire};

/// Twice this may be in committed waves.
const CONCURRENCY: usize = 4;
/// What may stand in waves of a gateway that answers at once.
const MOST_UNKNOWN: usize = 8 * CONCURRENCY;
const LINES: Lines<'_> =
    Lines { queue: "lease = \"1s\"", gateway: "concurrency = 4", more: "", receipts: false };
const ROWS: usize = 40;

async fn site(hint: &str) -> (Site, Wire) {
    let mut site = Site::new(hint).await;
    let wire = Wire::to_cluster();
    site.route_through(&wire);
    (site, wire)
}

/// The references of attempts that stand in committed waves and have no recorded result.
async fn open_attempts(site: &Site) -> BTreeSet<i64> {
    let sql = "SELECT o.id FROM outboxd.wave AS w CROSS JOIN LATERAL unnest(w.ids, w.attempts) AS a(id, attempt) \
               JOIN sms.outbox AS o ON o.id = a.id WHERE o.attempts < a.attempt";
    site.sql.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

async fn ids(site: &Site, status: &str) -> BTreeSet<i64> {
    let sql = "SELECT id FROM sms.outbox WHERE status = $1";
    site.sql.query(sql, &[&status]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Ids of the rows that the gateway has accepted; each only once.
async fn sent(site: &Site) -> BTreeSet<i64> {
    let references = site.ledger().await;
    let ids: BTreeSet<i64> = references
        .iter()
        .map(|message| NotifyRef::parse(message["notify_id"].as_str().unwrap()).expect("ours").id.0)
        .collect();
    assert_eq!(ids.len(), references.len(), "the gateway has accepted a message twice");
    ids
}

/// What is left on the server of a daemon that was killed: its backends see the end of their connections.
async fn until_server_noticed(site: &Site) {
    let sql = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND usename = $1)";
    let role = site.db.role("daemon");
    eventually(LIMIT, "the server knows that the daemon has gone", async || {
        if site.sql.query_one(sql, &[&role]).await.unwrap().get(0) { Ok(()) } else { Err(()) }
    })
    .await;
}

/// Queues rows, kills the daemon where it is stopped, starts another, and compares the books when it is through.
/// Returns what was open at the kill, and what the gateway had accepted by then.
async fn kill_at(site: &Site, stop: &Planned, mut daemon: Daemon) -> (BTreeSet<i64>, BTreeSet<i64>) {
    stop.reached(LIMIT).await;
    daemon.kill9();
    until_server_noticed(site).await;
    // A request that was on its way is still accepted.
    site.sim_reaches("idle=1").await;
    let (open, sent_before) = (open_attempts(site).await, sent(site).await);
    let _next = site.daemon(LINES).await;
    assert_books_agree(site, &open).await;
    (open, sent_before)
}

/// Waits until every row has an end, and compares the books; `open` were in committed waves without a result.
async fn assert_books_agree(site: &Site, open: &BTreeSet<i64>) {
    let rows = i64::try_from(ROWS).unwrap();
    let counts =
        site.until_counts("every row has an end", |counts| counts.only(&["accepted", "unknown"])).await;
    assert_eq!(counts.of("accepted") + counts.of("unknown"), rows, "{counts:?}");
    let (unknown, accepted, sent) =
        (ids(site, "unknown").await, ids(site, "accepted").await, sent(site).await);
    assert_eq!(&unknown, open, "unknown is what stood in a committed wave without a result");
    assert!(unknown.len() <= MOST_UNKNOWN, "{} are unknown", unknown.len());
    assert!(accepted.is_subset(&sent), "{:?} are said to be accepted and are not", &accepted - &sent);
    assert!((&sent - &accepted).is_subset(&unknown), "{:?} were sent and nothing tells", &sent - &accepted);
    site.assert_nothing_twice().await;
}

#[tokio::test]
async fn killed_when_a_wave_is_committed_and_the_daemon_does_not_know_it_has_sent_nothing_of_it() {
    for n in [1, 4] {
        let (site, wire) = site("wave_committed").await;
        let stop = wire.plan(Calls::running("wave").nth(n), Fault::StopAfter);
        let daemon = site.daemon(LINES).await;
        site.queue(i32::try_from(ROWS).unwrap()).await;
        let (open, sent_before) = kill_at(&site, &stop, daemon).await;
        let last = "SELECT count(*) FROM sms.outbox WHERE status = 'unknown' AND sent_via = 'main'";
        assert_eq!(usize::try_from(site.number(last).await).unwrap(), open.len());
        assert!(!open.is_subset(&sent_before), "nothing of the last wave was sent");
        assert!(n > 1 || sent_before.is_empty(), "{sent_before:?}");
    }
}

#[tokio::test]
async fn killed_before_a_wave_reaches_the_server_it_leaves_nothing_unknown_of_it() {
    let (site, wire) = site("wave_unborn").await;
    let stop = wire.plan(Calls::running("wave"), Fault::StopBefore);
    let daemon = site.daemon(LINES).await;
    site.queue(i32::try_from(ROWS).unwrap()).await;
    let (open, sent_before) = kill_at(&site, &stop, daemon).await;
    assert!(open.is_empty() && sent_before.is_empty());
}

/// The gateway stands still with all places taken, and the daemon is killed. `true`: the gateway goes on with what it
/// has read; `false`: what it read is forgotten, as if the first bytes had been all that came.
async fn killed_in_flight(hint: &str, accepted: bool) {
    let (site, _wire) = site(hint).await;
    let mut daemon = site.daemon(LINES).await;
    site.freeze().await;
    site.queue(i32::try_from(ROWS).unwrap()).await;
    site.sim_reaches(&format!("frozen={CONCURRENCY}")).await;
    daemon.kill9();
    until_server_noticed(&site).await;
    site.sim.control("POST", if accepted { "thaw" } else { "thaw?discard=1" }, None).await;
    site.sim_reaches("idle=1").await;
    let open = open_attempts(&site).await;
    assert_eq!(sent(&site).await.len(), if accepted { CONCURRENCY } else { 0 });
    let _next = site.daemon(LINES).await;
    assert_books_agree(&site, &open).await;
}

#[tokio::test]
async fn killed_at_the_first_bytes_of_its_requests_it_leaves_them_unknown() {
    killed_in_flight("first_bytes", false).await;
}

#[tokio::test]
async fn killed_when_the_gateway_has_read_its_requests_it_leaves_them_unknown() {
    killed_in_flight("bytes_written", true).await;
}

#[tokio::test]
async fn killed_when_the_answers_have_been_sent_it_leaves_unknown_what_it_did_not_record() {
    let (site, _wire) = site("answers_sent").await;
    let mut daemon = site.daemon(LINES).await;
    site.freeze().await;
    site.queue(i32::try_from(ROWS).unwrap()).await;
    site.sim_reaches(&format!("frozen={CONCURRENCY}")).await;
    // Answers that lie in its sockets, unread.
    daemon.pause();
    site.thaw().await;
    site.sim_reaches("idle=1").await;
    daemon.kill9();
    until_server_noticed(&site).await;
    let open = open_attempts(&site).await;
    assert!(sent(&site).await.is_subset(&open));
    let _next = site.daemon(LINES).await;
    assert_books_agree(&site, &open).await;
}

#[tokio::test]
async fn killed_before_its_results_reach_the_server_it_leaves_them_unknown() {
    for n in [1, 3] {
        let (site, wire) = site("record_unborn").await;
        let stop = wire.plan(Calls::running("record").nth(n), Fault::StopBefore);
        let daemon = site.daemon(LINES).await;
        site.queue(i32::try_from(ROWS).unwrap()).await;
        let (open, sent_before) = kill_at(&site, &stop, daemon).await;
        assert!(!(&sent_before & &open).is_empty(), "results were lost");
    }
}

#[tokio::test]
async fn killed_when_its_results_are_committed_and_it_does_not_know_it_leaves_them_accepted() {
    for n in [1, 3] {
        let (site, wire) = site("record_committed").await;
        let stop = wire.plan(Calls::running("record").nth(n), Fault::StopAfter);
        let daemon = site.daemon(LINES).await;
        site.queue(i32::try_from(ROWS).unwrap()).await;
        stop.reached(LIMIT).await;
        let recorded = ids(&site, "accepted").await;
        assert!(!recorded.is_empty());
        let (open, _) = kill_at(&site, &stop, daemon).await;
        assert!(recorded.is_disjoint(&open));
    }
}

/// A daemon that was killed with everything under way, and then each that begins to take over is killed at its n-th call,
/// n = 1, 2, 3 … until one leads.
async fn killed_in_the_takeover(hint: &str, fault: Fault) {
    let (site, wire) = site(hint).await;
    let mut daemon = site.daemon(LINES).await;
    site.queue(i32::try_from(ROWS).unwrap()).await;
    site.sim_reaches("accepted=12").await;
    site.freeze().await;
    site.sim_reaches(&format!("frozen={CONCURRENCY}")).await;
    daemon.kill9();
    until_server_noticed(&site).await;
    site.thaw().await;
    site.sim_reaches("idle=1").await;
    let open = open_attempts(&site).await;
    // From here on nobody is to send: what each of these daemons does is take over.
    site.freeze().await;
    let mut names = Vec::new();
    for n in 1.. {
        wire.lift();
        let stop = wire.plan(Calls::any().nth(n), fault);
        let mut starting = Daemon::spawn(&site.config(LINES));
        let leads = tokio::select! {
            call = stop.reached(LIMIT) => {
                names.push(call.name);
                false
            }
            _ = starting.wait_log(LIMIT, "leading") => true,
        };
        starting.kill9();
        until_server_noticed(&site).await;
        if leads {
            break;
        }
    }
    wire.lift();
    for step in ["leader_read", "leader_take", "open_waves", "mark_unknown", "delete_old_waves"] {
        assert!(names.iter().any(|name| name == step), "{step} is one of the steps: {names:?}");
    }
    let marked = ids(&site, "unknown").await;
    assert!(open.is_subset(&marked));
    // The last of them led, and may have begun waves of its own.
    let open = &marked | &open_attempts(&site).await;
    site.sim.control("POST", "thaw?discard=1", None).await;
    let _next = site.daemon(LINES).await;
    assert_books_agree(&site, &open).await;
}

#[tokio::test]
async fn killed_before_each_step_of_a_takeover_the_next_one_takes_over() {
    killed_in_the_takeover("takeover_before", Fault::StopBefore).await;
}

#[tokio::test]
async fn killed_after_each_step_of_a_takeover_the_next_one_takes_over() {
    killed_in_the_takeover("takeover_after", Fault::StopAfter).await;
}

#[tokio::test]
async fn killed_while_receipts_are_written_it_loses_none() {
    for fault in [Fault::StopBefore, Fault::StopAfter] {
        let mut site = Site::with_receipts("receipts").await;
        let wire = Wire::to_cluster();
        site.route_through(&wire);
        let lines = Lines { receipts: true, ..LINES };
        let stop = wire.plan(Calls::running("receipts").nth(2), fault);
        let mut daemon = site.daemon(lines).await;
        site.queue(i32::try_from(ROWS).unwrap()).await;
        stop.reached(LIMIT).await;
        daemon.kill9();
        until_server_noticed(&site).await;
        let _next = site.daemon(lines).await;
        site.until_counts("every row has an end", |counts| counts.only(&["delivered", "unknown"])).await;
        eventually(LIMIT, "the gateway's receipts are all in the rows", async || {
            let (sent, delivered) = (sent(&site).await, ids(&site, "delivered").await);
            if sent == delivered { Ok(()) } else { Err(&sent - &delivered) }
        })
        .await;
        let unknown = ids(&site, "unknown").await;
        assert!(unknown.len() <= MOST_UNKNOWN && unknown.is_disjoint(&sent(&site).await), "{unknown:?}");
        site.assert_nothing_twice().await;
    }
}

#[tokio::test]
async fn killed_at_each_step_of_falling_asleep_it_leaves_nobody_waiting_and_no_row_unread() {
    for fault in [Fault::StopBefore, Fault::StopAfter] {
        let (site, wire) = site("falling_asleep").await;
        let mut rows = 0;
        // The first `register` of a term says awake.
        for (step, n) in [("register", 2), ("sleep_barrier", 1), ("sleep_settled", 1)] {
            let stop = wire.plan(Calls::running(step).nth(n), fault);
            let mut daemon = site.daemon(LINES).await;
            stop.reached(LIMIT).await;
            site.queue(3).await;
            daemon.kill9();
            // And one that comes when the register may say that somebody sleeps who is dead.
            site.queue(1).await;
            rows += 4;
            until_server_noticed(&site).await;
            let _next = site.daemon(LINES).await;
            site.until_counts(&format!("killed at {step}, all are sent"), |counts| {
                counts.of("accepted") + counts.of("unknown") == rows
            })
            .await;
        }
        assert!(sent(&site).await.is_superset(&ids(&site, "accepted").await));
        site.assert_nothing_twice().await;
    }
}

/// A connection that ends when the server has committed and the daemon does not know: it finds out by itself.
async fn settles_by_itself(hint: &str, plans: &[(&str, Fault)]) {
    let (site, wire) = site(hint).await;
    let planned: Vec<Planned> =
        plans.iter().map(|(name, fault)| wire.plan(Calls::running(name), *fault)).collect();
    let daemon = site.daemon(LINES).await;
    site.queue(i32::try_from(ROWS).unwrap()).await;
    let rows = i64::try_from(ROWS).unwrap();
    site.until_counts("every row is sent", |counts| counts.of("accepted") == rows).await;
    for plan in planned {
        assert!(plan.times() > 0, "{plans:?}");
    }
    assert_eq!(sent(&site).await.len(), ROWS);
    site.assert_nothing_twice().await;
    site.until_true("no wave is left", "SELECT NOT EXISTS (SELECT FROM outboxd.wave WHERE ids <> '{}')")
        .await;
    assert_eq!(
        site.number("SELECT count(*) FROM outboxd.attempt").await,
        0,
        "nothing was out of the ordinary"
    );
    assert!(!daemon.log().contains("ERROR"), "{}", daemon.log());
}

#[tokio::test]
async fn a_wave_whose_commit_is_in_doubt_is_settled_and_nothing_becomes_unknown() {
    for cut in [Cut::Reset, Cut::Close] {
        settles_by_itself("doubtful_wave", &[("wave", Fault::CutAfter(cut))]).await;
        settles_by_itself("lost_wave", &[("wave", Fault::CutBefore(cut))]).await;
    }
}

#[tokio::test]
async fn a_wave_whose_settlement_is_in_doubt_too_is_settled_in_the_end() {
    for second in [Fault::CutBefore(Cut::Reset), Fault::CutAfter(Cut::Reset), Fault::Refuse("53300")] {
        let plans = [("wave", Fault::CutAfter(Cut::Reset)), ("wave_tombstone", second)];
        settles_by_itself("doubtful_settlement", &plans).await;
    }
}

#[tokio::test]
async fn a_record_whose_commit_is_in_doubt_is_written_again_and_says_the_same() {
    for cut in [Cut::Reset, Cut::Close] {
        settles_by_itself("doubtful_record", &[("record", Fault::CutAfter(cut))]).await;
        settles_by_itself("lost_record", &[("record", Fault::CutBefore(cut))]).await;
    }
}

/// The request lies on the wire while everybody has given it up: it comes after the wave was settled.
#[tokio::test]
async fn a_wave_that_reaches_the_server_after_it_was_settled_changes_nothing() {
    let (mut site, wire) = site("late_wave").await;
    site.daemon_database = "timeout = \"500ms\"".to_owned();
    let late = wire.plan(Calls::running("wave"), Fault::Late(Duration::from_secs(2)));
    let daemon = site.daemon(LINES).await;
    site.queue(i32::try_from(ROWS).unwrap()).await;
    late.reached(LIMIT).await;
    daemon.wait_log(LIMIT, "the commit of a wave is in doubt").await;
    let rows = i64::try_from(ROWS).unwrap();
    site.until_counts("every row is sent", |counts| counts.of("accepted") == rows).await;
    // Its connection ends when it has been answered.
    wire.lift();
    let refused = "SELECT NOT EXISTS (SELECT FROM outboxd.wave WHERE ids <> '{}')";
    site.until_true("no wave is left", refused).await;
    assert_eq!(sent(&site).await.len(), ROWS);
    site.assert_nothing_twice().await;
}

/// The database goes away in the very moment of a commit, and comes back seconds later.
#[tokio::test]
async fn a_wave_in_doubt_waits_for_a_database_that_is_away() {
    let (site, wire) = site("away").await;
    let daemon = site.daemon(LINES).await;
    let doubt = wire.plan(Calls::running("wave").nth(2), Fault::CutAfter(Cut::Reset));
    site.queue(i32::try_from(ROWS).unwrap()).await;
    doubt.reached(LIMIT).await;
    wire.door(Door::Reset);
    wire.cut_all(Cut::Reset);
    daemon.wait_log(LIMIT, "the commit of a wave is in doubt").await;
    daemon.wait_log(LIMIT, "lost leadership").await;
    let before = site.sim_count("accepted").await;
    let tries = daemon.wait_log(LIMIT, "cannot settle the wave yet").await;
    assert!(!tries.is_empty());
    assert_eq!(site.sim_count("accepted").await, before, "nothing leaves meanwhile");
    wire.door(Door::Open);
    let rows = i64::try_from(ROWS).unwrap();
    site.until_counts("every row is sent", |counts| counts.of("accepted") == rows).await;
    assert_eq!(sent(&site).await.len(), ROWS);
    site.assert_nothing_twice().await;
}

/// Seen with a server that hung: it carried out the given-up takeover after a later one, whose epoch was then over though
/// its leader still held the lock, and nobody sent any more.
#[tokio::test]
async fn a_takeover_that_was_given_up_and_comes_late_ends_no_sending() {
    let (mut site, wire) = site("late_takeover").await;
    site.daemon_database = "timeout = \"500ms\"".to_owned();
    let late = wire.plan(Calls::running("leader_take"), Fault::Late(Duration::from_secs(3)));
    let daemon = site.daemon(LINES).await;
    late.reached(LIMIT).await;
    daemon.wait_log(LIMIT, "leading").await;
    site.until_true("the late takeover has come", "SELECT epoch = 2 FROM outboxd.leader").await;
    site.queue(i32::try_from(ROWS).unwrap()).await;
    let rows = i64::try_from(ROWS).unwrap();
    site.until_counts("every row is sent", |counts| counts.of("accepted") == rows).await;
    site.until_true("it leads in an epoch of its own", "SELECT epoch = 3 FROM outboxd.leader").await;
    site.assert_nothing_twice().await;
}

#[tokio::test]
async fn a_log_in_that_the_server_does_not_finish_is_tried_again() {
    let (mut site, wire) = site("log_in").await;
    site.daemon_database = "timeout = \"500ms\"".to_owned();
    for (n, fault) in
        [(1, Fault::Refuse("57P03")), (2, Fault::SilenceAfter), (3, Fault::CutAfter(Cut::Reset))]
    {
        wire.plan(Calls::of(Kind::Connect).nth(n), fault);
    }
    wire.plan(Calls::of(Kind::Connect).nth(4), Fault::Refuse("53300"));
    let daemon = site.daemon(LINES).await;
    site.queue(i32::try_from(ROWS).unwrap()).await;
    assert_books_agree(&site, &BTreeSet::new()).await;
    assert!(!daemon.log().contains("ERROR"), "{}", daemon.log());
}
