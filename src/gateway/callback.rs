//! Delivery receipts that InteractSMS posts to us: read, and believed only with the right `SMS-Verify`.
//!
//! Pure. The hash is an unsalted MD5 over the reference and the outcome alone and can be replayed, so a receipt is
//! only as trustworthy as the secret path it came in on. It covers neither number nor time: nothing is derived from
//! the number, and the time is informative.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use md5::{Digest, Md5};

use crate::config::Secret;
use crate::verdict::Receipt;

/// A receipt has about ten short fields.
const FORM_BYTES: usize = 8 * 1024;
const FIELDS: usize = 64;
const VALUE_BYTES: usize = 128;

/// Why a callback is not used. Each variant wants another reaction from the listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// A reply, an opt-out or something else that is none of a receipt's business.
    #[error("the callback is not a delivery receipt")]
    NotAReceipt,
    #[error("the callback is malformed: {0}")]
    Malformed(&'static str),
    /// Forged, or signed with a secret that is not configured.
    #[error("the receipt's SMS-Verify does not fit any configured secret; check the client secret")]
    WrongSignature,
    /// Genuine, but about a message that was not sent by us: the gateway reports its web interface's messages too.
    #[error("the receipt names no message")]
    EmptyReference,
}

/// Reads one form-encoded callback. `secrets` are all tried: the documentation names the client secret in one place
/// and the account's password in another.
pub fn parse_receipt(form_bytes: &[u8], secrets: &[Secret]) -> Result<Receipt, ReceiptError> {
    let fields = Fields::read(form_bytes)?;
    let is_notification =
        fields.kind.as_deref().is_some_and(|kind| kind.eq_ignore_ascii_case("notification"));
    let success = match (fields.success, is_notification) {
        (Some(success), _) => success,
        (None, true) => return Err(ReceiptError::Malformed("SMS-Success is missing")),
        (None, false) => return Err(ReceiptError::NotAReceipt),
    };
    let delivered = if success.eq_ignore_ascii_case("true") {
        true
    } else if success.eq_ignore_ascii_case("false") {
        false
    } else {
        return Err(ReceiptError::Malformed("SMS-Success is neither True nor False"));
    };
    let verify = fields.verify.ok_or(ReceiptError::Malformed("SMS-Verify is missing"))?;
    let verify = md5_from_hex(&verify).ok_or(ReceiptError::Malformed("SMS-Verify is not an MD5 in hex"))?;
    let gateway_ref = fields.notify_id.unwrap_or_default();
    if !is_signed(&verify, &gateway_ref, &success, secrets) {
        return Err(ReceiptError::WrongSignature);
    }
    if gateway_ref.is_empty() {
        return Err(ReceiptError::EmptyReference);
    }
    let at_us = fields.time_stamp.as_deref().and_then(utc_micros);
    Ok(Receipt { gateway_ref, delivered, at_us })
}

/// The fields that matter, found whatever their letter case: the pages spell them in several ways.
#[derive(Default)]
struct Fields {
    kind: Option<String>,
    notify_id: Option<String>,
    success: Option<String>,
    verify: Option<String>,
    time_stamp: Option<String>,
}

impl Fields {
    fn read(form_bytes: &[u8]) -> Result<Fields, ReceiptError> {
        if form_bytes.len() > FORM_BYTES {
            return Err(ReceiptError::Malformed("it is too long"));
        }
        let mut fields = Fields::default();
        for (at, (name, value)) in form_urlencoded::parse(form_bytes).enumerate() {
            if at >= FIELDS {
                return Err(ReceiptError::Malformed("it has too many fields"));
            }
            let Some(place) = fields.place(&name) else { continue };
            if place.is_some() {
                // Which of the two was signed and which is meant could differ.
                return Err(ReceiptError::Malformed("a field stands in it twice"));
            }
            // The decoder puts U+FFFD where the bytes are not UTF-8; no genuine value holds it.
            if value.len() > VALUE_BYTES || value.contains(['\u{fffd}', '\0']) {
                return Err(ReceiptError::Malformed("a field is too long or not UTF-8"));
            }
            *place = Some(value.into_owned());
        }
        Ok(fields)
    }

