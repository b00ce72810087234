//! What is said of a panic: where, and no more of its words than stood in the source.
//!
//! A message that was put together at run time may hold anything: that of a string cut in the middle of a character repeats
//! the string, which may be a text, a number or a password.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, Write};
use std::panic::{self, PanicHookInfo};

/// From now on panics of this process are told so.
pub fn install() {
    panic::set_hook(Box::new(tell));
}

fn tell(panic: &PanicHookInfo<'_>) {
    let priority = if super::stderr_is_the_journal() { "<3>" } else { "" };
    let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    let thread = std::thread::current();
    let line = line(panic.payload(), &place, thread.name().unwrap_or("without a name"));
    // Written at once instead of logged: the fault may lie in what was about to be logged.
    let mut stderr = io::stderr().lock();
    // Nobody is left to tell of a stderr that takes nothing.
    let _ = writeln!(stderr, "{priority}{line}");
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        let _ = writeln!(stderr, "{backtrace}");
    }
}

fn line(payload: &(dyn Any + Send), place: &str, thread: &str) -> String {
    // Words that hold nothing else come as they stand in the source, all others as a `String`.
    let words = payload.downcast_ref::<&'static str>().copied();
    let words = words.unwrap_or("its words are not shown, for they may hold a secret");
    format!("outboxd: panic at {place} in thread {thread}: {words}; please report this")
}

#[cfg(test)]
mod tests {
    use std::panic::{UnwindSafe, catch_unwind};

    use super::line;

    fn told(panics: impl FnOnce() + UnwindSafe) -> String {
        line(&*catch_unwind(panics).unwrap_err(), "src/a.rs:1:2", "main")
    }

    #[test]
    fn the_words_of_the_source_are_shown_and_no_others() {
        assert_eq!(
            told(|| panic!("the body never waits")),
            "outboxd: panic at src/a.rs:1:2 in thread main: the body never waits; please report this"
        );
        let secret = "hunter2 é".to_owned();
        let shown = secret.clone();
        assert!(!told(move || panic!("for {shown}")).contains("hunter2"));
        let cut = secret.clone();
        assert!(
            !told(move || drop(cut[..9].to_owned())).contains("hunter2"),
            "std repeats what it cannot cut"
        );
        assert!(!told(move || std::panic::panic_any(secret)).contains("hunter2"));
        assert!(!told(|| std::hint::black_box(Err::<(), _>("hunter2")).unwrap()).contains("hunter2"));
    }
}
