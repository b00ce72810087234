//! People who want no messages get none, from whichever side they were entered; and get them again when they say so.

use std::io::Write;
use std::process::{Command, Stdio};

use outboxd::text::msisdn::{NumberPlan, normalise};
use serde_json::json;
use tokio_postgres::Client;

use crate::inbox::{LISTENING, form, post, site, write};
use crate::support::cli::Cli;
use crate::support::postgres::{cluster, connect, in_full};
use crate::support::site::{Lines, Site, insert};

const NUMBER: &str = "353871234567";

async fn text(client: &Client, sql: &str) -> Option<String> {
    client.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {}", in_full(&error))).get(0)
}

async fn truth(client: &Client, sql: &str) -> bool {
    client.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {}", in_full(&error))).get(0)
}

async fn operator(site: &Site) -> Client {
    let role = site.db.role("operator");
    site.run(&format!("CREATE ROLE {role} LOGIN IN ROLE outboxd_operator")).await;
    connect(cluster(site.db.name()).user(&role)).await
}

/// The row is refused because its recipient has opted out, and nothing of it reached the gateway.
async fn assert_refused(site: &Site, id: i64) {
    let row = site.until(id, "failed").await;
    assert_eq!((row.code(), row.attempts, row.sent), ("opted_out", 0, false), "{row:?}");
}

#[tokio::test]
async fn whoever_writes_stop_gets_no_more_messages_until_they_write_start() {
    let site = site("stop").await;
    site.sim.handset(&json!({"number": NUMBER, "reply": "Stop please"})).await;
    let daemon = site.daemon(LISTENING).await;
    let shop = site.db.app_client("shop").await;
    let first = insert(&shop, "(recipient, body) VALUES ('0871234567', 'Buy!')").await;
    site.until_delivered(first).await;
    site.until_true("the opt-out is there", "SELECT count(*) = 1 FROM sms.opt_out WHERE ended_at IS NULL")
        .await;
    assert_eq!(text(&shop, "SELECT effect FROM sms.inbox").await.as_deref(), Some("opt_out"));
    assert!(truth(&shop, "SELECT sms.is_opted_out('087 123 4567')").await);
    assert!(!truth(&shop, "SELECT sms.is_opted_out('0871234568')").await);

    // However the number is written, and among others that are wanted.
    let ids = ["+353 87 123 4567", "087-123-4567", "353871234567"];
    for recipient in ids {
        let id = insert(&shop, &format!("(recipient, body) VALUES ('{recipient}', 'Buy!')")).await;
        let other = insert(&shop, "(recipient, body) VALUES ('0871234568', 'Buy!')").await;
        assert_refused(&site, id).await;
        site.until_delivered(other).await;
    }
    // Asking again does not help.
    let again = site.number("SELECT max(id) FROM sms.outbox WHERE error_code = 'opted_out'").await;
    assert_eq!(text(&shop, &format!("SELECT sms.retry({again})")).await.as_deref(), Some("queued"));
    assert_refused(&site, again).await;

    site.sim.handset(&json!({"number": NUMBER})).await;
    // The gateway counts in seconds, and of two words in one the STOP would count.
    site.run("UPDATE sms.opt_out SET since = since - interval '5 s'").await;
    write(&site, NUMBER, "start").await;
    assert_eq!(
        text(&shop, "SELECT sms.retry(max(id)) FROM sms.outbox WHERE error_code = 'opted_out'")
            .await
            .as_deref(),
        Some("queued")
    );
    site.until_delivered(again).await;
    let reached = site.ledger().await.iter().filter(|m| m["number"] == NUMBER).count();
    assert_eq!(reached, 2, "the first, and the one after START");
    assert!(!daemon.log().contains(NUMBER));
}

#[tokio::test]
async fn what_is_marked_transactional_is_sent_all_the_same() {
    let site = site("transactional").await;
    site.run(
        "INSERT INTO sms.template (name, body, transactional) VALUES ('code', 'Your code is {n}.', true), \
         ('advert', 'Buy {n}!', false); SELECT sms.opt_out('+353871234567')",
    )
    .await;
    let more = "[opt_out]\ntransactional_lanes = [\"urgent\"]\n";
    let _daemon = site.daemon(Lines { more, ..LISTENING }).await;
    let queue = async |columns: &str, values: &str| {
        site.insert(&format!("(recipient, {columns}) VALUES ('0871234567', {values})")).await
    };
    let code = queue("template, params", "'code', '{\"n\": 1}'").await;
    let urgent = queue("body, lane", "'Fire!', 'urgent'").await;
    let advert = queue("template, params", "'advert', '{\"n\": 1}'").await;
    let bulk = queue("body, lane", "'Buy!', 'bulk'").await;
    for id in [code, urgent] {
        site.until_delivered(id).await;
    }
    for id in [advert, bulk] {
        assert_refused(&site, id).await;
    }
}

