//! Which workload is behind an interface. A lookup costs a quarter of an established
//! packet, so its answer is kept for the rest of the clock's tick.

use aya_ebpf::{macros::map, maps::PerCpuArray};

use crate::{
    clock::Tick,
    maps::{INTERFACES, TAGGING},
};

/// Answers kept per CPU; interfaces whose indices agree in their low bits share one.
const KEPT: u32 = 64;

/// An answer, and until when it holds.
#[repr(C)]
struct Answer {
    tick: u64,
    ifindex: u32,
    endpoint: u32,
}

/// By the low bits of the index; nothing to keep.
#[map]
static RECENT_INTERFACES: PerCpuArray<Answer> = PerCpuArray::with_max_entries(KEPT, 0);

/// Who wrote the tag of a packet that came in by this interface (`skb->ingress_ifindex`).
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Tagging {
    /// The program of a workload's device; somebody behind it may have written over it.
    Workloads,
    /// A program of ours, if there is a tag.
    Ours,
    /// Nobody of ours: a device that has no program, whatever the tag says.
    Nobodys,
}

/// See [`Tagging`]. What the node's stack made itself came in by none (0).
#[inline(always)]
pub fn tagging(ingress: u32) -> Tagging {
    if ingress == 0 {
        return Tagging::Ours;
    }
    if endpoint(ingress).is_some() {
        return Tagging::Workloads;
    }
    // SAFETY: whether there is a value; it is not read.
    match unsafe { TAGGING.get(&ingress) } {
        Some(_) => Tagging::Ours,
        None => Tagging::Nobodys,
    }
}

/// Endpoint behind an interface; `None` if the agent has declared none.
#[inline(always)]
pub fn endpoint(ifindex: u32) -> Option<u32> {
    // SAFETY: a per-CPU value of this CPU; packet programs do not interrupt each other.
    let answer: &mut Answer = unsafe { &mut *RECENT_INTERFACES.get_ptr_mut(ifindex % KEPT)? };
    let tick = Tick::number();
    if answer.tick != tick || answer.ifindex != ifindex {
        // SAFETY: the agent replaces values as a whole.
        answer.endpoint = *unsafe { INTERFACES.get(&ifindex) }?;
        answer.ifindex = ifindex;
        answer.tick = tick;
    }
    Some(answer.endpoint)
}
