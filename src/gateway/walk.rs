//! Walks the way to a gateway hop by hop, as its client would take it, and says of each hop what it came to: name,
//! connection, proxy, TLS. Connects to nothing that the client would not connect to, and sends no credentials of the gateway.
//!
//! The client itself tells only the end of the way; people need to know where it broke off, and who can mend it.

mod proxy;
mod tls;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncRead, AsyncWrite};
use url::Url;

use crate::config::{self, host_of};
use crate::gateway::lookup::{Lookup, NotConfigured, Outside};
use crate::hop::certificate::Shown;
use crate::hop::handshake::Refusal;
use crate::hop::{Trouble, connect};

/// What bytes go over, whatever lies in between.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}
type Io = Box<dyn Stream>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    Name,
    Tcp,
    Proxy,
    Tls,
}

impl Hop {
    pub fn as_str(self) -> &'static str {
        match self {
            Hop::Name => "name",
            Hop::Tcp => "tcp",
            Hop::Proxy => "proxy",
            Hop::Tls => "tls",
        }
    }
}

/// What a hop failed of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    Network(Trouble),
    /// The name leads outside `allowed_addresses`.
    Outside,
    /// No addresses of it may be asked for.
    NotConfigured,
    /// The proxy wants a log-in that it was not given, or not the one that it was given.
    ProxyLogin,
    /// The proxy's rules do not let us there.
    ProxyForbids,
    /// The proxy did not get there either.
    ProxyFailed,
    /// What answers there is no such proxy.
    NoProxy,
    /// What answers there speaks no TLS.
    NoTls,
    /// No version or cipher in common.
    OldTls,
    /// No chain to an authority that is trusted here.
    UnknownIssuer,
    WrongName,
    Expired,
    NotYetValid,
    /// The certificate is good by the gateway's clock, and not by ours.
    WrongClock,
    /// It wants to know who we are.
    WantsCertificate,
    Tls,
}

impl Problem {
    /// One word, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Problem::Network(trouble) => trouble.code(),
            Problem::Outside => "outside_allowed_addresses",
            Problem::NotConfigured => "not_configured",
            Problem::ProxyLogin => "proxy_login",
            Problem::ProxyForbids => "proxy_forbids",
            Problem::ProxyFailed => "proxy_failed",
            Problem::NoProxy => "no_proxy",
            Problem::NoTls => "no_tls",
            Problem::OldTls => "old_tls",
            Problem::UnknownIssuer => "unknown_issuer",
            Problem::WrongName => "wrong_name",
            Problem::Expired => "expired",
            Problem::NotYetValid => "not_yet_valid",
            Problem::WrongClock => "wrong_clock",
            Problem::WantsCertificate => "wants_certificate",
            Problem::Tls => "tls",
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        match refusal {
            Refusal::NoTls => Problem::NoTls,
            Refusal::OldTls => Problem::OldTls,
            Refusal::UnknownIssuer => Problem::UnknownIssuer,
            Refusal::WrongName => Problem::WrongName,
            Refusal::Expired => Problem::Expired,
            Refusal::NotYetValid => Problem::NotYetValid,
            Refusal::WantsCertificate => Problem::WantsCertificate,
            Refusal::Other => Problem::Tls,
        }
    }
}

/// Where a hop leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub host: String,
    pub port: u16,
    /// `https`, `http`, `socks5` and so on.
    pub scheme: String,
    /// What its name resolved to.
    pub addresses: Vec<IpAddr>,
    /// It is a proxy.
    pub is_proxy: bool,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = &self.host;
        if host.contains(':') && !host.starts_with('[') {
            return write!(f, "[{host}]:{}", self.port);
        }
        write!(f, "{host}:{}", self.port)
    }
}

/// One hop and what it came to.
#[derive(Debug, Clone)]
pub struct Step {
    pub hop: Hop,
    pub place: Place,
    /// Behind which proxy it lies.
    pub through: Option<Place>,
    /// In words, and what kind of failure it is.
    pub outcome: Result<String, (Problem, String)>,
    /// What was shown in TLS, the host's own certificate first.
    pub chain: Vec<Shown>,
}

