//! Metrics and health pages of the real daemon: they agree with the rows, say what is red and what is not, and bear
//! hostile callers.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::admin::{get, get_by_file, raw, scrape, until};
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::port::free_port;
use crate::support::site::{LIMIT, Lines, Site};
use crate::support::wire::{Cut, Door, Wire};

fn table(port: u16) -> String {
    format!("[admin]\nlisten = \"127.0.0.1:{port}\"")
}

/// A daemon that leads and serves its pages.
async fn daemon(site: &Site, port: u16, lines: Lines<'_>) -> Daemon {
    site.daemon(Lines { more: &format!("{}\n{}", table(port), lines.more), ..lines }).await
}

#[tokio::test]
async fn counters_agree_with_the_rows_while_messages_are_sent() {
    let site = Site::with_receipts("metrics").await;
    let port = free_port();
    let _daemon = daemon(&site, port, Lines { receipts: true, ..Lines::default() }).await;
    let before = scrape(port).await;
    assert_eq!(before.count("outboxd_messages_total{gateway=\"main\",outcome=\"accepted\"}"), 0);
    assert_eq!(before.count("outboxd_role{role=\"leader\"}"), 1);
    // Answers that take a while, so that pages are taken while requests are under way.
    site.sim.settings(&json!({"answers": {"latency_ms": 20}})).await;
    let bad = "INSERT INTO sms.outbox (recipient, body) SELECT 'nobody', 'x' FROM generate_series(1, 7)";
    site.run(bad).await;
    let sent = async {
        for _ in 0..5 {
            site.queue(60).await;
        }
        site.until_counts("all are delivered", |counts| {
            counts.of("delivered") == 300 && counts.of("failed") == 7
        })
        .await
    };
    let scraped = async {
        let mut last = before.clone();
        let mut busy = 0;
        loop {
            let page = scrape(port).await;
            page.assert_goes_on_from(&last);
            busy += usize::from(page.value("outboxd_attempts_in_flight{gateway=\"main\"}") > 0.0);
            let all = page.count("outboxd_callbacks_total{kind=\"delivered\",result=\"written\"}") == 300;
            last = page;
            if all {
                return busy;
            }
        }
    };
    let (_, busy) = tokio::join!(sent, tokio::time::timeout(2 * LIMIT, scraped));
    assert!(busy.expect("all are counted") > 0, "no page was taken while requests were under way");
    let page = eventually(LIMIT, "all of it is counted", async || {
        let page = scrape(port).await;
        let idle = page.count("outboxd_waves_open") == 0;
        let written = page.count("outboxd_messages_total{gateway=\"main\",outcome=\"accepted\"}") == 300;
        if idle && written { Ok(page) } else { Err(page.text) }
    })
    .await;
    let attempts = site.number("SELECT sum(attempts) FROM sms.outbox WHERE sent_via = 'main'").await;
    for (series, count) in [
        ("outboxd_attempts_total{gateway=\"main\",result=\"accepted\"}", attempts),
        ("outboxd_attempts_total{gateway=\"main\",result=\"unknown\"}", 0),
        ("outboxd_attempt_duration_seconds_count{gateway=\"main\"}", attempts),
        ("outboxd_messages_total{gateway=\"\",outcome=\"failed\"}", 7),
        ("outboxd_messages_total{gateway=\"main\",outcome=\"failed\"}", 0),
        ("outboxd_attempts_in_flight{gateway=\"main\"}", 0),
        ("outboxd_gateway_state{gateway=\"main\",state=\"open\"}", 1),
        ("outboxd_callbacks_total{kind=\"undelivered\",result=\"written\"}", 0),
        ("outboxd_database_up", 1),
        ("outboxd_schema_fits", 1),
        ("outboxd_epoch", site.number("SELECT epoch FROM outboxd.leader").await),
        ("outboxd_config_last_reload_successful", 1),
    ] {
        assert_eq!(page.count(series), count, "{series}");
    }
    assert_eq!(attempts, 300);
    assert!(page.value("outboxd_attempt_duration_seconds_sum{gateway=\"main\"}") >= 300.0 * 0.02);
    assert!(page.count("outboxd_waves_total{result=\"committed\"}") >= 5);
    assert!(page.value("process_resident_memory_bytes") > 1_000_000.0);
    assert!(page.value("process_start_time_seconds") > 1_500_000_000.0);
    for secret in ["35387", "message 1", "nobody", "demo-password", "demo-secret"] {
        assert!(!page.text.contains(secret), "{secret} is in:\n{}", page.text);
    }
}

