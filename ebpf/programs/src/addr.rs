//! Addresses from kernel contexts. Word by word: as bytes they would fill the stack
//! with one spilled register each, and the verifier wants context fields read singly.

use tidegate_ebpf_shared::addr::Addr;

/// Address family of IPv4 in kernel contexts (`AF_INET`, `linux/socket.h`).
pub const AF_INET: u32 = 2;

/// Third word of every IPv4-mapped address.
pub const MAPPED: u32 = 0xffff_u32.to_be();

/// Sets an IPv4 address from a word in network byte order.
#[inline(always)]
pub fn set_v4(addr: &mut Addr, word: u32) {
    set_v6(addr, [0, 0, MAPPED, word]);
}

/// Sets an IPv6 address from four words in network byte order.
#[inline(always)]
pub fn set_v6(addr: &mut Addr, from: [u32; 4]) {
    *addr.words_mut() = from;
}

/// Is it IPv4?
#[inline(always)]
pub fn is_v4(addr: &Addr) -> bool {
    let [first, second, third, _] = *addr.words();
    first == 0 && second == 0 && third == MAPPED
}

/// Is it of fe80::/10, known on its link only (RFC 4291 §2.5.6)?
#[inline(always)]
pub fn is_link_local(addr: &Addr) -> bool {
    u32::from_be(word(addr, 0)) >> 22 == 0xfe80 >> 6
}

/// ff02::/16: all hosts of the link that listen to a group (RFC 4291 §2.7).
#[inline(always)]
pub fn is_of_link(addr: &Addr) -> bool {
    u32::from_be(word(addr, 0)) >> 16 == 0xff02
}

/// A group's, of either family (RFC 5771, RFC 4291 §2.7).
#[inline(always)]
pub fn is_multicast(addr: &Addr) -> bool {
    if is_v4(addr) {
        u32::from_be(word(addr, 3)) >> 28 == 0xe
    } else {
        u32::from_be(word(addr, 0)) >> 24 == 0xff
    }
}

/// Nobody's: who has no address yet speaks from it.
#[inline(always)]
pub fn is_unspecified(addr: &Addr) -> bool {
    word(addr, 3) == 0 && (is_v4(addr) || *addr.words() == [0; 4])
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

/// One of the four words of an address, in network byte order.
#[inline(always)]
pub fn word(addr: &Addr, index: usize) -> u32 {
    addr.words()[index & 3]
}
