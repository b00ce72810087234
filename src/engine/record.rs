//! Writes results into the database, in batches: as soon as the last flush has returned, everything that has come in
//! goes out. No result is dropped: what cannot be written now is kept and written later, while `dispatch`, whose
//! places stay taken, takes no new rows.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{debug, error, info, warn};

use crate::clock::{self, Moment};
use crate::engine::Event;
use crate::engine::lead::Life;
use crate::message::{MessageId, NotifyRef, Position, Status};
use crate::store::failover::Fact;
use crate::store::queue::WaveKey;
use crate::store::record::{Fits, Misfit, Record, Recorded};
use crate::store::{Store, StoreError};

/// Most results in one statement.
const BATCH: usize = 1000;
/// A row that somebody has locked is tried again after this.
const LOCKED_PAUSE: Duration = Duration::from_millis(250);
/// A record that the server refuses by itself is tried again after this: somebody may mend the schema.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);
/// Finished waves wait for a batch of results to travel with, but no longer than this.
const FINISHED_PAUSE: Duration = Duration::from_millis(500);
/// First and longest pause while the database cannot be reached.
const TROUBLE_MIN: Duration = Duration::from_millis(50);
const TROUBLE_MAX: Duration = Duration::from_secs(2);

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
    finished: Vec<WaveKey>,
    finished_since: Option<Moment>,
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
            finished: Vec::new(),
            finished_since: None,
            trouble: None,
        }
    }

    /// `jobs` is unbounded in form only: `dispatch` never has more results outstanding than its places.
    pub async fn run(mut self, mut jobs: mpsc::UnboundedReceiver<Job>) {
        let mut incoming = Vec::with_capacity(BATCH);
        let mut open = true;
        loop {
            let now = clock::now();
            self.bring_back(now);
            let ready = self.has_work(now) && self.trouble.as_ref().is_none_or(|t| t.until <= now);
            if !ready {
                if !open && self.is_empty() {
                    return;
                }
                tokio::select! {
                    count = jobs.recv_many(&mut incoming, BATCH), if open => open = count > 0,
                    () = tokio::time::sleep(self.rest(now, open)) => {}
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
            let now = clock::now();
            if self.has_work(now) && self.trouble.as_ref().is_none_or(|t| t.until <= now) {
                self.flush().await;
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.pending.is_empty()
            && self.suspects.is_empty()
            && self.later.is_empty()
            && self.finished.is_empty()
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
        let mut rest = if open { Duration::from_secs(3600) } else { Duration::from_millis(50) };
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

    async fn flush(&mut self) {
        let mut entries = self.suspects.pop().unwrap_or_else(|| {
            let rest = self.pending.split_off(self.pending.len().min(BATCH));
            std::mem::replace(&mut self.pending, rest)
        });
        entries.sort_by_key(|entry| entry.record.id);
        let mut positions: HashMap<MessageId, Position> = HashMap::with_capacity(entries.len());
        let batch: Vec<Record> = entries
            .into_iter()
            .map(|entry| {
                positions.insert(entry.record.id, entry.position);
                entry.record
            })
            .collect();
        let finished = std::mem::take(&mut self.finished);
        self.finished_since = None;
        let sizes: Vec<(MessageId, bool)> =
            batch.iter().map(|r| (r.id, r.status == Status::Queued && !r.held)).collect();
        let facts = facts(&batch);
        let outcome = match self.store.record(batch, &finished).await {
            Err((StoreError::Locked { .. }, batch)) => {
                debug!("a row is locked by somebody; writing the others");
                self.give_back_waves(finished);
                self.store.record_unlocked(batch).await
            }
            Err((error, batch)) => {
                self.give_back_waves(finished);
                Err((error, batch))
            }
            Ok(recorded) => Ok(recorded),
        };
        match outcome {
            Ok(recorded) => {
                if self.trouble.take().is_some() {
                    info!("results are being written again");
                }
                // Also what did not fit or was locked: it was sent all the same.
                self.life.memory.remember(facts, clock::now());
                self.account(recorded, &sizes, &positions).await;
            }
            Err((StoreError::Refused { reason, .. } | StoreError::Answer { reason, .. }, batch)) => {
                self.split_refused(batch, &positions, &reason);
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
        let pause = match &self.trouble {
            None => {
                warn!(%error, waiting = self.pending.len(), "cannot write results; keeping them and taking no new rows");
                TROUBLE_MIN
            }
            Some(trouble) => (trouble.pause * 2).min(TROUBLE_MAX),
        };
        self.trouble = Some(Trouble { pause, until: clock::now() + pause });
    }

    /// The server refuses the statement. If one record is to blame, the others must not wait for it: halves are tried
    /// until it stands alone.
    fn split_refused(
        &mut self,
        mut batch: Vec<Record>,
        positions: &HashMap<MessageId, Position>,
        reason: &str,
    ) {
        if batch.len() > 1 {
            let half = batch.split_off(batch.len() / 2);
            for part in [half, batch] {
                self.suspects.push(part.into_iter().map(|r| with_position(r, positions)).collect());
            }
        } else {
            for record in batch {
                error!(message_id = record.id.0, reason, "PostgreSQL refuses to take a result; trying again");
                self.later.push((clock::now() + REFUSED_PAUSE, with_position(record, positions)));
            }
        }
    }

    async fn account(
        &mut self,
        recorded: Recorded,
        sizes: &[(MessageId, bool)],
        positions: &HashMap<MessageId, Position>,
    ) {
        let Recorded { locked, misfits } = recorded;
        let mut missing: HashMap<MessageId, Option<Position>> = HashMap::new();
        for record in &locked {
            missing.insert(record.id, None);
        }
        let again = clock::now() + LOCKED_PAUSE;
        self.later.extend(locked.into_iter().map(|record| (again, with_position(record, positions))));
        let mut done: Vec<Done> = Vec::with_capacity(sizes.len());
        let mut notes: Vec<(Record, String)> = Vec::new();
        for misfit in misfits {
            let id = misfit.record.id;
            missing.insert(id, None);
            done.push(Done { id, queued_again: after_misfit(&misfit, positions) });
            notes.extend(note_of(misfit));
        }
        for (id, queued) in sizes {
            if !missing.contains_key(id) {
                done.push(Done { id: *id, queued_again: positions.get(id).copied().filter(|_| *queued) });
            }
        }
        if !notes.is_empty() {
            for (record, note) in &notes {
                warn!(message_id = record.id.0, result = %record.status, note, "a result no longer fits its row");
            }
            match self.store.note_attempts(&notes).await {
                Ok(()) => {}
                Err(error @ (StoreError::Refused { .. } | StoreError::Answer { .. })) => {
                    error!(%error, "could not write these results into outboxd.attempt either");
                }
                Err(error) => {
                    debug!(%error, "could not note these results yet");
                    done.retain(|done| notes.iter().all(|(record, _)| record.id != done.id));
                    self.later.extend(notes.into_iter().map(|(r, _)| (again, with_position(r, positions))));
                }
            }
        }
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
            let Fits::Attempt(attempt) = record.fits else { return None };
            Some(Fact {
                id: record.id,
                created_at_us: record.created_at_us,
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

/// A row that changed before it could be refused is looked at again.
fn after_misfit(misfit: &Misfit, positions: &HashMap<MessageId, Position>) -> Option<Position> {
    let requeued = match misfit.record.fits {
        Fits::Unchanged { .. } => misfit.found.is_some(),
        Fits::Attempt(_) => misfit.found.as_ref().is_some_and(|found| found.status == Some(Status::Queued)),
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
        (None, _) => "the row was deleted while its message was under way".to_owned(),
        (Some(found), _) => {
            let status = found.status.map_or("in an unknown state", Status::as_str);
            format!("the row is {status} after {} attempts and was left as it is", found.attempts)
        }
    };
    Some((misfit.record, note))
}
