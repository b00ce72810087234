//! `outboxd config`: prints the default file, the schema, or what a file and the defaults come to.
//!
//! Must not print a secret: it shows that one is set, never which.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::cli::args::ConfigCommand;
use crate::config::{
    self, AddressRange, AfterFailover, Config, Database, Dialect, Gateway, Network, OnUnknown, Pooler,
    ProxyException, Tls, TlsMin, Wake,
};

pub fn run(command: ConfigCommand, path: &Path) -> anyhow::Result<ExitCode> {
    let text = match command {
        ConfigCommand::Default => config::default_toml().to_owned(),
        ConfigCommand::Schema => format!("{}\n", config::schema()),
        ConfigCommand::Show => show(&config::load(path)?),
    };
    crate::cli::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Sections of `key = value`, in TOML's form, so that lines can be copied into a file.
#[derive(Default)]
struct Page(String);

impl Page {
    fn section(&mut self, name: &str) {
        let gap = if self.0.is_empty() { "" } else { "\n" };
        self.push(format_args!("{gap}[{name}]\n"));
    }

    fn text(&mut self, key: &str, value: &str) {
        self.push(format_args!("{key} = {}\n", toml::Value::from(value)));
    }

    fn number(&mut self, key: &str, value: impl std::fmt::Display) {
        self.push(format_args!("{key} = {value}\n"));
    }

    fn list(&mut self, key: &str, values: &[impl AsRef<str>]) {
        let values: Vec<toml::Value> = values.iter().map(|value| toml::Value::from(value.as_ref())).collect();
        self.push(format_args!("{key} = {}\n", toml::Value::from(values)));
    }

    fn duration(&mut self, key: &str, value: Duration) {
        self.push(format_args!("{key} = \"{}\"\n", humantime::format_duration(value)));
    }

    fn duration_or_never(&mut self, key: &str, value: Option<Duration>) {
        match value {
            Some(duration) => self.duration(key, duration),
            None => self.text(key, "never"),
        }
    }

    fn optional(&mut self, key: &str, value: Option<&str>) {
        match value {
            Some(value) => self.text(key, value),
            None => self.remark(key, "not set"),
        }
    }

    /// What has no value that could be shown.
    fn remark(&mut self, key: &str, remark: &str) {
        self.push(format_args!("# {key}: {remark}\n"));
    }

    fn push(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = self.0.write_fmt(line);
    }
}

fn show(config: &Config) -> String {
    let mut page = Page::default();
    page.section("database");
    let database = &config.database;
    page.text("url", &database.shown);
    show_login(&mut page, database);
    page.text(
        "pooler",
        match database.pooler {
            Pooler::None => "none",
            Pooler::Transaction => "transaction",
        },
    );
    page.optional("direct_url", database.direct.as_ref().map(|direct| direct.shown.as_str()));
    if let Some(direct) = &database.direct {
        show_login(&mut page, direct);
    }
    page.number("pool_size", database.pool_size);
    page.duration("timeout", database.timeout);

    page.section("queue");
    let queue = &config.queue;
    page.text(
        "wake",
        match queue.wake {
            Wake::Auto => "auto",
            Wake::Notify => "notify",
            Wake::Poll => "poll",
        },
    );
    page.duration("poll_interval", queue.poll_interval);
    page.duration("lease", queue.lease);
    page.number("lookahead", queue.lookahead);
    page.duration_or_never("stale_after", queue.stale_after);
    page.duration_or_never("stale_after_urgent", queue.stale_after_urgent);
    page.duration("shutdown_grace", queue.shutdown_grace);
    page.text(
        "after_failover",
        match queue.after_failover {
            AfterFailover::Hold => "hold",
            AfterFailover::Send => "send",
        },
    );

    page.section("text");
    let text = &config.text;
    page.optional("default_country", text.default_country.as_deref());
    page.text("trunk_prefix", &text.trunk_prefix);
    page.optional("default_sender", text.default_sender.as_deref());
    page.number("max_segments", text.max_segments);
    page.number("transliterate", text.transliterate);

    for gateway in config.gateways.values() {
        show_gateway(&mut page, gateway);
    }
    show_rest(&mut page, config);
    page.0
}

/// What a connection string says beside the address.
fn show_login(page: &mut Page, database: &Database) {
    let tls = match database.tls {
        Tls::Disable => "disable",
        Tls::Prefer => "prefer",
        Tls::Require => "require",
        Tls::VerifyCa => "verify-ca",
        Tls::VerifyFull => "verify-full",
    };
    page.remark("sslmode", tls);
    if !database.pins.is_empty() {
        page.remark("certificate_sha256", &database.pins.len().to_string());
    }
    page.remark("password", if database.connect.get_password().is_some() { "set" } else { "not set" });
}

fn show_gateway(page: &mut Page, gateway: &Gateway) {
    page.section(&format!("gateway.{}", gateway.name));
    show_dialect(page, &gateway.dialect);
    match gateway.rate {
        Some(rate) => page.number("rate", rate),
        None => page.remark("rate", "not limited"),
    }
    page.number("concurrency", gateway.concurrency);
    page.duration("connect_timeout", gateway.connect_timeout);
    page.duration("request_timeout", gateway.request_timeout);
    match gateway.on_unknown {
        OnUnknown::Hold => page.text("on_unknown", "hold"),
        OnUnknown::ResendAfter(pause) => {
            page.text("on_unknown", &format!("resend-after:{}", humantime::format_duration(pause)));
        }
    }
    page.number("stop_after_refusals", gateway.stop_after_refusals);
    page.number("breaker_failures", gateway.breaker_failures);
    page.duration("backoff_min", gateway.backoff_min);
    page.duration("backoff_max", gateway.backoff_max);
    page.remark("proxy", if gateway.proxy.is_some() { "set" } else { "none" });
    show_network(page, &gateway.network);
    page.optional("ca_file", gateway.ca_file.as_deref().and_then(Path::to_str));
    page.number("ca_exclusive", gateway.network.ca_exclusive);
    page.number("allow_http", gateway.allow_http);
    if !gateway.network.addresses.is_empty() {
        page.section(&format!("gateway.{}.addresses", gateway.name));
        for (host, addresses) in &gateway.network.addresses {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            page.list(&toml::Value::from(host.as_str()).to_string(), &addresses);
        }
    }
}

fn show_network(page: &mut Page, network: &Network) {
    let texts =
        |exceptions: &[ProxyException]| exceptions.iter().map(ToString::to_string).collect::<Vec<_>>();
    page.list("proxy_except", &texts(&network.proxy_except));
    if network.allowed_addresses.is_empty() {
        page.remark("allowed_addresses", "no limit");
    } else {
        let ranges: Vec<String> = network.allowed_addresses.iter().map(ToString::to_string).collect();
        page.list("allowed_addresses", &ranges);
    }
    page.optional("source_address", network.source_address.map(|address| address.to_string()).as_deref());
    page.text(
        "tls_min",
        match network.tls_min {
            TlsMin::V1_2 => "1.2",
            TlsMin::V1_3 => "1.3",
        },
    );
    let certificate = network.client_certificate.as_ref();
    page.optional(
        "client_certificate_file",
        certificate.and_then(|certificate| certificate.certificate_file.to_str()),
    );
    page.optional("client_key_file", certificate.and_then(|certificate| certificate.key_file.to_str()));
}

fn show_dialect(page: &mut Page, dialect: &Dialect) {
    match dialect {
        Dialect::InteractsmsV2(v2) => {
            page.text("dialect", "interactsms-v2");
            page.text("api_url", &v2.api_url);
            page.text("token_url", &v2.token_url);
            page.text("username", &v2.username);
            page.remark("password", "set");
            page.optional("campaign_name", v2.campaign_name.as_deref());
            page.number("coalesce", v2.coalesce);
        }
        Dialect::InteractsmsV1(v1) => {
            page.text("dialect", if v1.json { "interactsms-v1-json" } else { "interactsms-v1" });
            page.text("url", &v1.url);
            page.text("username", &v1.user);
            page.remark("password", "set");
            page.text("api_id", &v1.api_id);
            page.text("notify_field", &v1.notify_field);
            page.remark("codes", &format!("{} besides 0", v1.codes.len()));
        }
        Dialect::Http(template) => {
            page.text("dialect", "http");
            // Behind the `?` there may be credentials.
            page.text("url", template.url.split('?').next().unwrap_or_default());
            page.remark("rules", &format!("{}", template.rules.len()));
        }
    }
}

fn show_rest(page: &mut Page, config: &Config) {
    page.section("routing");
    page.text("default", &config.routing.default_gateway);
    for rule in &config.routing.rules {
        page.push(format_args!("\n[[routing.rule]]\n"));
        if !rule.prefix.is_empty() {
            page.text("prefix", &rule.prefix);
        }
        if let Some(lane) = rule.lane {
            page.text("lane", lane.as_str());
        }
        page.text("gateway", &rule.gateway);
    }
    match &config.callbacks {
        Some(callbacks) => {
            page.section("callbacks");
            page.text("listen", &callbacks.listen.to_string());
            page.remark("path", "set");
            page.remark("secrets", &callbacks.secrets.len().to_string());
            page.number("old_inbound_signature", callbacks.old_inbound_signature);
            let ranges = |ranges: &[AddressRange]| ranges.iter().map(ToString::to_string).collect::<Vec<_>>();
            page.list("allow_from", &ranges(&callbacks.allow_from));
            page.list("trusted_proxies", &ranges(&callbacks.trusted_proxies));
            page.number("max_connections", callbacks.max_connections);
            page.duration("timeout", callbacks.timeout);
            match callbacks.rate {
                Some(rate) => page.number("rate", rate),
                None => page.remark("rate", "not limited"),
            }
            page.duration_or_never("receipt_overdue_after", callbacks.receipt_overdue_after);
            let tls = callbacks.tls.as_ref();
            page.optional("certificate_file", tls.and_then(|tls| tls.certificate_file.to_str()));
            page.optional("key_file", tls.and_then(|tls| tls.key_file.to_str()));
        }
        None => page.push(format_args!("\n# [callbacks]: off\n")),
    }
    page.section("inbox");
    page.optional("default_app", config.inbox.default_app.as_deref());
    page.remark("app_of_number", &config.inbox.app_of_number.len().to_string());
    page.remark("auto_reply", &config.inbox.auto_reply.len().to_string());
    page.duration("auto_reply_pause", config.inbox.auto_reply_pause);
    page.section("opt_out");
    let list = |keywords: &[Vec<String>]| keywords.iter().map(|words| words.join(" ")).collect::<Vec<_>>();
    page.list("keywords", &list(&config.opt_out.keywords));
    page.list("opt_in_keywords", &list(&config.opt_out.opt_in_keywords));
    page.list("numbers", &config.opt_out.numbers);
    let lanes: Vec<&str> = config.opt_out.transactional_lanes.iter().map(|lane| lane.as_str()).collect();
    page.list("transactional_lanes", &lanes);
    match &config.admin {
        Some(admin) => {
            page.section("admin");
            page.text("listen", &admin.listen.to_string());
            page.number("max_connections", admin.max_connections);
            page.duration("timeout", admin.timeout);
        }
        None => page.push(format_args!("\n# [admin]: off\n")),
    }
    page.section("log");
    page.text("filter", &config.log.filter);
    page.number("json", config.log.json);
}
