//! Receipts as anybody may post them: believed only with a signature that fits, and then to the letter.

use std::borrow::Cow;

use md5::{Digest, Md5};
use outboxd::config::Secret;
use outboxd::gateway::callback::{ReceiptError, parse_receipt};
use outboxd::message::NotifyRef;

const SECRETS: [&str; 2] = ["client secret", "Password1"];

pub fn check(input: &[u8]) {
    let secrets = SECRETS.map(Secret::new);
    as_it_came(input, &secrets);
    for secret in SECRETS {
        for lower in [false, true] {
            signed(input, &secrets, secret, lower);
        }
    }
}

fn as_it_came(input: &[u8], secrets: &[Secret]) {
    let read = parse_receipt(input, secrets);
    if let Ok(receipt) = &read {
        let verify = field(input, "sms-verify").unwrap_or_default();
        let success = field(input, "sms-success").unwrap_or_default();
        let fits = SECRETS.iter().any(|secret| {
            let lower = success.to_ascii_lowercase();
            [&*success, &*lower].iter().any(|spelling| {
                signature(&receipt.gateway_ref, spelling, secret).eq_ignore_ascii_case(verify.trim())
            })
        });
        assert!(fits, "believed without a signature");
    }
    assert!(parse_receipt(input, &[]).is_err(), "believed without a secret");
    assert!(parse_receipt(input, &[Secret::new("")]).is_err(), "believed with an empty secret");
    if let Err(fault) = read {
        assert!(fault.to_string().len() < 200, "{fault}");
    }
}

/// The same fields, properly signed: now nothing but their content decides.
fn signed(input: &[u8], secrets: &[Secret], secret: &str, lower: bool) {
    let mut form = form_urlencoded::Serializer::new(String::new());
    for (name, value) in form_urlencoded::parse(input).filter(|(name, _)| !is(name, "sms-verify")) {
        form.append_pair(&name, &value);
    }
    let (id, success) = (field(input, "sms-notifyid"), field(input, "sms-success"));
    let (id, posted) = (id.unwrap_or_default(), success.clone().unwrap_or_default());
    let spelling = if lower { posted.to_ascii_lowercase() } else { posted.to_string() };
    let verify = signature(&id, &spelling, secret);
    form.append_pair("SMS-Verify", &verify);
    let form = form.finish();
    let read = parse_receipt(form.as_bytes(), secrets);
    match &read {
        Ok(receipt) => {
            assert_eq!(receipt.gateway_ref, id);
            assert!(!id.is_empty() && id.len() <= 128 && !id.contains('\0'), "{id:?}");
            assert_eq!(receipt.delivered, posted.eq_ignore_ascii_case("true"));
            assert!(receipt.delivered || posted.eq_ignore_ascii_case("false"));
            reference(&receipt.gateway_ref);
        }
        Err(ReceiptError::WrongSignature) => panic!("the signature is right: {form}"),
        Err(ReceiptError::EmptyReference) => assert!(id.is_empty(), "{id:?}"),
        Err(ReceiptError::NotAReceipt) => assert!(success.is_none(), "{form}"),
        Err(ReceiptError::Malformed(_)) => {}
    }
    if read.is_ok() {
        // One digit of the signature, the outcome, the reference: each changed alone is noticed.
        let other = if verify.starts_with('0') { "1" } else { "0" };
        let forged = form.replace(&verify, &format!("{other}{}", &verify[1..]));
        assert_eq!(parse_receipt(forged.as_bytes(), secrets), Err(ReceiptError::WrongSignature));
        assert_eq!(
            parse_receipt(form.as_bytes(), &[Secret::new("other")]),
            Err(ReceiptError::WrongSignature)
        );
    }
}

/// What a receipt names is a reference of ours in one way only, or none of ours.
pub fn reference(text: &str) {
    let Some(reference) = NotifyRef::parse(text) else { return };
    assert!(reference.attempt >= 1);
    assert!(reference.nonce.bits() < 1 << 40);
    assert_eq!(NotifyRef::parse(&reference.encode()), Some(reference), "{text}");
    assert_eq!(NotifyRef::parse(&text.to_ascii_lowercase()), Some(reference), "{text}");
}

fn is(name: &str, wanted: &str) -> bool {
    name.eq_ignore_ascii_case(wanted)
}

fn field<'a>(form: &'a [u8], wanted: &str) -> Option<Cow<'a, str>> {
    form_urlencoded::parse(form).find(|(name, _)| is(name, wanted)).map(|(_, value)| value)
}

fn signature(id: &str, success: &str, secret: &str) -> String {
    Md5::digest(format!("{id}{success}{secret}")).iter().map(|byte| format!("{byte:02x}")).collect()
}
