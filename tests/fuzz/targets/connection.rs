//! Fuzz target: see `checks/connection.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::connection::check(input));
