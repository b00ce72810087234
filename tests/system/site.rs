//! One trial's site: a database and a gateway in the world, a daemon in the site, and a firewall around it.

use std::fs::{self, File, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::net::{DATABASE, EVIL, GATEWAY, NAMES, Site, USER};
use crate::peers::{Server, front};
use crate::resolver::Resolver;
use crate::support::cluster::{Cluster, Stop};
use crate::support::eventually;
use crate::support::site::{Lines, Site as Outbox};

pub(crate) const LIMIT: Duration = Duration::from_secs(30);
pub(crate) const AUTHORITY: &str = include_str!("../it/certificates/authority.crt");
pub(crate) const INTERCEPTOR: &str = include_str!("../it/certificates/interceptor.crt");
const GATEWAY_CERTIFICATE: &str = include_str!("../it/certificates/gateway.crt");
const GATEWAY_KEY: &str = include_str!("../it/certificates/gateway.key");
const INTERCEPTED: &str = include_str!("../it/certificates/intercepted.crt");
const INTERCEPTED_KEY: &str = include_str!("../it/certificates/intercepted.key");

pub(crate) struct World {
    pub(crate) net: Site,
    pub(crate) names: Resolver,
    pub(crate) outbox: Outbox,
    /// Who counts callers that must not come.
    evil: Server,
    front: Option<Server>,
    cluster: Cluster,
    pub(crate) directory: TempDir,
    program: PathBuf,
}

/// A daemon in the site. It is killed when this is dropped; if its trial is failing then, its log is shown.
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the daemon\n{}\n---", self.log());
        }
    }
}

impl Daemon {
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) async fn until_logged(&self, text: &str) {
        eventually(LIMIT, &format!("the daemon logs `{text}`"), async || {
            let log = self.log();
            if log.contains(text) { Ok(()) } else { Err(log) }
        })
        .await;
    }
}

impl World {
    pub(crate) async fn make(hint: &str) -> World {
        let net = Site::make();
        let names = Resolver::start(SocketAddr::from((NAMES, 53))).await;
        names.lead("db.test", &[DATABASE]);
        names.lead("gw.test", &[GATEWAY]);
        names.lead("evil.test", &[EVIL]);
        let mut cluster = Cluster::start(&format!("listen_addresses = '127.0.0.1, {DATABASE}'")).await;
        let hba = cluster.data().join("pg_hba.conf");
        let rules = fs::read_to_string(&hba).unwrap() + "host all all 10.77.0.0/24 trust\n";
        fs::write(&hba, rules).unwrap();
        cluster.restart(Stop::Fast).await;
        let outbox = Outbox::in_cluster(&cluster, hint, false).await;
        let evil = Server::start(SocketAddr::from((EVIL, 443)), drop).await;
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        fs::write(directory.path().join("ca.pem"), AUTHORITY).unwrap();
        fs::write(directory.path().join("interceptor.pem"), INTERCEPTOR).unwrap();
        // The daemon's user need not be able to enter where it was built.
        let program = directory.path().join("outboxd");
        fs::copy(env!("CARGO_BIN_EXE_outboxd"), &program).unwrap();
        let mut world = World { net, names, outbox, evil, front: None, cluster, directory, program };
        world.answer_as(GATEWAY_CERTIFICATE, GATEWAY_KEY).await;
        world
    }

    async fn answer_as(&mut self, certificate: &str, key: &str) {
        if let Some(front) = self.front.take() {
            front.stop().await;
        }
        self.front = Some(front(certificate, key, self.outbox.sim.address("gateway")).await);
    }

    /// From now on somebody in between shows a certificate of his own.
    pub(crate) async fn intercept(&mut self) {
        self.answer_as(INTERCEPTED, INTERCEPTED_KEY).await;
    }

    /// Connections that came to the gateway.
    pub(crate) fn gateway_callers(&self) -> usize {
        self.front.as_ref().map_or(0, Server::callers)
    }

    pub(crate) fn evil_callers(&self) -> usize {
        self.evil.callers()
    }

    /// A configuration whose gateway is `https://gw.test`; `keys` are further lines of it.
    pub(crate) async fn config(&self, keys: &str) -> PathBuf {
        // Makes the role.
        self.outbox.db.daemon_url().await;
        let ca = if keys.contains("ca_file") { "" } else { "ca_file = \"ca.pem\"" };
        let main = format!(
            "dialect = \"interactsms-v2\"\napi_url = \"https://gw.test\"\ntoken_url = \"https://gw.test/token\"\n\
             username = \"demo\"\npassword = \"demo-password\"\nbackoff_min = \"50ms\"\nbackoff_max = \"200ms\"\nconnect_timeout = \"3s\"\n{ca}\n{keys}"
        );
        let (db, port) = (&self.outbox.db, self.cluster.port());
        let url = format!(
            "host=db.test port={port} dbname={} user={} sslmode=disable",
            db.name(),
            db.role("daemon")
        );
        let text = self.outbox.config_with(&main, Lines::default()).replace(&self.outbox.daemon_url, &url);
        let file = self.directory.path().join("outboxd.toml");
        fs::write(&file, text).unwrap();
        let user: u32 = USER.parse().unwrap();
        chown(&file, Some(user), Some(user)).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        file
    }

    /// The same configuration with another host than the gateway's.
    pub(crate) fn aim_at(&self, host: &str) {
        let file = self.directory.path().join("outboxd.toml");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("https://gw.test", &format!("https://{host}"))).unwrap();
    }

    /// Loads what `outboxd egress` says about the present configuration, as it is printed.
    pub(crate) fn enclose(&self) {
        let file = self.directory.path().join("outboxd.toml");
        let mut command = self.net.as_daemon(&self.program);
        command.arg("--config").arg(&file).args(["egress", "--format", "nftables", "--user", USER]);
        let rules = crate::net::succeed(&mut command);
        self.net.load(&rules);
        assert_eq!(self.net.refused(), 0, "a new counter");
    }

    /// `outboxd check` in the site, as the daemon's user: its exit status and what it says.
    pub(crate) fn check(&self) -> (i32, String) {
        let file = self.directory.path().join("outboxd.toml");
        let output = self
            .net
            .as_daemon(&self.program)
            .arg("--config")
            .arg(&file)
            .arg("check")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts a daemon and waits until it leads.
    pub(crate) async fn daemon(&self) -> Daemon {
        let file = self.directory.path().join("outboxd.toml");
        let log = self.directory.path().join("log");
        let child = self
            .net
            .as_daemon(&self.program)
            .arg("--config")
            .arg(&file)
            .arg("run")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let daemon = Daemon { child, log };
        daemon.until_logged("leading").await;
        daemon
    }

    /// Queues so many messages and waits until the gateway has taken them all.
    pub(crate) async fn deliver(&self, count: i32) {
        self.outbox.queue(count).await;
        self.until_all_accepted().await;
    }

    pub(crate) async fn until_all_accepted(&self) {
        let sql = "SELECT bool_and(status = 'accepted') FROM sms.outbox";
        self.outbox.until_true("all messages are accepted", sql).await;
    }

    /// Nothing was tried beside the list, and nobody came to the stranger.
    #[track_caller]
    pub(crate) fn assert_confined(&self) {
        assert_eq!(
            (self.net.refused(), self.evil_callers()),
            (0, 0),
            "packets beside the list, callers of the stranger"
        );
    }
}
