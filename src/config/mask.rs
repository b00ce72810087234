//! A copy of a configuration without its secrets, for errors to quote.
//!
//! As long as the original, byte for byte, so that places in one are places in the other. When in doubt, it hides.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// Keys whose values may be shown in an error. Everything else is masked, so that a new key, or the misspelt name
/// of a secret one, is hidden until somebody decides otherwise.
const PUBLIC_KEYS: &[&str] = &[
    "addresses",
    "after_failover",
    "allow_from",
    "allow_http",
    "allowed_addresses",
    "api_url",
    "auto_reply_pause",
    "backoff_max",
    "backoff_min",
    "basic_auth",
    "body_starts_with",
    "breaker_failures",
    "ca_exclusive",
    "ca_file",
    "campaign_name",
    "certificate_file",
    "certificate_sha256",
    "charset",
    "class",
    "client_certificate_file",
    "client_key_file",
    "client_secret_credential",
    "client_secret_env",
    "client_secret_file",
    "account_password_credential",
    "account_password_env",
    "account_password_file",
    "coalesce",
    "concurrency",
    "connect_timeout",
    "default",
    "default_app",
    "default_country",
    "default_sender",
    "dialect",
    "direct_url",
    "error",
    "filter",
    "gateway",
    "json_equals",
    "json_pointer",
    "key_file",
    "keywords",
    "lane",
    "lease",
    "listen",
    "lookahead",
    "max_connections",
    "max_segments",
    "message_id",
    "method",
    "newline",
    "notify_field",
    "numbers",
    "old_inbound_signature",
    "on_unknown",
    "opt_in_keywords",
    "password_credential",
    "password_env",
    "password_file",
    "path_credential",
    "path_env",
    "path_file",
    "plus",
    "poll_interval",
    "pool_size",
    "pooler",
    "prefix",
    "preset",
    "proxy",
    "proxy_credential",
    "proxy_env",
    "proxy_except",
    "proxy_file",
    "rate",
    "receipt_overdue_after",
    "request_timeout",
    "shutdown_grace",
    "stale_after",
    "stale_after_urgent",
    "status",
    "stop_after_refusals",
    "timeout",
    "token_url",
    "transactional_lanes",
    "transliterate",
    "trunk_prefix",
    "trusted_proxies",
    "url",
    "username",
    "wake",
];

/// Keys that may be shown, and their values may not.
const SECRET_KEYS: &[&str] = &["account_password", "client_secret", "password", "path"];

/// What stands in brackets is a section's name only if it begins with one of these.
const SECTIONS: &[&str] =
    &["admin", "callbacks", "database", "gateway", "inbox", "log", "opt_out", "queue", "routing", "text"];

/// Public keys whose values are connection strings: what may be secret in those is masked.
const URL_KEYS: &[&str] = &["url", "direct_url", "api_url", "token_url", "proxy"];

/// For a file that parses.
pub(super) fn document(text: &str, table: &DeTable<'_>) -> String {
    let mut spans = Vec::new();
    let sections = table.keys().filter(|key| !SECTIONS.contains(&key.get_ref().as_ref()));
    spans.extend(sections.map(|key| key.span()).filter(|span| text[span.clone()].starts_with(['"', '\''])));
    secret_spans(text, table, false, &mut spans);
    let mut masked = text.to_owned();
    for span in spans {
        mask(&mut masked, span);
    }
    masked
}

/// What names of keys, gateways, hosts and headers are made of.
pub(super) fn is_plain(name: &str) -> bool {
    name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ' '))
}

