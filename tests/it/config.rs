//! The configuration as people meet it: files that are read, files that are refused and with which words.
//!
//! `valid/*.toml` must be read. For each `invalid/NAME.toml` the error must be what `NAME.err` says;
//! `OUTBOXD_BLESS=1` writes those files anew.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use outboxd::config::{self, Config, ConfigError, Dialect, HttpBody, OnUnknown, Surroundings};

/// Stands for every secret; must never come back.
const SECRET: &str = "hunter2";

fn directory(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/config").join(kind)
}

fn toml_files(kind: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory(kind)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    assert!(!files.is_empty(), "no files in {kind}");
    files
}

/// A machine on which every secret file holds [`SECRET`], except those whose names say otherwise.
fn surroundings(mode: u32) -> Surroundings {
    Surroundings {
        mode: Some(mode),
        directory: PathBuf::from("/etc/outboxd"),
        read: Box::new(|path| match path.file_name().and_then(|name| name.to_str()).unwrap_or_default() {
            name if name.contains("missing") => Err(io::Error::from_raw_os_error(2)),
            name if name.contains("open") => Ok((SECRET.to_owned(), 0o100_644)),
            name if name.contains("empty") => Ok(("\n".to_owned(), 0o100_640)),
            name if name.contains("path") => Ok((format!("/cb/0123456789abcdef-{SECRET}\n"), 0o100_640)),
            _ => Ok((format!("{SECRET}\n"), 0o100_640)),
        }),
        env: Box::new(|name| match name {
            "CREDENTIALS_DIRECTORY" => Some("/run/credentials/outboxd.service".to_owned()),
            "OUTBOXD_TEST_PASSWORD" => Some(SECRET.to_owned()),
            _ => None,
        }),
    }
}

/// `# mode: 0644` in the first line stands for the file's permission bits.
fn parse_file(path: &Path) -> (String, Result<Config, ConfigError>) {
    let text = fs::read_to_string(path).unwrap();
    let mode = text.lines().next().and_then(|line| line.strip_prefix("# mode: "));
    let mode = mode.map_or(0o640, |mode| u32::from_str_radix(mode, 8).unwrap());
    let name = path.file_name().unwrap().to_str().unwrap();
    let result = config::parse(&text, name, &surroundings(mode));
    (text, result)
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    config::parse(text, "outboxd.toml", &surroundings(0o640))
}

fn gateway(keys: &str) -> Result<Config, ConfigError> {
    parse(&format!("[database]\nurl = \"host=/run/postgresql\"\n[gateway.main]\n{keys}\n"))
}

