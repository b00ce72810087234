//! Tests of composing; `compose.rs` holds the rules.

use proptest::prelude::{Strategy, prop_assert, prop_assert_eq, proptest};

use super::{Composer, Draft, Templates};
use crate::config;
use crate::message::{Encoding, Lane, MessageId, OutboxRow, Refusal, RowVersion, TemplateRow};
use crate::text::{code, segments};

fn settings() -> config::Text {
    config::Text {
        default_country: Some("353".to_owned()),
        trunk_prefix: "0".to_owned(),
        default_sender: Some("Clinic".to_owned()),
        max_segments: 4,
        transliterate: false,
    }
}

fn templates() -> Templates {
    let row = |name: &str, language: &str, body: &str| TemplateRow {
        name: name.to_owned(),
        language: language.to_owned(),
        body: body.to_owned(),
        transactional: name == "ready" && language == "ga",
    };
    Templates::new(vec![
        row("ready", "", "Ready: {item}"),
        row("ready", "ga", "Réidh: {item}"),
        row("ready", "en-IE", "Ready so: {item}"),
        row("welsh only", "cy", "Barod"),
        row("broken", "", "Hi {name"),
        row("nothing", "", "{x|}"),
    ])
}

fn composer() -> Composer {
    Composer::new(settings(), templates())
}

fn row() -> OutboxRow {
    OutboxRow {
        id: MessageId(1),
        version: RowVersion(1),
        lane: Lane::Normal,
        send_after_us: 0,
        row_made: crate::message::CreatedAt(0),
        attempts: 0,
        recipient: Some("0871234567".to_owned()),
        body: None,
        template: None,
        language: None,
        params: None,
        sender: None,
        gateway: None,
    }
}

fn body(text: &str) -> OutboxRow {
    OutboxRow { body: Some(text.to_owned()), ..row() }
}

fn template(name: &str, language: Option<&str>, params: Option<&str>) -> OutboxRow {
    OutboxRow {
        template: Some(name.to_owned()),
        language: language.map(str::to_owned),
        params: params.map(str::to_owned),
        ..row()
    }
}

fn refusal(row: &OutboxRow) -> Refusal {
    composer().compose(row).unwrap_err()
}

#[test]
fn a_recipient_and_a_body_are_all_that_it_takes() {
    let draft = composer().compose(&body("Your code is {1234}")).unwrap();
    assert_eq!(
        draft,
        Draft {
            recipient: "353871234567".to_owned(),
            text: "Your code is {1234}".to_owned(),
            sender: "Clinic".to_owned(),
            encoding: Encoding::Gsm7,
            segments: 1,
            transactional: false,
        }
    );
    let shown = format!("{draft:?}");
    assert!(!shown.contains("1234"), "{shown}");
    let outgoing = draft.into_outgoing(MessageId(7), 2, "7-x-2".to_owned());
    assert_eq!((outgoing.id, outgoing.attempt, outgoing.gateway_ref.as_str()), (MessageId(7), 2, "7-x-2"));
    assert_eq!((outgoing.recipient.as_str(), outgoing.segments), ("353871234567", 1));
}

