//! A PostgreSQL cluster of a test's own, for what cannot be done to the one that all tests share: other settings, a
//! stop, a crash, a streaming replica, a promotion, a copy.
//!
//! It listens on a socket in its own directory and on a port of 127.0.0.1, and trusts whoever comes: it holds nothing
//! but made-up rows, for some seconds. Each process dies with the thread that started it, the test's.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};

use super::eventually;
use super::port::free_port;
use super::postgres::connect;

/// Above what starting, stopping or crash recovery takes on a slow, busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// What every cluster here has; a test's own settings come behind it and win.
const SETTINGS: &str = "listen_addresses = '127.0.0.1'\nfsync = on\nwal_level = replica\nmax_wal_senders = 8\n\
                        wal_keep_size = '256MB'\nhot_standby = on\nmax_connections = 200\nshared_buffers = '64MB'\n\
                        jit = off\ntimezone = 'UTC'\nlogging_collector = off\ncluster_name = 'outboxd-test'\n";

/// How a server is made to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Throws out all sessions, then shuts down in order.
    Fast,
    /// As after a loss of power, but for the disk's cache: recovery at the next start.
    Immediate,
    /// SIGKILL of the postmaster; its children notice.
    Kill,
}

#[derive(Debug)]
pub(crate) struct Cluster {
    directory: TempDir,
    port: u16,
    server: Option<Child>,
    /// Variables that the server is started with.
    environment: Vec<(&'static str, String)>,
    /// The process whose mounts the server sees instead of ours.
    mounts_of: Option<u32>,
}

impl Cluster {
    /// A new cluster with lines of `postgresql.conf` of the test's own, running.
    pub(crate) async fn start(settings: &str) -> Cluster {
        let mut cluster = Cluster::empty();
        let data = cluster.data();
        as_server(&binary("initdb"))
            .args(["--username=postgres", "--encoding=UTF8", "--locale=C.UTF-8", "--auth=trust", "--no-sync"])
            .arg("--pgdata")
            .arg(&data)
            .succeed();
        cluster.configure(&format!("{SETTINGS}{settings}"));
        cluster.run().await;
        cluster
    }

    /// A running streaming replica of this cluster. Its walreceiver is called `name`, for `synchronous_standby_names`.
    pub(crate) async fn replica(&self, name: &str, settings: &str) -> Cluster {
        let mut replica = self.base_backup(name, true).unwrap();
        replica.configure(settings);
        replica.run().await;
        replica
    }

    /// A backup as `pg_basebackup` makes it, restored into a directory of its own, not running yet: see
    /// [`Cluster::run`]. Without [`Cluster::recover_to_a_new_timeline`] it keeps the timeline.
    pub(crate) fn backup(&self) -> Cluster {
        self.try_backup().unwrap()
    }

    /// The same where the server may be in no state to be copied.
    pub(crate) fn try_backup(&self) -> Result<Cluster, String> {
        self.base_backup("backup", false)
    }

    /// A copy of a stopped cluster's files, with its identity and its timeline, not running yet.
    pub(crate) fn copy(&self) -> Cluster {
        assert!(self.server.is_none(), "the files of a running server are no backup");
        let copy = Cluster::empty();
        Command::new("cp").arg("-a").arg("--reflink=auto").arg(self.data()).arg(copy.data()).succeed();
        copy
    }

    /// Its next start is a point-in-time recovery, which begins a new timeline. For backups.
    pub(crate) fn recover_to_a_new_timeline(&self) {
        File::create(self.data().join("recovery.signal")).unwrap();
        // A server that takes connections while it recovers would be called ready too early.
        self.configure("restore_command = 'false'\nhot_standby = off");
        give_to_server(&self.data().join("recovery.signal"));
    }

