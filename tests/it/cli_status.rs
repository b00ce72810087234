//! `outboxd status` with the daemon down.

use std::collections::BTreeMap;

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
    let text = cli.run(&["status"]).await.expect(2).stdout;
    assert!(text.contains("queue     2 due"), "{text}");
    assert!(text.contains("- CRITICAL no daemon has sent from this database yet"), "{text}");
    let json = cli.run(&["status", "--json"]).await.expect(2).json();
    assert_eq!(json["severity"], "critical");
    assert_eq!(json["needs_a_person"][0]["severity"], "critical");
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
    let text = cli.run(&["status"]).await.expect(2).stdout;
    assert!(text.contains("- CRITICAL the daemon on sms1 was last seen 5m"), "{text}");
}

#[tokio::test]
async fn each_thing_that_needs_a_person_sets_the_exit_code() {
    let db = TestDb::create("status_person").await;
    let client = db.client().await;
    client.batch_execute(ALIVE).await.unwrap();
    let cli = Cli::with_database(&db.daemon_url().await);
    let alarm = |code: &str| {
        format!(
            "INSERT INTO outboxd.alarm (code, subject, text, opened_at)
             VALUES ('{code}', 'main', 'it | refuses everything', '2026-11-22 19:00:00+01')"
        )
    };
    let clear = "UPDATE outboxd.alarm SET cleared_at = now()";
    for (cause, cure, severity, line) in [
        (alarm("gateway_stopped"), clear, 2, "CRITICAL gateway_stopped main (for "),
        (alarm("gateway_waiting"), clear, 1, "since 2026-11-22T18:00:00Z): it | refuses everything"),
        (alarm("of_the_future"), clear, 1, "WARNING of_the_future main"),
        (
            "INSERT INTO sms.outbox (recipient, body, status) VALUES ('353871234567', 'x', 'unknown')"
                .to_owned(),
            "DELETE FROM sms.outbox",
            1,
            "WARNING 1 message may or may not have been sent",
        ),
        (
            "INSERT INTO sms.outbox (recipient, body, held) VALUES ('353871234567', 'x', true)".to_owned(),
            "DELETE FROM sms.outbox",
            1,
            "WARNING 1 message kept back",
        ),
        (
            "SELECT sms.hold('stocktaking')".to_owned(),
            "SELECT sms.resume()",
            1,
            "WARNING nothing is sent, as a person wanted: stocktaking",
        ),
    ] {
        client.batch_execute(&cause).await.unwrap();
        let text = cli.run(&["status"]).await.expect(severity).stdout;
        assert!(text.contains(line), "{line}: {text}");
        let nagios = cli.run(&["status", "--nagios"]).await.expect(severity).stdout;
        let word = if severity == 2 { "OUTBOXD CRITICAL - " } else { "OUTBOXD WARNING - " };
        assert!(nagios.starts_with(word), "{nagios}");
        figures(&nagios);
        client.batch_execute(cure).await.unwrap();
        cli.run(&["status"]).await.expect(0);
    }
}

/// The performance data of a line, taken apart as the plug-in guidelines have it: label, value with unit, the rest.
fn figures(line: &str) -> BTreeMap<String, (String, String)> {
    assert_eq!(line.matches('\n').count(), 1, "one line: {line:?}");
    let (text, data) = line.trim_end().split_once(" | ").expect("performance data");
    assert!(!data.contains('|') && !text.contains('|'), "{line}");
    let figures: BTreeMap<String, (String, String)> = data
        .split(' ')
        .map(|one| {
            let (label, rest) = one.split_once('=').expect("a label");
            let (value, limits) = rest.split_once(';').expect("limits");
            assert_eq!(limits.matches(';').count(), 2, "warning, critical, least: {one}");
            let number = value.trim_end_matches('s');
            assert!(number.parse::<f64>().is_ok(), "{one}");
            (label.to_owned(), (value.to_owned(), limits.to_owned()))
        })
        .collect();
    assert_eq!(
        figures.keys().map(String::as_str).collect::<Vec<_>>(),
        ["alarms", "due", "held", "oldest_due", "scheduled", "unknown"]
    );
    figures
}

