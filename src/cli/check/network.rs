//! Who we are and where a connection was to lead, in the words of those who run networks.

use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

use crate::clock;
use crate::gateway::walk::Place;
use crate::hop::certificate::time;
use crate::hop::own_address;

/// Where a hop leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Way {
    pub(super) host: String,
    pub(super) port: u16,
    /// `https`, `socks5h`, `postgresql` and so on, all of them over TCP.
    pub(super) protocol: String,
    pub(super) addresses: Vec<IpAddr>,
}

impl Way {
    pub(super) fn of(place: &Place) -> Way {
        let Place { host, port, scheme, addresses, .. } = place.clone();
        Way { host, port, protocol: scheme, addresses }
    }
}

/// `gw.example (192.0.2.1), TCP port 443 (https)`.
impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Way { host, port, protocol, addresses } = self;
        f.write_str(host)?;
        let listed: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        if !listed.is_empty() && listed != [host.as_str()] {
            write!(f, " ({})", listed.join(", "))?;
        }
        write!(f, ", TCP port {port} ({protocol})")
    }
}

/// From where it was tried, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Here {
    pub(super) host: String,
    /// Which of this host's addresses leads there.
    pub(super) address: Option<IpAddr>,
    /// By this host's clock.
    pub(super) at: String,
}

impl Here {
    pub(super) async fn towards(address: Option<IpAddr>) -> Here {
        let address = match address {
            Some(address) => own_address(address).await,
            None => None,
        };
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Here { host, address, at: time(now()) }
    }

    pub(super) fn please_open(&self, target: &str, said: &str) -> String {
        format!("Please let {self} connect to {target}. Tried at {}: {said}.", self.at)
    }

    pub(super) fn please_exempt(&self, target: &str, issuer: &str) -> String {
        format!(
            "TLS from {self} to {target} is answered with a certificate of \"{issuer}\". Please exempt this host from TLS \
             inspection, or send us that authority's certificate. Tried at {}.",
            self.at
        )
    }

    pub(super) fn please_let_time_through(&self) -> String {
        format!(
            "The clock of {self} is wrong. Please let it reach a time server (NTP, UDP port 123). Seen at {} by its own clock.",
            self.at
        )
    }

    pub(super) fn please_resolve(&self, name: &str, said: &str) -> String {
        let servers = name_servers();
        let by = if servers.is_empty() {
            String::new()
        } else {
            format!(" by its name servers {}", servers.join(", "))
        };
        format!("Please let the name {name} be resolved for {self}{by}. Tried at {}: {said}.", self.at)
    }
}

/// `server1 (10.0.0.5)`.
impl fmt::Display for Here {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        match self.address {
            Some(address) => write!(f, " ({address})"),
            None => Ok(()),
        }
    }
}

/// Whole seconds since 1970 by this host's clock.
#[expect(clippy::cast_possible_truncation, reason = "seconds since 1970")]
pub(super) fn now() -> i64 {
    clock::wall() as i64
}

fn name_servers() -> Vec<String> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver "));
    servers.map(|server| server.trim().to_owned()).collect()
}
