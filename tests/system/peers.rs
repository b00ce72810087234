//! Who is there in the world: TLS in front of the simulated gateway, a stranger who counts his callers, and the real
//! proxies squid and dante.

use std::fs::{self, Permissions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::net::{DANTE, GATEWAY, SQUID, succeed};
use crate::support::eventually;

const LIMIT: Duration = Duration::from_secs(30);
pub(crate) const SQUID_PORT: u16 = 3128;
pub(crate) const DANTE_PORT: u16 = 1080;
/// Of both proxies.
pub(crate) const PROXY_USER: &str = "proxyuser";
pub(crate) const PROXY_PASSWORD: &str = "proxy-horse";

/// Takes TLS on an address of the gateway's and passes on what it says to the simulator.
pub(crate) async fn front(address: IpAddr, certificate: &str, key: &str, simulator: &str) -> Server {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let simulator = simulator.trim_start_matches("http://").trim_end_matches('/').to_owned();
    Server::start(SocketAddr::from((address, 443)), move |caller| {
        let (acceptor, simulator) = (acceptor.clone(), simulator.clone());
        tokio::spawn(async move {
            let Ok(mut caller) = acceptor.accept(caller).await else { return };
            let Ok(mut gateway) = TcpStream::connect(simulator).await else { return };
            let _ = copy_bidirectional(&mut caller, &mut gateway).await;
        });
    })
    .await
}

/// Counts who comes. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    callers: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(
        address: SocketAddr,
        serve: impl Fn(TcpStream) + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind(address).await.unwrap();
        let callers = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&callers);
        let task = tokio::spawn(async move {
            while let Ok((caller, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                serve(caller);
            }
        });
        Server { callers, task }
    }

    pub(crate) fn callers(&self) -> usize {
        self.callers.load(Ordering::Relaxed)
    }

    /// Gives its address up before it returns.
    pub(crate) async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A program of the distribution, killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The program, or why it is not here.
pub(crate) fn installed(program: &str) -> Result<(), String> {
    let path = format!("/usr/sbin/{program}");
    if Path::new(&path).exists() { Ok(()) } else { Err(format!("{path} is not installed")) }
}

pub(crate) async fn run(mut command: Command, at: (Ipv4Addr, u16), log: &Path) -> Program {
    let file = fs::File::create(log).unwrap();
    command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
    let mut program = Program(command.spawn().unwrap());
    eventually(LIMIT, "the proxy takes connections", async || {
        if let Some(status) = program.0.try_wait().unwrap() {
            panic!("the proxy ended: {status}\n{}", fs::read_to_string(log).unwrap_or_default());
        }
        TcpStream::connect(at).await.map(|_| ()).map_err(|error| error.to_string())
    })
    .await;
    program
}

pub(crate) fn write_open(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
}

/// squid with basic authentication, which lets nobody anywhere but to `allowed`.
pub(crate) async fn squid(directory: &Path, allowed: &str) -> Program {
    let hash = succeed(Command::new("openssl").args(["passwd", "-apr1", PROXY_PASSWORD]));
    let (users, file, log) =
        (directory.join("squid.users"), directory.join("squid.conf"), directory.join("squid.log"));
    write_open(&users, &format!("{PROXY_USER}:{hash}"));
    write_open(
        &file,
        &format!(
            "http_port {SQUID}:{SQUID_PORT}\npid_filename none\ncache deny all\naccess_log none\ncache_log /dev/null\n\
             netdb_filename none\ncoredump_dir /tmp\nshutdown_lifetime 0 seconds\n\
             auth_param basic program /usr/lib/squid/basic_ncsa_auth {}\n\
             acl known proxy_auth REQUIRED\nacl gateway dstdomain {allowed}\nacl CONNECT method CONNECT\n\
             http_access allow known CONNECT gateway\nhttp_access deny !known\nhttp_access deny all\n",
            users.display()
        ),
    );
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "/usr/sbin/squid", "-N", "-f"]).arg(&file);
    run(command, (SQUID, SQUID_PORT), &log).await
}

/// dante, which asks for the name and password of a user of this machine: one that only we see.
pub(crate) async fn dante(directory: &Path) -> Program {
    let hash = succeed(Command::new("openssl").args(["passwd", "-6", PROXY_PASSWORD]));
    for (name, line) in [
        ("passwd", format!("{PROXY_USER}:x:51508:65534::/nonexistent:/usr/sbin/nologin\n")),
        ("shadow", format!("{PROXY_USER}:{}:19000::::::\n", hash.trim())),
    ] {
        let (real, copy) = (format!("/etc/{name}"), directory.join(name));
        fs::write(&copy, fs::read_to_string(&real).unwrap() + &line).unwrap();
        fs::set_permissions(&copy, fs::metadata(&real).unwrap().permissions()).unwrap();
        // In a mount namespace of our own.
        succeed(Command::new("mount").arg("--bind").arg(&copy).arg(&real));
    }
    let (file, log) = (directory.join("danted.conf"), directory.join("danted.log"));
    write_open(
        &file,
        &format!(
            "logoutput: stderr\ninternal: {DANTE} port = {DANTE_PORT}\nexternal: {DANTE}\nsocksmethod: username\n\
             clientmethod: none\nuser.privileged: root\nuser.unprivileged: nobody\n\
             client pass {{\n  from: 0.0.0.0/0 to: 0.0.0.0/0\n}}\n\
             socks pass {{\n  from: 0.0.0.0/0 to: {GATEWAY}/32 port = 443\n  protocol: tcp\n}}\n"
        ),
    );
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "/usr/sbin/danted", "-f"]).arg(&file);
    run(command, (DANTE, DANTE_PORT), &log).await
}
