//! What is wrong with a configuration, shown with the line, a caret and a hint.
//!
//! Must not show a secret: the source it draws from was masked by `document`, and titles never hold values of
//! secret keys.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};

/// One fault.
#[derive(Debug, Clone)]
pub(super) struct Diagnostic {
    pub(super) title: String,
    /// Where; `None` for something that is missing from the file as a whole.
    pub(super) span: Option<Range<usize>>,
    /// Said beside the caret.
    pub(super) label: String,
    /// What to do.
    pub(super) help: Option<String>,
}

impl Diagnostic {
    pub(super) fn new(span: Option<Range<usize>>, title: impl Into<String>) -> Diagnostic {
        Diagnostic { title: title.into(), span, label: String::new(), help: None }
    }

    pub(super) fn label(mut self, label: impl Into<String>) -> Diagnostic {
        self.label = label.into();
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }
}

/// Everything that is wrong with one configuration file. `Display` shows it without colour.
#[derive(Debug, Clone)]
pub struct ConfigError {
    file_name: String,
    /// The file with its secrets masked, byte for byte as long as the original.
    masked: String,
    faults: Vec<Diagnostic>,
}

impl ConfigError {
    pub(super) fn new(
        file_name: impl Into<String>,
        masked: String,
        mut faults: Vec<Diagnostic>,
    ) -> ConfigError {
        // In the order of the file; what is missing comes last.
        faults.sort_by_key(|fault| fault.span.as_ref().map_or(usize::MAX, |span| span.start));
        ConfigError { file_name: file_name.into(), masked, faults }
    }

    /// A fault that belongs to no line: the file cannot be read, or a filter is wrong at run time.
    pub fn without_source(file_name: impl Into<String>, title: impl Into<String>, help: &str) -> ConfigError {
        let fault = Diagnostic::new(None, title).help(help);
        ConfigError::new(file_name, String::new(), vec![fault])
    }

    /// Text for people; `colour` only for a terminal.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let mut out = String::new();
        for fault in &self.faults {
            if !out.is_empty() {
                out.push_str("\n\n");
            }
            out.push_str(&renderer.render(&[self.group(fault)]));
        }
        out
    }

    fn group<'a>(&'a self, fault: &'a Diagnostic) -> annotate_snippets::Group<'a> {
        let title = Level::ERROR.primary_title(&fault.title);
        let mut group = match &fault.span {
            Some(span) => {
                let mut annotation = AnnotationKind::Primary.span(self.visible(span));
                if !fault.label.is_empty() {
                    annotation = annotation.label(&fault.label);
                }
                title.element(Snippet::source(&self.masked).path(&self.file_name).annotation(annotation))
            }
            None => title.element(Origin::path(&self.file_name)),
        };
        if let Some(help) = &fault.help {
            group = group.element(Level::HELP.message(help));
        }
        group
    }

    /// Only the first line of a span: a fault in a long value need not show all of it. What is wrong with the end of the
    /// file is shown at the end of its last words.
    fn visible(&self, span: &Range<usize>) -> Range<usize> {
        let start = span.start.min(self.masked.trim_end().len());
        let end = span.end.clamp(start, self.masked.len());
        let first_line = self.masked.get(start..end).and_then(|text| text.find('\n'));
        start..first_line.map_or(end, |at| start + at)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for ConfigError {}
