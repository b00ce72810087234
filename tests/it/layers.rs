//! Imports point one way: pure rules, edges, engine, process (ARCHITECTURE.md draws it). This suite reads `src/` and
//! fails on the first file that points up or sideways, or brings I/O into the pure layer.
//!
//! `src/lib.rs` and `src/bin/` stand above the layers and may name everything.

use std::path::Path;

use crate::support::source::{SourcePath, paths_outside_tests};
use crate::support::{files_below, repository};

/// Rules without I/O: no runtime, no sockets or files, no clock, no logging.
const PURE: [&str; 8] = ["message", "text", "compose", "verdict", "policy", "pace", "config", "clock"];
/// Used from every layer above the pure one.
const LEAVES: [&str; 4] = ["signal", "telemetry", "metrics", "hop"];
/// One outside thing each.
const EDGES: [&str; 2] = ["store", "gateway"];
/// The process around the engine. `sim` is among them in the drawing, and apart from them in the rules: it plays the
/// other side of the wire, and a shared misunderstanding must not make both sides agree.
const PROCESS: [&str; 3] = ["daemon", "admin", "cli"];

/// What only edges and upper layers may touch, and where the two exceptions are.
const OUTSIDE_WORLD: [&str; 16] = [
    "tokio",
    "tracing",
    "reqwest",
    "axum",
    "rustix",
    "deadpool_postgres",
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "std::os::unix::net",
    "std::time::Instant::now",
    "std::time::SystemTime::now",
];

/// Which modules a top-level module may import; `None` for a module that has no place yet.
fn allowed_imports(module: &str) -> Option<Vec<&'static str>> {
    let layers: &[&[&'static str]] = if PURE.contains(&module) || LEAVES.contains(&module) {
        &[&PURE]
    } else if EDGES.contains(&module) || module == "sim" {
        // An edge never imports its sibling; the simulator imports nothing of what it tests.
        &[&PURE, &LEAVES]
    } else if module == "engine" {
        &[&PURE, &LEAVES, &EDGES]
    } else if PROCESS.contains(&module) {
        &[&PURE, &LEAVES, &EDGES, &["engine"], &PROCESS]
    } else {
        return None;
    };
    Some(layers.concat())
}

/// The top-level module of a file below `src/`, and how many modules deep it lies (1: the top-level module itself).
fn module_of(file: &Path) -> Option<(String, usize)> {
    let mut parts: Vec<String> = file
        .strip_prefix("src")
        .ok()?
        .with_extension("")
        .components()
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .collect();
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    match parts.first().map(String::as_str) {
        None | Some("bin" | "lib") => None,
        Some(top) => Some((top.to_owned(), parts.len())),
    }
}

/// `tests.rs` and `tests/` hold unit tests that grew out of their file.
fn is_test_file(file: &Path) -> bool {
    file.with_extension("").components().any(|part| part.as_os_str() == "tests")
}

/// What is wrong with one file, each with its line and the rule.
fn violations(file: &Path, source: &str) -> Vec<String> {
    let Some((module, depth)) = module_of(file) else { return Vec::new() };
    if is_test_file(file) {
        return Vec::new();
    }
    let Some(allowed) = allowed_imports(&module) else {
        return vec![format!(
            "{}: module `{module}` has no layer: give it one here and in ARCHITECTURE.md",
            file.display()
        )];
    };
    paths_outside_tests(source)
        .iter()
        .filter_map(|path| {
            let rule = climbs_out(path, depth)
                .or_else(|| points_wrong(path, &module, &allowed))
                .or_else(|| touches_the_outside_world(path, file, &module))?;
            Some(format!("{}:{}: `{}`: {rule}", file.display(), path.line, path.shown()))
        })
        .collect()
}

/// `super::super::…` past the top-level module would hide an import from this suite.
fn climbs_out(path: &SourcePath, depth: usize) -> Option<String> {
    let climbed = path.segments.iter().take_while(|segment| *segment == "super").count();
    (climbed >= depth).then(|| "leaves its top-level module by `super`: write `crate::…`".to_owned())
}

fn points_wrong(path: &SourcePath, module: &str, allowed: &[&str]) -> Option<String> {
    let [root, imported, ..] = path.segments.as_slice() else { return None };
    if root != "crate" || imported == module || allowed.contains(&imported.as_str()) {
        return None;
    }
    Some(format!("`{module}` may import only {}", allowed.join(", ")))
}

