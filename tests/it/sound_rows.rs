//! What a row of the outbox must be like, whoever writes it and however: NULLs get their defaults, `queued` and
//! `unresolved` follow from the status, and what cannot be is refused with a reason.

use std::time::Duration;

use tokio_postgres::Client;

use crate::support::books::Committed;
use crate::support::postgres::{TestDb, in_full};
use crate::support::site::{Lines, Site};

/// Statements that are refused, the rule that they break, and what is said.
const REFUSED: [(&str, &str, &str); 11] = [
    (
        "INSERT INTO sms.outbox (recipient, body, lane) VALUES ('1', 'x', 'fast')",
        "outbox_lane_known",
        "lane is urgent, normal or bulk, not 'fast'",
    ),
    ("UPDATE sms.outbox SET lane = ''", "outbox_lane_known", "not ''"),
    ("UPDATE sms.outbox SET status = 'sent'", "outbox_status_known", "there is no status 'sent'"),
    (
        "INSERT INTO sms.outbox (recipient, body, status, final_at) VALUES ('1', 'x', 'Delivered', now())",
        "outbox_status_known",
        "there is no status 'Delivered'",
    ),
    ("UPDATE sms.outbox SET attempts = -1", "outbox_attempts_count", "not -1"),
    ("UPDATE sms.outbox SET attempts = 2000000001", "outbox_attempts_count", "not 2000000001"),
    (
        "UPDATE sms.outbox SET held = true, status = 'accepted'",
        "outbox_held_is_queued",
        "this one is accepted",
    ),
    ("UPDATE sms.outbox SET status = 'failed'", "outbox_final_has_time", "this message is failed"),
    (
        "INSERT INTO sms.outbox (recipient, body, status) VALUES ('1', 'x', 'delivered')",
        "outbox_final_has_time",
        "this message is delivered",
    ),
    ("UPDATE sms.outbox SET final_at = now()", "outbox_final_has_time", "this message is queued"),
    (
        "INSERT INTO sms.outbox (id, recipient, body, send_after) \
         VALUES (-9223372036854775808, '1', 'x', '-infinity')",
        "outbox_has_a_place",
        "the lowest id",
    ),
];

