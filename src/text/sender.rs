//! Sender IDs: what the handset shows as the origin of a message.
//!
//! The strictest of the gateways' rules, so that a sender that passes here is refused nowhere for its form. Whether it
//! is registered for the account only the gateway knows.

use crate::message::Refusal;
use crate::text::{code, shown_char};

/// Eleven 7-bit characters fit into the address field of a message.
const MAX_NAME: usize = 11;
const MAX_DIGITS: usize = 15;
const MIN_DIGITS: usize = 3;

/// The row's sender, or else the default. White space around it is forgiven, since fixed-width columns pad theirs, and
/// what is empty then counts as not given.
pub fn choose<'a>(row: Option<&'a str>, default: Option<&'a str>) -> Result<&'a str, Refusal> {
    let given = |sender: Option<&'a str>| sender.map(str::trim).filter(|sender| !sender.is_empty());
    let sender = given(row).or_else(|| given(default)).ok_or_else(|| {
        Refusal::new(
            code::NO_SENDER,
            "the row names no sender and the configuration has no default; fill the sender column or set \
             text.default_sender",
        )
    })?;
    check(sender)?;
    Ok(sender)
}

/// Accepts a name of 1 to 11 letters, digits, `.`, `-`, `_` and `&` with at least one letter, or a number of 3 to 15
/// digits that may have a `+` before it.
pub fn check(sender: &str) -> Result<(), Refusal> {
    let digits = sender.strip_prefix('+').unwrap_or(sender);
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return match digits.len() {
            MIN_DIGITS..=MAX_DIGITS => Ok(()),
            len => Err(bad(format!(
                "sender has {len} digits; a numeric sender has {MIN_DIGITS} to {MAX_DIGITS}"
            ))),
        };
    }
    let wrong = sender.chars().enumerate().find(|(_, c)| !is_sender_char(*c));
    if let Some((at, c)) = wrong {
        return Err(bad(format!(
            "sender has {} at position {}; a sender name has letters A to Z, digits, '.', '-', '_' and '&' only, and \
             no spaces",
            shown_char(c),
            at + 1
        )));
    }
    if sender.len() > MAX_NAME {
        return Err(bad(format!(
            "sender has {} characters; a sender name has at most {MAX_NAME}",
            sender.len()
        )));
    }
    if !sender.bytes().any(|b| b.is_ascii_alphabetic()) {
        return Err(bad("sender has no letter and is no number".to_owned()));
    }
    Ok(())
}

const fn is_sender_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '&')
}

fn bad(reason: String) -> Refusal {
    Refusal::new(code::BAD_SENDER, reason)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, proptest};

    use super::{check, choose};
    use crate::text::{code, gsm};

    #[test]
    fn names_and_numbers_are_accepted() {
        for sender in [
            "A",
            "Clinic",
            "ABCDEFGHIJK",
            "B-and-B_1.0",
            "M&S",
            "3Ireland",
            "50123",
            "353871234567",
            "+353871234567",
        ] {
            assert_eq!(check(sender), Ok(()), "{sender}");
        }
    }

    #[test]
    fn everything_else_is_refused_with_its_cause() {
        for (sender, part) in [
            ("ABCDEFGHIJKL", "12 characters"),
            ("My Clinic", "U+0020 at position 3"),
            ("Café", "'é' (U+00E9) at position 4"),
            ("Сlinic", "'С' (U+0421) at position 1"),
            ("a\0", "U+0000"),
            ("a\nb", "U+000A"),
            ("1234567890123456", "16 digits"),
            ("12", "2 digits"),
            ("+", "'+' at position 1"),
            ("+353 87", "'+' at position 1"),
            ("1-2", "no letter"),
            ("&", "no letter"),
            ("A😀", "U+1F600"),
            ("", "no letter"),
        ] {
            let refusal = check(sender).unwrap_err();
            assert_eq!(refusal.code, code::BAD_SENDER);
            assert!(refusal.reason.contains(part), "{sender:?}: {}", refusal.reason);
        }
    }

    #[test]
    fn the_rows_sender_comes_before_the_default() {
        assert_eq!(choose(Some("Row"), Some("Default")), Ok("Row"));
        assert_eq!(choose(Some("Row       "), None), Ok("Row"));
        assert_eq!(choose(None, Some("Default")), Ok("Default"));
        assert_eq!(choose(Some("  "), Some("Default")), Ok("Default"));
        for (row, default) in [(None, None), (Some(""), None), (Some(" "), Some(""))] {
            assert_eq!(choose(row, default).unwrap_err().code, code::NO_SENDER);
        }
        assert_eq!(choose(Some("bad sender"), Some("Default")).unwrap_err().code, code::BAD_SENDER);
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_short_and_in_the_gsm_alphabet(sender in "[A-Za-z0-9.&_+é -]{0,16}") {
            if check(&sender).is_ok() {
                prop_assert!(sender.len() <= 16 && !sender.is_empty());
                prop_assert!(gsm::septets(&sender) == Some(sender.len()));
            }
        }
    }
}
