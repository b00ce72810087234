//! Fuzz target: see `checks/callback.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::callback::check(input));
