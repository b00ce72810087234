//! `dialect = "http"`: a gateway described by its configuration, with or without a preset.
//!
//! `{username}` and `{password}` are filled in here, once; the other placeholders are checked here and filled in
//! for each message by the gateway edge.

use std::collections::BTreeMap;
use std::ops::Range;

use super::diagnostic::Diagnostic;
use super::document::nearest;
use super::gateway::password;
use super::preset::{self, Preset};
use super::raw::{At, RawGateway, RawHttpRule};
use super::reader::{Reader, Reported};
use super::{CodeClass, Dialect, Extract, HttpBody, HttpMethod, HttpRule, HttpTemplate, Secret};

/// Placeholders that the gateway edge fills in for each message; besides these, `{encoding:A|B}` is A for GSM 03.38
/// and B for UCS-2.
pub const PLACEHOLDERS: &[&str] =
    &["recipient", "text", "sender", "id", "ref", "encoding", "encoding:A|B", "segments"];

pub(super) const CLASSES: &[(&str, CodeClass)] = &[
    ("accepted", CodeClass::Accepted),
    ("rejected", CodeClass::Rejected),
    ("throttled", CodeClass::Throttled),
    ("busy", CodeClass::Busy),
    ("no_credit", CodeClass::NoCredit),
    ("unauthorized", CodeClass::Unauthorized),
    ("misconfigured", CodeClass::Misconfigured),
    ("unknown", CodeClass::Unknown),
];

/// The template of a gateway with `dialect = "http"`.
pub(super) fn template(
    reader: &mut Reader<'_>,
    section: &[&str],
    raw: &RawGateway,
) -> Result<Dialect, Reported> {
    let preset = reader.choice("preset", &raw.preset, preset::NAMES)?.map(preset::PresetName::preset);
    let allow_http = reader.flag(&raw.allow_http, false);
    let at = reader.required(section, "url", &raw.url, "where messages are sent");
    let url = at.and_then(|at| {
        reader.gateway_url("url", at, allow_http)?;
        Ok(at)
    });
    let method =
        reader.choice("method", &raw.method, &[("get", HttpMethod::Get), ("post", HttpMethod::Post)]);
    let password = password(reader, section, raw);
    let rules = rules(reader, section, raw, preset.as_ref());
    let message_id = extract(reader, "message_id", raw.message_id.as_ref());
    let error = extract(reader, "error", raw.error.as_ref());

    let url = url?;
    let method = method?.or(preset.as_ref().map(|preset| preset.method)).unwrap_or(HttpMethod::Post);
    let account = Account { username: raw.username.as_ref().map(|at| at.value.clone()), password: password? };
    // A URL parser takes no notice of white space around it; a message would.
    let written = url.value.trim();
    let template = match &preset {
        Some(preset) if !written.contains('?') => format!("{written}?{}", preset.query),
        _ => written.to_owned(),
    };
    let address = account.fill(reader, &url.span, &template, Escape::Percent);
    let headers = headers(reader, section, raw, &account);
    let body = body(reader, raw, &account, method);
    let basic_auth = basic_auth(reader, section, raw, &account);
    Ok(Dialect::Http(Box::new(HttpTemplate {
        method,
        url: address?,
        headers: headers?,
        body: body?,
        basic_auth: basic_auth?,
        rules: rules?,
        message_id: message_id?.or(preset.as_ref().and_then(|preset| preset.message_id.clone())),
        error: error?.or(preset.as_ref().and_then(|preset| preset.error.clone())),
        plus: reader.flag(&raw.plus, preset.is_some_and(|preset| preset.plus)),
        password: account.password,
    })))
}

