//! From the text of `outboxd.toml` to a [`Config`], or to all that is wrong with it at once.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use crate::message::Lane;
use crate::text::sender;

use super::diagnostic::{ConfigError, Diagnostic};
use super::document::{Document, nearest};
use super::raw::{At, RawConfig, RawInbox, RawLog, RawOptOut, RawQueue, RawRouteRule, RawRouting, RawText};
use super::reader::{Reader, Reported};
use super::secret::{Surroundings, io_reason};
use super::{
    AfterFailover, Config, Database, Gateway, Log, Queue, RouteRule, Routing, Text, Wake, admin, callbacks,
    database, gateway, inbound,
};

const MS: fn(u64) -> Duration = Duration::from_millis;
const SECS: fn(u64) -> Duration = Duration::from_secs;
const DAYS: fn(u64) -> Duration = |days| Duration::from_secs(days * 86_400);

/// Reads and checks a configuration file and the secrets that it points to.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    load_noting(path).map(|(config, _)| config)
}

/// The same with the files that were read for it, the configuration first.
pub fn load_noting(path: &Path) -> Result<(Config, Vec<PathBuf>), ConfigError> {
    let unreadable = |error: std::io::Error| {
        let help = match error.kind() {
            std::io::ErrorKind::NotFound => {
                "`outboxd config default` prints a file to start from; --config names another place"
            }
            std::io::ErrorKind::PermissionDenied => "run this as the daemon's user, or as root",
            _ => "--config names another place",
        };
        let title = format!("could not read {}: {}", path.display(), io_reason(&error));
        ConfigError::without_source(path.display().to_string(), title, help)
    };
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let mut surroundings = Surroundings::of(path).map_err(unreadable)?;
    let read = Rc::new(RefCell::new(vec![path.to_owned()]));
    let (noted, really) = (Rc::clone(&read), surroundings.read);
    surroundings.read = Box::new(move |path| {
        let found = really(path)?;
        noted.borrow_mut().push(path.to_owned());
        Ok(found)
    });
    let config = parse(&text, &path.display().to_string(), &surroundings)?;
    Ok((config, read.take()))
}

/// Checks the text of a configuration file; `file_name` is for messages.
pub fn parse(text: &str, file_name: &str, surroundings: &Surroundings) -> Result<Config, ConfigError> {
    let mut faults = Vec::new();
    let (document, raw) = match Document::read(text, &mut faults) {
        Ok(read) => read,
        Err(masked) => return Err(ConfigError::new(file_name, masked, faults)),
    };
    let mut reader = Reader::new(&document, surroundings, faults);
    let config = config(&mut reader, &raw);
    let mut faults = reader.into_faults();
    if config.is_err() && faults.is_empty() {
        faults.push(Diagnostic::new(None, "the configuration cannot be used").help("report this as a bug"));
    }
    match config {
        Ok(config) if faults.is_empty() => Ok(config),
        _ => Err(ConfigError::new(file_name, document.masked, faults)),
    }
}

fn config(reader: &mut Reader<'_>, raw: &RawConfig) -> Result<Config, Reported> {
    // Each section is read before any of them ends the reading.
    let database = database::database(reader, raw.database.as_ref());
    let queue = queue(reader, raw.queue.as_ref().unwrap_or(&RawQueue::default()));
    if let (Ok(database), Ok(queue)) = (&database, &queue) {
        wake_comes_through(reader, raw, database, queue.wake);
    }
    let text = text(reader, raw.text.as_ref().unwrap_or(&RawText::default()));
    let lease = queue.as_ref().map_or(SECS(5), |queue| queue.lease);
    let gateways = gateways(reader, raw, lease);
    let names: Vec<&str> = raw.gateway.iter().flatten().map(|(name, _)| name.as_str()).collect();
    let routing = routing(reader, raw.routing.as_ref().unwrap_or(&RawRouting::default()), &names);
    let callbacks = raw.callbacks.as_ref().map(|raw| callbacks::callbacks(reader, raw)).transpose();
    let inbox = inbound::inbox(
        reader,
        raw.inbox.as_ref().unwrap_or(&RawInbox::default()),
        raw.text.as_ref().unwrap_or(&RawText::default()),
    );
    let opt_out = inbound::opt_out(reader, raw.opt_out.as_ref().unwrap_or(&RawOptOut::default()));
    let admin = raw.admin.as_ref().map(|raw| admin::admin(reader, raw)).transpose();
    let log = log(reader, raw.log.as_ref().unwrap_or(&RawLog::default()));
    Ok(Config {
        database: database?,
        queue: queue?,
        text: text?,
        gateways: gateways?,
        routing: routing?,
        callbacks: callbacks?,
        inbox: inbox?,
        opt_out: opt_out?,
        admin: admin?,
        log: log?,
    })
}

