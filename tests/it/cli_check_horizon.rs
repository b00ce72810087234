//! What pins the xmin horizon, as `outboxd check` tells it with no more rights than the daemon has: each kind is brought
//! about in a real server, and mended by the very words that `check` says.

use tokio_postgres::Client;

use crate::cli_check::{assert_finding, check, finding};
use crate::support::cli::{Ended, v1_gateway};
use crate::support::clock::WallClock;
use crate::support::cluster::{Cluster, Stop};
use crate::support::eventually;
use crate::support::postgres::{TestDb, connect};
use crate::support::site::LIMIT;

const NAME: &str = "xmin horizon";

/// What the daemon's role is told.
async fn horizon(db: &TestDb) -> Ended {
    check(&db.daemon_url().await, "", &v1_gateway("main", "http://127.0.0.1:9/send")).await
}

#[track_caller]
fn assert_pinned(ended: &Ended, parts: &[&str]) {
    for part in parts {
        assert_finding(ended, NAME, "warning", part);
    }
}

#[track_caller]
fn assert_free(ended: &Ended) {
    assert_finding(ended, NAME, "ok", "nothing old");
}

/// More transactions than an ordinary one is old when it ends.
async fn burn(client: &Client) {
    let burn = "DO $$ BEGIN FOR i IN 1..101000 LOOP BEGIN INSERT INTO public.burnt VALUES (1); \
                EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$";
    client.batch_execute("CREATE TABLE IF NOT EXISTS public.burnt (i int)").await.unwrap();
    client.batch_execute(burn).await.unwrap();
}

/// What stands in the advice from this word to the next semicolon: a statement to copy.
#[track_caller]
fn advised(ended: &Ended, from: &str) -> String {
    let text = finding(ended, NAME).1;
    let Some(start) = text.find(from) else { panic!("{from} is not in {text}") };
    text[start..].split_inclusive(';').next().unwrap().to_owned()
}

/// Holds what it sees now until it is dropped.
async fn looks_at_old_rows(client: &Client) {
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").await.unwrap();
}

#[tokio::test]
async fn a_long_transaction_is_named_with_what_to_do() {
    let cluster = Cluster::start("").await;
    let db = TestDb::in_cluster(&cluster, "horizon_session").await;
    let client = db.client().await;
    // Somebody else's: how long it lasts the daemon's role is not shown.
    let old = db.client().await;
    old.batch_execute("SET application_name = 'forgotten'").await.unwrap();
    looks_at_old_rows(&old).await;
    assert_free(&horizon(&db).await);
    burn(&client).await;
    let ended = horizon(&db).await;
    assert_pinned(
        &ended,
        &["transaction of process", "forgotten", "transactions old", "idle_in_transaction_session_timeout"],
    );
    client.batch_execute(&advised(&ended, "SELECT pg_terminate_backend(")).await.unwrap();
    eventually(LIMIT, "the session has ended", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'forgotten'";
        match client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) {
            0 => Ok(()),
            others => Err(others),
        }
    })
    .await;
    assert_free(&horizon(&db).await);
}

#[tokio::test]
async fn a_transaction_in_another_database_pins_nothing_here() {
    let cluster = Cluster::start("").await;
    let db = TestDb::in_cluster(&cluster, "horizon_elsewhere").await;
    let elsewhere = cluster.client("postgres").await;
    looks_at_old_rows(&elsewhere).await;
    burn(&db.client().await).await;
    assert_free(&horizon(&db).await);
}

#[tokio::test]
async fn a_forgotten_prepared_transaction_is_named_with_what_to_do() {
    let Some(clock) = WallClock::new() else { return };
    let mut cluster = Cluster::start("max_prepared_transactions = 4").await;
    cluster.stop(Stop::Fast).await;
    for (name, value) in clock.environment() {
        cluster.set_environment(name, value);
    }
    cluster.run().await;
    let db = TestDb::in_cluster(&cluster, "horizon_prepared").await;
    let client = db.client().await;
    let prepare = "BEGIN; CREATE TABLE public.prepared (); PREPARE TRANSACTION 'it''s mine'";
    client.batch_execute(prepare).await.unwrap();
    assert_free(&horizon(&db).await);
    // However few have begun since.
    clock.set(400);
    let ended = horizon(&db).await;
    assert_pinned(
        &ended,
        &[
            "prepared transaction it's mine (user postgres; for 6m",
            "transactions old",
            "COMMIT PREPARED 'it''s mine';",
        ],
    );
    client.batch_execute(&advised(&ended, "ROLLBACK PREPARED")).await.unwrap();
    assert_free(&horizon(&db).await);
}

