//! As much of PostgreSQL's protocol 3 as it takes to tell one call from the next, and what it is called.
//!
//! Frames, the first packet of a connection, and an error in the server's form. No sockets beyond reading from one.

use std::collections::HashMap;
use std::io;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Codes in place of a protocol version, in the first packet of a connection.
const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;
/// Names of statements carry this in front; see `sql/`.
const NAMED: &str = "-- outboxd: ";

/// A message with its type and its length, as it came.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) tag: u8,
    pub(super) bytes: Vec<u8>,
}

impl Frame {
    fn body(&self) -> &[u8] {
        &self.bytes[5..]
    }

    /// Ends what the client asks for at once.
    pub(super) fn ends_request(&self) -> bool {
        matches!(self.tag, b'S' | b'Q' | b'X')
    }

    /// ReadyForQuery: the server has done all that it was asked.
    pub(super) fn ends_answer(&self) -> bool {
        self.tag == b'Z'
    }

    /// Whether a transaction is open (`T`), has failed (`E`), or neither (`I`): of a ReadyForQuery.
    pub(super) fn transaction(&self) -> u8 {
        self.body().first().copied().unwrap_or(b'I')
    }
}

/// The first packet of a connection.
#[derive(Debug)]
pub(super) enum First {
    /// May we speak another protocol? The answer is one letter.
    Encryption,
    /// Not a connection for statements; nobody answers.
    Cancel(Vec<u8>),
    Startup(Vec<u8>),
}

/// What has been read from a socket and not used yet. Reading may be given up at any time without a loss.
#[derive(Debug, Default)]
pub(super) struct Inbox(BytesMut);

impl Inbox {
    /// Waits for more. `false`: the other side has closed.
    pub(super) async fn fill(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<bool> {
        self.0.reserve(16 * 1024);
        Ok(from.read_buf(&mut self.0).await? > 0)
    }

    /// The next message, if all of it has come.
    pub(super) fn frame(&mut self) -> Option<Frame> {
        let length = self.length_at(1)? + 1;
        let bytes = self.take(length)?;
        Some(Frame { tag: bytes[0], bytes })
    }

    pub(super) fn first(&mut self) -> Option<First> {
        let length = self.length_at(0)?;
        let bytes = self.take(length)?;
        Some(match bytes.get(4..8).map(|mut code| code.get_u32()) {
            Some(SSL_REQUEST | GSSENC_REQUEST) => First::Encryption,
            Some(CANCEL_REQUEST) => First::Cancel(bytes),
            _ => First::Startup(bytes),
        })
    }

    /// Lengths count themselves.
    fn length_at(&self, at: usize) -> Option<usize> {
        let length = self.0.get(at..at + 4)?.get_u32();
        Some(usize::try_from(length).expect("32 bits fit"))
    }

    fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        (self.0.len() >= length).then(|| self.0.split_to(length).to_vec())
    }
}

/// What a request is for the count of calls.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Prepare(String),
    Run(String),
    /// Tidying up (Close, Sync): no call.
    Quiet,
    Terminate,
}

/// Names of the statements that a connection has prepared, and of what it did last in its transaction.
#[derive(Debug, Default)]
pub(super) struct Statements {
    prepared: HashMap<Vec<u8>, String>,
    last: Option<String>,
}

impl Statements {
    pub(super) fn meaning(&mut self, request: &[Frame]) -> Meaning {
        let mut name = None;
        let mut runs = false;
        for frame in request {
            match frame.tag {
                b'P' => {
                    let (statement, rest) = text(frame.body());
                    let (sql, _) = text(rest);
                    let called = name_of(&String::from_utf8_lossy(sql));
                    self.prepared.insert(statement.to_vec(), called.clone());
                    name.get_or_insert(called);
                }
                b'B' => {
                    let (_portal, rest) = text(frame.body());
                    let (statement, _) = text(rest);
                    if let Some(called) = self.prepared.get(statement) {
                        name.get_or_insert_with(|| called.clone());
                    }
                }
                b'E' => runs = true,
                b'Q' => {
                    runs = true;
                    name = Some(name_of(&String::from_utf8_lossy(text(frame.body()).0)));
                }
                b'X' => return Meaning::Terminate,
                _ => {}
            }
        }
        match (name, runs) {
            (Some(name), true) => Meaning::Run(self.in_transaction(name)),
            (Some(name), false) => Meaning::Prepare(name),
            (None, true) => Meaning::Run("?".to_owned()),
            (None, false) => Meaning::Quiet,
        }
    }

