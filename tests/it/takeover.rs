//! When the leader goes, a standby leads soon, and in between nothing is lost and nothing is sent twice.
//!
//! Times are measured from the fault to the successor's `leading` and to its first request, and printed.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::books::Committed;
use crate::support::daemon::Daemon;
use crate::support::figures::Figures;
use crate::support::site::{LIMIT, Lines, Site};
use crate::support::wire::{Calls, Door, Fault, Wire};

const SHORT_LEASE: Duration = Duration::from_secs(1);
const LINES: Lines<'_> =
    Lines { queue: "lease = \"1s\"", gateway: "concurrency = 8", more: "", receipts: false };
/// What a busy machine may add to a bound.
const ALLOWANCE: Duration = Duration::from_secs(2);

/// Daemons on one outbox, of which one leads.
struct Race {
    site: Site,
    leading: Figures,
    sending: Figures,
}

impl Race {
    async fn new(hint: &str) -> Race {
        let site = Site::new(hint).await;
        Race { site, leading: Figures::default(), sending: Figures::default() }
    }

    async fn standby(&self, config: &str) -> Daemon {
        let standby = Daemon::start(config).await;
        standby.wait_log(LIMIT, "standby").await;
        standby
    }

    /// Makes the fault, inserts a row, and measures how long it takes until `successor` leads once more and its first
    /// request is there.
    async fn measure(&mut self, successor: &Daemon, bound: Duration, fault: impl FnOnce()) {
        let (terms, requests) = (successor.logged("leading"), self.site.sim_count("requests").await);
        let begun = Instant::now();
        fault();
        self.site.queue(1).await;
        let leading = async {
            successor.until_logged(terms + 1, "leading").await;
            begun.elapsed()
        };
        let sending = async {
            self.site.sim_reaches(&format!("requests={}", requests + 1)).await;
            begun.elapsed()
        };
        let (leading, sending) = tokio::join!(leading, sending);
        assert!(leading < bound + ALLOWANCE, "it took {leading:?}, the bound is {bound:?}");
        self.leading.add(leading);
        self.sending.add(sending);
    }

    async fn end(self, what: &str) {
        eprintln!("{what}: leading {}, first request {}", self.leading, self.sending);
        self.site.until_counts("every row is sent", |counts| counts.only(&["accepted"])).await;
        self.site.assert_nothing_twice().await;
    }
}

/// However long the lease: the server sees a killed leader's connection end at once, so that only the standby's pause
/// between two tries counts.
#[tokio::test]
async fn a_standby_leads_within_a_second_after_the_leader_is_killed() {
    let mut race = Race::new("killed").await;
    let second = Duration::from_secs(1);
    let lease = |lease: &'static str| Lines { queue: lease, ..LINES };
    let mut leader = race.site.daemon(LINES).await;
    for round in 0..12 {
        let lease = lease(["lease = \"5s\"", "lease = \"60s\"", "lease = \"1s\""][round % 3]);
        let standby = race.standby(&race.site.config(lease)).await;
        race.measure(&standby, second, || leader.kill9()).await;
        leader = standby;
    }
    assert!(race.leading.median() < second, "{}", race.leading);
    race.end("killed").await;
}

#[tokio::test]
async fn a_standby_leads_within_the_lease_and_a_second_after_the_leader_is_paused() {
    let mut race = Race::new("paused").await;
    let mut leader = race.site.daemon(LINES).await;
    let mut standby = race.standby(&race.site.config(LINES)).await;
    for _ in 0..8 {
        race.measure(&standby, SHORT_LEASE + Duration::from_secs(1), || leader.pause()).await;
        let waits = leader.logged("standby");
        leader.resume();
        leader.until_logged(waits + 1, "standby").await;
        std::mem::swap(&mut leader, &mut standby);
    }
    race.end("paused, lease 1 s").await;
}

#[tokio::test]
async fn with_the_default_lease_a_paused_leader_is_replaced_within_six_seconds() {
    let mut race = Race::new("paused_default").await;
    let lines = Lines { queue: "", ..LINES };
    let mut leader = race.site.daemon(lines).await;
    let standby = race.standby(&race.site.config(lines)).await;
    race.measure(&standby, Duration::from_secs(6), || leader.pause()).await;
    leader.resume();
    leader.until_logged(1, "standby").await;
    race.end("paused, lease 5 s").await;
}

