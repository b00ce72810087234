//! Fuzz target: see `checks/answer_v2.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::answer_v2::check(input));
