//! The way to each gateway in `outboxd check`, hop by hop, then log-in and senders: what each hop came to, what to do, and
//! the sentence to send to whoever runs the network.

use futures_util::future::join_all;

use crate::cli::check::network::{Here, Way};
use crate::cli::check::outside::logged_in;
use crate::cli::check::progress::Progress;
use crate::cli::check::{Fault, Finding};
use crate::config::{self, Config};
use crate::gateway::Gateway;
use crate::gateway::walk::{Hop, Problem, Step, walk};
use crate::hop::Trouble;

/// All at once: one that does not answer takes its whole time limit.
pub(super) async fn check(config: &Config, gateways: &[Gateway], progress: &Progress) -> Vec<Finding> {
    let checks = gateways.iter().map(async |gateway| {
        let Some(cfg) = config.gateways.get(gateway.name()) else { return Vec::new() };
        one(config, cfg, gateway, progress).await
    });
    join_all(checks).await.into_iter().flatten().collect()
}

async fn one(config: &Config, cfg: &config::Gateway, gateway: &Gateway, progress: &Progress) -> Vec<Finding> {
    let line = progress.line(format!("gateway {}", cfg.name));
    let steps = walk(cfg, &|what| line.say(&what)).await;
    let arrived = steps.iter().all(|step| step.outcome.is_ok());
    let mut findings = Vec::new();
    for step in &steps {
        findings.push(finding(&cfg.name, step).await);
    }
    if arrived {
        line.say("asking who we are");
        findings.extend(logged_in(config, gateway).await);
    }
    findings
}

async fn finding(gateway: &str, step: &Step) -> Finding {
    let name = format!("gateway {gateway}: {}", step.hop.as_str());
    let way = Way::of(&step.place);
    let mut finding = match &step.outcome {
        Ok(said) => Finding::ok(name, said),
        Err((problem, said)) => {
            let here = Here::towards(step.place.addresses.first().copied()).await;
            let (fault, advice) = advice(gateway, step, problem);
            let mut finding = match fault {
                Fault::Wrong => Finding::wrong(name, detail(step, said), advice),
                Fault::Unreachable => Finding::unreachable(name, detail(step, said), advice),
            };
            finding.problem = Some(problem.code());
            finding.network_team = request(step, problem, said, &here);
            finding.tried = Some(here);
            finding
        }
    };
    finding.way = Some(way);
    finding.certificates.clone_from(&step.chain);
    finding
}

fn detail(step: &Step, said: &str) -> String {
    let place = &step.place;
    match &step.through {
        Some(proxy) => format!("{place}, through the proxy {proxy}: {said}"),
        None if place.is_proxy => format!("proxy {place}: {said}"),
        None => format!("{place}: {said}"),
    }
}

