//! How connections to PostgreSQL are made: the pool's settings, the direct connections of the lock and of LISTEN,
//! and TLS as libpq's `sslmode` means it.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres::{Client, Connection, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::{Database, Tls};
use crate::store::failover::Expected;
use crate::store::hosts::Connector;
use crate::store::{StoreError, hosts, plain};

/// What a row of someone else's lock may cost a flush before the locked rows are left out.
const LOCK_TIMEOUT: Duration = Duration::from_millis(250);

/// Longest pause between two statements of a transaction. A daemon that is paused or cut off right there keeps its rows
/// locked for so long, and a takeover waits for them.
const TRANSACTION_PAUSE: Duration = Duration::from_secs(2);

pub(super) type TlsStream = <MakeRustlsConnect as tokio_postgres::tls::MakeTlsConnect<Socket>>::Stream;

/// A connection that is driven by its owner, for LISTEN and for the leader's lock.
pub type Direct = (Client, Connection<Socket, TlsStream>);

/// Connections for short statements.
pub(super) fn pool(database: &Database, expected: &Expected) -> Result<Pool, StoreError> {
    let mut config = database.connect.clone();
    // Queues have statistics that are wrong most of the time: right after a big delete or insert the planner would
    // choose a sequential scan, a hash join or a sort. Every statement here has one good plan, along an index.
    let settings = format!(
        "-c synchronous_commit=on -c lock_timeout={} -c statement_timeout={} -c jit=off -c plan_cache_mode=force_generic_plan \
         -c enable_seqscan=off -c enable_bitmapscan=off -c enable_hashjoin=off -c enable_mergejoin=off \
         -c idle_in_transaction_session_timeout={} -c search_path=pg_catalog",
        LOCK_TIMEOUT.as_millis(),
        // Shorter than our own limit, so that the server, which knows the outcome, speaks first.
        (database.timeout * 4 / 5).as_millis(),
        TRANSACTION_PAUSE.as_millis(),
    );
    config.options(join_options(&config, &settings));
    let manager = Manager::from_connect(
        config,
        Connector { tls: tls(database)?, expected: expected.clone() },
        ManagerConfig { recycling_method: RecyclingMethod::Fast },
    );
    let expected = expected.clone();
    let still_good = Hook::sync_fn(move |_, metrics| {
        let outdated = expected.is_outdated(metrics.age());
        if outdated { Err(HookError::message("it may lead to another server")) } else { Ok(()) }
    });
    Pool::builder(manager)
        .max_size(database.pool_size)
        .pre_recycle(still_good)
        .build()
        .map_err(|error| StoreError::Unavailable(error.to_string()))
}

/// One connection of its own, with settings of its own (`-c name=value …`).
pub(super) async fn direct(
    database: &Database,
    expected: &Expected,
    settings: &str,
) -> Result<Direct, StoreError> {
    let mut config = database.connect.clone();
    config.options(join_options(&config, settings));
    let connector = tls(database)?;
    // `connect_timeout` covers only TCP; TLS and authentication can hang as well.
    match tokio::time::timeout(database.timeout, hosts::connect(&config, connector, expected)).await {
        Ok(Ok(pair)) => Ok(pair),
        Ok(Err(error)) => Err(StoreError::Unavailable(plain(&error))),
        Err(_) => Err(StoreError::Unavailable(format!("no answer within {:?}", database.timeout))),
    }
}

fn join_options(config: &tokio_postgres::Config, settings: &str) -> String {
    match config.get_options() {
        // The site's own options come last and win.
        Some(own) => format!("{settings} {own}"),
        None => settings.to_owned(),
    }
}

fn tls(database: &Database) -> Result<MakeRustlsConnect, StoreError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| StoreError::Unavailable(error.to_string()))?;
    let config = match database.tls {
        // Never used for TLS; an empty trust store trusts nobody.
        Tls::Disable => builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth(),
        Tls::Prefer | Tls::Require => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unverified { provider }))
            .with_no_client_auth(),
        Tls::VerifyCa => {
            let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(database)?), provider)
                .build()
                .map_err(|error| StoreError::Unavailable(error.to_string()))?;
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyName { inner }))
                .with_no_client_auth()
        }
        Tls::VerifyFull => builder.with_root_certificates(roots(database)?).with_no_client_auth(),
    };
    Ok(MakeRustlsConnect::new(config))
}

fn roots(database: &Database) -> Result<RootCertStore, StoreError> {
    let mut store = RootCertStore::empty();
    match &database.root_cert {
        Some(path) => {
            let shown = path.display();
            let certificates = CertificateDer::pem_file_iter(path).map_err(|error| {
                StoreError::Unavailable(format!("could not read sslrootcert {shown}: {error}"))
            })?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| {
                    StoreError::Unavailable(format!("no certificate in {shown}: {error}"))
                })?;
                store.add(certificate).map_err(|error| {
                    StoreError::Unavailable(format!("unusable certificate in {shown}: {error}"))
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

/// `sslmode=require`: encryption without identity, as libpq means it.
#[derive(Debug)]
struct Unverified {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Unverified {
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
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
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
