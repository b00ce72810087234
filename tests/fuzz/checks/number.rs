//! Phone numbers and sender IDs as people write them: digits of a legal length that were all written there, or a refusal
//! that does not repeat the number.

use outboxd::message::Refusal;
use outboxd::text::code;
use outboxd::text::gsm;
use outboxd::text::msisdn::{NumberPlan, normalise};
use outboxd::text::sender;

use super::case::Fields;

pub fn check(input: &[u8]) {
    let fields = Fields::read(input);
    let country: String = digits(fields.text("country")).trim_start_matches('0').chars().take(3).collect();
    let trunk: String = digits(fields.text("trunk")).chars().take(3).collect();
    let country = Some(country.as_str()).filter(|country| !country.is_empty());
    let written = fields.text("number");
    for plan in [NumberPlan { country, trunk: &trunk }, NumberPlan { country: None, trunk: "0" }] {
        number(written, plan);
    }
    sender_id(fields.get("sender"), fields.get("default"));
}

fn number(written: &str, plan: NumberPlan<'_>) {
    let read = normalise(written, plan);
    assert_eq!(read, normalise(written, plan));
    let number = match read {
        Ok(number) => number,
        Err(refusal) => {
            assert_eq!(refusal.code, code::BAD_NUMBER);
            return modest(&refusal);
        }
    };
    assert!((7..=15).contains(&number.len()), "{number}");
    assert!(number.bytes().all(|b| b.is_ascii_digit()) && !number.starts_with('0'), "{number}");
    // Nothing is made up: each digit stood there, in this order, but for a country code that was put before them.
    let there = digits(written);
    let own = plan.country.and_then(|country| number.strip_prefix(country));
    let is_there = |number: &str| is_subsequence(number, &there);
    assert!(is_there(&number) || own.is_some_and(is_there), "{number} out of {written:?}");
    // At most a prefix and one 0 in parentheses fall away.
    assert!(there.len() <= number.len() + 2 + plan.trunk.len().max(1), "{number} out of {written:?}");
    // Written in full, it is itself.
    let full = format!("+{number}");
    let again = normalise(&full, plan);
    assert_eq!(again.as_deref(), Ok(number.as_str()), "{full} in {plan:?}");
    // Decoration changes nothing, short of what no number needs.
    if written.chars().count() > 70 {
        return;
    }
    assert_eq!(normalise(&format!(" \u{200e}{written}\r\n"), plan), Ok(number));
}

fn sender_id(row: Option<&str>, default: Option<&str>) {
    match sender::choose(row, default) {
        Ok(chosen) => {
            let given = |text: Option<&str>| text.is_some_and(|text| text.trim() == chosen);
            assert!(given(row) || given(default), "{chosen}");
            assert_eq!(sender::check(chosen), Ok(()));
            assert_eq!(gsm::septets(chosen), Some(chosen.len()), "{chosen}: one septet each");
            let number = chosen.trim_start_matches('+');
            if number.bytes().all(|b| b.is_ascii_digit()) {
                assert!((3..=15).contains(&number.len()), "{chosen}");
            } else {
                assert!((1..=11).contains(&chosen.len()), "{chosen}");
            }
        }
        Err(refusal) => {
            assert!(matches!(refusal.code, code::BAD_SENDER | code::NO_SENDER));
            modest(&refusal);
        }
    }
}

/// Says what is wrong in a sentence, and nothing that looks like a number.
fn modest(refusal: &Refusal) {
    let reason = &refusal.reason;
    assert!(!reason.is_empty() && reason.chars().count() <= 300, "{reason}");
    assert!(!reason.contains(char::is_control), "{reason:?}");
    let longest = reason.split(|c: char| !c.is_numeric()).map(|run| run.chars().count()).max();
    assert!(longest.unwrap_or(0) < 7, "{reason}");
}

/// The digits in a text, those of other scripts that keyboards write as well.
fn digits(text: &str) -> String {
    let value = |c: char| {
        let zero = match c {
            '0'..='9' => '0',
            '\u{0660}'..='\u{0669}' => '\u{0660}',
            '\u{06f0}'..='\u{06f9}' => '\u{06f0}',
            '\u{ff10}'..='\u{ff19}' => '\u{ff10}',
            _ => return None,
        };
        char::from_digit(u32::from(c) - u32::from(zero), 10)
    };
    text.chars().filter_map(value).collect()
}

fn is_subsequence(part: &str, whole: &str) -> bool {
    let mut rest = whole.chars();
    part.chars().all(|wanted| rest.any(|found| found == wanted))
}
