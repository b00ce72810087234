//! Templates: a text with placeholders, and the parameters that fill them.
//!
//! `{name}` is replaced by a parameter, `{name|default}` by the default where the parameter is missing or null, `{{`
//! and `}}` are braces. Nothing else: no conditions, no loops, no code. What is put in is never looked at again, so a
//! parameter that contains `{x}` shows as `{x}`.
//!
//! A template is parsed once, when it is loaded; rendering allocates at most [`MAX_BYTES`], whatever the row says.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::value::RawValue;

use crate::message::Refusal;
use crate::text::{code, shown, shown_char};

/// Longest text that is rendered, and longest body that is looked at. More than 255 segments hold in ASCII.
pub const MAX_BYTES: usize = 64 * 1024;

/// Longest `params` that are parsed.
pub const MAX_PARAMS_BYTES: usize = 256 * 1024;

/// Longest name of a placeholder.
const MAX_NAME: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Placeholder { name: String, default: Option<String> },
}

/// What is wrong with a template, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateError {
    /// Both counted from 1; columns in characters.
    pub line: usize,
    pub column: usize,
    pub problem: Problem,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// A `}` that closes nothing.
    StrayClose,
    /// A `{` without its `}`.
    NotClosed,
    /// `{}` or `{|default}`.
    NoName,
    /// A character that names cannot have.
    BadName(char),
    NameTooLong,
    /// A `{` inside a placeholder.
    Nested,
    /// NUL, which no gateway takes.
    Nul,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: ", self.line, self.column)?;
        match self.problem {
            Problem::StrayClose => f.write_str("'}' closes nothing; for a brace in the text write '}}'"),
            Problem::NotClosed => f.write_str("'{' is never closed; for a brace in the text write '{{'"),
            Problem::NoName => f.write_str("a placeholder needs a name, as in '{name}'"),
            Problem::BadName(c) => write!(
                f,
                "{} cannot stand in a placeholder's name, which has ASCII letters, digits, '_', '.' and '-' only",
                shown_char(c)
            ),
            Problem::NameTooLong => write!(f, "a placeholder's name has at most {MAX_NAME} characters"),
            Problem::Nested => f.write_str("'{' stands inside a placeholder, and placeholders do not nest"),
            Problem::Nul => f.write_str("a NUL character cannot be sent"),
        }
    }
}

impl std::error::Error for TemplateError {}

impl Template {
    pub fn parse(source: &str) -> Result<Template, TemplateError> {
        Parser::new(source).parse()
    }

    /// Names of all placeholders, in the order of the text, repeated where they are used again.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Literal(_) => None,
            Part::Placeholder { name, .. } => Some(name.as_str()),
        })
    }

    pub fn render(&self, params: &Params) -> Result<String, Refusal> {
        let mut text = String::new();
        for part in &self.parts {
            let piece = match part {
                Part::Literal(literal) => literal.as_str(),
                Part::Placeholder { name, default } => match (params.text(name)?, default) {
                    (Some(value), _) => value,
                    (None, Some(default)) => default.as_str(),
                    (None, None) => return Err(missing(name)),
                },
            };
            if text.len() + piece.len() > MAX_BYTES {
                return Err(Refusal::new(
                    code::TOO_LONG,
                    format!("with its parameters put in, the template becomes longer than {MAX_BYTES} bytes"),
                ));
            }
            text.push_str(piece);
        }
        Ok(text)
    }
}

fn missing(name: &str) -> Refusal {
    Refusal::new(
        code::MISSING_PARAMETER,
        format!(
            "the template needs the parameter {}, which params lacks or has as null, and gives no default",
            shown(name)
        ),
    )
}

struct Parser<'a> {
    source: &'a str,
    parts: Vec<Part>,
    literal: String,
}

