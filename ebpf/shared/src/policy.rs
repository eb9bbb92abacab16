//! The policy table: one longest-prefix-match trie for all endpoints.
//!
//! Rows are complete: the row of an identity already contains everything that
//! wildcard rules say, and every row has a catch-all entry. So the kernel looks up
//! (policy, identity) and, only if that identity has no row, (policy, [`ANY`]):
//! at most two lookups, the first hit decides, no precedence in the kernel.
//!
//! [`ANY`]: crate::identity::reserved::ANY

use crate::layout;

/// Key of the `POLICY` table. Prefix bits cover the fields behind `prefix_len` in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct PolicyKey {
    /// Significant bits behind this field, up to [`PolicyKey::FULL`].
    pub prefix_len: u32,
    /// Policy id, big-endian. Never reused within a boot: an id belongs to one
    /// endpoint's rules of one generation.
    pub policy_id: [u8; 4],
    /// Peer identity, big-endian; 0 is the wildcard row.
    pub identity: [u8; 4],
    /// [`direction`].
    pub direction: u8,
    /// IANA protocol.
    pub protocol: u8,
    /// Destination port, big-endian; for ICMP the type, as `[type, 0]`.
    pub port: [u8; 2],
}
layout!(PolicyKey, 16);

impl PolicyKey {
    /// Prefix length of a catch-all entry: policy, identity and direction.
    pub const ROW: u32 = 72;
    /// Prefix length of an entry for a whole protocol.
    pub const PROTOCOL: u32 = 80;
    /// Prefix length of an entry for one port, and of every lookup.
    pub const FULL: u32 = 96;
}

/// Directions, seen from the endpoint the policy belongs to.
pub mod direction {
    /// Towards the endpoint.
    pub const INGRESS: u8 = 0;
    /// From the endpoint.
    pub const EGRESS: u8 = 1;
}

/// Value of the `POLICY` table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PolicyEntry {
    /// Rule that decided: id in the agent's rule index. For a default deny, the
    /// rule that switched the endpoint to default deny; 0 if nothing selected it.
    pub rule: u32,
    /// L7 rule set to apply when `verdict` is [`verdict::REDIRECT`]; else 0.
    pub l7: u32,
    /// Rule that would decide if what is in shadow were enforced; 0 if that would be the
    /// same.
    pub shadow_rule: u32,
    /// One of [`verdict`].
    pub verdict: u8,
    /// One of [`verdict`]: the verdict if what is in shadow were enforced.
    pub shadow_verdict: u8,
    /// 0.
    pub pad: [u8; 2],
}
layout!(PolicyEntry, 16);

/// Verdicts of a policy entry. Ordered so that, when one address matches several
/// identities (FQDN), the larger number wins.
pub mod verdict {
    /// No rule allows it.
    pub const DEFAULT_DENY: u8 = 0;
    /// Allowed, stays in the kernel.
    pub const ALLOW: u8 = 1;
    /// Allowed if the L7 rules agree: steer to the proxy.
    pub const REDIRECT: u8 = 2;
    /// A deny rule matched.
    pub const DENY: u8 = 3;
}
