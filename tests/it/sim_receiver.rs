//! What the simulator's tests share: a receiver of callbacks that keeps what it got, and short ways to send.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test that calls them")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use outboxd::sim::Sim;
use outboxd::sim::counters::{State, Want};
use outboxd::sim::settings::Settings;
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Longer than anything takes on a busy machine; reached only by a test that fails.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A callback as it came: path with query, and body.
#[derive(Debug, Clone)]
pub(crate) struct Posted {
    pub(crate) path: String,
    pub(crate) content_type: String,
    pub(crate) body: String,
}

impl Posted {
    pub(crate) fn form(&self) -> HashMap<String, String> {
        form_urlencoded::parse(self.body.as_bytes()).into_owned().collect()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// Takes every callback, answers with `status`, and keeps what came.
pub(crate) struct Receiver {
    pub(crate) url: String,
    got: Arc<Mutex<Vec<Posted>>>,
    _server: JoinSet<()>,
}

impl Receiver {
    pub(crate) async fn start(status: u16) -> Receiver {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let got = Arc::new(Mutex::new(Vec::new()));
        let keep = Arc::clone(&got);
        let app = Router::new().fallback(move |request: Request| {
            let keep = Arc::clone(&keep);
            async move {
                let path = request.uri().to_string();
                let content_type = request.headers().get("content-type");
                let content_type = content_type.map_or("", |value| value.to_str().unwrap()).to_owned();
                let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
                let body = String::from_utf8(body.to_vec()).unwrap();
                keep.lock().unwrap().push(Posted { path, content_type, body });
                StatusCode::from_u16(status).unwrap()
            }
        });
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Receiver { url, got, _server: server }
    }

    pub(crate) fn got(&self) -> Vec<Posted> {
        self.got.lock().unwrap().clone()
    }
}

pub(crate) async fn start() -> Sim {
    start_with(|_| {}).await
}

pub(crate) async fn start_with(change: impl FnOnce(&mut Settings)) -> Sim {
    let mut settings = Settings::default();
    settings.network.carriers[0].latency_ms = 0;
    change(&mut settings);
    Sim::start(settings).await.unwrap()
}

/// A client that neither repeats requests nor waits for ever.
pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .retry(reqwest::retry::never())
        .redirect(reqwest::redirect::Policy::none())
        .timeout(LIMIT)
        .build()
        .unwrap()
}

pub(crate) const V1: [(&str, &str); 5] =
    [("user", "demo"), ("password", "demo-password"), ("api_id", "1"), ("from", "Demo"), ("text", "hello")];

/// Sends one v1 form message.
pub(crate) async fn send(sim: &Sim, to: &str, notify_id: &str) -> reqwest::Result<reqwest::Response> {
    let url = format!("{}/api/v1/sendmessage.aspx", sim.url());
    let fields: Vec<_> = V1.into_iter().chain([("to", to), ("NotifyID", notify_id)]).collect();
    client()
        .post(url)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish())
        .send()
        .await
}

pub(crate) const ACCEPTED: &str = "0\nRequest deferred successfully\n";

/// Sends one v1 form message that nothing speaks against.
pub(crate) async fn send_well(sim: &Sim, to: &str, notify_id: &str) {
    let answer = send(sim, to, notify_id).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.unwrap(), ACCEPTED);
}

pub(crate) async fn log_in(sim: &Sim) -> String {
    let form = "grant_type=password&client_id=ismstoken&username=demo&password=demo-password";
    let answer = token(sim, form).await;
    assert_eq!(answer.0, 200, "{}", answer.1);
    answer.1["access_token"].as_str().unwrap().to_owned()
}

pub(crate) async fn token(sim: &Sim, form: &str) -> (u16, Value) {
    let request = client()
        .post(sim.token_url())
        .header("content-type", "application/x-www-form-urlencoded")
        .body(form.to_owned());
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

/// Posts a campaign; its status and body.
pub(crate) async fn campaign(sim: &Sim, token: &str, body: &Value) -> (u16, Value) {
    let url = format!("{}/api/v2/Campaign", sim.url());
    let answer = client().post(url).bearer_auth(token).json(body).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

pub(crate) fn to_one(number: &str, notify_id: &str) -> Value {
    json!({"text": "hello", "from": "Demo", "recipientInfo": [{"msisdn": number, "notifyId": notify_id}]})
}

/// Waits for counts; fails the test when they are not reached.
pub(crate) async fn reach(sim: &Sim, want: Want) -> State {
    sim.wait(want, LIMIT).await.unwrap_or_else(|state| panic!("{want:?} was not reached: {state:?}"))
}
