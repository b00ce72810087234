//! Small file systems of our own, in memory, that can be filled and emptied again.

use std::fs::{File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// Unmounted when this is dropped; it would go with our mount namespace anyway.
#[derive(Debug)]
pub(crate) struct SmallDisk {
    directory: TempDir,
}

impl SmallDisk {
    /// Needs a mount namespace of our own.
    pub(crate) fn mount(megabytes: u64) -> SmallDisk {
        let directory = tempfile::Builder::new().prefix("outboxd-disk.").tempdir_in("/tmp").unwrap();
        // PostgreSQL runs as another user than we do.
        std::fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let disk = SmallDisk { directory };
        std::fs::create_dir(disk.path()).unwrap();
        let size = format!("size={megabytes}m");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "chaos"]).arg(disk.path()).status();
        assert!(mounted.unwrap().success(), "a tmpfs can be mounted");
        disk
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("disk")
    }

    /// Takes all that is free.
    pub(crate) fn fill(&self) {
        let mut filler = File::options().create(true).append(true).open(self.filler()).unwrap();
        for size in [1 << 20, 4096] {
            let piece = vec![0; size];
            while filler.write_all(&piece).is_ok() {}
        }
    }

    pub(crate) fn empty(&self) {
        // There is nothing to remove where it was not filled.
        let _ = std::fs::remove_file(self.filler());
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: somebody may still have a file of it open.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}
