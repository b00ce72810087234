//! The process: puts the engine together, starts it, and takes it down in good order.
//!
//! Reading downwards is reading what happens at start: configuration, gateways, database, tasks, `ready`, signals.

mod admin;
mod callbacks;
mod listener;
mod meaning;
mod service;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tracing::{debug, error, info, warn};

use crate::clock;
use crate::config::{self, Config, Dialect, Wake};
use crate::daemon::admin::Admin;
use crate::daemon::listener::{Certificate, Socket};
use crate::daemon::meaning::Meaning;
use crate::engine::Event;
use crate::engine::dispatch::{Dispatch, Parts};
use crate::engine::incoming::{self, Incoming};
use crate::engine::lead::{Candidate, Lease, random_bits};
use crate::engine::life::Life;
use crate::engine::record::Recorder;
use crate::engine::refusals::Ears;
use crate::engine::wake;
use crate::gateway::Gateway;
use crate::metrics::Phase;
use crate::metrics::progress::{self, Part};
use crate::signal::{Signal, Signals};
use crate::store::control::Identity;
use crate::store::migrate::SchemaState;
use crate::store::{Store, StoreError};

/// Events on their way to `dispatch`. Senders wait when it is full.
const EVENTS: usize = 4096;
/// For so long the service manager waits for the first look at the database; then the daemon is started, and waits for it
/// by itself.
const FIRST_LOOK: Duration = Duration::from_secs(10);
/// Pause between two tries to reach a database that is not there yet.
const DATABASE_PAUSE: Duration = Duration::from_millis(500);
/// After the grace period: how long the last results may take to be written.
const LAST_WRITES: Duration = Duration::from_secs(10);
/// The same for somebody who has asked twice.
const HURRIED_WRITES: Duration = Duration::from_secs(2);
/// A reload waits for the database as long as the daemon would: what it forgot for the sake of a new configuration
/// would be unknown.
const RELOAD_LIMIT: Duration = Duration::from_secs(365 * 24 * 3600);

/// What the service manager shows meanwhile.
const WAITING: &str = "waiting for the database";

/// How long the last callbacks may take to be answered.
const LAST_CALLBACKS: Duration = Duration::from_secs(5);

/// The schema is not what this version needs; no waiting mends it.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error("the database has no outboxd schema; run `outboxd migrate` as the role that is to own it")]
    Missing,
    #[error("the database schema is older than this outboxd (missing: {0}); run `outboxd migrate`")]
    Behind(String),
    #[error("the database schema is of a newer outboxd (migration {0}); install that version here")]
    Newer(i32),
    #[error("migration {0} in the database differs from this outboxd's; was it edited by hand?")]
    Altered(i32),
}

impl SchemaError {
    /// `None`: it is what this version needs.
    fn of(state: SchemaState) -> Option<SchemaError> {
        match state {
            SchemaState::Current => None,
            SchemaState::Missing => Some(SchemaError::Missing),
            SchemaState::Behind(missing) => Some(SchemaError::Behind(missing.join(", "))),
            SchemaState::Newer(version) => Some(SchemaError::Newer(version)),
            SchemaState::Altered(version) => Some(SchemaError::Altered(version)),
        }
    }
}

/// Why the engine ended.
enum End {
    Stopped,
    Reload(Box<Config>),
}

/// Runs the daemon until it is told to stop. SIGHUP reads the file again; a file that is wrong changes nothing.
pub async fn run(path: &Path, config: Config) -> anyhow::Result<()> {
    let ended = run_until_told(path, config).await;
    if let Err(error) = &ended {
        service::failed(&format!("{error:#}"));
    }
    ended
}

async fn run_until_told(path: &Path, mut config: Config) -> anyhow::Result<()> {
    let mut signals = Signals::install().context("could not install signal handlers")?;
    let life = Arc::new(Life::new(identity()));
    let mut admin = Admin::start(&life)?;
    admin.assign(&config)?;
    // Kept open while the configuration is read again: whoever calls meanwhile waits instead of being turned away.
    let mut door = None;
    loop {
        match serve(path, Arc::new(config), &life, &mut signals, &mut door).await? {
            End::Stopped => return Ok(()),
            End::Reload(changed) => {
                info!("configuration read again");
                config = *changed;
                admin.assign_again(&config);
            }
        }
    }
}

/// Where callbacks come in.
type Door = Option<(SocketAddr, Arc<Socket>)>;

