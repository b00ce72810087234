//! The HTTP client of one gateway: which hosts it can reach, how it trusts them, and what a failure to reach them
//! means in words.
//!
//! Invariants: no proxy but the configured one, no redirect followed, no name resolved but the configured ones, no
//! address connected to outside the configured ranges, nothing retried, HTTP/1.1 only (one request a connection at a time, so "what left" has one meaning). It must not know
//! what it carries.

use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::header::{DATE, RETRY_AFTER};
use url::{Host, Url};

use crate::config::{self, TlsMin};
use crate::gateway::answer::Answer;
use crate::gateway::lookup::{Lookup, NotConfigured, Outside};
use crate::gateway::quote::quote;
use crate::gateway::{BuildError, Deferral};
use crate::verdict::DeferCause;

/// Answers longer than this are cut off, and then mean nothing.
pub(super) const ANSWER_BYTES: usize = 64 * 1024;
/// Common servers close an idle connection after 5 s at the earliest; a request written while they do is lost.
const IDLE_CONNECTION: Duration = Duration::from_secs(4);

#[derive(Debug)]
pub(super) struct Egress {
    pub(super) client: reqwest::Client,
    pub(super) connect_timeout: Duration,
    pub(super) request_timeout: Duration,
}

impl Egress {
    /// A client that reaches the hosts of `urls` and nothing else.
    pub(super) fn build(cfg: &config::Gateway, urls: &[&Url]) -> Result<Egress, BuildError> {
        for url in urls {
            check_scheme(url, cfg.allow_http)?;
        }
        let proxy = cfg.proxy.as_ref().map(parse_proxy).transpose()?;
        let reach = cfg.reach(urls);
        let lookup = Lookup::new(&reach, &cfg.network);
        for endpoint in &reach.endpoints {
            check_literal(&endpoint.host, &lookup)?;
        }
        let all_tls = urls.iter().all(|url| url.scheme() == "https");
        let tls_to_proxy = proxy.as_ref().is_some_and(|url| url.scheme() == "https");
        let any_tls = tls_to_proxy || urls.iter().any(|url| url.scheme() == "https");

        // `no_proxy` goes first: it also forgets proxies that were set before it.
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .http1_only()
            .https_only(all_tls)
            .tcp_nodelay(true)
            .connect_timeout(cfg.connect_timeout)
            .pool_idle_timeout(IDLE_CONNECTION)
            .pool_max_idle_per_host(cfg.concurrency.max(1))
            .referer(false)
            .dns_resolver(Arc::new(lookup))
            .local_address(cfg.network.source_address)
            .tls_version_min(match cfg.network.tls_min {
                TlsMin::V1_2 => reqwest::tls::Version::TLS_1_2,
                TlsMin::V1_3 => reqwest::tls::Version::TLS_1_3,
            })
            .user_agent(concat!("outboxd/", env!("CARGO_PKG_VERSION")));
        builder = trust(builder, cfg, any_tls)?;
        if let Some(identity) = identity(cfg)? {
            builder = builder.identity(identity);
        }
        if let Some(url) = proxy {
            let proxied = cfg.clone();
            builder = builder
                .proxy(reqwest::Proxy::custom(move |target| proxied.proxy_for(target).map(|_| url.clone())));
        }
        let client = builder.build().map_err(|error| BuildError::Client { reason: root_cause(&error) })?;
        Ok(Egress { client, connect_timeout: cfg.connect_timeout, request_timeout: cfg.request_timeout })
    }

    /// A request that is nobody's message (log-in, sender list, a look at the host): every failure is certain.
    pub(super) async fn call(&self, request: reqwest::Request, limit: usize) -> Result<Answer, Deferral> {
        let host = place_of(request.url());
        let exchange = async {
            let response = self.client.execute(request).await?;
            Ok(read_answer(response, limit).await)
        };
        match tokio::time::timeout(self.connect_timeout + self.request_timeout, exchange).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(connect_failure(&error, &host)),
            Err(_) => Err(Deferral::unreachable(format!("{host} did not answer in time"))),
        }
    }
}

/// `host:port`, for messages.
pub(super) fn place_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or("?");
    match url.port_or_known_default() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

fn check_scheme(url: &Url, allow_http: bool) -> Result<(), BuildError> {
    let loopback = match url.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    if url.scheme() == "https" || loopback || allow_http {
        Ok(())
    } else {
        Err(BuildError::PlainHttp { host: url.host_str().unwrap_or_default().to_owned() })
    }
}

fn proxy_error(reason: &str) -> BuildError {
    BuildError::Setting { setting: "proxy", reason: reason.to_owned() }
}

