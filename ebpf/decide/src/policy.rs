//! Order of the policy lookups, and how their answers combine.

use core::borrow::Borrow;

use tidegate_ebpf_shared::{
    addr::Addr,
    config,
    endpoint::EndpointInfo,
    flow::FlowEntry,
    identity::{AddrInfo, FqdnInfo, reserved},
    limits::FQDN_GRACE,
    policy::{PolicyEntry, PolicyKey, direction, verdict},
    reason,
};

use crate::tuple::Tuple;

/// The tables a decision reads.
pub trait Tables {
    /// How an entry of the FQDN table is held: in the kernel where it lies, it is too
    /// large for a stack of 512 bytes.
    type Fqdn: Borrow<FqdnInfo>;
    /// The active generation.
    fn generation(&self) -> u32;
    /// Bits of [`config::flags`].
    fn config_flags(&self) -> u32;
    /// Longest match in the address table.
    fn address(&self, addr: &Addr) -> Option<AddrInfo>;
    /// FQDN identities of an address.
    fn fqdn(&self, addr: &Addr) -> Option<Self::Fqdn>;
    /// An endpoint on this node.
    fn endpoint(&self, id: u32) -> Option<EndpointInfo>;
    /// Longest match in the policy table.
    fn policy(&self, key: &PolicyKey) -> Option<PolicyEntry>;
    /// Seconds of `CLOCK_BOOTTIME`.
    fn boot_seconds(&self) -> u32;
}

/// Is the flow that is decided a new one?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Age {
    /// What its destination's names have taught must not have expired.
    New,
    /// It was allowed when it began: an answer's time limits who may begin.
    Live,
}

/// May new flows still use what was learned until `expires`? Seconds of
/// `CLOCK_BOOTTIME` both.
#[inline(always)]
pub const fn is_fresh(expires: u32, now: u32) -> bool {
    expires.saturating_add(FQDN_GRACE) > now
}

/// The answer for one flow, with everything an event or a flow entry tells of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Evaluation {
    /// Generation that decided.
    pub generation: u32,
    /// Identity of the source.
    pub src_identity: u32,
    /// Identity of the destination.
    pub dst_identity: u32,
    /// Endpoint id of the source on this node, or 0.
    pub src_endpoint: u32,
    /// Endpoint id of the destination on this node, or 0.
    pub dst_endpoint: u32,
    /// Rule of the source's egress policy, or 0.
    pub egress_rule: u32,
    /// Rule of the destination's ingress policy, or 0.
    pub ingress_rule: u32,
    /// L7 rule set of the source's egress policy, or 0.
    pub egress_l7: u32,
    /// L7 rule set of the destination's ingress policy, or 0.
    pub ingress_l7: u32,
    /// Rule that would decide if what is in shadow were enforced, or 0.
    pub shadow_rule: u32,
    /// One of [`verdict`].
    pub verdict: u8,
    /// One of [`verdict`]: the verdict if what is in shadow were enforced.
    pub shadow_verdict: u8,
    /// One of [`reason`] if it is not allowed, else 0.
    pub reason: u8,
    /// [`direction`] of the policy that denied, if one did.
    pub direction: u8,
}

impl Evaluation {
    /// Takes over from a steered flow who talks to whom by which rules, for a packet
    /// that its initiator sent (or that was sent to it).
    #[inline(always)]
    pub fn set_steered(&mut self, flow: &FlowEntry, from_source: bool) {
        self.egress_rule = flow.egress_rule;
        self.ingress_rule = flow.ingress_rule;
        self.egress_l7 = flow.egress_l7;
        self.ingress_l7 = flow.ingress_l7;
        self.direction = if flow.egress_l7 != 0 {
            direction::EGRESS
        } else {
            direction::INGRESS
        };
        self.src_identity = flow.src_identity;
        self.dst_identity = flow.dst_identity;
        self.src_endpoint = flow.src_endpoint;
        self.dst_endpoint = flow.dst_endpoint;
        if !from_source {
            core::mem::swap(&mut self.src_identity, &mut self.dst_identity);
            core::mem::swap(&mut self.src_endpoint, &mut self.dst_endpoint);
        }
    }

    /// Nothing denies it.
    #[inline(always)]
    pub const fn is_allowed(&self) -> bool {
        self.reason == 0
    }

    /// Would what is in shadow refuse it?
    #[inline(always)]
    pub const fn is_refused_in_shadow(&self) -> bool {
        denial(self.shadow_verdict) != 0
    }

    /// Allowed if the proxy agrees.
    #[inline(always)]
    pub const fn is_steered(&self) -> bool {
        self.is_allowed() && self.verdict == verdict::REDIRECT
    }

    /// Denied by a policy, not because something is broken or not ready: what audit
    /// mode lets pass.
    #[inline(always)]
    pub const fn is_policy_denial(&self) -> bool {
        self.reason == reason::POLICY_DENIED || self.reason == reason::POLICY_DENY
    }
}