fn secret_spans(text: &str, table: &DeTable<'_>, hidden: bool, spans: &mut Vec<Range<usize>>) {
    for (key, value) in table {
        let quoted = text.get(key.span()).is_some_and(|raw| raw.starts_with(['"', '\'']));
        let (at, key) = (key.span(), key.get_ref().as_ref());
        if quoted && !is_plain(key) {
            spans.push(at);
        }
        // Sections hold keys of their own; templates and bodies may hold a secret in any leaf.
        let inner_hidden = hidden || matches!(key, "headers" | "form" | "json" | "password");
        match value.get_ref() {
            // Answer codes and what they mean; hosts and where they are.
            DeValue::Table(_) if matches!(key, "codes" | "addresses") => {}
            DeValue::Table(inner) => secret_spans(text, inner, inner_hidden, spans),
            DeValue::Array(items) if items.iter().any(|item| item.get_ref().is_table()) => {
                for item in items.iter().filter_map(|item| item.get_ref().as_table()) {
                    secret_spans(text, item, inner_hidden, spans);
                }
            }
            _ => {
                if inner_hidden || !PUBLIC_KEYS.contains(&key) {
                    spans.push(value.span());
                } else if URL_KEYS.contains(&key)
                    && let Some(raw) = text.get(value.span())
                {
                    let start = value.span().start;
                    spans.extend(
                        secret_parts(raw).into_iter().map(|part| start + part.start..start + part.end),
                    );
                }
            }
        }
    }
}

/// The parts of a URL or connection string that may be secret, as offsets into the raw text with its quotes:
/// what stands before an `@`, the values behind a `?`, what follows a `#`, and every word that is not a harmless keyword.
fn secret_parts(raw: &str) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let start = raw.find("://").map(|at| at + 3);
    let mut rest = start.unwrap_or(0);
    if let Some(at) = raw.rfind('@').filter(|at| *at >= rest) {
        let user =
            if start.is_some() { raw[rest..at].find(':').map_or(at, |colon| rest + colon + 1) } else { 0 };
        parts.push(user..at);
        rest = at;
    }
    if start.is_some() {
        // No address has one, so it is most likely the tail of something else.
        parts.extend(raw[rest..].find('#').map(|hash| rest + hash + 1..raw.len()));
        let mut at = rest + raw[rest..].find('?').map_or(raw.len() - rest, |query| query + 1);
        for pair in raw[at..].split_inclusive('&') {
            let value = pair.find('=').map_or(0, |equals| equals + 1);
            let harmless = value > 0 && HARMLESS_KEYWORDS.contains(&&pair[..value - 1]);
            // A template shows which of its placeholders is meant.
            let placeholder = pair[value..].starts_with('{')
                && pair[value..].trim_end_matches(['&', '"', '\'']).ends_with('}');
            if !harmless && !placeholder {
                parts.push(at + value..at + pair.len());
            }
            at += pair.len();
        }
    } else if raw.contains(['=', ' ']) {
        let mut at = 0;
        for word in raw.split_inclusive(char::is_whitespace) {
            let key = word.split('=').next().unwrap_or_default().trim_start_matches(['"', '\'']);
            if !(word.contains('=') && HARMLESS_KEYWORDS.contains(&key)) {
                parts.push(at..at + word.len());
            }
            at += word.len();
        }
    }
    parts
}

/// Of a connection string.
const HARMLESS_KEYWORDS: &[&str] = &[
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "target_session_attrs",
    "application_name",
    "connect_timeout",
];

/// Same length, same line breaks, quotes kept: spans stay right.
fn mask(text: &mut String, span: Range<usize>) {
    let Some(secret) = text.get(span.clone()) else { return };
    let stars: String = secret
        .chars()
        .map(|c| match (c, c.len_utf8()) {
            ('"' | '\'' | '\n' | '\r' | ' ' | '=' | '&', _) => c,
            // As many characters and as many bytes: columns are counted in the one, spans in the other.
            (_, 1) => '*',
            (_, 2) => '\u{b7}',
            (_, 3) => '\u{2022}',
            _ => '\u{10101}',
        })
        .collect();
    text.replace_range(span, &stars);
}

/// `[gateway.main]`, `[[routing.rule]]`. The names of gateways are no secrets; what only looks like a section may be one.
fn is_section(line: &str) -> bool {
    let name = line.trim_start_matches('[').trim_end_matches(']');
    line.starts_with('[')
        && name.split('.').next().is_some_and(|first| SECTIONS.contains(&first.trim()))
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '"' | ' '))
}

