//! Real TLS handshakes: who is trusted, and that a refused certificate means that nothing left.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use outboxd::config::{self, ClientCertificate, TlsMin};
use outboxd::gateway::{Gate, Gateway};
use outboxd::verdict::{DeferCause, Verdict};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

use crate::gateway_peer::{V1_ACCEPTED, answer, message, v1};

/// Serves one connection with a certificate for `localhost`; the thread gives back what could be read.
pub(crate) fn serve_one() -> (u16, JoinHandle<Vec<u8>>) {
    serve_one_with(rustls::DEFAULT_VERSIONS, None)
}

/// The same with these versions of TLS; it wants a certificate of this authority from its callers.
fn serve_one_with(
    versions: &[&'static rustls::SupportedProtocolVersion],
    callers: Option<&str>,
) -> (u16, JoinHandle<Vec<u8>>) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .unwrap();
    let builder = match callers {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let config = builder
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

/// Sends to `localhost`, trusting [`AUTHORITY`], with a configuration that is changed before.
async fn send_with(port: u16, change: impl FnOnce(&std::path::Path, &mut config::Gateway)) -> Verdict {
    let directory = tempfile::tempdir().unwrap();
    let mut cfg = v1(&format!("https://localhost:{port}/send"));
    cfg.ca_file = Some(directory.path().join("ca.pem"));
    std::fs::write(directory.path().join("ca.pem"), AUTHORITY).unwrap();
    change(directory.path(), &mut cfg);
    Gateway::build(&cfg).unwrap().send(&message(1), &Gate::always()).await
}

#[tokio::test]
async fn a_gateway_that_asks_who_we_are_is_shown_the_client_certificate() {
    for together in [true, false] {
        let (port, server) = serve_one_with(rustls::DEFAULT_VERSIONS, Some(CLIENT_AUTHORITY));
        let verdict = send_with(port, |directory, cfg| {
            let (certificate_file, mut key_file) = (directory.join("c.pem"), directory.join("k.pem"));
            if together {
                std::fs::write(&certificate_file, format!("{CLIENT_KEY}{CLIENT}")).unwrap();
                key_file.clone_from(&certificate_file);
            } else {
                std::fs::write(&certificate_file, CLIENT).unwrap();
                std::fs::write(&key_file, CLIENT_KEY).unwrap();
            }
            cfg.network.client_certificate = Some(ClientCertificate { certificate_file, key_file });
        })
        .await;
        assert!(matches!(verdict, Verdict::Accepted { .. }), "{verdict:?}");
        assert!(server.join().unwrap().starts_with(b"POST /send HTTP/1.1\r\n"));
    }
}

#[tokio::test]
async fn without_a_client_certificate_such_a_gateway_takes_nothing() {
    let versions = [&rustls::version::TLS12];
    let (port, server) = serve_one_with(&versions, Some(CLIENT_AUTHORITY));
    let verdict = send_with(port, |_, _| ()).await;
    assert!(matches!(verdict, Verdict::Deferred { cause: DeferCause::Unreachable, .. }), "{verdict:?}");
    assert_eq!(server.join().unwrap(), b"");
}

#[tokio::test]
async fn a_client_certificate_that_is_none_is_an_error_that_shows_nothing_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut cfg = v1("https://localhost/send");
    let file = directory.path().join("c.pem");
    for content in ["", "s3cret", CLIENT, CLIENT_KEY] {
        std::fs::write(&file, content).unwrap();
        cfg.network.client_certificate =
            Some(ClientCertificate { certificate_file: file.clone(), key_file: file.clone() });
        let error = Gateway::build(&cfg).unwrap_err().to_string();
        assert!(error.starts_with("client_certificate_file: ") && !error.contains("s3cret"), "{error}");
    }
    std::fs::remove_file(&file).unwrap();
    let error = Gateway::build(&cfg).unwrap_err().to_string();
    assert!(error.contains("c.pem"), "{error}");
}

#[tokio::test]
async fn a_gateway_that_speaks_only_older_tls_than_asked_for_gets_nothing() {
    for (tls_min, accepted) in [(TlsMin::V1_2, true), (TlsMin::V1_3, false)] {
        let versions = [&rustls::version::TLS12];
        let (port, server) = serve_one_with(&versions, None);
        let verdict = send_with(port, |_, cfg| cfg.network.tls_min = tls_min).await;
        assert_eq!(matches!(verdict, Verdict::Accepted { .. }), accepted, "{tls_min:?}: {verdict:?}");
        assert_eq!(server.join().unwrap().is_empty(), !accepted);
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

/// Another authority, for those who call.
pub(crate) const CLIENT_AUTHORITY: &str = "\
-----BEGIN CERTIFICATE-----
MIIBqDCCAU2gAwIBAgIUKBo588+J/beKCa/qkXbkdGqaoLgwCgYIKoZIzj0EAwIw
KDEmMCQGA1UEAwwdb3V0Ym94ZCB0ZXN0IGNsaWVudCBhdXRob3JpdHkwIBcNMjYx
MTIyMjIzNDA3WhgPMjEyNjEwMjkyMjM0MDdaMCgxJjAkBgNVBAMMHW91dGJveGQg
dGVzdCBjbGllbnQgYXV0aG9yaXR5MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE
n6+1PXXv1SM/jedTkGNB7+qhs9dNLdD7wgzneoxO02yIIFQ2N9Gf3j/fY+UTSM9D
vUMJETXcgbZvJUMt/whFaKNTMFEwHQYDVR0OBBYEFMJ86kHKhrHEj/iUoYWlMrYA
3P0aMB8GA1UdIwQYMBaAFMJ86kHKhrHEj/iUoYWlMrYA3P0aMA8GA1UdEwEB/wQF
MAMBAf8wCgYIKoZIzj0EAwIDSQAwRgIhAOSg4uTiUiQ8bN3q2u+9Fp0eerdC+dQ9
rJJHP08Xyyo/AiEAyticBbGhuVw2lQL7tIo4mPW4JT2nkhrPw1NephDD98A=
-----END CERTIFICATE-----
";

/// Signed by that one, for a client.
pub(crate) const CLIENT: &str = "\
-----BEGIN CERTIFICATE-----
MIIBuzCCAWKgAwIBAgIUYGlyJw4aYVUg/bvMUMs8wPbwXrIwCgYIKoZIzj0EAwIw
KDEmMCQGA1UEAwwdb3V0Ym94ZCB0ZXN0IGNsaWVudCBhdXRob3JpdHkwIBcNMjYx
MTIyMjIzNDA3WhgPMjEyNjEwMjkyMjM0MDdaMBIxEDAOBgNVBAMMB291dGJveGQw
WTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAATcJqbsknvqY1IypYoq1fJgt/vVSZNG
Ckd9bt0eufCX2i/tngVlIfkfwH9w25kb1F7O8WDNODfwGjzzFfIMEss7o34wfDAJ
BgNVHRMEAjAAMBMGA1UdJQQMMAoGCCsGAQUFBwMCMBoGA1UdEQQTMBGCD291dGJv
eGQuZXhhbXBsZTAdBgNVHQ4EFgQUy4hm1k9V9NH7XahpIbpZGxpPmewwHwYDVR0j
BBgwFoAUwnzqQcqGscSP+JShhaUytgDc/RowCgYIKoZIzj0EAwIDRwAwRAIgXu9q
g668j3PhLEONTg/f21fh67uTQEDnUF+daQyJRacCIGOc24BN5ImW/qcTV/LdnSgm
nDyVqI4iNIk4xW9Hl7m6
-----END CERTIFICATE-----
";

/// Opens nothing but the tests above.
pub(crate) const CLIENT_KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgwzKdtFuKdkrO/lcB
7i+Lh0CgF3yPm4l1VHyZdFOjf9ShRANCAATcJqbsknvqY1IypYoq1fJgt/vVSZNG
Ckd9bt0eufCX2i/tngVlIfkfwH9w25kb1F7O8WDNODfwGjzzFfIMEss7
-----END PRIVATE KEY-----
";