async fn serve(
    path: &Path,
    config: Arc<Config>,
    life: &Arc<Life>,
    signals: &mut Signals,
    door: &mut Door,
) -> anyhow::Result<End> {
    let gateways = build_gateways(&config)?;
    let callbacks = match open_door(&config, door).await? {
        Some(socket) => Some((socket, load_certificate(&config)?)),
        None => None,
    };
    let store = Store::open(&config.database).context("could not prepare connections to PostgreSQL")?;
    let listening = loop {
        tokio::select! {
            listening = database_ready(&config, &store, life) => break listening?,
            signal = signals.next() => {
                if signal != Some(Signal::Reload) {
                    info!(?signal, "asked to stop before the database was there");
                    life.metrics.set_phase(Phase::Stopping);
                    service::stopping(Duration::ZERO);
                    return Ok(End::Stopped);
                }
                service::reloading();
                if let Some(changed) = read_again(path, life) {
                    return Ok(End::Reload(changed));
                }
                service::ready(WAITING);
            }
        }
    };
    let engine = Engine::start(Arc::clone(&config), Arc::clone(life), store, gateways, listening, callbacks);
    life.metrics.set_phase(Phase::Running);
    service::ready("the database is there");
    info!(version = env!("CARGO_PKG_VERSION"), gateways = config.gateways.len(), "ready");
    engine.attend(path, signals).await
}

async fn open_door(config: &Config, door: &mut Door) -> anyhow::Result<Option<Arc<Socket>>> {
    let Some(callbacks) = &config.callbacks else {
        *door = None;
        return Ok(None);
    };
    let wanted = callbacks.listen;
    if door.as_ref().is_none_or(|(address, _)| *address != wanted) {
        let socket = TcpListener::bind(wanted)
            .await
            .with_context(|| format!("could not listen for callbacks on {wanted}"))?;
        *door = Some((wanted, Arc::new(Socket::Tcp(socket))));
    }
    Ok(door.as_ref().map(|(_, socket)| Arc::clone(socket)))
}

fn load_certificate(config: &Config) -> anyhow::Result<Option<Certificate>> {
    config.callbacks.as_ref().and_then(|callbacks| callbacks.tls.as_ref()).map(Certificate::load).transpose()
}

/// The configuration as the file says it now, if it can be used; otherwise says why not.
fn read_again(path: &Path, life: &Life) -> Option<Box<Config>> {
    let changed = usable(path);
    life.metrics.reload_refused.store(changed.is_none(), Ordering::Relaxed);
    changed
}

fn usable(path: &Path) -> Option<Box<Config>> {
    let changed = match config::load(path) {
        Ok(changed) => changed,
        Err(fault) => {
            error!("the configuration is wrong and was not taken over:\n{fault}");
            return None;
        }
    };
    // What the file names (certificates) is read here; found out later, it would end a daemon that ran.
    match build_gateways(&changed).and_then(|_| load_certificate(&changed)) {
        Ok(_) => Some(Box::new(changed)),
        Err(fault) => {
            error!("the configuration cannot be used and was not taken over: {fault:#}");
            None
        }
    }
}

fn build_gateways(config: &Config) -> anyhow::Result<Vec<Arc<Gateway>>> {
    config
        .gateways
        .values()
        .map(|settings| {
            Gateway::build(settings)
                .map(Arc::new)
                .with_context(|| format!("gateway {} cannot be used as configured", settings.name))
        })
        .collect()
}

/// Waits until the database is there, and says whether to listen for the doorbell. The service manager need not wait for
/// so long: the daemon is started when it has looked once, so that it may start before PostgreSQL does. If that look
/// finds a fault that no waiting mends, the start has failed.
async fn database_ready(config: &Config, store: &Store, life: &Arc<Life>) -> anyhow::Result<bool> {
    life.metrics.set_phase(Phase::Starting);
    let at_work = life.progress.begin(Part::Start, progress::patient(store.patience()) * 2);
    let mut said = false;
    let mut ready = false;
    loop {
        at_work.gets_on();
        let look = look_at_database(config, store);
        tokio::pin!(look);
        let found = loop {
            tokio::select! {
                found = &mut look => break found,
                () = tokio::time::sleep(FIRST_LOOK), if !ready => {
                    ready = true;
                    service::ready(WAITING);
                }
            }
        };
        match found {
            Ok(listening) => return Ok(listening?),
            Err(error @ StoreError::WrongWay { .. }) => return Err(error.into()),
            Err(error) => {
                if !said {
                    warn!(%error, database = config.database.shown, "waiting for the database");
                    said = true;
                }
            }
        }
        if !std::mem::replace(&mut ready, true) {
            service::ready(WAITING);
        }
        tokio::time::sleep(DATABASE_PAUSE).await;
    }
}

