//! Whatever is killed, paused, cut off or locked: no committed row is lost, and none is sent twice.
//!
//! A frozen gateway has read a request and neither accepts nor answers it: the moment at which a message is in flight.

use std::time::Duration;

use serde_json::json;

use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::site::{LIMIT, Lines, Site};

const CONCURRENCY: usize = 8;
/// What may stand in waves of a gateway that answers at once.
const MOST_UNKNOWN: usize = 8 * CONCURRENCY;
const EIGHT_AT_ONCE: Lines<'_> = Lines { queue: "", gateway: "concurrency = 8", more: "", receipts: false };

/// Queues `count` rows, and stops the gateway in the middle of their drain with all places taken.
async fn freeze_in_the_middle(site: &Site, count: i32) {
    site.queue(count).await;
    site.sim_reaches("accepted=100").await;
    site.freeze().await;
    site.sim_reaches(&format!("frozen={CONCURRENCY}")).await;
}

#[tokio::test]
async fn after_a_kill_in_a_drain_what_was_in_flight_is_unknown_and_the_rest_is_sent_once() {
    let site = Site::new("sigkill").await;
    let mut daemon = site.daemon(EIGHT_AT_ONCE).await;
    freeze_in_the_middle(&site, 1_000).await;
    daemon.kill9();
    let sent_before = site.sent_references().await;
    site.thaw().await;
    site.sim_reaches("idle=1").await;
    let in_flight = &site.sent_references().await - &sent_before;
    assert_eq!(in_flight.len(), CONCURRENCY, "the gateway took what it had read");

    let _daemon = site.daemon(EIGHT_AT_ONCE).await;
    site.until_counts("every row has an end", |counts| counts.only(&["accepted", "unknown"])).await;
    let (unknown, accepted) = (site.references("unknown").await, site.references("accepted").await);
    assert!(in_flight.is_subset(&unknown), "{in_flight:?} was in flight, {unknown:?} is unknown");
    assert!(unknown.len() <= MOST_UNKNOWN, "{} are unknown", unknown.len());
    assert_eq!(unknown.len() + accepted.len(), 1_000);
    let sent = site.sent_references().await;
    assert!(accepted.is_subset(&sent) && (&sent - &accepted).is_subset(&unknown));
    site.assert_nothing_twice().await;
    let words = site.number("SELECT count(*) FROM sms.outbox WHERE status = 'unknown' AND error_code = 'outcome_unknown' AND error LIKE '%may or may not%'").await;
    assert_eq!(usize::try_from(words).unwrap(), unknown.len());
}

#[tokio::test]
async fn after_a_kill_receipts_tell_what_became_of_what_was_in_flight() {
    let site = Site::with_receipts("sigkill_receipts").await;
    let lines = Lines { receipts: true, ..EIGHT_AT_ONCE };
    let mut daemon = site.daemon(lines).await;
    freeze_in_the_middle(&site, 500).await;
    daemon.kill9();
    site.thaw().await;
    let _daemon = site.daemon(lines).await;
    site.until_counts("every row has an end", |counts| counts.only(&["delivered", "unknown"])).await;
    eventually(LIMIT, "what was sent is delivered", async || {
        let (sent, delivered) = (site.sent_references().await, site.references("delivered").await);
        if sent == delivered { Ok(()) } else { Err(&sent - &delivered) }
    })
    .await;
    let unknown = site.references("unknown").await;
    assert!(unknown.len() <= MOST_UNKNOWN, "in a wave and never begun: {unknown:?}");
    site.assert_nothing_twice().await;
}

#[tokio::test]
async fn a_stop_waits_for_the_answers_to_what_was_sent() {
    let site = Site::new("sigterm").await;
    site.sim.settings(&json!({"answers": {"latency_ms": 300}})).await;
    let mut daemon = site.daemon(EIGHT_AT_ONCE).await;
    site.queue(200).await;
    site.sim_reaches("accepted=20").await;
    daemon.terminate();
    assert!(daemon.wait_exit(LIMIT).await.success());
    let counts = site.counts().await;
    assert!(counts.only(&["queued", "accepted"]) && counts.of("queued") > 0, "{counts:?}");
    assert_eq!(u64::try_from(counts.of("accepted")).unwrap(), site.sim_count("accepted").await);
    assert_eq!(site.number("SELECT count(*) FROM outboxd.wave").await, 0);
    site.sim.settings(&json!({"answers": {"latency_ms": 0}})).await;
    let _daemon = site.daemon(EIGHT_AT_ONCE).await;
    site.until_counts("the rest is sent", |counts| counts.only(&["accepted"])).await;
    site.assert_nothing_twice().await;
}

