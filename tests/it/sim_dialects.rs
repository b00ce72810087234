//! Each send API of the simulator, as the gateway's documentation describes it.

use std::time::{Duration, Instant};

use outboxd::sim::counters::Want;
use outboxd::sim::ledger::Stage;
use outboxd::sim::settings::{Charset, DeliveryTime, ErrorItems, NotifyField};
use serde_json::{Value, json};

use crate::sim_receiver::{
    ACCEPTED, LIMIT, campaign, client, log_in, reach, send, send_well, start, start_with, to_one, token,
};

#[tokio::test]
async fn a_campaign_reaches_its_handset() {
    let sim = start().await;
    let token = log_in(&sim).await;
    let answer = campaign(&sim, &token, &to_one("0871234567", "order-1")).await;
    assert_eq!(answer, (200, json!({"success": true, "message": "Campaign scheduled", "errors": []})));
    reach(&sim, Want { arrived: Some(1), ..Want::default() }).await;
    let messages = sim.message("order-1");
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].number, "353871234567");
    assert_eq!(messages[0].text, "hello");
    assert_eq!(messages[0].sender, "Demo");
    assert_eq!(messages[0].stage, Stage::Arrived);
    assert_eq!(messages[0].arrivals, 1);
    assert_eq!((sim.state().logins, sim.state().requests, sim.state().accepted), (1, 1, 1));
}

#[tokio::test]
async fn a_campaign_with_wrong_numbers_is_accepted_in_part() {
    let sim = start().await;
    let token = log_in(&sim).await;
    let to = |numbers: &[&str]| {
        let list: Vec<Value> = numbers.iter().map(|n| json!({"msisdn": n, "notifyId": n})).collect();
        json!({"text": "hello", "from": "Demo", "recipientInfo": list})
    };
    let (status, body) = campaign(&sim, &token, &to(&["353871234567", "12", "+353871234568"])).await;
    assert_eq!((status, &body["success"]), (200, &json!(true)));
    assert_eq!(body["errors"][0], json!({"msisdn": "12", "message": "Invalid MSISDN"}));
    assert_eq!(body["errors"][1]["msisdn"], "+353871234568");
    for (shape, item) in [
        (ErrorItems::Sentence, "Invalid MSISDN: 12"),
        (ErrorItems::Number, "12"),
        (ErrorItems::Nameless, "Invalid MSISDN"),
    ] {
        sim.change(|settings| settings.v2.error_items = shape);
        let (_, body) = campaign(&sim, &token, &to(&["353871234567", "12"])).await;
        assert_eq!(body["errors"], json!([item]));
    }
    assert_eq!(campaign(&sim, &token, &to(&["12"])).await.0, 422);
    let state = sim.state();
    assert_eq!((state.accepted, state.refused), (4, 6));
    // Numbers that it is told to find invalid, and the reference in place of the number.
    sim.change(|settings| {
        settings.v2.error_items = ErrorItems::Reference;
        settings.v2.invalid = vec!["35386".to_owned()];
    });
    let (_, body) = campaign(&sim, &token, &to(&["353871234567", "353861234567"])).await;
    assert_eq!(body["errors"], json!([{"notifyId": "353861234567", "message": "Invalid MSISDN"}]));
}

#[tokio::test]
async fn a_campaign_that_is_not_valid_is_refused() {
    let sim = start().await;
    let token = log_in(&sim).await;
    assert_eq!(campaign(&sim, "wrong", &to_one("353871234567", "x")).await.0, 401);
    assert_eq!(campaign(&sim, &token, &json!({"text": 5})).await.0, 400);
    let (status, body) = campaign(&sim, &token, &json!({"from": "Demo", "sendAt": "soon"})).await;
    assert_eq!((status, body["errors"].as_array().unwrap().len()), (422, 3));
    let url = format!("{}/api/v2/Campaign", sim.url());
    assert_eq!(client().get(&url).send().await.unwrap().status(), 405);
    let untyped = client().post(url).bearer_auth(token).body("{}");
    assert_eq!(untyped.send().await.unwrap().status(), 415);
    assert_eq!(client().get(format!("{}/api/v3", sim.url())).send().await.unwrap().status(), 404);
    assert_eq!(sim.state().accepted, 0);
}

