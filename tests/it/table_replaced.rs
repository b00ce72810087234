//! The table is replaced while the daemon is at work: made anew, exchanged for a copy, written out and read in again, or
//! put into an order that only its owner sees. What was under way is accounted for, and nothing is sent twice.

use std::process::{Command, Stdio};

use crate::support::books::Committed;
use crate::support::cli::Cli;
use crate::support::daemon::Daemon;
use crate::support::postgres::migrate;
use crate::support::site::{LIMIT, Lines, Site};

const EIGHT_AT_ONCE: Lines<'_> = Lines { queue: "", gateway: "concurrency = 8", more: "", receipts: false };

/// As tools do that change a big table beside its use: the copy takes the name within one transaction.
const COPY: &str = "
    ALTER TABLE sms.outbox RENAME TO outbox_old;
    CREATE TABLE sms.outbox (LIKE sms.outbox_old INCLUDING ALL);
    INSERT INTO sms.outbox (id, app, recipient, body, template, language, params, sender, gateway, lane, send_after,
        expires_at, client_ref, status, held, attempts, error_code, error, sent_via, gateway_ref, gateway_message_id,
        encoding, segments, created_at, sent_at, final_at, queued, unresolved)
    SELECT id, app, recipient, body, template, language, params, sender, gateway, lane, send_after,
        expires_at, client_ref, status, held, attempts, error_code, error, sent_via, gateway_ref, gateway_message_id,
        encoding, segments, created_at, sent_at, final_at, queued, unresolved
    FROM sms.outbox_old;
    SELECT setval(pg_get_serial_sequence('sms.outbox', 'id'), (SELECT max(id) FROM sms.outbox));
    CREATE OR REPLACE VIEW sms.health AS THE_VIEW;
    DROP TABLE sms.outbox_old;
    GRANT SELECT, INSERT, UPDATE ON sms.outbox TO outboxd_daemon;
    GRANT SELECT ON sms.outbox TO outboxd_operator;
    CREATE TRIGGER zzz_outbox_sound BEFORE INSERT OR UPDATE ON sms.outbox FOR EACH ROW
        EXECUTE FUNCTION outboxd.keep_sound();
    CREATE TRIGGER outbox_ring_insert AFTER INSERT ON sms.outbox FOR EACH STATEMENT
        EXECUTE FUNCTION outboxd.ring_if_asleep();
    CREATE TRIGGER outbox_ring_update AFTER UPDATE ON sms.outbox FOR EACH STATEMENT
        EXECUTE FUNCTION outboxd.ring_if_asleep()";

/// Queues rows and waits until some are sent and eight requests are under way.
async fn in_flight(site: &Site, committed: &mut Committed, name: &str, rows: i32) {
    let before = site.sim_count("accepted").await;
    site.queue_texts(committed, name, rows).await;
    site.sim_reaches(&format!("accepted={}", before + 30)).await;
    site.freeze().await;
    site.sim_reaches("frozen=8").await;
}

async fn is_still_well(site: &Site, daemon: &Daemon, committed: &mut Committed) {
    site.queue_texts(committed, "at last", 20).await;
    site.until_all_sent(committed).await;
    assert_eq!(site.alarms().await, []);
    assert_eq!(daemon.logged("lost leadership"), 0, "{}", daemon.log());
}

#[tokio::test]
async fn a_copy_of_the_table_takes_its_place_in_a_drain_three_times_and_nothing_is_lost_or_doubled() {
    let site = Site::new("swapped").await;
    let daemon = site.daemon(EIGHT_AT_ONCE).await;
    let mut committed = Committed::default();
    let view: String =
        site.sql.query_one("SELECT rtrim(pg_get_viewdef('sms.health'), ';')", &[]).await.unwrap().get(0);
    let copy = format!("BEGIN; {}; COMMIT", COPY.replace("THE_VIEW", &view));
    for round in 0..3 {
        in_flight(&site, &mut committed, &format!("round {round}"), 300).await;
        site.run(&copy).await;
        site.thaw().await;
        site.until_all_sent(&committed).await;
    }
    is_still_well(&site, &daemon, &mut committed).await;
    Cli::new(&site.config(EIGHT_AT_ONCE)).run(&["status"]).await.expect(0);
}

