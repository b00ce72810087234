//! `outboxd hold`, `resume` and `adopt`.

use tokio_postgres::Client;

use crate::support::cli::Cli;
use crate::support::postgres::TestDb;

/// As a daemon that took over a restored copy leaves it.
const CHANGED: &str = "
    UPDATE outboxd.leader SET system_identifier = 12345, timeline = 3, held = true,
        held_code = 'database_changed', held_reason = 'this database is a copy';
    INSERT INTO outboxd.alarm (code, text) VALUES ('database_changed', 'this database is a copy')";

async fn held(client: &Client) -> (bool, Option<String>) {
    let row = client.query_one("SELECT held, held_code FROM outboxd.leader", &[]).await.unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn hold_stops_and_resume_goes_on_and_both_say_what_was() {
    let db = TestDb::create("hold").await;
    let client = db.client().await;
    let cli = Cli::with_database(&db.daemon_url().await);
    let text = cli.run(&["hold", "--reason", "wrong texts"]).await.expect(0).stdout;
    assert!(text.starts_with("held: wrong texts\n"), "{text}");
    assert!(held(&client).await.0);
    let text = cli.run(&["hold", "--reason", "still"]).await.expect(0).stdout;
    assert!(text.starts_with("was held already: wrong texts\nheld: still\n"), "{text}");
    let text = cli.run(&["resume"]).await.expect(0).stdout;
    assert!(text.starts_with("was held: still\nresumed\n"), "{text}");
    assert!(text.contains("no daemon has sent"), "it would not be sent by itself: {text}");
    assert_eq!(held(&client).await, (false, None));
    assert_eq!(cli.run(&["resume"]).await.expect(0).stdout, "nothing is held\n");
}

#[tokio::test]
async fn a_stopped_gateway_is_asked_to_try_again_and_a_wrong_name_lists_the_others() {
    let db = TestDb::create("resume_gateway").await;
    let client = db.client().await;
    let stopped =
        "INSERT INTO outboxd.gateway (name, state, reason) VALUES ('main', 'stopped', 'wrong password')";
    client.batch_execute(stopped).await.unwrap();
    let cli = Cli::with_database(&db.daemon_url().await);
    let text = cli.run(&["resume", "--gateway", "main"]).await.expect(0).stdout;
    assert!(text.starts_with("main was stopped for 0s: wrong password\n"), "{text}");
    let row =
        client.query_one("SELECT resume_requested_at IS NOT NULL FROM outboxd.gateway", &[]).await.unwrap();
    assert!(row.get::<_, bool>(0));
    let ended = cli.run(&["resume", "--gateway", "mian"]).await.expect(1);
    assert!(ended.stderr.contains("no gateway is called mian\nHint: there are: main"), "{ended:?}");
}

#[tokio::test]
async fn a_changed_database_is_not_resumed_but_adopted() {
    let db = TestDb::create("adopt").await;
    let client = db.client().await;
    client.batch_execute(CHANGED).await.unwrap();
    let cli = Cli::with_database(&db.daemon_url().await);
    let ended = cli.run(&["resume"]).await.expect(1);
    assert!(
        ended.stderr.contains("not resumed: this database is a copy\nHint: `outboxd adopt`"),
        "{ended:?}"
    );
    assert!(held(&client).await.0);
    let text = cli.run(&["adopt"]).await.expect(0).stdout;
    assert!(
        text.starts_with("last sent from   cluster 12345, timeline 3\nthis database    cluster "),
        "{text}"
    );
    assert!(text.contains("was held: this database is a copy\nadopted: "), "{text}");
    let row = client
        .query_one(
            "SELECT NOT l.held AND l.system_identifier = c.system_identifier,
                 NOT EXISTS (SELECT FROM outboxd.alarm WHERE cleared_at IS NULL)
             FROM outboxd.leader AS l CROSS JOIN pg_control_system() AS c",
            &[],
        )
        .await
        .unwrap();
    assert_eq!((row.get(0), row.get(1)), (true, true));
    let text = cli.run(&["adopt"]).await.expect(0).stdout;
    assert!(text.contains("nothing to adopt"), "{text}");
}

#[tokio::test]
async fn adopting_does_not_let_go_of_an_operators_hold() {
    let db = TestDb::create("adopt_held").await;
    let client = db.client().await;
    client.batch_execute("SELECT sms.hold('stocktaking')").await.unwrap();
    client.batch_execute("UPDATE outboxd.leader SET system_identifier = 1, timeline = 1").await.unwrap();
    let cli = Cli::with_database(&db.daemon_url().await);
    let text = cli.run(&["adopt"]).await.expect(0).stdout;
    assert!(text.contains("adopted: "), "{text}");
    assert!(text.contains("still held by an operator (stocktaking)"), "{text}");
    assert_eq!(held(&client).await, (true, Some("operator".to_owned())));
}
