//! When a gateway is sent to, and when it is left alone: breaker, backoff, and the gateway that refuses everything.
//!
//! Pure: the engine tells a [`Health`] what each attempt came to and what time it is, and does what it answers.

use std::collections::HashSet;
use std::time::Duration;

use crate::clock::Moment;
use crate::message::MessageId;
use crate::verdict::{DeferCause, Verdict};

/// A refused message is given back when its gateway is stopped within this time: later, its application has seen
/// the failure and may have acted on it.
const REFUSAL_MEMORY: Duration = Duration::from_secs(60);

/// Longest pause of one message among others.
const ROW_PAUSE_MAX: Duration = Duration::from_secs(60);

const GATEWAY_REFUSES: &str = "gateway_refuses";

/// The limits, from the configuration of one gateway.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub breaker_failures: u32,
    pub stop_after_refusals: u32,
    pub backoff_min: Duration,
    pub backoff_max: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Open,
    /// Left alone until then; `probe`: and then asked with something that is nobody's message.
    Waiting {
        until: Moment,
        probe: bool,
        reason: String,
    },
    /// A probe is under way.
    Probing {
        reason: String,
    },
    /// Until a person says go on.
    Stopped {
        code: &'static str,
        reason: String,
    },
}

/// What an attempt did to its gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    None,
    /// Stop starting; go on by itself later.
    Wait,
    /// Stop starting; a person must act. Refusals to give back are in [`Health::take_refused`].
    Stop,
}

#[derive(Debug)]
pub struct Health {
    limits: Limits,
    state: State,
    /// Failures in a row.
    failures: u32,
    /// Pauses in a row, for the length of the next one.
    pauses: u32,
    refusals: Refusals,
    /// What was refused in the row that stopped the gateway. Outlives the stop: who says go on at once does not mean that
    /// these are to be lost.
    to_give_back: Vec<(MessageId, String)>,
    /// What was under way when a person said go on to a gateway that refused everything: may still be refused for the
    /// cause that has been mended.
    left_before: HashSet<MessageId>,
}

/// Refusals in a row for one reason.
#[derive(Debug, Default)]
struct Refusals {
    reason: String,
    messages: Vec<(MessageId, String, Moment)>,
    count: u32,
}

