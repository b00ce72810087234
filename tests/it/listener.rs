//! The callback listener under strangers: thousands of connections, half requests, junk, forgeries, proxies, and TLS.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::StatusCode;
use rustix::process::Signal;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::gateway_tls::{AUTHORITY, LEAF, LEAF_KEY};
use crate::inbox::{LISTENING, form, post};
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::site::{LIMIT, Site};

const NUMBER: &str = "353871234567";

/// A daemon whose listener has these keys.
async fn daemon(site: &Site, keys: &str) -> Daemon {
    // [callbacks] is the last section.
    let daemon = Daemon::start(&format!("{}{keys}\n", site.config(LISTENING))).await;
    daemon.wait_log(LIMIT, "leading").await;
    daemon
}

/// Address and path of the listener.
fn address(site: &Site) -> (String, String) {
    let url = site.callback_url();
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    (host.to_owned(), format!("/{path}"))
}

/// Sends these bytes, and reads whatever comes until the connection ends.
async fn raw(address: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The other side may hang up before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer)).await.expect("the connection ends");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Kilobytes of memory that a process has in use.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test]
async fn ten_thousand_silent_callers_keep_nobody_out_and_cost_little() {
    let site = Site::with_receipts("silent").await;
    let daemon = daemon(&site, "max_connections = 64").await;
    let (host, path) = address(&site);
    let before = resident(daemon.pid());
    let half = format!("POST {path} HTTP/1.1\r\nHost: x\r\nX-Padding: {}", "x".repeat(2000));
    let crowd = async {
        let mut callers = Vec::with_capacity(10_000);
        for nth in 0..10_000 {
            let mut stream = TcpStream::connect(&host).await.unwrap();
            if nth % 2 == 0 {
                // Fails when it was cut off already.
                let _ = stream.write_all(half.as_bytes()).await;
            }
            callers.push(stream);
        }
        callers
    };
    let business = async {
        for _ in 0..10 {
            let (first, last) = site.queue(30).await;
            let all = format!(
                "SELECT count(*) = 30 FROM sms.outbox WHERE status = 'delivered' AND id BETWEEN {first} AND {last}"
            );
            site.until_true("receipts come in", &all).await;
        }
    };
    let (callers, ()) = tokio::join!(crowd, business);
    let (first, _) = site.queue(1).await;
    site.until_delivered(first).await;
    assert_eq!(post(&site, &form(NUMBER, "51000", "Hello", "2026-11-22 10:00:00")).await, 200);
    let grown = resident(daemon.pid()).saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} kB for {} callers", callers.len());
    drop(callers);
}

