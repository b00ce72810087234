//! What a verdict does to its message and to its gateway.

use std::sync::Arc;

use tracing::{debug, error, info, trace, warn};

use crate::clock::Moment;
use crate::engine::Event;
use crate::engine::dispatch::gateways::Showing;
use crate::engine::dispatch::{Cooling, Dispatch};
use crate::engine::plan::GatewayIndex;
use crate::engine::record::Done;
use crate::gateway::ProbeFailure;
use crate::message::{MessageId, Status};
use crate::policy::{Change, PauseEnd, State};
use crate::store::record::Record;
use crate::telemetry::WAY;
use crate::verdict::{DeferCause, Verdict};

/// Pauses in a row after which a person should know.
const PAUSES_BEFORE_ALARM: u32 = 3;
/// Longest error text written into a row.
const ERROR_CHARS: usize = 500;

/// A verdict in the words of the row.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    pub(super) status: Status,
    pub(super) error_code: Option<&'static str>,
    pub(super) error: Option<String>,
    pub(super) gateway_message_id: Option<String>,
}

impl Outcome {
    pub(super) fn unknown(reason: &str) -> Outcome {
        Outcome {
            status: Status::Unknown,
            error_code: Some("outcome_unknown"),
            error: Some(presentable(reason)),
            gateway_message_id: None,
        }
    }

    pub(super) fn not_started() -> Outcome {
        Outcome { status: Status::Queued, error_code: None, error: None, gateway_message_id: None }
    }

    pub(super) fn of(verdict: Verdict) -> Outcome {
        match verdict {
            Verdict::Accepted { gateway_message_id, note } => Outcome {
                status: Status::Accepted,
                error_code: None,
                error: note.map(|note| presentable(&note)),
                gateway_message_id: gateway_message_id.map(|id| presentable(&id)),
            },
            Verdict::Rejected { code, reason } => Outcome {
                status: Status::Failed,
                error_code: Some(code),
                error: Some(presentable(&reason)),
                gateway_message_id: None,
            },
            Verdict::Deferred { cause: DeferCause::NotStarted, .. } => Outcome::not_started(),
            Verdict::Deferred { cause, reason, .. } => Outcome {
                status: Status::Queued,
                error_code: Some(cause.as_str()),
                error: Some(presentable(&reason)),
                gateway_message_id: None,
            },
            Verdict::Unknown { reason } => Outcome::unknown(&reason),
        }
    }
}

/// Text from outside as it may stand in a column: no control characters (PostgreSQL takes no NUL), not too long.
pub(super) fn presentable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(ERROR_CHARS).collect()
}

impl Dispatch {
    pub(super) fn answer_came(&mut self, index: GatewayIndex, id: MessageId, verdict: Verdict, now: Moment) {
        let run = &mut self.gateways[index];
        run.running = run.running.saturating_sub(1);
        run.quickness.one_answer(now);
        let Some(flight) = self.flights.get(&id).filter(|flight| !flight.answered) else {
            // Declared unknown at the end of the grace period; its true result would have been welcome.
            self.launch(index);
            return;
        };
        if !self.alone.is_empty() && !matches!(verdict, Verdict::Deferred { .. }) {
            self.alone.remove(&id);
        }
        match &verdict {
            Verdict::Accepted { .. } => debug!(message_id = id.0, gateway = %run.name, "accepted"),
            Verdict::Rejected { code, .. } => {
                info!(message_id = id.0, gateway = %run.name, code, "refused by the gateway");
            }
            Verdict::Deferred { cause, .. } => {
                debug!(message_id = id.0, gateway = %run.name, cause = cause.as_str(), "deferred");
            }
            Verdict::Unknown { reason } => {
                warn!(message_id = id.0, gateway = %run.name, reason, "the outcome is unknown");
            }
        }
        let change = run.health.observe(&verdict, (id, &flight.gateway_ref), now, jitter(now));
        let pause = run.health.row_pause(&verdict, flight.fits.attempts_after(), jitter(now));
        if let Some(flight) = self.flights.get_mut(&id) {
            flight.pause = pause;
        }
        self.record_flight(id, &Outcome::of(verdict));
        self.apply(index, &change);
        self.launch(index);
    }

