//! What a message is: its identity, its place in the queue, its states.
//!
//! Pure: nothing here reads a clock, a socket or a table. The SQL side of the state machine is
//! `outboxd.may_become` in `sql/migrations/0001_native.sql`; a test compares the two.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Primary key of a row in the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MessageId(pub i64);

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of an attempt to send one message, counted from 1.
pub type AttemptNo = i32;

/// Three queues of differing urgency; each is read with a watermark of its own, so that none waits for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    Urgent,
    Normal,
    Bulk,
}

impl Lane {
    pub const ALL: [Lane; 3] = [Lane::Urgent, Lane::Normal, Lane::Bulk];

    pub const fn as_str(self) -> &'static str {
        match self {
            Lane::Urgent => "urgent",
            Lane::Normal => "normal",
            Lane::Bulk => "bulk",
        }
    }

    pub fn parse(text: &str) -> Option<Lane> {
        Lane::ALL.into_iter().find(|lane| lane.as_str() == text)
    }

    /// Index into arrays that hold one entry a lane.
    pub const fn index(self) -> usize {
        match self {
            Lane::Urgent => 0,
            Lane::Normal => 1,
            Lane::Bulk => 2,
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The states of a message, as they stand in the `status` column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Waits for its turn, for its time, or for a person (`held`).
    Queued,
    /// A request left and its answer never came: it may or may not have been accepted.
    Unknown,
    /// The gateway took it.
    Accepted,
    Delivered,
    Undelivered,
    /// It will not be sent; `error` says why.
    Failed,
    Expired,
    Cancelled,
}

impl Status {
    pub const ALL: [Status; 8] = [
        Status::Queued,
        Status::Unknown,
        Status::Accepted,
        Status::Delivered,
        Status::Undelivered,
        Status::Failed,
        Status::Expired,
        Status::Cancelled,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Status::Queued => "queued",
            Status::Unknown => "unknown",
            Status::Accepted => "accepted",
            Status::Delivered => "delivered",
            Status::Undelivered => "undelivered",
            Status::Failed => "failed",
            Status::Expired => "expired",
            Status::Cancelled => "cancelled",
        }
    }

    pub fn parse(text: &str) -> Option<Status> {
        Status::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// Nothing more happens to it by itself. (A late receipt may still correct it: the truth wins.)
    pub const fn is_final(self) -> bool {
        match self {
            Status::Queued | Status::Unknown | Status::Accepted => false,
            Status::Delivered
            | Status::Undelivered
            | Status::Failed
            | Status::Expired
            | Status::Cancelled => true,
        }
    }

    /// Whether the state machine has an arrow from here to `next`.
    ///
    /// The same status again is not an arrow. `Failed`/`Undelivered`/`Expired` to `Queued` is `sms.retry`;
    /// `Cancelled` to a result is a cancel that came after the request had left.
    pub const fn may_become(self, next: Status) -> bool {
        use Status::{Accepted, Cancelled, Delivered, Expired, Failed, Queued, Undelivered, Unknown};
        match self {
            Queued => {
                matches!(next, Accepted | Failed | Expired | Cancelled | Unknown | Delivered | Undelivered)
            }
            Unknown => matches!(next, Accepted | Delivered | Undelivered | Failed | Queued),
            Accepted => matches!(next, Delivered | Undelivered | Failed | Queued),
            Cancelled => matches!(next, Accepted | Delivered | Undelivered | Unknown),
            Failed | Undelivered | Expired => matches!(next, Queued | Delivered),
            Delivered => false,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Place of a row in its lane: rows are read in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// `send_after`, microseconds as PostgreSQL counts them (since 2000; the extremes are its infinities).
    pub send_after_us: i64,
    pub id: MessageId,
}

impl Position {
    /// Before every row.
    pub const START: Position = Position { send_after_us: i64::MIN, id: MessageId(i64::MIN) };
    /// After every row.
    pub const END: Position = Position { send_after_us: i64::MAX, id: MessageId(i64::MAX) };

    /// The last place before this one: reading on from there finds this row again.
    pub const fn before(self) -> Position {
        match self.id.0.checked_sub(1) {
            Some(id) => Position { send_after_us: self.send_after_us, id: MessageId(id) },
            None => Position { send_after_us: self.send_after_us.saturating_sub(1), id: MessageId(i64::MAX) },
        }
    }
}

/// When a row was inserted, in microseconds as PostgreSQL counts them. With the id it tells a message from another that is
/// given the same id later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreatedAt(pub i64);

/// The row's `xmin`: changes whenever anybody updates the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowVersion(pub u32);

/// A queued row as it was read from the outbox.
#[derive(Clone, PartialEq)]
pub struct OutboxRow {
    pub id: MessageId,
    pub version: RowVersion,
    pub lane: Lane,
    pub send_after_us: i64,
    /// With the id, tells the message from another that was given the same id later.
    pub row_made: CreatedAt,
    /// Attempts made so far; the next one is `attempts + 1`.
    pub attempts: AttemptNo,
    pub recipient: Option<String>,
    pub body: Option<String>,
    pub template: Option<String>,
    /// Wanted language of the template, if any.
    pub language: Option<String>,
    /// Text of the JSON object in `params`; parsed only when a template needs it.
    pub params: Option<String>,
    pub sender: Option<String>,
    pub gateway: Option<String>,
}

impl OutboxRow {
    pub fn position(&self) -> Position {
        Position { send_after_us: self.send_after_us, id: self.id }
    }
}

/// Numbers and texts of real people stay out of logs, so `Debug` shows neither.
impl fmt::Debug for OutboxRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboxRow")
            .field("id", &self.id)
            .field("lane", &self.lane)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

/// A template as it stands in the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateRow {
    pub name: String,
    /// Empty: the default.
    pub language: String,
    pub body: String,
    /// Also for people who opted out.
    pub transactional: bool,
}

/// A message ready for a gateway: number normalised, text rendered, encoding chosen.
#[derive(Clone, PartialEq)]
pub struct Outgoing {
    pub id: MessageId,
    pub attempt: AttemptNo,
    /// International digits without `+`, for example `353871234567`.
    pub recipient: String,
    pub text: String,
    pub sender: String,
    pub encoding: Encoding,
    pub segments: i16,
    /// What the gateway gets as NotifyId; see [`NotifyRef`].
    pub gateway_ref: String,
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing")
            .field("id", &self.id)
            .field("attempt", &self.attempt)
            .field("segments", &self.segments)
            .field("gateway_ref", &self.gateway_ref)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Encoding {
    #[serde(rename = "gsm7")]
    Gsm7,
    #[serde(rename = "ucs2")]
    Ucs2,
}

impl Encoding {
    pub const fn as_str(self) -> &'static str {
        match self {
            Encoding::Gsm7 => "gsm7",
            Encoding::Ucs2 => "ucs2",
        }
    }
}

/// Why a row cannot be sent: a stable code and a sentence for the author of the row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: &'static str,
    pub reason: String,
}

impl Refusal {
    pub fn new(code: &'static str, reason: impl Into<String>) -> Refusal {
        Refusal { code, reason: reason.into() }
    }
}

/// Random per takeover of leadership, and kept in every wave: 40 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nonce(u64);

impl Nonce {
    pub const fn from_bits(bits: u64) -> Nonce {
        Nonce(bits & 0xff_ffff_ffff)
    }

    pub const fn bits(self) -> u64 {
        self.0
    }

    pub fn parse(text: &str) -> Option<Nonce> {
        (text.len() == 8).then(|| parse_base32(text).map(Nonce))?
    }

    /// Eight characters, as they stand in a NotifyId and in `outboxd.leader.nonce`.
    pub fn encode(self) -> String {
        let mut text = String::with_capacity(8);
        push_base32(&mut text, self.0, 8);
        text
    }
}

/// The reference that a gateway echoes in its receipts: `base32(id)-nonce-attempt`, at most 30 characters.
///
/// The id finds the row by primary key. The nonce keeps an id that was used again after a failover that lost
/// commits from being mistaken for the old one. The attempt tells a resend from the first try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NotifyRef {
    pub id: MessageId,
    pub nonce: Nonce,
    pub attempt: AttemptNo,
}

