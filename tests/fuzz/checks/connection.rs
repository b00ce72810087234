//! Connection strings of the database: a fault repeats nothing that was written, what is shown to people holds no
//! password, and nobody is connected to over a network in plain text without having asked for it.

use std::io;
use std::path::PathBuf;

use outboxd::config::{Surroundings, Tls, connection_in};

/// Stands for whatever may be secret.
const MARK: &str = "hunter2";

pub fn check(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    // Files that bytes from outside name are not there.
    let surroundings = Surroundings {
        mode: None,
        directory: PathBuf::from("/nowhere"),
        read: Box::new(|_| Err(io::Error::from(io::ErrorKind::NotFound))),
        env: Box::new(|_| None),
    };
    let database = match connection_in(&text, &surroundings) {
        Ok(database) => database,
        Err(fault) => {
            let told = format!("{fault} {}", fault.hint);
            // Names of libpq's own keys may stand in it.
            assert!(!told.contains(MARK), "{told}");
            assert!(told.chars().count() < 400, "{told}");
            return;
        }
    };
    let connect = &database.connect;
    let hosts: Vec<String> = connect.get_hosts().iter().map(|host| format!("{host:?}")).collect();
    let ports = connect.get_ports().len();
    assert!(!hosts.is_empty() && (ports <= 1 || ports == hosts.len()), "{hosts:?} with {ports} ports");
    if !text.contains("ssl") && !text.contains('%') {
        let local = |host: &String| {
            host.starts_with("Unix")
                || host.contains("localhost")
                || host.contains("127.")
                || host.contains("::1")
        };
        let expected = if hosts.iter().all(local) { Tls::Prefer } else { Tls::Require };
        assert!(database.tls == expected || database.tls == Tls::Require, "{:?} to {hosts:?}", database.tls);
    }
    let shown = format!("{} {database:?}", database.shown);
    if only_in_the_password(&text) {
        assert!(!shown.contains(MARK), "{shown}");
    }
    let elsewhere = hosts.iter().any(|host| host.contains(MARK))
        || [connect.get_user(), connect.get_dbname()].into_iter().flatten().any(|name| name.contains(MARK));
    assert!(elsewhere || !shown.contains(MARK), "{shown}");
}

/// Of a URL: after the first colon behind the scheme, and before the last `@`.
fn only_in_the_password(text: &str) -> bool {
    let Some(rest) = ["postgres://", "postgresql://"].iter().find_map(|scheme| text.strip_prefix(scheme))
    else {
        return false;
    };
    let Some(first) = rest.find(MARK) else { return false };
    let (Some(colon), Some(at), Some(last)) = (rest.find(':'), rest.rfind('@'), rest.rfind(MARK)) else {
        return false;
    };
    let path = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    colon < first && last + MARK.len() <= at && at < path
}
