//! What a server sends, whole and in pieces: the same responses, and nobody's leftovers.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate_wire::http1::fuzz_responses(data));
