//! A row as an application writes it, on its whole way: composed, or refused with a code and a sentence; then written in
//! every dialect, from which it can be read back as it was.

use std::borrow::Cow;
use std::collections::BTreeMap;

use outboxd::compose::{Composer, Templates};
use outboxd::config;
use outboxd::gateway::Prepared;
use outboxd::message::{
    CreatedAt, Encoding, Lane, MessageId, OutboxRow, Outgoing, Refusal, RowVersion, TemplateRow,
};
use outboxd::text::template::MAX_BYTES;
use outboxd::text::{code, gsm, segments, sender};
use serde_json::Value;

use super::case::{Fields, unescape};
use super::{site, text};

/// Bytes of a request beside its text, which may become six times as long.
const MOST_BYTES: usize = 6 * MAX_BYTES + 4096;

pub fn check(input: &[u8]) {
    let fields = Fields::read(input);
    let settings = settings(fields.text("settings"));
    let template = |language: &str, body: &str| TemplateRow {
        name: "t".to_owned(),
        language: language.to_owned(),
        body: body.to_owned(),
        transactional: language.is_empty(),
    };
    let other = template(fields.text("language"), fields.text("other"));
    let templates = Templates::new(vec![template("", fields.text("t")), other]);
    templates.errors().for_each(|(.., error)| assert!(error.line > 0 && error.column > 0));
    let row = row(&fields);
    let composer = Composer::new(settings.clone(), templates);
    let composed = composer.compose(&row);
    assert_eq!(composed, composer.compose(&row), "what is shown is what would be sent");
    let draft = match composed {
        Ok(draft) => draft,
        Err(refusal) => return refused(&refusal, &row),
    };
    assert!((7..=15).contains(&draft.recipient.len()) && draft.recipient.bytes().all(|b| b.is_ascii_digit()));
    assert_eq!(sender::check(&draft.sender), Ok(()));
    assert!(!draft.text.trim().is_empty() && !draft.text.contains(['\0', '\r']), "{:?}", draft.text);
    let size = segments::measure(&draft.text);
    assert_eq!(
        (size.encoding, size.segments),
        (draft.encoding, usize::try_from(draft.segments).unwrap_or(0))
    );
    assert!(draft.segments <= settings.max_segments, "{} segments", draft.segments);
    text::sizes(&draft.text);
    if let (Some(body), None) = (&row.body, row.template.as_deref().filter(|name| !name.trim().is_empty())) {
        let clean = body.replace("\r\n", "\n").replace('\r', "\n");
        assert!(draft.text == clean || settings.transliterate, "the text is changed");
        // An option that saves money must not cost any.
        assert!(size.segments <= segments::measure(&clean).segments, "{clean:?} grew");
        assert!(gsm::septets(&clean).is_none() || draft.text == clean);
    }
    let message = draft.into_outgoing(row.id, row.attempts + 1, "1-0000000A-1".to_owned());
    site::names().for_each(|gateway| written(gateway, &message));
}

fn settings(words: &str) -> config::Text {
    let mut text = config::Text {
        default_country: Some("353".to_owned()),
        trunk_prefix: "0".to_owned(),
        default_sender: Some("Clinic".to_owned()),
        max_segments: 6,
        transliterate: false,
    };
    for word in words.split(' ') {
        match word {
            "no-country" => text.default_country = None,
            "no-sender" => text.default_sender = None,
            "transliterate" => text.transliterate = true,
            "one" => text.max_segments = 1,
            "long" => text.max_segments = 255,
            _ => {}
        }
    }
    text
}

fn row(fields: &Fields) -> OutboxRow {
    OutboxRow {
        id: MessageId(1),
        version: RowVersion(1),
        lane: Lane::Normal,
        send_after_us: 0,
        attempts: 0,
        recipient: fields.owned("recipient"),
        body: fields.owned("body"),
        template: fields.owned("template"),
        language: fields.owned("language"),
        params: fields.owned("params"),
        sender: fields.owned("sender"),
        gateway: None,
        row_made: CreatedAt(0),
    }
}

/// In words that a log may repeat.
fn refused(refusal: &Refusal, row: &OutboxRow) {
    let reason = &refusal.reason;
    assert!(code::ALL.contains(&refusal.code), "{}", refusal.code);
    assert!(!reason.is_empty() && reason.chars().count() <= 500, "{reason}");
    assert!(!reason.contains(char::is_control), "{reason:?}");
    let longest = reason.split(|c: char| !c.is_numeric()).map(|run| run.chars().count()).max();
    assert!(longest.unwrap_or(0) < 7, "{reason}");
    // Of a body, whatever it is about, not one word: none of ours holds these letters.
    let body = row.body.as_deref().unwrap_or_default();
    let elsewhere = [&row.template, &row.language, &row.sender, &row.recipient];
    if body.contains("qz") && !elsewhere.into_iter().flatten().any(|text| text.contains("qz")) {
        assert!(!reason.contains("qz"), "{reason}");
    }
}

