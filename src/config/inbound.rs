//! `[inbox]` and `[opt_out]`: whose the replies are, which are answered, and what makes a reply an opt-out.

use std::collections::BTreeMap;
use std::time::Duration;

use super::raw::{At, RawInbox, RawOptOut, RawText};
use super::reader::{Reader, Reported};
use super::{Inbox, OptOut};
use crate::message::Lane;
use crate::text::keyword;

/// What InteractSMS names, and what people write all the same.
const KEYWORDS: [&str; 6] = ["STOP", "STOPALL", "OPTOUT", "OPT OUT", "OPT-OUT", "UNSUBSCRIBE"];
const OPT_IN_KEYWORDS: [&str; 5] = ["START", "UNSTOP", "OPTIN", "OPT IN", "OPT-IN"];
/// The short code that all customers of InteractSMS share; only opt-outs arrive there.
const SHARED_NUMBER: &str = "50123";

const HOUR: Duration = Duration::from_secs(3600);
/// Two machines that answer each other are to cost little, and to be noticed.
const LEAST_PAUSE: Duration = Duration::from_secs(60);
/// `outboxd.auto_reply()` remembers a little longer.
const MOST_PAUSE: Duration = Duration::from_secs(30 * 86_400);

impl Default for OptOut {
    fn default() -> OptOut {
        OptOut {
            keywords: KEYWORDS.iter().map(|word| keyword::words(word)).collect(),
            opt_in_keywords: OPT_IN_KEYWORDS.iter().map(|word| keyword::words(word)).collect(),
            numbers: vec![SHARED_NUMBER.to_owned()],
            transactional_lanes: Vec::new(),
        }
    }
}

pub(super) fn opt_out(reader: &mut Reader<'_>, raw: &RawOptOut) -> Result<OptOut, Reported> {
    let default = OptOut::default();
    let keywords = keywords(reader, "keywords", raw.keywords.as_ref());
    let opt_in_keywords = self::keywords(reader, "opt_in_keywords", raw.opt_in_keywords.as_ref());
    let numbers = match &raw.numbers {
        None => Ok(default.numbers),
        Some(numbers) => numbers.iter().map(|at| number(reader, &at.span, &at.value.0)).collect(),
    };
    let lanes = Lane::ALL.map(|lane| (lane.as_str(), lane));
    let transactional_lanes = raw
        .transactional_lanes
        .iter()
        .flatten()
        .map(|at| reader.word("transactional_lanes", &at.span, &at.value, &lanes))
        .collect::<Result<Vec<Lane>, Reported>>();
    let opt_out = OptOut {
        keywords: keywords?.unwrap_or(default.keywords),
        opt_in_keywords: opt_in_keywords?.unwrap_or(default.opt_in_keywords),
        numbers: numbers?,
        transactional_lanes: transactional_lanes?,
    };
    let both =
        raw.opt_in_keywords.iter().flatten().find(|at| opt_out.keywords.contains(&keyword::words(&at.value)));
    if let Some(at) = both {
        return Err(reader.wrong(
            &at.span,
            "a keyword cannot both opt out and opt in",
            "stands in `keywords` as well",
            "take it out of one of the two",
        ));
    }
    Ok(opt_out)
}

fn keywords(
    reader: &mut Reader<'_>,
    name: &str,
    raw: Option<&Vec<At<String>>>,
) -> Result<Option<Vec<Vec<String>>>, Reported> {
    let Some(raw) = raw else { return Ok(None) };
    raw.iter()
        .map(|at| {
            let words = keyword::words(&at.value);
            if words.is_empty() {
                Err(reader.wrong(
                    &at.span,
                    format!("`{name}` holds something that is no word"),
                    "no letter and no digit",
                    "for example \"STOP\"",
                ))
            } else {
                Ok(words)
            }
        })
        .collect::<Result<Vec<_>, _>>()
        .map(Some)
}

fn number(reader: &mut Reader<'_>, span: &std::ops::Range<usize>, text: &str) -> Result<String, Reported> {
    if (3..=15).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(text.to_owned());
    }
    Err(reader.wrong(
        span,
        "this is not a number that people write to",
        "must be 3 to 15 digits",
        "as it stands in sms.inbox.recipient, for example \"50123\"",
    ))
}

pub(super) fn inbox(reader: &mut Reader<'_>, raw: &RawInbox, text: &RawText) -> Result<Inbox, Reported> {
    let mut app_of_number = BTreeMap::new();
    for (to, app) in raw.app_of_number.iter().flatten() {
        let to = number(reader, &app.span, to)?;
        app_of_number.insert(to, role(reader, app)?);
    }
    let default_app = raw.default_app.as_ref().map(|at| role(reader, at)).transpose()?;
    let auto_reply_pause =
        reader.duration("auto_reply_pause", &raw.auto_reply_pause, HOUR, LEAST_PAUSE..=MOST_PAUSE);
    let auto_reply = auto_reply(reader, raw, text)?;
    Ok(Inbox { default_app, app_of_number, auto_reply, auto_reply_pause })
}

fn auto_reply(
    reader: &mut Reader<'_>,
    raw: &RawInbox,
    text: &RawText,
) -> Result<BTreeMap<String, String>, Reported> {
    let mut templates = BTreeMap::new();
    for (word, template) in raw.auto_reply.iter().flatten() {
        let words = keyword::words(word);
        let [only] = words.as_slice() else {
            return Err(reader.wrong(
                &template.span,
                format!("the keyword {word:?} is not one word"),
                "the answer to it",
                "it is compared with the first word of a message, for example INFO",
            ));
        };
        if template.value.trim().is_empty() || template.value.contains(char::is_control) {
            return Err(reader.wrong(
                &template.span,
                "this is not the name of a template",
                "names none",
                "as it stands in sms.template.name",
            ));
        }
        if templates.insert(only.clone(), template.value.trim().to_owned()).is_some() {
            return Err(reader.wrong(
                &template.span,
                format!("the keyword {only} has two answers"),
                "capitals make no difference",
                "keep one of them",
            ));
        }
    }
    if let Some(template) = raw.auto_reply.iter().flatten().map(|(_, template)| template).next()
        && text.default_sender.is_none()
    {
        return Err(reader.wrong(
            &template.span,
            "automatic replies need a sender",
            "who would send this?",
            "set `default_sender` in [text]",
        ));
    }
    Ok(templates)
}

fn role(reader: &mut Reader<'_>, at: &At<String>) -> Result<String, Reported> {
    if (1..=63).contains(&at.value.len()) && !at.value.contains(char::is_control) {
        return Ok(at.value.clone());
    }
    Err(reader.wrong(
        &at.span,
        "this is not the name of a database role",
        "must have 1 to 63 bytes",
        "the role that the application logs in as, as in the column `app` of its messages",
    ))
}
