//! One attempt: hands a message, or several that share a request, to its gateway and reports the verdict, whatever happens
//! on the way.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{Instrument, debug_span, error};

use crate::clock;
use crate::engine::Event;
use crate::engine::plan::GatewayIndex;
use crate::gateway::{Gate, Gateway};
use crate::message::{MessageId, Outgoing};
use crate::metrics::{self, GatewayMetrics};
use crate::verdict::{Joint, Verdict};

/// Where an attempt goes, and what it must ask and tell on its way.
#[derive(Debug)]
pub struct Way {
    pub index: GatewayIndex,
    pub gateway: Arc<Gateway>,
    pub gate: Gate,
    pub metrics: Arc<GatewayMetrics>,
}

/// Starts the attempt; its [`Event::Answer`] comes for certain, even if the code in between panics.
pub fn start(tasks: &mut JoinSet<()>, way: Way, message: Outgoing, events: mpsc::Sender<Event>) {
    let span = debug_span!("deliver", message_id = message.id.0, attempt = message.attempt);
    tasks.spawn(
        async move {
            let Way { index, gateway, gate, metrics } = way;
            let begun = clock::now();
            // Boxed: a task's future is copied a dozen times on its way to the scheduler, and this one is kilobytes long.
            let sending = Box::pin(AssertUnwindSafe(gateway.send(&message, &gate)).catch_unwind());
            let verdict = sending.await.unwrap_or_else(|_| panicked(message.id));
            metrics.attempted(metrics::Attempt::of(&verdict), clock::now().since(begun));
            let answer = Event::Answer { gateway: index, id: message.id, verdict };
            // Nobody listens any more only when the process is going down; the wave still stands for the attempt.
            let _ = events.send(answer).await;
        }
        .instrument(span),
    );
}

/// The same for messages that share a request: one task, one event, [`Event::JointAnswer`].
pub fn start_together(
    tasks: &mut JoinSet<()>,
    way: Way,
    messages: Vec<Outgoing>,
    events: mpsc::Sender<Event>,
) {
    let ids: Vec<MessageId> = messages.iter().map(|message| message.id).collect();
    let Some(first) = ids.first().copied() else { return };
    let span = debug_span!("deliver", messages = ids.len(), first = first.0);
    tasks.spawn(
        async move {
            let Way { index, gateway, gate, metrics } = way;
            let begun = clock::now();
            // Boxed, as above.
            let sending = Box::pin(AssertUnwindSafe(gateway.send_together(&messages, &gate)).catch_unwind());
            let joint = sending.await.unwrap_or_else(|_| Joint::of(panicked(first)));
            metrics.attempted_together(&joint, messages.len(), clock::now().since(begun));
            // As above.
            let _ = events.send(Event::JointAnswer { gateway: index, ids, joint }).await;
        }
        .instrument(span),
    );
}

fn panicked(id: MessageId) -> Verdict {
    error!(message_id = id.0, "sending panicked; please report this");
    Verdict::Unknown { reason: "outboxd failed while sending; this is a bug in outboxd".to_owned() }
}
