//! All tests that need more than one module, in one binary: linking is what takes the time.

#![expect(clippy::unwrap_used, reason = "tests")]

mod config;