fn queue(reader: &mut Reader<'_>, raw: &RawQueue) -> Result<Queue, Reported> {
    let wake = reader.choice(
        "wake",
        &raw.wake,
        &[("auto", Wake::Auto), ("notify", Wake::Notify), ("poll", Wake::Poll)],
    );
    let after_failover = reader.choice(
        "after_failover",
        &raw.after_failover,
        &[("hold", AfterFailover::Hold), ("send", AfterFailover::Send)],
    );
    let lookahead = reader.whole("lookahead", &raw.lookahead, 2000, 10..=100_000);
    let stale = SECS(1)..=DAYS(365);
    Ok(Queue {
        poll_interval: reader.duration("poll_interval", &raw.poll_interval, SECS(5), MS(100)..=SECS(300)),
        lease: reader.duration("lease", &raw.lease, SECS(5), SECS(1)..=SECS(60)),
        lookahead: usize::try_from(lookahead).map_err(|_| Reported)?,
        stale_after: reader.duration_or_never("stale_after", &raw.stale_after, DAYS(1), stale.clone()),
        stale_after_urgent: reader.duration_or_never(
            "stale_after_urgent",
            &raw.stale_after_urgent,
            SECS(900),
            stale,
        ),
        shutdown_grace: reader.duration("shutdown_grace", &raw.shutdown_grace, SECS(25), MS(0)..=SECS(600)),
        wake: wake?.unwrap_or(Wake::Auto),
        after_failover: after_failover?.unwrap_or(AfterFailover::Hold),
    })
}

/// Notifications need a session, which only `direct_url` gives beside a transaction pooler.
fn wake_comes_through(reader: &mut Reader<'_>, raw: &RawConfig, database: &Database, wake: Wake) {
    let at = raw.queue.as_ref().and_then(|queue| queue.wake.as_ref());
    if let Some(at) = at.filter(|_| wake == Wake::Notify && database.sessions().is_none()) {
        reader.wrong(
            &at.span,
            "`wake = \"notify\"` needs more than a transaction pooler",
            "no notification comes through `pooler = \"transaction\"`",
            "give a `direct_url` in [database] that leads past the pooler, or write \"auto\" or \"poll\"",
        );
    }
}

fn text(reader: &mut Reader<'_>, raw: &RawText) -> Result<Text, Reported> {
    let max_segments = reader.whole("max_segments", &raw.max_segments, 6, 1..=255);
    if let Some(at) = &raw.default_country {
        let digits = at.value.trim_start_matches('+').trim_start_matches("00");
        if !matches!(at.value.len(), 1..=3) || !all_digits(&at.value) || at.value.starts_with('0') {
            let help = if matches!(digits.len(), 1..=3) && all_digits(digits) && !digits.starts_with('0') {
                format!("write \"{digits}\"")
            } else {
                "for example \"353\" for Ireland, \"44\" for the United Kingdom".to_owned()
            };
            reader.wrong(
                &at.span,
                "`default_country` is not a calling code",
                "must be one to three digits",
                help,
            );
        }
    }
    if let Some(at) = raw.trunk_prefix.as_ref().filter(|at| at.value.len() > 3 || !all_digits(&at.value)) {
        reader.wrong(
            &at.span,
            "`trunk_prefix` is not a prefix",
            "must be at most three digits",
            "usually \"0\"; \"\" where national numbers have none",
        );
    }
    if let Some(at) = raw.default_sender.as_ref().filter(|at| sender::check(&at.value).is_err()) {
        reader.wrong(
            &at.span,
            "`default_sender` is not a sender ID",
            "networks would refuse it",
            "up to 11 letters, digits, . - _ & with at least one letter, or a number of 3 to 15 digits",
        );
    }
    Ok(Text {
        default_country: raw.default_country.as_ref().map(|at| at.value.clone()),
        trunk_prefix: raw.trunk_prefix.as_ref().map_or("0", |at| &at.value).to_owned(),
        default_sender: raw.default_sender.as_ref().map(|at| at.value.clone()),
        max_segments: i16::try_from(max_segments).map_err(|_| Reported)?,
        transliterate: reader.flag(&raw.transliterate, false),
    })
}

fn all_digits(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}

fn gateways(
    reader: &mut Reader<'_>,
    raw: &RawConfig,
    lease: Duration,
) -> Result<BTreeMap<String, Gateway>, Reported> {
    let mut gateways = BTreeMap::new();
    let mut result = Ok(());
    for (name, raw) in raw.gateway.iter().flatten() {
        let named = !name.is_empty()
            && name.len() <= 40
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        if !named {
            let span = reader.document().key_span(&["gateway", name]);
            result = Err(reader.report(
                Diagnostic::new(span, "this is not a name for a gateway")
                    .label("here")
                    .help("up to 40 letters, digits, - and _"),
            ));
        }
        match gateway::gateway(reader, name, raw, lease) {
            Ok(gateway) => {
                gateways.insert(name.clone(), gateway);
            }
            Err(reported) => result = Err(reported),
        }
    }
    result?;
    if gateways.is_empty() && !reader.document().was_cut(&["gateway"]) {
        return Err(reader.report(
            Diagnostic::new(None, "no gateway is configured").help(
                "add a section such as [gateway.main] with dialect = \"interactsms-v2\", username and password_file",
            ),
        ));
    }
    Ok(gateways)
}

