//! From a seed to a schedule: what the site looks like, who inserts what, and which faults strike when.
//!
//! Pure: no clock, no process, no file. The same seed (and the same `--only` and `--messages`) gives the same schedule,
//! also where a machine cannot play all of it: what it cannot play is left out when it is played, not when it is drawn.

use std::fmt;

use crate::random::Random;
use crate::support::pair::Replication;

/// What strikes together belongs together: the table of results has a line for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Family {
    Processes,
    Postgres,
    Gateway,
    Network,
    Disk,
    Clock,
    Copies,
    Failovers,
}

pub(crate) const FAMILIES: [Family; 8] = [
    Family::Processes,
    Family::Postgres,
    Family::Gateway,
    Family::Network,
    Family::Disk,
    Family::Clock,
    Family::Copies,
    Family::Failovers,
];

impl Family {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Family::Processes => "processes",
            Family::Postgres => "postgres",
            Family::Gateway => "gateway",
            Family::Network => "network",
            Family::Disk => "disk",
            Family::Clock => "clock",
            Family::Copies => "copies",
            Family::Failovers => "failovers",
        }
    }

    /// Its kinds of faults, in the order of the table.
    pub(crate) fn kinds(self) -> Vec<&'static Kind> {
        KINDS.iter().filter(|kind| kind.family == self).collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum What {
    Kill,
    KillAll,
    Pause,
    PauseBeyondLease,
    Terminate,
    Reload,
    TerminateSessions,
    FastRestart,
    ImmediateRestart,
    KillPostmaster,
    LockRows,
    LockTable,
    LockLeader,
    ThrottleSeconds,
    ThrottleDate,
    ThrottleNonsense,
    ThrottleYear,
    FailAfterAccepting,
    ResetBefore,
    ResetAfter,
    DropAfter,
    SlowBody,
    SlowAnswer,
    NoAnswer,
    Page,
    Truncate,
    ExpireTokens,
    NoCredits,
    CloseAfter,
    Down,
    Freeze,
    Receipts,
    CutDatabase,
    RefuseDatabase,
    HalfOpenListen,
    HalfOpenLock,
    CutGateway,
    RefuseGateway,
    WalFull,
    LogFull,
    LogDevice,
    DaemonClock,
    DatabaseClock,
    Clone,
    Restored,
    FailoverSync,
    FailoverAsync,
    FailoverPaused,
    FailoverAllLost,
}

/// One kind of fault, and within which bounds it is drawn.
#[derive(Debug)]
pub(crate) struct Kind {
    pub(crate) what: What,
    pub(crate) family: Family,
    pub(crate) name: &'static str,
    /// For `--list` and the table.
    pub(crate) says: &'static str,
    /// Milliseconds that it lasts.
    lasts: (u64, u64),
    /// How many requests, rows or connections it strikes.
    count: (u64, u64),
}

const fn kind(
    what: What,
    family: Family,
    (name, says): (&'static str, &'static str),
    lasts: (u64, u64),
    count: (u64, u64),
) -> Kind {
    Kind { what, family, name, says, lasts, count }
}

const ONCE: (u64, u64) = (1, 1);
const AT_ONCE: (u64, u64) = (0, 0);

