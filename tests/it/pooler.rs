//! PgBouncer in transaction pooling between the daemon and the server: everything works through it, with a way past it
//! for the lock and for LISTEN, and without one. Whatever becomes of it, nothing is lost and nothing sent twice.

use serde_json::json;

use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::pgbouncer::PgBouncer;
use crate::support::site::{LIMIT, Lines, Site};

const CONCURRENCY: usize = 8;
/// What may stand in waves of a gateway that answers at once.
const MOST_UNKNOWN: usize = 8 * CONCURRENCY;
/// The time in which a daemon that came to nothing is replaced.
const SHORT: Lines<'_> =
    Lines { queue: "lease = \"1s\"", gateway: "concurrency = 8", more: "", receipts: false };

/// The process that holds the leader's lock, as PostgreSQL sees it.
const HOLDER: &str = "FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid) \
                      WHERE l.locktype = 'advisory' AND l.granted AND a.datname = current_database()";

/// Where the lock and LISTEN go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direct {
    /// Past the pooler.
    Given,
    /// Nowhere else than everything.
    None,
}

/// A site whose database is reached through a pooler.
pub(crate) struct PooledSite {
    pub(crate) site: Site,
    pub(crate) bouncer: PgBouncer,
    /// The server itself, as the daemon's role.
    pub(crate) server: String,
}

impl PooledSite {
    pub(crate) async fn of(site: Site, settings: &str) -> PooledSite {
        let server = site.db.daemon_url().await;
        let bouncer = PgBouncer::start(&[site.db.role("daemon")], settings).await;
        PooledSite { site, bouncer, server }
    }

    /// The site's configuration with another `[database]`.
    pub(crate) fn config_with(&self, database: &str, lines: Lines<'_>) -> String {
        let plain = format!("url = \"{}\"", self.server);
        let config = self.site.config(lines);
        assert!(config.contains(&plain), "{config}");
        config.replace(&plain, database)
    }

    pub(crate) fn config(&self, direct: Direct, lines: Lines<'_>) -> String {
        let pooled = self.bouncer.url(&self.server);
        let mut database = format!("url = \"{pooled}\"\npooler = \"transaction\"");
        if direct == Direct::Given {
            database.push_str(&format!("\ndirect_url = \"{}\"", self.server));
        }
        self.config_with(&database, lines)
    }

    /// A daemon that leads.
    pub(crate) async fn daemon(&self, direct: Direct, lines: Lines<'_>) -> Daemon {
        let daemon = Daemon::start(&self.config(direct, lines)).await;
        daemon.wait_log(LIMIT, "leading").await;
        daemon
    }

    /// A second daemon beside one that leads.
    async fn standby(&self, direct: Direct, lines: Lines<'_>) -> Daemon {
        let daemon = Daemon::start(&self.config(direct, lines)).await;
        daemon.wait_log(LIMIT, "standby").await;
        daemon
    }

    async fn until_all_accepted(&self, count: i64) {
        let site = &self.site;
        let counts = site.until_counts("every row is sent", |counts| counts.only(&["accepted"])).await;
        assert_eq!(counts.of("accepted"), count);
        site.assert_nothing_twice().await;
    }

    /// Every row is accepted or unknown, what is accepted was sent, and what was sent is not queued.
    async fn until_settled_and_nothing_lost(&self, count: usize) {
        let site = &self.site;
        site.until_counts("every row has an end", |counts| counts.only(&["accepted", "unknown"])).await;
        site.sim_reaches("idle=1").await;
        let (unknown, accepted) = (site.references("unknown").await, site.references("accepted").await);
        assert_eq!(unknown.len() + accepted.len(), count);
        assert!(unknown.len() <= MOST_UNKNOWN, "{} are unknown", unknown.len());
        let sent = site.sent_references().await;
        assert!(accepted.is_subset(&sent) && (&sent - &accepted).is_subset(&unknown));
        site.assert_nothing_twice().await;
    }
}

async fn pooled(hint: &str, settings: &str) -> PooledSite {
    PooledSite::of(Site::new(hint).await, settings).await
}