async fn waits(client: &Client) -> (bool, bool) {
    let row = client.query_one("SELECT queued, unresolved FROM sms.outbox", &[]).await.unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_the_rule_and_a_reason() {
    let db = TestDb::create("refused_rows").await;
    let client = db.client().await;
    client.batch_execute("INSERT INTO sms.outbox (recipient, body) VALUES ('1', 'x')").await.unwrap();
    for (sql, rule, says) in REFUSED {
        let error = client.batch_execute(sql).await.expect_err(sql);
        let told = error.as_db_error().unwrap();
        assert_eq!(
            (told.code().code(), told.constraint()),
            ("23514", Some(rule)),
            "{sql}: {}",
            in_full(&error)
        );
        assert!(told.message().contains(says), "{sql}: {}", told.message());
    }
    // What is missing and has no default is refused by its column.
    for sql in ["UPDATE sms.outbox SET status = NULL", "UPDATE sms.outbox SET attempts = NULL"] {
        let error = client.batch_execute(sql).await.expect_err(sql);
        assert_eq!(error.code().unwrap().code(), "23502", "{sql}: {}", in_full(&error));
    }
    assert_eq!(waits(&client).await, (true, false));
}

#[tokio::test]
async fn whether_a_row_waits_follows_from_its_status_however_it_is_written() {
    let db = TestDb::create("follows").await;
    let client = db.client().await;
    for (status, held, last) in [
        ("queued", false, false),
        ("queued", true, false),
        ("unknown", false, false),
        ("accepted", false, false),
        ("delivered", false, true),
        ("undelivered", false, true),
        ("failed", false, true),
        ("expired", false, true),
        ("cancelled", false, true),
    ] {
        let follows = (status == "queued" && !held, status == "unknown");
        let final_at = if last { "now()" } else { "NULL" };
        // By an INSERT, also if it says otherwise; and by an UPDATE, from either state.
        for (queued, unresolved) in
            [("DEFAULT", "DEFAULT"), ("true", "true"), ("false", "false"), ("NULL", "NULL")]
        {
            client
                .batch_execute(&format!(
                    "TRUNCATE sms.outbox; \
                     INSERT INTO sms.outbox (recipient, body, status, held, final_at, queued, unresolved) \
                     VALUES ('1', 'x', '{status}', {held}, {final_at}, {queued}, {unresolved})"
                ))
                .await
                .unwrap();
            assert_eq!(
                waits(&client).await,
                follows,
                "{status}, held {held}, inserted as {queued}, {unresolved}"
            );
        }
        for before in [
            "status = 'queued', held = false",
            "status = 'unknown', held = false",
            "status = 'queued', held = true",
        ] {
            client
                .batch_execute(&format!(
                    "UPDATE sms.outbox SET final_at = NULL, {before}; \
                     UPDATE sms.outbox SET status = '{status}', held = {held}, final_at = {final_at}"
                ))
                .await
                .unwrap();
            assert_eq!(waits(&client).await, follows, "{status}, held {held}, after {before}");
        }
    }
}

/// Whatever they are called: PostgreSQL fires triggers in the order of their names.
#[tokio::test]
async fn what_a_trigger_of_the_site_makes_of_a_row_is_looked_at_as_well() {
    let db = TestDb::create("site_trigger").await;
    let client = db.client().await;
    let trigger = |then: &str| {
        format!(
            "CREATE OR REPLACE FUNCTION public.review() RETURNS trigger LANGUAGE plpgsql \
             AS 'BEGIN {then} RETURN NEW; END'; \
             CREATE OR REPLACE TRIGGER sms_review BEFORE INSERT ON sms.outbox FOR EACH ROW EXECUTE FUNCTION public.review()"
        )
    };
    let insert = "TRUNCATE sms.outbox; INSERT INTO sms.outbox (recipient, body) VALUES ('1', 'x')";
    client.batch_execute(&trigger("NEW.held := true;")).await.unwrap();
    client.batch_execute(insert).await.unwrap();
    assert_eq!(waits(&client).await, (false, false), "it is held");
    client
        .batch_execute(&trigger("NEW.status := ''cancelled''; NEW.final_at := now(); NEW.queued := NULL;"))
        .await
        .unwrap();
    client.batch_execute(insert).await.unwrap();
    assert_eq!(waits(&client).await, (false, false), "it is cancelled");
    client.batch_execute(&trigger("NEW.lane := ''Urgent'';")).await.unwrap();
    let error = client.batch_execute(insert).await.expect_err("there is no such lane");
    assert!(in_full(&error).contains("not 'Urgent'"), "{}", in_full(&error));
}

/// Where rows were written while no trigger fired, `queued` may say what is not so.
#[tokio::test]
async fn a_row_that_only_seems_to_wait_is_left_as_it_is() {
    let site = Site::new("seems_to_wait").await;
    site.run(
        "ALTER TABLE sms.outbox DISABLE TRIGGER ALL; \
         INSERT INTO sms.outbox (recipient, body, held) VALUES ('0871234567', 'held', true); \
         INSERT INTO sms.outbox (recipient, body, held, expires_at) \
         VALUES ('0871234567', 'held and over', true, now() - interval '1 day'); \
         INSERT INTO sms.outbox (recipient, body, status, sent_at, attempts, gateway_ref, sent_via, expires_at) \
         VALUES ('0871234567', 'sent', 'accepted', now(), 1, 'A-B-1', 'main', now() - interval '1 day'); \
         ALTER TABLE sms.outbox ENABLE TRIGGER ALL",
    )
    .await;
    let as_they_are = "SELECT count(*) FROM sms.outbox \
                       WHERE queued AND final_at IS NULL AND (held OR status = 'accepted') AND body NOT LIKE 'text%'";
    let database = outboxd::config::connection(&site.db.daemon_url().await).unwrap();
    let store = outboxd::store::Store::open(&database).unwrap();
    assert_eq!(store.expire(Duration::ZERO, &[]).await.unwrap(), []);
    let daemon = site.daemon(Lines::default()).await;
    let mut committed = Committed::default();
    site.queue_texts(&mut committed, "text", 2).await;
    site.until_counts("two are sent", |counts| counts.of("accepted") == 3).await;
    // It would not, if they went round and round.
    site.until_asleep(&daemon).await;
    assert_eq!(site.number(as_they_are).await, 3);
    assert_eq!(site.sim_count("accepted").await, 2);
}

/// The functions run with the rights of the table's owner, and with the search_path of whoever inserts.
#[tokio::test]
async fn operators_of_an_application_are_not_asked_whether_its_row_is_sound() {
    let db = TestDb::create("bent").await;
    let client = db.client().await;
    let shop = db.app_client("shop").await;
    client
        .batch_execute(
            "CREATE SCHEMA bent; CREATE TABLE bent.asked (who text); GRANT ALL ON SCHEMA bent TO outboxd_app; \
             GRANT ALL ON bent.asked TO PUBLIC; GRANT USAGE ON SCHEMA bent TO PUBLIC",
        )
        .await
        .unwrap();
    let mut bend = String::new();
    for (name, left, right) in [
        ("=", "text", "text"),
        ("<>", "text", "text"),
        ("<>", "boolean", "boolean"),
        (">=", "integer", "integer"),
        ("<=", "integer", "integer"),
        ("<", "integer", "integer"),
        (">", "integer", "integer"),
        (">", "timestamptz", "timestamptz"),
        ("=", "timestamptz", "timestamptz"),
        ("=", "bigint", "numeric"),
        ("<", "bigint", "integer"),
        (">", "bigint", "bigint"),
        ("*", "numeric", "integer"),
    ] {
        bend.push_str(&format!(
            "CREATE OR REPLACE FUNCTION bent.yes(a {left}, b {right}) RETURNS boolean LANGUAGE plpgsql \
             AS 'BEGIN INSERT INTO bent.asked VALUES (current_user); RETURN true; END'; \
             CREATE OPERATOR bent.{name} (LEFTARG = {left}, RIGHTARG = {right}, FUNCTION = bent.yes); "
        ));
    }
    shop.batch_execute(&bend).await.unwrap();
    // A sleeping daemon is rung.
    client
        .batch_execute(
            "SELECT setval('outboxd.register', -(extract(epoch FROM now() + interval '1 h') * 1000000)::bigint)",
        )
        .await
        .unwrap();
    // Types are looked for in the temporary schema before any other.
    for base in ["text", "int8", "bool", "regclass", "timestamptz", "numeric"] {
        shop.batch_execute(&format!(
            "CREATE FUNCTION pg_temp.seen(a pg_catalog.{base}) RETURNS pg_catalog.bool LANGUAGE plpgsql \
             AS 'BEGIN INSERT INTO bent.asked VALUES (current_user); RETURN true; END'; \
             CREATE DOMAIN pg_temp.{base} AS pg_catalog.{base} CHECK (pg_temp.seen(VALUE))"
        ))
        .await
        .unwrap_or_else(|error| panic!("{base}: {}", in_full(&error)));
    }
    shop.batch_execute("SET search_path = bent, pg_catalog").await.unwrap();
    let insert = |lane: &str, send_after: &str| {
        format!(
            "INSERT INTO sms.outbox (recipient, body, lane, send_after) VALUES ('1', 'x', {lane}, {send_after})"
        )
    };
    let error = shop.batch_execute(&insert("'fast'", "NULL")).await.expect_err("there is no such lane");
    assert!(in_full(&error).contains("lane is urgent"), "{}", in_full(&error));
    shop.batch_execute(&insert("'bulk'", "'-infinity'")).await.unwrap();
    shop.batch_execute(&insert("NULL", "NULL")).await.unwrap();
    let asked = "SELECT count(*) FROM bent.asked WHERE who = current_user";
    let asked: i64 = client.query_one(asked, &[]).await.unwrap().get(0);
    assert_eq!(asked, 0, "nothing of theirs ran with our rights");
}
