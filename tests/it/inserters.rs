//! Who inserts when: late commits, ids in any order, transactions that come to nothing, isolation levels, clients that
//! die. Whatever was committed is sent once; whatever was not is never sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tokio::task::JoinSet;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::support::books::Committed;
use crate::support::postgres::in_full;
use crate::support::site::{Lines, Site};

/// The poll is far away: whatever is found within a test's patience was looked for.
const FAR_POLL: Lines<'_> =
    Lines { queue: "poll_interval = \"120s\"", gateway: "", more: "", receipts: false };

fn texts(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}-{n}")).collect()
}

/// Inserts one row with each of these texts, in one statement.
async fn insert_all(client: &Client, texts: &[String]) -> Result<u64, tokio_postgres::Error> {
    let sql = "INSERT INTO sms.outbox (recipient, body) SELECT '0871234567', unnest($1::text[])";
    client.execute(sql, &[&texts]).await
}

async fn run(client: &Client, sql: &str) {
    if let Err(error) = client.batch_execute(sql).await {
        panic!("{sql}: {}", in_full(&error));
    }
}

/// Commits rows until it is told to stop, the next ones when the last ones are sent; returns their texts.
async fn keep_inserting(client: Client, name: String, stop: Arc<AtomicBool>) -> Vec<String> {
    let mut committed = Vec::new();
    let sql = "WITH new AS (INSERT INTO sms.outbox (recipient, body) SELECT '0871234567', unnest($1::text[]) \
               RETURNING id) SELECT max(id) FROM new";
    let sent = "SELECT status = 'accepted' FROM sms.outbox WHERE id = $1";
    for batch in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let texts = texts(&format!("{name}-{batch}"), 5);
        let last: i64 = client.query_one(sql, &[&texts]).await.unwrap().get(0);
        committed.extend(texts);
        while !client.query_one(sent, &[&last]).await.unwrap().get::<_, bool>(0) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    committed
}

/// When the gateway accepted the message with this text.
fn accepted_at(ledger: &[Value], text: &str) -> jiff::Timestamp {
    let message = ledger.iter().find(|message| message["text"] == text).expect("it was sent");
    message["accepted_at"].as_str().unwrap().parse().unwrap()
}

/// A transaction takes its id long before it commits. While it is open, later ones are sent: it must not be passed by,
/// and need not wait for the poll. The promise is 50 ms (p99) from the commit to the request; what is asserted is only
/// what no load can break, the figures are printed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lower_id_that_commits_after_higher_ones_were_sent_is_sent_at_once() {
    const CLIENTS: usize = 8;
    const ROUNDS: usize = 26;
    let site = Arc::new(Site::new("late_commit").await);
    let _daemon = site.daemon(FAR_POLL).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut fillers = JoinSet::new();
    for n in 0..4 {
        fillers.spawn(keep_inserting(site.db.client().await, format!("filler{n}"), Arc::clone(&stop)));
    }
    let higher_is_sent = "SELECT EXISTS (SELECT FROM sms.outbox WHERE id > $1 AND status = 'accepted')";
    let mut late = JoinSet::new();
    for client in 0..CLIENTS {
        let (site, mut sql) = (Arc::clone(&site), site.db.client().await);
        late.spawn(async move {
            let watch = site.db.client().await;
            let mut commits = Vec::new();
            for text in texts(&format!("late{client}"), ROUNDS) {
                let open = sql.transaction().await.unwrap();
                let insert =
                    "INSERT INTO sms.outbox (recipient, body) VALUES ('0871234567', $1) RETURNING id";
                let id: i64 = open.query_one(insert, &[&text]).await.unwrap().get(0);
                while !watch.query_one(higher_is_sent, &[&id]).await.unwrap().get::<_, bool>(0) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                open.commit().await.unwrap();
                commits.push((text, SystemTime::now()));
            }
            commits
        });
    }
    let commits: Vec<(String, SystemTime)> = late.join_all().await.into_iter().flatten().collect();
    stop.store(true, Ordering::Relaxed);
    let mut committed = Committed::default();
    committed.add_all(fillers.join_all().await.into_iter().flatten());
    committed.add_all(commits.iter().map(|(text, _)| text.clone()));
    site.until_all_sent(&committed).await;

    let ledger = site.ledger().await;
    let mut waited: Vec<f64> = commits
        .iter()
        .map(|(text, at)| {
            let at = jiff::Timestamp::try_from(*at).unwrap();
            // The request may be quicker than the client that learns of its own commit.
            accepted_at(&ledger, text).duration_since(at).as_secs_f64().max(0.0) * 1000.0
        })
        .collect();
    waited.sort_by(f64::total_cmp);
    let share = |percent: usize| waited[(waited.len() * percent / 100).min(waited.len() - 1)];
    eprintln!(
        "{} late commits among {} rows: p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, longest {:.1} ms",
        waited.len(),
        committed.len(),
        share(50),
        share(90),
        share(99),
        share(100)
    );
    assert!(waited.len() >= 200 && share(100) < 60_000.0, "one of them waited for the poll");
}

