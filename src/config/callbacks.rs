//! `[callbacks]`: where receipts come in, and what proves that the gateway sent them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::raw::{At, RawCallbacks};
use super::reader::{Reader, Reported};
use super::secret::SecretKeys;
use super::{AddressRange, CallbackTls, Callbacks, Secret};

/// A secret path is all that keeps strangers from posting receipts.
const LEAST_PATH: usize = 16;

const LEAST_TIMEOUT: Duration = Duration::from_secs(1);
const SECS_30: Duration = Duration::from_secs(30);
const MOST_TIMEOUT: Duration = Duration::from_secs(300);
const TWO_DAYS: Duration = Duration::from_secs(2 * 86_400);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

pub(super) fn callbacks(reader: &mut Reader<'_>, raw: &RawCallbacks) -> Result<Callbacks, Reported> {
    let section: &[&str] = &["callbacks"];
    let listen = reader
        .required(section, "listen", &raw.listen, "address and port, for example listen = \"127.0.0.1:8025\"")
        .and_then(|at| {
            at.value.parse::<SocketAddr>().map_err(|_| {
                reader.wrong(
                    &at.span,
                    "`listen` is not an address with a port",
                    "not understood",
                    "for example \"127.0.0.1:8025\" or \"[::1]:8025\"",
                )
            })
        });
    let path = callback_path(reader, raw);
    let client_secret = reader.secret(
        section,
        SecretKeys {
            name: "client_secret",
            inline: &raw.client_secret,
            file: &raw.client_secret_file,
            credential: &raw.client_secret_credential,
            env: &raw.client_secret_env,
        },
    );
    let account_password = reader.secret(
        section,
        SecretKeys {
            name: "account_password",
            inline: &raw.account_password,
            file: &raw.account_password_file,
            credential: &raw.account_password_credential,
            env: &raw.account_password_env,
        },
    );
    let secrets: Vec<Secret> = [client_secret?, account_password?].into_iter().flatten().collect();
    if secrets.is_empty() {
        return Err(reader.missing(
            section,
            "client_secret_file",
            "callbacks are signed with the account's client secret or password: give one or both, \
             as `client_secret_file` and `account_password_file`",
        ));
    }
    let allow_from = ranges(reader, "allow_from", raw.allow_from.as_ref());
    let trusted_proxies = ranges(reader, "trusted_proxies", raw.trusted_proxies.as_ref());
    let max_connections = reader.whole("max_connections", &raw.max_connections, 512, 1..=100_000);
    let rate = match &raw.rate {
        Some(at) if !(at.value > 0.0 && at.value <= 1_000_000.0) => {
            reader.wrong(
                &at.span,
                "`rate` is out of range",
                "must be more than 0",
                "leave it out for no limit",
            );
            None
        }
        rate => rate.as_ref().map(|at| at.value),
    };
    Ok(Callbacks {
        old_inbound_signature: reader.flag(&raw.old_inbound_signature, false),
        timeout: reader.duration("timeout", &raw.timeout, SECS_30, LEAST_TIMEOUT..=MOST_TIMEOUT),
        receipt_overdue_after: reader.duration_or_never(
            "receipt_overdue_after",
            &raw.receipt_overdue_after,
            TWO_DAYS,
            LEAST_TIMEOUT..=YEAR,
        ),
        tls: tls(reader, raw)?,
        listen: listen?,
        path: path?,
        secrets,
        allow_from: allow_from?,
        trusted_proxies: trusted_proxies?,
        max_connections: usize::try_from(max_connections).map_err(|_| Reported)?,
        rate,
    })
}

fn tls(reader: &mut Reader<'_>, raw: &RawCallbacks) -> Result<Option<CallbackTls>, Reported> {
    match (&raw.certificate_file, &raw.key_file) {
        (Some(certificate), Some(key)) => Ok(Some(CallbackTls {
            certificate_file: reader.surroundings().path(&certificate.value),
            key_file: reader.private_key(key)?,
        })),
        (None, None) => Ok(None),
        (Some(at), None) | (None, Some(at)) => Err(reader.wrong(
            &at.span,
            "TLS needs a certificate and its key",
            "the other one is missing",
            "give `certificate_file` and `key_file`, or neither and let a reverse proxy do it",
        )),
    }
}

