//! Callbacks as anybody may post them. Receipts and messages from handsets are believed only with a signature that fits,
//! and then to the letter; processing results carry none, and are what a whole JSON object says.

use md5::{Digest, Md5};
use outboxd::config::Secret;
use outboxd::gateway::callback::{
    Callback, CallbackError, Inbound, MOST_BYTES, Outcome, Processing, Proof, parse,
};
use outboxd::message::NotifyRef;
use serde_json::Value;

use super::case::unescape;

const SECRETS: [&str; 2] = ["client secret", "Password1"];

pub fn check(input: &[u8]) {
    let secrets = SECRETS.map(Secret::new);
    for old_inbound_signature in [false, true] {
        as_it_came(input, Proof { secrets: &secrets, old_inbound_signature });
    }
    for secret in SECRETS {
        for lower in [false, true] {
            signed(input, Proof { secrets: &secrets, old_inbound_signature: false }, secret, lower);
        }
    }
}

fn as_it_came(input: &[u8], proof: Proof<'_>) {
    let read = parse(input, proof);
    for secrets in [&[][..], &[Secret::new("")]] {
        let unproven = parse(input, Proof { secrets, ..proof });
        assert!(matches!(unproven, Ok(Callback::Processing(_)) | Err(_)), "believed without a secret");
    }
    let form = Form::read(input);
    match read {
        Ok(Callback::Receipt(receipt)) => {
            let success = form.text("sms-success");
            let signed = [success.clone(), success.to_ascii_lowercase()];
            let id = receipt.gateway_ref.as_bytes();
            assert!(signed.iter().any(|success| form.is_signed(id, success.as_bytes())), "no signature");
        }
        Ok(Callback::Inbound(inbound)) => {
            let content = form.bytes("sms-content").unwrap_or_default();
            let from = form.bytes("sms-from").unwrap_or_default();
            let latin: Vec<u8> =
                inbound.text.chars().filter_map(|c| u8::try_from(u32::from(c)).ok()).collect();
            let spellings = [content, inbound.text.as_bytes(), &latin];
            let old = form.bytes("sms-notifyid").unwrap_or_default();
            let signed = spellings.iter().any(|content| form.is_signed(from, content))
                || (proof.old_inbound_signature && form.is_signed(old, b""));
            assert!(signed, "no signature");
            sound(&inbound);
        }
        Ok(Callback::Processing(processing)) => result(input, &processing),
        Err(fault) => assert!(fault.to_string().len() < 200, "{fault}"),
    }
}

/// The same fields, properly signed: now nothing but their content decides.
fn signed(input: &[u8], proof: Proof<'_>, secret: &str, lower: bool) {
    let read = Form::read(input);
    let posted = read.text("sms-success");
    let success = if lower { posted.to_ascii_lowercase() } else { posted.clone() };
    let verify = if read.bytes("sms-success").is_some() {
        signature(read.bytes("sms-notifyid").unwrap_or_default(), success.as_bytes(), secret)
    } else {
        let content = read.bytes("sms-content").unwrap_or_default();
        signature(read.bytes("sms-from").unwrap_or_default(), content, secret)
    };
    let form = read.with_signature(&verify);
    let parsed = parse(&form, proof);
    match &parsed {
        Ok(Callback::Receipt(receipt)) => {
            assert_eq!(receipt.gateway_ref.as_bytes(), read.bytes("sms-notifyid").unwrap_or_default());
            assert!(!receipt.gateway_ref.is_empty() && receipt.gateway_ref.len() <= 128);
            assert!(!receipt.gateway_ref.contains(char::is_control), "{:?}", receipt.gateway_ref);
            assert_eq!(receipt.delivered, posted.eq_ignore_ascii_case("true"));
            assert!(receipt.delivered || posted.eq_ignore_ascii_case("false"));
            reference(&receipt.gateway_ref);
        }
        Ok(Callback::Inbound(inbound)) => {
            sound(inbound);
            let again = parse(&form, proof);
            assert_eq!(again, Ok(Callback::Inbound(inbound.clone())), "a repetition is recognised");
        }
        Ok(Callback::Processing(_)) => {}
        Err(CallbackError::WrongSignature) => {
            panic!("the signature is right: {}", String::from_utf8_lossy(&form))
        }
        Err(CallbackError::EmptyReference) => {
            assert!(read.bytes("sms-notifyid").unwrap_or_default().is_empty() || form.starts_with(b"{"));
        }
        Err(CallbackError::NotUnderstood) => assert!(read.bytes("sms-success").is_none()),
        Err(CallbackError::Malformed(_)) => {}
    }
    if matches!(parsed, Ok(Callback::Receipt(_) | Callback::Inbound(_))) {
        let other = if verify.starts_with('0') { "1" } else { "0" };
        let forged = read.with_signature(&format!("{other}{}", &verify[1..]));
        assert_eq!(parse(&forged, proof), Err(CallbackError::WrongSignature));
        let secrets = [Secret::new("other")];
        assert_eq!(parse(&form, Proof { secrets: &secrets, ..proof }), Err(CallbackError::WrongSignature));
    }
}

