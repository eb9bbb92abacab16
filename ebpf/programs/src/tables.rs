//! The tables a decision reads, over the maps.

use aya_ebpf::{cty::c_void, helpers::bpf_map_lookup_elem};
use tidegate_decide::Tables;
use tidegate_ebpf_shared::{
    addr::{Addr, AddrPrefix},
    config::DatapathConfig,
    endpoint::EndpointInfo,
    identity::{AddrInfo, FqdnInfo},
    policy::{PolicyEntry, PolicyKey},
};

use crate::{
    clock,
    maps::{CONFIG, ENDPOINTS, FQDN, GENERATION, IPCACHE, POLICY},
};

/// The maps of this node.
pub struct Maps;

impl Tables for Maps {
    type Fqdn = &'static FqdnInfo;

    #[inline(always)]
    fn generation(&self) -> u32 {
        generation()
    }

    #[inline(always)]
    fn config_flags(&self) -> u32 {
        config().map_or(0, |config| config.flags)
    }

    #[inline(always)]
    fn address(&self, addr: &Addr) -> Option<AddrInfo> {
        let key = full_prefix(addr);
        // SAFETY: key and value are those of `IPCACHE`.
        unsafe { lookup(&raw const IPCACHE, &key) }
    }

    #[inline(always)]
    fn fqdn(&self, addr: &Addr) -> Option<&'static FqdnInfo> {
        // SAFETY: a torn read shows identities of two moments, each of which applied
        // to the address at its time; the map is not freed while the program runs.
        unsafe { FQDN.get(addr) }
    }

    #[inline(always)]
    fn endpoint(&self, id: u32) -> Option<EndpointInfo> {
        // SAFETY: the agent replaces values as a whole; ids are not reused.
        unsafe { ENDPOINTS.get(&id) }.copied()
    }

    #[inline(always)]
    fn policy(&self, key: &PolicyKey) -> Option<PolicyEntry> {
        // SAFETY: key and value are those of `POLICY`.
        unsafe { lookup(&raw const POLICY, key) }
    }

    #[inline(always)]
    fn boot_seconds(&self) -> u32 {
        clock::boot_seconds()
    }
}

/// The active generation.
#[inline(always)]
pub fn generation() -> u32 {
    GENERATION.get(0).copied().unwrap_or(0)
}

/// The settings that may change while we run.
#[inline(always)]
pub fn config() -> Option<&'static DatapathConfig> {
    CONFIG.get(0)
}

/// The key that finds the longest prefix of an address.
#[inline(always)]
pub fn full_prefix(addr: &Addr) -> AddrPrefix {
    AddrPrefix {
        prefix_len: 128,
        addr: *addr,
    }
}

/// Looks up a trie by the key type of `tidegate-ebpf-shared`: the wrapper has its
/// own, with the same layout, and would copy.
///
/// # Safety
/// `K` and `V` have the sizes the map was defined with.
#[inline(always)]
pub unsafe fn lookup<M, K, V: Copy>(map: *const M, key: &K) -> Option<V> {
    // SAFETY: `map` is the address of a map definition, which the loader turned into
    // the map; the helper reads a key's worth of bytes.
    let value = unsafe {
        bpf_map_lookup_elem(
            map.cast_mut().cast::<c_void>(),
            core::ptr::from_ref(key).cast::<c_void>(),
        )
    };
    if value.is_null() {
        return None;
    }
    // SAFETY: not null, so it is a value of this map.
    Some(unsafe { *value.cast::<V>() })
}
