//! `outboxd check` on the way to a gateway, broken at one hop each: each has its own diagnosis, and the sentence for those
//! who can mend it. The database is down all the while, which a check must not mind.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::gateway_peer::{Act, Greeting, Peer, answer};
use crate::gateway_tls::{AUTHORITY, CLIENT_AUTHORITY, LEAF, LEAF_KEY};
use crate::support::cli::{Cli, Ended, config, v1_gateway};
use crate::support::clock::WallClock;

const INSPECTED: &str = include_str!("certificates/inspected_chain.crt");
const INSPECTED_KEY: &str = include_str!("certificates/inspected_chain.key");
const NO_DATABASE: &str = "host=/nonexistent dbname=x user=y";
pub(crate) const EXPIRED: &str = include_str!("certificates/expired.crt");
pub(crate) const EXPIRED_KEY: &str = include_str!("certificates/expired.key");
pub(crate) const OLD_AUTHORITY: &str = include_str!("certificates/old_authority.crt");
pub(crate) const YEAR: i64 = 365 * 86_400;

/// The configuration of one gateway, with further keys.
fn gateway(url: &str, keys: &str) -> Cli {
    let keys = format!("connect_timeout = \"1s\"\n{keys}\n");
    let cli = Cli::new(&config(NO_DATABASE, "", &(v1_gateway("main", url) + &keys)));
    std::fs::write(cli.directory().join("ca.pem"), AUTHORITY).unwrap();
    std::fs::write(cli.directory().join("old.pem"), OLD_AUTHORITY).unwrap();
    std::fs::write(cli.directory().join("other.pem"), CLIENT_AUTHORITY).unwrap();
    cli
}

async fn check(url: &str, keys: &str) -> Ended {
    gateway(url, keys).run(&["check", "--json"]).await
}

/// The one finding of the gateway's that failed.
#[track_caller]
fn broken(ended: &Ended) -> Value {
    let all = ended.json();
    let failed: Vec<&Value> = all
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["outcome"] == "failed")
        .filter(|finding| finding["name"].as_str().unwrap().starts_with("gateway main"))
        .collect();
    let [one] = failed.as_slice() else { panic!("not one finding that failed: {all:#}") };
    (*one).clone()
}

#[track_caller]
fn assert_broken(ended: &Ended, hop: &str, problem: &str, parts: &[&str]) -> Value {
    let found = broken(ended);
    assert_eq!(found["name"], format!("gateway main: {hop}"), "{found:#}");
    assert_eq!(found["problem"], problem, "{found:#}");
    let text = format!(
        "{} -> {} | {}",
        found["detail"].as_str().unwrap(),
        found["advice"].as_str().unwrap(),
        found["network_team"].as_str().unwrap_or_default()
    );
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in {text}");
    }
    found
}

/// Answers every connection with TLS and this certificate, and every request with these headers.
struct TlsPeer {
    port: u16,
    _tasks: JoinSet<()>,
}

async fn tls_peer(certificate: &str, key: &str, headers: &'static str) -> TlsPeer {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<_, _>>().unwrap(),
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    request.push(byte);
                }
                let now = jiff::Timestamp::now().strftime("%a, %d %b %Y %T GMT").to_string();
                let headers = headers.replace("NOW", &now);
                let answer = format!("HTTP/1.1 404 Not Found\r\n{headers}Content-Length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.ok();
                stream.shutdown().await.ok();
            });
        }
    });
    TlsPeer { port, _tasks: tasks }
}

impl TlsPeer {
    fn url(&self) -> String {
        format!("https://localhost:{}/send", self.port)
    }
}

