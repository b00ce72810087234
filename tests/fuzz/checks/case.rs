//! How an input is laid out, so that people can read and write one: an HTTP answer, or a form of named fields.

use http::HeaderValue;
use outboxd::gateway::Answer;

/// `429`, or `429 cut` for an answer that broke off, then headers, an empty line, and the body. What cannot be read
/// counts as not given; the status is then 200.
pub fn answer(input: &[u8]) -> Answer {
    let (head, body) = match input.windows(2).position(|pair| pair == b"\n\n") {
        Some(at) => (&input[..at], &input[at + 2..]),
        None => (input, &b""[..]),
    };
    let body = if has_a_number_beyond_all(body) { b"{}" } else { body };
    let mut lines = head.split(|byte| *byte == b'\n');
    let first = String::from_utf8_lossy(lines.next().unwrap_or_default());
    let mut words = first.split(' ');
    let status = words.next().and_then(|word| word.parse().ok()).unwrap_or(200);
    let mut answer = Answer::new(status, body.to_vec());
    answer.truncated = words.next() == Some("cut");
    for line in lines {
        if let Some(value) = line.strip_prefix(b"Retry-After: ") {
            answer.retry_after = HeaderValue::from_bytes(value).ok();
        } else if let Some(value) = line.strip_prefix(b"Date: ") {
            answer.date = HeaderValue::from_bytes(value).ok();
        }
    }
    answer
}

/// JSON allows a number that no `f64` holds, and says nothing of what it means. The daemon reads past one in a field that
/// is nothing to it; the reader that the checks compare with does not.
fn has_a_number_beyond_all(body: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(body)
        .is_err_and(|error| error.to_string().starts_with("number out of range"))
}

/// Fields of text: a line `-- name`, then the value up to the next such line. A field that stands twice counts once,
/// the first time.
pub struct Fields(Vec<(String, String)>);

impl Fields {
    pub fn read(input: &[u8]) -> Fields {
        let text = String::from_utf8_lossy(input);
        let mut fields: Vec<(String, String)> = Vec::new();
        for line in text.split('\n') {
            match (line.strip_prefix("-- "), fields.last_mut()) {
                (Some(name), _) => fields.push((name.to_owned(), String::new())),
                (None, Some((_, value))) => {
                    value.push_str(line);
                    value.push('\n');
                }
                (None, None) => {}
            }
        }
        for (_, value) in &mut fields {
            // The line break before the next field, or the one that every value got too many.
            value.pop();
        }
        Fields(fields)
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// For columns of a row.
    pub fn owned(&self, name: &str) -> Option<String> {
        self.get(name).map(str::to_owned)
    }

    pub fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }
}

/// A piece of a form as bytes. A broken escape stays as it is.
pub fn unescape(text: &[u8]) -> Vec<u8> {
    let digit = |at: usize| text.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        let escaped = digit(at + 1).zip(digit(at + 2)).filter(|_| *byte == b'%');
        match (byte, escaped) {
            (_, Some((high, low))) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or_default());
                at += 2;
            }
            (b'+', None) => out.push(b' '),
            (plain, None) => out.push(*plain),
        }
        at += 1;
    }
    out
}