/// The daemon looks at the last moment: a row that it has read already and holds in memory is not sent.
#[tokio::test]
async fn an_opt_out_that_is_committed_before_the_wave_is_obeyed() {
    let site = site("last_moment").await;
    let daemon = site.daemon(Lines { gateway: "concurrency = 1", ..LISTENING }).await;
    site.freeze().await;
    let (first, last) = site.queue(10).await;
    site.sim_reaches("frozen=1").await;
    daemon.wait_log(crate::support::site::LIMIT, "rows=10").await;
    // Two are under way. This one is the tenth, to +353870000010.
    site.run("SELECT sms.opt_out('087 0000010')").await;
    assert_eq!(site.row(last).await.status, "queued");
    site.thaw().await;
    assert_refused(&site, last).await;
    site.until_counts("the others are sent", |counts| counts.of("delivered") == last - first).await;
    assert_eq!(site.sim_count("accepted").await, 9);
}

#[tokio::test]
async fn an_application_speaks_for_itself_and_an_operator_for_everybody() {
    let site = site("scopes").await;
    let _daemon = site.daemon(LISTENING).await;
    let (shop, bank) = (site.db.app_client("shop").await, site.db.app_client("bank").await);
    let operator = operator(&site).await;
    assert_eq!(text(&shop, "SELECT sms.opt_out('0871234567', 'rang us')").await.as_deref(), Some(NUMBER));
    let refused = insert(&shop, "(recipient, body) VALUES ('0871234567', 'x')").await;
    let sent = insert(&bank, "(recipient, body) VALUES ('0871234567', 'x')").await;
    assert_refused(&site, refused).await;
    site.until_delivered(sent).await;
    assert!(!truth(&bank, "SELECT sms.is_opted_out('0871234567')").await);
    let seen = "SELECT count(*)::text FROM sms.opt_out";
    assert_eq!(text(&bank, seen).await.as_deref(), Some("0"), "nobody sees the list of another");
    assert_eq!(text(&shop, seen).await.as_deref(), Some("1"));
    assert!(truth(&bank, "SELECT sms.opt_in('0871234567')").await, "nothing of the bank's stands");
    assert!(truth(&shop, "SELECT sms.is_opted_out('0871234567')").await, "the shop's still does");
    assert!(truth(&shop, "SELECT sms.opt_in('0871234567')").await);

    // What the person wrote stands for everybody, and no application undoes it.
    write(&site, NUMBER, "STOP").await;
    for app in [&shop, &bank] {
        assert!(!truth(app, "SELECT sms.opt_in('0871234567')").await);
        assert_refused(&site, insert(app, "(recipient, body) VALUES ('0871234567', 'x')").await).await;
    }
    assert!(truth(&operator, "SELECT sms.opt_in('0871234567')").await);
    site.until_delivered(insert(&shop, "(recipient, body) VALUES ('0871234567', 'x')").await).await;
    // Direct changes are nobody's.
    for client in [&shop, &operator] {
        for sql in [
            "DELETE FROM sms.opt_out",
            "UPDATE sms.opt_out SET ended_at = now()",
            "INSERT INTO sms.opt_out (msisdn, source) VALUES ('353871234567', 'reply')",
            "INSERT INTO sms.inbox (sender, recipient, body) VALUES ('1', '2', 'x')",
            "DELETE FROM sms.inbox",
        ] {
            let error = client.batch_execute(sql).await.unwrap_err();
            assert_eq!(error.code(), Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE), "{sql}");
        }
    }
}

#[tokio::test]
async fn what_somebody_wrote_last_counts_whatever_comes_first() {
    let site = site("order").await;
    let _daemon = site.daemon(LISTENING).await;
    let said = async |text: &str, time: &str| {
        assert_eq!(post(&site, &form(NUMBER, "51000", text, &format!("2026-11-22 {time}"))).await, 200);
    };
    let out = async || truth(&site.sql, "SELECT sms.is_opted_out('+353871234567')").await;
    said("START", "10:05:00").await;
    said("STOP", "10:00:00").await;
    assert!(!out().await, "the STOP is the older one");
    said("STOP", "10:10:00").await;
    assert!(out().await);
    said("START", "10:07:00").await;
    assert!(out().await, "the START is the older one");
    said("START", "10:10:00").await;
    assert!(out().await, "in doubt no messages");
    said("START", "10:15:00").await;
    assert!(!out().await);
    // The gateway repeats what it told before.
    said("STOP", "10:10:00").await;
    said("STOP", "10:00:00").await;
    assert!(!out().await);
    said("START now", "10:20:00").await;
    said("STOP", "10:21:00").await;
    said("START now", "10:22:00").await;
    assert!(out().await, "an opt-in is its keyword and nothing else");
}

#[tokio::test]
async fn everything_that_is_sent_to_the_shared_short_code_is_an_opt_out() {
    let site = site("short_code").await;
    let _daemon = site.daemon(LISTENING).await;
    assert_eq!(post(&site, &form(NUMBER, "50123", "no more please", "2026-11-22 10:00:00")).await, 200);
    assert!(truth(&site.sql, "SELECT sms.is_opted_out('+353871234567')").await);
    // From what is no phone number, nobody is opted out; the message is kept.
    assert_eq!(post(&site, &form("51111", "50123", "STOP", "2026-11-22 10:00:00")).await, 200);
    assert_eq!(site.number("SELECT count(*) FROM sms.opt_out").await, 1);
    assert_eq!(site.number("SELECT count(*) FROM sms.inbox").await, 2);
}

