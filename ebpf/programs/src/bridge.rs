//! Frames that came in by a port of a bridge. The bridge would pass those for its other
//! ports on without the node's routing, and so past the proxy.

use aya_ebpf::programs::TcContext;

use crate::maps::BRIDGE_PORTS;

/// Makes a frame one for the node, if a port of a bridge took it in: the bridge hands up
/// what has its own address as the destination, whatever its ports are called. A frame that
/// cannot be changed goes where it would, and is refused where it leaves.
#[inline(always)]
pub fn take(ctx: &TcContext) {
    // SAFETY: the kernel hands the program a valid context. Volatile, or the compiler joins
    // it with another read, which the verifier refuses.
    let ifindex = unsafe { (&raw const (*ctx.skb.skb).ifindex).read_volatile() };
    // SAFETY: the agent replaces values as a whole.
    if let Some(port) = unsafe { BRIDGE_PORTS.get(&ifindex) } {
        let _ = ctx.store(0, &port.address, 0);
    }
}

/// Is it a port of a bridge: are there neighbours that the node is not asked about?
#[inline(always)]
pub fn is_port(ifindex: u32) -> bool {
    // SAFETY: whether there is a value; it is not read.
    unsafe { BRIDGE_PORTS.get(&ifindex) }.is_some()
}
