//! From a queued row to a message that a gateway can take, or to the reason why not.
//!
//! Pure, and the same for `run` and for `render`: what is shown is what would be sent. Nothing that a row can say makes
//! it panic or allocate without bound. A refusal ends up in the row and perhaps in a log, so it never quotes the body or
//! the number.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use crate::config;
use crate::message::{AttemptNo, Encoding, MessageId, OutboxRow, Outgoing, Refusal, TemplateRow};
use crate::text::msisdn::{self, NumberPlan};
use crate::text::template::{MAX_BYTES, Params, Template, TemplateError};
use crate::text::{code, gsm, segments, sender, shown, transliterate};

/// All that turns rows into messages. Built again when the configuration or a template changes.
#[derive(Debug, Clone)]
pub struct Composer {
    text: config::Text,
    templates: Templates,
}

/// The templates of the database, parsed. A template that is wrong is kept with its error: it fails the rows that name
/// it and nobody else's.
#[derive(Debug, Clone, Default)]
pub struct Templates {
    /// By name, then by language in the form of [`language_key`]; the empty language is the default.
    by_name: BTreeMap<String, BTreeMap<String, Stored>>,
}

#[derive(Debug, Clone)]
struct Stored {
    template: Result<Template, TemplateError>,
    transactional: bool,
}

/// A message but for what only the attempt can give it.
#[derive(Clone, PartialEq, Eq)]
pub struct Draft {
    /// International digits.
    pub recipient: String,
    pub text: String,
    pub sender: String,
    pub encoding: Encoding,
    pub segments: i16,
    /// Its template says that people who opted out get it too.
    pub transactional: bool,
}

/// Numbers and texts of real people stay out of logs, so `Debug` shows neither.
impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft")
            .field("sender", &self.sender)
            .field("encoding", &self.encoding)
            .field("segments", &self.segments)
            .finish_non_exhaustive()
    }
}

impl Draft {
    pub fn into_outgoing(self, id: MessageId, attempt: AttemptNo, gateway_ref: String) -> Outgoing {
        let Draft { recipient, text, sender, encoding, segments, transactional: _ } = self;
        Outgoing { id, attempt, recipient, text, sender, encoding, segments, gateway_ref }
    }
}

impl Composer {
    pub fn new(text: config::Text, templates: Templates) -> Composer {
        Composer { text, templates }
    }

    pub fn compose(&self, row: &OutboxRow) -> Result<Draft, Refusal> {
        let recipient = self.recipient(row.recipient.as_deref())?;
        let sender = sender::choose(row.sender.as_deref(), self.text.default_sender.as_deref())?.to_owned();
        let (wording, transactional) = self.wording(row)?;
        let text = self.spelling(clean(&wording)?);
        let (encoding, segments) = self.size(&text)?;
        Ok(Draft { recipient, text, sender, encoding, segments, transactional })
    }

    fn recipient(&self, written: Option<&str>) -> Result<String, Refusal> {
        let written = written.ok_or_else(|| Refusal::new(code::BAD_NUMBER, "the row has no recipient"))?;
        let plan =
            NumberPlan { country: self.text.default_country.as_deref(), trunk: &self.text.trunk_prefix };
        msisdn::normalise(written, plan)
    }

    /// The body as it stands, or the template filled in and whether that is transactional.
    ///
    /// An empty text in a column is what some programs write for "none", so an empty body beside a template does no
    /// harm. Alone it is a body that is empty.
    fn wording<'a>(&self, row: &'a OutboxRow) -> Result<(Cow<'a, str>, bool), Refusal> {
        let template = row.template.as_deref().map(str::trim).filter(|name| !name.is_empty());
        match (row.body.as_deref(), template) {
            (None, None) => {
                Err(Refusal::new(code::NO_TEXT, "the row has neither a body nor a template; it needs one"))
            }
            (Some(body), Some(_)) if !body.is_empty() => Err(Refusal::new(
                code::BODY_AND_TEMPLATE,
                "the row has a body and a template; it needs one of them, and the other null",
            )),
            (Some(body), None) if body.len() > MAX_BYTES => Err(Refusal::new(
                code::TOO_LONG,
                format!("the body has {} bytes; more than {MAX_BYTES} are not looked at", body.len()),
            )),
            (Some(body), None) => Ok((Cow::Borrowed(body), false)),
            (_, Some(name)) => {
                let (template, transactional) = self.templates.find(name, row.language.as_deref())?;
                let params = Params::parse(row.params.as_deref().unwrap_or_default())?;
                Ok((Cow::Owned(template.render(&params)?), transactional))
            }
        }
    }

    fn spelling<'a>(&self, text: Cow<'a, str>) -> String {
        if self.text.transliterate
            && gsm::septets(&text).is_none()
            && let Some(plain) = transliterate::to_gsm(&text)
            // What was nothing but invisible characters is sent as it came rather than as nothing.
            && !plain.trim().is_empty()
            // A near spelling may be longer (`…` is three characters): where it would cost more, it is none.
            && segments::measure(&plain).segments <= segments::measure(&text).segments
        {
            return plain;
        }
        text.into_owned()
    }

    fn size(&self, text: &str) -> Result<(Encoding, i16), Refusal> {
        let size = segments::measure(text);
        let allowed = usize::try_from(self.text.max_segments).unwrap_or(0).min(segments::MAX_PARTS);
        match i16::try_from(size.segments) {
            Ok(segments) if size.segments <= allowed => Ok((size.encoding, segments)),
            _ => Err(Refusal::new(code::TOO_LONG, too_long(size, allowed))),
        }
    }
}