async fn journey(direct: Direct) {
    let pooled = PooledSite::of(Site::with_receipts("pooler_journey").await, "").await;
    let site = &pooled.site;
    let lines = Lines { queue: "", gateway: "", more: "", receipts: true };
    let daemon = pooled.daemon(direct, lines).await;
    site.run(
        "INSERT INTO sms.template VALUES ('ready', '', 'Hi {name}, ready'); \
         INSERT INTO sms.outbox (recipient, template, params) VALUES ('0871234561', 'ready', '{\"name\": \"Áine\"}')",
    )
    .await;
    let templated = site.number("SELECT max(id) FROM sms.outbox").await;
    let row = site.until_delivered(templated).await;
    assert_eq!(site.in_ledger(&row).await["text"], "Hi Áine, ready");

    let urgent =
        site.insert("(recipient, body, lane) VALUES ('0871234562', 'Žluťoučký kůň', 'urgent')").await;
    let row = site.until_delivered(urgent).await;
    assert_eq!((row.attempts, row.encoding.as_deref(), row.error), (1, Some("ucs2"), None));

    let later = "now() + interval '1 s'";
    let scheduled =
        site.insert(&format!("(recipient, body, send_after) VALUES ('0871234563', 'x', {later})")).await;
    let cancelled =
        site.insert("(recipient, body, send_after) VALUES ('0871234564', 'x', now() + interval '1 h')").await;
    site.run(&format!("SELECT sms.cancel({cancelled})")).await;
    let wrong = site.insert("(recipient, body) VALUES ('nobody', 'x')").await;
    assert_eq!(site.until(wrong, "failed").await.code(), "bad_number");
    site.run(&format!("UPDATE sms.outbox SET recipient = '0871234565' WHERE id = {wrong}")).await;
    site.run(&format!("SELECT sms.retry({wrong})")).await;
    site.until_delivered(wrong).await;
    site.until_delivered(scheduled).await;
    assert_eq!(site.row(cancelled).await.status, "cancelled");

    site.queue(2_000).await;
    site.until_counts("every row is delivered", |counts| counts.of("delivered") == 2_004).await;
    site.assert_nothing_twice().await;
    site.until_true("no wave is left", "SELECT NOT EXISTS (SELECT FROM outboxd.wave)").await;
    assert_eq!(site.number("SELECT count(*) FROM outboxd.attempt").await, 0);
    assert_eq!(site.alarms().await, []);
    let polls = daemon.log().contains("no notification comes through the pooler");
    assert_eq!(polls, direct == Direct::None, "{}", daemon.log());
}

#[tokio::test]
async fn the_whole_way_works_through_a_transaction_pooler_alone() {
    journey(Direct::None).await;
}

#[tokio::test]
async fn the_whole_way_works_with_the_lock_and_listen_past_the_pooler() {
    journey(Direct::Given).await;
}

#[tokio::test]
async fn with_a_way_past_the_pooler_the_doorbell_rings() {
    let pooled = pooled("pooler_doorbell", "").await;
    let lines = Lines { queue: "wake = \"notify\"\npoll_interval = \"5m\"", ..Lines::default() };
    let daemon = pooled.daemon(Direct::Given, lines).await;
    pooled.site.until_asleep(&daemon).await;
    let (id, _) = pooled.site.queue(1).await;
    pooled.site.until(id, "accepted").await;
}

async fn kill_in_a_drain(direct: Direct) {
    let pooled = pooled("pooler_kill", "").await;
    let mut killed = pooled.daemon(direct, SHORT).await;
    let standby = pooled.standby(direct, SHORT).await;
    pooled.site.queue(2_000).await;
    pooled.site.sim_reaches("accepted=300").await;
    pooled.site.freeze().await;
    pooled.site.sim_reaches(&format!("frozen={CONCURRENCY}")).await;
    killed.kill9();
    pooled.site.thaw().await;
    standby.wait_log(LIMIT, "leading").await;
    pooled.until_settled_and_nothing_lost(2_000).await;
    assert!(pooled.site.counts().await.of("unknown") > 0, "what was in flight is unknown");
}

#[tokio::test]
async fn a_daemon_killed_in_a_drain_is_replaced_through_the_pooler_and_nothing_is_lost() {
    kill_in_a_drain(Direct::None).await;
}

#[tokio::test]
async fn a_daemon_killed_in_a_drain_is_replaced_beside_the_pooler_and_nothing_is_lost() {
    kill_in_a_drain(Direct::Given).await;
}

#[tokio::test]
async fn fewer_server_connections_than_ours_are_waited_for() {
    // The lock has one of them to itself when it has no other way.
    for (direct, size) in [(Direct::None, 2), (Direct::Given, 1)] {
        let pooled = pooled("pooler_small", &format!("default_pool_size = {size}")).await;
        let _daemon = pooled.daemon(direct, SHORT).await;
        pooled.site.queue(1_000).await;
        pooled.until_all_accepted(1_000).await;
        let connections = "SELECT count(*) FROM pg_stat_activity AS a JOIN pg_roles AS r ON r.rolname = a.usename \
                           WHERE a.datname = current_database() AND NOT r.rolsuper";
        let limit = if direct == Direct::Given { size + 2 } else { size };
        assert!(pooled.site.number(connections).await <= limit);
    }
}

