//! A PostgreSQL connection string, as libpq would read it.
//!
//! The library knows little of what libpq does about TLS, and no files; those options are taken out here and kept beside.
//! Must not show the password: what people see is `Database::shown`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::config::{Host, SslMode};

use super::secret::{KeyFault, Surroundings};
use super::{ClientCertificate, Database, Pooler, Tls, TlsMin, libpq};

pub(super) const DEFAULT_POOL_SIZE: usize = 6;
pub(super) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// A LISTEN connection is silent for hours, and a firewall forgets it without a word: probe early.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;
/// What the library assumes when nobody sets it.
const LIBRARY_KEEPALIVE_IDLE: Duration = Duration::from_secs(2 * 60 * 60);
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(20);

/// Why a connection string cannot be used. Holds no part of it but names of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionFault {
    pub what: String,
    pub hint: &'static str,
}

impl fmt::Display for ConnectionFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for ConnectionFault {}

pub(super) fn fault(what: impl Into<String>, hint: &'static str) -> ConnectionFault {
    ConnectionFault { what: what.into(), hint }
}

const EXAMPLE: &str = "for example \"host=/var/run/postgresql dbname=outbox user=outboxd\" or \
                       \"postgresql://outboxd@db.example/outbox?sslmode=verify-full\"";

/// A database from a connection string that stands on its own: relative paths begin where we are.
pub fn connection(text: &str) -> Result<Database, ConnectionFault> {
    connection_in(text, &Surroundings::here())
}

/// A database from a connection string, with the defaults for the rest. Reads the files that it names.
pub fn connection_in(text: &str, surroundings: &Surroundings) -> Result<Database, ConnectionFault> {
    let mut extras = Extras::default();
    let is_url = text.starts_with("postgres://") || text.starts_with("postgresql://");
    let mut plain = if is_url { extras.strip_url(text)? } else { extras.strip_keywords(text)? };
    let given =
        if is_url { url_keys(&plain) } else { keywords(&plain)?.into_iter().map(|(k, _)| k).collect() };
    if let Some(name) = extras.service.take() {
        let service = libpq::service(&name, extras.service_file.as_deref(), surroundings)?;
        for (key, value) in extras.unless_given(service, &given)? {
            plain = if is_url {
                with_parameter(&plain, &key, &value)
            } else {
                with_keyword(&plain, &key, &value)
            };
        }
    }
    let mut connect: tokio_postgres::Config = plain.parse().map_err(|error: tokio_postgres::Error| {
        // An option that the library does not know may be the tail of a password with a space in it.
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        let cause = cause
            .filter(|cause| !cause.contains("unknown option"))
            .unwrap_or_else(|| "an option is not known".to_owned());
        fault(format!("not a connection string: {cause}"), EXAMPLE)
    })?;
    if connect.get_hosts().is_empty() {
        return Err(fault("the connection string names no host", EXAMPLE));
    }
    let second_at_sign = is_url && authority(text).matches('@').count() > 1;
    let in_name = |host: &Host| matches!(host, Host::Tcp(name) if name.contains('@'));
    if second_at_sign || connect.get_hosts().iter().any(in_name) {
        // What stands before it is the tail of a password, and a host's name is shown.
        return Err(fault("a host holds an `@`", "an `@` in a user name or a password is written %40"));
    }
    let (hosts, ports) = (connect.get_hosts().len(), connect.get_ports().len());
    if ports > 1 && ports != hosts {
        return Err(fault(
            format!("{hosts} hosts but {ports} ports"),
            "give one port for all hosts, or one for each",
        ));
    }
    let tls = extras.tls(&connect)?;
    connect.ssl_mode(match tls {
        Tls::Disable => SslMode::Disable,
        Tls::Prefer => SslMode::Prefer,
        Tls::Require | Tls::VerifyCa | Tls::VerifyFull => SslMode::Require,
    });
    if let (Some(file), None) = (&extras.passfile, connect.get_password())
        && let Some(password) = libpq::password(file, &connect, surroundings)?
    {
        connect.password(password);
    }
    set_defaults(&mut connect);
    let shown = show(&connect);
    Ok(Database {
        connect,
        shown,
        inline_password: given.iter().any(|key| key == "password"),
        pool_size: DEFAULT_POOL_SIZE,
        timeout: DEFAULT_TIMEOUT,
        tls,
        tls_min: extras.tls_min,
        client_certificate: extras.client_certificate(surroundings)?,
        pins: Vec::new(),
        root_cert: extras.root_cert.map(|path| surroundings.directory.join(path)),
        pooler: Pooler::None,
        direct: None,
    })
}

