//! Writes results into the database, in batches: as soon as a flush has returned, everything that has come in goes out;
//! where results come fast, also beside it. No result is dropped: what cannot be written now is kept and written later,
//! while `dispatch`, whose places stay taken, takes no new rows.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tracing::{debug, error, info, warn};

use crate::clock::{self, Moment};
use crate::engine::Event;
use crate::engine::complaints::Complaints;
use crate::engine::life::Life;
use crate::message::{MessageId, NotifyRef, Position, Status};
use crate::metrics::Outcome;
use crate::metrics::progress::{self, BREATH, Part};
use crate::store::failover::Fact;
use crate::store::queue::WaveKey;
use crate::store::record::{Fits, Misfit, RECORD, Record, Recorded};
use crate::store::{Store, StoreError};

/// Most results in one statement.
const BATCH: usize = 1000;
/// After a flush of so many, results come so fast that the next one pays for waiting a moment: a flush costs a commit,
/// however few it writes. Messages whose results wait keep their places, so it must be a moment only.
const BUSY: usize = 25;
const GATHERING: Duration = Duration::from_millis(1);
/// While one flush is under way, a second begins when so many results wait. A connection writes as fast as its one core
/// lets it, and two of them write more; but of half as many results each, they would cost as much as they bring.
const BESIDE: usize = 500;
/// A row that somebody has locked is tried again after this.
const LOCKED_PAUSE: Duration = Duration::from_millis(250);
/// Results that wait for somebody's lock for longer are worth a word.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// A record that the server refuses by itself is tried again after this: somebody may mend the schema.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);
/// Why a record that fits came to nothing.
const SUPPRESSED: &str = concat!(
    "it was carried out and changed nothing; a trigger or a rule of sms.outbox keeps rows from being changed, or ",
    "outboxd.may_become is not outboxd's own"
);
/// Finished waves wait for a batch of results to travel with, but no longer than this.
const FINISHED_PAUSE: Duration = Duration::from_millis(500);
/// First and longest pause while the database cannot be reached. The places of what is not written yet are taken: when the
/// database is back, nothing new may be sent until the next try.
const TROUBLE_MIN: Duration = Duration::from_millis(50);
const TROUBLE_MAX: Duration = Duration::from_millis(500);

/// A result and the place of its row.
#[derive(Debug)]
pub struct Entry {
    pub record: Record,
    pub position: Position,
}

#[derive(Debug)]
pub enum Job {
    Write(Entry),
    /// Every result of this wave is in the database.
    Finished(WaveKey),
}

/// What is remembered of a batch while it is being written.
#[derive(Debug)]
struct Batch {
    outlines: Vec<Outline>,
    positions: HashMap<MessageId, Position>,
    facts: Vec<Fact>,
}

/// How writing a batch ended, with the waves that are still to be finished.
type Written = (Batch, Result<Recorded, (StoreError, Vec<Record>)>, Vec<WaveKey>);

/// What is remembered of a record while it is being written.
#[derive(Debug)]
struct Outline {
    id: MessageId,
    queued: bool,
    gateway: Option<Arc<str>>,
    outcome: Option<Outcome>,
}

impl Outline {
    fn of(record: &Record) -> Outline {
        Outline {
            id: record.id,
            queued: record.status == Status::Queued && !record.held,
            gateway: record.gateway.clone(),
            outcome: Outcome::of(record.status, record.held),
        }
    }
}

/// A result that is accounted for.
#[derive(Debug)]
pub struct Done {
    pub id: MessageId,
    /// Where the row goes on waiting, if it does.
    pub queued_again: Option<Position>,
}

