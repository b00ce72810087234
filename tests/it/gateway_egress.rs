//! Where a gateway's client goes, and where it does not: names, proxies, certificates, plain HTTP.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::process::Command;

use outboxd::config::{AddressRange, ProxyException, Secret};
use outboxd::gateway::{Gate, Gateway};
use outboxd::verdict::{DeferCause, Verdict};

use crate::gateway_peer::{Act, Greeting, Peer, V1_ACCEPTED, answer, answer_with, message, v1, v2};
use crate::gateway_tls::{AUTHORITY, CLIENT_AUTHORITY, serve_one};

/// Runs one test of this binary again in a process with other environment variables: they cannot be changed safely
/// in this one. True in that process.
fn is_child(test: &str, environment: &[(&str, &str)]) -> bool {
    const MARK: &str = "OUTBOXD_TEST_CHILD";
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(MARK, "1")
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}\n{output:?}");
    false
}

#[track_caller]
fn deferred(verdict: &Verdict) -> (DeferCause, &str) {
    let Verdict::Deferred { cause, reason, .. } = verdict else { panic!("{verdict:?}") };
    (*cause, reason)
}

#[test]
fn proxies_of_the_environment_are_ignored() {
    let proxy = "http://127.0.0.1:1";
    let environment =
        [("HTTP_PROXY", proxy), ("http_proxy", proxy), ("ALL_PROXY", proxy), ("all_proxy", proxy)];
    if is_child("gateway_egress::proxies_of_the_environment_are_ignored", &environment) {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let peer = Peer::answering(200, V1_ACCEPTED).await;
            let gateway = Gateway::build(&v1(&peer.url("/send"))).unwrap();
            let verdict = gateway.send(&message(1), &Gate::always()).await;
            assert!(matches!(verdict, Verdict::Accepted { .. }), "{verdict:?}");
        });
    }
}

#[test]
fn a_system_without_authorities_stops_only_those_who_need_them() {
    let environment = [("SSL_CERT_FILE", "/nonexistent"), ("SSL_CERT_DIR", "/nonexistent")];
    if is_child("gateway_egress::a_system_without_authorities_stops_only_those_who_need_them", &environment) {
        assert!(Gateway::build(&v1("http://127.0.0.1:1/send")).is_ok());
        let error = Gateway::build(&v1("https://gw.example.test/send")).unwrap_err().to_string();
        assert!(error.contains("ca-certificates") && error.contains("ca_file"), "{error}");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        std::fs::write(&path, AUTHORITY).unwrap();
        let mut cfg = v1("https://gw.example.test/send");
        cfg.ca_file = Some(path);
        assert!(Gateway::build(&cfg).is_ok());
    }
}

#[test]
fn a_ca_file_that_is_none_is_an_error_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut cfg = v1("https://gw.example.test/send");
    for (name, content) in [("absent.pem", None), ("empty.pem", Some("")), ("text.pem", Some("hello"))] {
        let path = directory.path().join(name);
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        cfg.ca_file = Some(path);
        let error = Gateway::build(&cfg).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
    let path = directory.path().join("good.pem");
    std::fs::write(&path, AUTHORITY).unwrap();
    cfg.ca_file = Some(path);
    assert!(Gateway::build(&cfg).is_ok(), "beside the system's authorities");
}

#[test]
fn plain_http_beyond_this_host_must_be_asked_for() {
    let mut cfg = v1("http://gw.example.test/send");
    let error = Gateway::build(&cfg).unwrap_err().to_string();
    assert!(error.contains("gw.example.test") && error.contains("allow_http"), "{error}");
    cfg.allow_http = true;
    assert!(Gateway::build(&cfg).is_ok());
    for local in ["http://localhost:1/s", "http://127.9.9.9/s", "http://[::1]:1/s"] {
        assert!(Gateway::build(&v1(local)).is_ok(), "{local}");
    }
    let half = v2("https://api.example.test", "http://auth.example.test/token");
    assert!(Gateway::build(&half).is_err(), "the log-in too");
}

