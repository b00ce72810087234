//! What a gateway's client connects to, judged from its configuration alone: through which proxy, at which addresses,
//! and which names are looked up on the way.
//!
//! The client and `outboxd egress` both go by this page, so that the list for the firewall is what is connected to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use url::{Host, Url};

use super::{AddressRange, Dialect, Gateway, Secret};

/// Limits on where a gateway's client goes, and how it shows itself there.
#[derive(Debug, Clone, Default)]
pub struct Network {
    /// Hosts that are reached without the proxy.
    pub proxy_except: Vec<ProxyException>,
    /// Nothing outside is connected to, whatever a name resolves to. Empty: no limit.
    pub allowed_addresses: Vec<AddressRange>,
    /// Names that are not looked up, and where they lead. Lower case, without a dot at the end.
    pub addresses: BTreeMap<String, Vec<IpAddr>>,
    /// Where connections come from; `None`: the system chooses.
    pub source_address: Option<IpAddr>,
    pub tls_min: TlsMin,
    /// Trust the authorities of `ca_file` alone, not the system's.
    pub ca_exclusive: bool,
    /// What we show to a gateway that asks who we are.
    pub client_certificate: Option<ClientCertificate>,
}

impl Network {
    /// Where this host is by the configuration; `None`: it is looked up.
    pub fn pinned(&self, host: &str) -> Option<&[IpAddr]> {
        self.addresses.get(&plain_name(host)).map(Vec::as_slice)
    }
}

/// The oldest version of TLS that is spoken. What is older than 1.2 is never spoken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TlsMin {
    #[default]
    V1_2,
    V1_3,
}

/// PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, and those between it and the authority.
    pub certificate_file: PathBuf,
    pub key_file: PathBuf,
}

/// Hosts that are reached without the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxyException {
    All,
    /// This name and those below it.
    Name(String),
    /// The names below this one.
    Below(String),
    Range(AddressRange),
}

impl ProxyException {
    /// `gw.example`, `.example` (or `*.example`), `10.0.0.0/8`, a single address, or `*`.
    pub fn parse(text: &str) -> Option<ProxyException> {
        let text = text.trim();
        if text == "*" {
            return Some(ProxyException::All);
        }
        if let Some(range) = AddressRange::parse(text.trim_start_matches('[').trim_end_matches(']')) {
            return Some(ProxyException::Range(range));
        }
        let is_name = |name: &str| {
            !name.is_empty()
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
                // A damaged address is no name.
                && name.rsplit('.').next().is_some_and(|last| !last.bytes().all(|b| b.is_ascii_digit()))
        };
        let below = text.strip_prefix("*.").or_else(|| text.strip_prefix('.'));
        let name = plain_name(below.unwrap_or(text));
        match is_name(&name) {
            true if below.is_some() => Some(ProxyException::Below(name)),
            true => Some(ProxyException::Name(name)),
            false => None,
        }
    }

    pub fn covers(&self, host: &Host<&str>) -> bool {
        match (self, host) {
            (ProxyException::All, _) => true,
            (ProxyException::Range(range), Host::Ipv4(address)) => range.holds(IpAddr::V4(*address)),
            (ProxyException::Range(range), Host::Ipv6(address)) => range.holds(IpAddr::V6(*address)),
            (ProxyException::Name(name), Host::Domain(host)) => {
                let host = plain_name(host);
                host == *name || is_below(&host, name)
            }
            (ProxyException::Below(name), Host::Domain(host)) => is_below(&plain_name(host), name),
            (ProxyException::Range(_), Host::Domain(_))
            | (ProxyException::Name(_) | ProxyException::Below(_), Host::Ipv4(_) | Host::Ipv6(_)) => false,
        }
    }
}

impl fmt::Display for ProxyException {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProxyException::All => f.write_str("*"),
            ProxyException::Name(name) => f.write_str(name),
            ProxyException::Below(name) => write!(f, ".{name}"),
            ProxyException::Range(range) => range.fmt(f),
        }
    }
}

fn is_below(host: &str, name: &str) -> bool {
    host.strip_suffix(name).is_some_and(|before| before.ends_with('.'))
}

/// In lower case, and without the dot that says that nothing is to be appended.
pub fn plain_name(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    name.strip_suffix('.').map(str::to_owned).unwrap_or(name)
}

/// One host and port that is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub host: Host<String>,
    pub port: u16,
    /// What is reached through it, where it is a proxy.
    pub proxy_for: Vec<String>,
}

/// All that one gateway's client connects to, and the names that it looks up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    pub endpoints: Vec<Endpoint>,
    /// Lower case, without a dot at the end. Not those whose addresses are configured.
    pub lookups: BTreeSet<String>,
}

impl Dialect {
    /// Every address that is talked to.
    pub fn urls(&self) -> Vec<Url> {
        let texts: Vec<&str> = match self {
            Dialect::InteractsmsV2(v2) => vec![&v2.api_url, &v2.token_url],
            Dialect::InteractsmsV1(v1) => vec![&v1.url],
            // Behind the `?` there may be placeholders and credentials.
            Dialect::Http(template) => vec![template.url.split('?').next().unwrap_or_default()],
        };
        texts.into_iter().filter_map(|text| Url::parse(text).ok()).collect()
    }
}