/// The ways to all hosts that this gateway's client talks to. `note` is told each hop before it is tried. A way ends with
/// the first hop that fails.
pub async fn walk(cfg: &config::Gateway, note: &(dyn Fn(String) + Sync)) -> Vec<Step> {
    let mut origins: Vec<Url> = Vec::new();
    for mut url in cfg.dialect.urls() {
        url.set_path("/");
        url.set_query(None);
        if !origins.contains(&url) {
            origins.push(url);
        }
    }
    let mut steps = Vec::new();
    for origin in origins {
        let mut walk = Walk::new(cfg, note, &origin);
        // Failed hops stand among the steps.
        let _ = walk.to(&origin).await;
        steps.append(&mut walk.steps);
    }
    steps
}

/// The way ends here; why stands in the last step.
struct Ended;

struct Walk<'a> {
    cfg: &'a config::Gateway,
    note: &'a (dyn Fn(String) + Sync),
    lookup: Lookup,
    steps: Vec<Step>,
}

impl<'a> Walk<'a> {
    fn new(cfg: &'a config::Gateway, note: &'a (dyn Fn(String) + Sync), origin: &Url) -> Walk<'a> {
        Walk { cfg, note, lookup: Lookup::new(&cfg.reach(&[origin]), &cfg.network), steps: Vec::new() }
    }

    async fn to(&mut self, origin: &Url) -> Result<(), Ended> {
        let proxy = self.cfg.proxy_for(origin).and_then(|proxy| Url::parse(proxy.expose()).ok());
        let mut target = place(origin, false);
        let Some(proxy) = proxy else {
            let io = self.reach(&mut target, None).await?;
            return self.secure(origin, io, &target, None).await;
        };
        let mut through = place(&proxy, true);
        let mut io = self.reach(&mut through, None).await?;
        if proxy.scheme() == "https" {
            io = self.tls(io, &through, None).await?;
        }
        let socks = proxy.scheme().starts_with("socks");
        if !socks && origin.scheme() == "http" {
            // Such a proxy is told with each request; the gateway's own answer shows what it says.
            return Ok(());
        }
        if proxy.scheme() == "socks5" {
            // Told an address, so the name is looked up here.
            self.name(&mut target, Some(&through)).await?;
        }
        (self.note)(format!("asking the proxy {through} for {target}"));
        let asked = if socks {
            self.limited(proxy::socks5(io, &proxy, &target)).await
        } else {
            self.limited(proxy::connect(io, &proxy, &target)).await
        };
        let said = asked.map(|io| (format!("{through} lets us through to {target}"), io));
        let io = self.step(Hop::Proxy, &through, None, said)?;
        self.secure(origin, io, &target, Some(&through)).await
    }

    /// Name and connection.
    async fn reach(&mut self, place: &mut Place, through: Option<&Place>) -> Result<Io, Ended> {
        self.name(place, through).await?;
        (self.note)(format!("connecting to {place}"));
        let addresses: Vec<SocketAddr> =
            place.addresses.iter().map(|address| SocketAddr::new(*address, place.port)).collect();
        let connected = connect(&addresses, self.cfg.network.source_address, self.cfg.connect_timeout).await;
        let said = match connected {
            Ok((stream, address, tried)) => {
                let others = if tried.is_empty() { String::new() } else { format!("; {}", told(&tried)) };
                Ok((format!("connected to {address}{others}"), Box::new(stream) as Io))
            }
            Err(tried) => {
                let worst = tried.last().map_or(Trouble::NoSuchName, |(_, trouble)| trouble.clone());
                Err((Problem::Network(worst), told(&tried)))
            }
        };
        self.step(Hop::Tcp, place, through, said)
    }

    async fn name(&mut self, place: &mut Place, through: Option<&Place>) -> Result<(), Ended> {
        if let Ok(address) = place.host.trim_matches(['[', ']']).parse() {
            place.addresses = vec![address];
            return Ok(());
        }
        (self.note)(format!("looking up {}", place.host));
        let found = match tokio::time::timeout(self.cfg.connect_timeout, self.lookup.find(&place.host)).await
        {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => Err(lookup_problem(&*error)),
            Err(_) => {
                Err((Problem::Network(Trouble::NameServerSilent), Trouble::NameServerSilent.to_string()))
            }
        };
        let said = found.map(|found| {
            let mut addresses: Vec<IpAddr> = found.iter().map(SocketAddr::ip).collect();
            addresses.dedup();
            let listed: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            let pinned = if self.cfg.network.pinned(&place.host).is_some() { ", as configured" } else { "" };
            (format!("{} is {}{pinned}", place.host, listed.join(", ")), addresses)
        });
        place.addresses = self.step(Hop::Name, place, through, said)?;
        Ok(())
    }

    async fn secure(
        &mut self,
        origin: &Url,
        io: Io,
        target: &Place,
        through: Option<&Place>,
    ) -> Result<(), Ended> {
        if origin.scheme() != "https" {
            return Ok(());
        }
        self.tls(io, target, through).await.map(drop)
    }

    async fn tls(&mut self, io: Io, place: &Place, through: Option<&Place>) -> Result<Io, Ended> {
        (self.note)(format!("setting up TLS with {place}"));
        let shaken = tls::shake_hands(io, place, self.cfg).await;
        let said = shaken.outcome.map(|(version, io)| {
            let certificate = shaken.chain.first().map(ToString::to_string).unwrap_or_default();
            (format!("{version}; {certificate}"), io)
        });
        let io = self.step(Hop::Tls, place, through, said);
        if let Some(step) = self.steps.last_mut() {
            step.chain = shaken.chain;
        }
        io
    }

    async fn limited<T>(
        &self,
        work: impl Future<Output = Result<T, (Problem, String)>>,
    ) -> Result<T, (Problem, String)> {
        match tokio::time::timeout(self.cfg.connect_timeout, work).await {
            Ok(done) => done,
            Err(_) => Err((
                Problem::Network(Trouble::Timeout),
                format!("connected, and then nothing for {:?}", self.cfg.connect_timeout),
            )),
        }
    }

    fn step<T>(
        &mut self,
        hop: Hop,
        place: &Place,
        through: Option<&Place>,
        outcome: Result<(String, T), (Problem, String)>,
    ) -> Result<T, Ended> {
        let (outcome, next) = match outcome {
            Ok((said, next)) => (Ok(said), Ok(next)),
            Err(fault) => (Err(fault), Err(Ended)),
        };
        let (place, through) = (place.clone(), through.cloned());
        self.steps.push(Step { hop, place, through, outcome, chain: Vec::new() });
        next
    }
}

