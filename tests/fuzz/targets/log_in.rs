//! Fuzz target: see `checks/log_in.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::log_in::check(input));