#[tokio::test]
async fn a_pooler_that_is_restarted_in_a_drain_costs_nothing() {
    for direct in [Direct::None, Direct::Given] {
        let mut pooled = pooled("pooler_restart", "").await;
        let daemon = pooled.daemon(direct, SHORT).await;
        pooled.site.queue(1_500).await;
        for round in 1..=3 {
            pooled.site.sim_reaches(&format!("accepted={}", round * 300)).await;
            pooled.bouncer.kill9();
            pooled.bouncer.run().await;
        }
        pooled.until_all_accepted(1_500).await;
        if direct == Direct::None {
            // The lock went with its connection each time.
            assert!(daemon.log().contains("lost leadership"), "{}", daemon.log());
            assert!(pooled.site.number("SELECT epoch FROM outboxd.leader").await >= 2);
        }
    }
}

#[tokio::test]
async fn a_pooler_can_be_paused_in_a_drain_although_the_lock_is_a_transaction() {
    for direct in [Direct::None, Direct::Given] {
        let pooled = pooled("pooler_pause", "server_login_retry = 1").await;
        let _daemon = pooled.daemon(direct, SHORT).await;
        pooled.site.queue(1_500).await;
        for round in 1..=2 {
            pooled.site.sim_reaches(&format!("accepted={}", round * 300)).await;
            // Returns when the last transaction has ended, the leader's too. A server process that the pooler has
            // hung up on needs a moment to go.
            pooled.bouncer.console_says("PAUSE").await;
            let free = format!("SELECT count(*) = 0 {HOLDER} AND a.state LIKE 'idle in transaction%'");
            pooled.site.until_true("no transaction holds the lock", &free).await;
            pooled.bouncer.console_says("RESUME").await;
            pooled.bouncer.console_says("RECONNECT").await;
        }
        pooled.until_all_accepted(1_500).await;
    }
}

#[tokio::test]
async fn a_server_that_throws_everybody_out_in_a_drain_costs_nothing() {
    for direct in [Direct::None, Direct::Given] {
        let pooled = pooled("pooler_terminate", "server_login_retry = 1").await;
        let _daemon = pooled.daemon(direct, SHORT).await;
        pooled.site.queue(1_500).await;
        for round in 1..=4 {
            pooled.site.sim_reaches(&format!("accepted={}", round * 250)).await;
            let everybody = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                             WHERE datname = current_database() AND pid <> pg_backend_pid()";
            pooled.site.run(everybody).await;
        }
        pooled.until_all_accepted(1_500).await;
    }
}

#[tokio::test]
async fn of_two_daemons_one_sends_whichever_way_the_lock_is_held() {
    // The lock of a session and that of a transaction are one.
    for (first, second) in
        [(Direct::None, Direct::None), (Direct::None, Direct::Given), (Direct::Given, Direct::None)]
    {
        let pooled = pooled("pooler_two", "").await;
        let mut leader = pooled.daemon(first, SHORT).await;
        let standby = pooled.standby(second, SHORT).await;
        pooled.site.queue(400).await;
        pooled.site.sim_reaches("accepted=50").await;
        assert!(!standby.log().contains("leading"), "{}", standby.log());
        leader.terminate();
        assert!(leader.wait_exit(LIMIT).await.success());
        pooled.until_all_accepted(400).await;
        assert_eq!(pooled.site.number("SELECT epoch FROM outboxd.leader").await, 2);
    }
}

#[tokio::test]
async fn a_paused_leader_is_thrown_out_of_its_transaction_and_replaced() {
    let pooled = pooled("pooler_sigstop", "").await;
    let site = &pooled.site;
    site.sim.settings(&json!({"answers": {"latency_ms": 20}})).await;
    let mut paused = pooled.daemon(Direct::None, SHORT).await;
    let standby = pooled.standby(Direct::None, SHORT).await;
    site.queue(600).await;
    site.sim_reaches("accepted=60").await;
    paused.pause();
    standby.wait_log(LIMIT, "leading").await;
    site.until_counts("the standby sends", |counts| counts.of("accepted") > 300).await;
    paused.resume();
    paused.wait_log(LIMIT, "lost leadership").await;
    paused.wait_log(LIMIT, "standby").await;
    pooled.until_settled_and_nothing_lost(600).await;
}

