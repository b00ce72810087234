//! `POST /api/v2/Campaign` and the sender list. The caller has checked the token.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::sim::answer::Answer;
use crate::sim::batch::{Batch, Outcome, Recipient};
use crate::sim::call::Call;
use crate::sim::script::{Refusal, Target};
use crate::sim::server::Unfit;
use crate::sim::settings::{ErrorItems, Settings};
use crate::sim::stamp;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Campaign {
    text: Option<String>,
    from: Option<String>,
    recipient_info: Option<Vec<RecipientInfo>>,
    send_at: Option<String>,
    #[serde(rename = "campaignName")]
    _campaign_name: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RecipientInfo {
    msisdn: Option<String>,
    notify_id: Option<String>,
}

pub(super) fn read(settings: &Settings, call: &Call) -> Result<Batch, Unfit> {
    if !call.has_content_type("application/json") {
        return Err((Refusal::Parameter, refuse(415, "Unsupported Media Type", &[])));
    }
    let campaign: Campaign = serde_json::from_slice(&call.body).map_err(|error| {
        let errors = [format!("The JSON value is invalid: {error}")];
        (Refusal::Parameter, refuse(400, "Invalid parameters", &errors))
    })?;
    let mut errors = Vec::new();
    let mut required = |value: Option<String>, name: &str| {
        let value = value.filter(|text| !text.is_empty());
        if value.is_none() {
            errors.push(format!("The {name} field is required."));
        }
        value.unwrap_or_default()
    };
    let text = required(campaign.text, "text");
    let sender = required(campaign.from, "from");
    let recipients = campaign.recipient_info.unwrap_or_default();
    if recipients.is_empty() {
        errors.push("The recipientInfo field is required.".to_owned());
    }
    if recipients.len() > settings.v2.max_recipients {
        errors.push("Too many recipients.".to_owned());
    }
    let wait_ms = campaign.send_at.as_deref().map_or(Some(0), stamp::ms_until);
    if wait_ms.is_none() {
        errors.push("The sendAt field is not a date-time.".to_owned());
    }
    if !errors.is_empty() {
        return Err((Refusal::Parameter, refuse(422, "Validation failed", &errors)));
    }
    let recipients = recipients
        .into_iter()
        .map(|recipient| Recipient {
            number: recipient.msisdn.unwrap_or_default(),
            notify_id: recipient.notify_id.unwrap_or_default(),
        })
        .collect();
    Ok(Batch { via: Target::V2, text, sender, recipients, wait_ms: wait_ms.unwrap_or(0), dlr: None })
}

pub(super) fn answer(settings: &Settings, outcome: &Outcome) -> Answer {
    let at_once = settings.v2.refuse_at_once;
    match outcome {
        Outcome::Scheduled { invalid } if invalid.is_empty() => scheduled(),
        Outcome::Scheduled { invalid } => {
            let errors: Vec<Value> =
                invalid.iter().map(|recipient| error_item(settings, recipient)).collect();
            let body = json!({"success": true, "message": "Campaign scheduled", "errors": errors});
            Answer::json(200, &body)
        }
        // The processing result tells, unless the settings want it told twice.
        Outcome::Refused(Refusal::Sender | Refusal::Credits) if !at_once => scheduled(),
        Outcome::Refused(Refusal::Sender) => refuse(400, "Sender is not valid", &[]),
        Outcome::Refused(Refusal::Credits) => refuse(400, "No credits available", &[]),
        Outcome::Refused(Refusal::Login) => unauthorized(),
        Outcome::Refused(Refusal::Number) => {
            refuse(422, "No valid recipient", &["Invalid MSISDN".to_owned()])
        }
        Outcome::Refused(Refusal::Parameter) => refuse(400, "Invalid parameters", &[]),
        Outcome::Refused(Refusal::Busy) => refuse(500, "Internal error", &[]),
    }
}

pub(super) fn unauthorized() -> Answer {
    refuse(401, "Invalid or missing token", &[])
}

pub(super) fn sender_list(settings: &Settings) -> Answer {
    let list: Vec<Value> = settings
        .senders
        .list
        .iter()
        .map(|sender| json!({"name": sender.name, "type": sender.kind}))
        .collect();
    Answer::json(200, &Value::Array(list))
}

/// Sent with every good answer, so it is not built anew each time.
fn scheduled() -> Answer {
    let body: &'static str = r#"{"success":true,"message":"Campaign scheduled","errors":[]}"#;
    Answer::new(200, "application/json; charset=utf-8", body)
}

fn refuse(status: u16, message: &str, errors: &[String]) -> Answer {
    Answer::json(status, &json!({"success": false, "message": message, "errors": errors}))
}

fn error_item(settings: &Settings, recipient: &Recipient) -> Value {
    let Recipient { number, notify_id } = recipient;
    match settings.v2.error_items {
        ErrorItems::Object => json!({"msisdn": number, "message": "Invalid MSISDN"}),
        ErrorItems::Sentence => json!(format!("Invalid MSISDN: {number}")),
        ErrorItems::Number => json!(number),
        ErrorItems::Reference => json!({"notifyId": notify_id, "message": "Invalid MSISDN"}),
        ErrorItems::Nameless => json!("Invalid MSISDN"),
    }
}
