//! What the outside asks of the process: stop, stop at once, read the configuration again.
//!
//! Two signals of one kind that arrive before either was looked at count as one, as always in Unix. So the second
//! request to stop is one that comes after the first was handed out.

use std::fmt;
use std::io;

use futures_util::StreamExt;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_tokio::Signals as Stream;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// First SIGTERM or SIGINT: take nothing more, wait for what is under way.
    Terminate,
    /// Every later one: do not wait.
    TerminateNow,
    /// SIGHUP.
    Reload,
}

/// Holds the handlers; they stay for the life of the process.
pub struct Signals {
    stream: Stream,
    terminating: bool,
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signals").field("terminating", &self.terminating).finish_non_exhaustive()
    }
}

impl Signals {
    /// Must be called inside a tokio runtime. From here on the signals no longer kill the process by themselves.
    pub fn install() -> io::Result<Signals> {
        Ok(Signals { stream: Stream::new([SIGTERM, SIGINT, SIGHUP])?, terminating: false })
    }

    /// The next signal. Cancel-safe. `None` only when the stream broke, which does not happen by itself.
    pub async fn next(&mut self) -> Option<Signal> {
        let signal = self.stream.next().await?;
        if signal == SIGHUP {
            return Some(Signal::Reload);
        }
        let again = std::mem::replace(&mut self.terminating, true);
        Some(if again { Signal::TerminateNow } else { Signal::Terminate })
    }
}

#[cfg(test)]
mod tests {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::low_level::raise;

    use super::{Signal, Signals};

    #[tokio::test]
    async fn the_second_request_to_stop_is_told_from_the_first() {
        let mut signals = Signals::install().unwrap();
        raise(SIGHUP).unwrap();
        assert_eq!(signals.next().await, Some(Signal::Reload));
        raise(SIGTERM).unwrap();
        assert_eq!(signals.next().await, Some(Signal::Terminate));
        raise(SIGINT).unwrap();
        assert_eq!(signals.next().await, Some(Signal::TerminateNow));
    }
}
