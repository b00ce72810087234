//! Tests of callbacks as the documentation shows them, as it contradicts itself, and as somebody might forge them.

use md5::{Digest, Md5};
use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

use super::{Callback, CallbackError, Inbound, Outcome, Processing, Proof};
use crate::config::Secret;
use crate::verdict::{Parts, Receipt};

const SAMPLE: &str = "SMS-Type=Notification&SMS-NotifyID=321354&SMS-Success=True&SMS-To=353861234567&SMS-From=X\
                      &SMS-Verify=9db038748b3088971d913616c13e769b&SMS-TotalToSend=1&SMS-TotalSent=1\
                      &SMS-TotalFailed=0&SMS-TimeStamp=2009-02-13+23%3A31%3A30";

fn parse_with(form: &[u8], secrets: &[&str], old: bool) -> Result<Callback, CallbackError> {
    let secrets: Vec<Secret> = secrets.iter().copied().map(Secret::new).collect();
    super::parse(form, Proof { secrets: &secrets, old_inbound_signature: old })
}

fn parse(form: &str) -> Result<Callback, CallbackError> {
    parse_with(form.as_bytes(), &["client-secret", "Password1"], false)
}

fn md5(bytes: &[u8]) -> String {
    Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn expected() -> Receipt {
    Receipt {
        gateway_ref: "321354".to_owned(),
        delivered: true,
        parts: Some(Parts { to_send: 1, sent: 1, failed: 0 }),
        at_us: Some(1_234_567_890_000_000),
    }
}

#[test]
fn the_published_sample_is_genuine() {
    assert_eq!(parse(SAMPLE), Ok(Callback::Receipt(expected())));
    for secrets in [&["other"][..], &[], &[""]] {
        assert_eq!(parse_with(SAMPLE.as_bytes(), secrets, false), Err(CallbackError::WrongSignature));
    }
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
        ("SMS-NotifyID", "SMS%2DNotify%49D"),
    ] {
        assert!(SAMPLE.contains(from), "{from}");
        assert_eq!(parse(&SAMPLE.replace(from, to)), Ok(Callback::Receipt(expected())), "{to}");
    }
}

#[test]
fn a_failed_delivery_is_signed_as_posted_or_in_lower_case() {
    for spelling in ["False", "false"] {
        let hash = md5(format!("1-00000000-1{spelling}Password1").as_bytes());
        let form = format!("SMS-NotifyId=1-00000000-1&SMS-Success=False&SMS-Verify={hash}");
        let Ok(Callback::Receipt(receipt)) = parse(&form) else { panic!("{spelling}") };
        assert_eq!((receipt.delivered, receipt.at_us, receipt.parts), (false, None, None));
    }
}

#[test]
fn a_changed_receipt_is_not_believed() {
    for (from, to) in [("321354", "321355"), ("Success=True", "Success=False"), ("=9db", "=8db")] {
        assert_eq!(parse(&SAMPLE.replace(from, to)), Err(CallbackError::WrongSignature), "{to}");
    }
}

#[test]
fn a_genuine_receipt_without_reference_is_told_apart() {
    let hash = md5(b"truePassword1");
    for id in ["SMS-NotifyId=&", ""] {
        let form = format!("{id}SMS-Success=True&SMS-Verify={hash}");
        assert_eq!(parse(&form), Err(CallbackError::EmptyReference));
    }
}

#[test]
fn junk_and_halves_are_told_apart() {
    for form in ["", "a=b", "\u{ff}\0%zz=%&&&=", "SMS-Type=AuthCode&SMS-From=353861234567"] {
        assert_eq!(parse(form), Err(CallbackError::NotUnderstood), "{form}");
    }
    for (from, to) in [
        ("SMS-Success=True&", ""),
        ("Success=True", "Success=Maybe"),
        ("SMS-Verify=9db", "SMS-Verify=zzz"),
        ("SMS-Verify=9db038748b3088971d913616c13e769b&", ""),
        ("9db038748b3088971d913616c13e769b", "9db0"),
        ("321354", "%FF"),
        ("321354", "32%001354"),
        ("SMS-Type=Notification", "SMS-Success=True&SMS-TYPE=Notification&sms-success=False"),
    ] {
        let result = parse(&SAMPLE.replace(from, to));
        assert!(matches!(result, Err(CallbackError::Malformed(_))), "{to}: {result:?}");
    }
    for long in [format!("{SAMPLE}&x={}", "y".repeat(33_000)), format!("{SAMPLE}{}", "&a=b".repeat(64))] {
        assert!(matches!(parse(&long), Err(CallbackError::Malformed(_))));
    }
    let long_id = SAMPLE.replace("321354", &"3".repeat(200));
    assert!(matches!(parse(&long_id), Err(CallbackError::Malformed(_))));
}

