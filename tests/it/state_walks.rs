//! Random walks: hundreds of rows at once are taken through the daemon's own statements, run by the real roles, in an order
//! that nobody thought of. Whatever happens, no row takes an arrow that is not drawn, none loses its delivery, and none
//! is sent again that may have been accepted, unless a person or the policy asked for that.
//!
//! The gateway is played here: a message that it took stays taken, whatever becomes of its answer. A failed walk prints
//! its seed and what happened to the row; `OUTBOXD_WALK_SEED` walks the same way again.

mod dice;
mod model;

use std::collections::BTreeMap;

use outboxd::message::{CreatedAt, Lane, MessageId, NotifyRef, Position, Status};
use outboxd::store::failover::Fact;
use outboxd::store::queue::{Discover, WaveEntry, WaveIntent, WaveKey, WaveOutcome};
use outboxd::store::receipts::{Processed, ProcessedFact, ReceiptFact};
use outboxd::store::record::{Fits, Misfit, Record};

use dice::Dice;
use model::{Deed, Fate, Flight, GATEWAY, Walk};

const ROWS: i32 = 300;
const STEPS: u32 = 30;

#[tokio::test]
async fn no_order_of_events_takes_a_row_where_no_arrow_leads_or_sends_it_twice_unasked() {
    let mut walk = Walk::begin("walks", ROWS, Dice::from_environment()).await;
    for _ in 0..STEPS {
        step(&mut walk).await;
    }
    // A walk that went nowhere would show nothing.
    for status in Status::ALL {
        assert!(walk.reached.contains_key(status.as_str()), "no row was ever {status}: {:?}", walk.reached);
    }
    let sent = walk.rows.values().map(|row| row.flights.len()).sum::<usize>();
    assert!(sent > walk.rows.len(), "only {sent} attempts were made");
}

/// Each row takes part in at most one thing in a step; the things happen one after another in random order.
async fn step(walk: &mut Walk) {
    let mut deeds = Deed::ALL;
    walk.dice.shuffle(&mut deeds);
    for deed in deeds {
        match deed {
            Deed::Wave => wave(walk).await,
            Deed::Answer => answer(walk, false).await,
            Deed::AnswerAgain => answer(walk, true).await,
            Deed::WildAnswer => wild_answer(walk).await,
            Deed::Judge => judge(walk).await,
            Deed::Receipt => receipts(walk).await,
            Deed::Processed => processed(walk).await,
            Deed::ForeignReceipt => foreign_receipts(walk).await,
            Deed::Cancel => by_hand(walk, Deed::Cancel, "sms.cancel(w.id)").await,
            Deed::Retry => by_hand(walk, Deed::Retry, "sms.retry(w.id, true)").await,
            Deed::Edit => edit(walk).await,
            Deed::Resolve => resolve(walk).await,
            Deed::GiveBack => give_back(walk).await,
            Deed::Resend if walk.dice.one_in(5) => resend(walk).await,
            Deed::Expire => expire(walk).await,
            Deed::TakeOver if walk.dice.one_in(6) => take_over(walk).await,
            Deed::Failover if walk.dice.one_in(6) => fail_over(walk).await,
            Deed::Resend | Deed::TakeOver | Deed::Failover => {}
        }
    }
}

