//! The daemons of one schedule, as a service manager would keep them: each has a slot, with a configuration, a log and,
//! while it runs, a process.
//!
//! A daemon that ends without having been told to is a finding, and is started again, as it would be in life.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::clock::set_clock;

/// Between the end of a daemon and its next start by the service manager.
const RESTART_PAUSE: Duration = Duration::from_millis(300);

/// Where a daemon's log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogEnd {
    File,
    /// `/dev/full`: every line fails.
    FullDevice,
}

#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) number: usize,
    config: PathBuf,
    log: PathBuf,
    log_end: LogEnd,
    /// What its clock is off by, if it can be set.
    clock: PathBuf,
    environment: Vec<(&'static str, String)>,
    child: Option<Child>,
    paused: bool,
    /// A fault has ended it and starts it again itself.
    down: bool,
    ended_at: Option<Instant>,
    /// Largest resident memory of any process in this slot, kB.
    pub(crate) peak_kb: u64,
    /// What is wrong with how a process ended.
    pub(crate) findings: Vec<String>,
    /// Set while a stop was asked for: then an end is no finding.
    stopping: bool,
}

impl Slot {
    pub(crate) fn new(number: usize, directory: &Path, config_text: &str) -> Slot {
        let config = directory.join(format!("daemon-{number}.toml"));
        fs::write(&config, config_text).unwrap();
        // It holds passwords, and a file that everybody may read is refused.
        fs::set_permissions(&config, Permissions::from_mode(0o600)).unwrap();
        Slot {
            number,
            config,
            log: directory.join(format!("daemon-{number}.log")),
            log_end: LogEnd::File,
            clock: directory.join(format!("daemon-{number}.clock")),
            environment: Vec::new(),
            child: None,
            paused: false,
            down: false,
            ended_at: None,
            peak_kb: 0,
            findings: Vec::new(),
            stopping: false,
        }
    }

    /// Writes its log somewhere else than beside its configuration.
    pub(crate) fn log_in(&mut self, directory: &Path) {
        self.log = directory.join(format!("daemon-{}.log", self.number));
    }

    pub(crate) fn log_to(&mut self, end: LogEnd) {
        self.log_end = end;
    }

    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// Gives its processes a clock that can be set.
    pub(crate) fn with_clock(&mut self, faketime: &Path) {
        set_clock(&self.clock, 0);
        self.environment = clock_environment(faketime, &self.clock);
    }

    pub(crate) fn clock_file(&self) -> PathBuf {
        self.clock.clone()
    }

    /// Starts a process unless there is one.
    pub(crate) fn start(&mut self) {
        self.down = false;
        if self.child.is_some() {
            return;
        }
        self.stopping = false;
        self.paused = false;
        self.ended_at = None;
        // It dies with the thread that started it, the schedule's.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "env"])
            .args(self.environment.iter().map(|(name, value)| format!("{name}={value}")))
            .arg(env!("CARGO_BIN_EXE_outboxd"))
            .arg("--config")
            .arg(&self.config)
            .arg("run")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(self.open_log())
            .spawn()
            .expect("outboxd can be started");
        self.child = Some(child);
    }

    fn open_log(&self) -> File {
        let file = match self.log_end {
            LogEnd::File => &self.log,
            LogEnd::FullDevice => Path::new("/dev/full"),
        };
        OpenOptions::new().create(true).append(true).open(file).unwrap()
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// It has a process, and that process gets time.
    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some() && !self.paused
    }

    /// SIGKILL; gone when this returns. Somebody must call [`Slot::start`] later.
    pub(crate) fn kill(&mut self) -> bool {
        self.measure();
        self.down = true;
        let Some(mut child) = self.child.take() else { return false };
        child.kill().unwrap();
        child.wait().unwrap();
        true
    }

    /// SIGTERM. Returns at once.
    pub(crate) fn terminate(&mut self) -> bool {
        self.measure();
        self.down = true;
        self.stopping = true;
        self.signal(Signal::TERM)
    }

    /// Which process it is now.
    pub(crate) fn process(&self) -> Option<u32> {
        self.child.as_ref().map(std::process::Child::id)
    }

    /// Whether it has no process, perhaps since this moment.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.watch();
        self.child.is_none()
    }

    pub(crate) fn pause(&mut self) -> bool {
        self.paused = self.signal(Signal::STOP);
        self.paused
    }

    pub(crate) fn resume(&mut self) {
        self.paused = false;
        self.signal(Signal::CONT);
    }

    pub(crate) fn reload(&mut self) -> bool {
        self.signal(Signal::HUP)
    }

    fn signal(&mut self, signal: Signal) -> bool {
        // A child that has not been waited for keeps its number, so that it cannot be anybody else's.
        self.child.as_ref().is_some_and(|child| kill_process(Pid::from_child(child), signal).is_ok())
    }

    /// Looks whether the process ended, measures it, and starts it again if it ended by itself.
    pub(crate) fn watch(&mut self) {
        self.measure();
        let ended = self.child.as_mut().and_then(|child| child.try_wait().unwrap());
        if let Some(status) = ended {
            self.child = None;
            self.ended_at = Some(Instant::now());
            if !self.stopping {
                let tail = last_lines(&self.log, 6);
                self.findings.push(format!("daemon {} ended by itself: {status}\n{tail}", self.number));
            }
        }
        let rested = self.ended_at.is_some_and(|at| at.elapsed() >= RESTART_PAUSE);
        if self.child.is_none() && !self.down && rested {
            self.start();
        }
    }

    fn measure(&mut self) {
        let Some(pid) = self.pid() else { return };
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let high = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kb = high.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok());
        self.peak_kb = self.peak_kb.max(kb.unwrap_or(0));
    }

    /// Lines of its log that no daemon should ever write.
    pub(crate) fn confessions(&self) -> Vec<String> {
        let log = String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned();
        let damning = ["panicked", "please report", "is a bug"];
        log.lines()
            .filter(|line| damning.iter().any(|word| line.contains(word)))
            .map(|line| format!("daemon {}: {line}", self.number))
            .collect()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Fails only for a process that has ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What makes libfaketime answer a process by a clock that is off by what stands in a file. Only the wall clock: what
/// counts since the boot is no setting.
pub(crate) fn clock_environment(faketime: &Path, file: &Path) -> Vec<(&'static str, String)> {
    vec![
        ("LD_PRELOAD", faketime.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        // All processes of a host see one clock.
        ("FAKETIME_NO_CACHE", "1".to_owned()),
    ]
}

fn last_lines(file: &Path, count: usize) -> String {
    let text = String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
