//! Answers to the log-in. A token is taken only from a whole success; the gateway is stopped for wrong credentials only
//! when somebody clearly said so; and no fault repeats the password.

use std::time::Duration;

use outboxd::verdict::DeferCause;
use serde_json::Value;

use super::words::{Kind, by_status, deferral, no_piece_of_the_password};
use super::{case, site};

pub fn check(input: &[u8]) {
    let answer = case::answer(input);
    let Some(read) = site::protocol("v2").log_in(&answer) else { panic!("v2 has a log-in") };
    // Bytes in it that are no text are forgiven where they decide nothing.
    let body: Option<Value> = serde_json::from_str(&String::from_utf8_lossy(&answer.body)).ok();
    let text = |name: &str| body.as_ref()?.get(name)?.as_str();
    match read {
        Ok((token, life)) => {
            assert!((200..300).contains(&answer.status) && !answer.truncated, "a token out of {answer:?}");
            assert_eq!(Some(token.expose()), text("access_token"));
            assert!(!token.expose().is_empty());
            assert!(
                !token.expose().contains(|c: char| c.is_control() && c != '\t'),
                "no header can carry it"
            );
            assert!(life <= Duration::from_secs(24 * 3600), "{life:?}");
        }
        Err(fault) => {
            deferral(&fault);
            no_piece_of_the_password(&answer, &fault.reason);
            let token = text("access_token").filter(|token| token.len() >= 8);
            assert!(token.is_none_or(|token| !fault.reason.contains(token)), "{}", fault.reason);
            // Stops the gateway until a person acts.
            let refused = answer.status == 401
                || ((400..500).contains(&answer.status) && answer.status != 429 && text("error").is_some());
            assert!(
                fault.cause != DeferCause::Unauthorized || refused,
                "{answer:?} says nothing about credentials"
            );
            if (500..600).contains(&answer.status) || answer.status == 408 {
                assert_eq!(fault.cause, DeferCause::Busy, "{answer:?}: it may pass");
            }
            let kept = body.as_ref().and_then(Value::as_object).is_none();
            if kept && by_status(answer.status) == Kind::Deferred(DeferCause::Misconfigured) {
                assert_eq!(fault.cause, DeferCause::Misconfigured, "{answer:?}");
            }
        }
    }
    assert_eq!(site::protocol("v1").log_in(&answer), None, "v1 has no log-in");
}
