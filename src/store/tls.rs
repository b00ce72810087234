//! TLS to PostgreSQL as libpq's `sslmode` means it, certificates that are known beforehand, and words for certificates
//! that will not do.
//!
//! rustls refuses certificates that OpenSSL takes: of X.509 version 1, without alternative names, or an authority's own
//! certificate used as a server's. Where the configuration does not ask whose certificate it is, or names it by its
//! fingerprint, all that counts is that the server has its key; so that is checked here, without reading the rest.

use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, PeerMisbehaved, RootCertStore, SignatureScheme,
};
use sha2::{Digest, Sha256};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::{Database, Tls, TlsMin};
use crate::store::StoreError;

pub(super) fn connector(database: &Database) -> Result<MakeRustlsConnect, StoreError> {
    Ok(MakeRustlsConnect::new(client(database, |verifier| verifier)?))
}

/// `looked_over`: puts somebody in front of who judges the server's certificate.
pub(super) fn client(
    database: &Database,
    looked_over: impl FnOnce(Arc<dyn ServerCertVerifier>) -> Arc<dyn ServerCertVerifier>,
) -> Result<ClientConfig, StoreError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions: &[&rustls::SupportedProtocolVersion] = match database.tls_min {
        TlsMin::V1_2 => &[&rustls::version::TLS12, &rustls::version::TLS13],
        TlsMin::V1_3 => &[&rustls::version::TLS13],
    };
    let verifier = looked_over(verifier(database, &provider)?);
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(unusable)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match &database.client_certificate {
        None => builder.with_no_client_auth(),
        Some(files) => {
            let chain = certificates(&files.certificate_file, "sslcert")?;
            // What is wrong with a key is not told by its reader: it might repeat a piece of it.
            let key = PrivateKeyDer::from_pem_file(&files.key_file).map_err(|_| {
                let shown = files.key_file.display();
                StoreError::Unavailable(format!(
                    "no key without a passphrase could be read from sslkey {shown}"
                ))
            })?;
            builder.with_client_auth_cert(chain, key).map_err(|error| {
                StoreError::Unavailable(format!("sslcert and sslkey do not go together: {error}"))
            })?
        }
    };
    // Asked for by servers from PostgreSQL 17 on when TLS comes first (sslnegotiation=direct); others do not mind.
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(config)
}

fn verifier(
    database: &Database,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, StoreError> {
    let key = KeyOnly { provider: Arc::clone(provider) };
    if !database.pins.is_empty() {
        return Ok(Arc::new(Pinned { pins: database.pins.clone(), key }));
    }
    let chain = || {
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots(database)?), Arc::clone(provider))
            .build()
            .map_err(unusable)
    };
    Ok(match database.tls {
        // For "disable" it is never asked.
        Tls::Disable | Tls::Prefer | Tls::Require => Arc::new(key),
        Tls::VerifyCa => Arc::new(AnyName { inner: chain()? }),
        Tls::VerifyFull => chain()?,
    })
}

fn unusable(error: impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

fn certificates(path: &Path, key: &str) -> Result<Vec<CertificateDer<'static>>, StoreError> {
    let shown = path.display();
    let failed =
        |error| StoreError::Unavailable(format!("could not read certificates from {key} {shown}: {error}"));
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(|certificates| certificates.collect::<Result<_, _>>())
        .map_err(failed)?;
    if found.is_empty() {
        return Err(StoreError::Unavailable(format!("there is no certificate in {key} {shown}")));
    }
    Ok(found)
}