impl NotifyRef {
    pub fn encode(self) -> String {
        let id = self.id.0.cast_unsigned();
        let digits = (64 - id.leading_zeros()).div_ceil(5).max(1) as usize;
        let mut text = String::with_capacity(30);
        push_base32(&mut text, id, digits);
        text.push('-');
        push_base32(&mut text, self.nonce.0, 8);
        text.push('-');
        text.push_str(&self.attempt.to_string());
        text
    }

    /// Reads what a callback echoed. Letter case is forgiven, nothing else is.
    pub fn parse(text: &str) -> Option<NotifyRef> {
        if text.len() > 40 {
            return None;
        }
        let mut parts = text.split('-');
        let (id, nonce, attempt) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() || nonce.len() != 8 || !attempt.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let attempt: AttemptNo = attempt.parse().ok().filter(|n| *n >= 1)?;
        // An application may bring negative ids; they travel as their bit pattern.
        let id = parse_base32(id)?.cast_signed();
        Some(NotifyRef { id: MessageId(id), nonce: Nonce::parse(nonce)?, attempt })
    }
}

/// Crockford's alphabet: no I, L, O, U, so that a reference survives being read aloud.
const BASE32: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

fn push_base32(out: &mut String, value: u64, digits: usize) {
    for digit in (0..digits).rev() {
        let index = (value >> (digit * 5)) & 31;
        out.push(char::from(BASE32[index as usize]));
    }
}

