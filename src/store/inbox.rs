//! Messages from handsets: into the inbox, with what they say about opting out and the answers that go out by
//! themselves; and the list of opt-outs for people.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::types::ToSql;

use crate::message::{MessageId, NotifyRef};
use crate::store::statement::{AUTO_REPLY, INBOUND, OPT_OUT_ADD, OPT_OUT_LIST, OPT_OUT_REMOVE};
use crate::store::transaction::Transaction;
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
    /// The answer that its keyword has.
    pub auto_reply: Option<AutoReply>,
}

/// The answer to messages that begin with some word.
#[derive(Debug, Clone)]
pub struct AutoReply {
    pub template: String,
    /// Only to a message that has this effect.
    pub only_for: Option<&'static str>,
    /// No second answer to the same number and word within this time.
    pub pause: Duration,
}

/// What came of messages from handsets.
#[derive(Debug, Default)]
pub struct Received {
    /// So many were not in the inbox before.
    pub new: usize,
    /// Those that were answered by themselves, and the answers.
    pub answered: Vec<(i64, MessageId)>,
    /// Those that should have been, and why they could not.
    pub unanswered: Vec<(i64, String)>,
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
    /// Puts messages into the inbox, carries out their opt-outs and opt-ins, and queues the answers that go out by
    /// themselves: all of it or nothing.
    pub async fn receive(&self, facts: &[InboundFact]) -> Result<Received, StoreError> {
        let columns = Columns::of(facts, self.expected.get());
        if facts.iter().all(|fact| fact.auto_reply.is_none()) {
            let new = self.query(INBOUND, &columns.params()).await?.len();
            return Ok(Received { new, ..Received::default() });
        }
        let transaction = self.begin(INBOUND, self.timeout).await?;
        let rows = transaction.query(INBOUND, &columns.params()).await?;
        let new: Vec<i64> = rows.iter().map(|row| column(INBOUND, row, 0)).collect::<Result<_, _>>()?;
        let received = answer(&transaction, &new, facts).await?;
        transaction.commit().await?;
        Ok(received)
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

/// Queues the answers to these rows of the inbox, which came from these facts.
async fn answer(
    transaction: &Transaction,
    new: &[i64],
    facts: &[InboundFact],
) -> Result<Received, StoreError> {
    let mut received = Received { new: new.len(), ..Received::default() };
    let by_keyword: BTreeMap<&str, &AutoReply> =
        facts.iter().filter_map(|fact| Some((fact.keyword.as_deref()?, fact.auto_reply.as_ref()?))).collect();
    let Some(pause) = by_keyword.values().map(|reply| reply.pause.as_secs_f64()).reduce(f64::max) else {
        return Ok(received);
    };
    let keywords: Vec<&str> = by_keyword.keys().copied().collect();
    let templates: Vec<&str> = by_keyword.values().map(|reply| reply.template.as_str()).collect();
    let effects: Vec<Option<&str>> = by_keyword.values().map(|reply| reply.only_for).collect();
    let rows = transaction
        .query(
            AUTO_REPLY,
            &[
                /* ids */ &new, /* keywords */ &keywords, /* templates */ &templates,
                /* effects */ &effects, /* pause */ &pause,
            ],
        )
        .await?;
    for row in &rows {
        let message = column(AUTO_REPLY, row, 0)?;
        if let Some(answer) = column(AUTO_REPLY, row, 1)? {
            received.answered.push((message, MessageId(answer)));
        } else if let Some(problem) = column(AUTO_REPLY, row, 2)? {
            received.unanswered.push((message, problem));
        }
    }
    Ok(received)
}

/// Messages turned on their side, as `unnest` wants them.
struct Columns<'a> {
    senders: Vec<&'a str>,
    recipients: Vec<&'a str>,
    bodies: Vec<&'a str>,
    keywords: Vec<Option<&'a str>>,
    networks: Vec<Option<&'a str>>,
    refs: Vec<Option<&'a str>>,
    ids: Vec<Option<i64>>,
    attempts: Vec<Option<i32>>,
    nonces: Vec<Option<String>>,
    times: Vec<Option<i64>>,
    effects: Vec<Option<&'a str>>,
    apps: Vec<Option<&'a str>>,
    fingerprints: Vec<Option<&'a str>>,
    timeline: Option<i32>,
}

impl<'a> Columns<'a> {
    fn of(facts: &'a [InboundFact], timeline: Option<i32>) -> Columns<'a> {
        Columns {
            senders: facts.iter().map(|f| f.sender.as_str()).collect(),
            recipients: facts.iter().map(|f| f.recipient.as_str()).collect(),
            bodies: facts.iter().map(|f| f.body.as_str()).collect(),
            keywords: facts.iter().map(|f| f.keyword.as_deref()).collect(),
            networks: facts.iter().map(|f| f.network.as_deref()).collect(),
            refs: facts.iter().map(|f| f.gateway_ref.as_deref()).collect(),
            ids: facts.iter().map(|f| f.reference.map(|r| r.id.0)).collect(),
            attempts: facts.iter().map(|f| f.reference.map(|r| r.attempt)).collect(),
            nonces: facts.iter().map(|f| f.reference.map(|r| r.nonce.encode())).collect(),
            times: facts.iter().map(|f| f.at_us.map(|us| us.div_euclid(1_000_000))).collect(),
            effects: facts.iter().map(|f| f.effect).collect(),
            apps: facts.iter().map(|f| f.app.as_deref()).collect(),
            fingerprints: facts.iter().map(|f| f.fingerprint.as_deref()).collect(),
            timeline,
        }
    }

    /// As the statement counts them.
    fn params(&self) -> [&(dyn ToSql + Sync); 14] {
        [
            &self.senders,
            &self.recipients,
            &self.bodies,
            &self.keywords,
            &self.networks,
            &self.refs,
            &self.ids,
            &self.attempts,
            &self.nonces,
            &self.times,
            &self.effects,
            &self.apps,
            &self.fingerprints,
            &self.timeline,
        ]
    }
}
