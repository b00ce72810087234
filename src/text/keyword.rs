//! What people write to be left alone, and to be written to again.
//!
//! In doubt nothing is sent: a message that *begins* with an opt-out keyword opts out, while one that opts in must be
//! nothing but its keyword.

use crate::config::OptOut;

/// Further words say nothing about the first ones.
const MOST_WORDS: usize = 8;
/// A keyword is shown in a column; a "word" that is longer is no word.
const MOST_CHARS: usize = 40;

/// What a message from a handset does beside being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    OptOut,
    OptIn,
}

impl Effect {
    pub const fn as_str(self) -> &'static str {
        match self {
            Effect::OptOut => "opt_out",
            Effect::OptIn => "opt_in",
        }
    }
}

/// The first words in capitals, without the marks around them: `"Stop!" please` is STOP, PLEASE.
pub fn words(text: &str) -> Vec<String> {
    text.split_whitespace()
        .map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()))
        .filter(|word| !word.is_empty())
        .take(MOST_WORDS)
        .map(|word| word.chars().take(MOST_CHARS).collect::<String>().to_uppercase())
        .collect()
}

/// What a text that was sent to this number says about further messages.
pub fn effect(text: &str, recipient: &str, settings: &OptOut) -> Option<Effect> {
    let words = words(text);
    let opens = |keywords: &[Vec<String>]| keywords.iter().any(|keyword| words.starts_with(keyword));
    if settings.opt_in_keywords.contains(&words) {
        Some(Effect::OptIn)
    } else if opens(&settings.keywords) || settings.numbers.iter().any(|number| number == recipient) {
        Some(Effect::OptOut)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, proptest};

    use super::{Effect, effect, words};
    use crate::config::OptOut;

    #[test]
    fn whoever_wants_no_messages_may_say_so_in_many_ways() {
        let settings = OptOut::default();
        for text in [
            "STOP",
            "stop",
            "Stop.",
            " \"stop\" ",
            "STOP ALL",
            "stop please!",
            "\nStop",
            "OPTOUT",
            "Opt out",
            "opt-out",
            "unsubscribe",
            "STOP START",
        ] {
            assert_eq!(effect(text, "353861000000", &settings), Some(Effect::OptOut), "{text:?}");
        }
        for text in
            ["", "   ", "?!", "Yes", "Please stop", "STOPPED", "stopwatch", "start time?", "opt", "ST OP"]
        {
            assert_eq!(effect(text, "353861000000", &settings), None, "{text:?}");
        }
        for text in ["start", "START!", "opt in", "Unstop"] {
            assert_eq!(effect(text, "353861000000", &settings), Some(Effect::OptIn), "{text:?}");
        }
    }

    #[test]
    fn the_number_for_opt_outs_takes_everything_as_one_but_an_opt_in() {
        let settings = OptOut::default();
        assert_eq!(effect("", "50123", &settings), Some(Effect::OptOut));
        assert_eq!(effect("no more", "50123", &settings), Some(Effect::OptOut));
        assert_eq!(effect("START", "50123", &settings), Some(Effect::OptIn));
        assert_eq!(effect("no more", "51000", &settings), None);
    }

    proptest! {
        #[test]
        fn words_are_few_and_short_whatever_was_written(text in any_text()) {
            let found = words(&text);
            prop_assert!(found.len() <= 8);
            // An uppercase letter may take three characters (ŉ, ΐ).
            prop_assert!(found.iter().all(|word| !word.is_empty() && word.chars().count() <= 120));
        }
    }

    fn any_text() -> impl proptest::strategy::Strategy<Value = String> {
        proptest::prelude::any::<String>()
    }
}
