//! `[gateway.NAME]`: what all gateways share, and what each dialect asks for.
//!
//! A key that another dialect would take is a fault here, not ignored: it shows that somebody expects it to work.

use std::collections::BTreeMap;
use std::time::Duration;

use super::diagnostic::Diagnostic;
use super::http;
use super::network;
use super::raw::{At, RawGateway};
use super::reader::{Reader, Reported};
use super::secret::SecretKeys;
use super::{Charset, CodeClass, Dialect, Gateway, InteractsmsV1, InteractsmsV2, Newline, OnUnknown, Secret};

const MS: fn(u64) -> Duration = Duration::from_millis;
const SECS: fn(u64) -> Duration = Duration::from_secs;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    V2,
    V1Form,
    V1Json,
    Http,
}

const KINDS: &[(&str, Kind)] = &[
    ("interactsms-v2", Kind::V2),
    ("interactsms-v1", Kind::V1Form),
    ("interactsms-v1-json", Kind::V1Json),
    ("http", Kind::Http),
];

impl Kind {
    fn name(self) -> &'static str {
        KINDS.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

/// Keys that only some dialects know.
const DIALECT_KEYS: &[(&str, &[Kind])] = &[
    ("preset", &[Kind::Http]),
    ("url", &[Kind::V1Form, Kind::V1Json, Kind::Http]),
    ("api_url", &[Kind::V2]),
    ("token_url", &[Kind::V2]),
    ("campaign_name", &[Kind::V2]),
    ("coalesce", &[Kind::V2]),
    ("api_id", &[Kind::V1Form, Kind::V1Json]),
    ("notify_field", &[Kind::V1Form, Kind::V1Json]),
    ("newline", &[Kind::V1Form, Kind::V1Json]),
    ("charset", &[Kind::V1Form]),
    ("codes", &[Kind::V1Form, Kind::V1Json]),
    ("method", &[Kind::Http]),
    ("basic_auth", &[Kind::Http]),
    ("headers", &[Kind::Http]),
    ("form", &[Kind::Http]),
    ("json", &[Kind::Http]),
    ("rule", &[Kind::Http]),
    ("message_id", &[Kind::Http]),
    ("error", &[Kind::Http]),
    ("plus", &[Kind::Http]),
];

/// One gateway, or `Reported` when something required is missing.
pub(super) fn gateway(
    reader: &mut Reader<'_>,
    name: &str,
    raw: &RawGateway,
    lease: Duration,
) -> Result<Gateway, Reported> {
    let section: &[&str] = &["gateway", name];
    let dialect = dialect(reader, section, raw);
    let concurrency = reader.whole("concurrency", &raw.concurrency, 16, 1..=1000);
    let connect_timeout =
        reader.duration("connect_timeout", &raw.connect_timeout, SECS(10), MS(100)..=SECS(120));
    let request_timeout =
        reader.duration("request_timeout", &raw.request_timeout, SECS(30), MS(100)..=SECS(600));
    let stop_after = reader.whole("stop_after_refusals", &raw.stop_after_refusals, 20, 1..=10_000);
    let failures = reader.whole("breaker_failures", &raw.breaker_failures, 5, 1..=1000);
    let backoff_min = reader.duration("backoff_min", &raw.backoff_min, SECS(1), MS(10)..=SECS(3600));
    let backoff_max = reader.duration("backoff_max", &raw.backoff_max, SECS(300), MS(10)..=SECS(86_400));
    if backoff_max < backoff_min {
        let span = raw.backoff_max.as_ref().or(raw.backoff_min.as_ref()).map(|at| at.span.clone());
        reader.report(
            Diagnostic::new(span, "`backoff_max` is shorter than `backoff_min`")
                .help("the pause doubles from backoff_min up to backoff_max"),
        );
    }
    let on_unknown = on_unknown(reader, raw, lease + request_timeout);
    let rate = rate(reader, raw);
    let proxy = network::proxy(reader, section, raw, dialect.as_ref().ok());
    let network = network::network(reader, raw);
    let (proxy, of_environment) = proxy?;
    let mut network = network?;
    network.proxy_except.extend(of_environment);
    let gateway = Gateway {
        name: name.to_owned(),
        dialect: dialect?,
        rate,
        concurrency: usize::try_from(concurrency).map_err(|_| Reported)?,
        connect_timeout,
        request_timeout,
        on_unknown,
        stop_after_refusals: u32::try_from(stop_after).map_err(|_| Reported)?,
        breaker_failures: u32::try_from(failures).map_err(|_| Reported)?,
        backoff_min,
        backoff_max,
        proxy,
        ca_file: raw.ca_file.as_ref().map(|at| reader.surroundings().path(&at.value)),
        allow_http: reader.flag(&raw.allow_http, false),
        network,
    };
    network::judge(reader, raw, &gateway);
    Ok(gateway)
}

fn rate(reader: &mut Reader<'_>, raw: &RawGateway) -> Option<f64> {
    let at = raw.rate.as_ref()?;
    if at.value > 0.0 && at.value <= 10_000.0 {
        return Some(at.value);
    }
    reader.wrong(
        &at.span,
        "`rate` is out of range",
        "must be more than 0, at most 10000",
        "messages a second; leave it out to send as fast as the gateway answers",
    );
    None
}

fn on_unknown(reader: &mut Reader<'_>, raw: &RawGateway, least: Duration) -> OnUnknown {
    let Some(at) = &raw.on_unknown else { return OnUnknown::Hold };
    match (at.value.as_str(), at.value.strip_prefix("resend-after:")) {
        ("hold", _) => OnUnknown::Hold,
        ("resend", _) => OnUnknown::ResendAfter(least),
        (_, Some(pause)) => {
            let week = SECS(7 * 86_400);
            // A request that may still be on its way must be over before the same text is sent again.
            reader
                .duration_text("on_unknown", &at.span, pause, least..=week.max(least))
                .map_or(OnUnknown::Hold, OnUnknown::ResendAfter)
        }
        (_, None) => {
            reader.wrong(
                &at.span,
                "`on_unknown` does not know this word",
                "not one of its words",
                "one of \"hold\", \"resend\", \"resend-after:15m\"",
            );
            OnUnknown::Hold
        }
    }
}

fn dialect(reader: &mut Reader<'_>, section: &[&str], raw: &RawGateway) -> Result<Dialect, Reported> {
    let help = "one of \"interactsms-v2\", \"interactsms-v1\", \"interactsms-v1-json\", \"http\"";
    let at = reader.required(section, "dialect", &raw.dialect, help)?;
    let kind = reader.word("dialect", &at.span, &at.value, KINDS)?;
    refuse_foreign_keys(reader, section, kind);
    // Both are asked for before either ends the reading, so that both are reported.
    match kind {
        Kind::V2 => v2(reader, section, raw),
        Kind::V1Form | Kind::V1Json => v1(reader, section, raw, kind == Kind::V1Json),
        Kind::Http => http::template(reader, section, raw),
    }
}

fn refuse_foreign_keys(reader: &mut Reader<'_>, section: &[&str], kind: Kind) {
    for (key, span) in reader.document().keys(section) {
        let Some((_, kinds)) = DIALECT_KEYS.iter().find(|(name, _)| *name == key) else { continue };
        if !kinds.contains(&kind) && !reader.was_cut(section, &key) {
            let owners: Vec<String> = kinds.iter().map(|kind| format!("\"{}\"", kind.name())).collect();
            reader.wrong(
                &span,
                format!("`{key}` is not a key of the dialect {}", kind.name()),
                "has no effect here",
                format!("it belongs to dialect = {}", owners.join(" or ")),
            );
        }
    }
}

pub(super) fn password(
    reader: &mut Reader<'_>,
    section: &[&str],
    raw: &RawGateway,
) -> Result<Option<Secret>, Reported> {
    let keys = SecretKeys {
        name: "password",
        inline: &raw.password,
        file: &raw.password_file,
        credential: &raw.password_credential,
        env: &raw.password_env,
    };
    reader.secret(section, keys)
}

/// User name and password, where both are required.
fn account(
    reader: &mut Reader<'_>,
    section: &[&str],
    raw: &RawGateway,
) -> Result<(String, Secret), Reported> {
    let username = reader.required(section, "username", &raw.username, "the gateway account's user name");
    let password = match password(reader, section, raw) {
        Ok(None) => Err(reader.missing(
            section,
            "password_file",
            "password_file = \"/etc/outboxd/gateway.password\", or `password_credential`, or `password_env`",
        )),
        Ok(Some(password)) => Ok(password),
        Err(reported) => Err(reported),
    };
    Ok((username?.value.clone(), password?))
}

/// A URL with a default.
fn url_or(
    reader: &mut Reader<'_>,
    name: &str,
    value: Option<&At<String>>,
    default: &str,
    allow_http: bool,
) -> Result<String, Reported> {
    let Some(at) = value else { return Ok(default.to_owned()) };
    let url = reader.gateway_url(name, at, allow_http)?;
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn v2(reader: &mut Reader<'_>, section: &[&str], raw: &RawGateway) -> Result<Dialect, Reported> {
    let allow_http = reader.flag(&raw.allow_http, false);
    let account = account(reader, section, raw);
    let mut api_url =
        url_or(reader, "api_url", raw.api_url.as_ref(), "https://api.interactsms.com", allow_http);
    if let (Ok(url), Some(at)) = (&api_url, &raw.api_url)
        && url.contains('?')
    {
        api_url = Err(reader.wrong(
            &at.span,
            "`api_url` has a query",
            "the part after the ?",
            "it is the beginning of several addresses; take the query out",
        ));
    }
    let token_url =
        url_or(reader, "token_url", raw.token_url.as_ref(), "https://auth.interactsms.com/token", allow_http);
    let coalesce = reader.whole("coalesce", &raw.coalesce, 1, 1..=1000);
    let (username, password) = account?;
    Ok(Dialect::InteractsmsV2(InteractsmsV2 {
        api_url: api_url?,
        token_url: token_url?,
        username,
        password,
        campaign_name: raw.campaign_name.as_ref().map(|at| at.value.clone()),
        coalesce: usize::try_from(coalesce).map_err(|_| Reported)?,
    }))
}

fn v1(reader: &mut Reader<'_>, section: &[&str], raw: &RawGateway, json: bool) -> Result<Dialect, Reported> {
    let allow_http = reader.flag(&raw.allow_http, false);
    let account = account(reader, section, raw);
    let api_id = reader.required(section, "api_id", &raw.api_id, "the account's API id");
    let (default_url, default_notify) = if json {
        ("https://secure.interactsms.com/api/v1/sendmessage", "NotifyId")
    } else {
        ("https://secure.interactsms.com/api/v1/sendmessage.aspx", "NotifyID")
    };
    let url = url_or(reader, "url", raw.url.as_ref(), default_url, allow_http);
    let newline =
        reader.choice("newline", &raw.newline, &[("not-sign", Newline::NotSign), ("keep", Newline::Keep)]);
    let charset =
        reader.choice("charset", &raw.charset, &[("utf-8", Charset::Utf8), ("latin1", Charset::Latin1)]);
    let codes = codes(reader, raw);
    let (user, password) = account?;
    if matches!(charset, Ok(Some(Charset::Latin1))) {
        latin1_account(reader, raw, &password)?;
    }
    Ok(Dialect::InteractsmsV1(InteractsmsV1 {
        url: url?,
        json,
        user,
        password,
        api_id: api_id?.value.0.clone(),
        notify_field: raw.notify_field.as_ref().map_or(default_notify, |at| &at.value).to_owned(),
        newline: newline?.unwrap_or(Newline::NotSign),
        charset: charset?.unwrap_or(Charset::Utf8),
        codes: codes?,
    }))
}

/// Credentials go into the form too, and are never changed to fit it.
fn latin1_account(reader: &mut Reader<'_>, raw: &RawGateway, password: &Secret) -> Result<(), Reported> {
    let lacks = |text: &str| text.chars().any(|c| u32::from(c) > 0xff);
    let user = raw.username.as_ref().filter(|at| lacks(&at.value)).map(|at| ("username", at.span.clone()));
    let id = raw.api_id.as_ref().filter(|at| lacks(&at.value.0)).map(|at| ("api_id", at.span.clone()));
    let charset = raw.charset.as_ref().filter(|_| lacks(password.expose()));
    let unsendable = user.or(id).or(charset.map(|at| ("password", at.span.clone())));
    let Some((name, span)) = unsendable else { return Ok(()) };
    Err(reader.wrong(
        &span,
        format!("the {name} holds a character that Latin-1 lacks"),
        "cannot be sent so",
        "charset = \"utf-8\", or other credentials",
    ))
}

fn codes(reader: &mut Reader<'_>, raw: &RawGateway) -> Result<BTreeMap<String, CodeClass>, Reported> {
    let mut codes = BTreeMap::new();
    let mut result = Ok(());
    for (code, at) in raw.codes.iter().flatten() {
        match reader.word("codes", &at.span, &at.value, http::CLASSES) {
            Ok(class) if code == "0" && class != CodeClass::Accepted => {
                result = Err(reader.wrong(
                    &at.span,
                    "code 0 means accepted",
                    "cannot be changed",
                    "map the other codes only",
                ));
            }
            Ok(class) => {
                codes.insert(code.clone(), class);
            }
            Err(reported) => result = Err(reported),
        }
    }
    result.map(|()| codes)
}
