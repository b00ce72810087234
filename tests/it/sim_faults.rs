//! Every scripted fault, seen from the client's side of the wire, and whether the message was accepted all the same.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use outboxd::sim::Sim;
use outboxd::sim::counters::Want;
use outboxd::sim::script::{Act, On, Refusal, Rule};
use outboxd::sim::settings::Chance;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::sim_receiver::{
    ACCEPTED, LIMIT, campaign, client, log_in, reach, send, send_well, start, start_with, to_one, token,
};

const NUMBER: &str = "353871234567";

/// Everything the simulator writes on a connection of its own, until it ends it.
async fn raw(sim: &Sim, keep_alive: bool) -> std::io::Result<Vec<u8>> {
    let body = format!("user=demo&password=demo-password&api_id=1&to={NUMBER}&text=hi&from=Demo");
    let close = if keep_alive { "" } else { "connection: close\r\n" };
    let head = format!(
        "POST /api/v1/sendmessage.aspx HTTP/1.1\r\nhost: sim\r\n{close}content-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(sim.address()).await?;
    stream.write_all((head + &body).as_bytes()).await?;
    let mut bytes = Vec::new();
    tokio::time::timeout(LIMIT, stream.read_to_end(&mut bytes)).await??;
    Ok(bytes)
}

/// A request that a task of its own can wait for.
fn post(sim: &Sim, id: &str) -> impl Future<Output = reqwest::Result<reqwest::Response>> + use<> {
    let url = format!("{}/api/v1/sendmessage.aspx", sim.url());
    let fields = "user=demo&password=demo-password&api_id=1&text=hi&from=Demo";
    client().post(url).body(format!("{fields}&to={NUMBER}&NotifyID={id}")).send()
}

#[tokio::test]
async fn a_scripted_status_is_not_an_acceptance_unless_it_says_so() {
    let sim = start().await;
    let act = |status, accept| Act::Answer {
        status,
        headers: BTreeMap::from([("Retry-After".into(), "in a while".into())]),
        body: "slow down".into(),
        accept,
    };
    sim.next(act(429, false));
    sim.next(act(500, true));
    let answer = send(&sim, NUMBER, "a").await.unwrap();
    assert_eq!(answer.status(), 429);
    assert_eq!(answer.headers()["retry-after"], "in a while");
    assert_eq!(answer.text().await.unwrap(), "slow down");
    assert_eq!(sim.state().accepted, 0);
    assert_eq!(send(&sim, NUMBER, "a").await.unwrap().status(), 500);
    assert_eq!(sim.state().accepted, 1);
    send_well(&sim, NUMBER, "a").await;
}

#[tokio::test]
async fn a_header_that_http_forbids_is_still_written() {
    let sim = start().await;
    let headers = BTreeMap::from([("Bad Name".to_owned(), "x".to_owned())]);
    sim.next(Act::Answer { status: 200, headers, body: "0\n".into(), accept: false });
    let text = String::from_utf8(raw(&sim, true).await.unwrap()).unwrap();
    assert!(text.contains("Bad Name: x\r\n"), "{text}");
}

#[tokio::test]
async fn a_dropped_connection_has_no_byte_of_an_answer() {
    let sim = start().await;
    for (accept, accepted) in [(false, 0), (true, 1)] {
        sim.next(Act::Drop { accept, reset: false });
        assert_eq!(raw(&sim, true).await.unwrap(), b"");
        assert_eq!(sim.state().accepted, accepted);
        sim.next(Act::Drop { accept: false, reset: true });
        assert_eq!(raw(&sim, true).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }
    sim.next(Act::Drop { accept: true, reset: false });
    let error = send(&sim, NUMBER, "a").await.unwrap_err();
    assert!(error.is_request() && !error.is_connect() && !error.is_timeout(), "{error:?}");
    assert_eq!(sim.state().accepted, 2);
}

#[tokio::test]
async fn a_hanging_request_is_never_answered() {
    let sim = start().await;
    sim.next(Act::Hang { accept: true });
    let mut request = tokio::spawn(post(&sim, "a"));
    let state = reach(&sim, Want { arrived: Some(1), ..Want::default() }).await;
    assert_eq!(state.in_flight, 1);
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut request).await.is_err(), "answered");
    request.abort();
    reach(&sim, Want { idle: true, ..Want::default() }).await;
}