    fn place(&mut self, name: &str) -> Option<&mut Option<String>> {
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted);
        if is("SMS-Type") {
            Some(&mut self.kind)
        } else if is("SMS-NotifyId") {
            Some(&mut self.notify_id)
        } else if is("SMS-Success") {
            Some(&mut self.success)
        } else if is("SMS-Verify") {
            Some(&mut self.verify)
        } else if is("SMS-TimeStamp") {
            Some(&mut self.time_stamp)
        } else {
            None
        }
    }
}

/// The published sample is hashed with `true` while `True` is posted, so both spellings count. All candidates are
/// compared in full, so that the time taken says nothing about how near a guess was.
fn is_signed(verify: &[u8; 16], notify_id: &str, success: &str, secrets: &[Secret]) -> bool {
    let lower = success.to_ascii_lowercase();
    let mut found = false;
    for secret in secrets.iter().filter(|secret| !secret.expose().is_empty()) {
        for spelling in [success, lower.as_str()] {
            let hash = Md5::new()
                .chain_update(notify_id.as_bytes())
                .chain_update(spelling.as_bytes())
                .chain_update(secret.expose().as_bytes())
                .finalize();
            let difference = hash.iter().zip(verify).fold(0, |all, (a, b)| all | (a ^ b));
            found |= difference == 0;
        }
    }
    found
}

fn md5_from_hex(text: &str) -> Option<[u8; 16]> {
    let digits = text.trim().as_bytes();
    if digits.len() != 32 {
        return None;
    }
    let mut out = [0; 16];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(out)
}

