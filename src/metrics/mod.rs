//! What the daemon counts and shows of itself, for `/metrics`, the health pages and the service manager. Plain atomics:
//! counting takes no lock, so that it costs the sending path next to nothing. Knows no HTTP and no database.
//!
//! Labels are bounded: each comes from an enum here, or is the name of a configured gateway. Never anything that a
//! gateway, an application or a person wrote.

mod histogram;
mod label;
mod page;
pub mod progress;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::message::Lane;
use crate::metrics::histogram::Histogram;
use crate::metrics::label::Counters;
pub use crate::metrics::label::{Attempt, Callback, Outcome, Told, Wakeup, WaveResult};
pub use crate::metrics::page::{Kind, Page};
use crate::verdict::Joint;

/// Everything that one process counts. Outlives a change of the configuration.
#[derive(Debug, Default)]
pub struct Metrics {
    /// By name. Locked when an engine starts, when a batch was written, and for a page.
    gateways: Mutex<BTreeMap<Arc<str>, Arc<GatewayMetrics>>>,
    /// Of rows that were judged before they had a gateway.
    no_gateway: Counters<Outcome>,
    pub waves: Counters<WaveResult>,
    pub wakeups: Counters<Wakeup>,
    pub callbacks: Counters<Callback>,
    pub waves_open: AtomicUsize,
    /// Notifications come through.
    pub listening: AtomicBool,
    phase: AtomicU8,
    role: AtomicU8,
    pub epoch: AtomicI64,
    pub held: AtomicBool,
    /// The file was changed into one that cannot be used, and what it said before still holds.
    pub reload_refused: AtomicBool,
}

/// What is counted of one gateway.
#[derive(Debug, Default)]
pub struct GatewayMetrics {
    attempts: Counters<Attempt>,
    requests: AtomicU64,
    seconds: Histogram,
    outcomes: Counters<Outcome>,
    pub in_flight: AtomicUsize,
    ready: [AtomicUsize; 3],
    state: AtomicU8,
}

/// Where the process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Waits for the database.
    Starting,
    Running,
    /// Its configuration is read again.
    Reloading,
    Stopping,
}

/// What this daemon is to the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It has no session with the database that would let it be one of the others.
    None,
    Standby,
    Leader,
}

/// What a gateway is doing, as the leader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatewayState {
    Open,
    Waiting,
    Stopped,
}

impl Phase {
    const ALL: [Phase; 4] = [Phase::Starting, Phase::Running, Phase::Reloading, Phase::Stopping];
}

impl Role {
    const ALL: [Role; 3] = [Role::None, Role::Standby, Role::Leader];

    pub const fn as_str(self) -> &'static str {
        match self {
            Role::None => "none",
            Role::Standby => "standby",
            Role::Leader => "leader",
        }
    }
}

impl GatewayState {
    const ALL: [GatewayState; 3] = [GatewayState::Open, GatewayState::Waiting, GatewayState::Stopped];

    pub const fn as_str(self) -> &'static str {
        match self {
            GatewayState::Open => "open",
            GatewayState::Waiting => "waiting",
            GatewayState::Stopped => "stopped",
        }
    }
}

impl Metrics {
    /// What is counted of this gateway from now on; the same counters after a reload.
    pub fn gateway(&self, name: &str) -> Arc<GatewayMetrics> {
        Arc::clone(self.lock().entry(Arc::from(name)).or_default())
    }

    /// The names of gateways that are not open, each with its state, while this daemon leads.
    pub fn gateways_not_open(&self) -> Vec<(Arc<str>, GatewayState)> {
        let gateways = self.lock();
        let states = gateways.iter().filter_map(|(name, gateway)| Some((Arc::clone(name), gateway.state()?)));
        states.filter(|(_, state)| *state != GatewayState::Open).collect()
    }

