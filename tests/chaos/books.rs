//! The comparison of the three books: what the clients' COMMITs were acknowledged for, what the rows say, and what the
//! gateway accepted.
//!
//! Pure, so that it can be tested with books that are wrong. Messages are compared by the token in their text: a row's id
//! may be used again after a failover, a token never is.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::clients::{Cancel, Fate, Wish, Written};

/// A row of the outbox.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) id: i64,
    pub(crate) token: String,
    pub(crate) status: String,
    pub(crate) held: bool,
    /// A failover may have forgotten that it was sent: it is held until a person has looked.
    pub(crate) set_aside: bool,
    /// Its time has come.
    pub(crate) due: bool,
    #[expect(dead_code, reason = "for whoever reads a finding")]
    pub(crate) attempts: i32,
    pub(crate) reference: Option<String>,
    #[expect(dead_code, reason = "for whoever reads a finding")]
    pub(crate) error: Option<String>,
}

/// A message that the gateway accepted.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) token: String,
    pub(crate) reference: String,
    pub(crate) stage: String,
    pub(crate) via: String,
    #[expect(dead_code, reason = "for whoever reads a finding")]
    pub(crate) accepted_at: String,
}

/// A line of `outboxd.attempt`: an attempt that was recorded as unknown and given up.
#[derive(Debug, Clone)]
pub(crate) struct GivenUp {
    pub(crate) id: i64,
    pub(crate) reference: Option<String>,
}

#[derive(Debug, Default)]
pub(crate) struct Books {
    /// With the number of the client.
    pub(crate) written: Vec<(usize, Written)>,
    pub(crate) rows: Vec<Row>,
    pub(crate) sent: Vec<Sent>,
    pub(crate) given_up: Vec<GivenUp>,
    /// Waves that still name messages.
    pub(crate) open_waves: Vec<String>,
    /// Every receipt was posted and taken.
    pub(crate) receipts_came: bool,
    /// Callbacks that nobody has taken, long after the faults.
    pub(crate) callbacks_waiting: u64,
    /// A replica was promoted that lacked commits.
    pub(crate) commits_were_lost: bool,
    /// The most messages that the faults may have made unknown.
    pub(crate) most_unknown: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Breach {
    /// Acknowledged, and not there; or said to be sent, and it was not.
    Lost,
    /// Accepted by the gateway more than once.
    Doubled,
    /// Neither final nor queued for a reason nor unknown.
    Stuck,
    /// The books contradict each other in another way.
    Wrong,
}

#[derive(Debug, Clone)]
pub(crate) struct Finding {
    pub(crate) breach: Breach,
    pub(crate) text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.breach, self.text)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Comparison {
    pub(crate) findings: Vec<Finding>,
    /// Rows that exist, all of them compared.
    pub(crate) messages: u64,
    pub(crate) unknown: u64,
    /// Unknown at some time, sent again by the policy.
    pub(crate) resent: u64,
    pub(crate) accepted: u64,
    /// Acknowledged by a primary that died before its replica had them.
    pub(crate) lost_with_primary: u64,
    /// Held after a failover, since they may have been sent.
    pub(crate) set_aside: u64,
}

pub(crate) fn compare(books: &Books) -> Comparison {
    let index = Index::of(books);
    let mut comparison = Comparison { messages: books.rows.len() as u64, ..Comparison::default() };
    let mut accounted: BTreeSet<&str> = BTreeSet::new();
    for (client, written) in &books.written {
        let entry = index.entry(*client, written);
        accounted.extend(written.tokens.iter().map(String::as_str));
        entry.judge(books, &mut comparison.findings);
    }
    let foreign = books.rows.iter().map(|row| row.token.as_str()).chain(index.sent.keys().copied());
    for token in foreign.filter(|token| !accounted.contains(token)).collect::<BTreeSet<_>>() {
        let text = format!("{token} is in no client's book");
        comparison.findings.push(Finding { breach: Breach::Wrong, text });
    }
    for wave in &books.open_waves {
        let text = format!("a wave was never finished: {wave}");
        comparison.findings.push(Finding { breach: Breach::Stuck, text });
    }
    if books.callbacks_waiting > 0 {
        let text = format!("{} receipts were never taken", books.callbacks_waiting);
        comparison.findings.push(Finding { breach: Breach::Stuck, text });
    }
    comparison.unknown = books.rows.iter().filter(|row| row.status == "unknown").count() as u64;
    comparison.set_aside =
        books.rows.iter().filter(|row| row.status == "queued" && row.held && row.set_aside).count() as u64;
    let lost = |(_, written): &&(usize, Written)| {
        written.fate == Fate::LostPerhaps
            && !written.tokens.iter().any(|token| index.rows.contains_key(token.as_str()))
    };
    comparison.lost_with_primary = books.written.iter().filter(lost).count() as u64;
    comparison.resent = books.given_up.len() as u64;
    comparison.accepted = books.sent.len() as u64;
    if comparison.unknown + comparison.resent > books.most_unknown {
        let text = format!(
            "{} messages became unknown, {} are the most that these faults explain",
            comparison.unknown + comparison.resent,
            books.most_unknown
        );
        comparison.findings.push(Finding { breach: Breach::Wrong, text });
    }
    comparison
}

struct Index<'a> {
    rows: BTreeMap<&'a str, Vec<&'a Row>>,
    sent: BTreeMap<&'a str, Vec<&'a Sent>>,
    given_up: BTreeMap<i64, Vec<&'a GivenUp>>,
}

