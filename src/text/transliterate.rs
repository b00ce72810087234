//! Replaces characters that the GSM alphabet lacks by near ones, so that a text costs 160 characters a segment and not
//! 70. An option (`transliterate`), because it changes what the recipient reads.
//!
//! All or nothing: a text that would need UCS-2 anyway (an emoji, Cyrillic) keeps its proper spelling. What is in the
//! alphabet stays as it is. Left out on purpose is whatever would change a meaning (`½` after a digit, `²`, `°`, `¬`,
//! which the InteractSMS v1 API reads as a line break).

use crate::text::gsm;

/// The text in GSM characters, or `None` if a character has no near one.
pub fn to_gsm(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if gsm::cost(c).is_some() {
            plain.push(c);
        } else if is_combining_accent(c) {
            combine(&mut plain, c)?;
        } else if ('\u{ff01}'..='\u{ff5e}').contains(&c) {
            // Full-width forms lie at a fixed distance from ASCII.
            let ascii = char::from_u32(u32::from(c) - 0xfee0)?;
            if gsm::cost(ascii).is_some() {
                plain.push(ascii);
            } else {
                plain.push_str(near(ascii)?);
            }
        } else {
            plain.push_str(near(c)?);
        }
    }
    Some(plain)
}

const fn is_combining_accent(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}')
}

/// Some systems (macOS file names, for one) write `é` as `e` and an accent. The pair becomes the one character of the
/// alphabet where there is one; else the accent falls away. An accent that follows no letter has no near character.
fn combine(plain: &mut String, accent: char) -> Option<()> {
    let base = plain.chars().next_back().filter(|c| c.is_alphabetic())?;
    let composed = match (base, accent) {
        ('a', '\u{300}') => 'à',
        ('e', '\u{300}') => 'è',
        ('i', '\u{300}') => 'ì',
        ('o', '\u{300}') => 'ò',
        ('u', '\u{300}') => 'ù',
        ('e', '\u{301}') => 'é',
        ('E', '\u{301}') => 'É',
        ('n', '\u{303}') => 'ñ',
        ('N', '\u{303}') => 'Ñ',
        ('a', '\u{308}') => 'ä',
        ('A', '\u{308}') => 'Ä',
        ('o', '\u{308}') => 'ö',
        ('O', '\u{308}') => 'Ö',
        ('u', '\u{308}') => 'ü',
        ('U', '\u{308}') => 'Ü',
        ('a', '\u{30a}') => 'å',
        ('A', '\u{30a}') => 'Å',
        ('C', '\u{327}') => 'Ç',
        _ => return Some(()),
    };
    plain.pop();
    plain.push(composed);
    Some(())
}

/// A near spelling in GSM characters. Empty for what is invisible anyway.
fn near(c: char) -> Option<&'static str> {
    punctuation(c).or_else(|| latin(c)).or_else(|| vietnamese(c))
}

#[rustfmt::skip]
fn punctuation(c: char) -> Option<&'static str> {
    Some(match c {
        '\u{a0}' | '\t' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}' => " ",
        '\u{2028}' | '\u{2029}' | '\u{85}' => "\n",
        // Zero-width spaces and joiners, direction marks, the byte order mark, the soft hyphen.
        '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}' | '\u{2066}'..='\u{2069}'
        | '\u{feff}' => "",
        '‘' | '’' | '‚' | '‛' | '′' | '‹' | '›' | 'ʼ' | 'ʻ' | '`' | '´' => "'",
        '“' | '”' | '„' | '‟' | '″' | '«' | '»' => "\"",
        '‐' | '‑' | '‒' | '–' | '—' | '―' | '−' => "-",
        '…' => "...",
        '•' | '‣' | '·' => "*",
        '⁄' | '∕' => "/",
        '¦' => "|",
        '×' => "x",
        '™' => "TM",
        '©' => "(c)",
        '®' => "(R)",
        '№' => "No",
        _ => return None,
    })
}

