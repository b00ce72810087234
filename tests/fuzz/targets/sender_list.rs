//! Fuzz target: see `checks/sender_list.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::sender_list::check(input));