/// For a file that does not parse: line by line, everything but well-known harmless values.
pub(super) fn lines(text: &str) -> String {
    let mut masked = text.to_owned();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let end = start + line.len();
        let hidden = match line.find('=') {
            _ if is_section(line.trim()) => Vec::new(),
            None => std::iter::once(start..end).collect(),
            Some(at) => {
                let key = line[..at].trim().trim_matches(['"', '\'']);
                let key = key.rsplit('.').next().unwrap_or(key).trim();
                let (from, value) = (start + at + 1, &line[at + 1..]);
                if SECRET_KEYS.contains(&key) || (PUBLIC_KEYS.contains(&key) && value.contains('{')) {
                    std::iter::once(from..end).collect()
                } else if !PUBLIC_KEYS.contains(&key) {
                    // Not even what stands before the `=` need be a key.
                    std::iter::once(start..end).collect()
                } else if URL_KEYS.contains(&key) {
                    let shift = |part: Range<usize>| from + part.start..from + part.end;
                    secret_parts(value).into_iter().map(shift).collect()
                } else {
                    Vec::new()
                }
            }
        };
        for span in hidden {
            mask(&mut masked, span);
        }
        start = end;
    }
    masked
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::{lines, mask, secret_parts};

    proptest! {
        #[test]
        fn masking_keeps_the_length_of_any_text(text in "(?s).{0,80}", url in "[a@:/?&= \"'é]{0,30}") {
            prop_assert_eq!(lines(&text).len(), text.len());
            prop_assert_eq!(lines(&text).chars().count(), text.chars().count());
            let line = format!("url = {url}");
            prop_assert_eq!(lines(&line).len(), line.len());
        }
    }

    #[test]
    fn of_a_connection_string_only_the_harmless_parts_are_shown() {
        for (raw, shown) in [
            ("\"postgresql://u:pw@h/d?sslmode=on&x=y\"", "\"postgresql://u:**@h/d?sslmode=on&x=*\""),
            ("\"https://h/?to={recipent}&key=pw\"", "\"https://h/?to={recipent}&key=**\""),
            ("\"https://h/#pw\"", "\"https://h/#**\""),
            ("\"host=h password=pw sslmode=on\"", "\"host=h ********=** sslmode=on\""),
            ("\"host=h password='p w' x\"", "\"host=h ********='* *' *\""),
            ("\"api.example.com\"", "\"api.example.com\""),
            ("\"pw@api.example.com\"", "\"**@api.example.com\""),
        ] {
            let mut masked = raw.to_owned();
            for part in secret_parts(raw) {
                mask(&mut masked, part);
            }
            assert_eq!(masked, shown);
        }
    }

    #[test]
    fn a_file_that_does_not_parse_still_shows_no_secret() {
        let text = "[gateway.a]\nrate = 5 5\npassword = \"hunter2\nhunter2\npasswrd = hünter2\nurl = \"x://u:hunter2@h\"\nt = { password = \"hunter2\" }\n";
        let masked = lines(text);
        assert_eq!(masked.len(), text.len());
        assert!(!masked.contains("nter2"), "{masked}");
        assert!(masked.contains("rate = 5 5"), "{masked}");
    }

    #[test]
    fn what_only_looks_like_a_key_a_section_or_a_comment_is_hidden() {
        for line in [
            "url \"postgresql://u:hunter2@h/d?sslmode=disable\"",
            "hunter2=tail of a text of several lines",
            "[\"hunter2\"]",
            "[hunter2",
            "# password = hunter2",
        ] {
            let masked = lines(line);
            assert!(!masked.contains("nter2"), "{masked}");
        }
        for line in ["[gateway.main]", "[[gateway.\"main\".rule]]", "[database", "wake = \"auto"] {
            assert_eq!(lines(line), line);
        }
        assert_eq!(lines("password = \"pw"), "password = \"**");
    }
}