#[tokio::test]
async fn a_stop_that_may_wait_no_longer_calls_unknown_what_has_no_answer() {
    for second_signal in [false, true] {
        let site = Site::new("grace").await;
        let queue = if second_signal { "shutdown_grace = \"60s\"" } else { "shutdown_grace = \"300ms\"" };
        let lines = Lines { queue, ..EIGHT_AT_ONCE };
        let mut daemon = site.daemon(lines).await;
        freeze_in_the_middle(&site, 300).await;
        daemon.terminate();
        if second_signal {
            daemon.wait_log(LIMIT, "stopping").await;
            daemon.terminate();
        }
        assert!(daemon.wait_exit(LIMIT).await.success());
        let counts = site.counts().await;
        assert_eq!(counts.of("unknown"), 8, "{counts:?}");
        assert!(counts.only(&["queued", "accepted", "unknown"]));
        site.thaw().await;
        let _daemon = site.daemon(lines).await;
        site.until_counts("the rest is sent", |counts| counts.only(&["accepted", "unknown"])).await;
        assert_eq!(site.counts().await.of("unknown"), 8);
        site.assert_nothing_twice().await;
    }
}

#[tokio::test]
async fn a_paused_leader_is_replaced_and_sends_nothing_when_it_wakes_up() {
    let site = Site::new("sigstop").await;
    site.sim.settings(&json!({"answers": {"latency_ms": 20}})).await;
    let lines = Lines { queue: "lease = \"1s\"", ..EIGHT_AT_ONCE };
    let mut paused = site.daemon(lines).await;
    let standby = Daemon::start(&site.config(lines)).await;
    standby.wait_log(LIMIT, "standby").await;
    site.queue(600).await;
    site.sim_reaches("accepted=60").await;
    paused.pause();
    standby.wait_log(LIMIT, "leading").await;
    site.until_counts("the standby sends", |counts| counts.of("accepted") > 300).await;
    paused.resume();
    paused.wait_log(LIMIT, "lost leadership").await;
    site.until_counts("every row has an end", |counts| counts.only(&["accepted", "unknown"])).await;
    paused.wait_log(LIMIT, "standby").await;
    let counts = site.counts().await;
    assert!(counts.of("unknown") <= i64::try_from(MOST_UNKNOWN).unwrap(), "{counts:?}");
    site.assert_nothing_twice().await;
    let (sent, accepted) = (site.sent_references().await, site.references("accepted").await);
    assert!(accepted.is_subset(&sent));
    assert!((&sent - &accepted).is_subset(&site.references("unknown").await));
}

#[tokio::test]
async fn of_two_daemons_one_sends_and_the_other_takes_over_without_a_loss() {
    let site = Site::new("two").await;
    let lines = Lines { queue: "lease = \"1s\"", ..EIGHT_AT_ONCE };
    let mut first = site.daemon(lines).await;
    let mut second = Daemon::start(&site.config(lines)).await;
    second.wait_log(LIMIT, "standby").await;
    site.queue(400).await;
    site.sim_reaches("accepted=50").await;
    first.terminate();
    assert!(first.wait_exit(LIMIT).await.success());
    site.until_counts("the second sends the rest", |counts| counts.only(&["accepted"])).await;
    let _third = Daemon::start(&site.config(lines)).await;
    second.kill9();
    site.queue(50).await;
    site.until_counts("the third goes on", |counts| counts.only(&["accepted"])).await;
    site.assert_nothing_twice().await;
    assert_eq!(site.number("SELECT epoch FROM outboxd.leader").await, 3);
}

