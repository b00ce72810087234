//! Files that libpq knows: services (`pg_service.conf`) and passwords (`.pgpass`). Read only when the connection string
//! names one.
//!
//! Must not put a part of a line into a fault: it may be a password.

use std::path::{Path, PathBuf};

use tokio_postgres::config::Host;

use super::connection::{ConnectionFault, fault};
use super::secret::{OTHERS, Surroundings, io_reason};

/// Where distributions keep the file, after the user's own.
const SERVICE_FILES: [&str; 2] =
    ["/etc/postgresql-common/pg_service.conf", "/etc/sysconfig/pgsql/pg_service.conf"];

/// What the file says about a service, in its order.
pub(super) fn service(
    name: &str,
    file: Option<&str>,
    surroundings: &Surroundings,
) -> Result<Vec<(String, String)>, ConnectionFault> {
    let named = file.map(str::to_owned).or_else(|| (surroundings.env)("PGSERVICEFILE"));
    let files: Vec<PathBuf> = match &named {
        Some(file) => vec![surroundings.path(file)],
        None => (surroundings.env)("HOME")
            .map(|home| Path::new(&home).join(".pg_service.conf"))
            .into_iter()
            .chain(SERVICE_FILES.map(PathBuf::from))
            .collect(),
    };
    for file in &files {
        match (surroundings.read)(file) {
            Ok((text, mode)) => {
                if let Some(found) = section(&text, name)? {
                    if mode & OTHERS != 0 && found.iter().any(|(key, _)| key == "password") {
                        return Err(fault(
                            "the service holds a password, and its file can be read by others",
                            "chmod 640 the service file, or use `passfile` or `password_file`",
                        ));
                    }
                    return Ok(found);
                }
            }
            // As libpq: where no file is named, each of the usual ones may be missing.
            Err(error) if named.is_some() => {
                let what = format!("the service file could not be read: {}", io_reason(&error));
                return Err(fault(what, "correct `servicefile` or PGSERVICEFILE"));
            }
            Err(_) => {}
        }
    }
    Err(fault(
        "there is no such service",
        "it must be a section [name] of ~/.pg_service.conf or of the file that PGSERVICEFILE names",
    ))
}

fn section(text: &str, name: &str) -> Result<Option<Vec<(String, String)>>, ConnectionFault> {
    let mut found: Option<Vec<(String, String)>> = None;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(header) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            if found.is_some() {
                break;
            }
            if header == name {
                found = Some(Vec::new());
            }
        } else if let Some(found) = &mut found {
            let Some((key, value)) = line.split_once('=') else {
                return Err(fault("a line of the service has no `=`", "one `key=value` a line"));
            };
            if key.trim() == "service" {
                return Err(fault("the service names another service", "write out what it stands for"));
            }
            found.push((key.trim().to_owned(), value.trim().to_owned()));
        }
    }
    Ok(found)
}

/// The password for this connection. As libpq: no line that fits is no fault.
pub(super) fn password(
    file: &Path,
    connect: &tokio_postgres::Config,
    surroundings: &Surroundings,
) -> Result<Option<String>, ConnectionFault> {
    let path = surroundings.directory.join(file);
    let (text, mode) = (surroundings.read)(&path).map_err(|error| {
        fault(format!("`passfile` could not be read: {}", io_reason(&error)), "correct `passfile`")
    })?;
    if mode & OTHERS != 0 {
        return Err(fault("`passfile` can be read by others", "chmod 600"));
    }
    let user = connect.get_user().unwrap_or_default();
    let database = connect.get_dbname().unwrap_or(user);
    let mut found: Option<Option<String>> = None;
    for (place, host) in connect.get_hosts().iter().enumerate() {
        let host = match host {
            Host::Tcp(name) => name.clone(),
            // As libpq: the usual directories are written so.
            Host::Unix(path) if is_default_socket(path) => "localhost".to_owned(),
            Host::Unix(path) => path.display().to_string(),
        };
        let ports = connect.get_ports();
        let port = ports.get(place).or(ports.first()).copied().unwrap_or(5432).to_string();
        let password = line(&text, &[&host, &port, database, user]);
        if found.as_ref().is_some_and(|found| *found != password) {
            return Err(fault(
                "`passfile` has different passwords for the hosts",
                "one password must serve for all hosts of a connection string",
            ));
        }
        found = Some(password);
    }
    Ok(found.flatten())
}

fn is_default_socket(path: &Path) -> bool {
    matches!(path.to_str(), Some("/var/run/postgresql" | "/run/postgresql" | "/tmp"))
}

/// `host:port:database:user:password`; `*` fits all, `\:` and `\\` stand for themselves. The first line that fits counts.
fn line(text: &str, wanted: &[&str; 4]) -> Option<String> {
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut fields = vec![String::new()];
        let mut chars = line.chars();
        while let Some(c) = chars.next() {
            let last = fields.len() == wanted.len() + 1;
            match c {
                '\\' => fields.last_mut()?.extend(chars.next()),
                ':' if !last => fields.push(String::new()),
                c => fields.last_mut()?.push(c),
            }
        }
        let (password, fields) = fields.split_last()?;
        let fits = fields.len() == wanted.len()
            && fields.iter().zip(wanted).all(|(field, wanted)| field == "*" || field == wanted);
        fits.then(|| password.clone())
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{line, section, service};
    use crate::config::Surroundings;

    #[test]
    fn a_service_with_a_password_is_refused_where_others_can_read_it() {
        for (mode, text, good) in [
            (0o100_644, "[shop]\nhost=h\npassword=pw", false),
            (0o100_640, "[shop]\nhost=h\npassword=pw", true),
            (0o100_644, "[shop]\nhost=h", true),
        ] {
            let surroundings = Surroundings {
                mode: None,
                directory: PathBuf::from("/etc/outboxd"),
                read: Box::new(move |_| Ok((text.to_owned(), mode))),
                env: Box::new(|_| None),
            };
            let found = service("shop", Some("services"), &surroundings);
            assert_eq!(found.is_ok(), good, "{mode:o} {found:?}");
        }
    }

    #[test]
    fn the_first_line_of_a_passfile_that_fits_counts() {
        let text = "# host:port:database:user:password\nother:*:*:*:wrong\nbroken\ndb:5432:shop:o\\:d:a\\:b\\\\c:d\n\
                    *:*:*:*:last\n";
        assert_eq!(line(text, &["db", "5432", "shop", "o:d"]).as_deref(), Some("a:b\\c:d"));
        assert_eq!(line(text, &["db", "5433", "shop", "o:d"]).as_deref(), Some("last"));
        assert_eq!(line("db:5432:shop:u:pw", &["db", "5432", "shop", "v"]), None);
    }

    #[test]
    fn a_service_is_its_section_and_no_other() {
        let text = "# ours\n[a]\nhost=one\n\n[shop]\nhost = two\n# not this\nport=5433\n[z]\nhost=three\n";
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(section(text, "shop").unwrap(), Some(vec![pair("host", "two"), pair("port", "5433")]));
        assert_eq!(section(text, "sho").unwrap(), None);
        assert!(section("[shop]\nhunter2", "shop").is_err());
        assert!(section("[shop]\nservice=a", "shop").is_err());
    }
}
