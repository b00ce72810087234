//! A gateway's own words, made fit for a row and a log: one line, short, without numbers, and without anything that it
//! was told in confidence and repeats.
//!
//! What is private is looked for before anything else is done to the words: once masked and cut they would hide it from
//! the search, and not from people.

use std::borrow::Cow;

use crate::config::Secret;
use crate::gateway::auth::Auth;
use crate::gateway::http_template::base64;
use crate::message::mask_msisdn;

/// Characters that are kept.
const QUOTE_CHARS: usize = 160;
/// So much of a text is looked at for something to keep; what comes later is beyond the cut, whatever was masked.
const SHOWN_CHARS: usize = 4 * QUOTE_CHARS;
/// So many digits in a row are taken for somebody's number.
const NUMBER_DIGITS: usize = 7;
/// So many digits in a row, if they stand in the message as well, are taken for its code.
const CODE_DIGITS: usize = 4;
/// The beginning of a message shows by so many characters that it is repeated, a piece of its middle by so many.
const ECHO_CHARS: usize = 8;
const ECHO_PIECE_CHARS: usize = 16;
/// So many characters of a secret at the very end are the rest of one that was cut off.
const SECRET_PIECE_CHARS: usize = 6;
const LEFT_OUT: &str = "[left out]";

/// What a gateway was sent and must not bring into a row or a log.
#[derive(Clone, Copy, Default)]
pub(super) struct Private<'a> {
    pub(super) secrets: &'a [Secret],
    /// Where it was given tokens.
    pub(super) auth: Option<&'a Auth>,
    /// The message's text.
    pub(super) text: &'a str,
}

/// The words of somebody who was told nothing.
pub(super) fn quote(said: &str) -> String {
    Private::default().quote(said)
}

impl Private<'_> {
    pub(super) fn quote(&self, said: &str) -> String {
        let line = one_line(said);
        let end = self.first_in(&line);
        let shown = line.get(..end.unwrap_or(line.len())).unwrap_or_default();
        let mut out = self.masked(shown);
        if end.is_some() {
            out.push_str(LEFT_OUT);
        }
        out
    }

    /// Where the first private thing begins.
    fn first_in(&self, line: &str) -> Option<usize> {
        let tokens = self.auth.map(Auth::recent).unwrap_or_default();
        let tokens = tokens.iter().map(AsRef::as_ref);
        let secrets =
            self.secrets.iter().chain(tokens).map(Secret::expose).filter(|secret| !secret.is_empty());
        let spelled = secrets.flat_map(spellings).filter_map(|spelling| secret_in(line, &spelling)).min();
        spelled.into_iter().chain(self.echo_in(line)).min()
    }

    fn echo_in(&self, line: &str) -> Option<usize> {
        let text = one_line(self.text);
        let beginning = prefix(&text, ECHO_CHARS).and_then(|beginning| line.find(beginning));
        let piece = line
            .char_indices()
            .take(SHOWN_CHARS)
            .find(|(at, _)| prefix(&line[*at..], ECHO_PIECE_CHARS).is_some_and(|piece| text.contains(piece)))
            .map(|(at, _)| at);
        beginning.into_iter().chain(piece).min()
    }

    /// With numbers and codes masked, and cut after 160 characters.
    fn masked(&self, line: &str) -> String {
        let mut out = String::new();
        let mut digits = String::new();
        let mut kept = 0;
        // Masked before it is cut, or a number cut in two would show its first half.
        for c in line.chars().take(SHOWN_CHARS).map(Some).chain(std::iter::once(None)) {
            if let Some(digit) = c.filter(char::is_ascii_digit) {
                digits.push(digit);
                continue;
            }
            let shown = self.masked_digits(&digits);
            kept += shown.chars().count();
            out.push_str(&shown);
            digits.clear();
            if let Some(c) = c {
                out.push(c);
                kept += 1;
            }
            if kept > QUOTE_CHARS {
                out.truncate(out.char_indices().nth(QUOTE_CHARS).map_or(out.len(), |(at, _)| at));
                out.push('…');
                return out;
            }
        }
        out
    }

    fn masked_digits<'d>(&self, digits: &'d str) -> Cow<'d, str> {
        if digits.len() >= CODE_DIGITS && self.text.contains(digits) {
            Cow::Owned("*".repeat(digits.len()))
        } else if digits.len() >= NUMBER_DIGITS {
            Cow::Owned(mask_msisdn(digits))
        } else {
            Cow::Borrowed(digits)
        }
    }
}

/// Where a secret begins, also when its end was cut off.
fn secret_in(line: &str, secret: &str) -> Option<usize> {
    let cut = || {
        let ends = secret.char_indices().map(|(at, _)| at).skip(SECRET_PIECE_CHARS);
        let longest = ends.filter(|end| line.ends_with(&secret[..*end])).last()?;
        Some(line.len() - longest)
    };
    line.find(secret).or_else(cut)
}

