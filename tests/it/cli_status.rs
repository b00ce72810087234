//! `outboxd status` with the daemon down.

use crate::support::cli::Cli;
use crate::support::postgres::TestDb;

/// As if a daemon led on host `sms1` and were alive.
const ALIVE: &str = "
    INSERT INTO outboxd.daemon (instance, host, pid, version, role, started_at)
    VALUES ('i', 'sms1', 77, '0.1.0', 'leader', now());
    UPDATE outboxd.leader SET daemon = 'i', epoch = 1";

#[tokio::test]
async fn a_queue_that_no_daemon_ever_looked_at_needs_a_person() {
    let db = TestDb::create("status_never").await;
    let insert =
        "INSERT INTO sms.outbox (recipient, body) VALUES ('353871234567', 'a'), ('353871234567', 'b')";
    db.client().await.batch_execute(insert).await.unwrap();
    let cli = Cli::with_database(&db.daemon_url().await);
    let text = cli.run(&["status"]).await.expect(1).stdout;
    assert!(text.contains("queue     2 due"), "{text}");
    assert!(text.contains("- no daemon has sent from this database yet"), "{text}");
    let json = cli.run(&["status", "--json"]).await.expect(1).json();
    assert_eq!(json["queue"]["due"], 2);
    assert_eq!(json["queue"]["leader_host"], serde_json::Value::Null);
}

#[tokio::test]
async fn a_daemon_that_is_alive_needs_nobody_and_a_silent_one_does() {
    let db = TestDb::create("status_silent").await;
    let client = db.client().await;
    client.batch_execute(ALIVE).await.unwrap();
    let cli = Cli::with_database(&db.daemon_url().await);
    let text = cli.run(&["status"]).await.expect(0).stdout;
    assert!(text.contains("leader on sms1, process 77"), "{text}");
    assert!(text.ends_with("nothing needs a person\n"), "{text}");
    client.batch_execute("UPDATE outboxd.daemon SET seen_at = now() - interval '5 minutes'").await.unwrap();
    let text = cli.run(&["status"]).await.expect(1).stdout;
    assert!(text.contains("- the daemon on sms1 was last seen 5m"), "{text}");
}

#[tokio::test]
async fn each_thing_that_needs_a_person_sets_the_exit_code() {
    let db = TestDb::create("status_person").await;
    let client = db.client().await;
    client.batch_execute(ALIVE).await.unwrap();
    let cli = Cli::with_database(&db.daemon_url().await);
    for (cause, cure, line) in [
        (
            "INSERT INTO outboxd.alarm (code, subject, text, opened_at)
             VALUES ('gateway_stopped', 'main', 'it refuses everything', now() - interval '2 hours')",
            "UPDATE outboxd.alarm SET cleared_at = now()",
            "- gateway_stopped main (for 2h): it refuses everything",
        ),
        (
            "INSERT INTO sms.outbox (recipient, body, status) VALUES ('353871234567', 'x', 'unknown')",
            "DELETE FROM sms.outbox",
            "- 1 message may or may not have been sent",
        ),
        (
            "INSERT INTO sms.outbox (recipient, body, held) VALUES ('353871234567', 'x', true)",
            "DELETE FROM sms.outbox",
            "- 1 message kept back",
        ),
        ("SELECT sms.hold('stocktaking')", "SELECT sms.resume()", "- nothing is sent (stocktaking)"),
    ] {
        client.batch_execute(cause).await.unwrap();
        let text = cli.run(&["status"]).await.expect(1).stdout;
        assert!(text.contains(line), "{line}: {text}");
        client.batch_execute(cure).await.unwrap();
        cli.run(&["status"]).await.expect(0);
    }
}

#[tokio::test]
async fn without_schema_or_database_the_reason_is_said() {
    let db = TestDb::create_empty("status_empty").await;
    let ended = Cli::with_database(&db.url()).run(&["status"]).await.expect(78);
    assert!(ended.stderr.contains("Hint: run `outboxd migrate`"), "{ended:?}");
    let ended = Cli::with_database("host=/nonexistent dbname=x user=y").run(&["status"]).await.expect(69);
    assert!(ended.stderr.contains("could not reach the database host=/nonexistent"), "{ended:?}");
}
