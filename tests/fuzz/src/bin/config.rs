//! Any text is a configuration or one error with a place, never a panic.
#![no_main]

use std::path::Path;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data)
        && let Err(error) = tidegate_config::parse("fuzz.yaml", text, Path::new("/"))
    {
        assert!(
            error.to_string().starts_with("fuzz.yaml"),
            "an error names its file: {error}"
        );
    }
});
