//! `[callbacks]`: where receipts come in, and what proves that the gateway sent them.

use std::net::SocketAddr;

use super::raw::RawCallbacks;
use super::reader::{Reader, Reported};
use super::secret::SecretKeys;
use super::{Callbacks, Secret};

/// A secret path is all that keeps strangers from posting receipts.
const LEAST_PATH: usize = 16;

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
    Ok(Callbacks {
        listen: listen?,
        path: path?,
        secrets,
        old_inbound_signature: reader.flag(&raw.old_inbound_signature, false),
    })
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
