//! The manual pages are true and complete: commands, keys, columns, functions, statuses and codes are compared both ways
//! with what the program and the database have. And what the packages bring beside them: completions, examples.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use clap::CommandFactory;
use outboxd::cli::Args;
use outboxd::config;
use outboxd::message::Status;
use serde_json::Value;

use crate::readme::{first_cells, readme, surroundings};
use crate::support::postgres::TestDb;
use crate::support::{files_below, repository};

const PAGES: [&str; 3] = ["outboxd.8", "outboxd.toml.5", "outboxd-sql.7"];

fn page(name: &str) -> String {
    std::fs::read_to_string(repository().join("packaging/man").join(name)).unwrap()
}

/// The tags of a page (`.It`), each with the headings that it stands under: `.Sh` and `.Ss`.
fn tags(page: &str) -> Vec<(String, String, String)> {
    let (mut part, mut heading) = (String::new(), String::new());
    let mut found = Vec::new();
    for line in page.lines() {
        if let Some(title) = line.strip_prefix(".Sh ") {
            (part, heading) = (title.to_owned(), String::new());
        } else if let Some(title) = line.strip_prefix(".Ss ") {
            title.clone_into(&mut heading);
        } else if let Some(tag) = line.strip_prefix(".It ") {
            found.push((part.clone(), heading.clone(), tag.to_owned()));
        }
    }
    found
}

/// The subsections of a part.
fn headings(page: &str, part: &str) -> BTreeSet<String> {
    let from = page.find(&format!("\n.Sh {part}\n")).unwrap_or_else(|| panic!("no part `{part}`"));
    let body = &page[from + 1..];
    let end = body[1..].find("\n.Sh ").unwrap_or(body.len() - 1);
    body[..=end].lines().filter_map(|line| line.strip_prefix(".Ss ")).map(str::to_owned).collect()
}

#[track_caller]
fn assert_same(what: &str, described: &BTreeSet<String>, exist: &BTreeSet<String>) {
    assert!(!exist.is_empty(), "{what}: nothing was found to compare with");
    let missing: Vec<_> = exist.difference(described).collect();
    let stale: Vec<_> = described.difference(exist).collect();
    assert!(missing.is_empty() && stale.is_empty(), "{what}: missing {missing:?}; do not exist {stale:?}");
}

/// `outboxd send`, `outboxd send --to`, `outboxd opt-out add NUMBER` and so on.
fn described_commands(page: &str) -> BTreeSet<String> {
    let mut found = headings(page, "COMMANDS");
    for (_, command, tag) in tags(page).into_iter().filter(|(part, ..)| part == "COMMANDS") {
        let mut words = tag.split(' ');
        let name = match (words.next(), words.next()) {
            (Some("Fl"), Some(name)) => format!("-{name}"),
            (Some("Ar"), Some(name)) => name.to_owned(),
            other => panic!("{command}: {other:?} is neither an option nor an argument"),
        };
        found.insert(format!("{command} {name}"));
    }
    found
}

fn existing_commands(command: &clap::Command, path: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
        let path = format!("{path} {}", inner.get_name());
        if inner.has_subcommands() {
            found.extend(existing_commands(inner, &path));
            continue;
        }
        let own = inner.get_arguments().filter(|argument| {
            !argument.is_global_set() && !["help", "version"].contains(&argument.get_id().as_str())
        });
        for argument in own {
            let name = match argument.get_long() {
                Some(long) => format!("--{long}"),
                None => argument.get_value_names().expect("arguments have names")[0].to_string(),
            };
            found.insert(format!("{path} {name}"));
        }
        found.insert(path);
    }
    found
}