/// Decides a flow: egress policy of a local source, then ingress policy of a local
/// destination. `src_endpoint` and `dst_endpoint` are used where the address table
/// names no endpoint (0 for "none known").
#[inline(always)]
pub fn evaluate(
    tables: &impl Tables,
    tuple: &Tuple,
    src_endpoint: u32,
    dst_endpoint: u32,
    age: Age,
    evaluation: &mut Evaluation,
) {
    judge(
        tables,
        tuple,
        src_endpoint,
        dst_endpoint,
        Some(age),
        evaluation,
    );
}

/// As [`evaluate`]; without egress policy if `age` is `None`: that of the source was
/// applied to where the packet was sent, before the node's own NAT led it here.
#[inline(always)]
pub fn judge(
    tables: &impl Tables,
    tuple: &Tuple,
    src_endpoint: u32,
    dst_endpoint: u32,
    age: Option<Age>,
    evaluation: &mut Evaluation,
) {
    start(tables, tuple, src_endpoint, dst_endpoint, evaluation);
    if let (1.., Some(age)) = (evaluation.src_endpoint, age) {
        evaluate_egress(tables, tuple, age, evaluation);
        if !evaluation.is_allowed() && evaluation.is_refused_in_shadow() {
            return;
        }
    }
    if evaluation.dst_endpoint != 0 && !is_exempt(tables, evaluation.src_identity) {
        evaluate_ingress(tables, tuple, evaluation);
    }
}

/// Who talks to whom, allowed as yet.
#[inline(always)]
fn start(
    tables: &impl Tables,
    tuple: &Tuple,
    src_endpoint: u32,
    dst_endpoint: u32,
    evaluation: &mut Evaluation,
) {
    let src = address(tables, &tuple.src);
    let dst = address(tables, &tuple.dst);
    *evaluation = Evaluation {
        generation: tables.generation(),
        src_identity: src.identity,
        dst_identity: dst.identity,
        src_endpoint: or(src.endpoint, src_endpoint),
        dst_endpoint: or(dst.endpoint, dst_endpoint),
        verdict: verdict::ALLOW,
        shadow_verdict: verdict::ALLOW,
        ..Evaluation::default()
    };
}

/// Identity and endpoint of an address; outside if nothing is known of it.
#[inline(always)]
pub fn address(tables: &impl Tables, addr: &Addr) -> AddrInfo {
    tables.address(addr).unwrap_or(AddrInfo {
        identity: if addr.as_v4().is_some() {
            reserved::WORLD_IPV4
        } else {
            reserved::WORLD_IPV6
        },
        endpoint: 0,
    })
}

/// Is it an identity of addresses outside: the world, or a prefix of it?
#[inline(always)]
pub const fn is_outside(identity: u32) -> bool {
    matches!(
        identity,
        reserved::WORLD | reserved::WORLD_IPV4 | reserved::WORLD_IPV6
    ) || identity >= reserved::LOCAL_SCOPE
}

/// An open socket of a host service, judged again: its packets meet no program that would.
/// As where it was opened, `at_node` of a destination that is the node itself, whatever the
/// address table says of it (a loopback address).
pub fn evaluate_host_service(
    tables: &impl Tables,
    endpoint: u32,
    tuple: &Tuple,
    at_node: bool,
) -> Evaluation {
    let dst = address(tables, &tuple.dst);
    let mut evaluation = Evaluation {
        generation: tables.generation(),
        src_endpoint: endpoint,
        src_identity: tables.endpoint(endpoint).map_or(0, |info| info.identity),
        dst_identity: match at_node {
            true => reserved::HOST,
            false => dst.identity,
        },
        dst_endpoint: dst.endpoint,
        verdict: verdict::ALLOW,
        shadow_verdict: verdict::ALLOW,
        ..Evaluation::default()
    };
    evaluate_egress(tables, tuple, Age::Live, &mut evaluation);
    evaluation
}

/// Adds the egress policy of the evaluation's source endpoint to it.
#[inline(always)]
pub fn evaluate_egress(tables: &impl Tables, tuple: &Tuple, age: Age, evaluation: &mut Evaluation) {
    let Some(mut key) = key(
        tables,
        tuple,
        evaluation.src_endpoint,
        evaluation.generation,
        direction::EGRESS,
    ) else {
        return not_ready(evaluation, direction::EGRESS);
    };
    let mut best = row(tables, &mut key, evaluation.dst_identity);
    // Names, like prefixes, concern the world outside: whatever an answer claims, it
    // opens neither the node nor an endpoint.
    if is_outside(evaluation.dst_identity)
        && let Some(info) = tables.fqdn(&tuple.dst)
    {
        let now = match age {
            Age::New => tables.boot_seconds(),
            Age::Live => 0,
        };
        let info = info.borrow();
        for (identity, expires) in info.identities.into_iter().zip(info.expires) {
            if is_fresh(expires, now) {
                best = stronger(tables, &mut key, identity, best);
            }
        }
    }
    evaluation.egress_rule = best.rule;
    if best.verdict == verdict::REDIRECT {
        evaluation.egress_l7 = best.l7;
    }
    combine(evaluation, &best, direction::EGRESS);
}

