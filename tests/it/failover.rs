//! The database fails over to its streaming replica, with and without its last commits, and whoever sent lives through
//! it, is late, or is gone as well.

use outboxd::engine::failover::settled;

use crate::support::books::Committed;
use crate::support::cli::Cli;
use crate::support::cluster::Stop;
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::pair::{Pair, Replication};
use crate::support::site::{LIMIT, Lines, Site};
use crate::support::wire::{Calls, Door, Fault, Planned, Upstream, Wire};

/// What may stand in waves of a gateway that answers at once.
const MOST_UNKNOWN: i64 = 8 * 8;
/// A short lease: who is silent after a failover is waited for two of them.
const QUICK: Lines<'_> =
    Lines { queue: "lease = \"1s\"", gateway: "concurrency = 8", more: "", receipts: false };
/// Long enough for a daemon to wake up and speak on a busy machine.
const PATIENT: Lines<'_> = Lines { queue: "lease = \"10s\"", ..QUICK };

/// Queues messages with these numbers, and enters them in the book of what was committed.
async fn queue(site: &Site, committed: &mut Committed, numbers: std::ops::Range<i32>) {
    let sql = "INSERT INTO sms.outbox (recipient, body) SELECT '+35387' || lpad(n::text, 7, '0'), 'text ' || n \
               FROM generate_series($1::int, $2::int) AS n";
    site.sql.execute(sql, &[&numbers.start, &(numbers.end - 1)]).await.unwrap();
    committed.add_all(numbers.map(|n| format!("text {n}")));
}

async fn accepted_at_least(site: &Site, count: u64) {
    site.sim_reaches(&format!("accepted={count}")).await;
}

async fn set_aside(site: &Site) -> i64 {
    site.number("SELECT count(*) FROM sms.outbox WHERE held AND error_code = 'failover_uncertain'").await
}

/// The primary dies in the middle of a drain, with whatever had not been shipped.
async fn fail_over(pair: &mut Pair, site: &mut Site) {
    pair.primary.stop(Stop::Kill).await;
    site.sim_reaches("idle=1").await;
    let sent = site.sim_count("accepted").await;
    let promoted = pair.promote(site).await;
    accepted_at_least(site, sent + 1).await;
    eprintln!("first message {:?} after the promotion", promoted.elapsed());
}

#[tokio::test]
async fn through_a_synchronous_failover_nothing_is_lost_doubled_or_held() {
    let mut pair = Pair::start(Replication::Synchronous).await;
    let mut site = pair.site("sync", false).await;
    let mut committed = Committed::default();
    let _daemon = site.daemon(QUICK).await;
    queue(&site, &mut committed, 0..600).await;
    accepted_at_least(&site, 100).await;
    fail_over(&mut pair, &mut site).await;
    queue(&site, &mut committed, 600..700).await;
    site.until_all_sent(&committed).await;
    assert_eq!(site.alarms().await, []);
}

/// Whichever of the two leads then. A wave whose commit the failover left in doubt may be unknown: the standby finds it in
/// the replica, and cannot know that its leader sent nothing of it.
#[tokio::test]
async fn a_synchronous_failover_beside_a_standby_leaves_little_unknown_and_sent_none_of_it() {
    let mut pair = Pair::start(Replication::Synchronous).await;
    let mut site = pair.site("sync_two", false).await;
    let mut committed = Committed::default();
    let _leader = site.daemon(QUICK).await;
    let standby = Daemon::start(&site.config(QUICK)).await;
    standby.wait_log(LIMIT, "standby").await;
    queue(&site, &mut committed, 0..600).await;
    accepted_at_least(&site, 100).await;
    fail_over(&mut pair, &mut site).await;
    queue(&site, &mut committed, 600..700).await;
    let counts = site
        .until_counts("all have an end, and all answers are in", |counts| {
            counts.only(&["accepted", "unknown"]) && counts.of("unknown") <= MOST_UNKNOWN
        })
        .await;
    let sent = i64::try_from(site.sim_count("accepted").await).unwrap();
    assert_eq!(counts.of("accepted"), sent, "what is unknown was not sent");
    site.assert_books(&committed).await;
    assert_eq!(site.alarms().await, []);
}