/// The recorder's task: ends when `jobs` is closed and everything is written.
#[derive(Debug)]
pub struct Recorder {
    store: Store,
    life: Arc<Life>,
    events: mpsc::Sender<Event>,
    pending: Vec<Entry>,
    /// Parts of a batch that the server refused, each to be written by itself: joined with others again, the record
    /// that is to blame would never stand alone, and hold up all of them.
    suspects: Vec<Vec<Entry>>,
    later: Vec<(Moment, Entry)>,
    /// Results that the server refused when they stood alone, and that are not written yet.
    refused: HashSet<MessageId>,
    /// Results whose rows somebody keeps locked, and since when.
    locked: HashMap<MessageId, Moment>,
    /// The log has that they wait.
    lock_said: bool,
    complaints: Complaints,
    finished: Vec<WaveKey>,
    finished_since: Option<Moment>,
    /// The newest flush carries many.
    busy: bool,
    /// Flushes under way, one or two.
    writing: FuturesUnordered<BoxFuture<'static, Written>>,
    trouble: Option<Trouble>,
}

/// The database does not take our results.
#[derive(Debug)]
struct Trouble {
    pause: Duration,
    until: Moment,
}

impl Recorder {
    pub fn new(store: Store, life: Arc<Life>, events: mpsc::Sender<Event>) -> Recorder {
        Recorder {
            store,
            life,
            events,
            pending: Vec::new(),
            suspects: Vec::new(),
            later: Vec::new(),
            refused: HashSet::new(),
            locked: HashMap::new(),
            lock_said: false,
            complaints: Complaints::default(),
            finished: Vec::new(),
            finished_since: None,
            busy: false,
            writing: FuturesUnordered::new(),
            trouble: None,
        }
    }

    /// `jobs` is unbounded in form only: `dispatch` never has more results outstanding than its places.
    pub async fn run(mut self, mut jobs: mpsc::UnboundedReceiver<Job>) {
        let at_work = self.life.progress.begin(Part::Recorder, progress::patient(self.store.patience()));
        let mut incoming = Vec::with_capacity(BATCH);
        let mut open = true;
        loop {
            // A flush that never ends is no getting on, however often we look.
            if self.writing.is_empty() {
                at_work.gets_on();
            }
            let now = clock::now();
            self.bring_back(now);
            if !self.may_begin(now) {
                if !open && self.writing.is_empty() && (self.is_empty() || self.may_leave_the_rest()) {
                    return;
                }
                // While results are being written, others gather and wake nobody.
                let listens = open && self.writing.is_empty();
                let rest = self.rest(now, open);
                tokio::select! {
                    Some(written) = self.writing.next() => {
                        self.settle(written).await;
                        at_work.gets_on();
                        if self.busy && open && self.writing.is_empty() {
                            tokio::time::sleep(GATHERING).await;
                        }
                    }
                    count = jobs.recv_many(&mut incoming, BATCH), if listens => open = count > 0,
                    () = tokio::time::sleep(rest) => {}
                }
            }
            while open && incoming.len() < BATCH {
                match jobs.try_recv() {
                    Ok(job) => incoming.push(job),
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    Err(mpsc::error::TryRecvError::Disconnected) => open = false,
                }
            }
            for job in incoming.drain(..) {
                match job {
                    Job::Write(entry) => self.pending.push(entry),
                    Job::Finished(wave) => {
                        self.finished.push(wave);
                        self.finished_since.get_or_insert(now);
                    }
                }
            }
            if !open {
                // Nothing more will come to travel with.
                self.finished_since = self.finished_since.map(|_| Moment::ZERO);
            }
            if self.may_begin(clock::now()) {
                self.begin();
            }
        }
    }

    fn may_begin(&self, now: Moment) -> bool {
        match self.writing.len() {
            0 => self.has_work(now) && self.trouble.as_ref().is_none_or(|trouble| trouble.until <= now),
            1 => self.pending.len() >= BESIDE && self.suspects.is_empty() && self.trouble.is_none(),
            _ => false,
        }
    }

    fn is_empty(&self) -> bool {
        self.pending.is_empty()
            && self.suspects.is_empty()
            && self.later.is_empty()
            && self.finished.is_empty()
    }

    /// Only finished waves are left, and the database is away, not only one connection: it was tried again. A takeover
    /// finds nothing open in them and deletes them.
    fn may_leave_the_rest(&self) -> bool {
        let away = self.trouble.as_ref().is_some_and(|trouble| trouble.pause > TROUBLE_MIN);
        away && self.pending.is_empty() && self.suspects.is_empty() && self.later.is_empty()
    }

