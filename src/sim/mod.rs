//! `gateway-sim`: everything right of the firewall. Send APIs and log-in, carriers, an SMSC, handsets, callbacks,
//! faults on demand, and a ledger of what reached whom.
//!
//! It is written from the gateway's documentation alone and uses nothing of the daemon: a simulator that shared the
//! daemon's reading of the documentation would hide its mistakes. It logs nothing; the ledger and the counters tell.
//!
//! The road of a request: `server` reads it, a dialect (`send_v1`, `send_v2`, `kannel`) reduces it to a `batch`, the
//! `script` may spoil it, `smsc` accepts it into the `ledger`, `answer` tells the client; later the `agenda` delivers
//! to `handset`s, and `callbacks` report.

use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::sim::hub::Hub;
use crate::sim::remote::Remote;
use crate::sim::settings::Settings;

mod agenda;
mod answer;
mod auth;
mod batch;
mod call;
pub mod callbacks;
mod control;
pub mod counters;
mod digest;
mod form;
pub mod handset;
mod hub;
mod kannel;
pub mod ledger;
mod number;
mod payload;
pub mod remote;
pub mod script;
mod send_v1;
mod send_v2;
mod server;
pub mod settings;
mod smsc;
mod stamp;
mod times;

/// A running simulator. Dropping it ends it: connections are cut, what is under way is forgotten.
#[derive(Debug)]
pub struct Sim {
    remote: Remote,
    hub: Arc<Hub>,
    gateway: SocketAddr,
    control: SocketAddr,
    tasks: JoinSet<()>,
}

impl Sim {
    /// Starts on the current runtime.
    pub async fn start(settings: Settings) -> io::Result<Sim> {
        if !settings.bind.control.ip().is_loopback() {
            let text =
                "the control API has no password and listens on loopback only, for example 127.0.0.1:8701";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let listener = listen(settings.bind.gateway).await?;
        let control_listener = listen(settings.bind.control).await?;
        let gateway = listener.local_addr()?;
        let control = control_listener.local_addr()?;
        let workers = settings.callbacks.connections.max(1);
        let hub = Arc::new(Hub::new(settings));
        let remote = Remote::new(Arc::clone(&hub));
        let mut tasks = JoinSet::new();
        tasks.spawn(server::serve(Arc::clone(&hub), listener));
        tasks.spawn(smsc::run(Arc::clone(&hub)));
        for _ in 0..workers {
            tasks.spawn(callbacks::run(Arc::clone(&hub)));
        }
        let router = control::router(remote.clone());
        tasks.spawn(async move {
            // It ends only with the listener, which ends only with us.
            let _ = axum::serve(control_listener, router).await;
        });
        Ok(Sim { remote, hub, gateway, control, tasks })
    }

    /// Ends it; returns once its ports are closed.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }

    /// Root of the gateway, for example `http://127.0.0.1:40001`; paths are those of the documentation.
    pub fn url(&self) -> String {
        format!("http://{}", self.gateway)
    }

    pub fn token_url(&self) -> String {
        format!("http://{}/token", self.gateway)
    }

    /// Root of the control API.
    pub fn control_url(&self) -> String {
        format!("http://{}", self.control)
    }

    /// The address that the gateway's port is bound to.
    pub fn address(&self) -> SocketAddr {
        self.gateway
    }

    /// A handle that other tasks may keep.
    pub fn remote(&self) -> Remote {
        self.remote.clone()
    }
}

/// So that a test can say `sim.state()`.
impl Deref for Sim {
    type Target = Remote;

    fn deref(&self) -> &Remote {
        &self.remote
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        // These hold the hub that holds them.
        self.hub.strays().abort_all();
        self.tasks.abort_all();
    }
}

async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("could not listen on {address}: {error}; choose another address"),
        )
    })
}
