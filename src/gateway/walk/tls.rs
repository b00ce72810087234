//! A TLS handshake that tells what was shown, also where it fails.
//!
//! Whom to trust is decided as the gateway's client decides it. The one leniency: a chain that is good but for the date
//! is followed far enough to ask the gateway for its clock, with a bare HEAD and without credentials or client certificate.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsConnector;

use super::{Io, Place, Problem, broke};
use crate::clock;
use crate::config::{self, TlsMin};
use crate::gateway::answer::http_date;
use crate::gateway::walk::proxy::head;
use crate::hop::Trouble;
use crate::hop::certificate::{Shown, time};

/// Clocks that differ by less are not to blame.
const CLOCKS_AGREE: i64 = 60;

pub(super) struct Shaken {
    /// Version of TLS and what is left to talk over.
    pub(super) outcome: Result<(String, Io), (Problem, String)>,
    pub(super) chain: Vec<Shown>,
}

pub(super) async fn handshake(io: Io, place: &Place, cfg: &config::Gateway) -> Shaken {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let outcome = shake(io, place, cfg, &seen).await;
    let seen = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
    let chain: Vec<Shown> = seen.chain.iter().filter_map(|der| Shown::read(der)).collect();
    let outcome = match (outcome, seen.refused) {
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
    let version = match stream.get_ref().1.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLS 1.2",
        _ => "TLS 1.3",
    };
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
    let verifier = Noting { inner, seen: Arc::clone(seen), lenient };
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

/// What the other side showed, and why it was refused.
#[derive(Debug, Default)]
struct Seen {
    chain: Vec<CertificateDer<'static>>,
    refused: Option<CertificateError>,
}

#[derive(Debug)]
struct Noting {
    inner: Arc<WebPkiServerVerifier>,
    seen: Arc<Mutex<Seen>>,
    lenient: bool,
}

fn is_about_time(error: &CertificateError) -> bool {
    matches!(
        error,
        CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }
    )
}

impl ServerCertVerifier for Noting {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verify = |at| self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp, at);
        let found = verify(now);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.chain =
            [end_entity].into_iter().chain(intermediates).map(|der| der.clone().into_owned()).collect();
        let Err(rustls::Error::InvalidCertificate(error)) = &found else { return found };
        seen.refused = Some(error.clone());
        if !is_about_time(error) {
            return found;
        }
        // Good but for the date? At another time it would be refused for its real fault, if it has one.
        let Some(shown) = Shown::read(end_entity) else { return found };
        let at = |seconds: i64| {
            UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
        };
        match verify(at(shown.not_before)).or_else(|_| verify(at(shown.not_after))) {
            Ok(good) if self.lenient => Ok(good),
            Ok(_) => found,
            Err(rustls::Error::InvalidCertificate(real)) => {
                seen.refused = Some(real);
                found
            }
            Err(_) => found,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

fn judged(error: &CertificateError, place: &Place, chain: &[Shown]) -> (Problem, String) {
    let shown = chain.first().map_or_else(|| "a damaged certificate".to_owned(), ToString::to_string);
    match error {
        CertificateError::UnknownIssuer => {
            let last = chain.last().map_or("nobody", |last| last.issuer.as_str());
            let what = format!("{shown}; the chain ends at \"{last}\", which is not trusted here");
            (Problem::UnknownIssuer, what)
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            let names = chain.first().map(|first| first.names.join(", ")).unwrap_or_default();
            let names = if names.is_empty() { "no host at all".to_owned() } else { names };
            (Problem::WrongName, format!("{shown}; it is for {names}, and not for {}", place.host))
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            (Problem::Expired, format!("{shown}; by this host's clock it is {}", time(now())))
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            (Problem::NotYetValid, format!("{shown}; by this host's clock it is {}", time(now())))
        }
        other => (Problem::Tls, format!("{shown}; {other}")),
    }
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

/// A handshake that ended without a word about certificates.
fn broken(error: &io::Error, cfg: &config::Gateway) -> (Problem, String) {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        if error.kind() == io::ErrorKind::TimedOut {
            let limit = cfg.connect_timeout;
            let what = format!("connected, and no answer to the TLS greeting within {limit:?}");
            return (Problem::Network(Trouble::Timeout), what);
        }
        return broke(error, "during the TLS handshake");
    };
    match tls {
        rustls::Error::InvalidMessage(_) => (Problem::NoTls, "what answers there speaks no TLS".to_owned()),
        rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)
        | rustls::Error::PeerIncompatible(_) => (Problem::OldTls, format!("no common version of TLS: {tls}")),
        rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied,
        ) => (Problem::WantsCertificate, format!("it does not take what we show of ourselves: {tls}")),
        other => (Problem::Tls, other.to_string()),
    }
}