#[inline(always)]
fn evaluate_ingress(tables: &impl Tables, tuple: &Tuple, evaluation: &mut Evaluation) {
    let Some(mut key) = key(
        tables,
        tuple,
        evaluation.dst_endpoint,
        evaluation.generation,
        direction::INGRESS,
    ) else {
        return not_ready(evaluation, direction::INGRESS);
    };
    let entry = row(tables, &mut key, evaluation.src_identity);
    // Else the source's policy has refused it, and this is about what is in shadow only.
    if evaluation.is_allowed() {
        evaluation.ingress_rule = entry.rule;
        if entry.verdict == verdict::REDIRECT {
            evaluation.ingress_l7 = entry.l7;
        }
    }
    combine(evaluation, &entry, direction::INGRESS);
}

/// The node reaches its endpoints whatever their policy says, if configured so.
#[inline(always)]
fn is_exempt(tables: &impl Tables, src_identity: u32) -> bool {
    src_identity == reserved::HOST && tables.config_flags() & config::flags::ALLOW_LOCALHOST != 0
}

/// The lookup key for an endpoint's policy, still without identity; `None` if the
/// endpoint or its policy is not in place.
#[inline(always)]
fn key(
    tables: &impl Tables,
    tuple: &Tuple,
    endpoint: u32,
    generation: u32,
    direction: u8,
) -> Option<PolicyKey> {
    let info = tables.endpoint(endpoint)?;
    // Spelled out, because an index would cost a bounds check the verifier must see.
    let policy = if generation & 1 == 0 {
        info.policy_id[0]
    } else {
        info.policy_id[1]
    };
    if policy == 0 {
        return None;
    }
    Some(PolicyKey {
        prefix_len: PolicyKey::FULL,
        policy_id: policy.to_be_bytes(),
        identity: [0; 4],
        direction,
        protocol: tuple.protocol,
        port: tuple.policy_port(),
    })
}

/// The row of the identity, else the wildcard row. Neither: denied, by no rule.
#[inline(always)]
fn row(tables: &impl Tables, key: &mut PolicyKey, identity: u32) -> PolicyEntry {
    key.identity = identity.to_be_bytes();
    if let Some(entry) = tables.policy(key) {
        return entry;
    }
    key.identity = reserved::ANY.to_be_bytes();
    tables.policy(key).unwrap_or_default()
}

/// The stronger of `best` and the row of one more identity of the same address, in force
/// and in shadow apart. The wildcard row is not asked again: `best` has it folded in.
#[inline(always)]
fn stronger(
    tables: &impl Tables,
    key: &mut PolicyKey,
    identity: u32,
    mut best: PolicyEntry,
) -> PolicyEntry {
    if identity == 0 {
        return best;
    }
    key.identity = identity.to_be_bytes();
    let Some(entry) = tables.policy(key) else {
        return best;
    };
    if entry.shadow_verdict > best.shadow_verdict {
        best.shadow_verdict = entry.shadow_verdict;
        best.shadow_rule = entry.shadow_rule;
    }
    if entry.verdict > best.verdict {
        best.verdict = entry.verdict;
        best.rule = entry.rule;
        best.l7 = entry.l7;
    }
    best
}

#[inline(always)]
fn combine(evaluation: &mut Evaluation, entry: &PolicyEntry, direction: u8) {
    // The first denial stands, in force and in shadow.
    if evaluation.is_allowed() {
        let reason = denial(entry.verdict);
        if reason != 0 {
            evaluation.reason = reason;
            evaluation.direction = direction;
            evaluation.verdict = entry.verdict;
        } else if entry.verdict == verdict::REDIRECT {
            evaluation.verdict = verdict::REDIRECT;
        }
    }
    if !evaluation.is_refused_in_shadow() {
        let denies = denial(entry.shadow_verdict) != 0;
        if denies || entry.shadow_rule != 0 {
            evaluation.shadow_rule = entry.shadow_rule;
        }
        // "Needs L7" of either end does.
        if entry.shadow_verdict != verdict::ALLOW {
            evaluation.shadow_verdict = entry.shadow_verdict;
        }
    }
}

#[inline(always)]
fn not_ready(evaluation: &mut Evaluation, direction: u8) {
    if evaluation.is_allowed() {
        evaluation.reason = reason::ENDPOINT_NOT_READY;
        evaluation.verdict = verdict::DEFAULT_DENY;
        evaluation.direction = direction;
    }
    if !evaluation.is_refused_in_shadow() {
        evaluation.shadow_verdict = verdict::DEFAULT_DENY;
        evaluation.shadow_rule = 0;
    }
}

/// The drop reason of a verdict; 0 if it allows. An unknown number denies.
#[inline(always)]
const fn denial(number: u8) -> u8 {
    match number {
        verdict::ALLOW | verdict::REDIRECT => 0,
        verdict::DEFAULT_DENY => reason::POLICY_DENIED,
        _ => reason::POLICY_DENY,
    }
}

#[inline(always)]
const fn or(first: u32, second: u32) -> u32 {
    if first != 0 { first } else { second }
}
