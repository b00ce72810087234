//! One attempt: hands a message to its gateway and reports the verdict, whatever happens on the way.

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
use crate::message::Outgoing;
use crate::metrics::{self, GatewayMetrics};
use crate::verdict::Verdict;

/// Everything that one attempt needs.
#[derive(Debug)]
pub struct Attempt {
    pub index: GatewayIndex,
    pub gateway: Arc<Gateway>,
    pub gate: Gate,
    pub message: Outgoing,
    pub metrics: Arc<GatewayMetrics>,
}

/// Starts the attempt; its [`Event::Answer`] comes for certain, even if the code in between panics.
pub fn start(tasks: &mut JoinSet<()>, attempt: Attempt, events: mpsc::Sender<Event>) {
    let span = debug_span!("deliver", message_id = attempt.message.id.0, attempt = attempt.message.attempt);
    tasks.spawn(
        async move {
            let Attempt { index, gateway, gate, message, metrics } = attempt;
            let begun = clock::now();
            // Boxed: a task's future is copied a dozen times on its way to the scheduler, and this one is kilobytes long.
            let sending = Box::pin(AssertUnwindSafe(gateway.send(&message, &gate)).catch_unwind());
            let verdict = sending.await.unwrap_or_else(|_| {
                error!(message_id = message.id.0, "sending panicked; please report this");
                Verdict::Unknown {
                    reason: "outboxd failed while sending; this is a bug in outboxd".to_owned(),
                }
            });
            metrics.attempted(metrics::Attempt::of(&verdict), clock::now().since(begun));
            let answer = Event::Answer { gateway: index, id: message.id, verdict };
            // Nobody listens any more only when the process is going down; the wave still stands for the attempt.
            let _ = events.send(answer).await;
        }
        .instrument(span),
    );
}
