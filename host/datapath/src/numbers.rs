//! Which numbers the kernel's tables speak of.

use tidegate_policy::NumbersInUse;
use tidegate_policy::compiled::{EndpointId, IdentityId, L7Id, RuleId, ServiceId};

use super::{Datapath, DatapathError};

impl Datapath {
    /// The highest number of each kind in any table, of whichever generation. An agent that
    /// has lost its numbering must give none of them to something else: flows and learned
    /// addresses outlive generations, and tables are rewritten entry by entry.
    pub fn numbers_in_use(&self) -> Result<NumbersInUse, DatapathError> {
        let tables = &self.tables;
        let mut seen = NumbersInUse::default();
        for (id, endpoint) in tables.endpoints.entries()? {
            seen.endpoint(EndpointId(id))
                .identity(IdentityId(endpoint.identity));
        }
        for (_, info) in tables.ipcache.entries()? {
            seen.endpoint(EndpointId(info.endpoint))
                .identity(IdentityId(info.identity));
        }
        for (_, info) in tables.fqdn.entries()? {
            info.identities.into_iter().for_each(|identity| {
                seen.identity(IdentityId(identity));
            });
        }
        for (key, entry) in tables.policy.entries()? {
            seen.identity(IdentityId(u32::from_be_bytes(key.identity)))
                .rule(RuleId(entry.rule))
                .rule(RuleId(entry.shadow_rule))
                .rule_set(L7Id(entry.l7));
        }
        for (_, flow) in tables.flows.entries()? {
            seen.endpoint(EndpointId(flow.src_endpoint))
                .endpoint(EndpointId(flow.dst_endpoint))
                .identity(IdentityId(flow.src_identity))
                .identity(IdentityId(flow.dst_identity))
                .rule(RuleId(flow.egress_rule))
                .rule(RuleId(flow.ingress_rule))
                .rule_set(L7Id(flow.egress_l7))
                .rule_set(L7Id(flow.ingress_l7));
        }
        for (_, service) in tables.services.entries()? {
            seen.service(ServiceId(service.id));
        }
        Ok(seen)
    }
}