#[tokio::test]
async fn ids_that_were_rolled_back_leave_gaps_that_stop_nothing() {
    let site = Site::new("gaps").await;
    let _daemon = site.daemon(FAR_POLL).await;
    let shop = site.db.app_client("shop").await;
    let mut committed = Committed::default();
    for round in 0..5 {
        let gone = format!(
            "BEGIN; INSERT INTO sms.outbox (recipient, body) \
             SELECT '0871234567', 'gone-{round}-' || n FROM generate_series(1, 3000) AS n; ROLLBACK"
        );
        run(&shop, &gone).await;
        let kept = texts(&format!("kept-{round}"), 10);
        insert_all(&shop, &kept).await.unwrap();
        committed.add_all(kept);
    }
    let gap = site.number("SELECT max(id) - min(id) FROM sms.outbox").await;
    assert!(gap > 12_000, "the ids that were rolled back are used up: {gap}");
    site.until_all_sent(&committed).await;
}

#[tokio::test]
async fn rows_of_a_savepoint_that_was_rolled_back_are_not_sent_and_those_around_it_are() {
    let site = Site::new("savepoints").await;
    let _daemon = site.daemon(FAR_POLL).await;
    let shop = site.db.app_client("shop").await;
    let row =
        |text: &str| format!("INSERT INTO sms.outbox (recipient, body) VALUES ('0871234567', '{text}');");
    let mut committed = Committed::default();
    for n in 0..20 {
        // An error inside is what savepoints are for.
        let failing =
            "SAVEPOINT b; INSERT INTO sms.outbox (recipient, body, lane) VALUES ('1', 'bad', 'none');";
        run(
            &shop,
            &format!("BEGIN; {} SAVEPOINT a; {}", row(&format!("before-{n}")), row(&format!("gone-{n}"))),
        )
        .await;
        run(&shop, &format!("ROLLBACK TO a; {}", row(&format!("between-{n}")))).await;
        assert!(shop.batch_execute(failing).await.is_err());
        run(&shop, &format!("ROLLBACK TO b; {} RELEASE a; COMMIT", row(&format!("after-{n}")))).await;
        committed.add_all(["before", "between", "after"].map(|when| format!("{when}-{n}")));
    }
    site.until_all_sent(&committed).await;
}

/// Object mappers take ids in blocks of 50 and use them up slowly, so several clients' ids come interleaved, and a
/// client's low ids come long after other's high ones.
#[tokio::test]
async fn ids_that_clients_take_in_blocks_are_sent_in_whatever_order_they_come() {
    const BLOCK: i64 = 50;
    let site = Arc::new(Site::new("blocks").await);
    let _daemon = site.daemon(FAR_POLL).await;
    site.db.app_client("shop").await;
    run(
        &site.sql,
        "CREATE SEQUENCE public.blocks INCREMENT 50; GRANT USAGE ON SEQUENCE public.blocks TO PUBLIC",
    )
    .await;
    let mut clients = JoinSet::new();
    for client in 0..6_i64 {
        let site = Arc::clone(&site);
        clients.spawn(async move {
            let sql = site.db.app_client("shop").await;
            let mut texts = Vec::new();
            for _ in 0..4 {
                let first: i64 = sql.query_one("SELECT nextval('public.blocks')", &[]).await.unwrap().get(0);
                for n in 0..BLOCK {
                    // Half of them count down.
                    let id = if client % 2 == 0 { first + n } else { first + BLOCK - 1 - n };
                    let text = format!("id {id}");
                    let insert = "INSERT INTO sms.outbox (id, recipient, body) VALUES ($1, '0871234567', $2)";
                    sql.execute(insert, &[&id, &text]).await.unwrap();
                    texts.push(text);
                }
            }
            texts
        });
    }
    let mut committed = Committed::default();
    committed.add_all(clients.join_all().await.into_iter().flatten());
    assert_eq!(committed.len(), 6 * 4 * 50);
    site.until_all_sent(&committed).await;
}

