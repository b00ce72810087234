//! `outboxd check` on the way to the database, broken at one hop each: TLS with a real server, the second way behind
//! `direct_url`, and what is shown while somebody waits.

use std::net::TcpListener;
use std::process::{Command, Stdio};

use serde_json::Value;
use tokio::task::JoinSet;

use crate::cli_check::{assert_finding, finding};
use crate::cli_check_hops::{EXPIRED, EXPIRED_KEY, OLD_AUTHORITY, YEAR, resetting, silent_port};
use crate::database_tls::server;
use crate::gateway_peer::{Act, Greeting, Peer};
use crate::gateway_tls::{AUTHORITY, CLIENT_AUTHORITY, LEAF, LEAF_KEY};
use crate::support::cli::{Cli, Ended, config, v1_gateway};
use crate::support::clock::WallClock;
use crate::support::cluster::Cluster;
use crate::support::eventually;
use crate::support::postgres::TestDb;
use crate::support::site::LIMIT;

const GATEWAY: &str = "http://127.0.0.1:9/send";

/// `place`: host and port as keywords.
fn cli(place: &str, options: &str) -> Cli {
    let database = format!("{place} dbname=postgres user=secret password=correct-horse {options}");
    with_authorities(Cli::new(&config(&database, "", &v1_gateway("main", GATEWAY))))
}

fn with_authorities(cli: Cli) -> Cli {
    for (name, text) in [("ca.pem", AUTHORITY), ("old.pem", OLD_AUTHORITY), ("other.pem", CLIENT_AUTHORITY)] {
        std::fs::write(cli.directory().join(name), text).unwrap();
    }
    cli
}

async fn check(place: &str, options: &str) -> Ended {
    cli(place, options).run(&["check", "--json"]).await
}

fn found(ended: &Ended, name: &str) -> Value {
    let all = ended.json();
    let found = all.as_array().unwrap().iter().find(|finding| finding["name"] == name);
    found.unwrap_or_else(|| panic!("no finding {name}: {all:#}")).clone()
}

/// The hop where the way broke off, and that nobody tried to log in behind it.
#[track_caller]
fn assert_broken(ended: &Ended, name: &str, problem: &str, parts: &[&str]) -> Value {
    let found = found(ended, name);
    assert_eq!((&found["outcome"], &found["problem"]), (&"failed".into(), &problem.into()), "{found:#}");
    let text = format!(
        "{} -> {} | {}",
        found["detail"].as_str().unwrap(),
        found["advice"].as_str().unwrap(),
        found["network_team"].as_str().unwrap_or_default()
    );
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in {text}");
    }
    let all = ended.json();
    assert!(all.as_array().unwrap().iter().all(|finding| finding["name"] != "database"), "{all:#}");
    found
}

#[tokio::test]
async fn a_good_certificate_is_shown_with_its_issuer() {
    let cluster = server(LEAF, LEAF_KEY).await;
    let place = format!("host=localhost port={}", cluster.port());
    for options in ["sslmode=require", "sslmode=verify-full sslrootcert=ca.pem"] {
        let ended = check(&place, options).await;
        for part in ["TLS 1.3; certificate of ", "signed by \"CN=outboxd test authority\", valid from 20"] {
            assert_finding(&ended, "database: tls", "ok", part);
        }
        assert_finding(&ended, "database", "ok", "PostgreSQL");
        let found = found(&ended, "database: tls");
        assert_eq!(found["certificates"][0]["names"][0], "localhost");
    }
}

#[tokio::test]
async fn a_certificate_of_a_stranger_is_told_with_its_issuer_and_what_to_write() {
    let cluster = server(LEAF, LEAF_KEY).await;
    let place = format!("host=localhost port={}", cluster.port());
    let words = [
        "signed by \"CN=outboxd test authority\", valid from 20",
        "which is not trusted here",
        "if \"CN=outboxd test authority\" is the database's own authority",
        "sslrootcert=/etc/outboxd/",
        "somebody listens in",
        "Please exempt this host from TLS inspection",
    ];
    for mode in ["verify-ca", "verify-full"] {
        let options = format!("sslmode={mode} sslrootcert=other.pem");
        let ended = check(&place, &options).await.expect(69);
        let found = assert_broken(&ended, "database: tls", "unknown_issuer", &words);
        assert_eq!(found["certificates"][0]["issuer"], "CN=outboxd test authority");
        assert_eq!(found["to"]["port"], cluster.port());
        let sentence = found["network_team"].as_str().unwrap();
        assert!(sentence.contains(&format!("TCP port {} (postgresql)", cluster.port())), "{sentence}");
    }
}

