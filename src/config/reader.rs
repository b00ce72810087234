//! Turns single values into checked ones, and keeps account of what was wrong.
//!
//! Every function goes on after a fault, with the default or with [`Reported`], so that one run shows them all.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use url::{Host, Url};

use super::diagnostic::Diagnostic;
use super::document::{Document, nearest};
use super::raw::{At, Flag, Span, Text, Whole};
use super::reach::plain_name;
use super::secret::Surroundings;

/// The value could not be had, and the reader knows why.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reported;

pub(super) struct Reader<'d> {
    document: &'d Document<'d>,
    surroundings: &'d Surroundings,
    faults: Vec<Diagnostic>,
}

impl<'d> Reader<'d> {
    pub(super) fn new(
        document: &'d Document<'d>,
        surroundings: &'d Surroundings,
        faults: Vec<Diagnostic>,
    ) -> Reader<'d> {
        Reader { document, surroundings, faults }
    }

    pub(super) fn into_faults(self) -> Vec<Diagnostic> {
        self.faults
    }

    pub(super) fn surroundings(&self) -> &'d Surroundings {
        self.surroundings
    }

    pub(super) fn document(&self) -> &'d Document<'d> {
        self.document
    }

    pub(super) fn report(&mut self, fault: Diagnostic) -> Reported {
        self.faults.push(fault);
        Reported
    }

    /// A fault at a value.
    pub(super) fn wrong(
        &mut self,
        span: &Range<usize>,
        title: impl Into<String>,
        label: impl Into<String>,
        help: impl Into<String>,
    ) -> Reported {
        self.report(Diagnostic::new(Some(span.clone()), title).label(label).help(help))
    }

    pub(super) fn was_cut(&self, section: &[&str], name: &str) -> bool {
        let path: Vec<&str> = section.iter().copied().chain([name]).collect();
        self.document.was_cut(&path)
    }

    /// A required key. Reported at the section's header.
    pub(super) fn required<'r, T>(
        &mut self,
        section: &[&str],
        name: &str,
        value: &'r Option<At<T>>,
        help: &str,
    ) -> Result<&'r At<T>, Reported> {
        match value {
            Some(at) => Ok(at),
            None => Err(self.missing(section, name, help)),
        }
    }

    pub(super) fn missing(&mut self, section: &[&str], name: &str, help: &str) -> Reported {
        if self.was_cut(section, name) {
            return Reported;
        }
        let header = self.document.key_span(section);
        self.report(
            Diagnostic::new(header, format!("`{name}` is missing from [{}]", section.join(".")))
                .label("in this section")
                .help(help),
        )
    }

    pub(super) fn flag(&self, value: &Flag, default: bool) -> bool {
        value.as_ref().map_or(default, |at| at.value)
    }

    pub(super) fn whole(
        &mut self,
        name: &str,
        value: &Whole,
        default: i64,
        range: RangeInclusive<i64>,
    ) -> i64 {
        match value {
            Some(at) if !range.contains(&at.value) => {
                self.wrong(
                    &at.span,
                    format!("`{name}` is out of range"),
                    format!("must be from {} to {}", range.start(), range.end()),
                    format!("the default is {default}"),
                );
                default
            }
            Some(at) => at.value,
            None => default,
        }
    }

    pub(super) fn duration(
        &mut self,
        name: &str,
        value: &Span,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let Some(at) = value else { return default };
        self.duration_text(name, &at.span, &at.value.0, range).unwrap_or(default)
    }

    /// `"never"` is `None`.
    pub(super) fn duration_or_never(
        &mut self,
        name: &str,
        value: &Span,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        match value {
            Some(at) if at.value.0 == "never" => None,
            _ => Some(self.duration(name, value, default, range)),
        }
    }

    pub(super) fn duration_text(
        &mut self,
        name: &str,
        span: &Range<usize>,
        text: &str,
        range: RangeInclusive<Duration>,
    ) -> Result<Duration, Reported> {
        let text = text.trim();
        match humantime::parse_duration(text) {
            Ok(duration) if range.contains(&duration) => Ok(duration),
            Ok(_) => Err(self.wrong(
                span,
                format!("`{name}` is out of range"),
                format!("must be from {} to {}", exact(*range.start()), exact(*range.end())),
                "units are ms, s, m, h, d",
            )),
            Err(_) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => Err(self.wrong(
                span,
                format!("`{name}` has no unit"),
                "seconds, minutes, hours?",
                format!("write \"{text}s\" for seconds; units are ms, s, m, h, d"),
            )),
            Err(_) => Err(self.wrong(
                span,
                format!("`{name}` is not a duration"),
                "not understood",
                "examples: \"250ms\", \"5s\", \"15m\", \"24h\", \"1h 30m\"",
            )),
        }
    }

    /// One of some words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        name: &str,
        value: &Text,
        choices: &[(&str, T)],
    ) -> Result<Option<T>, Reported> {
        match value {
            Some(at) => self.word(name, &at.span, &at.value, choices).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn word<T: Copy>(
        &mut self,
        name: &str,
        span: &Range<usize>,
        text: &str,
        choices: &[(&str, T)],
    ) -> Result<T, Reported> {
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Ok(*value);
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let help = match nearest(text, &words) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("one of \"{}\"", words.join("\", \"")),
        };
        Err(self.wrong(span, format!("`{name}` does not know this word"), "not one of its words", help))
    }

    /// A URL that messages, or the password, are sent to.
    pub(super) fn gateway_url(
        &mut self,
        name: &str,
        at: &At<String>,
        allow_http: bool,
    ) -> Result<Url, Reported> {
        let title = |what: &str| format!("`{name}` {what}");
        let (fixed, _) = at.value.split_once('?').unwrap_or((&at.value, ""));
        if fixed.contains(['{', '}']) {
            return Err(self.wrong(
                &at.span,
                title("has a placeholder outside its query"),
                "a number or a text must never choose the host or the path",
                "placeholders may stand behind the `?`",
            ));
        }
        let url = match Url::parse(&at.value) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.host().is_some() => url,
            Ok(_) => {
                return Err(self.wrong(
                    &at.span,
                    title("is not an HTTP address"),
                    "must begin with https://",
                    "for example \"https://gateway.example/send\"",
                ));
            }
            Err(error) => {
                return Err(self.wrong(
                    &at.span,
                    title("is not a URL"),
                    error.to_string(),
                    "for example \"https://gateway.example/send\"",
                ));
            }
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(self.wrong(
                &at.span,
                title("holds credentials"),
                "the part before the @",
                "use `username` and `password_file`",
            ));
        }
        if url.fragment().is_some() {
            return Err(self.wrong(
                &at.span,
                title("has a part after the #"),
                "is never sent",
                "take it out; a # in a value is written %23",
            ));
        }
        if is_disguised(&at.value, &url) {
            return Err(self.wrong(
                &at.span,
                title("hides its host behind another spelling"),
                format!("this is {}", url.host_str().unwrap_or_default()),
                "write the host in its usual form, so that everybody sees where messages go",
            ));
        }
        if url.scheme() == "http" && !allow_http && !is_loopback(&url) {
            return Err(self.wrong(
                &at.span,
                title("sends passwords and texts unencrypted over the network"),
                "plain http to another host",
                "use https, or set `allow_http = true` in this gateway if the way there is protected otherwise",
            ));
        }
        Ok(url)
    }
}

