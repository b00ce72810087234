//! What a send comes to, for every way in which a connection can go wrong.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use outboxd::config::{self, HttpBody, HttpMethod, HttpRule, Secret};
use outboxd::gateway::{Gate, Gateway};
use outboxd::verdict::{DeferCause, Verdict};
use tokio::net::{TcpSocket, TcpStream};

use crate::gateway_peer::{
    Act, Greeting, Peer, Request, V1_ACCEPTED, answer, answer_with, gateway, message, v1,
};

async fn send_once(cfg: &config::Gateway) -> Verdict {
    Gateway::build(cfg).unwrap().send(&message(1), &Gate::always()).await
}

async fn verdict_of(script: impl Fn(&Request) -> Act + Send + Sync + 'static) -> Verdict {
    let peer = Peer::serve(script).await;
    let mut cfg = v1(&peer.url("/send"));
    cfg.request_timeout = Duration::from_millis(400);
    send_once(&cfg).await
}

#[track_caller]
fn cause(verdict: &Verdict) -> DeferCause {
    match verdict {
        Verdict::Deferred { cause, .. } => *cause,
        Verdict::Accepted { .. } | Verdict::Rejected { .. } | Verdict::Unknown { .. } => {
            panic!("not deferred: {verdict:?}")
        }
    }
}

#[track_caller]
fn assert_unknown(verdict: &Verdict) {
    assert!(matches!(verdict, Verdict::Unknown { .. }), "{verdict:?}");
}

/// A port that nobody listens on.
async fn closed_port() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}/send", listener.local_addr().unwrap())
}

#[tokio::test]
async fn an_accepted_message_was_on_the_wire_once_with_its_length() {
    let peer = Peer::answering(200, V1_ACCEPTED).await;
    let verdict = send_once(&v1(&peer.url("/send"))).await;
    assert_eq!(verdict, Verdict::Accepted { gateway_message_id: None, note: None });
    let [request] = peer.requests().try_into().unwrap();
    let head = request.head.to_ascii_lowercase();
    assert!(head.starts_with("post /send http/1.1"), "{head}");
    assert!(head.contains(&format!("\r\ncontent-length: {}", request.body.len())), "{head}");
    assert!(!head.contains("transfer-encoding"), "{head}");
    assert!(head.contains(concat!("\r\nuser-agent: outboxd/", env!("CARGO_PKG_VERSION"))), "{head}");
    assert!(request.body.contains("password=correct-horse") && !head.contains("correct-horse"));
}

#[tokio::test]
async fn nothing_left_when_the_port_is_closed_and_the_gate_was_not_even_asked() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let gate = Gate::new(move || counter.fetch_add(1, Ordering::SeqCst) == 0);
    let gateway = Gateway::build(&v1(&closed_port().await)).unwrap();
    let verdict = gateway.send(&message(1), &gate).await;
    assert_eq!(cause(&verdict), DeferCause::Unreachable);
    let Verdict::Deferred { reason, .. } = verdict else { unreachable!() };
    assert!(reason.contains("refused") && reason.contains("127.0.0.1:"), "{reason}");
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_shut_gate_lets_no_complete_request_out() {
    let peer = Peer::answering(200, V1_ACCEPTED).await;
    let gateway = Gateway::build(&v1(&peer.url("/send"))).unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let shut = Gate::new(move || {
        counter.fetch_add(1, Ordering::SeqCst);
        false
    });
    for n in 0..3 {
        assert_eq!(cause(&gateway.send(&message(n), &shut).await), DeferCause::NotStarted);
    }
    assert_eq!(
        (asked.load(Ordering::SeqCst), peer.connections()),
        (3, 3),
        "asked once each, after connecting"
    );
    assert!(matches!(gateway.send(&message(9), &Gate::always()).await, Verdict::Accepted { .. }));
    let [request] = peer.requests().try_into().unwrap();
    assert!(request.body.contains("ref-9-"));
}

#[tokio::test]
async fn a_connection_closed_at_once_is_never_taken_for_an_answer() {
    let peer = Peer::start(|| Greeting::Close, |_| Act::Close).await;
    for _ in 0..20 {
        let verdict = send_once(&v1(&peer.url("/send"))).await;
        // Which of the two depends on whether the close was noticed before the request was written.
        let certain = matches!(verdict, Verdict::Deferred { cause: DeferCause::Unreachable, .. });
        assert!(certain || matches!(verdict, Verdict::Unknown { .. }), "{verdict:?}");
    }
    assert_eq!(peer.requests().len(), 0);
}

