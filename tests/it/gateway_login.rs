//! The log-in of InteractSMS v2: once for all, ahead of time, again after a 401, and never in a loop.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use outboxd::gateway::{Gate, Gateway, SenderId};
use outboxd::verdict::{DeferCause, Verdict};

use crate::gateway_peer::{Act, Peer, Request, V1_ACCEPTED, V2_ACCEPTED, answer, message, v1, v2};

const LOGIN: &str = "POST /token ";
const SEND: &str = "POST /api/v2/Campaign ";

/// Log-in and API on one address. Tokens are `t1`, `t2`, …
async fn v2_peer(expires_in: u64, api: impl Fn(&Request) -> Act + Send + Sync + 'static) -> Peer {
    let logins = AtomicUsize::new(0);
    Peer::serve(move |request| {
        if request.is(LOGIN) {
            let n = logins.fetch_add(1, Ordering::SeqCst) + 1;
            let token =
                format!(r#"{{"access_token":"t{n}","expires_in":{expires_in},"token_type":"Bearer"}}"#);
            Act::Answer(answer(200, &token))
        } else {
            api(request)
        }
    })
    .await
}

fn gateway(peer: &Peer) -> Arc<Gateway> {
    Arc::new(Gateway::build(&v2(&peer.url(""), &peer.url("/token"))).unwrap())
}

async fn send_many(gateway: &Arc<Gateway>, count: usize) -> Vec<Verdict> {
    let mut sends = tokio::task::JoinSet::new();
    for n in 0..count {
        let gateway = gateway.clone();
        sends.spawn(async move { gateway.send(&message(n), &Gate::always()).await });
    }
    sends.join_all().await
}

#[track_caller]
fn assert_deferred(verdict: &Verdict, expected: DeferCause) {
    let Verdict::Deferred { cause, reason, .. } = verdict else { panic!("{verdict:?}") };
    assert_eq!(*cause, expected, "{reason}");
    assert!(!reason.contains("correct-horse"), "{reason}");
}

#[tokio::test]
async fn fifty_senders_log_in_once() {
    let peer = v2_peer(120, |_| Act::Answer(answer(200, V2_ACCEPTED))).await;
    let verdicts = send_many(&gateway(&peer), 50).await;
    assert!(verdicts.iter().all(|verdict| matches!(verdict, Verdict::Accepted { .. })), "{verdicts:?}");
    assert_eq!((peer.count(LOGIN), peer.count(SEND)), (1, 50));
    let requests = peer.requests();
    let login = requests.iter().find(|request| request.is(LOGIN)).unwrap();
    assert_eq!(login.body, "grant_type=password&client_id=ismstoken&username=user&password=correct-horse");
    assert!(requests.iter().filter(|r| r.is(SEND)).all(|r| r.head.contains("authorization: Bearer t1")));
}

#[tokio::test]
async fn a_refused_token_is_replaced_once_for_all_and_each_request_repeated_once() {
    let peer = v2_peer(120, |request| {
        let fresh = !request.head.contains("Bearer t1");
        Act::Answer(if fresh { answer(200, V2_ACCEPTED) } else { answer(401, "") })
    })
    .await;
    let verdicts = send_many(&gateway(&peer), 20).await;
    assert!(verdicts.iter().all(|verdict| matches!(verdict, Verdict::Accepted { .. })), "{verdicts:?}");
    assert_eq!(peer.count(LOGIN), 2);
    for n in 0..20 {
        let accepted = peer.requests().iter().any(|request| {
            request.head.contains("Bearer t2") && request.body.contains(&format!("\"ref-{n}-\""))
        });
        assert!(accepted, "{n}");
    }
}

#[tokio::test]
async fn a_second_401_is_the_end_of_it() {
    let peer = v2_peer(120, |_| Act::Answer(answer(401, ""))).await;
    let verdict = gateway(&peer).send(&message(1), &Gate::always()).await;
    assert_deferred(&verdict, DeferCause::Unauthorized);
    assert_eq!((peer.count(LOGIN), peer.count(SEND)), (2, 2));
}

#[tokio::test]
async fn wrong_credentials_are_tried_once_until_a_person_resets_them() {
    let refusal = r#"{"error":"invalid_grant","error_description":"Invalid user credentials"}"#;
    let peer = Peer::serve(move |_| Act::Answer(answer(401, refusal))).await;
    let gateway = gateway(&peer);
    for _ in 0..5 {
        for verdict in send_many(&gateway, 5).await {
            assert_deferred(&verdict, DeferCause::Unauthorized);
        }
    }
    assert_eq!(gateway.probe().await.unwrap_err().cause, DeferCause::Unauthorized);
    assert_eq!((peer.count(LOGIN), peer.requests().len()), (1, 1), "no second attempt, and no message");
    gateway.reset();
    assert_deferred(&gateway.send(&message(1), &Gate::always()).await, DeferCause::Unauthorized);
    assert_eq!(peer.count(LOGIN), 2);
}

#[tokio::test]
async fn a_log_in_server_that_hangs_is_asked_once_by_all_who_wait() {
    let auth = Peer::serve(|_| Act::Hang).await;
    let api = Peer::answering(200, V2_ACCEPTED).await;
    let mut cfg = v2(&api.url(""), &auth.url("/token"));
    cfg.connect_timeout = Duration::from_millis(200);
    cfg.request_timeout = Duration::from_millis(200);
    let gateway = Arc::new(Gateway::build(&cfg).unwrap());
    for verdict in send_many(&gateway, 20).await {
        assert_deferred(&verdict, DeferCause::Unreachable);
    }
    assert_eq!((auth.requests().len(), api.connections()), (1, 0));
    // A failure is not remembered beyond those who waited for it.
    assert_deferred(&gateway.send(&message(1), &Gate::always()).await, DeferCause::Unreachable);
    assert_eq!(auth.requests().len(), 2);
}

#[tokio::test]
async fn a_token_that_is_over_is_not_used() {
    let peer = v2_peer(0, |_| Act::Answer(answer(200, V2_ACCEPTED))).await;
    let gateway = gateway(&peer);
    for n in 0..3 {
        assert!(matches!(gateway.send(&message(n), &Gate::always()).await, Verdict::Accepted { .. }));
    }
    assert_eq!(peer.count(LOGIN), 3);
}

#[tokio::test]
async fn a_probe_of_v2_reads_the_sender_list_and_sends_nothing() {
    let list =
        r#"[{"name":"Clinic","type":0},{"name":"FreeText","type":1},{"name":"50123","type":2,"new":1}]"#;
    let peer = v2_peer(120, move |request| {
        // The first token is refused, as after a restart of the gateway.
        Act::Answer(if request.head.contains("Bearer t1") { answer(401, "") } else { answer(200, list) })
    })
    .await;
    let report = gateway(&peer).probe().await.unwrap();
    let senders = report.senders.unwrap();
    assert_eq!(senders[0], SenderId { name: "Clinic".to_owned(), kind: Some(0) });
    assert_eq!(senders.len(), 3);
    assert_eq!((peer.count(SEND), peer.count("GET /api/v2/senderlist ")), (0, 2));
}

#[tokio::test]
async fn a_probe_of_v1_looks_at_the_root_without_credentials() {
    let peer = Peer::answering(404, "").await;
    let report =
        Gateway::build(&v1(&peer.url("/api/v1/sendmessage.aspx?x=1"))).unwrap().probe().await.unwrap();
    assert_eq!(report.senders, None);
    let [request] = peer.requests().try_into().unwrap();
    assert!(request.is("HEAD / HTTP/1.1") && request.body.is_empty());
    assert!(!request.head.contains("correct-horse"));

    let down = Peer::answering(503, "").await;
    let failure = Gateway::build(&v1(&down.url("/send"))).unwrap().probe().await.unwrap_err();
    assert_eq!(failure.cause, DeferCause::Unreachable, "a breaker must stay open");

    let silent = Peer::answering(200, V1_ACCEPTED).await;
    let url = silent.url("/send");
    drop(silent);
    let failure = Gateway::build(&v1(&url)).unwrap().probe().await.unwrap_err();
    assert_eq!(failure.cause, DeferCause::Unreachable);
}