#[tokio::test]
async fn lists_are_imported_and_exported() {
    let site = site("lists").await;
    let daemon = site.daemon(LISTENING).await;
    let file = tempfile::tempdir().unwrap();
    let path = file.path().join("outboxd.toml");
    std::fs::write(&path, site.config(Lines::default())).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let import = |csv: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_outboxd"))
            .arg("--config")
            .arg(&path)
            .args(["opt-out", "import"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(csv.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, said) = import(
        "number,since,reason\n0871234567,2020-01-01T00:00:00Z,\"by letter, signed\"\n087 1234568,,\nno number,,\n",
    );
    assert_eq!(code, Some(1), "one line could not be read");
    assert!(said.starts_with("2 numbers opted out\nnot read: line 4: "), "{said}");
    assert_eq!(import("0871234567\n0871234567\n").1, "0 numbers opted out; 1 were before\n");
    assert_refused(&site, site.insert("(recipient, body) VALUES ('0871234568', 'x')").await).await;

    let cli = Cli::new(&site.config(Lines::default()));
    let run = async |arguments: &[&str]| cli.run(arguments).await;
    let exported = run(&["opt-out", "export"]).await.expect(0).stdout;
    assert!(
        exported.contains("353871234567,,2020-01-01T00:00:00Z,import,\"by letter, signed\"\n"),
        "{exported}"
    );
    let removed = run(&["opt-out", "remove", "0871234567", "0871234569"]).await.expect(1).stdout;
    assert_eq!(removed, "1 opt-out opted in again\n3538******69 had not opted out\n");
    // It opted in again after 2020: an old list does not undo that, a new entry does.
    assert_eq!(import(&exported).1, "0 numbers opted out; 2 were before\n");
    let added = run(&["opt-out", "add", "0871234567", "--reason", "rang"]).await.expect(0).stdout;
    assert_eq!(added, "1 number opted out\n");
    let listed = run(&["opt-out", "list"]).await.expect(0).stdout;
    assert!(listed.contains("353871234567") && listed.contains("rang"), "{listed}");
    run(&["opt-out", "add", "nonsense"]).await.expect(1);
    run(&["opt-out", "remove", "nonsense"]).await.expect(64);
    drop(daemon);
}

/// Where the database reads a number at all, it reads it as the daemon does: otherwise an opt-out would be somebody else's.
#[tokio::test]
async fn sql_reads_no_number_differently_from_the_daemon() {
    let site = site("numbers").await;
    let mut taken = 0;
    for (country, trunk) in [
        (Some("353"), "0"),
        (Some("44"), "0"),
        (Some("1"), "1"),
        (Some("36"), "06"),
        (Some("7"), "8"),
        (Some("39"), ""),
        (None, "0"),
        (None, ""),
    ] {
        let quoted = country.map_or("NULL".to_owned(), |country| format!("'{country}'"));
        site.run(&format!("UPDATE outboxd.number_plan SET country = {quoted}, trunk = '{trunk}'")).await;
        for written in [
            "0871234567",
            "087 123 4567",
            "+353 87 123 4567",
            "+353 (0)87 123 4567",
            "+353 (087) 1234567",
            "(087) 1234567",
            "+353 087 123 4567",
            "00353871234567",
            "00353 (0)87 1234567",
            "353871234567",
            "3530871234567",
            "871234567",
            "0044 7911 123456",
            "447911123456",
            "07911 123456",
            "7911123456",
            "+44 (0)7911 123456",
            "06 30 123 4567",
            "06 030 123 4567",
            "+36 06 30 123 4567",
            "+7 812 123 45 67",
            "8 812 123 45 67",
            "1-212-555-0123",
            "2125550123",
            "+12125550123",
            "06 1234567",
            "+39 06 1234567",
            "0",
            "00",
            "+",
            "",
            " ",
            "++1",
            "call me",
            "1",
            "12345",
            "1234567890123456",
            "+0871234567",
            "000871234567",
            "353",
            "+353",
            "087.123.4567",
            "0871234567,0871234568",
            "٠٨٧١٢٣٤٥٦٧",
            "353871234567.0",
            "( 0 )871234567",
            "+353( 0 )871234567",
            "00871234567",
            "+49 1512 3456789",
        ] {
            let rust = normalise(written, NumberPlan { country, trunk }).ok();
            let sql: Option<String> =
                site.sql.query_one("SELECT outboxd.msisdn($1)", &[&written]).await.ok().map(|row| row.get(0));
            if let Some(sql) = sql {
                assert_eq!(Some(sql), rust, "{written:?} with {country:?} and {trunk:?}");
                taken += 1;
            }
        }
    }
    assert!(taken > 100, "only {taken} were read");
}
