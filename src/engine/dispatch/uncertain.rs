//! After a failover of which nobody could tell what it lost: setting aside what was queued then, keeping people posted,
//! and letting it go when somebody could tell after all, or a person has decided.

use tracing::{debug, info};

use crate::engine::Event;
use crate::engine::dispatch::{Dispatch, upkeep};
use crate::engine::failover;
use crate::store::failover::Uncertain;
use crate::store::queue::DueRow;
use crate::store::{Store, StoreError};

const ALARM: &str = "failover_uncertain";

impl Dispatch {
    pub(super) fn is_uncertain(&self, due: &DueRow) -> bool {
        self.term.as_ref().and_then(|term| term.uncertain).is_some_and(|uncertain| uncertain.covers(&due.row))
    }

    /// As the leader row says now.
    pub(super) fn uncertain_is(&mut self, uncertain: Option<Uncertain>) {
        let Some(term) = &mut self.term else { return };
        if term.uncertain == uncertain {
            return;
        }
        term.uncertain = uncertain;
        self.clockwork.releases = upkeep::RELEASES;
        self.clockwork.look_at_uncertain_now();
    }

    pub(super) fn look_at_uncertain(&mut self) {
        let Some(term) = &self.term else { return };
        let (epoch, uncertain) = (term.epoch, term.uncertain.is_some());
        let release = self.clockwork.releases > 0;
        self.clockwork.releases = self.clockwork.releases.saturating_sub(1);
        if !uncertain && !release {
            return;
        }
        let store = self.store.clone();
        self.ask(async move {
            let settled = if uncertain { settle(&store, epoch).await } else { Ok(false) };
            let released = if release { let_go(&store).await } else { Ok(0) };
            match (settled, released) {
                (Ok(false), Ok(0)) => None,
                (Err(error), _) | (_, Err(error)) => {
                    debug!(%error, "could not look after what a failover made uncertain");
                    None
                }
                (Ok(_), Ok(_)) => Some(Event::Settled),
            }
        });
    }
}

/// Whether nothing is uncertain any more.
async fn settle(store: &Store, epoch: i64) -> Result<bool, StoreError> {
    let witnesses = store.witnesses().await?;
    let (set_aside, anything_left) = store.uncertain().await?;
    if failover::settled(&witnesses) {
        info!("everybody has said what was sent before the failover; what was set aside goes on");
    } else if !anything_left {
        info!("nothing is left of what the failover made uncertain");
    } else {
        let silent = failover::still_silent(&witnesses).unwrap_or_else(|| "the last leader".to_owned());
        store.open_alarm(ALARM, "", &failover::alarm_text(&silent, set_aside)).await?;
        return Ok(false);
    }
    store.certain(epoch).await?;
    store.clear_alarm(ALARM, "").await?;
    Ok(true)
}

async fn let_go(store: &Store) -> Result<usize, StoreError> {
    let mut all = 0;
    loop {
        let messages = store.release().await?;
        if messages == 0 {
            break;
        }
        all += messages;
    }
    if all > 0 {
        info!(messages = all, "are not uncertain any more, and wait for their turn again");
    }
    Ok(all)
}
