//! What one schedule plays in: a PostgreSQL cluster of its own, the simulated gateway, daemons, and what is noted of the
//! faults. Every schedule has its own, so that several can be played at once and nothing of one is left for the next.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio_postgres::{Client, Config, NoTls};

use crate::daemons::{Slot, clock_environment};
use crate::disk::SmallDisk;
use crate::schedule::{Dialect, Schedule, What, Whom};
use crate::support::clock::set_clock;
use crate::support::cluster::Cluster;
use crate::support::pair::{REPLICA, Replication, wait_for_replica_in_commits};
use crate::support::port::free_port;
use crate::support::sim::SimProcess;
use crate::template::{DAEMON, DATABASE, Stage};

/// Where receipts are posted, in the simulator's and in every daemon's settings.
const CALLBACK_PATH: &str = "/cb/chaos-0123456789abcdef";
/// Longest wait for the answer to one of our own statements.
const PATIENCE: Duration = Duration::from_secs(10);
/// Requests, connecting excluded.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) struct World {
    pub(crate) stage: Arc<Stage>,
    pub(crate) schedule: Schedule,
    pub(crate) directory: PathBuf,
    pub(crate) cluster: Mutex<Cluster>,
    pub(crate) sim: SimProcess,
    pub(crate) slots: Vec<RefCell<Slot>>,
    /// The simulator posts receipts there, and we pass them on to a daemon that lives.
    pub(crate) callback_port: u16,
    pub(crate) callback_ports: Vec<u16>,
    pub(crate) notes: Notes,
    /// What PostgreSQL's clock is off by, if it can be set.
    pub(crate) database_clock: PathBuf,
    /// A cluster of another identity, for one copy of the database.
    pub(crate) stranger: Mutex<Option<Cluster>>,
    /// Until it is promoted.
    pub(crate) replica: Mutex<Option<Cluster>>,
    /// Its directory stays: a clock that is set in it moves nothing any more.
    pub(crate) dead_primary: RefCell<Option<Cluster>>,
    superuser: RefCell<Config>,
    // Last: whatever writes to them must have ended.
    pub(crate) wal_disk: Option<SmallDisk>,
    pub(crate) log_disk: Option<SmallDisk>,
}

/// What is noted while the faults strike.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) faults: RefCell<BTreeMap<What, u64>>,
    /// When faults began and ended.
    pub(crate) spans: RefCell<Vec<(Instant, Option<Instant>)>>,
    /// Times at which the leader was killed while a standby lived.
    pub(crate) kills: RefCell<Vec<Instant>>,
    /// Times at which the leader was paused or cut off for longer than its lease while a standby lived.
    pub(crate) silences: RefCell<Vec<Instant>>,
    /// Copies of the database that were started.
    pub(crate) copies: Cell<usize>,
    /// Those whose daemons held everything back.
    pub(crate) copies_held: Cell<u64>,
    /// Times at which PostgreSQL took connections again, and the first message accepted after each.
    pub(crate) first_sends: RefCell<Vec<(Instant, Option<Instant>)>>,
    /// Times at which a primary died, and the first message accepted after each.
    pub(crate) failovers: RefCell<Vec<(Instant, Option<Instant>)>>,
    /// What the primary committed from then on, its replica never had.
    pub(crate) commits_lost_since: Cell<Option<Instant>>,
    /// Changes of the epoch as they were seen.
    pub(crate) epochs: RefCell<Vec<(Instant, i64)>>,
    /// Times that a gateway went away as a whole, and with it whatever it had under way.
    pub(crate) outages: Cell<u64>,
    /// Times that a daemon was told to stop, which may cut off what it has under way.
    pub(crate) stops: Cell<u64>,
    /// A person must resume gateways that wait, not only those that are stopped.
    pub(crate) long_wait: Cell<bool>,
    pub(crate) slow_clients: Cell<u64>,
    pub(crate) findings: RefCell<Vec<String>>,
}