#[tokio::test]
async fn a_database_that_cuts_every_connection_costs_nothing() {
    let site = Site::new("terminated").await;
    let daemon = site.daemon(Lines { queue: "lease = \"1s\"", ..EIGHT_AT_ONCE }).await;
    site.queue(800).await;
    for round in 1..=4 {
        site.sim_reaches(&format!("accepted={}", round * 120)).await;
        site.run(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .await;
    }
    let counts = site.until_counts("every row is sent", |counts| counts.only(&["accepted"])).await;
    assert_eq!(counts.of("accepted"), 800, "{}", daemon.log());
    site.assert_nothing_twice().await;
    site.until_true("no wave is left", "SELECT NOT EXISTS (SELECT FROM outboxd.wave WHERE ids <> '{}')")
        .await;
}

#[tokio::test]
async fn a_cancel_or_an_edit_is_obeyed_although_the_row_was_read_already() {
    let site = Site::new("edit").await;
    let daemon = site.daemon(Lines { gateway: "concurrency = 1", ..Lines::default() }).await;
    site.freeze().await;
    let (first, _) = site.queue(10).await;
    site.sim_reaches("frozen=1").await;
    daemon.wait_log(LIMIT, "rows=10").await;
    // Two are under way; these are in memory, and in no wave.
    let [cancelled, edited, deleted, moved, corrected] = [4, 5, 6, 7, 8].map(|n| first + n);
    site.run(&format!(
        "SELECT sms.cancel({cancelled}); UPDATE sms.outbox SET body = 'edited' WHERE id = {edited}; \
         DELETE FROM sms.outbox WHERE id = {deleted}; \
         UPDATE sms.outbox SET send_after = now() + interval '1 h' WHERE id = {moved}; \
         UPDATE sms.outbox SET recipient = 'nonsense' WHERE id = {corrected}"
    ))
    .await;
    site.thaw().await;
    assert_eq!(site.in_ledger(&site.until(edited, "accepted").await).await["text"], "edited");
    assert_eq!(site.until(corrected, "failed").await.code(), "bad_number");
    site.until_counts("all others are sent", |counts| counts.of("accepted") == 6).await;
    assert_eq!(site.row(cancelled).await.status, "cancelled");
    assert_eq!(site.row(moved).await.status, "queued");
    assert_eq!(site.sim_count("accepted").await, 6);
    site.assert_nothing_twice().await;
}

#[tokio::test]
async fn a_cancel_that_came_too_late_gives_way_to_the_truth() {
    let site = Site::new("late_cancel").await;
    let _daemon = site.daemon(EIGHT_AT_ONCE).await;
    site.freeze().await;
    let (id, _) = site.queue(1).await;
    site.sim_reaches("frozen=1").await;
    site.run(&format!("SELECT sms.cancel({id})")).await;
    assert_eq!(site.row(id).await.status, "cancelled");
    site.thaw().await;
    let row = site.until(id, "accepted").await;
    assert_eq!((row.attempts, row.finished, row.error), (1, false, None));
}

#[tokio::test]
async fn a_row_that_is_locked_or_deleted_in_flight_stops_nobody_else() {
    let site = Site::new("locked").await;
    let daemon = site.daemon(EIGHT_AT_ONCE).await;
    site.freeze().await;
    let (first, _) = site.queue(4).await;
    site.sim_reaches("frozen=4").await;
    let (locked, deleted) = (first + 1, first + 2);
    let mut other = site.db.client().await;
    let lock = other.transaction().await.unwrap();
    lock.execute("SELECT FROM sms.outbox WHERE id = $1 FOR UPDATE", &[&locked]).await.unwrap();
    site.run(&format!("DELETE FROM sms.outbox WHERE id = {deleted}")).await;
    site.thaw().await;
    site.until(first, "accepted").await;
    site.until(first + 3, "accepted").await;
    // And the daemon goes on while the lock is held.
    site.queue(100).await;
    site.until_counts("all but the locked one are sent", |counts| counts.of("accepted") == 102).await;
    assert_eq!(site.row(locked).await.status, "queued");
    let note =
        "SELECT count(*) = 1 FROM outboxd.attempt WHERE message_id = ".to_owned() + &deleted.to_string();
    site.until_true("what was sent for the deleted row is noted", &note).await;
    lock.rollback().await.unwrap();
    assert_eq!(site.until(locked, "accepted").await.attempts, 1);
    site.assert_nothing_twice().await;
    assert!(!daemon.log().contains("ERROR"), "{}", daemon.log());
}

#[tokio::test]
async fn a_result_that_the_database_refuses_holds_up_no_other() {
    let site = Site::new("refused_record").await;
    let daemon = site.daemon(EIGHT_AT_ONCE).await;
    site.freeze().await;
    let (first, last) = site.queue(8).await;
    site.sim_reaches("frozen=8").await;
    site.run(&format!(
        "CREATE FUNCTION public.fault() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN PERFORM pg_sleep(0.02); RAISE EXCEPTION 'a fault of the test'; END $$;
         CREATE TRIGGER fault BEFORE UPDATE ON sms.outbox FOR EACH ROW WHEN (NEW.id = {first})
             EXECUTE FUNCTION public.fault()"
    ))
    .await;
    site.thaw().await;
    site.until_counts("all others are recorded", |counts| counts.of("accepted") == last - first).await;
    daemon.wait_log(LIMIT, "PostgreSQL refuses to take a result").await;
    site.run("DROP TRIGGER fault ON sms.outbox").await;
    assert_eq!(site.until(first, "accepted").await.attempts, 1);
    site.assert_nothing_twice().await;
}

/// A record that fits no row is followed by a look at the row. That may fail while everything before it went well.
#[tokio::test]
async fn a_look_at_a_row_that_fails_after_a_record_drops_no_result() {
    let site = Site::new("read_states").await;
    site.run(
        "CREATE TABLE public.fault ();
         CREATE FUNCTION public.fault() RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $$
         BEGIN
             IF current_query() LIKE '%outboxd: read_states%' AND EXISTS (SELECT FROM public.fault) THEN
                 RAISE EXCEPTION 'a fault of the test';
             END IF;
             RETURN true;
         END $$;
         CREATE POLICY fault ON sms.outbox AS RESTRICTIVE FOR SELECT TO outboxd_daemon USING (public.fault())",
    )
    .await;
    let daemon = site.daemon(EIGHT_AT_ONCE).await;
    site.freeze().await;
    let (first, last) = site.queue(6).await;
    site.sim_reaches("frozen=6").await;
    let (locked, changed) = (first, first + 1);
    site.run(&format!(
        "UPDATE sms.outbox SET status = 'delivered', final_at = now() WHERE id = {changed}; \
         INSERT INTO public.fault DEFAULT VALUES"
    ))
    .await;
    let mut other = site.db.client().await;
    let lock = other.transaction().await.unwrap();
    lock.execute("SELECT FROM sms.outbox WHERE id = $1 FOR UPDATE", &[&locked]).await.unwrap();
    site.thaw().await;
    daemon.wait_log(LIMIT, "a fault of the test").await;
    site.until(last, "accepted").await;
    lock.rollback().await.unwrap();
    site.run("DELETE FROM public.fault").await;
    assert_eq!(site.until(locked, "accepted").await.attempts, 1);
    let note = format!("SELECT count(*) = 1 FROM outboxd.attempt WHERE message_id = {changed}");
    site.until_true("what was sent for the changed row is noted", &note).await;
    site.until_true("every place is free again", "SELECT NOT EXISTS (SELECT FROM outboxd.wave)").await;
    site.assert_nothing_twice().await;
}

#[tokio::test]
async fn a_takeover_waits_for_a_locked_row_rather_than_forget_that_it_was_sent() {
    let site = Site::new("locked_takeover").await;
    let mut daemon = site.daemon(EIGHT_AT_ONCE).await;
    site.freeze().await;
    let (id, _) = site.queue(1).await;
    site.sim_reaches("frozen=1").await;
    daemon.kill9();
    site.thaw().await;
    let mut other = site.db.client().await;
    let lock = other.transaction().await.unwrap();
    lock.execute("SELECT FROM sms.outbox WHERE id = $1 FOR UPDATE", &[&id]).await.unwrap();
    let daemon = Daemon::start(&site.config(EIGHT_AT_ONCE)).await;
    let waiting = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() \
                   AND wait_event_type = 'Lock' AND query LIKE '%mark_unknown%')";
    site.until_true("the takeover waits for the row", waiting).await;
    assert!(!daemon.log().contains("leading"));
    lock.rollback().await.unwrap();
    daemon.wait_log(LIMIT, "leading").await;
    assert_eq!(site.until(id, "unknown").await.attempts, 1);
    assert_eq!(site.sim_count("accepted").await, 1);
}

