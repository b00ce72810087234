//! The whole road: an application inserts a row, and the row says what became of the message.

use std::time::Duration;

use serde_json::json;
use tokio_postgres::error::SqlState;

use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::postgres::TestDb;
use crate::support::site::{LIMIT, Lines, OutboxRow, Site, insert};

const RECEIPTS: Lines<'_> = Lines { queue: "", gateway: "", more: "", receipts: true };

fn assert_clean_delivery(row: &OutboxRow) {
    let OutboxRow { status, error_code, error, attempts, held, sent, finished, .. } = row;
    assert_eq!(status, "delivered");
    assert_eq!((error_code, error, *attempts, *held, *sent, *finished), (&None, &None, 1, false, true, true));
}

#[tokio::test]
async fn a_row_that_an_application_inserts_is_delivered_and_leaves_nothing_behind() {
    let site = Site::with_receipts("journey").await;
    let _daemon = site.daemon(RECEIPTS).await;
    let shop = site.db.app_client("shop").await;
    let id = insert(&shop, "(recipient, body) VALUES ('087 123 4567', 'Your order is ready.')").await;
    let row = site.until_delivered(id).await;
    assert_clean_delivery(&row);
    assert_eq!(row.sent_via.as_deref(), Some("main"));
    assert_eq!((row.encoding.as_deref(), row.segments), (Some("gsm7"), Some(1)));
    let message = site.in_ledger(&row).await;
    assert_eq!(message["number"], "353871234567");
    assert_eq!(message["text"], "Your order is ready.");
    assert_eq!(message["sender"], "Demo");
    assert_eq!(message["via"], "v2");
    site.until_true("the wave is gone", "SELECT count(*) = 0 FROM outboxd.wave").await;
    assert_eq!(site.number("SELECT count(*) FROM outboxd.attempt").await, 0);
    assert_eq!(site.number("SELECT count(*) FROM outboxd.alarm").await, 0);
    assert_eq!(site.sim_count("logins").await, 1);
}

#[tokio::test]
async fn who_asks_for_it_sees_each_step_of_a_message_in_the_log_in_order() {
    let site = Site::new("way").await;
    let config = site.config(Lines::default()).replace("outboxd=debug", "info,outboxd::way=trace");
    let daemon = Daemon::start(&config).await;
    let id = site.insert("(recipient, body) VALUES ('0871234567', 'on its way')").await;
    site.until(id, "accepted").await;
    // The row says so a moment before the daemon hears of it.
    daemon.until_logged(1, "recorded").await;
    let log = daemon.log();
    let of_message = format!(" message_id={id}");
    let steps = log.lines().filter_map(|line| line.strip_suffix(&of_message)?.split_once("TRACE "));
    let steps: Vec<&str> = steps.map(|(_, step)| step.rsplit(": ").next().unwrap_or(step)).collect();
    // A page that was being read meanwhile may show it once more, to a wave that will not have it.
    assert_eq!(steps[..steps.len().min(5)], ["read", "taken", "in a wave", "left", "recorded"], "{log}");
    assert!(!log.contains("on its way") && !log.contains("871234567"), "{log}");
}

#[tokio::test]
async fn both_forms_of_the_first_api_deliver_too() {
    for (dialect, path, via) in [
        ("interactsms-v1", "/api/v1/sendmessage.aspx", "v1-form"),
        ("interactsms-v1-json", "/api/v1/sendmessage", "v1-json"),
    ] {
        let site = Site::with_receipts(via).await;
        let main = format!(
            "dialect = \"{dialect}\"\nurl = \"{}{path}\"\nusername = \"demo\"\npassword = \"demo-password\"\napi_id = 1",
            site.sim.address("gateway")
        );
        let _daemon = Daemon::start(&site.config_with(&main, RECEIPTS)).await;
        let id =
            site.insert("(recipient, body) VALUES ('+353871234567', E'two\\nlines, café & 100% €')").await;
        let row = site.until_delivered(id).await;
        assert_clean_delivery(&row);
        let message = site.in_ledger(&row).await;
        assert_eq!((&message["via"], &message["text"]), (&json!(via), &json!("two\nlines, café & 100% €")));
    }
}

