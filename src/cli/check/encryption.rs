//! TLS with the database in `outboxd check`: whose certificate it is, and what to do about one that is refused.

use std::time::Duration;

use tokio::net::TcpStream;

use crate::cli::check::Finding;
use crate::cli::check::network::{Here, Way};
use crate::config::Database;
use crate::hop::Trouble;
use crate::hop::handshake::Refusal;
use crate::store::greet::{Greeted, Problem, Refused, greet};

/// `hop`: the finding's name; `key`: where the connection stands in the configuration. `None`: nothing to tell of it.
pub(super) async fn check(
    hop: String,
    key: &str,
    database: &Database,
    way: &Way,
    stream: TcpStream,
    limit: Duration,
) -> Option<Finding> {
    let Greeted { outcome, chain } = greet(database, &way.host, stream, limit).await?;
    let issuer = chain.last().map_or("somebody", |last| last.issuer.as_str());
    let mut finding = match outcome {
        Ok(said) => Finding::ok(hop, said),
        Err(refused) => {
            let here = Here::towards(way.addresses.first().copied()).await;
            let detail = format!("{}:{}: {}", way.host, way.port, refused.said);
            let mut finding = Finding::unreachable(hop, detail, advice(key, issuer, &refused));
            finding.problem = Some(refused.problem.code());
            finding.network_team = request(way, issuer, &refused, &here);
            finding.tried = Some(here);
            finding
        }
    };
    finding.way = Some(way.clone());
    finding.certificates = chain;
    Some(finding)
}

fn advice(key: &str, issuer: &str, refused: &Refused) -> String {
    const ASK: &str = "send the network team the sentence below";
    let known = || refused.advice.clone().unwrap_or_else(|| format!("check [database] {key}; then {ASK}"));
    match &refused.problem {
        Problem::Tls(Refusal::UnknownIssuer) => format!(
            "if \"{issuer}\" is the database's own authority, name its certificate in [database] {key}: \
             sslrootcert=/etc/outboxd/authority.pem; if it inspects TLS for your organisation, {ASK}. If nobody knows it, \
             somebody listens in: do not go on"
        ),
        Problem::Tls(Refusal::NotYetValid) => {
            "most likely this host's clock is behind: look at `timedatectl`, and set it".to_owned()
        }
        Problem::Tls(Refusal::NoTls) => {
            format!("check host and port in [database] {key}; if they are right, something stands in between: {ASK}")
        }
        Problem::Tls(Refusal::OldTls) => {
            format!("ssl_min_protocol_version in [database] {key} is met by neither the server nor whoever stands in between")
        }
        Problem::Tls(Refusal::WantsCertificate) => {
            format!("give sslcert and sslkey in [database] {key}, as the database's administrator made them")
        }
        Problem::Tls(Refusal::WrongName | Refusal::Expired | Refusal::Other) => known(),
        Problem::NotOffered => {
            "set ssl = on in the server's postgresql.conf; sslmode=disable is for a way on which nobody else can read".to_owned()
        }
        Problem::Network(Trouble::Timeout) => {
            format!("it is connected to and does not go on, as with a firewall that holds it: {ASK}")
        }
        Problem::Network(_) => format!(
            "cut off when it was to speak TLS, as firewalls do that look into it: look at the server's log, and if it says \
             nothing of it, {ASK}"
        ),
    }
}

/// What to ask of those who run what lies in between; `None` where it is the server's affair or ours.
fn request(way: &Way, issuer: &str, refused: &Refused, here: &Here) -> Option<String> {
    let tried = format!("Tried at {}: {}.", here.at, refused.said);
    Some(match &refused.problem {
        Problem::Tls(Refusal::UnknownIssuer) => here.please_exempt(&way.to_string(), issuer),
        Problem::Tls(Refusal::WrongName) => format!(
            "TLS from {here} to {way} is answered with a certificate for other hosts. If something in between answers in its \
             place, please let TLS pass untouched. {tried}"
        ),
        Problem::Tls(Refusal::Expired) => format!(
            "TLS from {here} to {way} is answered with a certificate that has expired. Please have it renewed, or, if \
             something in between shows it, let TLS pass untouched. {tried}"
        ),
        Problem::Tls(Refusal::NoTls | Refusal::Other) => {
            format!(
                "Something between {here} and {way} answers in its place. Please let TLS pass untouched. {tried}"
            )
        }
        Problem::Tls(Refusal::NotYetValid) => here.please_let_time_through(),
        Problem::Network(_) => here.please_open(&way.to_string(), &refused.said),
        Problem::Tls(Refusal::OldTls | Refusal::WantsCertificate) | Problem::NotOffered => return None,
    })
}
