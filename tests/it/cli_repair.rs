//! `outboxd retry`, `cancel` and `resolve` on messages in each state.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use crate::support::cli::Cli;
use crate::support::postgres::TestDb;

/// One message in each state, and a held one. Returns their ids by state.
async fn one_in_each_state(client: &Client) -> BTreeMap<String, i64> {
    let rows = client
        .query(
            "INSERT INTO sms.outbox (recipient, body, status, held, attempts, final_at)
             SELECT '353871234567', s.name, CASE s.name WHEN 'held' THEN 'queued' ELSE s.name END, s.name = 'held', 1,
                 CASE WHEN s.name IN ('delivered', 'undelivered', 'failed', 'expired', 'cancelled') THEN now() END
             FROM unnest('{queued,held,unknown,accepted,delivered,undelivered,failed,expired,cancelled}'::text[])
                 AS s(name)
             RETURNING body, id",
            &[],
        )
        .await
        .unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// What each of them is now.
async fn states(client: &Client) -> BTreeMap<String, String> {
    let rows = client
        .query("SELECT body, CASE WHEN held THEN 'held' ELSE status END FROM sms.outbox", &[])
        .await
        .unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// All as they were but for these.
#[track_caller]
fn assert_changed(now: &BTreeMap<String, String>, changed: &[&str], to: &str) {
    for (before, now) in now {
        let expected = if changed.contains(&before.as_str()) { to } else { before };
        assert_eq!(now, expected, "was {before}");
    }
}

async fn set_up(hint: &str) -> (TestDb, Client, BTreeMap<String, i64>, Cli) {
    let db = TestDb::create(hint).await;
    let client = db.client().await;
    let ids = one_in_each_state(&client).await;
    let cli = Cli::with_database(&db.daemon_url().await);
    (db, client, ids, cli)
}

fn with_ids<'a>(command: &[&'a str], ids: &'a [String]) -> Vec<&'a str> {
    command.iter().copied().chain(ids.iter().map(String::as_str)).collect()
}

fn all(ids: &BTreeMap<String, i64>) -> Vec<String> {
    ids.values().map(ToString::to_string).chain(["987654321".to_owned()]).collect()
}

#[tokio::test]
async fn cancel_takes_what_is_queued_and_says_what_the_others_are() {
    let (_db, client, ids, cli) = set_up("cancel").await;
    let ended = cli.run(&with_ids(&["cancel"], &all(&ids))).await.expect(1);
    assert_changed(&states(&client).await, &["queued", "held"], "cancelled");
    // The one that was cancelled before counts as well: it is what was asked for.
    assert!(ended.stdout.starts_with("3 messages cancelled\n"), "{ended:?}");
    assert!(
        ended.stdout.contains(&format!("1 message not: already delivered ({})\n", ids["delivered"])),
        "{ended:?}"
    );
    assert!(ended.stdout.contains("1 message not: no such message (987654321)\n"), "{ended:?}");
    let again = ids["queued"].to_string();
    assert_eq!(cli.run(&["cancel", &again]).await.expect(0).stdout, "1 message cancelled\n");
}

#[tokio::test]
async fn retry_queues_what_ended_badly_and_leaves_the_rest() {
    let (_db, client, ids, cli) = set_up("retry").await;
    let ended = cli.run(&with_ids(&["retry"], &all(&ids))).await.expect(1);
    let again = ["failed", "undelivered", "expired", "held"];
    assert_changed(&states(&client).await, &again, "queued");
    assert!(ended.stdout.starts_with("4 messages queued again\n"), "{ended:?}");
    for (why, state) in [
        ("may have been sent already: `outboxd resolve`, or --force", "unknown"),
        ("still queued", "queued"),
        ("delivered", "delivered"),
        ("accepted", "accepted"),
        ("cancelled", "cancelled"),
    ] {
        assert!(
            ended.stdout.contains(&format!("1 message not: {why} ({})\n", ids[state])),
            "{state}: {ended:?}"
        );
    }
    let unknown = ids["unknown"].to_string();
    assert_eq!(cli.run(&["retry", "--force", &unknown]).await.expect(0).stdout, "1 message queued again\n");
}

#[tokio::test]
async fn retry_in_bulk_takes_one_state_and_a_time() {
    let (_db, client, _, cli) = set_up("retry_bulk").await;
    let many = "INSERT INTO sms.outbox (recipient, body, status, final_at, created_at)
                SELECT '353871234567', 'many', 'failed', now(), now() FROM generate_series(1, 1500);
                INSERT INTO sms.outbox (recipient, body, status, final_at, created_at)
                VALUES ('353871234567', 'old', 'failed', now(), now() - interval '3 days')";
    client.batch_execute(many).await.unwrap();
    let ended = cli.run(&["retry", "--status", "failed", "--since", "2h"]).await.expect(0);
    assert_eq!(ended.stdout, "1501 messages queued again\n");
    let states = states(&client).await;
    assert_eq!((states["many"].as_str(), states["old"].as_str()), ("queued", "failed"));
    let ended = cli.run(&["retry", "--status", "failed", "--since", "2h"]).await.expect(0);
    assert!(ended.stdout.contains("nothing to do"), "{ended:?}");
    let ended = cli.run(&["retry", "--status", "held", "--since", "2h"]).await.expect(0);
    assert_eq!(ended.stdout, "1 message queued again\n");
    let ended = cli.run(&["retry", "--status", "unknown", "--since", "2h"]).await.expect(64);
    assert!(ended.stderr.contains("Hint: find out and use `outboxd resolve`"), "{ended:?}");
    assert_eq!(
        cli.run(&["retry", "--status", "unknown", "--since", "2h", "--force"]).await.expect(0).stdout,
        "1 message queued again\n"
    );
}

#[tokio::test]
async fn resolve_touches_only_what_is_unknown() {
    let (_db, client, ids, cli) = set_up("resolve").await;
    let ended = cli.run(&with_ids(&["resolve", "--as", "failed"], &all(&ids))).await.expect(1);
    assert_changed(&states(&client).await, &["unknown"], "failed");
    assert!(ended.stdout.starts_with("1 message declared failed\n"), "{ended:?}");
    assert!(
        ended.stdout.contains(&format!("1 message not: already accepted ({})\n", ids["accepted"])),
        "{ended:?}"
    );
    assert!(ended.stdout.contains("no such message (987654321)"), "{ended:?}");
}

#[tokio::test]
async fn resolve_all_takes_every_unknown_message() {
    let (_db, client, _, cli) = set_up("resolve_all").await;
    let many = "INSERT INTO sms.outbox (recipient, body, status, attempts)
                SELECT '353871234567', 'many', 'unknown', 1 FROM generate_series(1, 1200)";
    client.batch_execute(many).await.unwrap();
    let ended = cli.run(&["resolve", "--all", "--as", "delivered"]).await.expect(0);
    assert_eq!(ended.stdout, "1201 messages declared delivered\n");
    let states = states(&client).await;
    assert_eq!((states["many"].as_str(), states["unknown"].as_str()), ("delivered", "delivered"));
    let ended = cli.run(&["resolve", "--all", "--as", "queued"]).await.expect(0);
    assert!(ended.stdout.contains("nothing to do"), "{ended:?}");
}

#[tokio::test]
async fn a_row_that_somebody_has_locked_stops_only_itself() {
    let (_db, mut client, ids, cli) = set_up("locked").await;
    let insert = "INSERT INTO sms.outbox (recipient, body, status, attempts) VALUES ('353871234567', 'other', 'unknown', 1)";
    client.batch_execute(insert).await.unwrap();
    let transaction = client.transaction().await.unwrap();
    let lock = "SELECT FROM sms.outbox WHERE id = $1 FOR UPDATE";
    for state in ["unknown", "queued"] {
        transaction.execute(lock, &[&ids[state]]).await.unwrap();
    }
    let ended = cli.run(&["resolve", "--all", "--as", "accepted"]).await.expect(1);
    assert!(ended.stdout.starts_with("1 message declared accepted\n"), "{ended:?}");
    assert!(
        ended.stdout.contains(&format!("locked by another session, try again ({})", ids["unknown"])),
        "{ended:?}"
    );
    let (queued, held) = (ids["queued"].to_string(), ids["held"].to_string());
    let ended = cli.run(&["cancel", &queued, &held]).await.expect(1);
    assert!(ended.stdout.starts_with("1 message cancelled\n"), "{ended:?}");
    assert!(ended.stdout.contains(&format!("locked by another session, try again ({queued})")), "{ended:?}");
}
