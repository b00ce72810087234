//! Applications that write to the outbox while everything around them breaks. Each keeps a book of its own: what it
//! wrote, and what PostgreSQL told it about that.
//!
//! A row counts as written only when its COMMIT was acknowledged. Where the connection died in COMMIT nobody knows, so
//! such a row may or may not exist; where it died earlier, or somebody said ROLLBACK, it must not.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, pin_mut};
use tokio_postgres::{Client, Error, NoTls};

use crate::random::Random;
use crate::schedule::{ClientPlan, Habit};
use crate::template::{APP, TEMPLATES};
use crate::world::World;

/// Longest wait for the answer to one statement. Locks that faults hold are shorter.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two tries to connect.
const CONNECT_PAUSE: Duration = Duration::from_millis(50);
/// After the end of its time a client goes on for so long, to write what faults kept it from writing.
const OVERTIME: Duration = Duration::from_secs(5);

/// What PostgreSQL said about a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Acknowledged,
    /// The connection died while COMMIT was under way.
    InDoubt,
    RolledBack,
    /// Acknowledged by a primary that died before its replica had it.
    LostPerhaps,
}

/// What is to become of a message in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    Sent,
    /// Its recipient is none.
    Refused,
    /// Its time is so short that it may expire.
    SentOrExpired,
    /// Its handset is out of reach.
    Undelivered,
    /// Scheduled far ahead: it must wait.
    Scheduled,
}

#[derive(Debug, Clone)]
pub(crate) struct Written {
    /// What its texts say; an edit adds one. The books go by these, since ids may be used again after a failover.
    pub(crate) tokens: Vec<String>,
    /// Not known of rows that came by COPY.
    pub(crate) id: Option<i64>,
    pub(crate) fate: Fate,
    pub(crate) wish: Wish,
    pub(crate) cancel: Cancel,
    /// When its COMMIT was acknowledged, and when its cancellation, if they were.
    pub(crate) committed_at: Instant,
    pub(crate) cancelled_at: Instant,
}

impl Written {
    /// PostgreSQL has forgotten what it acknowledged from this time on, or perhaps it has not.
    pub(crate) fn doubt_since(&mut self, since: Instant) {
        if self.cancel == Cancel::Acknowledged && self.cancelled_at >= since {
            self.cancel = Cancel::Asked;
        }
        if self.fate == Fate::Acknowledged && self.committed_at >= since {
            self.fate = Fate::LostPerhaps;
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cancel {
    No,
    /// Nobody knows what became of the call.
    Asked,
    /// `sms.cancel` answered `cancelled`.
    Acknowledged,
}

/// A row that is about to be inserted.
#[derive(Debug)]
struct Draft {
    token: String,
    recipient: String,
    body: Option<String>,
    template: Option<&'static str>,
    params: Option<String>,
    lane: &'static str,
    ahead_s: f64,
    expires_s: Option<f64>,
    wish: Wish,
}

pub(crate) struct App<'a> {
    world: &'a World,
    number: usize,
    plan: &'a ClientPlan,
    random: Random,
    sql: Option<Client>,
    written: Vec<Written>,
}

/// How a transaction ended.
type Ended = Result<Vec<(Option<i64>, String)>, Fate>;

impl<'a> App<'a> {
    pub(crate) fn new(world: &'a World, number: usize, plan: &'a ClientPlan) -> App<'a> {
        App { world, number, plan, random: Random::new(plan.dice), sql: None, written: Vec::new() }
    }

    /// Writes what its plan says, or as much of it as it can; returns its book.
    pub(crate) async fn run(mut self) -> Vec<Written> {
        let window = Duration::from_millis(self.world.schedule.window_ms);
        let begun = Instant::now();
        while (self.written.len() as u64) < self.plan.messages && begun.elapsed() < window + OVERTIME {
            let done = self.written.len() as u64;
            let drafts = self.compose(self.plan.messages - done);
            self.write(drafts).await;
            if self.plan.habit == Habit::Fickle {
                self.reconsider().await;
            }
            // Some wait until they are behind, some write ahead of their time.
            let percent = self.random.between(20, 100);
            let in_time = self.world.schedule.window_ms * done * percent / 100 / self.plan.messages;
            tokio::time::sleep(Duration::from_millis(in_time).saturating_sub(begun.elapsed())).await;
        }
        self.written
    }

    fn compose(&mut self, left: u64) -> Vec<Draft> {
        let most = match self.plan.habit {
            Habit::Single => 1,
            Habit::Batches | Habit::LongOpen => 50,
            Habit::Copy => 200,
            Habit::Fickle => 20,
        };
        let count = self.random.between(1, most).min(left);
        (0..count).map(|n| self.draft(self.written.len() as u64 + n)).collect()
    }

    fn draft(&mut self, n: u64) -> Draft {
        let token = format!("#{}.{n}#", self.number);
        let random = &mut self.random;
        let mut wish = Wish::Sent;
        let prefix = random.pick(&["+35387", "+35387", "087", "0035387", "+35386"]);
        let mut recipient = format!("{prefix}{:07}", self.number as u64 * 1_000_000 + n);
        let lane = random.pick(&["urgent", "normal", "normal", "normal", "bulk"]);
        let plain = matches!(self.plan.habit, Habit::Copy | Habit::Single);
        let template = if random.chance(20) && !plain { Some(random.pick(&TEMPLATES).0) } else { None };
        let padding = random.between(0, 120);
        let accent = random.chance(10);
        let mut ahead_s = 0.0;
        let mut expires_s = None;
        match random.between(0, 99) {
            0 => (wish, recipient) = (Wish::Refused, format!("nobody {n}")),
            1 | 2 => {
                wish = Wish::Undelivered;
                recipient = format!("+35389{:07}", self.number as u64 * 1_000_000 + n);
            }
            3 if !plain => (wish, expires_s) = (Wish::SentOrExpired, Some(1.5)),
            // Longer than from the farthest step of a clock backwards to the farthest forwards.
            4 | 5 if !plain => expires_s = Some(3.0 * 3600.0),
            6..=12 if !plain => {
                ahead_s = f64::from(u32::try_from(random.between(200, 3000)).unwrap()) / 1000.0;
            }
            13..=30 if self.plan.habit == Habit::Fickle => (wish, ahead_s) = (Wish::Scheduled, 3600.0),
            _ => {}
        }
        let mut draft = Draft {
            token: token.clone(),
            recipient,
            body: None,
            template,
            params: None,
            lane,
            ahead_s,
            expires_s,
            wish,
        };
        if template.is_some() {
            draft.params = Some(format!(
                "{{\"token\": \"{token}\", \"name\": \"{}\"}}",
                if accent { "Łucja" } else { "Ann" }
            ));
        } else {
            let mut body = format!("{token} {}", if accent { "zażółć " } else { "" });
            let _ = write!(body, "{:x<1$}", "", usize::try_from(padding).unwrap());
            draft.body = Some(body);
        }
        draft
    }

    async fn write(&mut self, drafts: Vec<Draft>) {
        let rolls_back = self.plan.habit != Habit::Single && self.random.chance(12);
        let stays_open_ms = match self.plan.habit {
            Habit::LongOpen => self.random.between(200, 2500),
            _ if self.random.chance(5) => self.random.between(100, 1000),
            _ => 0,
        };
        if !self.connect().await {
            // The same messages come again with the next try.
            return;
        }
        let sql = self.sql.as_ref().unwrap();
        let work = async {
            match self.plan.habit {
                Habit::Single => single(sql, &drafts).await,
                habit => transaction(sql, &drafts, habit == Habit::Copy, (rolls_back, stays_open_ms)).await,
            }
        };
        let ended = tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| {
            // Nobody can say how far it came.
            self.world.note_slow_client();
            Err(Fate::InDoubt)
        });
        if ended.is_err() && !rolls_back {
            self.sql = None;
        }
        self.enter(drafts, ended);
    }