#[tokio::test]
async fn a_daemon_that_lives_through_an_asynchronous_failover_loses_and_doubles_nothing() {
    let mut pair = Pair::start(Replication::Asynchronous).await;
    let mut site = pair.site("async", false).await;
    let mut committed = Committed::default();
    let _leader = site.daemon(QUICK).await;
    queue(&site, &mut committed, 0..900).await;
    accepted_at_least(&site, 100).await;
    pair.stop_shipping().await;
    accepted_at_least(&site, 500).await;
    // Acknowledged by a primary that then dies with them: lost, and nobody's fault here. Sent, they may be.
    queue(&site, &mut committed, 900..950).await;
    for n in 900..950 {
        committed.delete(&format!("text {n}"));
    }
    fail_over(&mut pair, &mut site).await;
    queue(&site, &mut committed, 1_000..1_050).await;
    site.until_all_sent(&committed).await;
    assert_eq!(site.alarms().await, []);
    // And the doorbell is relied upon as before: its register must have come along.
    site.run("SELECT setval('outboxd.register', 1)").await;
    site.until_true("it sleeps again", "SELECT last_value < 0 FROM outboxd.register").await;
}

/// Facts are not fenced: the former leader says what it sent, and its successor hears it out.
#[tokio::test]
async fn a_standby_that_takes_the_lead_first_does_not_send_again_what_the_former_leader_sent() {
    let mut pair = Pair::start(Replication::Asynchronous).await;
    let mut site = pair.site("successor", false).await;
    let mut committed = Committed::default();
    let mut former = site.daemon(PATIENT).await;
    let standby = Daemon::start(&site.config(PATIENT)).await;
    standby.wait_log(LIMIT, "standby").await;
    pair.catch_up().await;
    queue(&site, &mut committed, 0..300).await;
    pair.catch_up().await;
    pair.stop_shipping().await;
    accepted_at_least(&site, 200).await;
    // In flight, too, with an answer that the former leader gets later.
    site.freeze().await;
    site.sim_reaches("frozen=8").await;
    former.pause();
    pair.fail_over(&mut site).await;
    standby.wait_log(LIMIT, "waiting for the daemons").await;
    former.resume();
    standby.wait_log(LIMIT, "leading").await;
    site.thaw().await;
    site.until_all_sent(&committed).await;
    assert_eq!(site.alarms().await, []);
    former.wait_log(LIMIT, "written again from memory").await;
}

/// A leader whose way to the database is a wire, and a standby. Twenty messages are queued, and the replica has them; what
/// the leader writes of them is lost.
struct Unshipped {
    pair: Pair,
    site: Site,
    committed: Committed,
    wire: Wire,
    leader: Daemon,
    standby: Daemon,
    /// The leader's reading, which waits.
    reading: Planned,
}

impl Unshipped {
    async fn start(hint: &str, lines: Lines<'_>) -> Unshipped {
        let pair = Pair::start(Replication::Asynchronous).await;
        let mut site = pair.site(hint, false).await;
        let mut committed = Committed::default();
        let wire = Wire::start(Upstream::Tcp(pair.primary.address().parse().unwrap()));
        let both = site.daemon_url.clone();
        let role = both.parse::<tokio_postgres::Config>().unwrap().get_user().unwrap().to_owned();
        site.daemon_url = wire.url(&role, site.db.name());
        let leader = site.daemon(lines).await;
        site.daemon_url = both;
        let standby = Daemon::start(&site.config(lines)).await;
        standby.wait_log(LIMIT, "standby").await;
        site.freeze().await;
        let reading = wire.plan(Calls::running("discover").always(), Fault::StopBefore);
        queue(&site, &mut committed, 0..20).await;
        reading.reached(LIMIT).await;
        pair.catch_up().await;
        pair.stop_shipping().await;
        wire.lift();
        Unshipped { pair, site, committed, wire, leader, standby, reading }
    }

    /// The leader reads on until this is so.
    async fn until(&self, what: &str, so: impl AsyncFn() -> bool) {
        eventually(LIMIT, what, async || {
            self.reading.go_on();
            if so().await { Ok(()) } else { Err("not yet") }
        })
        .await;
    }

