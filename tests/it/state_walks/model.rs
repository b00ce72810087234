//! What a walk knows: the rows as they were last seen, what the gateway really took, and what may be sent again.

use std::collections::BTreeMap;

use outboxd::config;
use outboxd::message::{CreatedAt, Nonce, NotifyRef, RowVersion, Status};
use outboxd::store::Store;
use outboxd::store::failover::Cluster;
use outboxd::store::queue::WaveKey;
use outboxd::store::record::Record;
use tokio_postgres::Client;

use super::dice::Dice;
use crate::support::postgres::TestDb;

pub(super) const GATEWAY: &str = "main";
/// Where messages are sent from. The timeline is that of any cluster that was never restored.
pub(super) const HOME: Cluster = Cluster { system_identifier: 1, timeline: 1 };

/// What can happen to rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    Wave,
    Answer,
    AnswerAgain,
    WildAnswer,
    Judge,
    Receipt,
    Processed,
    ForeignReceipt,
    Cancel,
    Retry,
    Edit,
    Resolve,
    GiveBack,
    Resend,
    Expire,
    TakeOver,
    Failover,
}

impl Deed {
    pub(super) const ALL: [Deed; 17] = [
        Deed::Wave,
        Deed::Answer,
        Deed::AnswerAgain,
        Deed::WildAnswer,
        Deed::Judge,
        Deed::Receipt,
        Deed::Processed,
        Deed::ForeignReceipt,
        Deed::Cancel,
        Deed::Retry,
        Deed::Edit,
        Deed::Resolve,
        Deed::GiveBack,
        Deed::Resend,
        Deed::Expire,
        Deed::TakeOver,
        Deed::Failover,
    ];

    /// The arrows that this may take: of all that are drawn, those that are its business.
    fn may_take(self, from: Status, to: Status) -> bool {
        use Status::{Accepted, Cancelled, Delivered, Expired, Failed, Queued, Undelivered, Unknown};
        let own = match self {
            Deed::Edit | Deed::ForeignReceipt => false,
            // A row that is left out gets the result that was noted of it.
            Deed::Wave => from == Queued && matches!(to, Accepted | Unknown),
            Deed::Answer | Deed::AnswerAgain | Deed::WildAnswer | Deed::Judge => {
                matches!(from, Queued | Cancelled | Unknown)
                    && matches!(to, Accepted | Failed | Unknown | Queued | Expired)
            }
            Deed::Receipt => matches!(to, Delivered | Undelivered),
            Deed::Processed => match to {
                Accepted | Failed => matches!(from, Queued | Cancelled | Unknown | Accepted),
                Queued => matches!(from, Unknown | Accepted),
                _ => false,
            },
            Deed::Cancel => (from, to) == (Queued, Cancelled),
            Deed::Retry => matches!(from, Failed | Undelivered | Expired | Unknown) && to == Queued,
            Deed::Resolve => from == Unknown,
            Deed::GiveBack => (from, to) == (Failed, Queued),
            Deed::Resend => (from, to) == (Unknown, Queued),
            Deed::Expire => (from, to) == (Queued, Expired),
            Deed::TakeOver => matches!(from, Queued | Cancelled) && to == Unknown,
            Deed::Failover => {
                (from == Queued && matches!(to, Accepted | Unknown | Failed))
                    || (from == Unknown && matches!(to, Accepted | Failed))
                    || (from == Cancelled && matches!(to, Accepted | Unknown))
            }
        };
        own && from.may_become(to)
    }

    /// A person or the policy takes it upon himself that a message may be sent twice.
    const fn asks_for_another_attempt(self) -> bool {
        matches!(self, Deed::Retry | Deed::Resolve | Deed::GiveBack | Deed::Resend)
    }
}

/// A row as it stands in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) status: Status,
    pub(super) held: bool,
    pub(super) attempts: i32,
    pub(super) version: RowVersion,
}

/// One attempt, as the gateway and its daemon know it.
#[derive(Debug, Clone)]
pub(super) struct Flight {
    pub(super) reference: NotifyRef,
    wave: WaveKey,
    pub(super) fate: Fate,
    /// Of the daemon that leads now.
    ours: bool,
    /// What was made of the answer.
    pub(super) result: Option<Status>,
}

/// What really became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The gateway took it: it reaches a handset.
    Taken,
    /// Accepted at first, and not sent all the same.
    RefusedLater,
    NotTaken,
}

impl Flight {
    pub(super) fn new(reference: NotifyRef, wave: WaveKey, fate: Fate) -> Flight {
        Flight { reference, wave, fate, ours: true, result: None }
    }
}

#[derive(Debug)]
pub(super) struct Row {
    pub(super) seen: Seen,
    /// One look earlier.
    pub(super) before: Seen,
    pub(super) flights: Vec<Flight>,
    /// Written to by wild answers: then nobody can say what was sent.
    pub(super) wild: bool,
    pub(super) made: CreatedAt,
    may_send: bool,
    /// The whole row before its latest result was written, as JSON.
    unrecorded: Option<String>,
    story: Vec<String>,
}