    fn enter(&mut self, drafts: Vec<Draft>, ended: Ended) {
        let (fate, mut ids) = match ended {
            Ok(ids) => (Fate::Acknowledged, ids),
            Err(fate) => (fate, Vec::new()),
        };
        let now = Instant::now();
        for draft in drafts {
            let at = ids.iter().position(|(_, text)| text.contains(&draft.token));
            let id = at.and_then(|at| ids.swap_remove(at).0);
            let (tokens, wish) = (vec![draft.token], draft.wish);
            self.written.push(Written {
                tokens,
                id,
                fate,
                wish,
                cancel: Cancel::No,
                committed_at: now,
                cancelled_at: now,
            });
        }
    }

    /// Cancels some of what it wrote lately, and gives some another text.
    async fn reconsider(&mut self) {
        let from = self.written.len().saturating_sub(20);
        for at in from..self.written.len() {
            let throw = self.random.between(0, 99);
            let Some(id) = self.written[at].id else { continue };
            if self.written[at].fate != Fate::Acknowledged || self.written[at].cancel != Cancel::No {
                continue;
            }
            let cancels = throw < 8 || (throw < 50 && self.written[at].wish == Wish::Scheduled);
            if cancels && self.connect().await {
                let sql = self.sql.as_ref().unwrap();
                let asked = async { sql.query_one("SELECT sms.cancel($1)", &[&id]).await };
                self.written[at].cancel = match tokio::time::timeout(PATIENCE, asked).await {
                    Ok(Ok(row)) if row.get::<_, Option<&str>>(0) == Some("cancelled") => Cancel::Acknowledged,
                    Ok(Ok(_)) => Cancel::No,
                    _ => {
                        self.sql = None;
                        Cancel::Asked
                    }
                };
                self.written[at].cancelled_at = Instant::now();
            } else if throw > 92 && self.written[at].tokens.len() == 1 && self.connect().await {
                let token = format!("#e{}", &self.written[at].tokens[0][1..]);
                let sql = self.sql.as_ref().unwrap();
                let edit = "UPDATE sms.outbox SET body = $2, template = NULL, params = NULL WHERE id = $1";
                let text = format!("{token} edited");
                // Whatever is said about it: the row has this text from now on, or it has not.
                let asked = tokio::time::timeout(PATIENCE, sql.execute(edit, &[&id, &text])).await;
                if !matches!(asked, Ok(Ok(_))) {
                    self.sql = None;
                }
                self.written[at].tokens.push(token);
            }
        }
    }