#[tokio::test]
async fn a_certificate_for_another_host_is_told_with_its_names() {
    let cluster = server(LEAF, LEAF_KEY).await;
    let place = format!("host=127.0.0.1 port={}", cluster.port());
    let ended = check(&place, "sslmode=verify-full sslrootcert=ca.pem").await.expect(69);
    let words = [
        "valid from 20",
        "it is for localhost, and not for 127.0.0.1",
        "alternative names",
        "let TLS pass untouched",
    ];
    assert_broken(&ended, "database: tls", "wrong_name", &words);
}

#[tokio::test]
async fn an_expired_certificate_is_told_with_its_time_and_ours() {
    let cluster = server(EXPIRED, EXPIRED_KEY).await;
    let place = format!("host=localhost port={}", cluster.port());
    let ended = check(&place, "sslmode=verify-full sslrootcert=old.pem").await.expect(69);
    let words = [
        "to 2021-01-31 00:00:00 UTC",
        "by this host's clock it is 20",
        "renew it",
        "this host's clock is wrong",
        "Please have it renewed",
    ];
    assert_broken(&ended, "database: tls", "expired", &words);
    // Who trusts somebody else is told that first.
    let ended = check(&place, "sslmode=verify-full sslrootcert=ca.pem").await.expect(69);
    assert_broken(&ended, "database: tls", "unknown_issuer", &["O=Old Trust"]);
}

#[tokio::test]
async fn a_clock_that_is_behind_is_told_by_the_certificate() {
    let Some(clock) = WallClock::new() else { return };
    clock.set(-10 * YEAR);
    let cluster = server(LEAF, LEAF_KEY).await;
    let cli =
        cli(&format!("host=localhost port={}", cluster.port()), "sslmode=verify-full sslrootcert=ca.pem");
    let with_clock = |command: &mut Command| {
        command.envs(clock.environment());
    };
    let ended = cli.run_with(&["check", "--json"], with_clock).await.expect(69);
    let words = ["by this host's clock it is 2016-", "timedatectl", "UDP port 123"];
    assert_broken(&ended, "database: tls", "not_yet_valid", &words);
}

#[tokio::test]
async fn a_server_that_does_no_tls_is_told_from_one_that_is_no_postgresql() {
    let cluster = Cluster::start("").await;
    let place = format!("host=localhost port={}", cluster.port());
    let ended = check(&place, "sslmode=require").await.expect(69);
    let found = assert_broken(&ended, "database: tls", "no_tls", &["offers no TLS", "set ssl = on"]);
    assert_eq!(found["network_team"], Value::Null);
    let ended = check(&place, "sslmode=prefer").await;
    assert!(!ended.stdout.contains("database: tls"), "{ended:?}");

    let web = Peer::start(|| Greeting::Say(b"HTTP/1.1 400 Bad Request\r\n\r\n"), |_| Act::Close).await;
    let place = format!("host=127.0.0.1 port={}", web.address.port());
    let ended = check(&place, "sslmode=require").await.expect(69);
    assert_broken(&ended, "database: tls", "no_tls", &["no PostgreSQL", "Please let TLS pass untouched"]);
}

#[tokio::test]
async fn a_way_that_breaks_at_the_greeting_is_told_as_it_broke() {
    let (port, _tasks) = resetting().await;
    let connect = format!("connect to 127.0.0.1, TCP port {port} (postgresql)");
    let ended = check(&format!("host=127.0.0.1 port={port}"), "sslmode=require").await.expect(69);
    assert_broken(&ended, "database: tls", "reset", &["during the TLS handshake", &connect]);

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let connect = format!("connect to 127.0.0.1, TCP port {port} (postgresql)");
    let place = format!("host=127.0.0.1 port={port}");
    let ended = check(&place, "sslmode=require connect_timeout=1").await.expect(69);
    let words = ["no answer to the TLS greeting within 1s", "a firewall that holds it", &connect];
    assert_broken(&ended, "database: tls", "timeout", &words);
}

#[tokio::test]
async fn a_replica_is_told_as_one() {
    let cluster = Cluster::start("").await;
    let db = TestDb::in_cluster(&cluster, "check_replica").await;
    db.daemon_url().await;
    let replica = cluster.replica("replica", "").await;
    let (socket, port) = (replica.socket(), replica.port());
    let url =
        format!("host={} port={port} dbname={} user={}", socket.display(), db.name(), db.role("daemon"));
    // The role, which was made last, has come to it.
    let superuser = replica.client("postgres").await;
    eventually(LIMIT, "the replica has caught up", async || {
        let sql = "SELECT FROM pg_roles WHERE rolname = $1";
        superuser.query_opt(sql, &[&db.role("daemon")]).await.unwrap().ok_or(())
    })
    .await;
    let ended = crate::cli_check::check(&url, "", &v1_gateway("main", GATEWAY)).await.expect(78);
    assert_finding(&ended, "database", "failed", "this is a replica: name the primary");
}

