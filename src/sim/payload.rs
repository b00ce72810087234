//! The bodies of callbacks, field by field as documented.

use serde_json::json;

use crate::sim::callbacks::{Inbound, Processing, Report};
use crate::sim::digest::{hex, md5};
use crate::sim::form;
use crate::sim::ledger::{Dlr, Slip};
use crate::sim::settings::{HashedBoolean, Settings, Signature, SignedWith};
use crate::sim::stamp;

/// A delivery receipt.
pub(super) fn receipt(settings: &Settings, report: &Report) -> String {
    let receipts = &settings.callbacks.receipts;
    let posted = if report.delivered { "True" } else { "False" };
    let hashed = match receipts.signature.boolean {
        HashedBoolean::Lower => {
            if report.delivered {
                "true"
            } else {
                "false"
            }
        }
        HashedBoolean::AsPosted => posted,
    };
    let signature = Signature { forged: receipts.signature.forged || report.forged, ..receipts.signature };
    let verify = sign(settings, signature, [&report.notify_id, hashed]);
    let (sent, failed) = if report.delivered { ("1", "0") } else { ("0", "1") };
    form::encode(&[
        ("SMS-Type", "Notification"),
        (&receipts.id_field, &report.notify_id),
        ("SMS-Success", posted),
        ("SMS-To", &report.number),
        ("SMS-From", &report.sender),
        ("SMS-Verify", &verify),
        ("SMS-TotalToSend", "1"),
        ("SMS-TotalSent", sent),
        ("SMS-TotalFailed", failed),
        ("SMS-TimeStamp", &stamp::seconds(report.at_us)),
    ])
}

/// A message from a handset.
pub(super) fn inbound(settings: &Settings, inbound: &Inbound) -> String {
    let from = inbound.from.to_string();
    let forged = settings.callbacks.receipts.signature.forged;
    let secret = Signature { secret: SignedWith::ClientSecret, boolean: HashedBoolean::Lower, forged };
    let verify = sign(settings, secret, [&from, &inbound.text]);
    let stops = inbound.to == "50123";
    let phrase = inbound.text.split_whitespace().next().filter(|_| stops).unwrap_or("*");
    form::encode(&[
        ("SMS-Type", if stops { "Text" } else { "AuthCode" }),
        ("SMS-Content", &inbound.text),
        ("SMS-Keyphrase", phrase),
        ("SMS-Network", "272/1"),
        ("SMS-From", &from),
        ("SMS-To", &inbound.to),
        ("SMS-NotifyId", &inbound.notify_id),
        ("SMS-Verify", &verify),
        ("SMS-TimeStamp", &stamp::seconds(inbound.at_us)),
        ("SMS-AuthCode", "AUTH:reply/1"),
        ("SMS-GroupCode", "AUTH:G353/*"),
    ])
}

/// A v2 processing result.
pub(super) fn processing(note: &Processing) -> String {
    let mut body = json!({
        "Status": note.status, "FinishedAt": stamp::ticks(stamp::now_us()), "Message": note.message,
    });
    if let (Some(id), Some(body)) = (&note.notify_id, body.as_object_mut()) {
        body.insert("NotifyId".into(), json!(id));
    }
    body.to_string()
}

/// The URL of a Kannel-like receipt: `%d` and the other escapes filled in.
pub(super) fn dlr_url(dlr: &Dlr, slip: &Slip, delivered: bool) -> String {
    let mut url = String::with_capacity(dlr.url.len() + 32);
    let mut rest = dlr.url.as_str();
    while let Some((before, after)) = rest.split_once('%') {
        url.push_str(before);
        let mut chars = after.chars();
        match chars.next() {
            Some('d') => url.push(if delivered { '1' } else { '2' }),
            // A report travels from the handset to us, so the handset is its sender.
            Some('p') => url.push_str(&slip.number.to_string()),
            Some('P') => url.push_str(&form::escape(&slip.sender)),
            Some('t') => url.push_str(&form::escape(&stamp::seconds(slip.finished_us))),
            Some('i') => url.push_str("sim"),
            Some('I') => url.push_str(&form::escape(&slip.notify_id)),
            Some('A') => url.push_str(if delivered { "stat%3ADELIVRD" } else { "stat%3AUNDELIV" }),
            Some('%') => url.push('%'),
            // Not one of ours, for example the client's own percent-encoding.
            Some(other) => url.extend(['%', other]),
            None => url.push('%'),
        }
        rest = chars.as_str();
    }
    url.push_str(rest);
    url
}

fn sign(settings: &Settings, signature: Signature, [first, second]: [&str; 2]) -> String {
    let secret = match signature.secret {
        SignedWith::ClientSecret => &settings.account.client_secret,
        SignedWith::Password => &settings.account.password,
    };
    let salt = if signature.forged { "forged" } else { "" };
    hex(&md5(&[first, second, secret, salt]))
}
