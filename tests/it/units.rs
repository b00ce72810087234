//! The systemd units: systemd understands them, their sandbox is as tight as promised and still lets the daemon work, and
//! what they repeat of other files agrees with them.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use outboxd::config;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::readme::surroundings;
use crate::support::daemon::Daemon;
use crate::support::site::{LIMIT, Lines, Site};
use crate::support::{eventually, repository};

const UNITS: [&str; 2] = ["outboxd.service", "outboxd@.service"];

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap()
}

fn unit(name: &str) -> String {
    read(&format!("systemd/{name}"))
}

/// The values of a setting, in order.
fn values<'u>(unit: &'u str, setting: &str) -> Vec<&'u str> {
    unit.lines().filter_map(|line| line.strip_prefix(setting)?.strip_prefix('=')).collect()
}

/// Runs a tool that `make needs` installs.
fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; `make needs` installs it"))
}

#[track_caller]
fn text(output: Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{}: {stderr}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Both units in a directory of their own, the program where it really is.
fn units_as_installed(change: impl Fn(String) -> String) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for name in UNITS {
        let unit = unit(name).replace("/usr/bin/outboxd", env!("CARGO_BIN_EXE_outboxd"));
        fs::write(directory.path().join(name), change(unit)).unwrap();
    }
    directory
}

fn verify(unit: &Path) -> Output {
    // The manual is not installed here; tests/it/manual.rs looks after it.
    run(Command::new("systemd-analyze").args(["verify", "--man=no", "--recursive-errors=no"]).arg(unit))
}

