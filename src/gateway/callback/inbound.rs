//! Messages from handsets: replies and opt-outs.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::gateway::callback::fields::Fields;
use crate::gateway::callback::receipt::utc_micros;
use crate::gateway::callback::signature::Signature;
use crate::gateway::callback::{CallbackError, Proof};

const VALUE_BYTES: usize = 128;

/// A message that somebody wrote.
#[derive(Clone, PartialEq, Eq)]
pub struct Inbound {
    /// Who wrote it, as the gateway gave it.
    pub sender: String,
    /// The number that it was sent to.
    pub recipient: String,
    pub text: String,
    pub network: Option<String>,
    /// The NotifyId of the message that it answers, if the gateway could tell.
    pub gateway_ref: Option<String>,
    /// The gateway's time, microseconds since 1970, if it could be read.
    pub at_us: Option<i64>,
    /// Of what came; the same for a repetition. `None`: nothing tells a repetition from a second message, and losing
    /// one would be worse than showing one twice.
    pub fingerprint: Option<String>,
}

/// Numbers and texts of real people stay out of logs, so `Debug` shows neither.
impl fmt::Debug for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbound")
            .field("recipient", &self.recipient)
            .field("network", &self.network)
            .field("gateway_ref", &self.gateway_ref)
            .finish_non_exhaustive()
    }
}

pub(super) fn read(fields: &Fields, proof: Proof<'_>) -> Result<Inbound, CallbackError> {
    let sender = fields.text("SMS-From", VALUE_BYTES)?.unwrap_or_default().trim();
    let digits = sender.strip_prefix('+').unwrap_or(sender);
    if !(3..=20).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(CallbackError::Malformed("SMS-From is not a number"));
    }
    let recipient = fields.text("SMS-To", VALUE_BYTES)?.unwrap_or_default().trim();
    let notify_id = fields.text("SMS-NotifyId", VALUE_BYTES)?.unwrap_or_default();
    let network =
        fields.text("SMS-Network", VALUE_BYTES)?.map(str::trim).filter(|network| !network.is_empty());
    let content = fields.bytes("SMS-Content").unwrap_or_default();
    let text = decode(content);
    if !is_signed(fields, content, &text, notify_id, proof)? {
        return Err(CallbackError::WrongSignature);
    }
    let time = fields.bytes("SMS-TimeStamp").filter(|time| !time.trim_ascii().is_empty());
    let fingerprint = time.map(|time| {
        fingerprint(&[digits.as_bytes(), recipient.as_bytes(), content, time, notify_id.as_bytes()])
    });
    Ok(Inbound {
        sender: sender.to_owned(),
        recipient: recipient.to_owned(),
        // PostgreSQL's texts hold no NUL.
        text: text.replace('\0', "\u{fffd}"),
        network: network.map(str::to_owned),
        gateway_ref: (!notify_id.is_empty()).then(|| notify_id.to_owned()),
        at_us: utc_micros(fields),
        fingerprint,
    })
}

/// The documentation does not name the charset, neither of the form nor of what was signed: the bytes as they came
/// count, and the same text in UTF-8 and Latin-1.
fn is_signed(
    fields: &Fields,
    content: &[u8],
    text: &str,
    notify_id: &str,
    proof: Proof<'_>,
) -> Result<bool, CallbackError> {
    let signature = Signature::of(fields)?;
    let from = fields.bytes("SMS-From").unwrap_or_default();
    let latin: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
    let mut spellings = vec![[from, content], [from, text.as_bytes()]];
    spellings.extend(latin.as_deref().map(|latin| [from, latin]));
    if proof.old_inbound_signature {
        // Copied from the page about receipts; the field for success does not exist here.
        spellings.push([notify_id.as_bytes(), b""]);
    }
    Ok(signature.fits(&spellings, proof.secrets))
}

/// UTF-8, or else Latin-1, in which every byte is a character: a reply in the wrong charset is better than none.
fn decode(content: &[u8]) -> String {
    match std::str::from_utf8(content) {
        Ok(text) => text.to_owned(),
        Err(_) => content.iter().map(|byte| char::from(*byte)).collect(),
    }
}

fn fingerprint(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        // With its length, so that no two messages run together to the same bytes.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}
