//! Any bytes as a packed header list: reading ends, stays inside, and what was read
//! packs to the same list again.
#![no_main]

use tidegate_sdk::{Headers, pack_header};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let headers = Headers::from_packed(data.to_vec());
    let mut packed = Vec::new();
    for (name, value) in &headers {
        pack_header(&mut packed, name, value);
    }
    assert!(data.starts_with(&packed));
});