/// What the daemon would send now: due rows that it does not know to be under way.
async fn wave(walk: &mut Walk) {
    let what = Discover {
        lane: Lane::Normal,
        after: Position::START,
        up_to: Position::END,
        without_gateways: Vec::new(),
        limit: 10_000,
    };
    let due = walk.store.discover(&what).await.unwrap();
    let mut chosen = BTreeMap::new();
    for due in due {
        let row = &walk.rows[&due.row.id.0];
        if !row.is_under_way() && due.expired != Some(true) && walk.dice.one_in(2) {
            chosen.insert(due.row.id.0, due);
        }
    }
    walk.seq += 1;
    let key = WaveKey { epoch: walk.epoch, seq: walk.seq };
    let entries = chosen.values().map(|due| WaveEntry {
        id: due.row.id,
        attempt: due.row.attempts + 1,
        version: due.row.version,
        row_made: due.row.row_made,
        recipient: None,
    });
    let intent = WaveIntent { key, gateway: GATEWAY.into(), nonce: walk.nonce, entries: entries.collect() };
    let late = WaveIntent { key: WaveKey { epoch: key.epoch - 1, ..key }, ..intent.clone() };
    let outcome = walk.store.commit_wave(&late).await.unwrap();
    assert!(matches!(outcome, WaveOutcome::Fenced), "a leader of an earlier epoch sent: {}", walk.dice);
    let WaveOutcome::Confirmed { rows, .. } = walk.store.commit_wave(&intent).await.unwrap() else {
        panic!("the leader is fenced: {}", walk.dice);
    };
    for (id, _) in &rows {
        let due = &chosen[&id.0];
        let fate = match walk.dice.below(5) {
            0 | 1 => Fate::Taken,
            2 => Fate::RefusedLater,
            _ => Fate::NotTaken,
        };
        let reference = NotifyRef { id: *id, nonce: walk.nonce, attempt: due.row.attempts + 1 };
        let flight = Flight::new(reference, key, fate);
        walk.departs(flight);
    }
    let left_out = chosen.into_keys().filter(|id| rows.iter().all(|(sent, _)| sent.0 != *id));
    let left_out: Vec<MessageId> = left_out.map(MessageId).collect();
    walk.store.settle_noted(&left_out).await.unwrap();
    walk.look(Deed::Wave).await;
}

/// Results of attempts, each row at most one: for the first time, or once more after a commit in doubt.
async fn answer(walk: &mut Walk, again: bool) {
    let mut batch = Vec::new();
    for (id, row) in &mut walk.rows {
        let candidates = row.flights.iter_mut().filter(|flight| flight.result.is_some() == again);
        let Some(flight) = candidates.filter(|_| walk.dice.one_in(3)).last() else { continue };
        let result = *flight.result.get_or_insert_with(|| match (flight.fate, walk.dice.below(4)) {
            (_, 0) => Status::Unknown,
            (Fate::Taken | Fate::RefusedLater, _) => Status::Accepted,
            (Fate::NotTaken, 1) => Status::Failed,
            (Fate::NotTaken, _) => Status::Queued,
        });
        batch.push(record(*id, row.made, flight.reference, result));
    }
    if !again {
        walk.remember(&batch).await;
    }
    let finished = walk.finished_waves();
    let recorded = walk.store.record(batch.clone(), &finished).await.unwrap();
    let misfits: Vec<i64> = recorded.misfits.iter().map(|misfit| misfit.record.id.0).collect();
    walk.were_not_written(&misfits);
    let notes: Vec<(Record, String)> = recorded.misfits.into_iter().filter_map(note).collect();
    walk.store.note_attempts(&notes).await.unwrap();
    for record in batch.iter().filter(|record| !misfits.contains(&record.id.0)) {
        // What is certainly not taken may be sent again.
        if matches!(record.status, Status::Queued | Status::Failed) {
            walk.may_send_again(record.id.0, record.fits.attempts_after());
        }
    }
    walk.look(if again { Deed::AnswerAgain } else { Deed::Answer }).await;
}

fn record(id: i64, row_made: CreatedAt, reference: NotifyRef, status: Status) -> Record {
    Record {
        id: MessageId(id),
        fits: Fits::Attempt { number: reference.attempt, row_made },
        timeline: 1,
        status,
        held: false,
        gateway: Some(GATEWAY.into()),
        gateway_ref: Some(reference.encode()),
        gateway_message_id: None,
        error_code: None,
        error: None,
        encoding: None,
        segments: None,
    }
}

/// What the recorder keeps of a result that fits no row.
fn note(misfit: Misfit) -> Option<(Record, String)> {
    let sent = matches!(misfit.record.status, Status::Accepted | Status::Unknown | Status::Failed);
    (sent && !misfit.was_recorded_before()).then(|| (misfit.record, "walk".to_owned()))
}