#[test]
fn outboxd_8_has_every_command_and_option_and_no_other() {
    let page = page("outboxd.8");
    assert_same("outboxd.8", &described_commands(&page), &existing_commands(&Args::command(), "outboxd"));
    let general: Vec<String> =
        tags(&page).into_iter().filter(|(part, ..)| part == "OPTIONS").map(|(.., tag)| tag).collect();
    for argument in Args::command().get_arguments().filter_map(|argument| argument.get_long()) {
        assert!(
            general.iter().any(|tag| tag.contains(&format!("Fl -{argument}"))),
            "--{argument}: {general:?}"
        );
    }
}

#[test]
fn outboxd_8_names_every_value_that_an_option_takes() {
    fn values(command: &clap::Command, page: &str) {
        for argument in command.get_arguments().filter(|argument| argument.get_action().takes_values()) {
            for value in argument.get_possible_values() {
                let name = value.get_name();
                let written = page.lines().any(|line| {
                    line.strip_prefix(".Cm ")
                        .is_some_and(|list| list.split([' ', ',']).any(|word| word == name))
                        || line == name
                });
                assert!(written, "{} of {} is not in outboxd.8", name, argument.get_id());
            }
        }
        command.get_subcommands().for_each(|inner| values(inner, page));
    }
    values(&Args::command(), &page("outboxd.8"));
}

/// Follows a reference into `$defs`.
fn resolved<'s>(root: &'s Value, node: &'s Value) -> &'s Value {
    match node["$ref"].as_str() {
        Some(reference) => root.pointer(reference.trim_start_matches('#')).expect("the schema is complete"),
        None => node,
    }
}

/// `[database]`, `[database] url`, `[[routing.rule]] prefix` and so on, from the schema.
fn existing_keys(root: &Value, table: &Value, path: &str, heading: &str, found: &mut BTreeSet<String>) {
    for (key, node) in table["properties"].as_object().expect("a table has keys") {
        let node = resolved(root, node);
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let entries = resolved(root, &node["additionalProperties"]);
        let items = resolved(root, &node["items"]);
        let (inner, path) = if node["properties"].is_object() {
            (node, format!("[{path}]"))
        } else if entries["properties"].is_object() {
            (entries, format!("[{path}.NAME]"))
        } else if items["properties"].is_object() {
            (items, format!("[[{path}]]"))
        } else if node["type"] == "object" {
            found.insert(format!("[{path}]"));
            continue;
        } else {
            found.insert(format!("{heading} {key}"));
            continue;
        };
        found.insert(path.clone());
        existing_keys(root, inner, path.trim_matches(['[', ']']), &path, found);
    }
}

#[test]
fn outboxd_toml_5_has_every_key_of_the_configuration_and_no_other() {
    let schema: Value = serde_json::from_str(&config::schema()).unwrap();
    let mut exist = BTreeSet::new();
    existing_keys(&schema, &schema, "", "", &mut exist);
    let page = page("outboxd.toml.5");
    let part = "SECTIONS AND KEYS";
    let mut described = headings(&page, part);
    for (_, section, tag) in tags(&page).into_iter().filter(|(found, ..)| found == part) {
        let keys = tag.strip_prefix("Va ").unwrap_or_else(|| panic!("{section}: `{tag}` is no key"));
        described.extend(keys.split(" , ").map(|key| format!("{section} {key}")));
    }
    assert_same("outboxd.toml.5", &described, &exist);
}