    fn has_work(&self, now: Moment) -> bool {
        !self.pending.is_empty()
            || !self.suspects.is_empty()
            || self
                .finished_since
                .is_some_and(|since| now.since(since) >= FINISHED_PAUSE || since == Moment::ZERO)
    }

    fn rest(&self, now: Moment, open: bool) -> Duration {
        let until = |at: Moment| at.since(now);
        let mut rest = if open { BREATH } else { Duration::from_millis(50) };
        if self.writing.len() == 1 && self.busy && self.trouble.is_none() {
            rest = GATHERING;
        }
        if let Some(trouble) = &self.trouble {
            rest = rest.min(until(trouble.until));
        }
        if let Some(since) = self.finished_since {
            rest = rest.min(until(since + FINISHED_PAUSE));
        }
        if let Some(at) = self.later.iter().map(|(at, _)| *at).min() {
            rest = rest.min(until(at));
        }
        rest.max(Duration::from_millis(1))
    }

    fn bring_back(&mut self, now: Moment) {
        if self.later.iter().any(|(at, _)| *at <= now) {
            let (due, later) = std::mem::take(&mut self.later).into_iter().partition(|(at, _)| *at <= now);
            self.later = later;
            self.pending.extend(due.into_iter().map(|(_, entry)| entry));
        }
    }

    /// Begins to write what waits: it gets on when [`Recorder::writing`] is polled.
    fn begin(&mut self) {
        let mut entries = self.suspects.pop().unwrap_or_else(|| {
            let rest = self.pending.split_off(self.pending.len().min(BATCH));
            std::mem::replace(&mut self.pending, rest)
        });
        entries.sort_by_key(|entry| entry.record.id);
        let mut positions: HashMap<MessageId, Position> = HashMap::with_capacity(entries.len());
        let records: Vec<Record> = entries
            .into_iter()
            .map(|entry| {
                positions.insert(entry.record.id, entry.position);
                entry.record
            })
            .collect();
        let finished = std::mem::take(&mut self.finished);
        self.finished_since = None;
        self.busy = records.len() >= BUSY;
        let outlines = records.iter().map(Outline::of).collect();
        let batch = Batch { outlines, positions, facts: facts(&records) };
        let store = self.store.clone();
        self.writing.push(Box::pin(async move {
            match store.record(records, &finished).await {
                Err((StoreError::Locked { .. }, records)) => {
                    debug!("a row is locked by somebody; writing the others");
                    (batch, store.record_unlocked(records).await, finished)
                }
                Err(failed) => (batch, Err(failed), finished),
                Ok(recorded) => (batch, Ok(recorded), Vec::new()),
            }
        }));
    }

    async fn settle(&mut self, (batch, outcome, unfinished): Written) {
        let Batch { outlines, positions, facts } = batch;
        self.give_back_waves(unfinished);
        match outcome {
            Ok(recorded) => {
                if self.trouble.take().is_some() {
                    self.complaints.are_over(RECORD.name);
                    info!("results are being written again");
                }
                // Also what did not fit or was locked: it was sent all the same.
                self.life.memory.results.remember(facts, clock::now());
                self.account(recorded, &outlines, &positions).await;
            }
            Err((error @ (StoreError::Refused { .. } | StoreError::Answer { .. }), batch)) => {
                self.split_refused(batch, &positions, &error).await;
            }
            // Somebody has the whole table.
            Err((StoreError::Locked { .. }, batch)) if !batch.is_empty() => {
                self.wait_for_lock(batch, &positions).await;
            }
            Err((error, batch)) => {
                self.keep(batch, &positions);
                self.pause(&error);
            }
        }
    }

    fn give_back_waves(&mut self, finished: Vec<WaveKey>) {
        if !finished.is_empty() {
            self.finished.extend(finished);
            self.finished_since = Some(clock::now());
        }
    }

