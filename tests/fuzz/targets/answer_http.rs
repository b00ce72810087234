//! Fuzz target: see `checks/answer_http.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::answer_http::check(input));
