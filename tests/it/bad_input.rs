//! What applications write by mistake: each bad row says why in words, and its neighbours go on.

use crate::support::daemon::Daemon;
use crate::support::site::{LIMIT, Lines, OutboxRow, Site};

/// Queues one row, surrounded by good ones, and returns what became of it.
async fn refused(site: &Site, tail: &str) -> OutboxRow {
    let (before, _) = site.queue(1).await;
    let id = site.insert(tail).await;
    let (after, _) = site.queue(1).await;
    let row = site.until(id, "failed").await;
    for neighbour in [before, after] {
        site.until(neighbour, "accepted").await;
    }
    row
}

async fn assert_refused(site: &Site, cases: &[(&str, &str, &str)]) {
    for (tail, code, words) in cases {
        let shown: String = tail.chars().take(200).collect();
        let row = refused(site, tail).await;
        assert_eq!(row.code(), *code, "{shown}: {row:?}");
        assert!(row.reason().contains(words), "{shown}: {row:?}");
        assert!(row.reason().len() <= 500, "{shown}: {} bytes", row.reason().len());
        assert!(row.finished && row.attempts == 0 && row.gateway_ref.is_none(), "{shown}: {row:?}");
    }
    assert_eq!(site.sim_count("accepted").await, 2 * u64::try_from(cases.len()).unwrap());
}

async fn site(hint: &str) -> (Site, Daemon) {
    let site = Site::new(hint).await;
    site.run(
        "INSERT INTO sms.template VALUES ('ready', '', 'Order {number} for {name}'), ('broken', '', 'Order {number'), \
         ('irish', 'ga', 'Tá {number}')",
    )
    .await;
    let daemon = site.daemon(Lines::default()).await;
    (site, daemon)
}

#[tokio::test]
async fn numbers_that_cannot_be_dialled_are_refused() {
    let (site, daemon) = site("numbers").await;
    assert_refused(
        &site,
        &[
            ("(body) VALUES ('no number')", "bad_number", "recipient"),
            ("(recipient, body) VALUES ('', 'empty')", "bad_number", ""),
            ("(recipient, body) VALUES ('   ', 'blank')", "bad_number", ""),
            ("(recipient, body) VALUES ('n/a', 'words')", "bad_number", ""),
            ("(recipient, body) VALUES ('12', 'short')", "bad_number", ""),
            ("(recipient, body) VALUES ('+35387123456789012345', 'long')", "bad_number", ""),
            ("(recipient, body) VALUES ('0871234567, 0871234568', 'two')", "bad_number", ""),
            ("(recipient, body) VALUES ('mary@example.com', 'mail')", "bad_number", ""),
            ("(recipient, body) VALUES (repeat('7', 1000000), 'a million digits')", "bad_number", ""),
        ],
    )
    .await;
    assert!(!daemon.log().contains("ERROR"));
}

#[tokio::test]
async fn texts_that_cannot_be_sent_are_refused() {
    let (site, daemon) = site("texts").await;
    assert_refused(
        &site,
        &[
            ("(recipient) VALUES ('0871234567')", "no_text", "neither"),
            ("(recipient, body) VALUES ('0871234567', '')", "empty_text", "empty"),
            ("(recipient, body) VALUES ('0871234567', E' \\n\\t ')", "empty_text", "white space"),
            (
                "(recipient, body, template) VALUES ('0871234567', 'both', 'ready')",
                "body_and_template",
                "one of them",
            ),
            ("(recipient, body) VALUES ('0871234567', repeat('x', 1000000))", "too_long", ""),
            ("(recipient, body) VALUES ('0871234567', repeat('😀', 1000000))", "too_long", ""),
            ("(recipient, body) VALUES ('0871234567', repeat('x', 1000))", "too_long", "segments"),
            ("(recipient, body, sender) VALUES ('0871234567', 'hi', 'TwelveLetter')", "bad_sender", "11"),
            ("(recipient, body, sender) VALUES ('0871234567', 'hi', 'Ünïcode')", "bad_sender", ""),
            ("(recipient, body, sender) VALUES ('0871234567', 'hi', repeat('a', 1000000))", "bad_sender", ""),
            (
                "(recipient, body, gateway) VALUES ('0871234567', 'hi', 'nowhere')",
                "unknown_gateway",
                "nowhere",
            ),
            (
                "(recipient, body, gateway) VALUES ('0871234567', 'hi', repeat('n', 1000000))",
                "unknown_gateway",
                "nnn",
            ),
        ],
    )
    .await;
    assert!(!daemon.log().contains("ERROR"));
}