fn headers(
    reader: &mut Reader<'_>,
    section: &[&str],
    raw: &RawGateway,
    account: &Account,
) -> Result<Vec<(String, Secret)>, Reported> {
    let filled = account.fill_all(reader, raw.headers.as_ref(), Escape::Literal)?;
    let mut result = Ok(());
    for ((name, value), at) in filled.iter().zip(raw.headers.iter().flat_map(BTreeMap::values)) {
        if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            let span = reader.document().key_span(&[section, &["headers", name]].concat());
            result = Err(reader.report(
                Diagnostic::new(span, "this is not the name of a header")
                    .label("here")
                    .help("letters, digits and -, for example X-Api-Key"),
            ));
        }
        if http::HeaderValue::from_str(value.expose()).is_err() {
            result = Err(reader.wrong(
                &at.span,
                "the value of a header holds a character that no header can carry",
                "visible ASCII characters and spaces only",
                "what else it holds must be encoded as the gateway's manual says",
            ));
        }
    }
    result.map(|()| filled)
}

fn basic_auth(
    reader: &mut Reader<'_>,
    section: &[&str],
    raw: &RawGateway,
    account: &Account,
) -> Result<Option<(String, Secret)>, Reported> {
    let Some(at) = raw.basic_auth.as_ref().filter(|at| at.value) else { return Ok(None) };
    match (&account.username, &account.password) {
        (Some(username), Some(password)) => Ok(Some((username.clone(), password.clone()))),
        _ => Err(reader.wrong(
            &at.span,
            format!("`basic_auth` needs `username` and a password in [{}]", section.join(".")),
            "nothing to log in with",
            "add `username` and `password_file`",
        )),
    }
}

fn body(
    reader: &mut Reader<'_>,
    raw: &RawGateway,
    account: &Account,
    method: HttpMethod,
) -> Result<HttpBody, Reported> {
    match (&raw.form, &raw.json) {
        (None, None) => Ok(HttpBody::None),
        (Some(_), Some(json)) => Err(reader.wrong(
            &json.span,
            "a request has one body",
            "there is a `form` too",
            "keep `form` or `json`",
        )),
        (None, Some(_)) if method == HttpMethod::Get => Err(no_body_in_get(reader, raw)),
        (form @ Some(_), None) => {
            Ok(HttpBody::Form(account.fill_all(reader, form.as_ref(), Escape::Braces)?))
        }
        (None, Some(json)) => {
            let mut value = serde_json::to_value(&json.value).map_err(|_| {
                reader.wrong(
                    &json.span,
                    "`json` cannot be written as JSON",
                    "here",
                    "use JSON's kinds of values",
                )
            })?;
            account.fill_json(reader, &json.span, &mut value)?;
            Ok(HttpBody::Json(value))
        }
    }
}

fn no_body_in_get(reader: &mut Reader<'_>, raw: &RawGateway) -> Reported {
    let span = raw.method.as_ref().or(raw.preset.as_ref()).map(|at| at.span.clone());
    reader.report(
        Diagnostic::new(span, "a GET request has no JSON body")
            .label("makes it GET")
            .help("use `form`, whose fields go into the query, or set `method = \"post\"`"),
    )
}

fn rules(
    reader: &mut Reader<'_>,
    section: &[&str],
    raw: &RawGateway,
    preset: Option<&Preset>,
) -> Result<Vec<HttpRule>, Reported> {
    let mut rules = Vec::new();
    let mut result = Ok(());
    for at in raw.rule.iter().flatten() {
        match rule(reader, section, at) {
            Ok(rule) => rules.push(rule),
            Err(reported) => result = Err(reported),
        }
    }
    result?;
    // The operator's rules are tried first, so a preset's are overridden one by one.
    rules.extend(preset.into_iter().flat_map(|preset| preset.rules.clone()));
    if !rules.iter().any(|rule| rule.class == CodeClass::Accepted) && !reader.was_cut(section, "rule") {
        return Err(reader.missing(
            section,
            "rule",
            "without a rule of class \"accepted\" no message would ever count as sent: \
             [[gateway.NAME.rule]] status = \"200-299\", class = \"accepted\"",
        ));
    }
    Ok(rules)
}

