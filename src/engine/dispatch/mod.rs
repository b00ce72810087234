//! The leader's one deciding task: what to read, what to send, what an answer means. It owns all state of the queue and
//! waits for nothing: reading, waves and requests run beside it and come back as events.
//!
//! `reading` takes pages in, `waves` sends, `answers` turns verdicts into records and gateway states, `together` those of
//! messages that shared a request, `upkeep` is what happens by the clock, `alarms` tells people.

mod alarms;
mod answers;
mod gateways;
mod launch;
mod quickness;
mod reading;
mod together;
mod uncertain;
mod upkeep;
mod waves;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::clock::{self, Moment};
use crate::compose::{Composer, Templates};
use crate::config::{self, Config};
use crate::engine::Event;
use crate::engine::dispatch::alarms::Alarms;
use crate::engine::dispatch::gateways::GatewayRun;
use crate::engine::lead::{Leading, Lease};
use crate::engine::life::Life;
use crate::engine::plan::{Plan, Ready};
use crate::engine::record::Job;
use crate::engine::route::Router;
use crate::engine::wake::Wakefulness;
use crate::gateway::Gateway;
use crate::message::{Encoding, MessageId, Position, Status};
use crate::metrics::progress::{BREATH, PROMPT, Part};
use crate::store::failover::Uncertain;
use crate::store::queue::{self, DueRow, WaveKey};
use crate::store::record::{Fits, Record};
use crate::store::{Statement, Store, StoreError};

/// Events taken in before the next look at what is to be done.
const EVENTS_AT_ONCE: usize = 512;
/// A lock that is met for longer is worth a word.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// Pause after the database failed us.
const TROUBLE_PAUSE: Duration = Duration::from_millis(250);
/// Pause after somebody else's lock kept us out: whoever takes it takes it for a moment.
const LOCKED_PAUSE: Duration = Duration::from_millis(50);
/// A statement may be refused for some rows and work for others, or for none: what was refused works again when it was
/// not refused for so long.
const CALM: Duration = Duration::from_secs(3);

/// What `dispatch` is made of.
#[derive(Debug)]
pub struct Parts {
    pub config: Arc<Config>,
    pub store: Store,
    /// In the order of their names.
    pub gateways: Vec<Arc<Gateway>>,
    pub lease: Arc<Lease>,
    pub life: Arc<Life>,
    /// Notifications are listened to: the doorbell may be relied upon while its triggers are there.
    pub listening: bool,
    pub events: mpsc::Sender<Event>,
    pub recorder: mpsc::UnboundedSender<Job>,
}

#[derive(Debug)]
pub struct Dispatch {
    config: Arc<Config>,
    store: Store,
    life: Arc<Life>,
    lease: Arc<Lease>,
    listening: bool,
    events: mpsc::Sender<Event>,
    recorder: mpsc::UnboundedSender<Job>,
    /// Requests under way.
    attempts: JoinSet<()>,
    /// Statements under way.
    jobs: JoinSet<()>,
    plan: Plan,
    gateways: Vec<GatewayRun>,
    router: Router,
    composer: Composer,
    templates: TemplateState,
    /// A reading of the templates is under way.
    reading_templates: bool,
    /// Rows that wait for templates to be read again before they are judged.
    doubtful: Vec<DueRow>,
    term: Option<Term>,
    flights: HashMap<MessageId, Flight>,
    waves: HashMap<WaveKey, usize>,
    cooling: Vec<Cooling>,
    /// Messages that must not share a request: one that they shared was refused, and that may be another's fault.
    alone: HashSet<MessageId>,
    alarms: Alarms,
    wakefulness: Wakefulness,
    clockwork: upkeep::Clockwork,
    /// The database failed us: nothing is read or begun until then.
    trouble: Option<Moment>,
    stopping: Option<Moment>,
}

/// Our present leadership.
#[derive(Debug)]
struct Term {
    epoch: i64,
    /// Of the server that it began on.
    timeline: i32,
    next_seq: i64,
    /// Why nothing may be sent.
    held: Option<String>,
    /// What may have been sent before a failover is set aside instead.
    uncertain: Option<Uncertain>,
}

/// A message between the commit of its wave and the recording of its result.
#[derive(Debug)]
struct Flight {
    wave: WaveKey,
    fits: Fits,
    timeline: i32,
    position: Position,
    gateway_ref: String,
    encoding: Encoding,
    segments: i16,
    answered: bool,
    /// How long the row is left alone before it is tried again, when its attempt came to nothing.
    pause: Option<Duration>,
}