impl<'a> Index<'a> {
    fn of(books: &'a Books) -> Index<'a> {
        let mut index = Index { rows: BTreeMap::new(), sent: BTreeMap::new(), given_up: BTreeMap::new() };
        for row in &books.rows {
            index.rows.entry(&row.token).or_default().push(row);
        }
        for sent in &books.sent {
            index.sent.entry(&sent.token).or_default().push(sent);
        }
        for attempt in &books.given_up {
            index.given_up.entry(attempt.id).or_default().push(attempt);
        }
        index
    }

    /// All that is known of one message.
    fn entry(&self, client: usize, written: &'a Written) -> Entry<'a> {
        let tokens = || written.tokens.iter().map(String::as_str);
        let rows: Vec<&Row> =
            tokens().flat_map(|token| self.rows.get(token).into_iter().flatten()).copied().collect();
        let sent = tokens().flat_map(|token| self.sent.get(token).into_iter().flatten()).copied().collect();
        let ids: BTreeSet<i64> = rows.iter().map(|row| row.id).collect();
        let given_up =
            ids.iter().flat_map(|id| self.given_up.get(id).into_iter().flatten()).copied().collect();
        Entry { client, written, rows, sent, given_up }
    }
}

/// One message in all three books.
struct Entry<'a> {
    client: usize,
    written: &'a Written,
    rows: Vec<&'a Row>,
    sent: Vec<&'a Sent>,
    given_up: Vec<&'a GivenUp>,
}

impl Entry<'_> {
    fn judge(&self, books: &Books, findings: &mut Vec<Finding>) {
        let mut find = |breach, sentence: &str| {
            findings.push(Finding { breach, text: format!("{sentence}\n    {self}") });
        };
        if let Some(sentence) = self.doubled() {
            find(Breach::Doubled, &sentence);
        }
        let [row] = self.rows.as_slice() else {
            match (self.rows.len(), self.written.fate) {
                (0, Fate::LostPerhaps) => {}
                (0, Fate::Acknowledged) => find(Breach::Lost, "COMMIT was acknowledged and there is no row"),
                (0, _) if !self.sent.is_empty() => find(Breach::Wrong, "sent, and there is no row"),
                (0, _) => {}
                (count, _) => find(Breach::Wrong, &format!("{count} rows")),
            }
            return;
        };
        if self.written.fate == Fate::RolledBack {
            find(Breach::Wrong, "rolled back, and there is a row");
        }
        let sent = !self.sent.is_empty();
        match row.status.as_str() {
            "accepted" | "delivered" | "undelivered" if !sent => {
                find(Breach::Lost, &format!("the row is {} and the gateway never accepted it", row.status));
            }
            "queued" if sent && row.held && row.set_aside && books.commits_were_lost => {}
            "queued" if sent => find(Breach::Wrong, "sent, and the row is queued: it would be sent again"),
            "failed" | "expired" | "cancelled" if sent && self.recorded_as_unknown() => {}
            "failed" | "expired" | "cancelled" if sent => {
                find(Breach::Wrong, &format!("sent, and the row is {}", row.status));
            }
            "queued" if row.due && !row.held => find(Breach::Stuck, "due, and nobody sends it"),
            "queued" | "accepted" | "delivered" | "undelivered" | "unknown" | "failed" | "expired"
            | "cancelled" => {}
            other => find(Breach::Stuck, &format!("the row is {other}")),
        }
        self.judge_wish(row, &mut find);
        if books.receipts_came && row.status != "delivered" && self.arrived_with_receipt() {
            find(
                Breach::Wrong,
                &format!("it arrived and its receipt was taken, and the row is {}", row.status),
            );
        }
    }