fn routing(reader: &mut Reader<'_>, raw: &RawRouting, names: &[&str]) -> Result<Routing, Reported> {
    let default_gateway = match (&raw.default, names) {
        (Some(at), _) => known_gateway(reader, at, names),
        // Without a gateway there is another fault already.
        (None, []) => Err(Reported),
        (None, [only]) => Ok((*only).to_owned()),
        (None, [first, ..]) => {
            let span = reader.document().key_span(&["routing"]);
            Err(reader.report(Diagnostic::new(span, "`default` is missing from [routing]").help(format!(
                "with several gateways one must be the default, for example default = \"{first}\""
            ))))
        }
    };
    let mut seen = BTreeSet::new();
    let mut rules = Vec::new();
    let mut result = Ok(());
    for at in raw.rule.iter().flatten() {
        match route(reader, at, names) {
            Ok(rule) if !seen.insert((rule.prefix.clone(), rule.lane.map(Lane::as_str))) => {
                result = Err(reader.wrong(
                    &at.span,
                    "two rules match the same messages",
                    "the second one",
                    "a pair of prefix and lane may stand once",
                ));
            }
            Ok(rule) => rules.push(rule),
            Err(reported) => result = Err(reported),
        }
    }
    result?;
    Ok(Routing { default_gateway: default_gateway?, rules })
}

fn known_gateway(reader: &mut Reader<'_>, at: &At<String>, names: &[&str]) -> Result<String, Reported> {
    if names.contains(&at.value.as_str()) {
        return Ok(at.value.clone());
    }
    let help = match nearest(&at.value, names) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None if names.is_empty() => "no gateway is configured".to_owned(),
        None => format!("configured: \"{}\"", names.join("\", \"")),
    };
    Err(reader.wrong(
        &at.span,
        format!("there is no gateway `{}`", at.value),
        format!("no section [gateway.{}]", at.value),
        help,
    ))
}

fn route(reader: &mut Reader<'_>, at: &At<RawRouteRule>, names: &[&str]) -> Result<RouteRule, Reported> {
    let raw = &at.value;
    let lanes = Lane::ALL.map(|lane| (lane.as_str(), lane));
    let lane = reader.choice("lane", &raw.lane, &lanes);
    let prefix = match &raw.prefix {
        None => Ok(String::new()),
        Some(prefix) if !prefix.value.0.is_empty() && all_digits(&prefix.value.0) => {
            Ok(prefix.value.0.clone())
        }
        Some(prefix) => Err(reader.wrong(
            &prefix.span,
            "`prefix` is not the beginning of a number",
            "must be digits",
            "international digits without + or 00, for example \"35387\"",
        )),
    };
    let gateway = match &raw.gateway {
        Some(name) => known_gateway(reader, name, names),
        None if reader.was_cut(&["routing", "rule"], "gateway") => Err(Reported),
        None => Err(reader.wrong(&at.span, "a rule without `gateway`", "where to?", "add gateway = \"…\"")),
    };
    let (prefix, lane, gateway) = (prefix?, lane?, gateway?);
    if prefix.is_empty() && lane.is_none() {
        return Err(reader.wrong(
            &at.span,
            "a rule that matches every message",
            "has neither `prefix` nor `lane`",
            "that is what `default` in [routing] is for",
        ));
    }
    Ok(RouteRule { prefix, lane, gateway })
}

fn log(reader: &mut Reader<'_>, raw: &RawLog) -> Result<Log, Reported> {
    let filter = match &raw.filter {
        None => "info".to_owned(),
        Some(at) => match EnvFilter::builder().parse(&at.value) {
            Ok(_) => at.value.clone(),
            Err(_) => {
                return Err(reader.wrong(
                    &at.span,
                    "`filter` is not a log filter",
                    "not understood",
                    "a level (error, warn, info, debug, trace), or \"info,outboxd::gateway=debug\"",
                ));
            }
        },
    };
    Ok(Log { filter, json: reader.flag(&raw.json, false) })
}
impl Surroundings {
    /// The machine, for what does not come out of a configuration file.
    pub(super) fn here() -> Surroundings {
        Surroundings {
            mode: None,
            directory: PathBuf::new(),
            read: Box::new(|path| Ok((std::fs::read_to_string(path)?, mode_of(path)?))),
            env: Box::new(|name| std::env::var(name).ok()),
        }
    }

    /// The real ones.
    pub fn of(config: &Path) -> io::Result<Surroundings> {
        Ok(Surroundings {
            mode: Some(mode_of(config)?),
            directory: config.parent().map(Path::to_path_buf).unwrap_or_default(),
            ..Surroundings::here()
        })
    }
}

fn mode_of(path: &Path) -> io::Result<u32> {
    use std::os::unix::fs::PermissionsExt;
    Ok(std::fs::metadata(path)?.permissions().mode())
}