impl Row {
    /// The daemon that leads has an attempt of it under way.
    pub(super) fn is_under_way(&self) -> bool {
        self.flights.iter().any(|flight| flight.ours && flight.result.is_none())
    }
}

pub(super) struct Walk {
    pub(super) dice: Dice,
    pub(super) store: Store,
    pub(super) app: Client,
    root: Client,
    pub(super) rows: BTreeMap<i64, Row>,
    pub(super) epoch: i64,
    pub(super) seq: i64,
    pub(super) nonce: Nonce,
    /// The latest result of each message, with its reference and its place, as the daemon remembers it.
    pub(super) memory: BTreeMap<i64, (Record, NotifyRef)>,
    pub(super) reached: BTreeMap<&'static str, u32>,
    _db: TestDb,
}

impl Walk {
    pub(super) async fn begin(hint: &str, rows: i32, dice: Dice) -> Walk {
        let db = TestDb::create(hint).await;
        let database = config::connection(&db.daemon_url().await).unwrap();
        let (store, app, root) =
            (Store::open(&database).unwrap(), db.app_client("app").await, db.client().await);
        let sql =
            "INSERT INTO sms.outbox (recipient, body) SELECT '0871234567', 'x' FROM generate_series(1, $1)";
        app.execute(sql, &[&rows]).await.unwrap();
        let mut walk = Walk {
            dice,
            store,
            app,
            root,
            rows: BTreeMap::new(),
            epoch: 0,
            seq: 0,
            nonce: Nonce::from_bits(0),
            memory: BTreeMap::new(),
            reached: BTreeMap::new(),
            _db: db,
        };
        let sql =
            "SELECT ((extract(epoch FROM min(created_at)) - 946684800) * 1000000)::bigint FROM sms.outbox";
        // Inserted in one transaction.
        let made = CreatedAt(walk.root.query_one(sql, &[]).await.unwrap().get(0));
        for (id, seen) in walk.table().await {
            let row = Row {
                made,
                before: seen.clone(),
                seen,
                flights: Vec::new(),
                wild: id % 5 == 0,
                may_send: true,
                unrecorded: None,
                story: Vec::new(),
            };
            walk.rows.insert(id, row);
        }
        walk.new_epoch(&[]).await;
        walk
    }

    async fn table(&self) -> BTreeMap<i64, Seen> {
        let sql = "SELECT id, status, held, attempts, xmin::text::bigint FROM sms.outbox";
        let rows = self.root.query(sql, &[]).await.unwrap();
        let seen = rows.iter().map(|row| {
            let status = Status::parse(row.get(1)).expect("a status");
            let version = RowVersion(u32::try_from(row.get::<_, i64>(4)).unwrap());
            (row.get(0), Seen { status, held: row.get(2), attempts: row.get(3), version })
        });
        seen.collect()
    }

    /// Looks at every row after a deed, and at every change whether it may be.
    pub(super) async fn look(&mut self, deed: Deed) {
        for (id, found) in self.table().await {
            let row = self.rows.get_mut(&id).expect("no row comes or goes");
            let (from, to) = (row.seen.status, found.status);
            if found == row.seen {
                continue;
            }
            row.story
                .push(format!("{deed:?}: {from} -> {to}, attempt {}, held {}", found.attempts, found.held));
            if from != to {
                *self.reached.entry(to.as_str()).or_default() += 1;
                assert!(deed.may_take(from, to), "{}\n{id}: {:#?}", self.dice, row.story);
                row.may_send |= to == Status::Queued && deed.asks_for_another_attempt();
            }
            assert!(found.attempts >= row.seen.attempts, "{}\n{id}: {:#?}", self.dice, row.story);
            row.before = std::mem::replace(&mut row.seen, found);
        }
    }

    /// A message leaves. Nobody may know that an earlier attempt could have been taken.
    pub(super) fn departs(&mut self, flight: Flight) {
        let row = self.rows.get_mut(&flight.reference.id.0).expect("a row that was read");
        row.story.push(format!("attempt {} leaves: {:?}", flight.reference.attempt, flight.fate));
        assert!(
            row.may_send || row.wild,
            "{}\n{} is sent again, and nobody asked: {:#?}",
            self.dice,
            flight.reference.id,
            row.story
        );
        row.may_send = false;
        row.unrecorded = None;
        row.flights.push(flight);
    }

    /// The result of this attempt, if it is the latest, says that nothing was taken.
    pub(super) fn may_send_again(&mut self, id: i64, attempt: i32) {
        let row = self.rows.get_mut(&id).expect("a row that was sent");
        row.may_send |= row.flights.last().is_some_and(|flight| flight.reference.attempt == attempt);
    }

