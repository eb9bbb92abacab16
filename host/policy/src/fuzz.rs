//! Entry for fuzzing.

use crate::{Ids, compile, lint, objects::Input, parse_file};

/// Any bytes give documents or problems, never a panic.
pub fn fuzz_parse(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let mut input = Input::default();
        if let Ok(documents) = parse_file("fuzz.yaml", text) {
            documents
                .into_iter()
                .for_each(|document| input.add(document));
        }
        // Refusals are an answer too; only a panic would be a finding.
        let _ = compile(&input, &mut Ids::default());
        lint(&input);
    }
}
