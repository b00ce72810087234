//! Compares our rules with libraries that others wrote for the same standards.
//!
//! The vectors are made by `oracles/generate.py` and `oracles/generate.mjs` and committed. Where a library and the
//! standard part, the standard is followed, and the place is named here with its reason.

use outboxd::message::Encoding;
use outboxd::text::gsm;
use outboxd::text::msisdn::{NumberPlan, normalise};
use outboxd::text::segments::measure;
use serde::Deserialize;

#[test]
fn the_gsm_alphabet_is_the_one_of_the_python_library() {
    let runs: Vec<(u32, u32, usize)> = include_str!("oracles/gsm0338.txt")
        .lines()
        .map(|line| {
            let (range, cost) = line.split_once(' ').unwrap();
            let (first, last) = range.split_once('-').unwrap();
            let point = |hex| u32::from_str_radix(hex, 16).unwrap();
            (point(first), point(last), cost.parse().unwrap())
        })
        .collect();
    assert_eq!(runs.len(), 36);
    let mut compared = 0;
    for c in '\0'..=char::MAX {
        // The library encodes the escape itself. A text that held one would turn the character behind it into another
        // on its way, so we do not count it as a character of the alphabet.
        if c == '\u{1b}' {
            continue;
        }
        let run = runs.iter().find(|(first, last, _)| (*first..=*last).contains(&u32::from(c)));
        assert_eq!(gsm::cost(c), run.map(|(.., cost)| *cost), "U+{:04X}", u32::from(c));
        compared += usize::from(run.is_some());
    }
    assert_eq!(compared, 137);
}

#[derive(Deserialize)]
struct Sms {
    pieces: Vec<(String, usize)>,
    encoding: String,
    segments: usize,
}

#[test]
fn segments_are_counted_as_the_node_library_counts_them() {
    let vectors: Vec<Sms> = serde_json::from_str(include_str!("oracles/segments.json")).unwrap();
    assert!(vectors.len() > 300);
    let mut kept_together = 0;
    for sms in vectors {
        let text: String = sms.pieces.iter().map(|(piece, times)| piece.repeat(*times)).collect();
        let ours = measure(&text);
        assert_eq!(ours.encoding.as_str(), sms.encoding, "{:?}", sms.pieces);
        // The library also keeps characters of several code points (families, flags, accents) in one segment. The
        // standard knows nothing of them: phones join the parts before they show them, so only a surrogate pair must
        // stay whole. The library can therefore only count more, and only where there is such a character.
        if ours.segments != sms.segments && ours.encoding == Encoding::Ucs2 && has_cluster(&text) {
            assert!(ours.segments < sms.segments, "{:?}", sms.pieces);
            kept_together += 1;
        } else {
            assert_eq!(ours.segments, sms.segments, "{:?}", sms.pieces);
        }
    }
    assert!(kept_together <= 4, "{kept_together} texts are counted differently");
}

fn has_cluster(text: &str) -> bool {
    text.contains(
        |c| matches!(c, '\u{301}' | '\u{200d}' | '\u{1f1e6}'..='\u{1f1ff}' | '\u{1f3fb}'..='\u{1f3ff}'),
    )
}

#[derive(Deserialize)]
struct Number {
    input: String,
    country: String,
    trunk: String,
    digits: Option<String>,
}

/// Inputs that we read otherwise than libphonenumber does, which knows the lengths and ranges of each country.
///
/// All but one are refusals: these inputs can be read in two ways without that knowledge.
const READ_OTHERWISE: [(&str, &str, Option<&str>); 4] = [
    // Ten digits without a prefix: national in Ireland, but also of the form of a number abroad.
    ("1850 123 456", "353", None),
    ("212-555-0123", "1", None),
    ("(212) 555-0123", "1", None),
    // Digits that begin with the own country's code are what gateways and callbacks write. libphonenumber takes these
    // for a national number, to which it then adds the code a second time.
    ("491711234567", "49", Some("491711234567")),
];

#[test]
fn numbers_are_read_as_libphonenumber_reads_them() {
    let vectors: Vec<Number> = serde_json::from_str(include_str!("oracles/numbers.json")).unwrap();
    assert!(vectors.len() > 90);
    let mut otherwise = 0;
    for number in vectors {
        let plan = NumberPlan { country: Some(&number.country), trunk: &number.trunk };
        let ours = normalise(&number.input, plan).ok();
        let exception = READ_OTHERWISE
            .iter()
            .find(|(input, country, _)| *input == number.input && *country == number.country);
        if let Some((.., expected)) = exception {
            assert_eq!(ours.as_deref(), *expected, "{}", number.input);
            assert_ne!(ours, number.digits, "{} is no exception any more", number.input);
            otherwise += 1;
        } else {
            assert_eq!(ours, number.digits, "{} in +{}", number.input, number.country);
        }
    }
    assert_eq!(otherwise, READ_OTHERWISE.len());
}
