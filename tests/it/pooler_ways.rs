//! What is said when the way to the server is another than `[database]` says, and what each command and each statement
//! does on the way that it says.

use std::time::Duration;

use outboxd::config::{self, Database, Pooler};
use outboxd::message::Lane;
use outboxd::store::repair::NewMessage;
use outboxd::store::{Store, StoreError};

use crate::pooler::{Direct, PooledSite};
use crate::support::cli::{Cli, Ended};
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::pgbouncer::PgBouncer;
use crate::support::postgres::{TestDb, connect};
use crate::support::site::{LIMIT, Lines, Site};

const DROPS_OPTIONS: &str = "ignore_startup_parameters = options";
const SAY_SO: &str = "say pooler = \"transaction\" in [database]";

async fn pooled(hint: &str, settings: &str) -> PooledSite {
    PooledSite::of(Site::new(hint).await, settings).await
}

impl PooledSite {
    /// Commands with this `[database]`, which ends after five seconds what does not come through.
    fn cli(&self, database: &str) -> Cli {
        Cli::new(&self.config_with(&format!("{database}\ntimeout = \"5s\""), Lines::default()))
    }

    /// `url` through the pooler.
    fn url(&self) -> String {
        format!("url = \"{}\"", self.bouncer.url(&self.server))
    }

    /// The same, declared.
    fn declared(&self) -> String {
        format!("{}\npooler = \"transaction\"", self.url())
    }
}

/// One line of `outboxd check`: its outcome, and what it says.
fn line(ended: &Ended, name: &str) -> (String, String) {
    let lines: Vec<&str> = ended.stdout.lines().collect();
    let Some(at) = lines.iter().position(|line| line.split_whitespace().nth(1) == Some(name)) else {
        panic!("nothing about {name}: {}", ended.stdout);
    };
    let advice = lines.get(at + 1).filter(|line| line.trim_start().starts_with("->")).unwrap_or(&"");
    (lines[at].split(' ').next().unwrap().to_owned(), format!("{}{advice}", lines[at]))
}

#[track_caller]
fn assert_line(ended: &Ended, name: &str, outcome: &str, says: &str) {
    let (found, text) = line(ended, name);
    assert!(found == outcome && text.contains(says), "{name}: {outcome}, {says}\n{}", ended.stdout);
}

#[tokio::test]
async fn a_pooler_that_is_not_declared_is_told_whether_it_refuses_or_drops_settings() {
    for (settings, what) in [
        ("", "our session settings were refused (unsupported startup parameter: options"),
        (DROPS_OPTIONS, "our session settings were dropped on the way to the server"),
    ] {
        let pooled = pooled("ways_undeclared", settings).await;
        let cli = pooled.cli(&pooled.url());
        for command in ["run", "status"] {
            let refused = cli.run(&[command]).await.expect(78);
            assert!(refused.stderr.contains(what), "{refused:?}");
            assert!(refused.stderr.contains(&format!("Hint: if a connection pooler stands there, {SAY_SO}")));
        }
        let checked = cli.run(&["check"]).await.expect(78);
        assert_line(&checked, "database", "FAILED", what);
        assert_line(&checked, "database", "FAILED", SAY_SO);
    }
}

#[tokio::test]
async fn a_pooler_that_keeps_settings_but_not_sessions_is_told_too() {
    // Every server connection has what we asked for, and what the command before had prepared.
    let settings = format!("{DROPS_OPTIONS}\nserver_reset_query =");
    let pooled = pooled("ways_prepared", &settings).await;
    let name = pooled.site.db.name();
    pooled.bouncer.lead_to(&format!("{name} = connect_query='SET outboxd.session = ours' pool_size=1"));
    pooled.bouncer.console_says("RELOAD").await;
    let cli = pooled.cli(&pooled.url());
    cli.run(&["resume"]).await.expect(0);
    let refused = cli.run(&["resume"]).await.expect(78);
    assert!(refused.stderr.contains("one session turned out to be several"), "{refused:?}");
    assert!(refused.stderr.contains("already exists [42P05]") && refused.stderr.contains(SAY_SO));
}

#[tokio::test]
async fn a_direct_url_that_leads_through_a_pooler_is_refused() {
    for settings in ["", DROPS_OPTIONS] {
        let pooled = pooled("ways_not_direct", settings).await;
        let direct =
            format!("{}\ndirect_url = \"{}\"", pooled.declared(), pooled.bouncer.url(&pooled.server));
        let cli = pooled.cli(&direct);
        let refused = cli.run(&["run"]).await.expect(78);
        assert!(refused.stderr.contains("our session settings were"), "{refused:?}");
        assert!(refused.stderr.contains("let direct_url lead past it"), "{refused:?}");
        let checked = cli.run(&["check"]).await.expect(78);
        assert_line(&checked, "database", "ok", "PostgreSQL");
        assert_line(&checked, "direct_url", "FAILED", "our session settings were");
    }
}