fn parse_proxy(proxy: &config::Secret) -> Result<Url, BuildError> {
    // The text may hold a password, so no parser's words about it are passed on.
    let url =
        Url::parse(proxy.expose()).map_err(|_| proxy_error("it is not a URL such as http://proxy:3128"))?;
    match url.scheme() {
        "http" | "https" | "socks5" | "socks5h" if url.host_str().is_some() => Ok(url),
        _ => {
            Err(proxy_error("it must start with http://, https://, socks5:// or socks5h:// and name a host"))
        }
    }
}

/// The resolver never sees an address that stands in a URL.
fn check_literal(host: &Host<String>, lookup: &Lookup) -> Result<(), BuildError> {
    let address = match host {
        Host::Ipv4(address) => IpAddr::V4(*address),
        Host::Ipv6(address) => IpAddr::V6(*address),
        Host::Domain(_) => return Ok(()),
    };
    if lookup.allows(address) {
        return Ok(());
    }
    let reason = format!("{address} is to be connected to and is not within the ranges");
    Err(BuildError::Setting { setting: "allowed_addresses", reason })
}

/// Sets whom to trust: the system's authorities and `ca_file`, or that alone. The client cannot even be built when the
/// system has none, so a gateway that needs no TLS, or brings its own authority, is built without the system's.
fn trust(
    builder: reqwest::ClientBuilder,
    cfg: &config::Gateway,
    any_tls: bool,
) -> Result<reqwest::ClientBuilder, BuildError> {
    let own = match &cfg.ca_file {
        None => Vec::new(),
        Some(path) => {
            let error = |reason: String| BuildError::CaFile { path: path.to_owned(), reason };
            let pem = std::fs::read(path).map_err(|source| error(source.to_string()))?;
            let certs = reqwest::Certificate::from_pem_bundle(&pem)
                .map_err(|_| error("it is not a PEM file with certificates".to_owned()))?;
            if certs.is_empty() {
                return Err(error("it holds no certificate".to_owned()));
            }
            certs
        }
    };
    if !any_tls || cfg.network.ca_exclusive {
        return Ok(builder.tls_certs_only(own));
    }
    let system_has_some = !rustls_native_certs::load_native_certs().certs.is_empty();
    match (system_has_some, own.is_empty()) {
        (true, _) => Ok(builder.tls_certs_merge(own)),
        (false, false) => Ok(builder.tls_certs_only(own)),
        (false, true) => Err(BuildError::NoCertificates),
    }
}

/// What we show to a gateway that asks who we are.
fn identity(cfg: &config::Gateway) -> Result<Option<reqwest::Identity>, BuildError> {
    let Some(files) = &cfg.network.client_certificate else { return Ok(None) };
    let read = |setting, path: &std::path::Path| {
        std::fs::read(path).map_err(|error| BuildError::Setting {
            setting,
            reason: format!("could not read {}: {error}", path.display()),
        })
    };
    let mut pem = read("client_certificate_file", &files.certificate_file)?;
    if files.key_file != files.certificate_file {
        pem.push(b'\n');
        pem.extend(read("client_key_file", &files.key_file)?);
    }
    // A parser's words might repeat a piece of the key.
    let identity = reqwest::Identity::from_pem(&pem).map_err(|_| BuildError::Setting {
        setting: "client_certificate_file",
        reason: "the files do not hold a certificate and its key without a passphrase, in PEM form"
            .to_owned(),
    })?;
    Ok(Some(identity))
}

/// Reads at most `limit` bytes of body. A body that is longer or breaks off makes the answer truncated, not an
/// error: the status has been received and means something by itself.
pub(super) async fn read_answer(mut response: reqwest::Response, limit: usize) -> Answer {
    let header = |name| response.headers().get(name).cloned();
    let mut answer = Answer {
        status: response.status().as_u16(),
        retry_after: header(RETRY_AFTER),
        date: header(DATE),
        body: bytes::Bytes::new(),
        truncated: false,
    };
    let mut body = BytesMut::new();
    loop {
        match response.chunk().await {
            Ok(None) => break,
            // Copied, although it is one chunk as a rule: a chunk is a piece of the connection's read buffer, and keeping
            // it would keep the whole buffer alive for a few words.
            Ok(Some(chunk)) if body.len() + chunk.len() <= limit => body.extend_from_slice(&chunk),
            Ok(Some(_)) | Err(_) => {
                answer.truncated = true;
                break;
            }
        }
    }
    answer.body = body.freeze();
    answer
}

