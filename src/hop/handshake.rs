//! What was shown in a TLS handshake, also where it failed, and why it was refused.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{AlertDescription, CertificateError, DigitallySignedStruct, SignatureScheme};

use crate::hop::certificate::{Shown, time};

/// What a handshake failed of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// What answers there speaks no TLS.
    NoTls,
    /// No version or cipher in common.
    OldTls,
    /// No chain to an authority that is trusted here.
    UnknownIssuer,
    WrongName,
    Expired,
    NotYetValid,
    /// It wants to know who we are.
    WantsCertificate,
    Other,
}

impl Refusal {
    /// One word, for programs.
    pub fn code(self) -> &'static str {
        match self {
            Refusal::NoTls => "no_tls",
            Refusal::OldTls => "old_tls",
            Refusal::UnknownIssuer => "unknown_issuer",
            Refusal::WrongName => "wrong_name",
            Refusal::Expired => "expired",
            Refusal::NotYetValid => "not_yet_valid",
            Refusal::WantsCertificate => "wants_certificate",
            Refusal::Other => "tls",
        }
    }
}

/// What the other side showed, its own certificate first, and why it was refused.
#[derive(Debug, Default)]
pub struct Seen {
    pub chain: Vec<Shown>,
    pub refused: Option<CertificateError>,
}

/// Judges as another verifier does, and notes what it saw.
#[derive(Debug)]
pub struct Noting {
    inner: Arc<dyn ServerCertVerifier>,
    seen: Arc<Mutex<Seen>>,
    /// A chain that is good but for the date passes, and is noted as refused all the same.
    lenient: bool,
}

impl Noting {
    pub fn new(inner: Arc<dyn ServerCertVerifier>, seen: &Arc<Mutex<Seen>>, lenient: bool) -> Noting {
        Noting { inner, seen: Arc::clone(seen), lenient }
    }
}

/// What was noted, when the handshake is over.
pub fn taken(seen: &Mutex<Seen>) -> Seen {
    std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner))
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
            [end_entity].into_iter().chain(intermediates).filter_map(|der| Shown::read(der)).collect();
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

/// Why a certificate is not taken, in words that show what it says. `now`: seconds since 1970, by our clock.
pub fn judged(error: &CertificateError, host: &str, chain: &[Shown], now: i64) -> (Refusal, String) {
    let shown = chain.first().map_or_else(|| "a damaged certificate".to_owned(), ToString::to_string);
    match error {
        CertificateError::UnknownIssuer => {
            let last = chain.last().map_or("nobody", |last| last.issuer.as_str());
            let what = format!("{shown}; the chain ends at \"{last}\", which is not trusted here");
            (Refusal::UnknownIssuer, what)
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            let names = chain.first().map(|first| first.names.join(", ")).unwrap_or_default();
            let names = if names.is_empty() { "no host at all".to_owned() } else { names };
            (Refusal::WrongName, format!("{shown}; it is for {names}, and not for {host}"))
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            (Refusal::Expired, format!("{shown}; by this host's clock it is {}", time(now)))
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            (Refusal::NotYetValid, format!("{shown}; by this host's clock it is {}", time(now)))
        }
        other => (Refusal::Other, format!("{shown}; {other}")),
    }
}

/// A handshake that ended without a word about certificates. `None`: nor about TLS, it is the connection that broke.
pub fn broken(error: &io::Error) -> Option<(Refusal, String)> {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())?;
    Some(match tls {
        rustls::Error::InvalidMessage(_) => (Refusal::NoTls, "what answers there speaks no TLS".to_owned()),
        rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)
        | rustls::Error::PeerIncompatible(_) => (Refusal::OldTls, format!("no common version of TLS: {tls}")),
        rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied,
        ) => (Refusal::WantsCertificate, format!("it does not take what we show of ourselves: {tls}")),
        other => (Refusal::Other, other.to_string()),
    })
}

/// As people write it.
pub fn version(connection: &rustls::ClientConnection) -> &'static str {
    match connection.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLS 1.2",
        _ => "TLS 1.3",
    }
}