#[test]
fn urls_that_are_none_are_refused() {
    for url in
        ["", "gw.example.test/send", "ftp://gw.example.test/", "https://", "https://u:pw@gw.example.test/"]
    {
        let error = Gateway::build(&v1(url)).unwrap_err().to_string();
        assert!(error.starts_with("url: ") && !error.contains("pw@"), "{url}: {error}");
    }
    let mut cfg = v1("https://gw.example.test/send");
    for proxy in ["proxy:3128", "ftp://proxy", "http://", "socks4://s3cret@p"] {
        cfg.proxy = Some(Secret::new(proxy));
        let error = Gateway::build(&cfg).unwrap_err().to_string();
        assert!(error.starts_with("proxy: ") && !error.contains("s3cret"), "{proxy}: {error}");
    }
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_certain() {
    let mut cfg = v1("http://gateway.invalid/send");
    cfg.allow_http = true;
    let verdict = Gateway::build(&cfg).unwrap().send(&message(1), &Gate::always()).await;
    let (cause, reason) = deferred(&verdict);
    assert_eq!(cause, DeferCause::Unreachable);
    assert!(reason.contains("gateway.invalid") && reason.contains("resolved"), "{reason}");
}

#[tokio::test]
async fn a_handshake_that_is_no_tls_is_certain() {
    for greeting in
        [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"\x15\x03\x03\x00\x02\x02\x28", b"\0\0\0\0\0\0"]
    {
        let peer = Peer::start(move || Greeting::Say(greeting), |_| Act::Close).await;
        let url = format!("https://localhost:{}/send", peer.address.port());
        let verdict = Gateway::build(&v1(&url)).unwrap().send(&message(1), &Gate::always()).await;
        let (cause, reason) = deferred(&verdict);
        assert_eq!(cause, DeferCause::Unreachable, "{reason}");
        assert!(peer.connections() > 0);
    }
}

#[tokio::test]
async fn a_proxy_that_wants_a_log_in_is_a_matter_of_configuration() {
    let proxy = Peer::serve(|_| Act::AnswerThenClose(answer(407, ""))).await;
    for (url, allow_http) in [("https://gw.example.test/send", false), ("http://gw.example.test/send", true)]
    {
        let mut cfg = v1(url);
        cfg.allow_http = allow_http;
        cfg.proxy = Some(Secret::new(format!("http://user:proxy-pw@{}", proxy.address)));
        let verdict = Gateway::build(&cfg).unwrap().send(&message(1), &Gate::always()).await;
        let (cause, reason) = deferred(&verdict);
        assert_eq!(cause, DeferCause::Misconfigured, "{reason}");
        assert!(reason.contains("proxy") && !reason.contains("proxy-pw"), "{reason}");
    }
    let [connect, post] = proxy.requests().try_into().unwrap();
    assert!(connect.is("CONNECT gw.example.test:443 ") && connect.body.is_empty(), "{}", connect.head);
    assert!(post.is("POST http://gw.example.test/send "), "{}", post.head);
    for request in [connect, post] {
        assert!(
            request.head.to_ascii_lowercase().contains("proxy-authorization: basic "),
            "{}",
            request.head
        );
    }
}

#[tokio::test]
async fn a_proxy_that_refuses_the_host_is_named() {
    let proxy = Peer::serve(|_| Act::AnswerThenClose(answer(403, "denied by policy"))).await;
    let mut cfg = v1("https://gw.example.test/send");
    cfg.proxy = Some(Secret::new(format!("http://{}", proxy.address)));
    let verdict = Gateway::build(&cfg).unwrap().send(&message(1), &Gate::always()).await;
    let (cause, reason) = deferred(&verdict);
    assert_eq!(cause, DeferCause::Unreachable);
    assert!(reason.contains("proxy refused") && reason.contains("gw.example.test:443"), "{reason}");
}

#[tokio::test]
async fn a_message_goes_through_the_configured_proxy() {
    let proxy = Peer::answering(200, V1_ACCEPTED).await;
    let mut cfg = v1("http://gw.example.test/send");
    cfg.allow_http = true;
    cfg.proxy = Some(Secret::new(format!("http://{}", proxy.address)));
    let verdict = Gateway::build(&cfg).unwrap().send(&message(1), &Gate::always()).await;
    assert!(matches!(verdict, Verdict::Accepted { .. }), "{verdict:?}");
    assert_eq!(proxy.count("POST http://gw.example.test/send "), 1);
}

fn range(text: &str) -> AddressRange {
    AddressRange::parse(text).unwrap()
}

#[tokio::test]
async fn a_host_that_is_excepted_is_reached_without_the_proxy() {
    let peer = Peer::answering(200, V1_ACCEPTED).await;
    let proxy = Peer::answering(200, V1_ACCEPTED).await;
    let mut cfg = v1(&format!("http://localhost:{}/send", peer.address.port()));
    cfg.proxy = Some(Secret::new(format!("http://{}", proxy.address)));
    for (exception, at_peer, at_proxy) in [("other.example", 0, 1), ("localhost", 1, 1), ("*", 2, 1)] {
        cfg.network.proxy_except = vec![ProxyException::parse(exception).unwrap()];
        let verdict = Gateway::build(&cfg).unwrap().send(&message(1), &Gate::always()).await;
        assert!(matches!(verdict, Verdict::Accepted { .. }), "{verdict:?}");
        assert_eq!((peer.requests().len(), proxy.requests().len()), (at_peer, at_proxy), "{exception}");
    }
}

#[tokio::test]
async fn nothing_is_connected_to_outside_the_allowed_addresses() {
    let peer = Peer::answering(200, V1_ACCEPTED).await;
    let mut cfg = v1(&format!("http://localhost:{}/send", peer.address.port()));
    cfg.network.allowed_addresses = vec![range("198.51.100.0/24")];
    let verdict = Gateway::build(&cfg).unwrap().send(&message(1), &Gate::always()).await;
    let (cause, reason) = deferred(&verdict);
    assert_eq!(cause, DeferCause::Unreachable, "it passes when the name server is right again");
    assert!(reason.contains("127.0.0.1") && reason.contains("allowed_addresses"), "{reason}");
    assert_eq!(peer.connections(), 0);

    cfg.network.allowed_addresses.push(range("127.0.0.0/8"));
    let verdict = Gateway::build(&cfg).unwrap().send(&message(1), &Gate::always()).await;
    assert!(matches!(verdict, Verdict::Accepted { .. }), "{verdict:?}");
}

#[tokio::test]
async fn the_proxy_too_must_be_within_the_allowed_addresses() {
    let proxy = Peer::answering(200, V1_ACCEPTED).await;
    for scheme in ["http", "socks5", "socks5h"] {
        let mut cfg = v1("http://gw.example.test/send");
        cfg.allow_http = true;
        cfg.network.allowed_addresses = vec![range("198.51.100.0/24")];
        cfg.proxy = Some(Secret::new(format!("{scheme}://localhost:{}", proxy.address.port())));
        let verdict = Gateway::build(&cfg).unwrap().send(&message(1), &Gate::always()).await;
        assert_eq!(deferred(&verdict).0, DeferCause::Unreachable, "{scheme}: {verdict:?}");

        cfg.proxy = Some(Secret::new(format!("{scheme}://{}", proxy.address)));
        let error = Gateway::build(&cfg).unwrap_err().to_string();
        assert!(error.starts_with("allowed_addresses: 127.0.0.1"), "{scheme}: {error}");
    }
    assert_eq!(proxy.connections(), 0);
}

#[tokio::test]
async fn a_name_that_a_socks5_proxy_wants_looked_up_here_is_judged_here() {
    let proxy = Peer::serve(|_| Act::Close).await;
    let mut cfg = v1("http://localhost:9/send");
    cfg.network.allowed_addresses = vec![range("127.0.0.2/32")];
    cfg.network.addresses = [("proxy.example.test".to_owned(), vec![IpAddr::from([127, 0, 0, 2])])].into();
    cfg.proxy = Some(Secret::new(format!("socks5://proxy.example.test:{}", proxy.address.port())));
    let verdict = Gateway::build(&cfg).unwrap().send(&message(1), &Gate::always()).await;
    let (cause, reason) = deferred(&verdict);
    assert_eq!(cause, DeferCause::Unreachable);
    assert!(reason.contains("localhost resolves to"), "{reason}");
}

#[tokio::test]
async fn a_pinned_host_is_reached_by_its_name_without_a_name_server() {
    let peer = Peer::answering(200, V1_ACCEPTED).await;
    let mut cfg = v1(&format!("http://gateway.invalid:{}/send", peer.address.port()));
    cfg.allow_http = true;
    cfg.network.addresses = [("gateway.invalid".to_owned(), vec![IpAddr::from(Ipv4Addr::LOCALHOST)])].into();
    let verdict = Gateway::build(&cfg).unwrap().send(&message(1), &Gate::always()).await;
    assert!(matches!(verdict, Verdict::Accepted { .. }), "{verdict:?}");
    let [request] = peer.requests().try_into().unwrap();
    assert!(request.head.to_ascii_lowercase().contains("host: gateway.invalid:"), "{}", request.head);
}

#[tokio::test]
async fn connections_come_from_the_source_address() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut cfg = v1(&format!("http://127.0.0.1:{}/send", listener.local_addr().unwrap().port()));
    cfg.network.source_address = Some([127, 0, 0, 9].into());
    let caller = std::thread::spawn(move || listener.accept().unwrap().1.ip());
    Gateway::build(&cfg).unwrap().send(&message(1), &Gate::always()).await;
    assert_eq!(caller.join().unwrap(), IpAddr::from([127, 0, 0, 9]));
}

