//! House rules that no compiler checks: size of files, their opening sentence, who may read a clock, and how SQL
//! statements name themselves.

use std::collections::BTreeMap;
use std::path::Path;

use crate::support::source::paths_outside_tests;
use crate::support::{files_below, repository};

const MOST_LINES: usize = 800;

/// Who may read a clock beside `src/clock.rs`, and why.
const CLOCK_READERS: [(&str, &str); 2] = [
    ("src/clock.rs", "it is the clock"),
    ("src/sim/", "it plays another machine, which has a clock of its own"),
];

fn read(file: &Path) -> String {
    std::fs::read_to_string(repository().join(file)).unwrap()
}

/// Applies a rule to every Rust file below these directories and fails with all that it found.
fn assert_none(directories: &[&str], rule: impl Fn(&Path, &str) -> Vec<String>) {
    let files: Vec<_> = directories.iter().flat_map(|directory| files_below(directory, "rs")).collect();
    assert!(!files.is_empty(), "found no sources in {directories:?}");
    let found: Vec<String> = files.iter().flat_map(|file| rule(file, &read(file))).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

fn too_long(file: &Path, source: &str) -> Vec<String> {
    let lines = source.lines().count();
    if lines <= MOST_LINES {
        return Vec::new();
    }
    vec![format!("{}: {lines} lines, {MOST_LINES} are the most: a second idea hides in it", file.display())]
}

fn opens_without_saying_what_it_is(file: &Path, source: &str) -> Vec<String> {
    if source.starts_with("//! ") {
        return Vec::new();
    }
    vec![format!("{}: must open with `//!`: what it does, and what it must not do", file.display())]
}

/// `Instant::now` of tokio is allowed: it is the time that timers run by, and a test can stop it.
fn clock_reads(file: &Path, source: &str) -> Vec<String> {
    if CLOCK_READERS.iter().any(|(reader, _)| file.to_string_lossy().starts_with(reader)) {
        return Vec::new();
    }
    let paths = paths_outside_tests(source);
    let imports_tokio_instant = paths.iter().any(|path| path.starts_with("tokio::time::Instant"));
    paths
        .iter()
        .filter(|path| {
            let tokio_instant = path.starts_with("tokio::time::Instant")
                || (imports_tokio_instant && path.shown() == "Instant::now");
            let reads = ["Instant::now", "SystemTime::now", "Timestamp::now", "Zoned::now"];
            reads.into_iter().any(|read| path.ends_with(read)) && !tokio_instant
        })
        .map(|path| {
            format!("{}:{}: `{}`: take the time from `clock`", file.display(), path.line, path.shown())
        })
        .collect()
}

/// Name of the statement, from its first line `-- outboxd: name`: the server's log names us by it.
fn statement_name(file: &Path, statement: &str) -> Result<String, String> {
    let first = statement.lines().next().unwrap_or_default();
    match first.strip_prefix("-- outboxd: ").map(str::trim) {
        Some(name) if !name.is_empty() => Ok(name.to_owned()),
        _ => Err(format!("{}: the first line must be `-- outboxd: name`", file.display())),
    }
}

/// Statements without a name, and names used twice within a layout (a directory).
fn misnamed_statements<'a>(statements: impl IntoIterator<Item = (&'a Path, String)>) -> Vec<String> {
    let mut seen = BTreeMap::new();
    let mut wrong = Vec::new();
    for (file, statement) in statements {
        match statement_name(file, &statement) {
            Ok(name) => {
                if let Some(first) = seen.insert((file.parent(), name.clone()), file) {
                    wrong.push(format!("{}: {} is named `{name}` too", file.display(), first.display()));
                }
            }
            Err(reason) => wrong.push(reason),
        }
    }
    wrong
}

#[test]
fn no_file_is_longer_than_800_lines() {
    assert_none(&["src", "tests"], too_long);
}

#[test]
fn every_source_opens_by_saying_what_it_is() {
    assert_none(&["src", "tests"], opens_without_saying_what_it_is);
}

#[test]
fn only_the_clock_reads_the_clock() {
    assert_none(&["src"], clock_reads);
}

#[test]
fn every_statement_has_a_name_of_its_own() {
    let files = files_below("sql", "sql");
    // Migrations are scripts of many statements and open with their reason.
    let statements = files.iter().filter(|file| !file.starts_with("sql/migrations"));
    let wrong = misnamed_statements(statements.map(|file| (file.as_path(), read(file))));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn sources_that_break_a_house_rule_are_caught() {
    let file = Path::new("src/engine/wake.rs");
    assert_eq!(too_long(file, &"x\n".repeat(801)).len(), 1);
    assert_eq!(too_long(file, &"x\n".repeat(800)).len(), 0);
    assert_eq!(opens_without_saying_what_it_is(file, "use std::fmt;\n//! late").len(), 1);
    for (source, reads) in [
        ("use std::time::Instant;\nfn f() { Instant::now(); }", 1),
        ("fn f() { std::time::SystemTime::now(); jiff::Timestamp::now() }", 2),
        ("use tokio::time::Instant;\nfn f() { Instant::now(); }", 0),
        ("fn f() { tokio::time::Instant::now(); }", 0),
        ("use tokio::time::Instant;\nfn f() { std::time::Instant::now(); }", 1),
        ("#[cfg(test)]\nmod tests { fn f() { std::time::Instant::now(); } }", 0),
    ] {
        assert_eq!(clock_reads(file, source).len(), reads, "{source}");
        assert_eq!(clock_reads(Path::new("src/clock.rs"), source).len(), 0, "{source}");
    }
}

#[test]
fn statements_without_a_name_or_with_a_used_one_are_caught() {
    let named = |file: &'static str, name: &str| (Path::new(file), format!("-- outboxd: {name}\nSELECT 1"));
    assert_eq!(misnamed_statements([named("sql/a/x.sql", "x"), named("sql/b/x.sql", "x")]).len(), 0);
    assert_eq!(misnamed_statements([named("sql/a/x.sql", "x"), named("sql/a/y.sql", "x")]).len(), 1);
    assert_eq!(misnamed_statements([named("sql/a/x.sql", ""), (Path::new("y.sql"), String::new())]).len(), 2);
}
