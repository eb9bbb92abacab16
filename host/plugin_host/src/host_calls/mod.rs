//! What a plugin may call, one file per interface: each with its limits. A linker holds
//! only the interfaces a plugin was granted.

mod clock;
mod connection;
mod log;
mod metrics;
mod newer;

use std::sync::{Arc, Mutex, PoisonError};

use wasmtime::component::{HasSelf, Linker};

pub use connection::Facts;
pub(super) use log::LINE;

use super::{
    configured::Purpose,
    counters::Counters,
    instance::State,
    memory::Pot,
    worlds::{imports, imports_0_2, imports_0_3, proxy_wasm::Common},
};

/// Interfaces a plugin may ask for.
pub(super) const CAPABILITIES: [&str; 4] = ["log", "metrics", "clock", "connection"];

/// What all instances of one binding share.
#[derive(Debug)]
pub(super) struct Shared {
    /// `name@version`, for logs.
    pub(super) label: String,
    /// Counters of the plugin version, over all its bindings.
    pub(super) totals: Arc<Counters>,
    pub(super) purpose: Purpose,
    /// Where instances take their memory from.
    pub(super) pots: Vec<Arc<Pot>>,
    /// What instances of filters made for Envoy share.
    pub(super) common: Common,
    log: Mutex<log::Bucket>,
}

impl Shared {
    pub(super) fn new(
        label: String,
        totals: Arc<Counters>,
        purpose: Purpose,
        pots: Vec<Arc<Pot>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            label,
            totals,
            purpose,
            pots,
            common: Common::default(),
            log: Mutex::default(),
        })
    }

    /// Takes one log line from the plugin's allowance; how many were lost before it.
    fn may_log(&self, now: std::time::Instant) -> Option<u64> {
        let mut bucket = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.take(now)
    }
}

/// The host side of every interface is the instance's own state.
fn this(state: &mut State) -> &mut State {
    state
}

/// Offers the granted interfaces.
///
/// # Errors
///
/// If the linker refuses, which means that one was granted twice.
pub(super) fn link(linker: &mut Linker<State>, granted: &[String]) -> wasmtime::Result<()> {
    for capability in granted {
        match capability.as_str() {
            "log" => {
                imports::log::add_to_linker::<_, HasSelf<State>>(linker, this)?;
                imports_0_2::log::add_to_linker::<_, HasSelf<State>>(linker, this)?;
                imports_0_3::log::add_to_linker::<_, HasSelf<State>>(linker, this)?;
            }
            "metrics" => {
                imports::metrics::add_to_linker::<_, HasSelf<State>>(linker, this)?;
                imports_0_2::metrics::add_to_linker::<_, HasSelf<State>>(linker, this)?;
                imports_0_3::metrics::add_to_linker::<_, HasSelf<State>>(linker, this)?;
            }
            "clock" => {
                imports::clock::add_to_linker::<_, HasSelf<State>>(linker, this)?;
                imports_0_2::clock::add_to_linker::<_, HasSelf<State>>(linker, this)?;
                imports_0_3::clock::add_to_linker::<_, HasSelf<State>>(linker, this)?;
            }
            "connection" => {
                imports::connection::add_to_linker::<_, HasSelf<State>>(linker, this)?;
                imports_0_2::connection::add_to_linker::<_, HasSelf<State>>(linker, this)?;
                imports_0_3::connection::add_to_linker::<_, HasSelf<State>>(linker, this)?;
            }
            _ => {}
        }
    }
    Ok(())
}
