//! Rows that are edited, cancelled, deleted or replaced while the daemon holds them: in memory, before their wave, while
//! their request is under way, and before its result is written. What came before the wave is obeyed; what was sent is
//! accounted for, and not sent again.

use std::collections::BTreeMap;

use serde_json::json;
use tokio_postgres::Transaction;

use crate::support::books::Committed;
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::site::{LIMIT, Lines, Site};

const EIGHT_AT_ONCE: Lines<'_> = Lines { queue: "", gateway: "concurrency = 8", more: "", receipts: false };
/// With room for all edits at once.
const SIXTEEN_AT_ONCE: Lines<'_> = Lines { gateway: "concurrency = 16", ..EIGHT_AT_ONCE };

/// What is done to a row, and what becomes of it if that came before its wave: its status, and whether it is sent.
const EDITS: [(&str, &str, &str, bool); 11] = [
    ("body", "UPDATE sms.outbox SET body = 'edited' WHERE id = $", "accepted", true),
    ("recipient", "UPDATE sms.outbox SET recipient = '+353860000001' WHERE id = $", "accepted", true),
    ("later", "UPDATE sms.outbox SET send_after = now() + interval '1 h' WHERE id = $", "queued", false),
    ("sooner", "UPDATE sms.outbox SET send_after = now() - interval '1 h' WHERE id = $", "accepted", true),
    ("expired", "UPDATE sms.outbox SET expires_at = now() - interval '1 s' WHERE id = $", "expired", false),
    ("lane", "UPDATE sms.outbox SET lane = 'urgent' WHERE id = $", "accepted", true),
    ("gateway", "UPDATE sms.outbox SET gateway = 'nowhere' WHERE id = $", "failed", false),
    ("held", "UPDATE sms.outbox SET held = true WHERE id = $", "queued", false),
    ("cancelled", "SELECT sms.cancel($)", "cancelled", false),
    (
        "cancelled by hand",
        "UPDATE sms.outbox SET status = 'cancelled', final_at = now() WHERE id = $",
        "cancelled",
        false,
    ),
    ("deleted", "DELETE FROM sms.outbox WHERE id = $", "", false),
];

/// Queues one row for each edit; the texts name them.
async fn queue_edited(site: &Site) -> BTreeMap<&'static str, i64> {
    let mut ids = BTreeMap::new();
    for (name, ..) in EDITS {
        ids.insert(name, site.insert(&format!("(recipient, body) VALUES ('0871234567', '{name}')")).await);
    }
    ids
}

async fn edit_all(sql: &tokio_postgres::Client, ids: &BTreeMap<&'static str, i64>) {
    for (name, edit, ..) in EDITS {
        sql.batch_execute(&edit.replace('$', &ids[name].to_string())).await.unwrap();
    }
}

async fn edit_all_in(transaction: &Transaction<'_>, ids: &BTreeMap<&'static str, i64>) {
    for (name, edit, ..) in EDITS {
        transaction.batch_execute(&edit.replace('$', &ids[name].to_string())).await.unwrap();
    }
}

/// Waits until each row is what its edit makes of it when it came in time.
async fn until_obeyed(site: &Site, ids: &BTreeMap<&'static str, i64>) {
    for (name, _, status, _) in EDITS.iter().filter(|(name, ..)| *name != "deleted") {
        site.until(ids[name], status).await;
    }
    let mut expected: Vec<&str> = EDITS.iter().filter(|(.., sent)| *sent).map(|(name, ..)| *name).collect();
    let ledger = site.ledger().await;
    let mut sent: Vec<&str> = ledger.iter().map(|message| message["text"].as_str().unwrap()).collect();
    sent.retain(|text| *text != "first");
    expected[0] = "edited";
    expected.sort_unstable();
    sent.sort_unstable();
    assert_eq!(sent, expected);
    assert!(ledger.iter().any(|message| message["number"] == "353860000001"), "the corrected number");
    assert_eq!(site.number("SELECT count(*) FROM outboxd.attempt").await, 0);
    site.assert_nothing_twice().await;
}