#[tokio::test]
async fn a_redirect_leads_nowhere_whatever_it_says() {
    let other = Peer::answering(200, V1_ACCEPTED).await;
    let to = other.url("/send");
    for status in [301, 302, 303, 307, 308] {
        let location = format!("Location: {to}\r\n");
        let peer = Peer::serve(move |_| Act::AnswerThenClose(answer_with(status, &location, ""))).await;
        let verdict =
            Gateway::build(&v1(&peer.url("/send"))).unwrap().send(&message(1), &Gate::always()).await;
        assert!(!matches!(verdict, Verdict::Accepted { .. }), "{status}: {verdict:?}");
        assert_eq!((peer.requests().len(), other.connections()), (1, 0), "{status}");
    }
}

#[test]
fn the_authorities_of_ca_file_are_trusted_alone_when_that_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let system = directory.path().join("system.pem");
    std::fs::write(&system, AUTHORITY).unwrap();
    let environment = [("SSL_CERT_FILE", system.to_str().unwrap()), ("SSL_CERT_DIR", "/nonexistent")];
    if is_child(
        "gateway_egress::the_authorities_of_ca_file_are_trusted_alone_when_that_is_said",
        &environment,
    ) {
        let path = directory.path().join("ca.pem");
        std::fs::write(&path, CLIENT_AUTHORITY).unwrap();
        for (exclusive, accepted) in [(false, true), (true, false)] {
            let (port, server) = serve_one();
            let mut cfg = v1(&format!("https://localhost:{port}/send"));
            cfg.ca_file = Some(path.clone());
            cfg.network.ca_exclusive = exclusive;
            let verdict = tokio::runtime::Runtime::new()
                .unwrap()
                .block_on(async { Gateway::build(&cfg).unwrap().send(&message(1), &Gate::always()).await });
            assert_eq!(matches!(verdict, Verdict::Accepted { .. }), accepted, "{verdict:?}");
            assert_eq!(server.join().unwrap().is_empty(), !accepted);
        }
    }
}

