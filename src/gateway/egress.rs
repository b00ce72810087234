//! The HTTP client of one gateway: which hosts it can reach, how it trusts them, and what a failure to reach them
//! means in words.
//!
//! Invariants: no environment proxy, no redirect followed, no name resolved but the configured ones, nothing
//! retried, HTTP/1.1 only (one request a connection at a time, so "what left" has one meaning). It must not know
//! what it carries.

use std::collections::BTreeSet;
use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::header::{DATE, RETRY_AFTER};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use crate::config;
use crate::gateway::answer::Answer;
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
        let hosts =
            urls.iter().copied().chain(proxy.as_ref()).filter_map(|url| url.host_str().map(lower)).collect();
        let all_tls = urls.iter().all(|url| url.scheme() == "https");
        let any_tls = urls.iter().any(|url| url.scheme() == "https");

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
            .dns_resolver(Arc::new(OnlyThese { hosts }))
            .user_agent(concat!("outboxd/", env!("CARGO_PKG_VERSION")));
        builder = trust(builder, cfg.ca_file.as_deref(), any_tls)?;
        if let Some(url) = proxy {
            let proxy = reqwest::Proxy::all(url).map_err(|_| proxy_error("it is not a proxy's URL"))?;
            builder = builder.proxy(proxy);
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

fn lower(host: &str) -> String {
    host.to_ascii_lowercase()
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

/// Sets whom to trust: the system's authorities and `ca_file`. The client cannot even be built when the system has
/// none, so a gateway that needs no TLS, or brings its own authority, is built without looking at the system's.
fn trust(
    builder: reqwest::ClientBuilder,
    ca_file: Option<&Path>,
    any_tls: bool,
) -> Result<reqwest::ClientBuilder, BuildError> {
    let own = match ca_file {
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
    if !any_tls {
        return Ok(builder.tls_certs_only(own));
    }
    let system_has_some = !rustls_native_certs::load_native_certs().certs.is_empty();
    match (system_has_some, own.is_empty()) {
        (true, _) => Ok(builder.tls_certs_merge(own)),
        (false, false) => Ok(builder.tls_certs_only(own)),
        (false, true) => Err(BuildError::NoCertificates),
    }
}

/// Resolves the configured names and no other. Literal addresses never come here: they can only stand in the
/// configured URLs, because redirects are not followed.
struct OnlyThese {
    hosts: BTreeSet<String>,
}

#[derive(Debug, thiserror::Error)]
#[error("{0} is not one of the configured hosts")]
struct NotConfigured(String);

impl Resolve for OnlyThese {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_owned();
        let allowed = self.hosts.contains(&lower(&host));
        Box::pin(async move {
            if !allowed {
                return Err(NotConfigured(host).into());
            }
            // Port 0 is replaced by the port of the URL.
            let addresses: Vec<_> = tokio::net::lookup_host((host, 0)).await?.collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
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
        let text = inner.to_string();
        if text.contains("proxy authorization required") {
            let reason = "the proxy wants a log-in (407); check user and password in proxy";
            return Deferral::misconfigured(reason.to_owned());
        }
        if text.starts_with("tunnel error: unsuccessful") {
            let reason =
                format!("the proxy refused to connect to {host}; ask for {host} to be allowed there");
            return Deferral::unreachable(reason);
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
    use std::str::FromStr;
    use std::time::Duration;

    use reqwest::dns::{Name, Resolve};
    use url::Url;

    use super::{Egress, NotConfigured, OnlyThese, connect_failure, lower};
    use crate::verdict::DeferCause;

    fn only(host: &str) -> OnlyThese {
        OnlyThese { hosts: [lower(host)].into() }
    }

    #[tokio::test]
    async fn only_configured_names_are_resolved() {
        let resolver = only("LocalHost");
        let found = resolver.resolve(Name::from_str("LOCALHOST").unwrap()).await.unwrap();
        assert!(found.count() > 0);
        let Err(error) = resolver.resolve(Name::from_str("localhost.example.test").unwrap()).await else {
            panic!("another name was resolved");
        };
        assert!(error.is::<NotConfigured>());
    }

    #[tokio::test]
    async fn a_request_to_another_host_is_a_matter_of_configuration() {
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([])
            .dns_resolver(std::sync::Arc::new(only("gw.example.test")))
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