fn place(url: &Url, is_proxy: bool) -> Place {
    let socks = url.scheme().starts_with("socks").then_some(1080);
    Place {
        host: host_of(url).map(|host| host.to_string()).unwrap_or_default(),
        port: url.port_or_known_default().or(socks).unwrap_or(0),
        scheme: url.scheme().to_owned(),
        addresses: Vec::new(),
        is_proxy,
    }
}

/// `192.0.2.1:443: connection refused; [2001:db8::1]:443: no answer in time`.
fn told(tried: &[(SocketAddr, Trouble)]) -> String {
    tried.iter().map(|(address, trouble)| format!("{address}: {trouble}")).collect::<Vec<_>>().join("; ")
}

fn lookup_problem(error: &(dyn std::error::Error + Send + Sync + 'static)) -> (Problem, String) {
    if error.is::<Outside>() {
        return (Problem::Outside, error.to_string());
    }
    if error.is::<NotConfigured>() {
        return (Problem::NotConfigured, error.to_string());
    }
    let trouble = error
        .downcast_ref::<io::Error>()
        .map_or_else(|| Trouble::Other(error.to_string()), Trouble::of_lookup);
    (Problem::Network(trouble.clone()), trouble.to_string())
}

/// What broke off while something was said.
fn broke(error: &io::Error, what: &str) -> (Problem, String) {
    let trouble = Trouble::of_connection(error);
    let words = match trouble {
        Trouble::Reset if error.kind() == io::ErrorKind::UnexpectedEof => {
            "it closed the connection".to_owned()
        }
        ref other => other.to_string(),
    };
    (Problem::Network(trouble), format!("connected, and then {what}: {words}"))
}
