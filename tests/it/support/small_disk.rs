//! A small file system in memory that can be filled and emptied again, in a mount namespace of its own: nobody but the
//! server that enters it sees it, and it goes with its holder. Needs root.

use std::fs::{File, Permissions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

#[derive(Debug)]
pub(crate) struct SmallDisk {
    directory: TempDir,
    holder: Child,
}

impl SmallDisk {
    /// `None`, and a word about it, where this cannot be done.
    pub(crate) fn mount(megabytes: u64) -> Option<SmallDisk> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        let directory = tempfile::Builder::new().prefix("outboxd-disk.").tempdir_in("/tmp").unwrap();
        // PostgreSQL runs as another user than we do.
        std::fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let script = format!(
            "mount -t tmpfs -o size={megabytes}m,mode=0777 test \"$0\" && echo there && exec sleep infinity"
        );
        let mut holder = Command::new("unshare")
            .args(["--mount", "setpriv", "--pdeathsig", "KILL", "sh", "-c", &script])
            .arg(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare can be started");
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "there\n", "a tmpfs can be mounted");
        Some(SmallDisk { directory, holder })
    }

    /// Whose mounts a server has to enter.
    pub(crate) fn holder(&self) -> u32 {
        self.holder.id()
    }

    /// As the server sees it.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().to_path_buf()
    }

    /// As we see it.
    pub(crate) fn seen_from_here(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{}", self.holder.id(), self.directory.path().display()))
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
        std::fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.seen_from_here().join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Fails only for a process that has ended.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