#[tokio::test]
async fn a_plug_in_says_in_one_line_what_monitoring_asks() {
    let db = TestDb::create("status_nagios").await;
    let client = db.client().await;
    client.batch_execute(ALIVE).await.unwrap();
    let cli = Cli::with_database(&db.daemon_url().await);
    let line = cli.run(&["status", "--nagios"]).await.expect(0).stdout;
    assert!(line.starts_with("OUTBOXD OK - 0 due, the daemon on sms1 sends | "), "{line}");
    assert_eq!(figures(&line)["oldest_due"], ("0.000s".to_owned(), ";;0".to_owned()));

    let waits = "INSERT INTO sms.outbox (recipient, body, send_after) VALUES \
                 ('353871234567', 'x', now() - interval '10 minutes'), ('353871234567', 'y', now() + interval '1 day')";
    client.batch_execute(waits).await.unwrap();
    cli.run(&["status", "--nagios"]).await.expect(0);
    for (warning, critical, code, word) in [
        ("20m", "1h", 0, "OK"),
        ("5m", "1h", 1, "WARNING"),
        ("5m", "9m", 2, "CRITICAL"),
        ("1h", "9m", 2, "CRITICAL"),
    ] {
        let ended = cli.run(&["status", "--nagios", "-w", warning, "-c", critical]).await.expect(code);
        assert!(ended.stdout.starts_with(&format!("OUTBOXD {word} - ")), "{ended:?}");
        assert_eq!(ended.stdout.contains("has waited for 10m"), code > 0, "{ended:?}");
        let found = figures(&ended.stdout);
        assert_eq!((found["due"].0.as_str(), found["scheduled"].0.as_str()), ("1", "1"));
    }
    let line =
        cli.run(&["status", "--nagios", "--warning", "300s", "--critical", "900s"]).await.expect(1).stdout;
    assert_eq!(figures(&line)["oldest_due"].1, "300;900;0");
}

#[tokio::test]
async fn a_plug_in_that_cannot_know_says_unknown_and_without_database_critical() {
    let db = TestDb::create_empty("status_nagios_empty").await;
    let ended = Cli::with_database(&db.url()).run(&["status", "--nagios"]).await.expect(3);
    assert!(ended.stdout.starts_with("OUTBOXD UNKNOWN - outboxd's tables are not in"), "{ended:?}");
    let away = Cli::with_database("host=/nonexistent dbname=x user=y");
    let ended = away.run(&["status", "--nagios"]).await.expect(2);
    assert!(ended.stdout.starts_with("OUTBOXD CRITICAL - could not reach the database"), "{ended:?}");
    assert_eq!(ended.stdout.lines().count(), 1);
    let ended = away.run(&["status", "--nagios", "--nonsense"]).await.expect(3);
    assert_eq!(ended.stdout, "OUTBOXD UNKNOWN - wrong arguments\n");
    let ended = Cli::new("[nonsense]").run(&["status", "--nagios"]).await.expect(3);
    assert!(ended.stdout.starts_with("OUTBOXD UNKNOWN - ") && ended.stdout.lines().count() == 1, "{ended:?}");
    away.run(&["status", "--warning", "5m"]).await.expect(64);
}

#[tokio::test]
async fn without_schema_or_database_the_reason_is_said() {
    let db = TestDb::create_empty("status_empty").await;
    let ended = Cli::with_database(&db.url()).run(&["status"]).await.expect(78);
    assert!(ended.stderr.contains("Hint: run `outboxd migrate`"), "{ended:?}");
    let ended = Cli::with_database("host=/nonexistent dbname=x user=y").run(&["status"]).await.expect(69);
    assert!(ended.stderr.contains("could not reach the database host=/nonexistent"), "{ended:?}");
}
