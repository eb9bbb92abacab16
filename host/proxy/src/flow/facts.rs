//! What the kernel decided about a flow, as it tells it.

use tidegate_decide::Evaluation;
use tidegate_ebpf_shared::{flow::FlowEntry, policy::verdict, steer::SteerOrigin};
use tidegate_policy::compiled::{EndpointId, Generation, IdentityId, L7Id, RuleId};

/// How the flow came here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// From a workload, by packet mark: the kernel keeps an entry that follows the policy.
    Workload,
    /// From a host service, at `connect`, which is when the kernel decides; afterwards it is
    /// done here, by the kernel's tables.
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
    pub(super) generation: Generation,
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
            identities: (
                IdentityId(entry.src_identity),
                IdentityId(entry.dst_identity),
            ),
            endpoints: (
                EndpointId(entry.src_endpoint),
                EndpointId(entry.dst_endpoint),
            ),
            egress: Asked {
                l7: L7Id(entry.egress_l7),
                rule: RuleId(entry.egress_rule),
            },
            ingress: Asked {
                l7: L7Id(entry.ingress_l7),
                rule: RuleId(entry.ingress_rule),
            },
            dropped_in_shadow: matches!(
                entry.shadow_verdict,
                verdict::DENY | verdict::DEFAULT_DENY
            )
            .then_some(RuleId(entry.shadow_rule)),
            generation: Generation(entry.generation),
        }
    }
}

impl From<&SteerOrigin> for FlowFacts {
    fn from(origin: &SteerOrigin) -> Self {
        Self {
            identities: (
                IdentityId(origin.src_identity),
                IdentityId(origin.dst_identity),
            ),
            endpoints: (EndpointId(origin.endpoint), EndpointId(0)),
            egress: Asked {
                l7: L7Id(origin.l7),
                rule: RuleId(origin.rule),
            },
            ingress: Asked::default(),
            dropped_in_shadow: None,
            generation: Generation(origin.generation),
        }
    }
}

impl From<&Evaluation> for FlowFacts {
    fn from(evaluation: &Evaluation) -> Self {
        let refused = evaluation.is_refused_in_shadow();
        Self {
            identities: (
                IdentityId(evaluation.src_identity),
                IdentityId(evaluation.dst_identity),
            ),
            endpoints: (EndpointId(evaluation.src_endpoint), EndpointId(0)),
            egress: Asked {
                l7: L7Id(evaluation.egress_l7),
                rule: RuleId(evaluation.egress_rule),
            },
            ingress: Asked::default(),
            dropped_in_shadow: refused.then_some(RuleId(evaluation.shadow_rule)),
            generation: Generation(evaluation.generation),
        }
    }
}
