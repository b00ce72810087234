//! The real `outboxd run` as a child process, with a configuration of the test's own.
//!
//! Signals go only to the process that was started here and has not been waited for, so that its number cannot belong
//! to anybody else.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::eventually;

const READY_LIMIT: Duration = Duration::from_secs(30);
/// What the daemon stays below through every fault.
const MOST_MEMORY_MB: u64 = 100;
/// How much of the log a failing test shows.
const SHOWN_LINES: usize = 200;

/// A running daemon. It is killed when this is dropped; if the test is failing then, its log is shown.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
    directory: TempDir,
}

impl Daemon {
    /// Starts `outboxd run` and waits until it is ready.
    pub(crate) async fn start(config: &str) -> Daemon {
        let mut daemon = Daemon::spawn(config);
        daemon.wait_ready().await;
        daemon
    }

    /// Starts `outboxd run` and waits for nothing: for daemons that are to refuse, or to stand by.
    pub(crate) fn spawn(config: &str) -> Daemon {
        Daemon::spawn_with(config, |_| ())
    }

    /// The same with another environment, or with stderr going elsewhere: then there is no log to look at.
    pub(crate) fn spawn_with(config: &str, change: impl FnOnce(&mut Command)) -> Daemon {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("outboxd.toml");
        std::fs::write(&file, config).unwrap();
        // It holds passwords, and a file that everybody may read is refused.
        std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        let log = directory.path().join("log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_outboxd"));
        command
            .arg("--config")
            .arg(&file)
            .arg("run")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap());
        change(&mut command);
        let child = command.spawn().expect("outboxd can be started");
        Daemon { child, log, directory }
    }

    /// Writes another configuration into its file; SIGHUP makes it look.
    pub(crate) fn rewrite(&self, config: &str) {
        std::fs::write(self.directory.path().join("outboxd.toml"), config).unwrap();
    }

    /// Ready means that it has told so in its log.
    async fn wait_ready(&mut self) {
        eventually(READY_LIMIT, "the daemon is ready", async || {
            if let Some(status) = self.exited() {
                panic!("the daemon ended before it was ready: {status}");
            }
            let log = self.log();
            // As a word: `already` is not ready.
            let ready = log.split(|c: char| !c.is_alphanumeric()).any(|word| word == "ready");
            if ready { Ok(()) } else { Err(log) }
        })
        .await;
    }

    /// Waits for a line in the log that contains `text`, and returns it.
    pub(crate) async fn wait_log(&self, limit: Duration, text: &str) -> String {
        eventually(limit, &format!("the daemon logs `{text}`"), async || {
            let log = self.log();
            log.lines().find(|line| line.contains(text)).map(str::to_owned).ok_or(log)
        })
        .await
    }

    /// Waits until so many lines of the log contain `text`.
    pub(crate) async fn until_logged(&self, times: usize, text: &str) {
        eventually(READY_LIMIT, &format!("the daemon logs `{text}` {times} times"), async || {
            if self.logged(text) >= times { Ok(()) } else { Err(self.log()) }
        })
        .await;
    }

    /// How many lines of the log contain `text`.
    pub(crate) fn logged(&self, text: &str) -> usize {
        self.log().lines().filter(|line| line.contains(text)).count()
    }

    /// The most memory that it ever had resident is below what the daemon promises, whatever happened to it.
    pub(crate) fn assert_memory_bounded(&self) {
        let peak = self.peak_memory_mb();
        assert!(peak < MOST_MEMORY_MB, "it had {peak} MB");
    }

    /// Of the running process.
    pub(crate) fn peak_memory_mb(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak.and_then(|kb| kb.parse::<u64>().ok()).expect("a running process has had memory") / 1024
    }

    /// All that it has written to stderr.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; see [`Daemon::wait_exit`].
    pub(crate) fn terminate(&mut self) {
        self.signal(Signal::TERM);
    }

    /// SIGSTOP: it lives and does nothing any more when this returns. The signal alone stops the first thread that gets
    /// time to see it; on a busy machine the others may go on for milliseconds.
    pub(crate) fn pause(&mut self) {
        self.signal(Signal::STOP);
        let begun = Instant::now();
        while !self.stands_still() {
            assert!(begun.elapsed() < Duration::from_secs(30), "it does not stop");
            std::thread::yield_now();
        }
    }

    fn stands_still(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        threads.flatten().all(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            // Behind the name, which may hold anything.
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
        })
    }

    /// SIGCONT.
    pub(crate) fn resume(&mut self) {
        self.signal(Signal::CONT);
    }

    pub(crate) fn signal(&mut self, signal: Signal) {
        if let Some(status) = self.exited() {
            panic!("the daemon has ended already: {status}");
        }
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        eventually(limit, "the daemon ends", async || self.exited().ok_or("it still runs")).await
    }

    fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Fails only for a process that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned();
            let lines: Vec<&str> = log.lines().collect();
            let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
            eprintln!("--- log of the daemon (the last {} lines)\n{}\n---", shown.len(), shown.join("\n"));
        }
    }
}