/// A row that is left alone for a while.
#[derive(Debug)]
struct Cooling {
    until: Moment,
    id: MessageId,
    position: Position,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TemplateState {
    Stale,
    Loading,
    Loaded,
}

impl Dispatch {
    pub fn new(parts: Parts) -> Dispatch {
        let Parts { config, store, gateways, lease, life, listening, events, recorder } = parts;
        let now = clock::now();
        let runs: Vec<GatewayRun> = gateways
            .into_iter()
            .zip(config.gateways.values())
            .map(|(gateway, settings)| {
                let metrics = life.metrics.gateway(&settings.name);
                GatewayRun::new(gateway, settings, &lease, (metrics, now))
            })
            .collect();
        let ahead = config.gateways.values().map(config::Gateway::messages_ahead);
        let limits: Vec<(Arc<str>, usize)> =
            runs.iter().map(|run| Arc::clone(&run.name)).zip(ahead).collect();
        Dispatch {
            plan: Plan::new(&limits, config.queue.lookahead),
            router: Router::new(&config.routing, config.gateways.keys().map(String::as_str)),
            composer: Composer::new(config.text.clone(), Templates::default()),
            wakefulness: Wakefulness::new(listening, config.queue.poll_interval, now),
            clockwork: upkeep::Clockwork::new(now),
            config,
            store,
            life,
            lease,
            listening,
            events,
            recorder,
            attempts: JoinSet::new(),
            jobs: JoinSet::new(),
            gateways: runs,
            templates: TemplateState::Stale,
            reading_templates: false,
            doubtful: Vec::new(),
            term: None,
            flights: HashMap::new(),
            waves: HashMap::new(),
            cooling: Vec::new(),
            alone: HashSet::new(),
            alarms: Alarms::new(),
            trouble: None,
            stopping: None,
        }
    }

    /// Runs until it was told to stop and everything under way is accounted for. Dropping the recorder's sender at the
    /// end lets the recorder finish.
    pub async fn run(mut self, mut incoming: mpsc::Receiver<Event>) {
        let at_work = self.life.progress.begin(Part::Dispatch, PROMPT);
        let mut events = Vec::with_capacity(EVENTS_AT_ONCE);
        loop {
            at_work.gets_on();
            let now = clock::now();
            self.act(now);
            self.publish();
            if self.is_done() {
                break;
            }
            let deadline = self.next_at(now).since(now).clamp(Duration::from_millis(1), BREATH);
            tokio::select! {
                count = incoming.recv_many(&mut events, EVENTS_AT_ONCE) => if count == 0 { break },
                () = tokio::time::sleep(deadline) => {}
            }
            let now = clock::now();
            for event in events.drain(..) {
                self.take_in(event, now);
            }
            while self.attempts.try_join_next().is_some() {}
            while self.jobs.try_join_next().is_some() {}
        }
    }

    fn act(&mut self, now: Moment) {
        if self.trouble.is_some_and(|until| until <= now) {
            self.trouble = None;
            self.plan.wake();
        }
        self.end_pauses(now);
        self.end_cooling(now);
        if self.may_send() {
            self.keep_up(now);
            if self.trouble.is_none() {
                self.read_on(now);
                self.send_waves(now);
            }
        } else if self.stopping.is_none() {
            // Held: the end of it is an order as well.
            self.ask_orders(now);
        }
        self.check_grace(now);
    }

    /// What a page of metrics says of the queue in memory. Stores a few numbers and takes no lock.
    fn publish(&self) {
        let metrics = &self.life.metrics;
        metrics.waves_open.store(self.waves.len(), Ordering::Relaxed);
        let held = self.term.as_ref().is_some_and(|term| term.held.is_some());
        metrics.held.store(held, Ordering::Relaxed);
        for (index, run) in self.gateways.iter().enumerate() {
            run.publish(self.term.is_some(), |lane| self.plan.ready_in(index, lane));
        }
    }

    /// We lead, nothing is held, and nobody told us to stop.
    fn may_send(&self) -> bool {
        self.stopping.is_none() && self.term.as_ref().is_some_and(|term| term.held.is_none())
    }

