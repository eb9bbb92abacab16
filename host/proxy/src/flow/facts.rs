//! What the kernel decided about a flow, as it tells it.

use tidegate_ebpf_shared::{flow::FlowEntry, policy::verdict, steer::SteerOrigin};
use tidegate_policy::compiled::{EndpointId, IdentityId, L7Id, RuleId};

/// How the flow came here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// From a workload, by packet mark: the kernel keeps an entry that follows the policy.
    Workload,
    /// From a host service, at `connect`: what was decided then.
    HostService,
}

/// What the kernel decided about the flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FlowFacts {
    pub(super) identities: (IdentityId, IdentityId),
    pub(super) endpoints: (EndpointId, EndpointId),
    pub(super) egress: Asked,
    pub(super) ingress: Asked,
    /// The rule that would drop the flow if what is in shadow were enforced.
    pub(super) dropped_in_shadow: Option<RuleId>,
    /// Generation of the kernel's decision.
    pub(super) generation: u32,
}

/// One direction's rule set and the rule that asked for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) l7: L7Id,
    pub(super) rule: RuleId,
}

impl From<&FlowEntry> for FlowFacts {
    fn from(entry: &FlowEntry) -> Self {
        Self {
            identities: (entry.src_identity, entry.dst_identity),
            endpoints: (entry.src_endpoint, entry.dst_endpoint),
            egress: Asked {
                l7: entry.egress_l7,
                rule: entry.egress_rule,
            },
            ingress: Asked {
                l7: entry.ingress_l7,
                rule: entry.ingress_rule,
            },
            dropped_in_shadow: matches!(
                entry.shadow_verdict,
                verdict::DENY | verdict::DEFAULT_DENY
            )
            .then_some(entry.shadow_rule),
            generation: entry.generation,
        }
    }
}

impl From<&SteerOrigin> for FlowFacts {
    fn from(origin: &SteerOrigin) -> Self {
        Self {
            identities: (origin.src_identity, origin.dst_identity),
            endpoints: (origin.endpoint, 0),
            egress: Asked {
                l7: origin.l7,
                rule: origin.rule,
            },
            ingress: Asked::default(),
            dropped_in_shadow: None,
            generation: origin.generation,
        }
    }
}
