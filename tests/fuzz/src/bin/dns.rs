//! Any bytes as a query and as an answer; a refusal of what was read is itself a
//! message that reads.
#![no_main]

use tidegate_wire::dns::{read_answer, read_query, refuse};

/// REFUSED, RFC 1035 §4.1.1.
const REFUSED: u8 = 5;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = read_answer(data);
    if let Ok(query) = read_query(data) {
        let refusal = refuse(data, Some(&query), REFUSED).expect("a readable query can be refused");
        assert_eq!(refusal[..2], data[..2], "same id");
        assert_eq!(refusal[3] & 0x0f, REFUSED);
    }
});