#[tokio::test]
async fn a_hold_from_sql_stops_everything_until_the_resume() {
    let site = Site::new("hold").await;
    let daemon = site.daemon(EIGHT_AT_ONCE).await;
    site.run("SELECT sms.hold('wrong price list')").await;
    daemon.wait_log(Duration::from_secs(2), "everything is held").await;
    let (id, _) = site.queue(20).await;
    site.until_true(
        "the view says so",
        "SELECT all_held AND held_reason = 'wrong price list' FROM sms.health",
    )
    .await;
    // A daemon that starts meanwhile is bound by it as well.
    drop(daemon);
    let _daemon = site.daemon(EIGHT_AT_ONCE).await;
    assert_eq!(site.counts().await.of("queued"), 20);
    assert_eq!(site.row(id).await.attempts, 0);
    site.run("SELECT sms.resume()").await;
    site.until_counts("it goes on", |counts| counts.only(&["accepted"])).await;
    site.until_true("the hold is over", "SELECT NOT all_held AND held_reason IS NULL FROM sms.health").await;
}

#[tokio::test]
async fn a_hold_in_a_drain_lets_end_what_was_begun_and_begins_nothing() {
    let site = Site::new("hold_drain").await;
    let daemon = site.daemon(EIGHT_AT_ONCE).await;
    freeze_in_the_middle(&site, 400).await;
    site.run("SELECT sms.hold()").await;
    daemon.wait_log(LIMIT, "everything is held").await;
    let before = site.sim_count("accepted").await;
    site.thaw().await;
    site.sim_reaches("idle=1").await;
    let sent = site.sim_count("accepted").await;
    assert_eq!(sent, before + 8);
    let counts = site
        .until_counts("what was begun is recorded", |counts| {
            u64::try_from(counts.of("accepted")).is_ok_and(|n| n == sent)
        })
        .await;
    assert!(counts.only(&["accepted", "queued"]), "{counts:?}");
    site.run("SELECT sms.resume()").await;
    site.until_counts("it goes on", |counts| counts.only(&["accepted"])).await;
    site.assert_nothing_twice().await;
}