fn parse_base32(text: &str) -> Option<u64> {
    if text.is_empty() || text.len() > 13 {
        return None;
    }
    text.bytes().try_fold(0_u64, |value, byte| {
        let digit = BASE32.iter().position(|b| *b == byte.to_ascii_uppercase())? as u64;
        value.checked_mul(32)?.checked_add(digit)
    })
}

/// `353871234567` → `3538*****67`: enough to recognise a number in a log, too little to call it.
pub fn mask_msisdn(number: &str) -> String {
    let chars: Vec<char> = number.chars().collect();
    if chars.len() < 8 {
        return "*".repeat(chars.len().min(16));
    }
    let shown_tail = chars.len() - 2;
    chars
        .iter()
        .enumerate()
        .take(24)
        .map(|(at, c)| if at < 4 || at >= shown_tail { *c } else { '*' })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::{MessageId, Nonce, NotifyRef, Status, mask_msisdn};

    proptest! {
        #[test]
        fn a_notify_ref_survives_the_round_trip(id in any::<i64>(), nonce in any::<u64>(), attempt in 1_i32..100_000) {
            let reference = NotifyRef { id: MessageId(id), nonce: Nonce::from_bits(nonce), attempt };
            let text = reference.encode();
            prop_assert!(text.len() <= 30, "{} is too long", text);
            prop_assert_eq!(NotifyRef::parse(&text), Some(reference));
            prop_assert_eq!(NotifyRef::parse(&text.to_lowercase()), Some(reference));
        }

        #[test]
        fn parsing_a_foreign_reference_never_panics(text in ".{0,60}") {
            let _ = NotifyRef::parse(&text);
        }
    }

    #[test]
    fn foreign_references_are_refused() {
        for text in
            ["", "1", "order-001", "1-00000000-0", "1-00000000-+1", "1-0000000-1", "ZZZZZZZZZZZZZ-00000000-1"]
        {
            assert_eq!(NotifyRef::parse(text), None, "{text}");
        }
    }

    #[test]
    fn delivered_is_the_end_and_nothing_becomes_itself() {
        for from in Status::ALL {
            assert!(!from.may_become(from), "{from}");
            assert!(!Status::Delivered.may_become(from), "{from}");
        }
    }

    #[test]
    fn masks_keep_the_middle_hidden() {
        assert_eq!(mask_msisdn("353871234567"), "3538******67");
        assert_eq!(mask_msisdn("12345"), "*****");
    }
}