/// Results that no attempt ever had, as a daemon gone mad might write them. Only of rows that are not held to account
/// for what is sent twice.
async fn wild_answer(walk: &mut Walk) {
    let mut batch = Vec::new();
    for (id, row) in walk.rows.iter().filter(|(_, row)| row.wild) {
        if !walk.dice.one_in(3) {
            continue;
        }
        let attempt = 1 + i32::try_from(walk.dice.below(4)).unwrap();
        let nonce = row.flights.last().map_or(walk.nonce, |flight| flight.reference.nonce);
        let reference = NotifyRef { id: MessageId(*id), nonce, attempt };
        let results = [Status::Accepted, Status::Failed, Status::Unknown, Status::Queued, Status::Expired];
        batch.push(record(*id, row.made, reference, results[walk.dice.below(results.len())]));
    }
    walk.store.record(batch, &[]).await.unwrap();
    walk.look(Deed::WildAnswer).await;
}

/// Rows that are refused or held before any attempt, judged by what they said when they were read; some have changed
/// since.
async fn judge(walk: &mut Walk) {
    let mut batch = Vec::new();
    for (id, row) in &walk.rows {
        if row.is_under_way() || !walk.dice.one_in(12) {
            continue;
        }
        let old = walk.dice.one_in(4);
        let seen = if old { &row.before } else { &row.seen };
        let (status, held) = match walk.dice.below(3) {
            0 => (Status::Queued, true),
            1 => (Status::Expired, false),
            _ => (Status::Failed, false),
        };
        let fits = Fits::Unchanged { attempts: seen.attempts, version: seen.version };
        let reference = NotifyRef { id: MessageId(*id), nonce: walk.nonce, attempt: 1 };
        let record = record(*id, row.made, reference, status);
        batch.push(Record { fits, held, gateway: None, gateway_ref: None, ..record });
    }
    walk.store.record(batch, &[]).await.unwrap();
    walk.look(Deed::Judge).await;
}

/// Receipts for what the gateway took, in any order and repeatedly.
async fn receipts(walk: &mut Walk) {
    let mut facts = Vec::new();
    for row in walk.rows.values() {
        let took: Vec<&Flight> = row.flights.iter().filter(|flight| flight.fate == Fate::Taken).collect();
        if !took.is_empty() && walk.dice.one_in(5) {
            let reference = took[walk.dice.below(took.len())].reference;
            facts.push(ReceiptFact { reference, delivered: !walk.dice.one_in(3), note: None });
        }
    }
    walk.store.apply_receipts(&facts).await.unwrap();
    walk.look(Deed::Receipt).await;
}

/// What became of requests after they had been answered, at any time after they were made.
async fn processed(walk: &mut Walk) {
    let mut facts = Vec::new();
    for row in walk.rows.values() {
        let Some(flight) = row.flights.iter().rfind(|flight| flight.fate != Fate::NotTaken) else { continue };
        if !walk.dice.one_in(5) {
            continue;
        }
        let outcome = match (flight.fate, flight.reference.nonce.bits() % 2 == 0) {
            (Fate::Taken | Fate::NotTaken, _) => Processed::Accepted,
            (Fate::RefusedLater, true) => {
                Processed::Failed { code: "gateway_refused", reason: "walk".to_owned() }
            }
            (Fate::RefusedLater, false) => Processed::NoCredit { reason: "walk".to_owned() },
        };
        facts.push(ProcessedFact { reference: flight.reference, outcome });
    }
    walk.store.apply_processed(&facts).await.unwrap();
    // The gateway says that it did not send these.
    for fact in facts.iter().filter(|fact| !matches!(fact.outcome, Processed::Accepted)) {
        walk.may_send_again(fact.reference.id.0, fact.reference.attempt);
    }
    walk.look(Deed::Processed).await;
}

/// Receipts of another outbox, or of the time before a failover: right in form, and about nothing of ours.
async fn foreign_receipts(walk: &mut Walk) {
    let mut facts = Vec::new();
    for (id, row) in &walk.rows {
        if walk.dice.one_in(5) {
            let nonce = outboxd::message::Nonce::from_bits(0xff_0000_0000 + walk.dice.next());
            let attempt = row.seen.attempts.max(1) + i32::try_from(walk.dice.below(2)).unwrap();
            let reference = NotifyRef { id: MessageId(*id), nonce, attempt };
            facts.push(ReceiptFact { reference, delivered: walk.dice.one_in(2), note: None });
        }
    }
    let changed = walk.store.apply_receipts(&facts).await.unwrap();
    assert_eq!(changed, 0, "foreign receipts changed rows: {}", walk.dice);
    walk.look(Deed::ForeignReceipt).await;
}