#[test]
fn an_unreadable_time_costs_only_the_time() {
    for time in ["", "yesterday", "2009-02-30+00:00:00", "99999999999", "-9000-01-01+00:00:00", "%FF"] {
        let form = SAMPLE.replace("2009-02-13+23%3A31%3A30", time);
        assert_eq!(parse(&form), Ok(Callback::Receipt(Receipt { at_us: None, ..expected() })), "{time}");
    }
}

/// A message from a handset, `content` as it stands in the form, `signed` the bytes that were hashed.
fn inbound_form(content: &str, signed: &[u8]) -> String {
    format!(
        "SMS-Type=AuthCode&SMS-Content={content}&SMS-KeyPhrase=*&SMS-Network=272%2F1&SMS-From=353871234567&SMS-To=50123\
         &SMS-NotifyId=2A-00000000-1&SMS-Verify={}&SMS-TimeStamp=2026-11-22+10%3A00%3A00&SMS-AuthCode=AUTH%3Areply%2F1",
        md5(signed)
    )
}

fn inbound(form: &str) -> Inbound {
    match parse(form) {
        Ok(Callback::Inbound(inbound)) => inbound,
        other => panic!("{form}: {other:?}"),
    }
}

#[test]
fn a_message_from_a_handset_is_read_with_either_secret_and_in_any_case() {
    for secret in ["client-secret", "Password1"] {
        let form = inbound_form("Yes+please", format!("353871234567Yes please{secret}").as_bytes());
        for form in
            [form.clone(), form.replace("SMS-", "sms-"), form.replace("SMS-TimeStamp", "SMS-Timestamp")]
        {
            let read = inbound(&form);
            assert_eq!((read.sender.as_str(), read.recipient.as_str()), ("353871234567", "50123"));
            assert_eq!((read.text.as_str(), read.network.as_deref()), ("Yes please", Some("272/1")));
            assert_eq!(read.gateway_ref.as_deref(), Some("2A-00000000-1"));
            assert_eq!(read.at_us, Some(1_795_341_600_000_000));
        }
    }
}

#[test]
fn a_message_is_understood_in_the_charset_that_it_comes_in() {
    let utf8 = "Tá sé ✓".as_bytes();
    let latin = b"T\xe1 s\xe9";
    let with = |text: &[u8]| [b"353871234567", text, b"client-secret"].concat();
    let escaped = |bytes: &[u8]| bytes.iter().map(|byte| format!("%{byte:02X}")).collect::<String>();
    assert_eq!(inbound(&inbound_form(&escaped(utf8), &with(utf8))).text, "Tá sé ✓");
    assert_eq!(inbound(&inbound_form(&escaped(latin), &with(latin))).text, "Tá sé");
    // Posted in one charset and hashed in the other.
    assert_eq!(inbound(&inbound_form(&escaped("Tá sé".as_bytes()), &with(latin))).text, "Tá sé");
    assert_eq!(inbound(&inbound_form(&escaped(latin), &with("Tá sé".as_bytes()))).text, "Tá sé");
    // Some networks write @ as the NUL that it is in the GSM alphabet.
    assert_eq!(inbound(&inbound_form("me%00here", &with(b"me\0here"))).text, "me\u{fffd}here");
    assert_eq!(inbound(&inbound_form("", &with(b""))).text, "");
}

#[test]
fn a_changed_or_wrongly_signed_message_is_not_believed() {
    let genuine = inbound_form("STOP", b"353871234567STOPclient-secret");
    inbound(&genuine);
    for (from, to) in [("=STOP", "=START"), ("353871234567", "353871234568"), ("=STOP", "=stop")] {
        assert_eq!(parse(&genuine.replace(from, to)), Err(CallbackError::WrongSignature), "{to}");
    }
    for (from, to) in [("353871234567", ""), ("353871234567", "Anna"), ("353871234567", "12")] {
        assert!(matches!(parse(&genuine.replace(from, to)), Err(CallbackError::Malformed(_))), "{to}");
    }
    assert!(matches!(parse(&genuine.replace("SMS-Verify", "SMS-Verity")), Err(CallbackError::Malformed(_))));
}

#[test]
fn the_older_signature_counts_only_when_it_is_asked_for() {
    let form = inbound_form("STOP", b"2A-00000000-1Password1");
    assert_eq!(parse(&form), Err(CallbackError::WrongSignature));
    assert!(matches!(parse_with(form.as_bytes(), &["Password1"], true), Ok(Callback::Inbound(_))));
    assert_eq!(parse_with(form.as_bytes(), &["other"], true), Err(CallbackError::WrongSignature));
}

#[test]
fn a_repetition_has_the_fingerprint_of_the_first_and_a_second_message_another() {
    let form = inbound_form("STOP", b"353871234567STOPclient-secret");
    let first = inbound(&form).fingerprint.unwrap();
    assert_eq!(
        inbound(&form.replace("AUTH%3Areply%2F1", "AUTH%3Areply%2F2")).fingerprint,
        Some(first.clone())
    );
    for (from, to) in [("10%3A00%3A00", "10%3A00%3A01"), ("SMS-To=50123", "SMS-To=51000"), ("2A-", "2B-")] {
        assert_ne!(inbound(&form.replace(from, to)).fingerprint, Some(first.clone()), "{to}");
    }
    assert_eq!(inbound(&form.replace("2026-11-22+10%3A00%3A00", "")).fingerprint, None);
}