impl<'a> Parser<'a> {
    fn new(source: &'a str) -> Parser<'a> {
        Parser { source, parts: Vec::new(), literal: String::new() }
    }

    fn parse(mut self) -> Result<Template, TemplateError> {
        if let Some(at) = self.source.find('\0') {
            return Err(self.error(at, Problem::Nul));
        }
        let mut at = 0;
        while let Some(found) = self.source[at..].find(['{', '}']) {
            let brace = at + found;
            self.literal.push_str(&self.source[at..brace]);
            let rest = &self.source[brace..];
            if rest.starts_with("{{") || rest.starts_with("}}") {
                self.literal.push_str(&rest[..1]);
                at = brace + 2;
            } else if rest.starts_with('}') {
                return Err(self.error(brace, Problem::StrayClose));
            } else {
                at = self.placeholder(brace)?;
            }
        }
        self.literal.push_str(&self.source[at..]);
        self.flush_literal();
        Ok(Template { parts: self.parts })
    }

    /// Reads the placeholder whose brace stands at `open`; returns where the text goes on.
    fn placeholder(&mut self, open: usize) -> Result<usize, TemplateError> {
        let start = open + 1;
        let Some(end) = self.source[start..].find(['{', '}']).map(|found| start + found) else {
            return Err(self.error(open, Problem::NotClosed));
        };
        if self.source[end..].starts_with('{') {
            return Err(self.error(end, Problem::Nested));
        }
        let inner = &self.source[start..end];
        let (name, default) = match inner.split_once('|') {
            Some((name, default)) => (name, Some(default)),
            None => (inner, None),
        };
        if let Some((at, c)) = name.char_indices().find(|(_, c)| !is_name_char(*c)) {
            return Err(self.error(start + at, Problem::BadName(c)));
        }
        if name.is_empty() {
            return Err(self.error(open, Problem::NoName));
        }
        if name.len() > MAX_NAME {
            return Err(self.error(start, Problem::NameTooLong));
        }
        self.flush_literal();
        self.parts.push(Part::Placeholder { name: name.to_owned(), default: default.map(str::to_owned) });
        Ok(end + 1)
    }

    fn flush_literal(&mut self) {
        if !self.literal.is_empty() {
            self.parts.push(Part::Literal(std::mem::take(&mut self.literal)));
        }
    }

    fn error(&self, at: usize, problem: Problem) -> TemplateError {
        let before = &self.source[..at];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        TemplateError {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            problem,
        }
    }
}

const fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')
}

/// The parameters of one row.
///
/// Numbers keep the digits that the application wrote: an amount of `1.50` must not become `1.5`.
#[derive(Clone, Default, PartialEq)]
pub struct Params {
    values: BTreeMap<String, Value>,
}

#[derive(Clone, PartialEq)]
enum Value {
    Text(String),
    /// Null counts as missing, so that an object mapper's empty columns get the default.
    Null,
    /// An object or an array.
    Nested,
}

/// Values are people's names, codes and amounts; `Debug` shows how many there are.
impl fmt::Debug for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Params").field("values", &self.values.len()).finish()
    }
}

impl Params {
    /// Reads the JSON of a `params` column. An empty text and JSON's `null` are what object mappers write for "none".
    pub fn parse(json: &str) -> Result<Params, Refusal> {
        let json = json.trim();
        if json.is_empty() || json == "null" {
            return Ok(Params::default());
        }
        if json.len() > MAX_PARAMS_BYTES {
            return Err(bad_params(format!("params is longer than {MAX_PARAMS_BYTES} bytes")));
        }
        // Only positions are taken from serde_json's errors: its texts quote the values.
        let raw: BTreeMap<String, &RawValue> = serde_json::from_str(json).map_err(|error| {
            bad_params(match error.classify() {
                serde_json::error::Category::Data => {
                    "params is not a JSON object; write it as {\"name\": \"value\"}".to_owned()
                }
                _ => format!(
                    "params is not valid JSON: it goes wrong at line {}, column {}",
                    error.line(),
                    error.column()
                ),
            })
        })?;
        let values = raw.into_iter().map(|(name, raw)| {
            let value = value(&name, raw.get())?;
            Ok((name, value))
        });
        Ok(Params { values: values.collect::<Result<_, Refusal>>()? })
    }

    /// The text of a parameter, `None` if it is missing or null.
    fn text(&self, name: &str) -> Result<Option<&str>, Refusal> {
        match self.values.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(Value::Nested) => Err(bad_params(format!(
                "the parameter {} is a JSON object or array; only texts, numbers and booleans can be put into a text",
                shown(name)
            ))),
        }
    }
}

/// `raw` is valid JSON, except that the escapes in a string have not been looked at.
fn value(name: &str, raw: &str) -> Result<Value, Refusal> {
    match raw.as_bytes().first() {
        Some(b'"') => {
            let text: String = serde_json::from_str(raw).map_err(|_| {
                bad_params(format!(
                    "the parameter {} has a \\u escape that is half of a surrogate pair",
                    shown(name)
                ))
            })?;
            if text.contains('\0') {
                return Err(bad_params(format!("the parameter {} contains a NUL character", shown(name))));
            }
            Ok(Value::Text(text))
        }
        Some(b'{' | b'[') => Ok(Value::Nested),
        Some(b'n') => Ok(Value::Null),
        // Numbers, true and false, as they were written.
        _ => Ok(Value::Text(raw.to_owned())),
    }
}

fn bad_params(reason: String) -> Refusal {
    Refusal::new(code::BAD_PARAMETERS, reason)
}

#[cfg(test)]
mod tests;
