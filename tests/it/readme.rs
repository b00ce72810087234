//! The README is true: its SQL runs, its configurations parse, and it leaves out no error code and no command.
//!
//! What stands in its fenced blocks is taken as it is, so that a reader who copies it gets what this suite tested.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::CommandFactory;
use outboxd::config::{self, Surroundings};
use outboxd::message::Status;
use outboxd::text::code;
use serde_json::json;
use tempfile::TempDir;
use tokio_postgres::Client;

use crate::support::daemon::Daemon;
use crate::support::port::free_port;
use crate::support::postgres::{TestDb, cluster, connect, in_full};
use crate::support::sim::SimProcess;
use crate::support::{eventually, files_below, repository};

const LIMIT: Duration = Duration::from_secs(30);
const CALLBACK_PATH: &str = "/cb/readme-0123456789abcdef";
/// First line of a block that is not for applications.
const FOR_OPERATORS: &str = "-- as a member of outboxd_operator";

pub(crate) fn readme() -> String {
    std::fs::read_to_string(repository().join("README.md")).unwrap()
}

/// The part from this heading to the next of the same level.
fn section(text: &str, heading: &str) -> String {
    let from = text.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no heading `{heading}`"));
    let body = &text[from + heading.len() + 2..];
    let level = format!("\n{} ", heading.split(' ').next().unwrap());
    body[..body.find(&level).unwrap_or(body.len())].to_owned()
}

/// The fenced blocks of one language, without the indentation that a list gives them.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for line in text.lines() {
        let bare = line.trim_start();
        match &mut open {
            None if bare == format!("```{language}") => open = Some((line.len() - bare.len(), String::new())),
            None => {}
            Some(_) if bare == "```" => found.extend(open.take().map(|(_, block)| block)),
            Some((indent, block)) => {
                block.push_str(line.get(*indent..).unwrap_or_default());
                block.push('\n');
            }
        }
    }
    assert!(open.is_none(), "a block of {language} is not closed");
    found
}

/// First cell of each row of the table under this heading, without its backquotes.
pub(crate) fn first_cells(text: &str, heading: &str) -> BTreeSet<String> {
    let section = section(text, heading);
    let rows = section.lines().skip_while(|line| !line.starts_with("|--"));
    let cells = rows.filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    cells.map(str::to_owned).collect()
}

/// Secrets in files that others cannot read, as the README has them.
fn secrets() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, secret) in [
        ("gateway.password", "demo-password"),
        ("client.secret", "demo-secret"),
        ("callback.path", CALLBACK_PATH),
    ] {
        let file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(directory.path().join(name));
        file.unwrap().write_all(secret.as_bytes()).unwrap();
    }
    directory
}

/// The README's configuration with receipts, for the places of a test.
fn configuration(database_url: &str, gateway: &str, callback_port: u16, secrets: &Path) -> String {
    let secrets = secrets.display();
    format!(
        "[database]\nurl = \"{database_url}\"\n\n[text]\ndefault_country = \"353\"\ndefault_sender = \"Demo\"\n\n\
         [gateway.main]\ndialect = \"interactsms-v2\"\nusername = \"demo\"\n\
         password_file = \"{secrets}/gateway.password\"\n\
         api_url = \"{gateway}\"\ntoken_url = \"{gateway}/token\"\n\n\
         [callbacks]\nlisten = \"127.0.0.1:{callback_port}\"\npath_file = \"{secrets}/callback.path\"\n\
         client_secret_file = \"{secrets}/client.secret\"\n"
    )
}

async fn run(client: &Client, block: &str) {
    if let Err(error) = client.batch_execute(block).await {
        panic!("this block of the README fails: {}\n{block}", in_full(&error));
    }
}

/// Waits until so many of the application's rows have this status.
async fn wait_for(client: &Client, status: Status, count: i64) {
    eventually(LIMIT, &format!("{count} rows are {status}"), async || {
        let rows = client
            .query("SELECT coalesce(client_ref, id::text), status, error FROM sms.outbox ORDER BY id", &[])
            .await
            .unwrap();
        let seen: Vec<(String, String, Option<String>)> =
            rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
        let found = seen.iter().filter(|(_, found, _)| found == status.as_str()).count();
        if i64::try_from(found).unwrap() == count { Ok(()) } else { Err(seen) }
    })
    .await;
}