#[tokio::test]
async fn what_waits_is_told_by_lane_and_what_is_open_by_code() {
    let site = Site::new("metrics_queue").await;
    site.run("SELECT sms.hold('stocktaking')").await;
    site.queue_in("urgent", 3).await;
    site.run(
        "INSERT INTO sms.outbox (recipient, body, lane, send_after, created_at) VALUES \
         ('353871234567', 'a', 'bulk', now() - interval '2 minutes', now() - interval '1 hour'), \
         ('353871234567', 'b', 'bulk', '-infinity', now()), \
         ('353871234567', 'c', 'bulk', now() + interval '1 hour', now()); \
         INSERT INTO sms.outbox (recipient, body, status) VALUES ('353871234567', 'd', 'unknown'); \
         INSERT INTO sms.outbox (recipient, body, held) VALUES ('353871234567', 'e', true); \
         INSERT INTO outboxd.alarm (code, subject, text) VALUES ('gateway_stopped', 'uk', 'x'), ('future', '', 'y')",
    )
    .await;
    let port = free_port();
    let _daemon = daemon(&site, port, Lines::default()).await;
    let page = eventually(LIMIT, "the daemon knows of the hold", async || {
        let page = scrape(port).await;
        if page.count("outboxd_held") == 1 { Ok(page) } else { Err(page.text) }
    })
    .await;
    for (series, count) in [
        ("outboxd_queue_due_messages{lane=\"urgent\"}", 3),
        ("outboxd_queue_due_messages{lane=\"normal\"}", 0),
        ("outboxd_queue_due_messages{lane=\"bulk\"}", 2),
        ("outboxd_queue_oldest_due_seconds{lane=\"normal\"}", 0),
        ("outboxd_queue_held_messages", 1),
        ("outboxd_queue_unknown_messages", 1),
        ("outboxd_alarms_open{code=\"gateway_stopped\"}", 1),
        ("outboxd_alarms_open{code=\"other\"}", 1),
        ("outboxd_alarms_open{code=\"database_changed\"}", 0),
    ] {
        assert_eq!(page.count(series), count, "{series}");
    }
    let oldest = page.value("outboxd_queue_oldest_due_seconds{lane=\"bulk\"}");
    assert!((0.0..100.0).contains(&oldest), "'-infinity' waits since it was made: {oldest}");
}

#[tokio::test]
async fn readiness_follows_the_database_and_liveness_does_not() {
    let wire = Wire::to_cluster();
    let mut site = Site::new("ready").await;
    site.route_through(&wire);
    wire.door(Door::Reset);
    let port = free_port();
    let _daemon = Daemon::spawn(&site.config(Lines { more: &table(port), ..Lines::default() }));
    eventually(LIMIT, "it listens", async || TcpStream::connect(("127.0.0.1", port)).await.map(|_| ())).await;
    assert_eq!(get(port, "/livez").await.body, "alive\n");
    assert_eq!(until(port, "/readyz", 503).await, "not ready: waiting for the database\n");
    let page = scrape(port).await;
    assert_eq!(page.count("outboxd_database_up"), 0);
    assert!(!page.has("outboxd_queue_due_messages"), "nobody knows what waits");

    for round in ["first", "second"] {
        wire.door(Door::Open);
        assert_eq!(until(port, "/readyz", 200).await, "ready: leads\n", "{round}");
        assert_eq!(scrape(port).await.count("outboxd_database_up"), 1);
        wire.door(Door::Reset);
        wire.cut_all(Cut::Reset);
        let reason = until(port, "/readyz", 503).await;
        assert!(reason.starts_with("not ready: "), "{reason}");
        assert_eq!(scrape(port).await.count("outboxd_role{role=\"leader\"}"), 0);
        assert_eq!(get(port, "/livez").await.status, 200, "{round}");
    }
}