fn set_defaults(connect: &mut tokio_postgres::Config) {
    if connect.get_application_name().is_none() {
        connect.application_name("outboxd");
    }
    if connect.get_keepalives_idle() == LIBRARY_KEEPALIVE_IDLE {
        connect.keepalives_idle(KEEPALIVE_IDLE);
    }
    if connect.get_keepalives_interval().is_none() {
        connect.keepalives_interval(KEEPALIVE_INTERVAL);
    }
    if connect.get_keepalives_retries().is_none() {
        connect.keepalives_retries(KEEPALIVE_RETRIES);
    }
    if connect.get_tcp_user_timeout().is_none() {
        connect.tcp_user_timeout(TCP_USER_TIMEOUT);
    }
}

/// What the library does not know.
#[derive(Debug, Default)]
struct Extras {
    sslmode: Option<String>,
    root_cert: Option<PathBuf>,
    system_roots: bool,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    tls_min: TlsMin,
    passfile: Option<PathBuf>,
    service: Option<String>,
    service_file: Option<String>,
}

impl Extras {
    /// Takes what it knows; `false` leaves the pair to the library.
    fn take(&mut self, key: &str, value: &str) -> Result<bool, ConnectionFault> {
        if let Some(hint) = unsupported(key, value) {
            return Err(fault(
                format!("`{key}` as it stands in the connection string is not supported"),
                hint,
            ));
        }
        match key {
            "sslmode" => self.sslmode = Some(value.to_owned()),
            "sslrootcert" if value == "system" => self.system_roots = true,
            "sslrootcert" => self.root_cert = Some(PathBuf::from(value)),
            // libpq's own, without a meaning here.
            "gssencmode" | "fallback_application_name" | "client_encoding" | "sslcompression" => {}
            // Settings that change nothing; the others were refused.
            "ssl_max_protocol_version"
            | "sslcrl"
            | "sslcrldir"
            | "sslpassword"
            | "requirepeer"
            | "require_auth"
            | "sslsni"
            | "sslcertmode" => {}
            "sslcert" => self.certificate = Some(PathBuf::from(value)),
            "sslkey" => self.key = Some(PathBuf::from(value)),
            "passfile" => self.passfile = Some(PathBuf::from(value)),
            "service" => self.service = Some(value.to_owned()),
            "servicefile" => self.service_file = Some(value.to_owned()),
            "ssl_min_protocol_version" => {
                self.tls_min = match value {
                    "" | "TLSv1" | "TLSv1.1" | "TLSv1.2" => TlsMin::V1_2,
                    "TLSv1.3" => TlsMin::V1_3,
                    _ => {
                        return Err(fault(
                            "`ssl_min_protocol_version` is no version of TLS",
                            "TLSv1.2 or TLSv1.3",
                        ));
                    }
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn strip_url(&mut self, text: &str) -> Result<String, ConnectionFault> {
        let Some((base, query)) = text.split_once('?') else { return Ok(text.to_owned()) };
        let mut rest = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            // libpq does not read `+` as a space.
            let literal = pair.replace('+', "%2B");
            let (key, value) = form_urlencoded::parse(literal.as_bytes()).next().unwrap_or_default();
            if !self.take(&key, &value)? {
                rest.push(pair);
            }
        }
        Ok(if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) })
    }

    fn strip_keywords(&mut self, text: &str) -> Result<String, ConnectionFault> {
        let mut rest = Vec::new();
        for (key, value) in keywords(text)? {
            if !self.take(&key, &value)? {
                rest.push(format!("{key}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'")));
            }
        }
        Ok(rest.join(" "))
    }