fn too_long(size: segments::Size, allowed: usize) -> String {
    let (unit, hint) = match size.encoding {
        Encoding::Gsm7 => ("GSM characters", ""),
        Encoding::Ucs2 => (
            "UTF-16 units",
            "; it has characters outside the GSM alphabet, which leave 70 instead of 160 to a segment",
        ),
    };
    format!(
        "the text needs {} segments ({} {unit}) and at most {allowed} are allowed (text.max_segments){hint}",
        size.segments, size.units
    )
}

/// One kind of line break, and nothing that cannot be sent.
///
/// Carriage returns go: they are in the GSM alphabet and would be billed, and a handset shows the same without them.
fn clean(text: &str) -> Result<Cow<'_, str>, Refusal> {
    if text.contains('\0') {
        return Err(Refusal::new(code::BAD_TEXT, "the text contains a NUL character, which cannot be sent"));
    }
    if text.trim().is_empty() {
        return Err(Refusal::new(code::EMPTY_TEXT, "the text is empty or has only white space"));
    }
    if text.contains('\r') {
        Ok(Cow::Owned(text.replace("\r\n", "\n").replace('\r', "\n")))
    } else {
        Ok(Cow::Borrowed(text))
    }
}

impl Templates {
    /// Of two rows for one name and language (`en-IE` and `en_ie`) the later counts.
    pub fn new(rows: Vec<TemplateRow>) -> Templates {
        let mut templates = Templates::default();
        for row in rows {
            let languages = templates.by_name.entry(row.name.trim().to_owned()).or_default();
            let stored = Stored { template: Template::parse(&row.body), transactional: row.transactional };
            languages.insert(language_key(&row.language), stored);
        }
        templates
    }

    /// Name, language and error of each template that cannot be used: a person should see them before a row does.
    pub fn errors(&self) -> impl Iterator<Item = (&str, &str, &TemplateError)> {
        self.by_name.iter().flat_map(|(name, languages)| {
            languages.iter().filter_map(move |(language, stored)| {
                let error = stored.template.as_ref().err()?;
                Some((name.as_str(), language.as_str(), error))
            })
        })
    }

    /// Looks for `en-IE`, then `en`, then the default.
    fn find(&self, name: &str, language: Option<&str>) -> Result<(&Template, bool), Refusal> {
        let Some(languages) = self.by_name.get(name) else {
            return Err(Refusal::new(
                code::UNKNOWN_TEMPLATE,
                format!("there is no template named {}", shown(name)),
            ));
        };
        let mut wanted = language_key(language.unwrap_or_default());
        loop {
            if let Some(Stored { template, transactional }) = languages.get(&wanted) {
                return match template {
                    Ok(template) => Ok((template, *transactional)),
                    Err(error) => Err(Refusal::new(
                        code::BAD_TEMPLATE,
                        format!("the template {} is wrong: {error}", shown(name)),
                    )),
                };
            }
            if wanted.is_empty() {
                break;
            }
            wanted.truncate(wanted.rfind('-').unwrap_or(0));
        }
        let language = language.unwrap_or_default();
        Err(Refusal::new(
            code::UNKNOWN_TEMPLATE,
            format!(
                "the template {} has no text for the language {} and no default",
                shown(name),
                shown(language)
            ),
        ))
    }
}

/// `en_IE`, `en-ie` and `EN-IE` are one language. What is too long to be one is none.
fn language_key(language: &str) -> String {
    let language = language.trim();
    if language.len() > 35 {
        return String::new();
    }
    language.to_ascii_lowercase().replace('_', "-")
}

#[cfg(test)]
mod tests;