/// Waits until each row says that it was sent, whatever was done to it afterwards.
async fn until_accounted(site: &Site, ids: &BTreeMap<&'static str, i64>) {
    for (name, id) in ids.iter().filter(|(name, _)| **name != "deleted") {
        let row = site.until(*id, "accepted").await;
        assert_eq!((row.attempts, row.held, row.finished, row.error), (1, false, false, None), "{name}");
        assert_eq!(site.in_ledger(&site.row(*id).await).await["text"], **name, "as it was when it left");
    }
    let note = format!(
        "SELECT count(*) = 1 FROM outboxd.attempt WHERE message_id = {} AND verdict = 'accepted' AND note LIKE '%deleted%'",
        ids["deleted"]
    );
    site.until_true("what was sent for the deleted row is noted", &note).await;
    assert_eq!(site.number("SELECT count(*) FROM outboxd.attempt").await, 1);
    // One more round through everything: nothing of it is sent again.
    let (next, _) = site.queue(1).await;
    site.until(next, "accepted").await;
    assert_eq!(site.sim_count("accepted").await, EDITS.len() as u64 + 1);
    site.assert_nothing_twice().await;
}

#[tokio::test]
async fn every_edit_of_a_row_that_waits_in_memory_is_obeyed() {
    let site = Site::new("edit_memory").await;
    let daemon = site.daemon(Lines { gateway: "concurrency = 1", ..EIGHT_AT_ONCE }).await;
    site.freeze().await;
    // They take all places.
    site.run(
        "INSERT INTO sms.outbox (recipient, body) VALUES ('0871234567', 'first'), ('0871234568', 'first')",
    )
    .await;
    site.sim_reaches("frozen=1").await;
    site.until_true("both are in a wave", "SELECT coalesce(sum(cardinality(ids)), 0) = 2 FROM outboxd.wave")
        .await;
    let ids = queue_edited(&site).await;
    until_read(&daemon, EDITS.len() + 2).await;
    edit_all(&site.sql, &ids).await;
    site.thaw().await;
    until_obeyed(&site, &ids).await;
}

/// Waits until the daemon has read so many rows.
async fn until_read(daemon: &Daemon, wanted: usize) {
    eventually(LIMIT, &format!("{wanted} rows are read"), async || {
        let log = daemon.log();
        let counts = log.split("rows=").skip(1).filter_map(|rest| {
            rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<usize>().ok()
        });
        let read: usize = counts.sum();
        if read >= wanted { Ok(()) } else { Err(read) }
    })
    .await;
}

/// The leader's row is locked, so that no wave can be committed: the moment between reading a row and its wave.
#[tokio::test]
async fn every_edit_that_commits_before_the_wave_is_obeyed() {
    let site = Site::new("edit_wave").await;
    let daemon = site.daemon(SIXTEEN_AT_ONCE).await;
    let mut other = site.db.client().await;
    let lock = other.transaction().await.unwrap();
    lock.batch_execute("SELECT FROM outboxd.leader FOR UPDATE").await.unwrap();
    let ids = queue_edited(&site).await;
    until_a_wave_is_tried(&site, "-infinity").await;
    until_read(&daemon, EDITS.len()).await;
    edit_all(&site.sql, &ids).await;
    let edited: String = site.sql.query_one("SELECT clock_timestamp()::text", &[]).await.unwrap().get(0);
    // The one that was kept out is given up, and the next one sees the edits.
    until_a_wave_is_tried(&site, &edited).await;
    lock.rollback().await.unwrap();
    until_obeyed(&site, &ids).await;
}

/// A wave must not wait for the leader's row, and then go by what it saw of the rows before.
#[tokio::test]
async fn every_edit_that_commits_while_a_wave_is_kept_out_is_obeyed() {
    let site = Site::new("edit_kept_out").await;
    let daemon = site.daemon(SIXTEEN_AT_ONCE).await;
    let mut other = site.db.client().await;
    let mut editor = site.db.client().await;
    let lock = other.transaction().await.unwrap();
    lock.batch_execute("SELECT FROM outboxd.leader FOR UPDATE").await.unwrap();
    let ids = queue_edited(&site).await;
    until_read(&daemon, EDITS.len()).await;
    let edits = editor.transaction().await.unwrap();
    let begun: String = edits.query_one("SELECT clock_timestamp()::text", &[]).await.unwrap().get(0);
    edit_all_in(&edits, &ids).await;
    until_a_wave_is_tried(&site, &begun).await;
    edits.commit().await.unwrap();
    lock.rollback().await.unwrap();
    until_obeyed(&site, &ids).await;
}

