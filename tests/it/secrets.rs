//! Nothing that outboxd ever writes holds a secret that it was given, a text that it was to send, or a number in full.
//!
//! The secrets are unlike anything else. The gateways are malicious: they put whatever was sent to them into each answer,
//! as it is and in other spellings. All that was written (logs at their most talkative, output of every command, pages,
//! tables, the server's log) is searched for each secret, plain and in the usual encodings. What is masked is told in each
//! place: logs and pages hold no number in full, commands only one that a person asked for.

mod endings;
mod search;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::gateway_peer::{Act, Peer, Request, answer_with};
use crate::secrets::search::{Haystack, base64};
use crate::support::admin;
use crate::support::cli::Cli;
use crate::support::cluster::{Cluster, Stop};
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::port::free_port;
use crate::support::postgres::TestDb;

const LIMIT: Duration = Duration::from_secs(60);

const V2_PASSWORD: &str = "zq1gateway+two/?&\"x";
const V1_PASSWORD: &str = "zq2gateway~one%&=x";
const HTTP_PASSWORD: &str = "zq3basic:auth{}x";
const HEADER: &str = "zq4header-key-x";
const QUERY: &str = "zq5query-key-x";
const PROXY_PASSWORD: &str = "zq6proxy%40word";
const DATABASE_PASSWORD: &str = "zq7database-word";
const CALLBACK_PATH: &str = "/cb/zq8callback-path-0123456789";
const CLIENT_SECRET: &str = "zq9client-secret";
const ACCOUNT_PASSWORD: &str = "zq10account-password";
/// What the gateway gives us at log-in.
const TOKEN: &str = "zq11access-token.abc_def-ghi";
const WRONG_PASSWORD: &str = "zq12wrong-database-word";
const SECRETS: [&str; 12] = [
    V2_PASSWORD,
    V1_PASSWORD,
    HTTP_PASSWORD,
    HEADER,
    QUERY,
    PROXY_PASSWORD,
    DATABASE_PASSWORD,
    CALLBACK_PATH,
    CLIENT_SECRET,
    ACCOUNT_PASSWORD,
    TOKEN,
    WRONG_PASSWORD,
];
/// Parts of texts, and numbers: people's own.
const BODIES: [&str; 3] = ["zqbody-lab-result", "zqparam-patient-name", "zqreply-from-patient"];
const NUMBERS: [&str; 3] = ["353871239991", "353871239992", "353871239993"];