#[tokio::test]
async fn a_scheduled_campaign_stays_on_its_road() {
    let sim = start().await;
    let token = log_in(&sim).await;
    let mut body = to_one("353871234567", "later");
    body["sendAt"] = json!("2130-06-01T09:00Z");
    assert_eq!(campaign(&sim, &token, &body).await.0, 200);
    assert_eq!(campaign(&sim, &token, &to_one("353871234567", "now")).await.0, 200);
    let state = reach(&sim, Want { arrived: Some(1), ..Want::default() }).await;
    assert_eq!(state.pending, 1);
    assert_eq!(sim.message("later")[0].stage, Stage::Pending);
}

#[tokio::test]
async fn the_token_server_wants_exactly_the_documented_form() {
    let sim = start().await;
    let good = "grant_type=password&client_id=ismstoken&username=demo&password=demo-password";
    let (status, body) = token(&sim, good).await;
    assert_eq!((status, &body["expires_in"], &body["token_type"]), (200, &json!(120), &json!("Bearer")));
    assert_eq!(body["access_token"].as_str().unwrap().split('.').count(), 3);
    for (from, to, wanted, error) in [
        ("=password&c", "=client_credentials&c", 400, "unsupported_grant_type"),
        ("ismstoken", "ISMStoken", 401, "invalid_client"),
        ("demo-password", "wrong", 401, "invalid_grant"),
        ("username=demo", "username=other", 401, "invalid_grant"),
    ] {
        let (status, body) = token(&sim, &good.replace(from, to)).await;
        assert_eq!((status, body["error"].as_str().unwrap()), (wanted, error));
    }
    assert_eq!((sim.state().logins, sim.state().logins_refused), (1, 3));
}

#[tokio::test]
async fn a_token_ends_when_its_life_is_over() {
    let sim = start_with(|settings| settings.auth.token_life_ms = 300).await;
    let started = Instant::now();
    let token = log_in(&sim).await;
    let url = format!("{}/api/v2/senderlist", sim.url());
    loop {
        let answer = client().get(&url).bearer_auth(&token).send().await.unwrap();
        if answer.status() == 401 {
            break;
        }
        assert_eq!(answer.json::<Value>().await.unwrap()[0], json!({"name": "Demo", "type": 0}));
        assert!(started.elapsed() < LIMIT, "the token never ended");
    }
    assert!(started.elapsed() >= Duration::from_millis(300), "the token ended before its time");
}

#[tokio::test]
async fn a_v1_form_is_answered_in_text_and_a_not_sign_is_a_line_break() {
    let sim = start().await;
    send_well(&sim, "353871234567,447911123456", "ref-1").await;
    let url = format!("{}/api/v1/SendMessage.aspx", sim.url());
    let query =
        "?User=demo&Password=demo-password&Api_id=1&To=353861234567&Text=one%C2%ACtwo&From=Demo&notifyid=g";
    let answer = client().get(url + query).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), ACCEPTED);
    reach(&sim, Want { arrived: Some(3), ..Want::default() }).await;
    assert_eq!(sim.message("ref-1").len(), 2);
    assert_eq!(sim.message("g")[0].text, "one\ntwo");
}

#[tokio::test]
async fn v1_refusals_are_http_200_with_a_code() {
    let sim = start_with(|settings| settings.v1.max_chars = Some(160)).await;
    let good = "user=demo&password=demo-password&api_id=1&to=353871234567&text=hello&from=Demo";
    for (from, to, code) in [
        ("demo-password", "wrong", "1"),
        ("api_id=1", "api_id=2", "1"),
        ("353871234567", "0871234567", "2"),
        ("from=Demo", "from=Twelve_chars", "3"),
        ("&text=hello", "", "5"),
        ("hello", &"x".repeat(161), "5"),
    ] {
        let url = format!("{}/api/v1/sendmessage.aspx", sim.url());
        let answer = client().post(url).body(good.replace(from, to)).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.text().await.unwrap().lines().next(), Some(code), "{to}");
    }
    assert_eq!((sim.state().accepted, sim.state().unauthorized), (0, 2));
}