#[tokio::test]
async fn silence_on_the_way_to_the_database_is_told_from_refusal() {
    let (address, _listener, _filling) = silent_port().await;
    let place = format!("host=127.0.0.1 port={}", address.port());
    let connect = format!("connect to 127.0.0.1, TCP port {} (postgresql)", address.port());
    let ended = check(&place, "sslmode=require connect_timeout=1").await.expect(69);
    assert_broken(&ended, "database: tcp", "timeout", &["no answer in time", "drops it", &connect]);
}

/// A database that is well, and a second way to it.
async fn with_direct_url(db: &TestDb, direct: &str) -> Ended {
    let url = format!("{}\"\npooler = \"transaction\"\ndirect_url = \"{direct}", db.daemon_url().await);
    with_authorities(Cli::new(&config(&url, "", &v1_gateway("main", GATEWAY))))
        .run(&["check", "--json"])
        .await
}

#[tokio::test]
async fn the_way_behind_direct_url_is_walked_hop_by_hop_too() {
    let db = TestDb::create("check_direct").await;
    let ended = with_direct_url(&db, &db.daemon_url().await).await;
    assert_finding(&ended, "direct_url: socket", "ok", "is there");
    assert_finding(&ended, "direct_url", "ok", "leads to the same database");
    assert_finding(&ended, "lock", "ok", "silent leader");

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let ended = with_direct_url(&db, &format!("host=127.0.0.1 port={port} dbname=x user=y")).await.expect(69);
    assert_finding(&ended, "direct_url: tcp", "failed", "connection refused");
    assert!(
        found(&ended, "direct_url: tcp")["network_team"].as_str().unwrap().contains("connect to 127.0.0.1")
    );
    // What is well is told all the same, and the fault once.
    assert_finding(&ended, "database", "ok", "PostgreSQL");
    assert_finding(&ended, "schema", "ok", "up to date");
    assert_eq!(ended.stdout.matches("\"failed\"").count(), 2, "it and the gateway: {}", ended.stdout);

    let ended = with_direct_url(&db, "host=db.invalid dbname=x user=y").await.expect(69);
    assert_finding(&ended, "direct_url: name", "failed", "db.invalid");
    assert!(!finding(&ended, "direct_url: name").1.contains("[database] url"), "{ended:?}");

    let cluster = server(LEAF, LEAF_KEY).await;
    let direct = format!(
        "host=localhost port={} dbname=postgres user=secret password=correct-horse sslmode=verify-full \
         sslrootcert=other.pem",
        cluster.port()
    );
    let ended = with_direct_url(&db, &direct).await.expect(69);
    assert_finding(&ended, "direct_url: tls", "failed", "signed by \"CN=outboxd test authority\"");
    assert_finding(&ended, "direct_url: tls", "failed", "name its certificate in [database] direct_url");
}

/// Takes connections, and says when the first has come.
async fn mute() -> (u16, JoinSet<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut held = Vec::new();
        loop {
            held.push(listener.accept().await.unwrap());
        }
    });
    (port, tasks)
}

#[tokio::test]
async fn on_a_terminal_a_long_check_says_what_it_waits_for_and_elsewhere_it_does_not() {
    let (port, _tasks) = mute().await;
    let cli = cli(&format!("host=127.0.0.1 port={port}"), "sslmode=disable");
    let shell = format!(
        "TERM=xterm GATEWAY_PASSWORD=correct-horse {} --config {} check",
        env!("CARGO_BIN_EXE_outboxd"),
        cli.directory().join("outboxd.toml").display()
    );
    // Gives the command a terminal and writes down what appears there.
    let screen = cli.directory().join("screen");
    let mut terminal = Command::new("script");
    terminal.args(["--quiet", "--flush", "--return", "--command", &shell]).arg(&screen);
    let mut child = terminal.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    eventually(LIMIT, "it says what it waits for", async || {
        let shown = std::fs::read_to_string(&screen).unwrap_or_default();
        if shown.contains("database: logging in") && !shown.contains("FAILED") { Ok(()) } else { Err(shown) }
    })
    .await;
    let status = tokio::task::spawn_blocking(move || child.wait()).await.unwrap().unwrap();
    let shown = std::fs::read_to_string(&screen).unwrap();
    assert_eq!(status.code(), Some(69), "{shown}");
    // The lines are gone before the findings come.
    let (_, page) = shown.split_once("configuration").unwrap();
    assert!(page.contains("FAILED") && !page.contains("logging in"), "{shown}");

    let ended = cli.run(&["check"]).await.expect(69);
    assert_eq!(ended.stderr, "", "{ended:?}");
    assert!(!ended.stdout.contains("logging in"), "{ended:?}");
}
