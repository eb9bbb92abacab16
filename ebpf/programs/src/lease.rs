//! How a workload gets its address by DHCP (RFC 2131, RFC 8415): it asks before it has one, so
//! that its question has nobody's source, and the answer is no answer by its ends. The
//! question is judged by the egress policy of who asks, and opens the way for its answer.

use aya_ebpf::programs::TcContext;
use tidegate_decide::Tuple;
use tidegate_ebpf_shared::addr::{Addr, proto};

use crate::{
    addr::{is_link_local, is_multicast, is_unspecified, is_v4, set_v4, set_v6},
    link,
};

const CLIENT_4: u16 = 68;
const SERVER_4: u16 = 67;
const CLIENT_6: u16 = 546;
const SERVER_6: u16 = 547;
/// All relay agents and servers of the link, ff02::1:2.
const SERVERS: [u32; 4] = [0xff02_0000_u32.to_be(), 0, 0, 0x0001_0002_u32.to_be()];

/// Is it what a client asks that has no address yet?
#[inline(always)]
pub fn is_question(tuple: &Tuple) -> bool {
    if tuple.protocol != proto::UDP {
        return false;
    }
    if is_v4(&tuple.src) {
        is_unspecified(&tuple.src)
            && is_broadcast(&tuple.dst)
            && is_between(tuple, CLIENT_4, SERVER_4)
    } else {
        is_link_local(&tuple.src)
            && *tuple.dst.words() == SERVERS
            && is_between(tuple, CLIENT_6, SERVER_6)
    }
}

/// Does it look like an answer, and to which question? From the node or from outside: no
/// workload gives others their addresses without a rule.
#[inline(always)]
pub fn is_answer(ctx: &TcContext, tuple: &Tuple, question: &mut Tuple) -> bool {
    let is_v4 = is_v4(&tuple.src);
    let (server, client) = if is_v4 {
        (SERVER_4, CLIENT_4)
    } else {
        (SERVER_6, CLIENT_6)
    };
    if tuple.protocol != proto::UDP
        || !is_between(tuple, server, client)
        || (!is_v4 && !is_link_local(&tuple.dst))
        || (is_v4 && is_multicast(&tuple.dst))
        || link::is_by_workload(ctx)
    {
        return false;
    }
    tuple.set_reverse(question);
    if is_v4 {
        set_v4(&mut question.src, 0);
        set_v4(&mut question.dst, u32::MAX);
    } else {
        set_v6(&mut question.dst, SERVERS);
    }
    true
}

#[inline(always)]
fn is_between(tuple: &Tuple, src: u16, dst: u16) -> bool {
    tuple.src_port == src.to_be_bytes() && tuple.dst_port == dst.to_be_bytes()
}

#[inline(always)]
fn is_broadcast(addr: &Addr) -> bool {
    addr.words()[3] == u32::MAX
}