#[tokio::test]
async fn the_other_reference_field_is_not_seen() {
    let sim = start_with(|settings| {
        settings.v1.notify_field = NotifyField::WithUnderscore;
        settings.v1.charset = Charset::Latin1;
        settings.v1.delivery_time = DeliveryTime::Minutes;
    })
    .await;
    send_well(&sim, "353871234567", "lost").await;
    let body = "user=demo&password=demo-password&api_id=1&to=353871234568&text=%E9%AC%ED&from=Demo\
        &notify_id=kept&DeliveryTime=10";
    let url = format!("{}/api/v1/sendmessage.aspx", sim.url());
    assert_eq!(client().post(url).body(body).send().await.unwrap().text().await.unwrap(), ACCEPTED);
    let state = reach(&sim, Want { arrived: Some(1), ..Want::default() }).await;
    assert_eq!(state.pending, 1, "held for ten minutes");
    assert!(sim.message("lost").is_empty());
    assert_eq!(sim.message("kept")[0].text, "é\ní");
}

#[tokio::test]
async fn v1_json_answers_with_a_status_string() {
    let sim = start().await;
    let url = format!("{}/api/v1/sendmessage", sim.url());
    let mut body = json!({
        "User": "demo", "Password": "demo-password", "ApiId": 1, "To": "353871234567", "Text": "hello",
        "SenderId": "Demo", "NotifyId": "json-1",
    });
    let post = |body: Value| {
        let request = client().post(&url).json(&body);
        async move { request.send().await.unwrap().json::<Value>().await.unwrap() }
    };
    assert_eq!(post(body.clone()).await, json!({"status": "0\nRequest deferred successfully"}));
    body["Password"] = json!("wrong");
    assert_eq!(post(body).await, json!({"status": "1\nInvalid user, password or API ID"}));
    assert_eq!(sim.message("json-1").len(), 1);
}

#[tokio::test]
async fn a_kannel_request_is_accepted_with_202() {
    let sim = start().await;
    let get = |query: &str| {
        let request = client().get(format!("{}/cgi-bin/sendsms?{query}", sim.url()));
        async move {
            let answer = request.send().await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        }
    };
    let login = "username=demo&password=demo-password";
    let query = format!("{login}&from=Demo&to=%2B353871234567+447911123456&text=h%C3%A9&binfo=k-1");
    assert_eq!(get(&query).await, (202, "0: Accepted for delivery".into()));
    let ucs2 = format!("{login}&from=Demo&to=353871234567&coding=2&text=%04%16%D8%3D%DE%00&binfo=k-2");
    assert_eq!(get(&ucs2).await.0, 202);
    assert_eq!(get("username=demo&password=x&to=1&text=x").await.0, 403);
    assert_eq!(get(login).await.0, 400);
    reach(&sim, Want { arrived: Some(3), ..Want::default() }).await;
    assert_eq!(sim.message("k-1")[0].text, "hé");
    assert_eq!(sim.message("k-2")[0].text, "Ж\u{1f600}");
}

#[tokio::test]
async fn credits_run_out() {
    let sim = start_with(|settings| settings.credits.balance = Some(1)).await;
    send_well(&sim, "353871234567", "a").await;
    let answer = send(&sim, "353871234567", "b").await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "4\nNo credits available\n");
    assert_eq!(sim.state().credits, Some(0));
    let token = log_in(&sim).await;
    assert_eq!(campaign(&sim, &token, &to_one("353871234567", "c")).await.0, 200, "told later, by a result");
    sim.change(|settings| settings.v2.refuse_at_once = true);
    assert_eq!(campaign(&sim, &token, &to_one("353871234567", "c")).await.0, 400);
    sim.set_credits(None);
    send_well(&sim, "353871234567", "d").await;
    assert_eq!(sim.state().accepted, 2);
}