#[tokio::test]
async fn a_direct_url_to_another_database_is_refused() {
    let pooled = pooled("ways_elsewhere", "").await;
    let other = TestDb::create("ways_other").await;
    let direct = format!("{}\ndirect_url = \"{}\"", pooled.declared(), other.daemon_url().await);
    let cli = pooled.cli(&direct);
    let refused = cli.run(&["run"]).await.expect(78);
    let what = format!("direct_url leads to {} of cluster", other.name());
    assert!(refused.stderr.contains(&what), "{refused:?}");
    assert_line(&cli.run(&["check"]).await.expect(78), "direct_url", "FAILED", &what);
}

#[tokio::test]
async fn a_pooler_that_pools_statements_is_refused() {
    let pooled = pooled("ways_statement", "pool_mode = statement").await;
    let refused = pooled.cli(&pooled.declared()).run(&["run"]).await.expect(78);
    assert!(refused.stderr.contains("does not let several statements be one transaction"), "{refused:?}");
    assert!(refused.stderr.contains("Hint: set pool_mode = transaction"), "{refused:?}");
}

#[tokio::test]
async fn one_server_connection_is_too_few_for_a_lock_that_is_a_transaction_and_check_says_so() {
    let pooled = pooled("ways_one", "default_pool_size = 1").await;
    let checked = pooled.cli(&pooled.declared()).run(&["check"]).await.expect(78);
    assert_line(&checked, "pooler", "FAILED", "give this user two server connections at least");
    let direct = format!("{}\ndirect_url = \"{}\"", pooled.declared(), pooled.server);
    let checked = pooled.cli(&direct).run(&["check"]).await;
    assert_line(&checked, "direct_url", "ok", "leads to the same database");
    assert_line(&checked, "lock", "ok", "after 5s");
}

#[tokio::test]
async fn check_says_what_a_pooler_makes_of_the_doorbell() {
    let pooled = pooled("ways_doorbell", "").await;
    let checked = pooled.cli(&pooled.declared()).run(&["check"]).await;
    assert_line(&checked, "pooler", "ok", "lets a statement through");
    assert_line(&checked, "doorbell", "ok", "nothing rings through the pooler; the table is polled every 5s");
}

#[tokio::test]
async fn a_lock_without_the_servers_limit_is_not_taken() {
    let site = Site::new("ways_limit").await;
    let plain = site.db.daemon_url().await;
    let unlimited = format!("{plain}?options=-c%20idle_session_timeout%3D0");
    let config = site.config(Lines::default()).replace(&plain, &unlimited);
    let daemon = Daemon::start(&config).await;
    daemon.wait_log(LIMIT, "has idle_session_timeout = 0 ms instead of lease").await;
    assert!(!daemon.log().contains("leading"), "{}", daemon.log());
    let checked = Cli::new(&config).run(&["check"]).await.expect(78);
    assert_line(&checked, "lock", "FAILED", "idle_session_timeout = 0 ms");
}

#[tokio::test]
async fn every_command_works_through_a_pooler() {
    let pooled = pooled("ways_commands", "").await;
    let site = &pooled.site;
    for direct in [String::new(), format!("\ndirect_url = \"{}\"", pooled.server)] {
        let cli = pooled.cli(&format!("{}{direct}", pooled.declared()));
        cli.run(&["check"]).await.expect(0);
        cli.run(&["hold", "--reason", "a test"]).await.expect(0);
        let status = cli.run(&["status", "--json"]).await.expect(2).json();
        assert_eq!(status["queue"]["held_reason"], "a test");
        cli.run(&["resume"]).await.expect(0);
        let first = site.insert("(recipient, body, status) VALUES ('0871234567', 'x', 'unknown')").await;
        let second = site
            .insert("(recipient, body, status, final_at) VALUES ('0871234567', 'x', 'failed', now())")
            .await;
        let (first, second) = (first.to_string(), second.to_string());
        cli.run(&["resolve", &first, "--as", "queued"]).await.expect(0);
        cli.run(&["retry", "--status", "failed", "--since", "1h"]).await.expect(0);
        let sent = ["send", "--to", "0871234567", "--text", "x", "--timeout", "100ms"];
        assert!(cli.run(&sent).await.expect(75).stderr.contains("is still queued"));
        cli.run(&["cancel", &first, &second]).await.expect(0);
        let adopted = cli.run(&["adopt"]).await.expect(0);
        assert!(adopted.stdout.contains("adopted: messages are sent from this database"), "{adopted:?}");
        site.run(
            "DELETE FROM sms.outbox; UPDATE outboxd.leader SET system_identifier = NULL, timeline = NULL",
        )
        .await;
    }
}

