//! The real `gateway-sim` as a child process, and its control API.
//!
//! Thin on purpose: JSON in, JSON out. What the simulator can do is described with the simulator.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

const START_LIMIT: Duration = Duration::from_secs(30);
/// Above what any request to the control API may wait by its own `timeout_ms`.
const CONTROL_LIMIT: Duration = Duration::from_secs(120);

/// A running simulator. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct SimProcess {
    child: Child,
    addresses: Value,
    http: reqwest::Client,
}

impl SimProcess {
    /// Starts it and waits for the line of JSON that says where it listens.
    pub(crate) async fn start(arguments: &[&str]) -> SimProcess {
        let mut child = Command::new(env!("CARGO_BIN_EXE_gateway-sim"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("gateway-sim can be started");
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let (tell, told) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let _ = stdout.read_line(&mut line);
            let _ = tell.send(line);
            // Read on, so that the simulator never waits for a reader.
            let _ = stdout.read_to_end(&mut Vec::new());
        });
        let line = tokio::time::timeout(START_LIMIT, told).await;
        let addresses = match &line {
            Ok(Ok(line)) => serde_json::from_str(line).ok(),
            _ => None,
        };
        let Some(addresses) = addresses else {
            let _ = child.kill();
            panic!("gateway-sim printed no line of JSON with its addresses: {line:?}, {:?}", child.wait());
        };
        let http = reqwest::Client::builder().no_proxy().timeout(CONTROL_LIMIT).build().unwrap();
        SimProcess { child, addresses, http }
    }

    /// One of the addresses that it printed, for example `control`.
    pub(crate) fn address(&self, name: &str) -> &str {
        let Some(address) = self.addresses.get(name).and_then(Value::as_str) else {
            panic!("gateway-sim printed no address `{name}`: {}", self.addresses);
        };
        address
    }

    pub(crate) fn addresses(&self) -> &Value {
        &self.addresses
    }

    pub(crate) async fn state(&self) -> Value {
        self.control("GET", "state", None).await
    }

    /// What reached each handset.
    pub(crate) async fn ledger(&self) -> Value {
        self.control("GET", "ledger", None).await
    }

    /// What the next requests are to meet.
    pub(crate) async fn script(&self, script: &Value) -> Value {
        self.control("POST", "script", Some(script)).await
    }

    pub(crate) async fn settings(&self, settings: &Value) -> Value {
        self.control("POST", "settings", Some(settings)).await
    }

    pub(crate) async fn handset(&self, handset: &Value) -> Value {
        self.control("POST", "handset", Some(handset)).await
    }

    pub(crate) async fn reset(&self) -> Value {
        self.control("POST", "reset", None).await
    }

    /// Returns once it has seen this many requests to send, or when the time is over: the answer says which.
    pub(crate) async fn wait_requests(&self, requests: u64, limit: Duration) -> Value {
        let query = format!("wait?requests={requests}&timeout_ms={}", limit.as_millis());
        self.control("GET", &query, None).await
    }

    /// One request to the control API; `path` is what follows `/control/`.
    pub(crate) async fn control(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let control = self.address("control");
        let scheme = if control.contains("://") { "" } else { "http://" };
        let url =
            format!("{scheme}{}/control/{path}", control.trim_end_matches('/').trim_end_matches("/control"));
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let request = self.http.request(method, &url);
        let request = if let Some(body) = body { request.json(body) } else { request };
        let answer = request.send().await.unwrap_or_else(|error| panic!("{url}: {error}"));
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{url}: {status}: {text}");
        if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text).expect("the control API speaks JSON")
        }
    }

    /// SIGKILL, and waits until it is gone: a gateway that is no longer there.
    pub(crate) fn kill9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for SimProcess {
    fn drop(&mut self) {
        // Fails only for a process that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
