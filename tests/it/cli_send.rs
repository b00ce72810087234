//! `outboxd send`: the test plays the daemon and moves the row.

use std::time::Duration;

use tokio_postgres::Client;

use crate::support::cli::{Cli, config, v1_gateway};
use crate::support::eventually;
use crate::support::postgres::TestDb;

const SEND: [&str; 5] = ["send", "--to", "353871234567", "--text", "hi"];
const LIMIT: Duration = Duration::from_secs(30);

/// Waits for the row that the command inserts, and makes this of it.
async fn play_daemon(client: &Client, set: &str) {
    let update = format!("UPDATE sms.outbox SET {set} RETURNING id");
    eventually(LIMIT, "the command queues a row", async || {
        client.query_opt(&update, &[]).await.unwrap().ok_or("no row")
    })
    .await;
}

#[tokio::test]
async fn without_waiting_it_prints_the_id_and_the_row_is_queued() {
    let db = TestDb::create("send_id").await;
    let cli = Cli::with_database(&db.daemon_url().await);
    let mut arguments = SEND.to_vec();
    arguments.extend(["--no-wait", "--lane", "urgent", "--sender", "Clinic", "--gateway", "main"]);
    let id: i64 = cli.run(&arguments).await.expect(0).stdout.trim().parse().unwrap();
    let row = db
        .client()
        .await
        .query_one(
            "SELECT recipient, body, lane, sender, gateway, status FROM sms.outbox WHERE id = $1",
            &[&id],
        )
        .await
        .unwrap();
    let columns: Vec<String> = (0..6).map(|at| row.get(at)).collect();
    assert_eq!(columns, ["353871234567", "hi", "urgent", "Clinic", "main", "queued"]);
}

#[tokio::test]
async fn parameters_are_written_as_an_application_would() {
    let db = TestDb::create("send_template").await;
    let cli = Cli::with_database(&db.daemon_url().await);
    let arguments = [
        "send",
        "--to",
        "1",
        "--template",
        "t",
        "--param",
        "a=b=c",
        "--param",
        "d=\"",
        "--language",
        "de",
        "--no-wait",
    ];
    cli.run(&arguments).await.expect(0);
    let client = db.client().await;
    let row = client
        .query_one("SELECT body, template, language, params->>'a', params->>'d' FROM sms.outbox", &[])
        .await
        .unwrap();
    let columns: Vec<Option<&str>> = (0..5).map(|at| row.get(at)).collect();
    assert_eq!(columns, [None, Some("t"), Some("de"), Some("b=c"), Some("\"")]);
}

#[tokio::test]
async fn accepted_is_the_end_where_no_receipts_come_back() {
    let db = TestDb::create("send_accepted").await;
    let client = db.client().await;
    let cli = Cli::with_database(&db.daemon_url().await);
    let accept = "status = 'accepted', sent_via = 'main', segments = 1, encoding = 'gsm7'";
    let (ended, ()) = tokio::join!(cli.run(&SEND), play_daemon(&client, accept));
    let ended = ended.expect(0);
    assert!(ended.stdout.contains("it stays queued until a daemon runs"), "{ended:?}");
    assert!(ended.stdout.contains(" s  accepted, by main, 1 × gsm7\n"), "{ended:?}");
    assert!(ended.stdout.contains("without [callbacks] no receipt comes back"), "{ended:?}");
}

#[tokio::test]
async fn with_receipts_it_waits_on_for_what_became_of_it() {
    let db = TestDb::create("send_delivered").await;
    let client = db.client().await;
    let rest = format!(
        "{}\n[callbacks]\nlisten = \"127.0.0.1:1\"\npath_env = \"CALLBACK_PATH\"\nclient_secret_env = \"GATEWAY_PASSWORD\"\n",
        v1_gateway("main", "http://127.0.0.1:9/send")
    );
    let cli = Cli::new(&config(&db.daemon_url().await, "", &rest));
    let accepted = async |arguments: &[&str]| {
        let (ended, ()) = tokio::join!(cli.run(arguments), play_daemon(&client, "status = 'accepted'"));
        ended
    };
    let mut short = SEND.to_vec();
    short.extend(["--timeout", "500ms"]);
    let ended = accepted(&short).await.expect(75);
    assert!(ended.stderr.contains("is still accepted after 500ms"), "{ended:?}");
    assert!(
        ended.stderr.contains("Hint: look later: SELECT status, error FROM sms.outbox WHERE id = "),
        "{ended:?}"
    );
    client.batch_execute("DELETE FROM sms.outbox").await.unwrap();
    for (set, code, line) in [
        ("status = 'delivered', final_at = now()", 0, " s  delivered\n"),
        (
            "status = 'failed', final_at = now(), error_code = 'bad_number', error = 'too short'",
            1,
            " s  failed: too short (bad_number)\n",
        ),
    ] {
        let (ended, ()) = tokio::join!(cli.run(&SEND), play_daemon(&client, set));
        let ended = ended.expect(code);
        assert!(ended.stdout.contains(line), "{ended:?}");
        client.batch_execute("DELETE FROM sms.outbox").await.unwrap();
    }
}
