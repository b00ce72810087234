//! Phone numbers: from what people write to the international digits that gateways take.
//!
//! A number that can be read in two ways is refused: a message to a stranger is worse than one that fails. It knows no
//! numbering plans (they change, and short codes are in none), so a number that passes may still not exist. A reason
//! names the character or the count that is wrong, and never the number.

use std::borrow::Cow;

use crate::message::Refusal;
use crate::text::{code, shown_char};

/// E.164 allows 15 digits; no country has complete numbers of fewer than 7.
const MIN_DIGITS: usize = 7;
const MAX_DIGITS: usize = 15;

/// Country codes have one to three digits.
const MAX_COUNTRY_DIGITS: usize = 3;

/// Characters with all decoration; longer input is no phone number and is not looked at.
const MAX_INPUT: usize = 80;

/// Digits that a foreign number needs to pass with neither `+` nor `00`: see [`plausible_bare`].
const MIN_BARE_DIGITS: usize = 10;

/// How national numbers are read.
#[derive(Debug, Clone, Copy)]
pub struct NumberPlan<'a> {
    /// Digits put before a national number, such as `353`.
    pub country: Option<&'a str>,
    /// Digits that open a national number and fall away, usually `0`. Empty where national numbers have none: then
    /// only international ones are accepted.
    pub trunk: &'a str,
}

/// International digits without `+`: 7 to 15, the first not 0.
pub fn normalise(input: &str, plan: NumberPlan<'_>) -> Result<String, Refusal> {
    let written = read(input)?;
    let digits = international(&written, plan)?;
    if digits.starts_with('0') {
        return Err(bad("recipient has a 0 where its country code should start".to_owned()));
    }
    match digits.len() {
        len if len < MIN_DIGITS => Err(bad(format!(
            "recipient is too short: {len} digits with its country code, at least {MIN_DIGITS} are needed"
        ))),
        len if len > MAX_DIGITS => Err(bad(format!(
            "recipient is too long: {len} digits with its country code, at most {MAX_DIGITS} are allowed; \
             each row takes one number"
        ))),
        _ => Ok(digits),
    }
}

/// A number without its decoration.
struct Written {
    plus: bool,
    digits: String,
    /// Where a group of digits in parentheses stands, as in `+353 (0)87`: its start and end in `digits`.
    group: Option<(usize, usize)>,
}

fn read(input: &str) -> Result<Written, Refusal> {
    if input.chars().nth(MAX_INPUT).is_some() {
        return Err(bad(format!(
            "recipient is longer than {MAX_INPUT} characters, which no phone number is"
        )));
    }
    let mut written = Written { plus: false, digits: String::with_capacity(MAX_INPUT), group: None };
    let mut open = None;
    let mut dots = Vec::new();
    let mut slash = None;
    // Line breaks and tabs are forgiven at the ends only: inside they part two numbers.
    for (at, c) in input.char_indices().filter(|(_, c)| !is_mark(*c)) {
        if let Some(digit) = digit(c) {
            written.digits.push(digit);
        } else {
            let count = written.digits.len();
            match c {
                '+' | '＋' if count == 0 && !written.plus => written.plus = true,
                '+' | '＋' => return Err(bad("recipient has a '+' that is not at its start".to_owned())),
                '(' | '（' if open.is_none() => open = Some(count),
                ')' | '）' if open.is_some() => {
                    written.group = written.group.or(open.map(|start| (start, count)));
                    open = None;
                }
                '.' => dots.push(count),
                '/' => slash = Some(count),
                _ if is_space(c) || is_dash(c) => {}
                _ if c.is_whitespace() && (is_blank(&input[..at]) || is_blank(&input[at..])) => {}
                _ => return Err(bad_character(&input[..at], c)),
            }
        }
    }
    if written.digits.is_empty() {
        return Err(bad("recipient is empty: it holds no digits".to_owned()));
    }
    refuse_decimals(&written.digits, &dots)?;
    if slash.is_some_and(|at| written.digits.len() - at < 4) {
        return Err(bad("recipient has a '/' before its last digits; each row takes one number".to_owned()));
    }
    Ok(written)
}

/// `353871234567.0` is what a number becomes on its way through a floating point column. Without its dot it would be a
/// longer number.
fn refuse_decimals(digits: &str, dots: &[usize]) -> Result<(), Refusal> {
    if let [dot] = dots
        && (1..=3).contains(&(digits.len() - dot))
        && digits[*dot..].bytes().all(|b| b == b'0')
    {
        return Err(bad(
            "recipient ends in '.0', as a number with decimals does; store it as text".to_owned()
        ));
    }
    Ok(())
}

