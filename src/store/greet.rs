//! TLS with one of the database's hosts as far as `outboxd check` looks at it: what it shows, and why that is refused, judged
//! as it is when we work. Sends nothing but the greeting; nobody logs in.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::config::SslNegotiation;
use tokio_rustls::TlsConnector;

use crate::clock;
use crate::config::{Database, Tls};
use crate::hop::Trouble;
use crate::hop::certificate::Shown;
use crate::hop::handshake::{self, Noting, Refusal, Seen};
use crate::store::tls;

/// PostgreSQL's SSLRequest: its length, and a number where the version of the protocol would be.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// What a greeting came to.
#[derive(Debug)]
pub struct Greeted {
    pub outcome: Result<String, Refused>,
    /// What was shown in TLS.
    pub chain: Vec<Shown>,
}

#[derive(Debug)]
pub struct Refused {
    pub problem: Problem,
    /// In words.
    pub said: String,
    /// What to do about this very certificate.
    pub advice: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    Network(Trouble),
    /// The server says that it does no TLS, and `sslmode` wants it.
    NotOffered,
    Tls(Refusal),
}

impl Problem {
    /// One word, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Problem::Network(trouble) => trouble.code(),
            Problem::NotOffered => "no_tls",
            Problem::Tls(refusal) => refusal.code(),
        }
    }
}

/// Greets `host` over a new connection. `None`: there is no TLS to look at, or what is wrong is told by logging in.
pub async fn greet(database: &Database, host: &str, stream: TcpStream, limit: Duration) -> Option<Greeted> {
    if database.tls == Tls::Disable {
        return None;
    }
    let seen = Arc::new(Mutex::new(Seen::default()));
    let client = tls::client(database, |verifier| Arc::new(Noting::new(verifier, &seen, false))).ok()?;
    let name = ServerName::try_from(host.to_owned()).ok()?;
    let connector = TlsConnector::from(Arc::new(client));
    let greeted = tokio::time::timeout(limit, hello(database, stream, connector, name)).await;
    let greeted = greeted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let Seen { chain, refused } = handshake::taken(&seen);
    let refused_so = |problem, said| Err(Refused { problem, said, advice: None });
    let outcome = match (greeted, refused) {
        (Ok(Hello::Encrypted(version)), _) => {
            let certificate =
                chain.first().map_or("a certificate that cannot be read".to_owned(), |own| own.to_string());
            Ok(format!("{version}; {certificate}"))
        }
        (Ok(Hello::NotOffered), _) if database.tls == Tls::Prefer => return None,
        (Ok(Hello::NotOffered), _) => {
            refused_so(Problem::NotOffered, "the server offers no TLS, and sslmode asks for it".to_owned())
        }
        (Ok(Hello::Complaint), _) => return None,
        (Ok(Hello::Strange), _) => {
            refused_so(Problem::Tls(Refusal::NoTls), "what answers there is no PostgreSQL".to_owned())
        }
        (Err(_), Some(fault)) => {
            let (refusal, said) = handshake::judged(&fault, host, &chain, now());
            let advice = tls::advice_on(&fault);
            // What the library says of other faults is for programmers; the advice says it better.
            let said = match (refusal, &advice, chain.first()) {
                (Refusal::Other, Some(_), Some(own)) => own.to_string(),
                _ => said,
            };
            Err(Refused { problem: Problem::Tls(refusal), said, advice })
        }
        (Err(error), None) => {
            let (problem, said) = broken(&error, limit);
            refused_so(problem, said)
        }
    };
    Some(Greeted { outcome, chain })
}

enum Hello {
    Encrypted(&'static str),
    NotOffered,
    /// An error instead of an answer, as of a server that is starting up: whoever logs in gets it too.
    Complaint,
    Strange,
}

async fn hello(
    database: &Database,
    mut stream: TcpStream,
    connector: TlsConnector,
    name: ServerName<'static>,
) -> io::Result<Hello> {
    if database.connect.get_ssl_negotiation() == SslNegotiation::Postgres {
        stream.write_all(&SSL_REQUEST).await?;
        match stream.read_u8().await? {
            b'S' => {}
            b'N' => return Ok(Hello::NotOffered),
            b'E' => return Ok(Hello::Complaint),
            _ => return Ok(Hello::Strange),
        }
    }
    let stream = connector.connect(name, stream).await?;
    Ok(Hello::Encrypted(handshake::version(stream.get_ref().1)))
}

fn broken(error: &io::Error, limit: Duration) -> (Problem, String) {
    if let Some((refusal, said)) = handshake::broken(error) {
        return (Problem::Tls(refusal), said);
    }
    let trouble = Trouble::of_connection(error);
    let said = match trouble {
        Trouble::Timeout => format!("connected, and no answer to the TLS greeting within {limit:?}"),
        Trouble::Reset if error.kind() == io::ErrorKind::UnexpectedEof => {
            "connected, and then during the TLS handshake: it closed the connection".to_owned()
        }
        ref other => format!("connected, and then during the TLS handshake: {other}"),
    };
    (Problem::Network(trouble), said)
}

#[expect(clippy::cast_possible_truncation, reason = "seconds since 1970")]
fn now() -> i64 {
    clock::wall() as i64
}
