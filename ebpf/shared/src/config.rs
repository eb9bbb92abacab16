//! Settings of the datapath that may change while it runs.

use crate::layout;

/// The only value of the `CONFIG` array.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DatapathConfig {
    /// Ports of the proxy's listeners for steered host sockets, big-endian, by
    /// [`crate::steer::class`]; `[0, 0]` while there is none.
    pub host_listener: [[u8; 2]; 4],
    /// Bits of [`flags`].
    pub flags: u32,
    /// Deny events per second and CPU.
    pub deny_events_per_second: u32,
}
layout!(DatapathConfig, 16);

/// Bits of [`DatapathConfig::flags`].
pub mod flags {
    /// Denied packets pass and are reported as such.
    pub const AUDIT: u32 = 1;
    /// The node itself may reach its local endpoints whatever their policy says.
    pub const ALLOW_LOCALHOST: u32 = 2;
    /// The generation in force was made of documents of other sources than the operator's
    /// folders too. For the agent alone: it outlives a state folder that is lost.
    pub const OTHER_SOURCES: u32 = 4;
}