    /// A COMMIT is named after what it commits.
    fn in_transaction(&mut self, name: String) -> String {
        match name.as_str() {
            "begin" | "start" => self.last = None,
            "commit" => {
                if let Some(last) = self.last.take() {
                    return format!("commit({last})");
                }
            }
            _ => self.last = Some(name.clone()),
        }
        name
    }
}

/// The name that a statement bears, or else its first word.
fn name_of(sql: &str) -> String {
    if let Some(name) = sql.lines().find_map(|line| line.strip_prefix(NAMED)) {
        return name.trim().to_owned();
    }
    let word = sql.split_whitespace().next().unwrap_or_default();
    word.trim_end_matches(';').to_lowercase()
}

/// Up to the next zero byte, and what follows it.
fn text(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.iter().position(|byte| *byte == 0) {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, &[]),
    }
}

/// ErrorResponse, as the server would send it.
pub(super) fn error_response(severity: &str, code: &str, message: &str) -> Vec<u8> {
    let mut body = Vec::new();
    for (field, value) in [(b'S', severity), (b'V', severity), (b'C', code), (b'M', message)] {
        body.push(field);
        body.extend_from_slice(value.as_bytes());
        body.push(0);
    }
    body.push(0);
    message_of(b'E', &body)
}

pub(super) fn ready_for_query(transaction: u8) -> Vec<u8> {
    message_of(b'Z', &[transaction])
}

pub(super) fn simple_query(sql: &str) -> Vec<u8> {
    message_of(b'Q', &[sql.as_bytes(), b"\0"].concat())
}

fn message_of(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("a short message");
    let mut bytes = vec![tag];
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::{Frame, Inbox, Meaning, Statements, error_response, message_of, name_of, ready_for_query};

    fn frame(tag: u8, body: &[u8]) -> Frame {
        Frame { tag, bytes: message_of(tag, body) }
    }

    #[test]
    fn messages_are_taken_one_by_one_and_only_whole() {
        let mut inbox = Inbox::default();
        let both = [ready_for_query(b'T'), error_response("ERROR", "53100", "disk full")].concat();
        inbox.0.extend_from_slice(&both[..4]);
        assert!(inbox.frame().is_none());
        inbox.0.extend_from_slice(&both[4..both.len() - 1]);
        let ready = inbox.frame().expect("the first is whole");
        assert!(ready.ends_answer() && ready.transaction() == b'T');
        assert!(inbox.frame().is_none());
        inbox.0.extend_from_slice(&both[both.len() - 1..]);
        assert_eq!(inbox.frame().expect("and the second").tag, b'E');
    }

    #[test]
    fn a_call_is_named_by_its_statement_prepared_or_not() {
        let mut statements = Statements::default();
        let wave = b"s1\0-- outboxd: wave\nSELECT 1\0\0\0";
        let prepare = [frame(b'P', wave), frame(b'D', b"Ss1\0"), frame(b'S', b"")];
        assert_eq!(statements.meaning(&prepare), Meaning::Prepare("wave".to_owned()));
        let run = [frame(b'B', b"\0s1\0\0\0"), frame(b'E', b"\0\0\0\0\0"), frame(b'S', b"")];
        assert_eq!(statements.meaning(&run), Meaning::Run("wave".to_owned()));
        let unnamed = [frame(b'P', b"\0-- outboxd: record\nSELECT 1\0\0\0"), frame(b'B', b"\0\0\0\0")];
        let unnamed = [unnamed.to_vec(), vec![frame(b'E', b"\0\0\0\0\0"), frame(b'S', b"")]].concat();
        assert_eq!(statements.meaning(&unnamed), Meaning::Run("record".to_owned()));
        let tidy = [frame(b'C', b"Ss1\0"), frame(b'S', b"")];
        assert_eq!(statements.meaning(&tidy), Meaning::Quiet);
        assert_eq!(statements.meaning(&[frame(b'X', b"")]), Meaning::Terminate);
    }

    #[test]
    fn a_commit_is_named_after_what_it_commits() {
        let mut statements = Statements::default();
        let mut ask = |sql: &str| {
            let Meaning::Run(name) = statements.meaning(&[frame(b'Q', sql.as_bytes())]) else {
                panic!("{sql}")
            };
            name
        };
        assert_eq!(ask("START TRANSACTION\0"), "start");
        assert_eq!(ask("SET LOCAL lock_timeout = '5s'\0"), "set");
        assert_eq!(ask("-- outboxd: mark_unknown\nUPDATE x\0"), "mark_unknown");
        assert_eq!(ask("COMMIT\0"), "commit(mark_unknown)");
        assert_eq!(ask("COMMIT\0"), "commit");
        assert_eq!(name_of("BEGIN; SET LOCAL x = 1;\n-- outboxd: wave\nSELECT"), "wave");
    }
}