fn advice(gateway: &str, step: &Step, problem: &Problem) -> (Fault, String) {
    let section = format!("[gateway.{gateway}]");
    let is_proxy = step.place.is_proxy;
    let what = if is_proxy { "proxy" } else { "the addresses" };
    let ask = "send the network team the sentence below";
    let or_proxy = if is_proxy {
        String::new()
    } else {
        format!("; if only a proxy may connect to the outside, set proxy in {section}")
    };
    match problem {
        Problem::Network(trouble) => match trouble {
            Trouble::NoSuchName => (
                Fault::Unreachable,
                format!("check the name in {section} {what}; if it is right, {ask}{or_proxy}"),
            ),
            Trouble::NameServerSilent => {
                (Fault::Unreachable, "look at /etc/resolv.conf; if it is right, send the network team the sentence below".to_owned())
            }
            Trouble::Timeout if step.hop == Hop::Tcp => {
                (Fault::Unreachable, format!("a firewall on the way drops it: {ask}{or_proxy}"))
            }
            Trouble::Timeout => (
                Fault::Unreachable,
                format!("it is connected to and does not go on, as with a firewall or proxy that holds it: {ask}"),
            ),
            Trouble::Refused => (
                Fault::Unreachable,
                format!("nobody listens there, or a firewall rejects it: check host and port in {section}; if they are right, {ask}{or_proxy}"),
            ),
            Trouble::Reset if step.hop == Hop::Tls => (
                Fault::Unreachable,
                format!("cut off when it saw which host is wanted, as firewalls do that look into TLS: {ask}"),
            ),
            Trouble::Reset => (Fault::Unreachable, format!("cut off on the way: {ask}{or_proxy}")),
            Trouble::NoRoute => (
                Fault::Unreachable,
                format!("look at `ip route get`; if there is a route, a firewall rejects it: {ask}{or_proxy}"),
            ),
            Trouble::NotPermitted => (
                Fault::Wrong,
                "this host's own rules forbid it: `nft list ruleset`, and IPAddressAllow of the unit; `outboxd egress` \
                 prints what must be open"
                    .to_owned(),
            ),
            Trouble::NoSuchSource => {
                (Fault::Wrong, format!("correct source_address in {section}: `ip address` shows what there is"))
            }
            Trouble::Other(_) => (Fault::Unreachable, format!("check {section}, then {ask}")),
        },
        Problem::Outside => (
            Fault::Unreachable,
            format!("whoever runs the name server has to say why; if it is right, add the range to allowed_addresses in {section}"),
        ),
        Problem::NotConfigured => (Fault::Wrong, format!("correct the addresses in {section}")),
        Problem::ProxyLogin => (
            Fault::Wrong,
            format!("check user and password in proxy of {section} (proxy_file …); a character such as @ is written %40 there"),
        ),
        Problem::ProxyForbids | Problem::ProxyFailed => {
            (Fault::Unreachable, "send whoever runs the proxy the sentence below".to_owned())
        }
        Problem::NoProxy => {
            (Fault::Wrong, format!("correct scheme and port of proxy in {section}: http://, https://, socks5:// or socks5h://"))
        }
        Problem::NoTls => (
            Fault::Unreachable,
            format!("check host and port in {section}; if they are right, a proxy or a log-in page of the network stands in between: {ask}"),
        ),
        Problem::OldTls => (
            Fault::Unreachable,
            format!("tls_min in {section} is met by neither the gateway nor whoever stands in between"),
        ),
        Problem::UnknownIssuer => unknown_issuer(&section, step),
        Problem::WrongName => (
            Fault::Unreachable,
            format!("check the name in {section}; if it is right, somebody else answers for it: {ask}"),
        ),
        Problem::Expired => (
            Fault::Unreachable,
            "if this host's clock is right (`timedatectl`), whoever runs the gateway, or a proxy that inspects TLS, must renew it".to_owned(),
        ),
        Problem::NotYetValid => {
            (Fault::Wrong, "most likely this host's clock is behind: look at `timedatectl`, and set it".to_owned())
        }
        Problem::WrongClock => (
            Fault::Wrong,
            "this host's clock is wrong: set it and let it follow a time server (`timedatectl set-ntp true`)".to_owned(),
        ),
        Problem::WantsCertificate => (
            Fault::Wrong,
            format!("set client_certificate_file and client_key_file in {section}, as whoever runs the gateway gave them"),
        ),
        Problem::Tls => (Fault::Unreachable, format!("check {section}; then {ask}")),
    }
}

fn unknown_issuer(section: &str, step: &Step) -> (Fault, String) {
    let issuer = step.chain.last().map_or("it", |last| last.issuer.as_str());
    let advice = format!(
        "if \"{issuer}\" is your own organisation's, a proxy inspects TLS: get that authority's certificate from the network \
         team as a PEM file, and name it in {section}: ca_file = \"/etc/outboxd/authority.pem\". If nobody knows it, \
         somebody listens in: do not go on"
    );
    (Fault::Unreachable, advice)
}

/// What to ask of those who run what lies in between; `None` where it is this host's own fault.
fn request(step: &Step, problem: &Problem, said: &str, here: &Here) -> Option<String> {
    let place = Way::of(&step.place);
    let target = match &step.through {
        Some(proxy) => format!("{place} through the proxy {proxy}"),
        None => place.to_string(),
    };
    let tried = format!("Tried at {}: {said}.", here.at);
    Some(match problem {
        Problem::Network(Trouble::NotPermitted | Trouble::NoSuchSource)
        | Problem::NotConfigured
        | Problem::NoProxy
        | Problem::Outside
        | Problem::OldTls
        | Problem::WantsCertificate => return None,
        Problem::ProxyLogin => format!(
            "The proxy {place} does not let {here} log in. Please tell us which user and password it takes, or let this host \
             through without. {tried}"
        ),
        Problem::Expired => format!(
            "TLS from {here} to {target} is answered with a certificate that has expired. If something in between shows it, \
             please renew it, or let TLS pass untouched. {tried}"
        ),
        Problem::Network(Trouble::NoSuchName | Trouble::NameServerSilent) => {
            here.please_resolve(&step.place.host, said)
        }
        Problem::Network(_) if step.hop == Hop::Proxy => {
            format!("The proxy {place} does not answer our request from {here} as it should. {tried}")
        }
        Problem::Network(_) => here.please_open(&target, said),
        Problem::ProxyForbids => {
            format!("Please let the proxy {place} connect {here} to the SMS gateway as asked for. {tried}")
        }
        Problem::ProxyFailed => {
            format!(
                "The proxy {place} takes our request from {here}, and does not reach the SMS gateway itself. {tried}"
            )
        }
        Problem::NoTls | Problem::WrongName | Problem::Tls => {
            format!(
                "Something between {here} and {target} answers in its place. Please let TLS pass untouched. {tried}"
            )
        }
        Problem::UnknownIssuer => {
            let issuer = step.chain.last().map_or("somebody", |last| last.issuer.as_str());
            here.please_exempt(&target, issuer)
        }
        Problem::NotYetValid | Problem::WrongClock => here.please_let_time_through(),
    })
}