    /// The standby leads then: it has the lock before the other comes home.
    async fn fail_over(&mut self) {
        self.wire.door(Door::Reset);
        self.wire.lead_to(Upstream::Tcp(self.pair.replica.address().parse().unwrap()));
        self.pair.fail_over(&mut self.site).await;
        self.standby.wait_log(LIMIT, "waiting for the daemons").await;
        self.wire.door(Door::Open);
        self.standby.wait_log(LIMIT, "leading").await;
    }
}

/// Its wave was lost, and its successor has the same rows in a wave of its own: that nothing came of the lost one must not
/// be taken for the end of the other.
#[tokio::test]
async fn what_a_former_leader_gives_back_late_is_not_taken_from_its_successor() {
    let mut trial = Unshipped::start("given_back", PATIENT).await;
    let wave = trial.wire.plan(Calls::running("wave"), Fault::StopAfter);
    trial.until("a wave is committed, and nobody knows", async || wave.times() > 0).await;
    trial.fail_over().await;
    trial.site.sim_reaches("frozen=8").await;
    let given_back = trial.wire.plan(Calls::running("record"), Fault::StopAfter);
    wave.go_on();
    given_back.reached(LIMIT).await;
    given_back.go_on();
    trial.site.thaw().await;
    trial.site.until_all_sent(&trial.committed).await;
    assert_eq!(trial.site.alarms().await, []);
}

/// The site says that nobody is to be waited for. What the former leader had under way is sent twice then, and nothing else.
#[tokio::test]
async fn what_a_former_leader_had_not_begun_is_sent_once_by_who_goes_on_without_it() {
    let queue = "lease = \"1s\"\nafter_failover = \"send\"";
    let mut trial = Unshipped::start("not_begun", Lines { queue, ..QUICK }).await;
    let waiting = "SELECT cardinality(ids) > 8 FROM outboxd.wave ORDER BY seq LIMIT 1";
    trial.until("some of a wave has begun", async || trial.site.sim_count("frozen").await == 8).await;
    trial.site.until_true("some has not", waiting).await;
    trial.leader.pause();
    trial.fail_over().await;
    trial.site.sim_reaches("frozen=16").await;
    let spoken = trial.wire.plan(Calls::running("vouch"), Fault::StopAfter);
    trial.leader.resume();
    spoken.reached(LIMIT).await;
    spoken.go_on();
    let unknown = "SELECT count(*) = 8 FROM sms.outbox WHERE status = 'unknown'";
    trial.site.until_true("only what has left is unknown", unknown).await;
    trial.site.thaw().await;
    trial.site.until_counts("all are sent", |counts| counts.of("accepted") == 20).await;
    assert_eq!(trial.site.sim_count("accepted").await, 28);
}

#[tokio::test]
async fn a_former_leader_that_speaks_late_frees_what_was_set_aside() {
    let mut pair = Pair::start(Replication::Asynchronous).await;
    let mut site = pair.site("late", false).await;
    let mut committed = Committed::default();
    let mut former = site.daemon(QUICK).await;
    let standby = Daemon::start(&site.config(QUICK)).await;
    standby.wait_log(LIMIT, "standby").await;
    queue(&site, &mut committed, 0..300).await;
    accepted_at_least(&site, 50).await;
    pair.catch_up().await;
    pair.stop_shipping().await;
    accepted_at_least(&site, 150).await;
    former.pause();
    pair.fail_over(&mut site).await;
    standby.wait_log(LIMIT, "leading").await;
    // New messages go out, and nothing else does.
    let sent = site.sim_count("accepted").await;
    queue(&site, &mut committed, 300..320).await;
    accepted_at_least(&site, sent + 20).await;
    site.until_true("all that was due is set aside", "SELECT due = 0 AND held > 100 FROM sms.health").await;
    assert_eq!(site.sim_count("accepted").await, sent + 20);
    site.until_true(
        "an alarm says how many",
        "SELECT count(*) = 1 FROM outboxd.alarm, sms.health \
        WHERE cleared_at IS NULL AND code = 'failover_uncertain' AND text LIKE '% ' || held || ' messages %'",
    )
    .await;
    former.resume();
    site.until_all_sent(&committed).await;
    site.until_true("the alarm is over", "SELECT open_alarms = 0 AND held = 0 FROM sms.health").await;
}