impl World {
    /// Copies the template, and starts all but the daemons.
    pub(crate) async fn new(schedule: Schedule, stage: &Arc<Stage>, directory: &Path) -> World {
        let site = &schedule.site;
        let mut cluster = stage.template.copy();
        let can = |what: What| stage.machine.lacks(what).is_none();
        let wal_disk = (site.needs.small_wal && can(What::WalFull)).then(|| small_wal(&cluster));
        let log_disk = (site.needs.small_log && can(What::LogFull)).then(|| SmallDisk::mount(16));
        let database_clock = cluster.socket().join("clock");
        if let Some(faketime) = stage.machine.faketime.as_deref().filter(|_| site.needs.database_clock) {
            set_clock(&database_clock, 0);
            for (name, value) in clock_environment(faketime, &database_clock) {
                cluster.set_environment(name, value);
            }
        }
        cluster.run().await;
        let replica = match site.needs.replica {
            Some(replication) => Some(replicate(&cluster, replication).await),
            None => None,
        };
        let callback_port = free_port();
        let sim = SimProcess::start(&[]).await;
        sim.settings(&sim_settings(&schedule, callback_port)).await;
        let superuser = cluster.config(DATABASE);
        let callback_ports: Vec<u16> = (0..site.daemons).map(|_| free_port()).collect();
        let make_slot = |number| {
            let url = daemon_url(&schedule, (&cluster, replica.as_ref()), number);
            let text = config(&schedule, sim.address("gateway"), &url, callback_ports[number]);
            let mut slot = Slot::new(number, directory, &text);
            if let Some(disk) = &log_disk {
                slot.log_in(&disk.path());
            }
            if let Some(faketime) = stage.machine.faketime.as_deref().filter(|_| site.needs.daemon_clock) {
                slot.with_clock(faketime);
            }
            RefCell::new(slot)
        };
        let slots = (0..site.daemons).map(make_slot).collect();
        World {
            stage: Arc::clone(stage),
            directory: directory.to_path_buf(),
            sim,
            slots,
            callback_port,
            callback_ports,
            notes: Notes::default(),
            database_clock,
            stranger: Mutex::new(site.needs.clone.then(|| stage.stranger.copy())),
            replica: Mutex::new(replica),
            dead_primary: RefCell::new(None),
            superuser: RefCell::new(superuser),
            wal_disk,
            log_disk,
            cluster: Mutex::new(cluster),
            schedule,
        }
    }

    pub(crate) fn say(&self, text: &str) {
        println!("[{}] {text}", self.schedule.seed);
    }

    /// Parameters of the superuser, through the socket, which no cut of the network touches.
    pub(crate) fn database(&self) -> Config {
        self.superuser.borrow().clone()
    }

    /// Where PostgreSQL listens for the daemons.
    pub(crate) fn port(&self) -> u16 {
        self.superuser.borrow().get_ports()[0]
    }

    /// From now on the database is in this cluster.
    pub(crate) fn move_to(&self, cluster: &Cluster) {
        *self.superuser.borrow_mut() = cluster.config(DATABASE);
    }

    /// A connection of our own, or nothing while PostgreSQL is away.
    pub(crate) async fn sql(&self) -> Option<Client> {
        let mut config = self.database();
        config.application_name("chaos");
        let (client, connection) = tokio::time::timeout(PATIENCE, config.connect(NoTls)).await.ok()?.ok()?;
        tokio::spawn(connection);
        Some(client)
    }

    /// Runs SQL as the superuser. False: it could not be run, which is no finding while faults strike.
    pub(crate) async fn try_sql(&self, sql: &str) -> bool {
        let Some(client) = self.sql().await else { return false };
        matches!(tokio::time::timeout(PATIENCE, client.batch_execute(sql)).await, Ok(Ok(())))
    }