#[tokio::test]
async fn a_copy_of_the_database_sends_nothing_until_a_person_adopts_it() {
    let site = Site::new("copy").await;
    let daemon = site.daemon(EIGHT_AT_ONCE).await;
    drop(daemon);
    // As if the rows had come from another cluster.
    site.run("UPDATE outboxd.leader SET system_identifier = system_identifier - 1").await;
    let (id, _) = site.queue(5).await;
    let daemon = site.daemon(EIGHT_AT_ONCE).await;
    daemon.wait_log(LIMIT, "outboxd adopt").await;
    assert_eq!(site.alarms().await, [("database_changed".to_owned(), String::new())]);
    let error = site.sql.execute("SELECT sms.resume()", &[]).await.unwrap_err();
    assert!(error.as_db_error().unwrap().message().contains("not the database"), "{error:?}");
    assert_eq!(site.counts().await.of("queued"), 5);
    assert_eq!(site.row(id).await.attempts, 0);

    let database = outboxd::config::connection(&site.db.daemon_url().await).unwrap();
    let store = outboxd::store::Store::open(&database).unwrap();
    let present = store.standing().await.unwrap().present;
    assert!(store.adopt(present).await.unwrap().was_held.unwrap().contains("copy"));
    site.until_counts("it sends", |counts| counts.only(&["accepted"])).await;
    assert_eq!(site.alarms().await, []);
}