#[tokio::test]
async fn where_database_and_daemon_are_lost_together_what_may_have_been_sent_waits_for_a_person() {
    let mut pair = Pair::start(Replication::Asynchronous).await;
    let mut site = pair.site("both_lost", false).await;
    let mut committed = Committed::default();
    let mut lost = site.daemon(QUICK).await;
    queue(&site, &mut committed, 0..300).await;
    accepted_at_least(&site, 50).await;
    let later = "(recipient, body, send_after) VALUES ('+353870009999', 'later', now() + interval '6 s')";
    let scheduled = site.insert(later).await;
    committed.add("later");
    pair.catch_up().await;
    pair.stop_shipping().await;
    accepted_at_least(&site, 150).await;
    pair.fail_over(&mut site).await;
    lost.kill9();
    let sent: Vec<String> =
        site.ledger().await.iter().map(|m| m["text"].as_str().unwrap().to_owned()).collect();

    let fresh = site.daemon(QUICK).await;
    queue(&site, &mut committed, 300..350).await;
    accepted_at_least(&site, u64::try_from(sent.len()).unwrap() + 50).await;
    site.until_true(
        "what was scheduled is set aside when it is due",
        &format!("SELECT held FROM sms.outbox WHERE id = {scheduled}"),
    )
    .await;
    site.until_true("nothing is due", "SELECT due = 0 FROM sms.health").await;
    assert_eq!(
        site.sim_count("accepted").await,
        u64::try_from(sent.len()).unwrap() + 50,
        "nothing else is sent"
    );
    let all = set_aside(&site).await;
    let unknown = site.counts().await.of("unknown");
    eprintln!("{} sent before, {all} set aside, {unknown} unknown", sent.len());

    // A person is told, and asked before anything goes out.
    let cli = Cli::with_database(&site.daemon_url);
    let text = cli.run(&["status"]).await.expect(1).stdout;
    assert!(text.contains(&format!("{all} messages set aside")) && text.contains("outboxd adopt"), "{text}");
    let code = ["--status", "held", "--code", "failover_uncertain"];
    let ended = cli.run(&[&["retry", "--force"], &code[..]].concat()).await.expect(1);
    assert!(ended.stderr.contains("outboxd adopt"), "{ended:?}");
    let text = cli.run(&["adopt"]).await.expect(0).stdout;
    assert!(text.contains("stay set aside"), "{text}");
    site.until(scheduled, "accepted").await;
    assert_eq!(set_aside(&site).await, all - 1, "the rest waits for a decision of its own");
    let ended = cli.run(&[&["retry"], &code[..]].concat()).await.expect(1);
    assert!(ended.stdout.contains("may have been sent"), "{ended:?}");
    // Somebody found out: what was sent is cancelled, the rest is to go.
    let sql = "SELECT sms.cancel(id) FROM sms.outbox WHERE held AND body = ANY ($1)";
    let cancelled = site.sql.query(sql, &[&sent]).await.unwrap().len();
    let ended = cli.run(&[&["retry", "--force"], &code[..]].concat()).await.expect(0);
    assert!(
        ended
            .stdout
            .contains(&format!("{} messages queued again", all - 1 - i64::try_from(cancelled).unwrap()))
    );
    site.until_counts("all have an end", |counts| counts.only(&["accepted", "cancelled", "unknown"])).await;
    site.assert_nothing_twice().await;
    site.until_true("nothing needs a person any more", "SELECT open_alarms = 0 FROM sms.health").await;
    assert!(!fresh.log().contains("ERROR"), "{}", fresh.log());
}