#[tokio::test]
async fn ids_far_ahead_and_below_zero_hide_none_of_the_ordinary_ones() {
    let site = Site::new("far_ids").await;
    let shop = site.db.app_client("shop").await;
    let mut committed = Committed::default();
    // All of them became due in the same moment, so that nothing but the id orders them.
    let due = "'2026-01-01 00:00:00+00'";
    let far = Lines { queue: "poll_interval = \"120s\"\nstale_after = \"never\"", ..FAR_POLL };
    let _daemon = site.daemon(far).await;
    for (round, id) in
        [1_i64 << 40, -1, 1 << 62, -(1 << 40), i64::MAX - 1, i64::MIN + 1].into_iter().enumerate()
    {
        let text = format!("far {id}");
        run(&shop, &format!("INSERT INTO sms.outbox (id, recipient, body, send_after) VALUES ({id}, '0871234567', '{text}', {due})")).await;
        site.until(id, "accepted").await;
        committed.add(text);
        let text = format!("ordinary {round}");
        run(
            &shop,
            &format!(
                "INSERT INTO sms.outbox (recipient, body, send_after) VALUES ('0871234567', '{text}', {due})"
            ),
        )
        .await;
        committed.add(text);
    }
    site.until_all_sent(&committed).await;
}

/// Inserts in transactions of this isolation level until `rows` are committed, each of which first reads what it then
/// changes, so that two of them at once conflict. Returns the texts and the number of serialization failures.
async fn conflicting_client(site: &Site, client: usize, level: &str, rows: usize) -> (Vec<String>, u64) {
    let mut sql = site.db.client().await;
    let (mut committed, mut failures) = (Vec::new(), 0);
    while committed.len() < rows {
        let text = format!("{level} {client}-{}", committed.len());
        let attempt = async {
            let open = sql.transaction().await?;
            open.batch_execute(&format!("SET TRANSACTION ISOLATION LEVEL {level}")).await?;
            // As an application that limits what it sends to a number.
            open.query("SELECT sum(n) FROM public.budget", &[]).await?;
            open.query("SELECT count(*) FROM sms.outbox WHERE recipient = $1", &[&format!("087{client:07}")])
                .await?;
            open.execute(&format!("UPDATE public.budget SET n = n + 1 WHERE client = {}", client % 4), &[])
                .await?;
            let insert = "INSERT INTO sms.outbox (recipient, body) VALUES ($1, $2)";
            open.execute(insert, &[&format!("087{client:07}"), &text]).await?;
            open.commit().await
        };
        match attempt.await {
            Ok(()) => committed.push(text),
            Err(error) => {
                assert_eq!(error.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE), "{}", in_full(&error));
                failures += 1;
            }
        }
    }
    (committed, failures)
}