#[test]
fn processing_results_say_what_is_meant_in_any_spelling() {
    let read = |body: &str| match parse(body) {
        Ok(Callback::Processing(Processing { gateway_ref, outcome, .. })) => (gateway_ref, outcome),
        other => panic!("{body}: {other:?}"),
    };
    let queued = r#"{"Status":"MESSAGE_SUCCESS","FinishedAt":"2026-04-08T09:15:02.12345Z","Message":"Your message has been queued.","NotifyId":"a"}"#;
    assert_eq!(read(queued), (Some("a".to_owned()), Outcome::Accepted));
    assert_eq!(
        read(&queued.replace("Status", "status").replace("NotifyId", "notifyID")).1,
        Outcome::Accepted
    );
    let error = |message: &str| {
        read(&format!(r#" {{"Status":"MESSAGE_ERROR","Message":"{message}","NotifyId":"a"}}"#)).1
    };
    let credits = "Error trying to add a new message. No credits available";
    assert_eq!(error(credits), Outcome::NoCredit { reason: credits.to_owned() });
    assert!(matches!(error("null/empty MSISDN"), Outcome::Rejected { code: "bad_number", .. }));
    let internal = "Error trying to add a new message to SMSBroadcastMessage";
    assert!(matches!(error(internal), Outcome::Rejected { code: "gateway_refused", .. }));
    let campaign = r#"{"Status":"CAMPAIGN_ERROR","Message":"Sender is not valid"}"#;
    let (reference, outcome) = read(campaign);
    assert!(reference.is_none() && matches!(outcome, Outcome::Rejected { code: "sender_not_valid", .. }));
}

#[test]
fn results_that_are_none_are_told_apart() {
    for body in
        ["{", "{}x", "{\"Status\":1}", "{\"Status\":\"MESSAGE_ERROR\",\"status\":\"MESSAGE_SUCCESS\"}"]
    {
        assert!(matches!(parse(body), Err(CallbackError::Malformed(_))), "{body}");
    }
    for body in ["{}", "{\"Status\":\"DONE\",\"NotifyId\":\"a\"}"] {
        assert_eq!(parse(body), Err(CallbackError::NotUnderstood), "{body}");
    }
    assert_eq!(
        parse("{\"Status\":\"MESSAGE_SUCCESS\",\"NotifyId\":\"\"}"),
        Err(CallbackError::EmptyReference)
    );
    let deep = format!("{}1{}", "{\"a\":".repeat(5_000), "}".repeat(5_000));
    assert!(matches!(parse(&deep), Err(CallbackError::Malformed(_))));
}

#[test]
fn parts_that_are_still_to_come_are_no_failure() {
    let parts = |to_send, sent, failed| Receipt {
        delivered: false,
        parts: Some(Parts { to_send, sent, failed }),
        ..expected()
    };
    assert!(parts(3, 1, 0).is_interim());
    assert!(!parts(3, 2, 1).is_interim());
    assert!(!parts(1, 0, 1).is_interim());
    assert!(!parts(1, 0, 0).is_interim(), "documented as a failure");
    assert!(!Receipt { parts: None, ..parts(1, 1, 1) }.is_interim());
    assert!(!expected().is_interim());
}

proptest! {
    #[test]
    fn junk_never_panics_and_is_never_believed(form in any::<Vec<u8>>()) {
        prop_assert!(parse_with(&form, &["s"], true).is_err());
    }

    #[test]
    fn junk_behind_the_names_of_fields_is_never_believed(values in proptest::collection::vec(any::<Vec<u8>>(), 9)) {
        let names = ["SMS-Type", "SMS-NotifyId", "SMS-Success", "SMS-Verify", "SMS-TimeStamp", "SMS-From", "SMS-To",
            "SMS-Content", "SMS-TotalSent"];
        let fields: Vec<Vec<u8>> = names.iter().zip(values).map(|(name, value)| [name.as_bytes(), b"=", &value].concat()).collect();
        prop_assert!(parse_with(&fields.join(&b'&'), &["s"], true).is_err());
    }

    #[test]
    fn only_the_right_hash_is_believed(id in "[A-Z0-9-]{1,30}", hash in "[0-9a-f]{32}") {
        let form = format!("SMS-NotifyId={id}&SMS-Success=True&SMS-Verify={hash}");
        prop_assert_eq!(parse(&form), Err(CallbackError::WrongSignature));
        let form = format!("SMS-From=353871234567&SMS-Content={id}&SMS-Verify={hash}");
        prop_assert_eq!(parse(&form), Err(CallbackError::WrongSignature));
    }
}