#[tokio::test]
async fn outboxd_sql_7_has_every_table_column_and_function_and_no_other() {
    let db = TestDb::create("manual").await;
    let client = db.client().await;
    let columns = "SELECT table_name::text, table_schema || '.' || table_name || ' ' || column_name
                   FROM information_schema.columns WHERE table_schema = 'sms'";
    let functions = "SELECT 'sms.' || proname || '(' || replace(pg_get_function_arguments(oid), '::text', '') || ')' FROM pg_proc
                     WHERE pronamespace = 'sms'::regnamespace AND prorettype <> 'trigger'::regtype";
    let mut exist = BTreeSet::new();
    for row in client.query(columns, &[]).await.unwrap() {
        exist.insert(format!("sms.{}", row.get::<_, String>(0)));
        exist.insert(row.get(1));
    }
    exist.extend(client.query(functions, &[]).await.unwrap().iter().map(|row| row.get::<_, String>(0)));

    let page = page("outboxd-sql.7");
    let mut described = headings(&page, "TABLES");
    for (part, heading, tag) in tags(&page) {
        match (part.as_str(), tag.strip_prefix("Va "), tag.strip_prefix("Fn ")) {
            ("TABLES", Some(column), _) => described.insert(format!("{heading} {column}")),
            ("FUNCTIONS", _, Some(function)) => {
                let mut parts = function.splitn(2, ' ');
                let name = parts.next().unwrap();
                let arguments = parts.next().unwrap_or_default().trim_matches('"').replace("\" \"", ", ");
                described.insert(format!("{name}({arguments})"))
            }
            _ => false,
        };
    }
    assert_same("outboxd-sql.7", &described, &exist);
}

#[test]
fn statuses_codes_and_exit_codes_are_those_of_the_readme() {
    let first_words = |page: &str, wanted: &str| -> BTreeSet<String> {
        let tags = tags(page).into_iter().filter(|(part, ..)| part == wanted);
        tags.map(|(.., tag)| tag.split(' ').next().unwrap().to_owned()).collect()
    };
    let readme = readme();
    let sql = page("outboxd-sql.7");
    let statuses: BTreeSet<String> = Status::ALL.iter().map(|status| status.as_str().to_owned()).collect();
    assert_same("statuses", &first_words(&sql, "STATUSES"), &statuses);
    assert_same("error codes", &first_words(&sql, "ERROR CODES"), &first_cells(&readme, "### Error codes"));
    let (_, exit_codes) = readme.split_once("\n### Exit codes\n").unwrap();
    let exit_codes = exit_codes.lines().take_while(|line| !line.starts_with('#'));
    let numbers =
        exit_codes.filter_map(|line| line.strip_prefix("| ")?.split(' ').next()?.parse::<u8>().ok());
    let numbers: BTreeSet<String> = numbers.map(|number| number.to_string()).collect();
    assert_same("exit codes", &first_words(&page("outboxd.8"), "EXIT STATUS"), &numbers);
}

#[test]
fn the_pages_are_well_formed() {
    let lint = |page: &std::path::Path| {
        let output = Command::new("mandoc").args(["-Tlint", "-Wwarning"]).arg(page).output();
        let output = output.unwrap_or_else(|error| panic!("mandoc: {error}; `make needs` installs it"));
        // That the machine's own manual has no index is not our pages' fault.
        let found = [output.stdout, output.stderr].concat();
        let found = String::from_utf8(found).unwrap();
        found.lines().filter(|line| !line.contains("outdated mandoc.db")).collect::<Vec<_>>().join("\n")
    };
    for name in PAGES {
        let found = lint(&repository().join("packaging/man").join(name));
        assert!(found.is_empty(), "{found}");
    }
    let directory = tempfile::tempdir().unwrap();
    let broken = directory.path().join("outboxd.8");
    std::fs::write(&broken, page("outboxd.8").replacen(".El", "", 1)).unwrap();
    assert!(!lint(&broken).is_empty(), "a list that is not closed is not noticed");
}

fn completions(shell: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_outboxd")).args(["completions", shell]).output().unwrap();
    assert!(output.status.success(), "{shell}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = completions(shell);
        for command in Args::command().get_subcommands() {
            assert!(script.contains(command.get_name()), "{shell}: {}", command.get_name());
        }
    }
    // What bash itself makes of it.
    let script = completions("bash");
    let asked = format!(
        "{script}\nCOMP_WORDS=(outboxd opt-)\nCOMP_CWORD=1\n_outboxd outboxd opt- outboxd\necho \"${{COMPREPLY[*]}}\""
    );
    let output = Command::new("bash").args(["-c", &asked]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "opt-out", "{output:?}");
}

