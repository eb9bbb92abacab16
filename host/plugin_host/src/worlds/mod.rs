//! The worlds of the contract: what a plugin of each is asked, a file or folder per world.
//!
//! A world is a variant of [`World`], [`Linked`], [`Exports`] and [`Needs`], a row of
//! [`EXPORTS`], and a room here with the rest: generated bindings, configuring, calls, and
//! what of an answer is believed.

pub(super) mod dns;
pub(super) mod exchange;
pub(super) mod http;
pub(super) mod proxy_wasm;
pub(super) mod stream;

use tidegate_contract::World;
use wasmtime::{
    Engine, Module, Precompiled, Store,
    component::{Component, Linker},
};

/// And in the newest.
pub(super) use self::exchange::bindings::tidegate::filter as imports_0_3;
/// What any world may import.
pub(super) use self::http::bindings::tidegate::filter as imports;
/// The same in the newer version of the contract.
pub(super) use self::stream::bindings::tidegate::filter as imports_0_2;
use super::{host_calls, instance::State};

/// What every interface name of this contract starts with.
pub(super) const PACKAGE: &str = "tidegate:filter/";

/// Versions of the contract that are served, as interface names carry them. What a plugin
/// may import is the same in all of them.
pub const VERSIONS: [&str; 3] = ["0.1.0", "0.2.0", "0.3.0"];

/// Worlds by the interface that a component of each exports, and its version.
const EXPORTS: [(&str, &str, World); 4] = [
    ("http", VERSIONS[0], World::HttpFilter),
    ("dns", VERSIONS[0], World::DnsFilter),
    ("byte-stream", VERSIONS[1], World::StreamFilter),
    ("http-exchange", VERSIONS[2], World::ExchangeFilter),
];

/// The world of a component that exports these.
///
/// # Errors
///
/// A sentence for the operator if it is none, or more than one.
pub(super) fn of_exports(exports: &[&str]) -> Result<World, String> {
    let name = |interface: &str, version: &str| format!("{PACKAGE}{interface}@{version}");
    let has = |(interface, version, _): &&(&str, &str, World)| {
        exports.contains(&name(interface, version).as_str())
    };
    let mut found = EXPORTS.iter().filter(has);
    match (found.next(), found.next()) {
        (Some((_, _, world)), None) => Ok(*world),
        (Some((one, ..)), Some((other, ..))) => Err(format!(
            "it exports both `{one}` and `{other}`; make two plugins of it"
        )),
        (None, _) => {
            let known =
                EXPORTS.map(|(interface, version, _)| format!("`{}`", name(interface, version)));
            let known = known.join(" nor ");
            Err(format!("it exports neither {known}, but {exports:?}"))
        }
    }
}

/// What a plugin file was compiled to.
#[derive(Clone)]
pub(super) enum Code {
    /// Of our own contract.
    Component(Component),
    /// Made for Envoy.
    Module(Module),
}

impl Code {
    /// Loads what the compile worker made.
    ///
    /// # Errors
    ///
    /// If it is none of this engine's.
    ///
    /// # Safety
    ///
    /// The bytes must be what the compile worker made: they are run.
    pub(super) unsafe fn load(engine: &Engine, artifact: &[u8]) -> wasmtime::Result<Self> {
        match Engine::detect_precompiled(artifact) {
            Some(Precompiled::Module) => {
                // SAFETY: the caller's.
                unsafe { Module::deserialize(engine, artifact) }.map(Self::Module)
            }
            _ => {
                // SAFETY: the caller's.
                unsafe { Component::deserialize(engine, artifact) }.map(Self::Component)
            }
        }
    }
}

impl std::fmt::Debug for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Component(_) => "Component",
            Self::Module(_) => "Module",
        })
    }
}

/// Code linked to what it was granted, ready to be instantiated.
#[derive(Clone)]
pub(super) enum Linked {
    Http(http::bindings::HttpFilterPre<State>),
    Dns(dns::bindings::DnsFilterPre<State>),
    Stream(stream::bindings::StreamFilterPre<State>),
    Exchange(exchange::bindings::HttpExchangeFilterPre<State>),
    ProxyWasm(proxy_wasm::Pre),
}

impl Linked {
    /// Links a component; the types of everything it imports and exports are checked
    /// here.
    pub(super) fn new(code: &Code, world: World, granted: &[String]) -> wasmtime::Result<Self> {
        let component = match (code, world) {
            (Code::Module(module), World::ProxyWasm) => {
                return proxy_wasm::link(module).map(Self::ProxyWasm);
            }
            (Code::Component(component), _) => component,
            (Code::Module(_), _) => return Err(wasmtime::Error::msg("it is no component")),
        };
        let mut linker = Linker::new(component.engine());
        host_calls::link(&mut linker, granted)?;
        let pre = linker.instantiate_pre(component)?;
        Ok(match world {
            World::HttpFilter => Self::Http(http::bindings::HttpFilterPre::new(pre)?),
            World::DnsFilter => Self::Dns(dns::bindings::DnsFilterPre::new(pre)?),
            World::ProxyWasm => return Err(wasmtime::Error::msg("it is no module")),
            World::StreamFilter => Self::Stream(stream::bindings::StreamFilterPre::new(pre)?),
            World::ExchangeFilter => {
                Self::Exchange(exchange::bindings::HttpExchangeFilterPre::new(pre)?)
            }
        })
    }

    /// Instantiates and configures.
    pub(super) fn configure(&self, store: &mut Store<State>, config: &str) -> Configured {
        match self {
            Self::Http(pre) => http::configure(pre, store, config),
            Self::Dns(pre) => dns::configure(pre, store, config),
            Self::Stream(pre) => stream::configure(pre, store, config),
            Self::Exchange(pre) => exchange::configure(pre, store, config),
            Self::ProxyWasm(pre) => proxy_wasm::configure(pre, store, config),
        }
    }
}

/// The outer error is the machine's, the inner one the plugin's.
pub(super) type Configured = wasmtime::Result<Result<(Exports, Needs), String>>;

/// What a configured instance can be asked.
pub(super) enum Exports {
    Http(http::Exports),
    Dns(dns::Exports),
    Stream(stream::Exports),
    Exchange(exchange::Exports),
    ProxyWasm(Box<proxy_wasm::Exports>),
}

/// What a plugin said it needs to see.
#[derive(Clone, Debug)]
pub(super) enum Needs {
    Http(http::Needs),
    Dns,
    Stream,
    Exchange(exchange::Needs),
    ProxyWasm(proxy_wasm::Needs),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_has_one_world() {
        let (http, dns) = ("tidegate:filter/http@0.1.0", "tidegate:filter/dns@0.1.0");
        assert_eq!(of_exports(&[http, "memory"]), Ok(World::HttpFilter));
        assert_eq!(of_exports(&[dns]), Ok(World::DnsFilter));
        let why = of_exports(&[dns, http]).expect_err("two");
        assert!(why.contains("both `http` and `dns`"), "{why}");
        let why = of_exports(&["tidegate:filter/http@9.0.0"]).expect_err("none");
        assert!(why.contains(http) && why.contains("9.0.0"), "{why}");
    }
}