#[tokio::test]
async fn every_hop_of_a_good_way_is_a_line_of_its_own() {
    let peer = tls_peer(LEAF, LEAF_KEY, "").await;
    let ended = check(&peer.url(), "ca_file = \"ca.pem\"").await.expect(69);
    let all = ended.json();
    let gateway: Vec<&Value> = all
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["name"].as_str().unwrap().starts_with("gateway"))
        .collect();
    let names: Vec<&str> = gateway.iter().map(|finding| finding["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["gateway main: name", "gateway main: tcp", "gateway main: tls", "gateway main"]);
    assert!(gateway.iter().all(|finding| finding["outcome"] == "ok"), "{all:#}");
    let detail = |place: usize| gateway[place]["detail"].as_str().unwrap();
    assert!(detail(0).contains("127.0.0.1"), "{all:#}");
    assert!(detail(2).contains("TLS 1.3") && detail(2).contains("signed by \"CN=outboxd test authority\""));
    assert_eq!(gateway[2]["to"]["port"], peer.port);
    assert_eq!(gateway[2]["certificates"][0]["names"][0], "localhost");
}

#[tokio::test]
async fn a_name_that_nobody_knows_is_told() {
    let ended = check("https://gateway.invalid/send", "").await.expect(69);
    let found = broken(&ended);
    assert_eq!(found["name"], "gateway main: name");
    // Which of the two depends on whether this machine has a name server.
    assert!(
        ["no_such_name", "name_server_silent"].contains(&found["problem"].as_str().unwrap()),
        "{found:#}"
    );
    assert!(found["network_team"].as_str().unwrap().contains("gateway.invalid"), "{found:#}");
}

#[tokio::test]
async fn refused_is_told_with_the_sentence_for_the_network_team() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let cli = gateway(&format!("https://127.0.0.1:{port}/send"), "");
    let ended = cli.run(&["check", "--json"]).await.expect(69);
    let words = [
        &format!("127.0.0.1:{port}: connection refused") as &str,
        "nobody listens there",
        "connect to 127.0.0.1, TCP port",
    ];
    let found = assert_broken(&ended, "tcp", "refused", &words);
    let host = rustix::system::uname().nodename().to_str().unwrap().to_owned();
    assert_eq!(found["from"]["host"], host.as_str());
    assert_eq!(found["from"]["address"], "127.0.0.1");
    let sentence = found["network_team"].as_str().unwrap();
    for part in [&host, &format!("TCP port {port} (https)"), found["from"]["at"].as_str().unwrap()] {
        assert!(sentence.contains(part), "`{part}` is not in {sentence}");
    }
    let text = cli.run(&["check"]).await.expect(69).stdout;
    assert!(text.contains("to the network team: Please let "), "{text}");
}

/// A port that takes no further connection, and says nothing about it: what a firewall that drops looks like.
pub(crate) async fn silent_port() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut filling = Vec::new();
    loop {
        match tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
            Ok(stream) => filling.push(stream.unwrap()),
            Err(_) => return (address, listener, filling),
        }
    }
}

#[tokio::test]
async fn silence_is_told_from_refusal_and_ends_in_time() {
    let (address, _listener, _filling) = silent_port().await;
    let begun = Instant::now();
    let connect = format!("connect to 127.0.0.1, TCP port {} (https)", address.port());
    let ended = check(&format!("https://{address}/send"), "").await.expect(69);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_broken(
        &ended,
        "tcp",
        "timeout",
        &["no answer in time", "a firewall on the way drops it", &connect],
    );
}

/// Reads what comes first and then cuts the connection off with a reset.
pub(crate) async fn resetting() -> (u16, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_u8().await.ok();
            // What was not read when a socket is closed makes a reset of it.
            drop(stream);
        }
    });
    (port, tasks)
}

#[tokio::test]
async fn a_reset_at_the_greeting_is_told_as_one() {
    let (port, _tasks) = resetting().await;
    let ended = check(&format!("https://localhost:{port}/send"), "").await.expect(69);
    let connect = format!("TCP port {port} (https). Tried at ");
    let words = ["during the TLS handshake", "firewalls do that look into TLS", "Please let ", &connect];
    assert_broken(&ended, "tls", "reset", &words);
}

#[tokio::test]
async fn a_host_that_takes_connections_and_says_nothing_is_told() {
    let peer = Peer::serve(|_| Act::Hang).await;
    let url = format!("https://localhost:{}/send", peer.address.port());
    let ended = check(&url, "").await.expect(69);
    assert_broken(&ended, "tls", "timeout", &["no answer to the TLS greeting within 1s"]);
}

#[tokio::test]
async fn what_speaks_no_tls_is_told() {
    let peer = Peer::start(|| Greeting::Say(b"HTTP/1.1 400 Bad Request\r\n\r\n"), |_| Act::Close).await;
    let ended = check(&format!("https://localhost:{}/send", peer.address.port()), "").await.expect(69);
    assert_broken(&ended, "tls", "no_tls", &["speaks no TLS", "log-in page of the network"]);
}

#[tokio::test]
async fn an_interceptor_is_named_by_its_issuer_with_what_to_write() {
    let peer = tls_peer(LEAF, LEAF_KEY, "").await;
    let ended = check(&peer.url(), "ca_file = \"other.pem\"").await.expect(69);
    let found = assert_broken(
        &ended,
        "tls",
        "unknown_issuer",
        &[
            "signed by \"CN=outboxd test authority\"",
            "if \"CN=outboxd test authority\" is your own organisation's, a proxy inspects TLS",
            "ca_file = \"/etc/outboxd/",
            "Please exempt",
        ],
    );
    assert_eq!(found["certificates"][0]["issuer"], "CN=outboxd test authority");
}