#[test]
fn every_example_is_a_configuration() {
    let examples = files_below("packaging/examples", "toml");
    assert!(examples.len() > 3, "the examples have gone");
    let mut surroundings = surroundings();
    let read = std::mem::replace(&mut surroundings.read, Box::new(|_| unreachable!()));
    // The path among the credentials needs to look like one.
    surroundings.read = Box::new(move |file| match file.file_name().and_then(|name| name.to_str()) {
        Some("outboxd-callback-path") => read(std::path::Path::new("callback.path")),
        _ => read(file),
    });
    surroundings.env =
        Box::new(|name| (name == "CREDENTIALS_DIRECTORY").then(|| "/run/credentials/x".to_owned()));
    for file in examples {
        let text = std::fs::read_to_string(repository().join(&file)).unwrap();
        if let Err(error) = config::parse(&text, &file.display().to_string(), &surroundings) {
            panic!("{}", error.render(false));
        }
    }
}

#[test]
fn the_packages_leave_no_page_unit_or_example_out() {
    let manifest = std::fs::read_to_string(repository().join("packaging/nfpm.yaml")).unwrap();
    let build = std::fs::read_to_string(repository().join("packaging/build")).unwrap();
    for directory in ["systemd", "packaging/examples", "packaging/scripts", "packaging/man"] {
        for entry in std::fs::read_dir(repository().join(directory)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let packed = match directory {
                "packaging/man" => format!("${{STAGE}}/man/{name}.gz"),
                _ => format!("{directory}/{name}"),
            };
            let ends = [' ', ',', '"', '\n'];
            let found = ends.iter().any(|end| manifest.contains(&format!("{packed}{end}")));
            assert!(found, "{packed} is in no package");
        }
    }
    for (number, line) in manifest.lines().enumerate() {
        let Some((_, rest)) = line.split_once("src: ") else { continue };
        let source = rest.split(',').next().unwrap().trim_matches('"');
        match source.strip_prefix("${STAGE}/") {
            Some(made) => {
                let made = made.split('/').next().unwrap();
                assert!(
                    build.contains(&format!("$stage/{made}")),
                    "line {}: nobody makes {source}",
                    number + 1
                );
            }
            None => assert!(repository().join(source).exists(), "line {}: {source} is not there", number + 1),
        }
    }
}

/// Who reads a page on a host without our repository can follow what it links to.
#[test]
fn links_between_the_packaged_pages_lead_somewhere() {
    let manifest = std::fs::read_to_string(repository().join("packaging/nfpm.yaml")).unwrap();
    let packed: BTreeSet<&str> = manifest
        .lines()
        .filter_map(|line| line.split_once("dst: /usr/share/doc/outboxd/")?.1.split([',', ' ']).next())
        .filter(|name| name.ends_with(".md") || name.ends_with(".svg"))
        .collect();
    assert!(packed.contains("README.md") && packed.contains("RELIABILITY.md"), "{packed:?}");
    let text = |name: &str| std::fs::read_to_string(repository().join(name)).unwrap();
    let mut followed = 0;
    let build = text("packaging/build");
    for page in packed.iter().filter(|name| name.ends_with(".md")) {
        assert!(build.contains(&format!(" {page} ")), "nobody makes {page} for the packages");
        for link in text(page).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("https://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let file = if file.is_empty() { page } else { file };
            assert!(packed.contains(file), "{page} links to {link}, which is in no package");
            let known = anchor.is_empty() || anchors(&text(file)).contains(anchor);
            assert!(known, "{page} links to {link}, and there is no such heading");
            followed += 1;
        }
    }
    assert!(followed > 5, "only {followed} links were found");
}

/// What the headings of a page are called in links to them.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut fenced = false;
    let mut found = BTreeSet::new();
    for line in page.lines() {
        fenced ^= line.starts_with("```");
        let title = line.trim_start_matches('#');
        if !fenced && title.len() < line.len() && title.starts_with(' ') {
            let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
            found.insert(
                title.trim().to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-"),
            );
        }
    }
    found
}
