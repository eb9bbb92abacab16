//! What a socket hook works on: one attempt of a socket to reach somebody. On the
//! stack, not in per-CPU memory: these hooks run in a process that may lose its CPU
//! to another one in the same hook.

use tidegate_decide::Tuple;
use tidegate_ebpf_shared::addr::Addr;

/// A connect, or a datagram to an address.
#[derive(Default)]
#[repr(C)]
pub struct Attempt {
    /// Socket cookie.
    pub cookie: u64,
    /// Source as far as bound; destination, after translation if there was one.
    pub tuple: Tuple,
    /// Destination port the application asked for.
    pub asked_port: [u8; 2],
    /// Destination address the application asked for.
    pub asked: Addr,
    /// Service it turned out to be, or 0.
    pub service: u32,
}

/// Is the attempt a connect, or one datagram of an unconnected socket?
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// `connect`.
    Connect,
    /// `sendto`, `sendmsg`.
    Datagram,
}