    /// Whether the row became something that nobody asked for.
    fn judge_wish(&self, row: &Row, find: &mut impl FnMut(Breach, &str)) {
        let Written { wish, cancel, .. } = self.written;
        let became = match (row.status.as_str(), wish) {
            ("cancelled", _) => *cancel != Cancel::No,
            ("queued", Wish::Scheduled) => *cancel != Cancel::Acknowledged,
            (_, Wish::Scheduled) => false,
            // Written while PostgreSQL's clock was ahead, it waits until that time has come, like any other; written before
            // that clock went ahead, it is overdue and waits for a person, who comes before its content.
            ("queued", Wish::Refused) => !row.due || row.held,
            (status, Wish::Refused) => status == "failed",
            ("failed", _) => false,
            (status, Wish::Undelivered) => status != "delivered" && status != "expired",
            (_, Wish::SentOrExpired) => true,
            (status, Wish::Sent) => status != "expired" && status != "undelivered",
        };
        if !became {
            find(Breach::Wrong, &format!("it was to be {wish:?}, and the row is {}", row.status));
        }
    }

    /// Every attempt that was accepted stands in the database as one without an answer, which was given up to be sent again.
    fn recorded_as_unknown(&self) -> bool {
        let stands = |reference: &str| {
            // Without receipts Kannel is given none: then their number must do.
            reference.is_empty()
                || self.given_up.iter().any(|attempt| attempt.reference.as_deref() == Some(reference))
        };
        self.sent.len() <= self.given_up.len() && self.sent.iter().all(|sent| stands(&sent.reference))
    }

    fn arrived_with_receipt(&self) -> bool {
        self.sent.iter().any(|sent| sent.stage == "arrived" && sent.via != "kannel")
    }

    /// More than once is allowed only for attempts that were recorded as unknown before the next was made.
    fn doubled(&self) -> Option<String> {
        if self.sent.len() <= 1 + self.given_up.len() {
            let last = self.rows.first().and_then(|row| row.reference.as_deref());
            let known = |reference: &str| {
                reference.is_empty()
                    || Some(reference) == last
                    || self.given_up.iter().any(|attempt| attempt.reference.as_deref() == Some(reference))
            };
            let stray = self.sent.iter().find(|sent| self.sent.len() > 1 && !known(&sent.reference))?;
            return Some(format!(
                "accepted {} times, {} of it never recorded as unknown",
                self.sent.len(),
                stray.reference
            ));
        }
        Some(format!("accepted {} times", self.sent.len()))
    }
}

impl fmt::Display for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Written { tokens, id, fate, wish, cancel, .. } = self.written;
        write!(
            f,
            "client {} wrote {tokens:?} id {id:?}: {fate:?}, {wish:?}, cancel {cancel:?}",
            self.client
        )?;
        for row in &self.rows {
            write!(f, "\n    {row:?}")?;
        }
        for sent in &self.sent {
            write!(f, "\n    {sent:?}")?;
        }
        for attempt in &self.given_up {
            write!(f, "\n    {attempt:?}")?;
        }
        Ok(())
    }
}
