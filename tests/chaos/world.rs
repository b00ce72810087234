//! What one schedule plays in: a PostgreSQL cluster of its own, the simulated gateway, daemons, and what is noted of the
//! faults. Every schedule has its own, so that several can be played at once and nothing of one is left for the next.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio_postgres::{Client, Config, NoTls};

use crate::daemons::Slot;
use crate::schedule::{Dialect, Schedule, What, Whom};
use crate::support::cluster::Cluster;
use crate::support::sim::SimProcess;
use crate::support::site::free_port;
use crate::template::{DAEMON, DATABASE};

/// Where receipts are posted, in the simulator's and in every daemon's settings.
const CALLBACK_PATH: &str = "/cb/chaos-0123456789abcdef";
/// Longest wait for the answer to one of our own statements.
const PATIENCE: Duration = Duration::from_secs(10);
/// Requests, connecting excluded.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) struct World {
    pub(crate) schedule: Schedule,
    pub(crate) directory: PathBuf,
    pub(crate) cluster: Mutex<Cluster>,
    pub(crate) sim: SimProcess,
    pub(crate) slots: Vec<RefCell<Slot>>,
    /// The simulator posts receipts there, and we pass them on to a daemon that lives.
    pub(crate) callback_port: u16,
    pub(crate) callback_ports: Vec<u16>,
    pub(crate) notes: Notes,
    superuser: Config,
}

/// What is noted while the faults strike.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) faults: RefCell<BTreeMap<What, u64>>,
    /// When faults began and ended.
    pub(crate) spans: RefCell<Vec<(Instant, Option<Instant>)>>,
    /// Times at which the leader was killed while a standby lived.
    pub(crate) kills: RefCell<Vec<Instant>>,
    /// Times at which PostgreSQL took connections again, and the first message accepted after each.
    pub(crate) first_sends: RefCell<Vec<(Instant, Option<Instant>)>>,
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
    pub(crate) async fn new(schedule: Schedule, template: &Cluster, directory: &Path) -> World {
        let mut cluster = template.copy();
        cluster.run().await;
        let callback_port = free_port();
        let sim = SimProcess::start(&[]).await;
        sim.settings(&sim_settings(&schedule, callback_port)).await;
        let superuser = cluster.config(DATABASE);
        let callback_ports: Vec<u16> = (0..schedule.site.daemons).map(|_| free_port()).collect();
        let slots = (0..schedule.site.daemons)
            .map(|number| {
                let url = daemon_url(&schedule, &cluster, number);
                let text = config(&schedule, sim.address("gateway"), &url, callback_ports[number]);
                RefCell::new(Slot::new(number, directory, &text))
            })
            .collect();
        World {
            schedule,
            directory: directory.to_path_buf(),
            cluster: Mutex::new(cluster),
            sim,
            slots,
            callback_port,
            callback_ports,
            notes: Notes::default(),
            superuser,
        }
    }

    pub(crate) fn say(&self, text: &str) {
        println!("[{}] {text}", self.schedule.seed);
    }

    /// Parameters of the superuser, through the socket, which no cut of the network touches.
    pub(crate) fn database(&self) -> Config {
        self.superuser.clone()
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

fn daemon_url(schedule: &Schedule, cluster: &Cluster, number: usize) -> String {
    if schedule.site.tcp {
        return format!("postgresql://{DAEMON}@127.0.0.{}:{}/{DATABASE}", number + 1, cluster.port());
    }
    let socket = cluster.socket().to_str().unwrap().replace('/', "%2F");
    format!("postgresql://{DAEMON}@{socket}:{}/{DATABASE}", cluster.port())
}

/// The configuration of one daemon. Limits are short, so that what they are for happens within a schedule.
fn config(schedule: &Schedule, gateway: &str, url: &str, callback_port: u16) -> String {
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
