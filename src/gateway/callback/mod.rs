//! What InteractSMS posts to us: delivery receipts, processing results, and messages from handsets.
//!
//! Pure. Receipts and messages are believed only with the right `SMS-Verify`, an unsalted MD5 that covers a part of them
//! and can be replayed; results carry no signature at all. So a callback is only as trustworthy as the secret path it
//! came in on: nothing here is derived from a field that could be chosen freely by somebody who knows it.

mod fields;
mod inbound;
mod receipt;
mod result;
mod signature;

pub use inbound::Inbound;
pub use result::{Outcome, Processing};

use crate::config::Secret;
use crate::gateway::callback::fields::Fields;
use crate::verdict::Receipt;

/// Longest callback; one has about ten short fields, and a text of at most a few SMS.
pub const MOST_BYTES: usize = 32 * 1024;

/// A callback that may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Callback {
    Receipt(Receipt),
    Inbound(Inbound),
    Processing(Processing),
}

/// Why a callback is not used. Each variant wants another reaction from the listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallbackError {
    #[error("the callback is neither a receipt, nor a message, nor a processing result")]
    NotUnderstood,
    #[error("the callback is malformed: {0}")]
    Malformed(&'static str),
    /// Forged, or signed with a secret that is not configured.
    #[error("the SMS-Verify of the callback does not fit any configured secret; check the client secret")]
    WrongSignature,
    /// Genuine, but about a message that was not sent by us: the gateway reports its web interface's messages too.
    #[error("the callback names no message")]
    EmptyReference,
}

/// What proves that the gateway sent a callback.
#[derive(Debug, Clone, Copy)]
pub struct Proof<'a> {
    /// All are tried: the documentation names the client secret in one place and the account's password in another.
    pub secrets: &'a [Secret],
    /// Also take messages that are signed as an older page says, by a hash that covers neither number nor text.
    pub old_inbound_signature: bool,
}

/// Reads one callback, of whichever kind it is.
pub fn parse(body: &[u8], proof: Proof<'_>) -> Result<Callback, CallbackError> {
    if body.len() > MOST_BYTES {
        return Err(CallbackError::Malformed("it is too long"));
    }
    if body.trim_ascii_start().first() == Some(&b'{') {
        return result::read(body).map(Callback::Processing);
    }
    let fields = Fields::read(body)?;
    // Not by SMS-Type alone: the pages contradict each other about it.
    let notification =
        fields.text("SMS-Type", 64)?.is_some_and(|kind| kind.eq_ignore_ascii_case("notification"));
    if notification || fields.has("SMS-Success") {
        receipt::read(&fields, proof.secrets).map(Callback::Receipt)
    } else if fields.has("SMS-Content") {
        inbound::read(&fields, proof).map(Callback::Inbound)
    } else {
        Err(CallbackError::NotUnderstood)
    }
}

#[cfg(test)]
mod tests;