#[tokio::test]
async fn a_lock_that_is_a_transaction_holds_up_no_vacuum_and_is_limited_to_the_lease() {
    let pooled = pooled("pooler_xmin", "").await;
    let site = &pooled.site;
    let _daemon = pooled.daemon(Direct::None, Lines { queue: "lease = \"4s\"", ..SHORT }).await;
    let sql = format!("SELECT a.pid, a.xact_start::text, a.backend_xmin::text, a.backend_xid::text {HOLDER}");
    let look = async || {
        eventually(LIMIT, "the holder rests between two confirmations", async || {
            let rows =
                site.sql.query(&format!("{sql} AND a.state = 'idle in transaction'"), &[]).await.unwrap();
            rows.into_iter().next().ok_or("busy")
        })
        .await
    };
    let first = look().await;
    assert_eq!(first.get::<_, Option<&str>>(2), None, "a snapshot is kept");
    site.queue(100).await;
    pooled.until_all_accepted(100).await;
    let confirmed = format!("SELECT a.query LIKE '%outboxd: confirm%' {HOLDER}");
    site.until_true("the transaction outlives a confirmation", &confirmed).await;
    let second = look().await;
    assert_eq!(first.get::<_, i32>(0), second.get::<_, i32>(0));
    assert_eq!(first.get::<_, &str>(1), second.get::<_, &str>(1), "another transaction");
    assert_eq!((second.get::<_, Option<&str>>(2), second.get::<_, Option<&str>>(3)), (None, None));
}

#[tokio::test]
async fn a_row_that_is_locked_stops_no_other_behind_a_pooler_either() {
    let pooled = pooled("pooler_locked", "").await;
    let site = &pooled.site;
    let mut daemon = pooled.daemon(Direct::None, SHORT).await;
    site.freeze().await;
    let (first, _) = site.queue(4).await;
    site.sim_reaches("frozen=4").await;
    let mut other = site.db.client().await;
    let lock = other.transaction().await.unwrap();
    lock.execute("SELECT FROM sms.outbox WHERE id = $1 FOR UPDATE", &[&first]).await.unwrap();
    site.thaw().await;
    site.until(first + 3, "accepted").await;
    site.queue(100).await;
    site.until_counts("all but the locked one are sent", |counts| counts.of("accepted") == 103).await;
    lock.rollback().await.unwrap();
    assert_eq!(site.until(first, "accepted").await.attempts, 1);

    // The takeover's transaction waits for a lock of its own length, not for the pool's.
    site.freeze().await;
    let (id, _) = site.queue(1).await;
    site.sim_reaches("frozen=1").await;
    daemon.kill9();
    site.thaw().await;
    let lock = other.transaction().await.unwrap();
    lock.execute("SELECT FROM sms.outbox WHERE id = $1 FOR UPDATE", &[&id]).await.unwrap();
    let successor =
        Daemon::start(&pooled.config(Direct::None, Lines { queue: "lease = \"10s\"", ..SHORT })).await;
    successor.wait_log(LIMIT, "waiting for it").await;
    lock.rollback().await.unwrap();
    successor.wait_log(LIMIT, "leading").await;
    assert_eq!(site.until(id, "unknown").await.code(), "outcome_unknown");
}

#[tokio::test]
async fn a_leader_whose_pooler_is_switched_to_another_database_lets_go() {
    let pooled = pooled("pooler_switched", "server_login_retry = 1").await;
    let site = &pooled.site;
    let other = Site::new("pooler_switched_to").await;
    other.db.daemon_url().await;
    let daemon = pooled.daemon(Direct::Given, SHORT).await;
    site.queue(20).await;
    pooled.until_all_accepted(20).await;
    pooled.bouncer.lead_to(&format!("{} = dbname={}", site.db.name(), other.db.name()));
    other.run(&format!("GRANT outboxd_daemon TO {}", site.db.role("daemon"))).await;
    pooled.bouncer.console_says("RELOAD").await;
    pooled.bouncer.console_says("RECONNECT").await;
    other.queue(1).await;
    daemon.wait_log(LIMIT, "the lock is not held in the database that statements go to").await;
    pooled.bouncer.lead_to("* =");
    pooled.bouncer.console_says("RELOAD").await;
    pooled.bouncer.console_says("RECONNECT").await;
    site.queue(20).await;
    pooled.until_all_accepted(40).await;
    assert_eq!(other.counts().await.of("queued"), 1);
    assert_eq!(other.number("SELECT epoch FROM outboxd.leader").await, 0, "an epoch began there");
}
