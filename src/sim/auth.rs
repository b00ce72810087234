//! The log-in server: a password in, a token out that really ends.
//!
//! The shape of refusals is not documented; it follows what the tokens' look suggests (Keycloak).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::json;
use tokio::time::Instant;

use crate::sim::agenda::after_ms;
use crate::sim::answer::Answer;
use crate::sim::call::Call;
use crate::sim::form::Form;
use crate::sim::hub::Hub;
use crate::sim::settings::Settings;
use crate::sim::stamp;

/// The access tokens that were given out, with their ends.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    ends: Mutex<HashMap<String, Instant>>,
}

impl Tokens {
    fn admit(&self, token: String, life_ms: u64) {
        let now = Instant::now();
        let mut ends = self.lock();
        ends.retain(|_, end| *end > now);
        ends.insert(token, after_ms(life_ms));
    }

    fn is_alive(&self, token: &str) -> bool {
        self.lock().get(token).is_some_and(|end| *end > Instant::now())
    }

    pub(super) fn expire_all(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the request carries a token that is alive.
pub(super) fn is_authorized(hub: &Hub, call: &Call) -> bool {
    let token = call.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
    token.is_some_and(|token| hub.tokens.is_alive(token))
}

/// `POST /token`.
pub(super) fn token(hub: &Hub, settings: &Settings, call: &Call) -> Answer {
    if !call.has_content_type("application/x-www-form-urlencoded") {
        return Answer::json(415, &json!({"error": "HTTP 415 Unsupported Media Type"}));
    }
    let form = Form::parse(&call.body, crate::sim::settings::Charset::Utf8);
    let field = |name: &str| form.exact(name).unwrap_or_default();
    if field("grant_type") != "password" {
        let text = "Unsupported grant_type";
        return Answer::json(400, &json!({"error": "unsupported_grant_type", "error_description": text}));
    }
    if field("client_id") != "ismstoken" {
        return refuse(hub, "invalid_client", "Invalid client or Invalid client credentials");
    }
    if field("username") != settings.account.username || field("password") != settings.account.password {
        return wrong_credentials(hub);
    }
    match grant(settings) {
        Ok((token, answer)) => {
            hub.tokens.admit(token, settings.auth.token_life_ms);
            hub.counters.add(&hub.counters.logins, 1);
            answer
        }
        Err(error) => Answer::json(500, &json!({"error": "server_error", "error_description": error})),
    }
}

pub(super) fn wrong_credentials(hub: &Hub) -> Answer {
    refuse(hub, "invalid_grant", "Invalid user credentials")
}

fn refuse(hub: &Hub, error: &str, text: &str) -> Answer {
    hub.counters.add(&hub.counters.logins_refused, 1);
    Answer::json(401, &json!({"error": error, "error_description": text}))
}

/// A token of three parts that looks like a JWT and is signed with noise.
fn grant(settings: &Settings) -> Result<(String, Answer), String> {
    let mut noise = [0_u8; 80];
    getrandom::fill(&mut noise).map_err(|error| format!("no randomness: {error}"))?;
    let (id, signature) = noise.split_at(16);
    let seconds = settings.auth.token_life_ms.div_ceil(1000);
    let now = stamp::now_us() / 1_000_000;
    let end = now.saturating_add(i64::try_from(seconds).unwrap_or(i64::MAX));
    let claims = json!({
        "exp": end, "iat": now, "jti": crate::sim::digest::hex(id), "typ": "Bearer", "azp": "ismstoken",
    });
    let head = |alg: &str| base64url(json!({"alg": alg, "typ": "JWT"}).to_string().as_bytes());
    let body = base64url(claims.to_string().as_bytes());
    let access = format!("{}.{body}.{}", head("RS256"), base64url(signature));
    let refresh = format!("{}.{body}.{}", head("HS512"), base64url(id));
    let answer = Answer::json(
        200,
        &json!({
            "access_token": access, "expires_in": seconds, "refresh_expires_in": 1200, "refresh_token": refresh,
            "token_type": "Bearer", "scope": "email profile client_id",
        }),
    );
    Ok((access, answer))
}

fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let value = chunk.iter().fold(0_usize, |value, byte| (value << 8) | usize::from(*byte));
        let value = value << (8 * (3 - chunk.len()));
        for digit in 0..=chunk.len() {
            text.push(char::from(DIGITS[(value >> (18 - 6 * digit)) & 63]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::base64url;

    #[test]
    fn base64url_has_no_padding_and_the_url_alphabet() {
        assert_eq!(base64url(b""), "");
        assert_eq!(base64url(b"f"), "Zg");
        assert_eq!(base64url(b"fo"), "Zm8");
        assert_eq!(base64url(b"foo"), "Zm9v");
        assert_eq!(base64url(&[0xff, 0xef]), "_-8");
    }
}
