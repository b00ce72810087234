//! From a row's words to what a handset shows: numbers, sender names, templates, alphabets, segments.
//!
//! Pure: no clock, no table, no log. Every refusal made here ends in the row's `error_code` and `error`, where the
//! author of the row reads it and where a log may repeat it. So a reason never quotes a body, a parameter's value or a
//! phone number; what it quotes goes through `shown` or `shown_char`.

pub mod gsm;
pub mod keyword;
pub mod msisdn;
pub mod segments;
pub mod sender;
pub mod template;
pub mod transliterate;

/// The codes that stand in `error_code` when a row cannot be made into a message.
///
/// They are public: applications compare with them. A code is never renamed and never gets a second meaning.
pub mod code {
    /// `recipient` is missing, or is not a phone number that can be read in one way only.
    pub const BAD_NUMBER: &str = "bad_number";
    /// `sender` is neither a name of up to 11 characters nor a number.
    pub const BAD_SENDER: &str = "bad_sender";
    /// The row names no sender and the configuration has no default.
    pub const NO_SENDER: &str = "no_sender";
    /// Neither `body` nor `template` is given.
    pub const NO_TEXT: &str = "no_text";
    /// Both `body` and `template` are given.
    pub const BODY_AND_TEMPLATE: &str = "body_and_template";
    /// The text is there, and has nothing in it but white space.
    pub const EMPTY_TEXT: &str = "empty_text";
    /// The text holds a character that cannot be sent.
    pub const BAD_TEXT: &str = "bad_text";
    /// The text needs more segments than the configuration allows, or more bytes than anything sensible needs.
    pub const TOO_LONG: &str = "too_long";
    /// There is no template of that name, or none in a language that would do.
    pub const UNKNOWN_TEMPLATE: &str = "unknown_template";
    /// The template itself is wrong: whoever wrote it must correct it.
    pub const BAD_TEMPLATE: &str = "bad_template";
    /// The template needs a parameter that `params` does not have (or has as null), and gives no default.
    pub const MISSING_PARAMETER: &str = "missing_parameter";
    /// `params` is not a JSON object of texts, numbers and booleans.
    pub const BAD_PARAMETERS: &str = "bad_parameters";
    /// The recipient wants no messages.
    pub const OPTED_OUT: &str = "opted_out";

    /// All of them, for documentation and tests.
    pub const ALL: [&str; 13] = [
        BAD_NUMBER,
        BAD_SENDER,
        NO_SENDER,
        NO_TEXT,
        BODY_AND_TEMPLATE,
        EMPTY_TEXT,
        BAD_TEXT,
        TOO_LONG,
        UNKNOWN_TEMPLATE,
        BAD_TEMPLATE,
        MISSING_PARAMETER,
        BAD_PARAMETERS,
        OPTED_OUT,
    ];
}

/// Longest quotation of a name in an error.
const SHOWN_CHARS: usize = 40;

/// So many digits may be a phone number.
const TELLING_DIGITS: usize = 7;

/// A name from a row or a template, safe to put into an error.
///
/// Columns get mixed up: a number or a whole body may stand where a name was meant. So only the first word is shown,
/// cut at 40 characters, and digits are hidden where there are enough of them to be a phone number.
pub(crate) fn shown(name: &str) -> String {
    let name = name.trim();
    let word = name.split(|c: char| c.is_whitespace() || c.is_control()).next().unwrap_or_default();
    let hide_digits = word.chars().filter(|c| c.is_numeric()).count() >= TELLING_DIGITS;
    let mut text = String::with_capacity(SHOWN_CHARS + 8);
    text.push('\'');
    text.extend(word.chars().take(SHOWN_CHARS).map(|c| if hide_digits && c.is_numeric() { '*' } else { c }));
    if word.len() < name.len() || word.chars().nth(SHOWN_CHARS).is_some() {
        text.push('…');
    }
    text.push('\'');
    text
}

/// One character, with its code point where the eye could be deceived.
pub(crate) fn shown_char(c: char) -> String {
    if c.is_ascii_graphic() {
        format!("'{c}'")
    } else if c.is_alphanumeric() {
        format!("'{c}' (U+{:04X})", u32::from(c))
    } else {
        format!("U+{:04X}", u32::from(c))
    }
}

#[cfg(test)]
mod tests {
    use super::{code, shown, shown_char};

    #[test]
    fn every_code_is_listed_once_and_looks_like_one() {
        for (at, code) in code::ALL.iter().enumerate() {
            assert!(code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{code}");
            assert!(!code::ALL[at + 1..].contains(code), "{code} is there twice");
        }
    }

    #[test]
    fn a_quoted_name_shows_neither_numbers_nor_sentences() {
        assert_eq!(shown("order_ready"), "'order_ready'");
        assert_eq!(shown("v2"), "'v2'");
        assert_eq!(shown("353871234567"), "'************'");
        assert_eq!(shown("087-123-4567"), "'***-***-****'");
        assert_eq!(shown("Dear Mary, your result is in"), "'Dear…'");
        assert_eq!(shown(&"a".repeat(41)), format!("'{}…'", "a".repeat(40)));
        assert_eq!(shown("  "), "''");
    }

    #[test]
    fn a_quoted_character_cannot_be_mistaken_for_another() {
        assert_eq!(shown_char('x'), "'x'");
        assert_eq!(shown_char('о'), "'о' (U+043E)");
        assert_eq!(shown_char('\u{200b}'), "U+200B");
        assert_eq!(shown_char('\n'), "U+000A");
    }
}