/// As where the application brings a time of its own, local and without a zone, or the primary's clock was set back: these rows
/// seem younger than the last that the replica has heard of.
#[tokio::test]
async fn what_seems_younger_than_the_failover_is_set_aside_if_its_id_tells_that_it_is_not() {
    let mut pair = Pair::start(Replication::Asynchronous).await;
    let mut site = pair.site("younger", false).await;
    let mut committed = Committed::default();
    let mut lost = site.daemon(QUICK).await;
    site.freeze().await;
    for (n, ahead) in ["7 h", "1 ms", "2 s"].into_iter().enumerate() {
        let first = i32::try_from(n).unwrap() * 100;
        let sql = "INSERT INTO sms.outbox (recipient, body, created_at) SELECT '+35387' || lpad(n::text, 7, '0'), \
                   'text ' || n, now() + $3::text::interval FROM generate_series($1::int, $2::int) AS n";
        site.sql.execute(sql, &[&first, &(first + 99), &ahead]).await.unwrap();
        committed.add_all((first..first + 100).map(|n| format!("text {n}")));
    }
    queue(&site, &mut committed, 300..310).await;
    pair.catch_up().await;
    pair.stop_shipping().await;
    site.thaw().await;
    accepted_at_least(&site, 250).await;
    pair.fail_over(&mut site).await;
    lost.kill9();
    let sent = site.sim_count("accepted").await;

    // What comes before somebody leads goes out, as what comes later.
    site.until_true(
        "the old primary's last commit is long enough ago",
        "SELECT clock_timestamp() > pg_last_xact_replay_timestamp() + interval '1 s'",
    )
    .await;
    queue(&site, &mut committed, 310..330).await;
    let _fresh = site.daemon(QUICK).await;
    accepted_at_least(&site, sent + 20).await;
    queue(&site, &mut committed, 330..350).await;
    accepted_at_least(&site, sent + 40).await;
    site.until_true("nothing is due", "SELECT due = 0 FROM sms.health").await;
    assert_eq!(site.sim_count("accepted").await, sent + 40);
    let all = set_aside(&site).await;
    assert_eq!(all + site.counts().await.of("unknown"), 310);

    // Adopting lets none of it go, and a person can.
    let cli = Cli::with_database(&site.daemon_url);
    cli.run(&["adopt"]).await.expect(0);
    site.until_true("it was looked at again", "SELECT open_alarms > 0 FROM sms.health").await;
    assert_eq!(set_aside(&site).await, all);
    let code = ["--status", "held", "--code", "failover_uncertain"];
    cli.run(&[&["retry", "--force"], &code[..]].concat()).await.expect(0);
    site.until_counts("all have an end", |counts| counts.only(&["accepted", "unknown"])).await;
    assert_eq!(set_aside(&site).await, 0);
}

#[tokio::test]
async fn what_may_have_been_sent_is_not_called_expired() {
    let mut pair = Pair::start(Replication::Asynchronous).await;
    let mut site = pair.site("lost_expired", false).await;
    let mut lost = site.daemon(QUICK).await;
    let mut committed = Committed::default();
    queue(&site, &mut committed, 0..300).await;
    accepted_at_least(&site, 50).await;
    pair.catch_up().await;
    pair.stop_shipping().await;
    accepted_at_least(&site, 150).await;
    pair.fail_over(&mut site).await;
    lost.kill9();
    site.run("UPDATE sms.outbox SET expires_at = now() - interval '1 h' WHERE status = 'queued'").await;
    let queued = site.counts().await.of("queued");
    let _fresh = site.daemon(QUICK).await;
    queue(&site, &mut committed, 300..310).await;
    site.until_true("the leader has looked at all of them", "SELECT due = 0 FROM sms.health").await;
    let counts = site.counts().await;
    assert_eq!(counts.of("expired"), 0, "{counts:?}");
    assert_eq!(set_aside(&site).await + counts.of("unknown"), queued, "{counts:?}");
}

#[tokio::test]
async fn a_takeover_that_is_killed_while_it_sets_aside_lets_nothing_out() {
    let mut pair = Pair::start(Replication::Asynchronous).await;
    let mut site = pair.site("killed", false).await;
    let mut committed = Committed::default();
    let mut lost = site.daemon(QUICK).await;
    site.freeze().await;
    queue(&site, &mut committed, 0..20_000).await;
    pair.catch_up().await;
    pair.stop_shipping().await;
    site.thaw().await;
    accepted_at_least(&site, 100).await;
    lost.kill9();
    pair.fail_over(&mut site).await;
    site.sim_reaches("idle=1").await;
    let sent = site.sim_count("accepted").await;
    for _ in 0..2 {
        let before = set_aside(&site).await;
        let mut daemon = Daemon::start(&site.config(QUICK)).await;
        eventually(LIMIT, "it sets aside", async || {
            let now = set_aside(&site).await;
            if now > before { Ok(()) } else { Err(now) }
        })
        .await;
        daemon.kill9();
    }
    let _daemon = site.daemon(QUICK).await;
    site.until_true("all is set aside", "SELECT due = 0 FROM sms.health").await;
    let counts = site.counts().await;
    assert_eq!(set_aside(&site).await + counts.of("unknown"), 20_000, "{counts:?}");
    assert_eq!(site.sim_count("accepted").await, sent);
}