/// `yyyy-MM-dd HH:mm:ss`, in UTC by the documentation. A time that cannot be read does not make a receipt worthless.
fn utc_micros(text: &str) -> Option<i64> {
    let time = DateTime::strptime("%Y-%m-%d %H:%M:%S", text.trim()).ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp().as_microsecond())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::{ReceiptError, parse_receipt};
    use crate::config::Secret;
    use crate::verdict::Receipt;

    const SAMPLE: &str = "SMS-Type=Notification&SMS-NotifyID=321354&SMS-Success=True&SMS-To=353861234567&SMS-From=X\
                          &SMS-Verify=9db038748b3088971d913616c13e769b&SMS-TotalToSend=1&SMS-TotalSent=1\
                          &SMS-TotalFailed=0&SMS-TimeStamp=2009-02-13+23%3A31%3A30";

    fn parse(form: &str) -> Result<Receipt, ReceiptError> {
        parse_receipt(form.as_bytes(), &[Secret::new("client-secret"), Secret::new("Password1")])
    }

    fn expected() -> Receipt {
        Receipt { gateway_ref: "321354".to_owned(), delivered: true, at_us: Some(1_234_567_890_000_000) }
    }

    #[test]
    fn the_published_sample_is_genuine() {
        assert_eq!(parse(SAMPLE), Ok(expected()));
        assert_eq!(
            parse_receipt(SAMPLE.as_bytes(), &[Secret::new("other")]),
            Err(ReceiptError::WrongSignature)
        );
        assert_eq!(parse_receipt(SAMPLE.as_bytes(), &[]), Err(ReceiptError::WrongSignature));
    }

    #[test]
    fn spelling_and_type_are_forgiven() {
        for (from, to) in [
            ("SMS-NotifyID", "sms-notifyid"),
            ("SMS-NotifyID", "SMS-NotifyId"),
            ("SMS-TimeStamp", "SMS-Timestamp"),
            ("SMS-Type=Notification", "SMS-Type=Text"),
            ("SMS-Type=Notification&", ""),
            ("Success=True", "Success=TRUE"),
            ("9db038748b3088971d913616c13e769b", "9DB038748B3088971D913616C13E769B"),
        ] {
            assert!(SAMPLE.contains(from), "{from}");
            assert_eq!(parse(&SAMPLE.replace(from, to)), Ok(expected()), "{to}");
        }
    }

    #[test]
    fn a_failed_delivery_is_signed_as_posted_or_in_lower_case() {
        // MD5 of "1-00000000-1False" and of "1-00000000-1false", each followed by "Password1".
        for spelling in ["False", "false"] {
            use md5::{Digest, Md5};
            let hash = Md5::digest(format!("1-00000000-1{spelling}Password1"));
            let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
            let form = format!("SMS-NotifyId=1-00000000-1&SMS-Success=False&SMS-Verify={hex}");
            let receipt = parse(&form).unwrap();
            assert_eq!((receipt.delivered, receipt.at_us), (false, None));
        }
    }

    #[test]
    fn a_changed_receipt_is_not_believed() {
        for (from, to) in [("321354", "321355"), ("Success=True", "Success=False"), ("=9db", "=8db")] {
            assert_eq!(parse(&SAMPLE.replace(from, to)), Err(ReceiptError::WrongSignature), "{to}");
        }
    }

    #[test]
    fn a_genuine_receipt_without_reference_is_told_apart() {
        use md5::{Digest, Md5};
        let hex: String = Md5::digest("truePassword1").iter().map(|byte| format!("{byte:02x}")).collect();
        for id in ["SMS-NotifyId=&", ""] {
            let form = format!("{id}SMS-Success=True&SMS-Verify={hex}");
            assert_eq!(parse(&form), Err(ReceiptError::EmptyReference));
        }
    }

    #[test]
    fn other_callbacks_and_junk_are_told_apart() {
        let inbound = "SMS-Type=AuthCode&SMS-Content=STOP&SMS-From=353861234567&SMS-To=50123&SMS-NotifyId=";
        assert_eq!(parse(inbound), Err(ReceiptError::NotAReceipt));
        assert_eq!(parse(""), Err(ReceiptError::NotAReceipt));
        assert_eq!(parse("{\"Status\":\"MESSAGE_SUCCESS\"}"), Err(ReceiptError::NotAReceipt));
        for (from, to) in [
            ("SMS-Success=True&", ""),
            ("Success=True", "Success=Maybe"),
            ("SMS-Verify=9db", "SMS-Verify=zzz"),
            ("9db038748b3088971d913616c13e769b", "9db0"),
            ("321354", "%FF"),
            ("SMS-Type=Notification", "SMS-Success=True&SMS-TYPE=Notification&sms-success=False"),
        ] {
            let result = parse(&SAMPLE.replace(from, to));
            assert!(matches!(result, Err(ReceiptError::Malformed(_))), "{to}: {result:?}");
        }
        for long in [format!("{SAMPLE}&x={}", "y".repeat(9000)), format!("{SAMPLE}{}", "&a=b".repeat(64))] {
            assert!(matches!(parse(&long), Err(ReceiptError::Malformed(_))));
        }
        let long_id = SAMPLE.replace("321354", &"3".repeat(200));
        assert!(matches!(parse(&long_id), Err(ReceiptError::Malformed(_))));
    }

    #[test]
    fn an_unreadable_time_costs_only_the_time() {
        for time in ["", "yesterday", "2009-02-30+00:00:00", "99999999999"] {
            let form = SAMPLE.replace("2009-02-13+23%3A31%3A30", time);
            assert_eq!(parse(&form), Ok(Receipt { at_us: None, ..expected() }), "{time}");
        }
    }

    proptest! {
        #[test]
        fn junk_never_panics_and_is_never_believed(form in any::<Vec<u8>>()) {
            prop_assert!(parse_receipt(&form, &[Secret::new("s")]).is_err());
        }

        #[test]
        fn only_the_right_hash_is_believed(id in "[A-Z0-9-]{1,30}", hash in "[0-9a-f]{32}") {
            let form = format!("SMS-NotifyId={id}&SMS-Success=True&SMS-Verify={hash}");
            prop_assert_eq!(parse(&form), Err(ReceiptError::WrongSignature));
        }
    }
}