    async fn connect(&mut self) -> bool {
        if self.sql.as_ref().is_some_and(|sql| !sql.is_closed()) {
            return true;
        }
        // COPY is not for roles under row-level security; whoever loads in bulk is the owner.
        let role = if self.plan.habit == Habit::Copy { "postgres" } else { APP };
        let mut config = self.world.database();
        config.user(role).application_name("client");
        match tokio::time::timeout(PATIENCE, config.connect(NoTls)).await {
            Ok(Ok((client, connection))) => {
                tokio::spawn(connection);
                self.sql = Some(client);
                true
            }
            _ => {
                self.sql = None;
                tokio::time::sleep(CONNECT_PAUSE).await;
                false
            }
        }
    }
}

/// One statement that commits by itself.
async fn single(sql: &Client, drafts: &[Draft]) -> Ended {
    let draft = &drafts[0];
    let insert = "INSERT INTO sms.outbox (recipient, body, lane) VALUES ($1, $2, $3) RETURNING id, body";
    match sql.query_one(insert, &[&draft.recipient, &draft.body, &draft.lane]).await {
        Ok(row) => Ok(vec![(row.get(0), row.get(1))]),
        Err(error) => Err(after_commit(&error)),
    }
}

async fn transaction(
    sql: &Client,
    drafts: &[Draft],
    copies: bool,
    (rolls_back, stays_open_ms): (bool, u64),
) -> Ended {
    // Until COMMIT is said, whatever goes wrong undoes it all.
    let undone = |_: Error| Fate::RolledBack;
    sql.batch_execute("BEGIN").await.map_err(undone)?;
    let ids = if copies {
        copy(sql, drafts).await.map_err(undone)?;
        Vec::new()
    } else {
        insert(sql, drafts).await.map_err(undone)?
    };
    tokio::time::sleep(Duration::from_millis(stays_open_ms)).await;
    if rolls_back {
        // If this fails the connection is dead, and the transaction with it.
        let _ = sql.batch_execute("ROLLBACK").await;
        return Err(Fate::RolledBack);
    }
    sql.batch_execute("COMMIT").await.map_err(|error| after_commit(&error))?;
    Ok(ids)
}

/// What an error says about a statement that was to commit. An ERROR is the server's word that it did not; anything else
/// ended the session, and that may have been a moment after the commit.
fn after_commit(error: &Error) -> Fate {
    let refused = error.as_db_error().is_some_and(|db| db.severity() == "ERROR");
    if refused { Fate::RolledBack } else { Fate::InDoubt }
}

async fn insert(sql: &Client, drafts: &[Draft]) -> Result<Vec<(Option<i64>, String)>, Error> {
    let insert = "INSERT INTO sms.outbox (recipient, body, template, params, lane, send_after, expires_at)
        SELECT d.recipient, d.body, d.template, d.params::json, d.lane,
               CASE WHEN d.ahead > 0 THEN now() + make_interval(secs => d.ahead) END,
               now() + make_interval(secs => d.expires)
        FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::float8[], $7::float8[])
            AS d(recipient, body, template, params, lane, ahead, expires)
        RETURNING id, coalesce(params ->> 'token', body)";
    let recipients: Vec<&str> = drafts.iter().map(|draft| draft.recipient.as_str()).collect();
    let bodies: Vec<Option<&str>> = drafts.iter().map(|draft| draft.body.as_deref()).collect();
    let templates: Vec<Option<&str>> = drafts.iter().map(|draft| draft.template).collect();
    let params: Vec<Option<&str>> = drafts.iter().map(|draft| draft.params.as_deref()).collect();
    let lanes: Vec<&str> = drafts.iter().map(|draft| draft.lane).collect();
    let ahead: Vec<f64> = drafts.iter().map(|draft| draft.ahead_s).collect();
    let expires: Vec<Option<f64>> = drafts.iter().map(|draft| draft.expires_s).collect();
    let rows =
        sql.query(insert, &[&recipients, &bodies, &templates, &params, &lanes, &ahead, &expires]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

async fn copy(sql: &Client, drafts: &[Draft]) -> Result<(), Error> {
    let mut text = String::new();
    for draft in drafts {
        let body = draft.body.as_deref().unwrap_or_default();
        let _ = writeln!(text, "{}\t{body}\t{}", draft.recipient, draft.lane);
    }
    let sink = sql.copy_in("COPY sms.outbox (recipient, body, lane) FROM STDIN").await?;
    pin_mut!(sink);
    sink.send(bytes::Bytes::from(text)).await?;
    sink.close().await
}