#[tokio::test]
async fn a_site_that_says_so_goes_on_after_a_synchronous_failover_without_its_daemons() {
    let mut pair = Pair::start(Replication::Synchronous).await;
    let mut site = pair.site("send", false).await;
    let mut committed = Committed::default();
    let mut lost = site.daemon(QUICK).await;
    queue(&site, &mut committed, 0..400).await;
    accepted_at_least(&site, 100).await;
    lost.kill9();
    pair.fail_over(&mut site).await;
    let queue_lines = "lease = \"1s\"\nafter_failover = \"send\"";
    let _fresh = site.daemon(Lines { queue: queue_lines, ..QUICK }).await;
    let counts = site.until_counts("all have an end", |counts| counts.only(&["accepted", "unknown"])).await;
    assert!(counts.of("unknown") <= MOST_UNKNOWN, "{counts:?}");
    site.assert_books(&committed).await;
    assert_eq!(site.alarms().await, []);
}

#[tokio::test]
async fn after_a_stop_in_good_order_a_failover_leaves_nothing_uncertain() {
    let mut pair = Pair::start(Replication::Asynchronous).await;
    let mut site = pair.site("farewell", false).await;
    let mut committed = Committed::default();
    let mut daemon = site.daemon(QUICK).await;
    queue(&site, &mut committed, 0..400).await;
    accepted_at_least(&site, 100).await;
    daemon.terminate();
    assert!(daemon.wait_exit(LIMIT).await.success());
    pair.catch_up().await;
    pair.fail_over(&mut site).await;
    let _daemon = site.daemon(QUICK).await;
    site.until_all_sent(&committed).await;
    assert_eq!(site.alarms().await, []);
}

#[tokio::test]
async fn what_a_failover_forgot_is_written_again_even_if_that_fails_at_first() {
    let mut pair = Pair::start(Replication::Asynchronous).await;
    let mut site = pair.site("again", false).await;
    let mut daemon = site.daemon(QUICK).await;
    site.freeze().await;
    let (id, _) = site.queue(1).await;
    pair.catch_up().await;
    pair.stop_shipping().await;
    site.thaw().await;
    site.until(id, "accepted").await;
    daemon.pause();
    pair.fail_over(&mut site).await;
    assert_eq!(site.row(id).await.status, "queued");
    let mut client = site.db.client().await;
    let lock = client.transaction().await.unwrap();
    lock.execute("SELECT FROM sms.outbox WHERE id = $1 FOR UPDATE", &[&id]).await.unwrap();
    daemon.resume();
    let waiting = "SELECT query_start::text FROM pg_stat_activity WHERE datname = current_database() \
                   AND wait_event_type = 'Lock' AND query LIKE '%outboxd: reapply%'";
    let mut tries = std::collections::BTreeSet::new();
    eventually(LIMIT, "it tries again", async || {
        tries.extend(site.sql.query(waiting, &[]).await.unwrap().iter().map(|row| row.get::<_, String>(0)));
        if tries.len() > 1 { Ok(()) } else { Err(tries.clone()) }
    })
    .await;
    lock.rollback().await.unwrap();
    assert_eq!(site.until(id, "accepted").await.attempts, 1);
    let (next, _) = site.queue(1).await;
    site.until(next, "accepted").await;
    assert_eq!(site.sim_count("accepted").await, 2);
}

