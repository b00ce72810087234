//! The TOML document: parsing, faults of structure, where keys stand, and a copy without secrets to show.
//!
//! serde stops at its first fault. So the entry that it names is noted and cut out of the document, and the rest
//! is tried again until nothing is left to complain about: a person sees all faults in one go.

use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::Diagnostic;
use super::raw::RawConfig;

/// A document whose structure was looked at.
pub(super) struct Document<'a> {
    table: DeTable<'a>,
    /// Keys that were cut out: they must not be reported as missing too.
    cut: Vec<Vec<String>>,
    pub(super) masked: String,
}

/// Keys whose values may be shown in an error. Everything else is masked, so that a new key, or the misspelt name
/// of a secret one, is hidden until somebody decides otherwise.
pub(super) const PUBLIC_KEYS: &[&str] = &[
    "allow_http",
    "api_url",
    "backoff_max",
    "backoff_min",
    "basic_auth",
    "body_starts_with",
    "breaker_failures",
    "ca_file",
    "campaign_name",
    "charset",
    "class",
    "client_secret_credential",
    "client_secret_env",
    "client_secret_file",
    "account_password_credential",
    "account_password_env",
    "account_password_file",
    "concurrency",
    "connect_timeout",
    "default",
    "default_country",
    "default_sender",
    "dialect",
    "error",
    "filter",
    "gateway",
    "json_equals",
    "json_pointer",
    "lane",
    "lease",
    "listen",
    "lookahead",
    "max_segments",
    "message_id",
    "method",
    "newline",
    "notify_field",
    "on_unknown",
    "password_credential",
    "password_env",
    "password_file",
    "path_credential",
    "path_env",
    "path_file",
    "plus",
    "poll_interval",
    "pool_size",
    "prefix",
    "preset",
    "proxy",
    "proxy_credential",
    "proxy_env",
    "proxy_file",
    "rate",
    "request_timeout",
    "shutdown_grace",
    "stale_after",
    "stale_after_urgent",
    "status",
    "stop_after_refusals",
    "timeout",
    "token_url",
    "transliterate",
    "trunk_prefix",
    "url",
    "username",
    "wake",
];

/// Public keys whose values are connection strings: what may be secret in those is masked.
const URL_KEYS: &[&str] = &["url", "api_url", "token_url", "proxy"];

impl<'a> Document<'a> {
    /// The document and what serde could read of it, or the fault of syntax with the masked text.
    pub(super) fn read(
        text: &'a str,
        faults: &mut Vec<Diagnostic>,
    ) -> Result<(Document<'a>, RawConfig), String> {
        let table = match DeTable::parse(text) {
            Ok(table) => table,
            Err(error) => {
                faults.push(syntax_fault(&error));
                return Err(mask_lines(text));
            }
        };
        let mut document =
            Document { table: table.get_ref().clone(), cut: Vec::new(), masked: text.to_owned() };
        let mut spans = Vec::new();
        secret_spans(table.get_ref(), false, &mut spans);
        for span in spans {
            mask(&mut document.masked, span);
        }
        let raw = document.read_structure(table, faults);
        Ok((document, raw))
    }

    fn read_structure(&mut self, mut table: Spanned<DeTable<'a>>, faults: &mut Vec<Diagnostic>) -> RawConfig {
        loop {
            let error = match RawConfig::deserialize(toml::Deserializer::from(table.clone())) {
                Ok(raw) => return raw,
                Err(error) => error,
            };
            let mut path = Vec::new();
            let found = error.span().and_then(|span| cut(table.get_mut(), &span, &mut path));
            let Some(found) = found else {
                // Nothing to cut out, so trying again would go round for ever.
                faults.push(Diagnostic::new(error.span(), "the file does not have the expected form"));
                return RawConfig::default();
            };
            faults.push(structure_fault(&error, &path, found));
            self.cut.push(path);
        }
    }

    /// Was this key present but unreadable?
    pub(super) fn was_cut(&self, path: &[&str]) -> bool {
        self.cut.iter().any(|cut| {
            cut.iter().map(String::as_str).eq(path.iter().copied().take(cut.len())) && cut.len() <= path.len()
        })
    }

