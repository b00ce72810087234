//! From ready rows to requests: a wave is committed first, and only what it confirmed is sent.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, trace, warn};

use crate::clock::Moment;
use crate::engine::deliver::{self, Way};
use crate::engine::dispatch::launch::Load;
use crate::engine::dispatch::{Dispatch, Flight, Judged, answers};
use crate::engine::lead::random_bits;
use crate::engine::plan::{GatewayIndex, Ready};
use crate::engine::record::Job;
use crate::engine::{Event, WaveName};
use crate::message::{CreatedAt, Lane, MessageId, Nonce, NotifyRef, Status};
use crate::metrics::WaveResult;
use crate::store::failover::Fact;
use crate::store::queue::{self, WaveEntry, WaveIntent, WaveKey, WaveOutcome};
use crate::store::record::Fits;
use crate::store::{Store, StoreError};
use crate::telemetry::WAY;
use crate::text::code;

/// Most messages in one wave, unless one request of a gateway may carry more.
const WAVE: usize = 500;
/// Between two tries to settle a wave whose commit is in doubt.
const SETTLE_PAUSE: Duration = Duration::from_millis(500);

impl Dispatch {
    pub(super) fn send_waves(&mut self, now: Moment) {
        for index in 0..self.gateways.len() {
            let run = &self.gateways[index];
            if run.committing || !run.health.is_open() || !self.plan.has_ready(index) {
                continue;
            }
            let most = run.together.most();
            self.plan.stretch(index, run.stretch());
            let room = self.plan.room_for_wave(index).min(run.room_ahead()).min(run.pace.available(now));
            let largest = WAVE.max(most);
            let room = room.min(largest);
            let may_grow = !run.launch.is_empty() && self.plan.ready_in(index, Lane::Urgent) == 0;
            if room == 0 || (may_grow && room < run.wave_worth_its_commit().min(largest)) {
                continue;
            }
            let taken = self.plan.take_for_wave(index, room, run.requests().as_mut());
            if !taken.is_empty() {
                self.commit(index, taken, now);
            }
        }
    }

    fn commit(&mut self, index: GatewayIndex, taken: Vec<Ready>, now: Moment) {
        let Some(term) = &mut self.term else { return };
        for ready in &taken {
            trace!(target: WAY, message_id = ready.id.0, "taken");
        }
        let key = WaveKey { epoch: term.epoch, seq: term.next_seq };
        term.next_seq += 1;
        let run = &mut self.gateways[index];
        run.pace.take(taken.len(), now);
        run.committing = true;
        self.life.own_waves.begin(key);
        let lanes = &self.config.opt_out.transactional_lanes;
        let mut entries: Vec<WaveEntry> = taken
            .iter()
            .map(|ready| WaveEntry {
                id: ready.id,
                attempt: ready.attempts + 1,
                version: ready.version,
                row_made: ready.row_made,
                recipient: (!ready.draft.transactional && !lanes.contains(&ready.lane))
                    .then(|| ready.draft.recipient.clone()),
            })
            .collect();
        entries.sort_by_key(|entry| entry.id);
        let wave = WaveName { key, nonce: Nonce::from_bits(random_bits()), timeline: term.timeline };
        let intent = WaveIntent { key, gateway: run.name.clone(), nonce: wave.nonce, entries };
        let store = self.store.clone();
        self.ask(async move {
            let outcome = commit_surely(&store, &intent).await;
            Some(Event::Wave { gateway: index, wave, taken, outcome })
        });
    }

    pub(super) fn wave_came(
        &mut self,
        index: GatewayIndex,
        wave: WaveName,
        taken: Vec<Ready>,
        outcome: Result<WaveOutcome, StoreError>,
        now: Moment,
    ) {
        self.gateways[index].committing = false;
        if outcome.is_ok() {
            self.database_works(queue::WAVE, now);
        }
        let result = match &outcome {
            Ok(WaveOutcome::Confirmed { .. }) => WaveResult::Committed,
            Ok(WaveOutcome::Fenced) => WaveResult::Fenced,
            Err(_) => WaveResult::Failed,
        };
        self.life.metrics.waves.add(result, 1);
        let mut unwanted = HashSet::new();
        let confirmed: HashMap<MessageId, CreatedAt> = match outcome {
            Ok(WaveOutcome::Confirmed { rows, opted_out }) => {
                let confirmed: HashMap<MessageId, CreatedAt> = rows.into_iter().collect();
                unwanted.extend(opted_out);
                let others = taken.iter().map(|ready| ready.id);
                let left_out = others.filter(|id| !confirmed.contains_key(id) && !unwanted.contains(id));
                self.settle_noted(left_out.collect());
                confirmed
            }
            Ok(WaveOutcome::Fenced) => {
                // Another leader, or somebody said hold: find out which.
                self.clockwork.ask_orders_now();
                HashMap::new()
            }
            Err(error) => {
                self.database_failed(&error, now);
                HashMap::new()
            }
        };
        if confirmed.is_empty() {
            self.life.own_waves.finish(wave.key);
        } else {
            self.waves.insert(wave.key, confirmed.len());
        }
        for ready in taken {
            if let Some(row_made) = confirmed.get(&ready.id) {
                self.take_off(index, wave, ready, *row_made);
            } else if unwanted.contains(&ready.id) {
                self.refuse_unwanted(index, &ready);
            } else {
                debug!(message_id = ready.id.0, "not in the wave: it changed, or the wave came to nothing");
                self.plan.not_in_wave(index, &ready);
            }
        }
        self.launch(index);
    }

