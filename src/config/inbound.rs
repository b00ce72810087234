//! `[inbox]` and `[opt_out]`: whose the replies are, and what makes a reply an opt-out.

use std::collections::BTreeMap;

use super::raw::{At, RawInbox, RawOptOut};
use super::reader::{Reader, Reported};
use super::{Inbox, OptOut};
use crate::message::Lane;
use crate::text::keyword;

/// What InteractSMS names, and what people write all the same.
const KEYWORDS: [&str; 6] = ["STOP", "STOPALL", "OPTOUT", "OPT OUT", "OPT-OUT", "UNSUBSCRIBE"];
const OPT_IN_KEYWORDS: [&str; 5] = ["START", "UNSTOP", "OPTIN", "OPT IN", "OPT-IN"];
/// The short code that all customers of InteractSMS share; only opt-outs arrive there.
const SHARED_NUMBER: &str = "50123";

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

pub(super) fn inbox(reader: &mut Reader<'_>, raw: &RawInbox) -> Result<Inbox, Reported> {
    let mut app_of_number = BTreeMap::new();
    for (to, app) in raw.app_of_number.iter().flatten() {
        let to = number(reader, &app.span, to)?;
        app_of_number.insert(to, role(reader, app)?);
    }
    let default_app = raw.default_app.as_ref().map(|at| role(reader, at)).transpose()?;
    Ok(Inbox { default_app, app_of_number })
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
