//! Which groups a workload listens to, as it tells its link: what a bridge that snoops has to
//! know (RFC 4541). Reports carry groups and sources, in their plainest form, and are for
//! nobody else.

use aya_ebpf::programs::TcContext;
use tidegate_decide::tuple::icmp;
use tidegate_ebpf_shared::{addr::Addr, limits::GROUP_RECORDS, reason};

use crate::{
    addr::{is_link_local, is_unspecified, set_v6, word},
    packet::{Addr16, ETHERNET, Room, cut, load, part, words},
    scratch::Scratch,
};

/// A router's question (RFC 3376 §4.1).
pub const IGMP_QUERY: u8 = 0x11;
/// Reports of the versions 1, 2 and 3, and a leave message (RFC 3376 §4).
const IGMP_REPORT_1: u8 = 0x12;
const IGMP_REPORT_2: u8 = 0x16;
const IGMP_LEAVE: u8 = 0x17;
const IGMP_REPORT_3: u8 = 0x22;

const BROKEN: u8 = reason::INVALID_PACKET;

/// Is it a host's message?
#[inline(always)]
pub fn is_igmp_report(kind: u8) -> bool {
    matches!(
        kind,
        IGMP_REPORT_1 | IGMP_REPORT_2 | IGMP_LEAVE | IGMP_REPORT_3
    )
}

/// Is it a well-formed report of RFC 3376 §4.2, or of an older version (§4, §7)? What follows
/// it in a frame of the least length is cut off.
#[inline(always)]
pub fn igmp(ctx: &TcContext, work: &mut Scratch) -> Result<(), u8> {
    const FIXED: u32 = 20;
    const MESSAGE: u32 = 8;
    /// 224.0.0.2 and 224.0.0.22: all routers, all that speak version 3.
    const ROUTERS: u32 = 0xe000_0002;
    const ROUTERS_3: u32 = 0xe000_0016;
    let packet = &work.packet;
    if packet.part != part::WHOLE || packet.hops != 1 {
        return Err(BROKEN);
    }
    let at = packet.transport;
    let header = at.wrapping_sub(ETHERNET as u32);
    if header != FIXED {
        // The option Router Alert alone (RFC 2113).
        let option = load::<[u8; 4]>(ctx, ETHERNET as u32 + FIXED, &mut work.room).ok_or(BROKEN)?;
        if header != FIXED + 4 || *option != [0x94, 4, 0, 0] {
            return Err(BROKEN);
        }
    }
    let end = ETHERNET as u32 + packet.len;
    let message = *load::<[u8; 8]>(ctx, at, &mut work.room).ok_or(BROKEN)?;
    let [kind, code, _, _, a, b, c, d] = message;
    let dst = u32::from_be(word(&packet.tuple.dst, 3));
    let group = u32::from_be_bytes([a, b, c, d]);
    let is_one = code == 0 && end == at + MESSAGE && group >> 28 == 0xe;
    match kind {
        IGMP_REPORT_1 | IGMP_REPORT_2 if is_one && dst == group => {}
        IGMP_LEAVE if is_one && dst == ROUTERS => {}
        IGMP_REPORT_3 if code == 0 && a == 0 && b == 0 && dst == ROUTERS_3 => {
            let count = u32::from(c) << 8 | u32::from(d);
            records::<8>(ctx, at + MESSAGE, count, end, &mut work.room)?;
        }
        kind if is_igmp_report(kind) => return Err(BROKEN),
        _ => return Err(reason::FORBIDDEN_IGMP),
    }
    cut(ctx, end)
}