#[tokio::test]
async fn kill_after_kill_loses_and_doubles_nothing() {
    let site = Site::with_receipts("kills").await;
    site.sim.settings(&json!({"answers": {"latency_ms": 3, "jitter_ms": 10}})).await;
    let lines = Lines { receipts: true, ..EIGHT_AT_ONCE };
    site.queue(800).await;
    for round in 1..=6 {
        let mut daemon = site.daemon(lines).await;
        site.sim_reaches(&format!("accepted={}", round * 90)).await;
        daemon.kill9();
    }
    let _daemon = site.daemon(lines).await;
    site.until_counts("every row has an end", |counts| counts.only(&["delivered", "unknown"])).await;
    eventually(LIMIT, "what was sent is delivered", async || {
        let (sent, delivered) = (site.sent_references().await, site.references("delivered").await);
        if sent == delivered { Ok(()) } else { Err(&sent - &delivered) }
    })
    .await;
    let counts = site.counts().await;
    assert_eq!(counts.of("delivered") + counts.of("unknown"), 800);
    assert!(counts.of("unknown") <= 6 * i64::try_from(MOST_UNKNOWN).unwrap(), "{counts:?}");
    site.assert_nothing_twice().await;
}

#[tokio::test]
async fn a_log_that_takes_nothing_stops_no_message() {
    let site = Site::new("full_log").await;
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut daemon = Daemon::spawn_with(&site.config(EIGHT_AT_ONCE), |command| {
        command.stderr(full);
    });
    site.queue(20).await;
    site.until_counts("all are sent", |counts| counts.of("accepted") == 20).await;
    daemon.terminate();
    assert!(daemon.wait_exit(LIMIT).await.success());
}

#[tokio::test]
async fn a_changed_configuration_is_taken_over_in_a_drain_and_a_wrong_one_is_not() {
    let site = Site::new("reload").await;
    let mut daemon = site.daemon(EIGHT_AT_ONCE).await;
    site.queue(600).await;
    site.sim_reaches("accepted=50").await;
    daemon.rewrite("[database]\nurl = 7\n");
    daemon.signal(rustix::process::Signal::HUP);
    daemon.wait_log(LIMIT, "was not taken over").await;
    daemon.rewrite(&site.config(Lines { more: "", ..EIGHT_AT_ONCE }).replace("\"Demo\"", "\"Changed\""));
    daemon.signal(rustix::process::Signal::HUP);
    daemon.wait_log(LIMIT, "configuration read again").await;
    site.until_counts("all are sent", |counts| counts.only(&["accepted"])).await;
    let (last, _) = site.queue(1).await;
    let row = site.until(last, "accepted").await;
    assert_eq!(site.in_ledger(&row).await["sender"], "Changed");
    site.assert_nothing_twice().await;
}

#[tokio::test]
async fn a_stop_in_a_reload_is_not_forgotten() {
    let site = Site::new("reload_stop").await;
    let lines = Lines { queue: "shutdown_grace = \"20s\"", ..EIGHT_AT_ONCE };
    let mut daemon = site.daemon(lines).await;
    freeze_in_the_middle(&site, 300).await;
    daemon.signal(rustix::process::Signal::HUP);
    daemon.wait_log(LIMIT, "stopping").await;
    daemon.terminate();
    site.thaw().await;
    assert!(daemon.wait_exit(LIMIT).await.success());
    assert!(!daemon.log().contains("configuration read again"), "it ended instead");
    assert!(site.counts().await.only(&["queued", "accepted"]), "and waited for its answers");
}

#[tokio::test]
async fn a_reload_that_cannot_be_used_ends_no_daemon() {
    let site = Site::new("reload_useless").await;
    let mut daemon = site.daemon(EIGHT_AT_ONCE).await;
    daemon.rewrite(&site.config(Lines { gateway: "ca_file = \"/nonexistent/ca.pem\"", ..EIGHT_AT_ONCE }));
    daemon.signal(rustix::process::Signal::HUP);
    daemon.wait_log(LIMIT, "was not taken over").await;
    let (id, _) = site.queue(1).await;
    site.until(id, "accepted").await;
}

#[tokio::test]
async fn a_reload_while_the_database_is_away_ends_no_daemon() {
    let site = Site::new("reload_early").await;
    let config = site.config(EIGHT_AT_ONCE);
    let mut daemon = Daemon::spawn(&config.replace(site.db.name(), "not_there"));
    daemon.wait_log(LIMIT, "waiting for the database").await;
    daemon.rewrite(&config);
    daemon.signal(rustix::process::Signal::HUP);
    daemon.wait_log(LIMIT, "leading").await;
    let (id, _) = site.queue(1).await;
    site.until(id, "accepted").await;
}
