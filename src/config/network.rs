//! `[gateway.NAME]`: where the gateway's client may connect to, through what, and how it shows itself there.
//!
//! Addresses that stand in the file are judged here; what names resolve to is judged when they are looked up.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;

use url::{Host, Url};

use super::callbacks::ranges;
use super::raw::{At, RawGateway};
use super::reach::{host_of, plain_name};
use super::reader::{Reader, Reported, is_disguised};
use super::secret::SecretKeys;
use super::{ClientCertificate, Dialect, Gateway, Network, ProxyException, Secret, TlsMin};

/// What stands for the proxies that the environment names.
const ENVIRONMENT: &str = "env";

pub(super) fn network(reader: &mut Reader<'_>, raw: &RawGateway) -> Result<Network, Reported> {
    let versions = [("1.2", TlsMin::V1_2), ("1.3", TlsMin::V1_3)];
    let tls_min = reader.choice("tls_min", &raw.tls_min, &versions);
    let proxy_except: Result<Vec<_>, _> =
        raw.proxy_except.iter().flatten().map(|at| exception(reader, at)).collect();
    let allowed_addresses = ranges(reader, "allowed_addresses", raw.allowed_addresses.as_ref());
    let source_address = raw.source_address.as_ref().map(|at| address(reader, "source_address", at));
    let pinned = pinned(reader, raw);
    let client_certificate = client_certificate(reader, raw);
    if let Some(at) = raw.ca_exclusive.as_ref().filter(|at| at.value && raw.ca_file.is_none()) {
        reader.wrong(
            &at.span,
            "`ca_exclusive` needs `ca_file`",
            "nobody would be trusted",
            "name the PEM file of the one authority to trust in ca_file",
        );
    }
    Ok(Network {
        proxy_except: proxy_except?,
        allowed_addresses: allowed_addresses?,
        addresses: pinned?,
        source_address: source_address.transpose()?,
        tls_min: tls_min?.unwrap_or_default(),
        ca_exclusive: reader.flag(&raw.ca_exclusive, false),
        client_certificate: client_certificate?,
    })
}

fn exception(reader: &mut Reader<'_>, at: &At<String>) -> Result<ProxyException, Reported> {
    ProxyException::parse(&at.value).ok_or_else(|| {
        reader.wrong(
            &at.span,
            "`proxy_except` holds something that is no host",
            "not understood",
            "for example \"gw.example\", \".example\", \"10.0.0.0/8\" or a single address, without a port",
        )
    })
}

fn address(reader: &mut Reader<'_>, name: &str, at: &At<String>) -> Result<IpAddr, Reported> {
    at.value.parse().map_err(|_| {
        reader.wrong(
            &at.span,
            format!("`{name}` holds something that is no address"),
            "not understood",
            "for example \"198.51.100.7\" or \"2001:db8::7\"",
        )
    })
}

fn pinned(reader: &mut Reader<'_>, raw: &RawGateway) -> Result<BTreeMap<String, Vec<IpAddr>>, Reported> {
    let mut pinned = BTreeMap::new();
    let mut result = Ok(());
    for (name, ats) in raw.addresses.iter().flatten() {
        match ats.value.iter().map(|at| address(reader, "addresses", at)).collect::<Result<Vec<_>, _>>() {
            Ok(found) if found.is_empty() => {
                result = Err(reader.wrong(
                    &ats.span,
                    "`addresses` names a host without an address",
                    "none here",
                    "for example [\"198.51.100.7\"]; leave the host out to have it looked up",
                ));
            }
            Ok(found) => {
                pinned.insert(plain_name(name), found);
            }
            Err(reported) => result = Err(reported),
        }
    }
    result.map(|()| pinned)
}

fn client_certificate(
    reader: &mut Reader<'_>,
    raw: &RawGateway,
) -> Result<Option<ClientCertificate>, Reported> {
    match (&raw.client_certificate_file, &raw.client_key_file) {
        (Some(certificate), key) => Ok(Some(ClientCertificate {
            certificate_file: reader.surroundings().path(&certificate.value),
            key_file: reader.private_key(key.as_ref().unwrap_or(certificate))?,
        })),
        (None, None) => Ok(None),
        (None, Some(at)) => Err(reader.wrong(
            &at.span,
            "`client_key_file` needs `client_certificate_file`",
            "the key of what?",
            "name the PEM file with the certificate",
        )),
    }
}

/// Judges what only all keys together tell: literal addresses, and names that nobody asks for.
pub(super) fn judge(reader: &mut Reader<'_>, raw: &RawGateway, gateway: &Gateway) {
    let urls = gateway.dialect.urls();
    let urls: Vec<&Url> = urls.iter().collect();
    let reach = gateway.reach(&urls);
    let network = &gateway.network;
    let allows = |address: &IpAddr| network.allowed_addresses.iter().any(|range| range.holds(*address));
    let limited = raw.allowed_addresses.as_ref().filter(|_| !network.allowed_addresses.is_empty());
    if let Some(span) = limited.and_then(|ats| span_of(ats)) {
        let literal = reach.endpoints.iter().filter_map(|endpoint| match endpoint.host {
            Host::Ipv4(address) => Some(IpAddr::V4(address)),
            Host::Ipv6(address) => Some(IpAddr::V6(address)),
            Host::Domain(_) => None,
        });
        let outside: Vec<IpAddr> =
            literal.chain(network.addresses.values().flatten().copied()).filter(|a| !allows(a)).collect();
        if let Some(address) = outside.first() {
            reader.wrong(
                &span,
                format!("{address} is configured, and `allowed_addresses` leaves it out"),
                "the gateway could not be reached",
                "the ranges must hold the addresses of the gateway's hosts, and of its proxy",
            );
        }
    }
    for (name, at) in raw.addresses.iter().flatten() {
        let asked =
            |host: &Host<String>| matches!(host, Host::Domain(host) if plain_name(host) == plain_name(name));
        let through = urls.iter().filter_map(|url| host_of(url)).any(|host| asked(&host));
        if !through && !reach.endpoints.iter().any(|endpoint| asked(&endpoint.host)) {
            let hosts: Vec<String> = reach.endpoints.iter().map(|e| e.host.to_string()).collect();
            reader.wrong(
                &at.span,
                "`addresses` names a host that this gateway has nothing to do with",
                "has no effect",
                format!("it connects to {}", hosts.join(", ")),
            );
        }
    }
}