#[tokio::test]
async fn an_abandoned_logical_slot_is_named_with_what_it_keeps_and_what_to_do() {
    let cluster = Cluster::start("wal_level = logical").await;
    let db = TestDb::in_cluster(&cluster, "horizon_logical").await;
    let client = db.client().await;
    let create = "SELECT pg_create_logical_replication_slot('forgotten_reader', 'pgoutput')";
    client.batch_execute(create).await.unwrap();
    assert_free(&horizon(&db).await);
    burn(&client).await;
    let ended = horizon(&db).await;
    assert_pinned(
        &ended,
        &[
            "replication slot forgotten_reader (logical, nobody is connected to it; ",
            "system catalogs",
            "keeps WAL",
        ],
    );
    client.batch_execute(&advised(&ended, "SELECT pg_drop_replication_slot(")).await.unwrap();
    assert_free(&horizon(&db).await);
}

#[tokio::test]
async fn a_slot_pins_while_its_standby_has_a_long_query_and_when_it_is_abandoned() {
    let cluster = Cluster::start("").await;
    let db = TestDb::in_cluster(&cluster, "horizon_slot").await;
    let client = db.client().await;
    client.batch_execute("SELECT pg_create_physical_replication_slot('of_standby')").await.unwrap();
    let settings =
        "primary_slot_name = 'of_standby'\nhot_standby_feedback = on\nwal_receiver_status_interval = '1s'";
    let mut standby = cluster.replica("standby1", settings).await;
    let reader = standby.client("postgres").await;
    looks_at_old_rows(&reader).await;
    let told = "SELECT count(*) FROM pg_replication_slots WHERE xmin IS NOT NULL";
    until_one(&client, told).await;
    assert_free(&horizon(&db).await);
    burn(&client).await;
    let ended = horizon(&db).await;
    assert_pinned(
        &ended,
        &["standby at the replication slot of_standby", "long queries", "hot_standby_feedback"],
    );
    assert!(
        !ended.stdout.contains("pg_drop_replication_slot"),
        "a slot in use is not to be dropped: {ended:?}"
    );
    drop(reader);
    standby.stop(Stop::Immediate).await;
    until_one(&client, "SELECT count(*) FROM pg_replication_slots WHERE NOT active").await;
    let ended = horizon(&db).await;
    assert_pinned(
        &ended,
        &["replication slot of_standby (physical, nobody is connected to it; ", "keeps WAL"],
    );
    client.batch_execute(&advised(&ended, "SELECT pg_drop_replication_slot(")).await.unwrap();
    assert_free(&horizon(&db).await);
}

#[tokio::test]
async fn a_standby_that_tells_of_its_long_queries_is_named_with_what_to_do() {
    let cluster = Cluster::start("").await;
    let db = TestDb::in_cluster(&cluster, "horizon_standby").await;
    let client = db.client().await;
    let settings = "hot_standby_feedback = on\nwal_receiver_status_interval = '1s'";
    let standby = cluster.replica("standby2", settings).await;
    let reader = connect(&standby.config("postgres")).await;
    looks_at_old_rows(&reader).await;
    until_one(&client, "SELECT count(*) FROM pg_stat_replication WHERE backend_xmin IS NOT NULL").await;
    assert_free(&horizon(&db).await);
    burn(&client).await;
    assert_pinned(
        &horizon(&db).await,
        &[
            "standby standby2 (",
            "transactions old",
            "long queries on the standby standby2",
            "hot_standby_feedback",
        ],
    );
    reader.batch_execute("ROLLBACK").await.unwrap();
    let young = "SELECT count(*) FROM pg_stat_replication WHERE age(backend_xmin) < 100000";
    until_one(&client, young).await;
    assert_free(&horizon(&db).await);
}

async fn until_one(client: &Client, sql: &str) {
    eventually(LIMIT, sql, async || {
        let count: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
        if count == 1 { Ok(()) } else { Err(count) }
    })
    .await;
}