/// While it is away, answers come for what was under way: the rows are not there, and what became of them is noted.
#[tokio::test]
async fn a_table_that_is_renamed_away_and_back_while_requests_are_under_way_is_sent_once() {
    let site = Site::new("renamed").await;
    let daemon = site.daemon(EIGHT_AT_ONCE).await;
    let mut committed = Committed::default();
    in_flight(&site, &mut committed, "away", 300).await;
    site.run("ALTER TABLE sms.outbox RENAME TO aside").await;
    site.thaw().await;
    daemon.wait_log(LIMIT, "does not exist").await;
    site.run("ALTER TABLE sms.aside RENAME TO outbox").await;
    site.until_all_sent(&committed).await;

    // An empty one stands in its place meanwhile, and has rows of its own.
    in_flight(&site, &mut committed, "again", 300).await;
    site.run(
        "BEGIN; ALTER TABLE sms.outbox RENAME TO aside; CREATE TABLE sms.outbox (LIKE sms.aside INCLUDING ALL); \
         GRANT SELECT, INSERT, UPDATE ON sms.outbox TO outboxd_daemon; COMMIT",
    )
    .await;
    site.thaw().await;
    site.until_true("what was under way is noted", "SELECT count(*) >= 8 FROM outboxd.attempt").await;
    site.run("DROP TABLE sms.outbox; ALTER TABLE sms.aside RENAME TO outbox").await;
    site.until_all_sent(&committed).await;
    site.until_true("no alarm stands", "SELECT count(*) = 0 FROM outboxd.alarm WHERE cleared_at IS NULL")
        .await;
    is_still_well(&site, &daemon, &mut committed).await;
}

/// Ids begin at 1 again, and so do epochs. What was under way belongs to nothing that is there.
#[tokio::test]
async fn everything_is_dropped_and_migrated_again_in_a_drain_and_what_is_queued_then_is_sent_once() {
    let site = Site::new("migrated_again").await;
    let daemon = site.daemon(EIGHT_AT_ONCE).await;
    let mut committed = Committed::default();
    for round in 0..2 {
        let old = format!("old {round}");
        in_flight(&site, &mut committed, &old, 300).await;
        site.run("DROP SCHEMA sms, outboxd CASCADE").await;
        for n in 1..=300 {
            committed.delete(&format!("{old} {n}"));
        }
        migrate(&site.db.url());
        site.queue_texts(&mut committed, &format!("new {round}"), 300).await;
        site.thaw().await;
        site.until_all_sent(&committed).await;
        if round == 0 {
            // Gone with the second time.
            for n in 1..=300 {
                committed.delete(&format!("new 0 {n}"));
            }
        }
    }
    site.queue_texts(&mut committed, "at last", 20).await;
    site.until_all_sent(&committed).await;
    site.until_true("no alarm stands", "SELECT count(*) = 0 FROM outboxd.alarm WHERE cleared_at IS NULL")
        .await;
    Cli::new(&site.config(EIGHT_AT_ONCE)).run(&["check"]).await.expect(0);
    daemon.assert_memory_bounded();
}

/// One of PostgreSQL's own programs, on the site's database.
fn client_program(site: &Site, name: &str) -> Command {
    let directory = std::env::var_os("OUTBOXD_TEST_PG_BIN").expect("tests/with-postgres names it");
    let mut command = Command::new(std::path::Path::new(&directory).join(name));
    command.arg("--dbname").arg(site.db.url()).stdin(Stdio::null());
    command
}