#[tokio::test]
async fn templates_and_parameters_that_do_not_fit_are_refused() {
    let (site, daemon) = site("parameters").await;
    assert_refused(
        &site,
        &[
            ("(recipient, template) VALUES ('0871234567', 'raedy')", "unknown_template", "raedy"),
            ("(recipient, template) VALUES ('0871234567', repeat('t', 1000000))", "unknown_template", ""),
            ("(recipient, template, language) VALUES ('0871234567', 'irish', 'fr')", "unknown_template", "fr"),
            ("(recipient, template) VALUES ('0871234567', 'broken')", "bad_template", "broken"),
            ("(recipient, template) VALUES ('0871234567', 'ready')", "missing_parameter", "number"),
            (
                "(recipient, template, params) VALUES ('0871234567', 'ready', '{\"number\": 7}')",
                "missing_parameter",
                "name",
            ),
            (
                "(recipient, template, params) VALUES ('0871234567', 'ready', '{\"number\": 7, \"name\": null}')",
                "missing_parameter",
                "name",
            ),
            ("(recipient, template, params) VALUES ('0871234567', 'ready', '[1, 2]')", "bad_parameters", "object"),
            (
                "(recipient, template, params) VALUES ('0871234567', 'ready', '{\"number\": {}, \"name\": \"x\"}')",
                "bad_parameters",
                "number",
            ),
            (
                r#"(recipient, template, params) VALUES ('0871234567', 'ready', '{"number": 1, "name": "\ud83d"}')"#,
                "bad_parameters",
                "",
            ),
            (
                r#"(recipient, template, params) VALUES ('0871234567', 'ready', '{"number": 1, "name": "a\u0000b"}')"#,
                "bad_parameters",
                "NUL",
            ),
            (
                "(recipient, template, params) VALUES ('0871234567', 'ready', \
                 json_build_object('number', 1, 'name', repeat('x', 1000000)))",
                "bad_parameters",
                "",
            ),
            (
                "(recipient, template, params) VALUES ('0871234567', 'ready', (repeat('[', 5000) || repeat(']', 5000))::json)",
                "bad_parameters",
                "",
            ),
        ],
    )
    .await;
    assert!(!daemon.log().contains("ERROR"));
}

#[tokio::test]
async fn a_row_whose_time_is_over_expires_instead_of_being_sent() {
    let site = Site::new("expired").await;
    let before = site
        .insert("(recipient, body, expires_at) VALUES ('0871234567', 'over', now() - interval '1 s')")
        .await;
    let never = site.insert("(recipient, body, expires_at) VALUES ('0871234567', 'ever', 'infinity')").await;
    let _daemon = site.daemon(Lines { gateway: "concurrency = 1", ..Lines::default() }).await;
    let row = site.until(before, "expired").await;
    assert_eq!((row.code(), row.attempts, row.finished), ("expired", 0, true));
    site.until(never, "accepted").await;
    // Read in time, and over before its turn comes.
    site.freeze().await;
    site.queue(2).await;
    site.sim_reaches("frozen=1").await;
    let waiting = site
        .insert("(recipient, body, expires_at) VALUES ('0871234567', 'waits', now() + interval '1 s')")
        .await;
    site.until_true(
        "its time is over",
        &format!("SELECT expires_at < now() FROM sms.outbox WHERE id = {waiting}"),
    )
    .await;
    site.thaw().await;
    assert_eq!(site.until(waiting, "expired").await.code(), "expired");
    assert_eq!(site.sim_count("accepted").await, 3);
    // An expiry in the past does not end it again at once.
    site.run(&format!("SELECT sms.retry({before})")).await;
    site.until(before, "accepted").await;
}

#[tokio::test]
async fn bodies_and_numbers_never_reach_the_log_or_an_error() {
    let site = Site::new("secrets").await;
    let daemon = site.daemon(Lines::default()).await;
    let script = serde_json::json!([
        {"do": {"drop": {"accept": true}}, "prefix": "353871112221"},
        {"do": {"answer": {"status": 400, "body": "{\"success\":false,\"message\":\"353871112222: MARKER\"}"}},
            "prefix": "353871112222"},
        {"do": {"page": {}}, "prefix": "353871112223"}
    ]);
    site.sim.script(&script).await;
    site.run(
        "INSERT INTO sms.outbox (recipient, body, sender) SELECT '+35387111222' || n, 'MARKER body', \
         CASE n WHEN 4 THEN 'MARKER and too long' END FROM generate_series(1, 5) AS n; \
         INSERT INTO sms.outbox (recipient, body) VALUES ('+353871112226x', 'MARKER body')",
    )
    .await;
    let counts = site.until_counts("each has an end", |counts| counts.of("queued") == 0).await;
    assert_eq!((counts.of("accepted"), counts.of("unknown"), counts.of("failed")), (1, 2, 3), "{counts:?}");
    let log = daemon.log();
    assert!(!log.contains("MARKER body") && !log.contains("35387111222"), "{log}");
    assert!(!log.contains("demo-password"), "{log}");
    assert_eq!(
        site.number(
            "SELECT count(*) FROM sms.outbox WHERE error LIKE '%35387111222%' OR error LIKE '%MARKER body%'"
        )
        .await,
        0
    );
    daemon.wait_log(LIMIT, "message_id").await;
}

#[tokio::test]
async fn ten_thousand_poison_rows_do_not_keep_a_good_one_waiting() {
    let site = Site::new("poison").await;
    let _daemon = site.daemon(Lines::default()).await;
    site.run("INSERT INTO sms.outbox (recipient, body) SELECT 'x', 'poison' FROM generate_series(1, 10000)")
        .await;
    let (id, _) = site.queue(1).await;
    site.until(id, "accepted").await;
    let counts = site.until_counts("each says why", |counts| counts.of("queued") == 0).await;
    assert_eq!((counts.of("failed"), counts.of("accepted")), (10_000, 1));
}