    /// Of a service, what the connection string does not say itself. What is for us is taken.
    fn unless_given(
        &mut self,
        service: Vec<(String, String)>,
        given: &[String],
    ) -> Result<Vec<(String, String)>, ConnectionFault> {
        let mut of_service = Extras::default();
        let mut rest = Vec::new();
        for (key, value) in service {
            if !given.contains(&key) && !of_service.take(&key, &value)? {
                rest.push((key, value));
            }
        }
        self.sslmode = self.sslmode.take().or(of_service.sslmode);
        if self.root_cert.is_none() && !self.system_roots {
            (self.root_cert, self.system_roots) = (of_service.root_cert, of_service.system_roots);
        }
        self.certificate = self.certificate.take().or(of_service.certificate);
        self.key = self.key.take().or(of_service.key);
        self.passfile = self.passfile.take().or(of_service.passfile);
        if self.tls_min == TlsMin::V1_2 {
            self.tls_min = of_service.tls_min;
        }
        Ok(rest)
    }

    fn client_certificate(
        &self,
        surroundings: &Surroundings,
    ) -> Result<Option<ClientCertificate>, ConnectionFault> {
        match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => {
                let key_file = surroundings.directory.join(key);
                match surroundings.key_fault(&key_file) {
                    None => {}
                    Some(KeyFault::ReadByOthers(_)) => {
                        return Err(fault(
                            "everybody on this machine can read the private key that `sslkey` names",
                            "chmod 640 its file, and have another key made if others had a chance to read it",
                        ));
                    }
                    Some(KeyFault::NotText) => {
                        return Err(fault("`sslkey` names no PEM file", "a PEM file is text"));
                    }
                }
                let certificate_file = surroundings.directory.join(certificate);
                Ok(Some(ClientCertificate { certificate_file, key_file }))
            }
            (None, None) => Ok(None),
            _ => Err(fault("of `sslcert` and `sslkey` one is missing", "give both, or neither")),
        }
    }

    fn tls(&self, connect: &tokio_postgres::Config) -> Result<Tls, ConnectionFault> {
        let proves = self.root_cert.is_some() || self.system_roots;
        Ok(match self.sslmode.as_deref() {
            Some("disable") => Tls::Disable,
            // "allow" would take plain text first; what can be encrypted is.
            Some("allow" | "prefer") => Tls::Prefer,
            // As in libpq: who names an authority wants it looked at.
            Some("require") if proves => Tls::VerifyCa,
            Some("require") => Tls::Require,
            Some("verify-ca") => Tls::VerifyCa,
            Some("verify-full") => Tls::VerifyFull,
            Some(_) => {
                return Err(fault(
                    "`sslmode` is none of disable, allow, prefer, require, verify-ca, verify-full",
                    "verify-full for a server that is reached over a network",
                ));
            }
            None if proves => Tls::VerifyFull,
            None if connect.get_hosts().iter().all(is_local) => Tls::Prefer,
            // libpq would fall back to plain text without a word; texts and numbers of people are at stake.
            None => Tls::Require,
        })
    }
}

/// Settings of libpq's that would be promises which nobody keeps here: what to do instead. What is empty sets nothing.
fn unsupported(key: &str, value: &str) -> Option<&'static str> {
    Some(match (key, value) {
        (_, "") => return None,
        ("ssl_max_protocol_version", "TLSv1.3") | ("sslsni", "1") | ("sslcertmode", "allow") => return None,
        ("ssl_max_protocol_version", _) => {
            "leave it out: the newest version that both sides speak is used; the server's own ssl_max_protocol_version limits it"
        }
        ("sslcrl" | "sslcrldir", _) => {
            "leave it out: nobody looks for revoked certificates here; name the certificate that is good in certificate_sha256, \
             or another authority in sslrootcert"
        }
        ("sslpassword", _) => {
            "leave it out and take the passphrase off the key: `openssl pkey -in OLD -out NEW`, then chmod 600 NEW"
        }
        ("requirepeer", _) => {
            "leave it out, and use a socket in a directory in which only the server's user can write"
        }
        ("require_auth", _) => {
            "leave it out: channel_binding=require lets nobody but the server itself ask for the password"
        }
        ("sslsni", _) => "leave it out: the host's name is told to the server",
        ("sslcertmode", _) => "leave it out: sslcert and sslkey are shown to a server that asks for them",
        ("gssencmode", "require") => "leave it out: encryption is TLS here, see sslmode",
        ("gsslib" | "krbsrvname" | "gssdelegation", _) => {
            "leave it out: there is no GSSAPI here; use a password or sslcert"
        }
        ("replication" | "sslkeylogfile" | "min_protocol_version" | "max_protocol_version", _) => {
            "leave it out"
        }
        _ => return None,
    })
}

