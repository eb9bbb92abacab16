//! Packets from a workload: policy of both ends is decided here.

use aya_ebpf::programs::TcContext;
use tidegate_decide::{Tables as _, tuple::icmp};
use tidegate_ebpf_shared::{
    addr::{Addr, proto},
    identity::reserved,
    reason,
};

use crate::{
    addr::{is_link_local, is_v4, word},
    admit::{Origin, admit, refuse},
    fragment, interface,
    packet::{ETHERNET, Kind, Packet, advertised, parse},
    scratch::{Scratch, scratch},
    tables::Maps,
    verdict::Outcome,
};

/// Decides a packet that a workload sent.
#[inline(always)]
pub fn run(ctx: &TcContext) -> Outcome {
    let Some(work) = scratch() else {
        return Outcome::Drop;
    };
    let kind = parse::<ETHERNET>(ctx, &mut work.packet);
    if matches!(kind, Kind::Other | Kind::Broken) {
        return refuse(work, reason::INVALID_PACKET);
    }
    fragment::resolve(work, fragment::Seen::FromEndpoint);
    let Some(endpoint) = interface::endpoint(work.packet.ifindex) else {
        return refuse(work, reason::ENDPOINT_NOT_READY);
    };
    if kind == Kind::Arp {
        return claim(work, endpoint);
    }
    if kind == Kind::Ip && is_membership(&work.packet) {
        return Outcome::Pass;
    }
    if kind == Kind::NeighbourDiscovery
        && is_of_neighbour(&work.packet.tuple.dst)
        && may_claim(&work.packet.tuple.src, endpoint)
    {
        return discovery(ctx, work, endpoint);
    }
    admit(ctx, work, Origin::Endpoint(endpoint))
}

/// Is it what hosts tell a link of the groups they listen to (RFC 2710, RFC 3810)? From an
/// address of the link, which no endpoint declares, and to the link, beyond which nobody
/// forwards it; a neighbour's device judges it as any packet.
#[inline(always)]
fn is_membership(packet: &Packet) -> bool {
    packet.problem == 0
        && packet.tuple.protocol == proto::ICMPV6
        && matches!(
            packet.tuple.icmp_type(),
            icmp::V6_LISTENER_REPORT | icmp::V6_LISTENER_DONE | icmp::V6_LISTENER_REPORT_2
        )
        && is_of_link(&packet.tuple.dst)
        && (is_link_local(&packet.tuple.src) || *packet.tuple.src.words() == [0; 4])
}

/// ff02::/16: all hosts of the link that listen to a group (RFC 4291 §2.7).
#[inline(always)]
fn is_of_link(addr: &Addr) -> bool {
    u32::from_be(word(addr, 0)) >> 16 == 0xff02
}

/// ARP: neighbours, and the node, remember who said last that an address is his. Of kinds
/// that we do not read, some are believed all the same (IEEE 802 for Ethernet).
#[inline(always)]
fn claim(work: &mut Scratch, endpoint: u32) -> Outcome {
    let src = &work.packet.tuple.src;
    if is_v4(src) && may_claim(src, endpoint) {
        Outcome::Pass
    } else {
        refuse(work, reason::INVALID_SOURCE_IP)
    }
}

/// Neighbour discovery by whom it may be by. An advertisement need not be about its source.
#[inline(always)]
fn discovery(ctx: &TcContext, work: &mut Scratch, endpoint: u32) -> Outcome {
    let packet = &work.packet;
    if packet.tuple.icmp_type() == icmp::V6_NEIGHBOUR_ADVERTISEMENT {
        let target = &mut work.opened.src;
        if !advertised(ctx, packet, &mut work.room, target) || !may_claim(target, endpoint) {
            return refuse(work, reason::INVALID_SOURCE_IP);
        }
    }
    Outcome::Pass
}

/// May the endpoint say that it has this address? Nobody's: who asks whether an address is
/// free has none yet (RFC 5227 §2.1.1, RFC 4862 §5.4.2). One of its link: endpoints do not
/// declare those, and nothing is delivered for one but what ingress policy lets in.
#[inline(always)]
fn may_claim(addr: &Addr, endpoint: u32) -> bool {
    let is_nobodys = word(addr, 3) == 0 && (is_v4(addr) || *addr.words() == [0; 4]);
    is_nobodys
        || is_link_local(addr)
        || Maps
            .address(addr)
            .is_some_and(|info| info.endpoint == endpoint)
}

/// May neighbour discovery for this address be for a neighbour? The node forwards what is
/// not, as any packet: it is judged as one, or a workload could send what it likes in the
/// options of a solicitation. Another endpoint is a neighbour on a bridge, or one that the node
/// answers for (`proxy_ndp`); forwarded to it, it has a hop less and is discovery no more, so
/// that both policies are asked at its device.
#[inline(always)]
fn is_of_neighbour(dst: &Addr) -> bool {
    if is_of_link(dst) || is_link_local(dst) {
        return true;
    }
    let Some(info) = Maps.address(dst) else {
        return false;
    };
    info.identity == reserved::HOST || info.endpoint != 0
}