fn rule(reader: &mut Reader<'_>, section: &[&str], at: &At<RawHttpRule>) -> Result<HttpRule, Reported> {
    let raw = &at.value;
    let status = match &raw.status {
        None => Ok(None),
        Some(status) => parse_status(&status.value.0).map(Some).ok_or_else(|| {
            reader.wrong(
                &status.span,
                "`status` is not an HTTP status",
                "must be 100 to 599",
                "202 or \"200-299\"",
            )
        }),
    };
    let json_equals = match (&raw.json_pointer, &raw.json_equals) {
        (None, None) => Ok(None),
        (Some(pointer), Some(value)) => match json_pointer(&pointer.value) {
            true => Ok(Some((pointer.value.clone(), value.value.0.clone()))),
            false => Err(not_a_pointer(reader, &pointer.span, "json_pointer")),
        },
        (Some(pointer), None) => Err(reader.wrong(
            &pointer.span,
            "`json_pointer` needs `json_equals`",
            "which value?",
            "the text that must stand there",
        )),
        (None, Some(value)) => Err(reader.wrong(
            &value.span,
            "`json_equals` needs `json_pointer`",
            "equals what?",
            "for example \"/messages/0/status\"",
        )),
    };
    let class = match &raw.class {
        Some(class) => reader.word("class", &class.span, &class.value, CLASSES),
        None if reader.was_cut(&[section, &["rule"]].concat(), "class") => Err(Reported),
        None => {
            let words: Vec<&str> = CLASSES.iter().map(|(word, _)| *word).collect();
            Err(reader.wrong(
                &at.span,
                "a rule without `class`",
                "what does such an answer mean?",
                words.join(", "),
            ))
        }
    };
    let (status, json_equals, class) = (status?, json_equals?, class?);
    let accepts = class == CodeClass::Accepted;
    let status = match status {
        Some((from, to)) if accepts && (from < 200 || to > 299) => {
            let span = raw.status.as_ref().map_or(&at.span, |status| &status.span);
            return Err(reader.wrong(
                span,
                "only 200 to 299 can mean accepted",
                "outside of that",
                "an accepted message is never sent again, so nothing else may count as such",
            ));
        }
        Some(status) => status,
        None if accepts => (200, 299),
        None => (100, 599),
    };
    Ok(HttpRule {
        status,
        body_starts_with: raw.body_starts_with.as_ref().map(|at| at.value.clone()),
        json_equals,
        class,
    })
}

fn parse_status(text: &str) -> Option<(u16, u16)> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let (from, to) = (from.trim().parse().ok()?, to.trim().parse().ok()?);
    (100 <= from && from <= to && to <= 599).then_some((from, to))
}

fn json_pointer(text: &str) -> bool {
    text.starts_with('/')
}

fn not_a_pointer(reader: &mut Reader<'_>, span: &Range<usize>, name: &str) -> Reported {
    reader.wrong(
        span,
        format!("`{name}` is not a JSON pointer"),
        "begins with /",
        "for example \"/messages/0/id\"",
    )
}

fn extract(
    reader: &mut Reader<'_>,
    name: &str,
    value: Option<&At<String>>,
) -> Result<Option<Extract>, Reported> {
    let Some(at) = value else { return Ok(None) };
    match (at.value.as_str(), at.value.strip_prefix("after:")) {
        ("body", _) => Ok(Some(Extract::Body)),
        (_, Some(marker)) if !marker.is_empty() => Ok(Some(Extract::After(marker.to_owned()))),
        (pointer, _) if json_pointer(pointer) => Ok(Some(Extract::JsonPointer(pointer.to_owned()))),
        _ => Err(reader.wrong(
            &at.span,
            format!("`{name}` does not say where to look"),
            "not understood",
            "a JSON pointer (\"/messages/0/id\"), text after a marker (\"after:Success \"), or \"body\"",
        )),
    }
}

/// How a credential is put into a template.
#[derive(Debug, Clone, Copy)]
enum Escape {
    /// Into a URL.
    Percent,
    /// Into a template that is encoded later: only its braces need care.
    Braces,
    /// Into a text that is sent as it is, the same for every message: a header.
    Literal,
}

/// What `{username}` and `{password}` stand for.
struct Account {
    username: Option<String>,
    password: Option<Secret>,
}