    /// Results that are in the database now: the gateway of each, and what its row says. One lock for all of them.
    pub fn recorded<'a>(&self, results: impl Iterator<Item = (Option<&'a str>, Outcome)>) {
        let gateways = self.lock();
        for (gateway, outcome) in results {
            match gateway.and_then(|name| gateways.get(name)) {
                Some(gateway) => gateway.outcomes.add(outcome, 1),
                None => self.no_gateway.add(outcome, 1),
            }
        }
    }

    /// Rows that were changed many at once, without a gateway.
    pub fn swept(&self, outcome: Outcome, rows: u64) {
        self.no_gateway.add(outcome, rows);
    }

    pub fn phase(&self) -> Phase {
        Phase::ALL[usize::from(self.phase.load(Ordering::Acquire))]
    }

    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    pub fn role(&self) -> Role {
        Role::ALL[usize::from(self.role.load(Ordering::Acquire))]
    }

    pub fn set_role(&self, role: Role) {
        self.role.store(role as u8, Ordering::Release);
    }

    /// Writes everything that is counted here.
    pub fn write(&self, page: &mut Page) {
        let gateways: Vec<(Arc<str>, Arc<GatewayMetrics>)> =
            self.lock().iter().map(|(name, gateway)| (Arc::clone(name), Arc::clone(gateway))).collect();
        self.write_results(page, &gateways);
        write_gateways(page, &gateways);
        self.write_engine(page);
    }

    fn write_results(&self, page: &mut Page, gateways: &[(Arc<str>, Arc<GatewayMetrics>)]) {
        page.family(
            "outboxd_messages_total",
            Kind::Counter,
            "Results that this daemon wrote into rows, by gateway (empty: none was chosen) and by what the row says then.",
        );
        for (name, outcomes) in gateways
            .iter()
            .map(|(name, gateway)| (&**name, &gateway.outcomes))
            .chain([("", &self.no_gateway)])
        {
            outcomes.each(|outcome, count| {
                page.sample(&[("gateway", name), ("outcome", outcome.as_str())], count);
            });
        }
        page.family(
            "outboxd_attempts_total",
            Kind::Counter,
            "Attempts to send, by gateway and by what came of them; not_started never left this host.",
        );
        for (name, gateway) in gateways {
            gateway.attempts.each(|result, count| {
                page.sample(&[("gateway", name), ("result", result.as_str())], count);
            });
        }
        page.family(
            "outboxd_requests_total",
            Kind::Counter,
            "Requests that attempts needed; fewer where several messages share one (coalesce).",
        );
        for (name, gateway) in gateways {
            page.sample(&[("gateway", name)], gateway.requests.load(Ordering::Relaxed));
        }
        page.family(
            "outboxd_attempt_duration_seconds",
            Kind::Histogram,
            "Time from the beginning of an attempt to its answer.",
        );
        for (name, gateway) in gateways {
            gateway.seconds.write(page, &[("gateway", name)]);
        }
    }

    fn write_engine(&self, page: &mut Page) {
        page.family("outboxd_waves_total", Kind::Counter, "Waves that were to be committed, by result.");
        self.waves.each(|result, count| page.sample(&[("result", result.as_str())], count));
        page.family(
            "outboxd_waves_open",
            Kind::Gauge,
            "Committed waves with results that are not recorded yet.",
        );
        page.sample(&[], self.waves_open.load(Ordering::Relaxed));
        page.family("outboxd_wakeups_total", Kind::Counter, "Looks at the queue, by what caused them.");
        self.wakeups.each(|by, count| page.sample(&[("by", by.as_str())], count));
        page.family(
            "outboxd_callbacks_total",
            Kind::Counter,
            "Callbacks of the gateway, by kind and result.",
        );
        self.callbacks.each(|callback, count| {
            page.sample(&[("kind", callback.kind()), ("result", callback.result())], count);
        });
        page.family("outboxd_listening", Kind::Gauge, "1: notifications of the database come through.");
        page.sample(&[], u8::from(self.listening.load(Ordering::Relaxed)));
        page.family("outboxd_role", Kind::Gauge, "1 for what this daemon is to the outbox.");
        let role = self.role();
        for one in Role::ALL {
            page.sample(&[("role", one.as_str())], u8::from(one == role));
        }
        page.family("outboxd_epoch", Kind::Gauge, "Epoch in which this daemon leads; 0: it does not.");
        page.sample(&[], if role == Role::Leader { self.epoch.load(Ordering::Relaxed) } else { 0 });
        page.family(
            "outboxd_config_last_reload_successful",
            Kind::Gauge,
            "0: the configuration was read again, was wrong, and was not taken over.",
        );
        page.sample(&[], u8::from(!self.reload_refused.load(Ordering::Relaxed)));
        page.family("outboxd_held", Kind::Gauge, "1: this daemon leads, and everything is held.");
        page.sample(&[], u8::from(self.held.load(Ordering::Relaxed)));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Arc<str>, Arc<GatewayMetrics>>> {
        self.gateways.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_gateways(page: &mut Page, gateways: &[(Arc<str>, Arc<GatewayMetrics>)]) {
    page.family("outboxd_attempts_in_flight", Kind::Gauge, "Requests under way.");
    for (name, gateway) in gateways {
        page.sample(&[("gateway", name)], gateway.in_flight.load(Ordering::Relaxed));
    }
    page.family("outboxd_ready_messages", Kind::Gauge, "Messages in memory that wait for a place in a wave.");
    for (name, gateway) in gateways {
        for lane in Lane::ALL {
            let ready = gateway.ready[lane.index()].load(Ordering::Relaxed);
            page.sample(&[("gateway", name), ("lane", lane.as_str())], ready);
        }
    }
    page.family(
        "outboxd_gateway_state",
        Kind::Gauge,
        "1 for the state of the gateway; all 0: this daemon does not lead.",
    );
    for (name, gateway) in gateways {
        for state in GatewayState::ALL {
            let value = u8::from(gateway.state() == Some(state));
            page.sample(&[("gateway", name), ("state", state.as_str())], value);
        }
    }
}

impl GatewayMetrics {
    /// An attempt is over. What never left has no duration.
    pub fn attempted(&self, attempt: Attempt, took: Duration) {
        self.attempts.add(attempt, 1);
        self.requested(attempt, took);
    }

    /// The same for messages that shared a request.
    pub fn attempted_together(&self, joint: &Joint, messages: usize, took: Duration) {
        let shared = Attempt::of(&joint.verdict);
        for (_, verdict) in &joint.exceptions {
            self.attempts.add(Attempt::of(verdict), 1);
        }
        self.attempts.add(shared, messages.saturating_sub(joint.exceptions.len()) as u64);
        self.requested(shared, took);
    }

    fn requested(&self, attempt: Attempt, took: Duration) {
        if attempt != Attempt::NotStarted {
            self.requests.fetch_add(1, Ordering::Relaxed);
            self.seconds.observe(took);
        }
    }

    pub fn set_ready(&self, lane: Lane, messages: usize) {
        self.ready[lane.index()].store(messages, Ordering::Relaxed);
    }

    /// `None`: this daemon does not lead.
    pub fn set_state(&self, state: Option<GatewayState>) {
        self.state.store(state.map_or(0, |state| state as u8 + 1), Ordering::Relaxed);
    }

    fn state(&self) -> Option<GatewayState> {
        let state = usize::from(self.state.load(Ordering::Relaxed));
        state.checked_sub(1).map(|index| GatewayState::ALL[index])
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Attempt, GatewayState, Metrics, Outcome, Page, Phase, Role};
    use crate::verdict::{Joint, Verdict};

    fn page(metrics: &Metrics) -> String {
        let mut page = Page::default();
        metrics.write(&mut page);
        page.into_text()
    }

    #[test]
    fn every_series_is_there_before_anything_was_counted() {
        let metrics = Metrics::default();
        metrics.gateway("main");
        let text = page(&metrics);
        for line in [
            "outboxd_messages_total{gateway=\"main\",outcome=\"accepted\"} 0",
            "outboxd_messages_total{gateway=\"\",outcome=\"failed\"} 0",
            "outboxd_attempts_total{gateway=\"main\",result=\"unknown\"} 0",
            "outboxd_attempt_duration_seconds_count{gateway=\"main\"} 0",
            "outboxd_gateway_state{gateway=\"main\",state=\"stopped\"} 0",
            "outboxd_callbacks_total{kind=\"none\",result=\"wrong_path\"} 0",
            "outboxd_role{role=\"none\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing from:\n{text}");
        }
    }

    #[test]
    fn what_is_counted_stands_under_its_gateway_also_after_a_reload() {
        let metrics = Metrics::default();
        metrics.gateway("main").attempted(Attempt::Accepted, Duration::from_millis(30));
        metrics.gateway("main").attempted(Attempt::NotStarted, Duration::from_millis(30));
        let results =
            [(Some("main"), Outcome::Accepted), (None, Outcome::Failed), (Some("gone"), Outcome::Failed)];
        metrics.recorded(results.into_iter());
        let text = page(&metrics);
        for line in [
            "outboxd_attempts_total{gateway=\"main\",result=\"accepted\"} 1",
            "outboxd_attempts_total{gateway=\"main\",result=\"not_started\"} 1",
            "outboxd_attempt_duration_seconds_count{gateway=\"main\"} 1",
            "outboxd_messages_total{gateway=\"main\",outcome=\"accepted\"} 1",
            "outboxd_messages_total{gateway=\"\",outcome=\"failed\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing from:\n{text}");
        }
    }

    #[test]
    fn messages_that_share_a_request_are_attempts_of_their_own_and_one_request() {
        let metrics = Metrics::default();
        let main = metrics.gateway("main");
        let refused = Verdict::Rejected { code: "gateway_refused", reason: String::new() };
        let accepted = Joint::of(Verdict::Accepted { gateway_message_id: None, note: None });
        let joint = Joint { exceptions: vec![(3, refused)], ..accepted };
        main.attempted_together(&joint, 100, Duration::from_millis(30));
        main.attempted(Attempt::Accepted, Duration::from_millis(30));
        let text = page(&metrics);
        for line in [
            "outboxd_attempts_total{gateway=\"main\",result=\"accepted\"} 100",
            "outboxd_attempts_total{gateway=\"main\",result=\"rejected\"} 1",
            "outboxd_requests_total{gateway=\"main\"} 2",
            "outboxd_attempt_duration_seconds_count{gateway=\"main\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing from:\n{text}");
        }
    }

    #[test]
    fn what_was_set_is_read_back() {
        let metrics = Metrics::default();
        assert_eq!((metrics.phase(), metrics.role()), (Phase::Starting, Role::None));
        for phase in Phase::ALL {
            metrics.set_phase(phase);
            assert_eq!(metrics.phase(), phase);
        }
        for role in Role::ALL {
            metrics.set_role(role);
            assert_eq!(metrics.role(), role);
        }
        let gateway = metrics.gateway("main");
        for state in GatewayState::ALL.map(Some).into_iter().chain([None]) {
            gateway.set_state(state);
            assert_eq!(gateway.state(), state);
        }
    }
}