/// Rows committed by eight clients at once, and how often one of them had to try again.
async fn conflicting_clients(site: &Arc<Site>, level: &'static str, from: usize) -> (Vec<String>, u64) {
    let mut clients = JoinSet::new();
    for client in from..from + 8 {
        let site = Arc::clone(site);
        clients.spawn(async move { conflicting_client(&site, client, level, 25).await });
    }
    let ended = clients.join_all().await;
    let failures = ended.iter().map(|(_, failures)| failures).sum();
    (ended.into_iter().flat_map(|(texts, _)| texts).collect(), failures)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serializable_and_repeatable_read_inserters_lose_nothing_and_fail_no_more_often_with_the_daemon() {
    let site = Arc::new(Site::new("serializable").await);
    run(
        &site.sql,
        "CREATE TABLE public.budget (client integer PRIMARY KEY, n integer); \
                    INSERT INTO public.budget SELECT n, 0 FROM generate_series(0, 3) AS n",
    )
    .await;
    let mut committed = Committed::default();
    for (from, level) in [(0, "SERIALIZABLE"), (100, "REPEATABLE READ")] {
        let (texts, without) = conflicting_clients(&site, level, from).await;
        committed.add_all(texts);
        let daemon = site.daemon(FAR_POLL).await;
        let (texts, with) = conflicting_clients(&site, level, from + 50).await;
        committed.add_all(texts);
        site.until_all_sent(&committed).await;
        drop(daemon);
        eprintln!(
            "{level}: 200 rows with {without} serialization failures without the daemon, {with} with it"
        );
        assert!(without > 0, "the clients do conflict");
    }
}

/// The daemon reads and writes the rows that serializable transactions work on. A server that makes every transaction
/// serializable must not make the daemon's so: they would be rolled back, and roll back others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_serializable_is_the_default_no_inserter_fails_because_of_the_daemon() {
    let site = Arc::new(Site::new("default_serializable").await);
    run(
        &site.sql,
        &format!("ALTER DATABASE {} SET default_transaction_isolation = 'serializable'", site.db.name()),
    )
    .await;
    let daemon = site.daemon(FAR_POLL).await;
    let stop = Arc::new(AtomicBool::new(false));
    let deferrable = {
        let (client, stop) = (site.db.client().await, Arc::clone(&stop));
        tokio::spawn(async move {
            let mut reads = 0;
            while !stop.load(Ordering::Relaxed) {
                let sql = "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE; \
                           SELECT count(*) FROM sms.outbox; COMMIT";
                run(&client, sql).await;
                reads += 1;
            }
            reads
        })
    };
    let failures = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for client in 0..8_usize {
        let (site, failures) = (Arc::clone(&site), Arc::clone(&failures));
        clients.spawn(async move {
            let mut sql = site.db.client().await;
            // They only write: alone, none ever fails.
            let number = format!("087{client:07}");
            let mut committed = Vec::new();
            while committed.len() < 50 {
                let text = format!("client {client}-{}", committed.len());
                let attempt = async {
                    let open = sql.transaction().await?;
                    let insert = "INSERT INTO sms.outbox (recipient, body) VALUES ($1, $2)";
                    open.execute(insert, &[&number, &text]).await?;
                    open.commit().await
                };
                match attempt.await {
                    Ok(()) => committed.push(text),
                    Err(error) => {
                        assert_eq!(
                            error.code(),
                            Some(&SqlState::T_R_SERIALIZATION_FAILURE),
                            "{}",
                            in_full(&error)
                        );
                        failures.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            committed
        });
    }
    let mut committed = Committed::default();
    committed.add_all(clients.join_all().await.into_iter().flatten());
    site.until_all_sent(&committed).await;
    stop.store(true, Ordering::Relaxed);
    assert!(deferrable.await.unwrap() > 0);
    assert_eq!(failures.load(Ordering::Relaxed), 0, "{}", daemon.log());
    assert!(!daemon.log().contains("cannot write results"), "the daemon's own fail: {}", daemon.log());
}

#[tokio::test]
async fn fifty_clients_that_connect_insert_one_row_and_go_are_all_served() {
    let site = Arc::new(Site::new("short_clients").await);
    let _daemon = site.daemon(FAR_POLL).await;
    site.db.app_client("shop").await;
    let mut clients = JoinSet::new();
    for n in 0..50 {
        let site = Arc::clone(&site);
        clients.spawn(async move {
            let text = format!("client {n}");
            insert_all(&site.db.app_client("shop").await, std::slice::from_ref(&text)).await.unwrap();
            text
        });
    }
    let mut committed = Committed::default();
    committed.add_all(clients.join_all().await);
    site.until_all_sent(&committed).await;
}

#[tokio::test]
async fn of_a_client_that_dies_inside_its_transaction_nothing_is_sent() {
    let site = Site::new("dead_client").await;
    let daemon = site.daemon(FAR_POLL).await;
    let mut committed = Committed::default();
    for n in 0..10 {
        let dying = site.db.app_client("shop").await;
        run(&dying, "BEGIN").await;
        insert_all(&dying, &texts(&format!("gone-{n}"), 20)).await.unwrap();
        if n == 5 {
            // It took its place before the daemon fell asleep, and left while it slept.
            site.until_true("the register says asleep", "SELECT last_value < 0 FROM outboxd.register").await;
        }
        let pid: i32 = dying.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        site.run(&format!("SELECT pg_terminate_backend({pid}, 10000)")).await;
        let kept = texts(&format!("kept-{n}"), 2);
        insert_all(&site.sql, &kept).await.unwrap();
        committed.add_all(kept);
    }
    site.until_all_sent(&committed).await;
    site.until_asleep(&daemon).await;
    site.assert_books(&committed).await;
}

#[tokio::test]
async fn times_at_the_ends_of_the_calendar_stop_nobody() {
    let site = Site::new("calendar").await;
    let daemon = site.daemon(FAR_POLL).await;
    let mut committed = Committed::default();
    let insert = async |text: &str, columns: &str, values: &str| {
        site.insert(&format!("(recipient, body, {columns}) VALUES ('0871234567', '{text}', {values})")).await
    };
    let sent = insert("-infinity", "send_after", "'-infinity'").await;
    let future = insert("infinity", "send_after", "'infinity'").await;
    let last = insert("294276", "send_after", "'294276-12-31 23:59:59.999999+00'").await;
    let until = insert("own limit", "send_after, expires_at", "'1969-07-20', '294276-12-31 00:00+00'").await;
    let ever = insert("ever", "send_after, expires_at", "'4713-01-01 00:00+00 BC', 'infinity'").await;
    let stale = insert("stale", "send_after", "'1969-07-20'").await;
    let stalest = insert("stalest", "send_after", "'4713-01-01 00:00+00 BC'").await;
    let over = insert("over", "expires_at", "'-infinity'").await;
    let long_over = insert("long over", "expires_at", "'1815-06-18'").await;
    // The one place before which there is none.
    let smallest = format!(
        "INSERT INTO sms.outbox (id, recipient, body, send_after) VALUES ({}, '0871234567', 'smallest', '-infinity')",
        i64::MIN
    );
    let error = site.sql.batch_execute(&smallest).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::CHECK_VIOLATION));
    let now = insert("now", "lane", "'normal'").await;
    committed.add_all([
        "-infinity",
        "infinity",
        "294276",
        "own limit",
        "ever",
        "stale",
        "stalest",
        "over",
        "long over",
        "now",
    ]);
    for id in [sent, until, ever, now] {
        site.until(id, "accepted").await;
    }
    for id in [over, long_over] {
        assert_eq!(site.until(id, "expired").await.code(), "expired");
    }
    for id in [stale, stalest] {
        site.until_true("it is held", &format!("SELECT held FROM sms.outbox WHERE id = {id}")).await;
        assert_eq!(site.row(id).await.code(), "held_stale");
    }
    for id in [future, last] {
        assert_eq!((site.row(id).await.status, site.row(id).await.held), ("queued".to_owned(), false));
    }
    site.assert_books(&committed).await;
    assert!(!daemon.log().contains("ERROR"), "{}", daemon.log());
    // And monitoring still gets numbers.
    site.run("SELECT * FROM sms.health").await;
    site.run(&format!("SELECT sms.retry({stalest})")).await;
    site.until(stalest, "accepted").await;
}

#[tokio::test]
async fn names_of_ten_kilobytes_fail_their_row_alone_or_their_insert() {
    let site = Site::new("long_names").await;
    let _daemon = site.daemon(FAR_POLL).await;
    let shop = site.db.app_client("shop").await;
    let long = "repeat('x', 10240)";
    let insert = |column: &str| {
        format!(
            "INSERT INTO sms.outbox (recipient, body, {column}) VALUES ('0871234567', '{column}', {long})"
        )
    };
    let error = shop.batch_execute(&insert("lane")).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::CHECK_VIOLATION), "the application is told, in its INSERT");
    run(&shop, &insert("gateway")).await;
    run(&shop, &format!("INSERT INTO sms.outbox (recipient, template) VALUES ('0871234567', {long})")).await;
    run(&shop, &insert("client_ref")).await;
    let good = texts("good", 20);
    insert_all(&shop, &good).await.unwrap();
    site.until_counts("each has an end", |counts| counts.of("failed") == 2 && counts.of("accepted") == 21)
        .await;
    let codes = "SELECT string_agg(error_code, ' ' ORDER BY error_code) = 'unknown_gateway unknown_template' \
                 FROM sms.outbox WHERE status = 'failed'";
    site.until_true("each says why", codes).await;
    let mut committed = Committed::default();
    committed.add_all(good);
    committed.add_all(["gateway", "client_ref", ""]);
    site.assert_books(&committed).await;
}
