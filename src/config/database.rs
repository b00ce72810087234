//! `[database]`: one way to the server, or two when a transaction pooler stands in the first.

use std::time::Duration;

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
    let mut way = |name, at| way(reader, name, at, password?.as_ref(), timeout);
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
    let mut database = connection::connection(&at.value).map_err(|fault| {
        reader.wrong(&at.span, format!("`{name}` cannot be used"), fault.what, fault.hint)
    })?;
    if database.connect.get_password().is_some() {
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
    database.root_cert = database.root_cert.map(|path| reader.surroundings().directory.join(path));
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