    /// Where the key at this path stands; for a table, its header.
    pub(super) fn key_span(&self, path: &[&str]) -> Option<Range<usize>> {
        let (last, parents) = path.split_last()?;
        let table = self.table_at(parents)?;
        table.keys().find(|key| key.get_ref().as_ref() == *last).map(Spanned::span)
    }

    /// Names and places of the keys in a table.
    pub(super) fn keys(&self, path: &[&str]) -> Vec<(String, Range<usize>)> {
        let keys = self.table_at(path).into_iter().flat_map(DeTable::keys);
        keys.map(|key| (key.get_ref().to_string(), key.span())).collect()
    }

    fn table_at(&self, path: &[&str]) -> Option<&DeTable<'a>> {
        path.iter().try_fold(&self.table, |table, name| table.get(*name)?.get_ref().as_table())
    }
}

/// What was cut out of the document.
struct Cut {
    span: Range<usize>,
    kind: &'static str,
}

/// Removes the innermost entry that holds `span`, and says where it stood.
fn cut(table: &mut DeTable<'_>, span: &Range<usize>, path: &mut Vec<String>) -> Option<Cut> {
    let mut hit = None;
    for (key, value) in table.iter_mut() {
        let name = key.get_ref().to_string();
        path.push(name.clone());
        // A table's span is its header only, so the children are asked first, whatever the parent's span is.
        let inner = match value.get_mut() {
            DeValue::Table(inner) => cut(inner, span, path),
            DeValue::Array(items) => items.iter_mut().find_map(|item| match item.get_mut() {
                DeValue::Table(inner) => cut(inner, span, path),
                _ => None,
            }),
            _ => None,
        };
        if inner.is_some() {
            return inner;
        }
        path.pop();
        if holds(&key.span(), span) || holds(&value.span(), span) {
            hit = Some((name, Cut { span: span.clone(), kind: value.get_ref().type_str() }));
        }
    }
    let (name, found) = hit?;
    table.remove(name.as_str());
    path.push(name);
    Some(found)
}

fn holds(outer: &Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

/// serde's message holds the value in question, which may be a secret: only names of keys and kinds are taken over.
fn structure_fault(error: &toml::de::Error, path: &[String], found: Cut) -> Diagnostic {
    let name = path.last().map_or("", String::as_str);
    let place = place(&path[..path.len().saturating_sub(1)]);
    let message = error.message();
    if message.starts_with("unknown field") {
        let known: Vec<&str> = message.split('`').skip(3).step_by(2).collect();
        let fault = Diagnostic::new(Some(found.span), format!("unknown key `{name}` {place}"))
            .label("not a key of this section");
        return match nearest(name, &known) {
            Some(near) => fault.help(format!("did you mean `{near}`?")),
            None => fault.help(format!("known here: {}", known.join(", "))),
        };
    }
    let expected = message.rsplit_once("expected ").map_or("", |(_, expected)| expected);
    let expected = match expected.trim() {
        "i64" => "a whole number",
        "f64" => "a number",
        "a boolean" => "true or false, without quotes",
        "a string" => "a string in quotes",
        "a map" => "a table",
        "a sequence" => "an array",
        other if other.starts_with("struct") => "a table",
        "" => "another kind of value",
        other => other,
    };
    Diagnostic::new(Some(found.span), format!("`{name}` {place} has the wrong type"))
        .label(format!("found {}", article(found.kind)))
        .help(format!("expected {expected}"))
}

fn article(kind: &str) -> String {
    match kind {
        "integer" | "array" => format!("an {kind}"),
        _ => format!("a {kind}"),
    }
}

fn place(path: &[String]) -> String {
    if path.is_empty() { "at the top of the file".to_owned() } else { format!("in [{}]", path.join(".")) }
}

fn syntax_fault(error: &toml::de::Error) -> Diagnostic {
    let message = error.message().lines().next().unwrap_or_default().to_owned();
    // The parser describes tokens, but a duplicate key's name or a token might be text of the file.
    let title = if message.contains("duplicate") {
        "this key or table stands twice".to_owned()
    } else {
        format!("not valid TOML: {message}")
    };
    Diagnostic::new(error.span(), title).help("text needs quotes: key = \"value\"")
}

/// The known name that is at most two edits (one for short names) away.
pub(super) fn nearest<'n>(name: &str, known: &[&'n str]) -> Option<&'n str> {
    let limit = if name.len() <= 4 { 1 } else { 3 };
    let scored = known.iter().map(|candidate| (edits(name, candidate), *candidate));
    scored.filter(|(distance, _)| *distance <= limit).min().map(|(_, candidate)| candidate)
}

