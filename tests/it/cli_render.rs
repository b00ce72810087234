//! `outboxd render`: what would be sent, without sending.

use crate::support::cli::{Cli, config, v1_gateway};
use crate::support::postgres::TestDb;

const TEXT: &str = "default_country = \"353\"\ndefault_sender = \"Clinic\"\nmax_segments = 2";

fn cli(database: &str) -> Cli {
    let gateways = format!(
        "{}\n{}\n[routing]\ndefault = \"main\"\n[[routing.rule]]\nprefix = \"44\"\ngateway = \"uk\"",
        v1_gateway("main", "http://127.0.0.1:9/send"),
        v1_gateway("uk", "http://127.0.0.1:9/send")
    );
    Cli::new(&config(database, TEXT, &gateways))
}

/// A text needs no database: here is none.
fn offline() -> Cli {
    cli("host=/nonexistent dbname=x user=y")
}

#[tokio::test]
async fn a_gsm_text_shows_number_sender_gateway_and_cost() {
    let ended = offline().run(&["render", "--to", "087 123 4567", "--text", "Price: 5€"]).await.expect(0);
    assert_eq!(
        ended.stdout,
        "number     353871234567\nsender     Clinic\ngateway    main\nencoding   gsm7\nsegments   1 (10 septets)\n\nPrice: 5€\n"
    );
    let json =
        offline().run(&["render", "--to", "+447700900123", "--text", "hi", "--json"]).await.expect(0).json();
    assert_eq!(json["gateway"], "uk");
    assert_eq!(json["recipient"], "447700900123");
}

#[tokio::test]
async fn a_unicode_text_is_counted_in_utf_16_units() {
    let text = "Ελλάδα 😀".repeat(8);
    let json = offline().run(&["render", "--text", &text, "--json"]).await.expect(0).json();
    assert_eq!(
        (&json["encoding"], &json["units"], &json["segments"]),
        (&"ucs2".into(), &72.into(), &2.into())
    );
    assert!(json.get("recipient").is_none() && json.get("gateway").is_none(), "no number was given: {json}");
}

#[tokio::test]
async fn what_would_be_refused_says_why_with_its_code() {
    for (arguments, code) in [
        (["--to", "12", "--text", "hi"], "bad_number"),
        (["--to", "0871234567", "--text", " "], "empty_text"),
        (["--sender", "much too long a name", "--text", "hi"], "bad_sender"),
    ] {
        let arguments = [["render"].as_slice(), &arguments].concat();
        let ended = offline().run(&arguments).await.expect(1);
        assert!(ended.stdout.starts_with(&format!("refused    {code}: ")), "{ended:?}");
        let json = offline().run(&[arguments.as_slice(), &["--json"]].concat()).await.expect(1).json();
        assert_eq!(json["error_code"], code);
    }
    let long = "x".repeat(400);
    let ended = offline().run(&["render", "--text", &long]).await.expect(1);
    assert!(ended.stdout.starts_with("refused    too_long: "), "{ended:?}");
}

#[tokio::test]
async fn a_template_comes_from_the_database_in_the_wanted_language() {
    let db = TestDb::create("render").await;
    let templates = "INSERT INTO sms.template (name, language, body)
                     VALUES ('hello', '', 'Dear {name}'), ('hello', 'de', 'Hallo {name}')";
    db.client().await.batch_execute(templates).await.unwrap();
    let cli = cli(&db.daemon_url().await);
    let run =
        async |more: &[&str]| cli.run(&[["render", "--template", "hello"].as_slice(), more].concat()).await;
    let text = run(&["--param", "name=Ada"]).await.expect(0).stdout;
    assert!(text.ends_with("\n\nDear Ada\n"), "{text}");
    let text = run(&["--param", "name=Ada", "--language", "de-AT"]).await.expect(0).stdout;
    assert!(text.ends_with("\n\nHallo Ada\n"), "{text}");
    let text = run(&[]).await.expect(1).stdout;
    assert!(text.starts_with("refused    missing_parameter: "), "{text}");
    let text = cli.run(&["render", "--template", "goodbye"]).await.expect(1).stdout;
    assert!(text.starts_with("refused    unknown_template: "), "{text}");
}
