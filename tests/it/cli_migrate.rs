//! `outboxd migrate`, by itself and through psql.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::cli::Cli;
use crate::support::postgres::TestDb;

/// Columns, constraints, indexes, functions, triggers, comments and privileges: all that a schema is.
const FINGERPRINT: &str = "
    SELECT string_agg(line, E'\\n' ORDER BY line) FROM (
        SELECT format('%s.%s %s %s %s', c.relnamespace::regnamespace, c.relname, a.attname, a.atttypid::regtype, a.attnotnull) AS line
        FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
        WHERE c.relnamespace::regnamespace::text IN ('sms', 'outboxd') AND a.attnum > 0
        UNION ALL
        SELECT format('%s %s', c.oid::regclass, c.relacl) FROM pg_class AS c
        WHERE c.relnamespace::regnamespace::text IN ('sms', 'outboxd')
        UNION ALL
        SELECT pg_get_functiondef(p.oid) || p.proacl::text FROM pg_proc AS p
        WHERE p.pronamespace::regnamespace::text IN ('sms', 'outboxd')
        UNION ALL
        SELECT pg_get_triggerdef(t.oid) FROM pg_trigger AS t WHERE NOT t.tgisinternal
        UNION ALL
        SELECT d.description FROM pg_description AS d WHERE d.objoid >= 16384
        UNION ALL
        SELECT format('%s %s %s', m.version, m.name, m.sha256) FROM outboxd.migration AS m
    ) AS lines";

async fn fingerprint(db: &TestDb) -> String {
    let row = db.client().await.query_one(FINGERPRINT, &[]).await.unwrap();
    row.get(0)
}

/// What `outboxd migrate --print | psql` prints and how it ends.
fn psql(db: &TestDb, script: &str) -> (bool, String) {
    let mut child = Command::new("psql")
        .args(["--no-psqlrc", "--dbname", &db.url()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("psql can be started");
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

/// A configuration file that is not there.
fn without_file() -> Cli {
    Cli::new("this is no configuration")
}

#[tokio::test]
async fn migrating_twice_does_it_once_and_needs_no_configuration_file() {
    let db = TestDb::create_empty("migrate_twice").await;
    let cli = without_file();
    let first = cli.run(&["migrate", "--database", &db.url()]).await.expect(0);
    for name in ["0001_roles", "0002_daemon_tables", "0003_outbox", "0004_functions", "0005_inbound"] {
        assert!(first.stdout.contains(&format!("applying {name}\n")), "{first:?}");
    }
    assert!(first.stdout.contains("schema is up to date"), "{first:?}");
    let second = cli.run(&["migrate", "--database", &db.url()]).await.expect(0);
    assert!(second.stdout.contains("nothing to do"), "{second:?}");
    assert!(!second.stdout.contains("applying"), "{second:?}");
}

#[tokio::test]
async fn the_printed_script_makes_the_same_schema_and_may_be_run_again() {
    let (migrated, by_psql) = (TestDb::create("migrated").await, TestDb::create_empty("by_psql").await);
    let script = without_file().run(&["migrate", "--print"]).await.expect(0).stdout;
    let (success, text) = psql(&by_psql, &script);
    assert!(success, "{text}");
    assert_eq!(fingerprint(&by_psql).await, fingerprint(&migrated).await);
    let (success, text) = psql(&by_psql, &script);
    assert!(success, "{text}");
    assert_eq!(text.matches("is applied already").count(), 5, "{text}");
    let after = without_file().run(&["migrate", "--database", &by_psql.url()]).await.expect(0);
    assert!(after.stdout.contains("nothing to do"), "{after:?}");
}

#[tokio::test]
async fn the_printed_script_brings_an_older_schema_up_to_date() {
    let (migrated, older) = (TestDb::create("migrated").await, TestDb::create_empty("older").await);
    let script = without_file().run(&["migrate", "--print"]).await.expect(0).stdout;
    let (first_two, _) = script.split_once("\\echo 0003_outbox").unwrap();
    assert!(psql(&older, first_two).0);
    let (success, text) = psql(&older, &script);
    assert!(success, "{text}");
    assert_eq!(fingerprint(&older).await, fingerprint(&migrated).await);
}

#[tokio::test]
async fn a_role_that_may_not_is_told_who_may() {
    let db = TestDb::create_empty("migrate_denied").await;
    let role = db.role("nobody");
    db.client().await.batch_execute(&format!("CREATE ROLE {role} LOGIN")).await.unwrap();
    let url = db.url().replace("postgres@", &format!("{role}@"));
    let refused = without_file().run(&["migrate", "--database", &url]).await.expect(1);
    assert!(refused.stderr.contains("permission denied"), "{refused:?}");
    assert!(refused.stderr.contains("Hint: run it as a role that may create schemas"), "{refused:?}");
}

#[tokio::test]
async fn a_database_of_a_newer_or_another_build_is_left_alone() {
    let db = TestDb::create("migrate_newer").await;
    let client = db.client().await;
    let newer = "INSERT INTO outboxd.migration (version, name, sha256) VALUES (99, '0099_later', 'x')";
    client.batch_execute(newer).await.unwrap();
    let refused = without_file().run(&["migrate", "--database", &db.url()]).await.expect(78);
    assert!(refused.stderr.contains("it has migration 99"), "{refused:?}");
    let altered = "DELETE FROM outboxd.migration WHERE version = 99; UPDATE outboxd.migration SET sha256 = 'x' WHERE version = 2";
    client.batch_execute(altered).await.unwrap();
    let refused = without_file().run(&["migrate", "--database", &db.url()]).await.expect(78);
    assert!(refused.stderr.contains("migration 2 in this database is not"), "{refused:?}");
}

#[tokio::test]
async fn a_database_that_is_not_there_is_unavailable() {
    let refused =
        without_file().run(&["migrate", "--database", "host=/nonexistent dbname=x user=y"]).await.expect(69);
    assert!(refused.stderr.contains("could not reach the database host=/nonexistent"), "{refused:?}");
    assert!(refused.stderr.contains("Hint: "), "{refused:?}");
}
