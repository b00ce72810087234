//! The TOML document: parsing, faults of structure, and where keys stand.
//!
//! serde stops at its first fault. So the entry that it names is noted and cut out of the document, and the rest
//! is tried again until nothing is left to complain about: a person sees all faults in one go.

use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::Diagnostic;
use super::mask;
use super::raw::RawConfig;

/// A document whose structure was looked at.
pub(super) struct Document<'a> {
    table: DeTable<'a>,
    /// Keys that were cut out: they must not be reported as missing too.
    cut: Vec<Vec<String>>,
    pub(super) masked: String,
}

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
                return Err(mask::lines(text));
            }
        };
        let masked = mask::document(text, table.get_ref());
        let mut document = Document { table: table.get_ref().clone(), cut: Vec::new(), masked };
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
            let (fault, meant) = structure_fault(&error, &path, found);
            faults.push(fault);
            // A misspelt key is not missing under its right name as well.
            if let Some(meant) = meant {
                let mut right = path.clone();
                right.pop();
                right.push(meant.to_owned());
                self.cut.push(right);
            }
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

/// The fault, and for a misspelt key the one that was probably meant.
///
/// serde's message holds the value in question, which may be a secret: only names of keys and kinds are taken over.
fn structure_fault<'e>(
    error: &'e toml::de::Error,
    path: &[String],
    found: Cut,
) -> (Diagnostic, Option<&'e str>) {
    let name = path.last().map_or("", String::as_str);
    let place = place(&path[..path.len().saturating_sub(1)]);
    let message = error.message();
    if message.starts_with("unknown field") {
        let known: Vec<&str> = message.split('`').skip(3).step_by(2).collect();
        let meant = nearest(name, &known);
        // In the place of a section's name may stand anything, a secret too.
        let is_name = path.len() > 1 || meant.is_some();
        let shown = if is_name && mask::is_plain(name) { format!("key `{name}`") } else { "key".to_owned() };
        let fault = Diagnostic::new(Some(found.span), format!("unknown {shown} {place}"))
            .label("not a key of this section");
        let fault = match meant {
            Some(near) => fault.help(format!("did you mean `{near}`?")),
            None => fault.help(format!("known here: {}", known.join(", "))),
        };
        return (fault, meant);
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
    let fault = Diagnostic::new(Some(found.span), format!("`{name}` {place} has the wrong type"))
        .label(format!("found {}", article(found.kind)))
        .help(format!("expected {expected}"));
    (fault, None)
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
    let message = error.message().lines().next().unwrap_or_default();
    if message.contains("duplicate") {
        return Diagnostic::new(error.span(), "this key or section stands twice")
            .label("the second one")
            .help("keep one; of sections, only those in double brackets may be repeated");
    }
    let fault = Diagnostic::new(error.span(), format!("not valid TOML: {message}"));
    if message.contains("quoted") {
        fault.help("text and durations stand in quotes: key = \"value\"")
    } else if message.contains("string") {
        fault.help("is a quote missing?")
    } else {
        fault
    }
}

/// The known name that a person most likely meant: few edits away, or one that begins with what was written.
pub(super) fn nearest<'n>(name: &str, known: &[&'n str]) -> Option<&'n str> {
    let limit = if name.len() <= 4 { 1 } else { 3 };
    let scored = known.iter().map(|candidate| {
        let begins = name.len() >= 4 && candidate.starts_with(name);
        (if begins { 1 } else { edits(name, candidate) }, *candidate)
    });
    scored.filter(|(distance, _)| *distance <= limit).min().map(|(_, candidate)| candidate)
}

/// Levenshtein distance in which swapped neighbours count once.
fn edits(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=to.len()).collect()];
    for (i, a) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in to.iter().enumerate() {
            let replaced = rows[i][j] + usize::from(a != b);
            let mut least = replaced.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == to[j - 1] && from[i - 1] == *b {
                least = least.min(rows[i - 1][j - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::{edits, nearest};

    #[test]
    fn the_nearest_key_is_suggested_only_when_it_is_near() {
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(nearest("poll_intervall", &["lease", "poll_interval"]), Some("poll_interval"));
        assert_eq!(nearest("mian", &["backup", "main"]), Some("main"));
        assert_eq!(nearest("user", &["url", "username"]), Some("username"));
        assert_eq!(nearest("colour", &["lease", "poll_interval"]), None);
    }
}