#[tokio::test]
async fn the_first_sms_from_sql_is_delivered_when_its_blocks_are_copied() {
    let section = section(&readme(), "## Send your first SMS from SQL");
    let blocks = blocks(&section, "sql");
    assert!(blocks.len() >= 5, "the blocks have gone from the section: {}", blocks.len());

    let db = TestDb::create("readme").await;
    let port = free_port();
    let receipts_to = format!("http://127.0.0.1:{port}{CALLBACK_PATH}");
    let sim = SimProcess::start(&["--receipts-to", &receipts_to]).await;
    let secrets = secrets();
    let config = configuration(&db.daemon_url().await, sim.address("gateway"), port, secrets.path());
    let _daemon = Daemon::start(&config).await;
    let app = db.app_client("shop").await;
    let operator = operator(&db).await;

    // The last block is about what failed: something must have.
    sim.settings(&json!({"network": {"validity_ms": 100}})).await;
    sim.handset(&json!({"number": "353871230000", "state": "off"})).await;
    run(&app, "INSERT INTO sms.outbox (recipient, body) VALUES ('0871230000', 'Are you there?')").await;
    wait_for(&app, Status::Undelivered, 1).await;
    sim.settings(&json!({"network": {"validity_ms": 60_000}})).await;
    sim.handset(&json!({"number": "353871230000", "state": "on"})).await;

    for block in &blocks {
        let client = if block.starts_with(FOR_OPERATORS) { &operator } else { &app };
        run(client, block).await;
    }
    wait_for(&app, Status::Cancelled, 1).await;
    let inserted = blocks.iter().map(|block| block.matches("INSERT INTO sms.outbox").count()).sum::<usize>();
    // All of the README's but the cancelled one, and the one that was retried.
    wait_for(&app, Status::Delivered, i64::try_from(inserted).unwrap()).await;

    let ledger = sim.ledger().await;
    let texts: Vec<&str> =
        ledger["messages"].as_array().unwrap().iter().map(|m| m["text"].as_str().unwrap()).collect();
    for text in [
        "Dear Mary, please come at 10:30, to our main office.",
        "Witaj Jan, zapraszamy o 11:00, ul. Długa 5.",
    ] {
        assert!(texts.contains(&text), "{text} is not among {texts:?}");
    }
}

#[tokio::test]
async fn an_application_reads_its_replies_and_honours_opt_outs_with_sql_alone() {
    let section = section(&readme(), "## Read replies, honour opt-outs");
    let blocks = blocks(&section, "sql");
    let [inbox, opt_outs, template] = blocks.as_slice() else { panic!("{} blocks", blocks.len()) };

    let db = TestDb::create("readme_inbox").await;
    let port = free_port();
    let sim = SimProcess::start(&["--inbound-to", &format!("http://127.0.0.1:{port}{CALLBACK_PATH}")]).await;
    let secrets = secrets();
    let config = configuration(&db.daemon_url().await, sim.address("gateway"), port, secrets.path());
    let _daemon = Daemon::start(&config).await;
    let (app, operator) = (db.app_client("shop").await, operator(&db).await);

    sim.handset(&json!({"number": "353871234567", "reply": "Yes, please"})).await;
    run(&app, "INSERT INTO sms.outbox (recipient, body, client_ref) VALUES ('0871234567', 'Come?', 'visit')")
        .await;
    let unhandled = async || -> i64 {
        app.query_one("SELECT count(*) FROM sms.inbox WHERE handled_at IS NULL", &[]).await.unwrap().get(0)
    };
    eventually(LIMIT, "the reply is there", async || {
        let count = unhandled().await;
        if count == 1 { Ok(()) } else { Err(count) }
    })
    .await;
    let (look, take) = inbox.split_once("\n\n").unwrap();
    let row = app.query_one(look, &[]).await.unwrap();
    assert_eq!((row.get("body"), row.get("client_ref")), ("Yes, please", "visit"));
    let row = app.query_one(take, &[]).await.unwrap();
    assert_eq!((row.get("keyword"), row.get("sender")), ("YES", "353871234567"));
    assert_eq!(unhandled().await, 0);

    run(&app, opt_outs).await;
    let is_out = opt_outs.split_once("\n\n").unwrap().0;
    assert!(!app.query_one(is_out, &[]).await.unwrap().get::<_, bool>(0));
    let done: u64 = sim.state().await["inbound_ok"].as_u64().unwrap();
    sim.control("POST", "handset/353871234567/send", Some(&json!({"text": "STOP please"}))).await;
    sim.control("GET", &format!("wait?inbound_ok={}", done + 1), None).await;
    assert!(app.query_one(is_out, &[]).await.unwrap().get::<_, bool>(0));
    run(&app, "INSERT INTO sms.outbox (recipient, body) VALUES ('0871234567', 'Buy!')").await;
    wait_for(&app, Status::Failed, 1).await;
    run(&operator, template).await;
    run(&app, "INSERT INTO sms.outbox (recipient, template, params) VALUES ('0871234567', 'code', '{\"code\": \"1234\"}')").await;
    wait_for(&app, Status::Accepted, 2).await;
}

async fn operator(db: &TestDb) -> Client {
    let role = db.role("operator");
    run(&db.client().await, &format!("CREATE ROLE {role} LOGIN IN ROLE outboxd_operator")).await;
    connect(cluster(db.name()).user(&role)).await
}