#[rustfmt::skip]
pub(crate) const KINDS: [Kind; 49] = [
    kind(What::Kill, Family::Processes, ("kill", "SIGKILL of one daemon, which is started again later"), (0, 2000), ONCE),
    kind(What::KillAll, Family::Processes, ("kill-all", "SIGKILL of every daemon at the same moment"), (0, 1500), ONCE),
    kind(What::Pause, Family::Processes, ("pause", "SIGSTOP for less than the lease, SIGCONT"), (100, 700), ONCE),
    kind(What::PauseBeyondLease, Family::Processes, ("pause-long", "SIGSTOP for longer than the lease, SIGCONT"), (2500, 4500), ONCE),
    kind(What::Terminate, Family::Processes, ("terminate", "SIGTERM, and a new start"), (0, 1000), ONCE),
    kind(What::Reload, Family::Processes, ("reload", "SIGHUP"), AT_ONCE, ONCE),
    kind(What::TerminateSessions, Family::Postgres, ("sessions", "pg_terminate_backend of every session, some times in a row"), (50, 400), (1, 5)),
    kind(What::FastRestart, Family::Postgres, ("fast", "fast shutdown and start"), (0, 1500), ONCE),
    kind(What::ImmediateRestart, Family::Postgres, ("immediate", "immediate shutdown and crash recovery"), (0, 1500), ONCE),
    kind(What::KillPostmaster, Family::Postgres, ("postmaster", "SIGKILL of the postmaster and crash recovery"), (0, 1000), ONCE),
    kind(What::LockRows, Family::Postgres, ("rows", "rows locked by somebody else"), (500, 4000), (1, 300)),
    kind(What::LockTable, Family::Postgres, ("table", "the whole outbox locked exclusively"), (300, 2500), ONCE),
    kind(What::LockLeader, Family::Postgres, ("leader-row", "the leader's row locked by somebody else"), (300, 2500), ONCE),
    kind(What::ThrottleSeconds, Family::Gateway, ("429-seconds", "429 with Retry-After in seconds"), AT_ONCE, (1, 20)),
    kind(What::ThrottleDate, Family::Gateway, ("429-date", "429 with Retry-After as a date"), AT_ONCE, (1, 20)),
    kind(What::ThrottleNonsense, Family::Gateway, ("429-nonsense", "429 with a Retry-After that is none"), AT_ONCE, (1, 20)),
    kind(What::ThrottleYear, Family::Gateway, ("429-year", "429 with a Retry-After of a year; a person resumes the gateway"), AT_ONCE, (1, 3)),
    kind(What::FailAfterAccepting, Family::Gateway, ("500-accepted", "500 although the message was accepted"), AT_ONCE, (1, 12)),
    kind(What::ResetBefore, Family::Gateway, ("reset-before", "the connection reset before accepting"), AT_ONCE, (1, 12)),
    kind(What::ResetAfter, Family::Gateway, ("reset-after", "the connection reset after accepting"), AT_ONCE, (1, 12)),
    kind(What::DropAfter, Family::Gateway, ("close-after-accepting", "the connection closed after accepting, without an answer"), AT_ONCE, (1, 12)),
    kind(What::SlowBody, Family::Gateway, ("slow-body", "an answer byte by byte"), (2, 60), (1, 20)),
    kind(What::SlowAnswer, Family::Gateway, ("slow-answer", "accepted at once, answered later, also too late"), (500, 3500), (1, 12)),
    kind(What::NoAnswer, Family::Gateway, ("no-answer", "accepted or not, and never an answer"), AT_ONCE, (1, 6)),
    kind(What::Page, Family::Gateway, ("page", "an HTML page of something in between"), AT_ONCE, (1, 12)),
    kind(What::Truncate, Family::Gateway, ("truncate", "the answer broken off"), AT_ONCE, (1, 12)),
    kind(What::ExpireTokens, Family::Gateway, ("token", "every access token ends"), (100, 300), (1, 5)),
    kind(What::NoCredits, Family::Gateway, ("credits", "no credits; later there are some, and a person resumes the gateway"), (300, 2000), ONCE),
    kind(What::CloseAfter, Family::Gateway, ("keep-alive", "a good answer, then the kept connection closed"), AT_ONCE, (1, 60)),
    kind(What::Down, Family::Gateway, ("down", "the gateway's port closed, its connections cut"), (200, 5000), ONCE),
    kind(What::Freeze, Family::Gateway, ("freeze", "requests are read and stand still; then handled, or forgotten"), (200, 4000), ONCE),
    kind(What::Receipts, Family::Gateway, ("receipts", "receipts come twice, late and in the wrong order"), (500, 4000), ONCE),
    kind(What::CutDatabase, Family::Network, ("database-dropped", "packets between one daemon and PostgreSQL dropped"), (500, 4500), ONCE),
    kind(What::RefuseDatabase, Family::Network, ("database-rejected", "packets between one daemon and PostgreSQL rejected with a reset"), (300, 3000), ONCE),
    kind(What::HalfOpenListen, Family::Network, ("listen-half-open", "packets of the listening session dropped: it looks open and hears nothing"), (2000, 6000), ONCE),
    kind(What::HalfOpenLock, Family::Network, ("lock-half-open", "packets of the session that holds the leader's lock dropped"), (2000, 5000), ONCE),
    kind(What::CutGateway, Family::Network, ("gateway-dropped", "packets to and from the gateway dropped"), (500, 4000), ONCE),
    kind(What::RefuseGateway, Family::Network, ("gateway-rejected", "packets to and from the gateway rejected with a reset"), (300, 3000), ONCE),
    kind(What::WalFull, Family::Disk, ("wal-full", "the file system of PostgreSQL's WAL is full; PostgreSQL panics"), (300, 2000), ONCE),
    kind(What::LogFull, Family::Disk, ("log-full", "the file system of the daemons' logs is full"), (500, 4000), ONCE),
    kind(What::LogDevice, Family::Disk, ("log-device", "a daemon is started with a log that takes nothing"), (500, 4000), ONCE),
    kind(What::DaemonClock, Family::Clock, ("daemon-clock", "the clock of one daemon's host stepped by so many minutes"), (1000, 5000), (1, 1560)),
    kind(What::DatabaseClock, Family::Clock, ("database-clock", "the clock of PostgreSQL's host stepped by so many minutes"), (1000, 4000), (1, 50)),
    kind(What::Clone, Family::Copies, ("clone", "the database dumped into another cluster, with a daemon of its own"), (1500, 3500), ONCE),
    kind(What::Restored, Family::Copies, ("restored", "a base backup restored to a timeline of its own an hour later, with a daemon of its own"), (1500, 3500), ONCE),
    kind(What::FailoverSync, Family::Failovers, ("failover-sync", "the primary dies, its synchronous replica is promoted after so long"), (0, 2000), ONCE),
    kind(What::FailoverAsync, Family::Failovers, ("failover-async", "the primary dies with commits of so long that its replica never had; the replica is promoted, the daemons live"), (200, 2000), ONCE),
    kind(What::FailoverPaused, Family::Failovers, ("failover-paused", "the same, and the leader stands still from before the primary's death until after the promotion"), (200, 2000), ONCE),
    kind(What::FailoverAllLost, Family::Failovers, ("failover-all-lost", "as failover-async, and every daemon is killed with the primary"), (200, 2000), ONCE),
];

