//! `[admin]`: where metrics and health pages are served. To this machine only: there is no log-in.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::raw::RawAdmin;
use super::reader::{Reader, Reported};
use super::{Admin, AdminListen};

/// The longest path that fits a Unix socket's address, with its ending NUL.
const MOST_PATH: usize = 107;
const LEAST_TIMEOUT: Duration = Duration::from_secs(1);
const SECS_10: Duration = Duration::from_secs(10);
const MOST_TIMEOUT: Duration = Duration::from_secs(300);

const EXAMPLE: &str = "for example \"127.0.0.1:9464\" or \"unix:/run/outboxd/admin.sock\"";

pub(super) fn admin(reader: &mut Reader<'_>, raw: &RawAdmin) -> Result<Admin, Reported> {
    let at = reader.required(&["admin"], "listen", &raw.listen, EXAMPLE);
    let listen = at.and_then(|at| match listen(&at.value) {
        Ok(listen) => Ok(listen),
        Err((title, label, help)) => Err(reader.wrong(&at.span, title, label, help)),
    });
    let max_connections = reader.whole("max_connections", &raw.max_connections, 16, 1..=1_000);
    Ok(Admin {
        timeout: reader.duration("timeout", &raw.timeout, SECS_10, LEAST_TIMEOUT..=MOST_TIMEOUT),
        max_connections: usize::try_from(max_connections).map_err(|_| Reported)?,
        listen: listen?,
    })
}

type Fault = (&'static str, &'static str, &'static str);

fn listen(text: &str) -> Result<AdminListen, Fault> {
    if let Some(path) = text.strip_prefix("unix:") {
        let is_usable = Path::new(path).is_absolute() && !path.ends_with('/') && !path.contains('\0');
        return if !is_usable {
            Err(("`listen` names no Unix socket", "must be an absolute path", EXAMPLE))
        } else if path.len() > MOST_PATH {
            Err(("`listen` names a Unix socket whose path is too long", "more than 107 bytes", EXAMPLE))
        } else {
            Ok(AdminListen::Unix(path.into()))
        };
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.ip().to_canonical().is_loopback() => Ok(AdminListen::Tcp(address)),
        Ok(_) => Err((
            "`listen` would show the admin pages to other machines",
            "must be a loopback address",
            "there is no log-in: listen on 127.0.0.1, [::1] or a Unix socket, and let a reverse proxy with a password \
             publish it if need be",
        )),
        Err(_) => {
            Err(("`listen` is neither an address with a port nor a Unix socket", "not understood", EXAMPLE))
        }
    }
}
