//! The listener's certificate. TLS 1.2 and 1.3: the gateway's documentation promises no more than 1.2.

use std::fmt;
use std::sync::Arc;

use anyhow::Context;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::CallbackTls;

/// A certificate that is ready to be shown.
#[derive(Clone)]
pub(in crate::daemon) struct Certificate(TlsAcceptor);

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificate")
    }
}

impl Certificate {
    /// Reads the files; says what is wrong with them.
    pub(in crate::daemon) fn load(files: &CallbackTls) -> anyhow::Result<Certificate> {
        let shown = files.certificate_file.display();
        let chain = CertificateDer::pem_file_iter(&files.certificate_file)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .with_context(|| format!("could not read the callbacks' certificate {shown}"))?;
        anyhow::ensure!(!chain.is_empty(), "there is no certificate in {shown}");
        let shown_key = files.key_file.display();
        let key = PrivateKeyDer::from_pem_file(&files.key_file)
            .with_context(|| format!("could not read the callbacks' key {shown_key}"))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .context("could not prepare TLS")?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .with_context(|| {
                format!("the certificate in {shown} and the key in {shown_key} cannot be used together")
            })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Certificate(TlsAcceptor::from(Arc::new(config))))
    }

    pub(super) async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        self.0.accept(stream).await
    }
}
