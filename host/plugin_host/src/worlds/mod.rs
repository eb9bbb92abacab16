//! The worlds of the contract: what a plugin of each is asked, a file or folder per world.
//!
//! A world is a variant of [`World`], [`Linked`], [`Exports`] and [`Needs`], a row of
//! [`EXPORTS`], and a room here with the rest: generated bindings, configuring, calls, and
//! what of an answer is believed.

pub(super) mod dns;
pub(super) mod http;

use tidegate_contract::World;
use wasmtime::{
    Store,
    component::{Component, Linker},
};

/// What any world may import.
pub(super) use self::http::bindings::tidegate::filter as imports;
use super::{host_calls, instance::State};

/// What every interface name of this contract starts with.
pub(super) const PACKAGE: &str = "tidegate:filter/";

/// Version of the contract, as interface names carry it.
pub const VERSION: &str = "0.1.0";

/// Worlds by the interface that a component of each exports.
const EXPORTS: [(&str, World); 2] = [("http", World::HttpFilter), ("dns", World::DnsFilter)];

/// The world of a component that exports these.
///
/// # Errors
///
/// A sentence for the operator if it is none, or more than one.
pub(super) fn of_exports(exports: &[&str]) -> Result<World, String> {
    let name = |interface: &str| format!("{PACKAGE}{interface}@{VERSION}");
    let has = |(interface, _): &&(&str, World)| exports.contains(&name(interface).as_str());
    let mut found = EXPORTS.iter().filter(has);
    match (found.next(), found.next()) {
        (Some((_, world)), None) => Ok(*world),
        (Some((one, _)), Some((other, _))) => Err(format!(
            "it exports both `{one}` and `{other}`; make two plugins of it"
        )),
        (None, _) => {
            let known = EXPORTS.map(|(interface, _)| format!("`{}`", name(interface)));
            let known = known.join(" nor ");
            Err(format!("it exports neither {known}, but {exports:?}"))
        }
    }
}

/// A component linked to what it was granted, ready to be instantiated.
#[derive(Clone)]
pub(super) enum Linked {
    Http(http::bindings::HttpFilterPre<State>),
    Dns(dns::bindings::DnsFilterPre<State>),
}

impl Linked {
    /// Links a component; the types of everything it imports and exports are checked
    /// here.
    pub(super) fn new(
        component: &Component,
        world: World,
        granted: &[String],
    ) -> wasmtime::Result<Self> {
        let mut linker = Linker::new(component.engine());
        host_calls::link(&mut linker, granted)?;
        let pre = linker.instantiate_pre(component)?;
        Ok(match world {
            World::HttpFilter => Self::Http(http::bindings::HttpFilterPre::new(pre)?),
            World::DnsFilter => Self::Dns(dns::bindings::DnsFilterPre::new(pre)?),
        })
    }

    /// Instantiates and configures.
    pub(super) fn configure(&self, store: &mut Store<State>, config: &str) -> Configured {
        match self {
            Self::Http(pre) => http::configure(pre, store, config),
            Self::Dns(pre) => dns::configure(pre, store, config),
        }
    }
}

/// The outer error is the machine's, the inner one the plugin's.
pub(super) type Configured = wasmtime::Result<Result<(Exports, Needs), String>>;

/// What a configured instance can be asked.
pub(super) enum Exports {
    Http(http::Exports),
    Dns(dns::Exports),
}

/// What a plugin said it needs to see.
#[derive(Clone, Debug)]
pub(super) enum Needs {
    Http(http::Needs),
    Dns,
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
