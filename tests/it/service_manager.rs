//! What the daemon tells the service manager, over a socket as systemd's: in which order, and when it stops saying that it
//! is alive.

use std::io::{PipeReader, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::net::UnixDatagram;

use crate::support::admin::{get, until};
use crate::support::daemon::Daemon;
use crate::support::port::free_port;
use crate::support::postgres::TestDb;
use crate::support::site::{LIMIT, Lines, Site};
use crate::support::wire::{Door, Wire};

/// Half of it is how often the daemon is to speak.
const WATCHDOG: Duration = Duration::from_millis(600);
/// The daemon is taken for wedged after ten seconds.
const WEDGED: Duration = Duration::from_secs(25);

/// Stands for systemd.
struct Manager {
    socket: UnixDatagram,
    directory: TempDir,
}

impl Manager {
    fn new() -> Manager {
        let directory = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        Manager { socket, directory }
    }

    /// What a service finds in its environment.
    fn introduce(&self, command: &mut Command) {
        command.env("NOTIFY_SOCKET", self.directory.path().join("notify"));
    }

    fn introduce_watchdog(&self, command: &mut Command) {
        self.introduce(command);
        command.env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
    }

    /// The next message: its lines.
    async fn next(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        let received = tokio::time::timeout(LIMIT, self.socket.recv(&mut buffer)).await;
        let length = received.expect("the daemon says something").unwrap();
        let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// The next message that is more than a status.
    async fn next_state(&self) -> Vec<String> {
        loop {
            let lines = self.next().await;
            if lines.iter().any(|line| !line.starts_with("STATUS=")) {
                return lines;
            }
        }
    }

    async fn until_ready(&self) -> Vec<String> {
        loop {
            let lines = self.next().await;
            if lines[0] == "READY=1" {
                return lines;
            }
        }
    }

    async fn until_status(&self, part: &str) {
        loop {
            let lines = self.next().await;
            if lines.iter().any(|line| line.starts_with("STATUS=") && line.contains(part)) {
                return;
            }
        }
    }

    /// How long the daemon has been silent when it says again that it is alive; `None`: longer than `limit`.
    async fn next_alive(&self, limit: Duration) -> Option<Duration> {
        let begun = Instant::now();
        let mut buffer = [0; 4096];
        loop {
            let left = limit.checked_sub(begun.elapsed())?;
            let length = tokio::time::timeout(left, self.socket.recv(&mut buffer)).await.ok()?.unwrap();
            if buffer[..length].starts_with(b"WATCHDOG=1") {
                return Some(begun.elapsed());
            }
        }
    }
}

fn microseconds(lines: &[String]) -> u64 {
    let value = lines.iter().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    value.expect("a time").parse().expect("a number")
}

#[tokio::test]
async fn ready_reloading_and_stopping_are_said_in_order_and_each_once() {
    let site = Site::new("notify").await;
    let manager = Manager::new();
    let config = site.config(Lines { queue: "shutdown_grace = \"7s\"", ..Lines::default() });
    let mut daemon = Daemon::spawn_with(&config, |command| manager.introduce(command));
    let ready = manager.next_state().await;
    assert_eq!(ready[0], "READY=1", "{ready:?}");
    manager.until_status("leading").await;

    let mut last = 0;
    for round in 1..=2 {
        daemon.signal(Signal::HUP);
        let reloading = manager.next_state().await;
        assert_eq!(reloading[0], "RELOADING=1", "{reloading:?}");
        let at = microseconds(&reloading);
        assert!(at > last, "{at} is not after {last}");
        last = at;
        let ready = manager.next_state().await;
        assert_eq!(ready[0], "READY=1", "{ready:?}");
        manager.until_status("leading").await;
        daemon.until_logged(round, "configuration read again").await;
    }
    // A file that is wrong ends its reload too.
    daemon.rewrite("[nonsense]");
    daemon.signal(Signal::HUP);
    assert_eq!(manager.next_state().await[0], "RELOADING=1");
    assert_eq!(manager.next_state().await[0], "READY=1");
    manager.until_status("was not taken over").await;

    daemon.terminate();
    let stopping = manager.next_state().await;
    assert_eq!(stopping[0], "STOPPING=1", "{stopping:?}");
    let granted = stopping.iter().find_map(|line| line.strip_prefix("EXTEND_TIMEOUT_USEC="));
    let granted: u64 = granted.expect("how long it may take").parse().unwrap();
    assert!(granted > 17_000_000, "grace and last writes: {granted}");
    assert!(daemon.wait_exit(LIMIT).await.success());
    let mut buffer = [0; 512];
    let rest = manager.socket.try_recv(&mut buffer).map(|length| buffer[..length].to_vec());
    assert!(rest.is_err(), "{:?}", rest.map(String::from_utf8));
}

#[tokio::test]
async fn it_is_started_although_postgresql_is_not_there_yet() {
    let wire = Wire::to_cluster();
    let mut site = Site::new("notify_early").await;
    site.route_through(&wire);
    wire.door(Door::Reset);
    let manager = Manager::new();
    let mut daemon =
        Daemon::spawn_with(&site.config(Lines::default()), |command| manager.introduce_watchdog(command));
    let ready = manager.until_ready().await;
    assert_eq!(ready[..2], ["READY=1", "STATUS=waiting for the database"]);
    assert!(manager.next_alive(LIMIT).await.is_some(), "waiting is no reason to be restarted");
    wire.door(Door::Open);
    manager.until_status("leading").await;
    assert!(manager.next_alive(LIMIT).await.is_some());
    daemon.terminate();
    assert!(daemon.wait_exit(LIMIT).await.success());
}

#[tokio::test]
async fn a_start_that_no_waiting_mends_has_failed_and_says_why() {
    let db = TestDb::create_empty("notify_empty").await;
    let manager = Manager::new();
    let config = format!(
        "[database]\nurl = \"{}\"\n[gateway.main]\ndialect = \"interactsms-v2\"\nusername = \"u\"\npassword = \"p\"\n",
        db.url()
    );
    let mut daemon = Daemon::spawn_with(&config, |command| manager.introduce(command));
    let said = manager.next().await;
    assert!(
        said.len() == 1 && said[0].starts_with("STATUS=") && said[0].contains("outboxd migrate"),
        "{said:?}"
    );
    assert_eq!(daemon.wait_exit(LIMIT).await.code(), Some(78));
}

/// Reads until nothing more comes, or the daemon has ended.
fn drain(mut log: PipeReader) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while log.read(&mut buffer).is_ok_and(|length| length > 0) {}
    });
}

