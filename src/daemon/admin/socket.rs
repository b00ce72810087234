//! The socket of the admin pages: a loopback address, or a file.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::config::AdminListen;
use crate::daemon::listener::Socket;

/// For the daemon's user and group: a scraper of another user joins the group.
const MODE: u32 = 0o660;

/// Open until it is dropped; a file is removed then, or earlier.
pub(super) enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// Removed once: whoever comes next may have made it anew.
pub(super) struct SocketFile {
    path: PathBuf,
    is_there: AtomicBool,
}

impl Bound {
    pub(super) fn bind(listen: &AdminListen) -> io::Result<Bound> {
        match listen {
            AdminListen::Tcp(address) => {
                let listener = TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Ok(Bound::Tcp(listener))
            }
            AdminListen::Unix(path) => {
                let listener = bind_file(path)?;
                listener.set_nonblocking(true)?;
                fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
                let file = SocketFile { path: path.clone(), is_there: AtomicBool::new(true) };
                Ok(Bound::Unix(listener, file))
            }
        }
    }

    /// Nobody comes here any more, though it may be open for a moment yet.
    pub(super) fn leave(&self) {
        if let Bound::Unix(_, file) = self {
            file.remove();
        }
    }

    /// For the runtime that this is called in.
    pub(super) fn socket(&self) -> io::Result<Socket> {
        match self {
            Bound::Tcp(listener) => tokio::net::TcpListener::from_std(listener.try_clone()?).map(Socket::Tcp),
            Bound::Unix(listener, _) => {
                tokio::net::UnixListener::from_std(listener.try_clone()?).map(Socket::Unix)
            }
        }
    }
}

impl SocketFile {
    fn remove(&self) {
        if self.is_there.swap(false, Ordering::AcqRel) {
            // What cannot be removed is taken over by the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

/// A daemon that was killed leaves its file behind; nobody answers there.
fn bind_file(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == ErrorKind::AddrInUse && is_abandoned(path) => {
            fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        bound => bound,
    }
}

fn is_abandoned(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
        && UnixStream::connect(path).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    use super::Bound;
    use crate::config::AdminListen;

    #[test]
    fn a_socket_that_a_killed_daemon_left_is_taken_over_and_nothing_else_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let listen = AdminListen::Unix(path.clone());
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "its file stays");
        let bound = Bound::bind(&listen).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert!(Bound::bind(&listen).is_err(), "somebody answers there");
        drop(bound);
        assert!(!path.exists(), "it was removed");
        fs::write(&path, "a file of somebody's").unwrap();
        assert!(Bound::bind(&listen).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "a file of somebody's");
    }
}
