//! `SMS-Verify`: MD5 over two fields and a secret. All candidates are compared in full, so that the time taken says
//! nothing about how near a guess was.

use md5::{Digest, Md5};

use crate::config::Secret;
use crate::gateway::callback::CallbackError;
use crate::gateway::callback::fields::Fields;

/// The signature that came with a callback.
pub(super) struct Signature([u8; 16]);

impl Signature {
    pub(super) fn of(fields: &Fields) -> Result<Signature, CallbackError> {
        let text =
            fields.text("SMS-Verify", 128)?.ok_or(CallbackError::Malformed("SMS-Verify is missing"))?;
        from_hex(text).map(Signature).ok_or(CallbackError::Malformed("SMS-Verify is not an MD5 in hex"))
    }

    /// Whether one of the spellings was signed with one of the secrets. An empty secret signs nothing.
    pub(super) fn fits(&self, spellings: &[[&[u8]; 2]], secrets: &[Secret]) -> bool {
        let mut found = false;
        for secret in secrets.iter().filter(|secret| !secret.expose().is_empty()) {
            for [first, second] in spellings {
                let hash = Md5::new()
                    .chain_update(first)
                    .chain_update(second)
                    .chain_update(secret.expose().as_bytes())
                    .finalize();
                let difference = hash.iter().zip(&self.0).fold(0, |all, (a, b)| all | (a ^ b));
                found |= difference == 0;
            }
        }
        found
    }
}

fn from_hex(text: &str) -> Option<[u8; 16]> {
    let digits = text.trim().as_bytes();
    if digits.len() != 32 {
        return None;
    }
    let mut out = [0; 16];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(out)
}
