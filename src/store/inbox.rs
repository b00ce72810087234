//! Messages from handsets: into the inbox, with what they say about opting out; and the list of opt-outs for people.

use std::fmt;

use jiff::Timestamp;

use crate::message::NotifyRef;
use crate::store::statement::{INBOUND, OPT_OUT_ADD, OPT_OUT_LIST, OPT_OUT_REMOVE};
use crate::store::{Store, StoreError, column};

/// A verified message from a handset.
#[derive(Clone)]
pub struct InboundFact {
    /// International digits where it is such a number.
    pub sender: String,
    pub recipient: String,
    pub body: String,
    pub keyword: Option<String>,
    pub network: Option<String>,
    /// The NotifyId that came with it, and what it names if it is one of ours in form.
    pub gateway_ref: Option<String>,
    pub reference: Option<NotifyRef>,
    /// The gateway's time, microseconds since 1970.
    pub at_us: Option<i64>,
    pub effect: Option<&'static str>,
    /// Whose it is if it answers no message.
    pub app: Option<String>,
    pub fingerprint: Option<String>,
}

/// Somebody who wants no messages.
#[derive(Clone)]
pub struct OptedOut {
    /// International digits.
    pub msisdn: String,
    /// Whose messages are not wanted; empty: nobody's.
    pub app: String,
    /// `None`: now.
    pub since: Option<Timestamp>,
    pub source: String,
    pub reason: Option<String>,
}

/// Numbers of real people stay out of logs.
impl fmt::Debug for OptedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OptedOut")
            .field("app", &self.app)
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

/// Numbers and texts of real people stay out of logs, so `Debug` shows neither.
impl fmt::Debug for InboundFact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InboundFact")
            .field("recipient", &self.recipient)
            .field("gateway_ref", &self.gateway_ref)
            .field("effect", &self.effect)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Puts messages into the inbox, and carries out their opt-outs and opt-ins. Returns how many were new.
    pub async fn receive(&self, facts: &[InboundFact]) -> Result<usize, StoreError> {
        let senders: Vec<&str> = facts.iter().map(|f| f.sender.as_str()).collect();
        let recipients: Vec<&str> = facts.iter().map(|f| f.recipient.as_str()).collect();
        let bodies: Vec<&str> = facts.iter().map(|f| f.body.as_str()).collect();
        let keywords: Vec<Option<&str>> = facts.iter().map(|f| f.keyword.as_deref()).collect();
        let networks: Vec<Option<&str>> = facts.iter().map(|f| f.network.as_deref()).collect();
        let refs: Vec<Option<&str>> = facts.iter().map(|f| f.gateway_ref.as_deref()).collect();
        let ids: Vec<Option<i64>> = facts.iter().map(|f| f.reference.map(|r| r.id.0)).collect();
        let attempts: Vec<Option<i32>> = facts.iter().map(|f| f.reference.map(|r| r.attempt)).collect();
        let nonces: Vec<Option<String>> =
            facts.iter().map(|f| f.reference.map(|r| r.nonce.encode())).collect();
        let times: Vec<Option<i64>> =
            facts.iter().map(|f| f.at_us.map(|us| us.div_euclid(1_000_000))).collect();
        let effects: Vec<Option<&str>> = facts.iter().map(|f| f.effect).collect();
        let apps: Vec<Option<&str>> = facts.iter().map(|f| f.app.as_deref()).collect();
        let fingerprints: Vec<Option<&str>> = facts.iter().map(|f| f.fingerprint.as_deref()).collect();
        let rows = self
            .query(
                INBOUND,
                &[
                    &senders,
                    &recipients,
                    &bodies,
                    &keywords,
                    &networks,
                    &refs,
                    &ids,
                    &attempts,
                    &nonces,
                    &times,
                    &effects,
                    &apps,
                    &fingerprints,
                    /* timeline */ &self.expected.get(),
                ],
            )
            .await?;
        Ok(rows.len())
    }

    /// Adds opt-outs; a number stands once for each app. Returns how many were not opted out before.
    pub async fn add_opt_outs(&self, entries: &[OptedOut]) -> Result<usize, StoreError> {
        let numbers: Vec<&str> = entries.iter().map(|e| e.msisdn.as_str()).collect();
        let apps: Vec<&str> = entries.iter().map(|e| e.app.as_str()).collect();
        let since: Vec<Option<Timestamp>> = entries.iter().map(|e| e.since).collect();
        let sources: Vec<&str> = entries.iter().map(|e| e.source.as_str()).collect();
        let reasons: Vec<Option<&str>> = entries.iter().map(|e| e.reason.as_deref()).collect();
        let rows = self
            .query(
                OPT_OUT_ADD,
                &[
                    /* numbers */ &numbers, /* apps */ &apps, /* since */ &since,
                    /* sources */ &sources, /* reasons */ &reasons,
                ],
            )
            .await?;
        Ok(rows.len())
    }

    /// Ends every opt-out of these numbers. Returns those that had one.
    pub async fn remove_opt_outs(&self, numbers: &[String]) -> Result<Vec<String>, StoreError> {
        let rows = self.query(OPT_OUT_REMOVE, &[/* numbers */ &numbers]).await?;
        rows.iter().map(|row| column(OPT_OUT_REMOVE, row, 0)).collect()
    }

    /// The next opt-outs after this number and app, at most 1,000.
    pub async fn opt_outs(&self, after: (&str, &str)) -> Result<Vec<OptedOut>, StoreError> {
        let rows = self.query(OPT_OUT_LIST, &[/* number */ &after.0, /* app */ &after.1]).await?;
        rows.iter()
            .map(|row| {
                Ok(OptedOut {
                    msisdn: column(OPT_OUT_LIST, row, 0)?,
                    app: column(OPT_OUT_LIST, row, 1)?,
                    since: Some(column(OPT_OUT_LIST, row, 2)?),
                    source: column(OPT_OUT_LIST, row, 3)?,
                    reason: column(OPT_OUT_LIST, row, 4)?,
                })
            })
            .collect()
    }
}