    fn keep(&mut self, batch: Vec<Record>, positions: &HashMap<MessageId, Position>) {
        self.pending.extend(batch.into_iter().map(|record| with_position(record, positions)));
    }

    fn pause(&mut self, error: &StoreError) {
        if self.complaints.is_news(error) {
            warn!(%error, waiting = self.pending.len(), "cannot write results; keeping them and taking no new rows");
        }
        let pause = self.trouble.as_ref().map_or(TROUBLE_MIN, |trouble| (trouble.pause * 2).min(TROUBLE_MAX));
        self.trouble = Some(Trouble { pause, until: clock::now() + pause });
    }

    async fn wait_for_lock(&mut self, batch: Vec<Record>, positions: &HashMap<MessageId, Position>) {
        let now = clock::now();
        for record in batch {
            self.locked.entry(record.id).or_insert(now);
            self.later.push((now + LOCKED_PAUSE, with_position(record, positions)));
        }
        if self.lock_said || self.locked.values().all(|since| now.since(*since) < LOCK_PATIENCE) {
            return;
        }
        self.lock_said = true;
        let holders = self.store.lock_holders(true).await.ok().flatten();
        let holders = holders.as_deref().unwrap_or("nobody whom we can see");
        warn!(
            results = self.locked.len(),
            holders,
            "results wait: somebody keeps their rows locked; they are written when that transaction ends"
        );
    }

    /// The server refuses the statement. If one record is to blame, the others must not wait for it: halves are tried
    /// until it stands alone.
    async fn split_refused(
        &mut self,
        mut batch: Vec<Record>,
        positions: &HashMap<MessageId, Position>,
        error: &StoreError,
    ) {
        if batch.len() > 1 {
            let half = batch.split_off(batch.len() / 2);
            for part in [half, batch] {
                self.suspects.push(part.into_iter().map(|r| with_position(r, positions)).collect());
            }
        } else {
            for record in batch {
                self.refuse(record, positions, error).await;
            }
        }
    }

    /// Keeps a result that the server refuses.
    async fn refuse(&mut self, record: Record, positions: &HashMap<MessageId, Position>, error: &StoreError) {
        let id = record.id;
        self.refused.insert(id);
        self.later.push((clock::now() + REFUSED_PAUSE, with_position(record, positions)));
        if self.complaints.is_news(error) {
            error!(message_id = id.0, %error, "PostgreSQL refuses to take a result; keeping it and trying again");
            // As with `Recorded`.
            let _ = self.events.send(Event::ResultsRefused(Some(error.to_string()))).await;
        } else {
            debug!(message_id = id.0, %error, "refused again, or for the same reason as others");
        }
    }

    async fn taken(&mut self, done: &[Done]) {
        for done in done {
            self.locked.remove(&done.id);
        }
        if self.locked.is_empty() && std::mem::take(&mut self.lock_said) {
            info!("no result waits for a lock any more");
        }
        if self.refused.is_empty() {
            return;
        }
        for done in done {
            self.refused.remove(&done.id);
        }
        if self.refused.is_empty() {
            self.complaints = Complaints::default();
            info!("no result is refused any more");
            let _ = self.events.send(Event::ResultsRefused(None)).await;
        }
    }