    /// About one in `times` of the rows.
    pub(super) fn some_ids(&mut self, times: usize) -> Vec<i64> {
        let ids: Vec<i64> = self.rows.keys().copied().collect();
        ids.into_iter().filter(|_| self.dice.one_in(times)).collect()
    }

    /// Keeps results for a failover, and what their rows looked like without them.
    pub(super) async fn remember(&mut self, batch: &[Record]) {
        let ids: Vec<i64> = batch.iter().map(|record| record.id.0).collect();
        let sql = "SELECT o.id, row_to_json(o)::text FROM sms.outbox AS o WHERE o.id = ANY ($1)";
        for row in self.root.query(sql, &[&ids]).await.unwrap() {
            self.rows.get_mut(&row.get(0)).expect("a row").unrecorded = Some(row.get(1));
        }
        for record in batch {
            let row = &self.rows[&record.id.0];
            let attempt = record.fits.attempts_after();
            let Some(flight) = row.flights.iter().find(|flight| flight.reference.attempt == attempt) else {
                continue;
            };
            let newer = self.memory.get(&record.id.0).is_none_or(|(_, known)| known.attempt <= attempt);
            if newer && matches!(record.status, Status::Accepted | Status::Unknown | Status::Failed) {
                self.memory.insert(record.id.0, (record.clone(), flight.reference));
            }
        }
    }

    /// What was not written cannot be lost.
    pub(super) fn were_not_written(&mut self, misfits: &[i64]) {
        for id in misfits {
            self.rows.get_mut(id).expect("a row").unrecorded = None;
        }
    }

    /// Waves of which every result is recorded.
    pub(super) fn finished_waves(&self) -> Vec<WaveKey> {
        let open = self.open_waves();
        let flights = self.rows.values().flat_map(|row| &row.flights);
        let mut waves: Vec<WaveKey> = flights
            .filter(|flight| flight.ours)
            .map(|flight| flight.wave)
            .filter(|wave| !open.contains(wave))
            .collect();
        waves.sort_unstable();
        waves.dedup();
        waves
    }

    /// Waves that the daemon that leads has still under way.
    pub(super) fn open_waves(&self) -> Vec<WaveKey> {
        let flights = self.rows.values().flat_map(|row| &row.flights);
        let mut waves: Vec<WaveKey> = flights
            .filter(|flight| flight.ours && flight.result.is_none())
            .map(|flight| flight.wave)
            .collect();
        waves.sort_unstable();
        waves.dedup();
        waves
    }

    /// The daemon that leads next knows none of them. With the other one ends the memory of what it recorded: a failover
    /// that loses that as well is nobody's promise.
    pub(super) fn forget_flights(&mut self) -> Vec<WaveKey> {
        for row in self.rows.values_mut() {
            row.flights.iter_mut().for_each(|flight| flight.ours = false);
            row.unrecorded = None;
        }
        self.memory.clear();
        Vec::new()
    }

    pub(super) async fn new_epoch(&mut self, own: &[WaveKey]) {
        self.nonce = Nonce::from_bits(self.dice.next());
        let term = self.store.take_over("walk", HOME, None, false).await.unwrap();
        self.epoch = term.epoch;
        self.store.mark_unknown(self.epoch, own).await.unwrap();
    }

    /// Puts rows back to where they were before their latest result; some are then held by a daemon that knew no better.
    pub(super) async fn lose_some_results(&mut self) {
        let ids = self.some_ids(6);
        for id in ids {
            let row = self.rows.get_mut(&id).expect("a row");
            let latest = row.flights.last().and_then(|flight| flight.result);
            let (Some(earlier), Some(result)) = (row.unrecorded.take(), latest) else { continue };
            let sql = "UPDATE sms.outbox AS o SET status = r.status, held = r.held, attempts = r.attempts, \
                       gateway_ref = r.gateway_ref, sent_via = r.sent_via, sent_at = r.sent_at, final_at = r.final_at, \
                       send_after = r.send_after, expires_at = r.expires_at \
                       FROM json_populate_record(NULL::sms.outbox, $1::text::json) AS r WHERE o.id = r.id";
            self.root.execute(sql, &[&earlier]).await.unwrap();
            row.may_send = result == Status::Queued;
            row.story.push(format!("the result {result} is lost"));
        }
        if self.dice.one_in(2) {
            let ids = self.some_ids(6);
            let sql = "UPDATE sms.outbox SET held = true WHERE id = ANY ($1) AND status = 'queued'";
            self.root.execute(sql, &[&ids]).await.unwrap();
        }
    }

    /// Takes the rows as they are after a loss, which no arrow leads to.
    pub(super) async fn look_at_what_was_lost(&mut self) {
        for (id, found) in self.table().await {
            let row = self.rows.get_mut(&id).expect("no row comes or goes");
            if found != row.seen {
                row.story
                    .push(format!("found {}, attempt {}, held {}", found.status, found.attempts, found.held));
                row.before = std::mem::replace(&mut row.seen, found);
            }
        }
    }
}
