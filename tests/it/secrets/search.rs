//! Looks for secrets in what was written, in each of the spellings in which one might slip out.

#[derive(Debug, Default)]
pub(crate) struct Haystack {
    /// Where from, and the text.
    parts: Vec<(String, String)>,
}

impl Haystack {
    pub(crate) fn put(&mut self, from: &str, text: &str) {
        self.parts.push((from.to_owned(), text.to_owned()));
    }

    pub(crate) fn size(&self) -> usize {
        self.parts.iter().map(|(_, text)| text.len()).sum()
    }

    pub(crate) fn without(&self, from: &str) -> Haystack {
        Haystack { parts: self.parts.iter().filter(|(name, _)| !name.starts_with(from)).cloned().collect() }
    }

    pub(crate) fn only(&self, from: &str) -> Haystack {
        Haystack { parts: self.parts.iter().filter(|(name, _)| name.starts_with(from)).cloned().collect() }
    }

    pub(crate) fn holds(&self, needles: &[&str]) -> bool {
        self.parts.iter().any(|(_, text)| holds_any(text, needles))
    }

    #[track_caller]
    pub(crate) fn assert_free_of(&self, secrets: &[&str]) {
        let mut found: Vec<String> = Vec::new();
        for (from, text) in &self.parts {
            for secret in secrets {
                if let Some((spelling, at)) = holds(text, secret) {
                    let start = text[..at].char_indices().rev().nth(200).map_or(0, |(start, _)| start);
                    let shown: String = text[start..].chars().take(500).collect();
                    found.push(format!("{from}: {secret} {spelling}: …{shown}…"));
                }
            }
        }
        assert!(
            found.is_empty(),
            "{} places, for example:\n{}",
            found.len(),
            found[..found.len().min(30)].join("\n\n")
        );
    }
}

pub(crate) fn holds_any(text: &str, secrets: &[&str]) -> bool {
    secrets.iter().any(|secret| holds(text, secret).is_some())
}

/// In which spelling the text holds it, and where.
fn holds(text: &str, secret: &str) -> Option<(&'static str, usize)> {
    spellings(secret).into_iter().find_map(|(spelling, needle)| Some((spelling, text.find(&needle)?)))
}

/// The part without signs that encodings change survives most of them; base64 and hexadecimal digits hide it.
fn spellings(secret: &str) -> Vec<(&'static str, String)> {
    let core: String = secret
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
        .max_by_key(|part| part.len())
        .unwrap_or(secret)
        .to_owned();
    let mut all = vec![("plain", core.clone())];
    // Where a text begins decides how base64 spells its inside: three ways, less what neighbours change.
    for before in 0..3 {
        let padded = [&vec![b'.'; before][..], core.as_bytes()].concat();
        let whole = padded.len() / 3 * 3;
        let spelt = base64(&padded[..whole]);
        all.push(("in base64", spelt[if before == 0 { 0 } else { 4 }..].to_owned()));
    }
    for (name, digits) in [("in hexadecimal digits", ""), ("with percent signs", "%"), ("escaped", "\\u00")] {
        for upper in [false, true] {
            let spell = |byte: u8| {
                if upper { format!("{digits}{byte:02X}") } else { format!("{digits}{byte:02x}") }
            };
            all.push((name, core.bytes().map(spell).collect()));
        }
    }
    all
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let number = three.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte))
            << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = usize::try_from(number >> (18 - 6 * place) & 63).unwrap();
            text.push(if place <= three.len() { char::from(DIGITS[digit]) } else { '=' });
        }
    }
    text
}

#[test]
fn every_spelling_is_found() {
    let secret = "zq1gateway+two/?&\"x";
    let percent: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let spelt: String = secret.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let hex: String = secret.bytes().map(|byte| format!("{byte:02X}")).collect();
    let mut all = vec![secret.to_owned(), percent, spelt, hex, serde_json::to_string(secret).unwrap()];
    all.extend(["", "u:", "us:", "user:"].map(|user| base64(format!("{user}{secret}").as_bytes())));
    for text in all {
        let mut hay = Haystack::default();
        hay.put("here", &format!("before {text} after"));
        let found = std::panic::catch_unwind(|| hay.assert_free_of(&[secret]));
        assert!(found.is_err(), "{text} is not found");
    }
    let mut hay = Haystack::default();
    hay.put("here", "nothing of that kind: zq1gate, gateway");
    hay.assert_free_of(&[secret]);
}

#[test]
fn base64_is_what_others_write() {
    for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
        assert_eq!(base64(plain.as_bytes()), coded);
    }
}
