//! A PgBouncer of a test's own in front of the test cluster, on a socket in its own directory.
//!
//! Whoever may enter the directory is trusted, as by the cluster behind it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio_postgres::config::Host;
use tokio_postgres::{Config, NoTls};

use super::cluster::{as_server, give_to_server};
use super::eventually;
use super::postgres::{cluster, in_full};

const PROGRAM: &str = "/usr/sbin/pgbouncer";
/// Of the socket's name only: nothing listens on TCP.
const PORT: u16 = 6432;
const LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct PgBouncer {
    directory: TempDir,
    settings: String,
    running: Option<Child>,
}

impl PgBouncer {
    /// Runs one that pools transactions, and lets these users in. `settings` are lines of `[pgbouncer]`.
    pub(crate) async fn start(users: &[String], settings: &str) -> PgBouncer {
        assert!(Path::new(PROGRAM).exists(), "{PROGRAM} is missing: run tests/install-needs");
        let directory = tempfile::Builder::new().prefix("outboxd-pb.").tempdir_in("/tmp").unwrap();
        let mut bouncer = PgBouncer { directory, settings: settings.to_owned(), running: None };
        let users: String = users.iter().map(|user| format!("\"{user}\" \"\"\n")).collect();
        fs::write(bouncer.file("users"), format!("\"postgres\" \"\"\n{users}")).unwrap();
        bouncer.lead_to("* =");
        give_to_server(bouncer.directory.path());
        bouncer.run().await;
        bouncer
    }

    /// Writes which database leads where, for the next start or `RELOAD`: `name = dbname=other`, before the address of
    /// the test cluster.
    pub(crate) fn lead_to(&self, databases: &str) {
        let server = cluster("postgres");
        let [Host::Unix(socket)] = server.get_hosts() else {
            panic!("the test cluster has no socket: {:?}", server.get_hosts());
        };
        let (socket, port, directory) =
            (socket.display(), server.get_ports()[0], self.directory.path().display());
        let mode = if self.settings.contains("pool_mode") { "" } else { "pool_mode = transaction" };
        let text = format!(
            "[databases]\n{databases} host={socket} port={port}\n\n[pgbouncer]\nlisten_addr =\nlisten_port = {PORT}\n\
             unix_socket_dir = {directory}\nauth_type = trust\nauth_file = {directory}/users\n\
             admin_users = postgres\nlogfile = {directory}/log\n{mode}\n{}\n",
            self.settings
        );
        fs::write(self.file("pgbouncer.ini"), text).unwrap();
    }

    /// Starts it, again after [`PgBouncer::kill9`], and waits until it takes connections.
    pub(crate) async fn run(&mut self) {
        assert!(self.running.is_none(), "it runs");
        let child = as_server(Path::new(PROGRAM))
            .arg("--quiet")
            .arg(self.file("pgbouncer.ini"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("pgbouncer can be started");
        self.running = Some(child);
        eventually(LIMIT, "pgbouncer takes connections", async || {
            if let Some(status) = self.running.as_mut().and_then(|child| child.try_wait().unwrap()) {
                panic!("pgbouncer ended: {status}\n{}", self.log());
            }
            self.console().connect(NoTls).await.map(|_| ()).map_err(|error| in_full(&error))
        })
        .await;
    }

    /// SIGKILL: every client and every server loses its connection.
    pub(crate) fn kill9(&mut self) {
        let mut child = self.running.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// The way through it to where `url` leads.
    pub(crate) fn url(&self, url: &str) -> String {
        let (login, _) = url.split_once('@').expect("a URL with a user");
        let (_, database) = url.rsplit_once('/').expect("a URL with a database");
        let directory = self.directory.path().to_str().unwrap().replace('/', "%2F");
        format!("{login}@{directory}:{PORT}/{database}")
    }

    /// Says something to its console, `PAUSE` for example, and waits until that is done.
    pub(crate) async fn console_says(&self, command: &str) {
        let (client, connection) = self.console().connect(NoTls).await.unwrap();
        let driving = tokio::spawn(connection);
        match tokio::time::timeout(LIMIT, client.batch_execute(command)).await {
            Ok(done) => done.unwrap_or_else(|error| panic!("{command}: {}", in_full(&error))),
            Err(_) => panic!("{command} took longer than {LIMIT:?}\n{}", self.log()),
        }
        driving.abort();
    }

    fn console(&self) -> Config {
        let mut config = Config::new();
        config.host_path(self.directory.path()).port(PORT).user("postgres").dbname("pgbouncer");
        config
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.file("log")).unwrap_or_default()).into_owned()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        if let Some(mut child) = self.running.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- log of pgbouncer\n{}\n---", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}
