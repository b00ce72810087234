//! A proxy between the daemon and PostgreSQL that understands their protocol and makes faults where they happen in life:
//! on the wire. The daemon is the one that is shipped; nothing in it knows of this.
//!
//! It counts *calls*: making a connection, preparing a statement, running one (extended or simple protocol; a COMMIT
//! counts as well). What only tidies up (Close, a lone Sync) passes uncounted. A [`Fault`] is planned for some calls
//! ([`Calls`]), and happens when they come:
//!
//! ```ignore
//! let wire = Wire::to_cluster();
//! let cut = wire.plan(Calls::running("wave").nth(1), Fault::CutAfter(Cut::Reset));
//! let daemon = Daemon::start(&config_with(wire.url(role, database))).await;
//! cut.reached(LIMIT).await;
//! ```
//!
//! Requests of one connection pass one after the other, answers as a whole. COPY and Flush are not understood. It runs
//! on a thread of its own, so that a test that blocks stops nobody.

mod connection;
mod protocol;
mod rules;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot, watch};
use tokio_postgres::config::Host;

pub(crate) use rules::{Call, Calls, Cut, Door, Fault, Kind};

use super::eventually;
use super::postgres::cluster;
use rules::Shared;

/// Calls that a failing test shows.
const SHOWN_CALLS: usize = 120;

/// Where the server is.
#[derive(Debug, Clone)]
pub(crate) enum Upstream {
    Socket(PathBuf),
    Tcp(SocketAddr),
}

/// A running proxy. Its connections end when this is dropped; if the test is failing then, the last calls are shown.
#[derive(Debug)]
pub(crate) struct Wire {
    port: u16,
    shared: Arc<Shared>,
    /// Dropped, it ends the thread.
    _running: oneshot::Sender<()>,
}

impl Wire {
    /// A proxy to the throwaway cluster, through its socket: it trusts everybody, so no password is needed.
    pub(crate) fn to_cluster() -> Wire {
        let config = cluster("postgres");
        let [Host::Unix(directory)] = config.get_hosts() else {
            panic!("OUTBOXD_TEST_PG names no socket directory: {:?}", config.get_hosts());
        };
        let socket = directory.join(format!(".s.PGSQL.{}", config.get_ports()[0]));
        Wire::start(Upstream::Socket(socket))
    }

    pub(crate) fn start(upstream: Upstream) -> Wire {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::new(upstream));
        let (running, stopped) = oneshot::channel();
        let listening = Arc::clone(&shared);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    error = connection::accept(&listener, &listening) => panic!("the proxy cannot accept: {error}"),
                    _ = stopped => {}
                }
            });
        });
        Wire { port, shared, _running: running }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Connection string for the daemon.
    pub(crate) fn url(&self, role: &str, database: &str) -> String {
        format!("postgresql://{role}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// Where connections lead that are made from now on.
    pub(crate) fn lead_to(&self, upstream: Upstream) {
        self.shared.lock().upstream = upstream;
    }

    /// Plans a fault. Of several plans that fit a call the first one counts; each counts its `nth` for itself, from now
    /// on.
    pub(crate) fn plan(&self, calls: Calls, fault: Fault) -> Planned {
        let (told, happened) = watch::channel(Vec::new());
        let go_on = Arc::new(Notify::new());
        self.shared.lock().plan(calls, fault, told, Arc::clone(&go_on));
        Planned { happened, go_on }
    }

    /// Forgets every plan. What has happened has happened: a connection that is silent stays so.
    pub(crate) fn lift(&self) {
        self.shared.lock().rules.clear();
    }

    /// What new connections meet.
    pub(crate) fn door(&self, door: Door) {
        self.shared.lock().door = door;
    }

    /// Ends every connection that there is, silent ones too.
    pub(crate) fn cut_all(&self, cut: Cut) {
        for order in self.shared.lock().live.values() {
            order.send_replace(rules::Order::Cut(cut));
        }
    }

    /// All that there are are half-open from now on.
    pub(crate) fn silence_all(&self) {
        for order in self.shared.lock().live.values() {
            order.send_replace(rules::Order::Silence);
        }
    }

    pub(crate) fn cut(&self, connection: u32, cut: Cut) {
        self.order(connection, rules::Order::Cut(cut));
    }

    /// Half-open from now on: nothing passes in either direction, not even the connection's end.
    pub(crate) fn silence(&self, connection: u32) {
        self.order(connection, rules::Order::Silence);
    }

    fn order(&self, connection: u32, order: rules::Order) {
        match self.shared.lock().live.get(&connection) {
            Some(orders) => _ = orders.send_replace(order),
            None => panic!("connection {connection} has ended"),
        }
    }

    /// How many connections there are.
    pub(crate) fn connections(&self) -> usize {
        self.shared.lock().live.len()
    }

    /// The living connection that ran this statement last, for example `confirm` (the leader's) or `listen`.
    pub(crate) async fn connection_of(&self, limit: Duration, statement: &str) -> u32 {
        eventually(limit, &format!("a connection has run `{statement}`"), async || {
            let state = self.shared.lock();
            let mut calls = state.seen.iter().rev();
            let found =
                calls.find(|call| call.name == statement && state.live.contains_key(&call.connection));
            found.map(|call| call.connection).ok_or("none")
        })
        .await
    }

    /// How many calls there have been.
    pub(crate) fn count(&self) -> usize {
        self.shared.lock().count
    }

    /// The calls so far, the oldest first; only the last ones of very many.
    pub(crate) fn seen(&self) -> Vec<Call> {
        self.shared.lock().seen.iter().cloned().collect()
    }

    /// The last calls and what befell them, a line each, for a failure's message.
    pub(crate) fn story(&self) -> String {
        let seen = self.seen();
        let shown = &seen[seen.len().saturating_sub(SHOWN_CALLS)..];
        shown.iter().map(|call| format!("{call}\n")).collect()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- calls through the proxy (the last of {})\n{}---", self.count(), self.story());
        }
    }
}

/// A fault that was planned.
#[derive(Debug)]
pub(crate) struct Planned {
    happened: watch::Receiver<Vec<Call>>,
    go_on: Arc<Notify>,
}

impl Planned {
    /// Waits until it has happened, and returns the call that it befell first.
    pub(crate) async fn reached(&self, limit: Duration) -> Call {
        let mut happened = self.happened.clone();
        let Ok(call) = tokio::time::timeout(limit, happened.wait_for(|calls| !calls.is_empty())).await else {
            panic!("the planned call did not come within {limit:?}");
        };
        call.expect("the plan was lifted before it happened")[0].clone()
    }

    /// To how many calls it has happened.
    pub(crate) fn times(&self) -> usize {
        self.happened.borrow().len()
    }

    /// Lets a call pass that was stopped.
    pub(crate) fn go_on(&self) {
        self.go_on.notify_one();
    }
}

/// What keeps a connection to the server.
async fn dial(upstream: &Upstream) -> io::Result<Box<dyn connection::Pipe>> {
    Ok(match upstream {
        Upstream::Socket(path) => Box::new(tokio::net::UnixStream::connect(path).await?),
        Upstream::Tcp(address) => Box::new(tokio::net::TcpStream::connect(address).await?),
    })
}
