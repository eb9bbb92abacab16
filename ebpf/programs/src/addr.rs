//! Addresses from kernel contexts. Word by word: as bytes they would fill the stack
//! with one spilled register each, and the verifier wants context fields read singly.

use tidegate_ebpf_shared::addr::Addr;

/// Sets an IPv4 address from a word in network byte order.
#[inline(always)]
pub fn set_v4(addr: &mut Addr, word: u32) {
    let words = words(addr);
    // SAFETY: four words, see `words`.
    unsafe {
        words.write(0);
        words.add(1).write(0);
        words.add(2).write(0xffff_u32.to_be());
        words.add(3).write(word);
    }
}

/// Sets an IPv6 address from four words in network byte order.
#[inline(always)]
pub fn set_v6(addr: &mut Addr, from: [u32; 4]) {
    let words = words(addr);
    // SAFETY: four words, see `words`.
    unsafe {
        words.write(from[0]);
        words.add(1).write(from[1]);
        words.add(2).write(from[2]);
        words.add(3).write(from[3]);
    }
}

/// The four words of an IPv6 address in a context.
///
/// # Safety
/// `field` is a readable field of a live context.
#[inline(always)]
pub unsafe fn context_words(field: *const [u32; 4]) -> [u32; 4] {
    let from = field.cast::<u32>();
    // SAFETY: the caller's promise.
    unsafe {
        [
            from.read_volatile(),
            from.add(1).read_volatile(),
            from.add(2).read_volatile(),
            from.add(3).read_volatile(),
        ]
    }
}

/// The four words of an address, which is aligned for them.
#[inline(always)]
fn words(addr: &mut Addr) -> *mut u32 {
    const { assert!(align_of::<Addr>() == 4 && size_of::<Addr>() == 16) };
    core::ptr::from_mut(addr).cast()
}

/// One of the four words of an address, in network byte order.
#[inline(always)]
pub fn word(addr: &Addr, index: usize) -> u32 {
    const { assert!(align_of::<Addr>() == 4 && size_of::<Addr>() == 16) };
    // SAFETY: aligned for words, and the index stays below four.
    unsafe {
        core::ptr::from_ref(addr)
            .cast::<u32>()
            .add(index & 3)
            .read()
    }
}
