//! Three books that must agree at the end: what clients were told is committed, what the rows say, and what the gateway
//! took. Messages are told apart by their texts, because a test may use an id twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use super::eventually;
use super::site::{LIMIT, Site};

/// What clients were told is committed.
#[derive(Debug, Default)]
pub(crate) struct Committed {
    /// Texts of rows that are in the table.
    texts: BTreeSet<String>,
    /// Texts of rows that were deleted again.
    deleted: BTreeSet<String>,
}

impl Committed {
    pub(crate) fn add(&mut self, text: impl Into<String>) {
        let text = text.into();
        assert!(self.texts.insert(text.clone()), "{text} was committed twice");
    }

    pub(crate) fn add_all<T: Into<String>>(&mut self, texts: impl IntoIterator<Item = T>) {
        for text in texts {
            self.add(text);
        }
    }

    pub(crate) fn add_all_of(&mut self, other: Committed) {
        self.add_all(other.texts);
        self.deleted.extend(other.deleted);
    }

    pub(crate) fn delete(&mut self, text: &str) {
        assert!(self.texts.remove(text), "{text} was never committed");
        self.deleted.insert(text.to_owned());
    }

    pub(crate) fn len(&self) -> usize {
        self.texts.len()
    }
}

/// One row, as far as the books go.
#[derive(Debug)]
struct Row {
    status: String,
    reference: Option<String>,
}

/// The rows and the gateway's ledger, read together.
#[derive(Debug)]
struct Books {
    /// By text.
    rows: BTreeMap<String, Vec<Row>>,
    /// References under which the gateway accepted this text.
    sent: BTreeMap<String, Vec<String>>,
    /// References of results that found no row.
    noted: BTreeSet<String>,
}

impl Books {
    async fn read(site: &Site) -> Books {
        let mut rows: BTreeMap<String, Vec<Row>> = BTreeMap::new();
        let sql = "SELECT coalesce(body, ''), status, gateway_ref FROM sms.outbox";
        for row in site.sql.query(sql, &[]).await.unwrap() {
            rows.entry(row.get(0)).or_default().push(Row { status: row.get(1), reference: row.get(2) });
        }
        let sql = "SELECT gateway_ref FROM outboxd.attempt WHERE gateway_ref IS NOT NULL";
        let noted = site.sql.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
        let mut sent: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for message in site.ledger().await {
            let field = |name: &str| message[name].as_str().unwrap().to_owned();
            sent.entry(field("text")).or_default().push(field("notify_id"));
        }
        Books { rows, sent, noted }
    }

    /// Everything that is wrong, in words.
    fn faults(&self, committed: &Committed) -> Vec<String> {
        let mut faults = Vec::new();
        let known = |text: &String| committed.texts.contains(text) || committed.deleted.contains(text);
        for text in self.rows.keys().chain(self.sent.keys()).filter(|text| !known(text)) {
            faults.push(format!(
                "{text:?} was never committed: {:?} {:?}",
                self.rows.get(text),
                self.sent.get(text)
            ));
        }
        for text in &committed.texts {
            let sent = self.sent.get(text).map_or(&[][..], Vec::as_slice);
            match self.rows.get(text).map_or(&[][..], Vec::as_slice) {
                [row] => faults
                    .extend(disagreement(row, sent).map(|why| format!("{text:?} {why}: {row:?} {sent:?}"))),
                rows => faults.push(format!("{text:?} has {} rows", rows.len())),
            }
        }
        for text in &committed.deleted {
            let sent = self.sent.get(text).map_or(&[][..], Vec::as_slice);
            if self.rows.contains_key(text) {
                faults.push(format!("{text:?} was deleted and is there"));
            }
            if sent.len() > 1 {
                faults.push(format!("{text:?} was sent more than once: {sent:?}"));
            }
        }
        faults
    }
}

impl Books {
    fn note(&self, committed: &Committed) {
        Counted {
            messages: committed.texts.len() + committed.deleted.len(),
            sent: self.sent.values().map(Vec::len).sum(),
            lost: committed.texts.iter().filter(|text| !self.rows.contains_key(*text)).count(),
            doubled: self.sent.values().filter(|sent| sent.len() > 1).count(),
            unknown: self.rows.values().flatten().filter(|row| row.status == "unknown").count(),
        }
        .note();
    }
}

/// What a comparison of books counted.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) messages: usize,
    pub(super) sent: usize,
    pub(super) lost: usize,
    pub(super) doubled: usize,
    pub(super) unknown: usize,
}

