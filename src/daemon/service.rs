//! What the service manager is told (sd_notify): ready, reading the configuration again, stopping, alive. Without
//! `NOTIFY_SOCKET` all of this does nothing.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sd_notify::NotifyState;
use tracing::debug;

const RELOADING: &str = "reading the configuration again";
const STOPPING: &str = "stopping: waiting for answers to what was sent";

/// What the service manager shows now.
static STATUS: Mutex<String> = Mutex::new(String::new());

/// The service does what it can: what it is waiting for, if anything, stands in the status.
pub(super) fn ready(status: &str) {
    is_news(status);
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// SIGHUP came. [`ready`] ends it.
pub(super) fn reloading() {
    is_news(RELOADING);
    let mut states = vec![NotifyState::Reloading];
    // Without it, systemd takes the reload for one that never ends.
    states.extend(NotifyState::monotonic_usec_now().ok());
    states.push(NotifyState::Status(RELOADING));
    tell(&states);
}

/// `within`: how long it may take, which systemd is to grant even if its own limit is shorter: what would be cut off is
/// unknown for ever.
pub(super) fn stopping(within: Duration) {
    is_news(STOPPING);
    let micros = u32::try_from(within.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(micros), NotifyState::Status(STOPPING)]);
}

/// Why the process is about to end although nobody asked for it.
pub(super) fn failed(reason: &str) {
    tell(&[NotifyState::Status(reason)]);
}

/// Told on change only.
pub(super) fn status(status: &str) {
    if is_news(status) {
        tell(&[NotifyState::Status(status)]);
    }
}

pub(super) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often [`alive`] is to be said; `None`: nobody waits for it.
pub(super) fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero())
}

fn is_news(status: &str) -> bool {
    let mut shown = STATUS.lock().unwrap_or_else(PoisonError::into_inner);
    if *shown == status {
        return false;
    }
    status.clone_into(&mut shown);
    true
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "could not tell the service manager");
    }
}
