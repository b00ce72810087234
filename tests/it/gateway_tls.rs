//! Real TLS handshakes: who is trusted, and that a refused certificate means that nothing left.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use outboxd::gateway::{Gate, Gateway};
use outboxd::verdict::{DeferCause, Verdict};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::gateway_peer::{V1_ACCEPTED, answer, message, v1};

/// Serves one connection with a certificate for `localhost`; the thread gives back what could be read.
fn serve_one() -> (u16, JoinHandle<Vec<u8>>) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(LEAF.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(LEAF_KEY.as_bytes()).unwrap(),
        )
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut connection = rustls::ServerConnection::new(Arc::new(config)).unwrap();
        let mut stream = rustls::Stream::new(&mut connection, &mut socket);
        let mut received = Vec::new();
        let mut chunk = [0; 4096];
        while !received.ends_with(b"ref-1-") {
            match stream.read(&mut chunk) {
                Ok(0) | Err(_) => return received,
                Ok(read) => received.extend_from_slice(&chunk[..read]),
            }
        }
        stream.write_all(answer(200, V1_ACCEPTED).as_bytes()).unwrap();
        received
    });
    (port, thread)
}

async fn send_to(host: &str, port: u16, ca_file: Option<PathBuf>) -> Verdict {
    let mut cfg = v1(&format!("https://{host}:{port}/send"));
    cfg.ca_file = ca_file;
    Gateway::build(&cfg).unwrap().send(&message(1), &Gate::always()).await
}

#[tokio::test]
async fn a_certificate_of_the_configured_authority_is_trusted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    std::fs::write(&path, AUTHORITY).unwrap();
    let (port, server) = serve_one();
    let verdict = send_to("localhost", port, Some(path)).await;
    assert!(matches!(verdict, Verdict::Accepted { .. }), "{verdict:?}");
    assert!(server.join().unwrap().starts_with(b"POST /send HTTP/1.1\r\n"));
}

#[tokio::test]
async fn nothing_leaves_when_the_certificate_is_not_trusted_or_for_another_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    std::fs::write(&path, AUTHORITY).unwrap();
    for (host, ca_file) in [("localhost", None), ("127.0.0.1", Some(path))] {
        let (port, server) = serve_one();
        let verdict = send_to(host, port, ca_file).await;
        let Verdict::Deferred { cause: DeferCause::Unreachable, reason, .. } = verdict else {
            panic!("{verdict:?}")
        };
        assert!(reason.contains("TLS") && reason.contains("ca_file"), "{reason}");
        assert_eq!(server.join().unwrap(), b"");
    }
}

/// A certificate authority made for these tests; its key was thrown away.
pub(crate) const AUTHORITY: &str = "\
-----BEGIN CERTIFICATE-----
MIIBmjCCAT+gAwIBAgIUNdlTidsi1aUCq3cHjO4xbpXfVIcwCgYIKoZIzj0EAwIw
ITEfMB0GA1UEAwwWb3V0Ym94ZCB0ZXN0IGF1dGhvcml0eTAgFw0yNjExMjIxMjU3
MDlaGA8yMTI2MTAyOTEyNTcwOVowITEfMB0GA1UEAwwWb3V0Ym94ZCB0ZXN0IGF1
dGhvcml0eTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABBogQVXU6g0MuZqeprsW
wFwWXQnTYwFR2nabPxMm5dqBvNNnfFVnyX4IeELyg52OyBJTq6Dtg1VIwsRAfjQy
rU2jUzBRMB0GA1UdDgQWBBRLWQn5MflzsDnVTSftk2CmGcyvCTAfBgNVHSMEGDAW
gBRLWQn5MflzsDnVTSftk2CmGcyvCTAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49
BAMCA0kAMEYCIQDOI9MX4dA39t6/fCT3YE+4ORJ5dVirnTecMBepz/3RBgIhAL16
52WB/qAtvj0x4gnUzyDmAXBAdrUiUdCF0TbBvrhP
-----END CERTIFICATE-----
";

/// Signed by it, for `localhost` alone.
pub(crate) const LEAF: &str = "\
-----BEGIN CERTIFICATE-----
MIIBsjCCAVegAwIBAgIUDJFEaaqqOfU3d6rLdaxt2bH15GYwCgYIKoZIzj0EAwIw
ITEfMB0GA1UEAwwWb3V0Ym94ZCB0ZXN0IGF1dGhvcml0eTAgFw0yNjExMjIxMjU3
MDlaGA8yMTI2MTAyOTEyNTcwOVowFDESMBAGA1UEAwwJbG9jYWxob3N0MFkwEwYH
KoZIzj0CAQYIKoZIzj0DAQcDQgAEur8i9Zv2qbYH8KfRpTcsbolg9VxjPp29dujM
2WIXyj4j/6eNZNqbKQl1iYRZYpsTjtl4RMMXgGe3EN6ABU5nQ6N4MHYwFAYDVR0R
BA0wC4IJbG9jYWxob3N0MAkGA1UdEwQCMAAwEwYDVR0lBAwwCgYIKwYBBQUHAwEw
HQYDVR0OBBYEFK3cSTBfZMLLxzVjW0mYJRzCf1GNMB8GA1UdIwQYMBaAFEtZCfkx
+XOwOdVNJ+2TYKYZzK8JMAoGCCqGSM49BAMCA0kAMEYCIQCMlcBknhJEkeEU6b/Y
2zgIU+Lx9CUPTOCaex47AB7KBAIhAIdadJBoHmh0ubsctR8rbfNz817pPqDAVKcG
3YKQLkJT
-----END CERTIFICATE-----
";

/// Guards nothing but the tests above.
pub(crate) const LEAF_KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg6oUeLVZCu45aZj8t
kSR064D3EfZjgv54f2KiJRZcELihRANCAAS6vyL1m/aptgfwp9GlNyxuiWD1XGM+
nb126MzZYhfKPiP/p41k2pspCXWJhFlimxOO2XhEwxeAZ7cQ3oAFTmdD
-----END PRIVATE KEY-----
";