async fn look_at_database(config: &Config, store: &Store) -> Result<Result<bool, SchemaError>, StoreError> {
    if let Some(unfit) = SchemaError::of(store.schema_state().await?) {
        return Ok(Err(unfit));
    }
    if let Some(direct) = &config.database.direct {
        store.compare_ways(direct).await?;
    }
    let text = &config.text;
    if let Err(error) = store.set_number_plan(text.default_country.as_deref(), &text.trunk_prefix).await {
        // Read only by sms.opt_out() and its like; sending does not depend on it.
        debug!(%error, "could not write down how national numbers are read");
    }
    let found = store.doorbell().await?;
    let comes_through = config.database.sessions().is_some();
    // Triggers that are missing now may be there later: the leader looks at them, and says so.
    let listening = match config.queue.wake {
        Wake::Poll => false,
        Wake::Notify => true,
        Wake::Auto => comes_through && !found.prepared_transactions,
    };
    if !listening && config.queue.wake == Wake::Auto {
        let why = if comes_through {
            "prepared transactions are allowed here"
        } else {
            "no notification comes through the pooler, and there is no direct_url"
        };
        warn!(why, "not using the doorbell; looking at the table at intervals instead");
    }
    Ok(Ok(listening))
}

/// The running tasks.
struct Engine {
    config: Arc<Config>,
    store: Store,
    life: Arc<Life>,
    events: mpsc::Sender<Event>,
    /// Leadership, listening, receipts: end only when they are told to.
    tasks: JoinSet<&'static str>,
    /// Turns true when no more callbacks are to be taken.
    closing: watch::Sender<bool>,
    dispatch: JoinHandle<()>,
    recorder: JoinHandle<()>,
}

impl Engine {
    fn start(
        config: Arc<Config>,
        life: Arc<Life>,
        store: Store,
        gateways: Vec<Arc<Gateway>>,
        listening: bool,
        callbacks: Option<(Arc<Socket>, Option<Certificate>)>,
    ) -> Engine {
        let (events, incoming) = mpsc::channel(EVENTS);
        let (jobs, job_queue) = mpsc::unbounded_channel();
        let lease = Arc::new(Lease::default());
        // What an engine before this one left there it had given up, and nothing of it was sent.
        life.own_waves.clear();
        let mut tasks = JoinSet::new();

        let recorder = Recorder::new(store.clone(), Arc::clone(&life), events.clone());
        let recorder = spawn(recorder.run(job_queue));
        let dispatch = Dispatch::new(Parts {
            config: Arc::clone(&config),
            store: store.clone(),
            gateways,
            lease: Arc::clone(&lease),
            life: Arc::clone(&life),
            listening,
            events: events.clone(),
            recorder: jobs,
        });
        let dispatch = spawn(dispatch.run(incoming));

        if listening {
            let ears = wake::listen(
                (config.database.clone(), store.clone()),
                Arc::clone(&life),
                config.queue.poll_interval,
                events.clone(),
            );
            tasks.spawn(async move {
                ears.await;
                "listen"
            });
        }
        let candidate = Candidate {
            database: config.database.clone(),
            store: store.clone(),
            lease_length: config.queue.lease,
            after_failover: config.queue.after_failover,
            lease,
            life: Arc::clone(&life),
        };
        let campaign = candidate.run(events.clone());
        tasks.spawn(async move {
            campaign.await;
            "lead"
        });
        let (closing, is_closing) = watch::channel(false);
        if let (Some((socket, certificate)), Some(settings)) = (callbacks, config.callbacks.clone()) {
            let (incoming, queue) = Incoming::channel();
            let writing =
                incoming::run(store.clone(), Arc::clone(&life), ears(&config, &life.identity), queue);
            tasks.spawn(async move {
                writing.await;
                "incoming"
            });
            let meaning = Meaning::new(&config);
            let listening = callbacks::serve(callbacks::Parts {
                socket,
                certificate,
                settings,
                meaning,
                incoming,
                metrics: Arc::clone(&life.metrics),
                closing: is_closing,
            });
            tasks.spawn(async move {
                listening.await;
                "callbacks"
            });
        }
        Engine { config, store, life, events, tasks, closing, dispatch, recorder }
    }

    /// Waits for signals; ends when the engine has.
    async fn attend(mut self, path: &Path, signals: &mut Signals) -> anyhow::Result<End> {
        loop {
            tokio::select! {
                signal = signals.next() => match signal {
                    Some(Signal::Reload) => {
                        service::reloading();
                        let Some(changed) = read_again(path, &self.life) else {
                            service::ready("the configuration is wrong and was not taken over: see the log");
                            continue;
                        };
                        self.life.metrics.set_phase(Phase::Reloading);
                        if !self.stop(signals, self.config.queue.shutdown_grace, RELOAD_LIMIT).await? {
                            return Ok(End::Reload(changed));
                        }
                        self.say_farewell().await;
                        return Ok(End::Stopped);
                    }
                    Some(Signal::Terminate) => {
                        let within = self.config.queue.shutdown_grace + LAST_WRITES;
                        self.stopping(within);
                        self.stop(signals, self.config.queue.shutdown_grace, LAST_WRITES).await?;
                        self.say_farewell().await;
                        return Ok(End::Stopped);
                    }
                    Some(Signal::TerminateNow) | None => {
                        self.stopping(HURRIED_WRITES);
                        self.stop(signals, Duration::ZERO, HURRIED_WRITES).await?;
                        self.say_farewell().await;
                        return Ok(End::Stopped);
                    }
                },
                ended = self.tasks.join_next() => {
                    anyhow::bail!("a task of the daemon ended by itself: {}; please report this", name_of(ended));
                }
                _ = &mut self.dispatch => anyhow::bail!("dispatch ended by itself; please report this"),
                _ = &mut self.recorder => anyhow::bail!("the recorder ended by itself; please report this"),
            }
        }
    }