#[test]
fn every_configuration_in_the_readme_is_valid() {
    let blocks = blocks(&readme(), "toml");
    assert!(blocks.len() >= 3, "the configurations have gone: {}", blocks.len());
    for block in blocks {
        if let Err(error) = config::parse(&block, "README.md", &surroundings()) {
            panic!("{}\n{block}", error.render(false));
        }
    }
}

/// A machine on which every secret file is there.
pub(crate) fn surroundings() -> Surroundings {
    Surroundings {
        mode: Some(0o640),
        directory: PathBuf::from("/etc/outboxd"),
        read: Box::new(|path| {
            let held = match path.extension().and_then(|extension| extension.to_str()) {
                Some("path") => CALLBACK_PATH,
                Some("url") => "http://user:secret-of-a-test@proxy.example:3128",
                _ => "secret-of-a-test",
            };
            Ok((format!("{held}\n"), 0o100_640))
        }),
        env: Box::new(|_| None),
    }
}

#[test]
fn every_error_code_is_explained_and_none_that_does_not_exist() {
    let explained = first_cells(&readme(), "### Error codes");
    let mut exist: BTreeSet<String> = code::ALL.iter().map(|code| (*code).to_owned()).collect();
    for file in files_below("src", "rs").iter().chain(&files_below("sql", "sql")) {
        exist.extend(codes_in(file));
    }
    // Never written into a row: the message just goes on waiting.
    exist.remove("not_started");
    let missing: Vec<_> = exist.difference(&explained).collect();
    let stale: Vec<_> = explained.difference(&exist).collect();
    assert!(missing.is_empty() && stale.is_empty(), "not explained: {missing:?}; do not exist: {stale:?}");
}

/// What stands behind the words by which this program writes an error code.
fn codes_in(file: &Path) -> BTreeSet<String> {
    let source = std::fs::read_to_string(repository().join(file)).unwrap();
    let source = source.split("#[cfg(test)]\nmod tests").next().unwrap();
    let markers: &[&str] = match file.to_str().unwrap() {
        path if path.starts_with("src/sim/") || path.ends_with("tests.rs") => &[],
        "src/verdict.rs" => &["=> \""],
        path if path.starts_with("src/gateway/") || path == "src/compose.rs" => {
            &["Refusal::new(\"", "Rejected { code: \"", "code: \""]
        }
        path if path.starts_with("src/engine/") => &["Refusal::new(\"", "error_code: Some(\"", ": &str = \""],
        path if path.ends_with(".sql") => &["error_code = '", "error_code = CASE WHEN"],
        _ => &[],
    };
    // `Refusal::new(` and its code may stand on two lines.
    let joined: String = source.split_whitespace().collect::<Vec<_>>().join(" ").replace("( \"", "(\"");
    let mut found = BTreeSet::new();
    for marker in markers {
        for (at, _) in joined.match_indices(marker) {
            let rest = &joined[at + marker.len()..];
            let word = if marker.ends_with("WHEN") { quoted_after(rest, "THEN '") } else { Some(rest) };
            let code: String = word
                .unwrap_or_default()
                .chars()
                .take_while(|c| c.is_ascii_lowercase() || *c == '_')
                .collect();
            if !code.is_empty() {
                found.insert(code);
            }
        }
    }
    found
}

/// What follows `mark`, if that comes before the expression's end.
fn quoted_after<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    let end = text.find(" END").unwrap_or(text.len());
    let at = text[..end].find(mark)?;
    Some(&text[at + mark.len()..])
}

#[test]
fn every_file_that_the_architecture_names_is_there() {
    let text = std::fs::read_to_string(repository().join("ARCHITECTURE.md")).unwrap();
    let mut files: Vec<String> = Vec::new();
    for (directory, extension) in [("src", "rs"), ("tests", "rs"), ("sql", "sql")] {
        files.extend(files_below(directory, extension).iter().map(|file| format!("/{}", file.display())));
    }
    // What is quoted and looks like a source file.
    let named =
        text.split('`').skip(1).step_by(2).filter(|word| word.ends_with(".rs") || word.ends_with(".sql"));
    let gone: Vec<&str> =
        named.clone().filter(|name| !files.iter().any(|file| file.ends_with(&format!("/{name}")))).collect();
    assert!(named.count() > 20, "ARCHITECTURE.md names no files any more");
    assert!(gone.is_empty(), "not there: {gone:?}");
}

#[test]
fn every_status_is_explained() {
    let explained = first_cells(&readme(), "## What the statuses mean");
    for status in Status::ALL {
        assert!(explained.contains(status.as_str()), "{status} is not in the table of statuses");
    }
}

#[test]
fn every_command_is_mentioned() {
    let readme = readme();
    for command in outboxd::cli::Args::command().get_subcommands() {
        let mention = format!("outboxd {}", command.get_name());
        assert!(readme.contains(&mention), "the README never says `{mention}`");
    }
}