#[tokio::test]
async fn a_connection_closed_after_the_request_is_unknown() {
    assert_unknown(&verdict_of(|_| Act::Close).await);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_unknown() {
    for half in ["HTTP/1.1 200 O", "HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n0\nRequest deferred"] {
        assert_unknown(&verdict_of(move |_| Act::AnswerThenClose(half.to_owned())).await);
    }
}

#[tokio::test]
async fn an_answer_that_is_no_http_or_too_long_is_unknown() {
    let long = answer(200, &format!("0\n{}", "x".repeat(100_000)));
    let not_http = "0\nRequest deferred successfully\n".to_owned();
    let two_lengths = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n0\n".to_owned();
    for bad in [long, not_http, two_lengths] {
        assert_unknown(&verdict_of(move |_| Act::AnswerThenClose(bad.clone())).await);
    }
}

#[tokio::test]
async fn silence_and_a_slow_drip_end_in_time_and_are_unknown() {
    let begun = Instant::now();
    assert_unknown(&verdict_of(|_| Act::Hang).await);
    let slow = |text: String| move |_: &Request| Act::Drip(text.clone(), Duration::from_millis(50));
    assert_unknown(&verdict_of(slow(answer(200, V1_ACCEPTED))).await);
    let mut head = answer(200, V1_ACCEPTED);
    head.insert_str(head.find("\r\n").unwrap(), &"x".repeat(500));
    assert_unknown(&verdict_of(slow(head)).await);
    assert!(begun.elapsed() < Duration::from_secs(8), "three sends of 0.4 s took {:?}", begun.elapsed());
}

#[tokio::test]
async fn no_connection_in_time_is_certain() {
    // A listener whose backlog is full drops further connections silently.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await
    {
        queued.push(stream.unwrap());
        assert!(queued.len() < 100, "the backlog never fills");
    }
    let mut cfg = v1(&format!("http://{address}/send"));
    cfg.connect_timeout = Duration::from_millis(300);
    let verdict = send_once(&cfg).await;
    assert_eq!(cause(&verdict), DeferCause::Unreachable);
    assert!(format!("{verdict:?}").contains("in time"), "{verdict:?}");
}

#[tokio::test]
async fn a_request_lost_on_a_reused_connection_is_unknown_and_not_repeated() {
    let peer = Peer::serve(
        |request| if request.nth == 0 { Act::Answer(answer(200, V1_ACCEPTED)) } else { Act::Close },
    )
    .await;
    let gateway = Gateway::build(&v1(&peer.url("/send"))).unwrap();
    assert!(matches!(gateway.send(&message(1), &Gate::always()).await, Verdict::Accepted { .. }));
    assert_unknown(&gateway.send(&message(2), &Gate::always()).await);
    let refs: Vec<usize> = peer.requests().iter().map(|request| request.nth).collect();
    assert_eq!(
        (refs, peer.connections()),
        (vec![0, 1], 1),
        "reused once, never repeated on a fresh connection"
    );
}

#[tokio::test]
async fn an_answer_too_many_is_not_taken_for_the_answer_to_the_next_message() {
    let twice = answer(200, V1_ACCEPTED).repeat(2);
    let peer =
        Peer::serve(
            move |request| {
                if request.body.ends_with("ref-1-") { Act::Answer(twice.clone()) } else { Act::Close }
            },
        )
        .await;
    for _ in 0..50 {
        let gateway = Gateway::build(&v1(&peer.url("/send"))).unwrap();
        assert!(matches!(gateway.send(&message(1), &Gate::always()).await, Verdict::Accepted { .. }));
        let verdict = gateway.send(&message(2), &Gate::always()).await;
        assert!(!matches!(verdict, Verdict::Accepted { .. }), "{verdict:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_closes_idle_connections_gets_no_message_twice() {
    let peer = Peer::serve(|_| Act::AnswerThenClose(answer(200, V1_ACCEPTED))).await;
    let gateway = Arc::new(Gateway::build(&v1(&peer.url("/send"))).unwrap());
    let mut lines = tokio::task::JoinSet::new();
    for line in 0..8 {
        let gateway = gateway.clone();
        lines.spawn(async move {
            let mut verdicts = Vec::new();
            for n in line * 100..(line + 1) * 100 {
                verdicts.push((n, gateway.send(&message(n), &Gate::always()).await));
            }
            verdicts
        });
    }
    let verdicts = lines.join_all().await.concat();
    let requests = peer.requests();
    let mut accepted = 0;
    for (n, verdict) in verdicts {
        let reference = format!("ref-{n}-");
        let arrived = requests.iter().filter(|request| request.body.ends_with(&reference)).count();
        match verdict {
            Verdict::Accepted { .. } => {
                accepted += 1;
                assert_eq!(arrived, 1, "{n} was accepted");
            }
            Verdict::Unknown { .. } => assert!(arrived <= 1, "{n} arrived {arrived} times"),
            Verdict::Deferred { cause, reason, .. } => {
                assert_eq!((cause, arrived), (DeferCause::Unreachable, 0), "{n}: {reason}");
            }
            Verdict::Rejected { reason, .. } => panic!("{n} was rejected: {reason}"),
        }
    }
    assert!(accepted > 400, "only {accepted} of 800 were accepted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_send_that_is_dropped_left_at_most_once() {
    let peer = Peer::serve(|_| Act::Hang).await;
    let gateway = Gateway::build(&v1(&peer.url("/send"))).unwrap();
    for n in 0..50 {
        let message = message(n);
        let gate = Gate::always();
        let mut send = std::pin::pin!(gateway.send(&message, &gate));
        for _ in 0..n {
            let _ = futures_util::poll!(&mut send);
            tokio::task::yield_now().await;
        }
    }
    let requests = peer.requests();
    for n in 0..50 {
        let reference = format!("ref-{n}-");
        assert!(requests.iter().filter(|request| request.body.ends_with(&reference)).count() <= 1, "{n}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Peer::answering(200, V1_ACCEPTED).await;
    for status in [301, 302, 307, 308] {
        let location = format!("Location: {}\r\n", elsewhere.url("/send"));
        let verdict = verdict_of(move |_| Act::Answer(answer_with(status, &location, ""))).await;
        assert_eq!(cause(&verdict), DeferCause::Misconfigured, "{status}");
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn retry_after_comes_through() {
    let verdict = verdict_of(|_| Act::Answer(answer_with(429, "Retry-After: 17\r\n", ""))).await;
    let Verdict::Deferred { cause: DeferCause::Throttled, retry_after, .. } = verdict else {
        panic!("{verdict:?}")
    };
    assert_eq!(retry_after, Some(Duration::from_secs(17)));
}

#[tokio::test]
async fn what_the_gateway_repeats_of_the_message_is_left_out() {
    let echo = "9\nbad text 'Your appointment is at nine' for 353871234567, correct-horse";
    let verdict = verdict_of(move |_| Act::Answer(answer(200, echo))).await;
    let Verdict::Rejected { reason, .. } = verdict else { panic!("{verdict:?}") };
    assert!(reason.contains("bad text"), "{reason}");
    for hidden in ["appointment", "353871234567", "correct-horse"] {
        assert!(!reason.contains(hidden), "{reason}");
    }
}

/// Like a Kannel smsbox: everything in the query of a GET.
fn get(url: &str) -> config::Gateway {
    gateway(config::Dialect::Http(Box::new(config::HttpTemplate {
        method: HttpMethod::Get,
        url: url.to_owned(),
        headers: Vec::new(),
        body: HttpBody::Form(vec![
            ("password".to_owned(), Secret::new("correct-horse")),
            ("text".to_owned(), Secret::new("{text}")),
            ("ref".to_owned(), Secret::new("{ref}")),
        ]),
        basic_auth: None,
        rules: vec![HttpRule {
            status: (202, 202),
            body_starts_with: Some("0:".to_owned()),
            json_equals: None,
            class: config::CodeClass::Accepted,
        }],
        message_id: None,
        error: None,
        plus: false,
        password: None,
    })))
}

#[tokio::test]
async fn a_get_is_judged_by_whether_it_connected() {
    let peer = Peer::answering(202, "0: Accepted for delivery").await;
    assert!(matches!(send_once(&get(&peer.url("/sendsms"))).await, Verdict::Accepted { .. }));
    let [request] = peer.requests().try_into().unwrap();
    assert!(
        request
            .is("GET /sendsms?password=correct-horse&text=Your+appointment+is+at+nine&ref=ref-1- HTTP/1.1")
    );

    let verdict = send_once(&get(&closed_port().await)).await;
    assert_eq!(cause(&verdict), DeferCause::Unreachable);
    assert!(!format!("{verdict:?}").contains("correct-horse"), "{verdict:?}");

    let silent = Peer::serve(|request| if request.nth == 0 { Act::Close } else { Act::Hang }).await;
    let verdict = send_once(&get(&silent.url("/sendsms"))).await;
    assert_unknown(&verdict);
    assert!(!format!("{verdict:?}").contains("correct-horse"), "{verdict:?}");
    assert_eq!(silent.requests().len(), 1);

    let gateway = Gateway::build(&get(&peer.url("/sendsms"))).unwrap();
    let verdict = gateway.send(&message(2), &Gate::new(|| false)).await;
    assert_eq!((cause(&verdict), peer.requests().len()), (DeferCause::NotStarted, 1));
}
