//! Facts about the connection the current message came on. Capability `connection`;
//! there is no native stand-in, because there is no connection in a unit test: pass
//! what you read from here into the logic you test.

use crate::bindings::http_world::tidegate::filter::connection as host;

/// Source address as text.
pub fn source_address() -> String {
    host::source_address()
}

/// Source port.
pub fn source_port() -> u16 {
    host::source_port()
}

/// Original destination address as text.
pub fn destination_address() -> String {
    host::destination_address()
}

/// Original destination port.
pub fn destination_port() -> u16 {
    host::destination_port()
}

/// Security identity of the source.
pub fn source_identity() -> u32 {
    host::source_identity()
}

/// Labels of the source, as `source:key=value`, sorted.
pub fn source_labels() -> Vec<String> {
    host::source_labels()
}