#[tokio::test]
async fn a_gateway_that_only_its_configuration_describes_accepts() {
    let site = Site::new("kannel").await;
    let main = format!(
        "dialect = \"http\"\npreset = \"kannel\"\nurl = \"{}/cgi-bin/sendsms\"\nusername = \"demo\"\n\
         password = \"demo-password\"",
        site.sim.address("gateway")
    );
    let _daemon = Daemon::start(&site.config_with(&main, Lines::default())).await;
    let id = site.insert("(recipient, body) VALUES ('+353871234567', 'Žluťoučký kůň & co.')").await;
    let row = site.until(id, "accepted").await;
    assert_eq!((row.attempts, row.error, row.encoding.as_deref()), (1, None, Some("ucs2")));
    let ledger = site.ledger().await;
    assert_eq!(ledger.len(), 1);
    assert_eq!(ledger[0]["via"], "kannel");
    assert_eq!(ledger[0]["text"], "Žluťoučký kůň & co.");
}

#[tokio::test]
async fn a_template_is_filled_in_as_its_latest_text_says() {
    let site = Site::new("templates").await;
    let _daemon = site.daemon(Lines::default()).await;
    // In one transaction: the daemon has never seen the template when it sees the row.
    let sql = "BEGIN; \
        INSERT INTO sms.template VALUES ('ready', '', 'Hi {name|there}, {{{n}}} ready'), \
            ('ready', 'ga', 'A {name|chara}, tá {n} réidh'); \
        INSERT INTO sms.outbox (recipient, template, params) \
            VALUES ('0871234561', 'ready', '{\"name\": \"Áine\", \"n\": 3}'); COMMIT";
    site.run(sql).await;
    let first = site.number("SELECT max(id) FROM sms.outbox").await;
    let second = site
        .insert(
            "(recipient, template, language, params) VALUES ('0871234562', 'ready', 'ga-IE', '{\"n\": 3}')",
        )
        .await;
    let text = async |id| site.in_ledger(&site.until(id, "accepted").await).await["text"].clone();
    assert_eq!(text(first).await, "Hi Áine, {3} ready");
    assert_eq!(text(second).await, "A chara, tá 3 réidh");
    site.run("UPDATE sms.template SET body = 'Changed: {n}' WHERE language = ''").await;
    eventually(LIMIT, "a new text is used", async || {
        let id = site
            .insert("(recipient, template, params) VALUES ('0871234563', 'ready', '{\"n\": \"4\"}')")
            .await;
        let text = text(id).await;
        if text == "Changed: 4" { Ok(()) } else { Err(text) }
    })
    .await;
}

#[tokio::test]
async fn a_row_that_comes_with_its_template_is_never_judged_without_it() {
    let site = Site::new("with_template").await;
    let _daemon = site.daemon(Lines::default()).await;
    for n in 1..=60 {
        // Each transaction also rings for a change of templates, while the one before is perhaps still being read.
        site.run(&format!(
            "BEGIN; INSERT INTO sms.template VALUES ('t{n}', '', 'text {n}'); \
             INSERT INTO sms.outbox (recipient, template) VALUES ('0871234567', 't{n}'); COMMIT"
        ))
        .await;
    }
    let counts = site.until_counts("each has an end", |counts| counts.of("queued") == 0).await;
    assert_eq!(counts.of("accepted"), 60, "{counts:?}");
}

#[tokio::test]
async fn text_outside_the_gsm_alphabet_arrives_as_it_was_written() {
    let site = Site::with_receipts("unicode").await;
    let _daemon = site.daemon(RECEIPTS).await;
    let text = "Добрый день! 你好 👩‍👩‍👧 \"quoted\" \\ {braces} ";
    let long = format!("{}😀", "я".repeat(66));
    let sql = "INSERT INTO sms.outbox (recipient, body) VALUES ('0871234567', $1) RETURNING id";
    for (body, segments) in [(text.to_owned(), 1), (format!("{long}{long}"), 3)] {
        let id: i64 = site.sql.query_one(sql, &[&body]).await.unwrap().get(0);
        let row = site.until_delivered(id).await;
        assert_eq!((row.encoding.as_deref(), row.segments), (Some("ucs2"), Some(segments)), "{body}");
        assert_eq!(site.in_ledger(&row).await["text"], body);
    }
}

