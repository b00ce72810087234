//! The way to the database in `outboxd check`, as far as it is the network's: the socket, or name, connection and TLS of each
//! host. Log-in is the connection's own affair.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use tokio_postgres::config::Host;

use crate::cli::check::network::{Here, Way};
use crate::cli::check::progress::Line;
use crate::cli::check::{Finding, Outcome, encryption};
use crate::config::Database;
use crate::hop::{Trouble, connect};

const DEFAULT_PORT: u16 = 5432;

/// One host of a connection string and what the way to it came to.
struct Tried {
    findings: Vec<Finding>,
    arrived: bool,
}

/// `name`: of the findings. The second value says whether any of its hosts can be reached.
pub(super) async fn check(name: &str, database: &Database, line: &Line) -> (Vec<Finding>, bool) {
    let connect = &database.connect;
    let hosts = connect.get_hosts().len().max(connect.get_hostaddrs().len());
    let mut tried = Vec::new();
    for place in 0..hosts {
        tried.push(one(name, database, place, line).await);
    }
    let arrived = tried.iter().any(|tried| tried.arrived);
    let mut findings: Vec<Finding> = tried.into_iter().flat_map(|tried| tried.findings).collect();
    if arrived {
        // One of several is enough to work with.
        for finding in &mut findings {
            finding.soften();
        }
    }
    (findings, arrived)
}

async fn one(name: &str, database: &Database, place: usize, line: &Line) -> Tried {
    let config = &database.connect;
    let ports = config.get_ports();
    let port = ports.get(place).or(ports.first()).copied().unwrap_or(DEFAULT_PORT);
    let host = match config.get_hosts().get(place) {
        Some(Host::Unix(directory)) => return socket(name, directory, port),
        Some(Host::Tcp(host)) => Some(host.clone()),
        None => None,
    };
    let pinned: Option<IpAddr> = config.get_hostaddrs().get(place).copied();
    let literal = host.as_deref().and_then(|host| host.parse().ok());
    let shown = host.or(pinned.map(|address| address.to_string())).unwrap_or_default();
    let mut way = Way { host: shown, port, protocol: "postgresql".to_owned(), addresses: Vec::new() };
    let mut findings = Vec::new();
    if let Some(address) = pinned.or(literal) {
        way.addresses.push(address);
    } else {
        line.say(&format!("looking up {}", way.host));
        let lookup = tokio::net::lookup_host((way.host.as_str(), port));
        let found = match tokio::time::timeout(database.timeout, lookup).await {
            Ok(Ok(found)) => Ok(found.map(|address| address.ip()).collect::<Vec<_>>()),
            Ok(Err(error)) => Err(Trouble::of_lookup(&error)),
            Err(_) => Err(Trouble::NameServerSilent),
        };
        match found {
            Ok(mut addresses) => {
                addresses.dedup();
                way.addresses = addresses;
                let listed: Vec<String> = way.addresses.iter().map(ToString::to_string).collect();
                let mut finding =
                    Finding::ok(format!("{name}: name"), format!("{} is {}", way.host, listed.join(", ")));
                finding.way = Some(way.clone());
                findings.push(finding);
            }
            Err(trouble) => {
                let (hop, said) = (format!("{name}: name"), trouble.to_string());
                findings.push(unreached(hop, key(name), &way, &trouble, &said).await);
                return Tried { findings, arrived: false };
            }
        }
    }
    line.say(&format!("connecting to {}:{port}", way.host));
    let limit = config.get_connect_timeout().copied().unwrap_or(database.timeout);
    let addresses: Vec<SocketAddr> =
        way.addresses.iter().map(|address| SocketAddr::new(*address, port)).collect();
    let tcp = format!("{name}: tcp");
    match connect(&addresses, None, limit).await {
        Ok((stream, address, _)) => {
            let mut finding = Finding::ok(tcp, format!("connected to {address}"));
            finding.way = Some(way.clone());
            findings.push(finding);
            line.say(&format!("setting up TLS with {}:{port}", way.host));
            let tls =
                encryption::check(format!("{name}: tls"), key(name), database, &way, stream, limit).await;
            let arrived = tls.as_ref().is_none_or(|tls| tls.outcome == Outcome::Ok);
            findings.extend(tls);
            Tried { findings, arrived }
        }
        Err(tried) => {
            let said: Vec<String> =
                tried.iter().map(|(address, trouble)| format!("{address}: {trouble}")).collect();
            let last = tried.last().map_or(Trouble::NoSuchName, |(_, trouble)| trouble.clone());
            findings.push(unreached(tcp, key(name), &way, &last, &said.join("; ")).await);
            Tried { findings, arrived: false }
        }
    }
}

/// Where the connection stands in `[database]`.
fn key(name: &str) -> &str {
    if name == "database" { "url" } else { name }
}

fn socket(name: &str, directory: &Path, port: u16) -> Tried {
    let path = directory.join(format!(".s.PGSQL.{port}"));
    let shown = path.display();
    let name = format!("{name}: socket");
    let (finding, arrived) = match std::fs::metadata(&path) {
        Ok(_) => (Finding::ok(name, format!("{shown} is there")), true),
        Err(error) => {
            let advice = "is PostgreSQL running on this host, with that directory in its unix_socket_directories and \
                          that port?";
            let mut finding = Finding::unreachable(name, format!("{shown}: {error}"), advice);
            finding.problem = Some("no_socket");
            (finding, false)
        }
    };
    Tried { findings: vec![finding], arrived }
}

async fn unreached(name: String, key: &str, way: &Way, trouble: &Trouble, said: &str) -> Finding {
    let here = Here::towards(way.addresses.first().copied()).await;
    let resolving = matches!(trouble, Trouble::NoSuchName | Trouble::NameServerSilent);
    let advice = match trouble {
        Trouble::NoSuchName => &format!(
            "check the host in [database] {key}; if it is right, send the network team the sentence below"
        ),
        Trouble::NameServerSilent => {
            "look at /etc/resolv.conf; if it is right, send the network team the sentence below"
        }
        Trouble::Timeout => "a firewall on the way drops it: send the network team the sentence below",
        Trouble::Refused => {
            "is PostgreSQL running there, on that port, and does it listen on that address (listen_addresses)? If so, a \
             firewall rejects it: send the network team the sentence below"
        }
        Trouble::NotPermitted => {
            "this host's own rules forbid it: `nft list ruleset`, and IPAddressAllow of the unit; `outboxd egress` prints \
             what must be open"
        }
        Trouble::Reset | Trouble::NoRoute | Trouble::NoSuchSource | Trouble::Other(_) => &format!(
            "check host and port in [database] {key}; if they are right, send the network team the sentence below"
        ),
    };
    let mut finding = Finding::unreachable(name, format!("{}:{}: {said}", way.host, way.port), advice);
    finding.problem = Some(trouble.code());
    finding.network_team = match trouble {
        Trouble::NotPermitted => None,
        _ if resolving => Some(here.please_resolve(&way.host, said)),
        _ => Some(here.please_open(&way.to_string(), said)),
    };
    finding.way = Some(way.clone());
    finding.tried = Some(here);
    finding
}
