//! Generated from `wit/filter@0.1.0`. The two worlds import the same interfaces.

#![allow(missing_docs, unreachable_pub)]

pub(super) mod http_world {
    wasmtime::component::bindgen!({
        path: "../../wit/filter@0.1.0",
        world: "http-filter",
    });
}

pub(super) mod dns_world {
    wasmtime::component::bindgen!({
        path: "../../wit/filter@0.1.0",
        world: "dns-filter",
        with: {
            "tidegate:filter/log@0.1.0": super::http_world::tidegate::filter::log,
            "tidegate:filter/metrics@0.1.0": super::http_world::tidegate::filter::metrics,
            "tidegate:filter/clock@0.1.0": super::http_world::tidegate::filter::clock,
            "tidegate:filter/connection@0.1.0": super::http_world::tidegate::filter::connection,
        },
    });
}

pub(super) use dns_world::exports::tidegate::filter::dns;
pub(super) use http_world::{exports::tidegate::filter::http, tidegate::filter as imports};

/// What every interface name of this contract starts with.
pub(super) const PACKAGE: &str = "tidegate:filter/";

/// Version of the contract, as interface names carry it.
pub const VERSION: &str = "0.1.0";
