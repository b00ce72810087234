//! The fields of a form, found whatever their letter case: the pages spell them in several ways. Values are kept as
//! bytes, because a signature covers bytes and nobody says in which charset a text comes.

use crate::gateway::callback::CallbackError;

const MOST_FIELDS: usize = 64;

/// Those that mean something to us. A second one of these makes a callback ambiguous.
const KNOWN: [&str; 12] = [
    "sms-type",
    "sms-notifyid",
    "sms-success",
    "sms-verify",
    "sms-timestamp",
    "sms-totaltosend",
    "sms-totalsent",
    "sms-totalfailed",
    "sms-from",
    "sms-to",
    "sms-content",
    "sms-network",
];

#[derive(Default)]
pub(super) struct Fields(Vec<(&'static str, Vec<u8>)>);

impl Fields {
    pub(super) fn read(form: &[u8]) -> Result<Fields, CallbackError> {
        let mut fields = Fields::default();
        for (at, pair) in form.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()).enumerate() {
            if at >= MOST_FIELDS {
                return Err(CallbackError::Malformed("it has too many fields"));
            }
            let end = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
            let (name, value) = pair.split_at(end);
            let name = unescape(name).to_ascii_lowercase();
            let Some(known) = KNOWN.into_iter().find(|known| known.as_bytes() == name) else { continue };
            if fields.bytes(known).is_some() {
                // Which of the two was signed and which is meant could differ.
                return Err(CallbackError::Malformed("a field stands in it twice"));
            }
            fields.0.push((known, unescape(value.get(1..).unwrap_or_default())));
        }
        Ok(fields)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.bytes(name).is_some()
    }

    pub(super) fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_slice())
    }

    /// A value that is plain text of at most so many bytes; no genuine one holds control characters.
    pub(super) fn text(&self, name: &str, most: usize) -> Result<Option<&str>, CallbackError> {
        let Some(bytes) = self.bytes(name) else { return Ok(None) };
        match std::str::from_utf8(bytes) {
            Ok(text) if bytes.len() <= most && !text.contains(char::is_control) => Ok(Some(text)),
            _ => Err(CallbackError::Malformed("a field is too long or not UTF-8")),
        }
    }

    pub(super) fn number(&self, name: &str) -> Option<u32> {
        std::str::from_utf8(self.bytes(name)?).ok()?.trim().parse().ok()
    }
}

/// Broken escapes stay as they are, as web servers leave them.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    loop {
        rest = match rest {
            [] => return out,
            [b'+', after @ ..] => {
                out.push(b' ');
                after
            }
            [b'%', high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                out.push(nibble(*high) << 4 | nibble(*low));
                after
            }
            [byte, after @ ..] => {
                out.push(*byte);
                after
            }
        };
    }
}

fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'A' + 10,
    }
}