#[test]
fn a_template_is_found_by_the_nearest_language() {
    let params = Some(r#"{"item":"5.10"}"#);
    for (language, text) in [
        (None, "Ready: 5.10"),
        (Some(""), "Ready: 5.10"),
        (Some("ga"), "Réidh: 5.10"),
        (Some("ga-IE"), "Réidh: 5.10"),
        (Some("ga_IE"), "Réidh: 5.10"),
        (Some(" GA "), "Réidh: 5.10"),
        (Some("en-IE"), "Ready so: 5.10"),
        (Some("en_ie"), "Ready so: 5.10"),
        (Some("en-IE-cork"), "Ready so: 5.10"),
        (Some("en"), "Ready: 5.10"),
        (Some("fr-FR"), "Ready: 5.10"),
        (Some(&format!("ga-{}", "x".repeat(100))), "Ready: 5.10"),
    ] {
        assert_eq!(
            composer().compose(&template("ready", language, params)).unwrap().text,
            text,
            "{language:?}"
        );
    }
    assert_eq!(composer().compose(&template(" ready ", None, params)).unwrap().text, "Ready: 5.10");
}

#[test]
fn each_fault_of_a_row_has_its_code_and_its_sentence() {
    for (row, code, part) in [
        (row(), code::NO_TEXT, "neither a body nor a template"),
        (OutboxRow { template: Some(" ".to_owned()), ..row() }, code::NO_TEXT, "neither"),
        (
            OutboxRow { body: Some("x".to_owned()), ..template("ready", None, None) },
            code::BODY_AND_TEMPLATE,
            "one of them",
        ),
        (body(""), code::EMPTY_TEXT, "empty"),
        (body(" \r\n\u{a0}"), code::EMPTY_TEXT, "white space"),
        (template("nothing", None, None), code::EMPTY_TEXT, "empty"),
        (body("a\0b"), code::BAD_TEXT, "NUL"),
        (template("redy", None, None), code::UNKNOWN_TEMPLATE, "'redy'"),
        (template("welsh only", Some("fr"), None), code::UNKNOWN_TEMPLATE, "language 'fr'"),
        (template("broken", None, None), code::BAD_TEMPLATE, "'broken' is wrong: line 1, column 4"),
        (template("ready", None, None), code::MISSING_PARAMETER, "'item'"),
        (template("ready", None, Some("[]")), code::BAD_PARAMETERS, "JSON object"),
        (OutboxRow { recipient: None, ..body("x") }, code::BAD_NUMBER, "no recipient"),
        (OutboxRow { recipient: Some("12".to_owned()), ..body("x") }, code::BAD_NUMBER, "2 digits"),
        (OutboxRow { sender: Some("my shop".to_owned()), ..body("x") }, code::BAD_SENDER, "position 3"),
        (body(&"a".repeat(613)), code::TOO_LONG, "needs 5 segments (613 GSM characters) and at most 4"),
        (body(&"ж".repeat(269)), code::TOO_LONG, "needs 5 segments (269 UTF-16 units)"),
        (body(&"a".repeat(65_537)), code::TOO_LONG, "65537 bytes"),
    ] {
        let refusal = refusal(&row);
        assert_eq!(refusal.code, code, "{}", refusal.reason);
        assert!(refusal.reason.contains(part), "{}", refusal.reason);
    }
    let without_sender = config::Text { default_sender: None, ..settings() };
    let refusal = Composer::new(without_sender, templates()).compose(&body("x")).unwrap_err();
    assert_eq!(refusal.code, code::NO_SENDER);
}

#[test]
fn an_empty_body_beside_a_template_is_no_body() {
    let row = OutboxRow { body: Some(String::new()), ..template("ready", None, Some(r#"{"item":1}"#)) };
    assert_eq!(composer().compose(&row).unwrap().text, "Ready: 1");
}

#[test]
fn a_phone_number_in_the_template_column_is_not_repeated() {
    let refusal = refusal(&template("353871234567", None, None));
    assert_eq!(refusal.code, code::UNKNOWN_TEMPLATE);
    assert!(!refusal.reason.contains("353"), "{}", refusal.reason);
}

#[test]
fn line_breaks_become_one_kind() {
    let text = |text: &str| composer().compose(&body(text)).unwrap().text;
    assert_eq!(text("a\r\nb\rc\nd\r\r\ne"), "a\nb\nc\nd\n\ne");
    assert_eq!(text("  a "), "  a ", "white space is the author's business");
    let row = template("ready", None, Some(r#"{"item":"a\r\nb"}"#));
    assert_eq!(composer().compose(&row).unwrap().text, "Ready: a\nb");
}

#[test]
fn transliteration_is_asked_for_and_only_where_it_saves() {
    let text = "Tá sé réidh – “anois”";
    let draft = composer().compose(&body(text)).unwrap();
    assert_eq!((draft.text.as_str(), draft.encoding), (text, Encoding::Ucs2));

    let composer = Composer::new(config::Text { transliterate: true, ..settings() }, templates());
    let draft = composer.compose(&body(text)).unwrap();
    assert_eq!((draft.text.as_str(), draft.encoding), ("Ta sé réidh - \"anois\"", Encoding::Gsm7));
    let draft = composer.compose(&body("Tá sé réidh 😀")).unwrap();
    assert_eq!((draft.text.as_str(), draft.encoding), ("Tá sé réidh 😀", Encoding::Ucs2));
    let draft = composer.compose(&body("\u{200b}")).unwrap();
    assert_eq!(draft.text, "\u{200b}");
    // One segment as it is, and two as the 210 characters that it would become.
    let dots = "…".repeat(70);
    let draft = composer.compose(&body(&dots)).unwrap();
    assert_eq!((draft.text, draft.segments), (dots, 1));
}

#[test]
fn the_limit_on_segments_is_exact_and_has_a_ceiling() {
    assert_eq!(composer().compose(&body(&"a".repeat(612))).unwrap().segments, 4);
    let generous = Composer::new(config::Text { max_segments: i16::MAX, ..settings() }, templates());
    assert_eq!(generous.compose(&body(&"a".repeat(255 * 153))).unwrap().segments, 255);
    assert_eq!(generous.compose(&body(&"a".repeat(255 * 153 + 1))).unwrap_err().code, code::TOO_LONG);
    let senseless = Composer::new(config::Text { max_segments: -1, ..settings() }, templates());
    assert_eq!(senseless.compose(&body("a")).unwrap_err().code, code::TOO_LONG);
}

#[test]
fn wrong_templates_can_be_listed_before_a_row_meets_them() {
    let templates = templates();
    let errors: Vec<_> = templates.errors().map(|(name, language, _)| (name, language)).collect();
    assert_eq!(errors, [("broken", "")]);
}

/// Words that no refusal has in common with a body.
fn bodies() -> impl Strategy<Value = String> {
    proptest::string::string_regex("(qz[ -~€éж😀\r\n\\x00]{4,200}zq|\\PC{0,30}|[\\x00-\\x20]{0,9})").unwrap()
}

fn rows() -> impl Strategy<Value = OutboxRow> {
    use proptest::option::of;
    (
        of("[+0-9 ()/.x\u{200e}٣-]{0,24}|\\PC{0,12}|0[1-9][0-9]{8}"),
        of(bodies()),
        of("ready|broken|nothing|welsh only|[0-9+]{8,16}|\\PC{0,60}"),
        of("ga|en[-_]IE|\\PC{0,50}|[0-9]{8,40}"),
        of(r#"\{"item":("\PC{0,40}"|[0-9.]{1,20}|null|\[\]|"\\u[0-9d][0-9]{3}")\}|\PC{0,40}|[0-9]{8,16}"#),
        of("[A-Za-z0-9.&_ +-]{0,17}|\\PC{0,12}"),
    )
        .prop_map(|(recipient, body, template, language, params, sender)| OutboxRow {
            recipient,
            body,
            template,
            language,
            params,
            sender,
            ..row()
        })
}

proptest! {
    #[test]
    fn any_row_gives_a_sound_message_or_a_discreet_refusal(row in rows(), transliterate: bool) {
        let composer = Composer::new(config::Text { transliterate, ..settings() }, templates());
        match composer.compose(&row) {
            Ok(draft) => {
                prop_assert!(draft.recipient.bytes().all(|b| b.is_ascii_digit()));
                prop_assert!((7..=15).contains(&draft.recipient.len()));
                prop_assert!((1..=4).contains(&draft.segments));
                prop_assert!(!draft.text.trim().is_empty());
                prop_assert!(!draft.text.contains(['\0', '\r']));
                prop_assert!(!draft.sender.is_empty() && draft.sender.len() <= 16);
                let size = segments::measure(&draft.text);
                prop_assert_eq!(size.encoding, draft.encoding);
                prop_assert_eq!(size.segments, usize::try_from(draft.segments).unwrap());
            }
            Err(refusal) => {
                prop_assert!(code::ALL.contains(&refusal.code));
                prop_assert!(!refusal.reason.is_empty() && refusal.reason.len() < 400, "{}", refusal.reason);
                prop_assert!(!refusal.reason.contains(|c: char| c.is_control()), "{:?}", refusal.reason);
                let run = refusal.reason.split(|c: char| !c.is_numeric()).map(|run| run.chars().count()).max();
                prop_assert!(run.unwrap_or(0) < 8, "{}", refusal.reason);
                if let Some(body) = row.body.filter(|body| body.starts_with("qz")) {
                    prop_assert!(!refusal.reason.contains("qz") && !refusal.reason.contains(&body), "{}", refusal.reason);
                }
            }
        }
    }

    #[test]
    fn a_refusal_for_length_does_not_quote(text in "[a-z ]{650,700}") {
        let reason = refusal(&body(&format!("{text}x"))).reason;
        prop_assert!(!reason.contains(&text[..20]), "{}", reason);
    }
}
