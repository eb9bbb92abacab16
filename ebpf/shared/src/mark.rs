//! Packet marks. Only the bits of [`MASK`] are ours; the numbers are the ones
//! Cilium uses for the same purpose, so tools that know them read ours.

/// The mark bits Tidegate owns.
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
