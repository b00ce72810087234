//! Fuzz target: see `checks/row.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::row::check(input));