    /// Hands the result of an attempt to the recorder.
    pub(super) fn record_flight(&mut self, id: MessageId, outcome: &Outcome) {
        let Some(flight) = self.flights.get_mut(&id) else { return };
        flight.answered = true;
        if outcome.status == Status::Queued {
            // After a failover there is nothing to say of it, and its row may be under way elsewhere.
            self.life.own_waves.is_over(flight.wave, id);
        }
        let gateway = self.plan.gateway_of(id).map(|index| Arc::clone(&self.gateways[index].name));
        let Some(flight) = self.flights.get(&id) else { return };
        let record = Record {
            id,
            fits: flight.fits,
            timeline: flight.timeline,
            status: outcome.status,
            held: false,
            gateway,
            gateway_ref: Some(flight.gateway_ref.clone()),
            gateway_message_id: outcome.gateway_message_id.clone(),
            error_code: outcome.error_code,
            error: outcome.error.clone(),
            encoding: Some(flight.encoding),
            segments: Some(flight.segments),
        };
        let position = flight.position;
        self.write(record, position);
    }

    pub(super) fn recorded(&mut self, done: Vec<Done>, now: Moment) {
        for Done { id, queued_again } in done {
            trace!(target: WAY, message_id = id.0, "recorded");
            let flight = self.flights.remove(&id);
            if let (Some(position), Some(pause)) = (queued_again, flight.as_ref().and_then(|f| f.pause)) {
                self.plan.cool(id);
                self.cooling.push(Cooling { until: now + pause, id, position });
            } else {
                self.plan.recorded(id, queued_again);
            }
            if let Some(flight) = flight {
                self.life.own_waves.is_over(flight.wave, id);
                self.wave_member_done(flight.wave);
            }
        }
        for index in 0..self.gateways.len() {
            self.give_back_refused(index);
        }
    }

    pub(super) fn results_refused(&mut self, reason: Option<String>) {
        let text = reason.map(|reason| {
            format!("PostgreSQL refuses to write results, and soon nothing more is sent: {reason}; see outboxd check")
        });
        let _news = self.alarm(|alarms| &mut alarms.results, text);
    }

    pub(super) fn end_cooling(&mut self, now: Moment) {
        for row in self.cooling.extract_if(.., |row| row.until <= now) {
            self.plan.recorded(row.id, Some(row.position));
        }
    }

    pub(super) fn apply(&mut self, index: GatewayIndex, change: &Change) {
        match change {
            Change::None => {}
            Change::Wait | Change::Stop => {
                let run = &self.gateways[index];
                run.let_leave(false);
                self.plan.close(index);
                self.hold_back(index);
                self.show_gateway(index);
            }
        }
    }