fn span_of<T>(ats: &[At<T>]) -> Option<Range<usize>> {
    Some(ats.first()?.span.clone())
}

/// The proxy, and what the environment excepts from it where the environment is asked.
pub(super) fn proxy(
    reader: &mut Reader<'_>,
    section: &[&str],
    raw: &RawGateway,
    dialect: Option<&Dialect>,
) -> Result<(Option<Secret>, Vec<ProxyException>), Reported> {
    let Some(at) = [&raw.proxy, &raw.proxy_file, &raw.proxy_credential, &raw.proxy_env]
        .into_iter()
        .find_map(Option::as_ref)
    else {
        return if reader.was_cut(section, "proxy") { Err(Reported) } else { Ok((None, Vec::new())) };
    };
    let alone = raw.proxy_file.is_none() && raw.proxy_credential.is_none() && raw.proxy_env.is_none();
    // A proxy without a password is no secret and may stand in a file that others read.
    let open = raw.proxy.as_ref().filter(|inline| alone && !inline.value.contains('@'));
    match open {
        Some(inline) if inline.value == ENVIRONMENT => of_environment(reader, inline, dialect),
        Some(inline) => {
            Ok((Some(usable(reader, at, Secret::new(inline.value.clone()), "`proxy`")?), Vec::new()))
        }
        None => {
            let keys = SecretKeys {
                name: "proxy",
                inline: &raw.proxy,
                file: &raw.proxy_file,
                credential: &raw.proxy_credential,
                env: &raw.proxy_env,
            };
            let Some(secret) = reader.secret(section, keys)? else { return Ok((None, Vec::new())) };
            Ok((Some(usable(reader, at, secret, "`proxy`")?), Vec::new()))
        }
    }
}

fn usable(reader: &mut Reader<'_>, at: &At<String>, secret: Secret, name: &str) -> Result<Secret, Reported> {
    let known = Url::parse(secret.expose()).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https" | "socks5" | "socks5h") && url.host().is_some()
    });
    match known {
        None => Err(reader.wrong(
            &at.span,
            format!("{name} is not the URL of a proxy"),
            "not understood",
            "for example \"http://proxy.example:3128\", \"socks5h://proxy.example:1080\"",
        )),
        Some(url) if is_disguised(secret.expose(), &url) => Err(reader.wrong(
            &at.span,
            format!("{name} hides its host behind another spelling"),
            format!("this is {}", url.host_str().unwrap_or_default()),
            "write the host in its usual form, so that everybody sees where messages go",
        )),
        Some(_) => Ok(secret),
    }
}

/// As other programs read them: the variable for the gateway's scheme, else the one for all; lower case first.
fn of_environment(
    reader: &mut Reader<'_>,
    at: &At<String>,
    dialect: Option<&Dialect>,
) -> Result<(Option<Secret>, Vec<ProxyException>), Reported> {
    let variable = |reader: &Reader<'_>, name: &str| -> Option<String> {
        let value = |name: &str| (reader.surroundings().env)(name).filter(|value| !value.trim().is_empty());
        value(name).or_else(|| value(&name.to_ascii_uppercase()))
    };
    let schemes: Vec<String> =
        dialect.map(Dialect::urls).unwrap_or_default().iter().map(|url| url.scheme().to_owned()).collect();
    let mut found: Vec<Option<String>> = schemes
        .iter()
        .map(|scheme| variable(reader, &format!("{scheme}_proxy")).or_else(|| variable(reader, "all_proxy")))
        .collect();
    found.dedup();
    let proxy = match found.as_slice() {
        [] | [None] => return Ok((None, Vec::new())),
        [Some(one)] => one.trim(),
        _ => {
            return Err(reader.wrong(
                &at.span,
                "the environment has different proxies for http and https, and the gateway uses both",
                "which one?",
                "give the URL of the proxy here",
            ));
        }
    };
    let url = if proxy.contains("://") { proxy.to_owned() } else { format!("http://{proxy}") };
    let secret = usable(reader, at, Secret::new(url), "the environment's proxy")?;
    let mut exceptions = Vec::new();
    for word in variable(reader, "no_proxy").unwrap_or_default().split([',', ' ']).filter(|w| !w.is_empty()) {
        let Some(exception) = ProxyException::parse(word) else {
            return Err(reader.wrong(
                &at.span,
                "the environment's NO_PROXY holds something that is no host",
                format!("`{word}` is not understood"),
                "names, ranges such as 10.0.0.0/8 and addresses, without ports",
            ));
        };
        exceptions.push(exception);
    }
    Ok((Some(secret), exceptions))
}
