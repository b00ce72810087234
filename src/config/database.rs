//! `[database]`: one way to the server, or two when a transaction pooler stands in the first.

use std::time::Duration;

use tokio_postgres::config::{Host, SslMode};

use crate::config::connection::{self, DEFAULT_POOL_SIZE, DEFAULT_TIMEOUT};
use crate::config::diagnostic::Diagnostic;
use crate::config::raw::{At, RawDatabase};
use crate::config::reader::{Reader, Reported};
use crate::config::secret::SecretKeys;
use crate::config::{Database, Pooler, Secret, Tls};

pub(super) fn database(reader: &mut Reader<'_>, raw: Option<&RawDatabase>) -> Result<Database, Reported> {
    let section: &[&str] = &["database"];
    let Some(raw) = raw else {
        return Err(reader.report(
            Diagnostic::new(None, "the section [database] is missing")
                .help("[database] with url = \"host=/var/run/postgresql dbname=outbox user=outboxd\""),
        ));
    };
    let keys = SecretKeys {
        name: "password",
        inline: &raw.password,
        file: &raw.password_file,
        credential: &raw.password_credential,
        env: &raw.password_env,
    };
    let password = reader.secret(section, keys);
    let pool_size =
        reader.whole("pool_size", &raw.pool_size, i64::try_from(DEFAULT_POOL_SIZE).unwrap_or(6), 2..=100);
    let timeout = reader.duration(
        "timeout",
        &raw.timeout,
        DEFAULT_TIMEOUT,
        Duration::from_millis(100)..=Duration::from_secs(300),
    );
    let poolers = [("none", Pooler::None), ("transaction", Pooler::Transaction)];
    let pooler = reader.choice("pooler", &raw.pooler, &poolers);
    let at = reader.required(
        section,
        "url",
        &raw.url,
        "url = \"host=/var/run/postgresql dbname=outbox user=outboxd\"",
    );
    let password = password.as_ref().map_err(|reported| *reported);
    let pins = pins(reader, raw);
    let mut way = |name, at| {
        let mut way = way(reader, name, at, password?.as_ref(), timeout)?;
        pin(reader, name, at, &mut way, pins.as_ref().map_err(|reported| *reported)?)?;
        Ok(way)
    };
    let database = at.and_then(|at| way("url", at));
    let direct = raw.direct_url.as_ref().map(|at| way("direct_url", at)).transpose();
    let (mut database, direct, pooler) = (database?, direct?, pooler?.unwrap_or(Pooler::None));
    if let (Pooler::Transaction, Some(at), Some(_)) = (pooler, &raw.url, database.connect.get_options()) {
        return Err(reader.wrong(
            &at.span,
            "`options` does not come through a transaction pooler",
            "a pooler refuses or drops it",
            "settle it on the server: ALTER ROLE … IN DATABASE … SET …",
        ));
    }
    database.pooler = pooler;
    database.pool_size = usize::try_from(pool_size).map_err(|_| Reported)?;
    database.direct = direct.map(Box::new);
    Ok(database)
}

/// One connection string, with the password that is given beside it.
fn way(
    reader: &mut Reader<'_>,
    name: &str,
    at: &At<String>,
    password: Option<&Secret>,
    timeout: Duration,
) -> Result<Database, Reported> {
    let mut database = connection::connection_in(&at.value, reader.surroundings()).map_err(|fault| {
        reader.wrong(&at.span, format!("`{name}` cannot be used"), fault.what, fault.hint)
    })?;
    if database.inline_password {
        reader.inline_secret("password", at)?;
        if password.is_some() {
            return Err(reader.wrong(
                &at.span,
                "the password is given twice",
                "here, and in a key of its own",
                format!("take it out of the `{name}`"),
            ));
        }
    }
    if let Some(password) = password {
        database.connect.password(password.expose());
    }
    if database.connect.get_connect_timeout().is_none() {
        database.connect.connect_timeout(timeout);
    }
    if database.root_cert.is_some() && matches!(database.tls, Tls::Disable | Tls::Prefer) {
        reader.wrong(
            &at.span,
            "`sslrootcert` has no effect with this `sslmode`",
            "would not be looked at",
            "sslmode=verify-full",
        );
    }
    database.timeout = timeout;
    Ok(database)
}

/// Fingerprints as `openssl x509 -fingerprint -sha256` prints them, or without the colons.
fn pins(reader: &mut Reader<'_>, raw: &RawDatabase) -> Result<Vec<[u8; 32]>, Reported> {
    let pin = |text: &str| -> Option<[u8; 32]> {
        let digits: Vec<u32> =
            text.chars().filter(|c| *c != ':').map(|c| c.to_digit(16)).collect::<Option<_>>()?;
        let bytes: Vec<u8> =
            digits.chunks_exact(2).filter_map(|pair| u8::try_from(pair[0] << 4 | pair[1]).ok()).collect();
        bytes.try_into().ok().filter(|_: &[u8; 32]| digits.len() == 64)
    };
    let found = raw.certificate_sha256.iter().flatten().map(|at| {
        pin(&at.value).ok_or_else(|| {
            reader.wrong(
                &at.span,
                "`certificate_sha256` holds something that is no SHA-256",
                "must be 64 hexadecimal digits",
                "openssl x509 -noout -fingerprint -sha256 -in server.crt",
            )
        })
    });
    found.collect()
}

/// A server that is known by its certificate must show it.
fn pin(
    reader: &mut Reader<'_>,
    name: &str,
    at: &At<String>,
    database: &mut Database,
    pins: &[[u8; 32]],
) -> Result<(), Reported> {
    if pins.is_empty() {
        return Ok(());
    }
    let local = database.connect.get_hosts().iter().any(|host| matches!(host, Host::Unix(_)));
    if local || database.tls == Tls::Disable {
        return Err(reader.wrong(
            &at.span,
            format!("`certificate_sha256` asks for TLS, and `{name}` does without"),
            if local { "a local socket" } else { "sslmode=disable" },
            "take certificate_sha256 out, or connect over TCP with TLS",
        ));
    }
    if database.tls == Tls::Prefer {
        database.tls = Tls::Require;
        database.connect.ssl_mode(SslMode::Require);
    }
    database.pins = pins.to_vec();
    Ok(())
}