/// The request of this gateway holds the message, and nothing beside it that the message could have put there.
fn written(gateway: &str, message: &Outgoing) {
    let prepared = match site::protocol(gateway).request(message, None) {
        Ok(prepared) => prepared,
        Err(refusal) => {
            assert!(matches!(refusal.code, "unsendable_character"), "{gateway}: {}", refusal.code);
            assert!(matches!(gateway, "v1" | "v1-json" | "v1-latin1"), "{gateway}: {}", refusal.reason);
            assert!(refusal.reason.chars().count() <= 200, "{}", refusal.reason);
            assert!(!refusal.reason.contains(char::is_control), "{:?}", refusal.reason);
            return;
        }
    };
    let size = prepared.body.len() + prepared.url.as_str().len();
    assert!(size <= MOST_BYTES, "{gateway}: {size} bytes");
    assert!(!format!("{prepared:?}").contains(&message.recipient), "{prepared:?}");
    assert_eq!(prepared.url.fragment(), None);
    reads_back(gateway, &prepared, message);
}

/// These fields, in this order, and no others; an empty value stands for any.
fn form(gateway: &str, bytes: &[u8], expected: &[(&str, &str)]) {
    let read: Vec<(Cow<'_, str>, Cow<'_, str>)> = form_urlencoded::parse(bytes).collect();
    let names: Vec<&str> = read.iter().map(|(name, _)| name.as_ref()).collect();
    let expected_names: Vec<&str> = expected.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, expected_names, "{gateway}: fields");
    for ((name, value), (_, expected)) in read.iter().zip(expected) {
        assert!(expected.is_empty() || value == expected, "{gateway}: {name} is {value:?}, not {expected:?}");
    }
}

fn reads_back(gateway: &str, prepared: &Prepared, message: &Outgoing) {
    let not_sign = message.text.replace('\n', "\u{ac}");
    let query = prepared.url.query().unwrap_or_default().as_bytes();
    let (recipient, sender, reference) = (&*message.recipient, &*message.sender, &*message.gateway_ref);
    let coding = |gsm7, ucs2| if message.encoding == Encoding::Gsm7 { gsm7 } else { ucs2 };
    match gateway {
        "v2" => {
            let body = json(prepared);
            assert_eq!(body["text"], message.text.as_str());
            assert_eq!(body["from"], sender);
            let only = [("msisdn", recipient), ("notifyId", reference)];
            assert_eq!(body["recipientInfo"], Value::from(vec![object(&only)]));
            assert_eq!(body.as_object().map(serde_json::Map::len), Some(4));
        }
        "v1" => form(
            gateway,
            &prepared.body,
            &[
                ("user", ""),
                ("password", ""),
                ("api_id", "42"),
                ("to", recipient),
                ("text", &not_sign),
                ("from", sender),
                ("NotifyID", reference),
            ],
        ),
        "v1-latin1" => {
            let body = String::from_utf8_lossy(&prepared.body).into_owned();
            let raw = body.split('&').find_map(|pair| pair.strip_prefix("text=")).unwrap_or_default();
            let latin1: String = unescape(raw.as_bytes()).into_iter().map(char::from).collect();
            assert_eq!(latin1, message.text, "{gateway}");
            assert_eq!(body.matches('&').count(), 6);
        }
        "v1-json" => {
            let body = json(prepared);
            assert_eq!(body["Text"], not_sign.as_str());
            assert_eq!((&body["To"], &body["SenderId"]), (&Value::from(recipient), &Value::from(sender)));
            assert_eq!(body.as_object().map(serde_json::Map::len), Some(7));
        }
        "kannel" => form(
            gateway,
            query,
            &[
                ("username", ""),
                ("password", ""),
                ("from", sender),
                ("to", recipient),
                ("text", &message.text),
                ("charset", "UTF-8"),
                ("coding", coding("0", "2")),
            ],
        ),
        "json" => {
            let body = json(prepared);
            let only = body["messages"].as_array().filter(|list| list.len() == 1).map(|list| &list[0]);
            let Some(only) = only else { panic!("{body}") };
            assert_eq!(only["text"], message.text.as_str());
            assert_eq!((&only["to"], &only["n"]), (&Value::from(format!("+{recipient}")), &Value::from(1)));
            assert_eq!(only.as_object().map(serde_json::Map::len), Some(7));
            form(gateway, query, &[("ref", reference)]);
        }
        "quoted" => form(
            gateway,
            &prepared.body,
            &[
                ("coding", coding("0", "8")),
                ("content", &message.text),
                ("from", sender),
                ("key", "AKIA-0123456789-key"),
                ("password", ""),
                ("to", recipient),
            ],
        ),
        "bare" => form(
            gateway,
            query,
            &[
                ("to", recipient),
                ("text", &message.text),
                ("from", sender),
                ("key", "AKIA-0123456789-key"),
                ("pw", ""),
            ],
        ),
        other => panic!("how does {other} write a message?"),
    }
}

fn json(prepared: &Prepared) -> Value {
    serde_json::from_slice(&prepared.body).unwrap_or_else(|error| panic!("{error}"))
}

fn object(fields: &[(&str, &str)]) -> Value {
    let fields: BTreeMap<&str, &str> = fields.iter().copied().collect();
    serde_json::to_value(fields).unwrap_or_default()
}