impl What {
    pub(crate) fn kind(self) -> &'static Kind {
        KINDS.iter().find(|kind| kind.what == self).expect("every fault is in the table")
    }

    pub(crate) fn family(self) -> Family {
        self.kind().family
    }
}

/// Which daemon a fault is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whom {
    /// Whoever leads at that moment.
    Leader,
    Number(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) at_ms: u64,
    pub(crate) what: What,
    pub(crate) whom: Whom,
    pub(crate) lasts_ms: u64,
    pub(crate) count: u64,
    /// Dice for what else the fault has to choose.
    pub(crate) dice: u64,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.what.kind();
        write!(f, "{}/{}", kind.family.name(), kind.name)?;
        let one_daemon = matches!(
            self.what,
            What::CutDatabase | What::RefuseDatabase | What::LogDevice | What::DaemonClock
        );
        if kind.family == Family::Processes || one_daemon {
            match self.whom {
                Whom::Leader => write!(f, " leader")?,
                Whom::Number(number) => write!(f, " daemon {number}")?,
            }
        }
        if kind.count != ONCE {
            write!(f, " x{}", self.count)?;
        }
        if kind.lasts != AT_ONCE {
            write!(f, " {} ms", self.lasts_ms)?;
        }
        Ok(())
    }
}

/// The dialect of the gateway that gets most of the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    V2,
    V1Form,
    V1Json,
    Kannel,
}