    /// The slot that a fault is for; for the leader, any slot while nobody knows who leads.
    pub(crate) async fn target(&self, whom: Whom) -> usize {
        match whom {
            Whom::Number(number) => number,
            Whom::Leader => self.leader().await.unwrap_or(0),
        }
    }

    /// The slot of the leading daemon, by the process id in its name.
    pub(crate) async fn leader(&self) -> Option<usize> {
        let client = self.sql().await?;
        let ask = client.query_one("SELECT daemon FROM outboxd.leader", &[]);
        let name: Option<String> = tokio::time::timeout(PATIENCE, ask).await.ok()?.ok()?.get(0);
        let name = name?;
        let pid = name.rsplit('-').nth(1)?.parse().ok();
        self.slots.iter().position(|slot| pid.is_some() && slot.borrow().pid() == pid)
    }

    /// Daemons besides this one that could take over at once.
    pub(crate) fn standbys(&self, besides: usize) -> usize {
        self.slots
            .iter()
            .filter(|slot| slot.borrow().is_running())
            .filter(|slot| slot.borrow().number != besides)
            .count()
    }

    pub(crate) fn gateway_port(&self) -> u16 {
        self.sim.address("gateway").rsplit(':').next().and_then(|port| port.parse().ok()).unwrap()
    }

    pub(crate) fn note_slow_client(&self) {
        self.notes.slow_clients.set(self.notes.slow_clients.get() + 1);
    }

    pub(crate) fn note_outage(&self) {
        self.notes.outages.set(self.notes.outages.get() + 1);
    }

    pub(crate) fn find(&self, finding: impl Into<String>) {
        self.notes.findings.borrow_mut().push(finding.into());
    }

    /// Requests that the simulator has accepted so far.
    pub(crate) async fn accepted(&self) -> u64 {
        self.sim.state().await["accepted"].as_u64().unwrap()
    }
}

/// Moves a cluster's WAL to a disk with room for little more than it needs.
fn small_wal(cluster: &Cluster) -> SmallDisk {
    let disk = SmallDisk::mount(112);
    let wal = cluster.data().join("pg_wal");
    let moved = Command::new("cp").arg("-a").arg(wal.join(".")).arg(disk.path()).status().unwrap();
    assert!(moved.success(), "the WAL can be moved");
    std::fs::remove_dir_all(&wal).unwrap();
    symlink(disk.path(), &wal).unwrap();
    cluster.configure("wal_keep_size = 0\nmax_wal_size = '32MB'\nmin_wal_size = '32MB'");
    disk
}

/// A streaming replica, which asks for more WAL soon after it lost its primary.
async fn replicate(primary: &Cluster, replication: Replication) -> Cluster {
    // Once it is the primary, it waits for nobody.
    let settings = "wal_retrieve_retry_interval = '100ms'\nsynchronous_standby_names = ''";
    let replica = primary.replica(REPLICA, settings).await;
    if replication == Replication::Synchronous {
        wait_for_replica_in_commits(primary).await;
    }
    replica
}

fn sim_settings(schedule: &Schedule, callback_port: u16) -> Value {
    let site = &schedule.site;
    let receipts_to = site.receipts.then(|| format!("http://127.0.0.1:{callback_port}{CALLBACK_PATH}"));
    json!({
        "answers": {"latency_ms": site.latency_ms, "jitter_ms": site.jitter_ms, "seed": schedule.seed},
        // What the gateway says of credits later, in a processing result, the daemon does not read yet.
        "v2": {"refuse_at_once": true},
        "network": {
            "carriers": [{"latency_ms": 5}, {"prefix": "35389", "down": true}],
            "retry_ms": 300,
            "validity_ms": 900,
        },
        // A receipt that meets a daemon that is away or stands still is to come again.
        "callbacks": {"receipts": {"to": receipts_to}, "retries": 1000, "retry_ms": 100, "timeout_ms": 2000},
    })
}

