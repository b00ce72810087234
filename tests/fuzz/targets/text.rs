//! Fuzz target: see `checks/text.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::text::check(input));