    fn refuse_unwanted(&mut self, index: GatewayIndex, ready: &Ready) {
        // Otherwise the term has ended meanwhile, and the row is somebody else's.
        if self.plan.gateway_of(ready.id) != Some(index) {
            return;
        }
        debug!(message_id = ready.id.0, "the recipient has opted out");
        self.plan.recorded(ready.id, None);
        self.write_judgement(
            &Judged::from(ready),
            Status::Failed,
            false,
            code::OPTED_OUT,
            "the recipient wants no messages, see sms.opt_out",
        );
    }

    /// What a wave left out has changed, or had been sent and a result of it found no row that waited for it. If this
    /// fails, the next wave leaves it out again.
    fn settle_noted(&mut self, left_out: Vec<MessageId>) {
        if left_out.is_empty() {
            return;
        }
        let store = self.store.clone();
        self.ask(async move {
            match store.settle_noted(&left_out).await {
                Ok(settled) if settled.is_empty() => {}
                Ok(settled) => {
                    warn!(
                        messages = settled.len(),
                        "had been sent, although their rows did not say so; now they do"
                    );
                }
                Err(error) => debug!(%error, "could not write yet what is known of rows that came back"),
            }
            None
        });
    }

    fn take_off(&mut self, index: GatewayIndex, wave: WaveName, ready: Ready, row_made: CreatedAt) {
        trace!(target: WAY, message_id = ready.id.0, "in a wave");
        let attempt = ready.attempts + 1;
        let reference = NotifyRef { id: ready.id, nonce: wave.nonce, attempt };
        let gateway_ref = reference.encode();
        let flight = Flight {
            wave: wave.key,
            fits: Fits::Attempt { number: attempt, row_made },
            timeline: wave.timeline,
            position: ready.position,
            gateway_ref: gateway_ref.clone(),
            encoding: ready.draft.encoding,
            segments: ready.draft.segments,
            answered: false,
            pause: None,
        };
        self.flights.insert(ready.id, flight);
        if self.term.as_ref().is_some_and(|term| term.epoch == wave.key.epoch) {
            let under_way = Fact {
                id: ready.id,
                row_made,
                attempt,
                status: Status::Unknown,
                gateway: Arc::clone(&self.gateways[index].name),
                reference,
            };
            self.life.own_waves.may_leave(wave.key, under_way);
            let outgoing = ready.draft.into_outgoing(ready.id, attempt, gateway_ref);
            self.gateways[index].launch.push(outgoing, ready.lane, ready.alike);
        } else {
            // Our term ended while the wave was committed. Somebody else may have led since and called it unknown, so
            // it must not leave any more, even if we lead again.
            self.record_flight(ready.id, &answers::Outcome::not_started());
        }
    }

    /// Begins as many requests as the gateway may have under way. Where one may carry several messages, it takes what is
    /// there.
    pub(super) fn launch(&mut self, index: GatewayIndex) {
        if !self.may_send() || !self.gateways[index].health.is_open() {
            self.hold_back(index);
            return;
        }
        let Some(epoch) = self.term.as_ref().map(|term| term.epoch) else { return };
        let run = &mut self.gateways[index];
        while run.running < run.concurrency {
            let Some(load) = run.launch.next(run.together.most()) else { break };
            run.running += 1;
            let (gateway, gate, metrics) = (run.gateway.clone(), run.gate(epoch), Arc::clone(&run.metrics));
            let way = Way { index, gateway, gate, metrics };
            let (attempts, events) = (&mut self.attempts, self.events.clone());
            match load {
                Load::One(message) => deliver::start(attempts, way, message, events),
                Load::Several(messages) => deliver::start_together(attempts, way, messages, events),
            }
        }
    }

    /// What stands in a wave and has not begun does not begin: it goes back to the queue.
    pub(super) fn hold_back(&mut self, index: GatewayIndex) {
        for id in self.gateways[index].launch.drain() {
            self.record_flight(id, &answers::Outcome::not_started());
        }
    }

    pub(super) fn wave_member_done(&mut self, wave: WaveKey) {
        let Some(open) = self.waves.get_mut(&wave) else { return };
        *open -= 1;
        if *open == 0 {
            self.waves.remove(&wave);
            self.life.own_waves.finish(wave);
            // Closed only when the recorder has gone; the wave is then cleared by the next takeover.
            let _ = self.recorder.send(Job::Finished(wave));
        }
    }
}

/// Commits a wave, or makes sure that it is not committed. While that cannot be found out, its rows stay taken.
async fn commit_surely(store: &Store, intent: &WaveIntent) -> Result<WaveOutcome, StoreError> {
    let error = match store.commit_wave(intent).await {
        Err(error @ StoreError::InDoubt { .. }) => error,
        other => return other,
    };
    warn!(%error, "the commit of a wave is in doubt; settling it before its rows are used again");
    while let Err(error) = store.settle_wave(intent).await {
        debug!(%error, "cannot settle the wave yet");
        tokio::time::sleep(SETTLE_PAUSE).await;
    }
    Err(error)
}
