//! One step of the way to a server: finding its name, connecting, reading its certificate. Tells apart what can go wrong
//! there, for those who have to say it to people. It judges nothing and knows nothing of what is said afterwards.

pub mod certificate;
pub mod handshake;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream, UdpSocket};

/// Why a host was not reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The name servers say that there is no such name, or that it has no address.
    NoSuchName,
    /// The name servers say nothing.
    NameServerSilent,
    /// Nobody said anything: typical of a firewall that drops.
    Timeout,
    /// Said no: nobody listens there, or a firewall that rejects.
    Refused,
    /// Was connected, or about to be, and then cut off.
    Reset,
    /// A router, or a firewall by ICMP, says that there is no way.
    NoRoute,
    /// This host itself does not let us.
    NotPermitted,
    /// `source_address` is no address of this host.
    NoSuchSource,
    Other(String),
}

impl Trouble {
    pub fn of_connection(error: &io::Error) -> Trouble {
        match error.kind() {
            io::ErrorKind::TimedOut => Trouble::Timeout,
            io::ErrorKind::ConnectionRefused => Trouble::Refused,
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => Trouble::Reset,
            io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown => Trouble::NoRoute,
            io::ErrorKind::PermissionDenied => Trouble::NotPermitted,
            io::ErrorKind::AddrNotAvailable => Trouble::NoSuchSource,
            _ => Trouble::Other(error.to_string()),
        }
    }

    /// The resolver has no kinds, only words.
    pub fn of_lookup(error: &io::Error) -> Trouble {
        let text = error.to_string();
        if error.kind() == io::ErrorKind::TimedOut || text.contains("emporary failure") {
            Trouble::NameServerSilent
        } else if error.kind() == io::ErrorKind::NotFound
            || ["not known", "No address", "No data"].iter().any(|words| text.contains(words))
        {
            Trouble::NoSuchName
        } else {
            Trouble::Other(text)
        }
    }

    /// One word, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Trouble::NoSuchName => "no_such_name",
            Trouble::NameServerSilent => "name_server_silent",
            Trouble::Timeout => "timeout",
            Trouble::Refused => "refused",
            Trouble::Reset => "reset",
            Trouble::NoRoute => "no_route",
            Trouble::NotPermitted => "not_permitted",
            Trouble::NoSuchSource => "no_such_source",
            Trouble::Other(_) => "other",
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Trouble::NoSuchName => "the name servers know no address of it",
            Trouble::NameServerSilent => "no name server answered",
            Trouble::Timeout => "no answer in time",
            Trouble::Refused => "connection refused",
            Trouble::Reset => "connection reset",
            Trouble::NoRoute => "no route, or forbidden on the way",
            Trouble::NotPermitted => "not permitted by this host itself",
            Trouble::NoSuchSource => "source_address is no address of this host",
            Trouble::Other(text) => text,
        })
    }
}

/// What each address that was tried came to.
pub type Tried = Vec<(SocketAddr, Trouble)>;

/// Connects to the first of the addresses that takes us; `limit` is for all of them together, as a client has it.
/// Beside the connection stands what those before it came to.
pub async fn connect(
    addresses: &[SocketAddr],
    source: Option<IpAddr>,
    limit: Duration,
) -> Result<(TcpStream, SocketAddr, Tried), Tried> {
    let each = limit / u32::try_from(addresses.len().max(1)).unwrap_or(1);
    let mut tried = Vec::new();
    for address in addresses {
        match tokio::time::timeout(each, connect_from(*address, source)).await {
            Ok(Ok(stream)) => return Ok((stream, *address, tried)),
            Ok(Err(error)) => tried.push((*address, Trouble::of_connection(&error))),
            Err(_) => tried.push((*address, Trouble::Timeout)),
        }
    }
    Err(tried)
}

async fn connect_from(address: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    socket.connect(address).await
}

/// Which address of this host leads there. Sends nothing: the kernel only looks at its routes.
pub async fn own_address(towards: IpAddr) -> Option<IpAddr> {
    let any = if towards.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await.ok()?;
    socket.connect(SocketAddr::new(towards, 9)).await.ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::Trouble;

    #[test]
    fn what_the_system_says_is_told_apart() {
        for (kind, code) in [
            (io::ErrorKind::TimedOut, "timeout"),
            (io::ErrorKind::ConnectionRefused, "refused"),
            (io::ErrorKind::ConnectionReset, "reset"),
            (io::ErrorKind::HostUnreachable, "no_route"),
            (io::ErrorKind::NetworkUnreachable, "no_route"),
            (io::ErrorKind::PermissionDenied, "not_permitted"),
            (io::ErrorKind::AddrNotAvailable, "no_such_source"),
        ] {
            assert_eq!(Trouble::of_connection(&kind.into()).code(), code);
        }
        let said = |text: &str| {
            Trouble::of_lookup(&io::Error::other(format!("failed to lookup address information: {text}")))
        };
        assert_eq!(said("Name or service not known"), Trouble::NoSuchName);
        assert_eq!(said("No address associated with hostname"), Trouble::NoSuchName);
        assert_eq!(said("Temporary failure in name resolution"), Trouble::NameServerSilent);
    }
}
