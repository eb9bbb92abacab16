//! What the first message of a stream looks like, as a hint in its flow entry. The
//! socket's data path is left alone: every message passes.

use aya_ebpf::programs::SkMsgContext;
use tidegate_decide::{Tuple, hint};
use tidegate_ebpf_shared::{
    addr::proto,
    flow::{FlowKey, hint::NONE},
};

use crate::{
    addr::{context_words, set_v4, set_v6},
    maps::FLOWS,
    packet::head,
};

const AF_INET: u32 = 2;

/// Looks at one message of an enrolled socket.
#[inline(always)]
pub fn run(ctx: &SkMsgContext) {
    let mut key = FlowKey::default();
    flow_key(ctx, &mut key);
    let Some(entry) = FLOWS.get_ptr_mut(&key) else {
        return;
    };
    // SAFETY: a value of the map; the hint is written here only, and the first writer
    // of two that race wins or loses whole.
    unsafe {
        if (*entry).hint == NONE {
            if let Some(bytes) = head::<{ hint::WINDOW }>(ctx.data(), ctx.data_end()) {
                (*entry).hint = hint::classify(bytes, ctx.size());
            }
        }
    }
}

#[inline(always)]
fn flow_key(ctx: &SkMsgContext, key: &mut FlowKey) {
    let message = ctx.msg;
    let mut tuple = Tuple {
        protocol: proto::TCP,
        ..Tuple::default()
    };
    // SAFETY: the kernel hands the program a valid context; the other family's fields
    // read as 0. All are read, always: see `pick_listener`.
    unsafe {
        let is_v4 = (&raw const (*message).family).read_volatile() == AF_INET;
        let local_v4 = (&raw const (*message).local_ip4).read_volatile();
        let remote_v4 = (&raw const (*message).remote_ip4).read_volatile();
        let local_v6 = context_words(&raw const (*message).local_ip6);
        let remote_v6 = context_words(&raw const (*message).remote_ip6);
        if is_v4 {
            set_v4(&mut tuple.src, local_v4);
            set_v4(&mut tuple.dst, remote_v4);
        } else {
            set_v6(&mut tuple.src, local_v6);
            set_v6(&mut tuple.dst, remote_v6);
        }
        let local_port = (&raw const (*message).local_port).read_volatile();
        let remote_port = (&raw const (*message).remote_port).read_volatile();
        tuple.src_port = (local_port as u16).to_be_bytes();
        tuple.dst_port = ((remote_port >> 16) as u16).to_ne_bytes();
    }
    tuple.flow_key(key);
}