#[rustfmt::skip]
fn latin(c: char) -> Option<&'static str> {
    Some(match c {
        'À' | 'Á' | 'Â' | 'Ã' | 'Ā' | 'Ă' | 'Ą' | 'Ǎ' | 'Ȧ' => "A",
        'á' | 'â' | 'ã' | 'ā' | 'ă' | 'ą' | 'ǎ' | 'ȧ' => "a",
        'Ḃ' => "B",
        'ḃ' => "b",
        'Ć' | 'Ĉ' | 'Ċ' | 'Č' => "C",
        'ç' | 'ć' | 'ĉ' | 'ċ' | 'č' => "c",
        'Ð' | 'Ď' | 'Đ' | 'Ḋ' => "D",
        'ð' | 'ď' | 'đ' | 'ḋ' => "d",
        'È' | 'Ê' | 'Ë' | 'Ē' | 'Ĕ' | 'Ė' | 'Ę' | 'Ě' => "E",
        'ê' | 'ë' | 'ē' | 'ĕ' | 'ė' | 'ę' | 'ě' => "e",
        'Ḟ' => "F",
        'ḟ' => "f",
        'Ĝ' | 'Ğ' | 'Ġ' | 'Ģ' | 'Ǧ' => "G",
        'ĝ' | 'ğ' | 'ġ' | 'ģ' | 'ǧ' => "g",
        'Ĥ' | 'Ħ' => "H",
        'ĥ' | 'ħ' => "h",
        'Ì' | 'Í' | 'Î' | 'Ï' | 'Ĩ' | 'Ī' | 'Ĭ' | 'Į' | 'İ' | 'Ǐ' => "I",
        'í' | 'î' | 'ï' | 'ĩ' | 'ī' | 'ĭ' | 'į' | 'ı' | 'ǐ' => "i",
        'Ĵ' => "J",
        'ĵ' => "j",
        'Ķ' | 'Ǩ' => "K",
        'ķ' | 'ĸ' | 'ǩ' => "k",
        'Ĺ' | 'Ļ' | 'Ľ' | 'Ŀ' | 'Ł' => "L",
        'ĺ' | 'ļ' | 'ľ' | 'ŀ' | 'ł' => "l",
        'Ṁ' => "M",
        'ṁ' => "m",
        'Ń' | 'Ņ' | 'Ň' | 'Ŋ' => "N",
        'ń' | 'ņ' | 'ň' | 'ŋ' => "n",
        'Ò' | 'Ó' | 'Ô' | 'Õ' | 'Ō' | 'Ŏ' | 'Ő' | 'Ǒ' | 'Ǫ' | 'Ơ' => "O",
        'ó' | 'ô' | 'õ' | 'ō' | 'ŏ' | 'ő' | 'ǒ' | 'ǫ' | 'ơ' => "o",
        'Ṗ' => "P",
        'ṗ' => "p",
        'Ŕ' | 'Ŗ' | 'Ř' => "R",
        'ŕ' | 'ŗ' | 'ř' => "r",
        'Ś' | 'Ŝ' | 'Ş' | 'Š' | 'Ș' | 'Ṡ' => "S",
        'ś' | 'ŝ' | 'ş' | 'š' | 'ș' | 'ṡ' | 'ſ' => "s",
        'Ţ' | 'Ť' | 'Ŧ' | 'Ț' | 'Ṫ' => "T",
        'ţ' | 'ť' | 'ŧ' | 'ț' | 'ṫ' => "t",
        'Ù' | 'Ú' | 'Û' | 'Ũ' | 'Ū' | 'Ŭ' | 'Ů' | 'Ű' | 'Ų' | 'Ǔ' | 'Ư' => "U",
        'ú' | 'û' | 'ũ' | 'ū' | 'ŭ' | 'ů' | 'ű' | 'ų' | 'ǔ' | 'ư' => "u",
        'Ŵ' | 'Ẁ' | 'Ẃ' | 'Ẅ' => "W",
        'ŵ' | 'ẁ' | 'ẃ' | 'ẅ' => "w",
        'Ý' | 'Ŷ' | 'Ÿ' | 'Ỳ' | 'Ȳ' => "Y",
        'ý' | 'ŷ' | 'ÿ' | 'ỳ' | 'ȳ' => "y",
        'Ź' | 'Ż' | 'Ž' => "Z",
        'ź' | 'ż' | 'ž' => "z",
        'Œ' => "OE",
        'œ' => "oe",
        'Þ' => "Th",
        'þ' => "th",
        'Ĳ' => "IJ",
        'ĳ' => "ij",
        'ŉ' => "'n",
        'Ǆ' | 'ǅ' => "DZ",
        'ǆ' => "dz",
        'Ǉ' | 'ǈ' => "LJ",
        'ǉ' => "lj",
        'Ǌ' | 'ǋ' => "NJ",
        'ǌ' => "nj",
        'ẞ' => "SS",
        'ﬀ' => "ff",
        'ﬁ' => "fi",
        'ﬂ' => "fl",
        'ﬃ' => "ffi",
        'ﬄ' => "ffl",
        // The sign for ohm and for ångström, which look like the letters.
        '\u{2126}' => "Ω",
        '\u{212b}' => "Å",
        _ => return None,
    })
}

