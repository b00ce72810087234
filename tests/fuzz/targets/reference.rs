//! Fuzz target: see `checks/reference.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::reference::check(input));
