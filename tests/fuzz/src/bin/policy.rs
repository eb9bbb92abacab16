//! Any bytes are documents or problems with a place, never a panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate_policy::fuzz_parse(data));
