//! What a certificate says, in words for people: whose it is, who signed it, from when to when.
//!
//! Verifies nothing. What is read here came from the other side and is shown on terminals: control characters are taken out.

use std::fmt;
use std::time::Duration;

use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::name::Name;

/// Longest name that is shown.
const NAME_CHARS: usize = 200;
/// How many of a certificate's names are shown.
const MOST_NAMES: usize = 5;

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Shown {
    pub subject: String,
    pub issuer: String,
    /// Seconds since 1970.
    pub not_before: i64,
    pub not_after: i64,
    /// The hosts that it is for.
    pub names: Vec<String>,
}

impl Shown {
    /// `None`: it is damaged.
    pub fn read(der: &[u8]) -> Option<Shown> {
        let certificate = Certificate::from_der(der).ok()?.tbs_certificate;
        let seconds = |since: Duration| i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        let names = match certificate.get::<SubjectAltName>() {
            Ok(Some((_, SubjectAltName(names)))) => names.iter().filter_map(host).take(MOST_NAMES).collect(),
            _ => Vec::new(),
        };
        Some(Shown {
            subject: name(&certificate.subject),
            issuer: name(&certificate.issuer),
            not_before: seconds(certificate.validity.not_before.to_unix_duration()),
            not_after: seconds(certificate.validity.not_after.to_unix_duration()),
            names,
        })
    }

    pub fn is_valid_at(&self, seconds: i64) -> bool {
        (self.not_before..=self.not_after).contains(&seconds)
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shown { subject, issuer, .. } = self;
        let (from, until) = (time(self.not_before), time(self.not_after));
        write!(f, "certificate of \"{subject}\", signed by \"{issuer}\", valid from {from} to {until}")
    }
}

/// `2026-11-23 01:40:05 UTC`.
pub fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .map_or_else(|_| "a time out of range".to_owned(), |time| time.strftime("%F %T UTC").to_string())
}

fn name(name: &Name) -> String {
    printable(&name.to_string())
}

fn host(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(printable(name.as_str())),
        GeneralName::IpAddress(bytes) => {
            let bytes = bytes.as_bytes();
            let four = <[u8; 4]>::try_from(bytes).map(|bytes| std::net::IpAddr::from(bytes).to_string());
            let sixteen = <[u8; 16]>::try_from(bytes).map(|bytes| std::net::IpAddr::from(bytes).to_string());
            four.or(sixteen).ok()
        }
        _ => None,
    }
}

fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(NAME_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    use super::{Shown, time};

    fn read(pem: &str) -> Shown {
        Shown::read(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().as_ref()).unwrap()
    }

    #[test]
    fn a_certificate_tells_whose_it_is_and_who_signed_it() {
        let shown = read(include_str!("../../tests/it/certificates/intercepted.crt"));
        assert_eq!(shown.names, ["gw.test"]);
        let issuer = read(include_str!("../../tests/it/certificates/interceptor.crt"));
        assert_eq!(shown.issuer, issuer.subject);
        assert_eq!(issuer.issuer, issuer.subject, "signed by itself");
        assert!(shown.is_valid_at(shown.not_before) && !shown.is_valid_at(shown.not_after + 1));
        assert_eq!(Shown::read(b"\x30\x03\x02\x01"), None);
    }

    #[test]
    fn one_of_version_1_is_read_as_well() {
        assert!(read(include_str!("../../tests/it/certificates/version1.crt")).names.is_empty());
        assert_eq!(time(0), "1970-01-01 00:00:00 UTC");
    }
}
