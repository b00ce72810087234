//! The two legacy send APIs: form (or query) and JSON. HTTP 200 always; the first line of the text is the verdict.

use serde_json::{Map, Value, json};

use crate::sim::answer::Answer;
use crate::sim::batch::{Batch, Outcome, Recipient};
use crate::sim::call::Call;
use crate::sim::form::Form;
use crate::sim::script::{Refusal, Target};
use crate::sim::server::Unfit;
use crate::sim::settings::{DeliveryTime, NotifyField, Settings};
use crate::sim::stamp;

/// The fields of either form, before they are judged.
#[derive(Debug, Default)]
struct Fields {
    user: Option<String>,
    password: Option<String>,
    api_id: Option<String>,
    to: Option<String>,
    text: Option<String>,
    from: Option<String>,
    notify_id: Option<String>,
    delivery_time: Option<String>,
}

pub(super) fn read_form(settings: &Settings, call: &Call) -> Result<Batch, Unfit> {
    let bytes = if call.method == http::Method::GET { call.query.as_bytes() } else { &call.body };
    let form = Form::parse(bytes, settings.v1.charset);
    let notify_id = match settings.v1.notify_field {
        NotifyField::NotifyID => form.any_case("NotifyID"),
        NotifyField::WithUnderscore => form.any_case("notify_id"),
        NotifyField::Either => form.any_case("NotifyID").or_else(|| form.any_case("notify_id")),
    };
    let fields = Fields {
        user: form.any_case("user"),
        password: form.any_case("password"),
        api_id: form.any_case("api_id"),
        to: form.any_case("to"),
        text: form.any_case("text"),
        from: form.any_case("from"),
        notify_id,
        delivery_time: form.any_case("deliverytime"),
    };
    judge(settings, fields, Target::V1Form)
        .map_err(|refusal| (refusal, answer_form(settings, &Outcome::Refused(refusal))))
}

pub(super) fn read_json(settings: &Settings, call: &Call) -> Result<Batch, Unfit> {
    let Ok(Value::Object(body)) = serde_json::from_slice::<Value>(&call.body) else {
        return Err((Refusal::Parameter, status(&settings.v1.codes.parameter, "Invalid JSON")));
    };
    let fields = Fields {
        user: member(&body, "User"),
        password: member(&body, "Password"),
        api_id: member(&body, "ApiId"),
        to: member(&body, "To"),
        text: member(&body, "Text"),
        from: member(&body, "SenderId"),
        notify_id: member(&body, "NotifyId"),
        delivery_time: member(&body, "DeliveryTime"),
    };
    judge(settings, fields, Target::V1Json)
        .map_err(|refusal| (refusal, answer_json(settings, &Outcome::Refused(refusal))))
}

/// A member by its name in any letter case; numbers count as text.
fn member(body: &Map<String, Value>, name: &str) -> Option<String> {
    let (_, value) = body.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

fn judge(settings: &Settings, fields: Fields, via: Target) -> Result<Batch, Refusal> {
    let account = &settings.account;
    let right = |given: &Option<String>, known: &str| given.as_deref() == Some(known);
    if !right(&fields.user, &account.username)
        || !right(&fields.password, &account.password)
        || !right(&fields.api_id, &account.api_id)
    {
        return Err(Refusal::Login);
    }
    let (Some(to), Some(text), Some(sender)) = (fields.to, fields.text, fields.from) else {
        return Err(Refusal::Parameter);
    };
    if settings.v1.max_chars.is_some_and(|max| text.chars().count() > max) {
        return Err(Refusal::Parameter);
    }
    let numeric = sender.bytes().all(|byte| byte.is_ascii_digit());
    if sender.is_empty() || sender.contains(' ') || (!numeric && sender.chars().count() > 11) {
        return Err(Refusal::Sender);
    }
    let notify_id = fields.notify_id.unwrap_or_default();
    if notify_id.chars().count() > 30 {
        return Err(Refusal::Parameter);
    }
    let recipients = to
        .split(',')
        .map(|number| Recipient { number: number.trim().to_owned(), notify_id: notify_id.clone() })
        .collect();
    let wait_ms = wait_ms(settings.v1.delivery_time, fields.delivery_time.as_deref());
    // The not sign stands for a line break on the wire.
    let text = text.replace('\u{ac}', "\n");
    Ok(Batch { via, text, sender, recipients, wait_ms: wait_ms.ok_or(Refusal::Parameter)?, dlr: None })
}

fn wait_ms(meaning: DeliveryTime, given: Option<&str>) -> Option<u64> {
    let number: i64 = match given.map(str::trim) {
        None | Some("") => return Some(0),
        Some(text) => text.parse().ok()?,
    };
    match meaning {
        _ if number == 0 => Some(0),
        DeliveryTime::Unix => Some(stamp::ms_until_unix(number)),
        DeliveryTime::Minutes => u64::try_from(number).ok().map(|minutes| minutes.saturating_mul(60_000)),
    }
}

pub(super) fn answer_form(settings: &Settings, outcome: &Outcome) -> Answer {
    let (code, text) = verdict(settings, outcome);
    Answer::text(200, format!("{code}\n{text}\n"))
}

pub(super) fn answer_json(settings: &Settings, outcome: &Outcome) -> Answer {
    let (code, text) = verdict(settings, outcome);
    status(code, text)
}

fn status(code: &str, text: &str) -> Answer {
    Answer::json(200, &json!({ "status": format!("{code}\n{text}") }))
}

fn verdict<'a>(settings: &'a Settings, outcome: &Outcome) -> (&'a str, &'static str) {
    let codes = &settings.v1.codes;
    match outcome {
        Outcome::Scheduled { .. } => ("0", "Request deferred successfully"),
        Outcome::Refused(Refusal::Login) => (&codes.login, "Invalid user, password or API ID"),
        Outcome::Refused(Refusal::Sender) => (&codes.sender, "Sender is not valid"),
        Outcome::Refused(Refusal::Credits) => (&codes.credits, "No credits available"),
        Outcome::Refused(Refusal::Number) => (&codes.number, "Invalid destination"),
        Outcome::Refused(Refusal::Parameter) => (&codes.parameter, "Missing or invalid parameter"),
        Outcome::Refused(Refusal::Busy) => (&codes.busy, "Internal error"),
    }
}