fn daemon_url(
    schedule: &Schedule,
    (cluster, replica): (&Cluster, Option<&Cluster>),
    number: usize,
) -> String {
    let address = format!("127.0.0.{}", number + 1);
    if let Some(replica) = replica {
        let hosts = format!("{address}:{},{address}:{}", cluster.port(), replica.port());
        return format!("postgresql://{DAEMON}@{hosts}/{DATABASE}?target_session_attrs=read-write");
    }
    if schedule.site.tcp {
        return format!("postgresql://{DAEMON}@{address}:{}/{DATABASE}", cluster.port());
    }
    let socket = cluster.socket().to_str().unwrap().replace('/', "%2F");
    format!("postgresql://{DAEMON}@{socket}:{}/{DATABASE}", cluster.port())
}

/// The configuration of one daemon. Limits are short, so that what they are for happens within a schedule.
pub(crate) fn config(schedule: &Schedule, gateway: &str, url: &str, callback_port: u16) -> String {
    let site = &schedule.site;
    let account = "username = \"demo\"\npassword = \"demo-password\"";
    let main = match site.dialect {
        Dialect::V2 => {
            format!("dialect = \"interactsms-v2\"\napi_url = \"{gateway}\"\ntoken_url = \"{gateway}/token\"")
        }
        Dialect::V1Form => {
            format!("dialect = \"interactsms-v1\"\nurl = \"{gateway}/api/v1/sendmessage.aspx\"\napi_id = 1")
        }
        Dialect::V1Json => {
            format!("dialect = \"interactsms-v1-json\"\nurl = \"{gateway}/api/v1/sendmessage\"\napi_id = 1")
        }
        Dialect::Kannel => {
            format!("dialect = \"http\"\npreset = \"kannel\"\nurl = \"{gateway}/cgi-bin/sendsms\"")
        }
    };
    let second =
        format!("dialect = \"interactsms-v1\"\nurl = \"{gateway}/api/v1/sendmessage.aspx\"\napi_id = 1");
    // What the simulator's codes mean; the documentation of v1 names none but 0.
    let codes =
        |name: &str| format!("[gateway.{name}.codes]\n\"1\" = \"unauthorized\"\n\"4\" = \"no_credit\"\n");
    let main_codes = match site.dialect {
        Dialect::V1Form | Dialect::V1Json => codes("main"),
        Dialect::V2 | Dialect::Kannel => String::new(),
    };
    let limits = format!(
        "concurrency = {}\nconnect_timeout = \"1s\"\nrequest_timeout = \"{}s\"\nbackoff_min = \"50ms\"\n\
         backoff_max = \"500ms\"\non_unknown = \"{}\"",
        site.concurrency,
        REQUEST_TIMEOUT.as_secs(),
        if site.resend { "resend" } else { "hold" },
    );
    let callbacks = if site.receipts {
        format!(
            "[callbacks]\nlisten = \"127.0.0.1:{callback_port}\"\npath = \"{CALLBACK_PATH}\"\n\
             client_secret = \"demo-secret\"\n"
        )
    } else {
        String::new()
    };
    format!(
        "[database]\nurl = \"{url}\"\npool_size = {}\ntimeout = \"2s\"\n\n\
         [queue]\nwake = \"{}\"\npoll_interval = \"1s\"\nlease = \"{}ms\"\nlookahead = {}\n\
         shutdown_grace = \"3s\"\n\n\
         [text]\ndefault_country = \"353\"\ndefault_sender = \"Chaos\"\n\n\
         [gateway.main]\n{main}\n{account}\n{limits}\n{main_codes}\n\
         [gateway.second]\n{second}\n{account}\n{limits}\n{}\n\
         [routing]\ndefault = \"main\"\n[[routing.rule]]\nprefix = \"35386\"\ngateway = \"second\"\n\n\
         {callbacks}\n[log]\nfilter = \"{}\"\n",
        site.pool_size,
        if site.poll { "poll" } else { "auto" },
        site.lease_ms,
        site.lookahead,
        codes("second"),
        schedule.log_filter,
    )
}
