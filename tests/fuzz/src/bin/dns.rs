//! Any bytes as a query and as an answer; a refusal of what was read is itself a
//! message that reads.
#![no_main]

use tidegate_wire::dns::{answer_unread, rcode::REFUSED, read_answer, read_query};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = read_answer(data);
    let _ = answer_unread(data, REFUSED);
    if let Ok(query) = read_query(data) {
        let refusal = query.answer(REFUSED);
        assert_eq!(refusal[..2], data[..2], "same id");
        assert_eq!(refusal[3] & 0x0f, REFUSED);
    }
});
