//! The clock of flow entries and rate limits.

use aya_ebpf::helpers::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};

/// `CLOCK_MONOTONIC` in ns, at the granularity of the kernel's tick: half the cost
/// of the precise one, and timeouts are whole seconds.
#[inline(always)]
pub fn coarse() -> u64 {
    // SAFETY: the helper takes nothing and only reads.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// `CLOCK_MONOTONIC` in ns, for the time stamp of an event.
#[inline(always)]
pub fn precise() -> u64 {
    // SAFETY: the helper takes nothing and only reads.
    unsafe { bpf_ktime_get_ns() }
}
