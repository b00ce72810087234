//! Who calls: the other end of the connection, or, where that is a reverse proxy of the site's own, whom the proxy
//! names. A stranger can write anything into `X-Forwarded-For`, so it is read from its end, and only as far as the
//! entries were made by proxies that are trusted.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;

use crate::config::AddressRange;

/// A list longer than this was not made by a site's proxies.
const MOST_HOPS: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Known(IpAddr),
    /// The proxy named something that is no address.
    Unknown,
}

impl Source {
    pub(super) fn of(peer: IpAddr, headers: &HeaderMap, trusted: &[AddressRange]) -> Source {
        let is_trusted = |address: IpAddr| trusted.iter().any(|range| range.holds(address));
        let mut source = peer.to_canonical();
        // Several lines are one list.
        let lines: Vec<&str> =
            headers.get_all("x-forwarded-for").iter().map(|line| line.to_str().unwrap_or("?")).collect();
        let hops = lines.iter().rev().flat_map(|line| line.rsplit(','));
        for hop in hops.take(MOST_HOPS) {
            if !is_trusted(source) {
                break;
            }
            match address(hop.trim()) {
                Some(address) => source = address,
                None => return Source::Unknown,
            }
        }
        Source::Known(source)
    }

    /// An empty list lets everybody in.
    pub(super) fn is_among(self, ranges: &[AddressRange]) -> bool {
        match self {
            _ if ranges.is_empty() => true,
            Source::Known(address) => ranges.iter().any(|range| range.holds(address)),
            Source::Unknown => false,
        }
    }
}

/// With a port or without, as proxies write it.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse::<IpAddr>().or_else(|_| text.parse::<SocketAddr>().map(|at| at.ip()));
    address.ok().map(|address| address.to_canonical())
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Known(address) => address.fmt(f),
            Source::Unknown => f.write_str("somebody whom the proxy does not name"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use http::HeaderMap;

    use super::Source;
    use crate::config::AddressRange;

    fn ranges(texts: &[&str]) -> Vec<AddressRange> {
        texts.iter().map(|text| AddressRange::parse(text).unwrap()).collect()
    }

    fn source(peer: &str, forwarded: &[&str], trusted: &[&str]) -> Source {
        let mut headers = HeaderMap::new();
        for line in forwarded {
            headers.append("x-forwarded-for", line.parse().unwrap());
        }
        Source::of(peer.parse().unwrap(), &headers, &ranges(trusted))
    }

    fn known(text: &str) -> Source {
        Source::Known(text.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        assert_eq!(source("203.0.113.9", &["198.51.100.1"], &[]), known("203.0.113.9"));
        assert_eq!(source("203.0.113.9", &["198.51.100.1"], &["127.0.0.1"]), known("203.0.113.9"));
        assert_eq!(source("127.0.0.1", &["198.51.100.1"], &["127.0.0.1"]), known("198.51.100.1"));
        assert_eq!(source("127.0.0.1", &[], &["127.0.0.1"]), known("127.0.0.1"));
        assert_eq!(source("::ffff:127.0.0.1", &["[2001:db8::1]:443"], &["127.0.0.1"]), known("2001:db8::1"));
    }

    #[test]
    fn what_the_caller_wrote_itself_does_not_count() {
        let trusted = ["127.0.0.1", "10.0.0.0/8"];
        assert_eq!(source("127.0.0.1", &["198.51.100.1, 203.0.113.9"], &trusted), known("203.0.113.9"));
        assert_eq!(
            source("127.0.0.1", &["198.51.100.1", "203.0.113.9:5000, 10.1.2.3"], &trusted),
            known("203.0.113.9")
        );
        assert_eq!(source("127.0.0.1", &["198.51.100.1, unknown"], &trusted), Source::Unknown);
        assert_eq!(source("127.0.0.1", &["10.0.0.1"], &trusted), known("10.0.0.1"));
    }

    #[test]
    fn ranges_hold_what_they_say() {
        let allowed = ranges(&["198.51.100.0/24", "2001:db8::/32", "192.0.2.7"]);
        for address in ["198.51.100.0", "198.51.100.255", "2001:db8:1::1", "192.0.2.7"] {
            assert!(known(address).is_among(&allowed), "{address}");
        }
        for address in ["198.51.101.0", "2001:db9::1", "192.0.2.8", "::1"] {
            assert!(!known(address).is_among(&allowed), "{address}");
        }
        assert!(known("8.8.8.8").is_among(&[]) && Source::Unknown.is_among(&[]));
        assert!(!Source::Unknown.is_among(&allowed));
        assert!(known("8.8.8.8").is_among(&ranges(&["0.0.0.0/0"])));
        for text in
            ["198.51.100.0/33", "198.51.100.1/24", "x", "1.2.3", "::/129", "1.2.3.4/", "/8", "1.2.3.4/+8"]
        {
            assert!(AddressRange::parse(text).is_none(), "{text}");
        }
    }
}