    /// The process is to end. What follows the last writes is waited for as well.
    fn stopping(&self, writes: Duration) {
        self.life.metrics.set_phase(Phase::Stopping);
        service::stopping(writes + LAST_CALLBACKS * 2 + self.store.patience());
    }

    /// Takes nothing more, waits for what is under way, writes the last results (for `last_writes` at most), lets go of
    /// the leadership. Whether the process was told to end meanwhile: a reload must not swallow that.
    async fn stop(
        &mut self,
        signals: &mut Signals,
        grace: Duration,
        last_writes: Duration,
    ) -> anyhow::Result<bool> {
        // Fails only when dispatch has ended already.
        let _ = self.events.send(Event::Stop { grace }).await;
        let limit = tokio::time::sleep(grace + last_writes);
        tokio::pin!(limit);
        let mut dispatching = true;
        let mut to_end = false;
        loop {
            tokio::select! {
                _ = &mut self.dispatch, if dispatching => dispatching = false,
                _ = &mut self.recorder, if !dispatching => break,
                signal = signals.next() => {
                    let within = match signal {
                        Some(Signal::Reload) | None => continue,
                        Some(Signal::Terminate) => {
                            self.stopping(grace + LAST_WRITES);
                            grace + LAST_WRITES
                        }
                        Some(Signal::TerminateNow) => {
                            self.stopping(HURRIED_WRITES);
                            let _ = self.events.send(Event::Stop { grace: Duration::ZERO }).await;
                            HURRIED_WRITES
                        }
                    };
                    to_end = true;
                    let sooner = limit.deadline().min(tokio::time::Instant::now() + within);
                    limit.as_mut().reset(sooner);
                }
                () = &mut limit => {
                    anyhow::bail!("stopped although the last results could not be written: the messages concerned will be called unknown");
                }
            }
        }
        self.close_door().await;
        self.tasks.shutdown().await;
        info!("stopped");
        Ok(to_end)
    }

    /// Everything is recorded, and no heartbeat follows.
    async fn say_farewell(&self) {
        if let Err(error) = self.store.farewell(&self.life.identity).await {
            warn!(%error, "could not say farewell");
        }
    }
}

impl Engine {
    /// Takes no more callbacks, and answers those that were read.
    async fn close_door(&mut self) {
        let had_door = self.closing.receiver_count() > 0;
        let _ = self.closing.send(true);
        let ended = async {
            while let Some(Ok(name)) = self.tasks.join_next().await {
                // The last one: it ends when nobody can hand anything in any more.
                if name == "incoming" {
                    return;
                }
            }
        };
        if had_door && tokio::time::timeout(LAST_CALLBACKS, ended).await.is_err() {
            warn!(
                "stopped although the last callbacks could not be written; the gateway was not told otherwise"
            );
        }
    }
}

/// Dispatch and recorder outlive a `JoinSet`'s shutdown: they are waited for one after the other.
fn spawn(work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(work)
}

fn name_of(ended: Option<Result<&'static str, tokio::task::JoinError>>) -> String {
    match ended {
        Some(Ok(name)) => name.to_owned(),
        Some(Err(error)) => error.to_string(),
        None => "all".to_owned(),
    }
}

/// Only InteractSMS v2 posts processing results.
fn ears(config: &Config, identity: &Identity) -> Ears {
    let posts = |dialect: &Dialect| matches!(dialect, Dialect::InteractsmsV2(_));
    let gateways = config.gateways.values().filter(|gateway| posts(&gateway.dialect));
    Ears {
        instance: identity.instance.clone(),
        gateways: gateways.map(|gateway| gateway.name.clone()).collect(),
    }
}

fn identity() -> Identity {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let pid = i32::try_from(std::process::id()).unwrap_or_default();
    Identity {
        instance: format!("{host}-{pid}-{:08x}", random_bits() >> 32),
        host,
        pid,
        version: env!("CARGO_PKG_VERSION"),
        started: clock::now(),
    }
}
