//! What a packet carries from where it entered the node to where it leaves: marks, which
//! routing reads and which anybody's firewall may change; and tags, which nobody else
//! writes. Marks steer, tags guard.

/// The mark bits Tidegate owns. The numbers are the ones Cilium uses for the same
/// purpose, so tools that know them read ours.
pub const MASK: u32 = 0x0f00;
/// "Deliver locally": an `ip rule` routes it to `lo`, sk_lookup picks the listener.
pub const TO_PROXY: u32 = 0x0200;
/// Sent by one of the proxy's sockets: already inspected.
pub const FROM_PROXY: u32 = 0x0a00;
/// Sent by the proxy to learn which source address it would leave with: never leaves.
pub const PROBE: u32 = 0x0b00;
/// Policy of both ends was applied where the packet entered the node.
pub const CHECKED: u32 = 0x0e00;
/// Routing table that holds `local default dev lo` for [`TO_PROXY`] packets.
pub const ROUTE_TABLE: u32 = 2005;
/// Preference of our `ip rule`: before the `main` table, and few others use it.
pub const RULE_PRIORITY: u32 = 9;

/// Tags: the verdict once more, in `skb->tc_index`. Only tc hooks write that field;
/// netfilter, routing and sockets do not, and the kernel copies it to fragments, clones
/// and segments. The hooks where packets enter set it on every packet they decide; others
/// behind them may write over all but [`tag::TO_PROXY`].
pub mod tag {
    /// The bits that say what was decided.
    pub const KIND: u16 = 0xc000;
    /// Needs the proxy: leaves by no device, whatever its mark says by then.
    pub const TO_PROXY: u16 = 0x8000;
    /// Allowed. The other bits are a hash of the flow key it was decided for, which
    /// tells (not for security: it is short) whether NAT has changed the ends since.
    pub const CHECKED: u16 = 0x4000;
    /// A program of ours has seen it come in, and it is not ours to decide. What comes from
    /// beyond the node with none of these came in by a device that has no program.
    pub const SEEN: u16 = 0xc000;
}