#[tokio::test]
async fn a_scheduled_row_is_sent_when_it_is_due_and_not_before() {
    let site = Site::new("scheduled").await;
    // The poll is far away: what wakes up for the row is a timer of its own.
    let daemon = site.daemon(Lines { queue: "poll_interval = \"60s\"", ..Lines::default() }).await;
    let in_two = site
        .insert("(recipient, body, send_after) VALUES ('0871234561', 'two', now() + interval '2 s')")
        .await;
    let in_one = site
        .insert("(recipient, body, send_after) VALUES ('0871234562', 'one', now() + interval '1 s')")
        .await;
    let never = site.insert("(recipient, body, send_after) VALUES ('0871234563', 'no', 'infinity')").await;
    let moved = site
        .insert("(recipient, body, send_after) VALUES ('0871234564', 'moved', now() + interval '1 h')")
        .await;
    site.until_asleep(&daemon).await;
    site.run(&format!("UPDATE sms.outbox SET send_after = now() WHERE id = {moved}")).await;
    for id in [moved, in_one, in_two] {
        site.until(id, "accepted").await;
    }
    let late = "SELECT bool_and(sent_at >= send_after AND sent_at < send_after + interval '1 s') \
                FROM sms.outbox WHERE status = 'accepted'";
    site.until_true("each was sent within a second of its time", late).await;
    assert_eq!(site.row(never).await.status, "queued");
}

#[tokio::test]
async fn an_urgent_row_passes_a_backlog_of_bulk_at_a_slow_gateway() {
    let site = Site::new("lanes").await;
    let _daemon = site.daemon(Lines { gateway: "rate = 20\nconcurrency = 4", ..Lines::default() }).await;
    site.queue_in("bulk", 60).await;
    site.until_counts("bulk is under way", |counts| counts.of("accepted") > 0).await;
    let normal = site.insert("(recipient, body) VALUES ('0871234567', 'normal')").await;
    let urgent = site.insert("(recipient, body, lane) VALUES ('0871234568', 'code 1234', 'urgent')").await;
    site.until(urgent, "accepted").await;
    assert!(site.counts().await.of("queued") > 20, "bulk still waits");
    site.until(normal, "accepted").await;
    assert!(site.counts().await.of("queued") > 10, "bulk still waits");
    site.until_counts("bulk ends too", |counts| counts.only(&["accepted"])).await;
}

#[tokio::test]
async fn a_gateway_is_sent_to_at_its_rate() {
    let site = Site::new("rate").await;
    let _daemon = site.daemon(Lines { gateway: "rate = 20", ..Lines::default() }).await;
    site.queue(50).await;
    site.until_counts("all are sent", |counts| counts.only(&["accepted"])).await;
    let sql = "SELECT (extract(epoch FROM max(sent_at) - min(sent_at)) * 1000)::bigint FROM sms.outbox";
    let took = site.number(sql).await;
    // A second's worth may go at once.
    assert!((1_200..=10_000).contains(&took), "50 messages at 20 a second took {took} ms");
}

#[tokio::test]
async fn the_nulls_of_an_object_mapper_mean_the_defaults() {
    let site = Site::new("nulls").await;
    let _daemon = site.daemon(Lines::default()).await;
    let shop = site.db.app_client("shop").await;
    let id = insert(
        &shop,
        "(id, recipient, body, template, language, params, sender, gateway, lane, send_after, expires_at, client_ref) \
         VALUES (NULL, '0871234567', 'hello', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
    )
    .await;
    site.until(id, "accepted").await;
    let row = site.sql.query_one("SELECT app, lane FROM sms.outbox", &[]).await.unwrap();
    assert_eq!(
        (row.get::<_, String>(0), row.get::<_, String>(1)),
        (site.db.role("shop"), "normal".to_owned())
    );
    let empty = insert(
        &shop,
        "(recipient, body, template, language, sender, gateway) VALUES ('0871234567', 'empty texts', '', '', '', '')",
    )
    .await;
    site.until(empty, "accepted").await;
}

#[tokio::test]
async fn ids_that_an_application_chooses_are_carried_whole() {
    let site = Site::with_receipts("ids").await;
    let _daemon = site.daemon(RECEIPTS).await;
    let shop = site.db.app_client("shop").await;
    let ids: [i64; 9] = [
        i64::from(i32::MAX),
        i64::from(i32::MAX) + 1,
        i64::from(u32::MAX) + 1,
        (1 << 53) - 1,
        (1 << 53) + 1,
        i64::MAX,
        i64::MIN,
        -1,
        0,
    ];
    for id in ids {
        insert(&shop, &format!("(id, recipient, body) VALUES ({id}, '0871234567', 'id {id}')")).await;
    }
    for id in ids {
        let row = site.until_delivered(id).await;
        assert_clean_delivery(&row);
        assert_eq!(site.in_ledger(&row).await["text"], format!("id {id}"));
    }
}