#[tokio::test]
async fn what_is_too_long_or_too_slow_is_cut_off() {
    let site = Site::with_receipts("slow").await;
    let _daemon = daemon(&site, "timeout = \"1s\"").await;
    let (host, path) = address(&site);
    let head = |rest: &str| format!("POST {path} HTTP/1.1\r\nHost: x\r\n{rest}");
    // Half a head, and nothing.
    assert!(!raw(&host, b"POST").await.contains("200"));
    assert!(!raw(&host, b"").await.contains("200"));
    // A head that never ends.
    let long = head(&format!("X-A: {}\r\n\r\n", "a".repeat(100_000)));
    assert!(raw(&host, long.as_bytes()).await.starts_with("HTTP/1.1 431"));
    let many = head(&"X-A: a\r\n".repeat(1_000));
    assert!(raw(&host, many.as_bytes()).await.starts_with("HTTP/1.1 431"));
    // A body that is too long, announced or not.
    let announced = head("Content-Length: 1000000\r\n\r\n");
    assert!(raw(&host, announced.as_bytes()).await.starts_with("HTTP/1.1 413"));
    let mut chunks = head("Transfer-Encoding: chunked\r\n\r\n");
    for _ in 0..100 {
        let _ = write!(chunks, "400\r\n{}\r\n", "a".repeat(0x400));
    }
    assert!(raw(&host, chunks.as_bytes()).await.starts_with("HTTP/1.1 413"));
    // A body that never comes.
    let promised = head("Content-Length: 100\r\n\r\nSMS-");
    assert!(raw(&host, promised.as_bytes()).await.starts_with("HTTP/1.1 503"));
    assert!(raw(&host, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await.starts_with("HTTP/1.1 400"));
    assert_eq!(post(&site, &form(NUMBER, "51000", "Hello", "2026-11-22 10:00:00")).await, 200);
}

#[tokio::test]
async fn junk_and_forgeries_change_nothing_and_do_not_fill_the_log() {
    let site = Site::with_receipts("junk").await;
    site.sim.settings(&json!({"callbacks": {"receipts": {"lost": 1.0}}})).await;
    let daemon = daemon(&site, "").await;
    let (id, _) = site.queue(1).await;
    let row = site.until(id, "accepted").await;
    let reference = row.gateway_ref.clone().unwrap();
    let genuine = form(NUMBER, "50123", "STOP", "2026-11-22 10:00:00");
    let receipt = format!(
        "SMS-Type=Notification&SMS-NotifyId={reference}&SMS-Success=True&SMS-Verify={}",
        "0".repeat(32)
    );
    let mut corpus: Vec<Vec<u8>> = Vec::new();
    for seed in [genuine.as_bytes(), receipt.as_bytes(), b"{\"Status\":\"MESSAGE_ERROR\",\"NotifyId\":\"x\"}"]
    {
        for at in 0..seed.len() {
            // Cut off; and with one byte that is another. Neither is signed.
            corpus.push(seed[..at].to_vec());
            let mut bent = seed.to_vec();
            bent[at] = bent[at].wrapping_add(1 + u8::try_from(at % 200).unwrap());
            corpus.push(bent);
        }
    }
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut taken = 0;
    for body in &corpus {
        let status = http.post(site.callback_url()).body(body.clone()).send().await.unwrap().status();
        assert!(!status.is_server_error(), "{status}: {:?}", String::from_utf8_lossy(body));
        taken += usize::from(status.is_success());
    }
    // What bends a field that is not signed is believed, as documented: the type, the network, the time, the key phrase.
    assert!(taken < corpus.len() / 2, "{taken} of {}", corpus.len());
    assert_eq!(site.row(id).await, row, "a receipt that nobody signed");
    let bent = format!("SELECT count(*) FROM sms.inbox WHERE body <> 'STOP' OR sender <> '{NUMBER}'");
    assert_eq!(site.number(&bent).await, 0);
    let log = daemon.log();
    let warnings = log.lines().filter(|line| line.contains(" WARN ")).count();
    assert!(warnings < 100, "{warnings} warnings for {} callbacks", corpus.len());
}

#[tokio::test]
async fn only_the_gateways_addresses_are_let_in_through_a_trusted_proxy() {
    let site = Site::with_receipts("ranges").await;
    let keys = "allow_from = [\"198.51.100.0/24\"]\ntrusted_proxies = [\"127.0.0.1\"]";
    let _daemon = daemon(&site, keys).await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let post = async |forwarded: &str, text: &str| {
        let body = form(NUMBER, "51000", text, "2026-11-22 10:00:00");
        let request = http.post(site.callback_url()).header("X-Forwarded-For", forwarded).body(body);
        request.send().await.unwrap().status()
    };
    assert_eq!(post("198.51.100.7", "one").await, StatusCode::OK);
    assert_eq!(post("203.0.113.9, 198.51.100.7", "two").await, StatusCode::OK);
    for forged in ["203.0.113.9", "198.51.100.7, 203.0.113.9", "", "nobody", "198.51.100.7, "] {
        assert_eq!(post(forged, forged).await, StatusCode::FORBIDDEN, "{forged:?}");
    }
    assert_eq!(site.number("SELECT count(*) FROM sms.inbox").await, 2);
}

#[tokio::test]
async fn nobody_is_turned_away_while_the_configuration_is_read_again() {
    let site = Site::with_receipts("reload_door").await;
    let daemon = daemon(&site, "").await;
    let poster = async {
        for n in 0..300 {
            // A connection of its own each time, and no second try.
            let body = form(NUMBER, "51000", &format!("text {n}"), "2026-11-22 10:00:00");
            assert_eq!(post(&site, &body).await, 200, "{n}");
        }
    };
    let reloader = async {
        for round in 1..=3 {
            site.until_true("some are there", &format!("SELECT count(*) >= {} FROM sms.inbox", round * 50))
                .await;
            rustix::process::kill_process(
                rustix::process::Pid::from_raw(i32::try_from(daemon.pid()).unwrap()).unwrap(),
                Signal::HUP,
            )
            .unwrap();
            eventually(LIMIT, "it is read again", async || {
                let times = daemon.log().matches("configuration read again").count();
                if times >= round { Ok(()) } else { Err(times) }
            })
            .await;
        }
    };
    tokio::join!(poster, reloader);
    assert_eq!(site.number("SELECT count(*) FROM sms.inbox").await, 300);
}

/// How many certificates the listener shows over this version of TLS, to a caller that trusts the test's authority.
async fn certificates(host: &str, version: &'static SupportedProtocolVersion) -> Result<usize, String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(AUTHORITY.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(host).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
    let (_, connection) = stream.get_ref();
    assert_eq!(connection.protocol_version(), Some(version.version));
    Ok(connection.peer_certificates().unwrap().len())
}

#[tokio::test]
async fn a_certificate_is_shown_and_read_again_and_a_wrong_one_changes_nothing() {
    let site = Site::with_receipts("tls").await;
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = (directory.path().join("callback.crt"), directory.path().join("callback.key"));
    std::fs::write(&certificate, LEAF).unwrap();
    std::fs::write(&key, LEAF_KEY).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let keys = format!("certificate_file = \"{}\"\nkey_file = \"{}\"", certificate.display(), key.display());
    let mut daemon = daemon(&site, &keys).await;
    let (host, path) = address(&site);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        assert_eq!(certificates(&host, version).await, Ok(1));
    }
    let port = host.split(':').nth(1).unwrap();
    let ca = reqwest::Certificate::from_pem(AUTHORITY.as_bytes()).unwrap();
    let http = reqwest::Client::builder().no_proxy().add_root_certificate(ca).build().unwrap();
    let url = format!("https://localhost:{port}{path}");
    let sent =
        http.post(&url).body(form(NUMBER, "51000", "Hello", "2026-11-22 10:00:00")).send().await.unwrap();
    assert_eq!(sent.status(), 200);
    // Without TLS there is no answer to a callback.
    assert!(
        !raw(&host, format!("POST {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.contains("HTTP")
    );

    std::fs::write(&certificate, "no certificate").unwrap();
    daemon.signal(Signal::HUP);
    daemon.wait_log(LIMIT, "cannot be used and was not taken over").await;
    assert_eq!(certificates(&host, &rustls::version::TLS13).await, Ok(1));
    std::fs::write(&certificate, format!("{LEAF}{AUTHORITY}")).unwrap();
    daemon.signal(Signal::HUP);
    daemon.wait_log(LIMIT, "configuration read again").await;
    eventually(LIMIT, "the longer chain is shown", async || {
        match certificates(&host, &rustls::version::TLS13).await {
            Ok(2) => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

#[tokio::test]
async fn what_was_read_before_a_stop_is_written_and_answered() {
    let site = Site::with_receipts("stop_door").await;
    let mut daemon = daemon(&site, "").await;
    let mut other = site.db.client().await;
    let lock = other.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE sms.inbox IN SHARE MODE").await.unwrap();
    let (url, body) = (site.callback_url(), form(NUMBER, "51000", "Hello", "2026-11-22 10:00:00"));
    let posted = tokio::spawn(async move {
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().unwrap();
        http.post(url).body(body).send().await.map(|answer| answer.status())
    });
    site.until_true(
        "the daemon waits for the table",
        "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'sms.inbox'::regclass AND NOT granted)",
    )
    .await;
    daemon.terminate();
    daemon.wait_log(LIMIT, "stopping").await;
    lock.rollback().await.unwrap();
    assert_eq!(posted.await.unwrap().unwrap(), 200);
    assert!(daemon.wait_exit(LIMIT).await.success());
    assert_eq!(site.number("SELECT count(*) FROM sms.inbox").await, 1);
}
