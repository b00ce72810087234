//! A wall clock that a test can set, for the processes that are started with it. What counts since the boot is no
//! setting, and goes on.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

#[derive(Debug)]
pub(crate) struct WallClock {
    directory: TempDir,
    faketime: PathBuf,
}

impl WallClock {
    /// `None`, and a word about it, where libfaketime is not installed.
    pub(crate) fn new() -> Option<WallClock> {
        let Some(faketime) = faketime() else {
            eprintln!("skipped: needs libfaketime");
            return None;
        };
        let directory = tempfile::Builder::new().prefix("outboxd-clock.").tempdir_in("/tmp").unwrap();
        // PostgreSQL runs as another user than we do.
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(directory.path(), everybody).unwrap();
        let clock = WallClock { directory, faketime };
        clock.set(0);
        Some(clock)
    }

    /// Ahead of the true time by so many seconds, or behind it: at once, for all processes.
    pub(crate) fn set(&self, seconds: i64) {
        set_clock(&self.file(), seconds);
    }

    /// What a process needs to go by it.
    pub(crate) fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("LD_PRELOAD", self.faketime.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file().display().to_string()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
        ]
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("clock")
    }
}

/// Where libfaketime is, if it is installed.
pub(crate) fn faketime() -> Option<PathBuf> {
    let directories = fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    let mut candidates =
        directories.chain(["/usr/lib".into()]).map(|path| path.join("faketime/libfaketime.so.1"));
    candidates.find(|file| file.exists())
}

/// Sets the clock that stands in a file by so many seconds ahead, or back.
pub(crate) fn set_clock(file: &Path, seconds: i64) {
    let partial = file.with_extension("new");
    fs::write(&partial, format!("{seconds:+}\n")).unwrap();
    fs::rename(&partial, file).unwrap();
}