#[tokio::test]
async fn a_client_ref_keeps_an_application_from_queueing_twice() {
    let site = Site::new("client_ref").await;
    let _daemon = site.daemon(Lines::default()).await;
    let (shop, bank) = tokio::join!(site.db.app_client("shop"), site.db.app_client("bank"));
    let tail = "(recipient, body, client_ref) VALUES ('0871234567', 'once', 'order-1')";
    let id = insert(&shop, tail).await;
    let error = shop.execute(&format!("INSERT INTO sms.outbox {tail}"), &[]).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::UNIQUE_VIOLATION));
    let other = insert(&bank, tail).await;
    site.until(id, "accepted").await;
    site.until(other, "accepted").await;
    assert_eq!(site.sim_count("accepted").await, 2);
}

#[tokio::test]
async fn a_sleeping_daemon_is_woken_by_the_insert() {
    let site = Site::new("doorbell").await;
    let daemon = site.daemon(Lines { queue: "poll_interval = \"120s\"", ..Lines::default() }).await;
    site.until_asleep(&daemon).await;
    let shop = site.db.app_client("shop").await;
    // The first is found by the bell, the second may be; both long before the poll.
    for n in 1..=3 {
        let id = insert(&shop, &format!("(recipient, body) VALUES ('0871234567', 'ring {n}')")).await;
        site.until(id, "accepted").await;
    }
    let late = "SELECT bool_and(sent_at < created_at + interval '2 s') FROM sms.outbox";
    site.until_true("each was sent at once", late).await;
}

#[tokio::test]
async fn a_transaction_that_was_open_while_the_daemon_fell_asleep_is_found() {
    let site = Site::new("open_inserter").await;
    let mut shop = site.db.app_client("shop").await;
    // Its trigger finds nobody asleep and stays silent; it commits when the register says asleep.
    let open = shop.transaction().await.unwrap();
    let sql = "INSERT INTO sms.outbox (recipient, body) VALUES ('0871234567', 'late') RETURNING id";
    let id: i64 = open.query_one(sql, &[]).await.unwrap().get(0);
    let daemon = site.daemon(Lines { queue: "poll_interval = \"120s\"", ..Lines::default() }).await;
    site.until_true("the register says asleep", "SELECT last_value < 0 FROM outboxd.register").await;
    assert!(!daemon.log().contains("fell asleep"), "somebody may not have heard yet");
    open.commit().await.unwrap();
    site.until(id, "accepted").await;
}

#[tokio::test]
async fn polling_needs_no_trigger() {
    for (wake, line) in [("poll", ""), ("auto", "not using the doorbell")] {
        let site = Site::new(&format!("wake_{wake}")).await;
        site.run(
            "DROP TRIGGER outbox_ring_insert ON sms.outbox; DROP TRIGGER outbox_ring_update ON sms.outbox",
        )
        .await;
        let queue = format!("wake = \"{wake}\"\npoll_interval = \"200ms\"");
        let daemon = site.daemon(Lines { queue: &queue, ..Lines::default() }).await;
        daemon.wait_log(LIMIT, line).await;
        for n in 1..=2 {
            let id = site.insert(&format!("(recipient, body) VALUES ('0871234567', 'poll {n}')")).await;
            site.until(id, "accepted").await;
        }
        assert!(!daemon.log().contains("fell asleep"));
    }
}

#[tokio::test]
async fn a_row_that_is_due_since_for_ever_is_sent_when_nothing_is_stale() {
    let site = Site::new("infinity").await;
    let _daemon = site.daemon(Lines { queue: "stale_after = \"never\"", ..Lines::default() }).await;
    let id = site.insert("(recipient, body, send_after) VALUES ('0871234567', 'ever', '-infinity')").await;
    site.until(id, "accepted").await;
}

#[tokio::test]
async fn what_was_due_for_too_long_is_held_until_a_person_says_so() {
    let site = Site::new("stale").await;
    let tail = |lane: &str, age: &str| {
        format!(
            "(recipient, body, lane, send_after) VALUES ('0871234567', '{lane} {age}', '{lane}', now() - interval '{age}')"
        )
    };
    let fresh = site.insert(&tail("normal", "23 h")).await;
    let old = site.insert(&tail("normal", "25 h")).await;
    let old_code = site.insert(&tail("urgent", "16 min")).await;
    let own_limit = site
        .insert("(recipient, body, send_after, expires_at) VALUES ('0871234567', 'mine', now() - interval '30 h', now() + interval '1 h')")
        .await;
    let _daemon = site.daemon(Lines::default()).await;
    site.until(fresh, "accepted").await;
    site.until(own_limit, "accepted").await;
    for id in [old, old_code] {
        let row = eventually(LIMIT, "it is held", async || {
            let row = site.row(id).await;
            if row.held { Ok(row) } else { Err(row) }
        })
        .await;
        assert_eq!((row.status.as_str(), row.code(), row.attempts), ("queued", "held_stale", 0));
        assert!(row.reason().contains("sms.retry"), "{row:?}");
    }
    site.run(&format!("SELECT sms.retry({old}), sms.cancel({old_code})")).await;
    site.until(old, "accepted").await;
    assert_eq!(site.row(old_code).await.status, "cancelled");
    assert_eq!(site.sim_count("accepted").await, 3);
}