/// A gateway that repeats in each answer what it was sent.
async fn parrot() -> Peer {
    Peer::serve(|request| {
        let sent = format!("{} {}", request.head.replace("\r\n", " "), request.body);
        let spelt: String = sent.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let echo = format!("{sent} {} {spelt}", base64(sent.as_bytes()));
        let json = serde_json::to_string(&echo).unwrap();
        if request.is("POST /token ") {
            let token = format!(r#"{{"access_token":"{TOKEN}","expires_in":120,"token_type":"Bearer"}}"#);
            return Act::Answer(answer_with(200, "", &token));
        }
        Act::Answer(match kind(request) {
            "accept" => {
                answer_with(200, "", r#"{"success":true,"message":"Campaign scheduled","errors":[]}"#)
            }
            "reject" => {
                let body =
                    format!(r#"{{"success":false,"message":{json},"errors":[{json}],"error":{json}}}"#);
                answer_with(400, "", &body)
            }
            "code" => answer_with(200, "", &format!("17\n{echo}\n")),
            "broken" => return Act::Close,
            "busy" => answer_with(503, "Retry-After: 1\r\n", &echo),
            _ => answer_with(500, "", &echo),
        })
    })
    .await
}

/// What a message asks for by its text.
fn kind(request: &Request) -> &'static str {
    let all = format!("{} {}", request.head, request.body);
    ["accept", "reject", "code", "broken", "busy"]
        .into_iter()
        .find(|kind| all.contains(&format!("kind-{kind}")))
        .unwrap_or("other")
}

struct World {
    cluster: Cluster,
    db: TestDb,
    peer: Peer,
    proxy: Peer,
    admin_port: u16,
    callback_port: u16,
    /// Where secrets lie that are not in the configuration.
    kept: TempDir,
}

impl World {
    async fn make() -> World {
        let mut cluster = Cluster::start("listen_addresses = '127.0.0.1'").await;
        let hba = cluster.data().join("pg_hba.conf");
        let rules = "host all all 127.0.0.1/32 scram-sha-256\n".to_owned();
        std::fs::write(&hba, rules + &std::fs::read_to_string(&hba).unwrap()).unwrap();
        cluster.restart(Stop::Fast).await;
        let db = TestDb::in_cluster(&cluster, "secrets").await;
        db.daemon_url().await;
        let role = db.role("daemon");
        // Hashed here, so that no statement holds it.
        let client = db.client().await;
        client.batch_execute("SET log_min_error_statement = panic").await.unwrap();
        client.batch_execute(&format!("ALTER ROLE {role} PASSWORD '{DATABASE_PASSWORD}'")).await.unwrap();
        let proxy = Peer::serve(|request| {
            Act::AnswerThenClose(answer_with(407, "", &format!("{} {}", request.head, request.body)))
        })
        .await;
        let (admin_port, callback_port) = (free_port(), free_port());
        let kept = tempfile::tempdir().unwrap();
        World { cluster, db, peer: parrot().await, proxy, admin_port, callback_port, kept }
    }

    fn config(&self, database_password: &str, json: bool) -> String {
        let (peer, role) = (self.peer.url(""), self.db.role("daemon"));
        let (port, name) = (self.cluster.port(), self.db.name());
        let toml = |text: &str| serde_json::to_string(text).unwrap();
        format!(
            "[database]\nurl = \"postgresql://{role}:{database_password}@127.0.0.1:{port}/{name}?sslmode=disable\"\n\
             timeout = \"5s\"\n\n[text]\ndefault_country = \"353\"\ndefault_sender = \"Clinic\"\n\n\
             [queue]\nlease = \"2s\"\n\n\
             [gateway.two]\ndialect = \"interactsms-v2\"\napi_url = \"{peer}\"\ntoken_url = \"{peer}/token\"\n\
             username = \"demo\"\npassword = {}\nstop_after_refusals = 1000\n\n\
             [gateway.one]\ndialect = \"interactsms-v1\"\nurl = \"{peer}/send\"\nusername = \"demo\"\npassword = {}\n\
             api_id = \"1\"\nstop_after_refusals = 1000\n\n\
             [gateway.http]\ndialect = \"http\"\nurl = \"{peer}/http?key={QUERY}&to={{recipient}}\"\nusername = \"demo\"\n\
             password = {}\nbasic_auth = true\nheaders = {{ X-Key = \"{HEADER}\" }}\nstop_after_refusals = 1000\n\
             json = {{ text = \"{{text}}\", ref = \"{{ref}}\" }}\nerror = \"/error\"\n\
             rule = [{{ status = 200, class = \"accepted\" }}]\n\n\
             [gateway.proxied]\ndialect = \"interactsms-v1\"\nurl = \"https://gw.example.test/send\"\nusername = \"demo\"\n\
             password = {}\napi_id = \"1\"\nproxy = \"http://demo:{PROXY_PASSWORD}@{}\"\nconnect_timeout = \"1s\"\n\n\
             [routing]\ndefault = \"two\"\n\n\
             [callbacks]\nlisten = \"127.0.0.1:{}\"\npath = \"{CALLBACK_PATH}\"\nclient_secret = \"{CLIENT_SECRET}\"\n\
             account_password = \"{ACCOUNT_PASSWORD}\"\n\n\
             [admin]\nlisten = \"127.0.0.1:{}\"\n\n[log]\nfilter = \"trace\"\njson = {json}\n",
            toml(V2_PASSWORD),
            toml(V1_PASSWORD),
            toml(HTTP_PASSWORD),
            toml(V1_PASSWORD),
            self.proxy.address,
            self.callback_port,
            self.admin_port,
        )
    }

    /// The same with each secret in a file, in a credential of systemd's or in the environment, by turns; and that
    /// environment.
    fn config_apart(&self, database_password: &str, json: bool) -> (String, Vec<(String, String)>) {
        let inside = self.config(database_password, json);
        let inside = inside.replacen(&format!(":{database_password}@"), "@", 1).replacen(
            "timeout = ",
            &format!("password = \"{database_password}\"\ntimeout = "),
            1,
        );
        let directory = self.kept.path().display().to_string();
        let mut environment = vec![("CREDENTIALS_DIRECTORY".to_owned(), directory.clone())];
        let (mut lines, mut ways) = (Vec::new(), 0);
        for line in inside.lines() {
            let (key, value) = line.split_once(" = ").unwrap_or_default();
            if !["password", "proxy", "path", "client_secret", "account_password"].contains(&key) {
                lines.push(line.to_owned());
                continue;
            }
            let value: String = serde_json::from_str(value).unwrap();
            let name = format!("zq_way_{ways}_{}", value.len());
            let file = self.kept.path().join(&name);
            lines.push(match ways % 3 {
                0 => format!("{key}_file = \"{directory}/{name}\""),
                1 => format!("{key}_credential = \"{name}\""),
                _ => format!("{key}_env = \"{name}\""),
            });
            if ways % 3 == 2 {
                environment.push((name, value));
            } else {
                std::fs::write(&file, value + "\n").unwrap();
                std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
            }
            ways += 1;
        }
        assert_eq!(ways, 9, "of secrets");
        (lines.join("\n") + "\n", environment)
    }

    /// Rows of every outcome for every gateway.
    async fn queue(&self) {
        let client = self.db.client().await;
        let template = "INSERT INTO sms.template (name, body) VALUES ('hello', 'Dear {name}, kind-accept') \
                        ON CONFLICT DO NOTHING";
        client.batch_execute(template).await.unwrap();
        let insert = "INSERT INTO sms.outbox (recipient, body, gateway) VALUES ($1, $2, $3)";
        for gateway in ["one", "two", "http", "proxied"] {
            for (place, kind) in
                ["accept", "reject", "code", "broken", "other", "busy"].into_iter().enumerate()
            {
                let number = format!("+{}", NUMBERS[place % 2]);
                let body = format!("{} for you, kind-{kind}", BODIES[0]);
                client.execute(insert, &[&number, &body, &gateway]).await.unwrap();
            }
        }
        for (number, body) in [("zq-no-number 0871239993", BODIES[0]), ("0871239993", &BODIES[0].repeat(200))]
        {
            client.execute(insert, &[&number, &body, &"two"]).await.unwrap();
        }
        let with_params = "INSERT INTO sms.outbox (recipient, template, params) VALUES ($1, 'hello', $2)";
        for params in [serde_json::json!({"name": BODIES[1]}), serde_json::json!({"nome": BODIES[1]})] {
            client.execute(with_params, &[&"0871239992", &params]).await.unwrap();
        }
    }

    /// Posts what no gateway would, and what one does.
    async fn post(&self, hay: &mut Haystack) {
        let body = format!("{{\"from\":\"{}\",\"message\":\"{}\"}}", NUMBERS[2], BODIES[2]);
        let form = format!(
            "SMS-NotifyId=1-00000000-1&SMS-Success=True&SMS-Verify=9db038748b3088971d913616c13e769b&SMS-To={}&x={}",
            NUMBERS[2], BODIES[2]
        );
        for path in [CALLBACK_PATH, &CALLBACK_PATH[..12], "/"] {
            for (kind, body) in [
                ("application/json", &body),
                ("application/x-www-form-urlencoded", &form),
                ("text/plain", &body),
            ] {
                let request = format!(
                    "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
                hay.put("callback answer", &admin::raw(self.callback_port, request.as_bytes()).await);
            }
        }
    }

    async fn pages(&self, hay: &mut Haystack) {
        for path in ["/", "/metrics", "/livez", "/readyz", "/nothing"] {
            let answer = admin::get(self.admin_port, path).await;
            hay.put(&format!("page {path}"), &format!("{}\n{}", answer.head, answer.body));
        }
    }

    async fn tables(&self, hay: &mut Haystack) {
        let client = self.db.client().await;
        let tables = "SELECT c.relname::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace \
                      WHERE n.nspname = 'outboxd' AND c.relkind = 'r'";
        let tables = client.query(tables, &[]).await.unwrap();
        assert!(tables.len() > 5, "found no tables");
        for table in tables {
            let name: String = table.get(0);
            let sql = format!("SELECT coalesce(string_agg(t::text, E'\\n'), '') FROM outboxd.{name} AS t");
            hay.put(&format!("table outboxd.{name}"), client.query_one(&sql, &[]).await.unwrap().get(0));
        }
        let errors = "SELECT coalesce(string_agg(concat_ws(' ', error_code, error, gateway_ref), E'\\n'), '') FROM sms.outbox";
        hay.put("sms.outbox, error", client.query_one(errors, &[]).await.unwrap().get(0));
    }
}

/// Lets a daemon meet everything, and collects what it writes. In JSON its secrets are in the configuration, else apart.
async fn run(world: &World, json: bool, hay: &mut Haystack) {
    let configured = |password: &str| {
        if json { (world.config(password, json), Vec::new()) } else { world.config_apart(password, json) }
    };
    let (config, environment) = configured(DATABASE_PASSWORD);
    let mut daemon = Daemon::spawn_with(&config, |command| {
        command.envs(environment);
    });
    daemon.wait_log(LIMIT, "leading").await;
    world.queue().await;
    let client = world.db.client().await;
    eventually(LIMIT, "every row was tried", async || {
        let sql = "SELECT count(*) FILTER (WHERE status = 'queued' AND attempts = 0 AND error_code IS NULL), \
                   count(DISTINCT status) FROM sms.outbox WHERE gateway <> 'proxied'";
        let row = client.query_one(sql, &[]).await.unwrap();
        let seen: (i64, i64) = (row.get(0), row.get(1));
        if seen.0 == 0 && seen.1 >= 3 { Ok(()) } else { Err(seen) }
    })
    .await;
    // The proxy was asked as well.
    eventually(LIMIT, "the proxy was asked", async || match world.proxy.connections() {
        0 => Err(()),
        _ => Ok(()),
    })
    .await;
    world.post(hay).await;
    world.pages(hay).await;
    let process = format!("/proc/{}", daemon.pid());
    hay.put("command line", &std::fs::read_to_string(format!("{process}/cmdline")).unwrap());
    hay.put("status line", &std::fs::read_to_string(format!("{process}/comm")).unwrap());
    daemon.rewrite(&configured(WRONG_PASSWORD).0);
    daemon.signal(rustix::process::Signal::HUP);
    daemon.wait_log(LIMIT, "waiting for the database").await;
    world.pages(hay).await;
    daemon.terminate();
    daemon.wait_exit(LIMIT).await;
    hay.put(if json { "log in JSON" } else { "log" }, &daemon.log());
    world.tables(hay).await;
}

/// Every command, with the right database and with one that does not let us in.
async fn commands(world: &World, hay: &mut Haystack) {
    for (password, apart) in [(DATABASE_PASSWORD, false), (DATABASE_PASSWORD, true), (WRONG_PASSWORD, true)] {
        let (config, environment) = if apart {
            world.config_apart(password, false)
        } else {
            (world.config(password, false), Vec::new())
        };
        let cli = Cli::new(&config);
        for arguments in [
            &["check"][..],
            &["check", "--json"],
            &["check", "--offline"],
            &["status"],
            &["status", "--json"],
            &["status", "--nagios"],
            &["egress"],
            &["egress", "--format", "json"],
            &["egress", "--format", "nftables", "--user", "0"],
            &["egress", "--format", "systemd"],
            &["config", "show"],
            &["config", "default"],
            &["hold", "--reason", "trial"],
            &["resume"],
            &["resume", "--gateway", "two"],
            &["retry", "--status", "failed", "--since", "2h"],
            &["retry", "--status", "unknown", "--since", "2h", "--force"],
            &["cancel", "999999"],
            &["resolve", "999999", "--as", "accepted"],
            &["adopt"],
            &["opt-out", "list"],
            &["render", "--text", "hello"],
            &["render", "--text", "hello", "--to", NUMBERS[0]],
            &["opt-out", "add", NUMBERS[1]],
            &["opt-out", "list"],
            &["opt-out", "remove", NUMBERS[1], NUMBERS[2]],
            &["send", "--to", "0871239991", "--text", "hello", "--timeout", "1s"],
            &["migrate"],
        ] {
            let ended = cli
                .run_with(arguments, |command| {
                    command.envs(environment.clone());
                })
                .await;
            assert_ne!(ended.code, 64, "no such command or option: {arguments:?} {ended:?}");
            hay.put(&format!("outboxd {arguments:?}"), &format!("{}\n{}", ended.stdout, ended.stderr));
        }
        for entry in std::fs::read_dir(cli.directory()).unwrap() {
            assert_eq!(entry.unwrap().file_name(), "outboxd.toml", "a file was made");
        }
    }
}

/// Files that are wrong right where a secret stands, so that an error might quote it.
async fn bad_files(world: &World, hay: &mut Haystack) {
    let good = world.config(DATABASE_PASSWORD, false);
    let mut bad: Vec<String> = Vec::new();
    for (place, line) in good.lines().enumerate() {
        if !search::holds_any(line, &SECRETS) {
            continue;
        }
        let key = line.split(" = ").next().unwrap();
        let value = line.split_once(" = ").unwrap().1;
        for wrong in [
            format!("{key} = {}", value.trim_matches('"')),
            format!("{key}x = {value}"),
            format!("{key} = {value} trailing"),
            format!("{key} = {}", &value[..value.len() - 1]),
            format!("{key} = [{value}]"),
            format!("{key} {value}"),
            format!("{line}\n{line}"),
            format!("= {value}"),
            format!("[{value}]\n{line}"),
        ] {
            let mut lines: Vec<&str> = good.lines().collect();
            lines[place] = &wrong;
            bad.push(lines.join("\n"));
        }
    }
    assert!(bad.len() > 80, "{}", bad.len());
    // One after the other, in one directory: a process each is dear enough.
    let cli = Cli::new(&good);
    let file = cli.directory().join("outboxd.toml");
    for (place, text) in bad.iter().enumerate() {
        std::fs::write(&file, text).unwrap();
        let arguments: &[&str] =
            if place % 2 == 0 { &["check", "--offline"] } else { &["check", "--offline", "--json"] };
        let ended = cli.run(arguments).await;
        hay.put(&format!("a wrong file: {place}"), &format!("{}\n{}", ended.stdout, ended.stderr));
    }
    std::fs::write(&file, &good).unwrap();
    std::fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    for command in ["check", "run", "status"] {
        let ended = cli.run(&[command]).await.expect(78);
        hay.put("a file for everybody", &format!("{}\n{}", ended.stdout, ended.stderr));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_written_holds_a_secret_a_text_or_a_number() {
    let world = World::make().await;
    let mut written = Haystack::default();
    run(&world, true, &mut written).await;
    run(&world, false, &mut written).await;
    let mut said = Haystack::default();
    commands(&world, &mut said).await;
    bad_files(&world, &mut said).await;
    // The test's own statement with the password of the role is not outboxd's.
    let log: Vec<String> =
        world.cluster.log().lines().filter(|line| !line.contains("ALTER ROLE")).map(str::to_owned).collect();
    written.put("the server's log", &log.join("\n"));
    assert!(written.size() > 50_000, "next to nothing was written: {} bytes", written.size());
    written.assert_free_of(&SECRETS);
    written.assert_free_of(&BODIES);
    said.assert_free_of(&SECRETS);
    said.assert_free_of(&BODIES);
    // A table may hold a number where that is its purpose; a log or a page may not.
    written.without("table").assert_free_of(&NUMBERS);
    // Commands show one only to whoever gave it, or asked for the list of them.
    let listing = ["outboxd [\"render\", \"--text\", \"hello\", \"--to\"", "outboxd [\"opt-out\", \"list\""];
    for listed in listing {
        assert!(said.only(listed).holds(&NUMBERS), "{listed} is for numbers");
    }
    said.without(listing[0]).without(listing[1]).assert_free_of(&NUMBERS);
}

#[tokio::test]
async fn no_option_takes_a_secret() {
    let output = Command::new(env!("CARGO_BIN_EXE_outboxd"))
        .args(["migrate", "--database", &format!("postgresql://x:{DATABASE_PASSWORD}@127.0.0.1:9/x")])
        .output()
        .unwrap();
    let mut hay = Haystack::default();
    hay.put("refused", &format!("{output:?}"));
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    hay.assert_free_of(&[DATABASE_PASSWORD]);
}
