//! The one place where an error becomes text on stderr and an exit code.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use crate::config::ConfigError;

/// Exit codes of sysexits.h, as far as we use them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// It ran, and the answer is no.
    Failed = 1,
    /// Of `status`: messages do not go out.
    Critical = 2,
    /// Wrong arguments.
    Usage = 64,
    /// Something that is needed cannot be reached.
    Unavailable = 69,
    /// A fault in outboxd itself.
    Bug = 70,
    /// Trying again may help.
    Temporary = 75,
    /// The configuration is wrong.
    Config = 78,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> ExitCode {
        ExitCode::from(code as u8)
    }
}

/// An error that knows its exit code and what to do about it. Also works as an `anyhow` context.
#[derive(Debug)]
pub struct Failure {
    pub code: Code,
    pub message: String,
    pub hint: Option<String>,
}

impl Failure {
    pub fn new(code: Code, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into(), hint: None }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Prints the error with its causes and hint, and says how to exit.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        // `outboxd status | head` is not a failure.
        return ExitCode::SUCCESS;
    }
    let mut stderr = io::stderr().lock();
    let text = render(error, stderr.is_terminal());
    // There is nowhere left to say that stderr is gone.
    let _ = stderr.write_all(text.as_bytes());
    code(error).into()
}

fn code(error: &anyhow::Error) -> Code {
    if let Some(failure) = find::<Failure>(error) {
        failure.code
    } else if find::<ConfigError>(error).is_some() {
        Code::Config
    } else {
        Code::Failed
    }
}

fn render(error: &anyhow::Error, colour: bool) -> String {
    if let Some(faults) = find::<ConfigError>(error) {
        return format!("{}\n\noutboxd: the configuration cannot be used\n", faults.render(colour));
    }
    let mut text = format!("outboxd: {error}\n");
    let mut last = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // Some libraries print their cause themselves.
        if !last.contains(&cause) {
            text.push_str(&format!("Detail: {cause}\n"));
        }
        last = cause;
    }
    if let Some(hint) = find::<Failure>(error).and_then(|failure| failure.hint.as_ref()) {
        text.push_str(&format!("Hint: {hint}\n"));
    }
    text
}

/// In the error itself, given as context, or among its causes.
fn find<T: fmt::Display + fmt::Debug + std::error::Error + Send + Sync + 'static>(
    error: &anyhow::Error,
) -> Option<&T> {
    error.downcast_ref::<T>().or_else(|| error.chain().find_map(|cause| cause.downcast_ref::<T>()))
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|io| io.kind() == io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::{Context, anyhow};

    use super::{Code, Failure, code, is_broken_pipe, render};

    #[test]
    fn a_failure_keeps_its_code_and_hint_under_any_context() {
        let inner = Failure::new(Code::Temporary, "could not reach the database").hint("is it running?");
        let error = Err::<(), _>(inner).context("could not read the queue").unwrap_err();
        assert_eq!(code(&error), Code::Temporary);
        assert_eq!(
            render(&error, false),
            "outboxd: could not read the queue\nDetail: could not reach the database\nHint: is it running?\n"
        );
    }

    #[test]
    fn a_failure_given_as_context_counts_too() {
        let failure = Failure::new(Code::Unavailable, "could not reach the database");
        let error = anyhow!("connection refused").context(failure);
        assert_eq!(code(&error), Code::Unavailable);
        assert_eq!(
            render(&error, false),
            "outboxd: could not reach the database\nDetail: connection refused\n"
        );
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let error =
            anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("could not print");
        assert!(is_broken_pipe(&error));
    }
}