/// The configuration of a daemon that reaches its database through the proxy, and is not patient with it.
fn through(wire: &Wire, site: &Site) -> String {
    site.config(LINES)
        .replace(&site.daemon_url, &wire.url(&site.db.role("daemon"), site.db.name()))
        .replace("[database]\n", "[database]\ntimeout = \"2s\"\n")
}

/// Half-open: nothing passes any more, not even the end of a connection.
fn cut_off(wire: &Wire) {
    wire.door(Door::Silent);
    wire.plan(Calls::any().always(), Fault::Silence);
}

/// New connections are what they should be; the old ones stay as they are.
fn heal(wire: &Wire) {
    wire.lift();
    wire.door(Door::Open);
}

#[tokio::test]
async fn a_standby_leads_within_the_lease_and_a_second_after_the_leader_is_cut_off() {
    let mut race = Race::new("cut_off").await;
    let wire = Wire::to_cluster();
    let config = race.site.config(LINES);
    let through_wire = through(&wire, &race.site);
    let leader = Daemon::start(&through_wire).await;
    leader.wait_log(LIMIT, "leading").await;
    for round in 1..=4 {
        let mut standby = race.standby(&config).await;
        race.measure(&standby, SHORT_LEASE + Duration::from_secs(1), || cut_off(&wire)).await;
        leader.until_logged(round, "lost leadership").await;
        heal(&wire);
        leader.until_logged(round, "standby").await;
        // The one that was cut off is as good as any other.
        standby.kill9();
        leader.until_logged(round + 1, "leading").await;
    }
    race.end("cut off, lease 1 s").await;
}

/// The same in the middle of a drain: what the leader had under way when it was cut off is called unknown, and turns out
/// to be accepted when its process can say so.
#[tokio::test]
async fn a_leader_that_is_cut_off_in_a_drain_tells_what_it_knows_when_it_is_back() {
    let site = Site::new("cut_off_drain").await;
    site.sim.settings(&json!({"answers": {"latency_ms": 20}})).await;
    let wire = Wire::to_cluster();
    let through_wire = through(&wire, &site);
    let leader = Daemon::start(&through_wire).await;
    leader.wait_log(LIMIT, "leading").await;
    let standby = Daemon::start(&site.config(LINES)).await;
    standby.wait_log(LIMIT, "standby").await;
    site.queue(600).await;
    site.sim_reaches("accepted=100").await;
    cut_off(&wire);
    standby.wait_log(LIMIT, "leading").await;
    site.until_counts("the standby sends the rest", |counts| counts.only(&["accepted", "unknown"])).await;
    assert!(site.counts().await.of("unknown") > 0, "the leader had messages under way");
    heal(&wire);
    site.until_counts("and the first tells what it knew", |counts| counts.only(&["accepted"])).await;
    site.assert_nothing_twice().await;
    leader.assert_memory_bounded();
}

/// A leader that stops between two statements of a transaction holds the locks of its rows, and no lease ends that.
#[tokio::test]
async fn a_leader_that_is_cut_off_in_a_transaction_does_not_keep_its_rows_from_the_successor() {
    let site = Site::new("cut_off_transaction").await;
    let wire = Wire::to_cluster();
    let through_wire = through(&wire, &site);
    let leader = Daemon::start(&through_wire).await;
    leader.wait_log(LIMIT, "leading").await;
    let standby = Daemon::start(&site.config(LINES)).await;
    standby.wait_log(LIMIT, "standby").await;
    site.freeze().await;
    let (first, _) = site.queue(4).await;
    site.sim_reaches("frozen=4").await;
    // A locked row makes the recorder write the others in a transaction of two statements.
    let mut other = site.db.client().await;
    let lock = other.transaction().await.unwrap();
    lock.execute("SELECT FROM sms.outbox WHERE id = $1 FOR UPDATE", &[&first]).await.unwrap();
    let committing = wire.plan(Calls::running("commit(record)"), Fault::Silence);
    site.thaw().await;
    committing.reached(LIMIT).await;
    cut_off(&wire);
    let begun = Instant::now();
    lock.rollback().await.unwrap();
    standby.wait_log(LIMIT, "leading").await;
    let took = begun.elapsed();
    assert!(took < SHORT_LEASE + Duration::from_secs(4), "it took {took:?}");
    heal(&wire);
    site.until_counts("the first tells what it knew", |counts| counts.only(&["accepted"])).await;
    site.assert_nothing_twice().await;
}

