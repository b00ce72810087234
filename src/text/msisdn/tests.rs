//! Tests of phone numbers; `msisdn.rs` holds the rules.

use proptest::prelude::{prop_assert, prop_assert_eq, prop_assume, proptest};

use super::{NumberPlan, normalise};
use crate::text::code;

const IRISH: NumberPlan<'_> = NumberPlan { country: Some("353"), trunk: "0" };
const NONE: NumberPlan<'_> = NumberPlan { country: None, trunk: "0" };

fn reason(input: &str, plan: NumberPlan<'_>) -> String {
    let refusal = normalise(input, plan).unwrap_err();
    assert_eq!(refusal.code, code::BAD_NUMBER);
    refusal.reason
}

#[test]
fn one_irish_number_in_all_its_clothes() {
    for input in [
        "0871234567",
        "087 123 4567",
        "087-123-4567",
        "087.123.4567",
        "087/1234567",
        "087/123/4567",
        "(087) 1234567",
        "(0)87 1234567",
        "353871234567",
        "+353871234567",
        "+353 87 123 4567",
        "+353 (0)87 123 4567",
        "+353 (0) 87 123 4567",
        "+353 087 123 4567",
        "+353 (0)087 123 4567",
        "(+353) 87 1234567",
        "+(353) 87 1234567",
        "00353871234567",
        "00353 (0)87 1234567",
        "353 (0)87 1234567",
        "3530871234567",
        " \t0871234567\r\n",
        "\u{a0}087\u{202f}123\u{2009}4567\u{3000}",
        "\u{202a}+353 87 123 4567\u{202c}",
        "\u{200e}0871234567\u{200f}",
        "\u{feff}0871234567",
        "\u{feff}\n0871234567\t\u{200e}",
        "087–123—4567",
        "087‑123‑4567",
        "+353 87 123\u{2212}4567",
        "０８７１２３４５６７",
        "＋３５３８７１２３４５６７",
        "٠٨٧١٢٣٤٥٦٧",
        "۰۸۷۱۲۳۴۵۶۷",
    ] {
        assert_eq!(normalise(input, IRISH).as_deref(), Ok("353871234567"), "{input:?}");
    }
}

#[test]
fn other_countries_need_their_code() {
    for (input, digits) in [
        ("+44 7911 123456", "447911123456"),
        ("447911123456", "447911123456"),
        ("+44 (0)7911 123456", "447911123456"),
        ("0049 151 23456789", "4915123456789"),
        ("+39 06 1234567", "39061234567"),
        ("+1 (212) 555-0123", "12125550123"),
        ("06.12.34.56.78", "353612345678"),
        ("0044 (0)7911 123456", "447911123456"),
        ("+44 (0)20 (7946) 0123", "442079460123"),
        ("+290 1234", "2901234"),
    ] {
        assert_eq!(normalise(input, IRISH).as_deref(), Ok(digits), "{input}");
    }
    let american = NumberPlan { country: Some("1"), trunk: "1" };
    assert_eq!(normalise("1-212-555-0123", american).as_deref(), Ok("12125550123"));
    assert_eq!(normalise("+353 87 123 4567", american).as_deref(), Ok("353871234567"));
    let hungarian = NumberPlan { country: Some("36"), trunk: "06" };
    assert_eq!(normalise("06 30 123 4567", hungarian).as_deref(), Ok("36301234567"));
    assert_eq!(normalise("+36 06 30 123 4567", hungarian).as_deref(), Ok("36301234567"));
    assert!(reason("06 030 123 4567", hungarian).contains("0 too many"));
    let russian = NumberPlan { country: Some("7"), trunk: "8" };
    assert_eq!(normalise("8 (912) 345-67-89", russian).as_deref(), Ok("79123456789"));
    assert_eq!(normalise("+7 812 345-67-89", russian).as_deref(), Ok("78123456789"));
    let danish = NumberPlan { country: Some("45"), trunk: "" };
    assert_eq!(normalise("+45 20 12 34 56", danish).as_deref(), Ok("4520123456"));
}

#[test]
fn a_national_number_needs_a_country() {
    assert!(reason("0871234567", NONE).contains("no default country"));
    assert_eq!(normalise("353871234567", NONE).as_deref(), Ok("353871234567"));
    assert_eq!(normalise("298123456", NONE).as_deref(), Ok("298123456"));
}