/// The ways in which a gateway may write what it was sent: as it is, as JSON, as a form, in base64.
fn spellings(secret: &str) -> impl Iterator<Item = String> {
    let json = serde_json::to_string(secret).unwrap_or_default();
    let form = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let spellings = [secret.to_owned(), json.trim_matches('"').to_owned(), form];
    spellings
        .into_iter()
        .chain(in_base64(secret))
        .map(|spelling| one_line(&spelling))
        .filter(|spelling| !spelling.is_empty())
}

/// How base64 spells the inside of a text depends on where in threes of bytes it begins; what its neighbours share in is
/// left away. Nothing for a secret so short that ordinary words would hold it.
fn in_base64(secret: &str) -> impl Iterator<Item = String> {
    const LEAST_CHARS: usize = 6;
    (0..3).filter_map(move |before| {
        let mut bytes = vec![b'.'; before];
        bytes.extend(secret.as_bytes());
        let whole = bytes.len() / 3 * 3;
        let spelled = base64(bytes.get(..whole)?);
        let inside = spelled.get(if before == 0 { 0 } else { 4 }..)?;
        (inside.len() >= LEAST_CHARS).then(|| inside.to_owned())
    })
}

/// The first `chars` characters, if there are as many.
fn prefix(text: &str, chars: usize) -> Option<&str> {
    let (last, c) = text.char_indices().nth(chars - 1)?;
    text.get(..last + c.len_utf8())
}

/// White space and control characters in a row are one space.
fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for word in text.split(|c: char| c.is_control() || c.is_whitespace()).filter(|word| !word.is_empty()) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, proptest};

    use super::{Private, quote};
    use crate::config::Secret;
    use crate::gateway::http_template::base64;

    #[test]
    fn a_quoted_text_is_one_line_without_numbers() {
        assert_eq!(
            quote("  Invalid\r\n MSISDN\t353871234567, code 12 "),
            "Invalid MSISDN 3538******67, code 12"
        );
        assert_eq!(quote("\u{0}\n"), "");
        assert_eq!(quote(&"a".repeat(160)), "a".repeat(160));
        assert_eq!(quote(&"a".repeat(161)), format!("{}…", "a".repeat(160)));
    }

    #[test]
    fn a_secret_is_left_out_however_it_is_written() {
        let secrets = [Secret::new("p \"w  5551234567")];
        let private = Private { secrets: &secrets, ..Private::default() };
        for echo in ["p \"w  5551234567", "p\t\"w\n5551234567", "p \\\"w  5551234567", "p+%22w++5551234567"] {
            assert_eq!(private.quote(&format!("no user with {echo}, sorry")), "no user with [left out]");
        }
        assert_eq!(private.quote("no user with p \"w 5551"), "no user with [left out]");
        for user in ["", "u:", "me:", "user:"] {
            let pair = base64(format!("{user}p \"w  5551234567").as_bytes());
            let quoted = private.quote(&format!("Authorization: Basic {pair}"));
            assert!(quoted.ends_with("[left out]") && quoted.len() < 42, "{quoted}");
        }
        let late = format!("{}{}", "a ".repeat(75), "p \"w 5551234567");
        assert!(!private.quote(&late).contains("p \""), "a part before the cut");
    }

    #[test]
    fn a_message_is_left_out_wherever_it_is_repeated_from() {
        let private = Private { secrets: &[], auth: None, text: "Dear Mary,\nyour code is 482913 today" };
        for (said, quoted) in [
            ("refused: Dear Mary, you", "refused: [left out]"),
            ("not allowed: 'r code is 482913 today'", "not allowed: '[left out]"),
            ("bad word 482913", "bad word ******"),
            ("bad word 4829", "bad word ****"),
            ("error 913 near Mary", "error 913 near Mary"),
            ("error 4012", "error 4012"),
        ] {
            assert_eq!(private.quote(said), quoted);
        }
    }

    proptest! {
        #[test]
        fn a_quoted_text_is_short_and_shows_no_long_number(text in any::<String>(), number in "[0-9]{10,400}") {
            let quoted = quote(&format!("{text}{number}{text}"));
            prop_assert!(quoted.chars().count() <= 161);
            prop_assert!(!quoted.chars().any(char::is_control));
            let longest = quoted.split(|c: char| !c.is_ascii_digit()).map(str::len).max();
            prop_assert!(longest.unwrap_or(0) < 7, "{}", quoted);
        }

        #[test]
        fn no_piece_of_a_message_is_quoted(text in "[a-z ]{20,60}", before in "[A-Z ]{0,200}", from in 0_usize..20) {
            let private = Private { secrets: &[], auth: None, text: &text };
            let piece = &text[from..];
            let quoted = private.quote(&format!("{before}{piece}"));
            prop_assert!(quoted.chars().filter(char::is_ascii_lowercase).count() < 24, "{}", quoted);
        }
    }
}
