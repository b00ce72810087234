//! One trial's site: a database and a gateway in the world, a daemon in the site, and a firewall around it.

use std::fs::{self, File, Permissions};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::net::{DATABASE, DATABASE6, EVIL, EVIL6, GATEWAY, GATEWAY6, NAMES, NAMES6, Site, USER};
use crate::peers::{Server, front};
use crate::resolver::Resolver;
use crate::support::cluster::{Cluster, Stop};
use crate::support::eventually;
use crate::support::site::{Lines, Site as Outbox};

pub(crate) const LIMIT: Duration = Duration::from_secs(30);
pub(crate) const AUTHORITY: &str = include_str!("../it/certificates/authority.crt");
const GATEWAY_CERTIFICATE: &str = include_str!("../it/certificates/gateway.crt");
const GATEWAY_KEY: &str = include_str!("../it/certificates/gateway.key");

pub(crate) struct World {
    pub(crate) net: Site,
    pub(crate) names: Resolver,
    pub(crate) outbox: Outbox,
    /// Who counts callers that must not come.
    evil: Vec<Server>,
    fronts: Vec<Server>,
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
        ask_at(NAMES.into());
        let names = Resolver::start(&[SocketAddr::from((NAMES, 53)), SocketAddr::from((NAMES6, 53))]).await;
        names.lead("db.test", &[DATABASE]);
        names.lead("gw.test", &[GATEWAY]);
        names.lead("evil.test", &[EVIL]);
        let mut cluster =
            Cluster::start(&format!("listen_addresses = '127.0.0.1, {DATABASE}, {DATABASE6}'")).await;
        let hba = cluster.data().join("pg_hba.conf");
        let rules = fs::read_to_string(&hba).unwrap()
            + "host all all 10.77.0.0/24 trust\nhost all all fd77::/64 trust\n";
        fs::write(&hba, rules).unwrap();
        cluster.restart(Stop::Fast).await;
        let outbox = Outbox::in_cluster(&cluster, hint, false).await;
        let mut evil = Vec::new();
        for address in [IpAddr::from(EVIL), IpAddr::from(EVIL6)] {
            evil.push(Server::start(SocketAddr::from((address, 443)), drop).await);
        }
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        fs::write(directory.path().join("ca.pem"), AUTHORITY).unwrap();
        // The daemon's user need not be able to enter where it was built.
        let program = directory.path().join("outboxd");
        fs::copy(env!("CARGO_BIN_EXE_outboxd"), &program).unwrap();
        let mut world = World { net, names, outbox, evil, fronts: Vec::new(), cluster, directory, program };
        world.answer_as(GATEWAY_CERTIFICATE, GATEWAY_KEY).await;
        world
    }

    /// From now on this is the gateway's certificate.
    pub(crate) async fn answer_as(&mut self, certificate: &str, key: &str) {
        for front in self.fronts.drain(..) {
            front.stop().await;
        }
        for address in [IpAddr::from(GATEWAY), IpAddr::from(GATEWAY6)] {
            self.fronts.push(front(address, certificate, key, self.outbox.sim.address("gateway")).await);
        }
    }

    /// Connections that came to the gateway.
    pub(crate) fn gateway_callers(&self) -> usize {
        self.fronts.iter().map(Server::callers).sum()
    }

    pub(crate) fn evil_callers(&self) -> usize {
        self.evil.iter().map(Server::callers).sum()
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
        self.change("https://gw.test", &format!("https://{host}"));
    }

    /// The same configuration with the database elsewhere.
    pub(crate) fn database_at(&self, host: &str) {
        self.change("host=db.test", &format!("host={host}"));
    }

    fn change(&self, from: &str, to: &str) {
        let file = self.directory.path().join("outboxd.toml");
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{from} is in the configuration");
        fs::write(&file, text.replace(from, to)).unwrap();
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

/// From now on this is the one name server of everybody.
pub(crate) fn ask_at(server: IpAddr) {
    let directory = std::env::var_os("OUTBOXD_SYSTEM_DIR").unwrap();
    // Written, not replaced: this very file is mounted over /etc/resolv.conf.
    fs::write(Path::new(&directory).join("resolv.conf"), format!("nameserver {server}\n")).unwrap();
}