    async fn account(
        &mut self,
        recorded: Recorded,
        outlines: &[Outline],
        positions: &HashMap<MessageId, Position>,
    ) {
        let Recorded { locked, misfits } = recorded;
        let mut missing: HashMap<MessageId, Option<Position>> = HashMap::new();
        for record in &locked {
            missing.insert(record.id, None);
        }
        self.wait_for_lock(locked, positions).await;
        let again = clock::now() + LOCKED_PAUSE;
        let mut done: Vec<Done> = Vec::with_capacity(outlines.len());
        let mut notes: Vec<(Record, String)> = Vec::new();
        let mut before: HashSet<MessageId> = HashSet::new();
        for misfit in misfits {
            let id = misfit.record.id;
            if misfit.was_recorded_before() {
                before.insert(id);
            }
            missing.insert(id, None);
            if misfit.is_suppressed() {
                let reason = SUPPRESSED.to_owned();
                let error = StoreError::Refused { statement: "native/record", reason };
                self.refuse(misfit.record, positions, &error).await;
                continue;
            }
            done.push(Done { id, queued_again: after_misfit(&misfit, positions) });
            notes.extend(note_of(misfit));
        }
        for Outline { id, queued, .. } in outlines {
            if !missing.contains_key(id) {
                done.push(Done { id: *id, queued_again: positions.get(id).copied().filter(|_| *queued) });
            }
        }
        // What was found recorded already is a result of ours, whose commit had been in doubt.
        let written =
            outlines.iter().filter(|one| !missing.contains_key(&one.id) || before.contains(&one.id));
        let counted = written.filter_map(|one| Some((one.gateway.as_deref(), one.outcome?)));
        self.life.metrics.recorded(counted);
        if !notes.is_empty() {
            match self.store.note_attempts(&notes).await {
                Ok(()) => {
                    for (record, note) in notes {
                        let id = record.id.0;
                        warn!(message_id = id, result = %record.status, note, "a result no longer fits its row");
                    }
                }
                Err(error) => {
                    debug!(%error, "could not note these results yet");
                    done.retain(|done| notes.iter().all(|(record, _)| record.id != done.id));
                    let refused = matches!(error, StoreError::Refused { .. } | StoreError::Answer { .. });
                    for (record, _) in notes {
                        if refused {
                            self.refuse(record, positions, &error).await;
                        } else {
                            self.later.push((again, with_position(record, positions)));
                        }
                    }
                }
            }
        }
        self.taken(&done).await;
        // Dispatch waits for these; when it is gone, the process is going down and the rows are written.
        let _ = self.events.send(Event::Recorded(done)).await;
    }
}

/// What a failover must not make us forget: what was sent, or may have been, or was refused by the gateway.
fn facts(batch: &[Record]) -> Vec<Fact> {
    batch
        .iter()
        .filter(|record| matches!(record.status, Status::Accepted | Status::Unknown | Status::Failed))
        .filter_map(|record| {
            let Fits::Attempt { number: attempt, row_made } = record.fits else { return None };
            Some(Fact {
                id: record.id,
                row_made,
                attempt,
                status: record.status,
                gateway: Arc::clone(record.gateway.as_ref()?),
                reference: NotifyRef::parse(record.gateway_ref.as_deref()?)?,
            })
        })
        .collect()
}

fn with_position(record: Record, positions: &HashMap<MessageId, Position>) -> Entry {
    let position = positions.get(&record.id).copied().unwrap_or(Position::START);
    Entry { record, position }
}

/// A row that changed before it could be refused, or that has the id of another now, is looked at again.
fn after_misfit(misfit: &Misfit, positions: &HashMap<MessageId, Position>) -> Option<Position> {
    let requeued = match misfit.record.fits {
        Fits::Unchanged { .. } => misfit.found.is_some(),
        Fits::Attempt { .. } => {
            misfit.found.as_ref().is_some_and(|found| found.status == Some(Status::Queued))
        }
    };
    positions.get(&misfit.record.id).copied().filter(|_| requeued)
}

/// What is worth keeping of a result that fits no row: that something was, or may have been, sent.
fn note_of(misfit: Misfit) -> Option<(Record, String)> {
    if misfit.was_recorded_before() || matches!(misfit.record.fits, Fits::Unchanged { .. }) {
        return None;
    }
    let note = match (&misfit.found, misfit.record.status) {
        (_, Status::Queued | Status::Expired | Status::Cancelled) => return None,
        (None, _) => {
            "its row was gone when the answer came: deleted, moved away, or hidden by a policy".to_owned()
        }
        (Some(_), _) if misfit.is_of_another() => {
            "its row was deleted while it was under way, and another message has its id now".to_owned()
        }
        (Some(found), _) => {
            let status = found.status.map_or("in an unknown state", Status::as_str);
            format!("the row is {status} after {} attempts and was left as it is", found.attempts)
        }
    };
    Some((misfit.record, note))
}
