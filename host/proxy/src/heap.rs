//! What the allocator keeps. Its habit is to keep what a burst has taken.

/// Allocations from here on are the kernel's own, and go back to it when they are freed:
/// a little less than a buffer.
#[cfg(target_env = "gnu")]
const OWN_PAGES: libc::c_int = 60 * 1024;

/// Sets the limits that the allocator would otherwise raise by itself.
pub(super) fn configure() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number of the allocator. That it is refused costs memory, no more.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_PAGES);
    }
}

/// Gives pages back that hold nothing (a few milliseconds at most).
pub(super) fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the allocator takes its own locks; no allocation moves.
    unsafe {
        libc::malloc_trim(0);
    }
}
