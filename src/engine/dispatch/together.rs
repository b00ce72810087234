//! Messages that shared a request: what its one answer does to each, and when a gateway gets one message a request again.

use std::collections::HashMap;
use std::sync::Arc;

use tracing::{debug, error, info, warn};

use crate::clock::Moment;
use crate::engine::dispatch::Dispatch;
use crate::engine::dispatch::answers::{Outcome, jitter, presentable};
use crate::engine::dispatch::gateways::{Allowed, SHOW_AGAIN};
use crate::engine::plan::GatewayIndex;
use crate::message::{MessageId, Status};
use crate::policy::Change;
use crate::verdict::{Joint, Verdict};

/// Their request was refused, and each is sent again by itself.
const REFUSED_TOGETHER: &str = "refused_together";
/// Bound of what is remembered to go alone. What is forgotten costs one more refused request.
const MOST_ALONE: usize = 50_000;

impl Dispatch {
    pub(super) fn joint_answer_came(
        &mut self,
        index: GatewayIndex,
        ids: &[MessageId],
        joint: Joint,
        now: Moment,
    ) {
        let run = &mut self.gateways[index];
        run.running = run.running.saturating_sub(1);
        // Otherwise all were declared unknown at the end of the grace period.
        let waits = |id: &MessageId| self.flights.get(id).is_some_and(|flight| !flight.answered);
        if ids.iter().any(waits) {
            self.say_joint(index, ids, &joint);
            let change = self.observe_joint(index, ids, &joint, now);
            if let Some(said) = &joint.unmatched {
                self.forbid_together(index, ids.len(), said);
            }
            self.record_joint(index, ids, joint, now);
            self.apply(index, &change);
        }
        self.launch(index);
    }

    fn say_joint(&self, index: GatewayIndex, ids: &[MessageId], joint: &Joint) {
        let gateway = &self.gateways[index].name;
        let (first, messages) = (ids.first().map(|id| id.0), ids.len());
        let exceptions = joint.exceptions.len();
        match &joint.verdict {
            Verdict::Accepted { .. } if exceptions > 0 => {
                info!(%gateway, messages, exceptions, "some messages of a request were refused");
            }
            Verdict::Accepted { .. } => debug!(%gateway, messages, first, "accepted together"),
            Verdict::Rejected { code, .. } => {
                info!(%gateway, messages, first, code, "refused together; each is sent again by itself");
            }
            Verdict::Deferred { cause, .. } => {
                debug!(%gateway, messages, first, cause = cause.as_str(), "deferred together");
            }
            Verdict::Unknown { reason } => {
                warn!(%gateway, messages, first, reason, "the outcome of messages that shared a request is unknown");
            }
        }
    }

    /// To a gateway's health a request is one answer, however many messages it carried.
    fn observe_joint(
        &mut self,
        index: GatewayIndex,
        ids: &[MessageId],
        joint: &Joint,
        now: Moment,
    ) -> Change {
        let health = &mut self.gateways[index].health;
        let all_named = joint.exceptions.len() >= ids.len();
        let mut change = Change::None;
        if !all_named {
            change = health.observe_joint(&joint.verdict, ids, now, jitter(now));
        }
        for (at, verdict) in &joint.exceptions {
            // One refused among others that were taken is about the message. An empty account is about the gateway, and a
            // gateway that takes none of them may take nobody's.
            if !all_named && matches!(verdict, Verdict::Rejected { .. }) {
                continue;
            }
            let Some(id) = ids.get(*at) else { continue };
            let Some(flight) = self.flights.get(id) else { continue };
            let news = health.observe(verdict, (*id, &flight.gateway_ref), now, jitter(now));
            if news != Change::None {
                change = news;
            }
        }
        change
    }

