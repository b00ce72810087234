//! MD5 as hexadecimal digits: what `SMS-Verify` is made of. The daemon's own check is deliberately not used here.

use md5::{Digest, Md5};

/// Digest of the parts put one after the other.
pub(super) fn md5(parts: &[&str]) -> [u8; 16] {
    let mut hasher = Md5::new();
    for part in parts {
        hasher.update(part.as_bytes());
    }
    hasher.finalize().into()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{hex, md5};

    #[test]
    fn the_documented_sample_comes_out() {
        assert_eq!(hex(&md5(&["321354", "true", "Password1"])), "9db038748b3088971d913616c13e769b");
    }
}