impl Counted {
    /// Appends a line to `target/scenarios.tsv`, from which `tests/scenario-table` makes the table of RELIABILITY.md.
    pub(super) fn note(&self) {
        // Its thread has the name of the test.
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("?");
        let Counted { messages, sent, lost, doubled, unknown } = self;
        let line = format!("{test}\t{messages}\t{sent}\t{lost}\t{doubled}\t{unknown}\n");
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("scenarios.tsv");
        let file = OpenOptions::new().create(true).append(true).open(path);
        // Notes for people: a test does not fail for them.
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}

/// How a row and what was sent for it do not fit each other.
fn disagreement(row: &Row, sent: &[String]) -> Option<&'static str> {
    match (row.status.as_str(), sent) {
        (_, [_, _, ..]) => Some("was sent more than once"),
        ("accepted" | "delivered" | "undelivered", []) => Some("is accounted for as sent, and was not"),
        ("accepted" | "delivered" | "undelivered", [one]) => (row.reference.as_ref() != Some(one))
            .then_some("names another attempt than the one that was sent"),
        ("unknown", _) | (_, []) => None,
        (_, [_]) => Some("was sent, and its row does not say so"),
    }
}

impl Site {
    /// The three books agree: each committed message has its one row, a row that says it was sent was sent once, any
    /// other was not, and nothing else was sent.
    pub(crate) async fn assert_books(&self, committed: &Committed) {
        let books = Books::read(self).await;
        let faults = books.faults(committed);
        books.note(committed);
        let shown = &faults[..faults.len().min(20)];
        assert!(faults.is_empty(), "{} faults in the books: {shown:#?}", faults.len());
    }

    /// Waits until every committed message is sent, and then compares the books.
    pub(crate) async fn until_all_sent(&self, committed: &Committed) {
        let all = i64::try_from(committed.len()).unwrap();
        eventually(3 * LIMIT, &format!("all {all} are sent"), async || {
            let counts = self.counts().await;
            if counts.of("accepted") + counts.of("delivered") == all {
                return Ok(());
            }
            // Counting thousands of rows without a pause would keep the sender waiting.
            tokio::time::sleep(Duration::from_millis(50)).await;
            Err(counts)
        })
        .await;
        self.assert_books(committed).await;
    }

    /// Waits until what was sent for rows that are gone stands in `outboxd.attempt`.
    pub(crate) async fn until_noted(&self, committed: &Committed) {
        eventually(LIMIT, "what was sent for rows that are gone is noted", async || {
            let books = Books::read(self).await;
            let sent = committed.deleted.iter().filter_map(|text| books.sent.get(text)).flatten();
            let missing: Vec<String> = sent.filter(|one| !books.noted.contains(*one)).cloned().collect();
            if missing.is_empty() { Ok(()) } else { Err(missing) }
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::{Books, Committed, Row};

    fn books(status: &str, sent: &[&str]) -> Books {
        let row = Row { status: status.to_owned(), reference: Some("A".to_owned()) };
        let sent = sent.iter().map(|one| (*one).to_owned()).collect();
        Books {
            rows: BTreeMap::from([("text".to_owned(), vec![row])]),
            sent: BTreeMap::from([("text".to_owned(), sent)]),
            noted: BTreeSet::new(),
        }
    }

    #[test]
    fn books_that_disagree_are_caught() {
        let mut committed = Committed::default();
        committed.add("text");
        for (status, sent, faults) in [
            ("accepted", &["A"][..], 0),
            ("queued", &[], 0),
            ("unknown", &["A"], 0),
            ("unknown", &[], 0),
            ("accepted", &[], 1),
            ("accepted", &["B"], 1),
            ("accepted", &["A", "B"], 1),
            ("unknown", &["A", "A"], 1),
            ("queued", &["A"], 1),
            ("cancelled", &["A"], 1),
        ] {
            assert_eq!(books(status, sent).faults(&committed).len(), faults, "{status} {sent:?}");
        }
        let nothing = Books { rows: BTreeMap::new(), sent: BTreeMap::new(), noted: BTreeSet::new() };
        assert_eq!(nothing.faults(&committed), ["\"text\" has 0 rows"]);
        assert_eq!(
            books("accepted", &["A"]).faults(&Committed::default()).len(),
            2,
            "sent, and never committed"
        );
        committed.delete("text");
        assert_eq!(nothing.faults(&committed).len(), 0);
        assert_eq!(books("accepted", &["A"]).faults(&committed).len(), 1, "the row is still there");
    }
}
