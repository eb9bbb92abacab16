//! Who made a packet that is about to leave. Marks do not say: any firewall rule sets
//! or clears them. What says so is where the packet came in, and its socket.

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::bpf_sk_fullsock,
    programs::TcContext,
};
use tidegate_decide::Tuple;
use tidegate_ebpf_shared::{addr::proto, mark};

use crate::{
    addr::{is_v4, word},
    packet::Packet,
};

/// Who made a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Maker {
    /// A socket of the proxy, connected to where the packet goes: the proxy has read
    /// what it sends under these very ends.
    Proxy,
    /// A socket of the proxy, but NAT has changed the ends since, or it has no peer.
    ProxyElsewhere,
    /// This node's TCP without a socket of its own: it answers SYNs before there is a
    /// connection, and resets and acknowledges after. No data is among it.
    Stack,
    /// A socket of the node, or somebody beyond it.
    Other,
}

/// Finds out who made a packet.
#[inline(always)]
pub fn of(ctx: &TcContext, packet: &Packet) -> Maker {
    let skb = ctx.skb.skb;
    // SAFETY: the kernel hands the program a valid context.
    let came_in_by = unsafe { (&raw const (*skb).ingress_ifindex).read_volatile() };
    if came_in_by != 0 {
        return Maker::Other;
    }
    match socket(skb) {
        None if packet.tuple.protocol == proto::TCP && packet.payload == 0 => Maker::Stack,
        None => Maker::Other,
        // SAFETY: a full socket, held by the packet as long as the program runs.
        Some(socket) => unsafe {
            if (&raw const (*socket).mark).read_volatile() & mark::MASK != mark::FROM_PROXY {
                Maker::Other
            } else if reaches(socket, &packet.tuple) {
                Maker::Proxy
            } else {
                Maker::ProxyElsewhere
            }
        },
    }
}

/// The packet's socket; `None` if it has none, or one that is not fully there yet or
/// any more.
#[inline(always)]
fn socket(skb: *mut __sk_buff) -> Option<*mut bpf_sock> {
    // SAFETY: the kernel hands the program a valid context; the helper takes what is
    // in it, and answers null or a socket.
    unsafe {
        let some = (*skb).__bindgen_anon_2.sk;
        if some.is_null() {
            return None;
        }
        let full = bpf_sk_fullsock(some);
        (!full.is_null()).then_some(full)
    }
}

/// Is the socket's peer the packet's destination?
///
/// # Safety
/// `socket` is a full socket.
#[inline(always)]
unsafe fn reaches(socket: *const bpf_sock, tuple: &Tuple) -> bool {
    // SAFETY: the caller's promise; fields of a socket are read singly.
    unsafe {
        let port = (&raw const (*socket).dst_port).read_volatile();
        if port != u16::from_ne_bytes(tuple.dst_port) {
            return false;
        }
        let v4 = (&raw const (*socket).dst_ip4).read_volatile();
        let v6 = crate::addr::context_words(&raw const (*socket).dst_ip6);
        if is_v4(&tuple.dst) {
            v4 == word(&tuple.dst, 3)
        } else {
            v6 == *tuple.dst.words()
        }
    }
}