impl Account {
    /// Fills in the credentials and checks the other placeholders.
    fn fill(
        &self,
        reader: &mut Reader<'_>,
        span: &Range<usize>,
        template: &str,
        escape: Escape,
    ) -> Result<String, Reported> {
        let mut out = String::with_capacity(template.len());
        let mut rest = template;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(at);
            out.push_str(before);
            if from.starts_with("{{") || from.starts_with("}}") {
                out.push_str(if matches!(escape, Escape::Literal) { &from[..1] } else { &from[..2] });
                rest = &from[2..];
                continue;
            }
            let name = from.strip_prefix('{').and_then(|from| from.split_once('}')).map(|(name, _)| name);
            let Some(name) = name else {
                return Err(reader.wrong(
                    span,
                    "a brace without its partner",
                    "here",
                    "placeholders are {recipient}, {text}, …; a brace itself is written twice: {{ }}",
                ));
            };
            rest = &from[name.len() + 2..];
            let credential = match name {
                "username" => self.username.as_deref(),
                "password" => self.password.as_ref().map(Secret::expose),
                _ if is_placeholder(name) && matches!(escape, Escape::Literal) => {
                    return Err(reader.wrong(
                        span,
                        "a header cannot depend on the message",
                        "holds a placeholder of the message",
                        "headers take {username} and {password} only",
                    ));
                }
                _ if is_placeholder(name) => {
                    out.push_str(&from[..name.len() + 2]);
                    continue;
                }
                _ => return Err(unknown_placeholder(reader, span, name)),
            };
            match credential {
                Some(value) => out.push_str(&escaped(value, escape)),
                None => {
                    return Err(reader.wrong(
                        span,
                        format!("{{{name}}} is used, but the gateway has no {name}"),
                        "used here",
                        "add `username` and `password_file`",
                    ));
                }
            }
        }
        out.push_str(rest);
        Ok(out)
    }

    fn fill_all(
        &self,
        reader: &mut Reader<'_>,
        templates: Option<&BTreeMap<String, At<String>>>,
        escape: Escape,
    ) -> Result<Vec<(String, Secret)>, Reported> {
        let mut filled = Vec::new();
        for (name, at) in templates.into_iter().flatten() {
            let value = self.fill(reader, &at.span, &at.value, escape)?;
            filled.push((name.clone(), Secret::new(value)));
        }
        Ok(filled)
    }

    fn fill_json(
        &self,
        reader: &mut Reader<'_>,
        span: &Range<usize>,
        value: &mut serde_json::Value,
    ) -> Result<(), Reported> {
        match value {
            serde_json::Value::String(text) => *text = self.fill(reader, span, text, Escape::Braces)?,
            serde_json::Value::Array(items) => {
                for item in items {
                    self.fill_json(reader, span, item)?;
                }
            }
            serde_json::Value::Object(fields) => {
                for (_, field) in fields.iter_mut() {
                    self.fill_json(reader, span, field)?;
                }
            }
            serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {}
        }
        Ok(())
    }
}

fn is_placeholder(name: &str) -> bool {
    match name.strip_prefix("encoding:") {
        Some(words) => words.contains('|'),
        None => PLACEHOLDERS.contains(&name),
    }
}

/// The name is not shown as it stands: it may be a piece of a password with braces.
fn unknown_placeholder(reader: &mut Reader<'_>, span: &Range<usize>, name: &str) -> Reported {
    let known = [&["username", "password"], PLACEHOLDERS].concat();
    let help = match nearest(name, &known) {
        Some(near) => format!("did you mean {{{near}}}? A brace itself is written twice: {{{{ }}}}"),
        None => format!("known: {}; a brace itself is written twice: {{{{ }}}}", known.join(", ")),
    };
    reader.wrong(span, "a placeholder that is not known", "here", help)
}

fn escaped(value: &str, escape: Escape) -> String {
    match escape {
        Escape::Percent => form_urlencoded::byte_serialize(value.as_bytes()).collect(),
        Escape::Literal => value.to_owned(),
        Escape::Braces => value.replace('{', "{{").replace('}', "}}"),
    }
}
