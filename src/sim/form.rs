//! Form and query fields, read leniently as web servers do: broken escapes stay as they are.

use std::borrow::Cow;

use crate::sim::settings::Charset;

#[derive(Debug, Default)]
pub(super) struct Form {
    fields: Vec<(String, Vec<u8>)>,
    charset: Charset,
}

impl Form {
    pub(super) fn parse(text: &[u8], charset: Charset) -> Form {
        let fields = text
            .split(|byte| *byte == b'&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let at = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
                let (name, value) = pair.split_at(at);
                let value = value.get(1..).unwrap_or_default();
                (String::from_utf8_lossy(&unescape(name)).into_owned(), unescape(value))
            })
            .collect();
        Form { fields, charset }
    }

    /// The field of exactly this name.
    pub(super) fn exact(&self, name: &str) -> Option<String> {
        self.bytes(|field| field == name).map(|value| self.decode(value))
    }

    /// The field of this name in any letter case, as ASP.NET looks fields up.
    pub(super) fn any_case(&self, name: &str) -> Option<String> {
        self.bytes(|field| field.eq_ignore_ascii_case(name)).map(|value| self.decode(value))
    }

    /// The bytes of a field, unescaped and not decoded.
    pub(super) fn raw(&self, name: &str) -> Option<&[u8]> {
        self.bytes(|field| field == name)
    }

    fn bytes(&self, fits: impl Fn(&str) -> bool) -> Option<&[u8]> {
        self.fields.iter().find(|(name, _)| fits(name)).map(|(_, value)| value.as_slice())
    }

    fn decode(&self, value: &[u8]) -> String {
        match self.charset {
            Charset::Utf8 => String::from_utf8_lossy(value).into_owned(),
            Charset::Latin1 => value.iter().map(|byte| char::from(*byte)).collect(),
        }
    }
}

/// `name=value&…`, percent-encoded.
pub(super) fn encode(fields: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

/// Percent-encodes one value.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if text.bytes().all(plain) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(form_urlencoded::byte_serialize(text.as_bytes()).collect())
}

fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let pair = after.get(..2).and_then(|two| Some((digit(two[0])?, digit(two[1])?)));
        match (*first, pair) {
            (b'%', Some((high, low))) => {
                out.push(high << 4 | low);
                rest = after.get(2..).unwrap_or_default();
            }
            (b'+', _) => {
                out.push(b' ');
                rest = after;
            }
            (byte, _) => {
                out.push(byte);
                rest = after;
            }
        }
    }
    out
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::{Charset, Form};

    #[test]
    fn fields_are_read_in_either_charset_and_broken_escapes_survive() {
        let form = Form::parse(b"To=353871&text=a+b%C2%AC%4&x", Charset::Utf8);
        assert_eq!(form.any_case("to").as_deref(), Some("353871"));
        assert_eq!(form.exact("to"), None);
        assert_eq!(form.exact("text").as_deref(), Some("a b\u{ac}%4"));
        assert_eq!(form.exact("x").as_deref(), Some(""));
        assert_eq!(Form::parse(b"t=%AC", Charset::Latin1).exact("t").as_deref(), Some("\u{ac}"));
        assert_eq!(Form::parse(b"t=%AC", Charset::Utf8).exact("t").as_deref(), Some("\u{fffd}"));
    }
}
