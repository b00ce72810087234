//! A real squid that opens TLS and looks into it, as in many offices: it shows certificates that it makes on the spot, signed
//! by an authority that only its own site knows.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::net::{GATEWAY, SQUID, succeed};
use crate::peers::{Program, SQUID_PORT, run, write_open};

/// Where packets to the gateway are led whose sender knows of no proxy.
const UNASKED_PORT: u16 = 3129;
const CERTIFICATES: &str = "/usr/lib/squid/security_file_certgen";

/// How the inspector comes to the connection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Inspector {
    /// The daemon asks it for a tunnel.
    Asked,
    /// The site's router hands the connection over, and nobody is told.
    Unasked,
}

/// squid as an inspector, and the router's rules if it has any. All ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Inspection {
    _squid: Program,
    redirected: bool,
}

impl Drop for Inspection {
    fn drop(&mut self) {
        if self.redirected {
            let _ = Command::new("nft").args(["delete", "table", "ip", "trial_inspection"]).status();
        }
    }
}

/// Starts it, or says why it cannot be had here. It trusts the gateway's real authority, in `ca.pem`.
pub(crate) async fn inspector(
    directory: &Path,
    authority: &Authority,
    how: Inspector,
) -> Result<Inspection, String> {
    if !Path::new(CERTIFICATES).exists() {
        return Err(format!("{CERTIFICATES} is not installed (squid-openssl)"));
    }
    // squid gives up root and then needs to write there and to enter.
    let store = directory.join("store");
    succeed(Command::new(CERTIFICATES).args(["-c", "-s"]).arg(&store).args(["-M", "4MB"]));
    succeed(Command::new("chown").args(["-R", "proxy:proxy"]).arg(&store));
    let opens = format!(
        "ssl-bump generate-host-certificates=on dynamic_cert_mem_cache_size=4MB tls-cert={} tls-key={}",
        authority.certificate().display(),
        authority.key().display()
    );
    let (file, log) = (directory.join("inspector.conf"), directory.join("inspector.log"));
    write_open(
        &file,
        &format!(
            "http_port {SQUID}:{SQUID_PORT} {opens}\nhttps_port {SQUID}:{UNASKED_PORT} intercept {opens}\n\
             sslcrtd_program {CERTIFICATES} -s {} -M 4MB\ntls_outgoing_options cafile={}\n\
             acl first at_step SslBump1\nssl_bump peek first\nssl_bump bump all\n\
             pid_filename none\ncache deny all\naccess_log none\ncache_log /dev/null\nnetdb_filename none\n\
             coredump_dir /tmp\nshutdown_lifetime 0 seconds\nhttp_access allow all\n",
            store.display(),
            directory.join("ca.pem").display()
        ),
    );
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "/usr/sbin/squid", "-N", "-f"]).arg(&file);
    let squid = run(command, (SQUID, SQUID_PORT), &log).await;
    let mut inspection = Inspection { _squid: squid, redirected: false };
    if let Inspector::Unasked = how {
        // What squid itself sends to the gateway does not come in by the wire.
        let rules = format!(
            "table ip trial_inspection {{\nchain lead {{\ntype nat hook prerouting priority dstnat;\n\
             iifname world0 ip daddr {GATEWAY} tcp dport 443 dnat to {SQUID}:{UNASKED_PORT};\n}}\n}}\n"
        );
        let rules_file = directory.join("inspector.nft");
        write_open(&rules_file, &rules);
        succeed(Command::new("nft").arg("-f").arg(&rules_file));
        inspection.redirected = true;
    }
    Ok(inspection)
}

/// An authority that only one trial has, made by openssl. `NAME.crt` is its certificate.
#[derive(Debug)]
pub(crate) struct Authority {
    directory: PathBuf,
    name: &'static str,
}

impl Authority {
    pub(crate) fn make(directory: &Path, name: &'static str, common_name: &str) -> Authority {
        let authority = Authority { directory: directory.to_owned(), name };
        let settings = "basicConstraints = critical, CA:TRUE\nkeyUsage = critical, keyCertSign, cRLSign\n\
                        subjectKeyIdentifier = hash\n";
        authority.certify(name, common_name, settings, &[]);
        // The key is squid's to read, once it is root no more.
        succeed(Command::new("chmod").arg("644").arg(authority.key()));
        authority
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.directory.join(format!("{}.crt", self.name))
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.directory.join(format!("{}.key", self.name))
    }

    /// A server's certificate and key, in PEM, for a name as openssl writes it: `IP:::1`.
    pub(crate) fn sign(&self, subject: &str) -> (String, String) {
        let settings = format!("basicConstraints = critical, CA:FALSE\nsubjectAltName = {subject}\n");
        let (certificate, key) = (self.certificate(), self.key());
        let signer = ["-CA".as_ref(), certificate.as_os_str(), "-CAkey".as_ref(), key.as_os_str()];
        self.certify("server", "server", &settings, &signer);
        let read = |kind: &str| fs::read_to_string(self.directory.join(format!("server.{kind}"))).unwrap();
        (read("crt"), read("key"))
    }

    fn certify(&self, file: &str, common_name: &str, settings: &str, signer: &[&std::ffi::OsStr]) {
        let path = |kind: &str| self.directory.join(format!("{file}.{kind}"));
        fs::write(
            path("cnf"),
            format!("[req]\ndistinguished_name = names\nprompt = no\n[names]\nCN = {common_name}\n[kind]\n{settings}"),
        )
        .unwrap();
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
        openssl.args(["-days", "30", "-extensions", "kind", "-config"]).arg(path("cnf"));
        openssl.arg("-keyout").arg(path("key")).arg("-out").arg(path("crt")).args(signer);
        succeed(&mut openssl);
    }
}