/// Vietnamese stacks two accents; Unicode keeps these letters together, capitals on even numbers, small ones on odd.
fn vietnamese(c: char) -> Option<&'static str> {
    let (capital, small) = match c {
        '\u{1ea0}'..='\u{1eb7}' => ("A", "a"),
        '\u{1eb8}'..='\u{1ec7}' => ("E", "e"),
        '\u{1ec8}'..='\u{1ecb}' => ("I", "i"),
        '\u{1ecc}'..='\u{1ee3}' => ("O", "o"),
        '\u{1ee4}'..='\u{1ef1}' => ("U", "u"),
        '\u{1ef2}'..='\u{1ef9}' => ("Y", "y"),
        _ => return None,
    };
    Some(if u32::from(c).is_multiple_of(2) { capital } else { small })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::to_gsm;
    use crate::text::gsm;

    #[test]
    fn near_characters_replace_what_the_alphabet_lacks() {
        for (text, plain) in [
            (
                "Tá do choinne ag Seán Ó Súilleabháin ar 5ú Bealtaine",
                "Ta do choinne ag Sean O Suilleabhain ar 5u Bealtaine",
            ),
            ("“It’s ready” – call us…", "\"It's ready\" - call us..."),
            ("10\u{a0}000\u{202f}€", "10 000 €"),
            ("a\tb", "a b"),
            ("ça va, garçon", "ca va, garcon"),
            ("ŁÓDŹ Kraków Jiří Đorđe", "LODZ Krakow Jiri Dorde"),
            ("İstanbul'da ığşç", "Istanbul'da igsc"),
            ("Việt Nam, Trường, ƯƠ", "Viet Nam, Truong, UO"),
            ("\u{feff}zero\u{200b}width\u{200e}", "zerowidth"),
            ("ＡＢＣ１２３！｀", "ABC123!'"),
            ("œuvre, Þór, ﬁn", "oeuvre, Thor, fin"),
        ] {
            assert_eq!(to_gsm(text).as_deref(), Some(plain), "{text}");
        }
    }

    #[test]
    fn what_the_alphabet_has_stays() {
        let text = "Café £5 è ñ Ü € [x] ^ Ω\r\n";
        assert_eq!(to_gsm(text).as_deref(), Some(text));
    }

    #[test]
    fn a_letter_and_its_accent_become_one_character_where_there_is_one() {
        assert_eq!(to_gsm("Cafe\u{301} Sea\u{301}n u\u{308}ber").as_deref(), Some("Café Sean über"));
        assert_eq!(to_gsm("\u{301}e"), None);
        assert_eq!(to_gsm("1\u{301}"), None);
    }

    #[test]
    fn a_text_with_one_hopeless_character_is_left_alone() {
        for text in ["Seán 😀", "Привет", "½ price", "20°C", "¬", "m²", "\u{7}"] {
            assert_eq!(to_gsm(text), None, "{text}");
        }
    }

    #[test]
    fn every_replacement_is_in_the_alphabet() {
        for c in '\0'..=char::MAX {
            if let Some(plain) = to_gsm(&c.to_string()) {
                assert!(gsm::septets(&plain).is_some(), "{c:?} became {plain:?}");
                assert!(plain.chars().count() <= 3, "{c:?} became {plain:?}");
            }
        }
    }

    #[test]
    fn letters_keep_their_case() {
        for c in ('À'..='ſ').chain('Ḁ'..='ỿ').filter(|c| c.is_alphabetic()) {
            let Some(plain) = to_gsm(&c.to_string()) else { continue };
            let Some(first) = plain.chars().find(|c| c.is_alphabetic()) else { continue };
            assert_eq!(first.is_uppercase(), c.is_uppercase(), "{c} became {plain}");
        }
    }

    proptest! {
        #[test]
        fn the_result_fits_and_stays_what_it_is(text in proptest::collection::vec(any::<char>(), 0..20)) {
            let text: String = text.into_iter().collect();
            if let Some(plain) = to_gsm(&text) {
                prop_assert!(gsm::septets(&plain).is_some());
                prop_assert_eq!(to_gsm(&plain), Some(plain.clone()));
            }
            if gsm::septets(&text).is_some() {
                prop_assert_eq!(to_gsm(&text), Some(text));
            }
        }
    }
}
