//! The GSM 7 bit default alphabet (3GPP TS 23.038 §6.2.1): which characters it has and what each costs.
//!
//! It does not produce septets: gateways take text and encode it themselves. It must agree with them, though, on
//! whether a text fits, because that decides between 160 and 70 characters a segment, and so the bill. National
//! language shift tables are left out: gateways rarely use them unasked, and counting on them would under-estimate.

/// Position in the table is the septet. Septet 0x1B announces the extension table and is no character; its place is
/// taken by the space, which is there anyway.
#[rustfmt::skip]
pub const BASIC: [char; 128] = [
    '@', '£', '$', '¥', 'è', 'é', 'ù', 'ì', 'ò', 'Ç', '\n', 'Ø', 'ø', '\r', 'Å', 'å',
    'Δ', '_', 'Φ', 'Γ', 'Λ', 'Ω', 'Π', 'Ψ', 'Σ', 'Θ', 'Ξ', ' ', 'Æ', 'æ', 'ß', 'É',
    ' ', '!', '"', '#', '¤', '%', '&', '\'', '(', ')', '*', '+', ',', '-', '.', '/',
    '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', ':', ';', '<', '=', '>', '?',
    '¡', 'A', 'B', 'C', 'D', 'E', 'F', 'G', 'H', 'I', 'J', 'K', 'L', 'M', 'N', 'O',
    'P', 'Q', 'R', 'S', 'T', 'U', 'V', 'W', 'X', 'Y', 'Z', 'Ä', 'Ö', 'Ñ', 'Ü', '§',
    '¿', 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l', 'm', 'n', 'o',
    'p', 'q', 'r', 's', 't', 'u', 'v', 'w', 'x', 'y', 'z', 'ä', 'ö', 'ñ', 'ü', 'à',
];

/// Sent as two septets: the escape, then the septet given here.
pub const EXTENSION: [(u8, char); 10] = [
    (0x0A, '\u{0c}'),
    (0x14, '^'),
    (0x28, '{'),
    (0x29, '}'),
    (0x2F, '\\'),
    (0x3C, '['),
    (0x3D, '~'),
    (0x3E, ']'),
    (0x40, '|'),
    (0x65, '€'),
];

/// Everything but the euro sign lies below U+0400, so one small table answers for all characters.
const COSTS: [u8; 0x400] = build_costs();

const fn build_costs() -> [u8; 0x400] {
    let mut costs = [0; 0x400];
    let mut at = 0;
    while at < BASIC.len() {
        costs[BASIC[at] as usize] = 1;
        at += 1;
    }
    at = 0;
    while at < EXTENSION.len() {
        let code_point = EXTENSION[at].1 as usize;
        if code_point < costs.len() {
            costs[code_point] = 2;
        }
        at += 1;
    }
    costs
}

/// Septets that a character takes: 1, 2 with the escape, or `None` where the alphabet does not have it.
#[inline]
pub fn cost(c: char) -> Option<usize> {
    match COSTS.get(c as usize) {
        Some(0) => None,
        Some(cost) => Some(usize::from(*cost)),
        None if c == '€' => Some(2),
        None => None,
    }
}

/// Septets of a whole text, or `None` where one character does not fit.
pub fn septets(text: &str) -> Option<usize> {
    text.chars().try_fold(0, |sum, c| Some(sum + cost(c)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::{BASIC, EXTENSION, cost, septets};

    #[test]
    fn the_tables_hold_137_characters_and_nothing_else_has_a_cost() {
        let mut ones = 0;
        let mut twos = 0;
        for c in '\0'..=char::MAX {
            match cost(c) {
                Some(1) => {
                    assert!(BASIC.contains(&c), "{c:?}");
                    ones += 1;
                }
                Some(2) => {
                    assert!(EXTENSION.iter().any(|(_, e)| *e == c), "{c:?}");
                    twos += 1;
                }
                None => {}
                other => panic!("{c:?} costs {other:?}"),
            }
        }
        assert_eq!((ones, twos), (127, 10));
    }

    #[test]
    fn characters_that_are_often_mistaken() {
        assert_eq!(cost('Ç'), Some(1));
        assert_eq!(cost('ç'), None, "only the capital is in the alphabet");
        assert_eq!(cost('é'), Some(1));
        assert_eq!(cost('á'), None);
        assert_eq!(cost('€'), Some(2));
        assert_eq!(cost('`'), None);
        assert_eq!(cost('\t'), None);
        assert_eq!(cost('\u{1b}'), None, "the escape is no character");
        assert_eq!(cost('’'), None);
        assert_eq!(cost('\u{a0}'), None);
    }

    #[test]
    fn escapes_count_twice() {
        assert_eq!(septets(""), Some(0));
        assert_eq!(septets("5 €"), Some(4));
        assert_eq!(septets("{[~]}"), Some(10));
        assert_eq!(septets("Dia dhuit, a Shéamais"), Some(21));
        assert_eq!(septets("Dia dhuit, a Sheáin"), None);
    }

    proptest! {
        #[test]
        fn a_text_costs_what_its_parts_cost(left in "[ -~€é\n]{0,40}", right in "\\PC{0,40}") {
            let whole = septets(&format!("{left}{right}"));
            let parts = septets(&left).zip(septets(&right)).map(|(l, r)| l + r);
            prop_assert_eq!(whole, parts);
        }
    }
}
