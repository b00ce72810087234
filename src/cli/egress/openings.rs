//! What must be open, and why: the database, each gateway or its proxy, and the name servers.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use futures_util::future::join_all;
use serde::Serialize;
use tokio_postgres::config::Host as PgHost;
use url::Host;

use crate::config::{AddressRange, Config, Database, Gateway};

/// Name servers take longer only when they are not there.
const PATIENCE: Duration = Duration::from_secs(15);
const RESOLV_CONF: &str = "/etc/resolv.conf";
const POSTGRESQL: u16 = 5432;
const DNS: u16 = 53;

/// One host and port that the daemon sends to.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Opening {
    /// As it stands in the configuration.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) protocol: &'static str,
    /// What the host is called at present.
    pub(super) addresses: Vec<IpAddr>,
    /// The configuration lets it be nowhere else, now or later.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) ranges: Vec<String>,
    pub(super) why: String,
    /// Why there are no addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) problem: Option<String>,
}

impl Opening {
    /// For a firewall: where the host is, or may be.
    pub(super) fn targets(&self) -> Vec<String> {
        if self.ranges.is_empty() {
            self.addresses.iter().map(ToString::to_string).collect()
        } else {
            self.ranges.clone()
        }
    }
}

/// A host before it was looked up.
struct Wanted {
    host: String,
    /// Known without asking: a literal address, or one that the configuration gives.
    known: Vec<IpAddr>,
    port: u16,
    allowed: Vec<AddressRange>,
    why: String,
}

pub(super) async fn openings(config: &Config) -> Vec<Opening> {
    let mut wanted = of_database(&config.database, "database");
    if let Some(direct) = &config.database.direct {
        wanted.extend(of_database(direct, "database, past the pooler"));
    }
    let mut lookups: BTreeSet<String> =
        wanted.iter().filter(|wanted| wanted.known.is_empty()).map(|wanted| wanted.host.clone()).collect();
    for gateway in config.gateways.values() {
        lookups.extend(of_gateway(gateway, &mut wanted));
    }
    let mut openings = join_all(wanted.into_iter().map(open)).await;
    if !lookups.is_empty() {
        let why = format!("names: {}", lookups.into_iter().collect::<Vec<_>>().join(", "));
        let servers = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
        for server in name_servers(&servers) {
            openings.extend(["udp", "tcp"].map(|protocol| Opening {
                host: server.to_string(),
                port: DNS,
                protocol,
                addresses: vec![server],
                ranges: Vec::new(),
                why: why.clone(),
                problem: None,
            }));
        }
    }
    openings
}

fn of_database(database: &Database, why: &str) -> Vec<Wanted> {
    let connect = &database.connect;
    let (hosts, addresses, ports) = (connect.get_hosts(), connect.get_hostaddrs(), connect.get_ports());
    let places = hosts.len().max(addresses.len());
    (0..places)
        .filter_map(|place| {
            let address = addresses.get(place).copied();
            let host = match (hosts.get(place), address) {
                (Some(PgHost::Unix(_)), None) => return None,
                (Some(PgHost::Tcp(name)), _) => name.clone(),
                (_, Some(address)) => address.to_string(),
                (None, None) => return None,
            };
            let known: Vec<IpAddr> = address.or_else(|| host.parse().ok()).into_iter().collect();
            let port = ports.get(place).or(ports.first()).copied().unwrap_or(POSTGRESQL);
            // A name of a database is not checked, and is to be one line of a rule's comment.
            let host = host.replace(char::is_control, "?");
            Some(Wanted { host, known, port, allowed: Vec::new(), why: why.to_owned() })
        })
        .collect()
}

