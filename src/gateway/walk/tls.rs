//! A TLS handshake that tells what was shown, also where it fails.
//!
//! Whom to trust is decided as the gateway's client decides it. The one leniency: a chain that is good but for the date
//! is followed far enough to ask the gateway for its clock, with a bare HEAD and without credentials or client certificate.

use std::io;
use std::sync::{Arc, Mutex};

use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsConnector;

use super::{Io, Place, Problem, broke};
use crate::clock;
use crate::config::{self, TlsMin};
use crate::gateway::answer::http_date;
use crate::gateway::walk::proxy::head;
use crate::hop::Trouble;
use crate::hop::certificate::{Shown, time};
use crate::hop::handshake::{self, Noting, Seen};

/// Clocks that differ by less are not to blame.
const CLOCKS_AGREE: i64 = 60;

pub(super) struct Shaken {
    /// Version of TLS and what is left to talk over.
    pub(super) outcome: Result<(String, Io), (Problem, String)>,
    pub(super) chain: Vec<Shown>,
}

pub(super) async fn shake_hands(io: Io, place: &Place, cfg: &config::Gateway) -> Shaken {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let outcome = shake(io, place, cfg, &seen).await;
    let Seen { chain, refused } = handshake::taken(&seen);
    let outcome = match (outcome, refused) {
        (Ok((_, io)), Some(refused)) => Err(out_of_time(io, place, cfg, &refused, &chain).await),
        (Ok(done), None) => Ok(done),
        (Err(_), Some(refused)) => Err(judged(&refused, place, &chain)),
        (Err(error), None) => Err(broken(&error, cfg)),
    };
    Shaken { outcome, chain }
}

async fn shake(
    io: Io,
    place: &Place,
    cfg: &config::Gateway,
    seen: &Arc<Mutex<Seen>>,
) -> io::Result<(String, Io)> {
    let config = client_config(cfg, seen).map_err(io::Error::other)?;
    let host = place.host.trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(host).map_err(io::Error::other)?;
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, io);
    let stream = match tokio::time::timeout(cfg.connect_timeout, connecting).await {
        Ok(stream) => stream?,
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
    };
    let version = handshake::version(stream.get_ref().1);
    Ok((version.to_owned(), Box::new(stream)))
}

fn client_config(cfg: &config::Gateway, seen: &Arc<Mutex<Seen>>) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions: &[&rustls::SupportedProtocolVersion] = match cfg.network.tls_min {
        TlsMin::V1_2 => &[&rustls::version::TLS12, &rustls::version::TLS13],
        TlsMin::V1_3 => &[&rustls::version::TLS13],
    };
    let general = |error: &dyn std::fmt::Display| rustls::Error::General(error.to_string());
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(cfg)), Arc::clone(&provider))
        .build()
        .map_err(|error| general(&error))?;
    let lenient = cfg.network.client_certificate.is_none();
    let verifier = Noting::new(inner, seen, lenient);
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &cfg.network.client_certificate {
        None => builder.with_no_client_auth(),
        Some(files) => {
            let chain = CertificateDer::pem_file_iter(&files.certificate_file)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|error| general(&error))?;
            // What is wrong with a key is not told by its reader: it might repeat a piece of it.
            let key = PrivateKeyDer::from_pem_file(&files.key_file)
                .map_err(|_| general(&"client_key_file holds no key that can be read"))?;
            builder.with_client_auth_cert(chain, key)?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The system's authorities and those of `ca_file`, or these alone.
fn roots(cfg: &config::Gateway) -> RootCertStore {
    let mut store = RootCertStore::empty();
    if let Some(path) = &cfg.ca_file {
        let own = CertificateDer::pem_file_iter(path).into_iter().flatten().flatten();
        store.add_parsable_certificates(own);
    }
    if !cfg.network.ca_exclusive {
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    store
}

fn judged(error: &CertificateError, place: &Place, chain: &[Shown]) -> (Problem, String) {
    let (refusal, what) = handshake::judged(error, &place.host, chain, now());
    (refusal.into(), what)
}

/// Whose clock is wrong? The gateway's own is asked.
async fn out_of_time(
    mut io: Io,
    place: &Place,
    cfg: &config::Gateway,
    refused: &CertificateError,
    chain: &[Shown],
) -> (Problem, String) {
    let (problem, what) = judged(refused, place, chain);
    let asked = tokio::time::timeout(cfg.connect_timeout, theirs(&mut io, place)).await;
    let Ok(Some(theirs)) = asked else { return (problem, format!("{what}; the gateway tells no time")) };
    let what = format!("{what}, by the gateway's {}", time(theirs));
    let off = theirs.abs_diff(now()) > CLOCKS_AGREE.unsigned_abs();
    if off && chain.iter().all(|shown| shown.is_valid_at(theirs)) {
        return (Problem::WrongClock, what);
    }
    (problem, what)
}

/// The gateway's clock, from the `Date` of whatever it answers.
async fn theirs(io: &mut Io, place: &Place) -> Option<i64> {
    let request = format!("HEAD / HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n\r\n");
    io.write_all(request.as_bytes()).await.ok()?;
    let head = head(io).await.ok()?;
    let mut dates = head.lines().filter_map(|line| line.split_once(':'));
    let (_, date) = dates.find(|(name, _)| name.eq_ignore_ascii_case("date"))?;
    http_date(date)
}

#[expect(clippy::cast_possible_truncation, reason = "seconds since 1970")]
fn now() -> i64 {
    clock::wall() as i64
}

fn broken(error: &io::Error, cfg: &config::Gateway) -> (Problem, String) {
    if let Some((refusal, what)) = handshake::broken(error) {
        return (refusal.into(), what);
    }
    if error.kind() == io::ErrorKind::TimedOut {
        let limit = cfg.connect_timeout;
        let what = format!("connected, and no answer to the TLS greeting within {limit:?}");
        return (Problem::Network(Trouble::Timeout), what);
    }
    broke(error, "during the TLS handshake")
}