/// Held, so that nothing is sent between writing out and reading in: what was sent then would be sent again.
#[tokio::test]
async fn a_table_that_is_dumped_and_restored_under_a_hold_is_sent_once() {
    let site = Site::new("dumped").await;
    let daemon = site.daemon(EIGHT_AT_ONCE).await;
    let cli = Cli::new(&site.config(EIGHT_AT_ONCE));
    let mut committed = Committed::default();
    in_flight(&site, &mut committed, "dumped", 300).await;
    cli.run(&["hold", "--reason", "maintenance"]).await.expect(0);
    daemon.wait_log(LIMIT, "everything is held").await;
    site.thaw().await;
    site.until_true("nothing is under way", "SELECT NOT EXISTS (SELECT FROM outboxd.wave)").await;
    let sent = site.counts().await.sent();
    assert!((38..300).contains(&sent), "{sent}");

    let file = tempfile::NamedTempFile::new().unwrap();
    let dumped = client_program(&site, "pg_dump")
        .args(["--data-only", "--table=sms.outbox", "--file"])
        .arg(file.path())
        .status();
    assert!(dumped.unwrap().success());
    site.run("TRUNCATE sms.outbox").await;
    let restored = client_program(&site, "psql")
        .args(["--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--single-transaction", "--file"])
        .arg(file.path())
        .stdout(Stdio::null())
        .status();
    assert!(restored.unwrap().success());
    cli.run(&["resume"]).await.expect(0);
    site.until_all_sent(&committed).await;
    cli.run(&["check"]).await.expect(0);
    is_still_well(&site, &daemon, &mut committed).await;
}

/// Names that stand before PostgreSQL's own, in the search path of the whole database and of each role.
#[tokio::test]
async fn a_search_path_with_false_functions_and_operators_in_front_changes_nothing() {
    let site = Site::new("search_path").await;
    let (database, daemon_role) = (site.db.name(), site.db.role("daemon"));
    let mut evil = "CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO PUBLIC; \
        CREATE TABLE evil.outbox (id bigint); CREATE TABLE evil.leader (epoch bigint); CREATE SEQUENCE evil.register; \
        CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT timestamptz '-infinity' $$; \
        CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$ SELECT timestamptz '-infinity' $$; \
        CREATE FUNCTION evil.pg_notify(text, text) RETURNS void LANGUAGE sql AS $$ SELECT $$; \
        CREATE FUNCTION evil.differ(text, text) RETURNS boolean LANGUAGE sql AS $$ SELECT false $$; \
        CREATE OPERATOR evil.= (FUNCTION = evil.differ, LEFTARG = text, RIGHTARG = text);"
        .to_owned();
    for whom in [format!("DATABASE {database}"), format!("ROLE {daemon_role}")] {
        evil.push_str(&format!("ALTER {whom} SET search_path = evil, sms, outboxd, pg_catalog;"));
    }
    site.run(&evil).await;
    let daemon = site.daemon(Lines { queue: "poll_interval = \"60s\"", ..EIGHT_AT_ONCE }).await;
    site.until_asleep(&daemon).await;
    let shop = site.db.app_client("shop").await;
    let path: String = shop.query_one("SHOW search_path", &[]).await.unwrap().get(0);
    assert!(path.starts_with("evil"), "{path}");
    let mut committed = Committed::default();
    for n in 1..=20 {
        let text = format!("text {n}");
        shop.execute("INSERT INTO sms.outbox (recipient, body) VALUES ('0871234567', $1)", &[&text])
            .await
            .unwrap();
        committed.add(text);
    }
    site.until_all_sent(&committed).await;
    let cli = Cli::new(&site.config(EIGHT_AT_ONCE));
    for arguments in [&["check"][..], &["status"], &["send", "--to", "0871234567", "--text", "by hand"]] {
        cli.run(arguments).await.expect(0);
    }
    committed.add("by hand");
    site.until_all_sent(&committed).await;
}
