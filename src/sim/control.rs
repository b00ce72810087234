//! The control API: HTTP and JSON around the methods of [`Remote`], so that a test in any language can drive the
//! simulator. No password: it listens on loopback only.

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query as UrlQuery, RawQuery, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::sim::callbacks::Report;
use crate::sim::counters::Want;
use crate::sim::handset::{Handset, Power};
use crate::sim::ledger::{Query, Stage};
use crate::sim::remote::Remote;
use crate::sim::script::Rule;

const HELP: &str = include_str!("control_help.txt");
const DEFAULT_WAIT: Duration = Duration::from_secs(10);

pub(super) fn router(remote: Remote) -> Router {
    Router::new()
        .route("/", get(|| async { HELP }))
        .route("/control/help", get(|| async { HELP }))
        .route("/control/state", get(state))
        .route("/control/wait", get(wait))
        .route("/control/ledger", get(ledger))
        .route("/control/message/{notify_id}", get(message))
        .route("/control/script", get(rules).post(script).delete(clear_script))
        .route("/control/settings", get(settings).post(change_settings))
        .route("/control/credits", post(credits))
        .route("/control/handset", post(handset))
        .route("/control/handset/{number}/send", post(text_from))
        .route("/control/receipt", post(receipt))
        .route("/control/freeze", post(freeze))
        .route("/control/thaw", post(thaw))
        .route("/control/down", post(down))
        .route("/control/up", post(up))
        .route("/control/expire-tokens", post(expire_tokens))
        .route("/control/reset", post(reset))
        .with_state(remote)
}

/// A request that cannot be understood.
struct Wrong(String);

impl IntoResponse for Wrong {
    fn into_response(self) -> Response {
        show(StatusCode::BAD_REQUEST, &json!({ "error": self.0 }))
    }
}

type Shown = Result<Response, Wrong>;

fn show(status: StatusCode, value: &impl Serialize) -> Response {
    let body = serde_json::to_string(value).unwrap_or_default();
    (status, [("content-type", "application/json")], body).into_response()
}

fn fine(value: &impl Serialize) -> Shown {
    Ok(show(StatusCode::OK, value))
}

/// Content types are not asked for, so that `curl -d` works.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Wrong> {
    serde_json::from_slice(body).map_err(|error| Wrong(format!("{error}; see /control/help")))
}

fn shown_state(remote: &Remote) -> Value {
    let mut state = json!(remote.state());
    if let (Some(error), Some(state)) = (remote.last_callback_error(), state.as_object_mut()) {
        state.insert("last_callback_error".into(), json!(error));
    }
    state
}

async fn state(Shared(remote): Shared<Remote>) -> Shown {
    fine(&shown_state(&remote))
}

async fn wait(Shared(remote): Shared<Remote>, RawQuery(query): RawQuery) -> Shown {
    let mut want = Want::default();
    let mut limit = DEFAULT_WAIT;
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        let count = value.parse().map_err(|_| Wrong(format!("{name} must be a whole number")))?;
        if name == "timeout_ms" {
            limit = Duration::from_millis(count);
        } else if !want.set(&name, count) {
            return Err(Wrong(format!("there is no counter {name}; see /control/state")));
        }
    }
    match remote.wait(want, limit).await {
        Ok(_) => fine(&shown_state(&remote)),
        Err(_) => {
            let body = json!({"error": "not reached in time", "state": shown_state(&remote)});
            Ok(show(StatusCode::GATEWAY_TIMEOUT, &body))
        }
    }
}

async fn ledger(Shared(remote): Shared<Remote>, UrlQuery(query): UrlQuery<Query>) -> Shown {
    fine(&json!({ "messages": remote.messages(&query) }))
}

async fn message(Shared(remote): Shared<Remote>, Path(notify_id): Path<String>) -> Shown {
    let messages = remote.message(&notify_id);
    let arrived = messages.iter().filter(|message| message.stage == Stage::Arrived).count();
    fine(&json!({"accepted": messages.len(), "arrived": arrived, "messages": messages}))
}