fn is_local(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
    }
}

/// `key=value key = 'quoted \' value'`.
fn keywords(text: &str) -> Result<Vec<(String, String)>, ConnectionFault> {
    let mut pairs = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Ok(pairs);
        }
        let mut key = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_whitespace()) {
            key.push(c);
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        // The word is not repeated: it may be the tail of a password with a space in it.
        if chars.next() != Some('=') || key.is_empty() {
            return Err(fault("a word of the connection string has no `=`", EXAMPLE));
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let quoted = chars.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match chars.next_if(|c| quoted || !c.is_whitespace()) {
                Some('\'') if quoted => break,
                Some('\\') => value.extend(chars.next()),
                Some(c) => value.push(c),
                // Nor is the key: the quote may belong to such a password.
                None if quoted => return Err(fault("a quote is never closed", EXAMPLE)),
                None => break,
            }
        }
        pairs.push((key, value));
    }
}

/// In a form that `psql` takes, without the password.
fn show(connect: &tokio_postgres::Config) -> String {
    let hosts: Vec<String> = connect
        .get_hosts()
        .iter()
        .map(|host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        })
        .collect();
    let mut shown = format!("host={}", hosts.join(","));
    let ports: Vec<String> = connect.get_ports().iter().map(ToString::to_string).collect();
    if !ports.is_empty() {
        shown.push_str(&format!(" port={}", ports.join(",")));
    }
    if let Some(name) = connect.get_dbname() {
        shown.push_str(&format!(" dbname={name}"));
    }
    if let Some(user) = connect.get_user() {
        shown.push_str(&format!(" user={user}"));
    }
    shown
}

