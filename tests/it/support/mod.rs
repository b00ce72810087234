//! The harness: a database of its own for each test, the real binaries as child processes, and waiting for a
//! condition with a limit. It asserts nothing about outboxd itself.

#![allow(dead_code, reason = "a suite takes what it needs")]

pub(crate) mod admin;
pub(crate) mod application;
pub(crate) mod books;
pub(crate) mod cli;
pub(crate) mod clock;
pub(crate) mod cluster;
pub(crate) mod daemon;
pub(crate) mod figures;
pub(crate) mod pair;
pub(crate) mod pgbouncer;
pub(crate) mod port;
pub(crate) mod postgres;
pub(crate) mod sim;
pub(crate) mod site;
pub(crate) mod small_disk;
pub(crate) mod source;
pub(crate) mod wire;

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Pause between two looks at a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Looks at a condition until it holds and returns what it then gave. `Err` means "not yet" and carries what was
/// seen instead: the last one stands in the failure's message.
///
/// A look that hangs is cut off at `limit` too.
pub(crate) async fn eventually<T, Seen: Debug>(
    limit: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T, Seen>,
) -> T {
    let deadline = Instant::now() + limit;
    let mut last = None;
    while let Some(left) = deadline.checked_duration_since(Instant::now()) {
        match tokio::time::timeout(left, look()).await {
            Ok(Ok(value)) => return value,
            Ok(Err(seen)) => last = Some(seen),
            Err(_) => break,
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    match last {
        Some(seen) => panic!("{what}: not within {limit:?}; last seen: {seen:?}"),
        None => panic!("{what}: the first look took longer than {limit:?}"),
    }
}

/// The repository, where sources and SQL are read from.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file with this extension below a directory of the repository, sorted, as paths relative to the
/// repository. None if the directory does not exist.
pub(crate) fn files_below(directory: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![repository().join(directory)];
    while let Some(directory) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path.strip_prefix(repository()).unwrap().to_path_buf());
            }
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::eventually;

    #[tokio::test]
    async fn eventually_returns_what_the_condition_gave_once_it_holds() {
        let mut looks = 0;
        let value = eventually(Duration::from_secs(10), "three looks", async || {
            looks += 1;
            if looks < 3 { Err(looks) } else { Ok("held") }
        })
        .await;
        assert_eq!((value, looks), ("held", 3));
    }

    #[tokio::test]
    #[should_panic(expected = "a row: not within 50ms; last seen: \"queued\"")]
    async fn eventually_shows_the_last_value_when_the_limit_is_over() {
        eventually(Duration::from_millis(50), "a row", async || Err::<(), _>("queued")).await;
    }

    #[tokio::test]
    #[should_panic(expected = "the first look took longer than 50ms")]
    async fn eventually_cuts_off_a_look_that_hangs() {
        eventually(Duration::from_millis(50), "a row", async || {
            std::future::pending::<Result<(), ()>>().await
        })
        .await;
    }
}
