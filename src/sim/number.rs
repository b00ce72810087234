//! Phone numbers, by the gateway's rules: v2 takes Irish national numbers too, v1 only international digits.

/// International digits as an integer: 15 digits at most, so 64 bits hold every number.
pub(super) fn international(text: &str) -> Option<u64> {
    let plausible = (7..=15).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && !text.starts_with('0');
    if plausible { text.parse().ok() } else { None }
}

/// As v2 reads it: `0871234567` is Irish, everything else carries its country code.
pub(super) fn with_irish_default(text: &str) -> Option<u64> {
    match text.strip_prefix('0') {
        Some(national) if !national.starts_with('0') && (8..=10).contains(&text.len()) => {
            international(&format!("353{national}"))
        }
        _ => international(text),
    }
}

#[cfg(test)]
mod tests {
    use super::{international, with_irish_default};

    #[test]
    fn only_documented_forms_are_numbers() {
        assert_eq!(with_irish_default("0871234567"), Some(353_871_234_567));
        assert_eq!(with_irish_default("447911123456"), Some(447_911_123_456));
        for text in ["", "12", "+353871234567", "00353871234567", "353 87 123", "abc", "1234567890123456"] {
            assert_eq!(with_irish_default(text), None, "{text}");
        }
        assert_eq!(international("0871234567"), None);
    }
}