    fn base_backup(&self, name: &str, standby: bool) -> Result<Cluster, String> {
        let copy = Cluster::empty();
        let source = format!(
            "host={} port={} user=postgres application_name={name}",
            self.socket().display(),
            self.port
        );
        let mut command = as_server(&binary("pg_basebackup"));
        command.args([
            "--wal-method=stream",
            "--checkpoint=fast",
            "--no-sync",
            "--dbname",
            &source,
            "--pgdata",
        ]);
        command.arg(copy.data());
        if standby {
            command.arg("--write-recovery-conf");
        }
        let output = command.output().expect("pg_basebackup can be started");
        if output.status.success() {
            Ok(copy)
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    fn empty() -> Cluster {
        // Short: the path of a Unix socket has at most 107 bytes.
        let directory = tempfile::Builder::new().prefix("outboxd-cl.").tempdir_in("/tmp").unwrap();
        let cluster =
            Cluster { directory, port: free_port(), server: None, environment: Vec::new(), mounts_of: None };
        give_to_server(cluster.directory.path());
        cluster
    }

    /// Appends lines to `postgresql.conf`; the last word on a setting wins. Takes effect with the next start, or
    /// with `pg_reload_conf()`.
    pub(crate) fn configure(&self, settings: &str) {
        let mut file = OpenOptions::new().append(true).open(self.data().join("postgresql.conf")).unwrap();
        writeln!(file, "\n{settings}").unwrap();
    }

    /// A variable of the server's environment, from its next start on.
    pub(crate) fn set_environment(&mut self, name: &'static str, value: impl Into<String>) {
        self.environment.push((name, value.into()));
    }

    /// From its next start on the server sees the mounts of this process: a disk of its own.
    pub(crate) fn enter_mounts_of(&mut self, pid: u32) {
        self.mounts_of = Some(pid);
    }

    /// Starts the server and waits until it takes connections; after a crash that is after recovery.
    pub(crate) async fn run(&mut self) {
        assert!(self.server.is_none(), "it runs");
        eventually(LIMIT, "the server is ready", async || {
            if self.server.is_none() {
                self.server = Some(self.spawn(&[]));
            }
            let Some(server) = self.server.as_mut() else { return Err(String::new()) };
            let status =
                fs::read_to_string(self.directory.path().join("data/postmaster.pid")).unwrap_or_default();
            let mut lines = status.lines();
            // The file of a server that was killed stays: whose it is stands in its first line.
            if lines.next() == Some(&server.id().to_string())
                && lines.nth(6).is_some_and(|line| line.starts_with("ready"))
            {
                return Ok(());
            }
            // After a SIGKILL the old children may still hold the shared memory: start once more.
            if server.try_wait().unwrap().is_some() {
                self.server = None;
            }
            Err(self.log())
        })
        .await;
    }

    /// Starts the server so that it is starting up until it is stopped, and lets nobody in (57P03). The next start is an
    /// ordinary one, on the same timeline.
    pub(crate) async fn start_up_without_end(&mut self) {
        assert!(self.server.is_none(), "it runs");
        let signal = self.data().join("standby.signal");
        File::create(&signal).unwrap();
        give_to_server(&signal);
        let said_before = self.log().len();
        self.server = Some(self.spawn(&["-c", "hot_standby=off"]));
        // It turns callers away before that already; without the file it would then start as usual.
        eventually(LIMIT, "the server has read the signal", async || {
            let log = self.log().split_off(said_before);
            if log.contains("entering standby mode") { Ok(()) } else { Err(log) }
        })
        .await;
        eventually(LIMIT, "the server lets nobody in", async || {
            match self.config("postgres").connect(NoTls).await {
                Err(error) if error.code() == Some(&SqlState::CANNOT_CONNECT_NOW) => Ok(()),
                other => Err(other.map(|_| ())),
            }
        })
        .await;
        fs::remove_file(signal).unwrap();
    }

    fn spawn(&self, arguments: &[&str]) -> Child {
        let log = OpenOptions::new().create(true).append(true).open(self.log_file()).unwrap();
        // Set behind the change of the user: what libraries make at their start must belong to PostgreSQL's.
        let mut command = as_server(Path::new("env"));
        if let Some(pid) = self.mounts_of {
            let mut inside = Command::new("nsenter");
            inside
                .args(["--mount", "--target", &pid.to_string(), "--wd=/tmp", "setpriv"])
                .args(command.get_args());
            command = inside;
        }
        command
            .args(self.environment.iter().map(|(name, value)| format!("{name}={value}")))
            .arg(binary("postgres"))
            .arg("-D")
            .arg(self.data())
            .arg("-p")
            .arg(self.port.to_string())
            .arg("-k")
            .arg(self.socket())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("postgres can be started")
    }

    /// Whether the server has ended by itself; then it may be run again.
    pub(crate) fn has_ended(&mut self) -> bool {
        let ended = self.server.as_mut().is_some_and(|server| server.try_wait().unwrap().is_some());
        if ended {
            self.server = None;
        }
        ended
    }

    /// Stops the server and waits until it is gone.
    pub(crate) async fn stop(&mut self, how: Stop) {
        let mut server = self.server.take().expect("it runs");
        let signal = match how {
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
            Stop::Kill => Signal::KILL,
        };
        kill_process(Pid::from_child(&server), signal).unwrap();
        eventually(LIMIT, "the server ends", async || server.try_wait().unwrap().ok_or("it still runs"))
            .await;
    }

    /// Lets nobody in any more, and shuts down when the last session has ended by itself.
    pub(crate) fn close(&self) {
        let server = self.server.as_ref().expect("it runs");
        kill_process(Pid::from_child(server), Signal::TERM).unwrap();
    }

    pub(crate) async fn restart(&mut self, how: Stop) {
        self.stop(how).await;
        self.run().await;
    }

    /// Makes a replica a primary of its own, on a new timeline.
    pub(crate) async fn promote(&self) {
        let client = self.client("postgres").await;
        let done: bool = client.query_one("SELECT pg_promote(true, 60)", &[]).await.unwrap().get(0);
        assert!(done, "the promotion took longer than 60 s");
    }

    /// A new connection of the superuser.
    pub(crate) async fn client(&self, database: &str) -> Client {
        connect(&self.config(database)).await
    }

    /// Parameters of the superuser, through the socket.
    pub(crate) fn config(&self, database: &str) -> Config {
        let mut config = Config::new();
        config.host_path(self.socket()).port(self.port).user("postgres").dbname(database);
        config.application_name("outboxd-test");
        config
    }

    /// `127.0.0.1:<port>`, for connection strings with several hosts and for proxies.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The postmaster.
    pub(crate) fn pid(&self) -> u32 {
        self.server.as_ref().expect("it runs").id()
    }

    /// Where its socket is.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().to_path_buf()
    }

    /// The data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// All that the server has written.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("log")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            // Nobody needs these files again. SIGQUIT lets the postmaster take its children with it.
            let _ = kill_process(Pid::from_child(&server), Signal::QUIT);
            let _ = server.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "--- log of the private cluster\n{}\n---",
                lines[lines.len().saturating_sub(40)..].join("\n")
            );
        }
    }
}

