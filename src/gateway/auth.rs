//! The log-in of InteractSMS v2, shared by everything that talks to one gateway.
//!
//! One log-in at a time, and whoever waits for it shares its outcome. Tokens are renewed ahead of their end while the
//! old one still serves. Wrong credentials are remembered: no further attempt is made until [`Auth::reset`], because
//! the account may be locked after some. No password, and no text that repeats one, leaves this file.

use std::slice;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use crate::clock::{Moment, now};
use crate::config::{self, Secret};
use crate::gateway::answer::{Answer, by_status};
use crate::gateway::egress::{ANSWER_BYTES, Egress, place_of};
use crate::gateway::interactsms_v2::bearer;
use crate::gateway::quote::Private;
use crate::gateway::{BuildError, Deferral, parse_url};
use crate::verdict::{DeferCause, Verdict};

/// What a token without `expires_in` is good for; the documented life is 120 s.
const ASSUMED_LIFE: Duration = Duration::from_secs(60);
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 3600);
/// After a renewal failed while the old token still serves, nobody tries again for this long.
const RENEWAL_PAUSE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) secret: Arc<Secret>,
    number: u64,
}

#[derive(Debug)]
struct Held {
    token: Token,
    renew_at: Moment,
    ends_at: Moment,
}

#[derive(Debug, Default)]
struct State {
    held: Option<Held>,
    /// Set by wrong credentials; ends all attempts until reset.
    refused: Option<Deferral>,
    /// Log-ins that came to an end, well or not.
    finished: u64,
    last_failure: Option<Deferral>,
    next_number: u64,
    /// The last two: an answer may come after the token that asked for it was replaced.
    recent: [Option<Arc<Secret>>; 2],
}

/// What somebody who needs a token is to do.
#[derive(Debug)]
enum Plan {
    Use(Token),
    /// Good still, but renew it if nobody else does so already.
    UseOrRenew(Token),
    LogIn,
    GiveUp(Deferral),
}

impl State {
    fn plan(&self, now: Moment) -> Plan {
        if let Some(refused) = &self.refused {
            return Plan::GiveUp(refused.clone());
        }
        match &self.held {
            Some(held) if now < held.renew_at => Plan::Use(held.token.clone()),
            Some(held) if now < held.ends_at => Plan::UseOrRenew(held.token.clone()),
            Some(_) | None => Plan::LogIn,
        }
    }

    fn store(&mut self, secret: Secret, life: Duration, now: Moment) -> Token {
        self.next_number += 1;
        let token = Token { secret: Arc::new(secret), number: self.next_number };
        self.recent = [Some(Arc::clone(&token.secret)), self.recent[0].take()];
        // Two thirds of 120 s: renewed after 80 s, and not used in the last 10 %, which a slow request may need.
        self.held = Some(Held {
            token: token.clone(),
            renew_at: now + life.mul_f64(2.0 / 3.0),
            ends_at: now + life.mul_f64(0.9),
        });
        self.last_failure = None;
        token
    }

    fn fail(&mut self, failure: &Failure, now: Moment) {
        if failure.wrong_credentials {
            self.refused = Some(failure.deferral.clone());
            self.held = None;
        }
        self.last_failure = Some(failure.deferral.clone());
        if let Some(held) = &mut self.held {
            held.renew_at = (now + RENEWAL_PAUSE).min(held.ends_at);
        }
    }
}

#[derive(Debug)]
pub(super) struct Failure {
    pub(super) deferral: Deferral,
    wrong_credentials: bool,
}

#[derive(Debug)]
pub(super) struct Auth {
    url: Url,
    /// The log-in form, ready made.
    form: Secret,
    password: Secret,
    state: Mutex<State>,
    /// Held during a log-in.
    turn: tokio::sync::Mutex<()>,
}