/// In the largest unit that leaves no rest: `365d`, not months and odd hours.
fn exact(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];
    match units.into_iter().find(|(_, unit)| millis >= *unit && millis.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", millis / unit),
        None => format!("{millis}ms"),
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// `http://2130706433` and `http://0x7f.1` are 127.0.0.1 to a URL parser, and look like something else to a person. So
/// do names with percent signs, or with letters that only look different.
pub(super) fn is_disguised(text: &str, url: &Url) -> bool {
    let after_scheme = text.trim().split_once("://").map_or("", |(_, rest)| rest);
    let authority = after_scheme.split(['/', '?', '#', '\\']).next().unwrap_or_default();
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    let written = match place.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => place.split(':').next().unwrap_or_default(),
    };
    match url.host() {
        Some(Host::Ipv4(address)) => written.parse::<Ipv4Addr>() != Ok(address),
        Some(Host::Ipv6(address)) => {
            written.parse::<Ipv6Addr>() != Ok(address) || address.to_ipv4_mapped().is_some()
        }
        // Names in other scripts have a form in plain letters that is shown everywhere; let them be written as people do.
        Some(Host::Domain(name)) if name.contains("xn--") => false,
        Some(Host::Domain(name)) => !written.eq_ignore_ascii_case(name) || is_numeric(name),
        None => false,
    }
}

/// The system's resolver takes it for an address. Where the scheme is none of the web's, a URL parser does not.
fn is_numeric(name: &str) -> bool {
    let last = plain_name(name).rsplit('.').next().map(str::to_owned).unwrap_or_default();
    let hex = last.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    let dotted = name.parse::<Ipv4Addr>().is_ok();
    !dotted && (hex || (!last.is_empty() && last.bytes().all(|b| b.is_ascii_digit())))
}
