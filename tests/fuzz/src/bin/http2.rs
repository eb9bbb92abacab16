//! Any bytes as frames and header blocks.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate_wire::http2::fuzz_http2(data));