#[tokio::test]
async fn a_database_that_says_nothing_more_is_not_ready_and_the_daemon_is_alive() {
    let wire = Wire::to_cluster();
    let mut site = Site::new("silent_db").await;
    site.route_through(&wire);
    let port = free_port();
    let _daemon = daemon(&site, port, Lines::default()).await;
    until(port, "/readyz", 200).await;
    wire.door(Door::Silent);
    wire.silence_all();
    let reason = until(port, "/readyz", 503).await;
    assert!(reason.contains("no answer within") || reason.contains("did not answer"), "{reason}");
    assert_eq!(get(port, "/livez").await.status, 200);
    wire.door(Door::Open);
    wire.cut_all(Cut::Reset);
    until(port, "/readyz", 200).await;
}

#[tokio::test]
async fn a_standby_is_ready_and_says_that_it_stands_by() {
    let site = Site::new("standby_ready").await;
    let (first, second) = (free_port(), free_port());
    let mut leader = daemon(&site, first, Lines::default()).await;
    let _standby = Daemon::start(&site.config(Lines { more: &table(second), ..Lines::default() })).await;
    assert_eq!(until(second, "/readyz", 200).await, "ready: stands by\n");
    let page = scrape(second).await;
    assert_eq!(page.count("outboxd_role{role=\"standby\"}"), 1);
    assert_eq!(page.count("outboxd_gateway_state{gateway=\"main\",state=\"open\"}"), 0);
    leader.terminate();
    assert!(leader.wait_exit(LIMIT).await.success());
    eventually(LIMIT, "the standby leads", async || {
        let body = get(second, "/readyz").await.body;
        if body == "ready: leads\n" { Ok(()) } else { Err(body) }
    })
    .await;
}

#[tokio::test]
async fn a_schema_that_was_changed_under_the_daemon_is_not_ready() {
    let site = Site::new("unfit").await;
    let port = free_port();
    let _daemon = daemon(&site, port, Lines::default()).await;
    until(port, "/readyz", 200).await;
    site.run("INSERT INTO outboxd.migration (version, name, sha256) SELECT max(version) + 1, 'newer', 'x' FROM outboxd.migration")
        .await;
    let reason = until(port, "/readyz", 503).await;
    assert!(reason.contains("of a newer outboxd"), "{reason}");
    let page = scrape(port).await;
    assert_eq!((page.count("outboxd_database_up"), page.count("outboxd_schema_fits")), (1, 0));
}

#[tokio::test]
async fn a_socket_is_for_the_group_moves_with_a_reload_and_goes_with_the_daemon() {
    let site = Site::new("admin_file").await;
    let directory = tempfile::tempdir().unwrap();
    let (file, other) = (directory.path().join("admin.sock"), directory.path().join("other.sock"));
    let by_file = |file: &std::path::Path| format!("[admin]\nlisten = \"unix:{}\"", file.display());
    let config = |more: &str| site.config(Lines { more, ..Lines::default() });
    let mut daemon = Daemon::start(&config(&by_file(&file))).await;
    daemon.wait_log(LIMIT, "leading").await;
    assert_eq!(get_by_file(&file, "/livez").await.unwrap().status, 200);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o660);

    daemon.rewrite(&config(&by_file(&other)));
    daemon.signal(Signal::HUP);
    eventually(LIMIT, "it listens at the other place", async || get_by_file(&other, "/livez").await).await;
    eventually(LIMIT, "the first file is gone", async || if file.exists() { Err("there") } else { Ok(()) })
        .await;

    // An address that somebody else has must not end a daemon that runs.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    daemon.rewrite(&config(&table(taken.local_addr().unwrap().port())));
    daemon.signal(Signal::HUP);
    daemon.wait_log(LIMIT, "the admin pages stay where they were").await;
    assert_eq!(get_by_file(&other, "/livez").await.unwrap().status, 200);

    daemon.rewrite("[nonsense]");
    daemon.signal(Signal::HUP);
    daemon.wait_log(LIMIT, "was not taken over").await;
    let page = get_by_file(&other, "/metrics").await.unwrap().body;
    assert!(page.contains("outboxd_config_last_reload_successful 0\n"), "{page}");

    daemon.terminate();
    assert!(daemon.wait_exit(LIMIT).await.success());
    assert!(!other.exists());
}

