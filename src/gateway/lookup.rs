//! Which names a gateway's client looks up, and which of the addresses found it may connect to.
//!
//! The client connects to what comes out of here and asks nobody else, so an address that was not judged is not
//! connected to, however often and differently a name server answers. Literal addresses never come here: they can only
//! stand in the configured URLs, because redirects are not followed, and were judged with them.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::config::{AddressRange, Network, Reach, plain_name};

#[derive(Debug, Clone)]
pub(super) struct Lookup {
    /// May be looked up.
    names: BTreeSet<String>,
    /// Need not be.
    pinned: BTreeMap<String, Vec<IpAddr>>,
    /// Empty: no limit.
    allowed: Vec<AddressRange>,
}

#[derive(Debug, thiserror::Error)]
#[error("{0} is not one of the configured hosts")]
pub(super) struct NotConfigured(pub(super) String);

#[derive(Debug, thiserror::Error)]
#[error("{name} resolves to {}, outside allowed_addresses", list(found))]
pub(super) struct Outside {
    name: String,
    found: Vec<IpAddr>,
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Lookup {
    pub(super) fn new(reach: &Reach, network: &Network) -> Lookup {
        Lookup {
            names: reach.lookups.clone(),
            pinned: network.addresses.clone(),
            allowed: network.allowed_addresses.clone(),
        }
    }

    pub(super) fn allows(&self, address: IpAddr) -> bool {
        self.allowed.is_empty() || self.allowed.iter().any(|range| range.holds(address))
    }
}

/// Those of the addresses that may be connected to.
fn judged(name: &str, found: Vec<SocketAddr>, allowed: &[AddressRange]) -> Result<Vec<SocketAddr>, Outside> {
    let holds = |address: &SocketAddr| {
        allowed.is_empty() || allowed.iter().any(|range| range.holds(address.ip().to_canonical()))
    };
    let (good, bad): (Vec<_>, Vec<_>) = found.into_iter().partition(holds);
    if good.is_empty() && !bad.is_empty() {
        let mut found: Vec<IpAddr> = bad.iter().map(SocketAddr::ip).collect();
        found.dedup();
        return Err(Outside { name: name.to_owned(), found });
    }
    Ok(good)
}

impl Lookup {
    /// The addresses of a configured name that may be connected to; port 0.
    pub(super) async fn find(&self, host: &str) -> Result<Vec<SocketAddr>, Box<dyn Error + Send + Sync>> {
        let plain = plain_name(host);
        let pinned = self.pinned.get(&plain);
        if pinned.is_none() && !self.names.contains(&plain) {
            return Err(NotConfigured(host.to_owned()).into());
        }
        let found: Vec<SocketAddr> = match pinned {
            Some(ips) => ips.iter().map(|ip| SocketAddr::new(*ip, 0)).collect(),
            None => tokio::net::lookup_host((host, 0)).await?.collect(),
        };
        let good = judged(host, found, &self.allowed)?;
        if good.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address").into());
        }
        Ok(good)
    }
}

impl Resolve for Lookup {
    fn resolve(&self, name: Name) -> Resolving {
        let lookup = self.clone();
        // Port 0 is replaced by the port of the URL.
        Box::pin(async move { Ok(Box::new(lookup.find(name.as_str()).await?.into_iter()) as Addrs) })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};
    use std::str::FromStr;

    use reqwest::dns::{Name, Resolve};

    use super::{Lookup, NotConfigured, Outside, judged};
    use crate::config::AddressRange;

    fn only(name: &str, allowed: &[&str]) -> Lookup {
        Lookup {
            names: [name.to_owned()].into(),
            pinned: [("pinned.example.test".to_owned(), vec![IpAddr::from([192, 0, 2, 7])])].into(),
            allowed: allowed.iter().map(|range| AddressRange::parse(range).unwrap()).collect(),
        }
    }

    async fn resolve(
        lookup: &Lookup,
        name: &str,
    ) -> Result<Vec<IpAddr>, Box<dyn std::error::Error + Send + Sync>> {
        let found = lookup.resolve(Name::from_str(name).unwrap()).await?;
        Ok(found.map(|address: SocketAddr| address.ip()).collect())
    }

    #[tokio::test]
    async fn only_configured_names_are_resolved() {
        let lookup = only("localhost", &[]);
        assert!(!resolve(&lookup, "LOCALHOST").await.unwrap().is_empty());
        let error = resolve(&lookup, "localhost.example.test").await.unwrap_err();
        assert!(error.is::<NotConfigured>());
    }

    #[tokio::test]
    async fn a_pinned_name_is_not_looked_up_and_judged_all_the_same() {
        let found = resolve(&only("localhost", &[]), "Pinned.example.test.").await.unwrap();
        assert_eq!(found, [IpAddr::from([192, 0, 2, 7])]);
        let error =
            resolve(&only("localhost", &["198.51.100.0/24"]), "pinned.example.test").await.unwrap_err();
        assert!(error.is::<Outside>());
    }

    #[tokio::test]
    async fn a_name_that_resolves_outside_the_ranges_leads_nowhere() {
        let error = resolve(&only("localhost", &["198.51.100.0/24"]), "localhost").await.unwrap_err();
        assert!(error.is::<Outside>(), "{error}");
        assert!(error.to_string().starts_with("localhost resolves to "), "{error}");
        let found = resolve(&only("localhost", &["127.0.0.0/8"]), "localhost").await.unwrap();
        assert_eq!(found, [IpAddr::from([127, 0, 0, 1])], "and not ::1");
    }

    #[test]
    fn of_several_addresses_only_those_within_the_ranges_are_left() {
        let range = [AddressRange::parse("198.51.100.0/24").unwrap()];
        let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 0);
        let mixed = vec![at("10.0.0.1"), at("198.51.100.7"), at("::1"), at("::ffff:198.51.100.8")];
        assert_eq!(judged("gw", mixed, &range).unwrap(), [at("198.51.100.7"), at("::ffff:198.51.100.8")]);
        assert!(judged("gw", vec![at("::ffff:10.0.0.1")], &range).is_err(), "another spelling helps nobody");
        assert_eq!(judged("gw", Vec::new(), &range).unwrap(), []);
    }
}