/// Waits until some wave was begun after this time.
async fn until_a_wave_is_tried(site: &Site, after: &str) {
    let sql = format!(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() \
         AND query LIKE '%outboxd: wave%' AND query_start > '{after}')"
    );
    site.until_true("a wave is tried", &sql).await;
}

#[tokio::test]
async fn whatever_is_done_to_a_row_while_its_request_is_under_way_it_is_accounted_for_and_not_sent_again() {
    let site = Site::new("edit_flight").await;
    let _daemon = site.daemon(SIXTEEN_AT_ONCE).await;
    site.freeze().await;
    let ids = queue_edited(&site).await;
    site.sim_reaches(&format!("frozen={}", EDITS.len())).await;
    edit_all(&site.sql, &ids).await;
    site.thaw().await;
    until_accounted(&site, &ids).await;
}

/// The rows are locked, so that no result can be written: the moment between an answer and its record.
#[tokio::test]
async fn whatever_is_done_to_a_row_before_its_answer_is_recorded_it_is_accounted_for_and_not_sent_again() {
    let site = Site::new("edit_record").await;
    let daemon = site.daemon(SIXTEEN_AT_ONCE).await;
    site.freeze().await;
    let ids = queue_edited(&site).await;
    site.sim_reaches(&format!("frozen={}", EDITS.len())).await;
    let mut other = site.db.client().await;
    let lock = other.transaction().await.unwrap();
    lock.batch_execute("SELECT FROM sms.outbox FOR UPDATE").await.unwrap();
    site.thaw().await;
    site.sim_reaches("idle=1").await;
    daemon.wait_log(LIMIT, "a row is locked by somebody").await;
    edit_all_in(&lock, &ids).await;
    lock.commit().await.unwrap();
    until_accounted(&site, &ids).await;
}

/// An administrator sends a message once more by hand while its first request is under way.
#[tokio::test]
async fn a_row_whose_attempts_were_set_back_in_flight_is_not_sent_again() {
    let site = Site::new("attempts_back").await;
    let _daemon = site.daemon(EIGHT_AT_ONCE).await;
    // The first attempt is turned away, so that the second is the one under way.
    site.sim.script(&json!({"do": {"answer": {"status": 429, "headers": {"Retry-After": "1"}, "body": "slow down"}}, "times": 1})).await;
    site.run("INSERT INTO sms.outbox (recipient, body) VALUES ('0871234567', 'again')").await;
    site.until_true("it was turned away", "SELECT attempts = 1 FROM sms.outbox").await;
    site.freeze().await;
    site.sim_reaches("frozen=1").await;
    site.run("UPDATE sms.outbox SET attempts = 0, error = NULL, error_code = NULL").await;
    site.thaw().await;
    let id = site.number("SELECT id FROM sms.outbox").await;
    assert_eq!(site.until(id, "accepted").await.attempts, 2);
    assert_eq!(site.sim_count("accepted").await, 1);
}

#[tokio::test]
async fn a_row_that_takes_the_id_of_one_that_was_deleted_in_flight_is_sent_for_itself() {
    let site = Site::new("id_reused").await;
    let _daemon = site.daemon(EIGHT_AT_ONCE).await;
    let mut committed = Committed::default();
    site.freeze().await;
    site.run("INSERT INTO sms.outbox (id, recipient, body) VALUES (7, '0871234567', 'old')").await;
    site.sim_reaches("frozen=1").await;
    site.run("DELETE FROM sms.outbox WHERE id = 7").await;
    site.run("INSERT INTO sms.outbox (id, recipient, body) VALUES (7, '0871234568', 'new')").await;
    committed.add_all(["old", "new"]);
    committed.delete("old");
    site.thaw().await;
    site.until_all_sent(&committed).await;
    site.until_noted(&committed).await;
    let references = site.sent_references().await;
    assert_eq!(references.len(), 2, "each has a reference of its own: {references:?}");
}

