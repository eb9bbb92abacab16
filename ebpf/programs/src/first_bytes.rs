//! What the first message of a stream looks like, as a hint in its flow entry. The
//! socket's data path is left alone: every message passes.

use aya_ebpf::programs::SkMsgContext;
use tidegate_decide::hint;
use tidegate_ebpf_shared::flow::{FlowKey, hint::NONE};

use crate::{maps::FLOWS, packet::head, stream::stream_tuple};

/// Looks at one message of an enrolled socket.
#[inline(always)]
pub fn run(ctx: &SkMsgContext) {
    let mut key = FlowKey::default();
    stream_tuple!(ctx.msg).flow_key(&mut key);
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