/// Whose authority is to be trusted is not the box that signs, but whoever signed that.
#[tokio::test]
async fn of_a_chain_the_end_is_named_and_every_part_shown() {
    let peer = tls_peer(INSPECTED, INSPECTED_KEY, "").await;
    let ended = check(&peer.url(), "ca_file = \"ca.pem\"").await.expect(69);
    let words = [
        "certificate of \"CN=localhost\", signed by \"CN=Inspection Box,O=Example Works\"",
        "the chain ends at \"CN=Inspection Root,O=Example Works\"",
        "if \"CN=Inspection Root,O=Example Works\" is your own",
        "answered with a certificate of \"CN=Inspection Root,O=Example Works\"",
    ];
    let found = assert_broken(&ended, "tls", "unknown_issuer", &words);
    assert_eq!(found["certificates"].as_array().unwrap().len(), 2, "{found:#}");
}

#[tokio::test]
async fn a_certificate_for_another_host_is_told_with_its_names() {
    let peer = tls_peer(LEAF, LEAF_KEY, "").await;
    let url = format!("https://127.0.0.1:{}/send", peer.port);
    let ended = check(&url, "ca_file = \"ca.pem\"").await.expect(69);
    assert_broken(&ended, "tls", "wrong_name", &["it is for localhost, and not for 127.0.0.1"]);
}

#[tokio::test]
async fn a_certificate_that_has_expired_is_told_with_both_clocks() {
    for (headers, by) in [("Date: NOW\r\n", ", by the gateway's 20"), ("", "the gateway tells no time")] {
        let peer = tls_peer(EXPIRED, EXPIRED_KEY, headers).await;
        let ended = check(&peer.url(), "ca_file = \"old.pem\"").await.expect(69);
        let words = [
            "to 2021-01-31 00:00:00 UTC",
            "by this host's clock it is 20",
            by,
            "must renew it",
            "please renew it",
        ];
        assert_broken(&ended, "tls", "expired", &words);
    }
}

#[tokio::test]
async fn an_expired_certificate_of_a_stranger_is_a_strangers() {
    let peer = tls_peer(EXPIRED, EXPIRED_KEY, "Date: NOW\r\n").await;
    let ended = check(&peer.url(), "ca_file = \"ca.pem\"").await.expect(69);
    assert_broken(&ended, "tls", "unknown_issuer", &["O=Old Trust"]);
}

#[tokio::test]
async fn a_wrong_clock_is_told_by_the_gateways() {
    let Some(clock) = WallClock::new() else { return };
    clock.set(-10 * YEAR);
    let with_clock = |command: &mut std::process::Command| {
        command.envs(clock.environment());
    };
    let peer = tls_peer(LEAF, LEAF_KEY, "Date: NOW\r\n").await;
    let cli = gateway(&peer.url(), "ca_file = \"ca.pem\"");
    let ended = cli.run_with(&["check", "--json"], with_clock).await.expect(78);
    let words =
        ["by this host's clock it is 2016-", ", by the gateway's 20", "timedatectl set-ntp", "UDP port 123"];
    assert_broken(&ended, "tls", "wrong_clock", &words);
    let silent = tls_peer(LEAF, LEAF_KEY, "").await;
    let cli = gateway(&silent.url(), "ca_file = \"ca.pem\"");
    let ended = cli.run_with(&["check", "--json"], with_clock).await.expect(78);
    assert_broken(&ended, "tls", "not_yet_valid", &["most likely this host's clock is behind"]);
}

#[tokio::test]
async fn each_answer_of_an_http_proxy_has_its_own_diagnosis() {
    for (status, log_in, code, problem, parts) in [
        (
            407,
            "",
            78,
            "proxy_login",
            [
                "407 Proxy Authentication Required: it wants a user",
                "Please tell us which user and password it takes",
            ],
        ),
        (
            407,
            "user:proxy-pw@",
            78,
            "proxy_login",
            [
                "407 Proxy Authentication Required: it does not take this user and password",
                "check user and password",
            ],
        ),
        (
            403,
            "",
            69,
            "proxy_forbids",
            ["its rules do not let us connect to gw.example.test:443", "Please let the proxy"],
        ),
        (503, "", 69, "proxy_failed", ["it could not reach gw.example.test:443 itself", "The proxy"]),
        (
            418,
            "",
            69,
            "proxy_forbids",
            ["it answers CONNECT gw.example.test:443 with 418", "Please let the proxy"],
        ),
    ] {
        let proxy = Peer::serve(move |_| Act::AnswerThenClose(answer(status, ""))).await;
        let keys = format!("proxy = \"http://{log_in}{}\"", proxy.address);
        let ended = check("https://gw.example.test/send", &keys).await.expect(code);
        assert_broken(&ended, "proxy", problem, &parts);
        assert!(!ended.stdout.contains("proxy-pw"), "{ended:?}");
        let asked = &proxy.requests()[0];
        assert!(asked.is("CONNECT gw.example.test:443 HTTP/1.1"), "{asked:?}");
        let sent = asked.head.contains("Proxy-Authorization: Basic dXNlcjpwcm94eS1wdw==");
        assert_eq!(sent, !log_in.is_empty(), "{asked:?}");
    }
}

