//! Templates and parameters. What is put in is never read again: a value could be anything, so values that are exchanged
//! for marks before rendering and put back afterwards must give the same text.

use std::collections::BTreeMap;

use outboxd::message::Refusal;
use outboxd::text::code;
use outboxd::text::template::{MAX_BYTES, Params, Template};
use serde_json::value::RawValue;

use super::case::Fields;

/// Of the private use area: in no template and no value that is tried with marks.
const OPEN: char = '\u{e000}';
const CLOSE: char = '\u{e001}';

pub fn check(input: &[u8]) {
    let fields = Fields::read(input);
    let (source, json) = (fields.text("template"), fields.text("params"));
    braces(source);
    let template = match Template::parse(source) {
        Ok(template) => template,
        Err(error) => {
            let lines: Vec<&str> = source.split('\n').collect();
            let line = error.line.checked_sub(1).and_then(|line| lines.get(line));
            assert!(
                line.is_some_and(|line| (1..=line.chars().count() + 1).contains(&error.column)),
                "{error:?}"
            );
            assert!(error.to_string().chars().count() < 300, "{error}");
            return;
        }
    };
    let rendered = Params::parse(json).and_then(|params| template.render(&params));
    match &rendered {
        Ok(text) => assert!(text.len() <= MAX_BYTES, "{} bytes", text.len()),
        Err(refusal) => modest(refusal),
    }
    if !source.contains([OPEN, CLOSE]) && !json.contains([OPEN, CLOSE]) && !json.contains("\\u") {
        with_marks(&template, json, &rendered);
    }
}

/// Doubled braces are the one way to write them, and it works for any text.
fn braces(text: &str) {
    if !text.contains('\0') && text.len() <= MAX_BYTES {
        let source = text.replace('{', "{{").replace('}', "}}");
        let template = Template::parse(&source).unwrap_or_else(|error| panic!("{source:?}: {error}"));
        assert_eq!(template.render(&Params::default()).as_deref(), Ok(text));
        assert_eq!(template.names().count(), 0);
    }
}

fn with_marks(template: &Template, json: &str, rendered: &Result<String, Refusal>) {
    let Ok(raw) = serde_json::from_str::<BTreeMap<String, &RawValue>>(json) else { return };
    let mut marked = serde_json::Map::new();
    let mut values: Vec<String> = Vec::new();
    for (name, value) in raw {
        let kept = match value.get().as_bytes().first() {
            Some(b'n' | b'{' | b'[') => serde_json::from_str(value.get()).ok(),
            Some(b'"') => {
                serde_json::from_str::<String>(value.get()).ok().map(|text| mark(&mut values, text))
            }
            _ => Some(mark(&mut values, value.get().to_owned())),
        };
        let Some(kept) = kept else { return };
        marked.insert(name, kept);
    }
    if values.iter().any(|value| value.contains('\0')) {
        return;
    }
    let json = serde_json::Value::Object(marked).to_string();
    let with_marks = Params::parse(&json).and_then(|params| template.render(&params));
    match (rendered, &with_marks) {
        (Ok(text), Ok(with_marks)) => assert_eq!(&put_back(with_marks, &values), text),
        // A mark may be longer or shorter than its value.
        (Err(refusal), _) if refusal.code == code::TOO_LONG => {}
        (_, Err(refusal)) if refusal.code == code::TOO_LONG => {}
        (Err(refusal), Err(with_marks)) => {
            assert_eq!(refusal.code, with_marks.code);
            assert!(!with_marks.reason.contains([OPEN, CLOSE]), "a value: {}", with_marks.reason);
        }
        (rendered, with_marks) => panic!("{rendered:?}, but with other values {with_marks:?}"),
    }
}

fn mark(values: &mut Vec<String>, value: String) -> serde_json::Value {
    values.push(value);
    serde_json::Value::String(format!("{OPEN}{}{CLOSE}", values.len() - 1))
}

fn put_back(text: &str, values: &[String]) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(OPEN) {
        out.push_str(before);
        let Some((number, after)) = after.split_once(CLOSE) else { panic!("half a mark in {text:?}") };
        let value = number.parse::<usize>().ok().and_then(|number| values.get(number));
        out.push_str(value.unwrap_or_else(|| panic!("no such mark: {number}")));
        rest = after;
    }
    out + rest
}

fn modest(refusal: &Refusal) {
    let known = [code::MISSING_PARAMETER, code::BAD_PARAMETERS, code::TOO_LONG];
    assert!(known.contains(&refusal.code), "{}", refusal.code);
    assert!(!refusal.reason.is_empty() && refusal.reason.chars().count() <= 300, "{}", refusal.reason);
    assert!(!refusal.reason.contains(char::is_control), "{:?}", refusal.reason);
}