/// The application cancels or retries its own messages, one transaction each.
async fn by_hand(walk: &mut Walk, deed: Deed, call: &str) {
    let ids = walk.some_ids(8);
    let sql = format!("SELECT {call} FROM unnest($1::bigint[]) AS w(id)");
    walk.app.execute(&sql, &[&ids]).await.unwrap();
    walk.look(deed).await;
}

/// The application changes what is still queued.
async fn edit(walk: &mut Walk) {
    let ids = walk.some_ids(8);
    let (waiting, under_way): (Vec<i64>, Vec<i64>) =
        ids.into_iter().partition(|id| !walk.rows[id].flights.iter().any(|flight| flight.result.is_none()));
    let sql = "UPDATE sms.outbox SET body = body || '.' WHERE id = ANY ($1)";
    walk.app.execute(sql, &[&under_way]).await.unwrap();
    let expiry = ["NULL", "now() - interval '1 s'", "now() + interval '1 h'"][walk.dice.below(3)];
    let sql = format!("UPDATE sms.outbox SET send_after = now(), expires_at = {expiry} WHERE id = ANY ($1)");
    walk.app.execute(&sql, &[&waiting]).await.unwrap();
    walk.look(Deed::Edit).await;
}

async fn resolve(walk: &mut Walk) {
    let ids: Vec<MessageId> = walk.some_ids(10).into_iter().map(MessageId).collect();
    let status = ["accepted", "delivered", "failed", "queued"][walk.dice.below(4)];
    walk.store.resolve(&ids, status, "walk").await.unwrap();
    walk.look(Deed::Resolve).await;
}

/// A gateway that refused everything was stopped.
async fn give_back(walk: &mut Walk) {
    let mut refused = Vec::new();
    for row in walk.rows.values() {
        let failed = |flight: &&Flight| flight.result == Some(Status::Failed);
        let Some(flight) = row.flights.iter().rfind(failed) else { continue };
        if walk.dice.one_in(4) {
            refused.push((flight.reference.id, flight.reference.encode()));
        }
    }
    walk.store.requeue_refused(&refused).await.unwrap();
    walk.look(Deed::GiveBack).await;
}

async fn resend(walk: &mut Walk) {
    walk.store.resend(GATEWAY, std::time::Duration::ZERO).await.unwrap();
    walk.look(Deed::Resend).await;
}

async fn expire(walk: &mut Walk) {
    let known: Vec<i64> = walk.rows.iter().filter(|(_, row)| row.is_under_way()).map(|(id, _)| *id).collect();
    walk.store.expire(std::time::Duration::ZERO, &known).await.unwrap();
    walk.look(Deed::Expire).await;
}

/// Another daemon leads, or the same one again, which still knows its own attempts.
async fn take_over(walk: &mut Walk) {
    let own = if walk.dice.one_in(2) { walk.open_waves() } else { walk.forget_flights() };
    walk.new_epoch(&own).await;
    walk.look(Deed::TakeOver).await;
}

/// The database forgets the last results; the daemon that lived through it writes them again.
async fn fail_over(walk: &mut Walk) {
    walk.lose_some_results().await;
    walk.look_at_what_was_lost().await;
    let facts: Vec<Fact> = walk
        .memory
        .values()
        .map(|(record, reference)| Fact {
            id: record.id,
            row_made: walk.rows[&record.id.0].made,
            attempt: reference.attempt,
            status: record.status,
            gateway: GATEWAY.into(),
            reference: *reference,
        })
        .collect();
    walk.store.reapply(&facts, model::HOME).await.unwrap();
    let own = walk.open_waves();
    walk.new_epoch(&own).await;
    walk.look(Deed::Failover).await;
}