/// A log that nobody reads stops whoever has something to say, which is everybody: the process is there, and does nothing.
#[tokio::test]
async fn a_wedged_daemon_is_neither_alive_nor_feeds_the_watchdog_and_may_recover() {
    let site = Site::new("wedged").await;
    let manager = Manager::new();
    let port = free_port();
    let (log, end) = std::io::pipe().unwrap();
    let more = format!("[admin]\nlisten = \"127.0.0.1:{port}\"");
    let mut daemon = Daemon::spawn_with(&site.config(Lines { more: &more, ..Lines::default() }), |command| {
        manager.introduce_watchdog(command);
        command.stderr(Stdio::from(end));
    });
    manager.until_ready().await;
    manager.until_status("leading").await;
    for _ in 0..5 {
        let silence = manager.next_alive(LIMIT).await.expect("it is alive");
        assert!(silence < WATCHDOG, "{silence:?}");
    }
    assert_eq!(get(port, "/livez").await.status, 200);

    // More lines than a pipe holds.
    site.queue(2_000).await;
    let reason = tokio::time::timeout(WEDGED, until(port, "/livez", 503)).await.expect("it is wedged");
    assert!(reason.starts_with("wedged: ") && reason.contains("dispatch for 1"), "{reason}");
    manager.until_status("wedged: ").await;
    assert_eq!(manager.next_alive(3 * WATCHDOG).await, None, "a wedged daemon says that it is alive");
    assert!(get(port, "/readyz").await.body.starts_with("not ready: wedged: "));

    drain(log);
    until(port, "/livez", 200).await;
    assert!(manager.next_alive(LIMIT).await.is_some(), "it gets on again");
    site.until_counts("everything is sent, once", |counts| counts.of("accepted") == 2_000).await;
    assert_eq!(site.sim_count("accepted").await, 2_000);
    daemon.terminate();
    assert!(daemon.wait_exit(LIMIT).await.success());
}

/// Nothing is wrong with a daemon whose database is frozen: restarting it would make what is under way unknown.
#[tokio::test]
async fn a_frozen_database_is_no_reason_to_be_restarted() {
    let wire = Wire::to_cluster();
    let mut site = Site::new("notify_frozen").await;
    site.route_through(&wire);
    site.daemon_database = "timeout = \"2s\"".to_owned();
    let manager = Manager::new();
    let _daemon =
        Daemon::spawn_with(&site.config(Lines::default()), |command| manager.introduce_watchdog(command));
    manager.until_status("leading").await;
    wire.door(Door::Silent);
    wire.silence_all();
    manager.until_status("waiting for the database").await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(15) {
        let silence = manager.next_alive(LIMIT).await.expect("it is alive");
        assert!(silence < 2 * WATCHDOG, "{silence:?}");
    }
}