fn touches_the_outside_world(path: &SourcePath, file: &Path, module: &str) -> Option<String> {
    if !PURE.contains(&module) {
        return None;
    }
    let touched = OUTSIDE_WORLD.into_iter().find(|outside| path.starts_with(outside))?;
    // The two exceptions: a configuration has to come from somewhere, and the clock is what others are given.
    let excepted = match module {
        "clock" => matches!(touched, "rustix" | "std::time::Instant::now" | "std::time::SystemTime::now"),
        "config" => file == Path::new("src/config/load.rs") && matches!(touched, "std::fs" | "std::env"),
        _ => false,
    };
    (!excepted).then(|| format!("`{module}` is pure: {touched} belongs to an edge or above"))
}

#[test]
fn every_import_points_down() {
    let files = files_below("src", "rs");
    assert!(files.len() > 3, "found no sources below {}", repository().display());
    let wrong: Vec<String> = files
        .iter()
        .flat_map(|file| violations(file, &std::fs::read_to_string(repository().join(file)).unwrap()))
        .collect();
    assert!(wrong.is_empty(), "imports must point down (see ARCHITECTURE.md):\n{}", wrong.join("\n"));
}

#[test]
fn a_source_that_breaks_the_layering_is_caught() {
    for (file, source, line_and_rule) in [
        (
            "src/verdict.rs",
            "\nuse crate::store::Store;",
            "src/verdict.rs:2: `crate::store::Store`: `verdict` may",
        ),
        (
            "src/store/claim.rs",
            "use crate::{\n  clock,\n  gateway::http\n};",
            "claim.rs:3: `crate::gateway::http`",
        ),
        ("src/gateway/mod.rs", "fn f() { crate::store::f() }", "`gateway` may import only message, text"),
        ("src/engine/wake.rs", "use crate::daemon;", "`engine` may import only"),
        ("src/sim/mod.rs", "use crate::gateway::Dialect;", "`sim` may import only"),
        ("src/sim/mod.rs", "use crate::engine;", "`sim` may import only"),
        ("src/daemon.rs", "use crate::sim;", "`daemon` may import only"),
        ("src/metrics.rs", "use crate::engine::X;", "`metrics` may import only"),
        ("src/text/gsm.rs", "use tokio::sync::mpsc;", "`text` is pure: tokio belongs"),
        (
            "src/pace.rs",
            "fn f() {\n tracing::info!(\"x\") }",
            "src/pace.rs:2: `tracing::info`: `pace` is pure",
        ),
        ("src/compose.rs", "use std::{fmt, fs};", "`compose` is pure: std::fs"),
        ("src/policy.rs", "use std::net::{IpAddr, TcpStream};", "`policy` is pure: std::net::TcpStream"),
        ("src/config/raw.rs", "fn f() { std::fs::read(p) }", "`config` is pure: std::fs"),
        ("src/config/load.rs", "use crate::telemetry;", "`config` may import only"),
        ("src/clock.rs", "use std::fs;", "`clock` is pure: std::fs"),
        ("src/store/mod.rs", "use super::gateway::X;", "leaves its top-level module by `super`"),
        ("src/store/claim.rs", "use super::super::gateway::X;", "leaves its top-level module by `super`"),
        ("src/helpers.rs", "", "module `helpers` has no layer"),
    ] {
        let found = violations(Path::new(file), source);
        assert_eq!(found.len(), 1, "{file}: {source}: {found:?}");
        assert!(found[0].contains(line_and_rule), "{file}: {source}: {found:?}");
    }
}

#[test]
fn a_source_that_keeps_the_layering_is_left_alone() {
    for (file, source) in [
        (
            "src/store/claim.rs",
            "use std::fs;\nuse super::Store;\nuse crate::message::{Lane, Status};\nuse crate::clock;",
        ),
        ("src/engine/wake.rs", "use crate::{store, gateway, metrics, signal};\nuse crate::engine::dispatch;"),
        ("src/cli/run.rs", "use crate::daemon; use crate::engine; use crate::cli::table;"),
        ("src/config/load.rs", "use std::{env, fs};\nuse tokio_postgres::Config;"),
        ("src/clock.rs", "fn now() -> std::time::Instant { std::time::Instant::now() }"),
        (
            "src/text.rs",
            "// crate::store\n#[cfg(test)]\nmod tests { use crate::store; use super::super::x; use std::fs; }",
        ),
        ("src/store/tests.rs", "use crate::gateway;"),
        ("src/bin/outboxd.rs", "use crate::anything;"),
        ("src/lib.rs", "use crate::anything;"),
        ("src/sim/api.rs", "use std::time::Instant;\nuse crate::message::Status;"),
    ] {
        assert_eq!(violations(Path::new(file), source), Vec::<String>::new(), "{file}: {source}");
    }
}
