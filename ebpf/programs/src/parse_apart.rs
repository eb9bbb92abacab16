//! Reading a packet by a call, for programs that read few of theirs: a call costs those less
//! than its body costs the verifier in each place.

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};

use crate::{
    packet::{ETHERNET, HEADERLESS, Kind, parse},
    scratch::scratch,
};

/// As [`parse`], into this CPU's scratch memory.
#[inline(always)]
pub fn parse_apart<const LINK: usize>(ctx: &TcContext) -> Kind {
    let kind = match LINK {
        HEADERLESS => read_headerless_apart(ctx.skb.skb),
        _ => read_apart(ctx.skb.skb),
    };
    match kind {
        kind if kind == Kind::Arp as u32 => Kind::Arp,
        kind if kind == Kind::Broken as u32 => Kind::Broken,
        kind if kind == Kind::NeighbourDiscovery as u32 => Kind::NeighbourDiscovery,
        kind if kind == Kind::Ip as u32 => Kind::Ip,
        _ => Kind::Other,
    }
}

/// A global function, for the reasons given at `admit::judge_apart`; a [`Kind`] as a number,
/// because that is all the verifier believes of its answer.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn read_apart(skb: *mut __sk_buff) -> u32 {
    into_scratch::<ETHERNET>(skb)
}

/// The same for packets without an Ethernet header.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn read_headerless_apart(skb: *mut __sk_buff) -> u32 {
    into_scratch::<HEADERLESS>(skb)
}

#[inline(always)]
fn into_scratch<const LINK: usize>(skb: *mut __sk_buff) -> u32 {
    let kind = match scratch() {
        Some(work) => parse::<LINK>(&TcContext::new(skb), &mut work.packet),
        None => Kind::Other,
    };
    kind as u32
}
