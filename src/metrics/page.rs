//! A page of metrics in Prometheus's text format, version 0.0.4: what every scraper reads, and `promtool check metrics`.

use std::fmt::{Display, Write as _};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

#[derive(Debug, Default)]
pub struct Page {
    text: String,
    /// The one that samples belong to now.
    family: &'static str,
}

impl Page {
    /// The format's name, for the header.
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// Begins a family; its samples follow.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) {
        self.family = name;
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // Writing to a string does not fail.
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.suffixed("", labels, value);
    }

    pub(super) fn suffixed(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.text, "{}{suffix}", self.family);
        for (nth, (name, held)) in labels.iter().enumerate() {
            let before = if nth == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{before}{name}=\"");
            for c in held.chars() {
                match c {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    c => self.text.push(c),
                }
            }
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }

    pub fn into_text(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, Page};

    #[test]
    fn a_family_is_its_help_its_type_and_its_samples() {
        let mut page = Page::default();
        page.family("a_total", Kind::Counter, "Things.");
        page.sample(&[("x", "1"), ("y", "quote \" slash \\ line\nend")], 7_u64);
        page.family("b_seconds", Kind::Gauge, "Time.");
        page.sample(&[], 0.25);
        assert_eq!(
            page.into_text(),
            "# HELP a_total Things.\n# TYPE a_total counter\n\
             a_total{x=\"1\",y=\"quote \\\" slash \\\\ line\\nend\"} 7\n\
             # HELP b_seconds Time.\n# TYPE b_seconds gauge\nb_seconds 0.25\n"
        );
    }
}