fn binary(name: &str) -> PathBuf {
    let Ok(directory) = std::env::var("OUTBOXD_TEST_PG_BIN") else {
        panic!("OUTBOXD_TEST_PG_BIN is not set: run through make test, or tests/with-postgres cargo test");
    };
    Path::new(&directory).join(name)
}

/// PostgreSQL refuses to run as root: the user and group that it runs as then.
fn server_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let ask = |flag: &str, user: &str| {
        let output = Command::new("id").args([flag, user]).output().ok()?;
        String::from_utf8_lossy(&output.stdout).trim().parse().ok()
    };
    let of = |user: &str| Some((ask("-u", user)?, ask("-g", user)?));
    Some(of("postgres").or_else(|| of("nobody")).expect("a user that PostgreSQL may run as"))
}

pub(crate) fn give_to_server(path: &Path) {
    if let Some((user, group)) = server_user() {
        chown(path, Some(user), Some(group)).unwrap();
    }
}

/// A command of the server's user, which dies with the test.
pub(crate) fn as_server(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "QUIT"]);
    if let Some((user, group)) = server_user() {
        command.arg(format!("--reuid={user}")).arg(format!("--regid={group}")).arg("--init-groups");
    }
    command.arg(program).current_dir("/tmp");
    for variable in ["PGHOST", "PGPORT", "PGUSER", "PGDATABASE"] {
        command.env_remove(variable);
    }
    command
}

trait Succeed {
    fn succeed(&mut self);
}

impl Succeed for Command {
    fn succeed(&mut self) {
        let output = self.output().expect("the program can be started");
        assert!(output.status.success(), "{self:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[cfg(test)]
mod tests {
    use super::{Cluster, Stop};

    #[tokio::test]
    async fn a_cluster_of_ones_own_is_restarted_replicated_and_promoted() {
        let mut primary = Cluster::start("work_mem = '5MB'").await;
        let sql = primary.client("postgres").await;
        sql.batch_execute("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await.unwrap();
        let replica = primary.replica("copy", "").await;
        let backup = primary.backup();
        for how in [Stop::Fast, Stop::Immediate, Stop::Kill] {
            primary.restart(how).await;
        }
        let sql = primary.client("postgres").await;
        let row = sql.query_one("SELECT n, current_setting('work_mem') FROM t", &[]).await.unwrap();
        assert_eq!((row.get(0), row.get(1)), (1, "5MB"));
        replica.promote().await;
        let mut restored = backup;
        restored.recover_to_a_new_timeline();
        restored.run().await;
        for (copy, timeline) in [(&primary, "00000001"), (&replica, "00000002"), (&restored, "00000002")] {
            let sql = copy.client("postgres").await;
            sql.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
            let sql = sql.query_one("SELECT substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)", &[]);
            assert_eq!(sql.await.unwrap().get::<_, &str>(0), timeline);
        }
    }
}