impl Auth {
    pub(super) fn build(cfg: &config::InteractsmsV2) -> Result<Auth, BuildError> {
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "password")
            .append_pair("client_id", "ismstoken")
            .append_pair("username", &cfg.username)
            .append_pair("password", cfg.password.expose())
            .finish();
        Ok(Auth {
            url: parse_url("token_url", &cfg.token_url)?,
            form: Secret::new(form),
            password: cfg.password.clone(),
            state: Mutex::default(),
            turn: tokio::sync::Mutex::new(()),
        })
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// A token that serves now, logging in if that is needed.
    pub(super) async fn token(&self, egress: &Egress) -> Result<Token, Deferral> {
        let (plan, finished) = {
            let state = self.state();
            (state.plan(now()), state.finished)
        };
        match plan {
            Plan::Use(token) => Ok(token),
            Plan::GiveUp(refused) => Err(refused),
            Plan::UseOrRenew(old) => match self.turn.try_lock() {
                Ok(_turn) => Ok(self.log_in(egress, finished).await.unwrap_or(old)),
                Err(_) => Ok(old),
            },
            Plan::LogIn => {
                let _turn = self.turn.lock().await;
                self.log_in(egress, finished).await
            }
        }
    }

    /// The gateway said 401 to this token. One that was fetched meanwhile stays.
    pub(super) fn invalidate(&self, token: &Token) {
        let mut state = self.state();
        if state.held.as_ref().is_some_and(|held| held.token.number == token.number) {
            state.held = None;
        }
    }

    /// The tokens that answers of these minutes may repeat.
    pub(super) fn recent(&self) -> Vec<Arc<Secret>> {
        self.state().recent.iter().flatten().cloned().collect()
    }

    /// Forgets that the credentials were refused: a person has looked at them.
    pub(super) fn reset(&self) {
        let mut state = self.state();
        state.refused = None;
        state.last_failure = None;
    }

    /// Called with the turn held. `seen` is the number of finished log-ins when the caller began to wait: if one has
    /// finished since, its outcome is ours too, or a dead log-in server would be tried once for each who waits.
    async fn log_in(&self, egress: &Egress, seen: u64) -> Result<Token, Deferral> {
        {
            let state = self.state();
            match state.plan(now()) {
                Plan::GiveUp(refused) => return Err(refused),
                Plan::Use(token) => return Ok(token),
                Plan::UseOrRenew(token) if state.finished != seen => return Ok(token),
                Plan::UseOrRenew(_) | Plan::LogIn => {}
            }
            if let Some(failure) = state.last_failure.as_ref().filter(|_| state.finished != seen) {
                return Err(failure.clone());
            }
        }
        let outcome = self.ask_for_token(egress).await;
        let now = now();
        let mut state = self.state();
        state.finished += 1;
        match outcome {
            Ok((secret, life)) => Ok(state.store(secret, life, now)),
            Err(failure) => {
                state.fail(&failure, now);
                Err(failure.deferral)
            }
        }
    }

    async fn ask_for_token(&self, egress: &Egress) -> Result<(Secret, Duration), Failure> {
        let mut request = reqwest::Request::new(reqwest::Method::POST, self.url.clone());
        request
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        *request.body_mut() = Some(Bytes::copy_from_slice(self.form.expose().as_bytes()).into());
        let answer = egress.call(request, ANSWER_BYTES).await.map_err(|deferral| Failure {
            deferral: Deferral { reason: format!("could not log in: {}", deferral.reason), ..deferral },
            wrong_credentials: false,
        })?;
        self.read(&answer)
    }

