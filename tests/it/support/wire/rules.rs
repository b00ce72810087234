//! Which call meets which fault, and the record of what came.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::Upstream;

/// Calls that are remembered.
const KEPT_CALLS: usize = 20_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// From the first packet to being ready for statements.
    Connect,
    Prepare,
    Run,
}

/// A call as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    /// The how manyth it was of all.
    pub(crate) number: usize,
    pub(crate) connection: u32,
    pub(crate) kind: Kind,
    /// What `-- outboxd: <name>` says; without that the first word (`listen`), of a COMMIT what it commits
    /// (`commit(record)`), of a connection `connect`.
    pub(crate) name: String,
    /// What befell it.
    pub(crate) fault: Option<Fault>,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Call { number, connection, kind, name, fault } = self;
        write!(f, "{number:>5} connection {connection} {kind:?} {name}")?;
        if let Some(fault) = fault {
            write!(f, " <== {fault:?}")?;
        }
        Ok(())
    }
}

/// How a connection ends for the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// RST.
    Reset,
    /// FIN.
    Close,
}

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The server never hears of it.
    CutBefore(Cut),
    /// The server has carried it out, and the answer is lost with the connection: in doubt.
    CutAfter(Cut),
    /// The server never hears of it; this error is the answer. Codes of class 57P end the connection, as in life.
    Refuse(&'static str),
    /// It reaches the server so much later, even if nobody waits for it any more.
    Late(Duration),
    /// The server carries it out, and the answer comes so much later.
    LateAnswer(Duration),
    /// Half-open: the server never hears of it, nor of the connection's end, and nothing comes back.
    Silence,
    /// Half-open, after the server has carried it out.
    SilenceAfter,
    /// It waits here, and the server has not heard of it, until [`super::Planned::go_on`] or the client's end.
    StopBefore,
    /// Its answer waits here.
    StopAfter,
}

/// Some of the calls.
#[derive(Debug, Clone)]
pub(crate) struct Calls {
    kind: Option<Kind>,
    name: Option<String>,
    skip: usize,
    /// `None`: until the plan is lifted.
    times: Option<usize>,
}

impl Calls {
    /// All of them; as a plan, the first.
    pub(crate) fn any() -> Calls {
        Calls { kind: None, name: None, skip: 0, times: Some(1) }
    }

    pub(crate) fn of(kind: Kind) -> Calls {
        Calls { kind: Some(kind), ..Calls::any() }
    }

    pub(crate) fn named(kind: Kind, name: &str) -> Calls {
        Calls { name: Some(name.to_owned()), ..Calls::of(kind) }
    }

    /// Runs of this statement.
    pub(crate) fn running(name: &str) -> Calls {
        Calls::named(Kind::Run, name)
    }

    /// Of those, the n-th from now on; the first is 1.
    #[must_use]
    pub(crate) fn nth(self, n: usize) -> Calls {
        assert!(n > 0, "the first call is number 1");
        Calls { skip: n - 1, ..self }
    }

    /// So many in a row.
    #[must_use]
    pub(crate) fn times(self, times: usize) -> Calls {
        Calls { times: Some(times), ..self }
    }

    /// Every one until the plan is lifted.
    #[must_use]
    pub(crate) fn always(self) -> Calls {
        Calls { times: None, ..self }
    }

    pub(crate) fn fit(&self, kind: Kind, name: &str) -> bool {
        self.kind.is_none_or(|wanted| wanted == kind)
            && self.name.as_deref().is_none_or(|wanted| wanted == name)
    }
}

/// What new connections meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    Open,
    /// They are reset at once.
    Reset,
    /// They are taken and hear nothing.
    Silent,
}

/// What is asked of a connection from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Pass,
    Silence,
    Cut(Cut),
}

#[derive(Debug)]
pub(super) struct Rule {
    calls: Calls,
    fault: Fault,
    told: Arc<watch::Sender<Vec<Call>>>,
    go_on: Arc<Notify>,
}

/// A fault that is to happen now.
#[derive(Debug)]
pub(super) struct Hit {
    pub(super) fault: Fault,
    pub(super) go_on: Arc<Notify>,
    call: Call,
    told: Arc<watch::Sender<Vec<Call>>>,
}

impl Hit {
    /// To be said when it has happened.
    pub(super) fn happened(&self) {
        self.told.send_modify(|calls| calls.push(self.call.clone()));
    }

    pub(super) fn is_commit(&self) -> bool {
        self.call.name.starts_with("commit")
    }
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) upstream: Upstream,
    pub(super) door: Door,
    pub(super) rules: Vec<Rule>,
    pub(super) live: HashMap<u32, watch::Sender<Order>>,
    pub(super) count: usize,
    pub(super) seen: VecDeque<Call>,
    connections: u32,
}

impl State {
    pub(super) fn plan(
        &mut self,
        calls: Calls,
        fault: Fault,
        told: watch::Sender<Vec<Call>>,
        go_on: Arc<Notify>,
    ) {
        self.rules.push(Rule { calls, fault, told: Arc::new(told), go_on });
    }

    /// Writes a connection down.
    pub(super) fn enter(&mut self) -> (u32, watch::Receiver<Order>) {
        self.connections += 1;
        let (orders, receiver) = watch::channel(Order::Pass);
        self.live.insert(self.connections, orders);
        (self.connections, receiver)
    }

    /// Writes a call down, and says what is to befall it.
    pub(super) fn meet(&mut self, connection: u32, kind: Kind, name: String) -> Option<Hit> {
        self.count += 1;
        let mut call = Call { number: self.count, connection, kind, name, fault: None };
        let hit = self.take_rule(&mut call);
        if self.seen.len() == KEPT_CALLS {
            self.seen.pop_front();
        }
        self.seen.push_back(call);
        hit
    }

    fn take_rule(&mut self, call: &mut Call) -> Option<Hit> {
        for at in 0..self.rules.len() {
            let rule = &mut self.rules[at];
            if !rule.calls.fit(call.kind, &call.name) {
                continue;
            }
            if rule.calls.skip > 0 {
                rule.calls.skip -= 1;
                continue;
            }
            call.fault = Some(rule.fault);
            let hit = Hit {
                fault: rule.fault,
                go_on: Arc::clone(&rule.go_on),
                call: call.clone(),
                told: Arc::clone(&rule.told),
            };
            if let Some(times) = &mut rule.calls.times {
                *times -= 1;
                if *times == 0 {
                    self.rules.remove(at);
                }
            }
            return Some(hit);
        }
        None
    }
}

#[derive(Debug)]
pub(super) struct Shared(Mutex<State>);

impl Shared {
    pub(super) fn new(upstream: Upstream) -> Shared {
        Shared(Mutex::new(State {
            upstream,
            door: Door::Open,
            rules: Vec::new(),
            live: HashMap::new(),
            count: 0,
            seen: VecDeque::new(),
            connections: 0,
        }))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
