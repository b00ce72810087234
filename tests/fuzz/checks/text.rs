//! Texts and their segments: counted as they are cut, unit by unit, by rules written down here a second time.

use outboxd::message::Encoding;
use outboxd::text::segments::{MAX_PARTS, measure};
use outboxd::text::{gsm, transliterate};

const ESCAPE: u8 = 0x1b;

pub fn check(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    sizes(&text);
    transliteration(&text);
}

/// Cuts the text as a gateway would and compares.
pub fn sizes(text: &str) {
    let size = measure(text);
    match septets(text) {
        Some(septets) => {
            assert_eq!(size.encoding, Encoding::Gsm7, "{text:?}");
            assert_eq!(size.units, septets.len());
            let parts = cut(&septets, 160, 153, |unit| *unit == ESCAPE);
            assert_eq!(size.segments, parts.len());
            let read: String = parts.iter().map(|part| from_septets(part)).collect();
            assert_eq!(read, text, "the parts together are the text");
        }
        None => {
            let units: Vec<u16> = text.encode_utf16().collect();
            assert_eq!(size.encoding, Encoding::Ucs2, "{text:?}");
            assert_eq!(size.units, units.len());
            let parts = cut(&units, 70, 67, |unit| (0xd800..0xdc00).contains(unit));
            assert_eq!(size.segments, parts.len());
            let read: Option<String> = parts.iter().map(|part| String::from_utf16(part).ok()).collect();
            assert_eq!(
                read.as_deref(),
                Some(text),
                "no part ends in half a character, and together they are the text"
            );
        }
    }
    // Billing knows no fraction of a segment and no gateway more than the joining header can count.
    assert!(size.segments >= 1);
    if size.segments <= MAX_PARTS {
        assert!(size.units <= MAX_PARTS * 160);
    }
}

/// Into parts of at most `part` units, none of which ends in a unit that the next one belongs to.
fn cut<T>(units: &[T], single: usize, part: usize, is_first_half: impl Fn(&T) -> bool) -> Vec<&[T]> {
    if units.len() <= single {
        return vec![units];
    }
    let mut parts = Vec::new();
    let mut rest = units;
    while rest.len() > part {
        let end = if is_first_half(&rest[part - 1]) { part - 1 } else { part };
        let (first, others) = rest.split_at(end);
        parts.push(first);
        rest = others;
    }
    parts.push(rest);
    parts
}

/// The text in the default alphabet, `None` where it lacks a character.
fn septets(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    for c in text.chars() {
        let basic = gsm::BASIC.iter().position(|known| *known == c);
        match basic.and_then(|at| u8::try_from(at).ok()) {
            // The space stands in the place of the escape too.
            Some(ESCAPE) => out.push(0x20),
            Some(septet) => out.push(septet),
            None => {
                let (septet, _) = gsm::EXTENSION.iter().find(|(_, known)| *known == c)?;
                out.extend([ESCAPE, *septet]);
            }
        }
    }
    Some(out)
}

fn from_septets(septets: &[u8]) -> String {
    let mut out = String::new();
    let mut rest = septets.iter();
    while let Some(septet) = rest.next() {
        if *septet == ESCAPE {
            let second = rest.next();
            let known = gsm::EXTENSION.iter().find(|(code, _)| Some(code) == second);
            out.push(known.map_or('\u{fffd}', |(_, c)| *c));
        } else {
            out.push(gsm::BASIC[usize::from(*septet)]);
        }
    }
    out
}

fn transliteration(text: &str) {
    let Some(plain) = transliterate::to_gsm(text) else {
        assert!(gsm::septets(text).is_none(), "a text that fits is left alone");
        return;
    };
    assert!(gsm::septets(&plain).is_some(), "{plain:?}");
    assert_eq!(transliterate::to_gsm(&plain).as_deref(), Some(plain.as_str()));
    if gsm::septets(text).is_some() {
        assert_eq!(plain, text);
    }
    assert!(plain.chars().count() <= 3 * text.chars().count());
    // A code or an amount stays what it is.
    assert_eq!(digits(&plain), digits(text));
}

fn digits(text: &str) -> String {
    let plain = |c: char| match c {
        '0'..='9' => Some(c),
        '\u{ff10}'..='\u{ff19}' => char::from_digit(u32::from(c) - 0xff10, 10),
        _ => None,
    };
    text.chars().filter_map(plain).collect()
}
