//! Delivery receipts.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::config::Secret;
use crate::gateway::callback::CallbackError;
use crate::gateway::callback::fields::Fields;
use crate::gateway::callback::signature::Signature;
use crate::verdict::{Parts, Receipt};

const VALUE_BYTES: usize = 128;

pub(super) fn read(fields: &Fields, secrets: &[Secret]) -> Result<Receipt, CallbackError> {
    let success =
        fields.text("SMS-Success", VALUE_BYTES)?.ok_or(CallbackError::Malformed("SMS-Success is missing"))?;
    let delivered = if success.eq_ignore_ascii_case("true") {
        true
    } else if success.eq_ignore_ascii_case("false") {
        false
    } else {
        return Err(CallbackError::Malformed("SMS-Success is neither True nor False"));
    };
    let signature = Signature::of(fields)?;
    let gateway_ref = fields.text("SMS-NotifyId", VALUE_BYTES)?.unwrap_or_default();
    // The published sample is hashed with `true` while `True` is posted, so both spellings count.
    let lower = success.to_ascii_lowercase();
    let spellings = [success, lower.as_str()].map(|success| [gateway_ref.as_bytes(), success.as_bytes()]);
    if !signature.fits(&spellings, secrets) {
        return Err(CallbackError::WrongSignature);
    }
    if gateway_ref.is_empty() {
        return Err(CallbackError::EmptyReference);
    }
    let parts = match (fields.number("SMS-TotalToSend"), fields.number("SMS-TotalSent")) {
        (Some(to_send), Some(sent)) => {
            Some(Parts { to_send, sent, failed: fields.number("SMS-TotalFailed").unwrap_or(0) })
        }
        _ => None,
    };
    Ok(Receipt { gateway_ref: gateway_ref.to_owned(), delivered, parts, at_us: utc_micros(fields) })
}

/// `yyyy-MM-dd HH:mm:ss`, in UTC by the documentation. A time that cannot be read, or that nobody's clock shows, does
/// not make a callback worthless.
pub(super) fn utc_micros(fields: &Fields) -> Option<i64> {
    let text = std::str::from_utf8(fields.bytes("SMS-TimeStamp")?).ok()?;
    let time = DateTime::strptime("%Y-%m-%d %H:%M:%S", text.trim()).ok()?;
    let plausible = (2000..2100).contains(&time.year());
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp().as_microsecond()).filter(|_| plausible)
}