fn roots(database: &Database) -> Result<RootCertStore, StoreError> {
    let mut store = RootCertStore::empty();
    match &database.root_cert {
        Some(path) => {
            for certificate in certificates(path, "sslrootcert")? {
                store.add(certificate).map_err(|error| {
                    StoreError::Unavailable(format!("unusable certificate in {}: {error}", path.display()))
                })?;
            }
        }
        None => {
            let (_added, _ignored) =
                store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if store.is_empty() {
        return Err(StoreError::Unavailable(
            "no certificate authority to check the server against: install ca-certificates or set sslrootcert".to_owned(),
        ));
    }
    Ok(store)
}

/// That the server has the key of the certificate that it shows, whatever else stands in it.
#[derive(Debug)]
struct KeyOnly {
    provider: Arc<CryptoProvider>,
}

impl KeyOnly {
    fn check(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let (algorithm, key) = public_key(certificate).ok_or(CertificateError::BadEncoding)?;
        let schemes = self.provider.signature_verification_algorithms.mapping;
        let candidates = schemes.iter().filter(|(scheme, _)| *scheme == dss.scheme);
        let mut fitting =
            candidates.flat_map(|(_, all)| *all).filter(|one| one.public_key_alg_id().as_ref() == algorithm);
        if fitting.any(|one| one.verify_signature(key, message, dss.signature()).is_ok()) {
            Ok(HandshakeSignatureValid::assertion())
        } else {
            Err(CertificateError::BadSignature.into())
        }
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The signatures that TLS 1.3 has done away with.
fn is_of_tls12(scheme: SignatureScheme) -> bool {
    matches!(
        scheme,
        SignatureScheme::RSA_PKCS1_SHA1
            | SignatureScheme::RSA_PKCS1_SHA256
            | SignatureScheme::RSA_PKCS1_SHA384
            | SignatureScheme::RSA_PKCS1_SHA512
            | SignatureScheme::ECDSA_SHA1_Legacy
    )
}

/// The kind of a certificate's key as its identifier in DER, and the key itself.
fn public_key<'a>(certificate: &'a CertificateDer<'_>) -> Option<(&'a [u8], &'a [u8])> {
    const SEQUENCE: u8 = 0x30;
    const BIT_STRING: u8 = 0x03;
    const VERSION: u8 = 0xa0;
    let (_, certificate, _) = der(certificate.as_ref()).filter(|(tag, ..)| *tag == SEQUENCE)?;
    let (_, mut rest, _) = der(certificate).filter(|(tag, ..)| *tag == SEQUENCE)?;
    if rest.first() == Some(&VERSION) {
        rest = der(rest)?.2;
    }
    // Number, algorithm of the signature, issuer, validity, subject.
    for _ in 0..5 {
        rest = der(rest)?.2;
    }
    let (_, info, _) = der(rest).filter(|(tag, ..)| *tag == SEQUENCE)?;
    let (_, algorithm, rest) = der(info).filter(|(tag, ..)| *tag == SEQUENCE)?;
    let (_, bits, _) = der(rest).filter(|(tag, ..)| *tag == BIT_STRING)?;
    // The first byte says how many bits of the last one are none.
    Some((algorithm, bits.strip_prefix(&[0])?))
}

/// The first element: its tag, its content, and what follows it.
fn der(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = if *first < 0x80 {
        (usize::from(*first), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if digits.is_empty() || digits.len() > 4 {
            return None;
        }
        (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// `sslmode=require`: encryption without identity, as libpq means it.
impl ServerCertVerifier for KeyOnly {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if is_of_tls12(dss.scheme) {
            return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        }
        self.check(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

/// `certificate_sha256`: this certificate and no other, whoever signed it and whatever name it holds.
#[derive(Debug)]
struct Pinned {
    pins: Vec<[u8; 32]>,
    key: KeyOnly,
}

#[derive(Debug, thiserror::Error)]
#[error("the server's certificate is none of those in certificate_sha256; its own is {0}")]
struct NotPinned(String);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found: [u8; 32] = Sha256::digest(end_entity.as_ref()).into();
        if self.pins.contains(&found) {
            return Ok(ServerCertVerified::assertion());
        }
        let hex: String = found.iter().map(|byte| format!("{byte:02x}")).collect();
        Err(CertificateError::Other(rustls::OtherError(Arc::new(NotPinned(hex)))).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.key.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.key.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.key.schemes()
    }
}

/// `sslmode=verify-ca`: the chain must be good, the name may differ.
#[derive(Debug)]
struct AnyName {
    inner: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
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

const MAKE_A_GOOD_ONE: &str = "make one with `openssl req -x509 -newkey rsa:3072 -nodes -days 3650 -subj /CN=HOST -addext subjectAltName=DNS:HOST \
     -addext basicConstraints=critical,CA:FALSE -keyout server.key -out server.crt`, or have your authority sign one with \
     that name, or name the present one in certificate_sha256";

/// What to do about a certificate that was refused.
pub(super) fn advice(error: &tokio_postgres::Error) -> Option<String> {
    let mut next = error.source();
    let mut refused = None;
    while let Some(cause) = next {
        refused = refused.or_else(|| cause.downcast_ref::<rustls::Error>());
        // An `io::Error` leaves out what it wraps.
        next = match cause.downcast_ref::<io::Error>() {
            Some(io) => io.get_ref().map(|inner| inner as &(dyn Error + 'static)),
            None => cause.source(),
        };
    }
    let rustls::Error::InvalidCertificate(fault) = refused? else { return None };
    advice_on(fault)
}

pub(super) fn advice_on(fault: &CertificateError) -> Option<String> {
    let text = format!("{fault:?}");
    Some(match fault {
        // rustls shows such a cause as a programmer would see it.
        CertificateError::Other(other) if other.0.is::<NotPinned>() => other.0.to_string(),
        CertificateError::UnknownIssuer => {
            "its authority is not trusted here: name that authority's certificate in sslrootcert".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => format!(
            "the host of the connection string must be among the certificate's alternative names (the CN does not \
             count): use a name that is, or {MAKE_A_GOOD_ONE}"
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it has expired: renew it; if it has not, this host's clock is wrong".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet: this host's clock, or the server's, is wrong".to_owned()
        }
        _ if text.contains("UnsupportedCertVersion") => {
            format!("it is of X.509 version 1, without alternative names: {MAKE_A_GOOD_ONE}")
        }
        _ if text.contains("CaUsedAsEndEntity") => {
            format!("it is an authority's certificate (CA:TRUE) and not a server's: {MAKE_A_GOOD_ONE}")
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;

    use super::{der, public_key};

    #[test]
    fn elements_are_taken_apart_and_damaged_ones_refused() {
        assert_eq!(der(&[0x02, 0x01, 0x07, 0xff]), Some((0x02, &[0x07][..], &[0xff][..])));
        let long = [&[0x04, 0x81, 0x80][..], &[0; 0x80]].concat();
        assert_eq!(
            der(&long).map(|(tag, content, rest)| (tag, content.len(), rest.len())),
            Some((4, 0x80, 0))
        );
        for damaged in
            [&[][..], &[2], &[2, 1], &[2, 0x80], &[2, 0x85, 0, 0, 0, 0, 1], &[2, 0x84, 255, 255, 255, 255]]
        {
            assert_eq!(der(damaged), None, "{damaged:?}");
        }
        for damaged in [&[][..], &[0x30, 0], &[0x30, 2, 0x30, 0], &[0x31, 0]] {
            assert_eq!(public_key(&CertificateDer::from(damaged)), None);
        }
    }
}