#[tokio::test]
async fn a_proxy_that_is_not_there_is_told_from_a_gateway_that_is_not() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let ended =
        check("https://gw.example.test/send", &format!("proxy = \"http://{address}\"")).await.expect(69);
    let found = assert_broken(&ended, "tcp", "refused", &[&format!("proxy {address}: ")]);
    assert_eq!(found["to"]["port"], address.port());
    assert!(!found["advice"].as_str().unwrap().contains("set proxy"), "{found:#}");
}

#[tokio::test]
async fn a_service_that_is_no_proxy_is_told() {
    let ssh = Peer::start(|| Greeting::Say(b"SSH-2.0-OpenSSH_9.2\r\n"), |_| Act::Close).await;
    for scheme in ["http", "socks5h"] {
        let keys = format!("proxy = \"{scheme}://{}\"", ssh.address);
        let ended = check("https://gw.example.test/send", &keys).await.expect(78);
        assert_broken(&ended, "proxy", "no_proxy", &["correct scheme and port of proxy"]);
    }
}

/// A SOCKS5 proxy that answers log-in and request so.
async fn socks5(method: u8, log_in: u8, request: u8) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (mut caller, _) = listener.accept().await.unwrap();
            let mut answers = vec![vec![5, method]];
            if method == 2 {
                answers.push(vec![1, log_in]);
            }
            answers.push(vec![5, request, 0, 1, 0, 0, 0, 0, 0, 0]);
            for answer in answers {
                let read = caller.read(&mut [0; 512]).await.unwrap_or(0);
                if read == 0 || caller.write_all(&answer).await.is_err() {
                    break;
                }
            }
        }
    });
    (address, tasks)
}

#[tokio::test]
async fn each_answer_of_a_socks5_proxy_has_its_own_diagnosis() {
    for (answers, log_in, code, problem, part) in [
        ((2, 1, 0), "user:proxy-pw@", 78, "proxy_login", "it does not take this user and password"),
        ((0xff, 0, 0), "user:proxy-pw@", 78, "proxy_login", "it takes no user and password"),
        ((0xff, 0, 0), "", 78, "proxy_login", "it wants a log-in"),
        ((2, 0, 2), "user:proxy-pw@", 69, "proxy_forbids", "its rules do not let us there"),
        ((0, 0, 4), "", 69, "proxy_failed", "host unreachable"),
        ((0, 0, 5), "", 69, "proxy_failed", "connection refused"),
    ] {
        let (address, _tasks) = socks5(answers.0, answers.1, answers.2).await;
        let keys = format!("proxy = \"socks5h://{log_in}{address}\"");
        let ended = check("https://gw.example.test/send", &keys).await.expect(code);
        assert_broken(&ended, "proxy", problem, &[part]);
        assert!(!ended.stdout.contains("proxy-pw"), "{ended:?}");
    }
}

#[tokio::test]
async fn through_a_proxy_the_gateways_tls_is_judged_and_not_the_proxys() {
    let peer = tls_peer(LEAF, LEAF_KEY, "").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (mut caller, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(caller.read_u8().await.unwrap());
                }
                let target = String::from_utf8(head).unwrap().split(' ').nth(1).unwrap().to_owned();
                let mut gateway = TcpStream::connect(target).await.unwrap();
                caller.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
                let _ = copy_bidirectional(&mut caller, &mut gateway).await;
            });
        }
    });
    let keys = format!("proxy = \"http://{proxy}\"\nca_file = ");
    let ended = check(&peer.url(), &format!("{keys}\"other.pem\"")).await.expect(69);
    let found = assert_broken(&ended, "tls", "unknown_issuer", &["through the proxy"]);
    assert_eq!(found["to"]["host"], "localhost");
    let ended = check(&peer.url(), &format!("{keys}\"ca.pem\"")).await.expect(69);
    let all = ended.json();
    let names: Vec<&str> = all
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["outcome"] == "ok")
        .filter_map(|finding| finding["name"].as_str()?.strip_prefix("gateway main"))
        .collect();
    assert_eq!(names, [": tcp", ": proxy", ": tls", ""]);
}
