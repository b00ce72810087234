//! The state machine stands in Rust, in a CHECK and in a function of the database: all three say the same.

use std::collections::BTreeSet;

use outboxd::message::Status;

use crate::support::postgres::TestDb;

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
