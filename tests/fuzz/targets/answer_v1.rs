//! Fuzz target: see `checks/answer_v1.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::answer_v1::check(input));
