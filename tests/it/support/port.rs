//! TCP ports for what is to listen later.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FlockOperation, flock};

/// Claims of this process; the kernel ends them with it.
static CLAIMS: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// A port below those that the kernel gives to outgoing connections, and below those of the test cluster. No other test
/// is given it while this process lives: what is to listen there may start later, stop, and start again.
pub(crate) fn free_port() -> u16 {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id() % 9_000;
    for _ in 0..1_000 {
        let offset = ASKED.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(10_000 + (start + offset * 7) % 9_000).expect("below 19,000");
        let Some(claim) = claim(port) else { continue };
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            CLAIMS.lock().unwrap_or_else(PoisonError::into_inner).push(claim);
            return port;
        }
    }
    panic!("no free port between 10,000 and 19,000");
}

/// Whoever holds the lock of a port's file may listen there.
fn claim(port: u16) -> Option<File> {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("ports");
    std::fs::create_dir_all(&directory).unwrap();
    let file = File::create(directory.join(port.to_string())).unwrap();
    flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok().then_some(file)
}

#[cfg(test)]
mod tests {
    use super::{claim, free_port};

    #[test]
    fn a_port_is_given_once() {
        let port = free_port();
        assert!(claim(port).is_none());
        assert_ne!(free_port(), port);
    }
}
