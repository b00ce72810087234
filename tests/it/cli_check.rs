//! `outboxd check` on a set-up that is good, and on ones that are broken in one place each.

use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;

use crate::gateway_peer::{Act, Peer, answer, answer_with};
use crate::gateway_tls::{CLIENT, CLIENT_KEY};
use crate::support::cli::{Cli, Ended, config, v1_gateway, v2_gateway};
use crate::support::clock::WallClock;
use crate::support::postgres::TestDb;

/// A gateway with a log-in and this sender list.
async fn v2_peer(login: u16, senders: &'static str) -> Peer {
    Peer::serve(move |request| {
        Act::Answer(if request.is("POST /token ") {
            answer(login, r#"{"access_token":"t","expires_in":120,"token_type":"Bearer"}"#)
        } else {
            assert!(request.is("GET /api/v2/senderlist "), "{request:?}");
            answer(200, senders)
        })
    })
    .await
}

/// Where nobody listens.
fn dead_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

pub(crate) async fn check(database: &str, text: &str, rest: &str) -> Ended {
    Cli::new(&config(database, text, rest)).run(&["check", "--json"]).await
}

/// The finding of this name.
#[track_caller]
pub(crate) fn finding(ended: &Ended, name: &str) -> (String, String) {
    let all = ended.json();
    let Some(found) = all.as_array().unwrap().iter().find(|finding| finding["name"] == name) else {
        panic!("no finding `{name}`: {all:#}");
    };
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    (text("outcome"), format!("{} -> {}", text("detail"), text("advice")))
}

#[track_caller]
pub(crate) fn assert_finding(ended: &Ended, name: &str, outcome: &str, part: &str) {
    let found = finding(ended, name);
    assert_eq!(found.0, outcome, "{ended:#?}");
    assert!(found.1.contains(part), "{part} is not in {}", found.1);
}

#[tokio::test]
async fn a_good_set_up_is_ok_in_every_line() {
    let db = TestDb::create("check_good").await;
    let peer = v2_peer(200, r#"[{"name":"Clinic","type":0}]"#).await;
    let gateway = v2_gateway("main", &peer.url(""));
    let cli = Cli::new(&config(&db.daemon_url().await, "default_sender = \"Clinic\"", &gateway));
    let ended = cli.run(&["check", "--json"]).await.expect(0);
    let all = ended.json();
    let names: Vec<&str> = all.as_array().unwrap().iter().filter_map(|f| f["name"].as_str()).collect();
    assert_eq!(
        names,
        [
            "configuration",
            "files",
            "database: socket",
            "database",
            "clock",
            "lock",
            "schema",
            "grants",
            "doorbell",
            "indexes",
            "xmin horizon",
            "hold",
            "templates",
            "gateway main: tcp",
            "gateway main",
            "sender of main"
        ]
    );
    assert!(
        all.as_array().unwrap().iter().all(|f| f["outcome"] == "ok" && f["advice"] == Value::Null),
        "{all:#}"
    );
    let text = cli.run(&["check"]).await.expect(0).stdout;
    assert!(text.ends_with("\nall is well\n"), "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("ok ")).count(), names.len(), "{text}");
}

#[tokio::test]
async fn a_database_without_the_schema_is_to_be_migrated() {
    let db = TestDb::create_empty("check_missing").await;
    let peer = Peer::answering(200, "").await;
    let ended = check(&db.url(), "", &v1_gateway("main", &peer.url("/send"))).await.expect(78);
    assert_finding(&ended, "database", "ok", "PostgreSQL");
    assert_finding(&ended, "schema", "failed", "outboxd migrate");
    assert_finding(&ended, "gateway main", "ok", "can be reached");
}

#[tokio::test]
async fn a_role_without_the_daemons_role_is_told_the_grant() {
    let db = TestDb::create("check_role").await;
    let url = db.daemon_url().await;
    let role = db.role("daemon");
    db.client().await.batch_execute(&format!("REVOKE outboxd_daemon FROM {role}")).await.unwrap();
    let ended = check(&url, "", &v1_gateway("main", &dead_address())).await.expect(78);
    assert_finding(&ended, "grants", "failed", &format!("GRANT outboxd_daemon TO \"{role}\";"));
}

#[tokio::test]
async fn a_missing_privilege_is_named_with_the_statement_that_gives_it() {
    let db = TestDb::create("check_grant").await;
    let revoke = "REVOKE UPDATE ON sms.outbox FROM outboxd_daemon; \
                  REVOKE UPDATE ON SEQUENCE outboxd.register FROM outboxd_daemon; \
                  REVOKE EXECUTE ON FUNCTION sms.hold(text) FROM outboxd_daemon";
    let client = db.client().await;
    client.batch_execute(revoke).await.unwrap();
    let url = db.daemon_url().await;
    let peer = Peer::answering(200, "").await;
    let gateway = v1_gateway("main", &peer.url("/send"));
    let ended = check(&url, "", &gateway).await.expect(78);
    assert_finding(&ended, "grants", "failed", "UPDATE on sms.outbox");
    assert_finding(&ended, "grants", "failed", "UPDATE on outboxd.register");
    let advice = finding(&ended, "grants").1;
    let (_, statements) = advice.split_once("as the owner: ").unwrap();
    client.batch_execute(statements).await.unwrap();
    let ended = check(&url, "", &gateway).await.expect(0);
    assert_finding(&ended, "grants", "ok", "");
}

#[tokio::test]
async fn a_role_that_row_level_security_shows_nothing_is_told_the_policy() {
    let db = TestDb::create("check_policy").await;
    let client = db.client().await;
    let policies = "SELECT string_agg(format('DROP POLICY %I ON sms.outbox', polname), ';') FROM pg_policy \
                    WHERE polrelid = 'sms.outbox'::regclass AND 'outboxd_daemon'::regrole = ANY (polroles)";
    let drop: String = client.query_one(policies, &[]).await.unwrap().get(0);
    client.batch_execute(&drop).await.unwrap();
    let url = db.daemon_url().await;
    let peer = Peer::answering(200, "").await;
    let gateway = v1_gateway("main", &peer.url("/send"));
    let ended = check(&url, "", &gateway).await.expect(78);
    assert_finding(&ended, "grants", "failed", "sees no messages");
    let advice = finding(&ended, "grants").1;
    client.batch_execute(advice.split_once("as the owner: ").unwrap().1).await.unwrap();
    assert_finding(&check(&url, "", &gateway).await.expect(0), "grants", "ok", "");
}

#[tokio::test]
async fn a_gateway_whose_clock_differs_is_told_with_both_times() {
    let db = TestDb::create("check_gateway_clock").await;
    let peer =
        Peer::serve(|_| Act::Answer(answer_with(200, "Date: Mon, 05 Jan 2026 10:00:00 GMT\r\n", ""))).await;
    let gateway = v1_gateway("main", &peer.url("/send"));
    let ended = check(&db.daemon_url().await, "", &gateway).await.expect(0);
    assert_finding(&ended, "gateway main", "ok", "can be reached");
    assert_finding(&ended, "clock of main", "warning", "here, and 2026-01-05 10:00:00 UTC there");
}

#[tokio::test]
async fn too_many_rights_are_a_warning() {
    let db = TestDb::create("check_superuser").await;
    let peer = Peer::answering(200, "").await;
    let ended = check(&db.url(), "", &v1_gateway("main", &peer.url("/send"))).await.expect(0);
    assert_finding(&ended, "grants", "warning", "is a superuser");
}

#[tokio::test]
async fn a_disabled_trigger_is_a_warning_unless_it_is_relied_upon() {
    let db = TestDb::create("check_trigger").await;
    let client = db.client().await;
    client.batch_execute("ALTER TABLE sms.outbox DISABLE TRIGGER outbox_ring_insert").await.unwrap();
    let url = db.daemon_url().await;
    let peer = Peer::answering(200, "").await;
    let gateway = v1_gateway("main", &peer.url("/send"));
    let ended = check(&url, "", &gateway).await.expect(0);
    assert_finding(&ended, "doorbell", "warning", "ENABLE TRIGGER outbox_ring_insert;");
    let ended = check(&url, "", &format!("[queue]\nwake = \"notify\"\n{gateway}")).await.expect(78);
    assert_finding(&ended, "doorbell", "failed", "outbox_ring_insert");
    let ended = check(&url, "", &format!("[queue]\nwake = \"poll\"\n{gateway}")).await.expect(0);
    assert_finding(&ended, "doorbell", "ok", "polled every 5s");
    for (broken, advice) in [
        (
            "ALTER TABLE sms.outbox DISABLE TRIGGER zzz_outbox_sound",
            "ENABLE ALWAYS TRIGGER zzz_outbox_sound;",
        ),
        ("DROP TRIGGER zzz_outbox_sound ON sms.outbox", "create zzz_outbox_sound as"),
        (
            "CREATE TRIGGER half BEFORE INSERT ON sms.outbox FOR EACH ROW EXECUTE FUNCTION outboxd.keep_sound()",
            "create zzz_outbox_sound as",
        ),
    ] {
        client.batch_execute(broken).await.unwrap();
        let ended = check(&url, "", &gateway).await.expect(78);
        assert_finding(&ended, "rows", "failed", advice);
    }
    client
        .batch_execute(
            "CREATE FUNCTION public.late() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; \
             CREATE TRIGGER early BEFORE INSERT ON sms.outbox FOR EACH ROW EXECUTE FUNCTION public.late(); \
             CREATE TRIGGER late AFTER INSERT ON sms.outbox FOR EACH ROW EXECUTE FUNCTION public.late(); \
             DROP TRIGGER half ON sms.outbox; \
             CREATE TRIGGER half BEFORE INSERT OR UPDATE ON sms.outbox FOR EACH ROW \
             EXECUTE FUNCTION outboxd.keep_sound()",
        )
        .await
        .unwrap();
    let ended = check(&url, "", &gateway).await.expect(0);
    assert!(!ended.stdout.contains("rows"), "{}", ended.stdout);
    let late = "CREATE TRIGGER kept BEFORE INSERT ON sms.outbox FOR EACH ROW EXECUTE FUNCTION public.late()";
    client.batch_execute(late).await.unwrap();
    let ended = check(&url, "", &gateway).await.expect(0);
    assert_finding(&ended, "rows", "warning", "ALTER TRIGGER kept ON sms.outbox RENAME TO a_kept;");
}

#[tokio::test]
async fn a_missing_index_and_a_bad_template_are_named() {
    let db = TestDb::create("check_index").await;
    let broken =
        "DROP INDEX sms.outbox_queued; INSERT INTO sms.template (name, body) VALUES ('hello', 'Dear {na')";
    db.client().await.batch_execute(broken).await.unwrap();
    let peer = Peer::answering(200, "").await;
    let ended = check(&db.daemon_url().await, "", &v1_gateway("main", &peer.url("/send"))).await.expect(78);
    assert_finding(&ended, "indexes", "failed", "outbox_queued");
    assert_finding(&ended, "templates", "warning", "hello: ");
}

#[tokio::test]
async fn an_automatic_reply_that_could_not_be_sent_is_a_warning() {
    let db = TestDb::create("check_replies").await;
    let templates = "INSERT INTO sms.template (name, body) VALUES ('hours', 'Open, {sender}.'), ('bye', 'Bye.'), \
                     ('lost', 'For {name}')";
    db.client().await.batch_execute(templates).await.unwrap();
    let peer = Peer::answering(200, "").await;
    let url = db.daemon_url().await;
    let check = async |replies: &str| {
        let rest = format!("{}\n[inbox.auto_reply]\n{replies}", v1_gateway("main", &peer.url("/send")));
        check(&url, "default_sender = \"Clinic\"", &rest).await.expect(0)
    };
    assert_finding(&check("info = \"hours\"").await, "automatic replies", "ok", "INFO");
    let ended = check("a = \"nowhere\"\nb = \"lost\"\nstop = \"bye\"\nc = \"hours\"").await;
    for part in ["A: there is no template named", "B: ", "STOP: whoever writes it has opted out"] {
        assert_finding(&ended, "automatic replies", "warning", part);
    }
    assert!(!finding(&ended, "automatic replies").1.contains("C: "));
    db.client().await.batch_execute("UPDATE sms.template SET transactional = true").await.unwrap();
    assert_finding(&check("stop = \"bye\"").await, "automatic replies", "ok", "STOP");
}

#[tokio::test]
async fn a_held_queue_is_a_warning_and_a_changed_database_a_failure() {
    let db = TestDb::create("check_held").await;
    let client = db.client().await;
    client.batch_execute("SELECT sms.hold('stocktaking')").await.unwrap();
    let url = db.daemon_url().await;
    let peer = Peer::answering(200, "").await;
    let gateway = v1_gateway("main", &peer.url("/send"));
    let ended = check(&url, "", &gateway).await.expect(0);
    assert_finding(&ended, "hold", "warning", "stocktaking");
    client.batch_execute("UPDATE outboxd.leader SET system_identifier = 1, timeline = 1").await.unwrap();
    let ended = check(&url, "", &gateway).await.expect(78);
    assert_finding(&ended, "hold", "failed", "this database is a copy");
}

#[tokio::test]
async fn a_dead_gateway_is_unavailable_and_the_others_are_still_looked_at() {
    let db = TestDb::create("check_dead").await;
    let peer = Peer::answering(200, "").await;
    let gateways = format!(
        "{}\n{}\n[routing]\ndefault = \"alive\"",
        v1_gateway("alive", &peer.url("/send")),
        v1_gateway("dead", &dead_address())
    );
    let ended = check(&db.daemon_url().await, "", &gateways).await.expect(69);
    assert_finding(&ended, "gateway dead: tcp", "failed", "send the network team");
    assert_finding(&ended, "gateway alive", "ok", "can be reached");
}

#[tokio::test]
async fn wrong_credentials_are_a_matter_of_configuration() {
    let db = TestDb::create("check_login").await;
    let peer = v2_peer(401, "[]").await;
    let ended = check(&db.daemon_url().await, "", &v2_gateway("main", &peer.url(""))).await.expect(78);
    assert_finding(&ended, "gateway main", "failed", "[gateway.main]");
}

#[tokio::test]
async fn a_default_sender_that_the_account_lacks_is_a_warning() {
    let db = TestDb::create("check_sender").await;
    let url = db.daemon_url().await;
    let peer = v2_peer(200, r#"[{"name":"Clinic","type":1}]"#).await;
    let gateway = v2_gateway("main", &peer.url(""));
    let ended = check(&url, "default_sender = \"Hospital\"", &gateway).await.expect(0);
    assert_finding(&ended, "sender of main", "warning", "use one of: Clinic");
    let text = "default_sender = \"Clinic\"\ndefault_country = \"353\"";
    let ended = check(&url, text, &gateway).await.expect(0);
    assert_finding(&ended, "sender of main", "warning", "does not reach Irish numbers");
}

#[tokio::test]
async fn with_the_database_down_the_gateways_are_still_checked() {
    let peer = Peer::answering(200, "").await;
    let gateway = v1_gateway("main", &peer.url("/send"));
    let ended = check("host=/nonexistent dbname=x user=y", "", &gateway).await.expect(69);
    assert_finding(&ended, "database: socket", "failed", "is PostgreSQL running");
    assert_finding(&ended, "gateway main", "ok", "can be reached");
}

#[tokio::test]
async fn an_address_for_receipts_that_somebody_else_has_is_a_failure() {
    let db = TestDb::create("check_callbacks").await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let peer = Peer::answering(200, "").await;
    let rest = format!(
        "{}\n[callbacks]\nlisten = \"{listen}\"\npath_env = \"CALLBACK_PATH\"\nclient_secret_env = \"GATEWAY_PASSWORD\"\n",
        v1_gateway("main", &peer.url("/send"))
    );
    let ended = check(&db.daemon_url().await, "", &rest).await.expect(78);
    assert_finding(&ended, "callbacks", "failed", "is in use by another program");
    let host = rustix::system::uname().nodename().to_str().unwrap().to_owned();
    let alive = "INSERT INTO outboxd.daemon (instance, host, pid, version, role, started_at)
                 VALUES ('i', $1, 77, '0.1.0', 'leader', now())";
    db.client().await.execute(alive, &[&host]).await.unwrap();
    let ended = check(&db.daemon_url().await, "", &rest).await.expect(0);
    assert_finding(&ended, "callbacks", "ok", "a daemon runs here");
    drop(taken);
    let ended = check(&db.daemon_url().await, "", &rest).await.expect(0);
    assert_finding(&ended, "callbacks", "ok", "is free");
}

#[tokio::test]
async fn offline_connects_nowhere_and_a_wrong_file_is_shown() {
    let peer = Peer::answering(200, "").await;
    let gateway = v1_gateway("main", &peer.url("/send"));
    let cli = Cli::new(&config("host=/nonexistent dbname=x user=y", "", &gateway));
    let ended = cli.run(&["check", "--offline", "--json"]).await.expect(0);
    assert_finding(&ended, "configuration", "ok", "1 gateway");
    assert_eq!(peer.connections(), 0);
    let cli = Cli::new(&config("host=/nonexistent", "", &format!("{gateway}colour = \"red\"\n")));
    let text = cli.run(&["check"]).await.expect(78);
    assert!(text.stderr.contains("colour"), "{text:?}");
    let json = cli.run(&["check", "--json"]).await.expect(78);
    assert_finding(&json, "configuration", "failed", "colour");
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_opens_no_socket_at_all() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("skipped: needs strace");
        return;
    }
    let peer = Peer::answering(200, "").await;
    let gateway = v1_gateway("main", &peer.url("/send"));
    let cli = Cli::new(&config("host=gw.example.test dbname=x user=y", "", &gateway));
    let calls = |offline: bool| {
        let trace = cli.directory().join("trace");
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-e", "trace=socket,connect,bind,sendto", "-o"]).arg(&trace);
        command.arg(env!("CARGO_BIN_EXE_outboxd")).arg("--config").arg(cli.directory().join("outboxd.toml"));
        command.arg("check").args(offline.then_some("--offline")).env("GATEWAY_PASSWORD", "correct-horse");
        let output = command.output().unwrap();
        let ended = if offline { Some(0) } else { Some(69) };
        assert_eq!(output.status.code(), ended, "{output:?}");
        std::fs::read_to_string(trace).unwrap()
    };
    let offline = tokio::task::block_in_place(|| calls(true));
    assert!(!offline.contains("socket("), "{offline}");
    let online = tokio::task::block_in_place(|| calls(false));
    assert!(online.contains("socket("), "the trace shows sockets where there are some: {online}");
}

#[tokio::test]
async fn files_that_others_can_change_are_told() {
    let peer = Peer::answering(200, "").await;
    let gateway =
        v1_gateway("main", &peer.url("/send")).replace("_env = \"GATEWAY_PASSWORD\"", "_file = \"secret\"");
    let cli = Cli::new(&config("host=/nonexistent dbname=x user=y", "", &gateway));
    let file = |name: &str| cli.directory().join(name);
    let mode = |name: &str, mode| {
        std::fs::set_permissions(file(name), Permissions::from_mode(mode)).unwrap();
    };
    std::fs::write(file("secret"), "correct-horse\n").unwrap();
    mode("secret", 0o640);
    let offline = async || cli.run(&["check", "--offline", "--json"]).await;
    assert_finding(&offline().await.expect(0), "files", "ok", "2 files");
    mode("outboxd.toml", 0o602);
    assert_finding(&offline().await.expect(78), "files", "failed", "outboxd.toml (mode 0602): everybody");
    mode("outboxd.toml", 0o620);
    std::os::unix::fs::chown(file("outboxd.toml"), None, Some(12_345)).unwrap();
    assert_finding(&offline().await.expect(0), "files", "warning", "the whole group 12345 can change it");
    mode("outboxd.toml", 0o600);
    mode("secret", 0o644);
    assert_finding(
        &offline().await.expect(78),
        "configuration",
        "failed",
        "everybody on this machine can read",
    );
    mode("secret", 0o600);
    std::os::unix::fs::chown(file("secret"), Some(12_345), None).unwrap();
    assert_finding(&offline().await.expect(0), "files", "warning", "belongs to the user 12345");
}

/// Of a gateway, of the listener, and of the database.
#[tokio::test]
async fn a_private_key_that_others_can_read_is_refused_by_run_and_check_alike() {
    let database = "host=db.example.test dbname=x user=y";
    let gateway = v1_gateway("main", "http://127.0.0.1:9/send");
    let listener = "[callbacks]\nlisten = \"127.0.0.1:0\"\npath_env = \"CALLBACK_PATH\"\n\
                    client_secret_env = \"GATEWAY_PASSWORD\"\ncertificate_file = \"a.crt\"\nkey_file = \"a.key\"\n";
    for (database, rest, what) in [
        (
            database.to_owned(),
            format!("{gateway}client_certificate_file = \"a.crt\"\nclient_key_file = \"a.key\""),
            "a.key",
        ),
        // The key stands behind the certificate.
        (database.to_owned(), format!("{gateway}client_certificate_file = \"a.key\""), "a.key"),
        (database.to_owned(), format!("{gateway}{listener}"), "a.key"),
        (format!("{database} sslcert=a.crt sslkey=a.key"), gateway.clone(), "that `sslkey` names"),
    ] {
        let cli = Cli::new(&config(&database, "", &rest));
        let file = |name: &str| cli.directory().join(name);
        let mode = |name: &str, mode| {
            std::fs::set_permissions(file(name), Permissions::from_mode(mode)).unwrap();
        };
        std::fs::write(file("a.crt"), CLIENT).unwrap();
        std::fs::write(file("a.key"), format!("{CLIENT}{CLIENT_KEY}")).unwrap();
        // A certificate is for everybody.
        mode("a.crt", 0o644);
        for closed in [0o600, 0o640] {
            mode("a.key", closed);
            cli.run(&["check", "--offline"]).await.expect(0);
        }
        for open in [0o644, 0o604] {
            mode("a.key", open);
            for arguments in [&["check", "--offline"][..], &["status"], &["run"]] {
                let ended = cli.run(arguments).await.expect(78);
                let said = &ended.stderr;
                assert!(said.contains("everybody on this machine can read the private key"), "{ended:?}");
                assert!(said.contains(what) && said.contains("chmod 640"), "{ended:?}");
            }
        }
    }
}

#[tokio::test]
async fn the_directory_of_the_admin_socket_is_nobody_elses() {
    let directory = tempfile::tempdir().unwrap();
    let open = directory.path().join("open");
    std::fs::create_dir(&open).unwrap();
    let check = async |path: &std::path::Path| {
        let admin = format!("[admin]\nlisten = \"unix:{}/admin.sock\"\n", path.display());
        let rest = v1_gateway("main", "http://127.0.0.1:9/send") + &admin;
        Cli::new(&config("host=/nonexistent dbname=x user=y", "", &rest))
            .run(&["check", "--offline", "--json"])
            .await
    };
    std::fs::set_permissions(&open, Permissions::from_mode(0o755)).unwrap();
    assert_finding(&check(&open).await.expect(0), "admin socket", "ok", "is there");
    std::fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
    assert_finding(&check(&open).await.expect(78), "admin socket", "failed", "can replace what is in");
    assert_finding(
        &check(&directory.path().join("none")).await.expect(0),
        "admin socket",
        "warning",
        "the unit makes",
    );
}

#[tokio::test]
async fn a_clock_that_differs_from_the_databases_is_told() {
    let Some(clock) = WallClock::new() else { return };
    let db = TestDb::create("check_clock").await;
    let url = db.daemon_url().await;
    let peer = Peer::answering(200, "").await;
    let cli = Cli::new(&config(&url, "", &v1_gateway("main", &peer.url("/send"))));
    for (seconds, words) in
        [(600, "this host is 10m ahead of the database"), (-3600, "this host is 1h behind the database")]
    {
        clock.set(seconds);
        let with_clock = |command: &mut Command| {
            command.envs(clock.environment());
        };
        let ended = cli.run_with(&["check", "--json"], with_clock).await.expect(0);
        let found = finding(&ended, "clock");
        assert_eq!(found.0, "warning", "{found:?}");
        assert!(found.1.contains(words), "{found:?}");
    }
}

#[tokio::test]
async fn a_database_that_cannot_be_reached_is_told_with_its_hop() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let rest = v1_gateway("main", "http://127.0.0.1:9/send");
    let ended = check(&format!("host=127.0.0.1 port={port} dbname=x user=y"), "", &rest).await.expect(69);
    assert_finding(&ended, "database: tcp", "failed", "connection refused");
    let all = ended.json();
    let found = all.as_array().unwrap().iter().find(|found| found["name"] == "database: tcp").unwrap();
    assert_eq!((&found["problem"], &found["to"]["protocol"]), (&"refused".into(), &"postgresql".into()));
    assert!(found["network_team"].as_str().unwrap().contains(&format!("TCP port {port} (postgresql)")));
    let ended = check("host=db.invalid dbname=x user=y", "", &rest).await.expect(69);
    assert_finding(&ended, "database: name", "failed", "db.invalid");
    // One of two is enough to work with.
    let db = TestDb::create("check_two_hosts").await;
    let url = db.daemon_url().await;
    // `postgresql://role@socket:port/database`, with another host before the socket.
    let two = url.replacen('@', &format!("@127.0.0.1:{port},"), 1);
    let ended = check(&two, "", &rest).await;
    assert_finding(&ended, "database: tcp", "warning", "connection refused");
    assert_finding(&ended, "database", "ok", "PostgreSQL");
}

#[tokio::test]
async fn a_database_that_takes_connections_and_says_nothing_ends_the_check_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let begun = std::time::Instant::now();
    let url = format!("host=127.0.0.1 port={port} dbname=x user=y sslmode=disable");
    let ended = check(&url, "", &v1_gateway("main", "http://127.0.0.1:9/send")).await.expect(69);
    assert_finding(&ended, "database: tcp", "ok", "connected");
    assert_finding(&ended, "database", "failed", "no answer");
    assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
    drop(listener);
}

#[tokio::test]
async fn what_the_daemon_has_seen_of_a_gateway_is_told() {
    let db = TestDb::create("check_health").await;
    let peer = Peer::answering(200, "").await;
    let url = db.daemon_url().await;
    let seen = "INSERT INTO outboxd.gateway (name, state, reason) VALUES ('main', 'stopped', 'no credits'), \
                ('gone', 'stopped', 'is not configured any more')";
    db.client().await.batch_execute(seen).await.unwrap();
    let ended = check(&url, "", &v1_gateway("main", &peer.url("/send"))).await.expect(0);
    assert_finding(
        &ended,
        "health of main",
        "warning",
        "no credits -> mend the cause, then: outboxd resume --gateway main",
    );
    assert!(!ended.stdout.contains("health of gone"), "{ended:?}");
}