#[tokio::test]
async fn a_schema_is_made_through_a_pooler_declared_or_not() {
    for settings in ["", DROPS_OPTIONS, "default_pool_size = 1"] {
        let db = TestDb::create_empty("ways_migrate").await;
        let bouncer = PgBouncer::start(&[], settings).await;
        let url = bouncer.url(&db.url());
        let cli = Cli::with_database("host=/nowhere");
        let first = cli.run(&["migrate", "--database", &url]).await.expect(0);
        assert!(first.stdout.contains("schema is up to date"), "{first:?}");
        let again = cli.run(&["migrate", "--database", &url]).await.expect(0);
        assert!(again.stdout.contains("nothing to do"), "{again:?}");
    }
}

#[tokio::test]
async fn a_pooler_of_whole_sessions_is_a_transaction_pooler_too() {
    let pooled = pooled("ways_session", "pool_mode = session\ndefault_pool_size = 20").await;
    let _daemon = pooled.daemon(Direct::None, Lines { queue: "lease = \"1s\"", ..Lines::default() }).await;
    pooled.site.queue(500).await;
    let counts = pooled.site.until_counts("every row is sent", |counts| counts.only(&["accepted"])).await;
    assert_eq!(counts.of("accepted"), 500);
    pooled.site.assert_nothing_twice().await;
}

/// A store on each way to the same database.
fn stores(pooled: &PooledSite) -> [Store; 2] {
    let through: Database = config::connection(&pooled.bouncer.url(&pooled.server)).unwrap();
    let through = Database { pooler: Pooler::Transaction, pool_size: 1, ..through };
    let plain = Database { pool_size: 1, ..config::connection(&pooled.server).unwrap() };
    [plain, through].map(|database| Store::open(&database).unwrap())
}

fn message(body: &str) -> NewMessage {
    NewMessage {
        recipient: "0871234567".to_owned(),
        body: Some(body.to_owned()),
        template: None,
        language: None,
        params: None,
        sender: None,
        gateway: None,
        lane: Lane::Normal,
    }
}

#[tokio::test]
async fn what_is_refused_at_the_statement_or_at_its_commit_did_not_happen_on_either_way() {
    let pooled = pooled("ways_refused", "default_pool_size = 1").await;
    let site = &pooled.site;
    site.run(
        "CREATE FUNCTION public.fault() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN IF NEW.body = TG_ARGV[0] THEN RAISE EXCEPTION 'a fault of the test'; END IF; RETURN NEW; END $$;
         CREATE TRIGGER at_once BEFORE INSERT ON sms.outbox FOR EACH ROW EXECUTE FUNCTION public.fault('at once');
         CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON sms.outbox DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION public.fault('at commit')",
    )
    .await;
    for store in stores(&pooled) {
        for body in ["at once", "at commit"] {
            let refused = store.insert(&message(body)).await.unwrap_err();
            assert!(matches!(refused, StoreError::Refused { .. }), "{body}: {refused}");
            // The only connection is free again, and nothing is left open in it.
            store.insert(&message("fine")).await.unwrap();
        }
    }
    // What the next one finds in that connection: nothing prepared, and its own settings.
    let next = connect(&pooled.bouncer.url(&pooled.server).parse().unwrap()).await;
    let left = "SELECT count(*), current_setting('enable_seqscan') FROM pg_prepared_statements";
    let left = next.query_typed_one(left, &[]).await.unwrap();
    assert_eq!((left.get::<_, i64>(0), left.get::<_, &str>(1)), (0, "on"));
    assert_eq!(site.number("SELECT count(*) FROM sms.outbox").await, 4);
    assert_eq!(site.number("SELECT count(*) FROM sms.outbox WHERE body <> 'fine'").await, 0);
}

#[tokio::test]
async fn a_statement_whose_connection_breaks_before_the_commit_is_answered_is_in_doubt() {
    let mut pooled = pooled("ways_doubt", "").await;
    pooled
        .site
        .run(
            "CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN PERFORM pg_sleep(3); RETURN NULL; END $$;
             CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON sms.outbox DEFERRABLE INITIALLY DEFERRED
                 FOR EACH ROW EXECUTE FUNCTION public.slow()",
        )
        .await;
    let [_, store] = stores(&pooled);
    let inserting = tokio::spawn(async move { store.insert(&message("slow")).await });
    let committing = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query = 'COMMIT' \
                      AND datname = current_database())";
    pooled.site.until_true("the commit is under way", committing).await;
    pooled.bouncer.kill9();
    let lost = inserting.await.unwrap().unwrap_err();
    assert!(matches!(lost, StoreError::InDoubt { .. }), "{lost}");
    eventually(Duration::from_secs(20), "it was carried out all the same", async || {
        let rows = pooled.site.number("SELECT count(*) FROM sms.outbox").await;
        if rows == 1 { Ok(()) } else { Err(rows) }
    })
    .await;
}
