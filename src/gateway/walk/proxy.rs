//! Asks a proxy for a connection: HTTP CONNECT, and SOCKS5 (RFC 1928, RFC 1929). What it answers is told in kinds, since
//! whoever runs the proxy is seldom whoever runs the firewall.

use std::io;
use std::net::IpAddr;

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use url::Url;

use super::{Io, Place, Problem, broke};
use crate::gateway::http_template::base64;

/// Longest head of an answer.
const HEAD_BYTES: usize = 16 * 1024;

pub(super) type Asked<T> = Result<T, (Problem, String)>;

pub(super) async fn connect(mut io: Io, proxy: &Url, target: &Place) -> Asked<Io> {
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    let (user, password) = log_in(proxy);
    let has_log_in = !user.is_empty() || !password.is_empty();
    if has_log_in {
        let pair = base64(&[&user[..], b":", &password].concat());
        request.push_str(&format!("Proxy-Authorization: Basic {pair}\r\n"));
    }
    request.push_str("\r\n");
    io.write_all(request.as_bytes()).await.map_err(|error| broke(&error, "on CONNECT"))?;
    let head = head(&mut io).await.map_err(|error| broke(&error, "no answer to CONNECT"))?;
    let status = head
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.get(2..5))
        .and_then(|digits| StatusCode::from_bytes(digits.as_bytes()).ok());
    let Some(status) = status else {
        let what = "what answers there is no HTTP proxy: is it a SOCKS5 proxy, or another service?";
        return Err((Problem::NoProxy, what.to_owned()));
    };
    match status.as_u16() {
        200..=299 => Ok(io),
        407 if has_log_in => {
            Err((Problem::ProxyLogin, format!("{status}: it does not take this user and password")))
        }
        407 => Err((Problem::ProxyLogin, format!("{status}: it wants a user and a password"))),
        403 => Err((Problem::ProxyForbids, format!("{status}: its rules do not let us connect to {target}"))),
        502..=504 => Err((Problem::ProxyFailed, format!("{status}: it could not reach {target} itself"))),
        _ => Err((Problem::ProxyForbids, format!("it answers CONNECT {target} with {status}"))),
    }
}

/// An answer up to its empty line.
pub(super) async fn head(io: &mut Io) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        // One at a time: what comes after the head belongs to somebody else.
        head.push(io.read_u8().await?);
        if head.len() > HEAD_BYTES || (head.len() == 5 && head != b"HTTP/") {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

pub(super) async fn socks5(mut io: Io, proxy: &Url, target: &Place) -> Asked<Io> {
    let (user, password) = log_in(proxy);
    let has_log_in = !user.is_empty() || !password.is_empty();
    let hello: &[u8] = if has_log_in { &[5, 2, 0, 2] } else { &[5, 1, 0] };
    let lost = |error: io::Error| broke(&error, "SOCKS5 broke off");
    io.write_all(hello).await.map_err(lost)?;
    let mut method = [0; 2];
    io.read_exact(&mut method).await.map_err(lost)?;
    match method {
        [5, 0] => {}
        [5, 2] if has_log_in => {
            let part = |text: &[u8]| {
                let length = u8::try_from(text.len()).map_err(|_| {
                    (Problem::ProxyLogin, "user or password is longer than SOCKS5 can carry".to_owned())
                })?;
                Ok([&[length], text].concat())
            };
            let message = [&[1][..], &part(&user)?, &part(&password)?].concat();
            io.write_all(&message).await.map_err(lost)?;
            let mut verdict = [0; 2];
            io.read_exact(&mut verdict).await.map_err(lost)?;
            if verdict[1] != 0 {
                return Err((Problem::ProxyLogin, "it does not take this user and password".to_owned()));
            }
        }
        [5, 0xff] if has_log_in => {
            return Err((Problem::ProxyLogin, "it takes no user and password".to_owned()));
        }
        [5, _] => return Err((Problem::ProxyLogin, "it wants a log-in".to_owned())),
        _ => {
            let what = "what answers there is no SOCKS5 proxy: is it an HTTP proxy, or another service?";
            return Err((Problem::NoProxy, what.to_owned()));
        }
    }
    io.write_all(&socks5_request(target)?).await.map_err(lost)?;
    socks5_answer(&mut io, target).await?;
    Ok(io)
}

fn socks5_request(target: &Place) -> Asked<Vec<u8>> {
    let literal = target.host.trim_matches(['[', ']']).parse().ok();
    let mut request = vec![5, 1, 0];
    match target.addresses.first().copied().or(literal) {
        Some(IpAddr::V4(address)) => request.extend([&[1][..], &address.octets()].concat()),
        Some(IpAddr::V6(address)) => request.extend([&[4][..], &address.octets()].concat()),
        None => {
            let length = u8::try_from(target.host.len())
                .map_err(|_| (Problem::NoProxy, "the name is longer than SOCKS5 can carry".to_owned()))?;
            request.extend([&[3, length][..], target.host.as_bytes()].concat());
        }
    }
    request.extend(target.port.to_be_bytes());
    Ok(request)
}

async fn socks5_answer(io: &mut Io, target: &Place) -> Asked<()> {
    let lost = |error: io::Error| broke(&error, "no answer to the SOCKS5 request");
    let mut answer = [0; 4];
    io.read_exact(&mut answer).await.map_err(lost)?;
    let why = match answer[1] {
        0 => None,
        1 => Some((Problem::ProxyFailed, "general failure")),
        2 => Some((Problem::ProxyForbids, "its rules do not let us there")),
        3 => Some((Problem::ProxyFailed, "no route")),
        4 => Some((Problem::ProxyFailed, "host unreachable, or its name is not known there")),
        5 => Some((Problem::ProxyFailed, "connection refused")),
        6 => Some((Problem::ProxyFailed, "no answer in time")),
        7 => Some((Problem::ProxyForbids, "it does not know this command")),
        8 => Some((Problem::ProxyForbids, "it does not know this kind of address")),
        _ => Some((Problem::NoProxy, "an answer that SOCKS5 does not have")),
    };
    if let Some((problem, words)) = why {
        return Err((problem, format!("asked for {target}: {words}")));
    }
    // The address that it uses itself, which nobody needs.
    let length = match answer[3] {
        1 => 4,
        4 => 16,
        3 => usize::from(io.read_u8().await.map_err(lost)?),
        _ => return Err((Problem::NoProxy, "an answer that SOCKS5 does not have".to_owned())),
    };
    io.read_exact(&mut vec![0; length + 2]).await.map_err(lost)?;
    Ok(())
}

/// User and password as they are meant: a URL writes some characters with a percent sign.
fn log_in(proxy: &Url) -> (Vec<u8>, Vec<u8>) {
    (unescaped(proxy.username()), unescaped(proxy.password().unwrap_or_default()))
}

fn unescaped(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let coded = text.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (byte, coded) {
            (b'%', Some(coded)) => {
                plain.push(coded);
                at += 3;
            }
            _ => {
                plain.push(*byte);
                at += 1;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::log_in;

    #[test]
    fn a_log_in_is_read_as_it_is_meant() {
        let proxy = Url::parse("http://an%40na:a%3Ab%2g%@proxy:3128").unwrap();
        assert_eq!(log_in(&proxy), (b"an@na".to_vec(), b"a:b%2g%".to_vec()));
        assert_eq!(log_in(&Url::parse("socks5h://proxy").unwrap()), (Vec::new(), Vec::new()));
    }
}
