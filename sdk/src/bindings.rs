//! Generated from `wit/`. The SDK's own types are what filters see; these are public
//! only because the export macros expand inside the filter's crate.

#![allow(missing_docs, unreachable_pub, clippy::undocumented_unsafe_blocks)]

/// World `http-filter`.
pub mod http_world {
    wit_bindgen::generate!({
        path: "../wit/filter@0.1.0",
        world: "http-filter",
        pub_export_macro: true,
        default_bindings_module: "tidegate_sdk::bindings::http_world",
    });
}

/// World `dns-filter`; its imports are the same functions.
pub mod dns_world {
    wit_bindgen::generate!({
        path: "../wit/filter@0.1.0",
        world: "dns-filter",
        pub_export_macro: true,
        default_bindings_module: "tidegate_sdk::bindings::dns_world",
        with: {
            "tidegate:filter/log@0.1.0": crate::bindings::http_world::tidegate::filter::log,
            "tidegate:filter/metrics@0.1.0": crate::bindings::http_world::tidegate::filter::metrics,
            "tidegate:filter/clock@0.1.0": crate::bindings::http_world::tidegate::filter::clock,
            "tidegate:filter/connection@0.1.0": crate::bindings::http_world::tidegate::filter::connection,
        },
    });
}

/// World `stream-filter` of `0.2.0`; its imports have the shape of the others'.
pub mod stream_world {
    wit_bindgen::generate!({
        path: "../wit/filter@0.2.0",
        world: "stream-filter",
        pub_export_macro: true,
        default_bindings_module: "tidegate_sdk::bindings::stream_world",
    });
}

/// World `http-exchange-filter` of `0.3.0`; its imports have the shape of the others'.
pub mod exchange_world {
    wit_bindgen::generate!({
        path: "../wit/filter@0.3.0",
        world: "http-exchange-filter",
        pub_export_macro: true,
        default_bindings_module: "tidegate_sdk::bindings::exchange_world",
    });
}
