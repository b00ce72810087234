//! A send API in the manner of Kannel's smsbox, for the daemon's configurable dialect.
//!
//! It has no client reference: `binfo`, or else the field `ref` of `dlr-url`, stands for one in the ledger.

use crate::sim::answer::Answer;
use crate::sim::batch::{Batch, Outcome, Recipient};
use crate::sim::call::Call;
use crate::sim::form::Form;
use crate::sim::ledger::Dlr;
use crate::sim::script::{Refusal, Target};
use crate::sim::server::Unfit;
use crate::sim::settings::{Charset, Settings};

pub(super) fn read(settings: &Settings, call: &Call) -> Result<Batch, Unfit> {
    let query = Form::parse(call.query.as_bytes(), Charset::Utf8);
    let field = |name: &str| query.exact(name);
    let right = |name: &str, known: &str| field(name).as_deref() == Some(known);
    if !right("username", &settings.account.username) || !right("password", &settings.account.password) {
        return Err(unfit(Refusal::Login));
    }
    let dlr_url = field("dlr-url");
    let reference = field("binfo")
        .or_else(|| {
            let (_, query) = dlr_url.as_deref()?.split_once('?')?;
            Form::parse(query.as_bytes(), Charset::Utf8).exact("ref")
        })
        .unwrap_or_default();
    let (Some(to), Some(text)) = (field("to"), text(&query)) else {
        return Err(unfit(Refusal::Parameter));
    };
    let recipients = to
        .split_ascii_whitespace()
        .map(|number| Recipient {
            number: number.strip_prefix('+').unwrap_or(number).to_owned(),
            notify_id: reference.clone(),
        })
        .collect::<Vec<_>>();
    if recipients.is_empty() {
        return Err(unfit(Refusal::Parameter));
    }
    let mask = field("dlr-mask").and_then(|mask| mask.parse().ok()).unwrap_or(0);
    let minutes: u64 = field("deferred").and_then(|text| text.parse().ok()).unwrap_or(0);
    Ok(Batch {
        via: Target::Kannel,
        text,
        sender: field("from").unwrap_or_default(),
        recipients,
        wait_ms: minutes.saturating_mul(60_000),
        dlr: dlr_url.map(|url| Dlr { url, mask }),
    })
}

/// The text in the charset that `charset` and `coding` name; UTF-8 when they name none.
fn text(query: &Form) -> Option<String> {
    let bytes = query.raw("text")?;
    let charset = query.exact("charset").unwrap_or_default().to_ascii_uppercase();
    let ucs2 = query.exact("coding").as_deref() == Some("2");
    Some(match charset.as_str() {
        "ISO-8859-1" | "LATIN1" => bytes.iter().map(|byte| char::from(*byte)).collect(),
        "UTF-16BE" | "UCS-2" => utf16(bytes),
        "" if ucs2 => utf16(bytes),
        _ => String::from_utf8_lossy(bytes).into_owned(),
    })
}

fn utf16(bytes: &[u8]) -> String {
    let units =
        bytes.chunks(2).map(|two| two.iter().fold(0_u16, |unit, byte| (unit << 8) | u16::from(*byte)));
    char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

fn unfit(refusal: Refusal) -> Unfit {
    (refusal, answer(&Outcome::Refused(refusal)))
}

pub(super) fn answer(outcome: &Outcome) -> Answer {
    let (status, text) = match outcome {
        Outcome::Scheduled { .. } => (202, "0: Accepted for delivery"),
        Outcome::Refused(Refusal::Login) => (403, "Authorization failed for sendsms"),
        Outcome::Refused(Refusal::Sender) => (400, "Sender missing and no global set, rejected"),
        Outcome::Refused(Refusal::Number) => (400, "Not routable. Do not try again."),
        Outcome::Refused(Refusal::Parameter) => (400, "Missing receiver or message, rejected"),
        Outcome::Refused(Refusal::Credits) => (402, "No credits"),
        Outcome::Refused(Refusal::Busy) => (503, "Temporal failure, try again later."),
    };
    Answer::text(status, text)
}
