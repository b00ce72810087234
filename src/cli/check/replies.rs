//! What `outboxd check` says of automatic replies: whether each could be sent if somebody wrote its keyword now.

use crate::cli::check::Finding;
use crate::compose::{Composer, Templates};
use crate::config::Config;
use crate::message::{CreatedAt, Lane, MessageId, OutboxRow, RowVersion};
use crate::text::keyword::{self, Effect};

/// A number that reads alike under every plan.
const SOMEBODY: &str = "+353871234567";

/// `None`: none are configured.
pub(super) fn check(config: &Config, templates: &Templates) -> Option<Finding> {
    let replies = &config.inbox.auto_reply;
    if replies.is_empty() {
        return None;
    }
    let composer = Composer::new(config.text.clone(), templates.clone());
    let faults: Vec<String> = replies
        .iter()
        .filter_map(|(word, template)| Some(format!("{word}: {}", fault(config, &composer, word, template)?)))
        .collect();
    Some(if faults.is_empty() {
        Finding::ok("automatic replies", replies.keys().map(String::as_str).collect::<Vec<_>>().join(", "))
    } else {
        Finding::warning(
            "automatic replies",
            faults.join("; "),
            "correct sms.template, or [inbox.auto_reply]; until then these answers fail",
        )
    })
}

fn fault(config: &Config, composer: &Composer, word: &str, template: &str) -> Option<String> {
    let params = serde_json::json!({"keyword": word, "sender": SOMEBODY, "recipient": SOMEBODY});
    let row = OutboxRow {
        id: MessageId(1),
        version: RowVersion(0),
        row_made: CreatedAt(0),
        lane: Lane::Normal,
        send_after_us: 0,
        attempts: 0,
        recipient: Some(SOMEBODY.to_owned()),
        body: None,
        template: Some(template.to_owned()),
        language: None,
        params: Some(params.to_string()),
        sender: None,
        gateway: None,
    };
    let draft = match composer.compose(&row) {
        Ok(draft) => draft,
        Err(refusal) => return Some(refusal.reason),
    };
    let sent_to_all = draft.transactional || config.opt_out.transactional_lanes.contains(&Lane::Normal);
    let opts_out = keyword::effect(word, "", &config.opt_out) == Some(Effect::OptOut);
    (opts_out && !sent_to_all).then(|| {
        format!("whoever writes it has opted out, and the template {template} is not marked transactional")
    })
}
