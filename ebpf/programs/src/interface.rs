//! Which workload is behind an interface. A lookup costs a quarter of an established
//! packet, so its answer is kept for the rest of the clock's tick.

use crate::{
    clock::Tick,
    maps::{INTERFACES, RECENT_INTERFACES},
};

/// Answers kept per CPU; interfaces whose indices agree in their low bits share one.
pub const KEPT: u32 = 64;

/// An answer, and until when it holds.
#[repr(C)]
pub struct Answer {
    tick: u64,
    ifindex: u32,
    endpoint: u32,
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
