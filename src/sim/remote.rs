//! A handle on a running simulator: looks at it and changes it, without owning it. The control API and in-process
//! tests use the same methods.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::sim::callbacks::{Report, What, make};
use crate::sim::counters::{State, Want};
use crate::sim::handset::{Handset, Power};
use crate::sim::hub::Hub;
use crate::sim::ledger::{Message, Query};
use crate::sim::number::international;
use crate::sim::script::{Act, Rule};
use crate::sim::settings::Settings;
use crate::sim::smsc;
use crate::sim::stamp;

#[derive(Debug, Clone)]
pub struct Remote {
    hub: Arc<Hub>,
}

impl Remote {
    pub(super) fn new(hub: Arc<Hub>) -> Remote {
        Remote { hub }
    }

    /// Every counter, now.
    pub fn state(&self) -> State {
        self.hub.state()
    }

    /// Returns once every count in `want` is reached, or the state when `limit` has passed.
    pub async fn wait(&self, want: Want, limit: Duration) -> Result<State, State> {
        match tokio::time::timeout(limit, self.hub.counters.until(&want)).await {
            Ok(state) => Ok(self.hub.with_credits(state)),
            Err(_) => Err(self.state()),
        }
    }

    /// Appends a rule to the script.
    pub fn script(&self, rule: Rule) {
        self.hub.script.push(rule);
    }

    /// Appends a rule that is used once, on the next request to send.
    pub fn next(&self, act: Act) {
        self.script(Rule::new(act));
    }

    pub fn rules(&self) -> Vec<Rule> {
        self.hub.script.rules()
    }

    pub fn clear_script(&self) {
        self.hub.script.clear();
    }

    /// The ledger's entries that fit, oldest first.
    pub fn messages(&self, query: &Query) -> Vec<Message> {
        self.hub.ledger().find(query)
    }

    /// The ledger's entries with this reference, oldest first.
    pub fn message(&self, notify_id: &str) -> Vec<Message> {
        self.messages(&Query { notify_id: Some(notify_id.to_owned()), ..Query::default() })
    }

    /// The ledger's entries to this number, oldest first.
    pub fn messages_to(&self, number: &str) -> Vec<Message> {
        self.messages(&Query { number: Some(number.to_owned()), ..Query::default() })
    }

    pub fn settings(&self) -> Arc<Settings> {
        self.hub.settings()
    }

    /// Changes settings while the simulator runs.
    pub fn change(&self, change: impl FnOnce(&mut Settings)) {
        let mut settings = Settings::clone(&self.hub.settings());
        change(&mut settings);
        self.hub.apply(settings);
    }

    /// Merges a JSON object into the settings (RFC 7396). Nothing changes when the result is not valid.
    pub fn merge_settings(&self, patch: &Value) -> Result<(), serde_json::Error> {
        let mut value = serde_json::to_value(&*self.hub.settings())?;
        merge(&mut value, patch);
        self.hub.apply(serde_json::from_value(value)?);
        Ok(())
    }

    pub fn set_credits(&self, balance: Option<u64>) {
        self.hub.set_credits(balance);
    }

    /// False: the number is not international digits.
    pub fn set_handset(&self, number: &str, handset: Handset) -> bool {
        let Some(number) = international(number) else { return false };
        smsc::set_handset(&self.hub, number, handset);
        true
    }

    /// Switches a handset on, off or out of reach.
    pub fn switch(&self, number: &str, state: Power) -> bool {
        self.set_handset(number, Handset { state, reply: None })
    }

    /// A text written on a handset. STOP and OPTOUT go to 50123, others to a number of the account's, unless `to`
    /// says otherwise. False: nobody is configured to get it, or the number is not international digits.
    pub fn text_from(&self, number: &str, text: &str, to: Option<String>) -> bool {
        international(number).is_some_and(|number| smsc::text_from(&self.hub, number, text, to))
    }

    /// Posts a receipt for anything, true or not.
    pub fn report(&self, report: Report) {
        let at_us = if report.at_us == 0 { stamp::now_us() } else { report.at_us };
        make(&self.hub, What::Report(Box::new(Report { at_us, ..report })), 0);
    }

    /// From now on requests to send are read, and neither accepted nor answered.
    pub fn freeze(&self) {
        self.hub.freeze();
    }

    /// What stood still is handled now, even where its client is gone.
    pub fn thaw(&self) {
        self.hub.thaw(false);
    }

    /// What stood still is forgotten: not accepted, and its connections end.
    pub fn discard(&self) {
        self.hub.thaw(true);
    }

    /// Closes the gateway's port and cuts its connections; returns once connecting is refused. The network behind it
    /// works on.
    pub async fn down(&self) {
        self.open(false).await;
    }

    /// Opens the port again; returns once it is open.
    pub async fn up(&self) {
        self.open(true).await;
    }

    async fn open(&self, wanted: bool) {
        self.hub.up_wanted.send_replace(wanted);
        let mut up = self.hub.up.subscribe();
        // The sender lives as long as the hub that we hold.
        let _ = up.wait_for(|up| *up == wanted).await;
    }

    pub fn expire_tokens(&self) {
        self.hub.tokens.expire_all();
    }

    /// Everything as at the start.
    pub fn reset(&self) {
        self.hub.reset();
    }

    /// Why the last callback that failed did.
    pub fn last_callback_error(&self) -> Option<String> {
        self.hub.outbound.last_error()
    }
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Some(target) = target.as_object_mut() else { return };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::merge;

    #[test]
    fn a_patch_changes_only_what_it_names() {
        let mut value = json!({"a": {"b": 1, "c": [1, 2]}, "d": "x"});
        merge(&mut value, &json!({"a": {"c": [3], "e": {"f": null, "g": 1}}, "d": null}));
        assert_eq!(value, json!({"a": {"b": 1, "c": [3], "e": {"g": 1}}}));
    }
}
