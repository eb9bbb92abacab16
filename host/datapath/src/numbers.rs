//! Which numbers the kernel's tables speak of.

use tidegate_policy::NumbersInUse;

use super::{Datapath, DatapathError};

impl Datapath {
    /// The highest number of each kind in any table, of whichever generation. An agent that
    /// has lost its numbering must give none of them to something else: flows and learned
    /// addresses outlive generations, and tables are rewritten entry by entry.
    pub fn numbers_in_use(&self) -> Result<NumbersInUse, DatapathError> {
        let tables = &self.tables;
        let mut seen = NumbersInUse::default();
        for (id, endpoint) in tables.endpoints.entries()? {
            seen.endpoint(id).identity(endpoint.identity);
        }
        for (_, info) in tables.ipcache.entries()? {
            seen.endpoint(info.endpoint).identity(info.identity);
        }
        for (_, info) in tables.fqdn.entries()? {
            info.identities.into_iter().for_each(|identity| {
                seen.identity(identity);
            });
        }
        for (key, entry) in tables.policy.entries()? {
            seen.identity(u32::from_be_bytes(key.identity))
                .rule(entry.rule)
                .rule(entry.shadow_rule)
                .rule_set(entry.l7);
        }
        for (_, flow) in tables.flows.entries()? {
            seen.endpoint(flow.src_endpoint)
                .endpoint(flow.dst_endpoint)
                .identity(flow.src_identity)
                .identity(flow.dst_identity)
                .rule(flow.egress_rule)
                .rule(flow.ingress_rule)
                .rule_set(flow.egress_l7)
                .rule_set(flow.ingress_l7);
        }
        for (_, rule) in tables.deny_list.entries()? {
            seen.rule(rule);
        }
        for (_, service) in tables.services.entries()? {
            seen.service(service.id);
        }
        Ok(seen)
    }
}