/// Levenshtein distance, row by row.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

fn secret_spans(table: &DeTable<'_>, hidden: bool, spans: &mut Vec<Range<usize>>) {
    for (key, value) in table {
        let key = key.get_ref().as_ref();
        // Sections hold keys of their own; templates and bodies may hold a secret in any leaf.
        let inner_hidden = hidden || matches!(key, "headers" | "form" | "json" | "password");
        match value.get_ref() {
            // Answer codes and what they mean.
            DeValue::Table(_) if key == "codes" => {}
            DeValue::Table(inner) => secret_spans(inner, inner_hidden, spans),
            DeValue::Array(items) if items.iter().any(|item| item.get_ref().is_table()) => {
                for item in items.iter().filter_map(|item| item.get_ref().as_table()) {
                    secret_spans(item, inner_hidden, spans);
                }
            }
            leaf => {
                let may_be_secret = URL_KEYS.contains(&key) && leaf.as_str().is_some_and(may_hold_a_secret);
                if inner_hidden || may_be_secret || !PUBLIC_KEYS.contains(&key) {
                    spans.push(value.span());
                }
            }
        }
    }
}

/// Credentials before an `@`, parameters behind a `?`, or a password among keywords.
fn may_hold_a_secret(url: &str) -> bool {
    url.contains(['@', '?']) || url.contains("password")
}

/// Same length, same line breaks, quotes kept: spans stay right.
fn mask(text: &mut String, span: Range<usize>) {
    let Some(secret) = text.get(span.clone()) else { return };
    let stars: String = secret
        .chars()
        .flat_map(|c| {
            let keep = matches!(c, '"' | '\'' | '\n' | '\r');
            std::iter::repeat_n(if keep { c } else { '*' }, c.len_utf8())
        })
        .collect();
    text.replace_range(span, &stars);
}

/// For a file that does not parse: line by line, everything but well-known harmless values.
fn mask_lines(text: &str) -> String {
    let mut masked = text.to_owned();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let end = start + line.len();
        let head = line.trim_start();
        let hidden_from = match line.find('=') {
            _ if head.starts_with('#') || head.starts_with('[') => None,
            Some(at) => {
                let key = line[..at].trim().trim_matches(['"', '\'']);
                let key = key.rsplit('.').next().unwrap_or(key).trim();
                let value = &line[at + 1..];
                let shown = PUBLIC_KEYS.contains(&key)
                    && !value.contains('{')
                    && !(URL_KEYS.contains(&key) && may_hold_a_secret(value));
                (!shown).then_some(at + 1)
            }
            None => Some(0),
        };
        if let Some(from) = hidden_from {
            mask(&mut masked, start + from..end);
        }
        start = end;
    }
    masked
}

#[cfg(test)]
mod tests {
    use super::{edits, mask_lines, nearest};

    #[test]
    fn the_nearest_key_is_suggested_only_when_it_is_near() {
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(nearest("poll_intervall", &["lease", "poll_interval"]), Some("poll_interval"));
        assert_eq!(nearest("colour", &["lease", "poll_interval"]), None);
    }

    #[test]
    fn a_file_that_does_not_parse_still_shows_no_secret() {
        let text = "[gateway.a]\nrate = 5 5\npassword = \"hunter2\nhunter2\npasswrd = hünter2\nurl = \"x://u:hunter2@h\"\nt = { password = \"hunter2\" }\n";
        let masked = mask_lines(text);
        assert_eq!(masked.len(), text.len());
        assert!(!masked.contains("nter2"), "{masked}");
        assert!(masked.contains("rate = 5 5"), "{masked}");
    }
}