/// Adds what it connects to; returns what it looks up.
fn of_gateway(gateway: &Gateway, wanted: &mut Vec<Wanted>) -> BTreeSet<String> {
    let urls = gateway.dialect.urls();
    let reach = gateway.reach(&urls.iter().collect::<Vec<_>>());
    for endpoint in &reach.endpoints {
        let name = &gateway.name;
        let why = match endpoint.proxy_for.as_slice() {
            [] => format!("gateway {name}"),
            targets => format!("proxy of gateway {name}, which must allow {}", targets.join(", ")),
        };
        let known = match &endpoint.host {
            Host::Ipv4(address) => vec![IpAddr::V4(*address)],
            Host::Ipv6(address) => vec![IpAddr::V6(*address)],
            Host::Domain(host) => gateway.network.pinned(host).unwrap_or_default().to_vec(),
        };
        let host = match &endpoint.host {
            // Without the brackets of a URL.
            Host::Ipv6(address) => address.to_string(),
            host => host.to_string(),
        };
        let allowed = gateway.network.allowed_addresses.clone();
        wanted.push(Wanted { host, known, port: endpoint.port, allowed, why });
    }
    reach.lookups
}

async fn open(wanted: Wanted) -> Opening {
    let Wanted { host, known, port, allowed, why } = wanted;
    let looked_up = if known.is_empty() { look_up(&host, port).await } else { Ok(known) };
    let (addresses, problem) = match looked_up {
        Ok(found) => {
            let may = |address: &IpAddr| allowed.is_empty() || allowed.iter().any(|r| r.holds(*address));
            let (good, bad): (Vec<IpAddr>, Vec<IpAddr>) = found.into_iter().partition(may);
            match (good.is_empty(), bad.first()) {
                (true, Some(bad)) => (good, Some(format!("{bad} is outside allowed_addresses"))),
                _ => (good, None),
            }
        }
        Err(problem) => (Vec::new(), Some(problem)),
    };
    // A firewall's set takes no range twice, and none within another.
    let mut ranges: Vec<AddressRange> = Vec::new();
    for range in allowed {
        if !ranges.iter().any(|known| known.contains(&range)) {
            ranges.retain(|known| !range.contains(known));
            ranges.push(range);
        }
    }
    let ranges = ranges.iter().map(ToString::to_string).collect();
    Opening { host, port, protocol: "tcp", addresses, ranges, why, problem }
}

async fn look_up(host: &str, port: u16) -> Result<Vec<IpAddr>, String> {
    match tokio::time::timeout(PATIENCE, tokio::net::lookup_host((host, port))).await {
        Ok(Ok(found)) => {
            let found: BTreeSet<IpAddr> = found.map(|address| address.ip().to_canonical()).collect();
            if found.is_empty() { Err("has no address".to_owned()) } else { Ok(found.into_iter().collect()) }
        }
        Ok(Err(error)) => Err(format!("not found ({error})")),
        Err(_) => Err("no name server answered in time".to_owned()),
    }
}

/// As the system's resolver reads `resolv.conf`: the first three, or this host.
fn name_servers(text: &str) -> Vec<IpAddr> {
    let mut servers: Vec<IpAddr> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        // `fe80::1%eth0`: which interface is no matter of a firewall's address.
        let address = words.next().and_then(|word| word.split('%').next()?.parse().ok());
        servers.extend(address.filter(|address| servers.len() < 3 && !servers.contains(address)));
    }
    if servers.is_empty() {
        servers.push(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    servers
}

/// Ways to the database that need no opening.
pub(super) fn local_sockets(config: &Config) -> Vec<(String, &'static str)> {
    let ways = [(Some(&config.database), "the database"), (config.database.direct.as_deref(), "direct_url")];
    let mut found = Vec::new();
    for (database, why) in ways {
        for host in database.map(|database| database.connect.get_hosts()).unwrap_or_default() {
            if let PgHost::Unix(path) = host {
                found.push((path.display().to_string(), why));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::name_servers;

    #[test]
    fn name_servers_are_read_as_the_system_reads_them() {
        let text = "# made by hand\nsearch example\nnameserver 192.0.2.1\nnameserver  fe80::1%eth0 # the router\n\
                    nameserver 192.0.2.1\nnameserver nonsense\noptions edns0\n";
        let found: Vec<String> = name_servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.1", "fe80::1"]);
        assert_eq!(name_servers("").first().map(ToString::to_string).as_deref(), Some("127.0.0.1"));
        let many = "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n";
        assert_eq!(name_servers(many).len(), 3);
    }
}
