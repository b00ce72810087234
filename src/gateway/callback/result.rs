//! Processing results of InteractSMS v2: what became of a request after it had been answered.

use serde_json::{Map, Value};

use crate::gateway::callback::CallbackError;
use crate::text::code;

const VALUE_BYTES: usize = 2000;

/// One result. Results carry no signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Processing {
    /// The NotifyId, if there is one: a result about a whole request has none.
    pub gateway_ref: Option<String>,
    pub outcome: Outcome,
    /// When, as the gateway wrote it: all that tells a second result from one that is repeated.
    pub finished_at: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is on its way to the network.
    Accepted,
    /// This message was refused.
    Rejected { code: &'static str, reason: String },
    /// Refused for want of credits: not this message's fault.
    NoCredit { reason: String },
}

pub(super) fn read(body: &[u8]) -> Result<Processing, CallbackError> {
    let Ok(Value::Object(fields)) = serde_json::from_slice(body) else {
        return Err(CallbackError::Malformed("it is not a JSON object"));
    };
    let status = text(&fields, "Status")?.ok_or(CallbackError::NotUnderstood)?;
    let message = text(&fields, "Message")?.unwrap_or_default();
    let gateway_ref = text(&fields, "NotifyId")?.filter(|reference| !reference.is_empty());
    let finished_at = text(&fields, "FinishedAt")?.filter(|time| !time.is_empty());
    let outcome = if status.eq_ignore_ascii_case("MESSAGE_SUCCESS") {
        Outcome::Accepted
    } else if status.eq_ignore_ascii_case("MESSAGE_ERROR") || status.eq_ignore_ascii_case("CAMPAIGN_ERROR") {
        refused(message)
    } else {
        return Err(CallbackError::NotUnderstood);
    };
    match (&gateway_ref, &outcome) {
        // Of a message from the gateway's web pages.
        (None, Outcome::Accepted) => Err(CallbackError::EmptyReference),
        _ => Ok(Processing {
            gateway_ref: gateway_ref.map(str::to_owned),
            outcome,
            finished_at: finished_at.map(str::to_owned),
        }),
    }
}

fn refused(message: &str) -> Outcome {
    let lower = message.to_ascii_lowercase();
    let reason = if message.is_empty() { "the gateway gave no reason" } else { message }.to_owned();
    if lower.contains("no credit") {
        Outcome::NoCredit { reason }
    } else if lower.contains("sender is not valid") {
        Outcome::Rejected { code: "sender_not_valid", reason }
    } else if lower.contains("empty msisdn") {
        Outcome::Rejected { code: code::BAD_NUMBER, reason }
    } else {
        Outcome::Rejected { code: "gateway_refused", reason }
    }
}

/// The value of a field, in any letter case. A field that stands there twice, or is no text, is nobody's.
fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, CallbackError> {
    let mut found =
        fields.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value);
    let value = match (found.next(), found.next()) {
        (None, _) | (Some(Value::Null), None) => return Ok(None),
        (Some(Value::String(value)), None) => value,
        (Some(_), _) => return Err(CallbackError::Malformed("a field is not one text")),
    };
    if value.len() > VALUE_BYTES || value.contains('\0') {
        return Err(CallbackError::Malformed("a field is too long or holds a NUL"));
    }
    Ok(Some(value.trim()))
}
