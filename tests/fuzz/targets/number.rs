//! Fuzz target: see `checks/number.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::number::check(input));