#[tokio::test]
async fn a_late_answer_is_overtaken_by_the_message() {
    let sim = start().await;
    sim.next(Act::Late { ms: 60_000 });
    let request = tokio::spawn(post(&sim, "a"));
    let state = reach(&sim, Want { arrived: Some(1), ..Want::default() }).await;
    assert_eq!(state.in_flight, 1, "not answered yet");
    request.abort();
}

#[tokio::test]
async fn a_dripping_answer_is_whole_and_slow() {
    let sim = start().await;
    sim.next(Act::Drip { ms: 5, bytes: 4 });
    let started = Instant::now();
    send_well(&sim, NUMBER, "a").await;
    assert!(started.elapsed() >= Duration::from_millis(100), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_truncated_answer_breaks_off() {
    let sim = start().await;
    sim.next(Act::Truncate { keep: Some(20) });
    assert_eq!(raw(&sim, true).await.unwrap(), b"HTTP/1.1 200 OK\r\ncon");
    sim.next(Act::Truncate { keep: None });
    let answer = send(&sim, NUMBER, "a").await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.text().await.is_err(), "half a body is an error");
    assert_eq!(sim.state().accepted, 2);
}

#[tokio::test]
async fn a_wrong_content_length_is_seen_by_the_client() {
    let sim = start().await;
    sim.next(Act::WrongLength { by: 10 });
    assert!(send(&sim, NUMBER, "a").await.unwrap().text().await.is_err(), "ten bytes never come");
    sim.next(Act::WrongLength { by: -3 });
    let text = send(&sim, NUMBER, "a").await.unwrap().text().await.unwrap();
    assert_eq!(text, ACCEPTED[..ACCEPTED.len() - 3]);
}

#[tokio::test]
async fn an_unannounced_close_comes_after_a_good_answer() {
    let sim = start().await;
    sim.next(Act::CloseAfter {});
    let text = String::from_utf8(raw(&sim, true).await.unwrap()).unwrap();
    assert!(text.ends_with(ACCEPTED) && !text.contains("close"), "{text}");
}

#[tokio::test]
async fn strange_bodies_come_as_scripted() {
    let sim = start().await;
    sim.next(Act::Page { status: 200, accept: false });
    let answer = send(&sim, NUMBER, "a").await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/html; charset=utf-8");
    assert!(answer.text().await.unwrap().starts_with("<!DOCTYPE html>"));
    sim.next(Act::Huge { bytes: 3 << 20, accept: false });
    assert_eq!(send(&sim, NUMBER, "a").await.unwrap().bytes().await.unwrap().len(), 3 << 20);
    sim.next(Act::Empty { status: 204, accept: false });
    let answer = send(&sim, NUMBER, "a").await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.bytes().await.unwrap().len()), (204, 0));
    sim.next(Act::Binary { accept: true });
    let bytes = send(&sim, NUMBER, "a").await.unwrap().bytes().await.unwrap();
    assert!(std::str::from_utf8(&bytes).is_err());
    assert_eq!((sim.state().accepted, sim.state().faults), (1, 4));
}

#[tokio::test]
async fn tokens_end_in_the_middle_of_work() {
    let sim = start().await;
    let old = log_in(&sim).await;
    sim.script(Rule::new(Act::ExpireTokens {}).on(On::V2).skip(1));
    assert_eq!(campaign(&sim, &old, &to_one(NUMBER, "a")).await.0, 200);
    assert_eq!(campaign(&sim, &old, &to_one(NUMBER, "b")).await.0, 401);
    let new = log_in(&sim).await;
    assert_eq!(campaign(&sim, &new, &to_one(NUMBER, "b")).await.0, 200);
    assert_eq!((sim.state().unauthorized, sim.state().logins), (1, 2));
}