fn international(written: &Written, plan: NumberPlan<'_>) -> Result<String, Refusal> {
    let digits = written.digits.as_str();
    if written.plus {
        return without_trunk(digits, written.group, plan);
    }
    if let Some(rest) = digits.strip_prefix("00") {
        let group = written.group.and_then(|(start, end)| Some((start.checked_sub(2)?, end.checked_sub(2)?)));
        return without_trunk(rest, group, plan);
    }
    if !plan.trunk.is_empty() && digits.starts_with(plan.trunk) {
        return national(&digits[plan.trunk.len()..], plan);
    }
    if digits.starts_with('0') {
        return Err(bad(
            "recipient starts with 0, and no national numbers are configured to; write it with '+' and its country \
             code"
                .to_owned(),
        ));
    }
    if let Some(country) = plan.country
        && !digits.starts_with(country)
        && !plausible_bare(digits, country)
    {
        return Err(bad(format!(
            "recipient has {} digits and begins neither with '+' or 00, nor with the national prefix, nor with the \
             configured country; if a leading 0 was lost, store the number as text, and if it is abroad, write '+'",
            digits.len()
        )));
    }
    without_trunk(digits, written.group, plan)
}

/// Whether digits with no prefix can be meant for another country.
///
/// Spreadsheets drop the leading zero of a national number, and what is left is somebody's number elsewhere: `861234567`
/// is Irish without its zero, and Chinese with a `+`. An Irish or French one has nine digits then. A British one has ten
/// and starts with 7, but numbers of the two countries with a code of one digit (1 and 7) always have eleven. An
/// American one never had a prefix to lose: ten digits there are national to everybody who writes them.
fn plausible_bare(digits: &str, country: &str) -> bool {
    match digits.len() {
        len if len < MIN_BARE_DIGITS => false,
        10 => !digits.starts_with(['1', '7']) && country != "1",
        _ => true,
    }
}

fn national(rest: &str, plan: NumberPlan<'_>) -> Result<String, Refusal> {
    let Some(country) = plan.country else {
        return Err(bad(
            "recipient is a national number and no default country is configured; write it with '+' and its country \
             code, or set text.default_country"
                .to_owned(),
        ));
    };
    if rest.starts_with('0') {
        return Err(bad("recipient has one leading 0 too many".to_owned()));
    }
    Ok(format!("{country}{rest}"))
}

/// Drops the national prefix that people leave in an international number: `+353 (0)87…`, `+353 087…`, or both.
///
/// The first is understood for every country, because the parentheses say what is meant; the second only for our own,
/// since Italian numbers keep their 0.
fn without_trunk(
    digits: &str,
    group: Option<(usize, usize)>,
    plan: NumberPlan<'_>,
) -> Result<String, Refusal> {
    let mut digits = Cow::Borrowed(digits);
    if let Some((start, end)) = group
        && start > 0
        && digits.get(start..end) == Some("0")
    {
        if start > MAX_COUNTRY_DIGITS {
            return Err(bad("recipient has a (0) that does not follow a country code".to_owned()));
        }
        digits = Cow::Owned(format!("{}{}", &digits[..start], &digits[end..]));
    }
    if let Some(country) = plan.country
        && plan.trunk.starts_with('0')
        && let Some(rest) = digits.strip_prefix(country).and_then(|rest| rest.strip_prefix(plan.trunk))
    {
        return national(rest, plan);
    }
    Ok(digits.into_owned())
}

/// ASCII digits, and those of full-width and Arabic keyboards, which mean the same.
fn digit(c: char) -> Option<char> {
    let zero = match c {
        '0'..='9' => return Some(c),
        '\u{0660}'..='\u{0669}' => 0x0660,
        '\u{06f0}'..='\u{06f9}' => 0x06f0,
        '\u{ff10}'..='\u{ff19}' => 0xff10,
        _ => return None,
    };
    char::from_digit(u32::from(c) - zero, 10)
}

/// Invisible characters that come with numbers pasted from address books and web pages.
const fn is_mark(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'
        | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn is_blank(text: &str) -> bool {
    text.chars().all(|c| c.is_whitespace() || is_mark(c))
}

const fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\u{a0}' | '\u{1680}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}')
}

const fn is_dash(c: char) -> bool {
    matches!(c, '-' | '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{fe58}' | '\u{fe63}' | '\u{ff0d}')
}

fn bad_character(before: &str, c: char) -> Refusal {
    bad(format!(
        "recipient has {} at position {}, which is not part of a phone number; each row takes one number",
        shown_char(c),
        before.chars().count() + 1
    ))
}

fn bad(reason: String) -> Refusal {
    Refusal::new(code::BAD_NUMBER, reason)
}

#[cfg(test)]
mod tests;
