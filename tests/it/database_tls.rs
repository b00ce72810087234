//! TLS to PostgreSQL: every `sslmode`, certificates that rustls will not take, those that are known beforehand, and those
//! that we show.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use outboxd::config::{self, Database};
use outboxd::store::Store;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};

use crate::gateway_tls::{AUTHORITY, CLIENT, CLIENT_AUTHORITY, CLIENT_KEY, LEAF, LEAF_KEY};
use crate::support::cluster::{Cluster, Stop, give_to_server};

const VERSION_1: &str = include_str!("certificates/version1.crt");
const VERSION_1_KEY: &str = include_str!("certificates/version1.key");
const CA_TRUE: &str = include_str!("certificates/authority_as_server.crt");
const CA_TRUE_KEY: &str = include_str!("certificates/authority_as_server.key");

/// A server that takes TLS only: `certified` by a client certificate, everybody else by a password.
pub(crate) async fn server(certificate: &str, key: &str) -> Cluster {
    let mut cluster = Cluster::start("").await;
    let sql = cluster.client("postgres").await;
    sql.batch_execute(
        "CREATE ROLE outboxd LOGIN; SET password_encryption = 'scram-sha-256'; \
         CREATE ROLE secret LOGIN PASSWORD 'correct-horse'",
    )
    .await
    .unwrap();
    drop(sql);
    give(&cluster, "server.crt", certificate);
    give(&cluster, "server.key", key);
    give(&cluster, "clients.crt", CLIENT_AUTHORITY);
    cluster.configure(
        "ssl = on\nssl_cert_file = 'server.crt'\nssl_key_file = 'server.key'\nssl_ca_file = 'clients.crt'",
    );
    give(
        &cluster,
        "pg_hba.conf",
        "local all all trust\nhostssl all outboxd all cert\nhostssl all secret all scram-sha-256\n",
    );
    cluster.restart(Stop::Fast).await;
    cluster
}

fn give(cluster: &Cluster, name: &str, content: &str) {
    let path = cluster.data().join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    give_to_server(&path);
}

/// A connection as `secret`, with a password.
fn database(cluster: &Cluster, host: &str, options: &str) -> Database {
    let port = cluster.port();
    let text =
        format!("host={host} port={port} dbname=postgres user=secret password=correct-horse {options}");
    config::connection(&text).unwrap_or_else(|fault| panic!("{options}: {fault}"))
}

async fn connect(database: &Database) -> Result<(), String> {
    let store = Store::open(database).map_err(|error| error.to_string())?;
    store.schema_state().await.map(|_| ()).map_err(|error| error.to_string())
}

#[track_caller]
fn refused(outcome: Result<(), String>, words: &[&str]) {
    let error = outcome.expect_err("it was let in");
    for word in words {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
}

fn file(directory: &Path, name: &str, content: &str) -> String {
    let path = directory.join(name);
    fs::write(&path, content).unwrap();
    // Some are keys.
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

fn fingerprint(pem: &str) -> [u8; 32] {
    Sha256::digest(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().as_ref()).into()
}

#[tokio::test]
async fn a_good_certificate_satisfies_every_sslmode_and_another_name_only_those_that_ask_for_none() {
    let cluster = server(LEAF, LEAF_KEY).await;
    let directory = tempfile::tempdir().unwrap();
    let root = file(directory.path(), "ca.pem", AUTHORITY);
    for options in [
        "sslmode=allow".to_owned(),
        "sslmode=prefer".to_owned(),
        "sslmode=require".to_owned(),
        "sslmode=require ssl_min_protocol_version=TLSv1.3".to_owned(),
        "sslmode=require channel_binding=require".to_owned(),
        format!("sslmode=require sslrootcert={root}"),
        format!("sslmode=verify-ca sslrootcert={root}"),
        format!("sslmode=verify-full sslrootcert={root} channel_binding=require"),
    ] {
        connect(&database(&cluster, "localhost", &options))
            .await
            .unwrap_or_else(|e| panic!("{options}: {e}"));
    }
    let by_address =
        |mode: &str| database(&cluster, "127.0.0.1", &format!("sslmode={mode} sslrootcert={root}"));
    connect(&by_address("verify-ca")).await.unwrap();
    refused(connect(&by_address("verify-full")).await, &["alternative names", "subjectAltName"]);

    refused(connect(&database(&cluster, "localhost", "sslmode=disable")).await, &["no encryption"]);
    let strangers = file(directory.path(), "other.pem", CLIENT_AUTHORITY);
    let other = database(&cluster, "localhost", &format!("sslmode=verify-ca sslrootcert={strangers}"));
    refused(connect(&other).await, &["not trusted here", "sslrootcert"]);
}

#[tokio::test]
async fn a_certificate_of_version_1_is_taken_by_its_fingerprint_and_else_explained() {
    let cluster = server(VERSION_1, VERSION_1_KEY).await;
    let directory = tempfile::tempdir().unwrap();
    let root = file(directory.path(), "v1.pem", VERSION_1);
    connect(&database(&cluster, "localhost", "sslmode=require")).await.unwrap();
    let full = database(&cluster, "localhost", &format!("sslmode=verify-full sslrootcert={root}"));
    refused(connect(&full).await, &["certificate_sha256"]);

    let pinned = |pins: Vec<[u8; 32]>| Database { pins, ..full.clone() };
    connect(&pinned(vec![[0; 32], fingerprint(VERSION_1)])).await.unwrap();
    let own: String = fingerprint(VERSION_1).iter().map(|byte| format!("{byte:02x}")).collect();
    refused(connect(&pinned(vec![fingerprint(LEAF)])).await, &["certificate_sha256", &own]);
    for version in ["TLSv1.2", "TLSv1.3"] {
        cluster.configure(&format!("ssl_max_protocol_version = '{version}'"));
        let sql = cluster.client("postgres").await;
        sql.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        connect(&pinned(vec![fingerprint(VERSION_1)])).await.unwrap_or_else(|e| panic!("{version}: {e}"));
    }
}

#[tokio::test]
async fn an_authoritys_certificate_as_a_servers_is_taken_by_its_fingerprint_and_else_explained() {
    let cluster = server(CA_TRUE, CA_TRUE_KEY).await;
    let directory = tempfile::tempdir().unwrap();
    let root = file(directory.path(), "ca.pem", CA_TRUE);
    let full = database(&cluster, "localhost", &format!("sslmode=verify-full sslrootcert={root}"));
    refused(connect(&full).await, &["CA:TRUE", "openssl", "certificate_sha256"]);
    connect(&Database { pins: vec![fingerprint(CA_TRUE)], ..full }).await.unwrap();
}

#[tokio::test]
async fn a_server_that_asks_who_we_are_is_shown_the_client_certificate() {
    let cluster = server(LEAF, LEAF_KEY).await;
    let directory = tempfile::tempdir().unwrap();
    let certificate = file(directory.path(), "client.crt", CLIENT);
    let key = file(directory.path(), "client.key", CLIENT_KEY);
    let place =
        format!("host=localhost port={} dbname=postgres user=outboxd sslmode=require", cluster.port());
    let with = |options: &str| config::connection(&format!("{place} {options}")).unwrap();
    connect(&with(&format!("sslcert={certificate} sslkey={key}"))).await.unwrap();
    refused(connect(&with("")).await, &["certificate"]);
    let swapped = with(&format!("sslcert={key} sslkey={certificate}"));
    let error = connect(&swapped).await.unwrap_err();
    assert!(!error.contains(&CLIENT_KEY[30..60]), "{error}");
}
