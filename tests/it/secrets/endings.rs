//! What comes out of a process that ends as none should: its panics and its core dumps.

use std::fs::File;
use std::os::unix::fs::chown;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use rustix::process::{Pid, Resource, Rlimit, Signal, geteuid, kill_process, setrlimit};

use crate::secrets::search::Haystack;
use crate::secrets::{DATABASE_PASSWORD, V1_PASSWORD};
use crate::support::cli::{Cli, config};
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::site::LIMIT;

const NOBODY: u32 = 65_534;

fn with_secrets() -> String {
    let database = format!("postgresql://daemon:{DATABASE_PASSWORD}@localhost:9/x?sslmode=disable");
    let gateway = format!(
        "[gateway.one]\ndialect = \"interactsms-v1\"\nurl = \"https://gw.example.test/send\"\nusername = \"demo\"\n\
         password = \"{V1_PASSWORD}\"\napi_id = \"1\"\n"
    );
    config(&database, "", &gateway)
}

/// The program where any user can run it.
fn program(directory: &Path) -> PathBuf {
    let (built, ours) = (Path::new(env!("CARGO_BIN_EXE_outboxd")), directory.join("outboxd"));
    // Not over a link that is there: that would empty what it leads to.
    if !ours.exists() && std::fs::hard_link(built, &ours).is_err() {
        std::fs::copy(built, &ours).unwrap();
    }
    ours
}

/// The program as a user that may have no second thread.
fn with_one_thread(cli: &Cli) -> Command {
    let (directory, file) = (cli.directory(), cli.directory().join("outboxd.toml"));
    // The system gives root as many threads as it asks for.
    let user = geteuid().is_root().then_some(NOBODY);
    chown(directory, user, None).unwrap();
    chown(&file, user, None).unwrap();
    let mut command = Command::new("prlimit");
    command.arg("--nproc=0");
    if user.is_some() {
        command.args(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
    }
    command.arg(program(directory)).arg("--config").arg(&file);
    command
}

/// The runtime panics where it looks a name up, with the system's words.
#[tokio::test]
async fn a_panic_tells_where_and_none_of_the_words_that_were_made_up_at_run_time() {
    let cli = Cli::new(&with_secrets());
    for (arguments, backtrace) in [(&["status"][..], "0"), (&["check"], "0"), (&["check", "--json"], "1")] {
        let mut command = with_one_thread(&cli);
        command.args(arguments).env("RUST_BACKTRACE", backtrace);
        let written = cli.directory().join("written");
        let log = File::create(&written).unwrap();
        let mut child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let read = || std::fs::read_to_string(&written).unwrap();
        eventually(LIMIT, "it panics", async || {
            if read().contains("please report this") { Ok(()) } else { Err(read()) }
        })
        .await;
        tokio::task::spawn_blocking(move || child.wait()).await.unwrap().unwrap();
        let stderr = read();
        let mut hay = Haystack::default();
        hay.put("written", &stderr);
        assert!(stderr.contains("outboxd: panic at "), "{arguments:?}: {stderr}");
        assert!(
            stderr.contains("its words are not shown") && stderr.contains("please report this"),
            "{stderr}"
        );
        assert_eq!(stderr.contains("rust_begin_unwind"), backtrace == "1", "{stderr}");
        // The rest of its words.
        assert!(!stderr.contains("temporarily unavailable"), "{stderr}");
        hay.assert_free_of(&[DATABASE_PASSWORD, V1_PASSWORD]);
    }
}

#[test]
fn a_daemon_that_may_have_no_second_thread_says_so_and_does_not_panic() {
    let cli = Cli::new(&with_secrets());
    let ended = with_one_thread(&cli).arg("run").output().unwrap();
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success() && !stderr.contains("panic"), "{stderr}");
    assert!(stderr.contains("could not start the admin thread"), "{stderr}");
}

/// How a process ends that is told to leave a core dump, with every limit away.
async fn aborted(pid: u32, wait: impl AsyncFnOnce() -> ExitStatus) -> ExitStatus {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::ABORT).unwrap();
    wait().await
}

#[tokio::test]
async fn the_daemon_leaves_no_core_dump_even_without_the_units_limit() {
    // Inherited by what this process starts; each test has a process of its own.
    let everything = Rlimit { current: None, maximum: None };
    if setrlimit(Resource::Core, everything).is_err() {
        eprintln!("skipped: core dumps are limited here");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut plain = Command::new("sleep").arg("60").current_dir(directory.path()).spawn().unwrap();
    let ended = aborted(plain.id(), async || plain.wait().unwrap()).await;
    if !ended.core_dumped() {
        eprintln!("skipped: no program leaves a core dump here");
        return;
    }
    let mut daemon = Daemon::spawn_with(&with_secrets(), |command| {
        command.current_dir(directory.path());
    });
    daemon.wait_log(LIMIT, "waiting for the database").await;
    let ended = aborted(daemon.pid(), async || daemon.wait_exit(LIMIT).await).await;
    assert_eq!(ended.signal(), Some(Signal::ABORT.as_raw()));
    assert!(!ended.core_dumped(), "it left a core dump");
    eventually(LIMIT, "only the other program's dump is there", async || {
        let dumps = std::fs::read_dir(directory.path()).unwrap().count();
        if dumps <= 1 { Ok(()) } else { Err(dumps) }
    })
    .await;
}