#[tokio::test]
async fn a_receipt_that_was_taken_and_lost_is_written_again() {
    let mut pair = Pair::start(Replication::Asynchronous).await;
    let mut site = pair.site("receipt", true).await;
    let _daemon = site.daemon(Lines { receipts: true, ..QUICK }).await;
    let mut committed = Committed::default();
    pair.catch_up().await;
    queue(&site, &mut committed, 0..10).await;
    site.until_counts("they are accepted", |counts| counts.of("accepted") + counts.of("delivered") == 10)
        .await;
    pair.catch_up().await;
    pair.stop_shipping().await;
    queue(&site, &mut committed, 10..20).await;
    for n in 10..20 {
        committed.delete(&format!("text {n}"));
    }
    site.until_counts("all are delivered", |counts| counts.of("delivered") == 20).await;
    pair.fail_over(&mut site).await;
    site.until_counts("what is left of them is", |counts| counts.of("delivered") == 10).await;
    site.assert_books(&committed).await;
    let (next, _) = site.queue(1).await;
    site.until_delivered(next).await;
}

/// A configuration that is read again makes a new engine, and not a new daemon that knows nothing.
#[tokio::test]
async fn a_reload_forgets_nothing_that_a_failover_may_lose() {
    let mut pair = Pair::start(Replication::Asynchronous).await;
    let mut site = pair.site("reload_memory", false).await;
    let mut committed = Committed::default();
    let mut daemon = site.daemon(QUICK).await;
    site.freeze().await;
    queue(&site, &mut committed, 0..50).await;
    pair.catch_up().await;
    pair.stop_shipping().await;
    site.thaw().await;
    site.until_all_sent(&committed).await;
    daemon.signal(rustix::process::Signal::HUP);
    daemon.wait_log(LIMIT, "configuration read again").await;
    site.until_true("it leads again", "SELECT epoch = 2 FROM outboxd.leader").await;
    pair.fail_over(&mut site).await;
    site.until_all_sent(&committed).await;
    assert_eq!(site.alarms().await, []);
}

/// The second of two failovers must not make the first forgotten, whose silent leader nobody asks any more.
#[tokio::test]
async fn after_two_uncertain_failovers_no_single_daemon_frees_what_was_set_aside() {
    let site = Site::new("two_failovers").await;
    let database = outboxd::config::connection(&site.db.daemon_url().await).unwrap();
    let store = outboxd::store::Store::open(&database).unwrap();
    let here = store.standing().await.unwrap().present;
    for leader in ["first", "second", "third"] {
        store.take_over(leader, here, None, leader != "first").await.unwrap();
        // It has said all it knows.
        let sql = format!(
            "INSERT INTO outboxd.daemon (instance, host, pid, version, role, started_at, seen_before) \
             VALUES ('{leader}', 'there', 1, '0', 'standby', now(), now())"
        );
        site.run(&sql).await;
        let freed = settled(&store.witnesses().await.unwrap());
        assert_eq!(freed, leader == "second", "with {leader} leading");
    }
}

/// As where the first primary's clock was ahead: what it made uncertain reaches beyond the second failover.
#[tokio::test]
async fn a_second_uncertain_failover_does_not_free_what_the_first_set_aside() {
    let site = Site::new("two_windows").await;
    let database = outboxd::config::connection(&site.db.daemon_url().await).unwrap();
    let store = outboxd::store::Store::open(&database).unwrap();
    let here = store.standing().await.unwrap().present;
    store.take_over("first", here, None, false).await.unwrap();
    site.run(
        "INSERT INTO sms.outbox (recipient, body, created_at, send_after) \
         SELECT '0871234567', 'text ' || n, now() + interval '7 h', now() + interval '1 min' FROM generate_series(1, 10) AS n",
    )
    .await;
    store.take_over("second", here, None, true).await.unwrap();
    site.run(
        "UPDATE sms.outbox SET held = true, error_code = 'failover_uncertain'; \
         UPDATE outboxd.leader SET uncertain_since = now() + interval '2 min'",
    )
    .await;
    for (leader, adopted) in [("third", false), ("fourth", true)] {
        let term = store.take_over(leader, here, None, true).await.unwrap();
        assert!(term.uncertain.is_some());
        if adopted {
            store.adopt(here).await.unwrap();
        }
        assert_eq!(store.release().await.unwrap(), 0, "with {leader} leading");
        assert_eq!(set_aside(&site).await, 10);
    }
}
