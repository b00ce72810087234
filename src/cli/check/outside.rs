//! What `outboxd check` looks at outside the database: each gateway, and the address for receipts.

use std::io;
use std::net::TcpListener;

use crate::cli::check::Finding;
use crate::cli::check::network::now;
use crate::cli::{counted, span};
use crate::config::{Callbacks, Config};
use crate::gateway::{Gateway, ProbeFailure, SenderId};
use crate::hop::certificate::time;
use crate::store::status::GatewayStatus;
use crate::verdict::DeferCause;

/// In the gateway's sender list: does not reach Irish numbers.
const INTERNATIONAL: i64 = 1;
const IRELAND: &str = "353";
/// Clocks that differ by less, in seconds, are not to blame for anything.
const CLOCKS_AGREE: u64 = 60;

/// The gateways that can be used as configured, and what is wrong with the others.
pub(super) fn build(config: &Config) -> (Vec<Gateway>, Vec<Finding>) {
    let (mut gateways, mut unusable) = (Vec::new(), Vec::new());
    for gateway in config.gateways.values() {
        match Gateway::build(gateway) {
            Ok(built) => gateways.push(built),
            Err(error) => {
                let name = format!("gateway {}", gateway.name);
                let advice = format!("correct [gateway.{}]", gateway.name);
                unusable.push(Finding::wrong(name, error.to_string(), advice));
            }
        }
    }
    (gateways, unusable)
}

/// What it costs that messages share requests: nobody should find that out in an outage.
pub(super) fn shared_requests(config: &Config) -> Vec<Finding> {
    let sharing = config.gateways.values().filter(|gateway| gateway.coalesce() > 1);
    sharing
        .map(|gateway| {
            let (coalesce, ahead) = (gateway.coalesce(), gateway.messages_ahead());
            Finding::ok(
                format!("coalesce of {}", gateway.name),
                format!(
                    "up to {coalesce} messages of one text share a request: an answer that is lost makes all of them \
                     unknown, and a crash up to {ahead}"
                ),
            )
        })
        .collect()
}

/// What the gateway says of us, once it can be reached.
pub(super) async fn logged_in(config: &Config, gateway: &Gateway) -> Vec<Finding> {
    let name = format!("gateway {}", gateway.name());
    let report = match gateway.probe().await {
        Ok(report) => report,
        Err(failure) => return vec![refused(name, gateway.name(), &failure)],
    };
    let mut findings = match report.senders {
        Some(senders) => vec![
            Finding::ok(name, "log-in works"),
            sender(gateway.name(), config.text.default_sender.as_deref(), config, &senders),
        ],
        None => vec![Finding::ok(name, "can be reached; credentials are tried by the first message")],
    };
    let here = now();
    if let Some(there) = report.date.filter(|there| there.abs_diff(here) > CLOCKS_AGREE) {
        let mut finding = Finding::warning(
            format!("clock of {}", gateway.name()),
            format!("it is {} here, and {} there", time(here), time(there)),
            "if the other clock is right, set this host's (`timedatectl`): certificates are judged by it",
        );
        finding.problem = Some("wrong_clock");
        findings.push(finding);
    }
    findings
}

/// What the daemon has last seen of each gateway.
pub(super) fn health(config: &Config, seen: &[GatewayStatus]) -> Vec<Finding> {
    let ours = seen.iter().filter(|seen| config.gateways.contains_key(&seen.name));
    ours.map(|seen| {
        let name = format!("health of {}", seen.name);
        let reason = seen.reason.as_deref().unwrap_or("no reason is known");
        let since = format!("for {}: {reason}", span(seen.for_seconds));
        match seen.state.as_str() {
            "open" => Finding::ok(name, "the daemon sends"),
            "stopped" => Finding::warning(
                name,
                format!("the daemon has stopped it {since}"),
                format!("mend the cause, then: outboxd resume --gateway {}", seen.name),
            ),
            state => Finding::warning(
                name,
                format!("{state} {since}"),
                "the daemon tries it again by itself; the lines above say what is wrong now",
            ),
        }
    })
    .collect()
}

fn refused(name: String, gateway: &str, failure: &ProbeFailure) -> Finding {
    let detail = failure.reason.clone();
    match failure.cause {
        DeferCause::Unreachable => Finding::unreachable(
            name,
            detail,
            format!(
                "ask the network team to let this host through; if only a proxy may, set proxy in [gateway.{gateway}]"
            ),
        ),
        DeferCause::Throttled | DeferCause::Busy | DeferCause::NotStarted => {
            Finding::unreachable(name, detail, "it should pass; ask the gateway's support if it does not")
        }
        DeferCause::Unauthorized => Finding::wrong(
            name,
            detail,
            format!("correct username and password in [gateway.{gateway}], or have the account unlocked"),
        ),
        DeferCause::NoCredit => Finding::wrong(name, detail, "buy credits"),
        DeferCause::Misconfigured => {
            Finding::wrong(name, detail, format!("correct the addresses in [gateway.{gateway}]"))
        }
    }
}

fn sender(gateway: &str, default: Option<&str>, config: &Config, senders: &[SenderId]) -> Finding {
    let name = format!("sender of {gateway}");
    let Some(default) = default else {
        let allowed = counted(senders.len(), "sender");
        return Finding::ok(name, format!("no default_sender; the account has {allowed}"));
    };
    let Some(listed) = senders.iter().find(|sender| sender.name == default) else {
        let names: Vec<&str> = senders.iter().map(|sender| sender.name.as_str()).take(10).collect();
        let advice = if names.is_empty() {
            "have it registered with the gateway".to_owned()
        } else {
            format!("have it registered, or use one of: {}", names.join(", "))
        };
        return Finding::warning(name, format!("\"{default}\" is not on the account's sender list"), advice);
    };
    if listed.kind == Some(INTERNATIONAL) && config.text.default_country.as_deref() == Some(IRELAND) {
        return Finding::warning(
            name,
            format!("\"{default}\" is an international sender: it does not reach Irish numbers"),
            "have it registered as a ComReg sender ID",
        );
    }
    Finding::ok(name, format!("\"{default}\" is on the account's sender list"))
}

/// `daemon_here`: a daemon is alive on this host, so that a taken address is most likely its own.
pub(super) fn callbacks(config: &Config, daemon_here: bool) -> Option<Finding> {
    let Callbacks { listen, .. } = config.callbacks.as_ref()?;
    let taken = match TcpListener::bind(listen) {
        Ok(_free_again) => return Some(Finding::ok("callbacks", format!("{listen} is free"))),
        Err(error) => error,
    };
    Some(match taken.kind() {
        io::ErrorKind::AddrInUse if daemon_here => {
            Finding::ok("callbacks", format!("{listen} is in use, and a daemon runs here"))
        }
        io::ErrorKind::AddrInUse => Finding::wrong(
            "callbacks",
            format!("{listen} is in use by another program"),
            format!(
                "`ss -ltnp` shows by which; use another port in [callbacks] listen (now {})",
                listen.port()
            ),
        ),
        io::ErrorKind::AddrNotAvailable => Finding::wrong(
            "callbacks",
            format!("{listen} is no address of this host"),
            "use one that `ip address` shows",
        ),
        io::ErrorKind::PermissionDenied => Finding::wrong(
            "callbacks",
            format!("this user may not listen on {listen}"),
            "use a port from 1024 on, or grant CAP_NET_BIND_SERVICE",
        ),
        _ => Finding::wrong(
            "callbacks",
            format!("cannot listen on {listen}: {taken}"),
            "correct [callbacks] listen",
        ),
    })
}
