//! The state machine stands in Rust, in a CHECK, in a function of the database and in a drawing: all say the same, and the
//! statements that write results and receipts take its arrows and no others.

use std::collections::{BTreeMap, BTreeSet};

use outboxd::config;
use outboxd::message::{CreatedAt, MessageId, Nonce, NotifyRef, Status};
use outboxd::store::Store;
use outboxd::store::receipts::ReceiptFact;
use outboxd::store::record::{Fits, Misfit, Record, Recorded};

use crate::support::postgres::TestDb;
use crate::support::repository;

#[tokio::test]
async fn every_pair_of_states_is_judged_alike_in_rust_and_in_sql() {
    let client = TestDb::create("may_become").await.client().await;
    let sql = "SELECT outboxd.may_become($1, $2)";
    for from in Status::ALL {
        for to in Status::ALL {
            let judged: bool = client.query_one(sql, &[&from.as_str(), &to.as_str()]).await.unwrap().get(0);
            assert_eq!(judged, from.may_become(to), "{from} -> {to}");
        }
    }
    let judged: bool = client.query_one(sql, &[&"nonsense", &"queued"]).await.unwrap().get(0);
    assert!(!judged);
}

#[tokio::test]
async fn the_column_takes_the_states_of_the_enum_and_a_time_with_the_final_ones() {
    let client = TestDb::create("check").await.client().await;
    for status in Status::ALL.map(Status::as_str).into_iter().chain(["", "sent", "Queued"]) {
        let known = Status::parse(status);
        for with_time in [false, true] {
            let time = if with_time { "now()" } else { "NULL" };
            let sql = format!(
                "INSERT INTO sms.outbox (recipient, body, status, final_at) VALUES ('1', 'x', '{status}', {time})"
            );
            let taken = client.execute(&sql, &[]).await.is_ok();
            let wanted = known.is_some_and(|status| status.is_final() == with_time);
            assert_eq!(taken, wanted, "{status:?} with final_at {time}");
        }
    }
}

#[tokio::test]
async fn the_comment_of_the_column_names_every_state() {
    let client = TestDb::create("status_comment").await.client().await;
    let sql = "SELECT col_description('sms.outbox'::regclass, attnum) FROM pg_attribute \
               WHERE attrelid = 'sms.outbox'::regclass AND attname = 'status'";
    let comment: String = client.query_one(sql, &[]).await.unwrap().get(0);
    let words: BTreeSet<&str> = comment.split(|c: char| !c.is_ascii_lowercase()).collect();
    for status in Status::ALL {
        assert!(words.contains(status.as_str()), "{status}: {comment}");
    }
}

#[test]
fn the_drawing_shows_every_arrow_and_no_other() {
    let text = std::fs::read_to_string(repository().join("ARCHITECTURE.md")).unwrap();
    let drawing =
        text.split("```mermaid").nth(1).and_then(|rest| rest.split("```").next()).expect("a drawing");
    let mut drawn = BTreeSet::new();
    for line in drawing.lines() {
        let Some((from, to)) = line.trim().split_once(" --> ") else { continue };
        let to = to.split(':').next().unwrap_or_default().trim();
        if from != "[*]" {
            drawn.insert((from.to_owned(), to.to_owned()));
        }
    }
    let arrows = Status::ALL.into_iter().flat_map(|from| {
        let to = Status::ALL.into_iter().filter(move |to| from.may_become(*to));
        to.map(move |to| (from.to_string(), to.to_string()))
    });
    assert_eq!(drawn, arrows.collect());
}

/// How a result or a receipt relates to its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    /// The row waits for this attempt.
    Waited,
    /// The row carries this attempt's reference.
    Carried,
    /// The row carries the reference of another attempt of the same number.
    Foreign,
    /// The row has had a later attempt.
    Earlier,
}

impl Relation {
    const ALL: [Relation; 4] = [Relation::Waited, Relation::Carried, Relation::Foreign, Relation::Earlier];
}

/// A row in every state and every relation to the first attempt, and what that attempt is to make of it.
struct Table {
    db: TestDb,
    store: Store,
    cases: BTreeMap<i64, (Status, Relation, Status)>,
    made: CreatedAt,
}

impl Table {
    async fn create(hint: &str, results: &[Status]) -> Table {
        let db = TestDb::create(hint).await;
        let store = Store::open(&config::connection(&db.daemon_url().await).unwrap()).unwrap();
        let client = db.client().await;
        let mut cases = BTreeMap::new();
        for from in Status::ALL {
            for relation in Relation::ALL {
                for to in results {
                    let id = i64::try_from(cases.len()).unwrap() + 1;
                    let (attempts, reference) = match relation {
                        Relation::Waited => (0, None),
                        Relation::Carried => (1, Some(reference(id, 1))),
                        Relation::Foreign => (1, Some(reference(id, 2))),
                        Relation::Earlier => (2, Some(reference(id, 2))),
                    };
                    let sql = "INSERT INTO sms.outbox (id, recipient, body, status, attempts, gateway_ref, sent_at, final_at) \
                               VALUES ($1, '1', 'x', $2, $3, $4, now(), CASE WHEN $5 THEN now() END)";
                    let reference = reference.map(NotifyRef::encode);
                    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
                        [&id, &from.as_str(), &attempts, &reference, &from.is_final()];
                    client.execute(sql, &params).await.unwrap();
                    cases.insert(id, (from, relation, *to));
                }
            }
        }
        // All of them were made in one moment.
        client.batch_execute("UPDATE sms.outbox SET created_at = '2030-01-01 00:00:00Z'").await.unwrap();
        let sql =
            "SELECT ((extract(epoch FROM max(created_at)) - 946684800) * 1000000)::bigint FROM sms.outbox";
        let made = CreatedAt(client.query_one(sql, &[]).await.unwrap().get(0));
        Table { db, store, cases, made }
    }