#[tokio::test]
async fn after_a_kill_a_row_with_the_id_of_one_that_was_deleted_in_flight_is_sent_for_itself() {
    let site = Site::new("id_reused_kill").await;
    let mut daemon = site.daemon(EIGHT_AT_ONCE).await;
    let mut committed = Committed::default();
    site.freeze().await;
    for (id, text) in [(7, "replaced"), (8, "gone"), (9, "stays")] {
        site.run(&format!(
            "INSERT INTO sms.outbox (id, recipient, body) VALUES ({id}, '0871234567', '{text}')"
        ))
        .await;
        committed.add(text);
    }
    site.sim_reaches("frozen=3").await;
    daemon.kill9();
    site.run("DELETE FROM sms.outbox WHERE id < 9").await;
    site.run("INSERT INTO sms.outbox (id, recipient, body) VALUES (7, '0871234568', 'new')").await;
    committed.add("new");
    committed.delete("replaced");
    committed.delete("gone");
    site.thaw().await;
    site.sim_reaches("idle=1").await;
    let _daemon = site.daemon(EIGHT_AT_ONCE).await;
    assert_eq!(site.until(7, "accepted").await.attempts, 1);
    assert_eq!(site.until(9, "unknown").await.attempts, 1);
    site.assert_books(&committed).await;
    site.until_noted(&committed).await;
    let unknown =
        "SELECT count(*) = 2 FROM outboxd.attempt WHERE verdict = 'unknown' AND gateway_ref IS NOT NULL";
    site.until_true("what may have been sent for rows that are gone is noted", unknown).await;
}

/// Receipts for the old message come before and after the new one is sent; only its own moves it.
#[tokio::test]
async fn a_receipt_of_a_deleted_message_does_not_mark_the_one_that_has_its_id_now() {
    let site = Site::with_receipts("id_receipt").await;
    site.sim.settings(&json!({"callbacks": {"receipts": {"lost": 1.0}}})).await;
    let _daemon = site.daemon(Lines { receipts: true, ..EIGHT_AT_ONCE }).await;
    let insert = async |text: &str| {
        site.run(&format!("INSERT INTO sms.outbox (id, recipient, body) VALUES (7, '0871234567', '{text}')"))
            .await;
    };
    let receipt = async |reference: &str, delivered: bool| {
        let done = site.sim_count("receipts").await + 1;
        let body = json!({"notify_id": reference, "number": "353871234567", "sender": "Demo", "delivered": delivered});
        site.sim.control("POST", "receipt", Some(&body)).await;
        site.sim_reaches(&format!("receipts={done}&idle=1")).await;
    };
    // Deleted after it was accepted, and while it was under way.
    for in_flight in [false, true] {
        let before = site.sent_references().await;
        if in_flight {
            site.freeze().await;
        }
        insert("old").await;
        if in_flight {
            site.sim_reaches("frozen=1").await;
        } else {
            site.until(7, "accepted").await;
        }
        // The new one waits for its turn while the old one's receipt comes.
        site.run("DELETE FROM sms.outbox WHERE id = 7; SELECT sms.hold()").await;
        insert("new").await;
        if in_flight {
            site.thaw().await;
            site.until_true("the old one's result is noted", "SELECT count(*) = 1 FROM outboxd.attempt")
                .await;
        }
        let old: Vec<String> = (&site.sent_references().await - &before).into_iter().collect();
        let [old] = &old[..] else { panic!("the old one was sent once: {old:?}") };
        for delivered in [false, true] {
            receipt(old, delivered).await;
            assert_eq!(site.row(7).await.status, "queued", "in flight {in_flight}, delivered {delivered}");
        }
        site.run("SELECT sms.resume()").await;
        let row = site.until(7, "accepted").await;
        assert_ne!(row.gateway_ref.as_ref(), Some(old));
        for delivered in [false, true] {
            receipt(old, delivered).await;
            assert_eq!(site.row(7).await, row, "in flight {in_flight}, delivered {delivered}");
        }
        receipt(row.gateway_ref.as_deref().unwrap(), true).await;
        site.until(7, "delivered").await;
        site.run("DELETE FROM sms.outbox").await;
    }
    assert_eq!(site.sim_count("receipts_failed").await, 0);
}