#[tokio::test]
async fn a_message_that_the_handset_never_got_is_undelivered_and_may_be_tried_again() {
    let site = Site::with_receipts("off").await;
    site.sim.settings(&json!({"network": {"validity_ms": 200, "retry_ms": 20}})).await;
    site.sim.handset(&json!({"number": "353871234567", "state": "off"})).await;
    let _daemon = site.daemon(RECEIPTS).await;
    let id = site.insert("(recipient, body) VALUES ('0871234567', 'are you there?')").await;
    let row = site.until(id, "undelivered").await;
    assert_eq!(row.code(), "undelivered");
    assert!(row.finished && !row.reason().is_empty());
    site.sim.handset(&json!({"number": "353871234567", "state": "on"})).await;
    site.run(&format!("SELECT sms.retry({id})")).await;
    let again = site.until_delivered(id).await;
    assert_eq!((again.attempts, again.error), (2, None));
    assert_ne!(again.gateway_ref, row.gateway_ref);
    assert_eq!(site.sim_count("reached_twice").await, 0);
}

#[tokio::test]
async fn each_gateway_gets_what_names_it_and_a_dead_one_delays_nobody() {
    let site = Site::new("routing").await;
    let gateway = site.sim.address("gateway");
    let more = format!(
        "[gateway.other]\ndialect = \"http\"\npreset = \"kannel\"\nurl = \"{gateway}/cgi-bin/sendsms\"\nusername = \"demo\"\n\
         password = \"demo-password\"\n[gateway.dead]\ndialect = \"http\"\nurl = \"http://127.0.0.1:9/\"\n\
         [gateway.dead.form]\nto = \"{{recipient}}\"\n[[gateway.dead.rule]]\nstatus = 200\nclass = \"accepted\"\n\
         [[routing.rule]]\nprefix = \"44\"\ngateway = \"other\"\n"
    );
    let queue = "lookahead = 10";
    let _daemon = site.daemon(Lines { queue, more: &more, ..Lines::default() }).await;
    site.run(
        "INSERT INTO sms.outbox (recipient, body, gateway) SELECT '0871234567', 'dead', 'dead' FROM generate_series(1, 500)",
    )
    .await;
    let british = site.insert("(recipient, body) VALUES ('+447700900123', 'uk')").await;
    let irish = site.insert("(recipient, body) VALUES ('0871234567', 'ie')").await;
    let named = site.insert("(recipient, body, gateway) VALUES ('0871234567', 'named', 'other')").await;
    for (id, via) in [(british, "other"), (irish, "main"), (named, "other")] {
        assert_eq!(site.until(id, "accepted").await.sent_via.as_deref(), Some(via));
    }
    let counts = site.counts().await;
    assert_eq!((counts.of("queued"), counts.of("accepted")), (500, 3));
    eventually(Duration::from_secs(20), "somebody is told", async || {
        let alarms = site.alarms().await;
        if alarms == [("gateway_waiting".to_owned(), "dead".to_owned())] { Ok(()) } else { Err(alarms) }
    })
    .await;
}

#[tokio::test]
async fn a_daemon_may_start_before_its_database() {
    let site = Site::new("early").await;
    let config = site.config(Lines::default());
    let later = format!("{}_later", site.db.name());
    let daemon = Daemon::spawn(&config.replace(&format!("/{}\"", site.db.name()), &format!("/{later}\"")));
    daemon.wait_log(LIMIT, "waiting for the database").await;
    site.run(&format!("CREATE DATABASE {later} TEMPLATE outboxd_template")).await;
    daemon.wait_log(LIMIT, "leading").await;
}

#[tokio::test]
async fn a_database_without_the_schema_is_a_sentence_that_says_what_to_run() {
    let site = Site::new("no_schema").await;
    let empty = TestDb::create_empty("no_schema").await;
    let config = site.config(Lines::default());
    let mut daemon =
        Daemon::spawn(&config.replace(&format!("/{}\"", site.db.name()), &format!("/{}\"", empty.name())));
    assert!(!daemon.wait_exit(LIMIT).await.success());
    assert!(daemon.log().contains("run `outboxd migrate`"), "{}", daemon.log());
}
