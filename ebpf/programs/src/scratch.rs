//! What a packet program works on: more than the 512 bytes of stack it has.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use tidegate_decide::{Evaluation, Tuple};
use tidegate_ebpf_shared::{
    flow::{FlowEntry, FlowKey},
    fragment::{FragmentEntry, FragmentKey},
};

use crate::{
    clock::Tick,
    packet::{Packet, Room},
};

/// One packet's working memory. Stale when a program starts: write before you read.
#[repr(C)]
pub struct Scratch {
    /// The packet.
    pub packet: Packet,
    /// Key of its flow.
    pub key: FlowKey,
    /// Entry of a new flow.
    pub entry: FlowEntry,
    /// What was decided.
    pub evaluation: Evaluation,
    /// The packet that opened the flow, when it is decided again, or that this one may
    /// be an answer to.
    pub opened: Tuple,
    /// What was decided of that.
    pub asked: Evaluation,
    /// A header that is not in the frame's linear part for certain.
    pub room: Room,
    /// Which datagram a fragment is of.
    pub datagram: FragmentKey,
    /// What its first fragment says.
    pub head: FragmentEntry,
    /// The clock; alone here in keeping its value from packet to packet.
    pub tick: Tick,
}

/// One value per CPU; nothing to keep.
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// This CPU's scratch memory. Packet programs run with softirqs off, so none is
/// interrupted by another on the same CPU.
#[inline(always)]
pub fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: a per-CPU value that, as just said, nobody else holds.
    SCRATCH
        .get_ptr_mut(0)
        .map(|scratch| unsafe { &mut *scratch })
}
