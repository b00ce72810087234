//! Sets up the log: text or JSON lines on stderr.
//!
//! Under journald the time is left to the journal, and each line begins with the priority that it understands.

pub mod panics;

use std::fmt;
use std::io::IsTerminal;
use std::os::unix::fs::MetadataExt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{Format, FormatEvent, FormatFields, Full, Writer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{ConfigError, Log};

/// Target of the lines that tell a message's way: one at each step, at level TRACE, for whoever asks where time goes.
pub const WAY: &str = "outboxd::way";

/// Installs the log for the whole process. The second call in one process is a fault.
pub fn init(log: &Log) -> Result<(), ConfigError> {
    let filter = EnvFilter::builder().parse(&log.filter).map_err(|_| {
        ConfigError::without_source(
            "[log]",
            "`filter` is not a log filter",
            "a level (error, warn, info, debug, trace), or \"info,outboxd::gateway=debug\"",
        )
    })?;
    // A line that cannot be written is lost. The library would say so on the very stderr that took no line, and panic
    // when that fails too: a full disk under the log must not end the task that had something to say.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    let admitted = filter_fn(|about| is_ours(about.target(), *about.level()));
    let installed = if log.json {
        let json = builder.json().flatten_event(true).with_current_span(true).with_span_list(false);
        json.finish().with(admitted).try_init()
    } else if stderr_is_the_journal() {
        builder.with_ansi(false).event_format(Journal::default()).finish().with(admitted).try_init()
    } else {
        let text = builder.with_ansi(std::io::stderr().is_terminal()).with_target(false);
        text.finish().with(admitted).try_init()
    };
    installed.map_err(|_| {
        ConfigError::without_source(
            "[log]",
            "a log was already set up in this process",
            "report this as a bug",
        )
    })
}

/// Whatever the filter says, the libraries beneath us warn at most: their chattier levels may show headers, addresses
/// and texts. The pool says of each broken connection what the store says once, so it says nothing.
fn is_ours(target: &str, level: Level) -> bool {
    target.starts_with("outboxd") || (level <= Level::WARN && !target.starts_with("deadpool"))
}

/// systemd sets `JOURNAL_STREAM` to device and inode of the stream; a child whose stderr was redirected inherits the
/// variable but not the stream.
fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stderr) = std::fs::metadata("/proc/self/fd/2") else { return false };
    stream == format!("{}:{}", stderr.dev(), stderr.ino())
}

/// One line for the journal: `<4>deliver{message_id=7}: gateway is busy`.
#[derive(Debug)]
struct Journal(Format<Full, ()>);

impl Default for Journal {
    fn default() -> Journal {
        Journal(Format::default().without_time().with_level(false).with_target(false).with_ansi(false))
    }
}

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

/// Syslog's numbers.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use tracing::Level;

    use super::{Journal, is_ours};

    #[test]
    fn no_filter_lets_a_library_chat() {
        assert!(is_ours("outboxd::engine", Level::TRACE));
        assert!(is_ours("hyper_util::client", Level::WARN));
        assert!(!is_ours("hyper_util::client", Level::DEBUG));
        assert!(!is_ours("deadpool_postgres", Level::WARN));
        assert!(is_ours("rustls", Level::ERROR));
    }

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn journal_lines_begin_with_their_priority_and_hold_no_time() {
        let page = Page::default();
        let writer = page.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .event_format(Journal::default())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("deliver", message_id = 7);
            let _entered = span.enter();
            tracing::warn!(gateway = "main", "gateway is busy");
        });
        let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text, "<4>deliver{message_id=7}: gateway is busy gateway=\"main\"\n");
    }
}
