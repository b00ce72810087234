//! What a person must see of the database itself: raised and cleared on change, beside everything else.

use std::time::Duration;

use tracing::debug;

use crate::engine::dispatch::Dispatch;
use crate::engine::dispatch::gateways::Shows;

/// Between two tries to write an alarm.
const SHOW_AGAIN: Duration = Duration::from_secs(1);

/// One alarm about the database.
#[derive(Debug)]
pub(super) struct Alarm {
    code: &'static str,
    /// What it says now; `None`: it is cleared.
    text: Option<String>,
    shows: Shows,
}

/// The alarms that the leader raises, beside those of its gateways.
#[derive(Debug)]
pub(super) struct Alarms {
    /// PostgreSQL refuses what we ask.
    pub(super) statements: Alarm,
    /// PostgreSQL refuses to write results.
    pub(super) results: Alarm,
    /// Nothing rings the doorbell.
    pub(super) doorbell: Alarm,
    /// Row-level security hides the messages.
    pub(super) hidden: Alarm,
}

impl Alarms {
    pub(super) fn new() -> Alarms {
        let alarm = |code| Alarm { code, text: None, shows: Shows::default() };
        Alarms {
            statements: alarm("statement_refused"),
            results: alarm("results_refused"),
            doorbell: alarm("doorbell_silent"),
            hidden: alarm("messages_hidden"),
        }
    }
}

impl Dispatch {
    /// Raises an alarm or clears it. True if that is news.
    pub(super) fn alarm(&mut self, which: fn(&mut Alarms) -> &mut Alarm, text: Option<String>) -> bool {
        let alarm = which(&mut self.alarms);
        if alarm.text == text {
            return false;
        }
        alarm.text = text;
        self.write_alarm(which);
        true
    }

    /// A new term: what stands in the database may be what another daemon saw, or we before we were killed.
    pub(super) fn show_all_alarms(&mut self) {
        self.write_alarm(|alarms| &mut alarms.statements);
        self.write_alarm(|alarms| &mut alarms.results);
        self.write_alarm(|alarms| &mut alarms.doorbell);
        self.write_alarm(|alarms| &mut alarms.hidden);
    }

    fn write_alarm(&mut self, which: fn(&mut Alarms) -> &mut Alarm) {
        let Alarm { code, text, shows } = which(&mut self.alarms);
        let (code, text, turn) = (*code, text.clone(), shows.next());
        let store = self.store.clone();
        self.ask(async move {
            let _writing = turn.begin().await;
            while turn.is_newest() {
                let written = match &text {
                    Some(text) => store.open_alarm(code, "", text).await,
                    None => store.clear_alarm(code, "").await,
                };
                let Err(error) = written else { break };
                debug!(%error, code, "could not write the alarm yet");
                tokio::time::sleep(SHOW_AGAIN).await;
            }
            None
        });
    }
}
