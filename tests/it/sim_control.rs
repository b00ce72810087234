//! The control API over HTTP, and the binary with its flags and signals.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test that calls them")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use outboxd::sim::Sim;
use outboxd::sim::settings::Settings;
use serde_json::{Value, json};

use crate::sim_receiver::{Receiver, client, send, send_well, start};

const NUMBER: &str = "353871234567";

async fn post(root: &str, path: &str, body: Value) -> (u16, Value) {
    let answer = client().post(format!("{root}/control/{path}")).body(body.to_string()).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn get(root: &str, path: &str) -> (u16, Value) {
    let answer = client().get(format!("{root}/control/{path}")).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test]
async fn a_test_in_any_language_can_drive_it() {
    let receiver = Receiver::start(200).await;
    let sim = start().await;
    let root = sim.control_url();
    let rules = json!([{"do": {"empty": {"status": 503, "accept": false}}}, {"do": {"close-after": {}}}]);
    assert_eq!(post(&root, "script", rules).await.0, 200);
    assert_eq!(send(&sim, NUMBER, "a").await.unwrap().status(), 503);
    assert_eq!(get(&root, "script").await.1.as_array().unwrap().len(), 1);
    client().delete(format!("{root}/control/script")).send().await.unwrap();
    let patch = json!({"callbacks": {"receipts": {"to": receiver.url}, "inbound_to": receiver.url}});
    assert_eq!(post(&root, "settings", patch).await.1["callbacks"]["receipts"]["to"], receiver.url);
    assert_eq!(post(&root, "credits", json!({"balance": 7})).await.1["credits"], 7);

    send_well(&sim, NUMBER, "2A-00000000-1").await;
    let (status, state) = get(&root, "wait?requests=2&arrived=1&receipts_ok=1&idle=1").await;
    assert_eq!((status, &state["accepted"], &state["credits"]), (200, &json!(1), &json!(6)));
    let (_, message) = get(&root, "message/2A-00000000-1").await;
    assert_eq!((&message["accepted"], &message["arrived"]), (&json!(1), &json!(1)));
    assert_eq!(message["messages"][0]["key"], "2A");
    let (_, ledger) = get(&root, &format!("ledger?number={NUMBER}&stage=arrived&twice=false&limit=5")).await;
    assert_eq!(ledger["messages"].as_array().unwrap().len(), 1);

    let off = json!({"number": NUMBER, "state": "off"});
    assert_eq!(post(&root, "handset", off).await.0, 200);
    send_well(&sim, NUMBER, "waits").await;
    assert_eq!(post(&root, "handset", json!({"number": NUMBER, "reply": "STOP"})).await.0, 200);
    let (status, _) = get(&root, "wait?arrived=2&inbound_ok=1").await;
    assert_eq!(status, 200);
    let (status, _) =
        post(&root, &format!("handset/{NUMBER}/send"), json!({"text": "hi", "to": "51000"})).await;
    assert_eq!(status, 200);
    assert_eq!(post(&root, "receipt", json!({"notify_id": "x", "forged": true})).await.0, 200);
    assert_eq!(get(&root, "wait?inbound_ok=2&receipts_ok=3").await.0, 200);

    assert_eq!(post(&root, "freeze", json!(null)).await.0, 200);
    assert_eq!(post(&root, "thaw?discard=1", json!(null)).await.0, 200);
    assert_eq!(post(&root, "down", json!(null)).await.0, 200);
    assert!(send(&sim, NUMBER, "a").await.is_err());
    assert_eq!(post(&root, "up", json!(null)).await.0, 200);
    assert_eq!(post(&root, "expire-tokens", json!(null)).await.0, 200);
    assert_eq!(post(&root, "reset", json!(null)).await.1["accepted"], 0);
}

#[tokio::test]
async fn a_mistake_is_answered_with_what_is_wrong() {
    let sim = start().await;
    let root = sim.control_url();
    for (path, body, part) in [
        ("script", json!({"do": {"dorp": {}}}), "unknown variant `dorp`"),
        ("script", json!([{"do": {"drop": {}}}, {"do": {"drop": {"acept": true}}}]), "unknown field `acept`"),
        ("settings", json!({"answers": {"latency": 1}}), "unknown field `latency`"),
        ("handset", json!({"number": "087"}), "international digits"),
        ("handset/353871234567/send", json!({"text": "hi"}), "inbound_to"),
        ("thaw?soon", json!(null), "discard"),
    ] {
        let (status, answer) = post(&root, path, body).await;
        assert_eq!(status, 400, "{path}");
        assert!(answer["error"].as_str().unwrap().contains(part), "{path}: {answer}");
    }
    assert!(sim.rules().is_empty(), "half a script is no script");
    assert_eq!(get(&root, "wait?arived=1").await.0, 400);
    let (status, answer) = get(&root, "wait?arrived=1&timeout_ms=20").await;
    assert_eq!((status, &answer["state"]["arrived"]), (504, &json!(0)));
}

#[tokio::test]
async fn the_help_names_every_endpoint_and_every_act() {
    let sim = start().await;
    let help = client().get(format!("{}/control/help", sim.control_url()));
    let help = help.send().await.unwrap().text().await.unwrap();
    for word in ["state", "wait?", "ledger?", "script", "settings", "credits", "handset", "receipt", "freeze"]
    {
        assert!(help.contains(&format!("/control/{word}")), "{word}");
    }
    for act in [
        "answer",
        "drop",
        "hang",
        "late",
        "drip",
        "truncate",
        "wrong-length",
        "close-after",
        "page",
        "huge",
        "empty",
        "binary",
        "refuse",
        "expire-tokens",
    ] {
        assert!(help.contains(&format!("{{\"{act}\":")), "{act}");
    }
}

#[tokio::test]
async fn the_control_api_stays_on_loopback() {
    let mut settings = Settings::default();
    settings.bind.control = "0.0.0.0:0".parse().unwrap();
    let error = Sim::start(settings).await.unwrap_err();
    assert!(error.to_string().contains("loopback"), "{error}");
}

/// The binary, ended when the test does.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(arguments: &[&str]) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gateway-sim"));
    Process(command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

#[tokio::test]
async fn the_binary_says_where_it_listens_and_ends_cleanly_on_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let settings = dir.path().join("sim.toml");
    let ready_file = dir.path().join("ready.json");
    std::fs::write(
        &settings,
        "[answers]\nlatency_ms = 1\n[account]\nusername = \"from-file\"\napi_id = \"9\"\n",
    )
    .unwrap();
    let mut process = spawn(&[
        "--settings",
        settings.to_str().unwrap(),
        "--ready-file",
        ready_file.to_str().unwrap(),
        "--username",
        "from-flag",
        "--receipts-to",
        "http://127.0.0.1:9/cb",
    ]);
    let mut line = String::new();
    BufReader::new(process.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap();
    let (status, settings) = get(ready["control"].as_str().unwrap(), "settings").await;
    assert_eq!((status, &settings["answers"]["latency_ms"]), (200, &json!(1)));
    assert_eq!(
        (&settings["account"]["username"], &settings["account"]["api_id"]),
        (&json!("from-flag"), &json!("9"))
    );
    assert_eq!(settings["callbacks"]["receipts"]["to"], "http://127.0.0.1:9/cb");
    let health = format!("{}/health", ready["gateway"].as_str().unwrap());
    assert_eq!(client().get(health).send().await.unwrap().status(), 200);
    assert_eq!(serde_json::from_str::<Value>(&std::fs::read_to_string(ready_file).unwrap()).unwrap(), ready);

    let pid = process.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(process.0.wait().unwrap().code(), Some(0));
}

#[test]
fn a_wrong_setting_ends_the_binary_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let settings = dir.path().join("sim.json");
    std::fs::write(&settings, r#"{"callbacks": {"receipts": {"copy": 1}}}"#).unwrap();
    let mut process = spawn(&["--settings", settings.to_str().unwrap()]);
    assert_eq!(process.0.wait().unwrap().code(), Some(1));
    let mut line = String::new();
    BufReader::new(process.0.stderr.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("callbacks.receipts") && line.contains("copy"), "{line}");
}