    fn take_in(&mut self, event: Event, now: Moment) {
        match event {
            Event::Lead(leading) => self.begin_term(leading, now),
            Event::Deposed => self.end_term(),
            Event::Heard(heard) => self.heard(&heard),
            Event::Ears(ears) => {
                self.life.metrics.listening.store(ears, Ordering::Relaxed);
                self.wakefulness.set_ears(ears, now);
                self.plan.wake();
            }
            Event::Page { read, rows, cost } => self.page_came(&read, rows, cost, now),
            Event::Wave { gateway, wave, taken, outcome } => {
                self.wave_came(gateway, wave, taken, outcome, now);
            }
            Event::Answer { gateway, id, verdict } => self.answer_came(gateway, id, verdict, now),
            Event::JointAnswer { gateway, ids, joint } => self.joint_answer_came(gateway, &ids, joint, now),
            Event::Recorded(done) => self.recorded(done, now),
            Event::ResultsRefused(reason) => self.results_refused(reason),
            Event::Probed { gateway, result } => self.probed(gateway, result, now),
            Event::Templates(rows) => self.templates_came(rows, now),
            Event::NextDue(due) => self.next_due_came(due, now),
            Event::Doorbell(found) => self.doorbell_came(found, now),
            Event::Orders { epoch, orders } => self.orders_came(epoch, orders, now),
            Event::FellAsleep(falling, outcome) => {
                self.wakefulness.fell_asleep(&falling, outcome.is_ok());
                self.plan.wake();
            }
            Event::Swept => self.plan.wake(),
            Event::Settled => {
                self.clockwork.ask_orders_now();
                self.plan.wake();
            }
            Event::Stop { grace } => self.begin_stop(now + grace),
        }
    }

    fn begin_term(&mut self, leading: Leading, now: Moment) {
        self.plan.start_over();
        self.plan.wake();
        self.trouble = None;
        self.templates = TemplateState::Stale;
        self.forget_doubtful();
        if let Some(reason) = &leading.held {
            warn!(reason, "everything is held; nothing is sent");
        }
        self.term = Some(Term {
            epoch: leading.epoch,
            timeline: leading.timeline,
            next_seq: 1,
            held: leading.held,
            uncertain: leading.uncertain,
        });
        self.wakefulness.start_over(now);
        self.clockwork.start_over(now);
        self.show_all_gateways();
        self.show_all_alarms();
        self.ask_whether_together();
    }

    fn end_term(&mut self) {
        self.term = None;
        self.forget_doubtful();
        self.plan.start_over();
        for index in 0..self.gateways.len() {
            self.hold_back(index);
        }
    }

    fn begin_stop(&mut self, until: Moment) {
        // A second request to stop may only shorten the wait.
        let until = self.stopping.map_or(until, |present| present.min(until));
        if self.stopping.is_none() {
            info!(under_way = self.flights.len(), "stopping: nothing new is sent, waiting for answers");
        }
        self.stopping = Some(until);
        for index in 0..self.gateways.len() {
            self.hold_back(index);
        }
    }

    /// The grace period is over: what has no answer is unknown.
    fn check_grace(&mut self, now: Moment) {
        if self.stopping.is_none_or(|until| until > now) {
            return;
        }
        let cut_off: Vec<MessageId> =
            self.flights.iter().filter(|(_, flight)| !flight.answered).map(|(id, _)| *id).collect();
        if cut_off.is_empty() {
            return;
        }
        self.attempts.abort_all();
        warn!(messages = cut_off.len(), "stopping without waiting longer: their outcome is unknown");
        for id in cut_off {
            self.record_flight(
                id,
                &answers::Outcome::unknown("the daemon was stopped before the gateway answered"),
            );
        }
    }

    /// Told to stop, and everything is accounted for. How long that may take is the business of whoever told us.
    fn is_done(&self) -> bool {
        let committing = self.gateways.iter().any(|run| run.committing);
        self.stopping.is_some() && self.flights.is_empty() && !committing
    }

    fn next_at(&self, now: Moment) -> Moment {
        let mut next = now + Duration::from_secs(60);
        let mut consider = |at: Option<Moment>| next = at.map_or(next, |at| next.min(at));
        consider(
            self.stopping.map(|until| if until > now { until } else { now + Duration::from_millis(50) }),
        );
        for run in &self.gateways {
            consider(run.health.next_at());
        }
        consider(self.cooling.iter().map(|row| row.until).min());
        if self.may_send() {
            consider(Some(self.wakefulness.next_at()));
            consider(self.clockwork.next_at());
            consider(self.clockwork.next_question());
            consider(self.trouble);
            if self.trouble.is_none() {
                consider(self.plan.next_at(now));
                for (index, run) in self.gateways.iter().enumerate() {
                    if !run.committing && self.plan.has_ready(index) && self.plan.room_for_wave(index) > 0 {
                        consider(run.pace.next_at(now));
                    }
                }
            }
        } else if self.term.is_some() && self.stopping.is_none() {
            consider(self.clockwork.orders_at());
        }
        next
    }

