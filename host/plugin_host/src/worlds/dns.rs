//! The world `dns-filter`: one question per DNS query.

use std::sync::Arc;

use wasmtime::Store;

use self::bindings::{DnsFilter, DnsFilterPre, exports::tidegate::filter::dns::Decision};
use super::{Configured, Needs};
use crate::{
    catalog::Binding,
    failure::Failure,
    host_calls::Facts,
    instance::{Instance, State},
    worker::Worker,
};

#[allow(missing_docs, unreachable_pub)]
pub(in crate::worlds) mod bindings {
    //! Generated. Imports the interfaces that `http-filter` does.
    wasmtime::component::bindgen!({
        path: "../../wit/filter@0.1.0",
        world: "dns-filter",
        with: {
            "tidegate:filter/log@0.1.0": crate::worlds::imports::log,
            "tidegate:filter/metrics@0.1.0": crate::worlds::imports::metrics,
            "tidegate:filter/clock@0.1.0": crate::worlds::imports::clock,
            "tidegate:filter/connection@0.1.0": crate::worlds::imports::connection,
        },
    });
}

/// A configured instance.
pub(in crate::worlds) type Exports = DnsFilter;

/// Instantiates and configures.
pub(super) fn configure(
    pre: &DnsFilterPre<State>,
    store: &mut Store<State>,
    config: &str,
) -> Configured {
    let exports = pre.instantiate(&mut *store)?;
    let answer = exports
        .tidegate_filter_dns()
        .call_configure(store, config)?;
    Ok(answer.map(|()| (super::Exports::Dns(exports), Needs::Dns)))
}

/// A valid answer about a DNS query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsDecision {
    /// Forward.
    Allow {
        /// Rule that allowed.
        rule: Option<u32>,
    },
    /// Answer with this RCODE, 1–15.
    Refuse {
        /// The RCODE.
        rcode: u8,
    },
}

impl Worker {
    /// Asks about a query: its first name, lower case with final dot, and QTYPE.
    ///
    /// # Errors
    ///
    /// Why there is no answer; the binding's fail mode is the caller's to apply.
    pub fn dns_query(
        &mut self,
        binding: &Binding,
        name: &str,
        qtype: u16,
        facts: &Arc<Facts>,
    ) -> Result<DnsDecision, Failure> {
        self.call(binding, facts, |instance| instance.dns_query(name, qtype))
    }
}

impl Instance {
    fn dns_query(&mut self, name: &str, qtype: u16) -> Result<DnsDecision, Failure> {
        let answer = self.ask(|exports, store| match exports {
            super::Exports::Dns(exports) => {
                let dns = exports.tidegate_filter_dns();
                Some(dns.call_on_query(store, name, qtype))
            }
            _ => None,
        })?;
        decision(answer)
    }
}

/// Checks an answer. RCODE 0 would be an empty success, which is a lie about the name; what
/// needs more than four bits has no place in a plain header.
fn decision(answer: Decision) -> Result<DnsDecision, Failure> {
    match answer {
        Decision::Allow(rule) => Ok(DnsDecision::Allow { rule }),
        Decision::Refuse(rcode @ 1..=15) => Ok(DnsDecision::Refuse { rcode }),
        Decision::Refuse(_) => Err(Failure::Invalid("RCODE out of range")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_rcode_must_refuse() {
        for (rcode, valid) in [(0, false), (5, true), (15, true), (16, false)] {
            assert_eq!(decision(Decision::Refuse(rcode)).is_ok(), valid);
        }
    }
}