    /// Compares what the rows have become with what was expected of each.
    async fn assert_became(&self, expected: impl Fn(Status, Relation, Status) -> bool) {
        let client = self.db.client().await;
        for row in client.query("SELECT id, status FROM sms.outbox", &[]).await.unwrap() {
            let (from, relation, to) = self.cases[&row.get(0)];
            let wanted = if expected(from, relation, to) { to } else { from };
            assert_eq!(Status::parse(row.get(1)), Some(wanted), "{from}, {relation:?}, {to}");
        }
    }
}

/// Of the first attempt, under one of two leaders.
fn reference(id: i64, leader: u64) -> NotifyRef {
    NotifyRef { id: MessageId(id), nonce: Nonce::from_bits(leader), attempt: 1 }
}

const RESULTS: [Status; 5] =
    [Status::Queued, Status::Accepted, Status::Unknown, Status::Failed, Status::Expired];

/// Writes the result of the first attempt into every row, where attempts were begun on this timeline.
async fn record(table: &Table, timeline: i32) -> Recorded {
    let records = table.cases.iter().map(|(id, (_, _, to))| Record {
        id: MessageId(*id),
        fits: Fits::Attempt { number: 1, row_made: table.made },
        timeline,
        status: *to,
        held: false,
        gateway: Some("main".into()),
        gateway_ref: Some(reference(*id, 1).encode()),
        gateway_message_id: None,
        error_code: None,
        error: None,
        encoding: None,
        segments: None,
    });
    table.store.record(records.collect(), &[]).await.unwrap()
}

/// Whether the row is one that this result is about.
fn is_about(from: Status, relation: Relation) -> bool {
    match relation {
        Relation::Waited => matches!(from, Status::Queued | Status::Cancelled),
        Relation::Carried => from == Status::Unknown,
        Relation::Foreign | Relation::Earlier => false,
    }
}

#[tokio::test]
async fn a_result_takes_a_row_along_a_drawn_arrow_if_it_is_about_its_attempt_and_leaves_it_alone_if_not() {
    let table = Table::create("results", &RESULTS).await;
    record(&table, 1).await;
    table.assert_became(|from, relation, to| is_about(from, relation) && from.may_become(to)).await;
}

/// A row that has not heard of the attempt may be under way elsewhere.
#[tokio::test]
async fn after_a_failover_that_an_attempt_came_to_nothing_is_said_only_to_a_row_that_names_it() {
    let table = Table::create("failed_over", &RESULTS).await;
    table.store.expect(1);
    let recorded = record(&table, 2).await;
    let mut waiting = recorded.misfits.iter().filter(|misfit| {
        table.cases[&misfit.record.id.0] == (Status::Queued, Relation::Waited, Status::Queued)
    });
    assert!(waiting.next().is_some_and(|misfit| !misfit.is_suppressed()));
    table
        .assert_became(|from, relation, to| {
            let said = to != Status::Queued || relation == Relation::Carried;
            said && is_about(from, relation) && from.may_become(to)
        })
        .await;
    let unheard = "SELECT count(*) FROM sms.outbox WHERE status = 'queued' AND attempts = 0";
    let rows: i64 = table.db.client().await.query_one(unheard, &[]).await.unwrap().get(0);
    assert_eq!(rows, 1);
}

#[tokio::test]
async fn after_a_failover_a_row_is_judged_anew() {
    for (timeline, written) in [(1, true), (2, false)] {
        let table = Table::create("judged", &[Status::Expired]).await;
        table.store.expect(1);
        let client = table.db.client().await;
        let row = client
            .query_one("SELECT id, xmin FROM sms.outbox WHERE status = 'queued' AND attempts = 0", &[])
            .await
            .unwrap();
        let judgement = Record {
            id: MessageId(row.get(0)),
            fits: Fits::Unchanged { attempts: 0, version: row.get(1) },
            timeline,
            status: Status::Expired,
            held: false,
            gateway: None,
            gateway_ref: None,
            gateway_message_id: None,
            error_code: None,
            error: None,
            encoding: None,
            segments: None,
        };
        let recorded = table.store.record(vec![judgement], &[]).await.unwrap();
        assert_eq!(recorded.misfits.is_empty(), written);
        assert!(!recorded.misfits.iter().any(Misfit::is_suppressed));
    }
}

#[tokio::test]
async fn a_receipt_takes_a_row_along_a_drawn_arrow_if_it_is_about_its_attempt_and_leaves_it_alone_if_not() {
    let table = Table::create("receipts", &[Status::Delivered, Status::Undelivered]).await;
    let facts: Vec<ReceiptFact> = table
        .cases
        .iter()
        .map(|(id, (_, _, to))| ReceiptFact {
            reference: reference(*id, 1),
            delivered: *to == Status::Delivered,
            note: None,
        })
        .collect();
    // Nobody leads and no wave is open, so nothing is waited for.
    table.store.apply_receipts(&facts).await.unwrap();
    table
        .assert_became(|from, relation, to| {
            // That it was not delivered says nothing about the next attempt, which a queued row waits for.
            let next = to == Status::Undelivered && matches!(from, Status::Queued | Status::Cancelled);
            relation == Relation::Carried && !next && from.may_become(to)
        })
        .await;
}