    fn record_joint(&mut self, index: GatewayIndex, ids: &[MessageId], joint: Joint, now: Moment) {
        let mut exceptions: HashMap<usize, Verdict> = joint.exceptions.into_iter().collect();
        let alone = matches!(joint.verdict, Verdict::Rejected { .. });
        let shared = if alone {
            refused_together(&joint.verdict, ids.len())
        } else {
            Outcome::of(joint.verdict.clone())
        };
        for (at, id) in ids.iter().enumerate() {
            let exception = exceptions.remove(&at);
            let Some(flight) = self.flights.get_mut(id).filter(|flight| !flight.answered) else { continue };
            let verdict = exception.as_ref().unwrap_or(&joint.verdict);
            let health = &self.gateways[index].health;
            flight.pause = health.row_pause(verdict, flight.fits.attempts_after(), jitter(now));
            match exception {
                Some(verdict) => self.record_flight(*id, &Outcome::of(verdict)),
                None => {
                    if alone {
                        self.send_alone(*id);
                    }
                    self.record_flight(*id, &shared);
                }
            }
        }
    }

    fn send_alone(&mut self, id: MessageId) {
        if self.alone.len() >= MOST_ALONE {
            self.alone.clear();
        }
        self.alone.insert(id);
    }

    fn forbid_together(&mut self, index: GatewayIndex, messages: usize, said: &str) {
        let run = &mut self.gateways[index];
        run.together.allowed = Allowed::No;
        let gateway = &run.name;
        error!(
            %gateway,
            messages,
            said,
            "skipped recipients of a request without naming them; from now on it gets one message a request"
        );
        let text = format!(
            "gateway {gateway} took a request of {messages} messages and skipped some of them without saying which: \
             \"{said}\". All of them are accepted, with a note in their column error. Until a person says otherwise, each \
             message has a request of its own"
        );
        self.show_together(index, Some(presentable(&text)));
    }

    /// A person has looked after it.
    pub(super) fn allow_together(&mut self, index: GatewayIndex) {
        let run = &mut self.gateways[index];
        if !run.together.is_configured() || run.together.allowed != Allowed::No {
            return;
        }
        run.together.allowed = Allowed::Yes;
        info!(gateway = %run.name, "messages of one text share requests again");
        self.show_together(index, None);
    }

    /// A new term: another leader may have seen what forbids it.
    pub(super) fn ask_whether_together(&mut self) {
        for run in &mut self.gateways {
            if run.together.allowed == Allowed::Yes {
                run.together.allowed = Allowed::NotAsked;
            }
        }
    }

    /// What stands in the database counts at the beginning of a term; from then on we know it first.
    pub(super) fn together_as_asked(&mut self, forbidden: &[String]) {
        for run in &mut self.gateways {
            if run.together.allowed == Allowed::NotAsked {
                let is_forbidden = forbidden.iter().any(|name| **name == *run.name);
                run.together.allowed = if is_forbidden { Allowed::No } else { Allowed::Yes };
                if is_forbidden && run.together.is_configured() {
                    warn!(gateway = %run.name, "gets one message a request, see the alarm skipped_unnamed");
                } else if run.together.is_configured() {
                    info!(gateway = %run.name, coalesce = run.together.most(), "messages of one text share requests");
                }
            }
        }
    }

    /// Raises the alarm of this gateway, or clears it. What `control.sql` asks for at the beginning of a term.
    fn show_together(&mut self, index: GatewayIndex, text: Option<String>) {
        let run = &mut self.gateways[index];
        let (name, turn) = (Arc::clone(&run.name), run.together.shows.next());
        let store = self.store.clone();
        self.ask(async move {
            let _writing = turn.begin().await;
            while turn.is_newest() {
                let written = match &text {
                    Some(text) => store.open_alarm("skipped_unnamed", &name, text).await,
                    None => store.clear_alarm("skipped_unnamed", &name).await,
                };
                let Err(error) = written else { break };
                debug!(%error, "could not write the alarm yet");
                tokio::time::sleep(SHOW_AGAIN).await;
            }
            None
        });
    }
}

/// None of them was accepted, and it may be the fault of one: each is to be judged by an answer of its own.
fn refused_together(verdict: &Verdict, messages: usize) -> Outcome {
    let said = match verdict {
        Verdict::Rejected { reason, .. } => reason.as_str(),
        Verdict::Accepted { .. } | Verdict::Deferred { .. } | Verdict::Unknown { .. } => "",
    };
    let text = format!(
        "the request that it shared with {} others was refused; it is sent again by itself ({said})",
        messages.saturating_sub(1)
    );
    Outcome {
        status: Status::Queued,
        error_code: Some(REFUSED_TOGETHER),
        error: Some(presentable(&text)),
        gateway_message_id: None,
    }
}