/// The receipt of the old message comes while the new one, with the same id, is under way itself.
#[tokio::test]
async fn a_receipt_of_a_deleted_message_does_not_mark_the_one_with_its_id_that_is_under_way() {
    let site = Site::with_receipts("id_receipt_flight").await;
    site.sim.settings(&json!({"callbacks": {"receipts": {"lost": 1.0}}})).await;
    let _daemon = site.daemon(Lines { receipts: true, ..EIGHT_AT_ONCE }).await;
    site.run("INSERT INTO sms.outbox (id, recipient, body) VALUES (7, '0871234567', 'old')").await;
    let old = site.until(7, "accepted").await.gateway_ref.unwrap();
    site.freeze().await;
    site.run("DELETE FROM sms.outbox; INSERT INTO sms.outbox (id, recipient, body) VALUES (7, '0871234567', 'new')").await;
    site.sim_reaches("frozen=1").await;
    for (nth, delivered) in [(1, false), (2, true)] {
        let body =
            json!({"notify_id": old, "number": "353871234567", "sender": "Demo", "delivered": delivered});
        site.sim.control("POST", "receipt", Some(&body)).await;
        site.sim_reaches(&format!("receipts={nth}")).await;
        site.sim_reaches("callbacks_waiting=0").await;
        assert_eq!(site.row(7).await.status, "queued", "delivered {delivered}");
    }
    site.thaw().await;
    assert_ne!(site.until(7, "accepted").await.gateway_ref, Some(old));
}

#[tokio::test]
async fn a_truncate_that_restarts_the_ids_in_a_drain_loses_none_of_the_rows_that_follow() {
    let site = Site::new("truncate").await;
    let _daemon = site.daemon(EIGHT_AT_ONCE).await;
    let mut committed = Committed::default();
    let mut noted = 0;
    for round in 0..3 {
        let insert = |what: &str| {
            format!(
                "INSERT INTO sms.outbox (recipient, body) \
                 SELECT '+35387' || lpad(n::text, 7, '0'), '{what} {round}-' || n FROM generate_series(1, 300) AS n"
            )
        };
        let before = site.sim_count("accepted").await;
        site.run(&insert("old")).await;
        site.sim_reaches(&format!("accepted={}", before + 50)).await;
        site.freeze().await;
        site.sim_reaches("frozen=8").await;
        let answered = site.sim_count("accepted").await - before;
        site.until_counts("what was answered is recorded", |counts| counts.sent() == answered).await;
        site.run("TRUNCATE sms.outbox RESTART IDENTITY").await;
        site.run(&insert("new")).await;
        for n in 1..=300 {
            committed.add(format!("old {round}-{n}"));
            committed.delete(&format!("old {round}-{n}"));
            committed.add(format!("new {round}-{n}"));
        }
        site.thaw().await;
        site.until_counts("the new ones are sent", |counts| counts.of("accepted") == 300).await;
        noted += site.sim_count("accepted").await - before - answered - 300;
        assert_eq!(site.number("SELECT min(id) FROM sms.outbox").await, 1);
        if round < 2 {
            // The books are compared with what the last round left.
            for n in 1..=300 {
                committed.delete(&format!("new {round}-{n}"));
            }
            site.run("TRUNCATE sms.outbox RESTART IDENTITY").await;
        }
    }
    site.until_all_sent(&committed).await;
    assert!((3 * 8..=3 * 8 * 8).contains(&noted), "under way at each of the three truncations: {noted}");
    let in_table = site.number("SELECT count(*) FROM outboxd.attempt WHERE verdict = 'accepted'").await;
    assert_eq!(u64::try_from(in_table), Ok(noted), "all of it is noted");
}

/// Whoever counted the attempt: the daemon never knows what a result finds.
#[tokio::test]
async fn a_result_that_its_row_no_longer_waits_for_keeps_it_from_being_sent_again() {
    for (thaw, becomes, sent) in [("thaw", "accepted", 8), ("thaw?discard=1", "unknown", 0)] {
        let site = Site::new("counted").await;
        let mut committed = Committed::default();
        let _daemon = site.daemon(EIGHT_AT_ONCE).await;
        site.freeze().await;
        site.queue_texts(&mut committed, "counted", 8).await;
        site.sim_reaches("frozen=8").await;
        site.run("UPDATE sms.outbox SET attempts = attempts + 1").await;
        site.sim.control("POST", thaw, None).await;
        site.until_counts("each has its result", |counts| counts.of(becomes) == 8).await;
        assert_eq!(site.sim_count("accepted").await, sent);
        site.assert_books(&committed).await;
        if becomes == "unknown" {
            site.run("SELECT sms.retry(id, force => true) FROM sms.outbox").await;
            site.until_all_sent(&committed).await;
        }
    }
}