/// Fit for the inbox: bounded, a number, and no NUL, which no column takes.
fn sound(inbound: &Inbound) {
    let digits = inbound.sender.strip_prefix('+').unwrap_or(&inbound.sender);
    assert!((3..=20).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()));
    assert!(inbound.text.len() <= 3 * MOST_BYTES && !inbound.text.contains('\0'));
    assert!(inbound.recipient.len() <= 128 && !inbound.recipient.contains(char::is_control));
    let hash = |text: &String| text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
    assert!(inbound.fingerprint.as_ref().is_none_or(hash));
}

/// A message is called accepted only when a whole object says so in its one status.
fn result(input: &[u8], processing: &Processing) {
    let Ok(Value::Object(body)) = serde_json::from_slice(input) else { panic!("a result out of no object") };
    let status = body.iter().filter(|(name, _)| name.eq_ignore_ascii_case("status")).map(|(_, value)| value);
    let status: Vec<&str> = status.filter_map(Value::as_str).map(str::trim).collect();
    let [status] = status.as_slice() else { panic!("{} statuses", status.len()) };
    let success = status.eq_ignore_ascii_case("MESSAGE_SUCCESS");
    match &processing.outcome {
        Outcome::Accepted => assert!(success && processing.gateway_ref.is_some(), "{status}"),
        Outcome::Rejected { reason, .. } | Outcome::NoCredit { reason } => {
            assert!(!success, "{status}");
            // Made fit for a column where it is used.
            assert!(!reason.is_empty() && reason.len() <= 2000 && !reason.contains('\0'));
        }
    }
    processing.gateway_ref.iter().for_each(|text| reference(text));
}

/// What a callback names is a reference of ours in one way only, or none of ours.
pub fn reference(text: &str) {
    let Some(reference) = NotifyRef::parse(text) else { return };
    assert!(reference.attempt >= 1);
    assert!(reference.nonce.bits() < 1 << 40);
    assert_eq!(NotifyRef::parse(&reference.encode()), Some(reference), "{text}");
    assert_eq!(NotifyRef::parse(&text.to_ascii_lowercase()), Some(reference), "{text}");
}

/// The fields as bytes, with their names in lower case, and the pairs as they were posted.
struct Form<'a>(Vec<(Vec<u8>, Vec<u8>, &'a [u8])>);

impl<'a> Form<'a> {
    fn read(input: &'a [u8]) -> Form<'a> {
        let pairs = input.split(|byte| *byte == b'&').map(|pair| {
            let at = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
            let value = pair.get(at + 1..).unwrap_or_default();
            (unescape(&pair[..at]).to_ascii_lowercase(), unescape(value), pair)
        });
        Form(pairs.collect())
    }

    fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(found, ..)| found == name.as_bytes()).map(|(_, value, _)| value.as_slice())
    }

    fn text(&self, name: &str) -> String {
        String::from_utf8_lossy(self.bytes(name).unwrap_or_default()).into_owned()
    }

    fn is_signed(&self, first: &[u8], second: &[u8]) -> bool {
        let verify = self.text("sms-verify");
        SECRETS.iter().any(|secret| signature(first, second, secret).eq_ignore_ascii_case(verify.trim()))
    }

    fn with_signature(&self, verify: &str) -> Vec<u8> {
        let unsigned = self.0.iter().filter(|(name, ..)| name != b"sms-verify").map(|(.., pair)| *pair);
        let mut form = unsigned.collect::<Vec<_>>().join(&b'&');
        form.extend_from_slice(b"&SMS-Verify=");
        form.extend_from_slice(verify.as_bytes());
        form
    }
}

fn signature(first: &[u8], second: &[u8], secret: &str) -> String {
    let hash = Md5::new().chain_update(first).chain_update(second).chain_update(secret).finalize();
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}
