//! `make test-system`: what needs root and network namespaces of its own. The rules that `outboxd egress --format nftables`
//! prints are loaded around a daemon, its messages are delivered, and what it tried to send beside the list is counted:
//! under honest and hostile name servers, hostile redirects, and through real proxies.
//!
//!     cargo test --test system [-- NAME]
//!
//! What cannot be tried on this machine is said, with the reason. The exit status is 1 when something failed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot go on says so by failing")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a program for people")]

mod inspection;
mod net;
mod peers;
mod resolver;
mod site;
#[path = "../it/support/mod.rs"]
#[allow(unused_imports, reason = "its own tests run with the suites that it is for")]
mod support;
mod trials;

use std::os::unix::process::CommandExt;
use std::panic::AssertUnwindSafe;
use std::process::{Command, ExitCode, Stdio};

use futures_util::FutureExt;

/// Set for the process that is in namespaces of its own.
const INSIDE: &str = "OUTBOXD_SYSTEM_INSIDE";

/// Brings the loopback interface of the new network up, and lets our name server be the one that everybody asks.
const ENTER: &str = "mount --make-rprivate / && ip link set lo up && printf 'nameserver 10.77.0.2\\n' > \"$OUTBOXD_SYSTEM_DIR/resolv.conf\" \
                     && mount --bind \"$OUTBOXD_SYSTEM_DIR/resolv.conf\" /etc/resolv.conf && exec \"$0\" \"$@\"";

fn main() -> ExitCode {
    if std::env::var_os(INSIDE).is_none() {
        return enter();
    }
    let only = std::env::args().nth(1);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (mut failed, mut skipped) = (0, 0);
    for (name, trial) in trials::ALL {
        if only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
            continue;
        }
        // On this thread: processes die with the thread that started them.
        match runtime.block_on(AssertUnwindSafe(trial()).catch_unwind()) {
            Ok(Ok(seen)) => println!("test-system: ok       {name}: {seen}"),
            Ok(Err(reason)) => {
                skipped += 1;
                println!("test-system: skipped  {name}: {reason}");
            }
            Err(_) => {
                failed += 1;
                println!("test-system: FAILED   {name}");
            }
        }
    }
    println!("test-system: {failed} failed, {skipped} skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Becomes the same program in namespaces of its own, or says why that cannot be.
fn enter() -> ExitCode {
    if let Some(reason) = lacking() {
        println!("test-system: skipped  everything: {reason}");
        return ExitCode::SUCCESS;
    }
    let script = support::repository().join("tests/with-postgres");
    let found = Command::new(script).arg("--bin").stderr(Stdio::inherit()).output().unwrap();
    if !found.status.success() {
        println!(
            "test-system: skipped  everything: PostgreSQL's server is not installed: run tests/install-needs"
        );
        return ExitCode::SUCCESS;
    }
    let directory = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("system");
    std::fs::create_dir_all(&directory).unwrap();
    let error = Command::new("unshare")
        .args(["--net", "--mount", "sh", "-c", ENTER])
        .arg(std::env::current_exe().unwrap())
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .env("OUTBOXD_SYSTEM_DIR", directory)
        .env("OUTBOXD_TEST_PG_BIN", String::from_utf8_lossy(&found.stdout).trim())
        .exec();
    eprintln!("test-system: could not start itself again: {error}");
    ExitCode::FAILURE
}

fn lacking() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root".to_owned());
    }
    let works = |arguments: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount"]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if !works(&["ip", "link", "add", "try0", "type", "veth", "peer", "name", "try1"]) {
        return Some("unshare, or ip with a veth pair, does not work here".to_owned());
    }
    if !works(&["nft", "list", "tables"]) {
        return Some("nft is not installed, or the kernel has no nftables".to_owned());
    }
    None
}
