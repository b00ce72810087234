//! Fuzz target: see `checks/template.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::template::check(input));
