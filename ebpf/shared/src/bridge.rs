//! Devices that are ports of a Linux bridge.

use crate::layout;

/// Value of the `BRIDGE_PORTS` table, keyed by interface index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct BridgePort {
    /// The bridge's own hardware address: a frame to it is for the node.
    pub address: [u8; 6],
    /// Zero.
    pub pad: [u8; 2],
}
layout!(BridgePort, 8);