async fn rules(Shared(remote): Shared<Remote>) -> Shown {
    fine(&remote.rules())
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    Many(Vec<Value>),
    One(Value),
}

async fn script(Shared(remote): Shared<Remote>, body: Bytes) -> Shown {
    let rules = match parse(&body)? {
        OneOrMany::Many(rules) => rules,
        OneOrMany::One(rule) => vec![rule],
    };
    // All of them are read before the first is used.
    let rules = rules.into_iter().map(serde_json::from_value).collect::<Result<Vec<Rule>, _>>();
    for rule in rules.map_err(|error| Wrong(format!("{error}; see /control/help")))? {
        remote.script(rule);
    }
    fine(&remote.rules())
}

async fn clear_script(Shared(remote): Shared<Remote>) -> Shown {
    remote.clear_script();
    fine(&json!([]))
}

async fn settings(Shared(remote): Shared<Remote>) -> Shown {
    fine(&*remote.settings())
}

async fn change_settings(Shared(remote): Shared<Remote>, body: Bytes) -> Shown {
    let patch: Value = parse(&body)?;
    remote.merge_settings(&patch).map_err(|error| Wrong(format!("{error}; see GET /control/settings")))?;
    fine(&*remote.settings())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreditsBody {
    balance: Option<u64>,
}

async fn credits(Shared(remote): Shared<Remote>, body: Bytes) -> Shown {
    let credits: CreditsBody = parse(&body)?;
    remote.set_credits(credits.balance);
    fine(&shown_state(&remote))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HandsetBody {
    number: String,
    #[serde(default)]
    state: Power,
    reply: Option<String>,
}

async fn handset(Shared(remote): Shared<Remote>, body: Bytes) -> Shown {
    let HandsetBody { number, state, reply } = parse(&body)?;
    if remote.set_handset(&number, Handset { state, reply }) {
        fine(&json!({ "number": number }))
    } else {
        Err(Wrong("number must be international digits".into()))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TextBody {
    text: String,
    to: Option<String>,
}

async fn text_from(Shared(remote): Shared<Remote>, Path(number): Path<String>, body: Bytes) -> Shown {
    let TextBody { text, to } = parse(&body)?;
    if remote.text_from(&number, &text, to) {
        fine(&json!({ "sent": true }))
    } else {
        Err(Wrong("no callbacks.inbound_to is set, or the number is not international digits".into()))
    }
}

async fn receipt(Shared(remote): Shared<Remote>, body: Bytes) -> Shown {
    let report: Report = parse(&body)?;
    remote.report(report);
    fine(&json!({ "made": true }))
}

async fn freeze(Shared(remote): Shared<Remote>) -> Shown {
    remote.freeze();
    fine(&shown_state(&remote))
}

async fn thaw(Shared(remote): Shared<Remote>, RawQuery(query): RawQuery) -> Shown {
    match query.as_deref() {
        None | Some("" | "discard=0" | "discard=false") => remote.thaw(),
        Some("discard" | "discard=1" | "discard=true") => remote.discard(),
        Some(_) => return Err(Wrong("thaw knows only ?discard=1".into())),
    }
    fine(&shown_state(&remote))
}

async fn down(Shared(remote): Shared<Remote>) -> Shown {
    remote.down().await;
    fine(&json!({ "up": false }))
}

async fn up(Shared(remote): Shared<Remote>) -> Shown {
    remote.up().await;
    fine(&json!({ "up": true }))
}

async fn expire_tokens(Shared(remote): Shared<Remote>) -> Shown {
    remote.expire_tokens();
    fine(&json!({ "expired": true }))
}

async fn reset(Shared(remote): Shared<Remote>) -> Shown {
    remote.reset();
    fine(&shown_state(&remote))
}