/// What the site of one schedule looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Site {
    pub(crate) daemons: usize,
    pub(crate) dialect: Dialect,
    pub(crate) concurrency: u64,
    pub(crate) latency_ms: u64,
    pub(crate) jitter_ms: u64,
    pub(crate) lease_ms: u64,
    pub(crate) poll: bool,
    pub(crate) receipts: bool,
    pub(crate) resend: bool,
    /// Daemons reach PostgreSQL over TCP instead of the socket.
    pub(crate) tcp: bool,
    pub(crate) pool_size: u64,
    pub(crate) lookahead: u64,
    pub(crate) needs: Needs,
}

/// What the events need that costs something to have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    pub(crate) small_wal: bool,
    pub(crate) small_log: bool,
    pub(crate) daemon_clock: bool,
    pub(crate) database_clock: bool,
    pub(crate) clone: bool,
    pub(crate) replica: Option<Replication>,
}

/// How a client writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Habit {
    /// One row a transaction, as web applications do.
    Single,
    /// Up to 50 rows, some of it rolled back.
    Batches,
    /// Transactions that stay open for long beside those of others.
    LongOpen,
    Copy,
    /// Cancels and edits what it wrote.
    Fickle,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientPlan {
    pub(crate) habit: Habit,
    pub(crate) messages: u64,
    pub(crate) dice: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Schedule {
    pub(crate) seed: u64,
    pub(crate) families: Vec<Family>,
    pub(crate) site: Site,
    pub(crate) clients: Vec<ClientPlan>,
    /// The clients spread their messages over this time.
    pub(crate) window_ms: u64,
    /// What the daemons log.
    pub(crate) log_filter: String,
    /// In the order of their times.
    pub(crate) events: Vec<Event>,
}

/// What the command line says about all schedules.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shape {
    /// Name of a family or of a fault; nothing else is drawn.
    pub(crate) only: Option<String>,
    pub(crate) messages: Option<u64>,
    /// What the daemons log; nothing: what a site would see.
    pub(crate) log_filter: Option<String>,
}

impl Shape {
    /// The kinds of faults that may be drawn.
    fn kinds(&self) -> Vec<&'static Kind> {
        let wanted = |kind: &&Kind| {
            self.only.as_deref().is_none_or(|only| only == kind.name || only == kind.family.name())
        };
        KINDS.iter().filter(wanted).collect()
    }

    /// Whether `only` names anything.
    pub(crate) fn is_known(&self) -> bool {
        self.only.as_deref() == Some("none") || !self.kinds().is_empty()
    }
}

pub(crate) fn draw(seed: u64, shape: &Shape) -> Schedule {
    let mut random = Random::new(seed);
    let mut site = draw_site(&mut random.fork());
    let window_ms = random.between(3500, 6500);
    let clients = draw_clients(&mut random.fork(), shape);
    let families = draw_families(seed, &mut random.fork(), shape);
    let mut events = draw_events(seed, &mut random.fork(), (shape, &families), (&site, window_ms));
    let replica = prepare_failover(&mut events);
    // The socket cannot be cut, and leads to one server only.
    site.tcp |= families.contains(&Family::Network) || replica.is_some();
    // That an attempt was unknown can be lost with a primary, so that nobody could tell a second one from a doubled one.
    site.resend &= replica != Some(Replication::Asynchronous);
    let has = |what| events.iter().any(|event| event.what == what);
    site.needs = Needs {
        small_wal: has(What::WalFull),
        small_log: has(What::LogFull),
        daemon_clock: has(What::DaemonClock),
        database_clock: has(What::DatabaseClock),
        clone: has(What::Clone),
        replica,
    };
    let log_filter = shape.log_filter.clone().unwrap_or_else(|| "info".to_owned());
    Schedule { seed, families, site, clients, window_ms, log_filter, events }
}

/// There is one replica, so the first failover is the only one.
fn prepare_failover(events: &mut Vec<Event>) -> Option<Replication> {
    let first = events.iter().position(|event| event.what.family() == Family::Failovers)?;
    let mut at = 0;
    events.retain(|event| {
        at += 1;
        // A disk with room for little WAL keeps none for a replica.
        let possible = event.what.family() != Family::Failovers && event.what != What::WalFull;
        possible || at - 1 == first
    });
    let first = events.iter().find(|event| event.what.family() == Family::Failovers)?;
    let synchronous = first.what == What::FailoverSync;
    Some(if synchronous { Replication::Synchronous } else { Replication::Asynchronous })
}