    /// The database did not do what we asked.
    fn database_failed(&mut self, error: &StoreError, now: Moment) {
        if let StoreError::Locked { statement } = error {
            self.lock_met(statement, now);
            self.trouble = self.trouble.max(Some(now + LOCKED_PAUSE));
            return;
        }
        if let (Some(statement), false) = (error.statement(), matches!(error, StoreError::InDoubt { .. })) {
            self.clockwork.refused.insert(statement, upkeep::Refused { last: now, worked: false });
        }
        if self.clockwork.complaints.is_news(error) {
            warn!(%error, "the database does not answer as it should; trying again");
            if matches!(error, StoreError::Refused { .. } | StoreError::Answer { .. }) {
                let text = format!("what needs this statement waits: {error}; see outboxd check");
                let _news = self.alarm(|alarms| &mut alarms.statements, Some(text));
            }
        }
        self.trouble = Some(now + TROUBLE_PAUSE);
    }

    fn database_works(&mut self, statement: Statement, now: Moment) {
        match self.clockwork.refused.get_mut(statement.name) {
            Some(refused) if now.since(refused.last) < CALM => refused.worked = true,
            _ => self.not_refused(statement.name),
        }
        let free = self.clockwork.lock_met.take_if(|met| met.statement == statement.name);
        if free.is_some_and(|met| met.said) {
            info!(statement = statement.name, "the lock is gone");
        }
    }

    /// What was refused last a while ago, and has worked since, works again.
    pub(super) fn settle_refused(&mut self, now: Moment) {
        let refused = self.clockwork.refused.iter();
        let settled = refused.filter(|(_, refused)| refused.worked && now.since(refused.last) >= CALM);
        let settled: Vec<&'static str> = settled.map(|(statement, _)| *statement).collect();
        for statement in settled {
            self.not_refused(statement);
        }
    }

    fn not_refused(&mut self, statement: &'static str) {
        self.clockwork.refused.remove(statement);
        if self.clockwork.complaints.are_over(statement) {
            info!("the database works again");
            let _news = self.alarm(|alarms| &mut alarms.statements, None);
        }
    }

    /// A short lock is nobody's business. One that keeps us from reading or from sending is told, and whose it is.
    fn lock_met(&mut self, statement: &'static str, now: Moment) {
        if statement != queue::DISCOVER.name && statement != queue::WAVE.name {
            return;
        }
        let met =
            self.clockwork.lock_met.get_or_insert(upkeep::LockMet { statement, since: now, said: false });
        if met.said || met.statement != statement || now.since(met.since) < LOCK_PATIENCE {
            return;
        }
        met.said = true;
        let store = self.store.clone();
        self.ask(async move {
            let holders = store.lock_holders(false).await.ok().flatten();
            let holders = holders.as_deref().unwrap_or("nobody whom we can see");
            warn!(
                statement,
                holders, "nothing is sent: somebody holds a lock; it goes on when that transaction ends"
            );
            None
        });
    }

    /// Runs a statement beside us; its event comes back.
    fn ask<F>(&mut self, work: F)
    where
        F: Future<Output = Option<Event>> + Send + 'static,
    {
        let events = self.events.clone();
        self.jobs.spawn(async move {
            if let Some(event) = work.await {
                // Closed only when we are going down.
                let _ = events.send(event).await;
            }
        });
    }

    fn write(&self, record: Record, position: Position) {
        // Closed only when the recorder has panicked; then the process goes down and the wave tells what was under way.
        let _ = self.recorder.send(Job::Write(crate::engine::record::Entry { record, position }));
    }

    /// A record about a row that was judged without a wave.
    fn write_judgement(
        &mut self,
        ready: &Judged,
        status: Status,
        held: bool,
        code: &'static str,
        reason: &str,
    ) {
        let Some(term) = &self.term else { return };
        let timeline = term.timeline;
        self.plan.set_aside(ready.id, ready.position.1, ready.version);
        let record = Record {
            id: ready.id,
            fits: Fits::Unchanged { attempts: ready.attempts, version: ready.version },
            timeline,
            status,
            held,
            gateway: None,
            gateway_ref: None,
            gateway_message_id: None,
            error_code: Some(code),
            error: Some(answers::presentable(reason)),
            encoding: None,
            segments: None,
        };
        self.write(record, ready.position.0);
    }
}

/// A row that is judged by what it says.
#[derive(Debug, Clone, Copy)]
struct Judged {
    id: MessageId,
    version: crate::message::RowVersion,
    attempts: i32,
    position: (Position, crate::message::Lane),
}

impl Judged {
    fn of(due: &DueRow) -> Judged {
        Judged {
            id: due.row.id,
            version: due.row.version,
            attempts: due.row.attempts,
            position: (due.row.position(), due.row.lane),
        }
    }
}

impl From<&Ready> for Judged {
    fn from(ready: &Ready) -> Judged {
        Judged {
            id: ready.id,
            version: ready.version,
            attempts: ready.attempts,
            position: (ready.position, ready.lane),
        }
    }
}