/// Why a host could not be reached, told by walking the causes: the client has no kinds for most of this.
pub(super) fn connect_failure(error: &reqwest::Error, host: &str) -> Deferral {
    let (mut tls, mut dns) = (false, false);
    for inner in causes(error) {
        if inner.is::<NotConfigured>() {
            return Deferral::misconfigured(format!("{inner}, so it is never connected to"));
        }
        if inner.is::<Outside>() {
            let reason = format!(
                "{inner}, so it was not connected to; ask whoever runs the name server, or add the range"
            );
            return Deferral::unreachable(reason);
        }
        let text = inner.to_string();
        if let Some(deferral) = proxy_failure(&text, host) {
            return deferral;
        }
        tls |= inner.is::<rustls::Error>();
        dns |= text == "dns error";
    }
    let root = root_cause(error);
    Deferral::unreachable(if dns {
        format!("the name in {host} could not be resolved ({root}); check the name and this host's DNS")
    } else if tls {
        format!(
            "no TLS connection to {host} ({root}); if a proxy inspects TLS, name its authority in ca_file"
        )
    } else if error.is_timeout() {
        format!("no connection to {host} in time; check that the firewall lets this host connect there")
    } else {
        format!(
            "no connection to {host} ({root}); check that it runs and the firewall lets this host connect"
        )
    })
}

/// What a proxy has said, by the client's words for it.
fn proxy_failure(text: &str, host: &str) -> Option<Deferral> {
    let not_this_way = format!("the proxy refused to connect to {host}; ask for {host} to be allowed there");
    if text.contains("proxy authorization required") {
        let reason = "the proxy wants a log-in (407); check user and password in proxy";
        return Some(Deferral::misconfigured(reason.to_owned()));
    }
    if text.starts_with("tunnel error: unsuccessful") {
        return Some(Deferral::unreachable(not_this_way));
    }
    Some(match text.strip_prefix("SOCKS error: ")? {
        "credentials not accepted" | "server does not support user/pass authentication" => {
            let reason = "the proxy does not accept this log-in; check user and password in proxy";
            Deferral::misconfigured(reason.to_owned())
        }
        "connection not allowed" => Deferral::unreachable(not_this_way),
        status @ ("general server failure"
        | "network unreachable"
        | "host unreachable"
        | "connection refused") => {
            let reason = format!("the proxy could not reach {host} ({status}); ask whoever runs the proxy");
            Deferral::unreachable(reason)
        }
        _ => return None,
    })
}

/// The innermost cause: the outer ones repeat the URL, which may hold a password.
pub(super) fn root_cause(error: &reqwest::Error) -> String {
    causes(error).last().map_or_else(|| "request failed".to_owned(), |inner| quote(&inner.to_string()))
}

/// What lies behind an error, outermost first. An `io::Error` that wraps another error leaves that one out of its
/// own `source`, and TLS errors come wrapped so.
fn causes<'e>(error: &'e reqwest::Error) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    let deeper = |outer: &&'e (dyn Error + 'static)| -> Option<&'e (dyn Error + 'static)> {
        let outer: &'e (dyn Error + 'static) = *outer;
        match outer.downcast_ref::<io::Error>() {
            Some(io) => io.get_ref().map(|inner| inner as &(dyn Error + 'static)),
            None => outer.source(),
        }
    };
    std::iter::successors(error.source(), deeper)
}

impl Deferral {
    pub(super) fn unreachable(reason: String) -> Deferral {
        Deferral { cause: DeferCause::Unreachable, retry_after: None, reason }
    }

    pub(super) fn misconfigured(reason: String) -> Deferral {
        Deferral { cause: DeferCause::Misconfigured, retry_after: None, reason }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use url::Url;

    use super::{Egress, connect_failure};
    use crate::config::{Network, Reach};
    use crate::gateway::lookup::Lookup;
    use crate::verdict::DeferCause;

    #[tokio::test]
    async fn a_request_to_another_host_is_a_matter_of_configuration() {
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([])
            .dns_resolver(std::sync::Arc::new(Lookup::new(
                &Reach { lookups: ["gw.example.test".to_owned()].into(), ..Reach::default() },
                &Network::default(),
            )))
            .build()
            .unwrap();
        let egress = Egress {
            client,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(5),
        };
        let url = Url::parse("http://other.example.test/?password=s3cret").unwrap();
        let request = reqwest::Request::new(reqwest::Method::GET, url.clone());
        let error = egress.client.execute(request).await.unwrap_err();
        let deferral = connect_failure(&error, "other.example.test:80");
        assert_eq!(deferral.cause, DeferCause::Misconfigured);
        assert!(deferral.reason.contains("other.example.test"), "{deferral}");
        assert!(!deferral.reason.contains("s3cret"), "{deferral}");
    }
}
