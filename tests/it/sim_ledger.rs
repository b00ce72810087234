//! The ledger: how often did it arrive?

use md5::{Digest, Md5};
use outboxd::sim::counters::Want;
use outboxd::sim::handset::Power;
use outboxd::sim::ledger::{Query, Stage};
use outboxd::sim::settings::KeepText;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::sim_receiver::{Receiver, reach, send_well, start, start_with};

const NUMBER: &str = "353871234567";

#[tokio::test]
async fn two_attempts_of_one_row_that_both_arrive_are_a_doubled_message() {
    let sim = start().await;
    send_well(&sim, NUMBER, "2A-00000000-1").await;
    send_well(&sim, NUMBER, "2A-ZZZZZZZZ-2").await;
    send_well(&sim, NUMBER, "2B-00000000-1").await;
    send_well(&sim, "353871234568", "2C-00000000-1").await;
    let state = reach(&sim, Want { arrived: Some(4), ..Want::default() }).await;
    assert_eq!(state.reached_twice, 1);
    let twice = sim.messages(&Query { twice: true, ..Query::default() });
    let ids: Vec<&str> = twice.iter().map(|message| message.notify_id.as_str()).collect();
    assert_eq!(ids, ["2A-00000000-1", "2A-ZZZZZZZZ-2"]);
    assert!(twice.iter().all(|message| message.key == "2A" && message.arrivals == 2));
    send_well(&sim, NUMBER, "2A-00000000-3").await;
    let state = reach(&sim, Want { arrived: Some(5), ..Want::default() }).await;
    assert_eq!(state.reached_twice, 1, "a third arrival is the same doubled message");
}

#[tokio::test]
async fn the_ledger_can_be_asked_by_anything() {
    let sim = start().await;
    sim.switch("353871234568", Power::Off);
    for (number, id) in [(NUMBER, "a"), ("353871234568", "b"), (NUMBER, "c"), (NUMBER, "a")] {
        send_well(&sim, number, id).await;
    }
    reach(&sim, Want { arrived: Some(3), ..Want::default() }).await;
    let seqs = |query: Query| sim.messages(&query).iter().map(|message| message.seq).collect::<Vec<_>>();
    assert_eq!(seqs(Query::default()), [1, 2, 3, 4]);
    assert_eq!(seqs(Query { after: 2, limit: Some(1), ..Query::default() }), [3]);
    assert_eq!(seqs(Query { notify_id: Some("a".into()), ..Query::default() }), [1, 4]);
    assert_eq!(seqs(Query { number: Some(NUMBER.into()), after: 1, ..Query::default() }), [3, 4]);
    assert_eq!(seqs(Query { stage: Some(Stage::Pending), ..Query::default() }), [2]);
    assert_eq!(seqs(Query { key: Some("c".into()), ..Query::default() }), [3]);
    assert_eq!(sim.messages_to("353871234568")[0].notify_id, "b");
    assert!(sim.message("unknown").is_empty());
}

#[tokio::test]
async fn a_long_text_is_cut_but_its_hash_covers_all_of_it() {
    let sim = start_with(|settings| settings.keep_text = KeepText(3)).await;
    send_well(&sim, NUMBER, "a").await;
    let message = &sim.message("a")[0];
    assert_eq!(message.text, "hel");
    let whole: String = Md5::digest(b"hello").iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(message.text_md5, whole);
}

#[tokio::test]
async fn a_reset_forgets_everything_but_the_settings_of_the_start() {
    let sim = start_with(|settings| settings.credits.balance = Some(5)).await;
    sim.switch("353871234568", Power::Off);
    send_well(&sim, "353871234568", "waits").await;
    send_well(&sim, NUMBER, "a").await;
    reach(&sim, Want { arrived: Some(1), ..Want::default() }).await;
    sim.change(|settings| settings.answers.latency_ms = 60_000);
    sim.reset();
    let state = sim.state();
    assert_eq!((state.accepted, state.pending, state.arrived, state.credits), (0, 0, 0, Some(5)));
    assert!(sim.messages(&Query::default()).is_empty());
    send_well(&sim, "353871234568", "a").await;
    let state = reach(&sim, Want { arrived: Some(1), idle: true, ..Want::default() }).await;
    assert_eq!((state.accepted, state.arrived), (1, 1));
}

/// Many connections, many messages each: every one is counted once, and its receipt comes once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_under_load() {
    const CONNECTIONS: u64 = 16;
    const EACH: u64 = 250;
    let receiver = Receiver::start(200).await;
    let sim = start_with(|settings| settings.callbacks.receipts.to = Some(receiver.url.clone())).await;
    let mut senders = JoinSet::new();
    for connection in 0..CONNECTIONS {
        let address = sim.address();
        senders.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let mut answer = [0_u8; 4096];
            for message in 0..EACH {
                let body = format!(
                    "user=demo&password=demo-password&api_id=1&from=Demo&text=x&to=3538{connection:04}{message:04}\
                     &NotifyID=m{connection}.{message}"
                );
                let head = "POST /api/v1/sendmessage.aspx HTTP/1.1\r\nhost: sim\r\ncontent-length: ";
                stream.write_all(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
                let mut text = String::new();
                while !text.ends_with("successfully\n") {
                    let read = stream.read(&mut answer).await.unwrap();
                    assert!(read > 0, "closed after {text:?}");
                    text.push_str(std::str::from_utf8(&answer[..read]).unwrap());
                }
            }
        });
    }
    while let Some(sender) = senders.join_next().await {
        sender.unwrap();
    }
    let all = CONNECTIONS * EACH;
    let want = Want { arrived: Some(all), receipts_ok: Some(all), idle: true, ..Want::default() };
    let state = reach(&sim, want).await;
    assert_eq!((state.accepted, state.arrived, state.receipts), (all, all, all));
    assert_eq!((state.reached_twice, state.connections), (0, CONNECTIONS));
    let mut ids: Vec<String> =
        receiver.got().iter().map(|posted| posted.form()["SMS-NotifyId"].clone()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len() as u64, all);
}