/// The token is late, so that the requests of a committed wave have not begun to leave when the leader is paused.
#[tokio::test]
async fn a_leader_that_is_paused_before_its_requests_have_left_sends_none_of_them_when_it_wakes_up() {
    let site = Site::new("paused_before_leaving").await;
    site.sim.script(&json!({"do": {"late": {"ms": 3_000}}, "on": "token"})).await;
    let mut paused = site.daemon(LINES).await;
    site.queue(200).await;
    site.until_true("a wave is committed", "SELECT EXISTS (SELECT FROM outboxd.wave)").await;
    site.sim_reaches("in_flight=1").await;
    paused.pause();
    let standby = Daemon::start(&site.config(LINES)).await;
    site.until_counts("the successor sends all others", |counts| counts.only(&["accepted", "unknown"])).await;
    let (sent, unknown) = (site.sim_count("requests").await, site.counts().await.of("unknown"));
    assert!((1..=16).contains(&unknown) && sent + u64::try_from(unknown).unwrap() == 200, "{sent} {unknown}");
    // Its token comes while it sleeps.
    site.sim_reaches("idle=1").await;
    paused.resume();
    site.until_counts("what never left is queued again and sent", |counts| counts.only(&["accepted"])).await;
    site.assert_nothing_twice().await;
    assert_eq!(site.sim_count("requests").await, 200);
    assert!(!standby.log().contains("lost leadership"), "the successor has sent all of them");
}

/// Random numbers of a test, from a seed that it prints.
struct Dice(u64);

impl Dice {
    fn new() -> Dice {
        let seed = RandomState::new().hash_one(0);
        eprintln!("seed {seed}");
        Dice(seed)
    }

    fn below<T: TryFrom<u64> + TryInto<u64>>(&mut self, end: T) -> T {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (Ok(end), number) = (end.try_into(), self.0 >> 33) else { panic!("a negative end") };
        T::try_from(number % end).ok().expect("below an end that fits")
    }
}

#[tokio::test]
async fn of_many_daemons_that_are_paused_at_random_none_sends_what_another_has_sent() {
    let mut dice = Dice::new();
    for count in [3, 4] {
        let site = Site::new("paused_at_random").await;
        site.sim.settings(&json!({"answers": {"latency_ms": 10, "jitter_ms": 30}})).await;
        let mut daemons = vec![site.daemon(LINES).await];
        while daemons.len() < count {
            daemons.push(Daemon::start(&site.config(LINES)).await);
        }
        let mut committed = Committed::default();
        for round in 0..8 {
            site.queue_texts(&mut committed, &format!("round {round}"), 120).await;
            // Mostly the leader, and perhaps one that is to succeed it. How long a pause lasts is part of the fault: some
            // end within the lease, some beyond it.
            let leader = "SELECT split_part(reverse(daemon), '-', 2) FROM outboxd.leader";
            let pid: String = site.sql.query_one(leader, &[]).await.unwrap().get(0);
            let pid: u32 = pid.chars().rev().collect::<String>().parse().unwrap();
            let leader = daemons.iter().position(|daemon| daemon.pid() == pid).unwrap();
            let one = if dice.below(4) > 0 { leader } else { dice.below(count) };
            let other = dice.below(count);
            for (pause, until) in [(Some(one), 80), (Some(other), 1_800), (None, 700)] {
                if let Some(index) = pause {
                    daemons[index].pause();
                }
                tokio::time::sleep(Duration::from_millis(dice.below(until))).await;
            }
            daemons[one].resume();
            tokio::time::sleep(Duration::from_millis(dice.below(300))).await;
            daemons[other].resume();
        }
        // Every process lives, so every outcome becomes known.
        site.until_all_sent(&committed).await;
        eprintln!("{count} daemons, {} terms", site.number("SELECT epoch FROM outboxd.leader").await);
        daemons.iter().for_each(Daemon::assert_memory_bounded);
    }
}