pub(super) fn ranges(
    reader: &mut Reader<'_>,
    name: &str,
    raw: Option<&Vec<At<String>>>,
) -> Result<Vec<AddressRange>, Reported> {
    raw.into_iter()
        .flatten()
        .map(|at| {
            AddressRange::parse(&at.value).ok_or_else(|| {
                reader.wrong(
                    &at.span,
                    format!("`{name}` holds something that is no range of addresses"),
                    "not understood, or bits are set behind the prefix",
                    "for example \"198.51.100.0/24\", \"2001:db8::/32\" or a single address",
                )
            })
        })
        .collect()
}

impl AddressRange {
    /// `198.51.100.0/24`, or one address. Not a range that is written by an address within it: one of the two would be
    /// a mistake.
    pub fn parse(text: &str) -> Option<AddressRange> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let first: IpAddr = address.parse().ok()?;
        let most = if first.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) if bits.bytes().all(|b| b.is_ascii_digit()) => bits.parse().ok()?,
            Some(_) => return None,
            None => most,
        };
        (bits <= most && value(first) & !mask(bits, most) == 0).then_some(AddressRange { first, bits })
    }

    pub fn holds(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let most = if self.first.is_ipv4() { 32 } else { 128 };
        self.first.is_ipv4() == address.is_ipv4()
            && (value(self.first) ^ value(address)) & mask(self.bits, most) == 0
    }
}

impl AddressRange {
    /// Whether nothing of the other is outside.
    pub fn contains(&self, other: &AddressRange) -> bool {
        self.bits <= other.bits && self.holds(other.first)
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

fn value(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The first `bits` of `most`.
fn mask(bits: u8, most: u8) -> u128 {
    let all = u128::MAX >> (128 - u32::from(most));
    all & !all.checked_shr(u32::from(bits)).unwrap_or(0)
}

fn callback_path(reader: &mut Reader<'_>, raw: &RawCallbacks) -> Result<Secret, Reported> {
    let section: &[&str] = &["callbacks"];
    let keys = SecretKeys {
        name: "path",
        inline: &raw.path,
        file: &raw.path_file,
        credential: &raw.path_credential,
        env: &raw.path_env,
    };
    let Some(path) = reader.secret(section, keys)? else {
        let help = format!("a long secret path, for example path = \"{}\"", suggested_path());
        return Err(reader.missing(section, "path", &help));
    };
    let span = [&raw.path, &raw.path_file, &raw.path_credential, &raw.path_env]
        .into_iter()
        .find_map(|way| way.as_ref())
        .map_or(0..0, |at| at.span.clone());
    let rest = path.expose().strip_prefix('/');
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~' | b'/');
    match rest {
        Some(rest) if rest.len() >= LEAST_PATH && rest.bytes().all(plain) && !rest.ends_with('/') => Ok(path),
        Some(rest) if rest.bytes().all(plain) && !rest.ends_with('/') => Err(reader.wrong(
            &span,
            "the callback path is too easy to guess",
            format!("must have at least {LEAST_PATH} characters after the first /"),
            format!("for example \"{}\"", suggested_path()),
        )),
        _ => Err(reader.wrong(
            &span,
            "the callback path is not a path",
            "must begin with /, and hold letters, digits, - _ . ~ only",
            format!("for example \"{}\"", suggested_path()),
        )),
    }
}

/// 128 random bits; without randomness, the command that makes some.
fn suggested_path() -> String {
    let mut bytes = [0_u8; 16];
    match getrandom::fill(&mut bytes) {
        Ok(()) => format!("/cb/{:032x}", u128::from_be_bytes(bytes)),
        Err(_) => "/cb/$(openssl rand -hex 16)".to_owned(),
    }
}