    /// What a gateway refused one after another before it was stopped is queued again, as soon as the refusals stand in
    /// the rows, be the gateway still stopped or not.
    fn give_back_refused(&mut self, index: GatewayIndex) {
        let flights = &self.flights;
        let refused = self.gateways[index].health.take_refused(|id| !flights.contains_key(&id));
        if refused.is_empty() {
            return;
        }
        let (store, life) = (self.store.clone(), Arc::clone(&self.life));
        self.ask(async move {
            for _ in 0..10 {
                match store.requeue_refused(&refused).await {
                    Ok(ids) => {
                        life.memory.results.forget(&ids);
                        info!(messages = ids.len(), "what the stopped gateway had refused is queued again");
                        return Some(Event::Swept);
                    }
                    Err(error) => warn!(%error, "could not queue again what the stopped gateway had refused"),
                }
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
            error!(
                "gave up queueing again what the stopped gateway had refused; see error_code gateway_refused"
            );
            None
        });
    }

    pub(super) fn end_pauses(&mut self, now: Moment) {
        for index in 0..self.gateways.len() {
            match self.gateways[index].health.end_pause(now) {
                PauseEnd::NotYet => {}
                PauseEnd::Open => self.open(index),
                PauseEnd::Probe => {
                    let gateway = self.gateways[index].gateway.clone();
                    self.ask(async move {
                        let result = gateway.probe().await.map(|_report| ());
                        Some(Event::Probed { gateway: index, result })
                    });
                }
            }
        }
    }

    pub(super) fn probed(&mut self, index: GatewayIndex, result: Result<(), ProbeFailure>, now: Moment) {
        let health = &mut self.gateways[index].health;
        match result {
            Ok(()) => {
                health.probe_succeeded();
                if health.is_open() {
                    self.open(index);
                }
            }
            Err(failure) => {
                let change = health.probe_failed(failure.cause, &failure.reason, now, jitter(now));
                self.apply(index, &change);
            }
        }
    }

    /// A processing result said that the account has no credits.
    pub(super) fn stop_gateway(&mut self, name: &str, reason: &str) {
        let Some(index) = self.gateways.iter().position(|run| &*run.name == name) else { return };
        let change = self.gateways[index].health.stop_for(DeferCause::NoCredit, reason);
        self.apply(index, &change);
    }

    pub(super) fn resume_gateway(&mut self, name: &str) {
        let Some(index) = self.gateways.iter().position(|run| &*run.name == name) else { return };
        info!(gateway = name, "a person said go on");
        let plan = &self.plan;
        let not_answered = self.flights.iter().filter(|(_, flight)| !flight.answered).map(|(id, _)| *id);
        let run = &mut self.gateways[index];
        run.gateway.reset();
        run.health.resume(not_answered.filter(|id| plan.gateway_of(*id) == Some(index)));
        self.allow_together(index);
        self.open(index);
    }

    fn open(&mut self, index: GatewayIndex) {
        self.gateways[index].let_leave(true);
        self.plan.open(index);
        self.plan.wake();
        self.show_gateway(index);
    }

    pub(super) fn show_all_gateways(&mut self) {
        for index in 0..self.gateways.len() {
            self.gateways[index].shown = "";
            self.show_gateway(index);
        }
    }

    /// Tells people, in the log, in `outboxd.gateway` and by alarms, what a gateway is doing; on change only.
    fn show_gateway(&mut self, index: GatewayIndex) {
        let run = &mut self.gateways[index];
        let (state, reason, alarm) = match run.health.state() {
            State::Open => ("open", None, None),
            State::Waiting { reason, .. } | State::Probing { reason } => {
                let alarm = (run.health.pauses() >= PAUSES_BEFORE_ALARM).then_some("gateway_waiting");
                ("waiting", Some(reason.clone()), alarm)
            }
            State::Stopped { reason, .. } => ("stopped", Some(reason.clone()), Some("gateway_stopped")),
        };
        let name = Arc::clone(&run.name);
        let changed = std::mem::replace(&mut run.shown, state) != state;
        if !changed && alarm.is_none() {
            return;
        }
        let shown = reason.as_deref().unwrap_or_default();
        match state {
            "open" if changed => info!(gateway = %name, "open"),
            "waiting" if changed => warn!(gateway = %name, reason = shown, "leaving it alone for a while"),
            "stopped" if changed => {
                error!(gateway = %name, reason = shown, "stopped; mend the cause, then run: outboxd resume --gateway {name}");
            }
            _ => {}
        }
        // Who leads again shows all of them.
        let Some(epoch) = self.term.as_ref().map(|term| term.epoch) else { return };
        let turn = run.shows.next();
        let showing = Showing { name, state, reason: reason.map(|text| presentable(&text)), alarm, epoch };
        let store = self.store.clone();
        self.ask(async move {
            turn.show(&store, &showing).await;
            None
        });
    }
}

/// A number in 0..1 that spreads pauses. Asked for with every answer, so it must not cost a system call: the clock's low
/// bits, well mixed, differ enough between daemons.
pub(super) fn jitter(now: Moment) -> f64 {
    let mixed = now.as_nanos().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    f64::from(u32::try_from(mixed).unwrap_or_default()) / f64::from(u32::MAX)
}