fn draw_site(random: &mut Random) -> Site {
    Site {
        daemons: random.pick(&[1, 2, 2, 2, 3, 4]),
        dialect: random.pick(&[
            Dialect::V2,
            Dialect::V2,
            Dialect::V2,
            Dialect::V1Form,
            Dialect::V1Json,
            Dialect::Kannel,
        ]),
        concurrency: random.pick(&[8, 16, 32]),
        latency_ms: random.pick(&[0, 2, 5, 10]),
        jitter_ms: random.pick(&[0, 5, 20]),
        lease_ms: random.pick(&[1000, 1500, 2000]),
        poll: random.chance(25),
        receipts: random.chance(60),
        resend: random.chance(25),
        tcp: random.chance(50),
        pool_size: random.pick(&[2, 4, 6]),
        lookahead: random.pick(&[100, 500, 2000]),
        needs: Needs::default(),
    }
}

fn draw_clients(random: &mut Random, shape: &Shape) -> Vec<ClientPlan> {
    let habits = [Habit::Single, Habit::Batches, Habit::LongOpen, Habit::Copy, Habit::Fickle];
    let messages = shape.messages.unwrap_or_else(|| random.between(2600, 4400));
    let count = random.between(4, 7);
    (0..count)
        .map(|number| {
            let habit = if number < 2 { Habit::Batches } else { random.pick(&habits) };
            let share = messages / count;
            let messages = match habit {
                // One row a transaction, or seconds for each: that takes its time.
                Habit::Single | Habit::LongOpen => share / 5,
                Habit::Batches | Habit::Copy | Habit::Fickle => share + share / 4,
            };
            ClientPlan { habit, messages: messages.max(1), dice: random.next() }
        })
        .collect()
}

/// The families take turns as the first one, so that as many schedules in a row as there are families have each.
fn draw_families(seed: u64, random: &mut Random, shape: &Shape) -> Vec<Family> {
    let kinds = shape.kinds();
    let possible: Vec<Family> =
        FAMILIES.into_iter().filter(|family| kinds.iter().any(|kind| kind.family == *family)).collect();
    if possible.is_empty() {
        return Vec::new();
    }
    let turn = usize::try_from(seed % possible.len() as u64).unwrap();
    let mut drawn = vec![possible[turn]];
    for _ in 0..random.pick(&[0, 1, 1, 2, 3]) {
        let family = random.pick(&possible);
        if !drawn.contains(&family) {
            drawn.push(family);
        }
    }
    drawn
}

fn draw_events(
    seed: u64,
    random: &mut Random,
    (shape, families): (&Shape, &[Family]),
    (site, window_ms): (&Site, u64),
) -> Vec<Event> {
    let kinds = shape.kinds();
    let mut events = Vec::new();
    for (order, family) in families.iter().enumerate() {
        let possible: Vec<&Kind> = kinds.iter().copied().filter(|kind| kind.family == *family).collect();
        for number in 0..random.between(1, 3) {
            // The kinds of the first family take turns too.
            let turn = usize::try_from(seed / FAMILIES.len() as u64 % possible.len() as u64).unwrap();
            let kind = if order == 0 && number == 0 { possible[turn] } else { random.pick(&possible) };
            events.push(Event {
                at_ms: random.between(300, window_ms - 500),
                what: kind.what,
                whom: if random.chance(60) {
                    Whom::Leader
                } else {
                    Whom::Number(usize::try_from(random.next() % site.daemons as u64).unwrap())
                },
                lasts_ms: random.between(kind.lasts.0, kind.lasts.1),
                count: random.between(kind.count.0, kind.count.1),
                dice: random.next(),
            });
        }
    }
    events.sort_by_key(|event| event.at_ms);
    events
}
