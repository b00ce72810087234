//! What this machine lets us do: namespaces of our own, a firewall in them, a clock that can be set for one process.
//!
//! Faults that cannot be played here are left out, and it is said which and why.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::schedule::What;
use crate::support::clock::faketime;

/// Says why the process has no namespaces of its own; empty: it has.
pub(crate) const ISOLATION: &str = "OUTBOXD_CHAOS_ISOLATION";

/// Brings the loopback interface of a new network namespace up, and becomes what follows. Shared memory is ours alone as
/// well: what killed processes leave there goes with us.
const ENTER: &str = "ip link set lo up && mount -t tmpfs -o mode=1777 chaos /dev/shm && exec \"$0\" \"$@\"";

#[derive(Debug, Clone)]
pub(crate) struct Machine {
    /// Network and mounts are ours alone.
    isolated: Result<(), String>,
    firewall: bool,
    pub(crate) faketime: Option<PathBuf>,
}

impl Machine {
    pub(crate) fn look() -> Machine {
        let isolated = match std::env::var(ISOLATION).as_deref() {
            Ok("") => Ok(()),
            Ok(reason) => Err(reason.to_owned()),
            Err(_) => Err("it was not asked for".to_owned()),
        };
        let firewall = isolated.is_ok() && succeeds(Command::new("nft").args(["list", "tables"]));
        Machine { isolated, firewall, faketime: faketime() }
    }

    /// Why this fault cannot be played here.
    pub(crate) fn lacks(&self, what: What) -> Option<String> {
        let namespaces =
            || self.isolated.clone().err().map(|reason| format!("no namespaces of its own: {reason}"));
        match what {
            What::CutDatabase
            | What::RefuseDatabase
            | What::HalfOpenListen
            | What::HalfOpenLock
            | What::CutGateway
            | What::RefuseGateway => {
                namespaces().or_else(|| (!self.firewall).then(|| "nft is not installed".to_owned()))
            }
            What::WalFull | What::LogFull => namespaces(),
            What::DaemonClock | What::DatabaseClock => {
                self.faketime.is_none().then(|| "libfaketime is not installed".to_owned())
            }
            _ => None,
        }
    }
}

/// A command that becomes `program` in namespaces of its own, or, where that cannot be, plainly; then with the reason.
pub(crate) fn isolating(program: PathBuf) -> (Command, String) {
    let reason = if !rustix::process::geteuid().is_root() {
        "only root may make them"
    } else if !succeeds(Command::new("unshare").args(["--net", "--mount", "ip", "link", "set", "lo", "up"])) {
        "unshare or ip does not work here"
    } else {
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "sh", "-c", ENTER]).arg(program);
        return (command, String::new());
    };
    (Command::new(program), reason.to_owned())
}

fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
