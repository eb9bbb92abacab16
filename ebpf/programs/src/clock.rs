//! The clocks of flow entries, rate limits and learned addresses.

use aya_ebpf::helpers::{
    bpf_jiffies64, bpf_ktime_get_boot_ns, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns,
};

/// The coarse clock's last answer, and the tick it is of.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Tick {
    number: u64,
    now: u64,
}

impl Tick {
    /// [`coarse`], which moves once a tick, asked once a tick: the kernel compiles the
    /// tick counter into a load, where the clock is a call for a tenth of a packet's
    /// whole cost.
    #[inline(always)]
    pub fn coarse(&mut self) -> u64 {
        let number = Self::number();
        if self.number != number {
            self.number = number;
            self.now = coarse();
        }
        self.now
    }

    /// The kernel's count of ticks.
    #[inline(always)]
    pub fn number() -> u64 {
        // SAFETY: the helper takes nothing and only reads.
        unsafe { bpf_jiffies64() }
    }
}

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

/// `CLOCK_BOOTTIME` in seconds, the clock of learned addresses.
#[inline(always)]
pub fn boot_seconds() -> u32 {
    // SAFETY: the helper takes nothing and only reads.
    (unsafe { bpf_ktime_get_boot_ns() } / 1_000_000_000) as u32
}