/// Is it a well-formed report of RFC 3810 §5.2, or of RFC 2710 §3?
#[inline(always)]
pub fn mld(ctx: &TcContext, work: &mut Scratch) -> Result<(), u8> {
    const IP: u32 = ETHERNET as u32 + 40;
    const NEXT: u32 = ETHERNET as u32 + 6;
    const HOP_BY_HOP: u8 = 0;
    const OPTIONS: u32 = 8;
    const MESSAGE: u32 = 8;
    /// ff02::2 and ff02::16: all routers, all that speak version 2.
    const ROUTERS: u32 = 2;
    const ROUTERS_2: u32 = 0x16;
    let packet = &work.packet;
    let (src, dst) = (&packet.tuple.src, &packet.tuple.dst);
    // Who has no address of the link yet reports from none (RFC 3590 §4).
    if !is_link_local(src) && !is_unspecified(src) {
        return Err(reason::INVALID_SOURCE_IP);
    }
    let (at, end) = (packet.transport, ETHERNET as u32 + packet.len);
    if packet.part != part::WHOLE || packet.hops != 1 || at != IP + OPTIONS || ctx.len() != end {
        return Err(BROKEN);
    }
    let [next] = *load::<[u8; 1]>(ctx, NEXT, &mut work.room).ok_or(BROKEN)?;
    let options = *load::<[u8; 8]>(ctx, IP, &mut work.room).ok_or(BROKEN)?;
    // Router Alert (RFC 2711), and two bytes of padding.
    let [_, length, kind, two, zero, mld, padding, nothing] = options;
    if next != HOP_BY_HOP
        || length != 0
        || kind != 5
        || two != 2
        || zero != 0
        || mld != 0
        || padding > 1
        || nothing != 0
    {
        return Err(BROKEN);
    }
    let message = *load::<[u8; 8]>(ctx, at, &mut work.room).ok_or(BROKEN)?;
    let [kind, code, _, _, a, b, c, d] = message;
    if code != 0 || a != 0 || b != 0 {
        return Err(BROKEN);
    }
    if kind == icmp::V6_LISTENER_REPORT_2 {
        if !is_link_group(dst, ROUTERS_2) {
            return Err(BROKEN);
        }
        let count = u32::from(c) << 8 | u32::from(d);
        return records::<20>(ctx, at + MESSAGE, count, end, &mut work.room);
    }
    let bytes: &Addr16 = load(ctx, at + MESSAGE, &mut work.room).ok_or(BROKEN)?;
    let is_group = bytes[0] == 0xff;
    let group = &mut work.opened.src;
    set_v6(group, words(bytes));
    let is_to = if kind == icmp::V6_LISTENER_DONE {
        is_link_group(dst, ROUTERS)
    } else {
        dst.words() == group.words()
    };
    if c != 0 || d != 0 || !is_group || !is_to || end != at + MESSAGE + 16 {
        return Err(BROKEN);
    }
    Ok(())
}

#[inline(always)]
fn is_link_group(addr: &Addr, group: u32) -> bool {
    let [a, b, c, d] = *addr.words();
    u32::from_be(a) == 0xff02_0000 && b == 0 && c == 0 && u32::from_be(d) == group
}

/// Group records from `at` on, as many as are said and no byte more: each of a kind, without
/// auxiliary data, about a group. `HEAD` bytes each: four, and the group; sources follow.
#[inline(always)]
fn records<const HEAD: usize>(
    ctx: &TcContext,
    mut at: u32,
    mut count: u32,
    end: u32,
    room: &mut Room,
) -> Result<(), u8> {
    for _ in 0..GROUP_RECORDS {
        if count == 0 {
            break;
        }
        let record: &[u8; HEAD] = load(ctx, at, room).ok_or(BROKEN)?;
        let is_group = if HEAD == 8 {
            record[4] >> 4 == 0xe
        } else {
            record[4] == 0xff
        };
        if record[0] == 0 || record[0] > 6 || record[1] != 0 || !is_group {
            return Err(BROKEN);
        }
        let sources = u32::from(record[2]) << 8 | u32::from(record[3]);
        at += HEAD as u32 + sources * (HEAD as u32 - 4);
        count -= 1;
    }
    if count == 0 && at == end {
        Ok(())
    } else {
        Err(BROKEN)
    }
}