impl Gateway {
    /// The proxy through which this address is reached, if it is.
    pub fn proxy_for(&self, url: &Url) -> Option<&Secret> {
        let host = url.host()?;
        let direct = self.network.proxy_except.iter().any(|except| except.covers(&host));
        self.proxy.as_ref().filter(|_| !direct)
    }

    /// Where its client connects to for these addresses.
    pub fn reach(&self, urls: &[&Url]) -> Reach {
        let mut reach = Reach::default();
        for url in urls {
            let Some(target) = endpoint(url) else { continue };
            let proxy = self.proxy_for(url).and_then(|proxy| Url::parse(proxy.expose()).ok());
            let Some((proxy, url)) = proxy.and_then(|url| Some((endpoint(&url)?, url))) else {
                reach.connect(target);
                continue;
            };
            if url.scheme() == "socks5" {
                // Such a proxy is told an address, so the name is looked up here.
                reach.look_up(&target.host);
            }
            let name = format!("{}:{}", target.host, target.port);
            reach.connect(Endpoint { proxy_for: vec![name], ..proxy });
        }
        reach.lookups.retain(|name| !self.network.addresses.contains_key(name));
        reach
    }
}

impl Reach {
    fn connect(&mut self, endpoint: Endpoint) {
        self.look_up(&endpoint.host);
        let known = self.endpoints.iter_mut().find(|known| {
            (&known.host, known.port, known.proxy_for.is_empty())
                == (&endpoint.host, endpoint.port, endpoint.proxy_for.is_empty())
        });
        match known {
            Some(known) => {
                known.proxy_for.extend(endpoint.proxy_for);
                known.proxy_for.dedup();
            }
            None => self.endpoints.push(endpoint),
        }
    }

    fn look_up(&mut self, host: &Host<String>) {
        if let Host::Domain(name) = host {
            self.lookups.insert(plain_name(name));
        }
    }
}

fn endpoint(url: &Url) -> Option<Endpoint> {
    let default = match url.scheme() {
        "socks5" | "socks5h" => Some(1080),
        _ => url.port_or_known_default(),
    };
    Some(Endpoint { host: host_of(url)?, port: url.port().or(default)?, proxy_for: Vec::new() })
}

/// The host as it is. A URL of another scheme than http may hold an address as if it were a name.
pub fn host_of(url: &Url) -> Option<Host<String>> {
    match url.host()? {
        Host::Domain(name) => Some(match name.parse() {
            Ok(address) => Host::Ipv4(address),
            Err(_) => Host::Domain(name.to_owned()),
        }),
        Host::Ipv4(address) => Some(Host::Ipv4(address)),
        Host::Ipv6(address) => Some(Host::Ipv6(address)),
    }
}

#[cfg(test)]
mod tests {
    use url::{Host, Url};

    use super::{ProxyException, host_of};

    fn covers(exception: &str, host: &str) -> bool {
        let host = Host::parse(host).unwrap();
        let host = match &host {
            Host::Domain(name) => Host::Domain(name.as_str()),
            Host::Ipv4(address) => Host::Ipv4(*address),
            Host::Ipv6(address) => Host::Ipv6(*address),
        };
        ProxyException::parse(exception).unwrap().covers(&host)
    }

    #[test]
    fn an_exception_holds_for_a_name_and_what_is_below_it() {
        for (exception, host, expected) in [
            ("gw.example", "gw.example", true),
            ("GW.example.", "gw.EXAMPLE", true),
            ("gw.example", "gw.example.", true),
            ("gw.example", "a.gw.example", true),
            ("gw.example", "notgw.example", false),
            (".example", "gw.example", true),
            ("*.example", "gw.example", true),
            (".gw.example", "gw.example", false),
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "11.1.2.3", false),
            ("10.0.0.0/8", "gw.example", false),
            ("192.0.2.1", "192.0.2.1", true),
            ("[2001:db8::1]", "[2001:db8::1]", true),
            ("2001:db8::/32", "[2001:db8::1]", true),
            ("*", "anything.example", true),
            ("*", "192.0.2.1", true),
        ] {
            assert_eq!(covers(exception, host), expected, "{exception} and {host}");
        }
        for text in ["", "10.0.0.1/8", "gw.example:443", "http://gw.example", "10.0.0.256", "a b", "."] {
            assert_eq!(ProxyException::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn an_address_is_an_address_whatever_the_scheme() {
        let host = |url: &str| host_of(&Url::parse(url).unwrap()).unwrap();
        assert!(matches!(host("socks5h://192.0.2.1:1080"), Host::Ipv4(_)));
        assert!(matches!(host("socks5h://[2001:db8::1]:1080"), Host::Ipv6(_)));
        assert!(matches!(host("socks5h://proxy.example"), Host::Domain(_)));
    }
}