#[tokio::test]
async fn the_gateway_refuses_in_the_words_of_each_dialect() {
    let sim = start_with(|settings| settings.v2.refuse_at_once = true).await;
    let bearer = log_in(&sim).await;
    for (reason, v1, v2) in [
        (Refusal::Login, "1", 401),
        (Refusal::Number, "2", 422),
        (Refusal::Sender, "3", 400),
        (Refusal::Credits, "4", 400),
        (Refusal::Parameter, "5", 400),
        (Refusal::Busy, "99", 500),
    ] {
        sim.script(Rule::new(Act::Refuse { reason }).times(2));
        let answer = send(&sim, NUMBER, "a").await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.text().await.unwrap().lines().next(), Some(v1));
        assert_eq!(campaign(&sim, &bearer, &to_one(NUMBER, "a")).await.0, v2, "{reason:?}");
    }
    sim.script(Rule::new(Act::Refuse { reason: Refusal::Login }).on(On::Token));
    let form = "grant_type=password&client_id=ismstoken&username=demo&password=demo-password";
    assert_eq!(token(&sim, form).await.1["error"], "invalid_grant");
    assert_eq!(token(&sim, form).await.0, 200);
    assert_eq!(sim.state().accepted, 0);
}

#[tokio::test]
async fn an_unlisted_sender_is_refused_when_lists_are_kept() {
    let sim = start_with(|settings| {
        settings.senders.only_listed = true;
        settings.senders.list.clear();
    })
    .await;
    let answer = send(&sim, NUMBER, "a").await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "3\nSender is not valid\n");
}

#[tokio::test]
async fn rules_pick_their_requests_by_prefix_and_chance_strikes_the_rest() {
    let sim = start().await;
    sim.script(Rule::new(Act::Empty { status: 503, accept: false }).prefix("44").always());
    send_well(&sim, NUMBER, "a").await;
    assert_eq!(send(&sim, "447911123456", "b").await.unwrap().status(), 503);
    assert_eq!(send(&sim, "447911123456", "b").await.unwrap().status(), 503);
    sim.clear_script();
    send_well(&sim, "447911123456", "b").await;
    sim.change(|settings| {
        settings.answers.seed = Some(1);
        settings.answers.faults = vec![Chance { rate: 0.5, act: Act::Page { status: 502, accept: false } }];
    });
    let mut good = 0;
    for _ in 0..40 {
        good += u32::from(send(&sim, NUMBER, "c").await.unwrap().status() == 200);
    }
    assert!((1..40).contains(&good), "{good} of 40");
}

#[tokio::test]
async fn a_frozen_gateway_acts_when_it_thaws_even_without_its_client() {
    let sim = start().await;
    sim.freeze();
    let (gone, stays) = (tokio::spawn(post(&sim, "gone")), tokio::spawn(post(&sim, "stays")));
    let state = reach(&sim, Want { requests: Some(2), frozen: Some(2), ..Want::default() }).await;
    assert_eq!((state.accepted, state.peak_in_flight), (0, 2));
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    sim.thaw();
    sim.freeze();
    assert_eq!(stays.await.unwrap().unwrap().text().await.unwrap(), ACCEPTED);
    reach(&sim, Want { arrived: Some(2), ..Want::default() }).await;
    assert_eq!(sim.message("gone").len(), 1);

    let forgotten = tokio::spawn(post(&sim, "forgotten"));
    reach(&sim, Want { frozen: Some(1), ..Want::default() }).await;
    sim.discard();
    assert!(forgotten.await.unwrap().is_err(), "its connection ends");
    assert!(sim.message("forgotten").is_empty());
    send_well(&sim, NUMBER, "after").await;
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused() {
    let sim = start_with(|settings| settings.answers.max_body_bytes = 100).await;
    let token = log_in(&sim).await;
    let url = format!("{}/api/v2/Campaign", sim.url());
    let body = json!({"text": "x".repeat(5000)});
    let answer = client().post(url).bearer_auth(token).json(&body).send().await.unwrap();
    assert_eq!(answer.status(), 413);
}

#[tokio::test]
async fn a_gateway_that_is_down_refuses_connections_and_remembers() {
    let sim = start().await;
    send_well(&sim, NUMBER, "before").await;
    let open = TcpStream::connect(sim.address()).await.unwrap();
    sim.down().await;
    assert!(send(&sim, NUMBER, "during").await.unwrap_err().is_connect());
    let mut byte = [0];
    let end = tokio::time::timeout(LIMIT, { open }.read(&mut byte)).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "an open connection is cut");
    sim.up().await;
    send_well(&sim, NUMBER, "after").await;
    assert_eq!(sim.state().accepted, 2);

    let address = sim.address();
    sim.stop().await;
    assert_eq!(TcpStream::connect(address).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
}