    /// A token and how long it serves.
    pub(super) fn read(&self, answer: &Answer) -> Result<(Secret, Duration), Failure> {
        let host = place_of(&self.url);
        let own = answer.object::<Own>();
        if answer.is_whole_success() {
            let own = own.unwrap_or_default();
            let secret = own
                .access_token
                .map(Secret::new)
                .filter(|token| !token.expose().is_empty() && bearer(token).is_some());
            return match secret {
                Some(secret) => Ok((secret, life(&own.expires_in))),
                None => Err(temporary(answer, format!("could not log in: {host} answered without a token"))),
            };
        }
        let error = own.as_ref().and_then(|own| own.error.as_deref());
        let described = own.as_ref().and_then(|own| own.error_description.as_deref()).or(error);
        let said = described.map(|text| self.quoted(text)).unwrap_or_default();
        match (answer.status, error) {
            (408 | 429 | 500.., _) | (_, Some("temporarily_unavailable" | "server_error")) => {
                Err(temporary(answer, format!("could not log in: {host} is busy (HTTP {})", answer.status)))
            }
            (401, _) | (400..=499, Some(_)) => Err(Failure {
                deferral: Deferral {
                    cause: DeferCause::Unauthorized,
                    retry_after: None,
                    reason: format!(
                        "the gateway refused our log-in (HTTP {}{said}); check username and password, then start \
                         the gateway again",
                        answer.status
                    ),
                },
                wrong_credentials: true,
            }),
            _ => Err(Failure { deferral: plain(answer, &host), wrong_credentials: false }),
        }
    }