fn with_keyword(text: &str, key: &str, value: &str) -> String {
    format!("{text} {key}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn with_parameter(url: &str, key: &str, value: &str) -> String {
    let mark = if url.contains('?') { '&' } else { '?' };
    // A `+` would be read as it stands.
    let value: String =
        form_urlencoded::byte_serialize(value.as_bytes()).collect::<String>().replace('+', "%20");
    format!("{url}{mark}{key}={value}")
}

/// What a URL says, as keywords.
fn url_keys(url: &str) -> Vec<String> {
    let who = authority(url).rsplit_once('@');
    let (who, place) = who.map_or((None, authority(url)), |(who, place)| (Some(who), place));
    let path = url.split_once("://").and_then(|(_, rest)| rest.split(['?', '#']).next()?.split_once('/'));
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let said = [
        ("user", who.is_some_and(|who| !who.is_empty() && !who.starts_with(':'))),
        ("password", who.is_some_and(|who| who.contains(':'))),
        ("host", !place.is_empty() && !place.starts_with(':')),
        ("port", place.rsplit(']').next().is_some_and(|rest| rest.contains(':'))),
        ("dbname", path.is_some_and(|(_, name)| !name.is_empty())),
    ];
    let named = query.split('&').filter_map(|pair| Some(pair.split_once('=')?.0.to_owned()));
    named.chain(said.iter().filter(|(_, said)| *said).map(|(key, _)| (*key).to_owned())).collect()
}

/// Who and where: what stands in a URL between its scheme and its path.
fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{ConnectionFault, Database, Surroundings, Tls};

    /// On a machine with one service file and one file of passwords.
    fn connection(text: &str) -> Result<Database, ConnectionFault> {
        let surroundings = Surroundings {
            mode: None,
            directory: PathBuf::from("/etc/outboxd"),
            read: Box::new(|path| {
                match path.to_str().unwrap() {
                "/home/o/.pg_service.conf" => Ok((
                    "[shop]\nhost=db.example\nport=5433\nuser=a b\ndbname=shop\nsslmode=verify-full\npassword=of+it\n"
                        .to_owned(),
                    0o100_640,
                )),
                "/etc/outboxd/pgpass" => Ok(("db.example:5433:shop:*:from-file\n".to_owned(), 0o100_600)),
                "/etc/outboxd/open" => Ok((String::new(), 0o100_644)),
                _ => Err(std::io::Error::from_raw_os_error(2)),
            }
            }),
            env: Box::new(|name| (name == "HOME").then(|| "/home/o".to_owned())),
        };
        super::connection_in(text, &surroundings)
    }

    fn password(database: &Database) -> Option<&str> {
        database.connect.get_password().map(|password| std::str::from_utf8(password).unwrap())
    }

    #[test]
    fn a_service_says_what_the_string_leaves_open() {
        for text in ["service=shop", "postgresql://?service=shop", "postgresql:///shop?service=shop"] {
            let database = connection(text).unwrap();
            assert_eq!(database.shown, "host=db.example port=5433 dbname=shop user=a b", "{text}");
            assert_eq!((database.tls, password(&database)), (Tls::VerifyFull, Some("of+it")), "{text}");
        }
        for text in [
            "service=shop user=me host=other.example port=1 sslmode=require password=mine dbname=d",
            "postgresql://me:mine@other.example:1/d?service=shop&sslmode=require",
        ] {
            let database = connection(text).unwrap();
            assert_eq!(database.shown, "host=other.example port=1 dbname=d user=me", "{text}");
            assert_eq!((database.tls, password(&database)), (Tls::Require, Some("mine")), "{text}");
        }
        assert!(connection("service=absent").is_err());
        assert!(connection("service=shop servicefile=/nowhere").is_err());
    }

    #[test]
    fn a_passfile_gives_the_password_that_the_string_does_not() {
        let place = "host=db.example port=5433 dbname=shop user=u";
        let found = |text: &str| password(&connection(text).unwrap()).map(str::to_owned);
        assert_eq!(found(&format!("{place} passfile=pgpass")).as_deref(), Some("from-file"));
        assert_eq!(found(&format!("{place} passfile=pgpass password=own")).as_deref(), Some("own"));
        assert_eq!(found("host=other.example dbname=shop user=u passfile=pgpass"), None);
        assert!(connection(&format!("{place} passfile=absent")).is_err());
        let error = connection(&format!("{place} passfile=open")).unwrap_err();
        assert!(error.what.contains("others"), "{error}");
        let both = "host=db.example,db2.example port=5433 dbname=shop user=u passfile=pgpass";
        assert!(connection(both).is_err(), "one host would get the other's password");
    }

    #[test]
    fn libpq_options_about_tls_are_understood() {
        let database = connection(
            "host=db.example sslcert=c.pem sslkey=/k.pem ssl_min_protocol_version=TLSv1.3 channel_binding=require",
        )
        .unwrap();
        let certificate = database.client_certificate.unwrap();
        assert_eq!(certificate.certificate_file, PathBuf::from("/etc/outboxd/c.pem"));
        assert_eq!(certificate.key_file, PathBuf::from("/k.pem"));
        assert_eq!(database.tls_min, super::TlsMin::V1_3);
        let required = tokio_postgres::config::ChannelBinding::Require;
        assert_eq!(database.connect.get_channel_binding(), required);
        for text in ["host=x sslcert=c.pem", "host=x sslkey=c.pem", "host=x ssl_min_protocol_version=1.3"] {
            assert!(connection(text).is_err(), "{text}");
        }
    }

    #[test]
    fn settings_of_libpqs_that_nobody_keeps_here_are_refused_by_name_and_harmless_values_taken() {
        for (setting, hint) in [
            ("ssl_max_protocol_version=TLSv1.2", "newest version"),
            ("sslcrl=/hunter2.crl", "certificate_sha256"),
            ("sslcrldir=/hunter2", "certificate_sha256"),
            ("sslpassword=hunter2", "openssl pkey"),
            ("requirepeer=hunter2", "directory"),
            ("require_auth=scram-sha-256", "channel_binding"),
            ("sslsni=0", "leave it out"),
            ("sslcertmode=disable", "sslcert"),
            ("gssencmode=require", "TLS"),
            ("krbsrvname=hunter2", "password"),
            ("replication=database", "leave it out"),
        ] {
            for text in [format!("host=x {setting}"), format!("postgresql://u@x/d?{setting}")] {
                let fault = connection(&text).unwrap_err();
                let key = setting.split('=').next().unwrap();
                assert!(fault.what.contains(&format!("`{key}`")) && fault.hint.contains(hint), "{fault:?}");
                assert!(!fault.what.contains("hunter2"), "{fault:?}");
            }
        }
        for setting in [
            "ssl_max_protocol_version=TLSv1.3",
            "sslcrl=''",
            "gssencmode=prefer",
            "sslcompression=0",
            "sslsni=1",
        ] {
            connection(&format!("host=x {setting}")).unwrap_or_else(|fault| panic!("{setting}: {fault}"));
        }
    }

    #[test]
    fn tls_is_what_libpq_would_do_but_never_silently_plain_over_a_network() {
        for (text, tls) in [
            ("host=/run/postgresql", Tls::Prefer),
            ("host=127.0.0.1", Tls::Prefer),
            ("host=db.example", Tls::Require),
            ("host=db.example sslmode=disable", Tls::Disable),
            ("host=db.example sslmode=allow", Tls::Prefer),
            ("host=db.example sslmode=require sslrootcert=/ca.pem", Tls::VerifyCa),
            ("host=db.example sslrootcert=system", Tls::VerifyFull),
            (
                "postgresql://u:p@db.example,db2.example/x?sslmode=verify-full&sslrootcert=/ca.pem",
                Tls::VerifyFull,
            ),
        ] {
            assert_eq!(connection(text).map(|database| database.tls), Ok(tls), "{text}");
        }
    }

    #[test]
    fn keywords_keep_quoted_spaces_and_escapes() {
        let database =
            connection(r"host = db.example user='o\'neill x' password=a\\b\'c sslmode=verify-ca").unwrap();
        assert_eq!(database.connect.get_user(), Some("o'neill x"));
        assert_eq!(database.connect.get_password(), Some(br"a\b'c".as_slice()));
        assert_eq!(database.shown, "host=db.example user=o'neill x");
    }

    #[test]
    fn hosts_ports_and_session_attributes_pass_through() {
        let database =
            connection("postgresql://u@a:1,b:2/d?target_session_attrs=read-write&sslmode=disable").unwrap();
        assert_eq!(database.connect.get_ports(), [1, 2]);
        assert_eq!(
            database.connect.get_target_session_attrs(),
            tokio_postgres::config::TargetSessionAttrs::ReadWrite
        );
        assert_eq!(database.connect.get_application_name(), Some("outboxd"));
    }

    #[test]
    fn faults_name_keys_but_never_values() {
        for text in [
            "password=hunter2 hunter2 host=x",
            "password='hunter2",
            "host=x password=hunter2 sslmode=hunter2",
            "postgresql://u:hunter2@x/d?sslmode=hunter2",
            "postgresql://u:hunter2@x:hunter2/d",
            "host=x port=hunter2",
            "host=x passfile=hunter2",
            "host=x service=hunter2 servicefile=hunter2",
            "password=x hunter2=x",
            "host=x password=x hunter2='x",
            "postgresql://u:x@hunter2@h/d",
            "postgresql://u:x@h,%2Fhunter2@,%2Ftmp",
        ] {
            let fault = connection(text).expect_err(text);
            assert!(!fault.to_string().contains("hunter2"), "{fault}");
        }
    }
}
