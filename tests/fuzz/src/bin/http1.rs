//! Any bytes as a request, a response and a chunked body.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate_wire::http1::fuzz_http1(data));