/// A SOCKS5 proxy that is asked once, wants a password, and answers log-in and request so.
fn socks5(log_in: u8, request: u8) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut caller, _) = listener.accept().unwrap();
        let mut said = [0; 512];
        for answer in [&[5, 2][..], &[1, log_in], &[5, request, 0, 1, 0, 0, 0, 0, 0, 0]] {
            if caller.read(&mut said).unwrap_or(0) == 0 || caller.write_all(answer).is_err() {
                return;
            }
        }
    });
    port
}

#[tokio::test]
async fn a_socks5_proxy_that_refuses_the_log_in_or_the_host_is_told_from_one_that_is_not_there() {
    const REFUSED: u8 = 1;
    const NOT_ALLOWED: u8 = 2;
    for (log_in, request, cause, words) in [
        (REFUSED, 0, DeferCause::Misconfigured, "check user and password in proxy"),
        (0, NOT_ALLOWED, DeferCause::Unreachable, "the proxy refused to connect to gw.example.test:443"),
    ] {
        let mut cfg = v1("https://gw.example.test/send");
        let port = socks5(log_in, request);
        cfg.proxy = Some(Secret::new(format!("socks5h://user:proxy-pw@127.0.0.1:{port}")));
        let verdict = Gateway::build(&cfg).unwrap().send(&message(1), &Gate::always()).await;
        let (found, reason) = deferred(&verdict);
        assert_eq!(found, cause, "{reason}");
        assert!(reason.contains(words) && !reason.contains("proxy-pw"), "{reason}");
    }
}
