//! Value templates of the `http` dialect: literal text with `{placeholders}`, read once and filled in per message.
//!
//! Pure. A template never decides where a request goes: it fills queries, fields and JSON leaves, each written in
//! its own encoding by the caller. Templates may hold credentials, so `Debug` shows nothing.

use std::borrow::Cow;
use std::fmt;

use crate::message::{Encoding, Outgoing};

/// `{{` and `}}` stand for the braces themselves.
#[derive(Clone)]
pub(super) struct Template(Vec<Piece>);

#[derive(Clone)]
enum Piece {
    Literal(String),
    Recipient,
    Text,
    Sender,
    Ref,
    Id,
    Encoding,
    /// One word for GSM 03.38 and another for UCS-2: Kannel's `coding` wants 0 and 2.
    EncodingWord {
        gsm7: String,
        ucs2: String,
    },
    Segments,
}

impl Template {
    pub(super) fn parse(text: &str) -> Result<Template, String> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                literal.push_str(brace);
                rest = after;
                continue;
            }
            let Some((name, after)) = rest.split_once('}').filter(|_| brace == "{") else {
                return Err("a single brace must be doubled: {{ or }}".to_owned());
            };
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            }
            pieces.push(Piece::parse(name)?);
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Template(pieces))
    }

    /// The text, if no message fills in anything.
    pub(super) fn literal(&self) -> Option<&str> {
        match self.0.as_slice() {
            [Piece::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// Hands over the parts in order, each with whether it was literal.
    pub(super) fn fill<'a>(&'a self, values: Values<'a>, mut part: impl FnMut(&str, bool)) {
        for piece in &self.0 {
            match piece {
                Piece::Literal(text) => part(text, true),
                filled => part(&values.of(filled), false),
            }
        }
    }

    pub(super) fn filled<'a>(&'a self, values: Values<'a>) -> Cow<'a, str> {
        if let [only] = self.0.as_slice() {
            return values.of(only);
        }
        let mut out = String::new();
        self.fill(values, |text, _| out.push_str(text));
        Cow::Owned(out)
    }
}

impl Piece {
    fn parse(name: &str) -> Result<Piece, String> {
        Ok(match name {
            "recipient" => Piece::Recipient,
            "text" => Piece::Text,
            "sender" => Piece::Sender,
            "ref" => Piece::Ref,
            "id" => Piece::Id,
            "encoding" => Piece::Encoding,
            "segments" => Piece::Segments,
            other => match other.strip_prefix("encoding:").and_then(|words| words.split_once('|')) {
                Some((gsm7, ucs2)) => Piece::EncodingWord { gsm7: gsm7.to_owned(), ucs2: ucs2.to_owned() },
                // The name may be a piece of a password with a brace in it, so it is not repeated.
                None => {
                    return Err("unknown placeholder; known are {recipient}, {text}, {sender}, {ref}, {id}, \
                                {encoding}, {encoding:A|B} and {segments}; a literal brace is written {{ or }}"
                        .to_owned());
                }
            },
        })
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Template")
    }
}

/// What the placeholders stand for.
#[derive(Clone, Copy)]
pub(super) struct Values<'a> {
    pub(super) message: &'a Outgoing,
    /// Put `+` before the number.
    pub(super) plus: bool,
}

impl<'a> Values<'a> {
    fn of(self, piece: &'a Piece) -> Cow<'a, str> {
        let message = self.message;
        Cow::Borrowed(match piece {
            Piece::Literal(text) => text,
            Piece::Recipient if self.plus => return Cow::Owned(format!("+{}", message.recipient)),
            Piece::Recipient => &message.recipient,
            Piece::Text => &message.text,
            Piece::Sender => &message.sender,
            Piece::Ref => &message.gateway_ref,
            Piece::Id => return Cow::Owned(message.id.to_string()),
            Piece::Segments => return Cow::Owned(message.segments.to_string()),
            Piece::Encoding => message.encoding.as_str(),
            Piece::EncodingWord { gsm7, ucs2 } => match message.encoding {
                Encoding::Gsm7 => gsm7,
                Encoding::Ucs2 => ucs2,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::{Template, Values};
    use crate::gateway::outgoing_for_tests;

    fn filled(template: &str, text: &str) -> String {
        let message = outgoing_for_tests(text);
        Template::parse(template).unwrap().filled(Values { message: &message, plus: true }).into_owned()
    }

    #[test]
    fn placeholders_are_filled_in_and_doubled_braces_stay() {
        assert_eq!(filled("{{{recipient}}} {text}!", "hi"), "{+353871234567} hi!");
        assert_eq!(filled("{id} {ref} {sender} {encoding}", ""), "1 1-00000000-1 Clinic gsm7");
        assert_eq!(filled("{encoding:0|2} {segments} {ref}", ""), "0 1 1-00000000-1");
        assert_eq!(filled("", "hi"), "");
        assert_eq!(filled("{text}", "{sender}"), "{sender}", "a text is never a template");
    }

    #[test]
    fn unknown_placeholders_and_single_braces_are_errors_that_repeat_nothing() {
        for text in ["{recipent}", "{", "}", "a{b", "a}b", "{}", "{ text }", "{encoding:0}", "s3cret{x}"] {
            let error = Template::parse(text).unwrap_err();
            assert!(!error.contains("recipent") && !error.contains("s3cret"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn literal_text_survives_when_its_braces_are_doubled(text in any::<String>()) {
            prop_assert_eq!(filled(&text.replace('{', "{{").replace('}', "}}"), "x"), text);
        }

        #[test]
        fn parsing_never_panics(text in "[{}a-z:|é]{0,20}") {
            let _ = Template::parse(&text);
        }
    }
}