fn v2(keys: &str) -> Config {
    let account = "dialect = \"interactsms-v2\"\nusername = \"u\"\npassword_file = \"p\"\n";
    gateway(&format!("{account}{keys}")).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn every_valid_file_is_read_and_its_secrets_stay_out_of_debug_output() {
    for path in toml_files("valid") {
        let (_, result) = parse_file(&path);
        let config = result.unwrap_or_else(|error| panic!("{}:\n{error}", path.display()));
        let shown = format!("{config:?} {config:#?}");
        assert!(!shown.contains(SECRET), "{} shows a secret:\n{shown}", path.display());
    }
}

#[test]
fn every_invalid_file_is_refused_in_the_expected_words_and_without_its_secrets() {
    let bless = std::env::var_os("OUTBOXD_BLESS").is_some();
    let mut wrong = Vec::new();
    for path in toml_files("invalid") {
        let (text, result) = parse_file(&path);
        let Err(error) = result else { panic!("{} was read", path.display()) };
        for shown in [error.to_string(), error.render(true)] {
            assert!(!shown.contains(SECRET), "{} shows a secret:\n{shown}", path.display());
        }
        // Suggested callback paths are random.
        let found = mask_suggestion(&format!("{error}\n"));
        let expected = path.with_extension("err");
        if bless {
            fs::write(&expected, &found).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != found {
            wrong.push(format!("--- {}\n{text}\n--- found\n{found}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}\nif that is right, set OUTBOXD_BLESS=1 once", wrong.join("\n"));
}

fn mask_suggestion(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("/cb/") {
        let hex = after.bytes().take_while(u8::is_ascii_hexdigit).count();
        out.push_str(before);
        out.push_str(if hex == 32 { "/cb/RANDOM" } else { "/cb/" });
        rest = &after[if hex == 32 { 32 } else { 0 }..];
    }
    out + rest
}

#[test]
fn a_damaged_file_is_refused_or_read_but_never_a_panic() {
    for path in toml_files("valid") {
        let text = fs::read_to_string(path).unwrap();
        let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        for (n, start) in starts.iter().enumerate() {
            // Cut out pieces of every length, in a pattern that is the same in each run.
            let end = starts.get(n + 1 + n * 7 % 23).copied().unwrap_or(text.len());
            let damaged = format!("{}{}", &text[..*start], &text[end..]);
            if let Err(error) = parse(&damaged) {
                assert!(error.to_string().starts_with("error: "), "{damaged}");
            }
        }
    }
}

#[test]
fn the_shipped_file_is_valid_and_names_every_key_of_the_schema() {
    let text = config::default_toml();
    parse(text).unwrap_or_else(|error| panic!("{error}"));

    let schema: serde_json::Value = serde_json::from_str(&config::schema()).unwrap();
    let mut keys = BTreeSet::new();
    collect_keys(&schema, &mut keys);
    assert!(keys.contains("poll_interval") && keys.contains("body_starts_with"), "{keys:?}");
    for key in keys {
        let documented = text.lines().any(|line| {
            let line = line.trim_start_matches('#').trim();
            line.split_once('=').is_some_and(|(name, _)| name.trim() == key)
                || line.trim_matches(['[', ']']).split('.').any(|part| part == key)
        });
        assert!(documented, "{key} is not in packaging/outboxd.toml");
    }
}

fn collect_keys(schema: &serde_json::Value, keys: &mut BTreeSet<String>) {
    match schema {
        serde_json::Value::Object(fields) => {
            if let Some(serde_json::Value::Object(properties)) = fields.get("properties") {
                keys.extend(properties.keys().cloned());
            }
            for field in fields.values() {
                collect_keys(field, keys);
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| collect_keys(item, keys)),
        _ => {}
    }
}

#[test]
fn the_shipped_file_is_still_valid_with_every_option_uncommented() {
    // Each commented `key = value` is put in by itself, so that an example that would be refused is found.
    let text = config::default_toml();
    let lines: Vec<&str> = text.lines().collect();
    let mut tried = 0;
    for (at, line) in lines.iter().enumerate() {
        let Some(option) = line.strip_prefix('#').filter(|option| !option.starts_with([' ', '['])) else {
            continue;
        };
        let Some((key, _)) = option.split_once(" = ") else { continue };
        let section = lines[..at].iter().rev().find(|line| line.trim_start_matches('#').starts_with('['));
        let open = section.is_some_and(|section| section.starts_with('['));
        // The ways to give one secret exclude each other, the placeholder is no password, a key goes with its
        // certificate, and the local socket does without TLS.
        if matches!(key, "client_key_file" | "certificate_sha256") {
            continue;
        }
        if !open || key.starts_with("password") || key.starts_with("proxy_") {
            continue;
        }
        let mut changed = lines.clone();
        changed[at] = option;
        parse(&changed.join("\n")).unwrap_or_else(|error| panic!("{option}\n{error}"));
        tried += 1;
    }
    assert!(tried > 30, "only {tried} options were tried");
}

#[test]
fn what_stands_in_waves_is_bounded_however_many_messages_share_a_request() {
    for (lines, requests, messages) in [
        ("", 32, 32),
        ("concurrency = 1000", 2000, 2000),
        ("coalesce = 100", 32, 3200),
        ("coalesce = 1000", 32, 8000),
        ("concurrency = 1\ncoalesce = 1000", 2, 2000),
        ("concurrency = 1000\ncoalesce = 2", 2000, 4000),
    ] {
        let main = &v2(lines).gateways["main"];
        assert_eq!((main.requests_ahead(), main.messages_ahead()), (requests, messages), "{lines}");
    }
}

#[test]
fn defaults_are_those_that_the_shipped_file_states() {
    let config = v2("");
    let text = config::default_toml();
    for (key, value) in [
        ("lookahead", config.queue.lookahead.to_string()),
        ("pool_size", config.database.pool_size.to_string()),
        ("max_segments", config.text.max_segments.to_string()),
        ("concurrency", config.gateways["main"].concurrency.to_string()),
        ("coalesce", config.gateways["main"].coalesce().to_string()),
        ("stop_after_refusals", config.gateways["main"].stop_after_refusals.to_string()),
        ("breaker_failures", config.gateways["main"].breaker_failures.to_string()),
        ("trunk_prefix", format!("{:?}", config.text.trunk_prefix)),
        ("filter", format!("{:?}", config.log.filter)),
    ] {
        assert!(text.contains(&format!("#{key} = {value}\n")), "{key} = {value}");
    }
    for (key, duration) in [
        ("timeout", config.database.timeout),
        ("poll_interval", config.queue.poll_interval),
        ("lease", config.queue.lease),
        ("stale_after", config.queue.stale_after.unwrap()),
        ("stale_after_urgent", config.queue.stale_after_urgent.unwrap()),
        ("shutdown_grace", config.queue.shutdown_grace),
        ("connect_timeout", config.gateways["main"].connect_timeout),
        ("request_timeout", config.gateways["main"].request_timeout),
        ("backoff_min", config.gateways["main"].backoff_min),
        ("backoff_max", config.gateways["main"].backoff_max),
    ] {
        let start = format!("#{key} = \"");
        let stated = text.lines().find_map(|line| line.strip_prefix(&start)?.strip_suffix('"')).unwrap();
        assert_eq!(humantime::parse_duration(stated).unwrap(), duration, "{key}");
    }
    assert_eq!(config.gateways["main"].on_unknown, OnUnknown::Hold);
    assert_eq!(config.routing.default_gateway, "main");
}

#[test]
fn a_resend_never_overtakes_a_request_that_may_still_be_on_its_way() {
    let config = v2("on_unknown = \"resend\"\nrequest_timeout = \"40s\"");
    let expected = OnUnknown::ResendAfter(std::time::Duration::from_secs(45));
    assert_eq!(config.gateways["main"].on_unknown, expected);
}

#[test]
fn the_kannel_preset_fills_in_everything_but_address_and_account() {
    let config = gateway(
        "dialect = \"http\"\npreset = \"kannel\"\nurl = \"http://127.0.0.1:13013/cgi-bin/sendsms\"\n\
         username = \"a&b\"\npassword_env = \"OUTBOXD_TEST_PASSWORD\"",
    )
    .unwrap_or_else(|error| panic!("{error}"));
    let Dialect::Http(template) = &config.gateways["main"].dialect else { panic!("not http") };
    assert_eq!(
        template.url,
        "http://127.0.0.1:13013/cgi-bin/sendsms?username=a%26b&password=hunter2&from={sender}&to={recipient}\
         &text={text}&charset=UTF-8&coding={encoding:0|2}"
    );
    assert_eq!(template.rules.len(), 4);
}

#[test]
fn credentials_with_braces_survive_in_headers_forms_and_json() {
    let account = "dialect = \"http\"\nurl = \"https://gateway.example/send\"\nusername = \"u\"\n\
                   password = \"a{b}c\"\nrule = [{ class = \"accepted\" }]\n\
                   headers = { X-Key = \"{{{password}}}\" }\n";
    let build = |body: &str| {
        let config = gateway(&format!("{account}{body}")).unwrap_or_else(|error| panic!("{error}"));
        let Dialect::Http(template) = config.gateways["main"].dialect.clone() else { panic!("not http") };
        template
    };
    let template = build("form = { key = \"{password}\" }");
    assert_eq!(template.headers[0].1.expose(), "{a{b}c}", "a header is sent as it is");
    assert_eq!(template.rules[0].status, (200, 299));
    let HttpBody::Form(fields) = template.body else { panic!("not a form") };
    assert_eq!(fields[0].1.expose(), "a{{b}}c", "still a template");
    let HttpBody::Json(value) = build("json = { a = [{ key = \"{password}\" }] }").body else {
        panic!("not json")
    };
    assert_eq!(value["a"][0]["key"], "a{{b}}c");
}

#[test]
fn a_file_read_from_disk_is_judged_by_its_own_permissions() {
    use std::os::unix::fs::PermissionsExt;

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("outboxd.toml");
    let text = "[database]\nurl = \"host=/run/postgresql\"\n[gateway.main]\ndialect = \"interactsms-v2\"\n\
                username = \"u\"\npassword = \"hunter2\"\n";
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    config::load(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let error = config::load(&path).unwrap_err().to_string();
    assert!(error.contains("chmod 640") && !error.contains(SECRET), "{error}");

    let relative = text.replace("password = \"hunter2\"", "password_file = \"secret\"");
    fs::write(&path, relative).unwrap();
    fs::write(directory.path().join("secret"), "hunter2\r\n").unwrap();
    fs::set_permissions(directory.path().join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    let config = config::load(&path).unwrap();
    let Dialect::InteractsmsV2(gateway) = &config.gateways["main"].dialect else { panic!("not v2") };
    assert_eq!(gateway.password.expose(), SECRET);
}

#[test]
fn a_file_that_is_not_there_says_how_to_get_one() {
    let error = config::load(Path::new("/nowhere/outboxd.toml")).unwrap_err().to_string();
    assert!(error.contains("could not read /nowhere/outboxd.toml"), "{error}");
    assert!(error.contains("outboxd config default"), "{error}");
}

fn outboxd(arguments: &[&str]) -> std::process::Output {
    std::process::Command::new(env!("CARGO_BIN_EXE_outboxd"))
        .args(arguments)
        .env_remove("OUTBOXD_CONFIG")
        .output()
        .unwrap()
}

#[test]
fn the_binary_prints_the_shipped_file_and_its_schema() {
    let output = outboxd(&["config", "default"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), config::default_toml());

    let output = outboxd(&["config", "schema"]);
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema["properties"]["queue"]["$ref"], "#/$defs/Queue");
    assert_eq!(schema["$defs"]["Queue"]["properties"]["lookahead"]["type"], "integer");
    let text = schema.to_string();
    assert!(!text.contains("null") && !text.contains("Raw"), "{text}");
}

#[test]
fn the_binary_shows_a_configuration_without_its_secrets() {
    use std::os::unix::fs::PermissionsExt;

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("outboxd.toml");
    fs::copy(directory_file("valid", "smallest.toml"), &path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let output = outboxd(&["config", "show", "--config", path.to_str().unwrap()]);
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(!shown.contains(SECRET), "{shown}");
    assert!(shown.contains("poll_interval = \"5s\""), "{shown}");
    assert!(shown.contains("username = \"account\""), "{shown}");
}

fn directory_file(kind: &str, name: &str) -> PathBuf {
    directory(kind).join(name)
}

#[test]
fn exit_codes_tell_wrong_usage_from_a_wrong_configuration() {
    assert_eq!(outboxd(&["--help"]).status.code(), Some(0));
    assert_eq!(outboxd(&["--version"]).status.code(), Some(0));
    assert_eq!(outboxd(&["retry"]).status.code(), Some(64));
    let output = outboxd(&["config", "show", "--config", "/nowhere/outboxd.toml"]);
    assert_eq!(output.status.code(), Some(78));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("could not read /nowhere/outboxd.toml: no such file or directory"), "{text}");
}

#[test]
fn a_reader_that_goes_away_is_no_fault() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_outboxd"))
        .args(["config", "default"])
        .stdout(writer)
        .stderr(std::process::Stdio::piped())
        .output()
        .unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}