#[test]
fn systemd_understands_every_line_of_the_units() {
    let directory = units_as_installed(|unit| unit);
    for name in UNITS {
        let output = verify(&directory.path().join(name));
        assert!(output.stderr.is_empty(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        text(output);
    }
    let misspelt = units_as_installed(|unit| unit.replace("ProtectClock", "ProtectClocks"));
    assert!(!verify(&misspelt.path().join(UNITS[0])).status.success(), "a misspelt setting is not noticed");
}

#[test]
fn the_sandbox_leaves_an_exposure_of_at_most_one() {
    let exposed = |directory: &TempDir, name: &str| {
        let unit = directory.path().join(name);
        run(Command::new("systemd-analyze").args(["security", "--offline=true", "--threshold=10"]).arg(unit))
    };
    let directory = units_as_installed(|unit| unit);
    for name in UNITS {
        text(exposed(&directory, name));
    }
    let open = units_as_installed(|unit| unit.replace("ProtectSystem=strict", ""));
    assert!(!exposed(&open, UNITS[0]).status.success(), "a hole in the sandbox is not noticed");
}

#[test]
fn every_line_of_the_sandbox_has_its_reason() {
    let unit = unit(UNITS[0]);
    let (_, sandbox) = unit.split_once("\n# The sandbox.").expect("the sandbox has a heading");
    let (sandbox, _) = sandbox.split_once("\n\n[Install]").unwrap();
    // A reason is good for the lines below it, up to three of one kind.
    let mut since_reason = 3;
    for line in sandbox.lines().skip(1).filter(|line| !line.is_empty()) {
        since_reason = if line.starts_with('#') { 0 } else { since_reason + 1 };
        assert!(since_reason <= 4, "no reason stands beside {line}");
    }
}

#[test]
fn the_template_differs_from_the_unit_in_nothing_but_its_instance() {
    let of_one = |unit: &str| unit.split_once("\n[Unit]\n").expect("a comment, then [Unit]").1.to_owned();
    let single = of_one(&unit("outboxd.service"));
    let template = of_one(&unit("outboxd@.service"));
    let mut expected = single
        .replace(
            "Description=SMS from the PostgreSQL outbox",
            "Description=SMS from the PostgreSQL outbox (%i)",
        )
        .replace("/etc/outboxd/outboxd.toml", "/etc/outboxd/%i.toml")
        .replace("RuntimeDirectory=outboxd\n", "RuntimeDirectory=outboxd@%i\n");
    for name in values(&single, "LoadCredential") {
        expected = expected
            .replace(&format!("LoadCredential={name}\n"), &format!("LoadCredential={name}:{name}@%i\n"));
    }
    assert_eq!(template, expected);
}

#[test]
fn the_unit_passes_on_the_credentials_that_the_configuration_suggests() {
    let shipped = read("packaging/outboxd.toml");
    let suggested: BTreeSet<&str> = shipped
        .lines()
        .filter_map(|line| line.split_once("_credential = \"")?.1.strip_suffix('"'))
        .filter(|name| *name != "x")
        .collect();
    let unit = unit(UNITS[0]);
    let passed: BTreeSet<&str> = values(&unit, "LoadCredential").into_iter().collect();
    assert_eq!(passed, suggested);
}

#[test]
fn systemd_waits_longer_for_a_stop_than_the_daemon_takes() {
    let minimal = read("packaging/examples/minimal.toml");
    let config = config::parse(&minimal, "minimal.toml", &surroundings()).unwrap();
    let unit = unit(UNITS[0]);
    let limit = humantime::parse_duration(values(&unit, "TimeoutStopSec")[0]).unwrap();
    // The last results and the last callbacks: `LAST_WRITES` and `LAST_CALLBACKS` in src/daemon/mod.rs.
    let daemon = config.queue.shutdown_grace + Duration::from_secs(10 + 5);
    assert!(limit > daemon, "{limit:?} are not more than {daemon:?}");
}

#[test]
fn the_account_and_its_directory_are_made() {
    let root = tempfile::tempdir().unwrap();
    let root_option = format!("--root={}", root.path().display());
    let file = |name: &str| repository().join("systemd").join(name);
    fs::create_dir(root.path().join("etc")).unwrap();
    text(run(Command::new("systemd-sysusers").arg(&root_option).arg(file("sysusers.conf"))));
    let users = fs::read_to_string(root.path().join("etc/passwd")).unwrap();
    let account = users.lines().find(|line| line.starts_with("outboxd:")).expect("there is an account");
    assert!(account.ends_with(":/nonexistent:/usr/sbin/nologin"), "{account}");
    // Ownership needs root; the mode does not.
    if rustix::process::geteuid().is_root() {
        text(run(Command::new("systemd-tmpfiles")
            .args([&root_option, "--create"])
            .arg(file("tmpfiles.conf"))));
        let mode = fs::metadata(root.path().join("etc/outboxd")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o750);
    }
}

#[test]
fn restarts_back_off_where_systemd_can() {
    for (version, expected) in [("systemd 252 (252.39-1~deb12u2)", false), ("systemd 257 (257.1)", true)] {
        let directory = tempfile::tempdir().unwrap();
        let systemctl = directory.path().join("systemctl");
        fs::write(&systemctl, format!("#!/bin/sh\necho '{version}'\necho '+PAM +AUDIT'\n")).unwrap();
        fs::set_permissions(&systemctl, Permissions::from_mode(0o755)).unwrap();
        let out = directory.path().join("normal");
        fs::create_dir(&out).unwrap();
        let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap());
        let mut generator = Command::new(repository().join("systemd/back-off-generator"));
        text(run(generator.args([&out, &out, &out]).env("PATH", path)));
        for unit in UNITS {
            let link = fs::read_link(out.join(format!("{unit}.d/10-back-off.conf")));
            let target = link.ok().map(|path| path.display().to_string());
            assert_eq!(target.as_deref(), expected.then_some("/usr/lib/outboxd/back-off.conf"), "{version}");
        }
    }
}

/// The system calls of a set such as `@system-service`, and of the sets in it.
fn system_calls(set: &str) -> BTreeSet<String> {
    let listed = text(run(Command::new("systemd-analyze").args(["syscall-filter", set])));
    let mut found = BTreeSet::new();
    for entry in listed.lines().skip(1).map(str::trim).filter(|entry| !entry.starts_with('#')) {
        if entry.starts_with('@') {
            found.extend(system_calls(entry));
        } else {
            found.insert(entry.to_owned());
        }
    }
    assert!(!found.is_empty(), "{set} is empty");
    found
}

/// What the unit's filter lets through.
fn allowed_calls(unit: &str) -> BTreeSet<String> {
    let mut allowed = system_calls("@default");
    for line in values(unit, "SystemCallFilter") {
        match line.strip_prefix('~') {
            Some(taken) => {
                for set in taken.split(' ') {
                    allowed = &allowed - &system_calls(set);
                }
            }
            None => allowed.extend(line.split(' ').flat_map(system_calls)),
        }
    }
    allowed
}

/// The names in the table that `strace -c` writes.
fn traced_calls(table: &str) -> BTreeSet<String> {
    let rows = table.lines().skip_while(|line| !line.starts_with("----")).skip(1);
    let names =
        rows.take_while(|line| !line.starts_with("----")).filter_map(|line| line.split_whitespace().last());
    names.map(str::to_owned).collect()
}

#[tokio::test]
async fn the_filter_of_system_calls_lets_a_whole_cycle_through() {
    let site = Site::with_receipts("unit_filter").await;
    let directory = tempfile::tempdir().unwrap();
    let table = directory.path().join("calls");
    let config = site.config(Lines { receipts: true, ..Lines::default() });
    let mut daemon = Daemon::spawn_with(&config, |command| {
        let mut traced = Command::new("strace");
        // The daemon stays our child, and the tracer becomes its grandchild: signals go to the right one.
        traced.args(["-D", "-f", "-c", "-o"]).arg(&table).arg(command.get_program()).args(command.get_args());
        let log = fs::OpenOptions::new().append(true).open(log_beside(command)).unwrap();
        traced.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).stderr(log);
        *command = traced;
    });
    daemon.wait_log(LIMIT, "leading").await;
    let id = site.insert("(recipient, body) VALUES ('+353871234567', 'hello')").await;
    site.until(id, "delivered").await;
    daemon.signal(Signal::HUP);
    daemon.wait_log(LIMIT, "configuration read again").await;
    let id = site.insert("(recipient, body) VALUES ('+353871234567', 'again')").await;
    site.until(id, "delivered").await;
    daemon.terminate();
    assert!(daemon.wait_exit(LIMIT).await.success());

    let used = eventually(LIMIT, "the tracer writes what it saw", async || {
        let written = fs::read_to_string(&table).unwrap_or_default();
        if written.trim_end().ends_with("total") { Ok(traced_calls(&written)) } else { Err(written) }
    })
    .await;
    assert!(used.len() > 30, "the trace is not of a whole cycle: {used:?}");
    for name in UNITS {
        let refused: Vec<_> = used.difference(&allowed_calls(&unit(name))).cloned().collect();
        assert!(refused.is_empty(), "{name} refuses {refused:?}");
    }
    let without_network = unit(UNITS[0]).replace("~@privileged", "~@network-io");
    assert!(!used.is_subset(&allowed_calls(&without_network)), "the comparison sees no difference");
}

/// The file that the daemon of this command was to log to, which stands beside its configuration.
fn log_beside(command: &Command) -> std::path::PathBuf {
    let config = command.get_args().nth(1).expect("--config FILE run");
    Path::new(config).with_file_name("log")
}
