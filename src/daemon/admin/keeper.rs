//! Tells the service manager that the daemon is alive, while it gets on, and in a line what it is doing.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinHandle;
use tracing::{error, info};

use crate::clock::{self, Moment};
use crate::daemon::admin::told;
use crate::daemon::service;
use crate::engine::life::Life;
use crate::metrics::{Metrics, Phase, Role};

/// Longest pause between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// Shortest: a watchdog that is set to less is fed too late.
const LEAST: Duration = Duration::from_millis(10);

pub(super) struct Keeper {
    life: Arc<Life>,
    watchdog: Option<Duration>,
    fed: Moment,
    /// What is being told just now: the service manager may take its time, and the pages must not wait for that.
    telling: Option<JoinHandle<()>>,
    stalled: bool,
}

impl Keeper {
    pub(super) fn new(life: Arc<Life>) -> Keeper {
        Keeper { life, watchdog: service::watchdog(), fed: Moment::ZERO, telling: None, stalled: false }
    }

    /// Twice within what the watchdog grants.
    pub(super) fn pause(&self) -> Duration {
        self.watchdog.map_or(LOOK, |limit| (limit / 2).clamp(LEAST, LOOK))
    }

    pub(super) fn tick(&mut self) {
        let now = clock::now();
        let stalls = self.life.progress.stalls(now);
        // A look more than half of the limit ago would come too late for the next one.
        let hungry = self.watchdog.is_some_and(|limit| now.since(self.fed) + self.pause() > limit / 2);
        let status = if stalls.is_empty() {
            status(&self.life.metrics)
        } else {
            Some(format!("wedged: {}", told(&stalls[..1])))
        };
        if self.telling.as_ref().is_none_or(JoinHandle::is_finished) {
            let alive = stalls.is_empty() && hungry;
            if alive {
                self.fed = now;
            }
            self.telling = Some(tokio::task::spawn_blocking(move || {
                if alive {
                    service::alive();
                }
                if let Some(status) = status {
                    service::status(&status);
                }
            }));
        }
        if self.stalled == stalls.is_empty() {
            self.stalled = !stalls.is_empty();
            let (stalled, told) = (self.stalled, told(&stalls));
            // Beside us: a log that nobody reads may be what the daemon is wedged by.
            tokio::task::spawn_blocking(move || {
                if stalled {
                    error!(parts = told, "the daemon does not get on; the watchdog is not fed any more");
                } else {
                    info!("the daemon gets on again");
                }
            });
        }
    }
}

/// `None`: whoever changed the phase has told it.
fn status(metrics: &Metrics) -> Option<String> {
    match metrics.phase() {
        Phase::Starting | Phase::Reloading | Phase::Stopping => return None,
        Phase::Running => {}
    }
    let mut status = match metrics.role() {
        Role::None => "waiting for the database".to_owned(),
        Role::Standby => "standing by: another daemon leads".to_owned(),
        Role::Leader if metrics.held.load(Ordering::Relaxed) => "leading; everything is held".to_owned(),
        Role::Leader => {
            let not_open = metrics.gateways_not_open();
            let each = not_open.iter().map(|(name, state)| format!("gateway {name} is {}", state.as_str()));
            ["leading".to_owned()].into_iter().chain(each).collect::<Vec<_>>().join("; ")
        }
    };
    if metrics.reload_refused.load(Ordering::Relaxed) {
        status.push_str("; the changed configuration is wrong and was not taken over");
    }
    Some(status)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::status;
    use crate::metrics::{GatewayState, Metrics, Phase, Role};

    #[test]
    fn the_status_says_what_an_administrator_asks_first() {
        let metrics = Metrics::default();
        assert_eq!(status(&metrics), None, "starting is told when it begins");
        metrics.set_phase(Phase::Running);
        assert_eq!(status(&metrics).unwrap(), "waiting for the database");
        metrics.set_role(Role::Leader);
        metrics.gateway("main").set_state(Some(GatewayState::Open));
        assert_eq!(status(&metrics).unwrap(), "leading");
        metrics.gateway("uk").set_state(Some(GatewayState::Stopped));
        assert_eq!(status(&metrics).unwrap(), "leading; gateway uk is stopped");
        metrics.held.store(true, Ordering::Relaxed);
        assert_eq!(status(&metrics).unwrap(), "leading; everything is held");
        metrics.reload_refused.store(true, Ordering::Relaxed);
        assert!(status(&metrics).unwrap().contains("held; the changed configuration is wrong"));
        metrics.set_role(Role::Standby);
        assert!(status(&metrics).unwrap().starts_with("standing by"));
    }
}