#[test]
fn numbers_that_legacy_programs_have_mangled_are_refused() {
    assert!(reason("871234567", IRISH).contains("a leading 0 was lost"));
    let british = NumberPlan { country: Some("44"), trunk: "0" };
    assert!(reason("7700900123", british).contains("a leading 0 was lost"));
    let american = NumberPlan { country: Some("1"), trunk: "1" };
    assert!(reason("212-555-0123", american).contains("10 digits"));
    assert_eq!(normalise("4520123456", IRISH).as_deref(), Ok("4520123456"));
    assert!(reason("353871234567.0", IRISH).contains("decimals"));
    assert!(reason("353871234567.00", IRISH).contains("decimals"));
    assert!(reason("3.53871E+11", IRISH).contains("'E' at position 8"));
    assert!(reason("353871234567,00", IRISH).contains("','"));
    assert!(reason("'0871234567", IRISH).contains("'''"));
}

#[test]
fn two_numbers_are_not_one() {
    for input in [
        "0871234567,0861234567",
        "0871234567;0861234567",
        "0871234\n0861234",
        "0871234\t0861234",
        "0871234567/8",
        "087/1234567/8",
        "0871234567/0861234567",
        "0871234567 0861234567",
        "0871234567 or 0861234567",
    ] {
        assert!(reason(input, IRISH).contains("one number"), "{input:?}: {}", reason(input, IRISH));
    }
}

#[test]
fn everything_else_is_refused_with_its_cause() {
    for (input, part) in [
        ("", "empty"),
        ("   ", "empty"),
        ("+", "empty"),
        ("()", "empty"),
        ("\u{200e}", "empty"),
        ("087 I23 4567", "'I' at position 5"),
        ("087123456О", "'О' (U+041E) at position 10"),
        ("tel:+353871234567", "'t' at position 1"),
        ("+353 87 123 4567 x12", "'x'"),
        ("087\0", "U+0000"),
        ("50123", "too short"),
        ("+35387", "too short: 5"),
        ("+353871", "too short: 6"),
        ("+(0)353 87 123 4567", "country code"),
        ("+353 0087 1234567", "0 too many"),
        ("+353 (0)0087 1234567", "0 too many"),
        ("353871234567 (0)", "does not follow a country code"),
        ("+3538712345678901", "too long: 16"),
        ("0000353871234567", "country code"),
        ("+0871234567", "country code"),
        ("++353871234567", "'+'"),
        ("353+871234567", "'+'"),
        ("((087)) 1234567", "'('"),
        (")087 1234567", "')'"),
    ] {
        let plan = if input == "50123" { NONE } else { IRISH };
        assert!(reason(input, plan).contains(part), "{input:?}: {}", reason(input, plan));
    }
    assert!(reason(&"0".repeat(81), IRISH).contains("longer than 80"));
    let danish = NumberPlan { country: Some("45"), trunk: "" };
    assert!(reason("020123456", danish).contains("starts with 0"));
}

proptest! {
    #[test]
    fn arbitrary_input_gives_digits_or_a_reason_without_the_number(input in "[0-9+() ./٣x\n\\PC-]{0,40}") {
        for plan in [IRISH, NONE] {
            match normalise(&input, plan) {
                Ok(digits) => {
                    prop_assert!((7..=15).contains(&digits.len()));
                    prop_assert!(digits.bytes().all(|b| b.is_ascii_digit()));
                    prop_assert!(!digits.starts_with('0'));
                }
                Err(refusal) => {
                    prop_assert_eq!(refusal.code, code::BAD_NUMBER);
                    let run = refusal.reason.split(|c: char| !c.is_numeric()).map(str::len).max();
                    prop_assert!(run.unwrap_or(0) < 7, "{}", refusal.reason);
                }
            }
        }
    }

    /// Replies come back as digits, and an application answers to what it got. (What `plausible_bare` refuses must
    /// be written with `+`.)
    #[test]
    fn normalising_twice_changes_nothing(input in "(\\+|00|0)?[1-9][0-9 ()/.-]{5,16}") {
        for plan in [IRISH, NONE] {
            if let Ok(digits) = normalise(&input, plan) {
                prop_assume!(digits.len() >= 11 || plan.country.is_none() || digits.starts_with("353"));
                prop_assert_eq!(normalise(&digits, plan), Ok(digits));
            }
        }
    }

    #[test]
    fn with_a_plus_the_result_is_always_stable(digits in "[1-9][0-9]{6,14}") {
        if let Ok(once) = normalise(&format!("+{digits}"), IRISH) {
            prop_assert_eq!(normalise(&format!("+{once}"), IRISH), Ok(once));
        }
    }
}
