//! The files in `outboxd check`: who can change what the daemon goes by. That everybody can read a secret or a private key is
//! refused when the configuration is read; what is told here works, and should not stay so, or lets others decide where
//! messages go.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::cli::check::Finding;
use crate::cli::counted;
use crate::config::{AdminListen, Config};

const WRITABLE_BY_OTHERS: u32 = 0o002;
const WRITABLE_BY_GROUP: u32 = 0o020;
const STICKY: u32 = 0o1000;

/// `read`: what was read with the configuration, it first.
pub(super) fn check(config: &Config, read: &[PathBuf]) -> Vec<Finding> {
    let mut all: Vec<&PathBuf> = Vec::new();
    let later = others(config);
    for path in read.iter().chain(&later) {
        if !all.contains(&path) {
            all.push(path);
        }
    }
    let us = rustix::process::geteuid().as_raw();
    let mut findings = Vec::new();
    let mut well = 0;
    for path in all {
        // What is missing is told by whoever needs it.
        let Ok(metadata) = std::fs::metadata(path) else { continue };
        match fault(path, &metadata, us) {
            Some(finding) => findings.push(finding),
            None => well += 1,
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok("files", format!("nobody else can change {}", counted(well, "file"))));
    }
    findings.extend(socket(config));
    findings
}

/// What is read later.
fn others(config: &Config) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let databases = [Some(&config.database), config.database.direct.as_deref()];
    for database in databases.into_iter().flatten() {
        all.extend(database.root_cert.clone());
        if let Some(files) = &database.client_certificate {
            all.push(files.certificate_file.clone());
            all.push(files.key_file.clone());
        }
    }
    for gateway in config.gateways.values() {
        all.extend(gateway.ca_file.clone());
        if let Some(files) = &gateway.network.client_certificate {
            all.push(files.certificate_file.clone());
            all.push(files.key_file.clone());
        }
    }
    if let Some(files) = config.callbacks.as_ref().and_then(|callbacks| callbacks.tls.as_ref()) {
        all.push(files.certificate_file.clone());
        all.push(files.key_file.clone());
    }
    all
}

fn fault(path: &Path, metadata: &Metadata, us: u32) -> Option<Finding> {
    let (shown, mode) = (path.display(), metadata.mode() & 0o7777);
    let named = |what: &str| format!("{shown} (mode {mode:04o}): {what}");
    let finding = if mode & WRITABLE_BY_OTHERS != 0 {
        let mut finding = Finding::wrong(
            "files",
            named("everybody on this machine can change it"),
            format!("chmod o-w {shown}, and look whether it still says what it should"),
        );
        finding.problem = Some("writable_by_others");
        finding
    } else if mode & WRITABLE_BY_GROUP != 0 && metadata.gid() != 0 {
        let mut finding = Finding::warning(
            "files",
            named(&format!("the whole group {} can change it", metadata.gid())),
            format!("chmod g-w {shown}: the daemon only reads it"),
        );
        finding.problem = Some("writable_by_group");
        finding
    } else if metadata.uid() != 0 && metadata.uid() != us {
        let mut finding = Finding::warning(
            "files",
            named(&format!("it belongs to the user {}, who can change it", metadata.uid())),
            format!("chown root {shown}"),
        );
        finding.problem = Some("foreign_owner");
        finding
    } else {
        return None;
    };
    Some(finding)
}

/// Whoever can write into the directory of a socket can put another in its place.
fn socket(config: &Config) -> Option<Finding> {
    const NAME: &str = "admin socket";
    let AdminListen::Unix(path) = &config.admin.as_ref()?.listen else { return None };
    let directory = path.parent()?;
    let shown = directory.display();
    Some(match std::fs::metadata(directory) {
        Ok(found) if !found.is_dir() => {
            Finding::wrong(NAME, format!("{shown} is no directory"), "correct listen in [admin]")
        }
        Ok(found) if found.mode() & WRITABLE_BY_OTHERS != 0 && found.mode() & STICKY == 0 => Finding::wrong(
            NAME,
            format!("everybody on this machine can replace what is in {shown}"),
            format!("chmod o-w {shown}, or use /run/outboxd, which the unit makes"),
        ),
        Ok(_) => Finding::ok(NAME, format!("{shown} is there")),
        Err(error) => Finding::warning(
            NAME,
            format!("{shown}: {error}"),
            "the unit makes /run/outboxd when it starts; any other directory must be made for the daemon's user",
        ),
    })
}