#[tokio::test]
async fn the_pages_answer_what_they_know_and_refuse_the_rest() {
    let site = Site::new("admin_http").await;
    let port = free_port();
    let _daemon = daemon(&site, port, Lines::default()).await;
    assert!(get(port, "/").await.body.contains("/metrics"));
    for path in ["/metricsx", "/metrics/", "/..", "/cb/it-0123456789abcdef", "*"] {
        assert_eq!(get(port, path).await.status, 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "GETX"] {
        let text = format!("{method} /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc");
        assert!(raw(port, text.as_bytes()).await.starts_with("HTTP/1.1 405"), "{method}");
    }
    let head = raw(port, b"HEAD /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
    // Two on one connection.
    let both =
        "GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert_eq!(raw(port, both.as_bytes()).await.matches("HTTP/1.1 200").count(), 2);
}

#[tokio::test]
async fn hostile_callers_are_cut_off_and_keep_no_scraper_out() {
    let site = Site::new("admin_hostile").await;
    let port = free_port();
    let more = "max_connections = 4\ntimeout = \"1s\"";
    let _daemon = daemon(&site, port, Lines { more, ..Lines::default() }).await;
    assert!(!raw(port, b"GET /met").await.contains("200"));
    assert!(!raw(port, b"").await.contains("200"));
    let long = format!("GET /livez HTTP/1.1\r\nX-A: {}\r\n\r\n", "a".repeat(100_000));
    assert!(raw(port, long.as_bytes()).await.starts_with("HTTP/1.1 431"));
    let mut many = "GET /livez HTTP/1.1\r\n".to_owned();
    for _ in 0..1_000 {
        let _ = write!(many, "X-A: a\r\n");
    }
    assert!(raw(port, format!("{many}\r\n").as_bytes()).await.starts_with("HTTP/1.1 431"));
    assert!(raw(port, b"\x16\x03\x01\x02\x00\x01\x00").await.starts_with("HTTP/1.1 400"));
    let mut callers = Vec::new();
    for nth in 0..300 {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        if nth % 2 == 0 {
            // Asks for a page and never reads it. Fails when it was cut off already.
            let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        }
        callers.push(stream);
        if nth % 50 == 0 {
            assert_eq!(get(port, "/livez").await.status, 200, "after {nth} callers");
        }
    }
    scrape(port).await;
    // A connection that was used and then says nothing is closed in the end.
    let mut idle = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    idle.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(LIMIT, idle.read_to_end(&mut rest)).await.expect("it is closed").unwrap();
    assert!(rest.starts_with(b"HTTP/1.1 200"));
}

/// Prometheus's own judgement. `make test-system` brings the program.
#[tokio::test]
#[ignore = "needs promtool: make test-system"]
async fn promtool_has_nothing_to_complain_of() {
    let site = Site::with_receipts("promtool").await;
    let port = free_port();
    let _daemon = daemon(&site, port, Lines { receipts: true, ..Lines::default() }).await;
    let (id, _) = site.queue(20).await;
    site.until_delivered(id).await;
    let page = scrape(port).await;
    let promtool = std::env::var("OUTBOXD_PROMTOOL").unwrap_or_else(|_| "promtool".to_owned());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("page");
    std::fs::write(&file, &page.text).unwrap();
    let judged = Command::new(promtool)
        .args(["check", "metrics", "--extended"])
        .stdin(Stdio::from(std::fs::File::open(&file).unwrap()))
        .output()
        .expect("promtool can be started");
    let said = String::from_utf8_lossy(&judged.stderr);
    assert!(judged.status.success() && said.trim().is_empty(), "{judged:?}\n{}", page.text);
    assert!(String::from_utf8_lossy(&judged.stdout).contains("outboxd_attempts_total"), "{judged:?}");
}
