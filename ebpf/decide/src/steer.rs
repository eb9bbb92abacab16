//! Which of the proxy's workers a flow of datagrams meets.

use tidegate_ebpf_shared::{flow::FlowKey, limits::MAX_CPUS};

use crate::spread::{fold, mix};

/// A place in `0..MAX_CPUS` for a flow: the same for each of its packets, in both
/// directions, for ever. A worker speaks to the server from the client's own address and
/// port; two workers that did so for one flow would take each other's answers.
#[inline(always)]
pub fn place(key: &FlowKey) -> u32 {
    let low = mix(fold(&key.low_addr, key.low_port));
    let high = fold(&key.high_addr, key.high_port);
    (mix(low ^ high) >> 32) as u32 % MAX_CPUS
}
