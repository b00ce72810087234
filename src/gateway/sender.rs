//! Sends messages to one gateway and says what became of each.
//!
//! The one rule: an error before the body was handed over for writing is certain (the message stays queued), any
//! error after it is unknown. Which of the two holds is read from the [`Departure`], never guessed from an error's
//! text. Nothing here retries, except that a request answered with 401, which is certainly not accepted, is repeated
//! once with a fresh token.

use std::fmt;
use std::slice;
use std::time::Duration;

use http::StatusCode;
use tokio::time::{sleep, timeout};
use tracing::trace;

use crate::config::Secret;
use crate::gateway::answer::Answer;
use crate::gateway::auth::Auth;
use crate::gateway::departure::{Departure, Fate, Gate, OneWayBody, SettleOnDrop};
use crate::gateway::egress::{ANSWER_BYTES, Egress, connect_failure, place_of, read_answer, root_cause};
use crate::gateway::protocol::Protocol;
use crate::gateway::{Deferral, Prepared};
use crate::message::Outgoing;
use crate::telemetry::WAY;
use crate::verdict::{DeferCause, Joint, Verdict};

/// The client's own connect timeout comes first and explains itself better; this is the net below it.
const CONNECT_SLACK: Duration = Duration::from_secs(1);
/// The answer to a request for many may have a word for each.
const ANSWER_BYTES_A_MESSAGE: usize = 512;

pub(super) struct Sender {
    pub(super) protocol: Protocol,
    pub(super) egress: Egress,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("protocol", &self.protocol).finish_non_exhaustive()
    }
}

/// How an exchange ended, when it did not end with an answer.
type Exchanged = Result<Answer, Verdict>;

impl Sender {
    pub(super) async fn send(&self, message: &Outgoing, gate: &Gate) -> Verdict {
        match self.exchange_for(slice::from_ref(message), gate).await {
            Ok(answer) => self.protocol.verdict(&answer, message),
            Err(verdict) => verdict,
        }
    }

    pub(super) async fn send_together(&self, messages: &[Outgoing], gate: &Gate) -> Joint {
        match self.exchange_for(messages, gate).await {
            Ok(answer) => self.protocol.joint_verdict(&answer, messages),
            Err(verdict) => Joint::of(verdict),
        }
    }

    async fn exchange_for(&self, messages: &[Outgoing], gate: &Gate) -> Exchanged {
        match &self.protocol.auth {
            None => self.exchange(messages, None, gate).await,
            Some(auth) => self.exchange_logged_in(auth, messages, gate).await,
        }
    }

    async fn exchange_logged_in(&self, auth: &Auth, messages: &[Outgoing], gate: &Gate) -> Exchanged {
        let token = auth.token(&self.egress).await.map_err(Verdict::from)?;
        let answer = self.exchange(messages, Some(&token.secret), gate).await?;
        if answer.status != StatusCode::UNAUTHORIZED.as_u16() {
            return Ok(answer);
        }
        auth.invalidate(&token);
        let token = auth.token(&self.egress).await.map_err(Verdict::from)?;
        self.exchange(messages, Some(&token.secret), gate).await
    }

    /// One request, at most once on the wire.
    async fn exchange(&self, messages: &[Outgoing], token: Option<&Secret>, gate: &Gate) -> Exchanged {
        let prepared = self
            .protocol
            .request_together(messages, token)
            .map_err(|refusal| Verdict::Rejected { code: refusal.code, reason: refusal.reason })?;
        let url = prepared.url.clone();
        let departure = Departure::new(gate);
        let _settled = SettleOnDrop(departure.clone());
        let has_body = !prepared.body.is_empty();
        let request = request(prepared, &departure);
        // A request without a body has no later moment to ask at. That it left before it is even connected errs on
        // the side of "unknown", and a connect error tells better.
        if !has_body && !departure.leave() {
            return Err(held_back());
        }
        let most = ANSWER_BYTES + messages.len().saturating_sub(1) * ANSWER_BYTES_A_MESSAGE;
        let mut exchange = std::pin::pin!(async {
            let response = self.egress.client.execute(request).await?;
            Ok::<Answer, reqwest::Error>(read_answer(response, most).await)
        });

        let patience = self.egress.connect_timeout + CONNECT_SLACK;
        let early = if has_body {
            tokio::select! {
                biased;
                ended = &mut exchange => Some(Ended::With(ended)),
                () = departure.asked() => {
                    for message in messages {
                        trace!(target: WAY, message_id = message.id.0, "left");
                    }
                    None
                }
                () = sleep(patience) => Some(Ended::TooLate),
            }
        } else {
            None
        };
        let ended = match early {
            Some(Ended::TooLate) if departure.settle() != Fate::Left => Ended::TooLate,
            Some(Ended::With(result)) => Ended::With(result),
            // The body is on its way, perhaps since this very moment.
            Some(Ended::TooLate) | None => {
                let connecting = if has_body { Duration::ZERO } else { patience };
                match timeout(connecting + self.egress.request_timeout, exchange).await {
                    Ok(result) => Ended::With(result),
                    Err(_) => Ended::TooLate,
                }
            }
        };
        match ended {
            Ended::With(Ok(answer)) => Ok(answer),
            Ended::With(Err(error)) => Err(failed(&error, departure.settle(), has_body, &place_of(&url))),
            Ended::TooLate => Err(self.too_late(departure.settle(), &place_of(&url))),
        }
    }

    fn too_late(&self, fate: Fate, place: &str) -> Verdict {
        match fate {
            Fate::Left => Verdict::Unknown {
                reason: format!(
                    "{place} did not answer within {} s of getting the message",
                    self.egress.request_timeout.as_secs_f32()
                ),
            },
            Fate::HeldBack => held_back(),
            Fate::NeverLeft => {
                Verdict::from(Deferral::unreachable(format!("no connection to {place} in time")))
            }
        }
    }
}

enum Ended {
    With(Result<Answer, reqwest::Error>),
    TooLate,
}

fn request(prepared: Prepared, departure: &std::sync::Arc<Departure>) -> reqwest::Request {
    let mut request = reqwest::Request::new(prepared.method, prepared.url);
    *request.headers_mut() = prepared.headers;
    if !prepared.body.is_empty() {
        let body = OneWayBody::new(departure.clone(), prepared.body);
        *request.body_mut() = Some(reqwest::Body::wrap(body));
    }
    request
}

fn failed(error: &reqwest::Error, fate: Fate, has_body: bool, place: &str) -> Verdict {
    match fate {
        Fate::HeldBack => held_back(),
        Fate::NeverLeft => Verdict::from(connect_failure(error, place)),
        Fate::Left if !has_body && error.is_connect() => Verdict::from(connect_failure(error, place)),
        Fate::Left => Verdict::Unknown {
            reason: format!(
                "the connection to {place} broke after the message had left and before the answer came ({})",
                root_cause(error)
            ),
        },
    }
}

fn held_back() -> Verdict {
    Verdict::Deferred {
        cause: DeferCause::NotStarted,
        retry_after: None,
        reason: "the message was not sent: this daemon stopped sending just before".to_owned(),
    }
}