    fn quoted(&self, text: &str) -> String {
        let private = Private { secrets: slice::from_ref(&self.password), auth: Some(self), text: "" };
        format!(", \"{}\"", private.quote(text))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is a plain assignment, so a panic elsewhere leaves nothing half done in it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The log-in server may answer better in a while.
fn temporary(answer: &Answer, reason: String) -> Failure {
    let cause = if answer.status == 429 { DeferCause::Throttled } else { DeferCause::Busy };
    Failure { deferral: Deferral { cause, retry_after: answer.wait(), reason }, wrong_credentials: false }
}

/// A status that would meet every log-in at this address.
fn plain(answer: &Answer, host: &str) -> Deferral {
    let cause = match by_status(answer) {
        Verdict::Deferred { cause, .. } => cause,
        Verdict::Rejected { .. } => DeferCause::Misconfigured,
        Verdict::Accepted { .. } | Verdict::Unknown { .. } => DeferCause::Busy,
    };
    let hint = match answer.status {
        407 => "the proxy wants a log-in, check user and password in proxy",
        _ => "check token_url",
    };
    let reason = format!("could not log in: {host} answered HTTP {}; {hint}", answer.status);
    // Time does not mend what a person must.
    let retry_after = answer.wait().filter(|_| !cause.needs_a_person());
    Deferral { cause, retry_after, reason }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Own {
    access_token: Option<String>,
    expires_in: Value,
    error: Option<String>,
    error_description: Option<String>,
}

fn life(expires_in: &Value) -> Duration {
    let secs = match expires_in {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse::<f64>().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    match secs {
        Some(secs) if secs >= LONGEST_LIFE.as_secs_f64() => LONGEST_LIFE,
        Some(secs) if secs >= 0.0 => Duration::from_secs_f64(secs),
        Some(_) | None => ASSUMED_LIFE,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::{any, prop_assert, proptest};
    use serde_json::json;

    use super::{Auth, Failure, LONGEST_LIFE, Plan, State, life, now};
    use crate::config::{self, Secret};
    use crate::gateway::answer::Answer;
    use crate::verdict::DeferCause;

    fn auth() -> Auth {
        Auth::build(&config::InteractsmsV2 {
            api_url: "https://api.example.test".to_owned(),
            token_url: "https://auth.example.test/token".to_owned(),
            username: "user".to_owned(),
            password: Secret::new("h&nter2"),
            campaign_name: None,
            coalesce: 1,
        })
        .unwrap()
    }

    fn failure(status: u16, body: &str) -> Failure {
        auth().read(&Answer::new(status, body.to_owned())).unwrap_err()
    }

    #[test]
    fn a_token_is_used_then_renewed_then_not_used() {
        let mut state = State::default();
        let now = now();
        assert!(matches!(state.plan(now), Plan::LogIn));
        state.store(Secret::new("t"), Duration::from_secs(120), now);
        let at = |secs| now + Duration::from_secs(secs);
        assert!(matches!(state.plan(at(79)), Plan::Use(_)));
        assert!(matches!(state.plan(at(81)), Plan::UseOrRenew(_)));
        assert!(matches!(state.plan(at(107)), Plan::UseOrRenew(_)));
        assert!(matches!(state.plan(at(108)), Plan::LogIn), "a token that is nearly over is not used");
        let failure = failure(503, "");
        state.fail(&failure, at(81));
        assert!(matches!(state.plan(at(82)), Plan::Use(_)), "a failed renewal is not repeated at once");
        assert!(matches!(state.plan(at(87)), Plan::UseOrRenew(_)));
    }

    #[test]
    fn an_answer_with_a_token_is_a_log_in() {
        let body = r#"{"access_token":"a.b.c","expires_in":120,"refresh_token":"x","token_type":"Bearer"}"#;
        let (token, life) = auth().read(&Answer::new(200, body)).unwrap();
        assert_eq!((token.expose(), life.as_secs()), ("a.b.c", 120));
        for body in
            ["", "<html>", "{}", r#"{"access_token":""}"#, r#"{"access_token":"a\nb"}"#, "[]", r#"["a.b.c"]"#]
        {
            let failure = failure(200, body);
            assert_eq!(
                (failure.deferral.cause, failure.wrong_credentials),
                (DeferCause::Busy, false),
                "{body}"
            );
        }
    }

    #[test]
    fn only_a_refusal_of_the_credentials_is_final() {
        let grant = r#"{"error":"invalid_grant","error_description":"Invalid user credentials"}"#;
        for (status, body) in [(400, grant), (401, grant), (401, ""), (403, grant)] {
            let failure = failure(status, body);
            assert!(failure.wrong_credentials, "{status} {body}");
            assert_eq!(failure.deferral.cause, DeferCause::Unauthorized);
        }
        for (status, body, cause) in [
            (400, "<html>", DeferCause::Misconfigured),
            (404, "", DeferCause::Misconfigured),
            (302, "", DeferCause::Misconfigured),
            (407, "", DeferCause::Misconfigured),
            (429, grant, DeferCause::Throttled),
            (500, grant, DeferCause::Busy),
            (503, "", DeferCause::Busy),
            (400, r#"{"error":"temporarily_unavailable"}"#, DeferCause::Busy),
        ] {
            let failure = failure(status, body);
            assert_eq!(
                (failure.deferral.cause, failure.wrong_credentials),
                (cause, false),
                "{status} {body}"
            );
        }
    }

    #[test]
    fn a_failure_never_repeats_the_password() {
        let shown = format!("{:?}", failure(401, r#"{"error":"user with h&nter2 unknown"}"#));
        assert!(!shown.contains("h&nter2"), "{shown}");
        let shown = format!("{:?}", auth());
        assert!(!shown.contains("nter2"), "{shown}");
    }

    #[test]
    fn any_life_is_bounded() {
        assert_eq!(life(&json!(120)).as_secs(), 120);
        assert_eq!(life(&json!("90")).as_secs(), 90);
        assert_eq!(life(&json!(0)).as_secs(), 0);
        for odd in [json!(null), json!(-5), json!("soon"), json!([1]), json!("NaN")] {
            assert_eq!(life(&odd).as_secs(), 60, "{odd}");
        }
        for long in [json!(1e300), json!(u64::MAX), json!("inf")] {
            assert_eq!(life(&long), LONGEST_LIFE, "{long}");
        }
    }

    proptest! {
        #[test]
        fn reading_a_log_in_answer_never_panics(status in any::<u16>(), body in any::<Vec<u8>>()) {
            let read = auth().read(&Answer::new(status, body));
            prop_assert!(read.is_err() || (200..300).contains(&status));
        }
    }
}