impl Health {
    pub fn new(limits: Limits) -> Health {
        Health {
            limits,
            state: State::Open,
            failures: 0,
            pauses: 0,
            refusals: Refusals::default(),
            to_give_back: Vec::new(),
            left_before: HashSet::new(),
        }
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Takes in what became of an attempt. `jitter` is in 0..1.
    pub fn observe(
        &mut self,
        verdict: &Verdict,
        message: (MessageId, &str),
        now: Moment,
        jitter: f64,
    ) -> Change {
        if self.left_before.remove(&message.0) && matches!(verdict, Verdict::Rejected { .. }) {
            self.to_give_back.push((message.0, message.1.to_owned()));
            return Change::None;
        }
        self.judge(verdict, Some(message), now, jitter)
    }

    /// The same for messages that shared a request, which is one answer. There is nothing to give back: those that are
    /// refused together are not failed.
    pub fn observe_joint(
        &mut self,
        verdict: &Verdict,
        messages: &[MessageId],
        now: Moment,
        jitter: f64,
    ) -> Change {
        let mut left_before = false;
        for id in messages {
            left_before |= !self.left_before.is_empty() && self.left_before.remove(id);
        }
        if left_before && matches!(verdict, Verdict::Rejected { .. }) {
            return Change::None;
        }
        self.judge(verdict, None, now, jitter)
    }

    fn judge(
        &mut self,
        verdict: &Verdict,
        message: Option<(MessageId, &str)>,
        now: Moment,
        jitter: f64,
    ) -> Change {
        match verdict {
            Verdict::Accepted { .. } => {
                self.failures = 0;
                self.pauses = 0;
                if !self.refuses() {
                    self.refusals = Refusals::default();
                }
                Change::None
            }
            Verdict::Rejected { code, reason } => {
                self.failures = 0;
                self.refused(code, reason, message, now)
            }
            Verdict::Deferred { cause, retry_after, reason } => match cause {
                DeferCause::NotStarted => Change::None,
                DeferCause::Throttled => {
                    let pause = retry_after.unwrap_or_else(|| self.next_pause(jitter));
                    self.wait(
                        now + pause.max(self.limits.backoff_min.min(Duration::from_secs(1))),
                        false,
                        reason,
                    )
                }
                DeferCause::Unreachable | DeferCause::Busy => self.failed(*retry_after, reason, now, jitter),
                DeferCause::Unauthorized | DeferCause::NoCredit | DeferCause::Misconfigured => {
                    self.stop(cause.as_str(), reason.clone())
                }
            },
            Verdict::Unknown { reason } => self.failed(None, reason, now, jitter),
        }
    }

    /// How long a message is left alone that its gateway turned away while it may be taking others: the breaker does not
    /// see it, and without a pause it would be sent again as fast as the gateway answers.
    pub fn row_pause(&self, verdict: &Verdict, attempt: i32, jitter: f64) -> Option<Duration> {
        match verdict {
            Verdict::Deferred { cause: DeferCause::Busy | DeferCause::Unreachable, .. } => {
                let step = u32::try_from(attempt - 1).unwrap_or(0);
                let longest = self.limits.backoff_max.min(ROW_PAUSE_MAX);
                Some(backoff(self.limits.backoff_min.min(longest), longest, step, jitter))
            }
            Verdict::Accepted { .. }
            | Verdict::Rejected { .. }
            | Verdict::Deferred { .. }
            | Verdict::Unknown { .. } => None,
        }
    }

    /// Whether a pause is over; starts probing if the pause ends with a probe. To be called when `next_at` has come.
    pub fn end_pause(&mut self, now: Moment) -> PauseEnd {
        match &self.state {
            State::Waiting { until, probe, reason } if *until <= now => {
                if *probe {
                    self.state = State::Probing { reason: reason.clone() };
                    PauseEnd::Probe
                } else {
                    self.state = State::Open;
                    PauseEnd::Open
                }
            }
            _ => PauseEnd::NotYet,
        }
    }

    pub fn next_at(&self) -> Option<Moment> {
        match &self.state {
            State::Waiting { until, .. } => Some(*until),
            State::Open | State::Probing { .. } | State::Stopped { .. } => None,
        }
    }

    pub fn probe_succeeded(&mut self) {
        if matches!(self.state, State::Probing { .. }) {
            self.state = State::Open;
            // One failure short of opening the breaker again: a gateway that answers probes and nothing else
            // costs one message a pause, not `breaker_failures`.
            self.failures = self.limits.breaker_failures.saturating_sub(1);
        }
    }

    pub fn probe_failed(&mut self, cause: DeferCause, reason: &str, now: Moment, jitter: f64) -> Change {
        if !matches!(self.state, State::Probing { .. }) {
            return Change::None;
        }
        if cause.needs_a_person() {
            return self.stop(cause.as_str(), reason.to_owned());
        }
        let pause = self.next_pause(jitter);
        self.state = State::Waiting { until: now + pause, probe: true, reason: reason.to_owned() };
        Change::Wait
    }

    /// The gateway said later what makes it useless until a person acts.
    pub fn stop_for(&mut self, cause: DeferCause, reason: &str) -> Change {
        self.stop(cause.as_str(), reason.to_owned())
    }

    /// A person says go on. `under_way`: what the gateway has not answered yet.
    pub fn resume(&mut self, under_way: impl Iterator<Item = MessageId>) {
        if self.refuses() {
            // In place of older ones, of which some may never be answered: what still may be is among these.
            self.left_before = under_way.collect();
        }
        self.state = State::Open;
        self.failures = 0;
        self.pauses = 0;
        self.refusals = Refusals::default();
    }

    /// Pauses in a row without a success; tells a passing fault from one that a person should know of.
    pub fn pauses(&self) -> u32 {
        self.pauses
    }

    /// The messages that were refused in the row that stopped the gateway, as far as their results are recorded.
    pub fn take_refused(&mut self, recorded: impl Fn(MessageId) -> bool) -> Vec<(MessageId, String)> {
        self.to_give_back.extract_if(.., |(id, _)| recorded(*id)).collect()
    }

    /// Stopped because it refused everything.
    fn refuses(&self) -> bool {
        matches!(self.state, State::Stopped { code: GATEWAY_REFUSES, .. })
    }

    fn refused(
        &mut self,
        code: &str,
        reason: &str,
        message: Option<(MessageId, &str)>,
        now: Moment,
    ) -> Change {
        // Gateways put the number or the id into the text of a refusal: without its digits it is the same reason.
        let reason: String = code
            .chars()
            .chain([' '])
            .chain(reason.chars().filter(|c| !c.is_ascii_digit()))
            .take(200)
            .collect();
        if self.refusals.reason != reason {
            if self.refuses() {
                // About this message. Those that stopped the gateway are still to be given back.
                return Change::None;
            }
            self.refusals = Refusals { reason, ..Refusals::default() };
        }
        self.refusals.count += 1;
        self.refusals.messages.retain(|(_, _, at)| now.since(*at) < REFUSAL_MEMORY);
        self.refusals.messages.extend(message.map(|(id, reference)| (id, reference.to_owned(), now)));
        let change = if self.refuses() {
            // Answers to what was under way when it stopped: given back as well.
            Change::Stop
        } else if self.refusals.count >= self.limits.stop_after_refusals {
            let reason = format!(
                "refused {} messages in a row for the same reason: {}",
                self.refusals.count, self.refusals.reason
            );
            self.stop(GATEWAY_REFUSES, reason)
        } else {
            Change::None
        };
        if self.refuses() {
            let refused = self.refusals.messages.drain(..);
            self.to_give_back.extend(refused.map(|(id, reference, _)| (id, reference)));
        }
        change
    }

    fn failed(&mut self, retry_after: Option<Duration>, reason: &str, now: Moment, jitter: f64) -> Change {
        self.failures += 1;
        if !self.is_open() || self.failures < self.limits.breaker_failures {
            return Change::None;
        }
        let pause = self.next_pause(jitter).max(retry_after.unwrap_or_default());
        self.wait(now + pause, true, reason)
    }

    fn wait(&mut self, until: Moment, probe: bool, reason: &str) -> Change {
        match &self.state {
            State::Open => {
                self.state = State::Waiting { until, probe, reason: reason.to_owned() };
                Change::Wait
            }
            // Several answers of one outage: the longest pause counts.
            State::Waiting { until: present, probe: present_probe, .. } if *present < until => {
                let probe = probe || *present_probe;
                self.state = State::Waiting { until, probe, reason: reason.to_owned() };
                Change::Wait
            }
            State::Waiting { .. } | State::Probing { .. } | State::Stopped { .. } => Change::None,
        }
    }

    fn stop(&mut self, code: &'static str, reason: String) -> Change {
        if matches!(self.state, State::Stopped { .. }) {
            return Change::None;
        }
        self.state = State::Stopped { code, reason };
        Change::Stop
    }

    fn next_pause(&mut self, jitter: f64) -> Duration {
        let pause = backoff(self.limits.backoff_min, self.limits.backoff_max, self.pauses, jitter);
        self.pauses = self.pauses.saturating_add(1);
        pause
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PauseEnd {
    NotYet,
    Probe,
    Open,
}

/// Doubles from `min` to `max`; `jitter` in 0..1 spreads it over the upper half, so that several daemons that failed
/// together do not come back together.
pub fn backoff(min: Duration, max: Duration, step: u32, jitter: f64) -> Duration {
    let whole = min.saturating_mul(1_u32.checked_shl(step.min(30)).unwrap_or(u32::MAX)).min(max);
    whole.div_f64(2.0).saturating_add(whole.div_f64(2.0).mul_f64(jitter.clamp(0.0, 1.0))).max(min.min(max))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::{prop_assert, proptest};

    use super::{Change, Health, Limits, PauseEnd, State, backoff};
    use crate::clock::Moment;
    use crate::message::MessageId;
    use crate::verdict::{DeferCause, Verdict};

    const LIMITS: Limits = Limits {
        breaker_failures: 5,
        stop_after_refusals: 3,
        backoff_min: Duration::from_secs(1),
        backoff_max: Duration::from_secs(60),
    };

    fn at(seconds: u64) -> Moment {
        Moment::ZERO + Duration::from_secs(seconds)
    }

    fn accepted() -> Verdict {
        Verdict::Accepted { gateway_message_id: None, note: None }
    }

    fn rejected(reason: &str) -> Verdict {
        Verdict::Rejected { code: "gateway_refused", reason: reason.to_owned() }
    }

    fn unknown() -> Verdict {
        Verdict::Unknown { reason: "timeout".to_owned() }
    }

    fn deferred(cause: DeferCause, retry_after: Option<Duration>) -> Verdict {
        Verdict::Deferred { cause, retry_after, reason: "busy".to_owned() }
    }

    fn see(health: &mut Health, verdict: &Verdict, id: i64, now: Moment) -> Change {
        health.observe(verdict, (MessageId(id), "ref"), now, 0.5)
    }

    #[test]
    fn the_breaker_opens_after_the_configured_failures_and_probes_before_it_closes() {
        let mut health = Health::new(LIMITS);
        for n in 0..4 {
            assert_eq!(see(&mut health, &unknown(), n, at(0)), Change::None);
        }
        assert_eq!(see(&mut health, &unknown(), 5, at(0)), Change::Wait);
        assert!(!health.is_open());
        assert_eq!(health.end_pause(at(0)), PauseEnd::NotYet);
        assert_eq!(health.end_pause(at(2)), PauseEnd::Probe);
        health.probe_failed(DeferCause::Unreachable, "still down", at(2), 0.5);
        assert!(health.next_at().is_some_and(|next| next > at(3)), "the second pause is longer");
        assert_eq!(health.end_pause(at(10)), PauseEnd::Probe);
        health.probe_succeeded();
        assert!(health.is_open());
        assert_eq!(see(&mut health, &unknown(), 6, at(10)), Change::Wait, "one more failure is enough now");
    }

    #[test]
    fn a_success_between_failures_keeps_the_breaker_closed() {
        let mut health = Health::new(LIMITS);
        for n in 0..40 {
            let verdict = if n % 4 == 3 { accepted() } else { unknown() };
            assert_eq!(see(&mut health, &verdict, n, at(0)), Change::None);
        }
    }

    #[test]
    fn refusals_for_one_reason_stop_the_gateway_and_are_given_back() {
        let mut health = Health::new(LIMITS);
        see(&mut health, &rejected("number 111 is barred"), 1, at(0));
        see(&mut health, &rejected("number 222 is barred"), 2, at(1));
        assert_eq!(see(&mut health, &rejected("number 333 is barred"), 3, at(2)), Change::Stop);
        assert!(matches!(health.state(), State::Stopped { code: "gateway_refuses", .. }));
        assert_eq!(
            see(&mut health, &rejected("number 444 is barred"), 4, at(2)),
            Change::Stop,
            "was under way"
        );
        let ids: Vec<i64> = health.take_refused(|_| true).iter().map(|(id, _)| id.0).collect();
        assert_eq!(ids, [1, 2, 3, 4]);
    }

    #[test]
    fn what_was_under_way_when_it_stopped_does_not_keep_the_refused_from_being_given_back() {
        let mut health = Health::new(LIMITS);
        for id in 1..=3 {
            see(&mut health, &rejected("account blocked"), id, at(0));
        }
        assert_eq!(see(&mut health, &rejected("no such number"), 4, at(1)), Change::None);
        assert_eq!(see(&mut health, &accepted(), 5, at(1)), Change::None);
        let ids: Vec<i64> = health.take_refused(|_| true).iter().map(|(id, _)| id.0).collect();
        assert_eq!(ids, [1, 2, 3]);
    }

    #[test]
    fn who_says_go_on_before_the_refusals_are_recorded_does_not_lose_them() {
        let mut health = Health::new(LIMITS);
        for id in 1..=3 {
            see(&mut health, &rejected("account blocked"), id, at(0));
        }
        assert_eq!(health.take_refused(|id| id.0 == 2).len(), 1, "the others are not recorded yet");
        health.resume([MessageId(4)].into_iter());
        see(&mut health, &accepted(), 9, at(0));
        see(&mut health, &rejected("account blocked"), 4, at(0));
        see(&mut health, &rejected("account blocked"), 5, at(0));
        let ids: Vec<i64> = health.take_refused(|_| true).iter().map(|(id, _)| id.0).collect();
        assert_eq!(ids, [1, 3, 4], "5 left after the person had spoken");
        see(&mut health, &rejected("account blocked"), 4, at(0));
        assert!(health.take_refused(|_| true).is_empty(), "once is enough");
    }

    #[test]
    fn refusals_for_different_reasons_or_with_a_success_between_are_about_the_messages() {
        let mut health = Health::new(LIMITS);
        for n in 0..30 {
            let verdict = match n % 4 {
                0 | 1 => rejected("barred"),
                2 => rejected("no such number"),
                _ => accepted(),
            };
            assert_eq!(see(&mut health, &verdict, n, at(0)), Change::None);
        }
    }

    #[test]
    fn an_answer_to_many_messages_counts_once() {
        let mut health = Health::new(LIMITS);
        let ids: Vec<MessageId> = (1..=100).map(MessageId).collect();
        let lost = Verdict::Unknown { reason: "lost".to_owned() };
        for n in 1..LIMITS.breaker_failures {
            assert_eq!(health.observe_joint(&lost, &ids, at(0), 0.0), Change::None, "{n}");
        }
        assert_eq!(health.observe_joint(&lost, &ids, at(0), 0.0), Change::Wait);
        let mut health = Health::new(LIMITS);
        for _ in 1..LIMITS.stop_after_refusals {
            assert_eq!(health.observe_joint(&rejected("barred"), &ids, at(0), 0.0), Change::None);
        }
        assert_eq!(
            see(&mut health, &rejected("barred"), 7, at(0)),
            Change::Stop,
            "alone and together are one row"
        );
        let given_back: Vec<i64> = health.take_refused(|_| true).iter().map(|(id, _)| id.0).collect();
        assert_eq!(given_back, [7], "those that are refused together stay queued");
        // What had left before a person said go on may be refused for what has been mended.
        health.resume(ids.iter().copied());
        for pair in ids.chunks(2).take(2 * LIMITS.stop_after_refusals as usize) {
            assert_eq!(health.observe_joint(&rejected("barred"), pair, at(0), 0.0), Change::None);
        }
        assert!(health.is_open());
    }

    #[test]
    fn refusals_of_long_ago_are_not_given_back() {
        let mut health = Health::new(LIMITS);
        see(&mut health, &rejected("barred"), 1, at(0));
        see(&mut health, &rejected("barred"), 2, at(100));
        assert_eq!(see(&mut health, &rejected("barred"), 3, at(101)), Change::Stop);
        assert_eq!(health.take_refused(|_| true).len(), 2);
    }

    #[test]
    fn a_message_that_is_turned_away_among_others_is_left_alone_for_longer_and_longer() {
        let health = Health::new(LIMITS);
        let busy = deferred(DeferCause::Busy, None);
        let pauses: Vec<Duration> = (1..12).filter_map(|n| health.row_pause(&busy, n, 1.0)).collect();
        assert_eq!(pauses.first(), Some(&Duration::from_secs(1)));
        assert_eq!(pauses.last(), Some(&Duration::from_secs(60)));
        assert!(pauses.is_sorted());
        assert_eq!(health.row_pause(&deferred(DeferCause::NotStarted, None), 3, 1.0), None);
        assert_eq!(health.row_pause(&accepted(), 3, 1.0), None);
    }

    #[test]
    fn a_throttling_gateway_is_obeyed_without_a_probe() {
        let mut health = Health::new(LIMITS);
        let verdict = deferred(DeferCause::Throttled, Some(Duration::from_secs(7)));
        assert_eq!(see(&mut health, &verdict, 1, at(0)), Change::Wait);
        assert_eq!(health.next_at(), Some(at(7)));
        assert_eq!(health.end_pause(at(7)), PauseEnd::Open);
    }

    #[test]
    fn what_needs_a_person_stops_at_once_and_resume_starts_afresh() {
        for cause in [DeferCause::Unauthorized, DeferCause::NoCredit, DeferCause::Misconfigured] {
            let mut health = Health::new(LIMITS);
            assert_eq!(see(&mut health, &deferred(cause, None), 1, at(0)), Change::Stop);
            assert_eq!(health.next_at(), None, "no pause ends it");
            health.resume([].into_iter());
            assert!(health.is_open());
        }
    }

    #[test]
    fn what_was_never_started_says_nothing_about_the_gateway() {
        let mut health = Health::new(LIMITS);
        for n in 0..100 {
            assert_eq!(see(&mut health, &deferred(DeferCause::NotStarted, None), n, at(0)), Change::None);
        }
        assert!(health.is_open());
    }

    proptest! {
        #[test]
        fn backoff_grows_and_stays_within_its_bounds(step in 0_u32..100, jitter in 0.0_f64..1.0) {
            let (min, max) = (Duration::from_millis(500), Duration::from_secs(300));
            let pause = backoff(min, max, step, jitter);
            prop_assert!(pause >= min && pause <= max);
            prop_assert!(backoff(min, max, step + 1, jitter) >= pause);
        }
    }
}
